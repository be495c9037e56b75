"""What is measured: maps of outputs and heads, estimates of neurons, exact effects of the strongest, and ablations.

Every part is kept in the work folder; the same command goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentences import sentence_pairs

import locate
from locate.mediation.effect_table import effects
from locate.model.hooked import Model
from locate.model.products import multiplying
from locate.prompts import Pair, Prompts, definitional_pairs
from locate.sites import Site

Neuron = tuple[int, int]
"""layer and unit"""

ONE_WAY = ("denoising",)
OWN = "own"
DATA_SETS = (OWN, "winobias", "winogender")
UPPER = tuple(range(15, 30))
"""layers whose heads are patched one by one: attention at the last token carries the effect there"""
SITES = locate.Map(components=("attn_out", "mlp_out"), roles=("subject_last", "last"))
HEADS = locate.Map(components=("head",), layers=UPPER, roles=("last",))
NEURONS = locate.Map(components=("neuron",), layers=(0,), roles=("subject_last",))
EVERY_NEURON = locate.Map(components=("neuron",), roles=("subject_last", "last"))


@dataclass(frozen=True)
class Work:
    """The model, by its name and loaded, and where what was measured is kept."""

    name: str
    model: Model
    folder: Path
    data: Path

    def trace(self, part: str, prompts: Prompts, map: locate.Map | None = None, **how: object) -> locate.Trace:
        """A run of its own folder, without controls; denoising unless asked for otherwise."""
        settings = {"directions": ONE_WAY, "controls": None, "probabilities": False} | how
        return locate.trace(self.model, prompts, map, output=self.folder / part, **settings)

    def prompts(self, name: str) -> Prompts:
        """Pairs of a data set; the package's own are occupations and words that say their gender, in two templates."""
        if name == OWN:
            return locate.occupation_pairs(templates_each=2) + definitional_pairs(templates_each=2)
        return sentence_pairs(name, self.data, self.folder)


def couple_of(pair: Pair) -> str:
    """The female word of a pair: *nurse* of nurse against mechanic and of mechanic against nurse.

    Both are about the same two words, so that intervals resample couples.
    """
    return (pair.clean_subject if pair.stereotype > 0 else pair.corrupted_subject).lower()


def coupled(rows: pd.DataFrame, prompts: Prompts) -> pd.DataFrame:
    """Effects whose groups are couples of words."""
    names = np.array([couple_of(pair) for pair in prompts])
    return rows.assign(group=pd.Categorical(names[rows["pair"].to_numpy()]))


def effects_of(trace: locate.Trace, prompts: Prompts) -> pd.DataFrame:
    """Effects of every kind of pairs in the stereotype view, with couples of words as groups."""
    return coupled(effects(trace, kind="all"), prompts)


def measure_maps(work: Work) -> dict[tuple[str, str], pd.DataFrame]:
    """Effects of outputs and of heads in every data set, in the stereotype view: (unit, data set) -> effects."""
    found = {}
    for data in DATA_SETS:
        prompts = work.prompts(data)
        for unit, map in (("output", SITES), ("head", HEADS)):
            found[unit, data] = effects_of(work.trace(f"{unit}-{data}", prompts, map), prompts)
    return found


def estimate_neurons(work: Work) -> dict[tuple[str, str], pd.DataFrame]:
    """Estimated effects of every neuron of the lowest MLP at the occupation, by integrated gradients."""
    found = {}
    for data in DATA_SETS:
        path = work.folder / f"neuron-{data}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            kept = locate.estimate(work.model, work.prompts(data), NEURONS, method="integrated", directions=ONE_WAY)
            kept.to_parquet(path)
        found["neuron", data] = coupled(pd.read_parquet(path), work.prompts(data))
    return found


def halves(prompts: Prompts, seed: int = 0) -> tuple[Prompts, Prompts]:
    """Pairs of a random half of the words of each kind, on which neurons are chosen, and of the other half.

    The two words of a pair stand in one half.
    """
    chosen: set[str] = set()
    for kind in sorted({pair.kind for pair in prompts}):
        names = sorted({couple_of(pair) for pair in prompts if pair.kind == kind})
        chosen |= set(np.random.default_rng([seed, 7]).permutation(names)[: len(names) // 2])
    first, second = (
        Prompts(tuple(pair for pair in prompts if (couple_of(pair) in chosen) == side)) for side in (True, False)
    )
    return first, second


def choose_neurons(work: Work, kind: str, prompts: Prompts, passes: int) -> locate.Trace:
    """Neurons of all layers within a budget: all are estimated, the strongest and a random sample patched."""
    budget = locate.Budget(passes=passes)
    return work.trace(f"neurons-by-{kind}", of_kind(prompts, kind), EVERY_NEURON, budget=budget)


def of_kind(prompts: Prompts, kind: str) -> Prompts:
    """The pairs of one kind."""
    return Prompts(tuple(pair for pair in prompts if pair.kind == kind))


def patch_neurons(work: Work, name: str, sites: Sequence[Site], prompts: Prompts) -> pd.DataFrame:
    """Exact effects of some neurons, by themselves, in the stereotype view."""
    map = replace(EVERY_NEURON, only=tuple(dict.fromkeys(sites)))
    return effects_of(work.trace(name, prompts, map), prompts)


def measure_ablations(work: Work, sets: Mapping[str, Sequence[Neuron]], prompts: Prompts) -> pd.DataFrame:
    """Log-odds after both prompts of each pair, as they are and with each set of neurons at 0 at every token.

    One row per pair and set: `clean`, `corrupted`, `clean_ablated`, `corrupted_ablated`, in nats towards the stereotype
    of the pair or the gender of its word; `group` is the couple.
    """
    path = work.folder / "ablations.parquet"
    if path.is_file():
        return pd.read_parquet(path)
    rows, known = [], {}
    for number, pair in enumerate(prompts):
        for text in (pair.clean, pair.corrupted):
            if text not in known:
                known[text] = ablated_log_odds(work.model, text, list(sets.values()))
        clean, corrupted = (known[text] * pair.stereotype for text in (pair.clean, pair.corrupted))
        about = {
            "pair": number,
            "kind": pair.kind,
            "group": couple_of(pair),
            "clean": clean[0],
            "corrupted": corrupted[0],
        }
        rows += [
            about | {"set": name, "clean_ablated": clean[place], "corrupted_ablated": corrupted[place]}
            for place, name in enumerate(sets, start=1)
        ]
    found = pd.DataFrame(rows)
    found.to_parquet(path)
    return found


def ablated_log_odds(model: Model, text: str, sets: Sequence[Sequence[Neuron]]) -> np.ndarray:
    """Log-odds of " she" against " he" after a text, first as it is, then with each set of neurons at 0."""

    def zero(rows: list[int], units: list[int]) -> Callable:
        def hook(value: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = value.clone()
            changed[rows, :, units] = 0
            return changed

        return hook

    hooks = []
    for layer in range(model.n_layers):
        places = [(row, unit) for row, some in enumerate(sets, start=1) for at, unit in some if at == layer]
        if places:
            rows, units = (list(each) for each in zip(*places, strict=True))
            hooks.append((model.hook("neuron", layer), zero(rows, units)))
    answers = [model.encode(word)[0][-1] for word in (" she", " he")]
    ids = torch.tensor([model.encode(text)[0]]).expand(len(sets) + 1, -1)
    with multiplying(model.dtype, model.device, model.threads), model.hooked(hooks):
        logits = model.final_logits(ids, only=answers)
    return (logits[:, 0] - logits[:, 1]).double().numpy()


def random_sets(chosen: Sequence[Neuron], width: int, count: int, seed: int) -> list[list[Neuron]]:
    """Sets of other neurons, as many in each layer as the chosen ones."""
    rng, layers = np.random.default_rng(seed), [layer for layer, _ in chosen]
    return [
        [
            (layer, int(unit))
            for layer in sorted(set(layers))
            for unit in rng.choice(
                sorted(set(range(width)) - {own for at, own in chosen if at == layer}),
                layers.count(layer),
                replace=False,
            )
        ]
        for _ in range(count)
    ]
