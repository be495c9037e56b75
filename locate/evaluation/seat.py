"""SEAT's gender tests (May et al. 2019, arXiv 1903.10561): are sentences nearer to male or to female ones?"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from locate.evaluation.scores import LEVEL, SAMPLES, Items, Score, Step, Test
from locate.evaluation.seat_data import TESTS, read_seat, seat_files, term
from locate.evaluation.text_files import file_hashes, folder_of
from locate.mediation.resampling import cluster_weights

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

NAME = "seat"
PARTITIONS = 10_000

First = Float[np.ndarray, " first"]
Second = Float[np.ndarray, " second"]
"""associations s of the sentences of the two target sets"""


def read(path: Path | None) -> Items:
    """The six tests of a folder, or of the one that a file lies in."""
    folder = folder_of(path, [f"{name}.jsonl" for name in TESTS])
    return Items(read_seat(folder, published=False), source=file_hashes(seat_files(folder)))


def measure(model: CausalModel, items: Items, step: Step) -> pd.DataFrame:
    """One row per target sentence: test, set ("first" or "second"), sentence, term, first and second.

    first, second  mean cosine of its state with those of the first and of the second attribute set; a state is the
                   final layer's at the sentence's last token
    """
    from locate.model.likelihood import last_states

    rows = []
    for done, test in enumerate(items.rows, start=1):
        texts = list(dict.fromkeys(text for part in (*test.targets, *test.attributes) for text in part))
        states = last_states(model, texts).numpy()
        place = {text: i for i, text in enumerate(texts)}
        one, other = (states[[place[text] for text in part]] for part in test.attributes)
        for name, part in zip(("first", "second"), test.targets, strict=True):
            own = states[[place[text] for text in part]]
            near = zip(part, cosines(own, one).mean(1), cosines(own, other).mean(1), strict=True)
            rows += [(test.name, name, text, term(text), float(a), float(b)) for text, a, b in near]
        step(done, len(items))
    return pd.DataFrame(rows, columns=["test", "set", "sentence", "term", "first", "second"])


def cosines(
    one: Float[np.ndarray, "sentence d_model"], other: Float[np.ndarray, "attribute d_model"]
) -> Float[np.ndarray, "sentence attribute"]:
    """Cosine of each sentence with each attribute."""
    lengths = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(other, axis=1)
    return one @ other.T / lengths


def score(table: pd.DataFrame) -> list[Score]:
    """Effect size d of each test (its part), with a one-sided p-value.

    effect_size  [mean of s over the first target set - mean over the second] / standard deviation of s over both, with
                 n - 1; s of a sentence is its mean cosine with the first attribute set minus that with the second. In
                 units of that deviation, ideal 0
    p            share of divisions of the targets in two halves whose effect is at least as large, exact up to 10,000
                 of them and else from 10,000 drawn, the given one among them

    In each published test a positive d is the stereotype: men with careers, mathematics and science with men.
    Exchanging the two target sets turns its sign, and so does exchanging the two attribute sets; both together keep
    it. So this sign is the tests' own, not female minus male. The interval resamples the targets' words within each
    set, as the sentences about one word are its plain frames; the p-value treats sentences as exchangeable, as the
    paper does.
    """
    found = []
    for test, rows in table.groupby("test", sort=False):
        values = (rows["first"] - rows["second"]).to_numpy(dtype=float)
        mine = (rows["set"] == "first").to_numpy()
        terms = [rows["term"].to_numpy()[side] for side in (mine, ~mine)]
        groups = sum(len(set(words)) for words in terms)
        x, y = values[mine], values[~mine]
        low, high = resample_sizes(x, y, *terms)
        about = (len(rows), groups, str(test))
        found += [
            Score(NAME, "effect_size", effect_size(x, y), low, high, "d", *about, ideal=0.0),
            Score(NAME, "p", p_value(x, y), np.nan, np.nan, "p", *about),
        ]
    return found


def effect_size(x: First, y: Second) -> float:
    """d of two sets of associations; nan where all are equal."""
    spread = np.concatenate([x, y]).std(ddof=1)
    return float((x.mean() - y.mean()) / spread) if spread > 0 else float("nan")


def p_value(x: First, y: Second, *, partitions: int = PARTITIONS, seed: int = 0) -> float:
    """Share of divisions into halves of these sizes whose first half has at least as large a sum as x."""
    values = np.concatenate([x, y])
    least = x.sum() - 1e-12 * np.abs(values).sum()  # the same sum in another order is no smaller
    if comb(len(values), len(x)) <= partitions:
        halves: Iterable[tuple[int, ...]] = combinations(range(len(values)), len(x))
        return float(np.mean([values[list(half)].sum() >= least for half in halves]))
    order = np.random.default_rng(seed).random((partitions - 1, len(values))).argsort(axis=1)
    return float((1 + (values[order[:, : len(x)]].sum(axis=1) >= least).sum()) / partitions)


def resample_sizes(
    x: First, y: Second, x_terms: np.ndarray, y_terms: np.ndarray, *, samples: int = SAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile interval of d from resampling the words of each set; nan with fewer than two words in one of them."""
    sums = []
    for offset, (values, terms) in enumerate(((x, x_terms), (y, y_terms))):
        codes, names = pd.factorize(terms)
        if len(names) < 2:
            return float("nan"), float("nan")
        weights = cluster_weights(len(names), samples, seed + offset)
        by_term = np.stack([np.bincount(codes, weights=values**power) for power in range(3)], axis=1)
        sums.append(weights @ by_term)  # [sample, count / sum / sum of squares]
    (a, b), both = sums, sums[0] + sums[1]
    spread = (both[:, 2] - both[:, 1] ** 2 / both[:, 0]) / (both[:, 0] - 1)
    apart = a[:, 1] / a[:, 0] - b[:, 1] / b[:, 0]
    usable = spread > 0
    if not usable.any():
        return float("nan"), float("nan")
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(apart[usable] / np.sqrt(spread[usable]), [tail, 1 - tail])
    return float(low), float(high)


TEST = Test(
    name=NAME,
    title="SEAT: effect sizes of six gender tests on states of sentences (May et al. 2019; non-commercial data)",
    kind="bias",
    read=read,
    measure=measure,
    score=score,
    files=("seat", "sent-bias/tests"),
    strata=lambda test: test.name,
)
