"""Which of a run's pairs and groups are looked at again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from locate.mediation.effect_table import of_kind
from locate.prompts.pair import Prompts
from locate.sites import Site
from locate.tracing.table import Trace


def traced_pairs(trace: Trace) -> pd.DataFrame:
    """Number and group of each pair of the default kind that has a stereotype, or of all of them where none has."""
    rows = of_kind(trace.table, None)[["pair", "group", "stereotype"]].drop_duplicates("pair")
    return rows[rows["stereotype"] != 0] if (rows["stereotype"] != 0).any() else rows


def sample_pairs(prompts: Prompts, trace: Trace, count: int, seed: int, groups: Sequence[str] | None = None) -> Prompts:
    """Some of the traced pairs, of these groups or of all, one of each group before a second."""
    rows = traced_pairs(trace)
    rows = rows if groups is None else rows[rows["group"].isin(groups)]
    rows = rows.sample(frac=1.0, random_state=seed)
    turn = rows.groupby("group", observed=True).cumcount()
    chosen = rows.assign(turn=turn).sort_values("turn", kind="stable")["pair"].head(count)
    return Prompts(tuple(prompts.pairs[index] for index in sorted(chosen)))


def halves(trace: Trace, seed: int) -> tuple[list[str], list[str]]:
    """Two random halves of the groups."""
    groups = sorted(set(traced_pairs(trace)["group"].astype(str)))
    order = [groups[i] for i in np.random.default_rng([seed, 3]).permutation(len(groups))]
    return order[: len(order) // 2], order[len(order) // 2 :]


def site_as_json(site: Site) -> dict[str, object]:
    """A site as JSON."""
    return {"component": site.component, "layer": site.layer, "role": site.position, "unit": site.unit}
