"""Figures: maps by layer and role, lines with bands, maps of heads, one prompt's own map, and occupations."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.analysis import Analysis, Shown
from locate.mediation.effect_table import DEFINITION
from locate.mediation.located import THRESHOLD
from locate.prompts.build import occupation_table
from locate.report.quiet import quiet_subplots
from locate.sites import ROLES
from locate.tracing.table import Trace, whole_sites

Averages = Analysis | Shown
DIVERGING = "PuOr_r"  # told apart by colour-blind readers; white at 0
FONT = {"family": "Arial, Helvetica, sans-serif", "size": 13}
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito 2008
NAMES = {
    "resid_pre": "residual stream",
    "attn_out": "attention output",
    "mlp_out": "MLP output",
    "head": "attention heads",
    "neuron": "MLP neurons",
    "mlp_out_unit": "numbers of the MLP output",
    "pattern": "attention weights",
}
QUANTITIES = {
    "nie": "average indirect effect",
    "nie / total": "average indirect effect",
    "nde": "average direct effect",
    "total": "average total effect",
}
LETTER = 7.2  # pixels of a caption's letter, about
DARK = 0.6  # of the colour limit: beyond it, black numbers cannot be read
SUBJECT = ("subject_first", "subject_middle", "subject_last")


def plot_map(averages: Averages, *, title: str = "", direction: str = "denoising", window: int = 1) -> go.Figure:
    """Layer x role heatmap of average effects, one panel per component that is traced as whole vectors.

    averages   an `Analysis`, or a table of averages as `Shown`
    direction  "denoising" or "noising"
    window     the width of the patches shown; resid_pre is always single

    The colour is centred on 0 and shared by all panels. Cells above the false-discovery threshold are faded; hover
    for effect, interval, n and q. Subject roles are in bold.

    Raises LocateError when there is nothing to draw.
    """
    averages = shown_of(averages)
    rows = whole_vectors(averages.table, direction, window)
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in NAMES if name in set(rows["component"])]
    roles = [role for role in ROLES if role in set(rows["role"])]
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[NAMES[c] for c in components]
    )
    limit = float(rows["effect"].abs().max()) or 1.0
    for column, component in enumerate(components, start=1):
        panel = rows[rows["component"] == component]
        add_panel(figure, panel.assign(column=panel["role"].astype(str)), roles, column, limit)
    figure.update_xaxes(ticktext=[marked(role) for role in roles], tickvals=roles, tickangle=-40)
    layer_axes(figure, rows)
    return finished(
        figure, averages, title, direction, limit, 170 + 300 * len(components), 210 + 42 * n_layers(rows), window
    )


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
    """Layer x head heatmap of average effects at one role.

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
    figure = quiet_subplots(1, 1, subplot_titles=[f"{NAMES['head']} at {role.replace('_', ' ')}"])
    limit = float(rows["effect"].abs().max()) or 1.0
    add_panel(figure, rows.assign(column=rows["unit"].astype(str)), heads, 1, limit)
    figure.update_xaxes(title="head", type="category")
    layer_axes(figure, rows)
    return finished(figure, averages, title, direction, limit, 260 + 60 * len(heads), 210 + 42 * n_layers(rows))


def add_panel(
    figure: go.Figure, panel: pd.DataFrame, columns: Sequence[str], place: int, limit: float, line: int = 1
) -> None:
    """One heatmap of effects by layer and column; a white veil lies over cells that fail the threshold."""
    layers = sorted(panel["layer"].unique())
    grid = panel.pivot(index="layer", columns="column").reindex(index=layers)

    def cells(name: str) -> np.ndarray:
        return grid[name].reindex(columns=list(columns)).to_numpy(dtype=float)

    effect, q = cells("effect"), cells("q")
    hover = "layer %{y}, %{x}<br>effect %{z:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
    hover += "<br>n %{customdata[2]:.0f} pairs, %{customdata[3]:.0f} groups, q %{customdata[4]:.3g}<extra></extra>"
    shared = {"x": list(columns), "y": layers, "xgap": 1, "ygap": 1}
    figure.add_heatmap(
        z=effect,
        customdata=np.stack([cells("low"), cells("high"), cells("n"), cells("groups"), q], axis=-1),
        hovertemplate=hover,
        coloraxis="coloraxis",
        row=line,
        col=place,
        **shared,
    )
    clear = [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]]
    veil = np.where(np.isnan(effect) | (q <= THRESHOLD), np.nan, 1.0)
    figure.add_heatmap(
        z=veil, colorscale=[[0, "white"], [1, "white"]], opacity=0.6, showscale=False, hoverinfo="skip", row=line,
        col=place, **shared,
    )  # fmt: skip
    dark = (np.abs(effect) > DARK * limit) & ~(veil > 0)
    for chosen, colour in ((~dark, "#333333"), (dark, "white")):
        figure.add_heatmap(
            z=effect, text=signed_text(np.where(chosen, effect, 0.0)), texttemplate="%{text}",
            textfont={"size": 11, "color": colour}, hoverinfo="skip", colorscale=clear, showscale=False, row=line,
            col=place, **shared,
        )  # fmt: skip


def signed_text(effect: np.ndarray) -> np.ndarray:
    """Cells as signed text; empty where they are missing or round to 0."""
    known = np.nan_to_num(effect)
    return np.where(np.abs(known) < 0.005, "", np.char.mod("%+.2f", known))


def plot_layers(
    averages: Averages, *, title: str = "", direction: str = "denoising", window: int = 1, roles: Sequence[str] = ()
) -> go.Figure:
    """Average effect by layer, a line for each role with its interval as a band, one panel per component.

    The form of ROME's figure 3 (Meng et al. 2022). roles: all but before_subject when empty.

    Raises LocateError when there is nothing to draw.
    """
    averages = shown_of(averages)
    rows = whole_vectors(averages.table, direction, window)
    rows = rows[rows["role"].isin(roles or [role for role in ROLES if role != "before_subject"])]
    if rows.empty:
        raise LocateError(f"no cells of direction {direction!r} and window {window} to draw: trace them first")
    components = [name for name in NAMES if name in set(rows["component"])]
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.03, subplot_titles=[NAMES[c] for c in components]
    )
    for role, colour in zip([*ROLES[1:], ROLES[0]], COLOURS, strict=True):
        for column, component in enumerate(components, start=1):
            line = rows[(rows["component"] == component) & (rows["role"] == role)].sort_values("layer")
            if len(line):
                add_band(figure, line, role.replace("_", " "), colour, column)
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title="layer", dtick=1 if n_layers(rows) <= 16 else 4)
    figure.update_yaxes(title=axis_title(averages), col=1)
    return finished(figure, averages, title, direction, None, 240 + 320 * len(components), 470, window)


def add_band(figure: go.Figure, line: pd.DataFrame, name: str, colour: str, place: int, row: int = 1) -> None:
    """A line with its interval as a band; the legend names it once."""
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
        hovertemplate="layer %{x}: %{y:.3f}<extra>" + name + "</extra>",
        row=row,
        col=place,
    )


def plot_pair(
    analysis: Analysis, pair: int, *, direction: str = "denoising", column: str = "nie", title: str = ""
) -> go.Figure:
    """Layer x token heatmap of one pair's own effects: no average, no interval.

    pair    its number in the trace
    column  "nie", "nde" or "total"

    Raises LocateError when the pair is not in the trace.
    """
    rows = whole_sites(analysis.effects)
    rows = rows[
        (rows["pair"] == pair)
        & (rows["direction"] == direction)
        & (rows["unit"] < 0)
        & (rows["window"] == 1)
        & (rows["clean_pos"] >= 0)
    ]
    if rows.empty:
        numbers = sorted(analysis.effects["pair"].unique())
        span = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise LocateError(f"pair {pair} with direction {direction!r} is not in the trace: expected one of {span}")
    components = [name for name in NAMES if name in set(rows["component"])]
    places = rows.drop_duplicates("clean_pos").set_index("clean_pos")[["token", "role"]].astype(str)
    positions = list(range(places.index.min(), places.index.max() + 1))
    labels = [pair_label(places, position) for position in positions]
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[NAMES[c] for c in components]
    )
    for column_number, component in enumerate(components, start=1):
        grid = rows[rows["component"] == component].pivot(index="layer", columns="clean_pos", values=column)
        grid = grid.reindex(columns=positions)
        text = signed_text(grid.to_numpy(dtype=float))
        figure.add_heatmap(
            z=grid.to_numpy(), x=[str(i) for i in grid.columns], y=list(grid.index), coloraxis="coloraxis", xgap=1,
            ygap=1, text=text, texttemplate="%{text}", textfont={"size": 11}, row=1, col=column_number,
            hovertemplate="layer %{y}, token %{x}: %{z:.3f}<extra></extra>",
        )  # fmt: skip
    figure.update_xaxes(type="category", tickvals=[str(i) for i in positions], ticktext=labels, tickangle=-40)
    layer_axes(figure, rows)
    first = rows.iloc[0]
    caption = (
        f"clean: “{safe(first['clean'])}”, corrupted: {corruption_text(first)} ({direction}); total effect "
        f"{first['total']:+.2f} {analysis.metric.unit};<br>"
        f"{QUANTITIES[column].removeprefix('average ')} of each token in the cells, positive is "
        f"{analysis.terms.positive}; "
        "one pair, so no interval; subject in bold; "
        "·: a token without counterpart in the corrupted prompt"
    )
    limit = float(rows[column].abs().max()) or 1.0
    height = 210 + 42 * n_layers(rows)
    figure.update_layout(layout(title or "One prompt pair", caption, 170 + 300 * len(components), height))
    figure.update_layout(coloraxis=colour_axis(limit, analysis.metric.unit))
    return figure


def corruption_text(row: pd.Series) -> str:
    """The corrupted prompt, or that the clean one was noised."""
    return "the same with noise" if row["corrupted"] == row["clean"] else f"“{safe(row['corrupted'])}”"


def pair_label(places: pd.DataFrame, position: int) -> str:
    """A token as an axis label, bold in the subject; a dot where no patch was made."""
    if position not in places.index:
        return "·"
    text = shown(str(places.loc[position, "token"]))
    return f"<b>{text}</b>" if places.loc[position, "role"] in SUBJECT else text


def plot_occupations(
    log_odds: pd.DataFrame | Analysis, shares: pd.DataFrame | None = None, *, title: str = ""
) -> go.Figure:
    """Occupations by the model's log-odds after their clean prompts, against the share of women who work in them.

    log_odds  an `Analysis`, whose definitional words are left out, or a table as `pair_log_odds` returns it
    shares    as `occupation_table` returns it, the default

    Bars span one standard error over templates. The caption gives Pearson's r with a 95 % interval over occupations.

    Raises LocateError when fewer than three occupations are in both tables.
    """
    if isinstance(log_odds, Analysis):
        log_odds = log_odds.log_odds[log_odds.log_odds["kind"] != DEFINITION]
    shares = occupation_table() if shares is None else shares
    grouped = log_odds.groupby("group", observed=True)["log_odds"]
    means = pd.DataFrame({"log_odds": grouped.mean(), "error": grouped.sem().fillna(0.0), "templates": grouped.size()})
    rows = (
        means.join(shares.set_index("occupation"), how="inner").sort_values("log_odds").reset_index(names="occupation")
    )
    if len(rows) < 3:
        raise LocateError(f"{len(rows)} traced groups are in the table of occupations: expected at least 3")
    r, low, high = correlation(rows["share_women"].to_numpy(), rows["log_odds"].to_numpy())
    figure = quiet_subplots(
        1, 2, column_widths=[0.5, 0.5], horizontal_spacing=0.2, subplot_titles=["ranked", "against the labour share"]
    )
    hover = "%{text}: %{x:.2f} nats<extra></extra>"
    figure.add_scatter(
        x=rows["log_odds"], y=rows["occupation"], mode="markers", text=rows["occupation"], hovertemplate=hover,
        error_x={"array": rows["error"], "thickness": 1, "width": 0}, showlegend=False, row=1, col=1,
        marker={"size": 6, "color": rows["share_women"], "colorscale": DIVERGING, "cmin": 0, "cmax": 100,
                "line": {"width": 0.5, "color": "black"}},
    )  # fmt: skip
    figure.add_scatter(
        x=rows["share_women"], y=rows["log_odds"], mode="markers", text=rows["occupation"], showlegend=False,
        marker={"size": 7, "color": COLOURS[0], "opacity": 0.7}, row=1, col=2,
        hovertemplate="%{text}: %{x:.0f} % women, %{y:.2f} nats<extra></extra>",
    )  # fmt: skip
    figure.add_vline(x=0, line={"color": "black", "width": 1}, row=1, col=1)
    figure.add_hline(y=0, line={"color": "black", "width": 1}, row=1, col=2)
    figure.update_xaxes(title="log p(she) - log p(he), nats", row=1, col=1)
    figure.update_yaxes(tickfont={"size": 9}, dtick=1, range=[-1, len(rows)], row=1, col=1)
    height = 220 + 13 * len(rows)
    figure.update_xaxes(title="women in the occupation, %", row=1, col=2)
    figure.update_yaxes(title="log p(she) - log p(he), nats", domain=[max(0.0, 1 - 480 / height), 1], row=1, col=2)
    figure.update_xaxes(anchor="y2", row=1, col=2)
    caption = (
        f"{len(rows)} occupations, mean over {int(rows['templates'].median())} templates each (bars: standard error);"
        f"<br>Pearson r = {r:.2f} [{low:.2f}, {high:.2f}] (95 %, bootstrap over occupations); colour: share of women"
    )
    figure.update_layout(layout(title or "Occupations", caption, 1150, height))
    return figure


def correlation(x: np.ndarray, y: np.ndarray, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Pearson's r with a 95 % percentile interval over rows."""
    draws = np.random.default_rng(seed).integers(len(x), size=(samples, len(x)))
    a, b = x[draws] - x[draws].mean(1, keepdims=True), y[draws] - y[draws].mean(1, keepdims=True)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    values = (a * b).sum(1)[spread > 0] / spread[spread > 0]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(np.corrcoef(x, y)[0, 1]), float(low), float(high)


def finished(
    figure: go.Figure,
    averages: Shown,
    title: str,
    direction: str,
    limit: float | None,
    width: int,
    height: int,
    window: int = 1,
    note: str = "",
) -> go.Figure:
    """Title, caption and colour bar of a figure of averages; `note` says what is drawn, where that needs more words."""
    table = averages.table[averages.table["direction"] == direction]
    width_text = "" if window == 1 else f"{window} layers written at once; "
    kind = f"{averages.kind} " if averages.kind else ""
    caption = (
        f"{direction} ({meaning(direction)}); {averages.metric} in {averages.unit}, positive is "
        f"{averages.positive}; n = {table['n'].max()} {kind}pairs of {table['groups'].max()} groups;<br>"
        f"{width_text}{averages.level:.0%} intervals by bootstrap over "
        f"{'groups and templates' if 'template' in averages.clusters else 'groups'}; "
        + (note or ("faded: q > 0.05" if limit is not None else "bands: the interval"))
    )
    figure.update_layout(layout(title or QUANTITIES[averages.column].capitalize(), caption, width, height))
    if limit is not None:
        figure.update_layout(coloraxis=colour_axis(limit, averages.unit))
    return figure


def layout(title: str, caption: str, width: int, height: int) -> dict[str, object]:
    """What all figures share; a caption that needs more than two lines makes its figure taller."""
    width = max(width, 620)
    lines, room = caption.split("<br>"), int(width / LETTER)
    if max(map(len, lines)) > room:
        lines = wrap(" ".join(lines), room, break_long_words=False)
    extra = 23 * max(0, len(lines) - 2)
    height += extra
    return {
        "title": {"text": f"{safe(title)}<br><sup>{'<br>'.join(lines)}</sup>", "x": 0.02, "xanchor": "left",
                  "yref": "container", "y": 1 - 22 / height, "yanchor": "top"},
        "font": FONT,
        "width": width,
        "height": height,
        "margin": {"l": 70, "r": 40, "t": 125 + extra, "b": 100},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
    }  # fmt: skip


def colour_axis(limit: float, unit: str) -> dict[str, object]:
    """A diverging colour scale centred on 0."""
    return {"colorscale": DIVERGING, "cmin": -limit, "cmax": limit, "colorbar": {"title": {"text": unit}}}


def axis_title(averages: Shown) -> str:
    """Quantity and unit of the averages."""
    return f"{QUANTITIES[averages.column]}, {averages.unit}"


def meaning(direction: str) -> str:
    """What the direction asks."""
    return "is the site sufficient?" if direction == "denoising" else "is the site necessary?"


def layer_axes(figure: go.Figure, rows: pd.DataFrame) -> None:
    """Layers as rows of maps, one after the other whichever were traced."""
    layers = [str(layer) for layer in sorted(rows["layer"].unique())]
    figure.update_yaxes(type="category", categoryorder="array", categoryarray=layers)
    figure.update_yaxes(title="layer", col=1)


def n_layers(rows: pd.DataFrame) -> int:
    """Number of layers drawn."""
    return int(rows["layer"].nunique())


def marked(role: str) -> str:
    """A role as an axis label, bold for the subject."""
    text = role.replace("_", " ")
    return f"<b>{text}</b>" if role in SUBJECT else text


def shown(token: str) -> str:
    """A token as an axis label: its leading-space mark as a visible space, HTML escaped."""
    return safe(token.replace("Ġ", "␣").replace("▁", "␣"))


def safe(text: str) -> str:
    """Text with HTML's characters escaped: prompts are data, not markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def title_of(trace: Trace, quantity: str) -> str:
    """The headline of a trace's figures."""
    return f"{QUANTITIES[quantity].capitalize()} in {trace.meta['model']['name']}"
