"""A score with its interval, and what a test of a model is: items read, measured once, and scored afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from locate.evaluation.meaning import better_words, meaning_of
from locate.mediation.resampling import Design, Intervals, Ratio, intervals
from locate.notebook import Row
from locate.words import decimals

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

LEVEL, SAMPLES = 0.95, 2000
POINTS: ContextVar[bool] = ContextVar("POINTS", default=False)
CHUNK = 256  # items of the package's tests that are measured at a time; with fewer, batches have more padding
Step = Callable[[int, int], None]


@dataclass(frozen=True)
class Score(Row):
    """One number that a test reports about a model.

    test, name  "stereoset", "ss"
    part        the part of the data it is about: a domain, "held out", or "" for everything
    value       nan where nothing could be scored
    low, high   ends of its interval at 95 %; nan where fewer than two groups stand behind it
    unit        "%", "nats", "points", "perplexity"
    n, groups   items behind it, and the groups that the interval resamples
    ties        items in which both sides were equally likely; they count for neither
    skipped     items that could not be scored, with their reasons in the test's notes
    empty       items whose text or answer was empty
    ideal       what an unbiased (or a perfect) model has; None where nobody says
    kind        "bias", "ability" or "control"
    """

    test: str
    name: str
    value: float
    low: float
    high: float
    unit: str
    n: int
    groups: int
    part: str = ""
    ties: int = 0
    skipped: int = 0
    empty: int = 0
    ideal: float | None = None
    kind: str = "bias"

    @property
    def key(self) -> tuple[str, str, str]:
        """What identifies the score when two models are compared."""
        return self.test, self.name, self.part

    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column."""
        return {
            "score": label(self),
            "value and interval": value_text(self),
            "which way": which_way(self),
            "ideal": "" if self.ideal is None else f"{self.ideal:g}",
            "n": f"{self.n:,}",
            "groups": f"{self.groups:,}",
            "left out": left_out(self),
        }


def label(score: Score) -> str:
    """A score's test, plain name, name in the files, and part."""
    plain = meaning_of(score.test, score.name).words
    short = "" if plain == score.name.replace("_", " ") else f" ({score.name})"
    return f"{score.test}: {plain}{short}{f', {score.part}' if score.part else ''}"


def which_way(score: Score) -> str:
    """Which way is better, like "lower is less biased"."""
    return better_words(score.test, score.name, score.kind, score.ideal, score.unit)


def value_text(score: Score) -> str:
    """A score with its interval and unit."""
    if not math.isfinite(score.value):
        return "none"
    digits = decimals(abs(score.value))
    if math.isnan(score.low):
        return f"{score.value:.{digits}f} {score.unit} (no interval)"
    return f"{score.value:.{digits}f} [{score.low:.{digits}f}, {score.high:.{digits}f}] {score.unit}"


def left_out(score: Score) -> str:
    """Items that do not count, and why."""
    counts = {"ties": score.ties, "skipped": score.skipped, "empty": score.empty}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


@dataclass(frozen=True)
class Items:
    """What a test reads: its items in a fixed order, where they came from, and what was left out and why.

    rows     one per item, as the test understands them
    skipped  reason: how many
    source   what was read: files with their sha256, or "bundled"
    """

    rows: tuple[Any, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class Test:
    """One test.

    name     as given on the command line
    title    one line: what it measures, after whom
    kind     "bias", "ability" or "control"
    files    what it looks for in a data folder (relative paths, of which the first that is there is taken); none for a
             test that the package carries
    hub      its data set's id on the Hugging Face hub, where there is one
    read     folder or file (None for a bundled one) -> items
    measure  model, items, progress -> one row per item with what the model said of it; nothing derived
    score    that table -> scores; never runs the model
    paired   tables of two models, before and after -> scores that need both, such as the share of what was kept
    strata   an item's stratum, where `limit` holds for each stratum; None where it holds for all items together
    usual    the limit where nobody names one; None takes every item
    chunk    how many items are measured at a time at most, and maybe in several processes. The table must then have one
             per item, in their order, which depends on that item alone. 0 measures all items together. The last digits
             of numbers depend on it, as batches do not reach over chunks
    cluster  a table -> the group of each row that the intervals resample, for changes on paired items; with None,
             the change of a score is treated as one between two independent samples
    """

    name: str
    title: str
    kind: str
    read: Callable[[Path | None], Items]
    measure: Callable[[CausalModel, Items, Step], pd.DataFrame]
    score: Callable[[pd.DataFrame], Sequence[Score]]
    files: tuple[str, ...] = ()
    hub: str | None = None
    paired: Callable[[pd.DataFrame, pd.DataFrame], Sequence[Score]] | None = None
    strata: Callable[[Any], str] | None = None
    usual: int | None = None
    chunk: int = 0
    cluster: Callable[[pd.DataFrame], np.ndarray] | None = None


@contextmanager
def points_only() -> Iterator[None]:
    """Inside the block scores have no intervals, since a jackknife computes them many times over."""
    token = POINTS.set(True)
    try:
        yield
    finally:
        POINTS.reset(token)


def mean_with_interval(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Any] | np.ndarray,
    *,
    weights: Sequence[float] | np.ndarray | None = None,
    level: float = LEVEL,
    samples: int = SAMPLES,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Mean of the values, and the ends of its interval from resampling whole groups (see `locate.average`).

    values   one per item, none nan
    groups   what each item belongs to
    weights  of the items, where the score is a ratio sum(values) / sum(weights)

    The interval is nan with fewer than two groups, the mean with no item.
    """
    numbers = np.asarray(values, dtype=float)
    below = np.ones(len(numbers)) if weights is None else np.asarray(weights, dtype=float)
    if len(numbers) == 0 or below.sum() == 0:
        return float("nan"), float("nan"), float("nan")
    codes, names = pd.factorize(np.asarray(groups))
    count = len(names)
    above_sums = np.bincount(codes, weights=numbers, minlength=count)[:, None]
    below_sums = np.bincount(codes, weights=below, minlength=count)[:, None]
    ratio = Ratio(above_sums, below_sums, np.ones((count, 1), dtype=bool))
    mean = float(ratio.estimate[0])
    if count < 2 or POINTS.get():
        return mean, float("nan"), float("nan")
    low, high = intervals(Design(ratio), Intervals(level, samples, seed))
    return mean, float(low[0]), float(high[0])


def share_with_interval(
    wins: Sequence[bool] | np.ndarray, groups: Sequence[Any] | np.ndarray, level: float = LEVEL
) -> tuple[float, float, float]:
    """Share of items that win, in percent, with its interval kept within 0 and 100.

    Where all win, or none, resampling says nothing of what other groups would do: the end inside is then that of
    Clopper and Pearson (1934) over the groups.
    """
    mean, low, high = mean_with_interval(np.asarray(wins, dtype=float) * 100, groups, level=level)
    if low != low:
        return mean, low, high
    if mean in (0.0, 100.0):
        inside = 100 * ((1 - level) / 2) ** (1 / len(pd.unique(np.asarray(groups))))
        return (mean, inside, mean) if mean else (mean, mean, 100 - inside)
    return mean, max(low, 0.0), min(high, 100.0)
