"""What the command line prints of a rewriter's training and of a judgement of rewrites."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from locate.rewriting.verdict import Verdict

UNSHOWN = ("empty", "refused", "copied", "cut", "repeating", "rouge_l", "likelihood")
"""measures that groups.csv has and the screen has no room for"""
COUNTS = 4  # columns of groups.csv before its measures


def looks_table(looks: list[dict[str, Any]]) -> Table:
    """What was seen while a rewriter was trained."""
    from rich.table import Table

    table = Table(title="held-out rows while training", title_justify="left", box=None, pad_edge=False)
    for name in looks[0]:
        table.add_column("nats a token" if name == "reference" else name, justify="right", no_wrap=True)
    for each in looks:
        table.add_row(*(f"{value:.3g}" for value in each.values()))
    return table


def print_verdict(found: Verdict) -> None:
    """The means, the groups, and what was counted."""
    from locate.cli.show import print_whole, stdout

    console = stdout()
    print_whole(console, summary_table(found.summary))
    if len(found.groups) > 1:
        print_whole(console, group_table(found.groups))
    outcomes = ", ".join(f"{count} {name}" for name, count in sorted(found.about["outcomes"].items()))
    console.print(f"{found.about['rows']} rows: {outcomes}")
    for reason, lines in found.about["unread"].items():
        console.print(f"not read: {reason} (lines {', '.join(map(str, lines[:5]))})", soft_wrap=True)
    for problem, count in found.about["unparsable"].items():
        console.print(f"{count} answers of the judge have no score: {problem}", soft_wrap=True)
    for one, other in found.about["alike"]:
        console.print(f"groups {one!r} and {other!r} look alike: are they one?", soft_wrap=True)


def summary_table(summary: pd.DataFrame) -> Table:
    """One line for each measure: all rows, those without failures, the originals, and the change."""
    from rich.table import Table

    kinds = ("all", "without failed", "original", "change")
    table = Table(title="rewrites, mean and 95% interval", title_justify="left", box=None, pad_edge=False)
    for name in ("measure", "unit", *kinds, "n"):
        table.add_column(name, justify="left" if name in ("measure", "unit") else "right", no_wrap=True)
    for (measure, unit), own in summary.groupby(["measure", "unit"], sort=False):
        cells = {row.rows: number(row.value, row.low, row.high, row.rows) for row in own.itertuples()}
        counted = own.loc[own["rows"] == "all", "n"]
        table.add_row(
            str(measure).replace("_", " "), str(unit), *(cells.get(kind, "") for kind in kinds),
            f"{int(counted.iloc[0]):,}" if len(counted) else "",
        )  # fmt: skip
    return table


def number(value: float, low: float, high: float, kind: str) -> str:
    """A mean with its interval."""
    sign = "+" if kind == "change" else ""
    ends = "" if math.isnan(low) else f" [{low:{sign}.3g}, {high:{sign}.3g}]"
    return f"{value:{sign}.3g}{ends}"


def group_table(groups: pd.DataFrame) -> Table:
    """One line for each demographic group."""
    from rich.table import Table

    table = Table(title="by group, all rows (without failed)", title_justify="left", box=None, pad_edge=False)
    names = [name for name in groups.columns if ", " not in name and name not in UNSHOWN]
    for name in names:
        table.add_column(name.replace("_", " "), justify="left" if name == "demographic" else "right", no_wrap=True)
    for row in groups.to_dict("records"):
        cells = [str(row[name]) for name in names[:COUNTS]]
        for name in names[COUNTS:]:
            cells.append(f"{row[name]:.3g} ({row[f'{name}, without failed']:.3g})")
        table.add_row(*cells)
    return table
