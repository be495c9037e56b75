"""Controls of a run: its strongest sites with other values written, in other prompts, or in an untrained model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import strict
from locate.mediation import default_view, effects
from locate.mediation.controls import CHOOSING, SETS
from locate.model.hooked import Model
from locate.prompts import definitional_pairs, neutral_pairs
from locate.prompts.pair import FEMALE, MALE, Prompts
from locate.sites import PATTERN, UNITS, Site
from locate.study.disturb import RandomDirections, ShuffledSources
from locate.study.random_sets import compare_random_sets
from locate.study.sample import sample_pairs, site_as_json
from locate.tracing.measure import Stages
from locate.tracing.plan import Map
from locate.tracing.stage import Rewrite, Stage
from locate.tracing.table import CONTROL, SITE, Trace, whole_sites

SHUFFLED, RANDOM_DIRECTION = "shuffled source", "random direction"
DEFINITIONAL, NEUTRAL, RANDOM_WEIGHTS = "definitional words", "neutral words", "random weights"
RESIDUAL = "resid_pre"  # chosen only where nothing else was traced: it holds what all others wrote
SMALL = 50_000_000  # parameters up to which a second, untrained model costs little


@dataclass(frozen=True)
class Controls:
    """How much is spent on controls.

    sites           the strongest of the run, at which all controls but random sets and random weights are measured
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


def control(
    model: Model, prompts: Prompts, trace: Trace, wanted: Controls, directions: tuple[str, ...]
) -> Stages[Trace]:
    """Ask for the controls of a trace; return the trace with them, and with what was not run, and why.

    Shuffled sources: each pair takes the site's value from a pair of another group. Random direction: the site moves as
    far as the source would, in a random direction. Definitional words, neutral words: the same sites in prompts about
    words that say their gender, and words that say none. Random weights: the map in the untrained model. Random sets:
    see `locate.study.random_sets`.
    """
    started = time.monotonic()
    try:
        sites = strongest(trace, wanted.sites)
        sample = sample_pairs(prompts, trace, wanted.pairs, wanted.seed)
    except LocateError as error:  # pairs of several kinds, none of them the package's
        missing = {"rows": 0, "settings": asdict(wanted), "not_run": {"all": str(error)}}
        return replace(trace, meta=trace.meta | {"controls": missing})
    components = tuple(trace.table["component"].astype(str).unique())
    plan = control_stages(model, prompts, sample, sites, components, wanted, directions)
    tables, not_run = [], {}
    for name, stage in plan.items():
        try:
            outcome = yield stage()
        except LocateError as error:
            not_run[name] = str(error)
        else:
            tables.append(outcome.table.assign(**{CONTROL: name}))
    compared, about = yield from compare_random_sets(prompts, trace, wanted.sets, wanted.pairs, wanted.seed)
    tables += [] if compared is None else [compared.assign(**{CONTROL: SETS})]
    table = pd.concat(tables, ignore_index=True) if tables else None
    meta = {
        "sites": [site_as_json(site) for site in sites],
        "sites_by": CHOOSING,
        "pairs": len(sample),
        "settings": asdict(wanted),
        "seed": wanted.seed,
        "rows": 0 if table is None else len(table),
        "seconds": time.monotonic() - started,
        "not_run": not_run,
        "random_sets": about,
    }
    return replace(trace, controls=table, meta=trace.meta | {"controls": strict(meta)})


def control_stages(
    model: Model,
    prompts: Prompts,
    sample: Prompts,
    sites: Sequence[Site],
    components: Sequence[str],
    wanted: Controls,
    directions: tuple[str, ...],
) -> dict[str, Callable[[], Stage]]:
    """The stages of some sites' controls, by the control's name; making one raises LocateError where it cannot be run.

    components  that the run has traced, at all of which the untrained model is traced
    """

    def stage(name: str, prompts: Prompts, map: Map, **how: Any) -> Stage:
        return Stage(f"control: {name}", prompts, map, directions, **how)

    def among(name: str, pairs: Prompts) -> Stage:
        if {(pair.female, pair.male) for pair in prompts} != {(FEMALE, MALE)}:
            raise LocateError("the run's answers are not those of the package's words")
        return stage(name, pairs, map_of(sites))

    def without_training(name: str) -> Stage:
        check_size(model, wanted)
        whole = [each for each in components if each not in UNITS]
        map = Map(components=tuple(whole)) if whole else map_of(sites)
        return stage(name, sample, map, untrained=wanted.seed)

    def disturbed(name: str, rewrite: Rewrite) -> Stage:
        return stage(name, sample, map_of(sites), rewrite=rewrite)

    return {
        SHUFFLED: lambda: disturbed(SHUFFLED, ShuffledSources(wanted.seed)),
        RANDOM_DIRECTION: lambda: disturbed(RANDOM_DIRECTION, RandomDirections(wanted.seed)),
        DEFINITIONAL: lambda: among(DEFINITIONAL, definitional_pairs(templates_each=1)),
        NEUTRAL: lambda: among(NEUTRAL, neutral_pairs(templates_each=2)),
        RANDOM_WEIGHTS: lambda: without_training(RANDOM_WEIGHTS),
    }


def check_size(model: Model, wanted: Controls) -> None:
    """Raise LocateError where no untrained model is wanted beside this one."""
    small = model.checkpoint.parameters <= SMALL
    if not (small if wanted.random_weights is None else wanted.random_weights):
        if wanted.random_weights is False:
            raise LocateError("left out, as asked")
        raise LocateError(f"left out of models of more than {SMALL:,} parameters unless asked for")


def strongest(trace: Trace, count: int) -> list[Site]:
    """The sites with the largest average indirect effects in the first direction traced, by single patches only."""
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


def map_of(sites: Sequence[Site]) -> Map:
    """The map of some sites alone."""
    if not sites:
        raise LocateError("the run has no single site to control: trace components other than attention weights")
    return Map(components=tuple(dict.fromkeys(site.component for site in sites)), only=tuple(sites))
