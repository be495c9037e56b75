"""Estimated average effect of every site of a map from a few gradients, without a row for each of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from locate.engine.plain import execute_runs
from locate.engine.rows import Key, batches_by_length
from locate.errors import LocateError
from locate.model.products import multiplying
from locate.prompts.tokens import TokenPair
from locate.sites import PATTERN, UNITS
from locate.tracing.cost import operations
from locate.tracing.gradients import aligned_positions, mean_gradients, positions_of
from locate.tracing.layout import Layout, PairRuns
from locate.tracing.plan import Map, before
from locate.tracing.stage import Job

CELL = ["direction", "component", "layer", "unit", "role", "key"]
BACKWARDS = 3  # a gradient costs about as much as three runs

Total = dict[tuple[str, str, int, str, str], tuple[torch.Tensor, int]]
"""by direction, component, layer, role and key: sum over pairs of the estimates of each unit, and how many pairs"""


@dataclass(frozen=True)
class SiteEstimates:
    """Fills the chunks of a stage with sums of estimates of each site's indirect effect on the log-odds (nats).

    view   "stereotype" or "signed", as in `effects`
    steps  of the integrated gradient between base and source (see `locate.estimate`); 0 for the gradient at the base
           run alone

    The estimates of a role's tokens are averaged within a pair, as `average` does.
    """

    view: str
    steps: int

    def table(self, job: Job, pairs: Sequence[TokenPair]) -> pd.DataFrame:
        """Sums over some pairs: columns direction, component, layer, unit, role, key, sum, n (pairs).

        Raises LocateError for windows or severed paths, which are not single sites.
        """
        job_map = map_of_single_sites(job)
        layers = job_map.layers_of(job.model.n_layers)
        wanted = [(component, layer) for component in job_map.components for layer in layers]
        ways = [0.0] if self.steps == 0 else [(step + 0.5) / self.steps for step in range(self.steps)]
        totals: Total = {}
        with multiplying(job.model.dtype, job.model.device, job.model.threads):
            self.add(totals, job, job.lay_out(pairs, patched=False), wanted, ways)
        parts = [
            pd.DataFrame(
                {
                    "direction": direction,
                    "component": component,
                    "layer": layer,
                    "unit": np.arange(len(total)) if component in UNITS else -1,
                    "role": role,
                    "key": key,
                    "sum": total.cpu().numpy(),
                    "n": count,
                }
            )
            for (direction, component, layer, role, key), (total, count) in totals.items()
        ]
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*CELL, "sum", "n"])

    def operations(self, job: Job) -> float:
        """About how many floating-point operations all pairs take."""
        block, out = operations(job.model)
        couples = len(job.pairs) * job.settings.corruption.samples * len(job.stage.directions)
        tokens = sum(len(pair.clean) for pair in job.pairs) / len(job.pairs)
        whole = tokens * job.model.n_layers * block + out
        return couples * whole * (2 + BACKWARDS * max(1, self.steps))

    def add(self, totals: Total, job: Job, layout: Layout, wanted: Sequence[Key], ways: Sequence[float]) -> None:
        """Add the estimates of some pairs."""
        mixing, runs = aligned_positions(layout), layout.runs
        _, kept = execute_runs(job.model, runs, wanted, job.limits)
        cases = list(layout.couples(job.stage.directions))

        def couple(case: tuple[PairRuns, str, int]) -> tuple[int, int]:
            own, direction, sample = case
            return own.couple(direction, sample)

        for batch in batches_by_length(cases, lambda case: len(runs[couple(case)[0]].ids), job.model, job.limits):
            chosen = [couple(cases[place]) for place in batch]
            gradients = mean_gradients(job.model, runs, chosen, mixing, wanted, ways)
            for place, index in enumerate(batch):
                own, direction, sample = cases[index]
                base, source = chosen[place]
                pair = own.pair
                weight = (pair.pair.stereotype if self.view == "stereotype" else 1) / job.settings.corruption.samples
                if weight == 0:
                    continue
                for component, layer in wanted:
                    key = component, layer
                    slope = gradients[key][place]
                    found = by_role(job, pair, direction, component, kept[base][key], kept[source][key], slope)
                    for (role, attended), values in found.items():
                        old, count = totals.get((direction, *key, role, attended), (torch.zeros_like(values), 0))
                        new = sample == 0  # the samples of one pair count once
                        totals[direction, *key, role, attended] = old + weight * values, count + new


def map_of_single_sites(job: Job) -> Map:
    """The map of a job.

    Raises LocateError where it holds more than single sites.
    """
    if job.map is None or job.map.windows != (1,) or job.map.severed:
        raise LocateError("a budget is for maps of single sites: leave windows and severed paths out")
    return job.map


def mean_estimates(sums: pd.DataFrame) -> pd.DataFrame:
    """Estimate of each site's average indirect effect on the log-odds (nats), one row per direction and site.

    sums  the chunks of a stage of `SiteEstimates`

    Columns direction, component, layer, unit, role, key, estimate, n (pairs).
    """
    whole = sums.groupby(CELL, sort=False, as_index=False)[["sum", "n"]].sum()
    return whole.assign(estimate=whole["sum"] / whole["n"])[[*CELL, "estimate", "n"]]


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
        here, there = positions_of(token, direction)
        if component == PATTERN:
            for key in job.map.keys or ("",):
                attended = [each for each in before(pair.aligned, token) if key in ("", each.role)]
                if attended:
                    ours, theirs = (
                        list(side) for side in zip(*(positions_of(each, direction) for each in attended), strict=True)
                    )
                    moved = (other[:, there, theirs] - own[:, here, ours]) * slope[:, here, ours]
                    found[token.role, key].append(moved.double().sum(1))
        else:
            moved = ((other[there] - own[here]) * slope[here]).double()
            found[token.role, ""].append(
                moved.reshape(len(moved), -1).sum(1) if component in UNITS else moved.sum()[None]
            )
    return {place: torch.stack(values).mean(0) for place, values in found.items()}
