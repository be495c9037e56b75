"""Averages of effects over pairs; their intervals, p and q take into account that templates share an occupation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy import stats
from scipy.stats import false_discovery_control

from locate.errors import LocateError
from locate.mediation.effect_table import EFFECTS
from locate.mediation.keys import first_rows, number_rows, number_together
from locate.mediation.permutation import sign_flip_p, smallest_p
from locate.mediation.resampling import (
    DEFAULT,
    Design,
    Deviations,
    Intervals,
    Ratio,
    cluster_weights,
    drawn_deviations,
    intervals,
)
from locate.tracing.table import SITE

ROW = ["direction", *SITE]
SOUND_GROUPS, SOUND_TEMPLATES = 12, 8  # coverage was measured from these up: experiments/statistics
FEWEST_TEMPLATES = 4


def average(effects: pd.DataFrame, column: str = "nie", chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Average effect of each site and direction, with an interval from resampling whole groups.

    effects  one row per (pair, patch, direction), as `effects()` returns it
    column   "total", "nie" or "nde"; in the metric's unit (nats for the logit difference)
    chosen   level, resamples, seed and clusters of the intervals

    Returns one row per (site, direction): `effect`, the mean over pairs (within a pair over the tokens of a role),
    `low` and `high` in the same unit, `n` pairs, `groups` and `templates` behind it, `p` and `q`. The mean of "nie"
    under denoising is the average indirect effect (AIE) of Meng et al. 2022. Whole groups (occupations) are resampled,
    not pairs: the templates of one occupation share its word, and counting them as independent makes the interval too
    narrow.

    The interval is the wider of a bootstrap-t and an expanded percentile interval (see `resampling.interval`). At 95 %
    it covers 93 to 97 % from 12 groups up, for normal, skewed (exponential) and heavy-tailed (t3) effects of groups of
    unequal size, and about 90 % under a lognormal of skewness 6; two-way from 8 templates up, and 91 to 96 % with 4 to
    7. Below, `limits_of` says that they are not sound, and cells of fewer than 8 groups have Student's interval.

    p is two-sided. By groups it flips the signs of whole groups (see `sign_flip_p`). By groups and templates it is that
    of Student's t, with the degrees of freedom of Satterthwaite 1946. q is p after Benjamini and Hochberg 1995 over all
    sites of a map; a map is everything that the table holds of one direction. An average no larger than the `rounding`
    of its trace (see `effects`) has p 1: it may have one sign in every pair and still be nothing.

    Raises LocateError with fewer than two groups, or four templates under "group+template", or when the effects hold
    nan.
    """
    index, design = summed(effects, column, chosen.clusters)
    groups = design.groups
    low, high = intervals(design, chosen)
    result = index.copy()
    result["effect"] = groups.estimate
    result["low"], result["high"] = low, high
    add_counts(result, effects, design)
    result["p"] = (
        sign_flip_p(groups.above, chosen.samples, chosen.seed) if design.templates is None else student_p(design)
    )
    result.loc[result["effect"].abs() <= rounding_of(effects), "p"] = 1.0
    result["q"] = by_map(result)
    return result


def by_map(rows: pd.DataFrame) -> Float[np.ndarray, " cell"]:
    """q of each row: its p after Benjamini and Hochberg over the rows of its direction."""
    q = np.ones(len(rows))
    for places in rows.groupby("direction", observed=True, sort=False).indices.values():
        q[places] = false_discovery_control(rows["p"].to_numpy()[places])
    return q


def student_p(design: Design) -> Float[np.ndarray, " cell"]:
    """Two-sided p of Student's t with the two-way error; 1 for a cell that is 0 throughout, or of one group."""
    found = drawn_deviations(design, samples=1, seed=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = 2 * stats.t.sf(np.abs(design.groups.estimate / found.error), found.freedom)
    return np.where(np.isnan(p), 1.0, p)


def rounding_of(effects: pd.DataFrame) -> float:
    """The rounding of the trace that the effects come from; 0 where their table does not hold it."""
    return float(effects["rounding"].max()) if "rounding" in effects else 0.0


@dataclass(frozen=True)
class Limits:
    """What the number of groups allows.

    sound       whether there are as many groups, and templates where they are resampled, as coverage was measured with
    smallest_q  the smallest q that so few groups allow
    """

    sound: bool
    smallest_q: float


def limits_of(effects: pd.DataFrame, chosen: Intervals = DEFAULT) -> Limits:
    """What the groups and templates of these effects allow."""
    groups = effects["group"].nunique()
    if chosen.clusters == "group":
        return Limits(groups >= SOUND_GROUPS, smallest_p(groups))
    return Limits(groups >= SOUND_GROUPS and effects["template"].nunique() >= SOUND_TEMPLATES, 0.0)


def stability(effects: pd.DataFrame, column: str = "nie", chosen: Intervals = DEFAULT, *, top: int = 5) -> pd.DataFrame:
    """How stable the ranking is: how often each site is among the strongest when groups are resampled.

    effects  as in `average`; its rows are ranked by the size of their mean, those of each direction by themselves
    chosen   as in `average`; its level plays no part
    top      how many of the strongest count

    Returns one row per (site, direction) with `stability`, the share of resamples in which it is among the `top`
    strongest; ties go to the row that stands first.

    Raises LocateError as `average` does, or for `top` below 1.
    """
    if top < 1:
        raise LocateError(f"top {top}: expected a number of sites >= 1")
    index, design = summed(effects, column, chosen.clusters)
    result = index.copy()
    result["stability"] = 0.0
    sizes = drawn_sizes(design, chosen.samples, chosen.seed)
    for _, cells in result.groupby("direction", observed=True).groups.items():
        counts = among_largest(sizes[:, cells], min(top, len(cells))).sum(axis=0)
        result.loc[cells, "stability"] = counts / chosen.samples
    return result


def among_largest(sizes: Float[np.ndarray, "sample cell"], top: int) -> Bool[np.ndarray, "sample cell"]:
    """Whether a cell is among the `top` largest of its sample; ties go to the cell that stands first."""
    least = np.partition(sizes, -top, axis=1)[:, -top, None]
    above, tied = sizes > least, sizes == least
    places = top - above.sum(axis=1, keepdims=True)
    return above | (tied & (tied.cumsum(axis=1) <= places))


def drawn_sizes(design: Design, samples: int, seed: int) -> Float[np.ndarray, "sample cell"]:
    """Size of the mean of each cell in each draw; -1 where a draw holds no pair of it."""
    if design.templates is not None:
        found: Deviations = drawn_deviations(design, samples, seed)
        return np.abs(design.groups.estimate + np.nan_to_num(found.drawn))
    return mean_sizes(design.groups, cluster_weights(len(design.groups.above), samples, seed))


def mean_sizes(sums: Ratio, weights: Float[np.ndarray, "sample cluster"]) -> Float[np.ndarray, "sample cell"]:
    """Size of the mean of each cell when clusters are drawn so often; -1 where a draw holds no pair of it."""
    drawn = weights @ sums.below
    means = np.divide(weights @ sums.above, drawn, out=np.zeros(drawn.shape), where=drawn > 0)
    return np.where(drawn > 0, np.abs(means), -1.0)


def normalised(effects: pd.DataFrame, column: str = "nie", chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Share of the average total effect that each site carries: mean(column) / mean(total), with an interval.

    The averages are divided, not the pairs: NIE / TE of one pair is unbounded where its total effect is near 0. Where
    the interval of the total effect itself holds 0 the share means nothing, and effect, low and high are nan. `chosen`
    is that of `average`, and so is the interval, of a ratio.

    Returns the columns of `average` without p and q; the unit is a share of the total effect.

    Raises LocateError as `average` does.
    """
    index, design = summed(effects, column, chosen.clusters)
    _, total = summed(effects, "total", chosen.clusters)
    total_low, total_high = intervals(total, chosen)
    meant = (total_low > 0) | (total_high < 0)
    shares = design.over(total)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = intervals(shares, chosen)
    result = index.copy()
    for name, value in {"effect": shares.groups.estimate, "low": low, "high": high}.items():
        result[name] = np.where(meant, value, np.nan)
    add_counts(result, effects, design)
    return result


def summed(effects: pd.DataFrame, column: str, clusters: str = "group") -> tuple[pd.DataFrame, Design]:
    """Sums of an effect over the pairs of each cluster; within a pair the tokens of one role are averaged first.

    Returns the cells, direction and site of each, and their sums.

    Raises LocateError for an unknown column or clusters, missing values, or too few groups or templates.
    """
    if column not in EFFECTS:
        raise LocateError(f"column {column!r}: expected one of {', '.join(EFFECTS)}")
    if effects[column].isna().any():
        way = "trace both directions" if column == "nde" else "choose another metric"
        raise LocateError(f"{int(effects[column].isna().sum())} values of {column!r} are missing: {way}")
    two_way = clusters != "group"
    keys = ["group", "template"] if two_way else ["group"]
    missing = [name for name in keys if name not in effects]
    if missing:
        raise LocateError(f"the effects have no column {missing[0]!r}, which clusters {clusters!r} needs")
    every = number_rows(effects, ROW)
    index = plain(effects[ROW].iloc[first_rows(every)])
    rows = number_together([every, number_rows(effects, [*keys, "pair"])])
    first = first_rows(rows)
    values = np.bincount(rows, effects[column].to_numpy(dtype=float)) / np.bincount(rows)
    cells, codes = every[first], number_rows(effects.iloc[first], ["group"])
    groups = ratio_of(values, codes, cells)
    if len(groups.above) < 2:
        raise LocateError(f"{len(groups.above)} group: expected at least 2 to resample: trace more occupations")
    design = Design(groups)
    if two_way:
        templates = number_rows(effects.iloc[first], ["template"])
        design = Design(groups, ratio_of(values, templates, cells), both_of(values, codes, templates, cells))
        if templates.max() + 1 < FEWEST_TEMPLATES:
            raise LocateError(
                f"{templates.max() + 1} templates: expected at least {FEWEST_TEMPLATES} to resample: trace more of "
                "them, or take clusters='group'"
            )
    return index, design


def plain(labels: pd.DataFrame) -> pd.DataFrame:
    """Labels as plain texts and whole numbers, numbered from 0."""
    types = {
        name: "str" if isinstance(dtype, pd.CategoricalDtype) else "int64" if dtype.kind == "i" else dtype
        for name, dtype in labels.dtypes.items()
    }
    return labels.astype(types).reset_index(drop=True)


def ratio_of(values: Float[np.ndarray, " row"], clusters: np.ndarray, cells: np.ndarray) -> Ratio:
    """Sums and counts of values by cluster and cell."""
    shape = (int(clusters.max()) + 1, int(cells.max()) + 1)
    places = clusters * shape[1] + cells
    size = shape[0] * shape[1]
    sums = np.bincount(places, values, minlength=size).reshape(shape)
    counts = np.bincount(places, minlength=size).reshape(shape).astype(float)
    return Ratio(sums, counts, counts > 0)


def both_of(values: Float[np.ndarray, " row"], groups: np.ndarray, templates: np.ndarray, cells: np.ndarray) -> Ratio:
    """Sums and counts of values by group and template at once."""
    return ratio_of(values, np.unique(groups * (templates.max() + 1) + templates, return_inverse=True)[1], cells)


def add_counts(result: pd.DataFrame, effects: pd.DataFrame, design: Design) -> None:
    """The columns n, groups and, where the effects name them, templates."""
    result["n"] = design.groups.below.sum(0).astype(int)
    result["groups"] = design.groups.here.sum(0)
    if "template" in effects:
        cells = number_rows(effects, ROW)
        both = first_rows(number_together([cells, number_rows(effects, ["template"])]))
        result["templates"] = np.bincount(cells[both])


def total_effect(derived: pd.DataFrame, chosen: Intervals) -> tuple[float, float, float]:
    """Average total effect over pairs, low and high end of its interval."""
    once = derived.drop_duplicates("pair").assign(
        component="resid_pre", layer=0, unit=-1, window=1, severed="", role="last"
    )
    row = average(once, "total", chosen).iloc[0]
    return float(row["effect"]), float(row["low"]), float(row["high"])
