"""A pair of prompts that differ in one subject, and a collection of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass

import pandas as pd

from locate.errors import LocateError
from locate.files import hash_of

FEMALE, MALE, NEUTRAL = " she", " he", " they"


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
        if self.female == self.male or not self.female.strip() or not self.male.strip():
            raise LocateError(
                f"answers {self.female!r} and {self.male!r} of group {self.group!r}: expected two different words"
            )


def subject_span(prompt: str, subject: str) -> tuple[int, int]:
    """Character span of the subject in its prompt.

    Raises LocateError unless the subject occurs exactly once as whole words.
    """
    found = list(re.finditer(rf"(?<!\w){re.escape(subject)}(?!\w)", prompt)) if subject else []
    if len(found) != 1:
        raise LocateError(
            f"subject {subject!r} occurs {len(found)} times in prompt {prompt!r}: expected exactly once as whole words"
        )
    return found[0].span()


@dataclass(frozen=True)
class Dropped:
    """What was left out, and why."""

    group: str
    template: str
    reason: str


@dataclass(frozen=True)
class Prompts:
    """Pairs in a fixed order, and what their making left out."""

    pairs: tuple[Pair, ...]
    skipped: tuple[Dropped, ...] = ()

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        return iter(self.pairs)

    def __add__(self, other: Prompts) -> Prompts:
        return Prompts(self.pairs + other.pairs, self.skipped + other.skipped)

    def first(self, limit: int | None) -> Prompts:
        """The first `limit` pairs; all of them for None."""
        if limit is not None and limit < 1:
            raise LocateError(f"limit {limit}: expected a number of pairs >= 1")
        return Prompts(self.pairs[:limit], self.skipped)

    def frame(self) -> pd.DataFrame:
        """One row per pair, one column per field."""
        return pd.DataFrame([asdict(pair) for pair in self.pairs])

    @property
    def hash(self) -> str:
        """sha256 of all fields of all pairs, in order."""
        return hash_of([asdict(pair) for pair in self.pairs])

    def _repr_html_(self) -> str:
        groups = len({pair.group for pair in self.pairs})
        head = f"<p>{len(self)} pairs, {groups} groups, {len(self.skipped)} skipped</p>"
        columns = ["clean", "corrupted", "group", "kind", "stereotype", "female", "male"]
        return head + (self.frame()[columns].to_html(max_rows=10, escape=True) if self.pairs else "")
