"""Cells of a map by layer and column: colours, numbers that can be read on them, and marks for what has no colour."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from textwrap import wrap
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from locate.mediation.analysis import Shown
from locate.mediation.located import THRESHOLD
from locate.report.theme import BLACK, LABEL, WHITE, Scale, colour, ink, safe
from locate.sites import FIRST, LAST_SUBJECT, MIDDLE
from locate.words import chance, role_words, signed, site_words, with_interval

SUBJECT = (FIRST, MIDDLE, LAST_SUBJECT)
STILL = "0 within rounding: nothing that follows from it reaches the answer"
NOT_MEASURED = "not measured"
HATCH, APART, CORNER = "#c8c8c8", 9, 6  # px from one diagonal to the next; from a cell's corner to its dot
BREAK = (np.nan, np.nan)
CORNERS = ((-1, -1), (-1, 1), (1, 1), (1, -1), (-1, -1), BREAK)
INSET = 3  # px from a cell's edge to the frame in it
WIDE, NARROW, LETTERS = 74, 48, 20  # px of a column beside whose neighbours labels lie flat; of any; of its frame
TALL, LOW, FEW = 34, 22, 14  # px of a row in a map of at most FEW layers, and of more


@dataclass(frozen=True)
class Frame:
    """What all panels of a figure share.

    layers   from the lowest row up
    columns  their keys, from the left
    labels   of the columns, marked up
    scale    of the colours
    width    of a column, px
    """

    layers: Sequence[int]
    columns: Sequence[str]
    labels: Sequence[str]
    scale: Scale
    width: float = NARROW

    @staticmethod
    def of(rows: pd.DataFrame, columns: Sequence[str], labels: Sequence[str], shown: Shown) -> Frame:
        """The frame of some averages; those that are 0 within rounding have no part in its scale."""
        drawn = rows.loc[~is_still(rows, shown), "effect"].to_numpy()
        return Frame(layers_of(rows), columns, labels, Scale.of(drawn, shown.unit)).wide()

    def wide(self, least: float = NARROW) -> Frame:
        """The frame with columns as wide as their numbers need, and at least so wide."""
        return replace(
            self, width=max(least, NARROW, LETTERS + 6.2 * len(signed(-self.scale.limit, self.scale.digits)))
        )

    @property
    def panel(self) -> float:
        """Pixels from side to side of a panel."""
        return self.width * len(self.columns)

    @property
    def height(self) -> int:
        """Pixels of a panel."""
        return len(self.layers) * self.row

    @property
    def row(self) -> int:
        """Pixels of a row."""
        return TALL if len(self.layers) <= FEW else LOW


def layers_of(rows: pd.DataFrame) -> list[int]:
    """The layers of some rows, from the lowest up."""
    return sorted(int(layer) for layer in rows["layer"].unique())


def is_still(rows: pd.DataFrame, shown: Shown) -> pd.Series:
    """Whether average and interval are 0 within the run's rounding."""
    return rows[["effect", "low", "high"]].abs().max(axis=1) <= shown.rounding


def cells_of(
    rows: pd.DataFrame, columns: Iterable[object], shown: Shown, digits: int, silent: pd.Series | None = None
) -> pd.DataFrame:
    """Averages as cells: their layer, column and effect, with `hover`, `empty` (why they have no colour) and `fails`.

    columns  the key of each row's column
    digits   decimals in the map; hovers have one more
    silent   where nothing that follows reaches the answer; None for where the averages are 0 within rounding
    """
    empty = np.where(is_still(rows, shown) if silent is None else silent, STILL, "")
    hovers = [hover_of(row, shown, digits + 1, why) for row, why in zip(rows.to_dict("records"), empty, strict=True)]
    return pd.DataFrame(
        {
            "layer": rows["layer"].to_numpy(),
            "column": [str(each) for each in columns],
            "effect": rows["effect"].to_numpy(),
            "hover": hovers,
            "empty": empty,
            "fails": rows["q"].to_numpy() > THRESHOLD if "q" in rows else False,
        }
    )


def hover_of(row: dict[Any, Any], shown: Shown, digits: int, empty: str = "") -> str:
    """What a mouse over an average is told: site, effect, share, counts, q and stability."""
    site = site_words(
        row["component"], int(row["layer"]), str(row["role"]), int(row["unit"]), key=str(row["key"]),
        window=int(row["window"]), subject=shown.subject,
    )  # fmt: skip
    effect = f"effect {with_interval(row['effect'], row['low'], row['high'], digits)} {shown.unit}"
    told = [f"<b>{safe(site)}</b>", empty or safe(effect)]
    if not empty and has_number(row, "share"):
        told.append(f"{row['share']:.0%} of the total effect")
    told.append(counts_of(row, tested=not empty))
    if not empty and has_number(row, "stability"):
        told.append(f"among the five strongest in {row['stability']:.0%} of resamples")
    return "<br>".join(told)


def has_number(row: dict[Any, Any], name: str) -> bool:
    """Whether a row has a number of that name."""
    return bool(np.isfinite(row.get(name, np.nan)))


def counts_of(row: dict[Any, Any], tested: bool = True) -> str:
    """Pairs and groups behind an average, and its q where it has one and was tested."""
    q = f"; q {chance(row['q'])}" if tested and "q" in row else ""
    return f"n {int(row['n'])} pairs, {int(row['groups'])} groups{q}"


def add_panel(figure: go.Figure, cells: pd.DataFrame, frame: Frame, place: int, line: int = 1) -> None:
    """One map. Cells without a colour are hatched, those that fail q have a dot, those beyond the scale a frame.

    cells  as `cells_of` returns them
    """
    shape = len(frame.layers), len(frame.columns)
    rows, columns = (
        cells[name].map({each: number for number, each in enumerate(keys)}).to_numpy()
        for name, keys in (("layer", frame.layers), ("column", frame.columns))
    )
    at = {"row": line, "col": place}
    effect, hover = np.full(shape, np.nan), np.full(shape, NOT_MEASURED, dtype=object)
    hover[rows, columns] = cells["hover"]
    coloured = (cells["empty"] == "").to_numpy() & cells["effect"].notna().to_numpy()
    effect[rows[coloured], columns[coloured]] = cells["effect"].to_numpy()[coloured]
    fails = np.zeros(shape, dtype=bool)
    fails[rows, columns] = cells["fails"]
    shared = {"x": list(range(shape[1])), "y": list(range(shape[0])), "xgap": 1, "ygap": 1, **at}
    told = {"hovertemplate": "%{hovertext}<extra></extra>", "hoverongaps": False}
    gaps = np.isnan(effect)
    figure.add_heatmap(
        name="empty", z=np.where(gaps, 0.0, np.nan), colorscale=[[0, WHITE], [1, WHITE]], showscale=False,
        hovertext=np.where(gaps, hover, ""), **told, **shared,
    )  # fmt: skip
    figure.add_heatmap(
        name="effects", z=effect, coloraxis="coloraxis", hovertext=np.where(gaps, "", hover), **told, **shared
    )
    add_numbers(figure, effect, frame.scale, shared)
    add_hatching(figure, gaps, frame.width / frame.row, frame.row / APART, at)
    add_dots(figure, effect, fails, frame, at)
    add_frames(figure, np.abs(np.nan_to_num(effect)) > frame.scale.limit, frame, at)
    ticks = {"tickvals": list(range(shape[1])), "ticktext": list(frame.labels), "range": [-0.5, shape[1] - 0.5]}
    figure.update_xaxes(**ticks, showgrid=False, **at)
    ticks = {"tickvals": list(range(shape[0])), "ticktext": [str(each) for each in frame.layers]}
    figure.update_yaxes(**ticks, range=[-0.5, shape[0] - 0.5], showgrid=False, **at)


def add_numbers(
    figure: go.Figure, effect: Float[np.ndarray, "layer column"], scale: Scale, shared: dict[str, Any]
) -> None:
    """The cells' numbers, black or white as their colours need."""
    values = np.nan_to_num(effect)
    inks = np.vectorize(lambda value: ink(colour(value, scale.limit)), otypes=[object])(values)
    texts = np.vectorize(lambda value: number_text(value, scale.digits), otypes=[object])(values)
    for own in (BLACK, WHITE):
        figure.add_heatmap(
            name="numbers", z=effect, text=np.where((inks == own) & ~np.isnan(effect), texts, ""),
            texttemplate="%{text}", textfont={"size": LABEL, "color": own}, hoverinfo="skip", showscale=False,
            colorscale=[[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]], **shared,
        )  # fmt: skip


def number_text(value: float, digits: int) -> str:
    """A signed number; "0" for one that rounds to it."""
    text = signed(value, digits)
    return text if float(text) else "0"


def add_hatching(figure: go.Figure, empty: np.ndarray, aspect: float, lines: float, at: dict[str, int]) -> None:
    """Thin diagonals over the cells that have no colour: `lines` for each height of a cell, whose width is `aspect`."""
    steps = np.arange(-1 + 0.5 / lines, aspect, 1 / lines)
    ends = [[(start, 0.0 - min(start, 0)), (min(start + 1, aspect), min(1.0, aspect - start))] for start in steps]
    strokes = [each for (x, y), end in ends for each in ((max(x, 0.0), y), end, BREAK)]
    inside = [(0.94 * (x / aspect - 0.5), 0.9 * (y - 0.5)) for x, y in strokes]
    points = [(x + a, y + b) for y, x in np.argwhere(empty) for a, b in inside]
    add_lines(figure, "hatching", points, {"color": HATCH, "width": 1}, at)


def add_frames(figure: go.Figure, beyond: np.ndarray, frame: Frame, at: dict[str, int]) -> None:
    """A white frame in the cells that lie beyond the colour scale, whose ends are dark."""
    half = 0.5 - INSET / frame.width, 0.5 - INSET / frame.row
    lines = [(x + a * half[0], y + b * half[1]) for y, x in np.argwhere(beyond) for a, b in CORNERS]
    add_lines(figure, "frames", lines, {"color": WHITE, "width": 2}, at)


def add_lines(
    figure: go.Figure, name: str, points: list[tuple[float, float]], line: dict[str, object], at: dict[str, int]
) -> None:
    """One trace of lines through points, broken at nan; none where there are no points."""
    if points:
        x, y = zip(*points, strict=True)
        figure.add_scatter(
            name=name, x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, connectgaps=False, **at
        )


def add_dots(figure: go.Figure, effect: np.ndarray, fails: np.ndarray, frame: Frame, at: dict[str, int]) -> None:
    """A dot in the corner of the coloured cells that fail the false-discovery threshold."""
    places = np.argwhere(fails & ~np.isnan(effect))
    if len(places):
        figure.add_scatter(
            name="fails", x=places[:, 1] + 0.5 - CORNER / frame.width, y=places[:, 0] + 0.5 - CORNER / frame.row,
            mode="markers", hoverinfo="skip", showlegend=False, **at,
            marker={"size": 4, "color": [ink(colour(effect[y, x], frame.scale.limit)) for y, x in places]},
        )  # fmt: skip


def marks_line(figure: go.Figure, scale: Scale, empty: str = "") -> str:
    """What the marks in a figure's cells mean, as far as it has them; `empty` says why cells have no colour."""
    names = {trace.name for trace in figure.data}
    hatched = f"hatched: {empty or 'not measured, or 0 within rounding'}"
    beyond = f"framed: beyond the colour scale, which ends at {signed(scale.limit, scale.digits)[1:]}"
    told = {"fails": f"dot: q > {THRESHOLD:g}", "hatching": hatched, "frames": beyond}
    return "; ".join(text for name, text in told.items() if name in names)


def role_labels(roles: Sequence[str], subject: str, width: float) -> list[str]:
    """Roles as labels of columns so wide, in words and wrapped; those of the subject in bold."""
    return [role_label(role, subject, 12 if width >= WIDE else 17) for role in roles]


def role_label(role: str, subject: str, letters: int = 60) -> str:
    """A role in words, wrapped, and bold in the subject."""
    text = "<br>".join(safe(line) for line in wrap(role_words(role, subject), letters))
    return f"<b>{text}</b>" if role in SUBJECT else text


def tilt(width: float) -> int:
    """Angle of the labels of columns so wide."""
    return 0 if width >= WIDE else -40
