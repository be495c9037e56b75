"""The figure: every score of the table, a panel each, with the methods below each other."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from assembly import ABILITY, BIAS, ORIGINAL
from plotly.subplots import make_subplots

from locate.report import save_figures

COLUMNS = 4
PLAIN, MOVED, SAME = "#000000", "#D55E00", "#0072B2"


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
    height = -(-len(lines) // COLUMNS)
    figure = make_subplots(
        height, COLUMNS, shared_yaxes=True, horizontal_spacing=0.03, vertical_spacing=0.045,
        subplot_titles=[line.title for line in lines],
    )  # fmt: skip
    for place, line in enumerate(lines):
        rows = rows_at(table, line.key)
        where = {"row": place // COLUMNS + 1, "col": place % COLUMNS + 1}
        figure.add_trace(
            go.Scatter(
                x=rows["value"], y=rows["method"], mode="markers", showlegend=False,
                marker={"size": 8, "color": colours(rows)},
                error_x={
                    "type": "data", "symmetric": False, "array": rows["high"] - rows["value"],
                    "arrayminus": rows["value"] - rows["low"], "thickness": 1, "color": "#555555",
                },
            ),
            **where,
        )  # fmt: skip
        if line.ideal and float(line.ideal) in (0.0, 50.0):
            figure.add_vline(x=float(line.ideal), line={"width": 1, "dash": "dot", "color": "grey"}, **where)
    methods = list(dict.fromkeys([ORIGINAL, *table["method"]]))
    figure.update_yaxes(categoryorder="array", categoryarray=methods[::-1], dtick=1, tickfont_size=11)
    figure.update_annotations(font_size=11)
    figure.update_layout(
        template="simple_white",
        title="Before and after each edit<br><sup>95 % intervals; orange: the paired change leaves out 0; dotted: what "
        "an unbiased model has</sup>",
        width=1400,
        height=120 + (70 + 16 * len(methods)) * height,
        margin={"t": 110},
    )
    save_figures({path.stem: figure}, path.parent, ("png",))


def rows_at(table: pd.DataFrame, key: tuple[str, str, str]) -> pd.DataFrame:
    """The rows of one score."""
    found: pd.DataFrame = table[(table["test"] == key[0]) & (table["score"] == key[1]) & (table["part"] == key[2])]
    return found
