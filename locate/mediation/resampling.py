"""Intervals of means and ratios by resampling whole clusters: occupations alone, or occupations and templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from scipy import stats

from locate.errors import LocateError
from locate.sites import check

CLUSTERS = ("group", "group+template")
FEWEST_SAMPLES = 100
BLOCK = 1 << 22  # resampled numbers held at once
FEW = 8  # clusters of a cell below which its interval is Student's
DEGENERATE = 1e-9  # share of the variance below which a draw holds one value only
NEVER = 1e9  # the t of such a draw

Table = Float[np.ndarray, "cluster cell"]
Drawn = Float[np.ndarray, "sample cell"]
Cells = Float[np.ndarray, " cell"]


@dataclass(frozen=True)
class Intervals:
    """How intervals and p-values are made.

    level     coverage of an interval, in (0, 1)
    samples   bootstrap resamples, and sign flips for p; at least 100
    seed      of the resampling
    clusters  "group": occupations are drawn, the templates are those that are there; "group+template": templates are
              drawn too, for a statement on templates that were not tried

    Raises LocateError for a level, a number of resamples, a seed or clusters that make no interval.
    """

    level: float = 0.95
    samples: int = 2000
    seed: int = 0
    clusters: str = "group"

    def __post_init__(self) -> None:
        check("clusters", self.clusters, CLUSTERS)
        if not 0 < self.level < 1 or self.samples < FEWEST_SAMPLES:
            raise LocateError(
                f"level {self.level}, {self.samples} samples: expected a level in (0, 1) and at least "
                f"{FEWEST_SAMPLES} samples"
            )
        if self.seed < 0:
            raise LocateError(f"seed {self.seed}: expected a whole number from 0 up")

    @property
    def by_group(self) -> Intervals:
        """The same settings, but with groups alone resampled."""
        return replace(self, clusters="group")

    @property
    def tails(self) -> tuple[float, float]:
        """The two quantiles that bound a percentile interval."""
        return (1 - self.level) / 2, (1 + self.level) / 2


DEFAULT = Intervals()


@dataclass(frozen=True, eq=False)
class Ratio:
    """Sums over the pairs of each cluster; the estimate of a cell is their ratio over all clusters.

    above  of the effect
    below  of what divides it: the count of pairs, or another effect
    here   True where the cluster has a pair of the cell
    """

    above: Table
    below: Table
    here: np.ndarray

    @property
    def estimate(self) -> Cells:
        """The ratio of the totals of each cell; nan where below is 0."""
        total = self.below.sum(0)
        return np.divide(self.above.sum(0), total, out=np.full(total.shape, np.nan), where=total != 0)

    def __getitem__(self, cells: slice | np.ndarray) -> Ratio:
        return Ratio(self.above[:, cells], self.below[:, cells], self.here[:, cells])

    def over(self, other: Ratio) -> Ratio:
        """This effect divided by another of the same pairs, instead of by their count."""
        return Ratio(self.above, other.above, self.here)


@dataclass(frozen=True, eq=False)
class Design:
    """The same pairs summed by group and, for intervals that resample both, by template and by both at once."""

    groups: Ratio
    templates: Ratio | None = None
    both: Ratio | None = None

    def over(self, other: Design) -> Design:
        """One effect divided by another, under every factor."""
        if self.templates is None or self.both is None or other.templates is None or other.both is None:
            return Design(self.groups.over(other.groups))
        return Design(self.groups.over(other.groups), self.templates.over(other.templates), self.both.over(other.both))

    def __getitem__(self, cells: slice | np.ndarray) -> Design:
        if self.templates is None or self.both is None:
            return Design(self.groups[cells])
        return Design(self.groups[cells], self.templates[cells], self.both[cells])

    def distinct(self) -> tuple[np.ndarray, np.ndarray]:
        """The first cell of each set with equal sums (the total effect at all sites, say), and the set of each cell."""
        parts = [each for each in (self.groups, self.templates, self.both) if each is not None]
        sums = np.concatenate([np.concatenate([each.above, each.below, each.here]) for each in parts])
        seen: dict[bytes, int] = {}
        place = np.array([seen.setdefault(column.tobytes(), len(seen)) for column in np.ascontiguousarray(sums.T)])
        return np.unique(place, return_index=True)[1], place

    def blocks(self, samples: int) -> Iterator[tuple[slice, Design]]:
        """Some cells at a time, so that memory stays bounded."""
        step = max(1, BLOCK // samples)
        for first in range(0, self.groups.above.shape[1], step):
            cells = slice(first, first + step)
            yield cells, self[cells]


@dataclass(frozen=True, eq=False)
class Deviations:
    """How far resampled estimates lie from the estimate of each cell.

    drawn      deviations of the draws, widened by clusters / (clusters - 1) in variance, which resampling loses
    variance   of each draw's own estimate, robust to clusters, widened likewise
    plain      variance of the estimate itself, robust to clusters
    error      standard error by the jackknife over clusters
    freedom    degrees of freedom of that error
    """

    drawn: Drawn
    variance: Drawn
    plain: Cells
    error: Cells
    freedom: Cells


def cluster_weights(clusters: int, samples: int, seed: int | Sequence[int]) -> Float[np.ndarray, "sample cluster"]:
    """How often each of n clusters is drawn in n draws with replacement; read-only."""
    return draw_clusters(clusters, samples, seed if isinstance(seed, int) else tuple(seed))


@lru_cache(maxsize=4)  # one analysis asks for the same draws again and again
def draw_clusters(clusters: int, samples: int, seed: int | tuple[int, ...]) -> Float[np.ndarray, "sample cluster"]:
    """The draws themselves."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=samples).astype(float)
    drawn.setflags(write=False)
    return drawn


def deviations(ratio: Ratio, weights: Float[np.ndarray, "sample cluster"]) -> Deviations:
    """Deviations when the clusters of one factor are drawn; 0 for a draw that holds no pair of a cell.

    The error leaves out one cluster at a time; with clusters of unequal size it is larger than the robust error, whose
    residuals are too small in large clusters (CR3 of Cameron and Miller 2015).
    """
    below, present = ratio.below, ratio.here.sum(0).astype(float)
    total = below.sum(0)
    rest = ratio.above - ratio.estimate * below
    with np.errstate(divide="ignore", invalid="ignore"):
        more = np.where(present > 1, present / (present - 1), np.nan)
        drawn_total = weights @ below
        known = drawn_total != 0
        drawn = np.divide(weights @ rest, drawn_total, out=np.zeros(drawn_total.shape), where=known)
        squares = weights @ rest**2 - 2 * drawn * (weights @ (rest * below)) + drawn**2 * (weights @ below**2)
        variance = np.divide(more**2 * squares, drawn_total**2, out=np.zeros(drawn_total.shape), where=known)
        plain = more * (rest**2).sum(0) / total**2
        left = total - below
        without = np.divide(rest, left, out=np.zeros(rest.shape), where=left != 0)
        error = np.sqrt((without**2).sum(0) / more)
    return Deviations(drawn * np.sqrt(more), np.maximum(variance, 0), plain, error, present - 1)


def crossed(groups: Deviations, templates: Deviations, both: Ratio) -> Deviations:
    """Deviations when groups and templates are drawn, each by itself, and their deviations added.

    The variance is that of Cameron, Gelbach and Miller 2011, V_group + V_template - V_both, but at least
    V_group: templates enter with the share of V_template that the noise of single pairs does not explain. Drawing both
    at once (Owen 2007's pigeonhole bootstrap) would count that noise three times.
    """
    rest = both.above - both.estimate * both.below
    noise = (rest**2).sum(0) / both.below.sum(0) ** 2
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.nan_to_num(np.clip((templates.plain - noise) / templates.plain, 0, 1))
        second = share * np.nan_to_num(templates.error**2)
        error = groups.error**2 + second
        freedom = error**2 / (groups.error**4 / groups.freedom + second**2 / np.maximum(templates.freedom, 1))
    return Deviations(
        groups.drawn + np.sqrt(share) * np.nan_to_num(templates.drawn),
        groups.variance + share * np.nan_to_num(templates.variance),
        groups.plain + share * np.nan_to_num(templates.plain),
        np.sqrt(error),
        np.where(np.isnan(freedom), groups.freedom, freedom),
    )


def drawn_deviations(design: Design, samples: int, seed: int) -> Deviations:
    """Deviations of the cells of a design, by group, or by group and template."""
    first = deviations(design.groups, cluster_weights(len(design.groups.above), samples, seed))
    if design.templates is None or design.both is None:
        return first
    second = deviations(design.templates, cluster_weights(len(design.templates.above), samples, [seed, 2]))
    return crossed(first, second, design.both)


def pivots(found: Deviations) -> Drawn:
    """Each draw's deviation in units of its own standard error, as the bootstrap-t needs; NEVER without spread."""
    spread = found.variance > DEGENERATE * found.plain
    root = np.sqrt(np.where(spread, found.variance, 1.0))
    return np.where(spread, found.drawn / root, NEVER * np.sign(found.drawn))


def interval(estimate: Cells, found: Deviations, level: float) -> tuple[Cells, Cells]:
    """Low and high end for each cell: the wider, on either side, of two intervals that err in different ways.

    One is the bootstrap-t (Efron 1981): right for skewed effects, too narrow for heavy tails. The other is the
    percentile interval, widened for the number of clusters as Hesterberg 2015 advises, by Student's t over
    the normal quantile. Cells of fewer than FEW clusters have Student's interval; those of one have none (nan).
    """
    tail = (1 - level) / 2
    freedom = np.where(found.freedom > 0, found.freedom, np.nan)
    student = stats.t.ppf(1 - tail, freedom)
    half = student * found.error
    below, above = np.quantile(found.drawn, [tail, 1 - tail], axis=0) * student / stats.norm.ppf(1 - tail)
    least, most = np.quantile(pivots(found), [tail, 1 - tail], axis=0)
    below = np.where(most < NEVER / 2, np.minimum(below, -most * found.error), np.minimum(below, -half))
    above = np.where(least > -NEVER / 2, np.maximum(above, -least * found.error), np.maximum(above, half))
    few = ~(freedom >= FEW - 1)
    return estimate + np.where(few, -half, below), estimate + np.where(few, half, above)


def intervals(design: Design, chosen: Intervals) -> tuple[Cells, Cells]:
    """Low and high end of every cell of a design; every cell sees the same draws."""
    parts = []
    first, place = design.distinct()
    for _, block in design[first].blocks(chosen.samples):
        found = drawn_deviations(block, chosen.samples, chosen.seed)
        parts.append(interval(block.groups.estimate, found, chosen.level))
    low, high = (np.concatenate(ends)[place] for ends in zip(*parts, strict=True))
    return low, high
