"""Interpolated modified Kneser-Ney trigrams over integer tokens: the baseline that `mini` has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from corpus import VOCABULARY

BITS = (VOCABULARY - 1).bit_length()
FALLBACK = (
    0.5,
    1.0,
    1.5,
)  # KenLM's discounts for counts too regular to estimate them from, such as those of pieces


@dataclass(frozen=True)
class Order:
    """All seen n-grams of one length, coded as their tokens' bits side by side, the latest token lowest."""

    codes: np.ndarray  # int64 [n-gram], sorted
    shares: np.ndarray  # float64 [n-gram]: discounted count / count of the context
    contexts: np.ndarray  # int64 [context], sorted: the code without its latest token
    freed: np.ndarray  # float64 [context]: probability that the discounts leave to the next shorter order


def trigram_codes(text: np.ndarray) -> np.ndarray:
    """Codes of each token but the first with the two before it, END standing before the text: [token - 1]."""
    ids = np.concatenate([[0], text]).astype(np.int64)
    return (ids[:-2] << 2 * BITS) | (ids[1:-1] << BITS) | ids[2:]


def discounts(counts: np.ndarray) -> np.ndarray:
    """What is taken from an n-gram counted 0, 1, 2 and 3 or more times (Chen and Goodman 1999, eq. 26)."""
    n = np.bincount(np.minimum(counts, 5), minlength=6).astype(float)
    if n[1:5].all():
        level = np.arange(1, 4)
        taken = level - (level + 1) * n[1] / (n[1] + 2 * n[2]) * n[2:5] / n[1:4]
        if ((taken >= 0) & (taken <= level)).all():
            return np.array([0, *taken])
    return np.array([0, *FALLBACK])


def order(codes: np.ndarray, counts: np.ndarray) -> Order:
    """One order from its sorted n-grams and their (continuation) counts."""
    before = codes >> BITS
    first = np.flatnonzero(np.diff(before, prepend=-1))
    taken = discounts(counts)[np.minimum(counts, 3)]
    total = np.add.reduceat(counts, first)
    members = np.diff(first, append=len(codes))
    shares = (counts - taken) / np.repeat(total, members)
    return Order(codes, shares, before[first], np.add.reduceat(taken, first) / total)


def fit(texts: Sequence[np.ndarray]) -> list[Order]:
    """Unigrams, bigrams and trigrams of the training texts.

    Trigrams are counted by their occurrences, shorter n-grams by the number of different tokens seen before
    them (Kneser and Ney 1995).
    """
    codes, counts = np.unique(np.concatenate([trigram_codes(text) for text in texts]), return_counts=True)
    orders = [order(codes, counts)]
    for length in (2, 1):
        codes, counts = np.unique(codes & ((1 << length * BITS) - 1), return_counts=True)
        orders.append(order(codes, counts))
    return orders[::-1]


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray, missing: float) -> np.ndarray:
    """Value of each wanted code among the sorted keys, `missing` where it is none of them."""
    place = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], missing)


def probabilities(orders: Sequence[Order], codes: np.ndarray) -> np.ndarray:
    """p(latest token | the two before it) of each trigram code; an order new to the context passes on all."""
    p = np.full(len(codes), 1 / VOCABULARY)
    for length, seen in enumerate(orders, start=1):
        ngrams = codes & ((1 << length * BITS) - 1)
        p = look_up(seen.codes, seen.shares, ngrams, 0.0) + p * look_up(seen.contexts, seen.freed, ngrams >> BITS, 1.0)
    return p


def check_sums(orders: Sequence[Order], seed: int, count: int = 50) -> None:
    """Check that p sums to 1 over the vocabulary after `count` seen contexts and `count` arbitrary ones."""
    random = np.random.default_rng(seed)
    seen = random.choice(orders[-1].contexts, count)
    arbitrary = random.integers(VOCABULARY**2, size=count)
    contexts = np.concatenate([seen, arbitrary])[:, None]
    codes = (contexts << BITS) | np.arange(VOCABULARY)  # [context, token]
    sums = probabilities(orders, codes.ravel()).reshape(codes.shape).sum(1)
    if not np.allclose(sums, 1, rtol=0, atol=1e-9):
        raise ValueError(f"trigram probabilities must sum to 1, got {sums.min()} to {sums.max()}")
