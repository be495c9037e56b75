"""The located set against random sets of as many sites in the same layers: how rarely do they carry as much?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.mediation.analysis import rank
from locate.mediation.controls import CHOOSING, SETS
from locate.mediation.located import THRESHOLD, Located
from locate.mediation.ranking import EDITABLE
from locate.prompts.pair import Prompts
from locate.sites import BEFORE, Patch, Site
from locate.study.sample import halves, sample_pairs
from locate.tracing.measure import Stages
from locate.tracing.stage import Stage
from locate.tracing.table import Trace, whole_sites

LEAST_GROUPS = 8
MOST_SITES = 10
TRIES = 50  # draws for each set that is asked for; sets of sites of one layer may be few
LOCATED = "located"


def compare_random_sets(
    prompts: Prompts, trace: Trace, count: int, pairs: int, seed: int
) -> Stages[tuple[pd.DataFrame | None, dict[str, Any]]]:
    """Ask for joint effects of the located set and of random ones; return them, and what was compared, for meta.

    A set chosen for its effects is stronger than others on the pairs that it was chosen on, whatever they hold. So the
    set is located on a random half of the groups, and compared on the other half. Its sites are those of the component
    and role that `rank` hands to editors, with a q-value that passes and the sign of the total effect. A random set
    has, for each of them, another site of the same layer: another unit of the same component and role, or for whole
    outputs another component or role. Tokens before the subject, where nothing can have an effect, are left out. Where
    fewer sets exist than were asked for, all of them are measured.

    count  random sets
    pairs  at most, on which they are compared
    seed   of the halves, the sets and the pairs

    Returns None for the table where there is nothing to compare, with the reason.
    """
    first, second = halves(trace, seed)
    if min(len(first), len(second)) < LEAST_GROUPS / 2:
        return None, {"reason": f"fewer than {LEAST_GROUPS} groups"}
    half = replace(trace, table=trace.table[trace.table["group"].isin(first)])
    try:
        located = rank(half, metric=CHOOSING, top=1000)
    except LocateError as error:
        return None, {"reason": str(error)}
    if located.why_no_layers is not None:
        return None, {"reason": located.why_no_layers}
    chosen = located_set(located)
    if not chosen:
        return None, {"reason": f"no {located.component} at {located.role} passes on half of the groups"}
    alternatives = [others_of(site, trace, chosen) for site in chosen]
    if not all(alternatives):
        return None, {"reason": "nothing else was traced in the layers of the located set"}
    sets = draw_sets(alternatives, count, seed)
    compared = sample_pairs(prompts, trace, pairs, seed, second)
    outcome = yield sets_stage(compared, chosen, sets, located.direction)
    return outcome.table, {
        "component": located.component,
        "role": located.role,
        "direction": located.direction,
        "sites": [{"layer": site.layer, "unit": site.unit} for site in chosen],
        "sets": len(sets),
        "groups_located": len(first),
        "groups_compared": len(second),
    }


def sets_stage(compared: Prompts, chosen: Sequence[Site], sets: Sequence[Sequence[Site]], direction: str) -> Stage:
    """The stage in which a located set and random ones are written, each at once."""
    patches = [Patch.joint(LOCATED, chosen)]
    patches += [Patch.joint(f"random {index}", sites) for index, sites in enumerate(sets)]
    return Stage(f"control: {SETS}", compared, patches, (direction,))


def located_set(located: Located) -> list[Site]:
    """The sites behind the located layers, the strongest at most."""
    low, high = located.total[1:]
    return [
        Site(site.component, site.layer, site.role, site.unit)
        for site in located.sites
        if (site.component, site.role) == (located.component, located.role)
        and site.q <= THRESHOLD
        and (site.low > 0 if low > 0 else site.high < 0 if high < 0 else False)
    ][:MOST_SITES]


def others_of(site: Site, trace: Trace, chosen: Sequence[Site]) -> list[Site]:
    """What else was traced in a site's layer: other units of its component and role, or other whole outputs."""
    rows = trace.table
    rows = rows[(rows["layer"] == site.layer) & (rows["role"] != BEFORE) & rows["component"].isin(EDITABLE)]
    rows = whole_sites(rows[rows["window"] == 1])
    if site.unit is None:
        rows = rows[rows["unit"] < 0]
    else:
        rows = rows[(rows["component"] == site.component) & (rows["role"] == site.position)]
    everywhere = rows.groupby("role", observed=True)["pair"].nunique()
    rows = rows[rows["role"].isin(everywhere[everywhere == trace.table["pair"].nunique()].index)]
    found = rows[["component", "layer", "role", "unit"]].drop_duplicates()
    sites = [
        Site(str(row.component), int(row.layer), str(row.role), None if row.unit < 0 else int(row.unit))
        for row in found.itertuples()
    ]
    return [each for each in sites if each not in chosen]


def draw_sets(alternatives: Sequence[Sequence[Site]], count: int, seed: int) -> list[list[Site]]:
    """Sets with one of each list, all different sites: every one there is, or as many random ones as asked for."""
    if np.prod([float(len(each)) for each in alternatives]) <= 4 * count:
        found = {frozenset(each) for each in product(*alternatives) if len(set(each)) == len(each)}
        ordered = sorted(found, key=lambda each: sorted(map(str, each)))
        order = np.random.default_rng([seed, 4]).permutation(len(ordered))[:count]
        return [sorted(ordered[i], key=str) for i in order]
    rng = np.random.default_rng([seed, 4])
    sets: dict[frozenset[Site], None] = {}
    for _ in range(TRIES * count):
        one = frozenset(each[int(rng.integers(len(each)))] for each in alternatives)
        if len(one) == len(alternatives) and len(sets) < count:
            sets[one] = None
    return [sorted(each, key=str) for each in sets]
