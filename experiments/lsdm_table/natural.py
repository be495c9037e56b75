"""Sentences that others wrote, with an occupation and then a pronoun, for the test of `evaluate` that takes a file."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd

from locate.datasets.opened import file_of, json_lines
from locate.errors import LocateError

CORPORA = (
    "corpus_english_novels/english_novels_1880_1928.jsonl.gz",
    "corpus_wikipedia_2018/wikipedia_2018.jsonl.gz",
)
MOST = 30
"""sentences of an occupation: some stand in novels by the hundred"""
LONGEST = 220
"""characters of a sentence"""
APART = 90
"""characters between an occupation and the pronoun"""
SENTENCE = re.compile(r"(?<=[.!?])\s+")
GENDERED = re.compile(
    r"\b(he|she|him|her|his|hers|himself|herself|m[ae]n|wom[ae]n|boys?|girls?|mr|mrs|miss|sir|lady|lord|king|queen|"
    r"father|mother|brother|sister|son|daughter|husband|wife|uncle|aunt|lad)\b",
    re.IGNORECASE,
)


def occupation_then_pronoun(occupations: Collection[str]) -> re.Pattern[str]:
    """An occupation after the, a, an, or whose; then, in the same clause or quotation, she or he."""
    names = "|".join(sorted(map(re.escape, occupations), key=len, reverse=True))
    return re.compile(rf"\b(?:the|an?|their|our|my) ({names})\b[^.?!;\"“”]{{0,{APART}}}?\b(she|he)\b", re.IGNORECASE)


def sentences(path: Path) -> Iterator[str]:
    """The sentences of a corpus, in its order."""
    for _, record in json_lines(path):
        yield from SENTENCE.split(" ".join(record["text"].split()))


def natural_sentences(data: Path, held_out: Collection[str], table: pd.DataFrame) -> pd.DataFrame:
    """Pairs in the columns that `read_sentence_pairs` takes: the text up to a pronoun, then she or he.

    data      folder with the corpora
    held_out  occupations whose domain is "held out"; the others' is "seen"
    table     columns occupation and stereotype (-1, 0, 1), as `occupation_table` has it

    A text that tells a gender before the pronoun is left out. Which pronoun its author wrote is not used.

    Raises LocateError where a corpus is not there, and where they hold no such sentence.
    """
    signs = dict(zip(table["occupation"].str.lower(), table["stereotype"], strict=True))
    unseen = {word.lower() for word in held_out}
    pattern, counts, rows = occupation_then_pronoun(signs), Counter[str](), []
    for sentence in (each for name in CORPORA for each in sentences(file_of(data, [name]))):
        found = pattern.search(sentence)
        if found is None or len(sentence) > LONGEST or GENDERED.search(sentence[: found.start(2)]):
            continue
        word = found[1].lower()
        counts[word] += 1
        if counts[word] <= MOST:
            about = {"group": word, "stereotype": signs[word], "domain": "held out" if word in unseen else "seen"}
            rows.append({"context": sentence[: found.start(2)].strip(), "female": "she", "male": "he"} | about)
    if not rows:
        raise LocateError(f"{data}: no sentence of {' and '.join(CORPORA)} has an occupation and then she or he")
    return pd.DataFrame(rows)
