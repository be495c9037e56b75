"""What a whole run will cost: its map by a calibration, and the stages after it by trying a few pairs of each."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.untrained import make_untrained
from locate.prompts.build import occupation_pairs
from locate.prompts.pair import Prompts
from locate.sites import DIRECTIONS
from locate.study.expected import likely_stages
from locate.study.plan import Plan
from locate.tracing.audit import audit_job
from locate.tracing.forecast import Forecast, forecast
from locate.tracing.measure import measure_chunk
from locate.tracing.plan import Map
from locate.tracing.stage import Job, Settings, Stage, prepare

TRIED = (4, 16)  # pairs of each stage after the map
LONG = 3.0  # seconds of a try after which no more are tried: its rows take all of it
GREEDY = "sets: greedy search"


@dataclass(frozen=True)
class StageForecast:
    """About what a stage after the map will cost.

    rows     of its table
    seconds  including making and checking the model of random weights, where the stage is measured in one
    chunks   that several processes may share
    """

    stage: str
    rows: int
    seconds: float
    chunks: int


@dataclass(frozen=True)
class RunForecast:
    """What a run will cost: its map and, roughly, every stage after it.

    chunks  of the map, which several processes may share
    """

    map: Forecast
    stages: tuple[StageForecast, ...]
    chunks: int

    @property
    def seconds(self) -> float:
        """Seconds of measuring everything."""
        return self.map.seconds + sum(each.seconds for each in self.stages)

    def shared(self, workers: int) -> float:
        """Seconds where so many processes share the chunks, each as fast as this one alone: the least it can take."""
        parts = [(self.map.seconds, self.chunks), *((each.seconds, each.chunks) for each in self.stages)]
        return sum(seconds * math.ceil(chunks / workers) / chunks for seconds, chunks in parts)

    def as_json(self) -> dict[str, Any]:
        """The forecast of the map, and of the rest by stage and in total."""
        sums = {
            f"{name}_{what}": sum(getattr(each, what) for each in self.stages if each.stage.startswith(start))
            for name, start in (("control", "control:"), ("set", "sets:"))
            for what in ("rows", "seconds")
        }
        return asdict(self.map) | sums | {"stages": [asdict(each) for each in self.stages]}


def foretell(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    directions: Sequence[str] = DIRECTIONS,
    plan: Plan | None = None,
    settings: Settings | None = None,
) -> RunForecast:
    """What a run will cost; nothing is written.

    plan      controls and sets that are measured too; None for the usual controls
    settings  how rows are measured

    The sites of the later stages are known only once the map is measured: usually strong sites stand in for them.

    Raises LocateError for unusable prompts or patches.
    """
    prompts = occupation_pairs() if prompts is None else prompts
    stage = Stage("map", prompts, map or Map(), tuple(directions))
    job = prepare(model, stage, settings or Settings())
    found = forecast(job)
    stages: list[StageForecast] = []
    for later in likely_stages(job, plan or Plan()):
        alike = [each for each in stages if later.name.startswith(GREEDY) and each.stage.startswith(GREEDY)]
        try:
            stages.append(scale_forecast(job, later, alike[0]) if alike else try_stage(job, later))
        except LocateError:  # what cannot be measured costs nothing
            continue
    return RunForecast(found, tuple(stages), len(job.chunks))


def scale_forecast(main: Job, stage: Stage, tried: StageForecast) -> StageForecast:
    """The forecast of a stage that is like one that was tried, except for its number of rows."""
    job = prepare(main.model, stage, main.settings)
    return StageForecast(stage.name, job.planned, tried.seconds * job.planned / tried.rows, len(job.chunks))


def try_stage(main: Job, stage: Stage) -> StageForecast:
    """Measure some pairs of a stage, then more, and draw the line through both times to all of them."""
    started, made = time.perf_counter(), 0.0
    job = prepare(main.model, stage, main.settings)
    if stage.untrained is not None:
        alone = replace(main.settings, compare_precision=False)  # as when it is measured: it has no files of its own
        job = prepare(make_untrained(main.model, stage.untrained), stage, alone)
        audit_job(job)
        made = time.perf_counter() - started
    points = []
    for pairs in TRIED:
        sample = job.pairs[:: max(1, len(job.pairs) // pairs)]
        before = time.perf_counter()
        measure_chunk(job, sample, lambda _: None)
        points.append((job.size(sample), time.perf_counter() - before))
        if points[-1][1] > LONG:
            break
    return StageForecast(stage.name, job.planned, made + extrapolate(points, job.planned), len(job.chunks))


def extrapolate(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Seconds that `rows` rows take, from the times of fewer: a fixed part, and a part for each row."""
    (first, short), (last, long) = points[0], points[-1]
    if last <= first or long <= short:
        return long * rows / last
    return long + (rows - last) * (long - short) / (last - first)
