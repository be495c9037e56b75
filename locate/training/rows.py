"""Rows of a user's file, each with its line: what cannot be read or used is named by it, and what is held out."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.hub import fetched, is_hub_name
from locate.evaluation.text_files import file_hashes, long_cells, read_json_lines, read_text
from locate.files import shuffle_names

HELD_OUT, TRAIN = "held_out", "train"
SPLITS = {
    "": "",
    TRAIN: TRAIN,
    HELD_OUT: HELD_OUT,
    "validation": HELD_OUT,
    "valid": HELD_OUT,
    "test": HELD_OUT,
    "dev": HELD_OUT,
}
NAMED = 5  # lines that a message names
KINDS = (".csv", ".tsv", ".jsonl", ".json")

Cells = dict[str, Any]
Numbered = tuple[int, Cells | str]
"""a line of a file, and its cells by column, or why it has none"""


@dataclass(frozen=True)
class LeftOut:
    """A row that is not used, and why."""

    line: int
    reason: str


def left_out_counts(rows: Sequence[LeftOut]) -> dict[str, Any]:
    """How many rows are left out, the reasons with their counts, and each line with its reason; for a receipt."""
    return {
        "left out": len(rows),
        "reasons": dict(Counter(row.reason for row in rows)),
        "lines": [[row.line, row.reason] for row in rows],
    }


def note_on(data: Mapping[str, Any]) -> str | None:
    """One sentence on the rows left out, from `left_out_counts`; None where there are none."""
    told = []
    for reason, count in data["reasons"].items():
        lines = [line for line, why in data["lines"] if why == reason]
        more = f" and {len(lines) - NAMED} more" if len(lines) > NAMED else ""
        told.append(f"{count} {reason} (line{'s' if count > 1 else ''} {', '.join(map(str, lines[:NAMED]))}{more})")
    return f"{data['left out']} rows are left out: {'; '.join(told)}" if told else None


@contextmanager
def found_file(source: str | Path) -> Iterator[tuple[Path, dict[str, str]]]:
    """A file, or a data set of the hub as one, with its sha256 by name.

    source  a file, or OWNER/NAME:CONFIGURATION:SPLIT of the hub

    Raises LocateError where there is neither.
    """
    if not Path(source).exists() and ":" in str(source) and is_hub_name(str(source)):
        with fetched(str(source), None) as found:
            yield found
        return
    path = Path(source)
    if not path.is_file():
        raise LocateError(f"no file {path}: expected a CSV, JSON Lines or JSON file, or OWNER/NAME:CONFIGURATION:SPLIT")
    yield path, file_hashes([path])


def numbered_rows(path: Path) -> tuple[list[Numbered], set[str]]:
    """(line, cells by column) of a CSV, tab-separated, JSON Lines or JSON file, plain or gzipped; and its columns.

    A JSON file is one array of objects, which are numbered from 1 in place of lines. What is no such row has the reason
    in place of its cells.

    Raises LocateError for a name of another ending, for what is not CSV, and for an array that cannot be read.
    """
    kind = Path(path.name.removesuffix(".gz")).suffix.lower()
    if kind not in KINDS:
        raise LocateError(f"{path}: expected a name that ends in {', '.join(KINDS)}, perhaps with .gz behind")
    if kind in (".csv", ".tsv"):
        return separated_rows(path, tabs=kind == ".tsv")
    found = json_array(path) or read_json_lines(path)
    rows: list[Numbered] = [(line, row if isinstance(row, dict) else "not a JSON object") for line, row in found]
    return rows, {column for _, row in rows if isinstance(row, dict) for column in row}


def json_array(path: Path) -> list[tuple[int, Any]]:
    """(number from 1, value) of a file that is one JSON array, as pandas writes it; none where it is JSON Lines.

    Raises LocateError for an array that is not closed or not JSON.
    """
    text = read_text(path)
    if not text.lstrip().startswith("["):
        return []
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if any(isinstance(row, (dict, list)) for _, row in read_json_lines(path)):
            return []  # JSON Lines, of which some line is broken and is named as such
        raise LocateError(f"{path} begins like a JSON array, but is not JSON ({error}): write it anew") from None
    return list(enumerate(found, start=1)) if any(isinstance(each, dict) for each in found) else []


def separated_rows(path: Path, *, tabs: bool) -> tuple[list[Numbered], set[str]]:
    """The rows and columns of a CSV file, or of a tab-separated one, which has no quotes.

    Raises LocateError for what is not CSV.
    """
    stream = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(stream, strict=True)
    if tabs:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    rows: list[Numbered] = []
    try:
        names = [name for name in reader.fieldnames or () if name is not None]
        columns = set(names)
        if len(columns) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise LocateError(f"{path} has two columns {twice!r}: expected each name once")
        first = 2
        with long_cells():
            for row in reader:
                odd = None in row or None in row.values()
                rows.append((first, "more or fewer cells than columns" if odd else row))
                first = reader.line_num + 1  # a cell may hold several lines
    except csv.Error as error:
        raise LocateError(f"{path} is not CSV ({error}): look for a quote that is never closed") from None
    return rows, columns


def is_writable(text: str) -> bool:
    """Whether a text can be written as UTF-8 and holds no NUL or replacement character."""
    return is_encodable(text) and "\x00" not in text and "\ufffd" not in text


def is_encodable(text: str) -> bool:
    """Whether a text can be written as UTF-8: half a character of two halves cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def has_words(text: str) -> bool:
    """Whether a text holds a letter or a digit."""
    return any(letter.isalnum() for letter in text)


def label_of(cells: Cells, name: str) -> str:
    """A cell that may be missing, without white space around it."""
    return "" if cells.get(name) is None else str(cells[name]).strip()


def drawn_apart(groups: Sequence[str], share: float, seed: int) -> set[str]:
    """A share of the groups, drawn with a seed; at least one where there are any."""
    order = shuffle_names(groups, seed)
    return set(order[: max(1, round(share * len(order)))]) if order else set()
