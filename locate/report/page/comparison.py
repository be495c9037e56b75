"""report.html of a comparison: what changed from model A to model B, and the maps of both and of their difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.mediation.comparison import Comparison, SiteChange, TotalChange
from locate.report.page.document import Page, Section, items, table
from locate.report.page.glossary import GLOSSARY, described
from locate.report.page.lead import Bar, bar_list, figure_places, next_section
from locate.report.page.map_cells import CELL, TEXTS, places_of
from locate.report.page.map_data import WAYS, maps_of, short
from locate.report.page.run import MAP
from locate.report.theme import bare, colour, ink, limit_of
from locate.tracing.table import whole_sites
from locate.words import chance, decimals, interval_words, metric_words, site_words, without_folders

PANELS = {"change": "B - A", "a": "A", "b": "B"}
MOST = 4
NOTHING = 1e-4  # of the scale: below, an effect is rounding
MODEL = ("name", "revision", "weights_sha256", "config_sha256")  # what makes them two models, and no other setting
HASH = 12  # characters of a hash that are shown
LOOK = (
    "Look at the pairs behind the changed cells before you trust an average: in each run's own report.html a click on "
    "the same cell shows them, and in the live page for A, B and B - A.",
    "Evaluate both models on the same items: a site that carries less does not say that the model is less biased, nor "
    "what else it lost.",
)
WORDS = {
    "A, B, B - A": "The effects in model A, in model B, and the mean difference over the same pairs: positive where B "
    "has more of it."
}


def comparison_page(
    found: Comparison, figures: Mapping[str, go.Figure], *, commands: Sequence[str] = (), missing: str = ""
) -> str:
    """The report of a comparison as one HTML file.

    figures   of the comparison, by file name
    commands  to type next
    missing   what could not be written, in a line

    Raises LocateError for a comparison that was read from a file.
    """
    names = {side: without_folders(str(getattr(found, side)["name"])) for side in "ab"}
    sections = [
        Section("map", "Map", MAP),
        Section("sites", "Largest changes", largest(found)),
        Section("models", "Both models", models(found)),
        Section("figures", "Figures", figure_places(figures, missing)),
        Section("words", "Words", described(WORDS | GLOSSARY)),
    ]
    return Page(
        title=f"What changed from {names['a']} (A) to {names['b']} (B)",
        lead=lead(found, commands),
        sections=sections,
        figures={name: bare(each) for name, each in figures.items()},
        data=change_data(found),
    ).html()


def lead(found: Comparison, commands: Sequence[str] = ()) -> str:
    """What changed, in words, the largest changes as bars, how sure that is, and what to do next."""
    said = "".join(f'<p class="question">{escape(total_sentence(found, each))}</p>' for each in found.totals)
    chosen = [each for each in changed(found) if each.direction == found.totals[0].direction][:MOST]
    bars = bar_list(
        [Bar(words_of(each), each.change[0], change_text(found, each), each.change[0] < 0) for each in chosen]
    )
    colours = "<p>Orange: higher in B; purple: lower in B.</p>"
    return (
        f'{said}<div class="answer"><section aria-labelledby="changed"><h2 id="changed">Where it changed most '
        f"({escape(found.totals[0].direction)})</h2>"
        f"{colours + bars if bars else '<p>No site changed beyond chance.</p>'}</section>\n"
        f'<section aria-labelledby="sure"><h2 id="sure">How sure that is</h2>{items(certainty(found))}</section>\n'
        f"{next_section(advice_of(found), commands)}</div>"
    )


def changed(found: Comparison) -> list[SiteChange]:
    """The listed sites whose change passes the threshold."""
    return [each for each in found.sites if each.q <= found.threshold]


def certainty(found: Comparison) -> list[str]:
    """Pairs that are shared, the strongest change's q, and what differs besides the models."""
    assert found.table is not None
    pairs, groups = found.pairs, found.totals[0].groups
    alone = pairs["only_a"] + pairs["only_b"]
    left = f"; {alone} that only one run has are left out" if alone else ""
    said = [
        f"Pairs: {pairs['both']} pairs of prompts are in both runs, and the changes are taken pair by pair{left}.",
        f"Intervals: the {groups} {found.subject}s are resampled, so that a change says what others of the kind would "
        "show.",
    ]
    if found.without_stereotype:
        said.append(f"{found.without_stereotype} pairs have no stereotype and are left out.")
    passing = int((found.table["q"] <= found.threshold).sum())
    said.append(
        f"Chance: {passing} of {len(found.table)} changes have q ≤ {found.threshold:g}, corrected for all of them; the "
        f"smallest q is {chance(float(found.table['q'].min()))}."
    )
    others = differences(found)
    said.append(f"Besides the models these differ: {'; '.join(others)}." if others else "Nothing else differs.")
    return said


def advice_of(found: Comparison) -> list[str]:
    """What to do with this comparison."""
    if found.same_weights:
        return ["The weights are the same, so whatever changed comes from what else differs, such as the dtype."]
    if changed(found):
        return list(LOOK)
    return [
        f"No site changed beyond chance in {found.pairs['both']} pairs: that is no proof that nothing changed. Trace "
        "both models again alike with more templates or occupations, which makes the intervals narrower.",
        LOOK[1],
    ]


def total_sentence(found: Comparison, total: TotalChange) -> str:
    """The total effect in both models, and whether it changed."""
    measure = f"the {metric_words(found.metric, found.answers)}"
    change = interval_words(*total.change)
    verdict = "which leaves out 0" if total.change[1] > 0 or total.change[2] < 0 else "which may be chance"
    return (
        f"{total.direction.capitalize()}: the whole prompt moves {measure} by {interval_words(*total.a)} in A "
        f"and {interval_words(*total.b)} {found.unit} in B, a change of {change}, {verdict} ({total.n} pairs)."
    )


def words_of(site: SiteChange) -> str:
    """A changed site in words."""
    return site_words(site.component, site.layer, site.role, site.unit, key=site.key, window=site.window)


def change_text(found: Comparison, site: SiteChange) -> str:
    """A change with its interval, and what it was."""
    return f"{interval_words(*site.change)} {found.unit} (A {interval_words(*site.a)}, B {interval_words(*site.b)})"


def largest(found: Comparison) -> str:
    """The largest changes as a table."""
    rows = [
        {
            "site": words_of(each),
            "direction": each.direction,
            f"A, {found.unit}": interval_words(*each.a),
            "B": interval_words(*each.b),
            "B - A": interval_words(*each.change),
            "n": str(each.n),
            "q": chance(each.q),
        }
        for each in found.sites
    ]
    return table(rows)


def models(found: Comparison) -> str:
    """What the two models are, and how many of their strongest sites they share."""
    names = dict.fromkeys([*found.a, *found.b])
    rows = [{"what": name, "A": str(found.a.get(name)), "B": str(found.b.get(name))} for name in names]
    shared = [f"{each.direction}: {each.text()}" for each in found.overlaps]
    return table(rows, name="facts") + items(shared)


def differences(found: Comparison) -> list[str]:
    """What differs between the two runs besides the models, such as the dtype or versions; hashes are cut short."""
    return [
        f"{name} {' in A, '.join(str(each)[: HASH if name.endswith('sha256') else None] for each in values)} in B"
        for name, values in found.differing.items()
        if name not in MODEL
    ]


def change_data(found: Comparison) -> dict[str, Any]:
    """What the page's script needs: maps, cells, and a view for each panel and direction."""
    shown = whole_sites(found.shown().table).astype(TEXTS)
    places = places_of(shown)
    views = [
        change_view(
            found, total, panel, places.merge(shown[shown["direction"] == total.direction], on=CELL, how="left")
        )
        for panel in PANELS
        for total in found.totals
    ]
    return {
        "subject": found.shown().subject,
        "level": found.level,
        "threshold": found.threshold,
        "switches": [
            {"name": "panel", "title": "model", "words": {}},
            {"name": "direction", "title": "direction", "words": {}},
        ],
        "maps": maps_of(places, views[0], "occupation"),
        "cells": [
            {
                "words": site_words(
                    row["component"], row["layer"], row["role"], row["unit"], key=row["key"], window=row["window"]
                ),
                "site": row,
            }
            for row in places.to_dict("records")
        ],
        "views": views,
    }


def change_view(found: Comparison, total: TotalChange, panel: str, rows: pd.DataFrame) -> dict[str, Any]:
    """Numbers and colours of every cell in one panel and direction; one colour scale serves all panels."""
    every = found.shown().table[["effect_a", "effect_b", "change"]].to_numpy(dtype=float)
    limit, beyond = limit_of(every)
    columns = columns_of(panel)
    effect = rows[columns["effect"]].to_numpy(dtype=float)
    fills = [None if np.isnan(each) else colour(each, limit) for each in effect]
    others = [other for other in PANELS if other != panel]
    return {
        "panel": PANELS[panel],
        "direction": total.direction,
        "about": WAYS[total.direction],
        "words": f"{PANELS[panel]}, average indirect effect on the {metric_words(found.metric, found.answers)}",
        "unit": found.unit,
        "positive": found.positive if panel != "change" else "higher in B than in A",
        "total": [short(each) for each in getattr(total, panel)],
        "limit": short(limit),
        "beyond": beyond,
        "digits": decimals(limit),
        **{name: [short(each) for each in rows[column]] for name, column in columns.items()},
        **{name: [None if np.isnan(each) else int(each) for each in rows[name]] for name in ("n", "groups")},
        "beside": [
            {"name": PANELS[other]}
            | {name: [short(each) for each in rows[column]] for name, column in columns_of(other).items()}
            for other in others
        ],
        "zero": [int(each) for each in np.flatnonzero(nothing(rows, limit))],
        "fill": fills,
        "ink": [None if each is None else ink(each) for each in fills],
        "scale": [colour(each, 1.0) for each in np.linspace(-1, 1, 21)],
        "controls": {},
    }


def nothing(rows: pd.DataFrame, limit: float) -> np.ndarray:
    """Whether a cell is 0 in both models with all its interval, up to rounding."""
    ends = rows[[f"{name}_{side}" for side in "ab" for name in ("effect", "low", "high")]].to_numpy(dtype=float)
    return np.abs(ends).max(axis=1) < NOTHING * limit


def columns_of(panel: str) -> dict[str, str]:
    """The columns of a table of changes that hold a panel's effect, interval and q."""
    if panel == "change":
        return {"effect": "change", "low": "low", "high": "high", "q": "q"}
    return {name: f"{name}_{panel}" for name in ("effect", "low", "high", "q")}
