"""A few rows of a job, measured once more: by the plain engine, and for reduced precision by the model in fp32."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from locate import plain
from locate.errors import LocateError
from locate.models import Model, twin
from locate.rows import Limits, Measured, Row, Run
from locate.sweep import measure
from locate.sweep.climbers import climbers

PAIRS = 4
ROWS = 32
REDUCED = ("bfloat16", "float16", "tf32")
LIMIT = {"float64": 1e-5, "float32": 2e-4, "float16": 0.05, "bfloat16": 0.2, "tf32": 0.05}
"""nats; what rounding makes of one row in batches of two shapes, with room for large models"""
FLOOR = {"float64": 1e-7, "float32": 1e-5, "float16": 0.003, "bfloat16": 0.03, "tf32": 0.003}
"""nats; on average, where patches do next to nothing"""

Engine = Callable[..., Measured]


def audit(model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits) -> dict[str, float]:
    """Largest difference (nats) of some rows between the sweep and the plain engine, and how many were compared.

    Raises LocateError when they differ by more than rounding, or by half of what the patches do: then this
    architecture is not swept exactly.
    """
    sample = sampled(runs, rows, model.n_layers)
    try:
        fast = measure(model, runs, sample, limits=limits).rows
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        if isinstance(error, LocateError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}) cannot be swept ({reason}): choose --engine plain"
        ) from error
    slow = plain.measure(model, runs, sample, limits=limits)
    apart = np.abs(fast - slow.rows)
    effect = rms(slow.rows - slow.runs[[row.base for row in sample]])
    if not (apart.max() <= LIMIT[model.dtype] and rms(apart) <= max(effect / 2, FLOOR[model.dtype])):
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}): the sweep differs from the plain engine by "
            f"{apart.max():.2g} nats, expected at most {LIMIT[model.dtype]:.2g} in {model.dtype}, and by "
            f"{rms(apart):.2g} on average where patches do {effect:.2g}: choose --engine plain"
        )
    return {"rows": len(sample), "largest_difference": float(apart.max()), "rms": rms(apart), "rms_effect": effect}


def precision_audit(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, engine: Engine
) -> dict[str, float]:
    """How far some rows' log-probabilities (nats) lie from those of the same model in fp32, loaded for the purpose."""
    sample = sampled(runs, rows, model.n_layers)
    try:
        single = twin(model, "float32")
    except LocateError as error:
        raise LocateError(
            f"{model.dtype} cannot be compared with fp32 ({error}): --no-compare-precision leaves that out"
        ) from error
    apart = np.abs(engine(model, runs, sample, limits=limits).rows - engine(single, runs, sample, limits=limits).rows)
    return {"rows": len(sample), "largest_difference": float(apart.max()), "rms": rms(apart)}


def sampled(runs: Sequence[Run], rows: Sequence[Row], n_layers: int) -> list[Row]:
    """At most ROWS rows, drawn at random among those that the sweep runs; among all where it runs none."""
    moving = [rows[each.row] for each in climbers(n_layers, runs, rows, lambda *_: True)] or list(rows)
    return [moving[i] for i in np.random.default_rng(0).permutation(len(moving))[:ROWS]]


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
