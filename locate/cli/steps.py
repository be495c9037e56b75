"""Progress on stderr: what is done, how far, and the time left for all that follows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.text import Text

if TYPE_CHECKING:
    from locate.tracing.progress import Progress

PLAIN_EVERY = 15.0  # seconds between lines where stderr is not a terminal
TERMINAL_EVERY = 0.2
TRUSTED = 10.0  # seconds that a guess counts for beside the time that finished work took
OVERTIME = 0.1  # share of its time so far that work which takes longer than was guessed is taken to need still


@dataclass(frozen=True)
class Work:
    """Work that reports nothing while it goes on, and the seconds that it is guessed to take."""

    name: str
    seconds: float


class Rest:
    """The time left for works that follow one another.

    What the finished ones took corrects the guesses of those still to come.
    """

    def __init__(self, works: Sequence[Work]) -> None:
        self.works = tuple(works)
        self.at = -1
        self.began = 0.0
        self.guessed = self.taken = 0.0

    def begin(self, name: str) -> None:
        """Begin a work; those before it are over. One that nobody declared is part of the work that goes on."""
        names = [each.name for each in self.works]
        if name not in names[self.at + 1 :]:
            return
        now = time.monotonic()
        if self.at >= 0:
            self.guessed += self.works[self.at].seconds
            self.taken += now - self.began
        self.at, self.began = names.index(name, self.at + 1), now

    def place(self) -> str:
        """Which of the works goes on: "step 2 of 4"."""
        return f"step {self.at + 1} of {len(self.works)}"

    def left(self) -> float:
        """Seconds for the rest of the work that goes on, and for all that follow."""
        slower = (TRUSTED + self.taken) / (TRUSTED + self.guessed)
        gone = time.monotonic() - self.began
        here = max(self.works[self.at].seconds * slower - gone, OVERTIME * gone)
        return here + slower * sum(each.seconds for each in self.works[self.at + 1 :])


class Steps:
    """Progress on stderr: a line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.shown = 0.0
        self.step, self.stage = "", ""
        self.timed = False
        self.rest: Rest | None = None
        self.whole = "in all"
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, transient=True, refresh_per_second=5, get_renderable=self.shown_line)

    def __enter__(self) -> Steps:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, step: str) -> None:
        """Name what is being done; the time left follows where it is known."""
        if self.rest is not None:
            self.rest.begin(step)
        self.step = step
        if not self.console.is_terminal:
            self.console.print(self.line(), markup=False, soft_wrap=True)

    def expect(self, works: Sequence[Work]) -> None:
        """Say what is still to be done, for the time left."""
        self.rest = Rest(works)

    def begin_one(self, whole: str) -> None:
        """Begin one of several runs: those before it are over, and the time left is that of this one, in words."""
        self.rest, self.whole = None, whole

    def line(self) -> str:
        """The line that stands on the screen now."""
        if self.rest is None or self.rest.at < 0:
            return f"{self.step} ..."
        return f"{self.step}, {self.rest.place()}; about {duration(self.rest.left())} left {self.whole} ..."

    def shown_line(self) -> Text:
        """The same for a terminal, where the time left goes on counting."""
        return Text(self.line() if self.step else "")

    def notes(self, sentences: Sequence[str]) -> None:
        """Sentences that stay on the screen: what a reader of the numbers has to know."""
        for each in sentences:
            self.console.print(f"note: {each}", markup=False, soft_wrap=True)

    def progress(self, found: Progress) -> None:
        """How far a run is; a line for each stage at the least, and one as soon as the time left is known."""
        now, timed = time.monotonic(), found.left is not None
        every = TERMINAL_EVERY if self.console.is_terminal else PLAIN_EVERY
        if found.stage == self.stage and timed <= self.timed and now - self.shown < every:
            return
        self.stage, self.timed, self.shown = found.stage, timed, now
        self.say(progress_line(found))

    def counted(self, what: str, part: str = "this part") -> Callable[[float, int], None]:
        """Progress of one part of the work, of which nothing is known but how much is done of how much."""
        from locate.tracing.progress import FIRST, Progress

        start: list[tuple[float, float]] = []

        def step(done: float, of: int) -> None:
            now = time.monotonic()
            start[:] = start or [(now, done)]
            spent, new = now - start[0][0], done - start[0][1]
            self.progress(Progress(what, done, of, new / spent if new and spent > FIRST else None, part=part))

        return step


def progress_line(found: Progress) -> str:
    """One line on the stage that is measured, its rate, and the time left for it and all that follows.

    Where nothing is known of what follows, the time left is that of the part.
    """
    line = f"{found.stage}: {int(found.done):,} of {found.planned:,}"
    if found.rate is not None:
        line += f", {pace(found.rate)} a second"
    if found.left is not None:
        return f"{line}; about {duration(found.left)} left {found.whole}"
    if found.rate is None:
        return line
    return f"{line}; about {duration((found.planned - found.done) / found.rate)} left of {found.part}"


def pace(rate: float) -> str:
    """Things a second."""
    return f"{rate:,.{0 if rate >= 3 else 1}f}"


def duration(seconds: float) -> str:
    """A time in seconds or minutes, 1 s at the least."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{max(1, math.ceil(seconds - 0.5))} s"
