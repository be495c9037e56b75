"""The user's own pairs, from a CSV or JSON Lines file, and the notes on its rows."""

import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

from locate.errors import LocateError
from locate.prompts.notes import group_key, refuse_prompts
from locate.prompts.pair import Dropped, Pair, Prompts, subject_span
from locate.prompts.rows import OPTIONAL, REQUIRED, rows_of

SHOWN = 5
NO_ANSWER = "-"
NOT_TEXT = ("none", "nan", "null", "n/a", "na", "<na>")
REPEATED = "rows that repeat others"

Numbered = list[tuple[int, Pair]]


def read_pairs(path: str | Path, *, allow_different: bool = False) -> Prompts:
    """Pairs from a CSV file with a header, or a JSON Lines file with one object a line.

    Columns: clean, corrupted, clean_subject, corrupted_subject; and, where they differ from the default: group (the
    clean subject), template (the clean prompt with its subject replaced by {subject}), stereotype (-1, 0, 1; 0),
    female (" she"), male (" he"), neutral (" they"; "-", or null in JSON, for none), kind ("user").

    allow_different  take pairs whose prompts differ outside their subjects, too

    Text is read in Unicode's composed form (NFC). Groups that differ in case or spaces are one, under the spelling that
    is most frequent; rows that repeat others are skipped. What was done is in the prompts' notes and `skipped`.

    Raises LocateError, which names every bad row by its line, the first few with the reason.
    """
    path = Path(path)
    numbered: Numbered = []
    bad: list[tuple[int, str]] = []
    decomposed = 0
    for line, row in rows_of(path):
        try:
            if isinstance(row, LocateError):
                raise row
            cells = compose(row)
            pair = pair_of(cells)
            refuse_prompts(pair, allow_different)
            numbered.append((line, pair))
            decomposed += cells != row
        except LocateError as error:
            bad.append((line, str(error)))
    numbered, merged = unify_spelling(numbered)
    pairs, repeated, contradicting = drop_repeats(numbered)
    bad = sorted(bad + contradicting)
    if bad:
        rest = ", ".join(str(line) for line, _ in bad[SHOWN:])
        shown = "; ".join(f"line {line}: {reason}" for line, reason in bad[:SHOWN])
        more = f"; and lines {rest}" if rest else ""
        raise LocateError(f"{path}: {len(bad)} bad rows: {shown}{more}")
    if not pairs:
        raise LocateError(f"{path} holds no pairs: expected columns {', '.join(REQUIRED)} and at least one row")
    forms = [("rows spell letters in pieces (Unicode NFD): read in composed form (NFC)", decomposed)] * (decomposed > 0)
    return Prompts(tuple(pairs), tuple(repeated), (*forms, *merged))


def compose(row: object) -> object:
    """A row with its text in Unicode's composed form."""
    if not isinstance(row, dict):
        return row
    return {key: unicodedata.normalize("NFC", cell) if isinstance(cell, str) else cell for key, cell in row.items()}


def unify_spelling(pairs: Numbered) -> tuple[Numbered, list[tuple[str, int]]]:
    """The pairs with the most frequent spelling of each group, the first of several; and a note with a count of pairs
    for each group of several spellings."""
    spellings: dict[str, Counter[str]] = {}
    for _, pair in pairs:
        spellings.setdefault(group_key(pair.group), Counter())[pair.group] += 1
    names = {key: found.most_common(1)[0][0].strip() for key, found in spellings.items()}
    notes = [
        (f"{len(found)} spellings of group {names[key]!r} are taken as one group", found.total())
        for key, found in spellings.items()
        if len(found) > 1
    ]
    return [(line, replace(pair, group=names[group_key(pair.group)])) for line, pair in pairs], notes


def drop_repeats(pairs: Numbered) -> tuple[list[Pair], list[Dropped], list[tuple[int, str]]]:
    """Each pair once, the repeats left out, and the rows that repeat another's prompts but contradict it."""
    first: dict[tuple[str, str, str, str], tuple[int, Pair]] = {}
    repeated, contradicting = [], []
    for line, pair in pairs:
        at, seen = first.setdefault((pair.clean, pair.corrupted, pair.female, pair.male), (line, pair))
        if at == line:
            continue
        names = ("clean_subject", "corrupted_subject", "group", "stereotype", "neutral", "kind")
        unlike = [name for name in names if getattr(pair, name) != getattr(seen, name)]
        if unlike:
            values = f"{getattr(seen, unlike[0])!r}, then {getattr(pair, unlike[0])!r}"
            contradicting.append((line, f"repeats the prompts of line {at} with another {unlike[0]} ({values})"))
        else:
            repeated.append(Dropped(pair.group, pair.template, REPEATED))
    return [pair for _, pair in first.values()], repeated, contradicting


def pair_of(row: object) -> Pair:
    """The pair that a row describes.

    Raises LocateError saying what is wrong with it.
    """
    if not isinstance(row, dict):
        raise LocateError(f"{str(row)[:60]!r} is not a row: expected {', '.join(REQUIRED)}")
    unknown = [str(name) for name in row if name not in REQUIRED + OPTIONAL]
    if unknown:
        raise LocateError(f"unknown columns {', '.join(unknown)[:200]}: expected {', '.join(REQUIRED + OPTIONAL)}")
    fields = {name: value for name, value in row.items() if name != "stereotype"}
    if fields.get("neutral", "") is None:
        fields["neutral"] = NO_ANSWER
    missing = [name for name in REQUIRED if fields.get(name) in (None, "")]
    if missing:
        raise LocateError(f"empty or missing {', '.join(missing)}: expected text")
    check_texts(fields)
    fields.setdefault("group", fields["clean_subject"])
    start, end = subject_span(fields["clean"], fields["clean_subject"])
    fields.setdefault("template", fields["clean"][:start] + "{subject}" + fields["clean"][end:])
    if fields.get("neutral") == NO_ANSWER:
        fields["neutral"] = None
    return Pair(**fields, stereotype=sign_of(row.get("stereotype", 0)))


def check_texts(fields: dict[str, object]) -> None:
    """Raise LocateError for fields that are not text, or hold the word that a program writes for a missing value."""
    wrong = [name for name, value in fields.items() if not isinstance(value, str)]
    if wrong:
        raise LocateError(f"{', '.join(wrong)}: expected text, got {str(fields[wrong[0]])[:40]}")
    for name, value in fields.items():
        text = str(value)
        if name in OPTIONAL and text.strip().casefold() in NOT_TEXT:
            none = "; - for no neutral answer" if name == "neutral" else ""
            raise LocateError(f"{name} {text!r} stands for a missing value: leave the cell empty for the default{none}")
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise LocateError(f"{name} holds half a character (a lone surrogate): expected whole characters")


def sign_of(value: object) -> int:
    """-1, 0 or 1 from a number or its text."""
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if number not in (-1.0, 0.0, 1.0):
        raise LocateError(f"stereotype {f'{value!r}'[:40]}: expected -1, 0 or 1 (1 female, -1 male, 0 none)")
    return int(number)
