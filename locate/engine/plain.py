"""The plain engine: every row is a run of the whole model with hooks. Slow and obvious, the oracle for faster ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from locate.engine.rows import (
    Key,
    Limits,
    Measurement,
    PlacedWrite,
    Row,
    Run,
    answers_of,
    batches_by_length,
    explaining_out_of_memory,
    noise_hooks,
)
from locate.model.hooked import EMBEDDING_HOOK, Model
from locate.model.memory import default_memory
from locate.model.products import multiplying
from locate.sites import PATTERN


def measure(
    model: Model,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    limits: Limits,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Execute every run and every row at full depth.

    limits    how much may be done at once
    progress  called with the number of rows just finished
    """
    with multiplying(model.dtype, model.device, model.threads):
        return measure_all(model, runs, rows, limits, progress)


def measure_all(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, progress: Callable[[int], None] | None
) -> Measurement:
    """Execute the runs, keeping what rows need of them, then the rows."""
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    plain, kept = execute_runs(model, runs, sorted(wanted), limits)
    out = np.empty((len(rows), plain.shape[1]))
    for batch in batches_by_length(rows, lambda row: len(runs[row.base].ids), model, limits):
        chosen = [rows[i] for i in batch]
        bases = [runs[row.base] for row in chosen]
        with model.hooked(noise_hooks(bases) + write_hooks(model, chosen, kept)), explaining_out_of_memory(len(batch)):
            out[batch] = answers_of(model, bases)
        if progress is not None:
            progress(len(batch))
    return Measurement(plain, out)


def execute_runs(
    model: Model, runs: Sequence[Run], wanted: Sequence[Key], limits: Limits
) -> tuple[Float[np.ndarray, "run answer"], list[dict[Key, torch.Tensor]]]:
    """Answers' log-probabilities of each run, and its activations: [pos, ...], or [head, query, key] for patterns."""
    kept: list[dict[Key, torch.Tensor]] = [{} for _ in runs]
    plain = np.empty((len(runs), len(runs[0].answers)))

    def keep(key: Key, batch: Sequence[int]) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            for place, run in enumerate(batch):
                kept[run][key] = activation[place].detach().clone()

        return hook

    for batch in batches_by_length(runs, lambda run: len(run.ids), model, limits):
        chosen = [runs[i] for i in batch]
        keepers = [(model.hook(*key), keep(key, batch)) for key in wanted]
        with model.hooked(noise_hooks(chosen) + keepers), explaining_out_of_memory(len(batch)):
            plain[batch] = answers_of(model, chosen)
    return plain, kept


def write_hooks(
    model: Model, rows: Sequence[Row], kept: Sequence[dict[Key, torch.Tensor]]
) -> list[tuple[str, Callable]]:
    """One hook for each component and layer that any row writes."""
    writes: dict[Key, list[tuple[int, PlacedWrite]]] = defaultdict(list)
    for place, row in enumerate(rows):
        for write in row.writes:
            writes[write.component, write.layer].append((place, write))

    def write_all(key: Key) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = activation.clone()
            for place, write in writes[key]:
                if write.component == PATTERN:
                    own = [here for here, _ in write.keys]
                    changed[place, write.unit, write.base_pos, own] = weights_of(write, rows[place], kept, changed)
                    continue
                target = changed[place, write.base_pos]
                value = value_of(write, rows[place], kept, target)
                target[... if write.unit is None else write.unit] = value
            return changed

        return hook

    return [(model.hook(*key), write_all(key)) for key in sorted(writes)]


def value_of(
    write: PlacedWrite, row: Row, kept: Sequence[dict[Key, torch.Tensor]], target: torch.Tensor
) -> torch.Tensor:
    """What a write puts into its place: [d_model], [d_head], or one neuron's activation."""
    if isinstance(write.origin, torch.Tensor):
        return write.origin.to(target)
    if write.origin == "zero":
        return torch.zeros_like(target if write.unit is None else target[write.unit])
    run, position = (row.source, write.source_pos) if write.origin == "source" else (row.base, write.base_pos)
    value = kept[run][write.component, write.layer][position]
    return value if write.unit is None else value[write.unit]


def weights_of(
    write: PlacedWrite, row: Row, kept: Sequence[dict[Key, torch.Tensor]], like: torch.Tensor
) -> torch.Tensor:
    """Attention weights that a write puts into its keys: [key]."""
    if write.origin == "zero":
        return like.new_zeros(len(write.keys))
    from_source = write.origin == "source"
    run, position = (row.source, write.source_pos) if from_source else (row.base, write.base_pos)
    return kept[run][write.component, write.layer][write.unit, position, [key[from_source] for key in write.keys]]


def embedding_std(model: Model, runs: Sequence[Run], positions: Sequence[Sequence[int]]) -> float:
    """Standard deviation over all numbers in the token embeddings at the given positions of each run.

    The sigma of ROME's noise, where the positions are those of the subject (Meng et al. 2022, appendix B.1).
    """
    found: list[torch.Tensor] = []

    def keep(batch: Sequence[int]) -> Callable:
        def hook(embedding: torch.Tensor, hook: Any) -> None:
            found.extend(
                embedding[place, list(positions[run])].flatten().double().cpu() for place, run in enumerate(batch)
            )

        return hook

    for batch in batches_by_length(runs, lambda run: len(run.ids), model, Limits(default_memory(*model.devices))):
        with model.hooked([(EMBEDDING_HOOK, keep(batch))]):
            answers_of(model, [runs[i] for i in batch])
    return float(torch.cat(found).std())
