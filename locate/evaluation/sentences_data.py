"""The user's own pairs of sentences: one stereotypes more than the other, or they differ in the gender of a person."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.text_files import check_has_rows, read_csv, read_json_lines
from locate.prompts.read import SHOWN, sign_of

SLOT = "{pronoun}"
PRONOUN_PAIR = "she/he"
MORE, GENDER = "more", "gender"
FORMS = {MORE: ("more", "less"), GENDER: ("female", "male")}
OPTIONAL = ("sentence", "pronouns", "stereotype", "group", "occupation", "domain", "context")
COLUMNS = (*FORMS[MORE], *FORMS[GENDER], *OPTIONAL)


@dataclass(frozen=True)
class Texts:
    """Two texts that are compared.

    line        its line in the file
    form        "more": `one` stereotypes more than `other`; "gender": `one` is about a woman, `other` about a man
    stereotype  under "gender" whose version is stereotypical: +1 female, -1 male, 0 neither
    group       what intervals resample
    domain      "" where none is given
    context     what is read before either, "" for nothing
    """

    line: int
    form: str
    one: str
    other: str
    stereotype: int
    group: str
    domain: str
    context: str


def read_sentence_pairs(path: str | Path) -> tuple[Texts, ...]:
    """Pairs of sentences from a CSV file with a header, or a JSON Lines file with one object a line; maybe gzipped.

    Each row holds one of
        more, less                        the sentence that stereotypes more, and the one that does so less
        female, male, stereotype          the sentence about a woman, the one about a man; -1, 0 or 1 (0)
        sentence, occupation, stereotype  a sentence with the slot {pronoun}, filled with both; `pronouns` says with
                                          which, female first: "she/he" (the default), "her/him", "her/his", ...
    and may hold group (or occupation, or else the row is its own group), domain, and context, after which the sentence
    is read, with a space between. A pronoun that begins its sentence begins with a capital.

    Raises LocateError that names every bad row by its line, the first few with the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise LocateError(f"no file {path}: expected a CSV or JSONL file of pairs of sentences")
    found, bad = [], []
    for number, row in rows_of(path):
        try:
            found.append(texts_of(number, row))
        except LocateError as error:
            bad.append((number, str(error)))
    if bad:
        shown = "; ".join(f"line {number}: {error}" for number, error in bad[:SHOWN])
        rest = ", ".join(str(number) for number, _ in bad[SHOWN:])
        raise LocateError(f"{path}: {len(bad)} bad rows: {shown}" + (f"; and lines {rest}" if rest else ""))
    check_has_rows(path, found)
    return tuple(found)


def rows_of(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, row) of a CSV or JSON Lines file; an empty cell is none."""
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending == ".jsonl":
        yield from read_json_lines(path)
    elif ending == ".csv":
        for number, row in read_csv(path):
            yield number, {name: cell for name, cell in row.items() if cell}
    else:
        raise LocateError(f"file {path}: expected the ending .csv or .jsonl, or either with .gz")


def texts_of(number: int, row: Any) -> Texts:
    """The pair that a row describes.

    Raises LocateError saying what is wrong with it.
    """
    if not isinstance(row, dict):
        raise LocateError(f"{str(row)[:60]!r} is not a row: expected some of the columns {', '.join(COLUMNS)}")
    unknown = [str(name) for name in row if name not in COLUMNS]
    if unknown:
        raise LocateError(f"unknown columns {', '.join(unknown)}: expected some of {', '.join(COLUMNS)}")
    wrong = [name for name, cell in row.items() if name != "stereotype" and not isinstance(cell, str)]
    if wrong:
        raise LocateError(f"{', '.join(wrong)}: expected text")
    given = dict(row)
    if "sentence" in given:
        if set(given) & {"more", "less", "female", "male"}:
            raise LocateError("a row has sentence beside another form: expected only one form in a row")
        given |= fill_slot(given["sentence"], given.get("pronouns", PRONOUN_PAIR))
    forms = [form for form, names in FORMS.items() if set(names) & set(given)]
    if len(forms) != 1:
        raise LocateError("expected the columns more and less, or female and male, or sentence, and only one of these")
    one, other = (given.get(name, "").strip() for name in FORMS[forms[0]])
    if not one or not other or one == other:
        raise LocateError(f"{' and '.join(FORMS[forms[0]])}: expected two different texts, got {one!r} and {other!r}")
    if forms == [MORE] and "stereotype" in given:
        raise LocateError("stereotype beside more and less, which say it already: give it beside female and male")
    group = given.get("group") or given.get("occupation") or f"line {number}"
    sign = sign_of(given.get("stereotype", 0))
    return Texts(number, forms[0], one, other, sign, group, given.get("domain", ""), given.get("context", "").strip())


def fill_slot(sentence: str, pronouns: str) -> dict[str, str]:
    """A sentence with each pronoun in its slot.

    Raises LocateError unless it holds the slot once and the pronouns are two different words.
    """
    words = [word.strip() for word in pronouns.split("/")]
    if len(words) != 2 or not all(words) or words[0] == words[1]:
        raise LocateError(f"pronouns {pronouns!r}: expected two, female first, such as {PRONOUN_PAIR!r}")
    if sentence.count(SLOT) != 1:
        raise LocateError(f"sentence {sentence!r} holds the slot {SLOT} {sentence.count(SLOT)} times: expected once")
    before = sentence.split(SLOT)[0].rstrip()
    if not before or before[-1] in ".!?":
        words = [word.capitalize() for word in words]
    return {name: sentence.replace(SLOT, word) for name, word in zip(FORMS[GENDER], words, strict=True)}
