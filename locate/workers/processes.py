"""Processes: chunks run in several processes of this machine, each with a model of its own; any of them may die."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import psutil

from locate.errors import LocateError
from locate.work import Missing, Opening
from locate.workers.jobs import check_jobs
from locate.workers.messages import Ended
from locate.workers.pool import ALONE, Pool, Worker


@dataclass(eq=False)
class Process(Worker):
    """A worker that is a process of this machine."""

    child: subprocess.Popen[bytes]
    device: str = ""

    def send(self, message: object) -> None:
        """Write a message."""
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

    def how(self) -> str:
        """How it ended."""
        return f"by {status_words(self.child.returncode)}"


@dataclass(eq=False)
class Processes(Pool[Process]):
    """Does pieces of work in processes of this machine; an executor, and a context that ends them.

    jobs  how many: each has its own model, computes with one thread, and on a machine with several GPUs has one of them

    A piece whose process ends is done again in another one. What is measured is what one process with one thread
    measures.
    """

    jobs: int
    answers: queue.SimpleQueue[tuple[Process, Any]] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        check_jobs(self.jobs)

    def __enter__(self) -> Processes:
        return self

    def expect(self, opening: Opening | None, memory: int) -> None:
        """Start the processes before there is work, so that they open their models while this one does.

        opening  None where it is not known yet
        memory   that each of them needs, about; where so much is not free they are started later, and counted exactly
        """
        self.close()
        if opening is not None and self.jobs * memory < psutil.virtual_memory().available:
            self.opening = opening
            for _ in range(self.jobs):
                self.start()

    def most(self, missing: Missing) -> int:
        """As many as were asked for."""
        return self.jobs

    def check_room(self, missing: Missing, new: int) -> None:
        """Raise LocateError where so many more exceed the free memory."""
        check_memory(missing.memory, new)

    def start_worker(self) -> Process:
        """A new process; what it answers is read in a thread of its own."""
        child = subprocess.Popen(
            [sys.executable, "-m", "locate.workers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | ALONE | {"PYTHONPATH": python_path()},
            process_group=0,  # Ctrl-C is for this process, which ends the others
        )
        worker = Process(child)
        threading.Thread(target=listen, args=(worker, self.answers), daemon=True).start()
        return worker

    def opening_for(self, opening: Opening, worker: Process) -> Opening:
        """The same on the GPU that the fewest processes have."""
        if str(opening.arguments.get("device", "")).startswith("cuda"):
            worker.device = self.free_gpu()
            return replace(opening, arguments=dict(opening.arguments) | {"device": worker.device})
        return opening

    def free_gpu(self) -> str:
        """The GPU that the fewest processes have."""
        import torch

        used = Counter(worker.device for worker in self.workers)
        return min((f"cuda:{number}" for number in range(torch.cuda.device_count())), key=used.__getitem__)

    def answer(self, missing: Missing) -> tuple[Process, object]:
        """The next that a process answers; one that was ended with a piece that nobody waited for may still answer."""
        while True:
            worker, message = self.answers.get()
            if worker in self.workers:
                return worker, message


def python_path() -> str:
    """Where this process finds modules, for others to find the same."""
    return os.pathsep.join(each for each in sys.path if each)


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


def status_words(status: int | None) -> str:
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
