"""HTML of objects that a notebook shows: titles, sentences and tables, without a style sheet; every text is escaped."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from html import escape
from typing import TypeVar

LISTED = 10
"""rows of a table that a notebook shows"""
NUMBER = re.compile(r"$|[+-]?\d|< \d")
"""how a number begins, or an empty cell"""

Cells = Mapping[str, str]
"""texts of one row of a table, by column"""


def title(text: str) -> str:
    """The heading of an object."""
    return f"<p><b>{escape(text)}</b></p>"


def sentences(*lines: str) -> str:
    """Sentences, each on a line of its own; empty ones are left out."""
    return "".join(f"<p>{escape(each)}</p>" for each in lines if each)


def as_table(rows: Sequence[Cells]) -> str:
    """Rows as a table with a heading for each column and each row; "" where there is none.

    rows  with the same columns; one without any text is left out
    """
    if not rows:
        return ""
    columns = [name for name in rows[0] if any(each[name] for each in rows)]
    head = "".join(f'<th scope="col"{side(rows, name)}>{escape(name)}</th>' for name in columns)
    body = "".join(f"<tr>{row_of(each, columns, rows)}</tr>" for each in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def first_rows(rows: Sequence[Cells], total: int | None = None) -> str:
    """The first ten rows of an object whose `frame()` has all of them.

    total  how many there are, where `rows` holds fewer
    """
    shown, total = rows[:LISTED], len(rows) if total is None else total
    more = f"{len(shown)} of {total:,}; frame() has all of them" if total > len(shown) else ""
    return as_table(shown) + sentences(more)


def row_of(cells: Cells, columns: Sequence[str], rows: Sequence[Cells]) -> str:
    """The cells of one row, the first as its heading."""
    first, *rest = columns
    return f'<th scope="row"{side(rows, first)}>{escape(cells[first])}</th>' + "".join(
        f"<td{side(rows, name)}>{escape(cells[name])}</td>" for name in rest
    )


def side(rows: Sequence[Cells], name: str) -> str:
    """The side on which a column stands: numbers at the right, everything else at the left."""
    numbers = all(NUMBER.match(each[name]) for each in rows)
    return f' style="text-align:{"right" if numbers else "left"}"'


class Row(ABC):
    """What a notebook shows as a table of one row; several as one table, see `Rows`."""

    @abstractmethod
    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column."""

    def _repr_html_(self) -> str:
        return as_table([self.cells()])


Kind = TypeVar("Kind", bound=Row)


class Rows(tuple[Kind, ...]):
    """A tuple that a notebook shows as a table, a row for each."""

    def _repr_html_(self) -> str:
        return as_table([each.cells() for each in self]) or sentences("none")
