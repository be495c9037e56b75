"""A user's file, plain or gzipped, as text, CSV rows or JSON Lines with their line numbers; and its hash."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.published import PUBLISHED
from locate.files import hash_of_files

NumberedRow = tuple[int, dict[str, Any]]
"""its line in the file, from 1, and its cells by column"""


def folder_of(path: str | Path | None, names: Sequence[str]) -> Path:
    """The folder itself, or the one that a file lies in.

    Raises LocateError where there is neither.
    """
    if path is None or not Path(path).exists():
        raise LocateError(f"no folder {path}: expected one that holds {', '.join(names)}")
    return Path(path) if Path(path).is_dir() else Path(path).parent


def file_of(path: str | Path | None, names: Sequence[str]) -> Path:
    """The file itself, or the first of these names that a folder holds.

    Raises LocateError where there is none.
    """
    if path is None:
        raise LocateError(f"no file given: expected {' or '.join(names)}, or a folder that holds it")
    path = Path(path)
    tried = [path / name for name in names] if path.is_dir() else [path]
    found = next((each for each in tried if each.is_file()), None)
    if found is None:
        raise LocateError(f"no file {path}: expected {' or '.join(names)}, or a folder that holds it")
    return found


def read_unpacked(path: Path) -> bytes:
    """The bytes of a file, unpacked where its name ends in .gz.

    Raises LocateError for what cannot be unpacked.
    """
    data = path.read_bytes()
    if path.suffix != ".gz":
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise LocateError(f"{path} is not gzipped ({error}): expected gzipped data, or a name without .gz") from None


def read_text(path: Path) -> str:
    """The text of a file, plain or gzipped.

    Raises LocateError for what is not UTF-8.
    """
    try:
        return read_unpacked(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise LocateError(f"{path} is not UTF-8 text ({error}): save it as UTF-8") from None


def check_published(path: Path) -> None:
    """Raise LocateError unless a file's bytes, unpacked, are those of the published file of its name."""
    name = path.name.removesuffix(".gz")
    if name not in PUBLISHED:
        raise LocateError(f"{path}: no published file is called {name}: read it with published=False")
    found = hashlib.sha256(read_unpacked(path)).hexdigest()
    if found != PUBLISHED[name][0]:
        raise LocateError(
            f"{path} holds text of sha256 {found[:12]}...; the published file has {PUBLISHED[name][0][:12]}...: fetch "
            "it again, or read a changed one with published=False"
        )


def file_hashes(paths: Iterable[Path]) -> dict[str, str]:
    """sha256 of each file as it is stored, by file name."""
    return {path.name: hash_of_files([path]) for path in paths}


def check_has_rows(path: Path, found: Sequence[Any]) -> None:
    """Raise LocateError for a file in which no row was found."""
    if not found:
        raise LocateError(f"{path} holds no rows: expected at least one")


def read_csv(path: Path, required: Sequence[str] = (), *, tabs: bool = False) -> list[NumberedRow]:
    """The rows of a CSV file with a header, or of a tab-separated one without quotes.

    Raises LocateError for a missing column, and names a row with more or fewer cells than the header.
    """
    stream = io.StringIO(read_text(path), newline="")
    reader = csv.DictReader(stream, strict=True)
    if tabs:
        reader = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        header = list(reader.fieldnames or ())
        missing = [name for name in required if name not in header]
        if missing:
            raise LocateError(f"{path} lacks the columns {', '.join(missing)}: found {', '.join(header) or 'none'}")
        with long_cells():
            rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise LocateError(f"{path} is not CSV ({error}): look for a quote that is never closed") from None
    for number, row in rows:
        if None in row or None in row.values():
            raise LocateError(f"{path}, line {number}: expected {len(header)} cells, as the header has")
    return rows


@contextmanager
def long_cells() -> Iterator[None]:
    """Inside the block a cell of a CSV file may be of any length; Python's limit, for all its readers, is 131,072."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def read_json_lines(path: Path) -> list[tuple[int, Any]]:
    """(line, value) of a JSON Lines file; a line that is not JSON is passed on as text."""
    rows: list[tuple[int, Any]] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append((number, json.loads(line)))
        except (ValueError, RecursionError):
            rows.append((number, line.strip()))
    return rows
