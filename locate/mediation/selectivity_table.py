"""Selectivity of each site: does it carry the stereotype of occupations, or the gender that words say themselves?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from locate.errors import LocateError
from locate.mediation.averages import ROW, average, summed
from locate.mediation.effect_table import DEFINITION, OCCUPATION, one_word
from locate.mediation.resampling import DEFAULT, FEW, NEVER, Design, Deviations, Intervals, drawn_deviations, pivots

Cells = Float[np.ndarray, " cell"]
KINDS = {"stereotype": OCCUPATION, "definition": DEFINITION}
PASSING = 0.05
NEITHER, UNTRACED = "neither passes", "untraced"
KEPT = ["effect", "low", "high", "q", "n", "groups"]


def selectivity(
    effects: pd.DataFrame, column: str = "nie", chosen: Intervals = DEFAULT, *, threshold: float = PASSING
) -> pd.DataFrame:
    """Whether each site carries the stereotype of occupations or the gender of words that say it ("actress", "king").

    effects    of both kinds of pairs, in the stereotype view: `effects(trace, kind="all")`
    column     as in `average`
    chosen     level, resamples and seed of the intervals; groups are resampled
    threshold  largest q at which an effect counts as being there

    With s the average effect of occupations and d that of definitional words at the same site,

        selectivity = (s^2 - d^2) / (s^2 + d^2), in [-1, 1]:

    +1 where the site carries the stereotype alone, -1 where it carries the definition alone, 0 where both alike, 0.6
    where s is twice d. It is the cosine of twice the angle of (s, d): smooth, so that noise in an effect near 0 moves
    it little. Only sizes count; signs stand in `stereotype` and `definition`. It compares effects as they are (nats),
    not shares of the total effects, which may be near 0; so where definitional words move the answer more overall,
    most sites lean to -1: `total_selectivity` is that of the whole prompt, with interval, to compare with.
    It does not say that the two kinds take different features within a site, and it says of occupations only what
    their swap shows: against "man" and "woman" (swap "anti") the counterfactual says its gender, and so does the
    effect; take "opposite" or "neutral", or noise.

    Returns one row per (direction, site) with `selectivity`, `low`, `high`; `stereotype` and `definition`, their
    intervals, q, pairs (n) and groups, of each kind in a map of its own; and `why_undefined`. It is nan where both q
    are above the threshold, since 0/0 would be made of noise ("neither passes"); and where one kind has no pair or one
    group only ("untraced"). The interval is that of the angle of (s, d) after Fieller 1954, groups of both
    kinds resampled independently for its critical value; it reaches the end +1 or -1 where the sign of d or s is open,
    and spans [-1, 1] where neither is known.

    Raises LocateError where effects lack one of the kinds or are female minus male, and as `average` does.
    """
    both = {name: of_kind(effects, name, kind) for name, kind in KINDS.items()}
    averages = {name: average(rows, column, chosen.by_group) for name, rows in both.items()}
    result = side_by_side(averages)
    result = result.merge(angles(both, column, chosen), on=ROW, how="left", validate="one_to_one")
    there = (result["stereotype_q"] <= threshold) | (result["definition_q"] <= threshold)
    traced = result["selectivity"].notna()
    result.loc[~there, ["selectivity", "low", "high"]] = np.nan
    result["why_undefined"] = np.where(~traced, UNTRACED, np.where(there, "", NEITHER))
    return result


def total_selectivity(effects: pd.DataFrame, chosen: Intervals = DEFAULT) -> dict[str, tuple[float, float, float]]:
    """Selectivity of the whole prompt by direction, low and high end of its interval; arguments as `selectivity`.

    Raises LocateError as `selectivity` does.
    """
    once = {name: whole(of_kind(effects, name, kind)) for name, kind in KINDS.items()}
    total = angles(once, "total", chosen).set_index("direction")[["selectivity", "low", "high"]]
    return {str(row[0]): (float(row[1]), float(row[2]), float(row[3])) for row in total.itertuples()}


def comparable(rows: pd.DataFrame) -> bool:
    """Whether a trace or its effects hold two groups of each kind that lean to a gender, as `selectivity` needs."""
    groups = rows[rows["stereotype"] != 0].drop_duplicates(["kind", "group"])["kind"].value_counts()
    return all(groups.get(kind, 0) > 1 for kind in KINDS.values())


def of_kind(effects: pd.DataFrame, name: str, kind: str) -> pd.DataFrame:
    """The effects of one kind of pairs.

    Raises LocateError where there are none, or where they are female minus male.
    """
    if one_word(effects, "view") != "stereotype":
        raise LocateError(
            f"effects in view {one_word(effects, 'view')!r}: expected 'stereotype': words of both genders would cancel"
        )
    rows = effects[effects["kind"] == kind]
    if rows.empty:
        have = ", ".join(sorted({str(each) for each in effects["kind"].unique()}))
        raise LocateError(
            f"the effects hold kind {have} and no {kind!r}: trace occupations and definitional words together "
            "(--words both), and take effects(trace, kind='all')"
        )
    return rows


def side_by_side(averages: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Averages of both kinds at every site of either: the effect named after the kind, the rest prefixed with it."""
    parts = []
    for name, rows in averages.items():
        named = {each: name if each == "effect" else f"{name}_{each}" for each in KEPT}
        parts.append(rows[[*ROW, *KEPT]].rename(columns=named))
    first, second = parts
    result = first.merge(second, on=ROW, how="outer", sort=False)
    for name in averages:
        for each in ("n", "groups"):
            result[f"{name}_{each}"] = result[f"{name}_{each}"].fillna(0).astype(int)
    return result


def whole(rows: pd.DataFrame) -> pd.DataFrame:
    """Each pair once in each direction, for its total effect."""
    once = rows.drop_duplicates(["direction", "pair"])
    return once.assign(
        component="resid_pre", layer=0, unit=-1, window=1, severed="", origin="source", role="last", key="", name=""
    )


def angles(both: dict[str, pd.DataFrame], column: str, chosen: Intervals) -> pd.DataFrame:
    """Selectivity and its interval for every site that has two groups of either kind; nan elsewhere."""
    (cells, first), (other, second) = (summed(rows, column) for rows in both.values())
    places = pd.MultiIndex.from_frame(other).get_indexer(pd.MultiIndex.from_frame(cells))
    cells = cells[places >= 0].reset_index(drop=True)
    first = Design(first.groups[np.flatnonzero(places >= 0)])
    second = Design(second.groups[places[places >= 0]])
    parts = []
    for places_of, block in first.blocks(chosen.samples):
        partner = Design(second.groups[places_of])
        s, d = block.groups.estimate, partner.groups.estimate
        turns = enumerate((block, partner))
        found = [drawn_deviations(each, chosen.samples, chosen.seed + turn) for turn, each in turns]
        parts.append(np.stack([leaning(np.arctan2(d, s)), *interval(s, d, found[0], found[1], chosen.level)]))
    value, low, high = np.concatenate(parts, axis=1)
    known = ~np.isnan(low)
    return cells.assign(
        selectivity=np.where(known, value, np.nan), low=np.where(known, low, np.nan), high=np.where(known, high, np.nan)
    )


def leaning(angle: Cells) -> Cells:
    """Selectivity of effects (s, d) that lie at an angle: +1 along s, -1 along d."""
    return np.cos(2 * angle)


def critical(s: Cells, d: Cells, first: Deviations, second: Deviations, level: float) -> Cells:
    """How many standard errors the effect across the angle of (s, d) strays, by the wider of draws and Student's t."""
    angle = np.arctan2(d, s)
    along, across = np.cos(angle), np.sin(angle)
    freedom = np.minimum(first.freedom, second.freedom)
    turned = Deviations(
        second.drawn * along - first.drawn * across,
        second.variance * along**2 + first.variance * across**2,
        second.plain * along**2 + first.plain * across**2,
        first.error,
        freedom,
    )
    student = stats.t.ppf((1 + level) / 2, np.where(freedom > 0, freedom, np.nan))
    drawn = np.quantile(np.abs(pivots(turned)), level, axis=0)
    return np.where((freedom >= FEW - 1) & (drawn < NEVER / 2), np.maximum(drawn, student), student)


def interval(s: Cells, d: Cells, first: Deviations, second: Deviations, level: float) -> tuple[Cells, Cells]:
    """Ends of the selectivities of all angles that the data do not contradict (Fieller 1954).

    An angle a is kept where (s sin a - d cos a)^2 <= c^2 (V_s sin^2 a + V_d cos^2 a), which is a half plane in
    (cos 2a, sin 2a), so that the angles kept are an interval, or all.
    """
    c = critical(s, d, first, second, level)
    a, b = s**2 - (c * first.error) ** 2, d**2 - (c * second.error) ** 2
    size = np.hypot((a - b) / 2, s * d)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.where(size > 0, np.arccos(np.clip((a + b) / 2 / size, -1, 1)), np.pi) / 2
    middle = np.arctan2(s * d, (a - b) / 2) / 2
    low, high = middle - half, middle + half

    def holds(angle: float) -> np.ndarray:
        return np.floor((high - angle) / np.pi) >= np.ceil((low - angle) / np.pi)

    ends = np.stack([leaning(low), leaning(high)])
    unknown = np.isnan(c)
    least = np.where(holds(np.pi / 2), -1.0, ends.min(0))
    most = np.where(holds(0.0), 1.0, ends.max(0))
    return np.where(unknown, np.nan, least), np.where(unknown, np.nan, most)
