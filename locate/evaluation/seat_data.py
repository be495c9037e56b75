"""SEAT's gender tests (May et al. 2019, arXiv 1903.10561): sentences in four sets. Never bundled: CC BY-NC."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.text_files import check_published, read_text

TESTS = ("sent-weat6", "sent-weat6b", "sent-weat7", "sent-weat7b", "sent-weat8", "sent-weat8b")
SETS = ("targ1", "targ2", "attr1", "attr2")
FRAME = {
    *("this", "that", "there", "here", "it", "these", "those", "they", "is", "are", "a", "an", "the"),
    *("thing", "things", "person", "people"),
}


@dataclass(frozen=True)
class AssociationTest:
    """One test.

    name          "sent-weat6"
    targets       two sets of equally many sentences: for instance about mathematics and about the arts
    attributes    two sets of sentences, for instance with male and with female words
    categories    what the four sets are called: targets, then attributes
    """

    name: str
    targets: tuple[tuple[str, ...], tuple[str, ...]]
    attributes: tuple[tuple[str, ...], tuple[str, ...]]
    categories: tuple[str, str, str, str]


def seat_files(folder: str | Path) -> tuple[Path, ...]:
    """The six files of a folder.

    Raises LocateError where one is missing.
    """
    paths = tuple(Path(folder) / f"{name}.jsonl" for name in TESTS)
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise LocateError(f"{folder} lacks {', '.join(missing)}: expected SEAT's six gender tests as published")
    return paths


def read_seat(folder: str | Path, *, published: bool = True) -> tuple[AssociationTest, ...]:
    """The six gender tests: 6 (career and family), 7 (mathematics and arts), 8 (science and arts), each with its b.

    folder     that holds sent-weat6.jsonl and so on
    published  whether they must be the published ones, byte by byte

    Raises LocateError for a missing or changed file, and for one without two target sets of the same size and two
    attribute sets of different sentences.
    """
    found = []
    for path in seat_files(folder):
        if published:
            check_published(path)
        try:
            value = json.loads(read_text(path))
            sets = [tuple(value[name]["examples"]) for name in SETS]
            names = [str(value[name]["category"]) for name in SETS]
        except (ValueError, KeyError, TypeError) as error:
            raise LocateError(f"{path} is not a SEAT test ({type(error).__name__}: {error}): fetch it again") from None
        check_sets(path, sets)
        first, second, one, other = sets
        found.append(
            AssociationTest(path.stem, (first, second), (one, other), (names[0], names[1], names[2], names[3]))
        )
    return tuple(found)


def check_sets(path: Path, sets: list[tuple[Any, ...]]) -> None:
    """Raise LocateError for sets that make no test."""
    for name, texts in zip(SETS, sets, strict=True):
        bad = [text for text in texts if not isinstance(text, str) or not text.strip()]
        if len(texts) < 2 or bad or len(set(texts)) < len(texts):
            raise LocateError(f"{path}: {name} holds {len(texts)} sentences, {bad[:1]}: expected at least 2, each once")
    if len(sets[0]) != len(sets[1]):
        raise LocateError(f"{path}: {len(sets[0])} and {len(sets[1])} targets: expected equally many")


def term(sentence: str) -> str:
    """The word that a sentence of SEAT's plain frames is about, in the singular: "equation" of "These are equations."

    The sentence itself where it has no such word.
    """
    words = [word for word in re.findall(r"[A-Za-z'-]+", sentence) if word.lower() not in FRAME]
    if not words:
        return sentence
    word = words[-1].lower()
    return re.sub(r"men$", "man", re.sub(r"(?<=[a-z]{2})s$", "", re.sub(r"ies$", "y", word)))
