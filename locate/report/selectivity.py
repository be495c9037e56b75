"""Figures and tables of stereotype against definition: selectivity by layer and role, and the regression by layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.files import write_whole
from locate.mediation.analysis import Analysis
from locate.mediation.located import THRESHOLD
from locate.report import figures as draw
from locate.report.quiet import quiet_subplots
from locate.sites import ROLES

TERM_NAMES = {"stereotypical": "stereotypical score", "factual": "factual score"}
GREY = "#e4e4e4"


def plot_selectivity(
    analysis: Analysis, *, title: str = "", direction: str = "denoising", window: int = 1
) -> go.Figure:
    """Layer x role heatmap of selectivity, one panel per component: +1 stereotype alone, -1 definition alone.

    direction  "denoising" or "noising"
    window     the width of the patches shown; resid_pre is always single

    Cells in grey have neither effect (its q is above the threshold for both kinds); hover for both effects.

    Raises LocateError when there is nothing to draw.
    """
    if analysis.selectivity is None:
        raise LocateError("only one kind of words was traced: trace both, with --words both")
    rows = draw.whole_vectors(analysis.selectivity, direction, window)
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in draw.NAMES if name in set(rows["component"])]
    roles = [role for role in ROLES if role in set(rows["role"])]
    figure = panels(components, 0.02)
    for column, component in enumerate(components, start=1):
        add_leanings(figure, rows[rows["component"] == component], roles, column)
    figure.update_xaxes(ticktext=[draw.marked(role) for role in roles], tickvals=roles, tickangle=-40)
    figure.update_yaxes(title="layer", col=1)
    height = 230 + 42 * draw.n_layers(rows)
    shown = title or "Stereotype against definition"
    figure.update_layout(
        draw.layout(shown, caption(analysis, rows, direction, window), 190 + 300 * len(components), height)
    )
    figure.update_layout(margin_t=figure.layout.margin.t + 20, coloraxis=draw.colour_axis(1.0, "selectivity"))
    ticks = {"tickvals": [-1, 0, 1], "ticktext": ["-1 definition", "0 both alike", "+1 stereotype"]}
    figure.update_layout(coloraxis={"colorbar": ticks})
    return figure


def panels(components: list[str], spacing: float) -> go.Figure:
    """One panel a component, side by side."""
    names = [draw.NAMES[each] for each in components]
    return quiet_subplots(1, len(names), shared_yaxes=True, horizontal_spacing=spacing, subplot_titles=names)


def add_leanings(figure: go.Figure, panel: pd.DataFrame, roles: list[str], place: int) -> None:
    """One heatmap of selectivity by layer and role over grey, which shows where it is undefined."""
    layers = sorted(panel["layer"].unique())
    grid = panel.assign(column=panel["role"].astype(str)).pivot(index="layer", columns="column").reindex(index=layers)

    def cells(name: str) -> np.ndarray:
        return grid[name].reindex(columns=roles).to_numpy(dtype=float)

    value = cells("selectivity")
    shared = {"x": roles, "y": layers, "xgap": 1, "ygap": 1, "row": 1, "col": place}
    undefined = np.where(np.isnan(value) & ~np.isnan(cells("stereotype")), 1.0, np.nan)
    numbers = ["low", "high", "stereotype", "stereotype_low", "stereotype_high", "stereotype_n"]
    numbers += ["definition", "definition_low", "definition_high", "definition_n"]
    both = "stereotype %{customdata[2]:.3f} [%{customdata[3]:.3f}, %{customdata[4]:.3f}], n %{customdata[5]:.0f}"
    both += "<br>definition %{customdata[6]:.3f} [%{customdata[7]:.3f}, %{customdata[8]:.3f}], n %{customdata[9]:.0f}"
    where, own = "layer %{y}, %{x}<br>", "selectivity %{z:.2f} [%{customdata[0]:.2f}, %{customdata[1]:.2f}]"
    data = np.stack([cells(name) for name in numbers], axis=-1)
    figure.add_heatmap(
        z=undefined, colorscale=[[0, GREY], [1, GREY]], showscale=False, customdata=data,
        hovertemplate=f"{where}neither passes<br>{both}<extra></extra>", **shared,
    )  # fmt: skip
    figure.add_heatmap(
        z=value, coloraxis="coloraxis", customdata=data, **shared,
        hovertemplate=f"{where}{own}<br>{both}<extra></extra>",
    )  # fmt: skip
    clear = [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]]
    text = np.where(np.isnan(value), "", np.char.mod("%+.2f", np.nan_to_num(value)))
    dark = np.abs(np.nan_to_num(value)) > draw.DARK
    for chosen, colour in ((~dark, "#333333"), (dark, "white")):
        figure.add_heatmap(
            z=value, text=np.where(chosen, text, ""), texttemplate="%{text}", hoverinfo="skip", colorscale=clear,
            textfont={"size": 11, "color": colour}, showscale=False, **shared,
        )  # fmt: skip


def caption(analysis: Analysis, rows: pd.DataFrame, direction: str, window: int) -> str:
    """What selectivity is, of how many pairs, and how the whole prompt leans."""
    value, low, high = analysis.total_selectivity[direction]
    pairs, jobs, more, words = (
        rows[f"{kind}_{count}"].max() for kind in ("stereotype", "definition") for count in ("n", "groups")
    )
    wide = "" if window == 1 else f"{window} layers written at once; "
    shared = "".join(
        f";<br>A the stereotype, B the definition: {each.text()}"
        for each in analysis.overlap
        if each.direction == direction
    )
    return (
        f"{direction} ({draw.meaning(direction)}); (s² - d²) / (s² + d²) of the effects s of occupations and d of "
        f"words that say their gender, {analysis.metric.name} in {analysis.metric.unit};<br>{wide}n = {pairs} pairs of "
        f"{jobs} occupations and {more} pairs of {words} words; whole prompt {value:+.2f} [{low:+.2f}, {high:+.2f}] "
        f"({analysis.intervals.level:.0%});<br>grey: neither effect has q ≤ {THRESHOLD:g}{shared}"
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
    figure = panels(components, 0.03)
    for (term, name), colour in zip(TERM_NAMES.items(), draw.COLOURS[1::-1], strict=True):
        for column, component in enumerate(components, start=1):
            line = rows[(rows["component"] == component) & (rows["term"] == term)].sort_values("layer")
            if len(line):
                draw.add_band(figure, line.rename(columns={"coefficient": "effect"}), name, colour, column)
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title="layer", dtick=1 if draw.n_layers(rows) <= 16 else 4)
    figure.update_yaxes(title=f"{analysis.metric.unit} per unit of score", col=1)
    wide = "" if window == 1 else f"{window} layers written at once; "
    text = (
        f"{direction} ({draw.meaning(direction)}) at {role.replace('_', ' ')}; effect of a word, female minus male, on "
        f"its two scores, each in [-1, 1];<br>{wide}n = {rows['words'].max()} words, {analysis.intervals.level:.0%} "
        f"bands by bootstrap over words; {analysis.without_score} words without a score left out"
    )
    headline = title or "Stereotypical and factual gender"
    figure.update_layout(draw.layout(headline, text, 260 + 320 * len(components), 470))
    return figure


def kept_tables(analysis: Analysis) -> dict[str, pd.DataFrame]:
    """The tables "selectivity" and "regression", as far as they are defined."""
    tables = {"selectivity": analysis.selectivity, "regression": analysis.regression}
    return {name: table for name, table in tables.items() if table is not None}


def comparison_figures(analysis: Analysis) -> dict[str, go.Figure]:
    """Figures of selectivity and regression by file name, for each direction, width, and role of the regression."""
    drawn: dict[str, go.Figure] = {}
    model = analysis.trace.meta["model"]["name"]
    for name, table in kept_tables(analysis).items():
        for direction in analysis.trace.meta["directions"]:
            rows = table[(table["direction"] == direction) & (table["unit"] < 0)]
            for window in sorted({int(width) for width in rows["window"]}):
                suffix = direction if window == 1 else f"{direction}_window{window}"
                if name == "selectivity":
                    headline = f"Stereotype against definition in {model}"
                    drawn[f"selectivity_{suffix}"] = plot_selectivity(
                        analysis, title=headline, direction=direction, window=window
                    )
                    continue
                of_width = draw.whole_vectors(table, direction, window)
                for role in sorted({*of_width.loc[of_width["coefficient"].notna(), "role"]} & {"subject_last", "last"}):
                    headline = f"Stereotypical and factual gender in {model}"
                    drawn[f"regression_{role}_{suffix}"] = plot_regression(
                        analysis, title=headline, direction=direction, role=role, window=window
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
