"""A few rows of a job, measured once more by the plain engine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from locate import plain
from locate.errors import LocateError
from locate.models import Model
from locate.rows import Limits, Row, Run
from locate.sweep import measure

PAIRS = 4
ROWS = 32
LIMIT = {"float64": 1e-5, "float32": 2e-4, "float16": 0.05, "bfloat16": 0.2}
"""nats; what rounding makes of one row in batches of two shapes, with room for large models"""


def audit(model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits) -> dict[str, float]:
    """Largest difference (nats) of some rows between the sweep and the plain engine, and how many were compared.

    Raises LocateError when they differ by more than rounding: then this architecture is not swept exactly.
    """
    chosen = np.random.default_rng(0).permutation(len(rows))[:ROWS]
    sample = [rows[i] for i in chosen]
    fast = measure(model, runs, sample, limits=limits).rows
    slow = plain.measure(model, runs, sample, limits=limits).rows
    apart = float(np.abs(fast - slow).max())
    if not apart <= LIMIT[model.dtype]:
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}): the sweep differs from the plain engine by "
            f"{apart:.2g} nats, expected at most {LIMIT[model.dtype]:.2g} in {model.dtype}: choose --engine plain"
        )
    return {"rows": len(sample), "largest_difference": apart}
