"""measure(): the one loop that runs rows: every chunk of every stage, kept part by part, and resumed."""

from __future__ import annotations

import gc
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import pandas as pd

from locate.engine.rows import Measurement, Row
from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.memory import working_bytes
from locate.model.products import multiplying, product_library
from locate.prompts.tokens import TokenPair
from locate.tracing.audit import audit_job
from locate.tracing.cost import stage_operations
from locate.tracing.folder import NotKept, RunFolder, StageParts, keeping
from locate.tracing.models import Models, opening_of
from locate.tracing.progress import Expected, Pace, Report
from locate.tracing.stage import ENGINES, Job, Settings, Stage
from locate.tracing.table import LABELS, LOGS, NUMBERS, tidy
from locate.work import Advance, Do, Executor, Missing, Piece, here

Found = TypeVar("Found")


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a stage.

    table    its rows
    job      the stage as it was prepared
    audit    of the model it was measured in (see `locate.tracing.audit`)
    seconds  it took now
    """

    table: pd.DataFrame
    job: Job
    audit: dict[str, dict[str, float]]
    seconds: float


Stages = Generator[Stage, Outcome, Found]
"""asks for stages one by one, is sent the outcome of each, and returns what was found; where a stage cannot be measured
its LocateError is thrown into the generator; an error of the run folder ends the run"""


@dataclass(frozen=True, eq=False)
class StageWork:
    """A stage as work for other processes; the pieces are indices of pairs."""

    stage: Stage
    settings: Settings

    @property
    def name(self) -> str:
        """That of the stage."""
        return self.stage.name

    def prepare(self, models: Models) -> Do:
        """What measures pairs in models of this process."""
        return measuring(models.job(self.stage, self.settings))


def measuring(job: Job) -> Do:
    """What measures some of a job's pairs."""
    known = {pair.index: pair for pair in job.pairs}

    def do(piece: Piece, advance: Advance) -> pd.DataFrame:
        return measure_chunk(job, [known[index] for index in piece], advance)

    return do


def measure(
    model: Model,
    stages: Stages[Found],
    settings: Settings,
    *,
    folder: RunFolder | None = None,
    executor: Executor = here,
    progress: Report | None = None,
    expected: Sequence[Expected] = (),
    prepared: Sequence[Job] = (),
) -> Found:
    """Measure every stage that is asked for, and return what the generator returns.

    stages    a generator of stages (see `Stages`)
    settings  how all of them are measured
    folder    where parts are kept as they are measured; those that are there are read instead
    executor  where chunks are run
    progress  called with a `Progress` as rows are measured
    expected  stages that are likely to come, for the time left
    prepared  stages that the caller has prepared already
    """
    loop = Loop(model, settings, folder, executor, Pace(expected, progress), prepared)
    try:
        stage = next(stages)
        while True:
            try:
                outcome = loop.measure(stage)
            except NotKept:
                raise
            except LocateError as error:
                stage = stages.throw(error)
            else:
                stage = stages.send(outcome)
    except StopIteration as stop:
        found: Found = stop.value
        return found


class Loop:
    """What lasts from stage to stage: models with random weights, audits, and the pace."""

    def __init__(
        self,
        model: Model,
        settings: Settings,
        folder: RunFolder | None,
        executor: Executor,
        pace: Pace,
        prepared: Sequence[Job],
    ) -> None:
        self.settings, self.folder, self.executor, self.pace = settings, folder, executor, pace
        self.models = Models(model, prepared)
        self.audits: dict[int | None, dict[str, dict[str, float]]] = {}

    def measure(self, stage: Stage) -> Outcome:
        """A stage's rows: those of chunks that are kept, and the rest measured."""
        started = time.monotonic()
        job = self.models.plain_job(stage, self.settings)
        with keeping():
            parts = None if self.folder is None else self.folder.parts(stage, len(job.chunks))
            tables = {} if parts is None else parts.all(len(job.chunks))
        missing = [number for number in range(len(job.chunks)) if number not in tables]
        found = sum(job.size(job.chunks[number]) for number in tables)
        self.pace.start(stage.name, job.planned, stage_operations(job), found)
        if missing:
            job = self.models.job(stage, self.settings)
            found_by = self.executor(self.missing(job, missing, parts))  # others may get ready during the check
            self.check(job)
            self.pace.begin()
            with garbage_of_old_left():
                for number, table in found_by:
                    tables[number] = table
                    with keeping():
                        if parts is not None and not parts.has(number):
                            parts.write(number, table)
        table = join([tables[number] for number in range(len(job.chunks))], job)
        return Outcome(table, job, self.known_audit(stage.untrained), time.monotonic() - started)

    def missing(self, job: Job, numbers: Sequence[int], parts: StageParts | None) -> Missing:
        """Chunks that are to be measured, as pieces for an executor."""
        model = self.models.trained
        memory = working_bytes(model.checkpoint.parameters, model.number_bytes)
        return Missing(
            work=StageWork(job.stage, replace(job.settings, memory=job.limits.memory)),
            do=measuring(job),
            opening=opening_of(model),
            identity=self.models.identity,
            pieces=[tuple(pair.index for pair in chunk) for chunk in job.chunks],
            numbers=numbers,
            size=lambda number: job.size(job.chunks[number]),
            memory=memory + job.limits.memory if model.device == "cpu" else 0,
            products=product_library(model.dtype, model.device, model.threads),
            kept=parts,
            advance=self.pace.measure,
            begin=self.pace.begin,
        )

    def known_audit(self, seed: int | None) -> dict[str, dict[str, float]]:
        """What the checks of a model have measured, now or in an earlier start; nothing where none was needed."""
        if seed is None and seed not in self.audits and self.folder is not None:
            return self.folder.audit()
        return self.audits.get(seed, {})

    def check(self, job: Job) -> None:
        """Audit a model on a few rows before its first row is measured."""
        seed = job.stage.untrained
        if job.stage.derive is None and seed not in self.audits:
            if seed is not None:  # it has no files of its own to be loaded from again in fp32
                job = replace(job, settings=replace(job.settings, compare_precision=False))
            self.audits[seed] = audit_job(job)
            if seed is None and self.folder is not None:
                with keeping():
                    self.folder.keep_audit(self.audits[seed])


@contextmanager
def garbage_of_old_left() -> Iterator[None]:
    """Inside the block Python's garbage collector does not look through objects that were there before.

    Making many small rows sets it off again and again, and each time it would go through all modules and the model: a
    tenth of the time on small models.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def measure_chunk(job: Job, pairs: Sequence[TokenPair], advance: Advance) -> pd.DataFrame:
    """The table of some of a job's pairs."""
    if job.stage.derive is not None:
        table = job.stage.derive.table(job, pairs)
        advance(len(pairs))
        return table
    layout = job.lay_out(pairs)
    if not layout.rows:
        return tidy(pd.DataFrame(columns=[*LABELS, *NUMBERS, *LOGS]))
    if job.stage.rewrite is not None:
        with multiplying(job.model.dtype, job.model.device, job.model.threads):
            layout = job.stage.rewrite.rewrite(job, layout)
    engine = ENGINES[job.settings.engine]
    measured = engine(job.model, layout.runs, layout.rows, limits=job.limits, progress=advance)
    table = pd.concat([pd.DataFrame(layout.labels), logs_of(layout.rows, measured)], axis=1)
    without = {pair.index for pair in pairs if pair.answers[2] is None}
    table.loc[table["pair"].isin(without), [name for name in LOGS if name.endswith("neutral")]] = np.nan
    return tidy(table)


def logs_of(rows: Sequence[Row], measured: Measurement) -> pd.DataFrame:
    """The columns that were measured, nats."""
    base = measured.runs[[row.base for row in rows]]
    source = measured.runs[[row.source for row in rows]]
    return pd.DataFrame(np.concatenate([base, source, measured.rows], axis=1), columns=LOGS)


def join(tables: Sequence[pd.DataFrame], job: Job) -> pd.DataFrame:
    """The tables of a stage's chunks as one: sorted by pair, or as they are where they were derived or rewritten."""
    if job.stage.derive is not None:
        return pd.concat(tables, ignore_index=True)
    whole = pd.concat([table.astype(dict.fromkeys(LABELS, "object")) for table in tables], ignore_index=True)
    if job.stage.rewrite is None:
        whole = whole.sort_values("pair", kind="stable", ignore_index=True)
    return tidy(whole)
