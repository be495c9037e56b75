"""Made tables of effects whose truth is known, as `effects` returns them; every layer is another simulation."""

import numpy as np
import pandas as pd

SITE = {
    "direction": "denoising", "component": "mlp_out", "unit": -1, "window": 1, "severed": "", "origin": "source",
    "role": "subject_last", "key": "", "name": "",
}  # fmt: skip
ABOUT = {"metric": "logit_diff", "view": "stereotype"}
UNEQUAL = (1, 2, 3, 4, 8, 2, 1, 5)
EFFECTS = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "lognormal": lambda rng, shape: (np.exp(rng.normal(size=shape)) - np.exp(0.5)) / np.sqrt((np.e - 1) * np.e),
    "t3": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3),
}
"""Distributions of mean 0 and standard deviation 1."""


def table(values: np.ndarray, group: np.ndarray, template: np.ndarray, kind: str = "occupation") -> pd.DataFrame:
    """Effects of values [pair, cell], with the group and template of each pair."""
    pairs, cells = values.shape
    frame = pd.DataFrame({
        "layer": np.repeat(np.arange(cells), pairs),
        "pair": np.tile(np.arange(pairs), cells),
        "group": np.tile(group, cells),
        "template": np.tile(template, cells),
        "nie": values.T.ravel(),
    })  # fmt: skip
    for name, value in {**SITE, **ABOUT, "kind": kind}.items():
        frame[name] = pd.Categorical.from_codes(np.zeros(len(frame), dtype=int), [value])
    frame["unit"], frame["window"], frame["total"], frame["rounding"] = -1, 1, 1.0, 0.0
    return frame


def crossed(groups: int, templates: int, each: int) -> tuple[np.ndarray, np.ndarray]:
    """Group and template of each pair, when every group meets `each` of the templates, spread evenly."""
    stride = max(1, templates // each)
    group = np.tile(np.arange(groups), each)
    turn = np.repeat(np.arange(each), groups)
    return group, (group + turn * stride) % templates


def sized(groups: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Group of each pair, when groups have these numbers of pairs in turn."""
    return np.repeat(np.arange(groups), np.resize(sizes, groups))


def drawn(
    rng: np.random.Generator, shape: str, group: np.ndarray, template: np.ndarray, cells: int, between: float = 0.0
) -> np.ndarray:
    """Values [pair, cell] of mean 0: effects of groups (deviation 1), of templates (`between`), and noise (a half)."""
    own = EFFECTS[shape](rng, (group.max() + 1, cells))
    shared = between * rng.normal(size=(template.max() + 1, cells))
    return own[group] + shared[template] + 0.5 * rng.normal(size=(len(group), cells))
