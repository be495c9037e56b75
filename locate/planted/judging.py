"""How well a ranking finds what was planted."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
from scipy.stats import rankdata

from locate.errors import LocateError
from locate.planted.build import Place, Truth

SITE_COLUMNS = list(Place._fields)


@dataclass(frozen=True)
class Verdict:
    """How a map's sites are ranked against the planted ones.

    auroc      how often a planted site is ranked above another one, of all such pairs; ties count half
    precision  share of planted sites among as many of the strongest
    first      whether in every component the strongest site is planted
    role       share of planted sites whose strongest role, at their component, layer and unit, is the planted one
    """

    auroc: float
    precision: float
    first: bool
    role: float


def judge(averages: pd.DataFrame, truth: Truth, aside: Truth = frozenset()) -> Verdict:
    """Rank sites by the size of their effect, whatever its sign.

    averages  one row per site, as `average()` returns them, of one direction
    truth     the planted sites; those of components that the map leaves out do not count
    aside     sites that count neither as planted nor as others

    Raises LocateError when the table holds several rows of a site, no planted site, or only planted ones.
    """
    sites = averages[[*SITE_COLUMNS, "effect"]].copy()
    if sites.duplicated(SITE_COLUMNS).any():
        raise LocateError("several effects of one site: expected the averages of one direction and window")
    places = [Place(*row) for row in sites[SITE_COLUMNS].astype(object).itertuples(index=False)]
    sites["planted"] = [place in truth for place in places]
    sites = sites[[place not in aside for place in places]]
    count = int(sites["planted"].sum())
    if not 0 < count < len(sites):
        raise LocateError(f"{count} of {len(sites)} sites are planted: expected at least one, but not all")
    sites = sites.assign(size=sites["effect"].abs())
    ranks = rankdata(sites["size"])
    others = len(sites) - count
    above = ranks[sites["planted"]].sum() - count * (count + 1) / 2
    ordered = sites.sort_values("size", ascending=False, kind="stable")
    strongest = ordered.groupby("component", observed=True).head(1)
    known = set(sites.loc[sites["planted"], "component"])
    best_role = ordered.groupby(["component", "layer", "unit"], observed=True).head(1)
    return Verdict(
        auroc=float(above / (count * others)),
        precision=float(ordered["planted"].head(count).mean()),
        first=bool(strongest.loc[strongest["component"].isin(known), "planted"].all()),
        role=float(best_role["planted"].sum() / count),
    )
