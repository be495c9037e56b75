"""Pools: workers that each open what pieces are done with, and take a piece whenever they are free; any may die."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, ClassVar, Generic, TypeVar

from locate.errors import LocateError
from locate.work import Missing, Opening
from locate.workers.messages import Count, Done, Failed, Identity, Ready, Task, pickled

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TRIES = 3  # times that a piece, or a start, may end with its process


@dataclass(eq=False)
class Worker(ABC):
    """A process that does pieces, seen from outside.

    ready  whether it has opened its model
    task   that it does; None while it waits, or opens its model
    count  of what it has done of the task, as `Advance` counts
    """

    ready: bool = field(default=False, init=False)
    task: Task | None = field(default=None, init=False)
    count: int = field(default=0, init=False)

    @abstractmethod
    def send(self, message: object) -> None:
        """Send an opening, an identity or a task; one that has ended is noticed where its answers end."""

    @abstractmethod
    def end(self) -> None:
        """End it now."""

    @abstractmethod
    def how(self) -> str:
        """How it ended, in words that follow "at last"."""


Each = TypeVar("Each", bound=Worker)


@dataclass(eq=False)
class Pool(ABC, Generic[Each]):
    """An executor that does pieces in workers, which it ends when it is left as a context.

    workers   those that there are
    opening   of what they have opened
    identity  of what this process has opened, once it is known
    keeps     whether workers keep what pieces give in the folder where that is kept, if they see it
    """

    workers: list[Each] = field(default_factory=list, init=False)
    opening: Opening | None = field(default=None, init=False)
    identity: Identity | None = field(default=None, init=False)
    keeps: ClassVar[bool] = False

    @abstractmethod
    def most(self, missing: Missing) -> int:
        """How many workers there may be."""

    @abstractmethod
    def check_room(self, missing: Missing, new: int) -> None:
        """Raise LocateError where so many more workers do not fit."""

    @abstractmethod
    def start_worker(self) -> Each:
        """A new process, that has been told nothing."""

    @abstractmethod
    def opening_for(self, opening: Opening, worker: Each) -> Opening:
        """The same for a worker, which may have a GPU of its own."""

    @abstractmethod
    def answer(self, missing: Missing) -> tuple[Each, object]:
        """The next that one of the workers answers, or that it has ended."""

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all workers."""
        for worker in self.workers:
            worker.end()
        self.workers.clear()
        self.opening = self.identity = None

    def __call__(self, missing: Missing) -> Iterator[tuple[int, Any]]:
        """Do the pieces, in as many workers as there are pieces, at most; they get ready at once."""
        work = pickled(missing.work)
        kept = missing.kept if self.keeps else None
        waiting = deque(Task(work, number, missing.pieces[number], kept) for number in missing.longest_first())
        self.begin(missing, len(waiting))
        return self.each(missing, waiting)

    def each(self, missing: Missing, waiting: deque[Task]) -> Iterator[tuple[int, Any]]:
        """Every piece as it is done."""
        lost: Counter[int] = Counter()
        left = len(waiting)
        try:
            while left:
                self.hand_out(waiting)
                worker, message = self.answer(missing)
                if isinstance(message, Ready):
                    if not any(each.ready for each in self.workers):
                        missing.begin()
                    worker.ready = True
                elif isinstance(message, Count):
                    assert worker.task is not None
                    worker.count += message.count
                    missing.count(worker.task.number, message.count)
                elif isinstance(message, Done):
                    worker.task, worker.count, left = None, 0, left - 1
                    yield message.number, message.found
                elif isinstance(message, Failed):
                    self.drop(worker)
                    raise message.error()
                else:
                    self.replace(worker, waiting, lost, missing)
        finally:
            for worker in [each for each in self.workers if each.task is not None]:
                self.drop(worker)  # nobody waits for what it does

    def begin(self, missing: Missing, pieces: int) -> None:
        """Start workers, up to one a piece, and tell all of them what they must have.

        Raises LocateError for a model that is spread over GPUs, of which each worker would have one.
        """
        if missing.opening.arguments.get("device_map") is not None:
            raise LocateError("a model that is spread over GPUs has all of them: trace it in this process alone")
        if self.opening != missing.opening:
            self.close()
            self.opening = missing.opening
        if self.identity is None or self.identity.products != missing.products:
            identity = Identity(missing.identity(), missing.products)
            if self.identity is not None:  # those that are ready compute with another library
                self.close()
                self.opening = missing.opening
            self.identity = identity
            for worker in self.workers:
                worker.send(identity)
        new = min(self.most(missing), pieces) - len(self.workers)
        if new > 0:
            self.check_room(missing, new)
        for _ in range(new):
            self.start()

    def start(self) -> None:
        """Start a worker, and tell it what it must open and have."""
        assert self.opening is not None
        worker = self.start_worker()
        self.workers.append(worker)
        worker.send(self.opening_for(self.opening, worker))
        if self.identity is not None:
            worker.send(self.identity)

    def drop(self, worker: Each) -> None:
        """End a worker."""
        self.workers.remove(worker)
        worker.end()

    def hand_out(self, waiting: deque[Task]) -> None:
        """Give every worker that waits a piece."""
        for worker in self.workers:
            if waiting and worker.ready and worker.task is None:
                worker.task = waiting.popleft()
                worker.send(worker.task)

    def replace(self, worker: Each, waiting: deque[Task], lost: Counter[int], missing: Missing) -> None:
        """Put another worker in the place of one that has ended, and its piece back.

        Raises LocateError where a piece, or the start of a worker, ends so again and again.
        """
        self.drop(worker)
        number = -1 if worker.task is None else worker.task.number
        lost[number] += 1
        if lost[number] >= TRIES:
            raise LocateError(
                f"{what_ended(number, missing)} ended its process {TRIES} times, at last {worker.how()}: the machine "
                "may lack memory: choose fewer --jobs, or less --memory"
            )
        if worker.task is not None:
            waiting.appendleft(worker.task)
            missing.count(worker.task.number, -worker.count)
        self.start()


def what_ended(number: int, missing: Missing) -> str:
    """A piece in words, or the start of a worker for -1."""
    return "loading the model" if number < 0 else f"chunk {number + 1} of {missing.work.name!r}"
