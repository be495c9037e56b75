"""A worker: a process that opens a model once and does pieces of work that it is sent, until its input ends.

    python -m locate.workers.worker

It writes pickled messages, and reads such messages as bytes that are pickled once more, so that one which cannot be
read is noticed where it is used. Its own prints go to stderr.
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
from locate.work import Advance, Opening
from locate.workers.messages import Count, Done, Failed, Identity, Ready, Task

EVERY = 0.2  # seconds between two words on progress, at the least


class Hands:
    """What does pieces of work in a process: what it has opened, and the work that it has prepared.

    Raises LocateError as the opening does.
    """

    def __init__(self, opening: Opening) -> None:
        self.host: Any = opening.open(**opening.arguments)
        self.prepared: tuple[bytes, Any] = (b"", None)

    def check(self, identity: Identity) -> None:
        """Raise LocateError where this is not what the process that asks has."""
        if self.host.identity() != identity.value:
            raise LocateError(
                "the model in memory is not the one in its files, which other processes load: save it, and use what "
                "was saved, or use this process alone"
            )

    def do(self, task: Task, advance: Advance) -> Any:
        """What a piece gives."""
        if task.work != self.prepared[0]:
            self.prepared = task.work, pickle.loads(task.work).prepare(self.host)
        return self.prepared[1](task.piece, advance)


@dataclass
class Answers:
    """Where a worker writes; of progress it says a word now and then."""

    stream: BinaryIO
    count: int = 0
    told: float = 0.0

    def send(self, message: object) -> None:
        """Write a message."""
        pickle.dump(message, self.stream)
        self.stream.flush()

    def advance(self, count: int) -> None:
        """Count what was done."""
        self.count += count
        if time.monotonic() - self.told > EVERY:
            self.tell()

    def tell(self) -> None:
        """Say how much was done."""
        self.send(Count(self.count))
        self.count, self.told = 0, time.monotonic()


def serve(answers: Answers, asked: queue.SimpleQueue[bytes]) -> None:
    """Take an opening, an identity, then tasks; answer the last two, for ever."""
    from locate.model.products import multiplied_by

    try:
        hands = Hands(pickle.loads(asked.get()))
        identity = pickle.loads(asked.get())
        with multiplied_by(identity.products):
            hands.check(identity)
            answers.send(Ready())
            while True:
                task = pickle.loads(asked.get())
                found = hands.do(task, answers.advance)
                answers.tell()
                answers.send(Done(task.number, found))
    except LocateError as error:
        answers.send(Failed(str(error), True))
    except BrokenPipeError:
        return
    except Exception:
        answers.send(Failed(traceback.format_exc(), False))


def read(requests: BinaryIO, asked: queue.SimpleQueue[bytes]) -> None:
    """Pass on what is read; once the process that asked is gone, end this one at once, whatever it does."""
    while True:
        try:
            asked.put(pickle.load(requests))
        except (EOFError, OSError):
            os._exit(0)


def main() -> None:
    """Serve what comes on stdin."""
    stream = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=read, args=(sys.stdin.buffer, asked), daemon=True).start()
    serve(Answers(stream), asked)


if __name__ == "__main__":
    main()
