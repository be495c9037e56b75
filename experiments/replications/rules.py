"""What decides whether a published finding holds here: statistics with intervals over groups, and verdicts in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import hypergeom

HOLDS, FAILS, OPEN = "holds", "does not hold", "not decided"
REPRODUCED, DIFFERENT, NONE = "reproduced", "not reproduced", "no published number"
SAMPLES = 2000
LEVEL = 0.95
FEWEST = 8
"""groups, below which an interval by resampling them decides nothing"""
ENOUGH = 0.5
"""share of published heads that must be among as many of ours"""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval over groups (low and high are None where it has none), and what is behind it."""

    value: float
    low: float | None
    high: float | None
    n: int
    groups: int
    unit: str

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.3g} {self.unit}".strip()
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}] {self.unit}".strip()


@dataclass(frozen=True)
class Claim:
    """A finding of a study, what was found here, and the verdict.

    rule       what decides, in words
    published  the study's own number for this model; "" where it has none
    note       what else a reader of `ours` needs
    """

    claim: str
    rule: str
    ours: Estimate
    verdict: str
    published: str = ""
    note: str = ""


@dataclass(frozen=True, eq=False)
class Draws:
    """Means of each cell, over all pairs and over resamples of whole groups."""

    cells: pd.DataFrame
    means: np.ndarray
    drawn: np.ndarray
    n: int
    groups: int

    def estimate(self, statistic: Callable[[np.ndarray], np.ndarray], unit: str) -> Estimate:
        """A statistic of the cells' means ([..., cell] -> [...]) with its percentile interval."""
        low, high = np.nanquantile(statistic(self.drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(float(statistic(self.means)), float(low), float(high), self.n, self.groups, unit)


def draws(effects: pd.DataFrame, cells: Sequence[str], column: str = "nie", seed: int = 0) -> Draws:
    """Resample the groups of a table of effects.

    effects  one row per pair and patch, with "group" and "pair", as `locate.mediation.effects` returns it
    cells    columns that tell cells apart; in a pair the rows of one cell are averaged first
    """
    pairs = effects.groupby([*cells, "group", "pair"], observed=True, sort=False)[column].mean().reset_index()
    keys = pd.MultiIndex.from_frame(pairs[list(cells)])
    places, names = pd.factorize(keys)
    groups, group_names = pd.factorize(pairs["group"])
    sums, counts = (np.zeros((len(group_names), len(names))) for _ in range(2))
    np.add.at(sums, (groups, places), pairs[column].to_numpy())
    np.add.at(counts, (groups, places), 1.0)
    size = len(group_names)
    weights = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=SAMPLES).astype(float)
    below = weights @ counts
    drawn = np.divide(weights @ sums, below, out=np.full(below.shape, np.nan), where=below > 0)
    index = names.to_frame(index=False, name=list(cells))
    return Draws(index, sums.sum(0) / counts.sum(0), drawn, int(pairs["pair"].nunique()), size)


def mean(effects: pd.DataFrame, unit: str, column: str = "total") -> Estimate:
    """The mean of a column over pairs, each pair once."""
    once = effects.drop_duplicates("pair").assign(cell=0)
    return draws(once, ["cell"], column).estimate(lambda means: means[..., 0], unit)


def half_contrast(
    effects: pd.DataFrame, component: str, role: str, n_layers: int, unit: str, *, upper: bool
) -> tuple[Estimate, float]:
    """Summed size of a component's mean effects at a role in one half of the layers, minus that in the other half.

    The middle layer of an odd number is in neither half. A layer's size is its mean effect with the sign that this has
    over all pairs, so that a resample does not turn noise into size.

    Returns the contrast, and the share of the half in the sum of both.
    """
    found = draws(effects[(effects["component"] == component) & (effects["role"] == role)], ["layer"])
    layer = found.cells["layer"].to_numpy()
    halves = layer < n_layers // 2, layer >= n_layers - n_layers // 2
    chosen, other = halves[::-1] if upper else halves
    sign = np.sign(found.means)

    def contrast(means: np.ndarray) -> np.ndarray:
        size = sign * means
        return size[..., chosen].sum(-1) - size[..., other].sum(-1)

    size = np.abs(found.means)
    return found.estimate(contrast, unit), float(size[chosen].sum() / size[chosen | other].sum())


def peak_contrast(effects: pd.DataFrame, first: str, second: str, role: str, unit: str) -> Estimate:
    """Largest mean effect of one component at a role, minus that of another; sought anew in each resample."""
    found = draws(
        effects[effects["component"].isin([first, second]) & (effects["role"] == role)], ["component", "layer"]
    )
    own = (found.cells["component"] == first).to_numpy()
    return found.estimate(lambda means: means[..., own].max(-1) - means[..., ~own].max(-1), unit)


def held_out_share(effects: pd.DataFrame, cells: Sequence[str], top: int, seed: int = 0) -> Estimate:
    """Share that the `top` strongest cells have of the effects of all positive cells.

    Effects must point so that the expected sign is positive. Which cells are strongest, and which are positive, is read
    off one half of the groups, their effects off the other: on the same groups noise would be taken for strength.
    """
    names = np.array(sorted(effects["group"].astype(str).unique()))
    half = np.random.default_rng([seed, 1]).permutation(names)[: len(names) // 2]
    inside = effects["group"].astype(str).isin(half)
    first, second = draws(effects[inside], cells), draws(effects[~inside], cells, seed=seed)
    order = first.cells.assign(size=first.means).sort_values("size", ascending=False, kind="stable")
    measured = pd.MultiIndex.from_frame(second.cells)
    chosen = measured.isin(pd.MultiIndex.from_frame(order[list(cells)].iloc[:top]))
    positive = measured.isin(pd.MultiIndex.from_frame(order.loc[order["size"] > 0, list(cells)]))
    return second.estimate(lambda means: means[..., chosen].sum(-1) / means[..., positive].sum(-1), "share")


def decided(estimate: Estimate, bound: float) -> str:
    """Whether a statistic lies above a bound, by its whole interval; never decided by fewer than 8 groups."""
    if estimate.groups < FEWEST:
        return OPEN
    if estimate.low is not None and estimate.low > bound:
        return HOLDS
    return FAILS if estimate.high is not None and estimate.high < bound else OPEN


def same_number(estimate: Estimate, published: float, tolerance: float) -> str:
    """Whether a number is the published one, up to a relative difference."""
    return REPRODUCED if abs(estimate.value - published) <= tolerance * abs(published) else DIFFERENT


def same_heads(
    found: Sequence[tuple[int, int]], published: Sequence[tuple[int, int]], total: int, n: int, groups: int
) -> tuple[Estimate, str, float]:
    """How many of the published heads are among as many of ours.

    Returns the count, the verdict ("reproduced" for at least half of them, and more than chance by p < 0.05), and p:
    how often as many are hit by drawing among all `total` heads (hypergeometric).
    """
    size = len(published)
    hits = len(set(found[:size]) & set(published))
    p = float(hypergeom.sf(hits - 1, total, size, size))
    verdict = REPRODUCED if hits >= ENOUGH * size and p < 1 - LEVEL else DIFFERENT
    return Estimate(hits, None, None, n, groups, f"of {size}"), verdict, p
