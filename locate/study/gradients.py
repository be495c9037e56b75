"""Estimates of patching effects from gradients: a few runs for every site at once, to be proved by exact patching."""

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
from locate.engine.rows import Key, Placed, Run, batched, in_memory, noise_hooks
from locate.errors import LocateError
from locate.mediation.effect_table import over_samples
from locate.model.finite import finite_rows, refuse
from locate.model.hooked import EMBEDDING_HOOK, Model
from locate.model.products import products
from locate.prompts.pair import Prompts
from locate.prompts.tokens import TokenPair
from locate.sites import PATTERN, UNITS, Patch, check
from locate.tracing.job import Job, layout, prepare
from locate.tracing.plan import Map

METHODS = ("attribution", "integrated")
STEPS = 5
VIEWS = ("stereotype", "signed")

Couple = tuple[int, int]
"""indices of a base run and a source run"""


def estimate(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    method: str = "attribution",
    steps: int = STEPS,
    view: str = "stereotype",
    **options: Any,
) -> pd.DataFrame:
    """Estimated natural indirect effects of every patch, in the log-odds; a table as `effects()` returns it.

    method   "attribution": gradient of the log-odds at the base run, times the difference that the patch makes (Nanda
             2023; Syed et al. 2023); "integrated": the gradient averaged over runs between base and source, whose token
             embeddings are mixed (EAP-IG for nodes, Hanna et al. 2024)
    steps    mixtures of the integrated gradient, at the middles of as many equal parts of the way
    view     "stereotype" or "signed", as in `effects`
    options  as of `trace`: patches, directions, corruption, memory, batch_size, max_dropped

    `nie` is the estimate, `base` and `source` are measured, `nde` is nan. An estimate is first order: it is exact where
    the log-odds depend on the site linearly, and may be wrong in size and sign where they do not: where a later MLP or
    softmax is saturated the slope is nothing, whatever the effect. Of attention weights ("pattern") it is the weights
    after the softmax that change, each by itself, as patches write them. Prompts of two lengths are mixed at their
    aligned tokens alone.

    Raises LocateError as `trace` does, and for an integrated estimate of a patch that writes neither run's values.
    """
    check("method", method, METHODS)
    check("view", view, VIEWS)
    if steps < 1:
        raise LocateError(f"{steps} steps: expected a number >= 1")
    job = prepare(model, prompts, map, **options)
    strange = [] if method == "attribution" else [patch for patch in job.patches or () if foreign(patch)]
    if strange:
        raise LocateError(
            f"patch at {strange[0].anchor} writes {strange[0].origin}: integrated gradients lead from the base to the "
            "source alone: choose method 'attribution'"
        )
    ways = [0.0] if method == "attribution" else [(step + 0.5) / steps for step in range(steps)]
    parts = []
    with products(model.dtype, model.device, model.threads):
        for start in range(0, len(job.pairs), job.chunk):
            parts.append(estimated(job, job.pairs[start : start + job.chunk], ways))
    return finished(pd.concat(parts, ignore_index=True), view)


def foreign(patch: Patch) -> bool:
    """Whether it writes other values than those of its base and source run."""
    return any(isinstance(each.origin, torch.Tensor) or each.origin not in ("source", "base") for each in patch.writes)


def estimated(job: Job, pairs: Sequence[TokenPair], ways: Sequence[float]) -> pd.DataFrame:
    """Labels of the rows of some pairs, the log-odds of their runs (female minus male, nats) and the estimates."""
    runs, rows, labels = layout(pairs, job)
    wanted = sorted({(write.component, write.layer) for row in rows for write in row.writes})
    logs, kept = execute_runs(job.model, runs, wanted, job.limits)
    mixing = aligned_positions(pairs, job)
    found = np.zeros(len(rows))
    by_couple: dict[Couple, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        by_couple[row.base, row.source].append(index)
    couples = list(by_couple)
    for batch in batched(couples, lambda couple: len(runs[couple[0]].ids), job.model, job.limits):
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
    return pd.DataFrame(labels).assign(base=base, source=source, nie=found)


def aligned_positions(pairs: Sequence[TokenPair], job: Job) -> dict[Couple, list[tuple[int, int]]]:
    """For each couple of runs the positions (in base, in source) of tokens that stand for each other."""
    found: dict[Couple, list[tuple[int, int]]] = {}
    clean = 0
    for pair in pairs:
        both = [(token.clean, token.corrupted) for token in pair.aligned]
        for sample in range(job.corruption.samples):
            found[clean, clean + 1 + sample] = both
            found[clean + 1 + sample, clean] = [(there, here) for here, there in both]
        clean += 1 + job.corruption.samples
    return found


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
    answers = torch.tensor([run.answers for run in runs], device=model.device)
    with model.hooked(hooks), in_memory(len(runs)), torch.enable_grad():
        logits = model.logits(torch.tensor([run.ids for run in runs]))[:, -1]
        said = logits.detach()[:, None]
        finite_rows(said, f"logits of model {model.name!r}", lambda i: str(model.tokenizer.decode(runs[i].ids)))
        chosen = logits.to(torch.promote_types(logits.dtype, torch.float32)).gather(-1, answers)
        (chosen[:, 0] - chosen[:, 1]).sum().backward()
    found = {key: torch.zeros_like(value) if value.grad is None else value.grad for key, value in seen.items()}
    for (component, layer), gradient in found.items():
        if not gradient.isfinite().all():
            refuse(f"gradients of model {model.name!r} at {component} {layer}", bool(gradient.isnan().any()), "")
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
    writes: Sequence[tuple[int, int, Placed]],
    couples: Sequence[Couple],
    kept: Sequence[dict[Key, torch.Tensor]],
    gradient: torch.Tensor,
) -> Float[np.ndarray, " write"]:
    """Gradient times what each write changes at its place; writes are (place of the couple, row, write)."""
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
    writes: Sequence[tuple[int, int, Placed]],
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


def finished(rows: pd.DataFrame, view: str) -> pd.DataFrame:
    """The estimates as a table of effects."""
    without = 0
    if view == "stereotype":
        unsigned = rows["stereotype"] == 0
        without = int(rows.loc[unsigned, "pair"].nunique())
        rows = rows[~unsigned]
        if rows.empty:
            raise LocateError(f"none of the {without} pairs has a stereotype: choose view='signed'")
        for name in ("base", "source", "nie"):
            rows = rows.assign(**{name: rows[name] * rows["stereotype"].astype(float)})
    rows = rows.assign(total=rows["source"] - rows["base"], nde=np.nan, patched=rows["base"] + rows["nie"])
    result = over_samples(rows)
    return result.assign(metric="logit_diff", view=view, rounding=0.0)
