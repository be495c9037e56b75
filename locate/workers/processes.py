"""Processes: chunks run in several processes of this machine, each with a model of its own; any of them may die."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import psutil

from locate.errors import LocateError
from locate.work import Missing, Opening
from locate.workers.jobs import check_jobs
from locate.workers.messages import Count, Done, Ended, Failed, Identity, Ready, Task, pickled

ALONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
TRIES = 3  # times that a piece, or a start, may end with its process


@dataclass(eq=False)
class Process:
    """A worker seen from outside.

    task   that it does; None while it waits, or opens its model
    count  of what it has done of the task, as `Advance` counts
    """

    child: subprocess.Popen[bytes]
    device: str
    ready: bool = False
    task: Task | None = None
    count: int = 0

    def send(self, message: object) -> None:
        """Write a message; one that has ended is noticed where its answers end."""
        assert self.child.stdin is not None
        try:
            pickle.dump(pickle.dumps(message), self.child.stdin)
            self.child.stdin.flush()
        except OSError:
            return

    def end(self) -> None:
        """End it now."""
        self.child.kill()
        self.child.wait()
        assert self.child.stdin is not None
        with suppress(OSError):
            self.child.stdin.close()


@dataclass(eq=False)
class Processes:
    """Does pieces of work in processes of this machine; an executor, and a context that ends them.

    jobs  how many: each has its own model, computes with one thread, and on a machine with several GPUs has one of them

    A piece whose process ends is done again in another one. What is measured is what one process with one thread
    measures.
    """

    jobs: int
    workers: list[Process] = field(default_factory=list)
    answers: queue.SimpleQueue[tuple[Process, Any]] = field(default_factory=queue.SimpleQueue)
    opening: Opening | None = None
    identity: Identity | None = None

    def __post_init__(self) -> None:
        check_jobs(self.jobs)

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers:
            worker.end()
        self.workers.clear()
        self.opening = self.identity = None

    def expect(self, opening: Opening, memory: int) -> None:
        """Start the processes before there is work, so that they open their models while this one does.

        memory  that each of them needs, about; where so much is not free they are started later, and counted exactly
        """
        self.close()
        if self.jobs * memory < psutil.virtual_memory().available:
            self.opening = opening
            for _ in range(self.jobs):
                self.start()

    def __call__(self, missing: Missing) -> Iterator[tuple[int, Any]]:
        """Do the pieces, in as many processes as there are pieces, at most; they get ready at once."""
        work = pickled(missing.work)
        waiting = deque(Task(work, number, missing.pieces[number]) for number in missing.numbers)
        self.begin(missing, len(waiting))
        return self.each(missing, waiting)

    def each(self, missing: Missing, waiting: deque[Task]) -> Iterator[tuple[int, Any]]:
        """Every piece as it is done."""
        lost: Counter[int] = Counter()
        left = len(waiting)
        try:
            while left:
                self.hand_out(waiting)
                worker, message = self.answers.get()
                if worker not in self.workers:
                    continue  # it was ended with a piece that nobody waited for
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
        """Start processes, up to one a piece, and tell all of them what they must have.

        Raises LocateError for a model that is spread over GPUs, of which each process would have one.
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
        new = min(self.jobs, pieces) - len(self.workers)
        if new > 0:
            check_memory(missing.memory, new)
        for _ in range(new):
            self.start()

    def start(self) -> None:
        """Start a process; what it answers is read in a thread of its own."""
        assert self.opening is not None
        arguments = dict(self.opening.arguments)
        device = str(arguments.get("device", ""))
        if device.startswith("cuda"):
            device = arguments["device"] = self.free_gpu()
        child = subprocess.Popen(
            [sys.executable, "-m", "locate.workers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ALONE | {"PYTHONPATH": python_path()},
            process_group=0,  # Ctrl-C is for this process, which ends the others
        )
        worker = Process(child, device)
        self.workers.append(worker)
        threading.Thread(target=listen, args=(worker, self.answers), daemon=True).start()
        worker.send(Opening(self.opening.open, arguments))
        if self.identity is not None:
            worker.send(self.identity)

    def free_gpu(self) -> str:
        """The GPU that the fewest processes have."""
        import torch

        used = Counter(worker.device for worker in self.workers)
        return min((f"cuda:{number}" for number in range(torch.cuda.device_count())), key=used.__getitem__)

    def drop(self, worker: Process) -> None:
        """End a process."""
        self.workers.remove(worker)
        worker.end()

    def hand_out(self, waiting: deque[Task]) -> None:
        """Give every process that waits a piece."""
        for worker in self.workers:
            if waiting and worker.ready and worker.task is None:
                worker.task = waiting.popleft()
                worker.send(worker.task)

    def replace(self, worker: Process, waiting: deque[Task], lost: Counter[int], missing: Missing) -> None:
        """Put another process in the place of one that has ended, and its piece back.

        Raises LocateError where a piece, or the start of a process, ends so again and again.
        """
        self.drop(worker)
        number = -1 if worker.task is None else worker.task.number
        lost[number] += 1
        if lost[number] >= TRIES:
            raise LocateError(
                f"{what_ended(number, missing)} ended its process {TRIES} times, at last by "
                f"{how(worker.child.returncode)}: the machine may lack memory: choose fewer --jobs, or less --memory"
            )
        if worker.task is not None:
            waiting.appendleft(worker.task)
            missing.count(worker.task.number, -worker.count)
        self.start()


def python_path() -> str:
    """Where this process finds modules, for others to find the same."""
    return os.pathsep.join(each for each in sys.path if each)


def what_ended(number: int, missing: Missing) -> str:
    """A piece in words, or the start of a process for -1."""
    return "loading the model" if number < 0 else f"chunk {number + 1} of {missing.work.name!r}"


def listen(worker: Process, answers: queue.SimpleQueue[tuple[Process, Any]]) -> None:
    """Read what a process answers until it ends."""
    assert worker.child.stdout is not None
    with worker.child.stdout as stream:
        while True:
            try:
                message = pickle.load(stream)
            except Exception:  # whatever a process that ends in the middle of a message leaves
                answers.put((worker, Ended()))
                return
            answers.put((worker, message))


def how(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None or status >= 0:
        return f"exit code {status}"
    return f"signal {-status} ({signal.Signals(-status).name})"


def check_memory(each: int, new: int) -> None:
    """Raise LocateError where so many more processes, of so many bytes each, exceed the free memory."""
    free = psutil.virtual_memory().available
    if new * each > free:
        raise LocateError(
            f"{new} processes need about {each / 2**30:.1f} GiB each, where {free / 2**30:.1f} GiB are free: choose "
            "fewer --jobs, or less --memory"
        )
