"""Figures of `mini`, drawn from the tables in its results folder.

python experiments/mini/figures.py [FOLDER]
"""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import records
from corpus import CONTEXT
from summary import LEAST_SEEN, LEAST_WITH_PRONOUN, frequent
from train import VALIDATION_WINDOWS

from locate.report.quiet import Figure, quiet_subplots
from locate.report.theme import COLOURS as PALETTE
from locate.report.theme import GREY, LABEL, add_words

HERE = Path(__file__).resolve().parent
OCCUPATIONS = HERE.parents[1] / "locate" / "prompts" / "tables" / "occupations.csv"
COLOURS = dict(zip(("wikipedia", "openstax", "novels"), PALETTE, strict=False))
PANELS = {
    "share_women": ("US labour statistics", "women among workers (%)", 1),
    "text_she_share": ("training text", "she among the pronouns after the word (%)", 100),
}


def curve(table: pd.DataFrame) -> go.Figure:
    """Loss while training."""
    seen = table["tokens"] / 1e6
    figure = Figure()
    figure.add_scatter(x=seen, y=table["train"], name="training", mode="lines", line_color="#999999")
    for corpus, colour in COLOURS.items():
        known = table[corpus].notna()
        figure.add_scatter(
            x=seen[known], y=table.loc[known, corpus], name=corpus, mode="lines+markers", line_color=colour
        )
    for number, rows in table.groupby("run"):
        if number > 1:
            figure.add_vline(
                x=seen[rows.index[0]],
                line_dash="dot",
                line_color=GREY,
                line_width=1.5,
                layer="above",
                annotation_text=f"run {number}",
            )
    figure.update_xaxes(title="training tokens seen (millions)", rangemode="tozero")
    figure.update_yaxes(title="loss (nats per token)")
    figure.update_layout(legend={"x": 1, "xanchor": "right", "y": 0.9})
    text = f"Coloured: the first {VALIDATION_WINDOWS * CONTEXT:,} tokens of each corpus' validation text."
    return add_words(figure, f"mini: loss over {seen.iloc[-1]:.1f} million training tokens", text, 900, 360)


def labelled(x: pd.Series, y: pd.Series, width: float, height: float) -> np.ndarray:
    """Points that carry a label: outermost first, where it meets no point and no label: bool [point].

    width, height  of a label, in the units of x and y; it stands above its point
    """
    places = np.column_stack([x / width, y / height])
    chosen: list[int] = []
    for point in np.argsort(-np.hypot(*(places - np.nanmedian(places, 0)).T)):
        away = places - places[point]
        covered = (abs(away[:, 0]) < 0.5) & (away[:, 1] > 0) & (away[:, 1] < 1)
        if not covered.any() and (abs(away[chosen]) > 1).any(1).all():
            chosen.append(point)
    return np.isin(np.arange(len(x)), chosen)


def scatter(table: pd.DataFrame, found: dict[str, dict[str, float]]) -> go.Figure:
    """The model's mean log-odds of each occupation against its share of women in labour and text.

    table  as `summary.frequent` returns it
    found  the correlations, as `summary.correlations` returns them
    """
    titles = [
        "{}: r = {r:.2f} [{low:.2f}, {high:.2f}], n = {n}".format(title, **found[name])
        for name, (title, _, _) in PANELS.items()
    ]
    figure = quiet_subplots(1, 2, subplot_titles=titles, shared_yaxes=True, horizontal_spacing=0.04)
    y = table["log_odds"]
    low, high = min(y.min(), 0), max(y.max(), 0)
    for column, (name, (_, label, scale)) in enumerate(PANELS.items(), start=1):
        x = table[name] * scale
        figure.add_scatter(
            x=x,
            y=y,
            text=table["word"].where(labelled(x, y, 12, (high - low) / 28), ""),
            mode="markers+text",
            textposition="top center",
            textfont={"size": LABEL, "color": GREY},
            marker={"color": PALETTE[0], "size": 6, "opacity": 0.8},
            row=1,
            col=column,
        )
        figure.update_xaxes(title_text=label, range=[-5, 105], row=1, col=column)
    margin = (high - low) * 0.07
    figure.update_yaxes(range=[low - margin, high + margin])
    figure.update_yaxes(title_text="mean log p(she) - log p(he) (nats)", row=1, col=1)
    figure.update_yaxes(zeroline=True)
    figure.update_layout(showlegend=False)
    text = (
        f"Occupations seen {LEAST_SEEN} or more times in the training text (right: {LEAST_WITH_PRONOUN} or more with a "
        "pronoun); Pearson r with its 95% bootstrap interval over occupations."
    )
    title = "mini: preferred pronoun of occupations and their share of women"
    return add_words(figure, title, text, 1300, 480)


def draw(folder: Path) -> None:
    """Write the PNG files beside the tables."""
    shares, odds = (pd.read_csv(folder / f"{name}.csv") for name in ("she_share", "log_odds"))
    found = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["log_odds_and"]
    table = frequent(pd.read_csv(OCCUPATIONS), shares, odds)
    scatter(table, found).write_image(folder / "scatter.png", scale=2)
    curve(records.curve(folder)).write_image(folder / "curve.png", scale=2)


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results")
