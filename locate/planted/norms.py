"""How much each part writes, as shares of the residual stream, and the stream's norm when it is read."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
from scipy.special import expit, ndtr

from locate.planted.plan import DEFINITION, STEREOTYPE, Path, Plan

CONSTANT, SUBJECT, FEATURE = 0.5, 0.35, 0.35  # shares of the embedding
WRITTEN, MOVED = 0.8, 1.0  # shares that an MLP and a head add
BEFORE_READOUT = 0.12  # share that a head adds where an MLP reads it: so little that the norm hardly tells
ALARM = 1.0  # share that each unit of an alarm's neuron adds
ON, OFF = 8.0, 4.0  # what a neuron reads of its feature, and what is taken off: it fires at their difference


def moved_to(plan: Plan, path: Path) -> str:
    """Name of the direction that a path's head writes: "output", "before readout", or its own channel's."""
    if not path.read:
        return path.channel
    return "before readout" if plan.readout is not None and path.feature == STEREOTYPE else "output"


def norm(plan: Plan, feature: str, layer: int, *, at_word: bool) -> float:
    """Norm of the residual stream before a layer, in a prompt whose subject has a feature.

    at_word  at the subject's last token, where MLPs have written; else at the prompt's last token, where only heads
             have written. Random weights, the layer's own heads, and heads that carry by their
             weights are left out
    """
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for path in plan.paths:
        if (path.feature == DEFINITION) != (feature == DEFINITION):
            continue
        if at_word and path.mlp_layer < layer:
            sums["written", path.channel] += WRITTEN * path.share
        if path.head_layer < layer and path.carried == "values":
            end = moved_to(plan, path)
            sums["moved", end] += path.share * (BEFORE_READOUT if end == "before readout" else MOVED)
    return float(np.sqrt(1 + sum(share**2 for share in sums.values())))


def neuron_output(plan: Plan, read: float, norm: float) -> float:
    """Output at some norm of a neuron that reads `read` at norm 1: gelu, or silu times the gated half."""
    value = read / norm
    return float(value * ndtr(value)) if plan.layout == "gpt2" else float(value * expit(value) / norm)
