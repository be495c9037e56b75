"""The user's own pairs, from a CSV or JSON Lines file."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from locate.errors import LocateError
from locate.prompts.pair import Pair, Prompts, subject_span

REQUIRED = ("clean", "corrupted", "clean_subject", "corrupted_subject")
OPTIONAL = ("group", "template", "stereotype", "female", "male", "neutral", "kind")
SHOWN = 5
NO_ANSWER = "-"


def read_pairs(path: str | Path) -> Prompts:
    """Pairs from a CSV file with a header, or a JSON Lines file with one object a line.

    Columns: clean, corrupted, clean_subject, corrupted_subject; and, where they differ from the default: group (the
    clean subject), template (the clean prompt with its subject replaced by {subject}), stereotype (-1, 0, 1; 0),
    female (" she"), male (" he"), neutral (" they"; "-", or null in JSON, for none), kind ("user").

    Raises LocateError that names every bad row by its line, the first few with the reason.
    """
    path = Path(path)
    if not path.is_file():
        raise LocateError(f"no file {path}: expected a CSV or JSONL file of prompt pairs")
    reader = {".csv": csv_rows, ".jsonl": jsonl_rows}.get(path.suffix.lower())
    if reader is None:
        raise LocateError(f"file {path}: expected the ending .csv or .jsonl")
    pairs, bad = [], []
    try:
        for line, row in reader(path):
            try:
                pairs.append(pair_of(row))
            except LocateError as error:
                bad.append(f"line {line}: {error}")
    except UnicodeDecodeError as error:
        raise LocateError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from None
    except csv.Error as error:
        raise LocateError(f"{path} is not CSV ({error}): look for a quote that is never closed") from None
    if bad:
        rest = ", ".join(row.split(":")[0].removeprefix("line ") for row in bad[SHOWN:])
        more = f"; and lines {rest}" if rest else ""
        raise LocateError(f"{path}: {len(bad)} bad rows: {'; '.join(bad[:SHOWN])}{more}")
    if not pairs:
        raise LocateError(f"{path} holds no pairs: expected columns {', '.join(REQUIRED)} and at least one row")
    return Prompts(tuple(pairs))


def csv_rows(path: Path) -> Iterator[tuple[int, object]]:
    """(line number, row) of a CSV file."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in REQUIRED if name not in (reader.fieldnames or ())]
        if missing and reader.fieldnames:
            raise LocateError(f"{path} lacks the columns {', '.join(missing)}: found {', '.join(reader.fieldnames)}")
        for row in reader:
            cells = {key: value for key, value in row.items() if value not in (None, "")}
            yield reader.line_num, "a row with more cells than the header" if None in cells else cells


def jsonl_rows(path: Path) -> Iterator[tuple[int, object]]:
    """(line number, object) of a JSON Lines file; a line that is not JSON is passed on as text."""
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except json.JSONDecodeError:
                yield number, line.strip()


def pair_of(row: object) -> Pair:
    """The pair that a row describes.

    Raises LocateError saying what is wrong with it.
    """
    if not isinstance(row, dict):
        raise LocateError(f"{str(row)[:60]!r} is no row: expected {', '.join(REQUIRED)}")
    missing = [name for name in REQUIRED if not row.get(name)]
    if missing:
        raise LocateError(f"empty or missing {', '.join(missing)}: expected text")
    unknown = [str(name) for name in row if name not in REQUIRED + OPTIONAL]
    if unknown:
        raise LocateError(f"unknown columns {', '.join(unknown)}: expected {', '.join(REQUIRED + OPTIONAL)}")
    fields = {name: value for name, value in row.items() if name != "stereotype"}
    if fields.get("neutral", "") is None:
        fields["neutral"] = NO_ANSWER
    wrong = [name for name, value in fields.items() if not isinstance(value, str)]
    if wrong:
        raise LocateError(f"{', '.join(wrong)}: expected text")
    fields.setdefault("group", row["clean_subject"])
    start, end = subject_span(row["clean"], row["clean_subject"])
    fields.setdefault("template", row["clean"][:start] + "{subject}" + row["clean"][end:])
    if fields.get("neutral") == NO_ANSWER:
        fields["neutral"] = None
    return Pair(**fields, stereotype=sign_of(row.get("stereotype", 0)))


def sign_of(value: object) -> int:
    """-1, 0 or 1 from a number or its text."""
    try:
        number = float(str(value))
    except ValueError:
        number = float("nan")
    if number not in (-1.0, 0.0, 1.0):
        raise LocateError(f"stereotype {value!r}: expected -1, 0 or 1")
    return int(number)
