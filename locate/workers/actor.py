"""What an actor of a Ray cluster does: it opens a model once and does pieces, as a worker process does."""

from __future__ import annotations

import os
import pickle
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.schema import programs
from locate.work import Kept, Piece
from locate.workers.messages import Done, Failed, Identity, Placed, Ready, Task, Written
from locate.workers.worker import Hands


class Actor:
    """Ray calls its methods one after the other, as they were asked for; errors are answers.

    folder  in which the process that asks is, for the names of files; where this machine has none of that name it stays
            in its own
    """

    def __init__(self, folder: str) -> None:
        if Path(folder).is_dir():
            os.chdir(folder)
        self.machine = socket.gethostname()
        self.hands: Hands | Failed | None = None
        self.identity: Identity | None = None
        self.found: Any = None

    def place(self) -> Placed:
        """Where it is and what it computes with."""
        return Placed(self.machine, programs())

    def open(self, opening: bytes) -> None:
        """Open a model; an error is the answer to `check`."""
        found = self.tell(lambda: Hands(pickle.loads(opening)))
        assert isinstance(found, Hands | Failed)
        self.hands = found

    def check(self, identity: Identity) -> Ready | Failed:
        """Whether it has opened what the process that asks has."""
        self.identity = identity
        return self.tell(self.compare)

    def compare(self) -> Ready | Failed:
        """The same, where errors are raised."""
        if not isinstance(self.hands, Hands):
            assert self.hands is not None
            return self.hands
        assert self.identity is not None
        with multiplied(self.identity):
            self.hands.check(self.identity)
        return Ready()

    def do(self, work: bytes, number: int, piece: Piece, kept: Kept | None) -> Done | Written | Failed:
        """Do a piece; what it gives is kept where this machine has the folder for it, and sent back elsewhere."""
        return self.tell(lambda: self.did(Task(work, number, piece, kept)))

    def did(self, task: Task) -> Done | Written:
        """The same, where errors are raised."""
        assert isinstance(self.hands, Hands)
        assert self.identity is not None
        with multiplied(self.identity):
            found = self.hands.do(task, lambda count: None)
        if task.kept is None or not task.kept.path.is_dir():
            return Done(task.number, found)
        try:
            task.kept.write(task.number, found)
        except LocateError:  # the process that asks writes it itself, and tells what goes wrong there
            return Done(task.number, found)
        self.found = found
        return Written(task.number)

    def last(self) -> Any:
        """What the last piece gave: for one who does not see the folder in which it was kept."""
        return self.found

    def tell(self, do: Callable[[], Any]) -> Any:
        """What is found, or why nothing is."""
        try:
            return do()
        except LocateError as error:
            return Failed(f"{error} (on {self.machine})", True)
        except Exception:
            return Failed(traceback.format_exc(), False)


def multiplied(identity: Identity) -> Any:
    """Inside the block matrix products are computed by the library of the process that asks."""
    from locate.model.products import multiplied_by

    return multiplied_by(identity.products)
