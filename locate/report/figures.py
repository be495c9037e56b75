"""Figures of averages: maps by layer and role, maps of heads, and lines with bands."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.analysis import Analysis, Shown
from locate.report.cells import Frame, add_panel, cells_of, counts_of, marks_line, role_label, role_labels, tilt
from locate.report.quiet import quiet_subplots
from locate.report.theme import COLOURS, add_words
from locate.sites import BEFORE, ROLES
from locate.tracing.table import whole_sites
from locate.words import decimals, metric_words, role_words, with_interval

Averages = Analysis | Shown
NAMES = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "head": "attention heads",
    "neuron": "MLP neurons",
    "mlp_out_unit": "numbers of the MLP output",
    "pattern": "attention weights",
}
"""component: its name as the heading of a panel"""

QUANTITIES = {
    "nie": "average indirect effect",
    "nie / total": "average indirect effect",
    "nde": "average direct effect",
    "total": "average total effect",
}
SIDES, BAR = 70, 110  # px left of the panels, and of the colour bar right of them
ROOM, ROOM_TILTED = 74, 98  # px for labels of columns
LEGEND, LEAST = 210, 260  # px: a legend; a panel of few roles
BANDS = "bands: the interval"


def plot_map(averages: Averages, *, title: str = "", direction: str = "denoising", window: int = 1) -> go.Figure:
    """Layer x role heatmap of average effects, one panel per component that is traced as whole vectors.

    averages   an `Analysis`, or a table of averages as `Shown`
    direction  "denoising" or "noising"
    window     the width of the patches shown; resid_pre is always single

    The colour is centred on 0 and shared by all panels. Cells above the false-discovery threshold have a dot; those
    that were not measured, or are 0 within rounding, are hatched; where a few effects dwarf all others the scale ends
    below them, and they are framed. Hover for site, effect, interval, share of the total, n, q and stability. Subject
    roles are in bold.

    Raises LocateError when there is nothing to draw.
    """
    averages = shown_of(averages)
    rows = whole_vectors(averages.table, direction, window)
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in NAMES if name in set(rows["component"])]
    roles = [role for role in ROLES if role in set(rows["role"])]
    frame = Frame.of(rows, roles, [], averages)
    frame = frame.wide(LEAST / len(roles) * (2 if len(components) == 1 else 1))
    frame = replace(frame, labels=role_labels(roles, averages.subject, frame.width))
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[NAMES[c] for c in components]
    )
    for column, component in enumerate(components, start=1):
        panel = rows[rows["component"] == component]
        add_panel(figure, cells_of(panel, panel["role"], averages, frame.scale.digits), frame, column)
    figure.update_xaxes(tickangle=tilt(frame.width))
    figure.update_yaxes(title="layer", col=1)
    figure.update_layout(coloraxis=frame.scale.axis())
    what = f"{QUANTITIES[averages.column]} by layer and token: {join_names(NAMES[each] for each in components)}"
    return add_words(
        figure, title or headline(what, averages, direction, window),
        caption_of(averages, direction, marks_line(figure, frame.scale), window),
        SIDES + BAR + side_by_side(len(components), frame.panel), frame.height, left=SIDES,
        bottom=ROOM_TILTED if tilt(frame.width) else ROOM,
    )  # fmt: skip


def side_by_side(number: int, each: float) -> float:
    """Pixels of so many panels beside each other, with the room between them."""
    return number * each + 12 * (number - 1)


def shown_of(averages: Averages) -> Shown:
    """The indirect effects of an analysis; a `Shown` as it is."""
    return averages.shown() if isinstance(averages, Analysis) else averages


def whole_vectors(averages: pd.DataFrame, direction: str, window: int) -> pd.DataFrame:
    """Cells of one direction and width that copy whole vectors from the source; resid_pre is always single."""
    rows = whole_sites(averages)
    return rows[
        (rows["direction"] == direction)
        & (rows["unit"] < 0)
        & ((rows["window"] == window) | (rows["component"] == "resid_pre"))
    ]


def plot_heads(averages: Averages, *, role: str = "last", title: str = "", direction: str = "denoising") -> go.Figure:
    """Layer x head heatmap of average effects at one role; colours and marks as in `plot_map`.

    Raises LocateError when the trace holds no heads at that role.
    """
    averages = shown_of(averages)
    rows = whole_sites(averages.table)
    rows = rows[
        (rows["direction"] == direction)
        & (rows["component"] == "head")
        & (rows["role"] == role)
        & (rows["window"] == 1)
    ]
    if rows.empty:
        raise LocateError(f"no heads of direction {direction!r} at role {role!r}: trace with component 'head'")
    heads = [str(head) for head in sorted(rows["unit"].unique())]
    figure = quiet_subplots(1, 1, subplot_titles=[f"{NAMES['head']}, {role_label(role, averages.subject)}"])
    frame = Frame.of(rows, heads, heads, averages)
    frame = frame.wide(2 * LEAST / len(heads))
    add_panel(figure, cells_of(rows, rows["unit"], averages, frame.scale.digits), frame, 1)
    figure.update_xaxes(title="head")
    figure.update_yaxes(title="layer")
    figure.update_layout(coloraxis=frame.scale.axis())
    what = f"{QUANTITIES[averages.column]} of attention heads at the {role_words(role, averages.subject)}"
    return add_words(
        figure, title or headline(what, averages, direction),
        caption_of(averages, direction, marks_line(figure, frame.scale)),
        SIDES + BAR + frame.panel, frame.height, left=SIDES,
    )  # fmt: skip


def plot_layers(
    averages: Averages, *, title: str = "", direction: str = "denoising", window: int = 1, roles: Sequence[str] = ()
) -> go.Figure:
    """Average effect by layer, a line for each role with its interval as a band, one panel per component.

    The form of ROME's figure 3 (Meng et al. 2022). roles: all but before_subject when empty.

    Raises LocateError when there is nothing to draw.
    """
    averages = shown_of(averages)
    rows = whole_vectors(averages.table, direction, window)
    rows = rows[rows["role"].isin(roles or [role for role in ROLES if role != BEFORE])]
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in NAMES if name in set(rows["component"])]
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[NAMES[c] for c in components]
    )
    digits = decimals(float(rows["effect"].abs().max())) + 1
    for role, colour in zip([*ROLES[1:], ROLES[0]], COLOURS, strict=True):
        for column, component in enumerate(components, start=1):
            line = rows[(rows["component"] == component) & (rows["role"] == role)].sort_values("layer")
            if len(line):
                add_band(figure, line, role_words(role, averages.subject), colour, column, digits=digits)
    lines_by_layer(figure, rows, axis_title(averages))
    what = f"{QUANTITIES[averages.column]} by layer, with intervals: {join_names(NAMES[each] for each in components)}"
    return add_words(
        figure, title or headline(what, averages, direction, window), caption_of(averages, direction, BANDS, window),
        SIDES + LEGEND + 310 * len(components), 300, left=SIDES, bottom=50,
    )  # fmt: skip


def lines_by_layer(figure: go.Figure, rows: pd.DataFrame, title: str) -> None:
    """Axes of lines by layer, with zero marked."""
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title="layer", dtick=1 if rows["layer"].nunique() <= 16 else 4)
    figure.update_yaxes(title=title, col=1)


def add_band(
    figure: go.Figure, line: pd.DataFrame, name: str, colour: str, place: int, row: int = 1, *, digits: int = 3
) -> None:
    """A line with its interval as a band; the legend names it once. Hover for interval, n and, where it is known, q.

    line  layer, effect, low and high; `counts` says what stands behind them where n, groups and q do not
    """
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    around = pd.concat([line["layer"], line["layer"][::-1]])
    figure.add_scatter(
        x=around,
        y=pd.concat([line["high"], line["low"][::-1]]),
        mode="lines",
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.18)",
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        legendgroup=name,
        row=row,
        col=place,
    )
    figure.add_scatter(
        x=line["layer"],
        y=line["effect"],
        name=name,
        mode="lines+markers",
        line={"color": colour, "width": 2},
        marker={"size": 6},
        legendgroup=name,
        showlegend=not any(trace.name == name for trace in figure.data),
        hovertext=[hover_of_line(each, digits) for each in line.to_dict("records")],
        hovertemplate="%{hovertext}<extra>" + name + "</extra>",
        row=row,
        col=place,
    )


def hover_of_line(row: dict[Any, Any], digits: int) -> str:
    """What a mouse over a point of a line is told: layer, effect with interval, counts and q."""
    told = [f"layer {row['layer']}: {with_interval(row['effect'], row['low'], row['high'], digits)}"]
    told.append(row.get("counts") or counts_of(row))
    return "<br>".join(told)


def caption_of(averages: Shown, direction: str, note: str, window: int = 1) -> str:
    """The caption of a figure of averages; `note` says what its marks mean."""
    table = averages.table[averages.table["direction"] == direction]
    kind = f"{averages.kind} " if averages.kind else ""
    wide = "" if window == 1 else f"{window} layers written at once; "
    over = "groups and templates" if "template" in averages.clusters else "groups"
    return (
        f"{direction.capitalize()} ({meaning(direction)}): {metric_and_unit(averages)}; positive "
        f"is {averages.positive}{total_of(averages, direction)}. {wide}n = {table['n'].max()} {kind}pairs of "
        f"{table['groups'].max()} groups; {averages.level:.0%} intervals by bootstrap over {over}"
        + (f"; {note}." if note else ".")
    )


def metric_and_unit(averages: Shown) -> str:
    """Metric and unit in words."""
    words = metric_words(averages.metric, averages.answers)
    return words if averages.unit in words else f"{words}, {averages.unit}"


def total_of(averages: Shown, direction: str) -> str:
    """The average total effect of a direction, as the end of a sentence; "" where it is not known."""
    if direction not in averages.totals:
        return ""
    total = averages.totals[direction]
    return f"; total effect {with_interval(*total, decimals(abs(total[0])))}"


def headline(what: str, averages: Shown, direction: str = "", window: int = 1) -> str:
    """The title of a figure: what it shows, of which model, in which direction and width."""
    whose = f" in {averages.model}" if averages.model else ""
    ways = [direction] if direction else []
    ways += [] if window == 1 else [f"{window} layers at once"]
    return f"{what[0].upper()}{what[1:]}{whose}" + (f" ({', '.join(ways)})" if ways else "")


def join_names(names: Iterable[str]) -> str:
    """Names as a list in words: "a, b and c"."""
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last


def axis_title(averages: Shown) -> str:
    """Quantity and unit of the averages."""
    return f"{QUANTITIES[averages.column]}, {averages.unit}"


def meaning(direction: str) -> str:
    """What the direction asks."""
    return "is the site sufficient?" if direction == "denoising" else "is the site necessary?"
