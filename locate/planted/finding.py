"""Does this installation find a bias whose place is known? Made models, traced and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from locate.mediation.averages import average
from locate.mediation.effect_table import effects
from locate.mediation.resampling import Intervals
from locate.model.hooked import Model
from locate.model.loading import load
from locate.planted.build import Place, Planted, Truth, plant
from locate.planted.judging import Verdict, judge
from locate.planted.plan import LAYOUTS, Plan, draw_plan
from locate.prompts.pair import Prompts
from locate.sites import AFTER, BEFORE, LAST, LAST_SUBJECT, PATTERN, Patch, Site
from locate.study.trace import trace
from locate.tracing.plan import Map

MAP = Map(components=("mlp_out", "attn_out", "head"))
KEYS = (BEFORE, LAST_SUBJECT, AFTER, LAST)
EDGE_PAIRS = 8  # that attention weights are left out in
GOAL = 0.99  # of the AUROC
LEAST = 0.5  # nats; a total effect below says that the model was not made as planned
CONFUSED = 0.2  # share of the total effect that a site of the other path may have


@dataclass(frozen=True)
class Finding:
    """What was found in one made model.

    total       mean total effect towards the stereotype, nats
    verdicts    of the stereotype's sites by direction, when another occupation is swapped in
    definition  of the definition's sites, when words that say their gender are swapped
    edges       of attention weights of the last token, left out one by one
    confused    largest effect of a site of one path under the other path's swap, as a share of the total effect
    """

    plan: Plan
    total: float
    verdicts: dict[str, Verdict]
    definition: Verdict
    edges: Verdict
    confused: float

    @property
    def passed(self) -> bool:
        """Whether the bias is there, its place and edge are found, and no path is taken for the other."""
        found = [*self.verdicts.values(), self.definition, self.edges]
        ranked = all(each.auroc >= GOAL and each.first and each.role == 1 for each in found)
        return self.total >= LEAST and ranked and self.confused <= CONFUSED


@dataclass(frozen=True, eq=False)
class Maps:
    """Effects in a made model: of its sites under either swap, and of leaving out attention weights."""

    occupations: pd.DataFrame
    definitions: pd.DataFrame
    edges: pd.DataFrame


def find_planted(planted: Planted, device: str | None = None, threads: int | None = None) -> Finding:
    """Trace a made model and judge where its sites are ranked: under denoising and noising, and of either path."""
    return judge_maps(planted, trace_planted(planted, load(str(planted.folder), device=device, threads=threads)))


def trace_planted(planted: Planted, model: Model) -> Maps:
    """Trace a made model."""
    return Maps(
        effects(trace(model, planted.prompts, MAP, controls=None, probabilities=False)),
        effects(trace(model, planted.definitions, MAP, directions=("denoising",), controls=None, probabilities=False)),
        effects_left_out(model, planted),
    )


def judge_maps(planted: Planted, maps: Maps) -> Finding:
    """Where the planted sites are ranked."""
    sites, words, edges = (
        average(each, "nie", Intervals(samples=100)) for each in (maps.occupations, maps.definitions, maps.edges)
    )
    stereotypes = sites[sites["direction"] == "denoising"]
    return Finding(
        planted.plan,
        total=total_of(maps.occupations),
        verdicts={
            str(name): judge(rows, planted.truth, planted.aside)
            for name, rows in sites.groupby("direction", observed=True)
        },
        definition=judge(words, planted.definition),
        edges=judge(edges, planted.edges),
        confused=max(
            largest(stereotypes, planted.definition - planted.truth) / total_of(maps.occupations),
            largest(words, planted.truth - planted.definition) / total_of(maps.definitions),
        ),
    )


def total_of(effects: pd.DataFrame) -> float:
    """Mean total effect of denoising, nats."""
    return float(effects.loc[effects["direction"] == "denoising", "total"].mean())


def largest(averages: pd.DataFrame, places: Truth) -> float:
    """Largest effect at any of these sites, whatever its sign."""
    rows = averages[list(Place._fields)].astype(object).itertuples(index=False)
    return float(averages.loc[[Place(*row) in places for row in rows], "effect"].abs().max())


def effects_left_out(model: Model, planted: Planted) -> pd.DataFrame:
    """Effects of leaving out each head's attention from the last token to those of one role, in a few clean prompts."""
    pairs = planted.prompts.pairs[:: max(1, len(planted.prompts) // EDGE_PAIRS)]
    patches = [
        Patch.at(Site(PATTERN, layer, LAST, head, key=key), "zero")
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
        for key in KEYS
    ]
    return effects(
        trace(model, Prompts(pairs), patches=patches, directions=("noising",), controls=None, probabilities=False)
    )


def selftest(
    models: int = 4,
    *,
    seed: int = 0,
    device: str | None = None,
    threads: int | None = None,
    make: Callable[..., Planted] = plant,
) -> Iterator[Finding]:
    """Make some models, of each layout in turn, and yield what was found in each of them."""
    for index in range(models):
        with tempfile.TemporaryDirectory() as temporary:
            plan = draw_plan(seed + index // len(LAYOUTS), LAYOUTS[index % len(LAYOUTS)])
            yield find_planted(make(Path(temporary) / "model", plan), device, threads)
