"""Pieces that pages share: bars beside their words, and figures under their titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import plotly.graph_objects as go

from locate.report.page.document import place_of


@dataclass(frozen=True)
class Bar:
    """A line of a list of bars: what it is, how large, the number in words, and whether it works the other way."""

    words: str
    value: float
    text: str
    against: bool


def bar_list(bars: Sequence[Bar]) -> str:
    """Bars as long as their values, each between its words and its number; "" where there are none."""
    largest = max((abs(each.value) for each in bars), default=0.0) or 1.0
    lines = [
        f'<li><span>{escape(each.words)}</span><span class="bar {"against" if each.against else "along"}" '
        f'style="width:{100 * abs(each.value) / largest:.1f}%"></span>'
        f'<span class="size">{escape(each.text)}</span></li>'
        for each in bars
    ]
    return f'<ol class="carriers">{"".join(lines)}</ol>' if lines else ""


def next_section(advice: Sequence[str], commands: Sequence[str]) -> str:
    """What to do next: sentences, and commands to type."""
    lines = "".join(f"<pre><code>{escape(each)}</code></pre>" for each in commands)
    return (
        '<section aria-labelledby="next"><h2 id="next">What to do next</h2>'
        f"{''.join(f'<p>{escape(each)}</p>' for each in advice)}{lines}</section>"
    )


def figure_places(figures: Mapping[str, go.Figure], missing: str = "") -> str:
    """Where each figure is drawn, under its title; missing says what could not be written."""
    note = f'<p class="missing">{escape(missing)}</p>' if missing else ""
    return note + "".join(
        place_of(name, each.layout.meta["title"], f"{each.layout.meta['caption']} {each.layout.meta['foot']}".strip())
        for name, each in figures.items()
    )
