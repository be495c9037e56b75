"""Do the stereotype of occupations and the gender of words share their places in SmolLM2, and which heads and neurons?

    python experiments/entanglement/run.py [--model FOLDER] [--data FOLDER] [--work FOLDER] [--out FOLDER]

What was measured is kept in --work; the same command goes on. --data is the folder with winobias and winogender.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import heads
import measuring
import pandas as pd
import pictures
import tables
from measuring import OWN, Work

import locate
from locate.files import write_json
from locate.mediation.agreement import spearman
from locate.mediation.averages import total_effect
from locate.mediation.effect_table import effects
from locate.mediation.resampling import DEFAULT
from locate.prompts import definitional_pairs
from locate.report import save_figures
from locate.study.sets import Sets

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SMOLLM2 = ROOT / "models" / "smollm2-135m-instruct"
DATA = ROOT.parent / "shared" / "data"
TOP_HEADS, TOP_NEURONS = 6, 40
ABLATED = (10, 30, 100)
RANDOM = 8
"""random sets of each size"""
PASSES = {"occupation": 5200, "definition": 2000}
"""patched runs beside the estimates on which neurons of all layers are chosen"""


def main() -> None:
    """Measure, derive, and write the tables and figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SMOLLM2)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--work", type=Path, default=Path("runs/entanglement"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    work = Work(str(options.model), locate.load(str(options.model), device="cpu"), options.work, options.data)
    found = measuring.estimate_neurons(work) | measuring.measure_maps(work)
    written = {"overlaps": tables.overlap_table(found)}
    for unit in ("output", "head"):
        written[f"selectivity_{unit}"] = tables.selectivity_table(found[unit, OWN], 10)
    written |= study_neurons(work, found["neuron", OWN])
    written |= study_heads(work, found["head", OWN], found["neuron", OWN])
    options.out.mkdir(parents=True, exist_ok=True)
    for name, table in written.items():
        table.to_csv(options.out / f"{name}.csv", index=False, float_format="%.5g")
    write_json(options.out / "about.json", describe(work, found))
    save_figures(pictures.figures(written), options.out, ("png",))


def describe(work: Work, found: dict[tuple[str, str], pd.DataFrame]) -> dict[str, object]:
    """Total effects of every data set, and how far estimates of neurons agree with exact effects.

    `agreement` is over neurons of all layers, drawn at random; `lowest_mlp` over the neurons of MLP 0 that were
    patched, those that seemed strongest, on the same pairs.
    """
    totals = {
        f"{data}, {kind}": {"total": total_effect(own, DEFAULT), "pairs": own["pair"].nunique()}
        | {"couples": own["group"].nunique()}
        for (unit, data), rows in found.items()
        if unit == "output"
        for kind, own in rows.groupby("kind", observed=True)
    }
    agreements = locate.analyse(locate.load_trace(work.folder / "neurons-by-occupation")).agreement
    exact = effects(locate.load_trace(work.folder / "neurons-patched"), kind="all")
    lowest = tables.estimated_beside(exact[exact["layer"] == 0], found["neuron", OWN])
    rho = spearman(lowest["nie"].to_numpy(), lowest["estimate"].to_numpy())
    return {
        "totals": totals,
        "agreement": [each.as_json() for each in agreements],
        "lowest_mlp": {"neurons": len(lowest), "rank_correlation": rho},
    }


def study_neurons(work: Work, own: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Neurons chosen on one half of the words, patched and ablated in prompts of the other half."""
    single = locate.occupation_pairs(templates_each=1) + definitional_pairs(templates_each=2)
    choosing, telling = measuring.halves(single)
    chosen, kinds = {}, ("occupation", "definition")
    for kind in kinds:
        kept = measuring.choose_neurons(work, kind, choosing, PASSES[kind]).estimates
        chosen["all layers", kind] = tables.strongest_estimates(kept, max(ABLATED))
        words = {measuring.couple_of(pair) for pair in choosing if pair.kind == kind}
        part = own[(own["kind"] == kind) & own["group"].isin(words)]
        chosen["MLP 0", kind] = tables.strongest(part, max(ABLATED))
    sites = [site for each in chosen.values() for site in each[:TOP_NEURONS]]
    patched = measuring.patch_neurons(work, "neurons-patched", sites, telling)
    sets = {}
    for (where, kind), some in chosen.items():
        for size in ABLATED:
            neurons = tables.neurons_of(some[:size])
            sets[f"{where}|{kind}|{size}"] = neurons
            if kind == kinds[0]:
                for number, each in enumerate(measuring.random_sets(neurons, work.model.d_mlp, RANDOM, size)):
                    sets[f"{where}|random {number}|{size}"] = each
    ablated = measuring.measure_ablations(work, sets, telling)
    return {
        "selectivity_neuron": tables.selectivity_table(patched, 20),
        "ablations": tables.ablation_table(ablated),
        "shared_neurons": shared_neurons(chosen),
    }


def shared_neurons(chosen: dict) -> pd.DataFrame:
    """How many of the ablated neurons of both kinds are the same, and in which layers they lie."""
    rows = []
    for where in ("MLP 0", "all layers"):
        for size in ABLATED:
            both = [set(tables.neurons_of(chosen[where, kind][:size])) for kind in ("occupation", "definition")]
            layers = [pd.Series([layer for layer, _ in each]).median() for each in both]
            rows.append(
                {"where": where, "size": size, "shared": len(both[0] & both[1])}
                | {"median_layer_occupation": layers[0], "median_layer_definition": layers[1]}
            )
    return pd.DataFrame(rows)


def study_heads(work: Work, found: pd.DataFrame, neurons: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """What the strongest heads of occupations read and write, and what of the lowest MLP goes through them."""
    prompts = locate.occupation_pairs(templates_each=1)
    jobs = found[found["kind"] == "occupation"]
    top = tables.neurons_of(tables.strongest(jobs, TOP_HEADS, towards=False))
    best = tables.neurons_of(tables.strongest(neurons[neurons["kind"] == "occupation"], max(ABLATED)))
    feeding = {"MLP": []} | {f"{size} neurons": best[:size] for size in ABLATED}
    joint = work.trace("head-sets", prompts, measuring.HEADS, sets=Sets())
    return {
        "heads": tables.head_table(heads.measure_paths(work, top, prompts)),
        "attention": tables.by_role(heads.attention_weights(work, top, prompts), "weight"),
        "reads": tables.by_role(heads.reads(work, top, prompts), "written"),
        "readout": heads.readout(work, top, prompts),
        "through_heads": tables.mediated_table(heads.measure_mediated(work, top, feeding, prompts)),
        "head_sets": locate.analyse(joint).sets,
    }


if __name__ == "__main__":
    main()
