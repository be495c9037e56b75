"""The figure: cut by an edit of one layer against the traced effect of that layer, an editor to a panel."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from ranks import SAMPLES, cuts_drawn, effects_drawn, spans, weights_of

from locate.report import save_figures

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
MARKS = ("circle", "square", "diamond", "cross")


def points(edits: pd.DataFrame, words: pd.DataFrame, effects: pd.DataFrame, role: str) -> pd.DataFrame:
    """One row an editor, seed and layer edited alone: effect and cut, each with its interval."""
    weights = weights_of(sorted({*words["word"], *effects["word"]}), SAMPLES, 0)
    effect = effects_drawn(weights, effects, role)
    rows = []
    for (editor, seed), own in words.groupby(["editor", "seed"], sort=False):
        cuts = cuts_drawn(weights, own)
        single = edits[(edits["editor"] == editor) & (edits["seed"] == seed) & (edits["size"] == 1)]
        for name in single["layers"]:
            row = {"editor": editor, "seed": seed, "layer": int(name)}
            for side, drawn in (("effect", effect[int(name)]), ("cut", cuts[name])):
                low, high = spans(drawn.to_numpy())
                row |= {side: float(drawn.iloc[0]), f"{side}_low": low, f"{side}_high": high}
            rows.append(row)
    return pd.DataFrame(rows)


def bars(rows: pd.DataFrame, side: str) -> dict[str, object]:
    """Error bars from the interval of a column."""
    return {
        "type": "data",
        "symmetric": False,
        "array": rows[f"{side}_high"] - rows[side],
        "arrayminus": rows[side] - rows[f"{side}_low"],
        "thickness": 1,
        "width": 2,
    }


def draw(
    edits: pd.DataFrame, words: pd.DataFrame, effects: pd.DataFrame, found: pd.DataFrame, path: Path,
    role: str = "subject_last",
) -> None:  # fmt: skip
    """Write the figure beside the tables."""
    rows = points(edits, words, effects, role)
    editors = list(dict.fromkeys(rows["editor"]))
    said = found[(found["effect_at"] == role) & (found["success"] == "cut")].set_index("editor")
    titles = [
        f"{editor}: rho {row['rho']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        for editor, row in said.loc[editors].iterrows()
    ]
    figure = make_subplots(1, len(editors), shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03)
    for column, editor in enumerate(editors, start=1):
        for place, (seed, own) in enumerate(rows[rows["editor"] == editor].groupby("seed")):
            figure.add_trace(
                go.Scatter(
                    x=own["effect"], y=own["cut"], text=own["layer"], mode="markers+text", name=f"seed {seed}",
                    textposition="top right", showlegend=column == 1, legendgroup=str(seed),
                    marker={"size": 9, "color": COLOURS[place % 4], "symbol": MARKS[place % 4]},
                    error_x=bars(own, "effect"), error_y=bars(own, "cut"),
                ),
                row=1, col=column,
            )  # fmt: skip
        figure.update_xaxes(title=f"effect of the MLP at {role} (nats)", row=1, col=column)
    figure.add_hline(y=0, line={"width": 1, "color": "grey"})
    figure.update_yaxes(title="cut of held-out mean |log-odds| (%)", col=1)
    figure.update_layout(
        template="simple_white",
        title="Does the layer that carries the bias edit best?<br><sup>numbers are layers; 95 % intervals resample "
        f"occupations: {effects['word'].nunique()} traced, {words['word'].nunique()} held out in some seed</sup>",
        width=120 + 330 * len(editors),
        height=480,
        margin={"t": 100},
    )
    save_figures({path.stem: figure}, path.parent, ("png",))
