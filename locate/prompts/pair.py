"""A pair of prompts that differ in one subject, and a collection of them."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

import pandas as pd

from locate.errors import LocateError
from locate.files import hash_of
from locate.notebook import LISTED, first_rows, sentences, title

FEMALE, MALE, NEUTRAL = " she", " he", " they"
STEREOTYPES = {1: "female", -1: "male", 0: "none"}
SHOWN = 120  # characters of a prompt that a message quotes


@dataclass(frozen=True)
class Pair:
    """A clean prompt, its counterfactual, and the answers that are compared after both.

    clean, corrupted                  prompts; the metric is read at the last token of each
    clean_subject, corrupted_subject  the words in which they differ in meaning; each occurs once in its prompt
    female, male, neutral             answers with their leading space; neutral may be None
    group                             what intervals resample, the occupation as a rule
    kind                              "occupation", "definition", "neutral" or "user"
    stereotype                        +1 female, -1 male, 0 none; for a definitional word, its gender
    """

    clean: str
    corrupted: str
    clean_subject: str
    corrupted_subject: str
    group: str
    template: str
    kind: str = "user"
    stereotype: int = 0
    female: str = FEMALE
    male: str = MALE
    neutral: str | None = NEUTRAL

    def __post_init__(self) -> None:
        subject_span(self.clean, self.clean_subject)
        subject_span(self.corrupted, self.corrupted_subject)
        for prompt in (self.clean, self.corrupted):
            if prompt != prompt.rstrip():
                raise LocateError(f"prompt {prompt!r} ends in white space: expected it to end in a word")
        if self.stereotype not in (-1, 0, 1):
            raise LocateError(f"stereotype {self.stereotype} of group {self.group!r}: expected -1, 0 or 1")
        if not self.group:
            raise LocateError(f"empty group of prompt {self.clean!r}: expected the occupation or another name")
        female, male = self.female.strip().casefold(), self.male.strip().casefold()
        if female == male or not female or not male:
            raise LocateError(
                f"answers {self.female!r} and {self.male!r} of group {self.group!r}: expected two different words"
            )


def subject_span(prompt: str, subject: str) -> tuple[int, int]:
    """Character span of the subject in its prompt.

    Raises LocateError unless the subject occurs exactly once as whole words.
    """
    found = places(prompt, subject)
    if len(found) != 1:
        shown = prompt if len(prompt) <= SHOWN else f"{prompt[:SHOWN]}..."
        raise LocateError(
            f"subject {subject[:SHOWN]!r} occurs {len(found)} times in prompt {shown!r}: expected exactly once as "
            f"whole words{'' if found else near_miss(prompt, subject)}"
        )
    return found[0]


def places(prompt: str, subject: str) -> list[tuple[int, int]]:
    """Character spans of the subject as whole words."""
    if not subject:
        return []
    return [each.span() for each in re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)]


def near_miss(prompt: str, subject: str) -> str:
    """How the spelling of a subject that does not occur differs from the prompt's, as the end of a message."""
    if not subject.strip():
        return ""
    if places(unicodedata.normalize("NFC", prompt), unicodedata.normalize("NFC", subject)):
        return ": the two spellings differ in Unicode form (NFC, NFD)"
    if places(straight(prompt), straight(subject)):
        odd = [letter for letter in subject + prompt if straight(letter) != letter]
        return f": the spellings differ by {code_point(odd[0])}"
    if places(prompt.casefold(), subject.casefold()):
        return ": the two differ in capitals"
    if subject in prompt:
        return ": it is part of a longer word"
    return ""


def straight(text: str) -> str:
    """The text with plain spaces and quotes, and without invisible characters."""
    plain = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"'}
    letters = (" " if unicodedata.category(each) == "Zs" else plain.get(each, each) for each in text)
    return "".join(each for each in letters if not is_invisible(each))


def is_invisible(letter: str) -> bool:
    """Whether a character has no shape: zero-width spaces, byte order marks, soft hyphens, control characters."""
    return unicodedata.category(letter) in ("Cf", "Cc") and letter not in "\n\t\r"


def code_point(letter: str) -> str:
    """A character as Unicode names it."""
    return f"U+{ord(letter):04X} {unicodedata.name(letter, 'control character')}"


@dataclass(frozen=True)
class Dropped:
    """What was left out, and why."""

    group: str
    template: str
    reason: str


@dataclass(frozen=True)
class Prompts:
    """Pairs in a fixed order, and what was left out and decided in making them: sentences with a count of pairs."""

    pairs: tuple[Pair, ...]
    skipped: tuple[Dropped, ...] = ()
    notes: tuple[tuple[str, int], ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __add__(self, other: Prompts) -> Prompts:
        return Prompts(self.pairs + other.pairs, self.skipped + other.skipped, self.notes + other.notes)

    def first(self, limit: int | None) -> Prompts:
        """The first `limit` pairs; all of them for None."""
        if limit is not None and limit < 1:
            raise LocateError(f"limit {limit}: expected a number of pairs >= 1")
        return replace(self, pairs=self.pairs[:limit])

    def frame(self) -> pd.DataFrame:
        """One row per pair, one column per field."""
        return pd.DataFrame([asdict(pair) for pair in self.pairs])

    @property
    def answers(self) -> list[str | None] | None:
        """The female, male and neutral answer that all pairs share; None for a neutral one that some lack or spell
        otherwise, and None altogether where the other two differ.
        """
        female, male, neutral = ({getattr(pair, name) for pair in self.pairs} for name in ("female", "male", "neutral"))
        if len(female) != 1 or len(male) != 1:
            return None
        return [*female, *male, neutral.pop() if len(neutral) == 1 else None]

    @property
    def hash(self) -> str:
        """sha256 of all fields of all pairs, in order."""
        return hash_of([asdict(pair) for pair in self.pairs])

    def _repr_html_(self) -> str:
        groups = len({pair.group for pair in self.pairs})
        rows = [
            {
                "clean": pair.clean,
                "corrupted": pair.corrupted,
                "group": pair.group,
                "kind": pair.kind,
                "stereotype": STEREOTYPES[pair.stereotype],
                "answers": f"{pair.female.strip()}, {pair.male.strip()}",
            }
            for pair in self.pairs[:LISTED]
        ]
        return (
            title(f"{len(self)} pairs, {groups} groups, {len(self.skipped)} skipped")
            + first_rows(rows, len(self))
            + sentences(*(f"{count} of them: {sentence}" for sentence, count in self.notes))
        )
