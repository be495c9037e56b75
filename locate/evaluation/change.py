"""What changed between the evaluations of two models, item by item where the items are the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from locate.errors import LocateError
from locate.evaluation.evaluation import Evaluation, main_scores
from locate.evaluation.meaning import meaning_of, verdict_of, way_of
from locate.evaluation.run import edited_argument
from locate.evaluation.scores import LEVEL, Score, Test, label, points_only, value_text, which_way
from locate.evaluation.tests import known_test
from locate.notebook import LISTED, Row, Rows, as_table, first_rows, sentences, title
from locate.words import decimals, interval_words, signed, without_folders

BLOCKS = 50  # that the jackknife leaves out one by one
COMPARED = ("dtype", "prepend_bos", "before", "tokenizer_sha256", "limit", "seed", "locate")

Key = tuple[str, str, str]


@dataclass(frozen=True)
class ScoreChange(Row):
    """A score before and after.

    change, low, high  after minus before, in the score's unit, with the ends of its interval at 95 %
    paired             whether the interval is that of the differences on the same items; else that of two samples
    groups             that the interval resamples; 0 where it is not paired
    """

    before: Score
    after: Score
    change: float
    low: float
    high: float
    paired: bool
    groups: int

    @property
    def within_noise(self) -> bool | None:
        """Whether the interval holds 0; None where there is no interval."""
        return None if math.isnan(self.low) or math.isnan(self.high) else self.low <= 0 <= self.high

    @property
    def verdict(self) -> str:
        """Whether the change is better, worse or within chance; see `verdict_of`."""
        way = way_of(self.before.test, self.before.name, self.before.ideal)
        slack = sum((each.high - each.low) / 2 for each in (self.before, self.after))
        ends = self.change, self.low, self.high
        return verdict_of(way, self.before.ideal, self.before.value, self.after.value, ends, slack)

    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column."""
        return {
            "score": label(self.before),
            "verdict": self.verdict,
            "which way": which_way(self.before),
            "before": value_text(self.before),
            "after": value_text(self.after),
            "change and interval": change_text(self),
            "paired": "by item" if self.paired else "no",
        }

    def as_row(self) -> dict[str, Any]:
        """One row of changes.csv."""
        score = self.before
        about = {name: getattr(score, name) for name in ("test", "name", "part", "kind", "unit", "ideal")}
        ends = {
            f"{side}_{name}": getattr(each, name)
            for side, each in (("before", self.before), ("after", self.after))
            for name in ("value", "low", "high", "n")
        }
        own = {"change": self.change, "low": self.low, "high": self.high, "within_noise": self.within_noise}
        return about | ends | own | {"paired": self.paired, "groups": self.groups}


def change_text(change: ScoreChange) -> str:
    """A change with its interval."""
    if not math.isfinite(change.change):
        return "none"
    if math.isnan(change.low):
        return f"{signed(change.change, decimals(abs(change.change)))} (no interval)"
    return interval_words(change.change, change.low, change.high)


def kept_cells(score: Score) -> dict[str, str]:
    """A row of a score that needs both models: whether it is better, worse or within chance, and the score."""
    unchanged, way = meaning_of(score.test, score.name).unchanged, way_of(score.test, score.name, score.ideal)
    if unchanged is None:
        return {"score": label(score), "verdict": ""} | score.cells()
    moved = score.value - unchanged, score.low - unchanged, score.high - unchanged
    said = verdict_of(way, score.ideal, unchanged, score.value, moved, 0.0)
    return {"score": label(score), "verdict": said} | score.cells()


@dataclass(frozen=True, eq=False)
class EvaluationChange:
    """Two evaluations compared.

    before, after  what was compared
    changes        of the scores that both have, in the order of the first
    retained       scores that need both models, such as the share of distinctions that the second keeps
    only_before    scores that only the first has, as "test: name, part"; only_after likewise
    differing      what else differs between the two: name -> [before, after]
    """

    before: Evaluation
    after: Evaluation
    changes: tuple[ScoreChange, ...]
    retained: tuple[Score, ...]
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]
    differing: dict[str, list[Any]]

    @property
    def same_weights(self) -> bool:
        """Whether the two are evaluations of the same parameters, in memory and in their files."""
        one, other = (each.meta["model"] for each in (self.before, self.after))
        return all(one[name] == other[name] for name in ("network_sha256", "weights_sha256"))

    def frame(self) -> pd.DataFrame:
        """One row per change."""
        return pd.DataFrame([each.as_row() for each in self.changes])

    def as_json(self) -> dict[str, Any]:
        """Everything but the two evaluations themselves, for programs."""
        return {
            "before": self.before.meta["model"],
            "after": self.after.meta["model"],
            "same_weights": self.same_weights,
            "level": LEVEL,
            "differing": self.differing,
            "changes": [each.as_row() for each in self.changes],
            "retained": [asdict(score) for score in self.retained],
            "only_before": list(self.only_before),
            "only_after": list(self.only_after),
        }

    def _repr_html_(self) -> str:
        names = [without_folders(each.name) for each in (self.before, self.after)]
        by_key = {each.before.key: each for each in self.changes}
        main = [by_key[score.key] for score in main_scores([each.before for each in self.changes])]
        moved = sum(each.within_noise is False for each in self.changes)
        differing = [f"{name}: {values[0]} before, {values[1]} after." for name, values in self.differing.items()]
        return (
            title(f"Bias and ability from {names[0]} to {names[1]}")
            + sentences(f"{moved} of {len(self.changes)} scores moved beyond their interval.", *differing)
            + first_rows([each.cells() for each in main[:LISTED]], len(self.changes))
            + (title("Needs both models") + as_table([each.cells() for each in self.retained]) if self.retained else "")
        )


def compare_evaluations(
    before: Evaluation, after: Evaluation, *, tests: Sequence[Test] = (), seed: int = 0
) -> EvaluationChange:
    """The change of every score from one evaluation to another.

    tests  of your own that both were evaluated with, for intervals of paired changes; the package's are known
    seed   of the blocks that the jackknife leaves out

    Where both measured the same items and the test names what its intervals resample, the interval is that of the
    paired change: a jackknife that leaves out whole groups (at most 50 blocks of them, drawn with the seed), scores the
    rest in both models, and takes Student's t of the score's own blocks less one. It needs no formula for a score, and
    suits smooth ones, such as means, shares and ratios. Elsewhere the two are taken as independent samples (Zou and
    Donner 2008), which is too wide where the items are the same.

    The tests of both are given the words and templates that either model was edited on, so that the same parts are
    compared.

    Raises LocateError where the two have no score in common.
    """
    edited = after.meta["edited"] or before.meta["edited"]
    first, second = ({score.key: score for score in score_again(each, edited, tests)} for each in (before, after))
    common = [key for key in first if key in second]
    if not common:
        raise LocateError(
            f"evaluations of {before.name!r} and {after.name!r} have no score in common: run the same tests"
        )
    drawn: dict[Key, tuple[float, float, int]] = {}
    retained: list[Score] = []
    for name in dict.fromkeys(key[0] for key in common):
        test = known_test(name, tests)
        if test is None or not same_items(before, after, name):
            continue
        tables = before.tables[name], after.tables[name]
        drawn |= paired_intervals(test, *tables, edited, seed)
        if test.paired is not None:
            retained += test.paired(*tables, **edited_argument(test.paired, edited))
    changes = [change_of(first[key], second[key], drawn.get(key)) for key in common]
    return EvaluationChange(
        before,
        after,
        Rows(changes),
        Rows(retained),
        tuple(score_label(score) for key, score in first.items() if key not in second),
        tuple(score_label(score) for key, score in second.items() if key not in first),
        differences(before, after),
    )


def score_label(score: Score) -> str:
    """A score in words."""
    return f"{score.test}: {score.name}{f', {score.part}' if score.part else ''}"


def score_again(evaluation: Evaluation, edited: Mapping[str, Any] | None, own: Sequence[Test] = ()) -> list[Score]:
    """The scores, computed again from their tables for tests that score edited words separately."""
    found: list[Score] = []
    for name, table in evaluation.tables.items():
        test = known_test(name, own)
        more = {} if test is None else edited_argument(test.score, edited)
        found += evaluation.of(name) if test is None or not more else test.score(table, **more)
    return found


def same_items(before: Evaluation, after: Evaluation, name: str) -> bool:
    """Whether both measured the same items of a test, and have a row for each of them."""
    about = [each.meta["tests"][name] for each in (before, after)]
    return all(about[0][key] == about[1][key] for key in ("items_sha256", "rows"))


def differences(before: Evaluation, after: Evaluation) -> dict[str, list[Any]]:
    """What differs besides the weights: settings, and the tests whose items are not the same."""
    pairs = {key: [each.meta["recipe"].get(key) for each in (before, after)] for key in COMPARED}
    for name in before.tables.keys() & after.tables.keys():
        pairs[f"items of {name}"] = [each.meta["tests"][name]["items_sha256"] for each in (before, after)]
    return {key: pair for key, pair in sorted(pairs.items()) if pair[0] != pair[1]}


def change_of(before: Score, after: Score, drawn: tuple[float, float, int] | None) -> ScoreChange:
    """A change with its paired interval where there is one, else with the interval of two samples."""
    change = after.value - before.value
    if drawn is not None:
        return ScoreChange(before, after, change, drawn[0], drawn[1], True, drawn[2])
    low = change - math.hypot(after.value - after.low, before.high - before.value)
    high = change + math.hypot(after.high - after.value, before.value - before.low)
    return ScoreChange(before, after, change, low, high, False, 0)


def paired_intervals(
    test: Test, before: pd.DataFrame, after: pd.DataFrame, edited: Mapping[str, Any] | None, seed: int
) -> dict[Key, tuple[float, float, int]]:
    """Low end, high end and groups of the change of each score that remains whichever block is left out.

    Empty where the test does not name its groups, or the two tables are not in the same order.
    """
    if test.cluster is None or not np.array_equal(test.cluster(before), test.cluster(after)):
        return {}
    codes, names = pd.factorize(test.cluster(before))
    blocks = blocks_of(len(names), seed)[codes]
    count = int(blocks.max()) + 1
    if count < 2:
        return {}
    score = scorer(test.score, edited)
    with points_only():
        whole = score(before), score(after)
        left = [(score(before[blocks != k]), score(after[blocks != k])) for k in range(count)]
    found: dict[Key, tuple[float, float, int]] = {}
    for key in [key for key in whole[0] if key in whole[1]]:
        groups = whole[0][key].groups
        change = value_of(whole[1], key) - value_of(whole[0], key)
        without = np.array([value_of(second, key) - value_of(first, key) for first, second in left])
        if groups > 1 and not np.isnan(without).any():
            half = jackknife(without - change, min(groups, count))
            found[key] = (change - half, change + half, groups)
    return found


def jackknife(deviations: np.ndarray, blocks: int) -> float:
    """Half the length of Student's interval from the deviations of the change when a block is left out.

    blocks  that hold something of the score; the others deviate by 0
    """
    error = math.sqrt((blocks - 1) / blocks * (deviations**2).sum())
    return float(stats.t.ppf((1 + LEVEL) / 2, blocks - 1)) * error


def scorer(
    score: Callable[..., Sequence[Score]], edited: Mapping[str, Any] | None
) -> Callable[[pd.DataFrame], dict[Key, Score]]:
    """A function that returns a table's scores by key."""
    more = edited_argument(score, edited)
    return lambda table: {each.key: each for each in score(table.reset_index(drop=True), **more)}


def value_of(scores: Mapping[Key, Score], key: Key) -> float:
    """A score's value; nan where there is no such score."""
    return scores[key].value if key in scores else math.nan


def blocks_of(groups: int, seed: int) -> np.ndarray:
    """The block of each group: itself, or one of `BLOCKS` of nearly the same size, drawn with the seed."""
    order = np.random.default_rng(seed).permutation(groups)
    return order % BLOCKS if groups > BLOCKS else order
