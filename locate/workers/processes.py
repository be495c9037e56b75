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
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any

import pandas as pd
import psutil
import torch

from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.products import product_library
from locate.tracing.measure import Missing
from locate.tracing.stage import Job
from locate.workers.jobs import check_jobs
from locate.workers.messages import Chunk, Done, Ended, Failed, Ready, Rows, Source
from locate.workers.worker import bits_of

TRIES = 3  # times that a chunk, or a start, may end with its process


@dataclass(eq=False)
class Process:
    """A worker seen from outside.

    chunk  that it measures; None while it waits, or loads its model
    rows   of the chunk that it has measured
    """

    child: subprocess.Popen[bytes]
    device: str
    ready: bool = False
    chunk: Chunk | None = None
    rows: int = 0

    def send(self, message: object) -> None:
        """Write a message; one that has ended is noticed where its answers end."""
        assert self.child.stdin is not None
        try:
            pickle.dump(message, self.child.stdin)
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
    """Runs chunks in processes of this machine; an executor of `trace`, and a context that ends them.

    jobs  how many: each has its own model, computes with one thread, and on a machine with several GPUs has one of them

    A chunk whose process ends is run again in another one. Rows are those of one process with one thread.
    """

    jobs: int
    workers: list[Process] = field(default_factory=list)
    answers: queue.SimpleQueue[tuple[Process, Any]] = field(default_factory=queue.SimpleQueue)
    traced: Model | None = None
    source: Source | None = None

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

    def __call__(self, missing: Missing) -> Iterator[tuple[int, pd.DataFrame]]:
        """Run the chunks, in as many processes as there are chunks, at most."""
        stage = pickled(missing.job)
        waiting = deque(
            Chunk(stage, number, tuple(pair.index for pair in missing.job.chunks[number])) for number in missing.numbers
        )
        lost: Counter[int] = Counter()
        self.begin(missing.model, missing.job, len(waiting))
        try:
            left = len(waiting)
            while left:
                self.hand_out(waiting)
                worker, message = self.answers.get()
                if worker not in self.workers:
                    continue  # it was ended with a chunk that nobody waited for
                if isinstance(message, Ready):
                    if not any(each.ready for each in self.workers):
                        missing.begin()
                    worker.ready = True
                elif isinstance(message, Rows):
                    worker.rows += message.count
                    missing.advance(message.count)
                elif isinstance(message, Done):
                    worker.chunk, worker.rows, left = None, 0, left - 1
                    yield message.number, message.table
                elif isinstance(message, Failed):
                    self.drop(worker)
                    raise LocateError(message.reason) if message.ours else RuntimeError(message.reason)
                else:
                    self.replace(worker, waiting, lost, missing)
        finally:
            for worker in [each for each in self.workers if each.chunk is not None]:
                self.drop(worker)  # nobody waits for what it measures

    def begin(self, model: Model, job: Job, chunks: int) -> None:
        """Start processes, up to one a chunk."""
        products = product_library(model.dtype, model.device, 1)
        if self.source is None or model is not self.traced or products != self.source.products:
            self.close()
            self.traced, self.source = model, source_of(model, products)
        new = min(self.jobs, chunks) - len(self.workers)
        if new > 0:
            check_memory(model, job, new)
        for _ in range(new):
            self.start()

    def start(self) -> None:
        """Start a process; what it answers is read in a thread of its own."""
        assert self.source is not None
        device = str(self.source.options["device"])
        if device.startswith("cuda"):
            used = Counter(worker.device for worker in self.workers)
            device = min((f"cuda:{number}" for number in range(torch.cuda.device_count())), key=used.__getitem__)
        child = subprocess.Popen(
            [sys.executable, "-m", "locate.workers.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
            process_group=0,  # Ctrl-C is for this process, which ends the others
        )
        worker = Process(child, device)
        self.workers.append(worker)
        threading.Thread(target=listen, args=(worker, self.answers), daemon=True).start()
        worker.send(replace(self.source, options=self.source.options | {"device": device}))

    def drop(self, worker: Process) -> None:
        """End a process."""
        self.workers.remove(worker)
        worker.end()

    def hand_out(self, waiting: deque[Chunk]) -> None:
        """Give every process that waits a chunk."""
        for worker in self.workers:
            if waiting and worker.ready and worker.chunk is None:
                worker.chunk = waiting.popleft()
                worker.send(worker.chunk)

    def replace(self, worker: Process, waiting: deque[Chunk], lost: Counter[int], missing: Missing) -> None:
        """Put another process in the place of one that has ended, and its chunk back.

        Raises LocateError where a chunk, or the start of a process, ends so again and again.
        """
        self.drop(worker)
        number = -1 if worker.chunk is None else worker.chunk.number
        lost[number] += 1
        if lost[number] >= TRIES:
            what = "loading the model" if number < 0 else f"chunk {number + 1} of {missing.job.stage.name!r}"
            raise LocateError(
                f"{what} ended its process {TRIES} times, at last by {how(worker.child.returncode)}: the machine may "
                "lack memory: choose fewer --jobs, or less --memory"
            )
        if worker.chunk is not None:
            waiting.appendleft(worker.chunk)
            missing.advance(-worker.rows)
        self.start()


def source_of(model: Model, products: str) -> Source:
    """How workers get a model."""
    options = dict(model.options) | {"threads": 1}
    hashed = model.checkpoint.weights_sha256
    return Source(model.name, model.dtype, options, hashed, bits_of(model), products)


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


def pickled(job: Job) -> bytes:
    """A stage with its settings, as bytes; how much memory it may take is that of this process.

    Raises LocateError where they hold something that no other process can read.
    """
    settings = replace(job.settings, memory=job.limits.memory)
    for part in (settings.corruption, job.stage.rewrite, job.stage.derive):
        if type(part).__module__ == "__main__":
            raise LocateError(
                f"{type(part).__name__} is defined in the program itself, where other processes do not find it: put "
                "it into a module of its own"
            )
    try:
        return pickle.dumps((job.stage, settings))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LocateError(
            f"{job.stage.name!r} cannot be sent to other processes ({error}): trace it in this one"
        ) from error


def how(status: int | None) -> str:
    """How a process ended, in words."""
    if status is None or status >= 0:
        return f"exit code {status}"
    return f"signal {-status} ({signal.Signals(-status).name})"


def check_memory(model: Model, job: Job, new: int) -> None:
    """Raise LocateError where so many more models, with what each may use besides, exceed the free memory."""
    if model.device != "cpu":
        return
    each = model.checkpoint.parameters * model.number_bytes * 1.3 + job.limits.memory
    free = psutil.virtual_memory().available
    if new * each > free:
        raise LocateError(
            f"{new} processes need about {each / 2**30:.1f} GiB each, where {free / 2**30:.1f} GiB are free: choose "
            "fewer --jobs, or less --memory"
        )
