"""Progress of a run: what is done, and one estimate of the time left for all that is still to be measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

FIRST = 1.0  # seconds of measuring before its speed says anything
SLOWER = 2.0  # how much slower later stages were in runs of small models, until this one has measured some


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    stage    what is measured now
    done     rows of it (for estimates, pairs; for tests, items and parts of items) that are measured, including those
             of an earlier start
    planned  rows or pairs of it in all
    rate     rows a second, of those measured now; None before it is known
    left     seconds for this stage and all that are expected after it, at the speed so far; None before it is known
    part     what the time left is of, in words, where `left` is not known
    whole    the same where it is known
    """

    stage: str
    done: float
    planned: int
    rate: float | None = None
    left: float | None = None
    part: str = "this part"
    whole: str = "in all"


Report = Callable[[Progress], None]


@dataclass(frozen=True)
class Expected:
    """A stage that is still to come.

    operations  that it will take, about
    within      seconds from the start of the run that it is given together with all stages before it, where a budget
                says so; None elsewhere
    """

    stage: str
    operations: float
    within: float | None = None


class Pace:
    """Keeps count of what is measured, and reports it.

    The first stage has a speed of its own: those after it are smaller, and what is chosen between them takes time too.

    expected  stages that will be measured, in their order; one that never comes is dropped when a later one starts
    """

    def __init__(self, expected: Sequence[Expected] = (), report: Report | None = None) -> None:
        self.waiting = {each.stage: each for each in expected}
        self.report = report or (lambda _: None)
        self.stage, self.done, self.planned, self.measured = "", 0, 0, 0
        self.operations = 0.0  # of the stage
        self.spent, self.seconds = (
            [0.0, 0.0],
            [0.0, 0.0],
        )  # operations and time of the first stage, and of all later ones
        self.later = -1
        self.opened = self.started = self.since = time.monotonic()

    def start(self, stage: str, planned: int, operations: float, found: int = 0) -> None:
        """Begin a stage of `planned` rows, of which an earlier start has measured `found`."""
        if stage in self.waiting:
            names = list(self.waiting)
            for name in names[: names.index(stage) + 1]:
                del self.waiting[name]
        self.stage, self.planned, self.operations = stage, planned, operations
        self.done, self.measured = found, 0
        self.later = min(1, self.later + 1)
        self.begin()
        self.report(self.progress())

    def begin(self) -> None:
        """Start the clock: checks of the model before the first stage's first row are not part of its time."""
        self.started = time.monotonic()
        if not self.later:
            self.since = self.started

    def measure(self, rows: int) -> None:
        """Count rows that were measured now."""
        now = time.monotonic()
        self.done += rows
        self.measured += rows
        self.spent[self.later] += self.operations * rows / self.planned
        self.seconds[self.later] += now - self.since
        self.since = now
        self.report(self.progress())

    def progress(self) -> Progress:
        """How far the run is."""
        taken = self.since - self.started
        rate = self.measured / taken if taken > FIRST else None
        return Progress(self.stage, self.done, self.planned, rate or None, self.left())

    def left(self) -> float | None:
        """Seconds for all that is still to be measured; None before the first stage's speed is known."""
        speeds = [
            spent / seconds if seconds > FIRST else 0.0 for spent, seconds in zip(self.spent, self.seconds, strict=True)
        ]
        later = speeds[1] or speeds[0] / SLOWER
        if not later:
            return None
        rest = self.operations * (1 - self.done / self.planned) / (later if self.later else speeds[0] or later)
        for each in self.waiting.values():
            if each.within is not None:
                rest = max(rest, each.within - (self.since - self.opened))
            rest += each.operations / later
        return rest
