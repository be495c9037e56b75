"""Figures of the benchmark of the sweep, from the tables that `benchmarks/sweep.py` writes here."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.report.quiet import quiet_subplots
from locate.report.theme import add_words

HERE = Path(__file__).resolve().parent
COLOURS = {
    "locate, sweep": "#0072B2",
    "locate, sweep with probabilities": "#56B4E9",
    "transformer_lens.patching": "#D55E00",
    "nnsight": "#E69F00",
    "pyvene": "#CC79A7",
    "ROME's loop": "#999999",
}  # Okabe and Ito: apart for colour-blind readers too
PEER = "transformer_lens.patching"


def machine(about: dict[str, object]) -> str:
    """What was run where, and by which library."""
    where = f"Random weights in the shape of {about['shape']}, fp32, {about['machine']}, torch {about['torch']}"
    ours = about["products by"]
    return where if ours == "torch" else f"{where}; the sweep's matrix products by {ours}, the others' by torch"


def plot_speed(table: pd.DataFrame, about: dict[str, object]) -> go.Figure:
    """Seconds of the whole job for each engine, one panel for each number of tokens; positions all different."""
    table = table[table["first"] == 0]
    lengths = sorted(table["tokens"].unique())
    figure = quiet_subplots(1, len(lengths), subplot_titles=[f"{n} tokens" for n in lengths], shared_yaxes=True)
    for column, n_pos in enumerate(lengths, 1):
        rows = table[table["tokens"] == n_pos].sort_values("seconds", ascending=False)
        least = rows.loc[rows["engine"] == "locate, sweep", "seconds"].squeeze()
        text = [f"{s:,.0f} s" + ("" if s == least else f" ({s / least:.1f} x)") for s in rows["seconds"]]
        bars = go.Bar(
            x=rows["seconds"], y=rows["engine"], orientation="h", text=text, showlegend=False, textposition="outside",
            cliponaxis=False, marker_color=[COLOURS[engine] for engine in rows["engine"]],
        )  # fmt: skip
        figure.add_trace(bars, 1, column)
        figure.update_xaxes(title="seconds for the whole job", range=[0, 1.35 * rows["seconds"].max()], col=column)
    pairs, cells = table["pairs"].iloc[0], table.groupby("tokens")["cells"].first()
    counts = ", ".join(f"{cells[n]:,} at {n} tokens" for n in lengths)
    caption = (
        f"{machine(about)}. {pairs} pairs; sites: resid_pre, attn_out and mlp_out, every layer and position "
        f"({counts}). In brackets: times the sweep's. "
        "The job is read as log-odds. Peers run at full depth: their time is measured on random cells and scaled. "
        f"Largest difference between any two: {table['largest difference'].max():.1g} nats."
    )
    title = "Exact activation patching: the same job by five engines"
    return add_words(figure, title, caption, 960, 260, left=200)


def plot_curves(table: pd.DataFrame, about: dict[str, object]) -> go.Figure:
    """Seconds over tokens, layers and pairs, the sweep beside the peer."""
    axes = ("tokens", "layers", "pairs")
    figure = quiet_subplots(1, 3, subplot_titles=[f"over {axis}" for axis in axes])
    for column, axis in enumerate(axes, 1):
        part = table[table["over"] == axis]
        for engine, rows in part.groupby("engine"):
            rows = rows.sort_values(axis)
            line = go.Scatter(
                x=rows[axis],
                y=rows["seconds"],
                name=engine,
                mode="lines+markers",
                line={"color": COLOURS[engine], "dash": "dash" if engine == PEER else "solid"},
                showlegend=column == 1,
            )
            figure.add_trace(line, 1, column)
        figure.update_xaxes(title=axis, type="log", tickvals=sorted(part[axis].unique()), row=1, col=column)
    ends = [np.log10(table["seconds"].min()) - 0.1, np.log10(table["seconds"].max()) + 0.1]
    figure.update_yaxes(type="log", range=ends, dtick=1)
    figure.update_yaxes(title="seconds (log scale)", col=1)
    figure.update_layout(legend={"orientation": "h", "y": -0.2})
    rest = table[table["over"] != "tokens"]
    caption = (
        f"{machine(about)}; all positions differ. What is not varied: {rest['tokens'].iloc[0]} tokens, "
        f"{table['layers'].max()} layers, {table.loc[table['over'] == 'tokens', 'pairs'].iloc[0]} pairs. "
        "The peer's time is scaled from random cells."
    )
    return add_words(figure, "How the cost of an exact map grows", caption, 960, 280, bottom=90)


def plots() -> dict[str, go.Figure]:
    """All figures whose tables are here."""
    if not (HERE / "sweep.json").exists():
        return {}
    about = json.loads((HERE / "sweep.json").read_text())
    figures = {"sweep_speed": plot_speed(pd.read_csv(HERE / "sweep.csv"), about)}
    if (HERE / "sweep_curves.csv").exists():
        figures["sweep_curves"] = plot_curves(pd.read_csv(HERE / "sweep_curves.csv"), about)
    return figures
