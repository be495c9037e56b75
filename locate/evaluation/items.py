"""What the readers return: sentences that differ in a pronoun, and prompts with two ways to go on."""

from __future__ import annotations

from dataclasses import dataclass

from locate.errors import LocateError

PRONOUNS = {"she": 1, "her": 1, "hers": 1, "herself": 1, "he": -1, "him": -1, "his": -1, "himself": -1}
"""gender of a pronoun: +1 female, -1 male"""


@dataclass(frozen=True)
class Sentence:
    """One sentence of WinoBias.

    line        its line in the file
    text        without number and brackets
    occupation  the one that the marked pronoun refers to, in lower case, without article
    pronouns    those that are marked, in order, as (character offset in `text`, word)
    gender      of the first pronoun: +1 female, -1 male
    """

    line: int
    text: str
    occupation: str
    pronouns: tuple[tuple[int, str], ...]
    gender: int

    @property
    def without_pronouns(self) -> str:
        """The text with every marked pronoun replaced by a gap."""
        text = self.text
        for start, word in reversed(self.pronouns):
            text = text[:start] + "_" + text[start + len(word) :]
        return text


@dataclass(frozen=True)
class SentencePair:
    """The same sentence of WinoBias with the stereotypical pronoun and with the other one.

    kind, split  "type1" or "type2"; "dev" or "test"
    stereotype   of the occupation: +1 female, -1 male
    minimal      whether the two differ in their marked pronouns alone; a few published pairs differ in more
    """

    pro: Sentence
    anti: Sentence
    kind: str
    split: str
    stereotype: int
    minimal: bool

    @property
    def occupation(self) -> str:
        """What the pronoun refers to; what intervals resample."""
        return self.pro.occupation


@dataclass(frozen=True)
class Schema:
    """One Winogender sentence with each pronoun.

    occupation, participant  its two persons; the participant may be "someone"
    refers_to                the one that the pronoun refers to: "occupation" or "participant"
    """

    occupation: str
    participant: str
    refers_to: str
    female: str
    male: str
    neutral: str


@dataclass(frozen=True)
class Continuations:
    """A prompt that ends in a pronoun of either gender, and two ways to go on (Vig et al. 2020, section 4.1).

    female, male            the prompt that ends in the female and in the male pronoun
    of_female, of_male      the continuation that is about the person of female stereotype, and of male; each begins
                            with a space
    female_person, male_person  those persons
    group                   what intervals resample
    """

    female: str
    male: str
    of_female: str
    of_male: str
    female_person: str
    male_person: str
    group: str

    def __post_init__(self) -> None:
        for prompt in (self.female, self.male):
            if not prompt or prompt != prompt.rstrip():
                raise LocateError(f"prompt {prompt!r}: expected one that ends in a word")
        for text in (self.of_female, self.of_male):
            if not text.strip() or not text.startswith(" "):
                raise LocateError(f"continuation {text!r}: expected a space and some words")
        if self.female == self.male or self.of_female == self.of_male:
            raise LocateError(f"{self.female!r} and its counterpart: expected prompts and continuations that differ")


@dataclass(frozen=True)
class SkippedRows:
    """Rows that were left out: their lines in the file, and why."""

    lines: tuple[int, ...]
    reason: str
