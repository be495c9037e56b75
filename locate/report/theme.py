"""How figures look: template, colour scale, and the words around them, which pages can take as plain text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any

import numpy as np
import plotly.graph_objects as go
from jaxtyping import Float
from plotly.colors import diverging, hex_to_rgb, unlabel_rgb

from locate.words import decimals

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
RAMP = tuple("#{:02x}{:02x}{:02x}".format(*map(int, unlabel_rgb(each))) for each in diverging.PuOr_r)
"""colours from the lowest to the highest value, told apart by colour-blind readers; near white in the middle"""

BLACK, DARK, GREY, RULE, WHITE = "#000000", "#222222", "#555555", "#e6e6e6", "#ffffff"
TITLE, PANEL, TEXT, LABEL = 17, 13, 12, 11  # px: titles; of panels; captions and axes; the smallest of any figure
LINE = {TITLE: 23, TEXT: 16}  # px from line to line
LETTER = {TITLE: 7.7, TEXT: 5.4}  # px of a letter, about
NARROWEST = 700  # px of a figure
SIDE, ABOVE, GAP = 16, 12, 10  # px: words from the figure's left edge, from its top, and from the panels
FAR, QUANTILE = 4.0, 0.98  # an effect FAR times as large as that quantile lies beyond the colour scale
PANEL_TITLE = 26  # px
HEADLINE, CAPTION, FOOT = "title", "caption", "foot"

Values = Sequence[float] | Float[np.ndarray, "..."]

AXIS = {
    "gridcolor": RULE,
    "zeroline": False,
    "zerolinecolor": BLACK,
    "zerolinewidth": 1,
    "ticks": "",
    "exponentformat": "none",
    "ticklabelstandoff": 4,
    "tickfont": {"size": TEXT},
    "title": {"font": {"size": TEXT}, "standoff": 8},
}
TEMPLATE = go.layout.Template(
    layout={
        "font": {"family": "Arial, Helvetica, sans-serif", "size": TEXT, "color": DARK},
        "colorway": COLOURS[:6],
        "plot_bgcolor": WHITE,
        "paper_bgcolor": WHITE,
        "xaxis": AXIS,
        "yaxis": AXIS,
        "hoverlabel": {"align": "left", "font": {"size": TEXT}},
        "annotationdefaults": {"font": {"size": TEXT}},
        "coloraxis": {"colorscale": [[place / 10, colour] for place, colour in enumerate(RAMP)]},
    }
)
"""of every figure; `plotly.express` takes it as `template=`"""


def colour(value: float, limit: float) -> str:
    """The colour "#rrggbb" of a value on the scale from -limit to limit, as plotly mixes it; of its end beyond."""
    place = (float(np.clip(value / limit, -1, 1)) + 1) / 2 * (len(RAMP) - 1)
    low = min(int(place), len(RAMP) - 2)
    ends = [np.array(hex_to_rgb(each)) for each in RAMP[low : low + 2]]
    mixed = ends[0] + (place - low) * (ends[1] - ends[0])
    return "#{:02x}{:02x}{:02x}".format(*(round(each) for each in mixed.tolist()))


def luminance(colour: str) -> float:
    """Relative luminance of "#rrggbb", from 0 (black) to 1 (white), as WCAG 2.2 defines it."""
    parts = np.array(hex_to_rgb(colour)) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, from 1 to 21, as WCAG 2.2 defines it; text needs 4.5."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def ink(colour: str) -> str:
    """Black or white, whichever is easier to read on a colour; its contrast is 4.5 at least."""
    return max((BLACK, WHITE), key=lambda each: contrast(each, colour))


def limit_of(values: Values) -> tuple[float, int]:
    """Where a colour scale of these values ends, and how many of them lie beyond.

    It ends at the largest size; where that is more than four times the 98th percentile of the sizes, at the percentile,
    so that one outlier does not flatten a map. Missing values do not count; 1 where all are 0 or missing.
    """
    sizes = np.abs(np.asarray(values, dtype=float).ravel())
    sizes = sizes[np.isfinite(sizes)]
    if not sizes.any():
        return 1.0, 0
    largest, high = float(sizes.max()), float(np.quantile(sizes, QUANTILE, method="higher"))
    if not 0 < FAR * high < largest:
        return largest, 0
    return high, int((sizes > high).sum())


@dataclass(frozen=True)
class Scale:
    """A colour scale from -limit to limit.

    beyond  how many of the values drawn lie beyond it
    digits  decimals of the numbers in the cells
    unit    of the values
    """

    limit: float
    beyond: int
    digits: int
    unit: str

    @staticmethod
    def of(values: Values, unit: str) -> Scale:
        """The scale of some values; see `limit_of`."""
        limit, beyond = limit_of(values)
        return Scale(limit, beyond, decimals(limit), unit)

    def axis(self, **bar: Any) -> dict[str, object]:
        """Arguments of plotly's `coloraxis`; those of `bar` go to its colour bar."""
        text = f"{safe(self.unit)}<br>(framed:<br>beyond)" if self.beyond else safe(self.unit)
        bar = {
            "title": {"text": text, "font": {"size": TEXT}},
            "thickness": 16,
            "tickfont": {"size": TEXT},
            "exponentformat": "none",
        } | bar
        return {"cmin": -self.limit, "cmax": self.limit, "colorbar": bar}


def safe(text: str) -> str:
    """Text with HTML's characters escaped: prompts are data, not markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def wrap_text(text: str, width: float, size: int) -> list[str]:
    """Escaped lines of a text that fit into so many pixels; none breaks before or after a sign like =."""
    room = max(20, int(width / LETTER[size]))
    kept = re.sub(r" ([=<>≤]) ", "\u00a0\\1\u00a0", text)
    return [safe(line) for line in wrap(kept, room, break_long_words=False)]


def add_words(
    figure: go.Figure,
    title: str,
    caption: str,
    width: float,
    height: float,
    *,
    left: int = 70,
    right: int = 30,
    bottom: int = 60,
    top: int = PANEL_TITLE,
) -> go.Figure:
    """The figure with a title and a caption above it.

    title, caption            plain text; both are wrapped, and kept in `layout.meta` with an empty "foot"
    width                     of the whole figure, px
    height                    of its panels, px; what stands around them is added
    left, right, bottom, top  room around the panels for their own labels, px
    """
    width, height = round(max(width, NARROWEST)), round(height)
    lines = {TITLE: wrap_text(title, width - 2 * SIDE, TITLE), TEXT: wrap_text(caption, width - 2 * SIDE, TEXT)}
    above = head(len(lines[TITLE]), len(lines[TEXT])) + top
    figure.update_layout(
        width=width,
        height=above + height + bottom,
        margin={"l": left, "r": right, "t": above, "b": bottom},
        meta={HEADLINE: title, CAPTION: caption, FOOT: ""},
    )
    down = above - ABOVE
    for name, size, ink in ((HEADLINE, TITLE, DARK), (CAPTION, TEXT, GREY)):
        figure.add_annotation(
            name=name, text="<br>".join(lines[size]), xref="paper", yref="paper", x=0, y=1, xanchor="left",
            yanchor="top", align="left", showarrow=False, xshift=SIDE - left, yshift=down, borderpad=0,
            font={"size": size, "color": ink},
        )  # fmt: skip
        down -= LINE[size] * len(lines[size])
    return figure


def head(titles: int, lines: int) -> int:
    """Pixels above the panels for so many lines of title and caption."""
    return ABOVE + LINE[TITLE] * titles + LINE[TEXT] * lines + GAP


def tail(lines: int) -> int:
    """Pixels below everything else for so many lines."""
    return GAP + LINE[TEXT] * lines


def with_foot(figure: go.Figure, text: str) -> go.Figure:
    """The figure with a plain text below everything else, wrapped to its width; one made by `add_words`."""
    margin = figure.layout.margin
    lines = wrap_text(text, figure.layout.width - 2 * SIDE, TEXT)
    bottom = margin.b + tail(len(lines))
    figure.update_layout(height=figure.layout.height + tail(len(lines)), margin_b=bottom)
    figure.layout.meta = figure.layout.meta | {FOOT: text}
    figure.add_annotation(
        name=FOOT, text="<br>".join(lines), xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="bottom",
        align="left", showarrow=False, xshift=SIDE - margin.l, yshift=GAP / 2 - bottom, borderpad=0,
        font={"size": TEXT, "color": GREY},
    )  # fmt: skip
    return figure


def bare(figure: go.Figure) -> go.Figure:
    """A copy without title, caption and foot, and without their room; their words are in `layout.meta`."""
    copy, lines = type(figure)(figure), {HEADLINE: 0, CAPTION: 0, FOOT: 0}
    for each in copy.layout.annotations:
        if each.name in lines:
            lines[each.name] = each.text.count("<br>") + 1
    above = head(lines[HEADLINE], lines[CAPTION]) - GAP
    below = tail(lines[FOOT]) if lines[FOOT] else 0
    copy.layout.annotations = [each for each in copy.layout.annotations if each.name not in lines]
    copy.update_layout(height=copy.layout.height - above - below)
    return copy.update_layout(margin={"t": copy.layout.margin.t - above, "b": copy.layout.margin.b - below})
