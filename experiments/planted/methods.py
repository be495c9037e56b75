"""What each method finds in one made model, whose planted places are known."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import pandas as pd

import locate
from locate.mediation import average, effects
from locate.mediation.resampling import Intervals
from locate.model.hooked import Model
from locate.planted import Plan, Planted, judge, plant
from locate.planted.build import Words, prompts_of
from locate.prompts import Prompts
from locate.sites import AFTER, BEFORE, LAST, LAST_SUBJECT, Patch, Site
from locate.study.estimate import estimate
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map
from locate.work import Advance, Do, Piece

Tables = dict[str, list[dict[str, object]]]
"""rows by table: "verdicts", "edges", "selectivity" """
MAP = Map(components=("mlp_out", "attn_out", "head"))
OCCUPATIONS, TEMPLATES = 12, 1
NOISE = Noise(sigmas=3.0, samples=5)
KEYS = (BEFORE, LAST_SUBJECT, AFTER, LAST)
PAIRED_PROMPTS = 6


def exact(model: Model, prompts: Prompts, direction: str = "denoising", **options: object) -> pd.DataFrame:
    """Effects by exact patching in one direction."""
    options = options if "patches" in options else {"map": MAP} | options
    return effects(locate.trace(model, prompts, directions=(direction,), probabilities=False, **options))


def by_pairs(model: Model, made: Planted, alone: pd.DataFrame) -> pd.DataFrame:
    """Averages in which a site counts for the most that it changes alone, or beside another of its component and role.

    Pairs are made of the MLPs at either role, of the attentions and of the heads at the last token, in a few prompts;
    other sites keep their average of single patches, `alone`.
    """
    some = made.prompts.pairs[: PAIRED_PROMPTS // 2] + made.prompts.pairs[-PAIRED_PROMPTS // 2 :]
    sets = [
        [Site(component, layer, role, unit) for layer in range(model.n_layers) for unit in units]
        for component, role, units in (
            ("mlp_out", LAST_SUBJECT, [None]),
            ("mlp_out", LAST, [None]),
            ("attn_out", LAST, [None]),
            ("head", LAST, range(model.n_heads)),
        )
    ]
    named = {f"{index} {place}": site for index, sites in enumerate(sets) for place, site in enumerate(sites)}
    couples = [
        (f"{index} {one}", f"{index} {other}")
        for index, sites in enumerate(sets)
        for one, other in itertools.combinations(range(len(sites)), 2)
    ]
    patches = [Patch.joint(name, [site]) for name, site in named.items()]
    patches += [Patch.joint(f"{one}+{other}", [named[one], named[other]]) for one, other in couples]
    found = average(exact(model, Prompts(some), patches=patches), chosen=Intervals(samples=100)).set_index("name")[
        "effect"
    ]
    most = {name: found[name] for name in named}
    for one, other in couples:
        for site, beside in ((one, other), (other, one)):
            added = found[f"{one}+{other}"] - found[beside]
            most[site] = max(most[site], added, key=abs)
    places = {
        (site.component, site.layer, -1 if site.unit is None else site.unit, site.position): most[name]
        for name, site in named.items()
    }
    rows = alone[["component", "layer", "unit", "role"]].astype(object).itertuples(index=False)
    return alone.assign(effect=[places.get(tuple(row), old) for row, old in zip(rows, alone["effect"], strict=True)])


def verdicts(model: Model, made: Planted, paired: bool) -> list[dict[str, object]]:
    """One row for each method."""
    guess = {"map": MAP, "directions": ("denoising",)}
    found = {
        "exact patching, swap, denoising": exact(model, made.prompts),
        "exact patching, swap, noising": exact(model, made.prompts, "noising"),
        "exact patching, noise (ROME)": exact(model, made.prompts, corruption=NOISE),
        "integrated gradients, swap": estimate(model, made.prompts, method="integrated", **guess),
        "attribution patching, swap": estimate(model, made.prompts, method="attribution", **guess),
    }
    means = {method: average(rows, chosen=Intervals(samples=100)) for method, rows in found.items()}
    totals = {method: rows["total"].mean() for method, rows in found.items()}
    if paired:
        first = next(iter(means))
        means["exact patching, pairs of sites"] = by_pairs(model, made, means[first])
        totals["exact patching, pairs of sites"] = totals[first]
    return [
        {"variant": made.plan.variant, "method": method, "layout": made.plan.layout, "seed": made.plan.seed}
        | asdict(judge(rows, made.truth, made.aside))
        | {"total": totals[method], "recovered": recovered(rows, made) / totals[method]}
        for method, rows in means.items()
    ]


def recovered(averages: pd.DataFrame, made: Planted) -> float:
    """Mean effect (nats) of the planted MLPs at the subject's last token."""
    layers = [path.mlp_layer for path in made.plan.of("stereotype")]
    rows = averages[(averages["component"] == "mlp_out") & (averages["role"] == LAST_SUBJECT)]
    return float(rows.loc[rows["layer"].isin(layers), "effect"].mean())


def edges(model: Model, made: Planted) -> list[dict[str, object]]:
    """How well the planted attention weight is found: where it carries the bias by a swap, else by leaving it out."""
    by_weights = made.plan.kind.carried == "weights"
    patches = [
        Patch.at(Site("pattern", layer, LAST, head, key=key), "source" if by_weights else "zero")
        for layer in range(model.n_layers)
        for head in range(model.n_heads)
        for key in KEYS
    ]
    options = {"patches": patches, "directions": ("noising",)}
    found = {
        "exact patching": exact(model, made.prompts, "noising", patches=patches),
        "attribution patching": estimate(model, made.prompts, **options),
    }
    if by_weights:
        found["integrated gradients"] = estimate(model, made.prompts, method="integrated", **options)
    written = "source" if by_weights else "zero"
    about = {"variant": made.plan.variant, "written": written, "layout": made.plan.layout, "seed": made.plan.seed}
    return [
        about | {"method": method} | asdict(judge(average(rows, chosen=Intervals(samples=100)), made.edges))
        for method, rows in found.items()
    ]


def selectivity(model: Model, made: Planted) -> list[dict[str, object]]:
    """Effect of the sites of either path under three swaps, as shares of the swap's total effect."""
    rows = []
    occupations = prompts_of(Words.read().usable(OCCUPATIONS), TEMPLATES)
    swaps = {"occupation, word of the other gender": made.prompts, "two occupations": occupations}
    for swap, prompts in (swaps | {"woman, man": made.definitions}).items():
        found = exact(model, prompts)
        means = average(found, chosen=Intervals(samples=100)).set_index(["component", "layer", "unit", "role"])[
            "effect"
        ]
        for path, truth in (("stereotype", made.truth), ("definition", made.definition)):
            for place in sorted(truth):
                share = means[place.component, place.layer, place.unit, place.role] / found["total"].mean()
                site = {"component": place.component, "layer": place.layer, "unit": place.unit, "role": place.role}
                rows.append({"seed": made.plan.seed, "layout": made.plan.layout, "swap": swap, "path": path} | site)
                rows[-1]["share"] = share
    return rows


class Host:
    """What a process opens: nothing, as each made model is loaded when its turn comes."""

    def identity(self) -> str:
        """That of nothing."""
        return ""


@dataclass(frozen=True)
class Trials:
    """Made models as work for other processes; a piece is the place of one.

    plans   what each is
    paired  which are also measured with pairs of sites
    """

    plans: tuple[Plan, ...]
    paired: tuple[bool, ...]

    @property
    def name(self) -> str:
        """In messages and errors."""
        return "planted models"

    def prepare(self, host: Host) -> Do:
        """What makes and measures a model."""
        return self.measure

    def measure(self, piece: Piece, advance: Advance) -> Tables:
        """The rows of each table that one made model adds."""
        (place,) = piece
        return measured(self.plans[place], self.paired[place])


def measured(plan: Plan, paired: bool) -> Tables:
    """The rows of each table that one made model adds; with pairs of sites or without."""
    with tempfile.TemporaryDirectory() as temporary:
        made = plant(Path(temporary) / "model", plan, occupations=OCCUPATIONS, templates_each=TEMPLATES)
        model = locate.load(str(made.folder), device="cpu", threads=1)
        return {
            "verdicts": verdicts(model, made, paired),
            "edges": edges(model, made) if plan.variant == "attention" or (plan.variant == "plain" and paired) else [],
            "selectivity": selectivity(model, made) if plan.variant == "definition" else [],
        }
