"""The maps of a page as its script reads them: grids of cells, and what each cell holds under every setting."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from locate.mediation.analysis import Analysis
from locate.mediation.located import THRESHOLD
from locate.mediation.ranking import module_name
from locate.report.figures import QUANTITIES
from locate.report.page.map_cells import (
    COUNTS,
    NUMBERS,
    Averages,
    Cells,
    absent_words,
    averages_of,
    group_means,
    map_cells,
    packed,
    pair_effects,
    settings_of,
)
from locate.report.theme import colour, ink, limit_of
from locate.sites import UNITS
from locate.tracing.table import CONTROL
from locate.words import NAMES, decimals, metric_words, role_words, site_words

MOST_BYTES = 10_000_000  # of the effects of single pairs in a page; above, means of groups are kept
MOST_UNITS = 60  # of a layer x unit grid; of more, the strongest are listed
LISTED = 40
HEADS = ("head", "pattern")
WAYS = {
    "denoising": "Denoising: the corrupted prompt is run with a site's value from the clean one",
    "noising": "Noising: the clean prompt is run with a site's value from the corrupted one",
}


def map_data(analysis: Analysis, step: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Everything that the page's script needs: maps, cells, pairs, and a view for each metric, view and direction."""
    settings = settings_of(analysis)
    own = [each for each in settings if each.metric is analysis.metric]
    cells = map_cells(next((each for each in own if each.view == "signed"), analysis))
    directions = [str(each) for each in analysis.trace.meta["directions"]]
    cells, maps = on_maps(cells, averages_of(cells, analysis, directions[0]).table["effect"], analysis.subject)
    views, effects = [], {}
    for each in settings:
        step(f"report: {each.metric.name}, {each.view} view")
        for direction in directions:
            views.append(view_of(averages_of(cells, each, direction)))
            if not each.metric.signed or each.view == "signed":
                effects[f"{each.metric.name} {direction}"] = pair_effects(cells, each, direction)
    subject = analysis.subject
    return {
        "subject": subject,
        "level": analysis.intervals.level,
        "threshold": THRESHOLD,
        "absent": absent_words(settings),
        "switches": [
            {"name": "metric", "title": "metric", "words": {each["metric"]: each["measure"] for each in views}},
            {"name": "view", "title": "view", "words": {}},
            {"name": "direction", "title": "direction", "words": {}},
        ],
        "maps": maps,
        "cells": [cell_of(row, analysis, subject) for row in cells.places.to_dict("records")],
        "views": views,
        **behind(cells, effects),
    }


def on_maps(cells: Cells, effects: pd.Series, subject: str) -> tuple[Cells, list[dict[str, Any]]]:
    """The cells that stand on a map, and the maps; of too many units only those that are listed stay.

    effects  of every cell, by the settings that the page opens with
    """
    opening = [None if np.isnan(each) else float(each) for each in effects]
    maps = maps_of(cells.places, {"effect": opening}, subject)
    kept = sorted({cell for each in maps for cell in cells_of(each)})
    number = {cell: place for place, cell in enumerate(kept)} | {-1: -1}
    for each in maps:
        if "list" in each:
            each["list"] = [number[cell] for cell in each["list"]]
        else:
            each["cells"] = [[number[cell] for cell in row] for row in each["cells"]]
    return replace(cells, places=cells.places.iloc[kept].reset_index(drop=True)), maps


def cells_of(given: dict[str, Any]) -> list[int]:
    """The cells of a map that there are."""
    return given["list"] if "list" in given else [cell for row in given["cells"] for cell in row if cell >= 0]


def view_of(found: Averages, quantity: str = "nie") -> dict[str, Any]:
    """Numbers and colours of every cell under one metric, view and direction."""
    metric, table = found.analysis.metric, found.table
    measured = table.loc[~found.zero, "effect"].dropna().to_numpy()
    limit, beyond = limit_of(measured)
    fills = [None if np.isnan(each) else colour(each, limit) for each in table["effect"]]
    return {
        "metric": metric.name,
        "view": found.analysis.view,
        "direction": found.direction,
        "measure": metric_words(metric.name, found.analysis.answers),
        "about": WAYS[found.direction],
        "words": f"{QUANTITIES[quantity]} on the {metric_words(metric.name, found.analysis.answers)}",
        "beside": [],
        "signed": metric.signed,
        "unit": metric.unit,
        "positive": found.analysis.terms.positive,
        "total": [short(each) for each in found.total],
        "limit": short(limit),
        "beyond": beyond,
        "digits": decimals(limit),
        **{name: [short(each) for each in table[name]] for name in NUMBERS},
        **{name: [None if np.isnan(each) else int(each) for each in table[name]] for name in COUNTS},
        "zero": [int(each) for each in np.flatnonzero(found.zero)],
        "fill": fills,
        "ink": [None if each is None else ink(each) for each in fills],
        "scale": [colour(each, 1.0) for each in np.linspace(-1, 1, 21)],
        "controls": {str(cell): [control_of(row) for row in rows] for cell, rows in found.controls.items()},
    }


def control_of(row: dict[str, Any]) -> list[Any]:
    """A control's name, effect, interval and counts."""
    return [row[CONTROL], *(short(row[name]) for name in ("effect", "low", "high")), int(row["n"]), int(row["groups"])]


def short(value: float) -> float | None:
    """A number with six digits, as effects.csv has it; None for nan."""
    return None if np.isnan(value) else float(f"{value:.6g}")


def cell_of(row: dict[str, Any], analysis: Analysis, subject: str) -> dict[str, Any]:
    """A cell's name in words, its module, and its names in effects.csv."""
    layer, unit = int(row["layer"]), int(row["unit"])
    more = {"key": row["key"], "window": int(row["window"]), "subject": subject}
    words = site_words(row["component"], layer, row["role"], unit, **more)
    names = {name: (int(value) if isinstance(value, int) else value) for name, value in row.items()}
    module = module_name(analysis.trace.meta["modules"], row["component"], layer)
    return {"words": words, "module": module, "site": names}


def behind(cells: Cells, effects: dict[str, np.ndarray]) -> dict[str, Any]:
    """The pairs, or the groups where single pairs would make the page too large, and their effects by metric."""
    groups = sum(each.size for each in effects.values()) * 2 * 4 / 3 > MOST_BYTES
    kept = {name: group_means(cells, each) if groups else each for name, each in effects.items()}
    return {
        "grouped": groups,
        "pairs": list(columns_behind(cells, groups)),
        "effects": {name: packed(each) for name, each in kept.items()},
    }


def columns_behind(cells: Cells, groups: bool) -> Iterator[dict[str, Any]]:
    """What each column of the effects is: a pair, or the pairs of a group together."""
    if not groups:
        for number, row in zip(cells.pairs.index, cells.pairs.to_dict("records"), strict=True):
            yield {"pair": int(number), **row, "stereotype": int(row["stereotype"])}
        return
    for name in cells.groups:
        own = cells.pairs[cells.pairs["group"] == name]
        signs = own["stereotype"].unique()
        yield {"group": name, "pairs": len(own), "stereotype": int(signs[0]) if len(signs) == 1 else 0}


def maps_of(places: pd.DataFrame, first: dict[str, Any], subject: str) -> list[dict[str, Any]]:
    """Grids of numbers of cells: rows are tokens or units, columns are layers; and lists of too many units.

    Of the maps of units the one with the largest effect stands first.
    """
    maps = []
    for (component, window), part in places.groupby(["component", "window"], sort=False):
        name = NAMES[str(component)] + (f", {window} layers together" if window > 1 else "")
        if component not in UNITS:
            labels = {each: role_words(each, subject) for each in part["role"].unique()}
            maps.append(grid(name, part, part["role"], labels))
            continue
        found = []
        for (role, key), units in part.groupby(["role", "key"], sort=False):
            towards = f" to {role_words(str(key), subject)}" if key else ""
            where = f"{name.removesuffix('s')}s, {role_words(str(role), subject)}{towards}"
            found.append(units_map(where, units, first["effect"], "head" if component in HEADS else "unit"))
        maps += sorted(found, key=lambda each: -largest(each, first["effect"]))
    return maps


def largest(given: dict[str, Any], effects: Sequence[float | None]) -> float:
    """The largest size in a map, by the settings that the page opens with."""
    return max(abs(effects[cell] or 0.0) for cell in cells_of(given))


def grid(name: str, part: pd.DataFrame, by: pd.Series, labels: dict[Any, str]) -> dict[str, Any]:
    """A grid of cells: a row for each label, a column for each layer; -1 where there is no cell."""
    layers = sorted(part["layer"].unique())
    numbers = {(row, layer): int(cell) for row, layer, cell in zip(by, part["layer"], part.index, strict=True)}
    return {
        "name": name,
        "layers": [int(each) for each in layers],
        "rows": list(labels.values()),
        "cells": [[numbers.get((row, layer), -1) for layer in layers] for row in labels],
    }


def units_map(name: str, units: pd.DataFrame, effects: Sequence[float | None], word: str) -> dict[str, Any]:
    """A grid of units by layer; of too many, a list of the strongest by the settings that the page opens with."""
    numbers = sorted(int(each) for each in units["unit"].unique())
    if len(numbers) <= MOST_UNITS:
        labels = {each: f"{word} {each}" for each in numbers}
        return grid(name, units, units["unit"], labels)
    sizes = [abs(effects[cell] or 0.0) for cell in units.index]
    order = np.argsort(sizes, kind="stable")[::-1][:LISTED]
    return {
        "name": f"{name}: the {len(order)} strongest of {len(units)}",
        "list": [int(units.index[each]) for each in order],
    }
