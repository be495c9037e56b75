"""A few rows of a job, measured once more: by the plain engine, and for half precision by the model in fp32."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locate import plain
from locate.errors import LocateError
from locate.models import Model, twin
from locate.rows import Limits, Row, Run
from locate.sweep import measure

PAIRS = 4
ROWS = 32
HALF = ("bfloat16", "float16")
LIMIT = {"float64": 1e-5, "float32": 2e-4, "float16": 0.05, "bfloat16": 0.2}
"""nats; what rounding makes of one row in batches of two shapes, with room for large models"""


def audit(model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits) -> dict[str, float]:
    """Largest difference (nats) of some rows between the sweep and the plain engine, and how many were compared.

    Raises LocateError when they differ by more than rounding: then this architecture is not swept exactly.
    """
    sample = sampled(rows)
    fast = measure(model, runs, sample, limits=limits).rows
    slow = plain.measure(model, runs, sample, limits=limits).rows
    apart = float(np.abs(fast - slow).max())
    if not apart <= LIMIT[model.dtype]:
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}): the sweep differs from the plain engine by "
            f"{apart:.2g} nats, expected at most {LIMIT[model.dtype]:.2g} in {model.dtype}: choose --engine plain"
        )
    return {"rows": len(sample), "largest_difference": apart}


def precision_audit(model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits) -> dict[str, float]:
    """How far some rows' log-probabilities (nats) lie from those of the same model in fp32, loaded for the purpose."""
    sample = sampled(rows)
    low = measure(model, runs, sample, limits=limits).rows
    high = measure(twin(model, "float32"), runs, sample, limits=limits).rows
    apart = np.abs(low - high)
    return {"rows": len(sample), "largest_difference": float(apart.max()), "rms": float(np.sqrt((apart**2).mean()))}


def sampled(rows: Sequence[Row]) -> list[Row]:
    """At most ROWS rows, drawn at random."""
    return [rows[i] for i in np.random.default_rng(0).permutation(len(rows))[:ROWS]]
