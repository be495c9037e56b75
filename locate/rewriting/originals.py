"""Texts that are to be rewritten, with people's rewrites of them: MBIAS's columns, ParaDetox, WinoBias+, others."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.items import PRONOUNS
from locate.evaluation.winobias_data import MARKED
from locate.files import shuffle_names
from locate.training.rows import (
    HELD_OUT,
    SPLITS,
    TRAIN,
    Cells,
    LeftOut,
    Numbered,
    drawn_apart,
    found_file,
    has_words,
    is_writable,
    label_of,
    left_out_counts,
    note_on,
    numbered_rows,
)

TEXT = ("text", "input_text", "biased_text", "toxic", "gendered")
REFERENCES = ("references", "reference", "debiased_text", "neutral", "neutral1", "neutral2", "neutral3")
DEMOGRAPHIC = ("demographic", "dimension")  # MBIAS calls it dimension
WINOBIAS_PLUS = {"gendered", "neutral"}
FEWEST = 4  # held-out rows that guards can be measured on
BETWEEN = "names an occupation that is held out beside one that is not"
HELD_OUT_TEXT = "its text is held out, too"
SPACED = re.compile(r" (?=[.,;:!?](?:\s|$)|'s\b|n't\b)")
ARTICLE = re.compile(r"^(the|an|a) ", re.IGNORECASE)


@dataclass(frozen=True)
class Original:
    """A text to be rewritten.

    references   rewrites that people wrote; empty where there are none
    groups       what a split keeps together; intervals resample the first: WinoBias+'s occupations, else the cell
                 `group`, else the text
    line         of the file
    demographic  the group of people that the text is about, as the file says; "" where it says nothing
    split        "train", "held_out" or ""
    """

    text: str
    references: tuple[str, ...]
    groups: tuple[str, ...]
    line: int
    demographic: str = ""
    split: str = ""

    @property
    def group(self) -> str:
        """What intervals resample."""
        return self.groups[0]


@dataclass(frozen=True)
class Originals:
    """Rows to train on and rows held out, with what was left out.

    source  sha256 by file name
    """

    train: tuple[Original, ...]
    held_out: tuple[Original, ...]
    left_out: tuple[LeftOut, ...]
    source: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Counts, reasons and lines, for a receipt."""
        return {
            "source": self.source,
            "train": len(self.train),
            "held_out": len(self.held_out),
            "unchanged": sum(row.text in row.references for row in self.train),
        } | left_out_counts(self.left_out)


def read_originals(source: str | Path, *, held_out: float = 0.3, seed: int = 0, limit: int | None = None) -> Originals:
    """Rows of a file, or of a data set of the hub, that a rewriter can be trained on, and rows held out.

    source    a CSV, tab-separated or JSON Lines file, plain or gzipped, or OWNER/NAME:CONFIGURATION:SPLIT of the hub.
              Columns: a text (text, input_text, biased_text, toxic or gendered) and its rewrites (reference,
              debiased_text, neutral, neutral1 to neutral3, or references, a JSON list); group, demographic (or
              dimension) and split may stand beside
    held_out  share of the groups that are held out where the data has no column `split`
    seed      of that choice, and of `limit`
    limit     rows to train on, drawn with the seed; None takes all

    Data with the columns gendered and neutral is read as WinoBias+: brackets and the spaces before punctuation go, and
    rows are split by the occupations they name. Those that name both kinds are left out and counted.

    A row is left out, and named by its line, where a text is missing, empty or not text, where it has no rewrite,
    where it repeats another, and where it would be trained on although its text is held out, too. A text whose rewrite
    is the text itself is kept: it teaches to leave alone.

    Raises LocateError for a file or column that is missing, and for too few rows.
    """
    if not 0 < held_out < 1:
        raise LocateError(f"held_out {held_out}: expected a share between 0 and 1")
    if limit is not None and limit < 1:
        raise LocateError(f"limit {limit}: expected at least one row")
    with found_file(source) as (path, hashes):
        rows, gone = usable_rows(numbered_originals(path))
    train, apart, between = divide(rows, held_out, seed)
    texts = {spaced_once(row.text) for row in apart}
    twice = [row for row in train if spaced_once(row.text) in texts]
    train = [row for row in train if spaced_once(row.text) not in texts]
    if limit is not None:
        kept = drawn_rows(train, limit, seed)
        train = [row for row in train if row.line in kept]
    gone += [LeftOut(row.line, BETWEEN) for row in between] + [LeftOut(row.line, HELD_OUT_TEXT) for row in twice]
    made = Originals(tuple(train), tuple(apart), tuple(gone), hashes)
    if not train or len(apart) < FEWEST:
        told = note_on(made.as_json())
        raise LocateError(
            f"{source} has {len(train)} usable rows to train on and {len(apart)} held out: expected at least 1 and "
            f"{FEWEST}{'' if told is None else f'; {told}'}"
        )
    return made


def spaced_once(text: str) -> str:
    """A text with single spaces between its words."""
    return " ".join(text.split())


def drawn_rows(rows: Sequence[Original], limit: int, seed: int) -> set[int]:
    """Lines of so many rows, drawn with a seed."""
    return {int(line) for line in shuffle_names([str(row.line) for row in rows], seed)[:limit]}


def usable_rows(found: Sequence[tuple[int, Original | str]]) -> tuple[list[Original], list[LeftOut]]:
    """The rows that have a rewrite and repeat no other, and those left out."""
    rows: list[Original] = []
    gone: list[LeftOut] = []
    seen: dict[tuple[str, ...], int] = {}
    for line, row in found:
        if isinstance(row, str):
            gone.append(LeftOut(line, row))
            continue
        key = tuple(spaced_once(text) for text in (row.text, *row.references))
        if not row.references:
            gone.append(LeftOut(line, "has no rewrite"))
        elif key in seen:
            gone.append(LeftOut(line, f"repeats line {seen[key]}"))
        else:
            seen[key] = line
            rows.append(row)
    return rows, gone


def numbered_originals(path: Path, *, strict: bool = True) -> list[tuple[int, Original | str]]:
    """Every row of a file with its line: the text to be rewritten, or why it has none.

    strict  whether a row needs a known split and no unusable rewrite, as in training; otherwise these are left aside

    Raises LocateError where no row has a column of texts.
    """
    rows, columns = numbered_rows(path)
    names = [name for name in TEXT if name in columns]
    if not names:
        raise LocateError(
            f"{path} has no column of texts: found {', '.join(sorted(columns)) or 'none'}; expected one of "
            f"{', '.join(TEXT)}"
        )
    if columns >= WINOBIAS_PLUS:
        return winobias_plus(rows)
    return [(line, original_of(line, cells, names[0], strict=strict)) for line, cells in rows]


def original_of(line: int, cells: Cells | str, name: str, *, strict: bool = True) -> Original | str:
    """The row, or why it cannot be used; `strict` is that of `numbered_originals`."""
    if isinstance(cells, str):
        return cells
    text = cells.get(name)
    reason = unreadable(text, name)
    if reason is not None:
        return reason
    references: list[str] = []
    for column in REFERENCES:
        for each in texts_in(cells.get(column)):
            reason = unreadable(each, column)
            if reason is None:
                references.append(str(each).strip())
            elif strict:
                return reason
    split = label_of(cells, "split").lower() if strict else ""
    if split not in SPLITS:
        return f"split {split!r} is neither {TRAIN} nor {HELD_OUT}"
    text, demographic = str(text).strip(), demographic_of(cells)
    if not is_writable(demographic + label_of(cells, "group")):
        return "group or demographic has broken characters"
    return Original(text, tuple(references), (label_of(cells, "group") or text,), line, demographic, SPLITS[split])


def texts_in(given: Any) -> list[Any]:
    """The texts of a cell: those of a list, also of one that CSV holds as JSON; none for an empty cell."""
    if isinstance(given, str) and given.lstrip().startswith("["):
        with suppress(ValueError, RecursionError):
            given = json.loads(given)
    texts = given if isinstance(given, list) else [given]
    return [each for each in texts if each is not None and not (isinstance(each, str) and not each.strip())]


def demographic_of(cells: Cells) -> str:
    """The group of people that a row says it is about."""
    return next((label_of(cells, column) for column in DEMOGRAPHIC if label_of(cells, column)), "")


def unreadable(text: Any, name: str) -> str | None:
    """Why a cell is no text; None for one that is."""
    if not isinstance(text, str):
        return f"{name} is missing" if text is None else f"{name} is not text"
    if not has_words(text):
        return f"{name} is empty"
    return None if is_writable(text) else f"{name} has broken characters"


def winobias_plus(rows: Sequence[Numbered]) -> list[tuple[int, Original | str]]:
    """The rows of WinoBias+ (Vanmassenhove et al. 2021), grouped by the occupations that they name.

    The occupation in brackets, which the pronoun refers to, stands first.
    """
    found = [(line, original_of(line, cells, "gendered")) for line, cells in rows]
    marked = {name for _, row in found if isinstance(row, Original) for name in marked_names(row.text)}
    names = "|".join(re.escape(name) for name in sorted(marked, key=len, reverse=True))
    pattern = re.compile(rf"\b({names})\b", re.IGNORECASE) if marked else None
    read: list[tuple[int, Original | str]] = []
    for line, row in found:
        if isinstance(row, Original):
            own = marked_names(row.text)
            text = tidy(MARKED.sub(r"\1", row.text))
            others = [] if pattern is None else [name.lower() for name in pattern.findall(text)]
            groups = tuple(dict.fromkeys([*own, *others]))
            references = tuple(tidy(each) for each in row.references)
            row = replace(row, text=text, references=references, groups=groups) if groups else "names no occupation"
        read.append((line, row))
    return read


def marked_names(text: str) -> list[str]:
    """What stands in brackets and is no pronoun, in lower case, without its article."""
    words = [match[1].strip().lower() for match in MARKED.finditer(text)]
    return [ARTICLE.sub("", word) for word in words if word not in PRONOUNS]


def tidy(text: str) -> str:
    """A text without the spaces that tokenisers put before punctuation, and with single ones elsewhere."""
    return SPACED.sub("", spaced_once(text))


def divide(rows: Sequence[Original], share: float, seed: int) -> tuple[list[Original], list[Original], list[Original]]:
    """Rows to train on, rows held out, and rows of groups on both sides, which are neither.

    As the data says, or by whole groups of the rows that say nothing.
    """
    apart = drawn_apart([group for row in rows if not row.split for group in row.groups], share, seed)
    parts: tuple[list[Original], list[Original], list[Original]] = ([], [], [])
    for row in rows:
        inside = [group in apart for group in row.groups]
        held = row.split == HELD_OUT if row.split else all(inside)
        mixed = not row.split and any(inside) and not all(inside)
        parts[2 if mixed else int(held)].append(row)
    return parts
