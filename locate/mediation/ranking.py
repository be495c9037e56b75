"""Ranking: the sites of a trace by their average effect, and the layers that pass, as a `Located`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.mediation.averages import ROW, average, limits_of, stability, total_effect
from locate.mediation.controls import SetTest, controls_of
from locate.mediation.effect_table import EFFECTS, Terms
from locate.mediation.located import THRESHOLD, Located, LocatedSite, SiteSelectivity
from locate.mediation.resampling import Intervals
from locate.mediation.selectivity_table import comparable, selectivity
from locate.sites import COMPONENTS, DIRECTIONS, LAST_SUBJECT, ROLES, check
from locate.tracing.table import Trace, whole_sites

EDITABLE = ("mlp_out", "attn_out", "head", "neuron", "mlp_out_unit")
FALLBACK_ROLES = (LAST_SUBJECT, "last", "after_subject", "further", "subject_first", "subject_middle", "before_subject")
TOP = 20


@dataclass(frozen=True)
class Wanted:
    """What to rank.

    quantity         "nie", "nde" or "total"
    direction        "denoising" or "noising"
    component, role  where the layers are read off; None for the first that was traced (see `rank`)
    window           width of the patches ranked; None for the narrowest
    top              how many sites to list

    Raises LocateError for an unknown quantity or direction, or a top below 1.
    """

    quantity: str
    direction: str
    component: str | None = None
    role: str | None = None
    window: int | None = None
    top: int = TOP

    def __post_init__(self) -> None:
        check("direction", self.direction, DIRECTIONS)
        if self.top < 1:
            raise LocateError(f"top {self.top}: expected a number of sites >= 1")
        check("quantity", self.quantity, tuple(EFFECTS))


@dataclass(frozen=True, eq=False)
class Derived:
    """What a ranking is made of.

    effects   of the trace, in these terms
    every     effects of pairs of every kind, where both kinds of words were traced; for selectivities
    set_test  of the run, where it was measured
    """

    trace: Trace
    terms: Terms
    effects: pd.DataFrame
    every: pd.DataFrame | None
    set_test: SetTest | None
    intervals: Intervals


def rank_sites(given: Derived, wanted: Wanted) -> Located:
    """Rank the sites by their average effect.

    The residual stream, attention weights, named sets and severed patches are not ranked, since no module writes them
    alone; `why_no_layers` says so where nothing else was traced.

    Raises LocateError when the trace lacks the direction, the component, the role or the window.
    """
    derived = given.effects[given.effects["direction"] == wanted.direction]
    chosen = rankable(derived, wanted.window)
    if chosen.empty:
        return unranked(given, wanted, derived)
    component = traced("component", wanted.component, COMPONENTS, EDITABLE, chosen)
    role = traced("role", wanted.role, ROLES, FALLBACK_ROLES, chosen[chosen["component"] == component])
    width = int(chosen["window"].iloc[0])
    known = derived[derived[wanted.quantity].notna()]
    means = ordered(known, wanted.quantity, width, given.intervals)
    leanings = selectivities(given, wanted)
    templates = given.trace.meta["modules"]
    total = total_effect(derived, given.intervals)
    layers = passing_layers(means, *total[1:], component, role)
    test, place = given.set_test, (component, role, wanted.direction)
    return Located(
        **described(given, wanted, derived, known),
        total=total,
        window=width,
        sites=tuple(site_of(row, templates, leanings) for row in means.head(wanted.top).to_dict("records")),
        component=component,
        role=role,
        layers=layers,
        why_no_layers=None,
        modules=tuple(str(module_name(templates, component, layer)) for layer in layers),
        module_template=str(templates[component] or ""),
        set_test=test if test is not None and (test.component, test.role, test.direction) == place else None,
    )


def unranked(given: Derived, wanted: Wanted, derived: pd.DataFrame) -> Located:
    """A `Located` that says why no layer is named, for a trace without anything that a single module writes.

    Raises LocateError where the caller asked for something that the trace does not hold.
    """
    have = sorted(derived["component"].astype(str).unique())
    if not have or (wanted.window, wanted.component, wanted.role) != (None, None, None):
        what = f"direction {wanted.direction!r}, window {wanted.window} and components {have}"
        raise LocateError(f"nothing to rank: {what} hold none of {', '.join(EDITABLE)}: trace with one of them")
    return Located(
        **described(given, wanted, derived, derived[derived[wanted.quantity].notna()]),
        total=total_effect(derived, given.intervals),
        window=int(derived["window"].min()),
        sites=(),
        component=None,
        role=None,
        layers=(),
        why_no_layers=f"only {', '.join(have)} was patched, and no single module writes what these patches copy; "
        f"effects.csv lists their effects; to name layers, trace one of {', '.join(EDITABLE)} too",
        modules=(),
        module_template="",
        set_test=None,
    )


def described(given: Derived, wanted: Wanted, derived: pd.DataFrame, known: pd.DataFrame) -> dict[str, Any]:
    """What a `Located` says about its numbers: metric, view, kind, intervals, their limits, controls and provenance."""
    terms, limits = given.terms, limits_of(known, given.intervals)
    return {
        "quantity": wanted.quantity,
        "metric": terms.metric.name,
        "unit": terms.unit,
        "view": terms.view,
        "kind": terms.kind,
        "positive": terms.positive,
        "direction": wanted.direction,
        "without_stereotype": terms.without_stereotype,
        "clusters": given.intervals.clusters,
        "level": given.intervals.level,
        "threshold": THRESHOLD,
        "smallest_q": limits.smallest_q,
        "sound": limits.sound,
        "controls": controls_of(given.trace, derived),
        "trace": given.trace.meta,
    }


def passing_layers(means: pd.DataFrame, low: float, high: float, component: str, role: str) -> tuple[int, ...]:
    """Layers of a component at a role whose effect is on the side of the total one, strongest first."""
    beyond = means["low"] > 0 if low > 0 else means["high"] < 0 if high < 0 else means["effect"].isna()
    passing = means[(means["component"] == component) & (means["role"] == role) & beyond & (means["q"] <= THRESHOLD)]
    return tuple(int(layer) for layer in dict.fromkeys(passing["layer"]))


def ordered(known: pd.DataFrame, quantity: str, width: int, chosen: Intervals) -> pd.DataFrame:
    """Averages of the sites of one direction and width, with their stability, strongest first.

    q is over all sites of the direction, including those that are not ranked.
    """
    means = average(known, quantity, chosen)
    firm = stability(rankable(known, width), quantity, chosen)
    rows = rankable(means[means["groups"] > 1], width).merge(firm, on=ROW, how="left", validate="one_to_one")
    return rows.iloc[rows["effect"].abs().argsort(kind="stable")[::-1]]


def rankable(derived: pd.DataFrame, window: int | None) -> pd.DataFrame:
    """Rows of patches that one module writes, of one width."""
    found = whole_sites(derived[derived["component"].isin(EDITABLE)])
    width = found["window"].min() if window is None else window
    return found[found["window"] == width]


def traced(what: str, value: str | None, words: tuple[str, ...], preferred: tuple[str, ...], rows: pd.DataFrame) -> str:
    """The value asked for, or else the first of the preferred ones that the trace holds.

    Raises LocateError when it holds none of them.
    """
    if value is not None:
        check(what, value, words)
    have = set(rows[what])
    for word in preferred if value is None else (value,):
        if word in have:
            return word
    raise LocateError(f"{what} {value!r} was not traced: expected one of {', '.join(sorted(have))}")


def selectivities(given: Derived, wanted: Wanted) -> dict[tuple[Any, ...], SiteSelectivity]:
    """Selectivity of every site of a direction; none where only one kind of words was traced."""
    if given.every is None:
        return {}
    every = given.every[(given.every["direction"] == wanted.direction) & given.every[wanted.quantity].notna()]
    if not comparable(every):
        return {}
    found = selectivity(every, wanted.quantity, given.intervals.by_group, threshold=THRESHOLD)
    found = found[found["definition_groups"] > 0]
    return {tuple(row[name] for name in ROW): leaning_of(row) for row in found.to_dict("records")}


def leaning_of(row: dict[Any, Any]) -> SiteSelectivity:
    """A row of `selectivity` as the selectivity of a site."""
    value, low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("selectivity", "low", "high"))
    return SiteSelectivity(
        value, low, high, float(row["definition"]), int(row["definition_n"]), int(row["definition_groups"])
    )


def site_of(
    row: dict[Any, Any],
    templates: dict[str, str | None],
    leanings: dict[tuple[Any, ...], SiteSelectivity],
) -> LocatedSite:
    """A row of `average` as a site."""
    return LocatedSite(
        component=str(row["component"]),
        layer=int(row["layer"]),
        role=str(row["role"]),
        unit=None if row["unit"] < 0 else int(row["unit"]),
        module=module_name(templates, str(row["component"]), int(row["layer"])),
        effect=float(row["effect"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=int(row["n"]),
        groups=int(row["groups"]),
        q=float(row["q"]),
        stability=float(row["stability"]),
        selectivity=leanings.get(tuple(row[name] for name in ROW)),
    )


def module_name(templates: dict[str, str | None], component: str, layer: int) -> str | None:
    """Hugging Face name of the module that writes a component at a layer."""
    template = templates.get(component)
    return None if template is None else template.format(layer)
