"""Averages of effects over pairs, with intervals, p- and q-values that respect that templates share an occupation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import false_discovery_control

from locate.errors import LocateError
from locate.mediation.effects import EFFECTS
from locate.tracing.table import SITE

ROW = ["direction", *SITE]


@dataclass(frozen=True, eq=False)
class GroupSums:
    """Sums over the pairs of each group, for each cell of a map.

    index   one row per cell: direction and site
    sums    of the effect
    counts  of the pairs
    """

    index: pd.DataFrame
    sums: Float[np.ndarray, "group cell"]
    counts: Float[np.ndarray, "group cell"]


def average(
    effects: pd.DataFrame, column: str = "nie", *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Average effect of each site and direction, with a bootstrap interval over groups.

    effects  one row per (pair, patch, direction), as `effects()` returns it
    column   "total", "nie" or "nde"; in the metric's unit (nats for the logit difference)
    level    coverage of the percentile interval, in (0, 1)
    samples  bootstrap resamples, and sign flips for p
    seed     of the resampling

    Returns one row per (site, direction): `effect`, the mean over pairs (within a pair over the tokens of a role),
    `low` and `high` in the same unit, `n` pairs, `groups`, `p` and `q`. The mean of "nie" under denoising is the
    average indirect effect (AIE) of Meng et al. 2022. Whole groups (occupations) are resampled, not pairs: the
    templates of one occupation share its word, and counting them as independent makes the interval too narrow.
    p is that of a two-sided test that flips the sign of whole groups; q is p after Benjamini and Hochberg over all
    rows of this table.

    Raises LocateError with fewer than two groups, or when the effects hold nan.
    """
    sums = group_sums(effects, column)
    check_level(level, samples)
    means = resampled(sums.sums, sums.counts, samples, seed)
    alone = (sums.counts > 0).sum(0) < 2
    low, high = np.where(alone, np.nan, np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0))
    result = sums.index.copy()
    result["effect"] = sums.sums.sum(0) / sums.counts.sum(0)
    result["low"], result["high"] = low, high
    result["n"] = sums.counts.sum(0).astype(int)
    result["groups"] = (sums.counts > 0).sum(0)
    result["p"] = sign_flip_p(sums.sums, samples, seed)
    result["q"] = false_discovery_control(result["p"])
    result.attrs = effects.attrs | {"column": column, "level": level, "resampled": "group", "samples": samples}
    return result


def stability(
    effects: pd.DataFrame, column: str = "nie", *, top: int = 5, samples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """How firmly the strongest sites are the strongest: how often each is among the first when groups are resampled.

    effects  as in `average`; its rows are ranked by the size of their mean, those of each direction by themselves
    top      how many of the strongest count

    Returns one row per (site, direction) with `stability`, the share of resamples in which it is among the `top`
    strongest; ties go to the row that stands first.

    Raises LocateError with fewer than two groups, when the effects hold nan, or for `top` below 1.
    """
    if top < 1:
        raise LocateError(f"top {top}: expected a number of sites >= 1")
    sums = group_sums(effects, column)
    check_level(0.5, samples)
    sizes = np.nan_to_num(np.abs(resampled(sums.sums, sums.counts, samples, seed)), nan=-1.0)
    result = sums.index.copy()
    result["stability"] = 0.0
    for _, cells in result.groupby("direction", observed=True).groups.items():
        order = np.argsort(-sizes[:, cells], axis=1, kind="stable")[:, :top]
        counts = np.bincount(order.ravel(), minlength=len(cells))
        result.loc[cells, "stability"] = counts / samples
    return result


def normalised(
    effects: pd.DataFrame, column: str = "nie", *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Share of the average total effect that each site carries: mean(column) / mean(total), with interval over groups.

    The averages are divided, not the pairs: NIE / TE of one pair is unbounded where its total effect is near 0. Where
    the interval of the total effect itself holds 0 the share means nothing, and effect, low and high are nan.

    Returns the columns of `average` without p and q; the unit is a share of the total effect.

    Raises LocateError with fewer than two groups, or when the effects hold nan.
    """
    above, below = group_sums(effects, column), group_sums(effects, "total")
    check_level(level, samples)
    tops = resampled(above.sums, above.counts, samples, seed)
    bottoms = resampled(below.sums, below.counts, samples, seed)
    quantiles = [(1 - level) / 2, (1 + level) / 2]
    total_low, total_high = np.nanquantile(bottoms, quantiles, axis=0)
    meant = ((total_low > 0) | (total_high < 0)) & ((above.counts > 0).sum(0) > 1)
    low, high = np.nanquantile(np.divide(tops, bottoms, out=np.zeros_like(tops), where=meant), quantiles, axis=0)
    result = above.index.copy()
    result["effect"] = np.divide(above.sums.sum(0), below.sums.sum(0), out=np.full(len(meant), np.nan), where=meant)
    result["low"], result["high"] = np.where(meant, low, np.nan), np.where(meant, high, np.nan)
    result["n"] = above.counts.sum(0).astype(int)
    result["groups"] = (above.counts > 0).sum(0)
    result.attrs = effects.attrs | {"column": column, "level": level, "unit": "share of the total effect"}
    return result


def group_sums(effects: pd.DataFrame, column: str) -> GroupSums:
    """Sum an effect over the pairs of each group; within a pair the tokens of one role are averaged first.

    Raises LocateError for an unknown column, missing values, or fewer than two groups.
    """
    if column not in EFFECTS:
        raise LocateError(f"column {column!r}: expected one of {', '.join(EFFECTS)}")
    if effects[column].isna().any():
        way = "trace both directions" if column == "nde" else "choose another metric"
        raise LocateError(f"{int(effects[column].isna().sum())} values of {column!r} are missing: {way}")
    pairs = effects.groupby([*ROW, "group", "pair"], sort=False, observed=True)[column].mean().reset_index()
    cells, index = pd.factorize(pd.MultiIndex.from_frame(pairs[ROW]))
    groups, names = pd.factorize(pairs["group"])
    if len(names) < 2:
        raise LocateError(f"{len(names)} group: expected at least 2 to resample: trace more occupations")
    sums, counts = np.zeros((len(names), len(index))), np.zeros((len(names), len(index)))
    np.add.at(sums, (groups, cells), pairs[column].to_numpy())
    np.add.at(counts, (groups, cells), 1.0)
    return GroupSums(index.to_frame(index=False, name=ROW), sums, counts)


def check_level(level: float, samples: int) -> None:
    """Raise LocateError for a level or a number of resamples that makes no interval."""
    if not 0 < level < 1 or samples < 100:
        raise LocateError(f"level {level}, {samples} samples: expected a level in (0, 1) and at least 100 samples")


def resampled(
    sums: Float[np.ndarray, "group cell"], counts: Float[np.ndarray, "group cell"], samples: int, seed: int
) -> Float[np.ndarray, "sample cell"]:
    """Means of each cell when whole groups are drawn with replacement; nan where a draw holds no pair of a cell."""
    groups = len(sums)
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=samples).astype(float)
    drawn = weights @ counts
    return np.divide(weights @ sums, drawn, out=np.full(drawn.shape, np.nan), where=drawn > 0)


def sign_flip_p(sums: Float[np.ndarray, "group cell"], samples: int, seed: int) -> Float[np.ndarray, " cell"]:
    """Two-sided p that a cell's effect is symmetric about 0 over groups: how often random signs reach its size.

    The observed sign counts as one of the draws, so p is at least 1 / (samples + 1); a cell that is 0 throughout has 1.
    """
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], size=(samples, len(sums)))
    scale = np.abs(sums).sum(0)
    reached = np.abs(signs @ sums) >= np.abs(sums.sum(0)) - 1e-12 * scale
    return (reached.sum(0) + 1) / (samples + 1)
