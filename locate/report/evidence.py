"""Figures of evidence: controls beside the sites' own effects, sets of sites, and estimates against exact effects."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.agreement import PLACE
from locate.mediation.analysis import Analysis, Shown
from locate.mediation.controls import CHOOSING
from locate.mediation.sets import Areas
from locate.metrics import difference
from locate.report.figures import headline, metric_and_unit, total_of
from locate.report.quiet import Figure, quiet_subplots
from locate.report.theme import COLOURS, FOOT, add_words, with_foot
from locate.tracing.table import CONTROL, whole_sites
from locate.words import decimals, role_words, site_words, with_interval

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
    names = [site_label(row, averages.subject) for _, row in sites.iterrows()]
    rows = rows.assign(site=[site_label(row, averages.subject) for _, row in rows.iterrows()])
    own = own.assign(site=[site_label(row, averages.subject) for _, row in own.iterrows()])
    digits = decimals(float(own["effect"].abs().max())) + 1
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
            hovertext=[hover_of_control(row, digits) for row in part.to_dict("records")],
            hovertemplate="%{hovertext}<extra>" + name + "</extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": "black", "width": 1})
    figure.update_xaxes(title=f"average indirect effect, {averages.unit}")
    figure.update_yaxes(
        tickvals=list(range(len(names))), ticktext=names, range=[len(names) - 0.5, -0.5], showgrid=False
    )
    counts = rows[rows[CONTROL] == "shuffled source"]
    n = f"{counts['n'].max()} pairs of {counts['groups'].max()} groups" if len(counts) else "their own words"
    caption = (
        f"{direction.capitalize()}: {metric_and_unit(averages)}; positive is "
        f"{averages.positive}, for neutral words female{total_of(averages, direction)}. Sites: n = "
        f"{int(own['n'].max())} pairs of {int(own['groups'].max())} groups, shuffled and random: {n}; "
        f"{averages.level:.0%} intervals by bootstrap over groups. Shuffled: another group's value; random: as far, "
        "anywhere"
    )
    weights = rows[rows[CONTROL] == "random weights"]
    if len(weights):
        most = weights.iloc[0]
        caption += f"; largest of the whole map with random weights {most['effect']:+.3f} ({short_name(most)})"
    what = "controls of the strongest sites"
    return add_words(
        figure, title or headline(what, averages, direction), f"{caption}.", 1000, 30 + 70 * len(names), left=250,
        top=8, bottom=50,
    )  # fmt: skip


def site_label(row: pd.Series, subject: str) -> str:
    """A controlled site on two lines: component and layer, and its token in words."""
    role = role_words(str(row["role"]), subject)
    name = site_words(row["component"], int(row["layer"]), str(row["role"]), int(row["unit"]), subject=subject)
    return f"{name.removesuffix(f', {role}')}<br>{role}"


def hover_of_control(row: dict[Any, Any], digits: int) -> str:
    """What a mouse over a mark is told: site, effect with interval, and counts."""
    effect = with_interval(row["effect"], row["low"], row["high"], digits)
    return f"<b>{row['site'].replace('<br>', ', ')}</b><br>{effect}<br>{row['n']} pairs of {row['groups']} groups"


def plot_sets(
    table: Analysis | pd.DataFrame, area: Areas | None = None, averages: Shown | None = None, *, title: str = ""
) -> go.Figure:
    """Faithfulness against the size of the set: circuits by their share of all sites, sets written together by number.

    table  an `Analysis`; or a table as `set_table` returns it, with its `areas` and the `averages` of the whole run

    Raises LocateError for a run without sets, or where the total effect cannot be told from 0.
    """
    if isinstance(table, Analysis):
        if table.sets is None or table.areas is None:
            raise LocateError(table.why_no_sets or "this run measured no sets of sites: trace again with sets")
        table, area, averages = table.sets, table.areas, table.shown()
    assert area is not None
    assert averages is not None
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
    figure.update_yaxes(matches="y")
    figure.update_yaxes(title="share of the total effect", row=1, col=1)
    direction = next(iter(averages.totals))
    caption = (
        f"Area under the circuits' line (CPR) and between it and 1 (CMD): {area.text()}, none of which the sets were "
        f"chosen on{total_of(averages, direction)}. Bands: 95% intervals by bootstrap over groups; dotted: the whole "
        "effect."
    )
    what = "share of the total effect that sets of sites carry"
    return add_words(figure, title or headline(what, averages, direction), caption, 1000, 320, bottom=50)


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
    rows, averages = rows[rows["exact"].notna()], analysis.shown()
    averages = averages if analysis.metric.name == CHOOSING else replace(averages, totals={})
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
                showlegend=column == 1,
                text=[hover_of_estimate(row, averages.subject) for row in shown.to_dict("records")],
                marker={"size": 7, "color": colour, "opacity": 0.6}, row=1, col=column,
                hovertemplate="%{text}<br>estimated %{x:.3f}, exact %{y:.3f}<extra></extra>",
            )  # fmt: skip
    figure.update_xaxes(title="estimated effect, nats", zeroline=True)
    figure.update_yaxes(title="exact effect, nats", zeroline=True)
    caption = ". ".join(
        f"{each.direction.capitalize()}: {each.measured:,} of {each.sites:,} sites measured; {each.audited} random "
        f"ones: rank correlation {each.rho:.2f} [{each.low:.2f}, {each.high:.2f}]{total_of(averages, each.direction)}"
        for each in found
    )
    what = "estimated against exact effects"
    return add_words(figure, title or headline(what, averages), f"{caption}.", 280 + 430 * len(found), 400, bottom=50)


def hover_of_estimate(row: dict[Any, Any], subject: str) -> str:
    """A site in words, in bold."""
    site = site_words(
        row["component"], int(row["layer"]), str(row["role"]), int(row["unit"]), key=str(row["key"]), subject=subject
    )
    return f"<b>{site}</b>"


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


def chosen_line(metric: str) -> str:
    """The metric that the controlled sites and the compared set were chosen by, where another is shown."""
    return (
        f"the controlled sites, and the set compared with random ones, were chosen by {CHOOSING} when the run was "
        f"measured; what is shown of them is {metric}"
    )


def with_controls(figures: dict[str, go.Figure], analysis: Analysis) -> dict[str, go.Figure]:
    """The figures with the controls of their direction at their foot, unless it says something already."""
    ways = [str(each) for each in analysis.trace.meta["directions"]]
    lines = {direction: controls_line(analysis, direction) for direction in ways}
    for name, figure in figures.items():
        if figure.layout.meta[FOOT]:
            continue
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
