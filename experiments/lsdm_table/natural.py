"""Sentences that others wrote, with an occupation and then a pronoun, for the test of `evaluate` that takes a file.

A pattern finds them, and nobody has read them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.generation import gendered_words
from locate.evaluation.text_files import file_of, read_json_lines

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
LEADING = re.compile(r"^\W+")
"""quotation marks before the first word"""
NAME = re.compile(r"(?<!^)\b(?!I\b)[A-Z]")
"""a capital within a sentence, of a word other than I: where there are names, they tell genders"""


def occupation_then_pronoun(occupations: Collection[str]) -> re.Pattern[str]:
    """An occupation after the, a, an, their, our or my; then, before a sentence or quotation ends, she or he.

    Whom the pronoun means is not known: as a rule, but not always, who holds the occupation.
    """
    names = "|".join(sorted(map(re.escape, occupations), key=len, reverse=True))
    return re.compile(rf"\b(?:the|an?|their|our|my) ({names})\b[^.?!;\"“”]{{0,{APART}}}?\b(she|he)\b", re.IGNORECASE)


def telling() -> re.Pattern[str]:
    """Words that say a gender, and their plurals in s."""
    return re.compile(rf"\b({'|'.join(map(re.escape, gendered_words()))})s?\b", re.IGNORECASE)


def sentences(path: Path) -> Iterator[str]:
    """The sentences of a corpus, in its order.

    Raises LocateError for a line that is not an object with a text.
    """
    for line, record in read_json_lines(path):
        if not (isinstance(record, dict) and isinstance(record.get("text"), str)):
            raise LocateError(f"{path}, line {line}: expected an object with a text, as in the published file")
        yield from SENTENCE.split(" ".join(record["text"].split()))


def natural_sentences(data: Path, held_out: Collection[str], table: pd.DataFrame) -> pd.DataFrame:
    """Pairs in the columns that `read_sentence_pairs` takes: the text up to a pronoun, then she or he.

    data      folder with the corpora
    held_out  occupations whose domain is "held out"; the others' is "seen"
    table     columns occupation and stereotype (-1, 0, 1), as `occupation_table` has it

    Texts with a word that says a gender, or with a name, before the pronoun are left out. Which pronoun their author
    wrote is not used.

    Raises LocateError where a corpus is not there, and where they hold no such sentence.
    """
    signs = dict(zip(table["occupation"].str.lower(), table["stereotype"], strict=True))
    unseen = {word.lower() for word in held_out}
    pattern, gendered, counts, rows = occupation_then_pronoun(signs), telling(), Counter[str](), []
    for sentence in (each for name in CORPORA for each in sentences(file_of(data, [name]))):
        found = pattern.search(sentence)
        if found is None or len(sentence) > LONGEST:
            continue
        before, word = sentence[: found.start(2)], found[1].lower()
        others = LEADING.sub("", before[: found.start(1)] + before[found.end(1) :])
        if gendered.search(others) or NAME.search(others):
            continue
        counts[word] += 1
        if counts[word] <= MOST:
            about = {"group": word, "stereotype": signs[word], "domain": "held out" if word in unseen else "seen"}
            rows.append({"context": before.strip(), "female": "she", "male": "he"} | about)
    if not rows:
        raise LocateError(f"{data}: no sentence of {' and '.join(CORPORA)} has an occupation and then she or he")
    return pd.DataFrame(rows)
