"""The strongest sites of a run as a table that fits the terminal and cuts no number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

from locate.mediation.effect_table import OCCUPATION
from locate.mediation.located import Located, share_of
from locate.report.answer import SHOWN, digits_of, name_of, named_metric, with_ends
from locate.words import COPIED, QUANTITIES, chance

GAP = 2  # spaces between two columns
FOLDED = 22  # letters that a name is folded into before a column is left out


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    turn  its turn when columns are given what room there is, from 1 up; 0 for one that is always there
    """

    title: str
    cells: list[str]
    turn: int = 0

    @property
    def width(self) -> int:
        """Letters of the longest text."""
        return max(map(len, [self.title, *self.cells]))


def number_columns(located: Located, shown: int = SHOWN) -> list[Column]:
    """The columns beside the names; those that would be empty are left out, and n where all sites have the same."""
    sites = located.sites[:shown]
    digits = digits_of(located)
    shares = [share_of(site.effect, site.n, located) for site in sites]
    columns = [
        Column(
            f"effect, {located.level:.0%} interval",
            [with_ends(site.effect, site.low, site.high, digits) for site in sites],
        ),
        Column("share", shares, 2) if any(shares) else None,
        Column("q", [chance(site.q) for site in sites]),
        Column("n", [str(site.n) for site in sites], 3) if len({site.n for site in sites}) > 1 else None,
        Column("stable", [f"{site.stability:.2f}" for site in sites], 4),
        Column("selectivity", [site.selectivity.text() if site.selectivity else "" for site in sites], 1)
        if located.selective
        else None,
    ]
    return [each for each in columns if each is not None]


def fitting(columns: Sequence[Column], names: Sequence[str], width: int) -> tuple[list[Column], int]:
    """The columns that leave room for the names, folded where they must be, and the width of the names."""
    longest = max(map(len, names))
    room = width - sum(each.width + GAP for each in columns if not each.turn)
    kept = [each for each in columns if not each.turn]
    for each in sorted(columns, key=lambda column: column.turn):
        if each.turn and room - each.width - GAP >= min(longest, FOLDED):
            kept.append(each)
            room -= each.width + GAP
    words = max(len(word) for name in names for word in name.split())
    return [each for each in columns if each in kept], min(longest, max(room, words))


def site_table(located: Located, width: int) -> tuple[Table, list[str]]:
    """The strongest sites within so many columns of a terminal, and the titles of the columns that had no room.

    Names are folded at spaces; a number is never cut.
    """
    names = [name_of(site, located).replace(" the ", " ") for site in located.sites[:SHOWN]]
    columns = number_columns(located)
    kept, room = fitting(columns, names, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP // 2))
    table.add_column("site", width=room, overflow="fold")
    for each in kept:
        table.add_column(each.title, justify="right", no_wrap=True, width=each.width)
    for number, name in enumerate(names):
        table.add_row(name, *(each.cells[number] for each in kept))
    return table, [each.title for each in columns if each not in kept]


def table_title(located: Located) -> str:
    """What the table lists, in words."""
    title = f"Strongest sites: {QUANTITIES[located.quantity]} on the {named_metric(located)}, in {located.unit}, "
    title += f"values copied {COPIED[located.direction]}"
    if located.window > 1:
        title += f", {located.window} layers at once around each"
    if located.kind != OCCUPATION:
        title += f"; pairs of kind {located.kind}"
    counts = {site.n for site in located.sites[:SHOWN]}
    return f"{title}; n = {counts.pop()} pairs" if len(counts) == 1 else title


def table_foot(located: Located, hidden: Sequence[str]) -> str:
    """What the columns mean, and which had no room."""
    titles = [each.title for each in number_columns(located) if each.title not in hidden]
    told = {
        "share": "share: part of the total effect",
        "q": "q: p corrected for all sites (false-discovery rate)",
        "stable": "stable: how often among the five strongest when subjects are resampled",
        "selectivity": "selectivity: +1 carries the stereotype alone, -1 the gender that words state",
    }
    foot = "; ".join(told[name] for name in titles if name in told)
    return foot + (f"; no room here for {', '.join(hidden)}: widen the terminal, or take --json" if hidden else "")
