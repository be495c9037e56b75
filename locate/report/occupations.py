"""Occupations by the model's log-odds after them, ranked and against the share of women who work in them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from scipy import stats

from locate.errors import LocateError
from locate.mediation.analysis import Analysis
from locate.mediation.effect_table import DEFINITION
from locate.prompts.build import occupation_table
from locate.report.quiet import quiet_subplots
from locate.report.theme import BLACK, COLOURS, LABEL, RAMP, TEXT, add_words, safe, with_foot
from locate.words import decimals, signed, with_interval

FEWEST_TEMPLATES = 3
LEVEL = 0.95
MOST_ROWS, ROW = 48, 15  # occupations in a column of the ranking; px of each
NAME, RANKED, SCATTER = 152, 108, 340  # px: names, a column's dots, the scatter
LOWEST, RIGHT, AXIS_ROOM, BESIDE = 360, 30, 75, 110  # px: least height; right of all; the scatter's axis; both
NAMED, NEAR = 3, (60.0, 0.04)  # occupations named in the scatter at each end; % of women and of its height of a name
ODDS = "log-odds of she against he, nats"


def plot_occupations(
    log_odds: pd.DataFrame | Analysis, shares: pd.DataFrame | None = None, *, title: str = ""
) -> go.Figure:
    """Occupations by the model's log-odds after their clean prompts, against the share of women who work in them.

    log_odds  an `Analysis`, whose definitional words are left out, or a table as `pair_log_odds` returns it
    shares    as `occupation_table` returns it, the default

    Bars are Student's 95 % intervals over templates, for occupations with at least three. The caption gives Pearson's r
    with a 95 % interval over occupations.

    Raises LocateError when fewer than three occupations are in both tables.
    """
    model = ""
    if isinstance(log_odds, Analysis):
        model = f" in {log_odds.model}"
        log_odds = log_odds.log_odds[log_odds.log_odds["kind"] != DEFINITION]
    rows = means_of(log_odds).join(
        (occupation_table() if shares is None else shares).set_index("occupation"), how="inner"
    )
    rows = rows.sort_values("log_odds").reset_index(names="occupation")
    if len(rows) < 3:
        raise LocateError(f"{len(rows)} traced groups are in the table of occupations: expected at least 3")
    columns = -(-len(rows) // MOST_ROWS)
    each = -(-len(rows) // columns)
    height, width = max(LOWEST, ROW * each), columns * (NAME + RANKED) + SCATTER + BESIDE
    figure = quiet_subplots(1, columns + 1)
    for column in range(columns):
        last = len(rows) - column * each
        add_ranked(figure, rows.iloc[max(0, last - each) : last], column + 1, each, rows)
    add_scatter_of(figure, rows, columns + 1)
    start = NAME / (width - NAME - RIGHT)
    step = (NAME + RANKED) / (width - NAME - RIGHT)
    for column in range(columns):
        figure.update_xaxes(domain=[column * step, column * step + step - start], row=1, col=column + 1)
    figure.update_xaxes(domain=[columns * step - start + AXIS_ROOM / (width - NAME - RIGHT), 1], row=1, col=columns + 1)
    add_words(
        figure, title or f"Log-odds of she against he by occupation{model}", caption(rows), width, height, left=NAME,
        bottom=50, top=4,
    )  # fmt: skip
    return with_foot(figure, "Unpatched prompts: there are no effects here, and so no controls.")


def means_of(log_odds: pd.DataFrame) -> pd.DataFrame:
    """Mean by occupation, its number of templates, and half of its interval, nan below three templates."""
    grouped = log_odds.groupby("group", observed=True)["log_odds"]
    means = pd.DataFrame({"log_odds": grouped.mean(), "templates": grouped.size()})
    reach = stats.t.ppf((1 + LEVEL) / 2, (means["templates"] - 1).clip(lower=1)) * grouped.sem()
    return means.assign(half=reach.where(means["templates"] >= FEWEST_TEMPLATES))


def add_ranked(figure: go.Figure, rows: pd.DataFrame, place: int, most: int, every: pd.DataFrame) -> None:
    """One column of the ranking, the highest at the top; `every` sets the axis that all columns share."""
    digits = decimals(float(every["log_odds"].abs().max()))
    heights = [most - len(rows) + number for number in range(len(rows))]
    figure.add_scatter(
        x=rows["log_odds"], y=heights, mode="markers", showlegend=False,
        name="ranked", hovertemplate="%{hovertext}<extra></extra>",
        hovertext=[hover_of(row, digits) for row in rows.to_dict("records")],
        error_x={"array": rows["half"], "thickness": 1, "width": 0, "color": "#777777"},
        marker={"size": 8, "color": rows["share_women"], "colorscale": [[i / 10, each] for i, each in enumerate(RAMP)],
                "cmin": 0, "cmax": 100, "line": {"width": 0.5, "color": BLACK}},
        row=1, col=place,
    )  # fmt: skip
    half = every["half"].fillna(0.0)
    low, high = float((every["log_odds"] - half).min()), float((every["log_odds"] + half).max())
    room = 0.04 * (high - low) or 1.0
    figure.add_vline(x=0, line={"color": BLACK, "width": 1}, row=1, col=place)
    figure.update_xaxes(range=[min(low, 0) - room, max(high, 0) + room], nticks=5, row=1, col=place)
    figure.update_xaxes(title=ODDS if place == 1 else "nats", row=1, col=place)
    figure.update_yaxes(
        tickvals=heights, ticktext=[safe(each) for each in rows["occupation"]], range=[-0.7, most - 0.3],
        tickfont={"size": LABEL}, row=1, col=place,
    )  # fmt: skip


def hover_of(row: dict[Any, Any], digits: int) -> str:
    """What a mouse over an occupation is told: log-odds with interval, templates and share of women."""
    value, half = row["log_odds"], row["half"]
    known = half == half
    odds = with_interval(value, value - half, value + half, digits) if known else signed(value, digits)
    return (
        f"<b>{safe(row['occupation'])}</b><br>{odds} nats, {row['templates']} templates<br>{row['share_women']:.0f} % "
        "women"
    )


def add_scatter_of(figure: go.Figure, rows: pd.DataFrame, place: int) -> None:
    """Log-odds against the share of women; the occupations at both ends are named."""
    digits = decimals(float(rows["log_odds"].abs().max()))
    ends = named_ends(rows)
    figure.add_scatter(
        x=rows["share_women"], y=rows["log_odds"], name="scatter", mode="markers+text", showlegend=False,
        text=[safe(name) if number in ends else "" for number, name in rows["occupation"].items()],
        textposition=["middle right" if share < 60 else "middle left" for share in rows["share_women"]],
        textfont={"size": LABEL}, hovertext=[hover_of(row, digits) for row in rows.to_dict("records")],
        hovertemplate="%{hovertext}<extra></extra>", marker={"size": 7, "color": COLOURS[0], "opacity": 0.7},
        row=1, col=place,
    )  # fmt: skip
    figure.add_hline(y=0, line={"color": BLACK, "width": 1}, row=1, col=place)
    figure.update_xaxes(title={"text": "women in the occupation, %", "font": {"size": TEXT}}, row=1, col=place)
    figure.update_yaxes(title=ODDS, row=1, col=place)


def named_ends(rows: pd.DataFrame) -> set[int]:
    """The occupations at both ends that are named in the scatter: those whose names do not run into another's."""
    span = float(rows["log_odds"].max() - rows["log_odds"].min())
    found: list[int] = []
    for number in [*range(len(rows) - 1, len(rows) - 1 - NAMED, -1), *range(NAMED)]:
        share, odds = rows.loc[number, ["share_women", "log_odds"]]
        others = [rows.loc[each, ["share_women", "log_odds"]] for each in found]
        if not any(abs(share - x) < NEAR[0] and abs(odds - y) < NEAR[1] * span for x, y in others):
            found.append(number)
    return set(found)


def caption(rows: pd.DataFrame) -> str:
    """How many occupations and templates, what the bars are, and the correlation."""
    r, low, high = correlation(rows["share_women"].to_numpy(), rows["log_odds"].to_numpy())
    least, most = int(rows["templates"].min()), int(rows["templates"].max())
    templates = f"{least}" if least == most else f"{least} to {most}"
    bars = "bars: 95% intervals over templates (Student's t)"
    if rows["half"].isna().all():
        bars = f"no intervals, which need {FEWEST_TEMPLATES} templates"
    return (
        f"{len(rows)} occupations, highest first, mean over {templates} template{'s' * (most > 1)} each; {bars}; "
        f"colour: share of women, from 0 (purple) to 100 % (orange). Right: against that share; Pearson r = {r:.2f} "
        f"[{low:.2f}, {high:.2f}] (95%, bootstrap over occupations)."
    )


def correlation(x: np.ndarray, y: np.ndarray, samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """Pearson's r with a 95 % percentile interval over rows."""
    draws = np.random.default_rng(seed).integers(len(x), size=(samples, len(x)))
    a, b = x[draws] - x[draws].mean(1, keepdims=True), y[draws] - y[draws].mean(1, keepdims=True)
    spread = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    values = (a * b).sum(1)[spread > 0] / spread[spread > 0]
    low, high = np.quantile(values, [0.025, 0.975])
    return float(np.corrcoef(x, y)[0, 1]), float(low), float(high)
