"""Controls of a run: what its strongest sites do when they are written otherwise, in other prompts, or untrained."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.files import strict
from locate.mediation import default_view, effects
from locate.mediation.controls import CHOOSING
from locate.model.hooked import Model
from locate.model.untrained import make_untrained
from locate.prompts import definitional_pairs, neutral_pairs
from locate.prompts.pair import FEMALE, MALE, Prompts
from locate.sites import PATTERN, UNITS, Site
from locate.study.disturb import random_directions, shuffled
from locate.study.random_sets import random_sets
from locate.study.sample import named, sampled
from locate.tracing import collect
from locate.tracing.job import Change, Job, measure_chunk, prepare
from locate.tracing.plan import Map
from locate.tracing.table import CONTROL, SITE, Trace, whole_sites

RESIDUAL = "resid_pre"  # chosen only where nothing else was traced: it holds what all others wrote
SMALL = 50_000_000  # parameters up to which a second, untrained model costs little


@dataclass(frozen=True)
class Controls:
    """How much is spent on controls.

    sites           the strongest of the run, at which all controls but the last are measured
    pairs           of the run's own, one of each group before a second of any
    sets            random sets that the located set is compared with
    random_weights  whether the map is traced in the untrained model too; None for models of up to 50 million parameters
    seed            of every choice
    """

    sites: int = 5
    pairs: int = 48
    sets: int = 99
    random_weights: bool | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.sites, self.pairs, self.sets) < 1 or self.seed < 0:
            raise LocateError(
                f"controls of {self.sites} sites, {self.pairs} pairs, {self.sets} sets, seed {self.seed}: expected "
                "at least 1 of each, and a seed from 0 up"
            )


def control_rows(model: Model, wanted: Controls, pairs: int, rows: int, directions: int, samples: int) -> int:
    """About how many rows the controls of a run of so many pairs and rows will have."""
    few = min(pairs, wanted.pairs)
    each = directions * samples * wanted.sites
    words = len(definitional_pairs(templates_each=1)) + len(neutral_pairs(templates_each=2))
    whole = rows / pairs * few if model.checkpoint.parameters <= SMALL or wanted.random_weights else 0
    return round(each * (2 * few + words) + (wanted.sets + 1) * few * samples + whole)


def with_controls(
    model: Model,
    prompts: Prompts,
    trace: Trace,
    wanted: Controls,
    options: dict[str, Any],
    say: Callable[[str], None],
) -> Trace:
    """The trace with its controls measured: the same table of log-probabilities, and what was not run, and why.

    options  those of the trace that the controls share (directions, corruption, memory and so on)
    say      called with a word on what is being done

    Shuffled sources: each pair takes the site's value from a pair of another group. Random direction: the site moves as
    far as the source would move it, but anywhere. Definitional words, neutral words: the same sites in prompts about
    words that say their gender, and words that say none. Random weights: the map in the untrained model. Random sets:
    see `locate.study.random_sets`.
    """
    started = time.monotonic()
    try:
        sites = strongest(trace, wanted.sites)
        sample = sampled(prompts, trace, wanted.pairs, wanted.seed)
    except LocateError as error:  # pairs of several kinds, none of them the package's
        return replace(trace, meta=trace.meta | {"controls": {"rows": 0, "not_run": {"all": str(error)}}})
    plans: dict[str, Callable[[], pd.DataFrame]] = {
        "shuffled source": lambda: written(model, sample, sites, options, lambda job: shuffled(job.pairs, wanted.seed)),
        "random direction": lambda: written(
            model, sample, sites, options, lambda job: random_directions(job, wanted.seed)
        ),
        "definitional words": lambda: others(model, definitional_pairs(templates_each=1), prompts, sites, options),
        "neutral words": lambda: others(model, neutral_pairs(templates_each=2), prompts, sites, options),
        "random weights": lambda: in_untrained(model, sample, sites, trace, wanted, options),
    }
    tables, missing = [], {}
    for name, measure in plans.items():
        say(f"control: {name}")
        try:
            tables.append(measure().assign(**{CONTROL: name}))
        except LocateError as error:
            missing[name] = str(error)
    say("control: random sets")
    compared, about = random_sets(model, prompts, trace, wanted.sets, wanted.pairs, wanted.seed, options)
    tables += [] if compared is None else [compared.assign(**{CONTROL: "random sets"})]
    table = pd.concat(tables, ignore_index=True) if tables else None
    meta = {
        "sites": [named(site) for site in sites],
        "sites_by": CHOOSING,
        "pairs": len(sample),
        "seed": wanted.seed,
        "rows": 0 if table is None else len(table),
        "seconds": time.monotonic() - started,
        "not_run": missing,
        "random_sets": about,
    }
    return replace(trace, controls=table, meta=trace.meta | {"controls": strict(meta)})


def strongest(trace: Trace, count: int) -> list[Site]:
    """The sites with the largest average indirect effects in the first direction traced, single patches alone."""
    rows = whole_sites(effects(trace, CHOOSING, view=default_view(trace)))
    rows = rows[(rows["direction"] == str(trace.meta["directions"][0])) & (rows["window"] == 1)]
    rows = rows[rows["component"] != PATTERN]
    if set(rows["component"]) - {RESIDUAL}:
        rows = rows[rows["component"] != RESIDUAL]
    if rows.empty:
        return []
    sizes = rows.groupby(SITE, observed=True)["nie"].mean().abs().sort_values(ascending=False, kind="stable")
    return [site_of(dict(zip(SITE, key, strict=True))) for key in sizes.index[:count]]


def site_of(row: dict[str, Any]) -> Site:
    """The site that a row of a table is about."""
    unit = int(row["unit"])
    return Site(
        str(row["component"]), int(row["layer"]), str(row["role"]), None if unit < 0 else unit, str(row["key"]) or None
    )


def chosen_map(sites: Sequence[Site]) -> Map:
    """The map of some sites alone."""
    if not sites:
        raise LocateError("the run has no single site to control: trace components other than attention weights")
    return Map(components=tuple(dict.fromkeys(site.component for site in sites)), only=tuple(sites))


def written(
    model: Model,
    prompts: Prompts,
    sites: Sequence[Site],
    options: dict[str, Any],
    changing: Callable[[Job], Change],
) -> pd.DataFrame:
    """The sites' rows with other values written."""
    job = prepare(model, prompts, chosen_map(sites), **options)
    return measure_chunk(job, job.pairs, lambda _: None, changing(job))


def others(
    model: Model, pairs: Prompts, prompts: Prompts, sites: Sequence[Site], options: dict[str, Any]
) -> pd.DataFrame:
    """The sites' rows in other prompts of the package, where the run's own have the same answers."""
    if {(pair.female, pair.male) for pair in prompts} != {(FEMALE, MALE)}:
        raise LocateError("the run's answers are not those of the package's words")
    return collect.trace(model, pairs, chosen_map(sites), **options).table


def in_untrained(
    model: Model,
    sample: Prompts,
    sites: Sequence[Site],
    trace: Trace,
    wanted: Controls,
    options: dict[str, Any],
) -> pd.DataFrame:
    """The map, or the sites alone where it is one of units, in the same model with random weights."""
    small = model.checkpoint.parameters <= SMALL
    if not (small if wanted.random_weights is None else wanted.random_weights):
        if wanted.random_weights is False:
            raise LocateError("left out, as asked")
        raise LocateError(f"left out of models of more than {SMALL:,} parameters unless asked for")
    whole = [name for name in dict.fromkeys(trace.table["component"].astype(str)) if name not in UNITS]
    map = Map(components=tuple(whole)) if whole else chosen_map(sites)
    table = collect.trace(make_untrained(model, wanted.seed), sample, map, **options).table
    return table.astype({"pair": np.int32})
