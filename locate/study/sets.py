"""Sets of sites: what the strongest carry together, and how faithful a model is with nothing but them left."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pandas as pd

from locate.errors import LocateError
from locate.mediation import default_view, effects
from locate.prompts.pair import Prompts
from locate.sites import Patch, Site
from locate.study.sample import halves, sample_pairs, site_as_json
from locate.tracing.measure import Stages
from locate.tracing.stage import Stage
from locate.tracing.table import Trace, whole_sites

FRACTIONS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""of all sites, at which MIB measures circuits (Mueller et al. 2025)"""
TOP, GREEDY, CIRCUIT = "top", "greedy", "circuit"
LEAST_GROUPS = 8


@dataclass(frozen=True)
class Sets:
    """How much is spent on sets.

    largest  size up to which sets of the strongest are written together
    pool     strongest sites that the greedy search tries at each step
    pairs    for the search, and for what is reported, each
    seed     of the halves of the groups
    """

    largest: int = 8
    pool: int = 12
    pairs: int = 48
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.largest, self.pool, self.pairs) < 1 or self.seed < 0:
            raise LocateError(
                f"sets up to {self.largest} sites, pool {self.pool}, {self.pairs} pairs, seed {self.seed}: expected "
                "at least 1 of each, and a seed from 0 up"
            )


def check_groups(groups: int) -> None:
    """Raise LocateError with fewer groups than sets are chosen and measured on."""
    if groups < LEAST_GROUPS:
        raise LocateError(
            f"{groups} groups: expected at least {LEAST_GROUPS} for sets of sites: give prompts about more words"
        )


def measure_sets(prompts: Prompts, trace: Trace, wanted: Sets) -> Stages[Trace]:
    """Ask for sets of a trace's sites on groups that they were not chosen on; return the trace with them.

    Sites are ranked, and the greedy search is done, on a random half of the groups; what is reported is measured on the
    other half. Three kinds of set:

    top      the k strongest, written together from clean into corrupted runs
    greedy   at each step the site, of the `pool` strongest, that adds most to those chosen before
    circuit  the k strongest are left as they are in the clean run, and every other site of the map is written from the
             corrupted run: the circuit of Mueller et al. 2025 (MIB), with whole outputs or heads as nodes

    Raises LocateError with fewer than 8 groups, or where no outputs or heads were traced.
    """
    first, second = halves(trace, wanted.seed)
    check_groups(len(first) + len(second))
    ranked = rank_sites(trace, first)
    learning, telling = (sample_pairs(prompts, trace, wanted.pairs, wanted.seed, groups) for groups in (first, second))
    greedy = yield from search_greedily(trace, learning, ranked[: wanted.pool], wanted.largest)
    tables = []
    for stage in set_stages(telling, ranked, greedy, wanted.largest):
        outcome = yield stage
        tables.append(outcome.table)
    about = {
        "sites": len(ranked),
        "settings": asdict(wanted),
        "groups_chosen_on": len(first),
        "groups_measured_on": len(second),
        TOP: [site_as_json(site) for site in ranked[: wanted.largest]],
        GREEDY: [site_as_json(site) for site in greedy],
    }
    return replace(trace, sets=pd.concat(tables, ignore_index=True), meta=trace.meta | {"sets": about})


def set_stages(prompts: Prompts, ranked: Sequence[Site], greedy: Sequence[Site], largest: int) -> list[Stage]:
    """The stages in which sets are measured: joint effects, and circuits."""
    joint = [Patch.joint(f"{TOP} {size}", ranked[:size]) for size in range(1, min(largest, len(ranked)) + 1)]
    joint += [Patch.joint(f"{GREEDY} {size}", greedy[:size]) for size in range(1, len(greedy) + 1)]
    sizes = [0, *sorted({math.ceil(share * len(ranked)) for share in FRACTIONS})]
    circuits = [Patch.joint(f"{CIRCUIT} {size}", ranked[size:]) for size in sizes if size < len(ranked)]
    return [
        Stage("sets: joint effects", prompts, joint, ("denoising",)),
        Stage("sets: circuits", prompts, circuits, ("noising",)),
    ]


def rank_sites(trace: Trace, groups: Sequence[str]) -> list[Site]:
    """Outputs, or heads where they were traced, of every layer and role, by the size of their mean effect."""
    part = replace(trace, table=trace.table[trace.table["group"].isin(groups)])
    rows = whole_sites(effects(part, view=default_view(part)))
    components = set(rows["component"])
    nodes = {"mlp_out", "head" if "head" in components else "attn_out"}
    rows = rows[
        (rows["direction"] == str(trace.meta["directions"][0])) & rows["component"].isin(nodes) & (rows["window"] == 1)
    ]
    if rows.empty:
        raise LocateError("no MLP or attention outputs, and no heads, were traced: trace some to make sets of them")
    sizes = rows.groupby(["component", "layer", "unit", "role"], observed=True)["nie"].mean().abs()
    ordered = sizes.sort_values(ascending=False, kind="stable").index
    return [
        Site(str(component), int(layer), str(role), None if unit < 0 else int(unit))
        for component, layer, unit, role in ordered
    ]


def search_greedily(trace: Trace, prompts: Prompts, pool: Sequence[Site], largest: int) -> Stages[list[Site]]:
    """Add sites one by one, each time the one that moves the joint effect furthest in the direction of the total.

    trace  the run whose sites they are
    """
    chosen: list[Site] = []
    while len(chosen) < min(largest, len(pool)):
        left = [site for site in pool if site not in chosen]
        outcome = yield greedy_stage(prompts, chosen, left)
        found = replace(trace, table=outcome.table)
        rows = effects(found, view=default_view(found))
        sign = 1 if rows["total"].mean() > 0 else -1
        means = rows.groupby("name", observed=True)["nie"].sum() * sign
        chosen.append(left[int(str(means.idxmax()))])
    return chosen


def greedy_stage(prompts: Prompts, chosen: Sequence[Site], left: Sequence[Site]) -> Stage:
    """A step of the search: the sites chosen before with each of those left."""
    patches = [Patch.joint(str(index), [*chosen, site]) for index, site in enumerate(left)]
    return Stage(f"sets: greedy search {len(chosen) + 1}", prompts, patches, ("denoising",))
