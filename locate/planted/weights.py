"""The weights of a made model: directions of the residual stream, and matrices that read and write them.

Every number is a share of the residual stream's norm, which a token enters with 1. A norm makes of a direction with
share a the coordinate a * sqrt(d_model).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from locate.planted.plan import D_HEAD, Path, Plan

Vector = Float[np.ndarray, " d_model"]
Table = Float[np.ndarray, "piece d_model"]

CONSTANT, SUBJECT, FEATURE = 0.5, 0.35, 0.35  # shares of the embedding
WRITTEN, MOVED = 0.8, 1.0  # shares that an MLP and a head add
SCORE = 14.0  # of a planted head's attention to the subject
LOGIT = 1.5  # of an answer whose gender was moved
ON, OFF = 8.0, 4.0  # what a neuron reads of its feature, and what is taken off: it fires at their difference
REPAIR = OFF  # silent where the sign is written, ON - OFF where it is not
BACKGROUND = 0.006  # standard deviation of every weight besides
NEURONS_EACH = 2  # one for each sign
MLP_WIDTH = 2  # times d_model


@dataclass(frozen=True, eq=False)
class Directions:
    """Orthonormal directions of the residual stream, all of mean 0, so that layer norms keep them.

    rest  of no meaning, in which tokens differ
    """

    constant: Vector
    subject: Vector
    output: Vector
    feature: Mapping[str, Vector]
    written: Mapping[str, Vector]
    moved: Mapping[str, Vector]
    rest: Float[np.ndarray, "direction d_model"]


def directions(plan: Plan) -> Directions:
    """Random directions, from the plan's seed."""
    rng = np.random.default_rng([plan.seed, 1])
    d = plan.d_model
    basis, _ = np.linalg.qr(np.column_stack([np.ones(d), rng.standard_normal((d, d - 1))]))
    free = iter(basis.T[1:])
    constant, subject, output = next(free), next(free), next(free)
    names = [path.feature for path in plan.paths]
    feature, written = ({name: next(free) for name in names} for _ in range(2))
    moved = {path.feature: output if path.read else next(free) for path in plan.paths}
    return Directions(constant, subject, output, feature, written, moved, np.array(list(free)))


def embedding(plan: Plan, found: Directions, vocabulary: int, features: Mapping[int, Mapping[str, int]]) -> Table:
    """Embeddings of norm 1.

    features  by id of a subject's last token: sign of each feature
    """
    rng = np.random.default_rng([plan.seed, 2])
    noise = rng.standard_normal((vocabulary, len(found.rest))) @ found.rest
    table = np.tile(CONSTANT * found.constant, (vocabulary, 1))
    for piece, signs in features.items():
        table[piece] += SUBJECT * found.subject
        for name, sign in signs.items():
            table[piece] += sign * FEATURE * found.feature[name]
    left = np.sqrt(1 - (table**2).sum(1))
    return table + noise * (left / np.linalg.norm(noise, axis=1))[:, None]


def unembedding(plan: Plan, found: Directions, vocabulary: int, female: int, male: int) -> Table:
    """Rows that read no planted direction, but for the two answers."""
    rng = np.random.default_rng([plan.seed, 3])
    table = rng.standard_normal((vocabulary, len(found.rest))) @ found.rest / np.sqrt(len(found.rest))
    table[[female, male]] = table[[female, male]].mean(0)
    each = LOGIT / np.sqrt(plan.d_model) * found.output
    table[female] += each
    table[male] -= each
    return table


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer's matrices, as maps from the normed residual stream or to the residual stream.

    queries, keys, values  [head d_head, d_model]; attention_out [d_model, head d_head]
    gate, up               [neuron, d_model]; up is for gated MLPs
    mlp_out                [d_model, neuron]
    """

    queries: Float[np.ndarray, "d_model d_model"]
    keys: Float[np.ndarray, "d_own d_model"]
    values: Float[np.ndarray, "d_own d_model"]
    attention_out: Float[np.ndarray, "d_model d_model"]
    gate: Float[np.ndarray, "neuron d_model"]
    up: Float[np.ndarray, "neuron d_model"]
    mlp_out: Float[np.ndarray, "d_model neuron"]


def layers(plan: Plan, found: Directions) -> list[Layer]:
    """All layers: small random weights, and the paths in them."""
    rng = np.random.default_rng([plan.seed, 4])
    d, wide, own = plan.d_model, MLP_WIDTH * plan.d_model, plan.n_kv_heads * D_HEAD
    shapes = [(d, d), (own, d), (own, d), (d, d), (wide, d), (wide, d), (d, wide)]
    made = [Layer(*(BACKGROUND * rng.standard_normal(shape) for shape in shapes)) for _ in range(plan.n_layers)]
    for path in plan.paths:
        write_mlp(made[path.mlp_layer], found, path, rng)
        write_head(made[path.head_layer], plan, found, path)
    if plan.backup_layer is not None:
        write_mlp(made[plan.backup_layer], found, plan.stereotype, rng, REPAIR)
    return made


def write_mlp(layer: Layer, found: Directions, path: Path, rng: np.random.Generator, repair: float = 0.0) -> None:
    """Two neurons that write a feature's sign: one fires where it is positive, one where it is negative.

    repair  what is taken off where the sign has been written already: OFF takes all off
    """
    unit = np.sqrt(len(found.constant))
    for neuron, sign in zip(rng.permutation(len(layer.gate))[:NEURONS_EACH], (1, -1), strict=True):
        layer.gate[neuron] = (
            sign * ON / (FEATURE * unit) * found.feature[path.feature]
            - sign * repair / (WRITTEN * unit) * found.written[path.feature]
            - OFF / (CONSTANT * unit) * found.constant
        )
        layer.up[neuron] = found.constant / (CONSTANT * unit)
        layer.mlp_out[:, neuron] = sign * WRITTEN / (ON - OFF) * found.written[path.feature]


def write_head(layer: Layer, plan: Plan, found: Directions, path: Path) -> None:
    """A head that attends to the subject from everywhere and moves what the MLP wrote there.

    Query and key stand where rotary positions turn slowest.
    """
    unit = np.sqrt(plan.d_model)
    strength = np.sqrt(SCORE * np.sqrt(D_HEAD) / (CONSTANT * SUBJECT * plan.d_model))
    first = path.head * D_HEAD
    own = path.head * plan.n_kv_heads // plan.n_heads * D_HEAD
    slowest, carrying = D_HEAD // 2 - 1, 0
    layer.queries[first + slowest] = strength * found.constant
    layer.keys[own + slowest] = strength * found.subject
    layer.values[own + carrying] = found.written[path.feature]
    layer.attention_out[:, first + carrying] = MOVED / (WRITTEN * unit) * found.moved[path.feature]
