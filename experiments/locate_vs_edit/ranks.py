"""Does the layer with the larger effect also give the better edit? Spearman's rho over layers, with intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
from scipy.stats import norm, rankdata

from locate.errors import LocateError

SAMPLES = 2000
LEVEL = 0.95
EVERY_ORDER = 8  # layers, up to which all orders are gone through; beyond, ORDERS are drawn
ORDERS = 20_000
SIZES = {"cut": ("before", "after"), "cut_both": ("before_both", "after_both")}
"""success of an edit: columns of words.csv; held-out words in every template, and in held-out templates"""


def spearman(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation along the last axis, ties at their mean rank; nan where one side is constant."""
    ranks = [rankdata(each, axis=-1) for each in (first, second)]
    one, other = (each - each.mean(-1, keepdims=True) for each in ranks)
    below = np.sqrt((one**2).sum(-1) * (other**2).sum(-1))
    above = (one * other).sum(-1)
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def weights_of(words: list[str], samples: int, seed: int) -> pd.DataFrame:
    """How often each occupation is drawn: a row per draw, the first with each once; a column per occupation."""
    drawn = np.random.default_rng(seed).multinomial(len(words), np.full(len(words), 1 / len(words)), size=samples)
    return pd.DataFrame(np.vstack([np.ones((1, len(words)), dtype=int), drawn]), columns=words)


def ratio(weights: pd.DataFrame, above: pd.DataFrame, below: pd.DataFrame) -> np.ndarray:
    """Ratio of weighted sums over words, [draw, column]; nan for a draw without any word of a column.

    above, below  a row per word, a column per layer (or per set of layers)
    """
    drawn = weights[list(above.index)].to_numpy(dtype=float)
    total = drawn @ below.to_numpy(dtype=float)
    return np.divide(drawn @ above.to_numpy(dtype=float), total, out=np.full(total.shape, np.nan), where=total > 0)


def effects_drawn(weights: pd.DataFrame, effects: pd.DataFrame, role: str) -> pd.DataFrame:
    """Mean effect of each layer at a role (nats), in every draw of the traced occupations.

    effects  a row per layer, role and occupation: summed effect and pairs
    """
    own = effects[effects["role"] == role]
    sums, pairs = (own.pivot(index="word", columns="layer", values=name).fillna(0.0) for name in ("sum", "pairs"))
    return pd.DataFrame(ratio(weights, sums, pairs), columns=sums.columns)


def cuts_drawn(weights: pd.DataFrame, words: pd.DataFrame, success: str = "cut") -> pd.DataFrame:
    """Cut (%) of the held-out occupations' mean |log-odds| by each edit, in every draw; a column per set of layers.

    words  rows of words.csv of one editor and seed
    """
    before, after = (words.pivot(index="word", columns="layers", values=name) for name in SIZES[success])
    return pd.DataFrame(100 * ratio(weights, before - after, before), columns=before.columns)


def spans(drawn: np.ndarray) -> tuple[float, float]:
    """Percentile interval of a statistic over the draws, the first of which is the estimate itself."""
    low, high = np.nanquantile(drawn[1:], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def over_layers(rho: float, count: int) -> tuple[float, float]:
    """Interval for other layers like these (Bonett and Wright 2000); the whole range with fewer than four layers.

    With six layers it is about 1.2 wide wherever rho is not near 1: they say little about layers in general.
    """
    if count < 4 or math.isnan(rho):
        return -1.0, 1.0
    half = norm.ppf((1 + LEVEL) / 2) * math.sqrt((1 + rho**2 / 2) / (count - 3))
    middle = math.atanh(min(max(rho, -0.999999), 0.999999))
    return math.tanh(middle - half), math.tanh(middle + half)


def order_p(effect: np.ndarray, cuts: np.ndarray, seed: int = 0) -> float:
    """Share of all orders of the layers whose |rho| is at least this one; two-sided, exact for up to 8 layers.

    effect  [layer]
    cuts    [seed, layer]; rho is the mean over seeds
    """
    count = len(effect)
    if count <= EVERY_ORDER:
        orders = np.array(list(itertools.permutations(range(count))))
    else:
        stream = np.random.default_rng(seed)
        orders = np.stack([np.arange(count), *(stream.permutation(count) for _ in range(ORDERS))])
    drawn = np.mean([spearman(effect[orders], np.broadcast_to(each, orders.shape)) for each in cuts], axis=0)
    found = spearman(np.broadcast_to(effect, cuts.shape), cuts).mean()
    return float((np.abs(drawn) >= abs(found) - 1e-12).mean())


def correlations(
    edits: pd.DataFrame, words: pd.DataFrame, effects: pd.DataFrame, *, samples: int = SAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Spearman's rho between the effect of a layer and the cut by an edit of that layer alone, per editor.

    edits, words  as `Kept` has them; seeds in which a layer is lacking are left out
    effects       see `effects_drawn`

    Returns a row per editor, role of the effect and success: rho (mean over the seeds of the held-out split), low and
    high from resampling occupations (each draw takes both the effects and the cuts of the same occupations; these
    layers), low_layers and high_layers for other layers like these, p over orders of the layers, rho_below with its
    interval over the layers below the last (whose MLP cannot reach the answer from the subject), rho_depth between the
    layer's number and the cut, layers and seeds.

    Raises LocateError when an editor has no seed in which every traced layer was edited.
    """
    layers = sorted(effects["layer"].unique())
    names = sorted({*words["word"], *effects["word"]})
    weights = weights_of(names, samples, seed)
    found = []
    for editor, own in words.groupby("editor", sort=False):
        seeds = complete(edits[edits["editor"] == editor], layers)
        if not seeds:
            raise LocateError(f"editor {editor!r}: no seed has an edit of each of the layers {layers}: run it on")
        for success, role in itertools.product(SIZES, dict.fromkeys(effects["role"])):
            effect = effects_drawn(weights, effects, role)[layers].to_numpy()
            cuts = np.stack(
                [
                    cuts_drawn(weights, own[own["seed"] == each], success)[[str(layer) for layer in layers]].to_numpy()
                    for each in seeds
                ]
            )
            rho, below = (
                spearman(np.broadcast_to(effect, cuts.shape)[..., :some], cuts[..., :some]).mean(axis=0)
                for some in (len(layers), len(layers) - 1)
            )
            depth = spearman(np.broadcast_to(np.arange(len(layers)), cuts.shape), cuts).mean(axis=0)
            (low, high), ends, deep = (spans(each) for each in (rho, below, depth))
            wide = over_layers(float(rho[0]), len(layers))
            found.append(
                {
                    "editor": editor, "effect_at": role, "success": success, "rho": float(rho[0]), "low": low,
                    "high": high, "low_layers": wide[0], "high_layers": wide[1],
                    "p": order_p(effect[0], cuts[:, 0]), "rho_below": float(below[0]), "low_below": ends[0],
                    "high_below": ends[1], "rho_depth": float(depth[0]), "low_depth": deep[0], "high_depth": deep[1],
                    "layers": len(layers), "seeds": len(seeds),
                }
            )  # fmt: skip
    return pd.DataFrame(found)


def complete(edits: pd.DataFrame, layers: list[int]) -> list[int]:
    """Seeds in which every layer was edited alone."""
    wanted = {str(layer) for layer in layers}
    return [int(seed) for seed, own in edits.groupby("seed") if wanted <= set(own["layers"].astype(str))]


def against_random(
    edits: pd.DataFrame, words: pd.DataFrame, strongest: int, *, samples: int = SAMPLES, seed: int = 0
) -> pd.DataFrame:
    """Cut at the located layers, mean cut at other sets of their size, and the difference, in points, per editor.

    strongest  the located layer of the largest effect, which stands beside every other layer; the located set of an
               editor that takes several stands beside the other sets of its size that were edited

    The difference is a mean over the seeds that have both; its interval resamples the held-out occupations, the other
    sets being those that they are.
    """
    weights = weights_of(sorted(set(words["word"])), samples, seed)
    found = []
    for editor, own in edits.groupby("editor", sort=False):
        sets = {str(strongest), *own.loc[own["located"].astype(bool), "layers"]}
        for chosen in sorted(sets, key=len):
            alike = own[own["size"] == chosen.count("+") + 1]
            sides: dict[str, list[np.ndarray]] = {"located": [], "random": []}
            count = 0
            for each, rows in alike.groupby("seed"):
                names = list(rows["layers"])
                if chosen not in names or len(names) < 2:
                    continue
                cuts = cuts_drawn(weights, words[(words["editor"] == editor) & (words["seed"] == each)])
                sides["located"].append(cuts[chosen].to_numpy())
                sides["random"].append(cuts[[name for name in names if name != chosen]].mean(axis=1).to_numpy())
                count += len(names) - 1
            if count:
                about = {"editor": editor, "layers": chosen, "seeds": len(sides["located"]), "random_sets": count}
                found.append(about | differences(*(np.mean(drawn, axis=0) for drawn in sides.values())))
    return pd.DataFrame(found)


def differences(located: np.ndarray, random: np.ndarray) -> dict[str, float]:
    """Both sides and their difference, each with its interval over the draws."""
    row: dict[str, float] = {}
    for name, drawn in {"located": located, "random": random, "difference": located - random}.items():
        low, high = spans(drawn)
        row |= {name: float(drawn[0]), f"{name}_low": low, f"{name}_high": high}
    return row
