"""The figure: every score of the table, a panel each, with the methods below each other."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from assembly import ABILITY, BIAS, ORIGINAL

from locate.report import save_figures
from locate.report.quiet import quiet_subplots
from locate.report.theme import BLACK, COLOURS, GREY, LABEL, add_words

COLUMNS = 4
BETWEEN = 60  # pixels for ticks and title between two rows of panels
WIDE, LEFT, LINE = 1400, 130, 16  # pixels: the figure, room for the methods, and a method
PLAIN, MOVED, SAME = BLACK, COLOURS[1], COLOURS[0]
ABOUT = (
    "Dot and line: score and its 95% interval; black: the original; orange: the interval of the paired change leaves "
    "out 0; blue: it holds 0; dotted: what an unbiased model has."
)


def colours(rows: pd.DataFrame) -> list[str]:
    """The original black; a method orange where the interval of its change leaves out 0, else blue."""
    moved = (rows["change_low"] > 0) | (rows["change_high"] < 0)
    return [
        PLAIN if method == ORIGINAL else MOVED if away else SAME
        for method, away in zip(rows["method"], moved, strict=True)
    ]


def draw(table: pd.DataFrame, path: Path) -> None:
    """Write the figure beside the table."""
    lines = [line for line in (*BIAS, *ABILITY) if len(rows_at(table, line.key))]
    methods = list(dict.fromkeys([ORIGINAL, *table["method"]]))
    rows = -(-len(lines) // COLUMNS)
    height = rows * (20 + LINE * len(methods)) + (rows - 1) * BETWEEN
    figure = quiet_subplots(
        rows, COLUMNS, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=BETWEEN / height,
        subplot_titles=[line.title for line in lines],
    )  # fmt: skip
    for place, line in enumerate(lines):
        scores = rows_at(table, line.key)
        where = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        figure.add_trace(
            go.Scatter(
                x=scores["value"], y=scores["method"], mode="markers", showlegend=False,
                marker={"size": 8, "color": colours(scores)},
                error_x={
                    "type": "data", "symmetric": False, "array": scores["high"] - scores["value"],
                    "arrayminus": scores["value"] - scores["low"], "thickness": 1, "color": GREY,
                },
            ),
            **where,
        )  # fmt: skip
        if line.ideal and float(line.ideal) in (0.0, 50.0):
            figure.add_vline(x=float(line.ideal), line={"width": 1, "dash": "dot", "color": GREY}, **where)
    figure.update_yaxes(categoryorder="array", categoryarray=methods[::-1], dtick=1, tickfont_size=LABEL)
    figure.update_annotations(font_size=LABEL)
    add_words(figure, "Before and after each edit", ABOUT, WIDE, height, left=LEFT)
    save_figures({path.stem: figure}, path.parent, ("png",))


def rows_at(table: pd.DataFrame, key: tuple[str, str, str]) -> pd.DataFrame:
    """The rows of one score."""
    found: pd.DataFrame = table[(table["test"] == key[0]) & (table["score"] == key[1]) & (table["part"] == key[2])]
    return found
