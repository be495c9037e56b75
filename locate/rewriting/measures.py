"""What can be said of one rewrite without a judge: words kept and changed, gendered and listed words left."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.generation import gendered_words
from locate.evaluation.text_files import read_text
from locate.rewriting.originals import tidy
from locate.rewriting.rewrite import CUT, EMPTY, REFUSED, UNREAD, Rewritten
from locate.training.guards import is_repeating

FAILED = (EMPTY, REFUSED)
NO_INSTALL = 'judging needs the packages httpx, jiwer, rouge-score and sacrebleu: pip install "locate-bias[train]"'
WORD = re.compile(r"[\w'-]+")
STRAIGHT = str.maketrans({"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'})


def check_installed() -> None:
    """Raise LocateError, with the way out, where a package for judging is missing."""
    try:
        import httpx  # noqa: F401
        import jiwer  # noqa: F401
        import rouge_score  # noqa: F401
        import sacrebleu  # noqa: F401
    except ImportError:
        raise LocateError(NO_INSTALL) from None


def normal(text: str) -> str:
    """A text with single spaces, none before punctuation, and straight quotation marks."""
    return tidy(text.translate(STRAIGHT))


def against_references(text: str, references: Sequence[str]) -> dict[str, float]:
    """How close a text is to people's rewrites, to the closest of them by each measure; nan without any.

    exact            100 where it is one of them, but for white space and the kind of quotation marks, else 0
    word_error_rate  words to be replaced, added or taken away, in percent of the reference's (jiwer)
    rouge_l          F1 of the longest common sequence of words, in percent (rouge-score, without stemming)
    chrf             F2 of character n-grams, 0 to 100 (sacrebleu's chrF)
    """
    if not references:
        return dict.fromkeys(("exact", "word_error_rate", "rouge_l", "chrf"), float("nan"))
    import jiwer

    said, wanted = normal(text), [normal(each) for each in references]
    return {
        "exact": 100.0 * (said in wanted),
        "word_error_rate": 100.0 * min(float(jiwer.wer(each, said)) for each in wanted),
        "rouge_l": 100.0 * max(float(rouge().score(each, said)["rougeL"].fmeasure) for each in wanted),
        "chrf": max(float(chrf().sentence_score(said, [each]).score) for each in wanted),
    }


class Words:
    """Splits into words of any script; ROUGE's own tokenizer knows Latin letters alone."""

    def tokenize(self, text: str) -> list[str]:
        """The words in lower case."""
        return re.findall(r"\w+", text.lower())


@cache
def rouge() -> Any:
    """Google's ROUGE-L."""
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], tokenizer=Words())


@cache
def chrf() -> Any:
    """sacrebleu's chrF with its defaults: n-grams of up to six characters, beta 2."""
    from sacrebleu.metrics import CHRF

    return CHRF()


def gendered_in(text: str) -> int:
    """How many words of a text say a gender, by the package's list."""
    known = gendered_words()
    return sum(word in known for word in re.findall(r"[a-z]+(?:-[a-z]+)*", text.lower()))


def listed_in(text: str, words: Collection[str]) -> int:
    """How many words of a text are on a list, whatever their case."""
    return sum(word.casefold() in words for word in WORD.findall(text.translate(STRAIGHT)))


def read_word_list(path: Path) -> frozenset[str]:
    """The words of a file, one a line; lines that begin with # are comments.

    Raises LocateError for a file that is missing, a line with several words, and a list without any.
    """
    if not path.is_file():
        raise LocateError(f"no file {path}: expected a list of words, one a line")
    words = set()
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        word = line.strip()
        if not word or word.startswith("#"):
            continue
        if WORD.fullmatch(word.translate(STRAIGHT)) is None:
            raise LocateError(f"{path}, line {number}: {word[:60]!r}: expected one word")
        words.add(word.translate(STRAIGHT).casefold())
    if not words:
        raise LocateError(f"{path} holds no word: expected one a line")
    return frozenset(words)


def measure_rows(rows: Sequence[Rewritten], words: Collection[str] = ()) -> pd.DataFrame:
    """One row per rewrite: where it came from, what became of it, and the measures of this module.

    words  a list of the user's: `listed` counts its words, and is nan without one

    `failed` is true for empty and refused rewrites. A failed rewrite leaves the reader with the original, so that its
    gendered and listed words are the original's; the other measures are of what was written.
    """
    check_installed()
    made = []
    for row in rows:
        if row.outcome == UNREAD:
            continue
        failed = row.outcome in FAILED
        left = row.text if failed else row.rewrite
        made.append(
            {
                "line": row.line,
                "group": row.group,
                "demographic": row.demographic,
                "outcome": row.outcome,
                "failed": failed,
                "cut": row.outcome == CUT,
                "repeating": is_repeating(row.rewrite),
                **against_references(row.rewrite, row.references),
                "gendered": float(gendered_in(left)),
                "listed": float(listed_in(left, words)) if words else float("nan"),
            }
        )
    if not made:
        raise LocateError(f"{len(rows)} rows, none of which could be read: there is nothing to judge")
    return pd.DataFrame(made)


def untouched(rows: Sequence[Rewritten]) -> list[Rewritten]:
    """The originals as if they were rewrites of themselves: what a rewriter has to beat."""
    return [row if row.outcome == UNREAD else replace(row, rewrite=row.text, outcome="") for row in rows]
