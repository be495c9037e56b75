"""The README's tables, from the tables of results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

SUCCESS = {"cut": "held-out words", "cut_both": "held-out words and templates"}
SCORES = {
    "cut": "cut, held-out words (%)",
    "cut_both": "cut, templates held out too (%)",
    "afgb": "AFGB, held-out words (points)",
    "kept_words": "definitional words kept (%)",
    "kept_prompts": "definitional prompts kept (%)",
    "perplexity": "perplexity (%)",
    "ds": "DS (%)",
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
            str(row["seeds"]),
        ]
        for row in found.to_dict("records")
    ]
    head = ["editor", "effect at", "cut of", "rho", "for other layers", "p", "rho without the last layer", "seeds"]
    return table(head, rows)


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


def edit_table(edits: pd.DataFrame) -> str:
    """Every edit with its success and cost; the located set in bold."""
    rows = []
    for row in edits.sort_values(["editor", "seed", "size", "layers"], kind="stable").to_dict("records"):
        layers = f"**{row['layers']}**" if row["located"] else row["layers"]
        rows.append([row["editor"], layers, str(row["seed"]), *(span(row, name, 1) for name in SCORES)])
    return table(["editor", "layers", "seed", *SCORES.values()], rows)
