"""Gradients of the log-odds with respect to what patches write, and the estimates of effects they give."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from locate.engine.plain import execute_runs
from locate.engine.rows import Key, PlacedWrite, Run, batches_by_length, explaining_out_of_memory, noise_hooks
from locate.model.finite import check_finite_rows, refuse_numbers
from locate.model.hooked import EMBEDDING_HOOK, Model
from locate.prompts.tokens import Aligned, TokenPair
from locate.sites import PATTERN, UNITS
from locate.tracing.layout import Couple, Layout
from locate.tracing.stage import Job


def estimate_rows(job: Job, pairs: Sequence[TokenPair], ways: Sequence[float]) -> pd.DataFrame:
    """Labels of the rows of some pairs, the log-odds of their runs (female minus male, nats) and the estimates."""
    layout = job.lay_out(pairs)
    runs, rows = layout.runs, layout.rows
    wanted = sorted({(write.component, write.layer) for row in rows for write in row.writes})
    logs, kept = execute_runs(job.model, runs, wanted, job.limits)
    mixing = aligned_positions(layout)
    found = np.zeros(len(rows))
    by_couple: dict[Couple, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_couple[row.base, row.source].append(index)
    couples = list(by_couple)
    for batch in batches_by_length(couples, lambda couple: len(runs[couple[0]].ids), job.model, job.limits):
        chosen = [couples[place] for place in batch]
        gradients = mean_gradients(job.model, runs, chosen, mixing, wanted, ways)
        writes = [
            (place, index, write)
            for place, couple in enumerate(chosen)
            for index in by_couple[couple]
            for write in rows[index].writes
        ]
        for key in wanted:
            here = [each for each in writes if (each[2].component, each[2].layer) == key]
            if here:
                way = edge_products if key[0] == PATTERN else products_of
                np.add.at(found, [index for _, index, _ in here], way(key, here, chosen, kept, gradients[key]))
    odds = logs[:, 0] - logs[:, 1]
    base, source = odds[[row.base for row in rows]], odds[[row.source for row in rows]]
    return pd.DataFrame(layout.labels).assign(base=base, source=source, nie=found)


def aligned_positions(layout: Layout) -> dict[Couple, list[tuple[int, int]]]:
    """For each couple of runs the positions (in base, in source) of tokens that stand for each other."""
    return {
        runs.couple(direction, sample): [positions_of(token, direction) for token in runs.pair.aligned]
        for runs, direction, sample in layout.couples()
    }


def positions_of(token: Aligned, direction: str) -> tuple[int, int]:
    """Positions of a token in base and source."""
    return (token.corrupted, token.clean) if direction == "denoising" else (token.clean, token.corrupted)


def mean_gradients(
    model: Model,
    runs: Sequence[Run],
    couples: Sequence[Couple],
    mixing: dict[Couple, list[tuple[int, int]]],
    wanted: Sequence[Key],
    ways: Sequence[float],
) -> dict[Key, torch.Tensor]:
    """Gradients of the log-odds with respect to each component, averaged over some mixtures: [couple, pos, ...]."""
    sources = embeddings(model, [runs[source] for _, source in couples]) if any(ways) else []
    bases = [runs[base] for base, _ in couples]
    total: dict[Key, torch.Tensor] = {}
    for way in ways:

        def mixed(embedding: torch.Tensor, hook: Any, way: float = way) -> torch.Tensor:
            start = embedding.detach().clone()
            if way:
                for place, (couple, source) in enumerate(zip(couples, sources, strict=True)):
                    own, other = (list(each) for each in zip(*mixing[couple], strict=True))
                    start[place, own] = torch.lerp(start[place, own], source[other].to(start), way)
            return start.requires_grad_()

        for key, gradient in gradients_at(model, bases, wanted, mixed).items():
            total[key] = total.get(key, torch.zeros_like(gradient)) + gradient / len(ways)
    return total


def gradients_at(model: Model, runs: Sequence[Run], wanted: Sequence[Key], mixed: Callable) -> dict[Key, torch.Tensor]:
    """Gradients of the log-odds with respect to each component in one run of some prompts of one length."""
    seen: dict[Key, torch.Tensor] = {}

    def keep(key: Key) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            activation.retain_grad()
            seen[key] = activation
            return activation  # some hooks see a view that is only used when it is handed back

        return hook

    hooks = [*noise_hooks(runs), (EMBEDDING_HOOK, mixed), *((model.hook(*key), keep(key)) for key in wanted)]
    answers = torch.tensor([run.answers for run in runs])
    with model.hooked(hooks), explaining_out_of_memory(len(runs)), torch.enable_grad():
        logits = model.logits(torch.tensor([run.ids for run in runs]))[:, -1]
        said = logits.detach()[:, None]
        check_finite_rows(said, f"logits of model {model.name!r}", lambda i: str(model.tokenizer.decode(runs[i].ids)))
        chosen = logits.to(torch.promote_types(logits.dtype, torch.float32)).gather(-1, answers.to(logits.device))
        (chosen[:, 0] - chosen[:, 1]).sum().backward()
    found = {key: torch.zeros_like(value) if value.grad is None else value.grad for key, value in seen.items()}
    for (component, layer), gradient in found.items():
        if not gradient.isfinite().all():
            refuse_numbers(
                f"gradients of model {model.name!r} at {component} {layer}", bool(gradient.isnan().any()), ""
            )
    return found


def embeddings(model: Model, runs: Sequence[Run]) -> list[Float[torch.Tensor, "pos d_model"]]:
    """Token embeddings of each run, its noise included."""
    found: list[torch.Tensor] = []

    def keep(embedding: torch.Tensor, hook: Any) -> None:
        found.append(embedding[0].detach().clone())

    for run in runs:
        with model.hooked([*noise_hooks([run]), (EMBEDDING_HOOK, keep)]), torch.no_grad():
            model.logits(torch.tensor([run.ids]))
    return found


def products_of(
    key: Key,
    writes: Sequence[tuple[int, int, PlacedWrite]],
    couples: Sequence[Couple],
    kept: Sequence[dict[Key, torch.Tensor]],
    gradient: torch.Tensor,
) -> Float[np.ndarray, " write"]:
    """Gradient times the change that each write makes; writes are (index of the couple, row, write)."""
    place = torch.tensor([place for place, _, _ in writes], device=gradient.device)
    pos = torch.tensor([write.base_pos for _, _, write in writes], device=gradient.device)
    from_pos = torch.tensor([write.source_pos for _, _, write in writes], device=gradient.device)
    own = torch.stack([kept[base][key] for base, _ in couples])[place, pos]
    value = pad_sequence([kept[source][key] for _, source in couples], batch_first=True)[place, from_pos]
    slope = gradient[place, pos]
    if key[0] in UNITS:
        unit = torch.tensor([write.unit for _, _, write in writes], device=gradient.device)
        rows = torch.arange(len(writes), device=gradient.device)
        own, value, slope = own[rows, unit], value[rows, unit], slope[rows, unit]
    for index, (_, _, write) in enumerate(writes):
        if isinstance(write.origin, torch.Tensor):
            value[index] = write.origin.to(value)
        elif write.origin == "zero":
            value[index] = 0
        elif write.origin == "base":
            value[index] = own[index]
    return ((value - own) * slope).reshape(len(writes), -1).sum(1).double().cpu().numpy()


def edge_products(
    key: Key,
    writes: Sequence[tuple[int, int, PlacedWrite]],
    couples: Sequence[Couple],
    kept: Sequence[dict[Key, torch.Tensor]],
    gradient: Float[torch.Tensor, "couple head query key"],
) -> Float[np.ndarray, " write"]:
    """The same for attention weights: what each write changes at its keys, and no more.

    The gradient is that of the weights after the softmax, which a patch writes one by one: the others stay.
    """
    edges = [
        (index, place, write.unit, write.base_pos, here, write.source_pos, there)
        for index, (place, _, write) in enumerate(writes)
        for here, there in write.keys
    ]
    index, place, unit, pos, here, from_pos, there = torch.tensor(edges, device=gradient.device).unbind(1)
    own = torch.stack([kept[base][key] for base, _ in couples])[place, unit, pos, here]
    tokens = max(kept[source][key].shape[-1] for _, source in couples)
    sources = [kept[source][key] for _, source in couples]
    padded = [pad(each, (0, tokens - each.shape[-1], 0, tokens - each.shape[-1])) for each in sources]
    value = torch.stack(padded)[place, unit, from_pos, there]
    origins = {"source": value, "base": own, "zero": torch.zeros_like(own)}
    for origin, values in origins.items():
        chosen = torch.tensor([write.origin == origin for _, _, write in writes], device=gradient.device)[index]
        value = torch.where(chosen, values, value)
    product = (value - own) * gradient[place, unit, pos, here]
    return (
        torch.zeros(len(writes), device=product.device).to(product).index_add(0, index, product).double().cpu().numpy()
    )
