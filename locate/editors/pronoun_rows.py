"""Rows about pronouns, made of an editor's own prompts: both as likely after occupations, kept after gendered words."""

from __future__ import annotations

import random
from collections.abc import Sequence

from locate.prompts import Pair
from locate.training.preferences import Preference

FORM = "pronoun alone"


def balancing_rows(prompts: Sequence[Pair], each: int, seed: int) -> list[Preference]:
    """Rows that make both pronouns as likely: so many of each word's prompts, drawn with a seed.

    Each prompt gives two, in which either pronoun is chosen. Fine-tuning makes both as likely by these. DPO would stay
    where its reference is; they are `even`, so that its loss of the two, log(2 + 2 cosh(beta d)) for log-odds d, is
    least where d is 0.
    """
    drawn = draw_prompts(prompts, each, seed)
    return [row_of(pair, *answers, even=True) for pair in drawn for answers in both_ways(pair)]


def keeping_rows(preserved: Sequence[Pair], each: int, seed: int, *, reference: bool) -> list[Preference]:
    """Rows in which words that say their gender keep their own pronoun: so many of each word's prompts.

    reference  whether they are compared with a reference, as in DPO: each prompt then gives two rows, in which either
               pronoun is chosen, whose loss is least where the log-odds are the reference's. Otherwise each gives one,
               in which the word's own pronoun is chosen
    """
    rows = []
    for pair in draw_prompts(preserved, each, seed):
        ways = both_ways(pair) if pair.stereotype > 0 else both_ways(pair)[::-1]
        if pair.stereotype:
            rows += [row_of(pair, *answers) for answers in (ways if reference else ways[:1])]
    return rows


def both_ways(pair: Pair) -> list[tuple[str, str]]:
    """Chosen and rejected answer: first the female one chosen, then the male one."""
    return [(pair.female, pair.male), (pair.male, pair.female)]


def draw_prompts(prompts: Sequence[Pair], each: int, seed: int) -> list[Pair]:
    """So many different prompts of each word, in an order of their own for each word."""
    by_word: dict[str, dict[str, Pair]] = {}
    for pair in prompts:
        by_word.setdefault(pair.group, {})[pair.clean] = pair
    drawn = []
    for word, pairs in by_word.items():
        stream = random.Random(f"{seed}:{word}")
        drawn += stream.sample(list(pairs.values()), min(each, len(pairs)))
    return drawn


def row_of(pair: Pair, chosen: str, rejected: str, *, even: bool = False) -> Preference:
    """A row about a prompt's pronoun."""
    return Preference(pair.clean, chosen, rejected, pair.group, 0, "gender", FORM, "train", even)
