"""The plain engine: every row is a run of the whole model with hooks. Slow, obvious, the oracle of faster ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.models import EMBEDDING_HOOK, Model

Key = tuple[str, int]
"""component and layer"""

WORKING_BYTES = 384 << 20
MOST_ROWS = 256


@dataclass(frozen=True, eq=False)
class Run:
    """A prompt as it is executed without any patch.

    ids       token ids, BOS included
    answers   ids whose log-probabilities are wanted
    noised    positions whose token embedding is changed
    noise     what is added there: [noised, d_model], or None
    """

    ids: tuple[int, ...]
    answers: tuple[int, ...]
    noised: tuple[int, ...] = ()
    noise: torch.Tensor | None = None


@dataclass(frozen=True, eq=False)
class Placed:
    """One write at fixed positions: base[base_pos] of a component and layer takes its value from `origin`."""

    component: str
    layer: int
    unit: int | None
    base_pos: int
    source_pos: int
    origin: str | torch.Tensor


@dataclass(frozen=True, eq=False)
class Row:
    """One patched run: the base run (an index) with writes from the source run (an index)."""

    base: int
    source: int
    writes: tuple[Placed, ...]


@dataclass(frozen=True, eq=False)
class Measured:
    """Log-probabilities (nats) of each run's answers, without a patch and patched."""

    runs: Float[np.ndarray, "run answer"]
    rows: Float[np.ndarray, "row answer"]


def measure(
    model: Model,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Execute every run and every row at full depth.

    batch_size  prompts executed at once; None chooses as many as fit a stated working memory
    progress    called with the number of rows just finished
    """
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    plain, kept = execute_runs(model, runs, sorted(wanted), batch_size)
    out = np.empty((len(rows), plain.shape[1]))
    for batch in batched(rows, lambda row: len(runs[row.base].ids), model, batch_size):
        chosen = [rows[i] for i in batch]
        bases = [runs[row.base] for row in chosen]
        with model.hooked(noise_hooks(bases) + write_hooks(model, chosen, kept)), memory(len(batch)):
            out[batch] = answers_of(model, bases)
        if progress is not None:
            progress(len(batch))
    return Measured(plain, out)


def execute_runs(
    model: Model, runs: Sequence[Run], wanted: Sequence[Key], batch_size: int | None
) -> tuple[Float[np.ndarray, "run answer"], list[dict[Key, torch.Tensor]]]:
    """Answers' log-probabilities of each run, and its activations: [pos, d_model] or by head or neuron."""
    kept: list[dict[Key, torch.Tensor]] = [{} for _ in runs]
    plain = np.empty((len(runs), len(runs[0].answers)))

    def keep(key: Key, batch: Sequence[int]) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            for place, run in enumerate(batch):
                kept[run][key] = activation[place].detach().clone()

        return hook

    for batch in batched(runs, lambda run: len(run.ids), model, batch_size):
        chosen = [runs[i] for i in batch]
        keepers = [(model.hook(*key), keep(key, batch)) for key in wanted]
        with model.hooked(noise_hooks(chosen) + keepers), memory(len(batch)):
            plain[batch] = answers_of(model, chosen)
    return plain, kept


@contextmanager
def memory(rows: int) -> Iterator[None]:
    """Turn an out-of-memory error into one line that says the way out."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise LocateError(f"out of memory with {rows} prompts at once: choose a smaller --batch-size") from error


def batched(items: Sequence[Any], length: Callable, model: Model, batch_size: int | None) -> Iterable[list[int]]:
    """Indices of items of one length each, in batches."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_length[length(item)].append(index)
    for tokens, indices in sorted(by_length.items()):
        size = batch_size or rows_that_fit(model, tokens)
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def rows_that_fit(model: Model, tokens: int) -> int:
    """Rows of a length whose logits, attention and hidden states fit the working memory, at most MOST_ROWS."""
    width = model.d_vocab + 3 * model.n_heads * tokens + 3 * model.d_mlp + 12 * model.d_model
    return max(1, min(MOST_ROWS, WORKING_BYTES // (4 * tokens * width)))


def answers_of(model: Model, runs: Sequence[Run]) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) of each run's own answers at its last token, under the hooks in force."""
    logits = model.final_logits(torch.tensor([run.ids for run in runs]))
    answers = torch.tensor([run.answers for run in runs], device=logits.device)
    return logits.log_softmax(-1).gather(-1, answers).double().cpu().numpy()


def noise_hooks(runs: Sequence[Run]) -> list[tuple[str, Callable]]:
    """The hook that adds each run's noise to its token embeddings; none where no run has any."""
    noisy = [(place, run) for place, run in enumerate(runs) if run.noise is not None]
    if not noisy:
        return []

    def hook(embedding: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = embedding.clone()
        for place, run in noisy:
            changed[place, list(run.noised)] += run.noise.to(changed)  # type: ignore[union-attr]
        return changed

    return [(EMBEDDING_HOOK, hook)]


def write_hooks(
    model: Model, rows: Sequence[Row], kept: Sequence[dict[Key, torch.Tensor]]
) -> list[tuple[str, Callable]]:
    """One hook for each component and layer that any row writes."""
    writes: dict[Key, list[tuple[int, Placed]]] = defaultdict(list)
    for place, row in enumerate(rows):
        for write in row.writes:
            writes[write.component, write.layer].append((place, write))

    def write_all(key: Key) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = activation.clone()
            for place, write in writes[key]:
                target = changed[place, write.base_pos]
                value = value_of(write, rows[place], kept, target)
                target[... if write.unit is None else write.unit] = value
            return changed

        return hook

    return [(model.hook(*key), write_all(key)) for key in sorted(writes)]


def value_of(write: Placed, row: Row, kept: Sequence[dict[Key, torch.Tensor]], target: torch.Tensor) -> torch.Tensor:
    """What a write puts into its place: [d_model], [d_head], or one neuron's activation."""
    if isinstance(write.origin, torch.Tensor):
        return write.origin.to(target)
    if write.origin == "zero":
        return torch.zeros_like(target if write.unit is None else target[write.unit])
    run, position = (row.source, write.source_pos) if write.origin == "source" else (row.base, write.base_pos)
    value = kept[run][write.component, write.layer][position]
    return value if write.unit is None else value[write.unit]


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

    for batch in batched(runs, lambda run: len(run.ids), model, None):
        with model.hooked([(EMBEDDING_HOOK, keep(batch))]):
            answers_of(model, [runs[i] for i in batch])
    return float(torch.cat(found).std())
