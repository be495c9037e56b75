"""Overlap: how many of the strongest sites of one table of effects are among the strongest of another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from locate.errors import LocateError
from locate.mediation.averages import mean_sizes, summed
from locate.mediation.ranking import rankable
from locate.mediation.resampling import BLOCK, DEFAULT, Intervals, Ratio, cluster_weights
from locate.notebook import Row, Rows
from locate.sites import BEFORE

STRONGEST = 10
SPLITS = 100

Weights = Float[np.ndarray, "_ _"]
"""how often each group counts, a row a draw"""
Top = Int[np.ndarray, "_ _"]
"""cells of the strongest, a row a draw"""


@dataclass(frozen=True)
class Overlap(Row):
    """How many of the k strongest sites of A are among the k strongest of B, in one direction.

    k, n        sites of each set, and sites that both rank
    shared      how many are in both sets; `opposite` of them have effects of opposite signs
    share       shared / k
    low, high   its interval, see `overlap`
    chance      the share expected of two random sets of k of the n sites: k / n
    within_a    the share between two halves of the groups of A, mean over random halves; within_b, of B
    across      the share between a half of the groups of A and a half of those of B, no group in both
    groups_a, groups_b  behind each
    """

    direction: str
    k: int
    n: int
    shared: int
    opposite: int
    share: float
    low: float
    high: float
    chance: float
    within_a: float
    within_b: float
    across: float
    groups_a: int
    groups_b: int

    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column."""
        return {
            "strongest sites of A and B": self.direction,
            "shared": f"{self.shared} of {self.k}",
            "share and interval": f"{self.share:.2f} [{self.low:.2f}, {self.high:.2f}]",
            "by chance": f"{self.chance:.2f}",
            "of opposite signs": str(self.opposite) if self.opposite else "",
            "halves of A's groups": f"{self.within_a:.2f}",
            "of B's": f"{self.within_b:.2f}",
            "one of each": f"{self.across:.2f}",
        }

    def text(self) -> str:
        """All of it in one sentence."""
        signs = f", {self.opposite} of them with opposite signs" if self.opposite else ""
        return (
            f"{self.shared} of the {self.k} strongest of {self.n} sites are shared{signs}: {self.share:.2f} "
            f"[{self.low:.2f}, {self.high:.2f}], by chance {self.chance:.2f}; halves of A's groups share "
            f"{self.within_a:.2f}, of B's {self.within_b:.2f}, one of each {self.across:.2f}"
        )


def overlap(
    a: pd.DataFrame, b: pd.DataFrame, column: str = "nie", chosen: Intervals = DEFAULT, *, k: int | None = None
) -> Rows[Overlap]:
    """Overlap of the located sets of two tables of effects, one for each direction that both hold.

    a, b    effects of two kinds of words, two sets of prompts, or two models, as `effects()` returns them
    column  as in `average`
    chosen  level, resamples and seed; groups are resampled, and one that both hold is drawn as often in both
    k       size of each set; None for 10, or half of the sites where there are fewer than 20

    Sites are those that `rank` ranks, of the narrowest window, as far as both tables have pairs of two groups there;
    tokens before the subject, where nothing can have an effect, are left out. They are ordered by the size of their
    mean effect. Directions without two such sites are left out.

    Noise alone makes two sets differ that are the same in truth, and a set of other words differ from this one. So read
    `share` beside what halves of the same groups share: `across` as large as `within_a` and `within_b` means that A and
    B differ by no more than their words do; a low `within` means that the set itself does not hold for other words.
    These are means over 100 random halves, of half as many groups as `share` has. Groups that are each other's
    counterparts (*actress*, *actor*) are about the same two words, and one may stand in each half: halves then agree a
    little too well; give both one name to keep them together.

    The interval is the wider, on either side, of the percentile interval of resampled shares and of its reflection
    about the share (the basic bootstrap), cut to [0, 1]. In simulations with normal noise it covers the share of the
    true sets in over 90 % where these differ and halves share more than half. Sets that are the same in truth share
    less than 1 by noise, and the interval need not reach 1; nor does it speak of other words where each site's effect
    comes from a few groups. Both show in `across` and `within_a`.

    Raises LocateError for a k that is not from 1 to the number of sites, and as `average` does.
    """
    found: list[Overlap] = []
    for direction in [each for each in a["direction"].unique() if each in set(b["direction"])]:
        ours, theirs = (rankable(rows[rows["direction"] == direction], None) for rows in (a, b))
        ours, theirs = (rows[rows["role"] != BEFORE] for rows in (ours, theirs))
        if not ours.empty and not theirs.empty:
            found += overlap_of(str(direction), ours, theirs, column, chosen.by_group, k)
    return Rows(found)


def overlap_of(
    direction: str, a: pd.DataFrame, b: pd.DataFrame, column: str, chosen: Intervals, k: int | None
) -> list[Overlap]:
    """The overlap of one direction's rankable effects; none where they have fewer than two sites in common."""
    first, second = aligned(a, b, column)
    n = first.above.shape[1]
    if n < 2:
        return []
    k = min(STRONGEST, n // 2) if k is None else k
    if not 1 <= k <= n:
        raise LocateError(f"the {k} strongest of {n} sites: expected a number from 1 to {n}")
    ours, theirs = (list(dict.fromkeys(rows["group"].astype(str))) for rows in (a, b))
    own = [strongest_of(each, np.ones((1, len(each.above))), k) for each in (first, second)]
    drawn = strongest_of_both(first, second, draw_together(ours, theirs, chosen.samples, chosen.seed), k)
    here = in_both(*own)[0]
    share, (low, high) = here.mean(), np.quantile(in_both(*drawn).mean(1), chosen.tails)
    signs = np.sign([each.estimate[own[0][0][here]] for each in (first, second)])
    within_a, within_b, across = shares_of_halves(first, second, split_together(ours, theirs, chosen.seed), k)
    return [
        Overlap(
            direction=direction,
            k=k,
            n=n,
            shared=int(here.sum()),
            opposite=int((signs[0] != signs[1]).sum()),
            share=float(share),
            low=float(max(0.0, min(low, 2 * share - high))),
            high=float(min(1.0, max(high, 2 * share - low))),
            chance=k / n,
            within_a=within_a,
            within_b=within_b,
            across=across,
            groups_a=len(ours),
            groups_b=len(theirs),
        )
    ]


def shares_of_halves(
    first: Ratio, second: Ratio, halves: tuple[Weights, Weights], k: int
) -> tuple[float, float, float]:
    """Mean share of the sets of two halves of the first, of the second, and of one half of each without a common group.

    halves  1 where a group of the first, of the second, is in one half, else 0
    """
    one = strongest_of_both(first, second, halves, k)
    other = strongest_of_both(first, second, (1 - halves[0], 1 - halves[1]), k)
    within = [float(in_both(*each).mean()) for each in zip(one, other, strict=True)]
    across = (in_both(one[0], other[1]).mean() + in_both(other[0], one[1]).mean()) / 2
    return within[0], within[1], float(across)


def aligned(a: pd.DataFrame, b: pd.DataFrame, column: str) -> tuple[Ratio, Ratio]:
    """Sums of an effect by group at the sites where both tables have two groups, in one order of the sites."""
    (cells, first), (others, second) = (summed(rows, column) for rows in (a, b))
    places = pd.MultiIndex.from_frame(others).get_indexer(pd.MultiIndex.from_frame(cells))
    kept = (places >= 0) & (first.groups.here.sum(0) > 1) & (second.groups.here.sum(0)[places] > 1)
    return first.groups[np.flatnonzero(kept)], second.groups[places[kept]]


def draw_together(first: Sequence[str], second: Sequence[str], samples: int, seed: int) -> tuple[Weights, Weights]:
    """How often each group of two tables is drawn in each resample; a group of both is drawn as often in both."""
    return for_both(first, second, lambda count, turn: cluster_weights(count, samples, [seed, turn]))


def split_together(first: Sequence[str], second: Sequence[str], seed: int) -> tuple[Weights, Weights]:
    """1 for the groups of two tables that are in one random half, else 0; a group of both is in one half in both."""

    def split(count: int, turn: int) -> Weights:
        rng = np.random.default_rng([seed, 8, turn])
        return np.stack([(rng.permutation(count) < count / 2).astype(float) for _ in range(SPLITS)])

    return for_both(first, second, split)


def for_both(
    first: Sequence[str], second: Sequence[str], draw: Callable[[int, int], Weights]
) -> tuple[Weights, Weights]:
    """Weights of the groups of two tables, made for the groups of both, of the first alone and of the second alone.

    draw  makes the weights of so many groups, for turn 0, 1 or 2
    """
    both = [name for name in first if name in set(second)]
    alone = [[name for name in names if name not in set(both)] for names in (first, second)]
    shared, *own = (
        dict(zip(names, draw(len(names), turn).T, strict=True)) if names else {}
        for turn, names in enumerate((both, *alone))
    )
    one, other = (
        np.stack([(shared | each)[name] for name in names], axis=1)
        for each, names in zip(own, (first, second), strict=True)
    )
    return one, other


def strongest_of_both(first: Ratio, second: Ratio, weights: tuple[Weights, Weights], k: int) -> tuple[Top, Top]:
    """The k cells with the largest mean effects by size of both tables, for each draw of their groups."""
    return strongest_of(first, weights[0], k), strongest_of(second, weights[1], k)


def strongest_of(sums: Ratio, weights: Weights, k: int) -> Top:
    """The k cells with the largest mean effects by size in each draw of the groups."""
    step = max(1, BLOCK // sums.above.shape[1])
    parts = [mean_sizes(sums, weights[start : start + step]) for start in range(0, len(weights), step)]
    return np.concatenate([np.argpartition(-sizes, k - 1, axis=1)[:, :k] for sizes in parts])


def in_both(first: Top, second: Top) -> Bool[np.ndarray, "_ _"]:
    """Which cells of the first set of each draw are in the second one too."""
    return (first[:, :, None] == second[:, None, :]).any(2)
