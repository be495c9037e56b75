"""Estimated average effect of every site of a map from a few gradients, without a row for each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from locate.engine.plain import execute_runs
from locate.engine.rows import Key, batches_by_length
from locate.errors import LocateError
from locate.model.products import multiplying
from locate.prompts.tokens import Aligned, TokenPair
from locate.sites import PATTERN, UNITS
from locate.study.gradients import aligned_positions, mean_gradients
from locate.tracing.job import Job, layout
from locate.tracing.plan import before

Total = dict[tuple[str, str, int, str, str], tuple[torch.Tensor, int]]
"""by direction, component, layer, role and key: sum over pairs of the estimates of each unit, and how many pairs"""


def site_estimates(job: Job, view: str, steps: int) -> pd.DataFrame:
    """Estimate of each site's average indirect effect on the log-odds (nats), one row per direction and site.

    view   "stereotype" or "signed", as in `effects`
    steps  of the integrated gradient between base and source (see `locate.estimate`); 0 for the gradient at
           the base run alone

    Columns direction, component, layer, unit, role, key, estimate, n (pairs). The estimates of a role's tokens are
    averaged within a pair, as `average` does.

    Raises LocateError for windows or severed paths, which are no single sites.
    """
    if job.map is None or job.map.windows != (1,) or job.map.severed:
        raise LocateError("a budget is for maps of single sites: leave windows and severed paths out")
    wanted = [(component, layer) for component in job.map.components for layer in job.map.layers_of(job.model.n_layers)]
    ways = [0.0] if steps == 0 else [(step + 0.5) / steps for step in range(steps)]
    totals: Total = {}
    with multiplying(job.model.dtype, job.model.device, job.model.threads):
        for start in range(0, len(job.pairs), job.chunk):
            add(totals, job, job.pairs[start : start + job.chunk], wanted, ways, view)
    parts = [
        pd.DataFrame(
            {
                "direction": direction,
                "component": component,
                "layer": layer,
                "unit": np.arange(len(total)) if component in UNITS else -1,
                "role": role,
                "key": key,
                "estimate": (total / count).cpu().numpy(),
                "n": count,
            }
        )
        for (direction, component, layer, role, key), (total, count) in totals.items()
    ]
    return pd.concat(parts, ignore_index=True)


def add(
    totals: Total, job: Job, pairs: Sequence[TokenPair], wanted: Sequence[Key], ways: Sequence[float], view: str
) -> None:
    """Add the estimates of some pairs."""
    runs, _, _ = layout(pairs, job, cells=False)
    each, mixing = 1 + job.corruption.samples, aligned_positions(pairs, job)
    _, kept = execute_runs(job.model, runs, wanted, job.limits)
    couples = [couple for couple in mixing if direction_of(couple, each) in job.directions]
    for batch in batches_by_length(couples, lambda couple: len(runs[couple[0]].ids), job.model, job.limits):
        chosen = [couples[place] for place in batch]
        gradients = mean_gradients(job.model, runs, chosen, mixing, wanted, ways)
        for place, (base, source) in enumerate(chosen):
            pair, direction = pairs[base // each], direction_of((base, source), each)
            weight = (pair.pair.stereotype if view == "stereotype" else 1) / job.corruption.samples
            if weight == 0:
                continue
            for component, layer in wanted:
                key = component, layer
                found = by_role(
                    job, pair, direction, component, kept[base][key], kept[source][key], gradients[key][place]
                )
                for (role, attended), values in found.items():
                    old, count = totals.get((direction, *key, role, attended), (torch.zeros_like(values), 0))
                    new = source % each == 1 or base % each == 1  # the samples of one pair count once
                    totals[direction, *key, role, attended] = old + weight * values, count + new


def direction_of(couple: tuple[int, int], each: int) -> str:
    """Which way a couple of runs (base, source) is patched; each pair has its clean run first."""
    return "denoising" if couple[1] % each == 0 else "noising"


def by_role(
    job: Job,
    pair: TokenPair,
    direction: str,
    component: str,
    own: torch.Tensor,
    other: torch.Tensor,
    slope: torch.Tensor,
) -> dict[tuple[str, str], Float[torch.Tensor, " unit"]]:
    """Estimates of each unit by role, and for patterns by the role attended to, averaged over the role's tokens."""
    assert job.map is not None
    found: dict[tuple[str, str], list[torch.Tensor]] = defaultdict(list)
    for token in pair.aligned:
        if job.map.roles is not None and token.role not in job.map.roles:
            continue
        here, there = placed(token, direction)
        if component == PATTERN:
            for key in job.map.keys or ("",):
                attended = [each for each in before(pair.aligned, token) if key in ("", each.role)]
                if attended:
                    ours, theirs = (
                        list(side) for side in zip(*(placed(each, direction) for each in attended), strict=True)
                    )
                    moved = (other[:, there, theirs] - own[:, here, ours]) * slope[:, here, ours]
                    found[token.role, key].append(moved.double().sum(1))
        else:
            moved = ((other[there] - own[here]) * slope[here]).double()
            found[token.role, ""].append(
                moved.reshape(len(moved), -1).sum(1) if component in UNITS else moved.sum()[None]
            )
    return {place: torch.stack(values).mean(0) for place, values in found.items()}


def placed(token: Aligned, direction: str) -> tuple[int, int]:
    """Positions of a token in base and source."""
    return (token.corrupted, token.clean) if direction == "denoising" else (token.clean, token.corrupted)
