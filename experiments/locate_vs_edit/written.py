"""The README's tables, from the tables of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

SUCCESS = {"cut": "held-out words", "cut_both": "held-out words and templates"}
COSTS = {
    "kept_words": "definitional words kept, least (%)",
    "kept_prompts": "definitional prompts kept, least (%)",
    "perplexity": "perplexity, most (%)",
    "ds": "DS, least (%)",
}


def span(row: dict[Any, Any], name: str, digits: int, low: str = "", high: str = "") -> str:
    """A number with its interval."""
    ends = [row[low or f"{name}_low"], row[high or f"{name}_high"]]
    texts = [f"{value:.{digits}f}" for value in (row[name], *ends)]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lines of a markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]) + "\n"


def correlation_table(found: pd.DataFrame) -> str:
    """Spearman's rho, a line an editor, role and success."""
    rows = [
        [
            row["editor"],
            f"`{row['effect_at']}`",
            SUCCESS[row["success"]],
            span(row, "rho", 2, "low", "high"),
            f"[{row['low_layers']:.2f}, {row['high_layers']:.2f}]",
            f"{row['p']:.2f}",
            span(row, "rho_below", 2, "low_below", "high_below"),
            span(row, "rho_depth", 2, "low_depth", "high_depth"),
            str(row["seeds"]),
        ]
        for row in found.to_dict("records")
    ]
    head = ["editor", "effect at", "cut of", "rho", "for other layers", "p"]
    return table([*head, "rho without the last layer", "rho of the layer's number", "seeds"], rows)


def set_table(beside: pd.DataFrame) -> str:
    """Cut at located layers and at others, a line an editor and number of layers."""
    rows = [
        [
            row["editor"],
            str(row["layers"]),
            span(row, "located", 1),
            f"{span(row, 'random', 1)}, {row['random_sets']} edits",
            span(row, "difference", 1),
        ]
        for row in beside.to_dict("records")
    ]
    return table(["editor", "located", "cut there (%)", "mean cut at other layers (%)", "difference (points)"], rows)


def layer_table(edits: pd.DataFrame, effects: pd.DataFrame) -> str:
    """Each layer edited alone: its effects (nats), and the cut of held-out words by each editor, a number a seed."""
    sums = effects.groupby(["role", "layer"])[["sum", "pairs"]].sum()
    means = (sums["sum"] / sums["pairs"]).unstack("role")
    single = edits[edits["size"] == 1].astype({"layers": int}).sort_values("seed")
    cuts = single.groupby(["editor", "layers"])["cut"].agg(lambda own: ", ".join(f"{each:.0f}" for each in own))
    editors = sorted(set(single["editor"]))
    rows = [
        [
            str(layer),
            *(f"{value:+.2f}" for value in row),
            *(cuts.get((editor, layer), "") for editor in editors),
        ]
        for layer, row in means.iterrows()
    ]
    return table(["layer", *(f"effect at `{role}`" for role in means.columns), *editors], rows)


def cost_table(edits: pd.DataFrame) -> str:
    """What the dearest edit of each editor cost, with its interval and layers."""
    rows = []
    for editor, own in edits.groupby("editor"):
        dearest = [own.loc[own[name].idxmax() if name == "perplexity" else own[name].idxmin()] for name in COSTS]
        said = [f"{span(row, name, 1)} at {row['layers']}" for row, name in zip(dearest, COSTS, strict=True)]
        rows.append([str(editor), str(len(own)), *said])
    return table(["editor", "edits", *COSTS.values()], rows)
