"""Figures: overlaps of located sets, and what ablated neurons take."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import plotly.graph_objects as go

from locate.report.quiet import quiet_subplots
from locate.report.theme import COLOURS, add_words

UNITS = {"output": "MLP and attention outputs", "head": "heads", "neuron": "neurons of MLP 0"}
KINDS = {"occupation": "stereotype", "definition": "definition"}
WHERE = ("MLP 0", "all layers")
NAMES = {"templates of the package": "templates"}


def figures(tables: Mapping[str, pd.DataFrame]) -> dict[str, go.Figure]:
    """Both figures, by file name."""
    return {"overlap": draw_overlaps(tables["overlaps"]), "ablation": draw_ablations(tables["ablations"])}


def draw_overlaps(table: pd.DataFrame) -> go.Figure:
    """One panel a unit, one line a comparison: the share with its interval, beside halves of the words and chance."""
    figure = quiet_subplots(
        1, len(UNITS), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=list(UNITS.values())
    )
    for column, unit in enumerate(UNITS, start=1):
        rows = table[(table["unit"] == unit) & (table["k"] == 10)].iloc[::-1]
        lines = [f"{NAMES.get(a, a)} / {NAMES.get(b, b)}" for a, b in zip(rows["a"], rows["b"], strict=True)]
        error = {"type": "data", "symmetric": False, "array": rows["high"] - rows["share"]}
        error |= {"arrayminus": rows["share"] - rows["low"], "thickness": 1.5}
        within = rows[["within_a", "within_b"]].mean(axis=1)
        marks = (
            ("all words of both", rows["share"], "circle", COLOURS[0], 10, error),
            ("two halves of the words of one", within, "diamond-open", COLOURS[1], 10, None),
            ("a half of each", rows["across"], "x-thin-open", COLOURS[0], 9, None),
            ("chance", rows["chance"], "line-ns-open", "#777777", 12, None),
        )
        for name, x, symbol, colour, size, bar in marks:
            figure.add_scatter(
                x=x, y=lines, mode="markers", name=name, showlegend=column == 1, error_x=bar, row=1, col=column,
                marker={"symbol": symbol, "color": colour, "size": size, "line": {"width": 2, "color": colour}},
            )  # fmt: skip
    figure.update_xaxes(range=[-0.03, 1.05], title="share of the 10 strongest", zeroline=True)
    text = (
        "Denoising; 95% intervals over couples of words; halves: means over 100 random halves of the couples, "
        "which have half as many words as the dots. "
        "Outputs and heads are patched exactly, neurons estimated by integrated gradients."
    )
    add_words(figure, "Are the same sites located?", text, 1080, 210, left=190, bottom=95)
    return figure.update_layout(legend={"orientation": "h", "y": -0.25})


def draw_ablations(table: pd.DataFrame) -> go.Figure:
    """What ablating neurons takes of the stereotype and of the definition, by the size of the set."""
    table = table.assign(**table["set"].str.extract(r"(?P<where>.*)\|(?P<by>.*)\|(?P<size>\d+)"))
    table = table.assign(size=table["size"].astype(int), percent=100 * table["taken"])
    names = {"occupation": "chosen for the stereotype", "definition": "chosen for the definition", "random": "random"}
    titles = [f"{where}: {name}" for where in WHERE for name in KINDS.values()]
    figure = quiet_subplots(1, 4, shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=titles)
    for column, (where, kind) in enumerate([(where, kind) for where in WHERE for kind in KINDS], start=1):
        panel = table[(table["where"] == where) & (table["kind"] == kind)]
        for colour, (by, name) in zip((COLOURS[0], COLOURS[1], "#777777"), names.items(), strict=True):
            rows = panel[panel["by"].str.startswith(by)].sort_values("size")
            error = {"type": "data", "symmetric": False, "array": 100 * (rows["high"] - rows["taken"])}
            error |= {"arrayminus": 100 * (rows["taken"] - rows["low"])}
            chosen = by != "random"
            figure.add_scatter(
                x=rows["size"].astype(str), y=rows["percent"], name=name, mode="lines+markers" if chosen else "markers",
                error_y=error if chosen else None, showlegend=column == 1, row=1, col=column,
                marker={"color": colour, "size": 8 if chosen else 5}, line={"color": colour},
            )  # fmt: skip
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title="neurons set to 0", type="category", categoryarray=["10", "30", "100"])
    figure.update_yaxes(title="% taken", col=1)
    n = {kind: table.loc[table["kind"] == kind, ["n", "groups"]].max() for kind in KINDS}
    text = (
        "Share taken of the difference in log-odds between the two words of a pair; neurons chosen on half of the "
        "words, set to 0 at every token in prompts about the others: n = "
        f"{n['occupation']['n']} pairs of {n['occupation']['groups']} couples of occupations, {n['definition']['n']} "
        f"pairs of {n['definition']['groups']} couples of words that say their gender; 95% intervals over couples; "
        "every random set (as many neurons in the same layers) is a dot; below 0: the difference grows."
    )
    add_words(figure, "What ablating neurons takes", text, 1180, 270, bottom=95)
    return figure.update_layout(legend={"orientation": "h", "y": -0.2})
