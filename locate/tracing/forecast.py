"""What a trace will cost, before it is run: counted, and timed on a few of its pairs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locate.memory import process_peak
from locate.models import Model
from locate.prompts.pair import Prompts
from locate.prompts.tokens import TokenPair
from locate.sweep.climbers import climbers, token_layers
from locate.tracing.job import Job, audited, layout, measure_chunk, prepare
from locate.tracing.plan import Map

SECONDS = 20.0  # that the calibration may take
COUNTED_PAIRS = 64
TABLE_BYTES = 400  # of a row of the table while it is put together


@dataclass(frozen=True)
class Forecast:
    """What a trace will cost.

    rows        of the table
    run         rows that have to be run; the sweep knows the others from their base runs, the plain engine runs all
    operations  floating-point operations of the chosen engine
    seconds     of measuring, without loading the model and drawing figures
    peak        bytes of this process at most while it measures, the model included
    """

    pairs: int
    rows: int
    run: int
    operations: float
    seconds: float
    peak: int


def forecast(model: Model, prompts: Prompts | None = None, map: Map | None = None, **options: Any) -> Forecast:
    """Count the rows and operations of a trace, and time a random sample of its pairs; takes the arguments of `trace`.

    The time of the sample is scaled with the operations that it leaves to do; the checks at the start of a trace are
    run, and their time added.
    """
    job = prepare(model, prompts, map, **options)
    filled = [pair for pair in job.pairs if job.rows(pair)]
    order = np.random.default_rng(0).permutation(len(filled))
    counted = [filled[i] for i in order[:COUNTED_PAIRS]]
    costs, moving = zip(*(cost(job, pair) for pair in counted), strict=True)
    scale = sum(job.rows(pair) for pair in job.pairs) / sum(job.rows(pair) for pair in counted)
    rows = sum(job.rows(pair) for pair in job.pairs)
    sample, seconds = calibration(job, counted)
    whole = sum(costs) * scale
    started = time.perf_counter()
    audited(job)
    checks = time.perf_counter() - started
    return Forecast(
        pairs=len(job.pairs),
        rows=rows,
        run=round(sum(moving) * scale) if job.engine == "sweep" else rows,
        operations=whole,
        seconds=seconds * whole / sum(costs[:sample]) + checks,
        peak=process_peak() + rows * TABLE_BYTES,
    )


def cost(job: Job, pair: TokenPair) -> tuple[float, int]:
    """Floating-point operations of a pair's rows, and how many of them have to be run."""
    runs, rows, _ = layout([pair], job)
    block, out = operations(job.model)
    out *= job.probabilities
    whole = len(runs[0].ids) * job.model.n_layers * block + out
    if job.engine == "plain":
        return (len(rows) + len(runs)) * whole, len(rows)
    moving = climbers(job.model.n_layers, runs, rows, lambda *_: True)
    run = sum(token_layers(each, job.model.n_layers) for each in moving)
    return len(runs) * whole + run * block + len(moving) * out, len(moving)


def operations(model: Model) -> tuple[float, float]:
    """Floating-point operations of one position in one block, and of reading one position's probabilities out."""
    out = model.d_vocab * model.d_model
    return 2.0 * max(1, model.checkpoint.parameters - out) / model.n_layers, 2.0 * out


def calibration(job: Job, pairs: Sequence[TokenPair]) -> tuple[int, float]:
    """How many of the pairs were timed, and the seconds they took: a whole chunk, or as many as the time allows."""
    measure_chunk(job, pairs[:1], lambda _: None)
    started = time.perf_counter()
    measure_chunk(job, pairs[:1], lambda _: None)
    one = time.perf_counter() - started
    count = max(1, min(len(pairs), job.chunk, int(SECONDS / one)))
    started = time.perf_counter()
    measure_chunk(job, pairs[:count], lambda _: None)
    return count, time.perf_counter() - started
