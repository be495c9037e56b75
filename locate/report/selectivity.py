"""Figures and tables of stereotype against definition: selectivity by layer and role, and the regression by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.files import write_whole
from locate.mediation.analysis import Analysis
from locate.mediation.located import THRESHOLD
from locate.report import figures as draw
from locate.report.cells import Frame, add_panel, layers_of, role_labels, tilt
from locate.report.quiet import quiet_subplots
from locate.report.theme import COLOURS, Scale, add_words, safe
from locate.sites import ROLES
from locate.words import role_words, site_words, with_interval

LEANING_COLUMN = 50  # px
TERM_NAMES = {"stereotypical": "stereotypical score", "factual": "factual score"}
LEANING = Scale(1.0, 0, 2, "selectivity")
NEITHER = f"neither effect has q ≤ {THRESHOLD:g}"


def plot_selectivity(
    analysis: Analysis, *, title: str = "", direction: str = "denoising", window: int = 1
) -> go.Figure:
    """Layer x role heatmap of selectivity, one panel per component: +1 stereotype alone, -1 definition alone.

    direction  "denoising" or "noising"
    window     the width of the patches shown; resid_pre is always single

    Hatched cells have neither effect (its q is above the threshold for both kinds), or were not measured; hover for
    both effects.

    Raises LocateError when there is nothing to draw.
    """
    if analysis.selectivity is None:
        raise LocateError("only one kind of words was traced: trace both, with --words both")
    rows = draw.whole_vectors(analysis.selectivity, direction, window)
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in draw.NAMES if name in set(rows["component"])]
    roles = [role for role in ROLES if role in set(rows["role"])]
    figure, shown = panels(components, 0.02), analysis.shown()
    width = LEANING_COLUMN if len(roles) > 4 else draw.LEAST / len(roles)
    frame = Frame(layers_of(rows), roles, role_labels(roles, shown.subject, width), LEANING, width)
    for column, component in enumerate(components, start=1):
        add_panel(figure, leaning_cells(rows[rows["component"] == component], shown.subject), frame, column)
    figure.update_xaxes(tickangle=tilt(width))
    figure.update_yaxes(title="layer", col=1)
    ticks = {"tickvals": [-1, 0, 1], "ticktext": ["-1 definition", "0 both alike", "+1 stereotype"]}
    figure.update_layout(coloraxis=LEANING.axis(**ticks))
    what = (
        f"stereotype against definition by layer and token: {draw.join_names(draw.NAMES[each] for each in components)}"
    )
    return add_words(
        figure, title or draw.headline(what, shown, direction, window), caption(analysis, rows, direction, window),
        draw.SIDES + draw.BAR + 60 + draw.side_by_side(len(components), frame.panel), frame.height,
        left=draw.SIDES, bottom=draw.ROOM_TILTED if tilt(width) else draw.ROOM,
    )  # fmt: skip


def panels(components: list[str], spacing: float) -> go.Figure:
    """One panel a component, side by side."""
    names = [draw.NAMES[each] for each in components]
    return quiet_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=spacing, subplot_titles=names)


def leaning_cells(rows: pd.DataFrame, subject: str) -> pd.DataFrame:
    """Selectivity as cells of a map, those where it is undefined without a colour."""
    return pd.DataFrame(
        {
            "layer": rows["layer"].to_numpy(),
            "column": rows["role"].astype(str).to_numpy(),
            "effect": rows["selectivity"].to_numpy(),
            "hover": [hover_of_leaning(row, subject) for row in rows.to_dict("records")],
            "empty": np.where(rows["selectivity"].isna(), NEITHER, ""),
            "fails": False,
        }
    )


def hover_of_leaning(row: dict[Any, Any], subject: str) -> str:
    """What a mouse over a cell is told: site, selectivity, and both effects with their counts."""
    site = site_words(row["component"], int(row["layer"]), str(row["role"]), window=int(row["window"]), subject=subject)
    value, low, high = (row[name] for name in ("selectivity", "low", "high"))
    told = [f"<b>{safe(site)}</b>", NEITHER if np.isnan(value) else f"selectivity {with_interval(value, low, high, 2)}"]
    for kind in ("stereotype", "definition"):
        effect = with_interval(row[kind], row[f"{kind}_low"], row[f"{kind}_high"], 3)
        told.append(f"{kind} {effect}, n {row[f'{kind}_n']:.0f} pairs, {row[f'{kind}_groups']:.0f} groups")
    return "<br>".join(told)


def caption(analysis: Analysis, rows: pd.DataFrame, direction: str, window: int) -> str:
    """What selectivity is, of how many pairs, and how the whole prompt leans."""
    pairs, jobs, more, words = (
        rows[f"{kind}_{count}"].max() for kind in ("stereotype", "definition") for count in ("n", "groups")
    )
    wide = "" if window == 1 else f"{window} layers written at once; "
    shared = "".join(
        f" A the stereotype, B the definition: {each.text()}."
        for each in analysis.overlap
        if each.direction == direction
    )
    return (
        f"{direction.capitalize()} ({draw.meaning(direction)}): (s² - d²) / (s² + d²) of the effects s of occupations "
        f"and d of words that say their gender, {draw.metric_and_unit(analysis.shown())}; whole "
        f"prompt {with_interval(*analysis.total_selectivity[direction], 2)} ({analysis.intervals.level:.0%}). {wide}n "
        f"= {pairs} pairs of {jobs} occupations and {more} pairs of {words} words; hatched: {NEITHER}, or not "
        f"measured.{shared}"
    )


def plot_regression(
    analysis: Analysis, *, title: str = "", direction: str = "denoising", role: str = "subject_last", window: int = 1
) -> go.Figure:
    """Coefficients of the stereotypical and the factual score by layer, with bands, one panel per component.

    role  where the sites are

    Raises LocateError when there is nothing to draw.
    """
    if analysis.regression is None:
        raise LocateError("no regression on scores of words: trace both kinds of words, with --words both")
    rows = draw.whole_vectors(analysis.regression, direction, window)
    rows = rows[(rows["role"] == role) & rows["term"].isin(TERM_NAMES) & rows["coefficient"].notna()]
    if rows.empty:
        raise LocateError(f"no coefficients of direction {direction!r} at role {role!r} to draw: trace them first")
    components = [name for name in draw.NAMES if name in set(rows["component"])]
    figure, subject = panels(components, 0.03), analysis.shown().subject
    for (term, name), colour in zip(TERM_NAMES.items(), COLOURS[1::-1], strict=True):
        for column, component in enumerate(components, start=1):
            line = rows[(rows["component"] == component) & (rows["term"] == term)].sort_values("layer")
            if len(line):
                line = line.assign(effect=line["coefficient"], counts=[f"{n} words" for n in line["words"]])
                draw.add_band(figure, line, name, colour, column)
    draw.lines_by_layer(figure, rows, f"{analysis.metric.unit} per unit of score")
    wide = "" if window == 1 else f"{window} layers written at once; "
    text = (
        f"{direction.capitalize()} ({draw.meaning(direction)}): effect of a word, female minus male, on its two "
        f"scores, each in [-1, 1]. {wide}n = {rows['words'].max()} words; {analysis.intervals.level:.0%} bands by "
        f"bootstrap over words; {analysis.without_score} words without a score left out."
    )
    what = f"stereotypical and factual gender by layer at the {role_words(role, subject)}"
    return add_words(
        figure, title or draw.headline(what, analysis.shown(), direction, window), text,
        draw.SIDES + draw.LEGEND + 310 * len(components), 300, left=draw.SIDES, bottom=50,
    )  # fmt: skip


def kept_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """The tables "selectivity" and "regression", as far as they are defined."""
    tables = {"selectivity": analysis.selectivity, "regression": analysis.regression}
    return {name: table for name, table in tables.items() if table is not None}


def comparison_figures(analysis: Analysis) -> dict[str, go.Figure]:
    """Figures of selectivity and regression by file name, for each direction, width, and role of the regression."""
    drawn: dict[str, go.Figure] = {}
    for name, table in kept_tables(analysis).items():
        for direction in analysis.trace.meta["directions"]:
            rows = table[(table["direction"] == direction) & (table["unit"] < 0)]
            for window in sorted({int(width) for width in rows["window"]}):
                suffix = direction if window == 1 else f"{direction}_window{window}"
                if name == "selectivity":
                    drawn[f"selectivity_{suffix}"] = plot_selectivity(analysis, direction=direction, window=window)
                    continue
                of_width = draw.whole_vectors(table, direction, window)
                for role in sorted({*of_width.loc[of_width["coefficient"].notna(), "role"]} & {"subject_last", "last"}):
                    drawn[f"regression_{role}_{suffix}"] = plot_regression(
                        analysis, direction=direction, role=role, window=window
                    )
    return drawn


def write_compared(analysis: Analysis, folder: Path) -> list[Path]:
    """The tables as CSV: selectivity.csv and regression.csv, with the metric and the unit of effects in front."""
    unit = {"selectivity": analysis.metric.unit, "regression": f"{analysis.metric.unit} per unit of score"}
    return [
        write_csv(folder / f"{name}.csv", table, analysis.metric.name, unit[name])
        for name, table in kept_tables(analysis).items()
    ]


def write_csv(path: Path, table: pd.DataFrame, metric: str, unit: str) -> Path:
    """A table with the metric and the unit of its effects or coefficients in front."""
    named = pd.concat([pd.DataFrame({"metric": metric, "unit_of_effect": unit}, index=table.index), table], axis=1)
    return write_whole(path, lambda partial: named.to_csv(partial, index=False, float_format="%.6g"))
