"""Which method finds a planted bias, and where does each fail? Eleven kinds of made models, located in several ways.

    python experiments/planted/run.py [--plain 52] [--hard 12] [--jobs 1] [--out FOLDER]

Writes verdicts.csv (a row for each model and method), edges.csv (attention weights), selectivity.csv (stereotype beside
definition), their means in summary.csv, and a figure of it.
"""

import argparse
import itertools
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import pandas as pd
from figure import draw
from scipy.stats import binomtest

import locate
from locate.mediation import average, effects
from locate.mediation.resampling import Intervals
from locate.model.hooked import Model
from locate.planted import Plan, Planted, draw_plan, judge, plant
from locate.planted.build import Words, prompts_of
from locate.planted.plan import LAYOUTS, VARIANTS
from locate.prompts import Prompts
from locate.sites import AFTER, BEFORE, LAST, LAST_SUBJECT, Patch, Site
from locate.study.estimate import estimate
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

MAP = Map(components=("mlp_out", "attn_out", "head"))
OCCUPATIONS, TEMPLATES = 12, 1
NOISE = Noise(sigmas=3.0, samples=5)
KEYS = (BEFORE, LAST_SUBJECT, AFTER, LAST)
PAIRED = ("plain", "spread", "or", "vote", "backup")  # variants in which pairs of sites are written too
PAIRED_PLAIN, PAIRED_PROMPTS = 12, 6


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


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the models by variant and method, and how often the strongest sites are planted, with interval."""
    grouped = table.assign(nats=table["recovered"] * table["total"]).groupby(["variant", "method"], sort=False)
    means = grouped[["auroc", "precision", "role"]].mean()
    means["recovered"] = grouped["nats"].sum() / grouped["total"].sum()  # not the mean of shares of small totals
    hits = grouped["first"].agg(hits="sum", models="size")
    spans = [binomtest(hit, models).proportion_ci(method="exact") for hit, models in hits.itertuples(index=False)]
    hits["low"], hits["high"] = [span.low for span in spans], [span.high for span in spans]
    return means.join(hits).reset_index()


def plans(plain: int, hard: int) -> list[Plan]:
    """What is made: models of either layout in turn, each with a seed of its own."""
    counts = {variant: plain if variant == "plain" else hard for variant in VARIANTS}
    return [
        draw_plan(1000 * (1 + place) + index // 2, LAYOUTS[index % 2], variant)
        for place, (variant, count) in enumerate(counts.items())
        for index in range(count)
    ]


def measured(job: tuple[Plan, bool]) -> dict[str, list[dict[str, object]]]:
    """The rows of each table that one made model adds; with pairs of sites or without."""
    plan, paired = job
    with tempfile.TemporaryDirectory() as temporary:
        made = plant(Path(temporary) / "model", plan, occupations=OCCUPATIONS, templates_each=TEMPLATES)
        model = locate.load(str(made.folder), device="cpu")
        return {
            "verdicts": verdicts(model, made, paired),
            "edges": edges(model, made) if plan.variant == "attention" or (plan.variant == "plain" and paired) else [],
            "selectivity": selectivity(model, made) if plan.variant == "definition" else [],
        }


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=int, default=52)
    parser.add_argument("--hard", type=int, default=12, help="models of each other variant")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    planned = plans(options.plain, options.hard)
    jobs = [
        (plan, plan.variant in PAIRED and (plan.variant != "plain" or index < PAIRED_PLAIN))
        for index, plan in enumerate(planned)
    ]
    tables: dict[str, list[dict[str, object]]] = {"verdicts": [], "edges": [], "selectivity": []}
    started = time.monotonic()
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as pool:
        for done, found in enumerate(pool.map(measured, jobs), 1):
            for name, rows in found.items():
                tables[name] += rows
            left = (time.monotonic() - started) / done * (len(planned) - done)
            print(f"{done} of {len(planned)} models, about {left:.0f} s left", file=sys.stderr, flush=True)
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g")
    means = summary(pd.DataFrame(tables["verdicts"]))
    means.to_csv(options.out / "summary.csv", index=False, float_format="%.4g")
    draw(means, options.out / "methods.png")
    print(means.to_string(index=False))


if __name__ == "__main__":
    main()
