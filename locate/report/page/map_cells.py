"""What is behind the cells of a map: averages under each metric, view and direction, and every pair's own effect."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from locate.errors import LocateError
from locate.mediation.analysis import Analysis
from locate.mediation.controls import PLACE
from locate.mediation.effect_table import VIEWS, default_view, of_kind
from locate.metrics import METRICS, Metric, difference
from locate.sites import ROLES
from locate.tracing.table import CONTROL, whole_sites
from locate.words import NAMES, metric_words

CELL = ["component", "layer", "unit", "window", "role", "key"]
TEXTS = dict.fromkeys(("component", "role", "key"), "str")
COUNTS = ("n", "groups")
NUMBERS = ("effect", "low", "high", "q", "share", "stability")
NO_STEREOTYPE = "no pair has a stereotype"
LARGEST = 32767  # of int16, whose smallest number stands for a missing value


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of a run's maps, in the order of the page, and the pairs behind them.

    analysis  that they come from
    places    one row per cell: component, layer, unit, window, role, key; all cells of the run, or some
    pairs     one row per pair: group, template, kind, stereotype, clean, corrupted
    """

    analysis: Analysis
    places: pd.DataFrame
    pairs: pd.DataFrame

    @cached_property
    def groups(self) -> list[str]:
        """The groups of the pairs, in the order of the pairs."""
        return list(dict.fromkeys(self.pairs["group"].astype(str)))


@dataclass(frozen=True, eq=False)
class Averages:
    """Averages of every cell under one metric, view and direction; nan where a cell was not measured.

    total     average total effect, low and high end of its interval
    table     one row per cell: effect, low, high, q, share of the total, stability, n, groups
    zero      whether a cell is 0 in every pair, up to rounding
    controls  the controls of the run under this metric, at the cells that have them: number of the cell and its rows
    """

    analysis: Analysis
    direction: str
    total: tuple[float, float, float]
    table: pd.DataFrame
    zero: np.ndarray
    controls: dict[int, list[dict[str, Any]]]


def map_cells(analysis: Analysis) -> Cells:
    """The cells of a run, as far as whole sites were copied from the source; severed patches and named sets are not.

    analysis  in the view that leaves no pair out: the signed one, where the metric has it
    """
    rows = whole_sites(analysis.effects)
    places = places_of(rows)
    kept = ["group", "template", "kind", "stereotype", "clean", "corrupted"]
    pairs = rows.drop_duplicates("pair").sort_values("pair").set_index("pair")[kept]
    return Cells(analysis, places, pairs.astype({name: "str" for name in kept if name != "stereotype"}))


def places_of(rows: pd.DataFrame) -> pd.DataFrame:
    """The cells that some rows name, each once, in the order of the page."""
    places = rows[CELL].drop_duplicates().astype(TEXTS)
    order = pd.DataFrame(
        {
            "component": places["component"].map(list(NAMES).index),
            "window": places["window"],
            "role": places["role"].map(ROLES.index),
            "key": places["key"].map(["", *ROLES].index),
            "unit": places["unit"],
            "layer": places["layer"],
        }
    )
    return places.loc[order.sort_values(list(order)).index].reset_index(drop=True)


def settings_of(analysis: Analysis) -> list[Analysis]:
    """The analysis, and the same run under every other metric and view that it can be shown in.

    A metric that needs what the run lacks (probabilities, a stereotype, a neutral answer of one token) is left out.
    """
    found = [analysis]
    for metric in [analysis.metric, *[each for each in METRICS.values() if each.name != analysis.metric.name]]:
        views = VIEWS if metric.signed else VIEWS[:1]
        for view in views:
            other = replace(analysis, metric=metric, view=view)
            if (metric.name, view) != (analysis.metric.name, analysis.view) and can_be_shown(other):
                found.append(other)
    return found


def can_be_shown(analysis: Analysis) -> bool:
    """Whether the run has what the metric and view need, in two groups at the least."""
    try:
        return bool(analysis.effects["group"].nunique() > 1)
    except LocateError:
        return False


def absent_words(settings: Sequence[Analysis]) -> str:
    """Which metrics and views the settings of a run lack and why, in a line; "" where they lack none.

    settings  as `settings_of` returns them
    """
    metrics, views = {each.metric.name for each in settings}, {each.view for each in settings}
    reasons: dict[str, list[str]] = {}
    for metric in METRICS.values():
        if metric.name not in metrics:
            name = metric_words(metric.name, settings[0].answers)
            reasons.setdefault(why_absent(settings[0], metric), []).append(name)
    if VIEWS[0] not in views:
        reasons.setdefault(NO_STEREOTYPE, []).append(f"the {VIEWS[0]} view")
    said = "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return f"Not to choose from here: {said}." if said else ""


def why_absent(analysis: Analysis, metric: Metric) -> str:
    """Why a run cannot be shown in a metric."""
    table = of_kind(analysis.trace.table, analysis.kind)
    if metric.absolute and not analysis.trace.meta.get("probabilities", True):
        return "this run kept no probabilities: trace again without --no-probabilities"
    if table[[f"base_{answer}" for answer in metric.answers]].isna().any(axis=None):
        return "some pairs have no neutral answer of one token"
    if metric.stereotyped and not table["stereotype"].any():
        return NO_STEREOTYPE
    return f"fewer than two {analysis.subject}s have what it needs"


def averages_of(cells: Cells, analysis: Analysis, direction: str, quantity: str = "nie") -> Averages:
    """Averages of the cells under the settings of an analysis of the same run.

    quantity  "nie" or "nde"; the stability is that of the ranking, which is by "nie"

    Raises LocateError where the run has no such quantity.
    """
    rows = analysis.average(quantity)
    rows = whole_sites(rows[rows["direction"] == direction])
    total = analysis.total(direction)
    table = placed(cells, rows, ["effect", "low", "high", "q", *COUNTS])
    shares = analysis.metric.effect is difference and (total[1] > 0 or total[2] < 0)
    table["share"] = table["effect"] / total[0] if shares else np.nan
    firm = analysis.ranked_stability
    firm = whole_sites(firm[firm["direction"] == direction])
    table["stability"] = placed(cells, firm, ["stability"])["stability"] if quantity == "nie" else np.nan
    single = table["groups"] < 2  # of one group alone no interval can be made
    table.loc[single, ["low", "high", "q", "stability"]] = np.nan
    effects = whole_sites(analysis.effects)
    effects = effects[effects["direction"] == direction]
    largest = effects.assign(size=effects[quantity].abs()).groupby(CELL, observed=True)["size"].max().reset_index()
    zero = placed(cells, largest, ["size"])["size"] <= analysis.rounding(quantity)
    controls = controls_of(cells, analysis, direction) if quantity == "nie" else {}
    return Averages(analysis, direction, total, table, zero.to_numpy(), controls)


def placed(cells: Cells, rows: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of rows that are named by `CELL`, in the order of the cells; nan where a cell has no row."""
    names = rows[CELL].astype(TEXTS)
    found = pd.concat([names, rows[list(columns)]], axis=1)
    return cells.places.merge(found, on=CELL, how="left", validate="one_to_one")[list(columns)].astype(float)


def controls_of(cells: Cells, analysis: Analysis, direction: str) -> dict[int, list[dict[str, Any]]]:
    """The controls at each cell that has them; those of random weights belong to another model and are left out.

    They are known in the run's own view alone; under another there are none.
    """
    if analysis.metric.signed and analysis.view != default_view(analysis.trace):
        return {}
    rows = analysis.controls
    rows = rows[(rows["direction"] == direction) & (rows[CONTROL] != "random weights")]
    whole = cells.places[(cells.places["window"] == 1) & (cells.places["key"] == "")]
    numbers = {
        tuple(row): number for number, row in zip(whole.index, whole[PLACE].itertuples(index=False), strict=True)
    }
    found: dict[int, list[dict[str, Any]]] = {}
    for row in rows.to_dict("records"):
        number = numbers.get(tuple(row[name] for name in PLACE))
        if number is not None:
            found.setdefault(int(number), []).append(row)
    return found


def pair_effects(
    cells: Cells, analysis: Analysis, direction: str, quantity: str = "nie"
) -> Float[np.ndarray, "cell pair"]:
    """Each pair's own effect in each cell, and in a last row its total effect, in the unit of the metric.

    Within a pair the tokens of one role are averaged, as in `average`: the mean over pairs is the cell's average. nan
    where a pair has no such token, or no value of the metric.
    """
    rows = whole_sites(analysis.effects)
    rows = rows[rows["direction"] == direction]
    rows = rows.astype(TEXTS)
    totals = rows.drop_duplicates("pair").set_index("pair")["total"].reindex(cells.pairs.index).to_numpy(dtype=float)
    rows = rows.merge(cells.places.reset_index(names="cell"), on=CELL)
    cell = rows["cell"].to_numpy()
    pair = cells.pairs.index.get_indexer(rows["pair"])
    shape = (len(cells.places), len(cells.pairs))
    place = cell * shape[1] + pair
    size = shape[0] * shape[1]
    counts = np.bincount(place, minlength=size).reshape(shape)
    sums = np.bincount(place, rows[quantity].to_numpy(dtype=float), minlength=size).reshape(shape)
    with np.errstate(invalid="ignore"):
        return np.vstack([np.where(counts > 0, sums / counts, np.nan), totals])


def group_means(cells: Cells, effects: Float[np.ndarray, "cell pair"]) -> Float[np.ndarray, "cell group"]:
    """Means over the pairs of each group; nan where a group has none."""
    means = pd.DataFrame(effects.T).groupby(cells.pairs["group"].to_numpy(), sort=False).mean()
    return means.reindex(cells.groups).to_numpy().T


def packed(effects: Float[np.ndarray, "cell column"]) -> dict[str, Any]:
    """Numbers as int16 in base64, each row with its own step: value = step * number, and -32768 is a missing one."""
    largest = np.nan_to_num(np.nanmax(np.where(np.isnan(effects), 0.0, np.abs(effects)), axis=1))
    step = np.where(largest > 0, largest / LARGEST, 1.0)
    numbers = np.where(np.isnan(effects), -LARGEST - 1, np.rint(np.nan_to_num(effects) / step[:, None]))
    data = base64.b64encode(numbers.astype("<i2").tobytes()).decode("ascii")
    return {"step": [float(f"{each:.7g}") for each in step], "data": data}
