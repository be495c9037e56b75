"""Figures of evidence: controls beside the sites' own effects, sets of sites, and estimates against exact effects."""

from __future__ import annotations

from textwrap import wrap

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.agreement import PLACE
from locate.mediation.analysis import Analysis, Shown
from locate.mediation.controls import CHOOSING
from locate.mediation.located import Located
from locate.mediation.sets import Areas
from locate.metrics import difference
from locate.report.figures import COLOURS, layout
from locate.report.quiet import Figure, quiet_subplots
from locate.tracing.table import CONTROL, whole_sites

SHORT = {"mlp_out": "MLP", "attn_out": "attention", "head": "head", "neuron": "neuron", "resid_pre": "residual"}
CONTROL_COLOURS = dict(
    zip(
        (
            "the site itself",
            "shuffled source",
            "random direction",
            "definitional words",
            "neutral words",
            "random weights",
        ),
        ("#000000", *COLOURS[:5]),
        strict=True,
    )
)


def short_name(row: pd.Series) -> str:
    """A site in a few words, like "MLP 0, subject last"."""
    name = SHORT.get(str(row["component"]), str(row["component"]))
    unit = "" if row["unit"] < 0 else f".{int(row['unit'])}"
    return f"{name} {int(row['layer'])}{unit}, {str(row['role']).replace('_', ' ')}"


def plot_controls(
    controls: Analysis | pd.DataFrame, averages: Shown | None = None, *, direction: str = "denoising", title: str = ""
) -> go.Figure:
    """Each controlled site's own effect and those of its controls, with intervals: one row of marks a site.

    controls  an `Analysis`; or a table as `control_table` returns it, with the averages of the whole run

    Raises LocateError when no control was run in that direction.
    """
    if isinstance(controls, Analysis):
        controls, averages = controls.controls, controls.shown()
    assert averages is not None
    rows = controls[controls["direction"] == direction]
    sites = rows[rows[CONTROL] != "random weights"].drop_duplicates(PLACE[:4])
    if sites.empty:
        raise LocateError(f"no controls of direction {direction!r} to draw: trace with controls")
    own = whole_sites(averages.table[averages.table["direction"] == direction])
    own = own[own["window"] == 1]
    own = own[own["key"] == ""]
    own = own.merge(sites[PLACE[:4]], on=PLACE[:4]).assign(**{CONTROL: "the site itself"})
    names = [short_name(row) for _, row in sites.iterrows()]
    rows = rows.assign(site=[short_name(row) for _, row in rows.iterrows()])
    own = own.assign(site=[short_name(row) for _, row in own.iterrows()])
    known = [name for name in CONTROL_COLOURS if name in {*rows[CONTROL], "the site itself"} - {"random weights"}]
    figure = Figure()
    for turn, name in enumerate(known):
        part = own if name == "the site itself" else rows[rows[CONTROL] == name]
        height = [names.index(site) - 0.3 + 0.6 * turn / max(1, len(known) - 1) for site in part["site"]]
        figure.add_scatter(
            x=part["effect"], y=height, mode="markers", name=name, text=part["site"],
            marker={"size": 10 if turn == 0 else 8, "color": CONTROL_COLOURS[name],
                    "symbol": "diamond" if turn == 0 else "circle"},
            error_x={"type": "data", "symmetric": False, "array": part["high"] - part["effect"],
                     "arrayminus": part["effect"] - part["low"], "thickness": 1.5, "width": 3},
            customdata=part[["low", "high", "n", "groups"]],
            hovertemplate="%{text}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}], %{customdata[2]} pairs of "
            "%{customdata[3]} groups<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title=f"average indirect effect, {averages.unit}", gridcolor="#eeeeee")
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5])
    counts = rows[rows[CONTROL] == "shuffled source"]
    n = f"{counts['n'].max()} pairs of {counts['groups'].max()} groups" if len(counts) else "their own words"
    caption = (
        f"{direction}; positive is {averages.positive}, for neutral words female; sites: "
        f"n = {int(own['n'].max())} pairs of {int(own['groups'].max())} groups, shuffled and random: {n};<br>"
        f"{averages.level:.0%} intervals by bootstrap over groups; shuffled: another group's value; random: as far, "
        "anywhere"
    )
    weights = rows[rows[CONTROL] == "random weights"]
    if len(weights):
        most = weights.iloc[0]
        caption += f"; largest of the whole map with random weights {most['effect']:+.3f} ({short_name(most)})"
    figure.update_layout(layout(title or "Controls of the strongest sites", caption, 980, 240 + 80 * len(names)))
    return figure


def plot_sets(table: Analysis | pd.DataFrame, area: Areas | None = None, *, title: str = "") -> go.Figure:
    """Faithfulness against the size of the set: circuits by their share of all sites, sets written together by number.

    table  an `Analysis`; or a table as `set_table` returns it, with its `areas`

    Raises LocateError for a run without sets, or where the total effect cannot be told from 0.
    """
    if isinstance(table, Analysis):
        if table.sets is None or table.areas is None:
            raise LocateError(table.why_no_sets or "this run measured no sets of sites: trace again with sets")
        table, area = table.sets, table.areas
    assert area is not None
    figure = quiet_subplots(
        1, 2, horizontal_spacing=0.12, subplot_titles=["circuits: all else corrupted", "sets written together"]
    )
    circuits = table[table["kind"] == "circuit"]
    add_curve(figure, circuits["share"], circuits, "circuit", COLOURS[0], 1)
    for kind, name, colour in (("top", "the strongest", COLOURS[1]), ("greedy", "greedy", COLOURS[2])):
        part = table[table["kind"] == kind]
        add_curve(figure, part["size"], part, name, colour, 2)
    figure.add_hline(y=1, line={"color": "#666666", "width": 1, "dash": "dot"})
    figure.add_hline(y=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title="share of all sites in the circuit", row=1, col=1)
    figure.update_xaxes(title="sites in the set", dtick=1, row=1, col=2)
    figure.update_yaxes(title="share of the total effect", row=1, col=1)
    caption = (
        f"{area.text()}, none of which the sets were chosen on;"
        "<br>bands: 95 % intervals by bootstrap over groups; dotted: the whole effect"
    )
    figure.update_layout(layout(title or "Sets of sites", caption, 980, 460))
    return figure


def add_curve(figure: go.Figure, x: pd.Series, rows: pd.DataFrame, name: str, colour: str, place: int) -> None:
    """A line of faithfulness with its band."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    figure.add_scatter(
        x=pd.concat([x, x[::-1]]), y=pd.concat([rows["high"], rows["low"][::-1]]), fill="toself", mode="lines",
        line={"width": 0}, fillcolor=f"rgba({red},{green},{blue},0.18)", hoverinfo="skip", showlegend=False, row=1,
        col=place,
    )  # fmt: skip
    figure.add_scatter(
        x=x, y=rows["faithfulness"], name=name, mode="lines+markers", line={"color": colour, "width": 2}, row=1,
        col=place,
        marker={"size": 6}, customdata=rows[["low", "high"]],
        hovertemplate="%{x}: %{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>" + name + "</extra>",
    )  # fmt: skip


def plot_agreement(analysis: Analysis, *, title: str = "") -> go.Figure:
    """Estimated against exact average effects of every site that a run within a budget measured, log-odds.

    Raises LocateError for a run that has no estimates.
    """
    found, rows = analysis.agreement, analysis.estimated
    if rows is None:
        raise LocateError("this run was not made within a budget and has no estimates to compare: trace with one")
    rows = rows[rows["exact"].notna()]
    figure = quiet_subplots(1, len(found), subplot_titles=[each.direction for each in found], horizontal_spacing=0.1)
    for column, each in enumerate(found, start=1):
        part = rows[rows["direction"] == each.direction]
        reach = float(np.nanmax(np.abs(part[["estimate", "exact"]].to_numpy()))) * 1.05 or 1.0
        figure.add_scatter(
            x=[-reach, reach], y=[-reach, reach], mode="lines", line={"color": "#999999", "dash": "dot"},
            hoverinfo="skip", showlegend=False, row=1, col=column,
        )  # fmt: skip
        for word, name, colour in (
            ("top", "chosen as strongest", COLOURS[1]),
            ("audit", "drawn at random", COLOURS[0]),
        ):
            shown = part[part["chosen"].str.contains(word)]
            figure.add_scatter(
                x=shown["estimate"], y=shown["exact"], mode="markers", name=name, legendgroup=name,
                showlegend=column == 1, text=[short_name(row) for _, row in shown.iterrows()],
                marker={"size": 7, "color": colour, "opacity": 0.6}, row=1, col=column,
                hovertemplate="%{text}: estimated %{x:.3f}, exact %{y:.3f}<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title="estimated effect, nats", zeroline=True, zerolinecolor="black", gridcolor="#eeeeee")
    figure.update_yaxes(title="exact effect, nats", zeroline=True, zerolinecolor="black", gridcolor="#eeeeee")
    caption = "<br>".join(
        f"{each.direction}: {each.measured:,} of {each.sites:,} sites measured; {each.audited} random ones: rank "
        f"correlation {each.rho:.2f} [{each.low:.2f}, {each.high:.2f}]"
        for each in found
    )
    figure.update_layout(layout(title or "Estimates against exact effects", caption, 120 + 460 * len(found), 560))
    return figure


def evidence_figures(analysis: Analysis) -> dict[str, go.Figure]:
    """Controls, sets and estimates, as far as the run has them, by file name."""
    drawn: dict[str, go.Figure] = {}
    controls = analysis.controls
    for direction in controls["direction"].unique():
        if (controls.loc[controls["direction"] == direction, CONTROL] != "random weights").any():
            drawn[f"controls_{direction}"] = plot_controls(analysis, direction=str(direction))
    if analysis.sets is not None and analysis.metric.effect is difference:
        drawn["sets"] = plot_sets(analysis)
    if analysis.estimated is not None:
        drawn["estimates"] = plot_agreement(analysis)
    return drawn


def evidence_lines(analysis: Analysis, located: Located) -> list[str]:
    """What a run's controls, sets and estimates say, and which of them it lacks, one sentence each."""
    trace, metric = analysis.trace, analysis.metric.name
    about = trace.meta.get("controls", {})
    lines = strongest_lines(analysis.controls, located.direction, located.unit)
    lines += [chosen_line(metric)] if trace.controls is not None and metric != CHOOSING else []
    lines += [not_run_line(name, reason) for name, reason in about.get("not_run", {}).items()]
    if located.set_test is not None:
        lines.append(located.set_test.line(located.unit))
    elif "reason" in about.get("random_sets", {}):
        lines.append(f"no random sets were compared: {about['random_sets']['reason']}")
    if analysis.areas is not None:
        lines.append(f"circuits of the strongest sites: {analysis.areas.text()}")
    elif analysis.why_no_sets:
        lines.append(f"sets of sites are not shown: {analysis.why_no_sets}")
    return lines + [each.line() for each in analysis.agreement]


def chosen_line(metric: str) -> str:
    """The metric that the controlled sites and the compared set were chosen by, where another is shown."""
    return (
        f"the controlled sites, and the set compared with random ones, were chosen by {CHOOSING} when the run was "
        f"measured; what is shown of them is {metric}"
    )


def not_run_line(name: str, reason: str) -> str:
    """Which control was not run, and why."""
    return f"no control was run: {reason}" if name == "all" else f"control {name} was not run: {reason}"


def strongest_lines(controls: pd.DataFrame, direction: str, unit: str) -> list[str]:
    """The controls at the first of the sites, and the largest effect in the untrained model."""
    rows = controls[controls["direction"] == direction]
    here = rows[rows[CONTROL] != "random weights"]
    lines = []
    if len(here):
        first = here.iloc[0]
        same = here[(here[PLACE[:4]] == first[PLACE[:4]]).all(axis=1)]
        told = ", ".join(f"{row[CONTROL]} {interval(row)}" for _, row in same.iterrows())
        lines.append(f"controls of {short_name(first)} (itself {first['own']:+.3f}, {direction}, {unit}): {told}")
    untrained = rows[rows[CONTROL] == "random weights"]
    if len(untrained):
        most = untrained.iloc[0]
        lines.append(f"with random weights the largest of the whole map is {interval(most)} at {short_name(most)}")
    return lines


def interval(row: pd.Series) -> str:
    """An effect with its interval."""
    return f"{row['effect']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]"


def with_controls(figures: dict[str, go.Figure], analysis: Analysis) -> dict[str, go.Figure]:
    """The figures with the controls of their direction in a line at their foot."""
    ways = [str(each) for each in analysis.trace.meta["directions"]]
    lines = {direction: controls_line(analysis, direction) for direction in ways}
    for name, figure in figures.items():
        with_foot(figure, lines[next((each for each in ways if each in name), ways[0])])
    return figures


def controls_line(analysis: Analysis, direction: str) -> str:
    """The controls of a run in one line, for the foot of its figures, in the metric that they show."""
    identities = analysis.trace.meta.get("audit", {}).get("identities", {})
    controls, metric, parts = analysis.controls, analysis.metric.name, []
    if identities:
        parts.append(
            f"patched with itself {identities['self']:.1g} nats off 0, patched whole {identities['everything']:.1g} "
            "off the total"
        )
    rows = controls[(controls["direction"] == direction) & (controls[CONTROL] != "random weights")]
    if len(rows):
        first = rows.iloc[0]
        same = rows[(rows[PLACE[:4]] == first[PLACE[:4]]).all(axis=1)]
        told = ", ".join(f"{row[CONTROL]} {row['effect']:+.2f}" for _, row in same.iterrows())
        parts.append(f"{short_name(first)} (itself {first['own']:+.2f}): {told}")
    test = analysis.set_test
    if test is not None and test.direction == direction:
        parts.append(f"located set against {test.sets} random ones: p = {test.p:.2g}")
    if metric != CHOOSING and (len(rows) or test is not None):
        parts.append(chosen_line(metric))
    return "controls: " + "; ".join(parts) if parts else "no controls were run"


def with_foot(figure: go.Figure, line: str) -> go.Figure:
    """The figure with a line below everything else, wrapped to its width."""
    lines = wrap(line, max(60, int(figure.layout.width / 6.2)))
    extra = 10 + 15 * len(lines)
    bottom = figure.layout.margin.b + extra
    figure.update_layout(height=figure.layout.height + extra, margin={"b": bottom})
    figure.add_annotation(
        text="<br>".join(lines), xref="paper", yref="paper", x=0, y=0, xanchor="left", yanchor="bottom", align="left",
        xshift=-60, yshift=6 - bottom, showarrow=False, font={"size": 11, "color": "#555555"},
    )  # fmt: skip
    return figure
