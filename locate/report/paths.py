"""Figures of paths: severed and direct effects, attention edges, and the strongest single units."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.analysis import Shown
from locate.mediation.located import THRESHOLD
from locate.report.cells import Frame, add_panel, cells_of, counts_of, marks_line, role_label
from locate.report.figures import (
    BANDS,
    BAR,
    LEAST,
    LEGEND,
    NAMES,
    QUANTITIES,
    SIDES,
    Averages,
    add_band,
    axis_title,
    caption_of,
    headline,
    join_names,
    lines_by_layer,
    shown_of,
    side_by_side,
)
from locate.report.quiet import Figure, quiet_subplots
from locate.report.theme import COLOURS, add_words
from locate.sites import BEFORE, LAST, PATTERN, ROLES, check
from locate.tracing.table import whole_sites
from locate.words import decimals, role_words, with_interval

PATHS = {
    "": ("whole", COLOURS[6]),
    "attn_out": ("attention severed", COLOURS[1]),
    "mlp_out": ("MLP severed", COLOURS[0]),
    "both": ("both severed", COLOURS[2]),
}
OUTPUTS = ("attn_out", "mlp_out")
SINGLE = ("neuron", "mlp_out_unit")
MOST_COLUMNS = 3
STRONGEST = 20
SEVERED_NOTE = "severed: what lies downstream at the same token stays as in the base run"
PANEL_HEIGHT, BETWEEN = 230, 84  # px of a panel of lines, and between two lines of panels
DIRECT_NOTE = "direct: what the write itself says in the final residual stream, every later layer at this token severed"


def plot_severed(averages: Averages, *, title: str = "", direction: str = "denoising") -> go.Figure:
    """Effect of the residual stream by layer, whole and with what follows severed; one panel per role.

    The form of ROME's figure with severed MLP and attention (Meng et al. 2022, figure 4). averages, direction: as in
    `plot_map`.

    Raises LocateError when no residual stream was traced severed.
    """
    averages = shown_of(averages)
    rows = paths(averages.table, direction)
    rows = rows[(rows["component"] == "resid_pre") & (rows["role"] != BEFORE)]
    refuse_whole(rows, direction, "resid_pre", "any token but those before the subject")
    roles = [role for role in ROLES if role in set(rows["role"])]
    digits = decimals(float(rows["effect"].abs().max())) + 1
    figure, places = panels([role_label(role, averages.subject) for role in roles])
    for role, (row, column) in zip(roles, places, strict=True):
        for severed, (name, colour) in PATHS.items():
            line = rows[(rows["role"] == role) & (rows["severed"] == severed)].sort_values("layer")
            if len(line):
                add_band(figure, line, name, colour, column, row, digits=digits)
    what = f"{QUANTITIES[averages.column]} of the {NAMES['resid_pre']}, whole and with paths severed"
    return lines_finished(
        figure, averages, rows, title or headline(what, averages, direction), direction, places, SEVERED_NOTE
    )


def plot_direct(averages: Averages, *, title: str = "", direction: str = "denoising") -> go.Figure:
    """Direct against whole effect of the outputs at the last token, by layer; one panel per component.

    averages, direction: as in `plot_map`.

    Raises LocateError when no output was traced with both paths severed at the last token.
    """
    averages = shown_of(averages)
    rows = paths(averages.table, direction)
    rows = rows[rows["component"].isin(OUTPUTS) & (rows["role"] == LAST) & rows["severed"].isin(["", "both"])]
    refuse_whole(rows, direction, "attn_out or mlp_out", "the last token with both paths severed")
    components = [each for each in OUTPUTS if each in set(rows["component"])]
    digits = decimals(float(rows["effect"].abs().max())) + 1
    figure, places = panels([f"{NAMES[each]} at the last token" for each in components])
    for component, (row, column) in zip(components, places, strict=True):
        for severed, name in (("", "whole"), ("both", "direct")):
            line = rows[(rows["component"] == component) & (rows["severed"] == severed)].sort_values("layer")
            if len(line):
                add_band(figure, line, name, PATHS[severed][1], column, row, digits=digits)
    what = f"{QUANTITIES[averages.column]}, direct and whole: {join_names(NAMES[each] for each in components)}"
    return lines_finished(
        figure, averages, rows, title or headline(what, averages, direction), direction, places, DIRECT_NOTE
    )


def plot_direct_heads(averages: Averages, *, title: str = "", direction: str = "denoising") -> go.Figure:
    """Layer x head maps at the last token: whole effects beside direct ones.

    averages, direction: as in `plot_map`.

    Raises LocateError when no head was traced with both paths severed at the last token.
    """
    averages = shown_of(averages)
    rows = paths(averages.table, direction)
    rows = rows[(rows["component"] == "head") & (rows["role"] == LAST) & rows["severed"].isin(["", "both"])]
    refuse_whole(rows, direction, "head", "the last token with both paths severed")
    parts = {"whole effect": rows[rows["severed"] == ""], "direct effect": rows[rows["severed"] == "both"]}
    what = f"{QUANTITIES[averages.column]} of attention heads at the last token, whole and direct"
    return maps_of_heads(averages, parts, title or headline(what, averages, direction), direction, DIRECT_NOTE)


def plot_attention(averages: Averages, *, role: str = LAST, title: str = "", direction: str = "denoising") -> go.Figure:
    """Attention edges: layer x head maps of the weights from one role, one panel per role attended to.

    averages, direction: as in `plot_map`.

    Raises LocateError when no attention weights from that role were traced.
    """
    averages = shown_of(averages)
    check("role", role, ROLES)
    rows = whole_sites(averages.table)
    rows = rows[(rows["direction"] == direction) & (rows["component"] == PATTERN) & (rows["role"] == role)]
    if rows.empty:
        raise LocateError(
            f"no attention weights of direction {direction!r} from role {role!r}: trace with component {PATTERN!r}"
        )
    keys = [key for key in ("", *ROLES) if key in set(rows["key"])]
    parts = {
        f"to the {role_label(key, averages.subject)}" if key else "to all tokens": rows[rows["key"] == key]
        for key in keys
    }
    where = role_words(role, averages.subject)
    what = f"{QUANTITIES[averages.column]} of attention from the {where}"
    note = "attention weights are copied, the values that they weigh are not"
    return maps_of_heads(averages, parts, title or headline(what, averages, direction), direction, note)


def plot_units(
    averages: Averages,
    component: str = "neuron",
    *,
    top: int = STRONGEST,
    title: str = "",
    direction: str = "denoising",
) -> go.Figure:
    """The strongest single units of the MLPs as bars with their intervals, labelled layer.unit and role.

    averages, direction  as in `plot_map`
    component            "neuron" or "mlp_out_unit"
    top                  how many

    Raises LocateError when none was traced in two groups.
    """
    averages = shown_of(averages)
    check("component", component, SINGLE)
    rows = whole_sites(averages.table)
    rows = rows[
        (rows["direction"] == direction)
        & (rows["component"] == component)
        & (rows["window"] == 1)
        & (rows["groups"] > 1)
    ]
    if rows.empty or top < 1:
        raise LocateError(
            f"{len(rows)} units of component {component!r}, direction {direction!r}, top {top}: expected at least one "
            "unit, and a top of at least 1: trace some units"
        )
    order = rows["effect"].abs().argsort(kind="stable")[::-1]
    shown = rows.iloc[order].head(top).iloc[::-1]
    labels = [
        f"{layer}.{unit}, {role_label(role, averages.subject)}"
        for layer, unit, role in zip(shown["layer"], shown["unit"], shown["role"].astype(str), strict=True)
    ]
    digits = decimals(float(shown["effect"].abs().max())) + 1
    told = [
        f"{with_interval(row['effect'], row['low'], row['high'], digits)} {averages.unit}<br>{counts_of(row)}"
        for row in shown.to_dict("records")
    ]
    figure = Figure()
    figure.add_bar(
        x=shown["effect"], y=labels, orientation="h", hovertext=told,
        hovertemplate="<b>%{y}</b><br>%{hovertext}<extra></extra>",
        marker={"color": [COLOURS[0] if q <= THRESHOLD else "white" for q in shown["q"]],
                "line": {"color": COLOURS[0], "width": 1.5}},
        error_x={"array": shown["high"] - shown["effect"], "arrayminus": shown["effect"] - shown["low"],
                 "thickness": 1, "color": "black"},
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title=axis_title(averages))
    figure.update_yaxes(title="layer.unit, token", type="category", dtick=1, showgrid=False)
    note = f"the {len(shown)} strongest of {len(rows)}, chosen by these same pairs; lines: the interval"
    note += f"; open: q > {THRESHOLD:g}" if (shown["q"] > THRESHOLD).any() else ""
    what = f"{QUANTITIES[averages.column]} of the strongest {NAMES[component]}"
    return add_words(
        figure, title or headline(what, averages, direction), caption_of(averages, direction, note), 860,
        24 * len(shown) + 10, left=290, top=4,
    )  # fmt: skip


def path_figures(averages: Shown, direction: str) -> dict[str, go.Figure]:
    """Every figure of paths and units that the averages have the rows for, by file name."""
    here = averages.table[averages.table["direction"] == direction]
    cut = here[here["severed"] != ""]
    sites, last = whole_sites(here), cut[(cut["role"] == LAST) & (cut["severed"] == "both")]
    drawn: dict[str, go.Figure] = {}
    if ((cut["component"] == "resid_pre") & (cut["role"] != BEFORE)).any():
        drawn[f"severed_{direction}"] = plot_severed(averages, direction=direction)
    if last["component"].isin(OUTPUTS).any():
        drawn[f"direct_{direction}"] = plot_direct(averages, direction=direction)
    if (last["component"] == "head").any():
        drawn[f"direct_heads_{direction}"] = plot_direct_heads(averages, direction=direction)
    for role in [role for role in ROLES if ((sites["component"] == PATTERN) & (sites["role"] == role)).any()]:
        drawn[f"attention_{role}_{direction}"] = plot_attention(averages, role=role, direction=direction)
    single = sites[(sites["window"] == 1) & (sites["groups"] > 1)]
    for component in [each for each in SINGLE if each in set(single["component"])]:
        drawn[f"{component}s_{direction}"] = plot_units(averages, component, direction=direction)
    return drawn


def paths(averages: pd.DataFrame, direction: str) -> pd.DataFrame:
    """Single sites copied from the source, whole or severed, of one direction."""
    return averages[
        (averages["direction"] == direction)
        & (averages["window"] == 1)
        & (averages["name"] == "")
        & averages["origin"].isin(["source", "base+source"])
        & ((averages["severed"] != "") | (averages["origin"] == "source"))
    ]


def refuse_whole(rows: pd.DataFrame, direction: str, component: str, where: str) -> None:
    """Raise LocateError unless some of the rows are severed."""
    if not (rows["severed"] != "").any():
        raise LocateError(f"no severed {component} of direction {direction!r} at {where}: trace with --severed")


def panels(titles: Sequence[str], height: int = PANEL_HEIGHT) -> tuple[go.Figure, list[tuple[int, int]]]:
    """An empty figure with a panel per title, a few to a line, and each panel's row and column from 1.

    height  of a panel, px
    """
    lines = -(-len(titles) // MOST_COLUMNS)
    columns = -(-len(titles) // lines)
    figure = quiet_subplots(
        lines, columns, shared_yaxes=True, subplot_titles=list(titles), horizontal_spacing=0.04,
        vertical_spacing=0.0 if lines == 1 else BETWEEN / stack_height(lines, height),
    )  # fmt: skip
    return figure, [(1 + place // columns, 1 + place % columns) for place in range(len(titles))]


def stack_height(lines: int, height: int) -> int:
    """Pixels of so many lines of panels."""
    return lines * height + (lines - 1) * BETWEEN


def lines_finished(
    figure: go.Figure,
    averages: Shown,
    rows: pd.DataFrame,
    title: str,
    direction: str,
    places: Sequence[tuple[int, int]],
    note: str,
) -> go.Figure:
    """Axes, zero and caption of panels of lines by layer."""
    columns, lines = max(column for _, column in places), max(row for row, _ in places)
    lines_by_layer(figure, rows, axis_title(averages))
    figure.update_yaxes(matches="y", showticklabels=True)
    return add_words(
        figure, title, caption_of(averages, direction, f"{BANDS}; {note}"), SIDES + LEGEND + 320 * columns,
        stack_height(lines, PANEL_HEIGHT), left=SIDES, bottom=50,
    )  # fmt: skip


def maps_of_heads(averages: Shown, parts: dict[str, pd.DataFrame], title: str, direction: str, note: str) -> go.Figure:
    """Layer x head maps on one colour scale, a panel per part."""
    rows = pd.concat(parts.values())
    heads = [str(head) for head in sorted(rows["unit"].unique())]
    frame = Frame.of(rows, heads, heads, averages)
    figure, places = panels(list(parts), frame.height)
    columns, lines = max(column for _, column in places), max(row for row, _ in places)
    frame = frame.wide((2 * LEAST if columns == 1 else LEAST) / len(heads))
    for part, (row, column) in zip(parts.values(), places, strict=True):
        add_panel(figure, cells_of(part, part["unit"], averages, frame.scale.digits), frame, column, row)
    figure.update_xaxes(title="head")
    figure.update_yaxes(title="layer", col=1)
    figure.update_layout(coloraxis=frame.scale.axis())
    marks = marks_line(figure, frame.scale)
    return add_words(
        figure, title, caption_of(averages, direction, f"{marks}; {note}" if marks else note),
        SIDES + BAR + side_by_side(columns, frame.panel),
        stack_height(lines, frame.height), left=SIDES,
    )  # fmt: skip
