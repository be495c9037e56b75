"""What a stage will cost, before it is run: counted, and timed on a few of its pairs."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from locate.model.memory import process_peak
from locate.prompts.tokens import TokenPair
from locate.tracing.audit import audit_job
from locate.tracing.cost import cost
from locate.tracing.measure import measure_chunk
from locate.tracing.stage import Job

SECONDS = 10.0  # that the calibration may take, about
LEAST, MOST = 3, 15  # repetitions of it
STEADY, UNLIKE = 0.1, 0.3  # spread of the last repetitions, of their median: to stop at, and of a machine that is busy
WAITING = 0.15  # share of the time that this thread had no core, on a machine that is busy
COUNTED_PAIRS = 64
LARGER = 8  # times the sample that is timed once, to see what larger chunks save
TABLE_BYTES = 400  # of a row of the table while it is put together


@dataclass(frozen=True)
class Forecast:
    """What a stage will cost.

    rows        of the table
    run         rows that have to be run; the sweep knows the others from their base runs, the plain engine runs all
    operations  floating-point operations of the chosen engine
    seconds     of measuring, without loading the model and drawing figures, by the median of the timings: if the
                machine stays as it is
    low, high   the same by the least and the greatest timing; on a CPU, low leaves out the time this thread had to wait
    busy        whether the machine is busy with something else, so that the time may come out far from `seconds`
    peak        bytes of this process at most while it measures, the model included
    """

    pairs: int
    rows: int
    run: int
    operations: float
    seconds: float
    low: float
    high: float
    busy: bool
    peak: int


@dataclass(frozen=True)
class Timing:
    """Seconds that a piece of work took: on the clock, and of this thread on a core."""

    wall: float
    own: float


def forecast(job: Job) -> Forecast:
    """Count the rows and operations of a stage, and time a random sample of its pairs.

    The sample is timed again and again until its time is steady. That time is scaled to all operations, with what
    larger chunks save; the checks at the start of a run are made too, and their time is added.
    """
    filled = [pair for pair in job.pairs if job.rows(pair)]
    order = np.random.default_rng(0).permutation(len(filled))
    counted = [filled[i] for i in order[:COUNTED_PAIRS]]
    costs, moving = zip(*(cost(job, pair) for pair in counted), strict=True)
    scale = job.planned / sum(job.rows(pair) for pair in counted)
    sample, timings = calibrate(job, counted)
    whole = sum(costs) * scale
    started = time.perf_counter()
    audit_job(job)
    checks = time.perf_counter() - started
    walls = [each.wall for each in timings]
    less = economy(job, counted, costs, sample, statistics.median(walls), whole)
    on_cpu = torch.device(job.model.device).type == "cpu"
    low, middle, high = (
        less * seconds * whole / sum(costs[:sample]) + checks
        for seconds in (
            min([*walls, *(each.own for each in timings if on_cpu)]), statistics.median(walls), max(walls)
        )
    )  # fmt: skip
    return Forecast(
        pairs=len(job.pairs),
        rows=job.planned,
        run=round(sum(moving) * scale) if job.settings.engine == "sweep" else job.planned,
        operations=whole,
        seconds=middle,
        low=low,
        high=high,
        busy=on_cpu and is_busy(timings),
        peak=process_peak() + job.planned * TABLE_BYTES,
    )


def calibrate(job: Job, pairs: Sequence[TokenPair]) -> tuple[int, list[Timing]]:
    """How many of the pairs were timed, at most a whole chunk, and how long they took each time."""
    time_chunk(job, pairs[:1])
    count = max(1, min(len(pairs), job.chunk, int(SECONDS / LEAST / time_chunk(job, pairs[:1]).wall)))
    return count, repeat(lambda: time_chunk(job, pairs[:count]))


def economy(
    job: Job, pairs: Sequence[TokenPair], costs: Sequence[float], sample: int, seconds: float, whole: float
) -> float:
    """What a stage takes, as a share of what its operations would take at the pace of the sample, at most 1.

    More pairs at once make larger products, which are quicker. More of them are timed once, and the time of a chunk is
    taken as a line: some seconds whatever it holds, and some for each operation.

    costs    operations of each pair
    sample   how many pairs were timed, and `seconds` how long they took
    whole    operations of the stage
    """
    more = min(LARGER * sample, len(pairs), job.chunk)
    if more < 2 * sample:
        return 1.0
    few, many, larger = sum(costs[:sample]), sum(costs[:more]), time_chunk(job, pairs[:more]).wall
    slope = max((larger - seconds) / (many - few), larger / many / 2)
    start = max(0.0, seconds - slope * few)
    line = start * math.ceil(len(job.pairs) / job.chunk) + slope * whole
    return min(1.0, line / (seconds * whole / few))


def time_chunk(job: Job, pairs: Sequence[TokenPair]) -> Timing:
    """How long some pairs take."""
    wall, own = time.perf_counter(), time.thread_time()
    measure_chunk(job, pairs, lambda _: None)
    return Timing(time.perf_counter() - wall, time.thread_time() - own)


def repeat(once: Callable[[], Timing]) -> list[Timing]:
    """Timings of the same work, until the last few are alike, or time or patience is used up."""
    found: list[Timing] = []
    while len(found) < MOST:
        found.append(once())
        last = [each.wall for each in found[-LEAST:]]
        if len(last) == LEAST and max(last) - min(last) <= STEADY * statistics.median(last):
            break
        if len(found) > 1 and sum(each.wall for each in found) > SECONDS:
            break
    return found


def is_busy(timings: Sequence[Timing]) -> bool:
    """Whether timings show that the machine is busy with something else: this thread waited, or they stayed unlike."""
    walls = [each.wall for each in timings]
    last = walls[-LEAST:]
    waited = 1 - sum(each.own for each in timings) / sum(walls)
    return waited > WAITING or max(last) - min(last) > UNLIKE * statistics.median(last)
