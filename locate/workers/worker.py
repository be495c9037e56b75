"""A worker: a process that loads a model once and measures chunks of jobs that it is sent, until its input ends.

    python -m locate.workers.worker

What it reads and writes are pickled messages; its own prints go to stderr.
"""

from __future__ import annotations

import os
import pickle
import queue
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from typing import Any, BinaryIO

from locate.errors import LocateError
from locate.workers.messages import Chunk, Done, Failed, Ready, Rows, Source

EVERY = 0.2  # seconds between two words on progress, at the least


def bits_of(model: Any) -> int:
    """A checksum of all parameters in memory, exact whatever the order of summing: two models that differ in one have
    two."""
    import torch

    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    found = 0
    for _, tensor in sorted(model.bridge.original_model.named_parameters()):
        bits = tensor.detach().contiguous().view(whole[tensor.element_size()])
        found = (found * 1_000_003 + int(bits.sum(dtype=torch.int64))) % 2**64
    return found


@dataclass
class Worker:
    """What a worker holds, and where it writes."""

    answers: BinaryIO
    models: Any = None
    prepared: tuple[bytes, Any] = (b"", None)
    measured: int = 0
    told: float = 0.0

    def send(self, message: object) -> None:
        """Write a message."""
        pickle.dump(message, self.answers)
        self.answers.flush()

    def open(self, source: Source) -> None:
        """Load the model.

        Raises LocateError as `load` does, or where the files do not hold the model that is traced.
        """
        from locate.model.loading import load
        from locate.tracing.models import Models

        model = load(source.name, dtype=source.dtype, **source.options)
        if model.checkpoint.weights_sha256 != source.weights_sha256 or bits_of(model) != source.bits:
            raise LocateError(
                f"model {source.name!r} in memory is not the one in its files, which workers would load: save it, and "
                "trace what was saved, or trace it in this process"
            )
        self.models = Models(model)

    def measure(self, chunk: Chunk) -> Done:
        """The table of a chunk."""
        from locate.tracing.measure import measure_chunk

        if chunk.stage != self.prepared[0]:
            self.prepared = chunk.stage, self.models.job(*pickle.loads(chunk.stage))
        job = self.prepared[1]
        known = {pair.index: pair for pair in job.pairs}
        table = measure_chunk(job, [known[index] for index in chunk.pairs], self.advance)
        self.tell()
        return Done(chunk.number, table)

    def advance(self, rows: int) -> None:
        """Count rows, and say so now and then."""
        self.measured += rows
        if time.monotonic() - self.told > EVERY:
            self.tell()

    def tell(self) -> None:
        """Say how many rows were measured."""
        self.send(Rows(self.measured))
        self.measured, self.told = 0, time.monotonic()


def serve(answers: BinaryIO, asked: queue.SimpleQueue[Any]) -> None:
    """Take a source, then chunks; answer each, for ever."""
    from locate.model.products import multiplied_by

    worker, source = Worker(answers), asked.get()
    try:
        with multiplied_by(source.products):
            worker.open(source)
            worker.send(Ready())
            while True:
                worker.send(worker.measure(asked.get()))
    except LocateError as error:
        worker.send(Failed(str(error), True))
    except BrokenPipeError:
        return
    except Exception:
        worker.send(Failed(traceback.format_exc(), False))


def read(requests: BinaryIO, asked: queue.SimpleQueue[Any]) -> None:
    """Pass on what is read; once the process that asked is gone, end this one at once, whatever it does."""
    while True:
        try:
            asked.put(pickle.load(requests))
        except (EOFError, OSError):
            os._exit(0)


def main() -> None:
    """Serve what comes on stdin."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=read, args=(sys.stdin.buffer, asked), daemon=True).start()
    serve(answers, asked)


if __name__ == "__main__":
    main()
