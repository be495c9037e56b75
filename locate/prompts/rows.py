"""The rows of a CSV or JSON Lines file as dictionaries of text, and the errors for files that are neither."""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from locate.errors import LocateError

REQUIRED = ("clean", "corrupted", "clean_subject", "corrupted_subject")
OPTIONAL = ("group", "template", "stereotype", "female", "male", "neutral", "kind")
SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
AS_LINES = "write one object a line (pandas: to_json(path, orient='records', lines=True))"
OTHER_ENDINGS = (
    ((".tsv", ".tab", ".txt"), "save it with commas, as .csv"),
    ((".json", ".ndjson"), f"{AS_LINES} and name it .jsonl"),
    ((".xlsx", ".xls", ".ods", ".numbers"), "save the sheet as CSV UTF-8"),
    ((".parquet", ".feather", ".pkl"), "write it with pandas' to_csv(path, index=False)"),
    ((".gz", ".zip", ".bz2", ".xz", ".zst"), "unpack it first"),
)
MAGIC = {
    b"\x1f\x8b": "is packed with gzip: unpack it first",
    b"PK\x03\x04": "is a zip archive or an Excel workbook: save the sheet as CSV UTF-8",
    b"\xff\xfe": "is UTF-16 text (Excel's 'Unicode text'): save it as CSV UTF-8",
    b"\xfe\xff": "is UTF-16 text: save it as UTF-8",
}

Line = tuple[int, object]
"""line number, and the row or the LocateError that says why it is not a row"""


def rows_of(path: Path) -> Iterator[Line]:
    """The rows of a file, by its ending.

    Raises LocateError for another ending, text that is not UTF-8, or a header that cannot be right.
    """
    if path.is_dir():
        raise LocateError(f"{path} is a folder: expected a CSV or JSONL file of prompt pairs")
    if not path.is_file():
        raise LocateError(f"no file {path}: expected a CSV or JSONL file of prompt pairs")
    reader = {".csv": csv_rows, ".jsonl": jsonl_rows}.get(path.suffix.lower())
    if reader is None:
        hint = next((f": {way}" for endings, way in OTHER_ENDINGS if path.suffix.lower() in endings), "")
        raise LocateError(f"file {path}: expected the ending .csv or .jsonl{hint}")
    return reader(path, text_of(path))


def text_of(path: Path) -> str:
    """The text of a UTF-8 file, without its byte order mark and with its line ends as they are.

    Raises LocateError for anything else, with the line where it stops being UTF-8.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise LocateError(f"cannot read {path} ({error.strerror}): expected a CSV or JSONL file") from None
    kind = next((said for magic, said in MAGIC.items() if content.startswith(magic)), None)
    if kind:
        raise LocateError(f"{path} {kind}")
    if b"\x00" in content:
        line = content[: content.index(b"\x00")].count(b"\n") + 1
        raise LocateError(f"{path} holds a NUL byte in line {line} (UTF-16 text?): save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        byte = content[error.start]
        raise LocateError(f"{path} is not UTF-8 text (byte 0x{byte:02x} in line {line}): save it as UTF-8") from None


def csv_rows(path: Path, text: str) -> Iterator[Line]:
    """(line number, row) of CSV text; empty cells are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        first = next((row for row in reader if any(cell.strip() for cell in row)), None)
        if first is None:
            return
        header = header_of(path, first)
        for row in reader:
            if not row:
                continue
            if any(cell for cell in row[len(header) :]):
                yield reader.line_num, LocateError(f"{len(row)} cells under a header of {len(header)}: quote commas")
            else:
                yield reader.line_num, {name: cell for name, cell in zip(header, row, strict=False) if cell.strip()}
    except csv.Error as error:
        raise LocateError(
            f"{path} is not CSV (line {reader.line_num}: {error}): look for a quote that is not closed or doubled"
        ) from None


def header_of(path: Path, cells: list[str]) -> list[str]:
    """The names of the columns.

    Raises LocateError for a header that lacks a required column, has a column without a name, or names one twice.
    """
    names = [known_column(cell) for cell in cells]
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        apart = next((said for mark, said in SEPARATORS.items() if any(mark in cell for cell in cells)), None)
        hint = f": it looks separated by {apart}: save it with commas" if apart else ""
        if not apart and len(missing) == len(REQUIRED):
            hint = ": the first line has to name the columns"
        raise LocateError(f"{path} lacks the columns {', '.join(missing)}: found {', '.join(cells)[:200]}{hint}")
    if any(not name.strip() or re.fullmatch(r"Unnamed: \d+", name) for name in names):
        raise LocateError(
            f"{path} has a column without a name (a pandas index?): leave it out, with to_csv(path, index=False)"
        )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise LocateError(f"{path} names the columns {', '.join(twice)} more than once: expected each once")
    return names


def known_column(name: str) -> str:
    """A column's name as this module spells it, whatever its capitals and spaces; other names as they are."""
    spelled = re.sub(r"[\s_-]+", "_", name.strip().casefold())
    return spelled if spelled in REQUIRED + OPTIONAL else name


def jsonl_rows(path: Path, text: str) -> Iterator[Line]:
    """(line number, object) of JSON Lines text."""
    if text.lstrip().startswith("["):
        raise LocateError(f"{path} is one JSON array: {AS_LINES}")
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        if line.strip():
            yield number, object_of(line.strip())


def object_of(line: str) -> object:
    """The object on a line of JSON Lines, without null fields except neutral; or a LocateError that says why not."""
    try:
        found = json.loads(line, object_pairs_hook=object_once, parse_constant=no_constant)
    except LocateError as error:
        return error
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too deep, or a number too long"
        return LocateError(f"{line[:60]!r} is not a row ({reason}): expected a JSON object with {', '.join(REQUIRED)}")
    if not isinstance(found, dict):
        return found
    return {name: value for name, value in found.items() if value is not None or name == "neutral"}


def object_once(fields: list[tuple[str, object]]) -> dict[str, object]:
    """The fields of a JSON object.

    Raises LocateError when a field comes twice.
    """
    found = {known_column(name): value for name, value in fields}
    if len(found) < len(fields):
        twice = [name for name, count in Counter(known_column(name) for name, _ in fields).items() if count > 1]
        raise LocateError(f"field {', '.join(twice)} comes more than once: expected once")
    return found


def no_constant(word: str) -> object:
    """Refuse NaN and infinities, which JSON does not have."""
    raise LocateError(f"{word} is not a JSON value: leave the field out")
