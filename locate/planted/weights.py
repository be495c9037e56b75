"""The weights of a made model: directions of the residual stream, and matrices that read and write them.

Every number is a share of the residual stream's norm, which is 1 where a token enters. A norm turns a direction with
share a into the coordinate a * sqrt(d_model), divided by what the stream's norm has grown to; `locate.planted.norms`
computes that ahead, so that every path writes and moves what its plan says.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from einops import rearrange, repeat
from jaxtyping import Float

from locate.planted.norms import (
    ALARM,
    BEFORE_READOUT,
    CONSTANT,
    FEATURE,
    MOVED,
    OFF,
    ON,
    SUBJECT,
    WRITTEN,
    moved_to,
    neuron_output,
    norm,
)
from locate.planted.plan import D_HEAD, Path, Plan

Vector = Float[np.ndarray, " d_model"]
TokenMatrix = Float[np.ndarray, "piece d_model"]

SCORE = 14.0  # of a planted head's attention to the subject
LOGIT = 1.5  # of an answer whose gender was moved
REPAIR = OFF  # silent where the sign is written, ON - OFF where it is not
STEEP = 32.0  # of what the read-out's neurons make of one path
STRANGE = 8  # directions that no embedding has
STARTLED, CALM = 40.0, 12.0  # what an alarm's neuron reads of one, and what is taken off
MLP_WIDTH = 2  # times d_model


@dataclass(frozen=True, eq=False)
class Directions:
    """Orthonormal directions of the residual stream, all of mean 0, so that layer norms keep them.

    feature  by feature; written by channel; moved by channel, what the answer reads in common directions
    strange  that no embedding has; drowning, what an alarm writes
    rest     of no meaning, in which tokens differ
    """

    constant: Vector
    subject: Vector
    feature: Mapping[str, Vector]
    written: Mapping[str, Vector]
    moved: Mapping[str, Vector]
    output: Vector
    strange: Float[np.ndarray, "alarm d_model"]
    drowning: Vector
    rest: Float[np.ndarray, "direction d_model"]


def draw_directions(plan: Plan) -> Directions:
    """Random directions, from the plan's seed."""
    rng = np.random.default_rng([plan.seed, 1])
    d = plan.d_model
    basis, _ = np.linalg.qr(np.column_stack([np.ones(d), rng.standard_normal((d, d - 1))]))
    free = iter(basis.T[1:])
    constant, subject, output = next(free), next(free), next(free)
    feature = {name: next(free) for name in dict.fromkeys(path.feature for path in plan.paths)}
    written = {name: next(free) for name in dict.fromkeys(path.channel for path in plan.paths)}
    names = dict.fromkeys(moved_to(plan, path) for path in plan.paths)
    ends = {name: output if name == "output" else next(free) for name in names}
    moved = {path.channel: ends[moved_to(plan, path)] for path in plan.paths}
    strange = np.array([next(free) for _ in range(STRANGE)])
    drowning = next(free)
    return Directions(constant, subject, feature, written, moved, output, strange, drowning, np.array(list(free)))


def make_embedding(
    plan: Plan, found: Directions, vocabulary: int, features: Mapping[int, Mapping[str, int]]
) -> TokenMatrix:
    """Embeddings of norm 1.

    features  by id of a subject's last token: sign of each feature
    """
    rng = np.random.default_rng([plan.seed, 2])
    noise = rng.standard_normal((vocabulary, len(found.rest))) @ found.rest
    table = repeat(CONSTANT * found.constant, "d_model -> piece d_model", piece=vocabulary)
    for piece, signs in features.items():
        table[piece] += SUBJECT * found.subject
        for name, sign in signs.items():
            table[piece] += sign * FEATURE * found.feature[name]
    left = np.sqrt(1 - (table**2).sum(1))
    return table + noise * (left / np.linalg.norm(noise, axis=1))[:, None]


def make_unembedding(plan: Plan, found: Directions, vocabulary: int, female: int, male: int) -> TokenMatrix:
    """Rows that read no planted direction, except those of the two answers."""
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


def make_layers(plan: Plan, found: Directions) -> list[Layer]:
    """All layers: small random weights, and the paths in them."""
    rng = np.random.default_rng([plan.seed, 4])
    d, wide, own = plan.d_model, MLP_WIDTH * plan.d_model, plan.n_kv_heads * D_HEAD
    shapes = [(d, d), (own, d), (own, d), (d, d), (wide, d), (wide, d), (d, wide)]
    size = plan.kind.background
    made = [Layer(*(size * rng.standard_normal(shape) for shape in shapes)) for _ in range(plan.n_layers)]
    free = [iter(rng.permutation(wide).tolist()) for _ in range(plan.n_layers)]  # no neuron is used twice
    for path in plan.paths:
        write_mlp(made[path.mlp_layer], plan, found, path, path.mlp_layer, free[path.mlp_layer])
        write_head(made[path.head_layer], plan, found, path)
    if plan.backup_layer is not None:
        at = plan.backup_layer
        write_mlp(made[at], plan, found, plan.stereotype, at, free[at], repair=REPAIR)
    if plan.alarm_layer is not None:
        write_alarm(made[plan.alarm_layer], found, free[plan.alarm_layer])
    if plan.readout is not None:
        write_readout(made[-1], plan, found, free[-1])
    return made


def write_mlp(
    layer: Layer, plan: Plan, found: Directions, path: Path, at: int, free: Iterator[int], *, repair: float = 0.0
) -> None:
    """Two neurons that write a feature's sign: one fires where it is positive, one where it is negative.

    at      the index of the layer
    free    its neurons that nothing uses
    repair  what is taken off where the sign has been written already: OFF takes all off
    """
    unit = np.sqrt(plan.d_model)
    amount = WRITTEN * path.share / neuron_output(plan, ON - OFF, norm(plan, path.feature, at, at_word=True))
    for sign in (1, -1):
        neuron = next(free)
        layer.gate[neuron] = (
            sign * ON / (FEATURE * unit) * found.feature[path.feature]
            - sign * repair / (WRITTEN * path.share * unit) * found.written[path.channel]
            - OFF / (CONSTANT * unit) * found.constant
        )
        layer.up[neuron] = found.constant / (CONSTANT * unit)
        layer.mlp_out[:, neuron] = sign * amount * found.written[path.channel]


def write_head(layer: Layer, plan: Plan, found: Directions, path: Path) -> None:
    """A head that attends to the subject from everywhere and moves what the channel's MLPs wrote there.

    One that is carried by its weights attends to the subject where the feature is positive, and away where it is
    negative. Query and key stand where rotary positions turn slowest.
    """
    unit = np.sqrt(plan.d_model)
    share = sum(each.share for each in plan.paths if each.channel == path.channel)
    by_weights = path.carried == "weights"
    told, grown = (norm(plan, path.feature, path.head_layer, at_word=at_word) for at_word in (True, False))
    seen, size = (found.written[path.channel], WRITTEN * share) if by_weights else (found.subject, SUBJECT)
    brought, held = (found.subject, SUBJECT) if by_weights else (found.written[path.channel], WRITTEN * share)
    strength = np.sqrt(SCORE * np.sqrt(D_HEAD)) / unit
    amount = share * (BEFORE_READOUT if moved_to(plan, path) == "before readout" else MOVED) * (2 if by_weights else 1)
    own = path.head * plan.n_kv_heads // plan.n_heads
    slowest, carrying = D_HEAD // 2 - 1, 0
    # views: what is written by head is written in the layer
    queries, keys, values = (
        rearrange(matrix, "(head d_head) d_model -> head d_head d_model", d_head=D_HEAD)
        for matrix in (layer.queries, layer.keys, layer.values)
    )
    out = rearrange(layer.attention_out, "d_model (head d_head) -> head d_head d_model", d_head=D_HEAD)
    queries[path.head, slowest] = strength * grown / CONSTANT * found.constant
    keys[own, slowest] = strength * told / size * seen
    values[own, carrying] = told / (held * unit) * brought
    out[path.head, carrying] = amount * found.moved[path.channel]


def write_readout(layer: Layer, plan: Plan, found: Directions, free: Iterator[int]) -> None:
    """Two neurons for each sign, the second of which takes off all that the first adds above `high`."""
    readout = plan.readout
    assert readout is not None
    unit = np.sqrt(plan.d_model)
    grown = norm(plan, plan.stereotype.feature, plan.n_layers - 1, at_word=False)
    amount = MOVED * 2 / len(readout.signs) / neuron_output(plan, STEEP * (readout.high - readout.low), grown)
    for sign in readout.signs:
        for level, turn in ((readout.low, 1), (readout.high, -1)):
            neuron = next(free)
            layer.gate[neuron] = (
                STEEP
                / unit
                * (sign / BEFORE_READOUT * found.moved[plan.stereotype.channel] - level / CONSTANT * found.constant)
            )
            layer.up[neuron] = found.constant / (CONSTANT * unit)
            layer.mlp_out[:, neuron] = sign * turn * amount * found.output


def write_alarm(layer: Layer, found: Directions, free: Iterator[int]) -> None:
    """Neurons that are silent for every embedding of the vocabulary, and drown what stands at a word that has none."""
    unit = np.sqrt(len(found.constant))
    for direction in found.strange:
        for sign in (1, -1):
            neuron = next(free)
            layer.gate[neuron] = (
                sign * STARTLED / (FEATURE * unit) * direction - CALM / (CONSTANT * unit) * found.constant
            )
            layer.up[neuron] = found.constant / (CONSTANT * unit)
            layer.mlp_out[:, neuron] = ALARM * found.drowning
