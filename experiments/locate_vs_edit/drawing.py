"""The figure: cut by an edit of one layer beside the traced effect of that layer, an editor to a panel."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from ranks import SAMPLES, cuts_drawn, effects_drawn, spans, weights_of

from locate.report import save_figures
from locate.report.quiet import quiet_subplots
from locate.report.theme import COLOURS, LABEL, add_words

MARKS = ("circle", "square", "diamond", "cross")
ACROSS = 4  # panels in a row
PANEL, TICK, HIGH = 310, 34, 240  # width of a panel at least, of a layer in it, and height of a panel (pixels)
BETWEEN = 90  # pixels for ticks and title between two rows of panels
DODGE = 0.18  # between the seeds of a layer


def points(edits: pd.DataFrame, words: pd.DataFrame, effects: pd.DataFrame, role: str) -> pd.DataFrame:
    """One row an editor, seed and layer edited alone: effect, and cut with its interval."""
    weights = weights_of(sorted({*words["word"], *effects["word"]}), SAMPLES, 0)
    effect = effects_drawn(weights, effects, role)
    rows = []
    for (editor, seed), own in words.groupby(["editor", "seed"], sort=False):
        cuts = cuts_drawn(weights, own)
        single = edits[(edits["editor"] == editor) & (edits["seed"] == seed) & (edits["size"] == 1)]
        for name in single["layers"]:
            low, high = spans(cuts[name].to_numpy())
            about = {"editor": editor, "seed": seed, "layer": int(name), "effect": float(effect[int(name)].iloc[0])}
            rows.append(about | {"cut": float(cuts[name].iloc[0]), "cut_low": low, "cut_high": high})
    return pd.DataFrame(rows)


def bars(rows: pd.DataFrame) -> dict[str, object]:
    """Error bars from the interval of the cut."""
    above, below = rows["cut_high"] - rows["cut"], rows["cut"] - rows["cut_low"]
    return {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 2}


def draw(
    edits: pd.DataFrame, words: pd.DataFrame, effects: pd.DataFrame, found: pd.DataFrame, path: Path,
    role: str = "subject_last",
) -> None:  # fmt: skip
    """Write the figure beside the tables: layers stand in the order of their effect, which is what rho sees of it."""
    rows = points(edits, words, effects, role)
    editors = list(dict.fromkeys(rows["editor"]))
    order = rows.drop_duplicates("layer").sort_values("effect")
    place_of = dict(zip(order["layer"], range(len(order)), strict=True))
    said = found[(found["effect_at"] == role) & (found["success"] == "cut")].set_index("editor")
    titles = [
        f"{editor}: rho {row['rho']:+.2f} [{row['low']:+.2f}, {row['high']:+.2f}]"
        for editor, row in said.loc[editors].iterrows()
    ]
    seeds = sorted(set(rows["seed"]))
    down, across = -(-len(editors) // ACROSS), min(ACROSS, len(editors))
    height = HIGH * down + BETWEEN * (down - 1)
    figure = quiet_subplots(
        down, across, shared_yaxes=True, subplot_titles=titles, horizontal_spacing=0.03,
        vertical_spacing=BETWEEN / height,
    )  # fmt: skip
    for index, editor in enumerate(editors):
        row, column = divmod(index, across)
        for place, seed in enumerate(seeds):
            own = rows[(rows["editor"] == editor) & (rows["seed"] == seed)]
            beside = DODGE * (place - (len(seeds) - 1) / 2)
            figure.add_trace(
                go.Scatter(
                    x=own["layer"].map(place_of) + beside, y=own["cut"], mode="markers", name=f"seed {seed}",
                    showlegend=index == 0, legendgroup=str(seed), error_y=bars(own),
                    marker={"size": 8, "color": COLOURS[place % 4], "symbol": MARKS[place % 4]},
                ),
                row=row + 1, col=column + 1,
            )  # fmt: skip
    ticks = [f"{row.layer}<br>{row.effect:.2f}" for row in order.itertuples()]
    panel = max(PANEL, TICK * len(order))
    figure.update_xaxes(tickvals=list(range(len(order))), ticktext=ticks, tickangle=0, tickfont={"size": LABEL})
    figure.update_xaxes(title="layer, and its effect (nats)", row=down)
    figure.update_yaxes(zeroline=True)
    figure.update_yaxes(title="cut of held-out<br>mean |log-odds| (%)", col=1)
    caption = (
        f"Layers in the order of the effect of their MLP at {role}; dot and line: cut and its 95% interval, which "
        f"resamples occupations: {effects['word'].nunique()} traced, {words['word'].nunique()} held out in some seed."
    )
    title = "Does the layer that carries the bias edit best?"
    add_words(figure, title, caption, 130 + panel * across, height, left=90, right=110, bottom=70)
    save_figures({path.stem: figure}, path.parent, ("png",))
