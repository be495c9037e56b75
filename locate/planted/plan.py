"""What is planted: where a bias enters a made model, where it is moved, and what is put beside it to mislead."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from locate.errors import LocateError

LAYOUTS = ("gpt2", "llama")
D_HEAD = 16
DISTRACTORS = 2


@dataclass(frozen=True)
class Path:
    """A feature of a word, written by an MLP at the word, moved by a head to the last token.

    feature    which feature of the word it begins from: "stereotype", "definition", or "distractor 0" and so on
    mlp_layer  whose MLP writes it at the last token of the word
    head_layer, head  that move it; above the MLP
    read       whether the unembedding reads what is moved
    """

    feature: str
    mlp_layer: int
    head_layer: int
    head: int
    read: bool


@dataclass(frozen=True)
class Plan:
    """A model to be made.

    layout  "gpt2" (layer norms, plain MLPs) or "llama" (RMS norms, gated MLPs, rotary positions, grouped keys)
    paths   the stereotype's first, then the definition's, then the distractors'
    backup_layer  whose MLP writes the stereotype where the first one has not, or has written its opposite; None for
            none. It repairs what a patch of one site changes
    """

    layout: str
    seed: int
    n_layers: int
    n_heads: int
    paths: tuple[Path, ...]
    backup_layer: int | None = None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.n_heads * D_HEAD

    @property
    def n_kv_heads(self) -> int:
        """Heads with keys and values of their own; pairs of heads share them in the Llama layout."""
        return self.n_heads // 2 if self.layout == "llama" else self.n_heads

    @property
    def stereotype(self) -> Path:
        """The path that is to be found."""
        return self.paths[0]


def drawn(seed: int, layout: str, *, backup: bool = False) -> Plan:
    """A plan of random depth, width and places, with a backup of the stereotype's MLP or without.

    Raises LocateError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise LocateError(f"layout {layout!r}: expected one of {', '.join(LAYOUTS)}")
    rng = np.random.default_rng([seed, LAYOUTS.index(layout)])
    features = ["stereotype", "definition", *(f"distractor {index}" for index in range(DISTRACTORS))]
    while True:
        n_layers, n_heads = int(rng.integers(5, 9)), int(rng.choice([4, 8]))
        mlp_layers = rng.permutation(n_layers - 1)[: len(features)].tolist()
        paths = placed(features, mlp_layers, n_layers, n_heads, rng)
        between = range(paths[0].mlp_layer + 1, paths[0].head_layer)
        if not backup:
            return Plan(layout, seed, n_layers, n_heads, paths)
        if between:
            return Plan(layout, seed, n_layers, n_heads, paths, int(rng.choice(between)))


def placed(
    features: Sequence[str], mlp_layers: Sequence[int], n_layers: int, n_heads: int, rng: np.random.Generator
) -> tuple[Path, ...]:
    """Paths with heads above their MLPs; no two in one pair of heads, which may share keys and values."""
    taken: set[tuple[int, int]] = set()
    paths: dict[str, Path] = {}
    for mlp_layer, feature in sorted(zip(mlp_layers, features, strict=True), reverse=True):  # the fewest choices first
        free = [
            (layer, pair)
            for layer in range(mlp_layer + 1, n_layers)
            for pair in range(n_heads // 2)
            if (layer, pair) not in taken
        ]
        layer, pair = free[rng.integers(len(free))]
        taken.add((layer, pair))
        head = 2 * pair + int(rng.integers(2))
        paths[feature] = Path(feature, mlp_layer, layer, head, not feature.startswith("distractor"))
    return tuple(paths[feature] for feature in features)
