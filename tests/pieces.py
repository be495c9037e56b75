"""Work of a few lines, which processes elsewhere import, for tests of who does it."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from locate.errors import LocateError
from locate.work import Advance, Do, Missing, Opening, Piece


class Host:
    """What workers open."""

    def identity(self) -> int:
        """The same everywhere."""
        return 1


def open_host(device: str = "cpu") -> Host:
    """Open it."""
    return Host()


def refuse_to_open() -> Host:
    """As where a model is not there."""
    raise LocateError("no such model")


@dataclass(frozen=True)
class Small:
    """Gives who did a piece and its double; numbers in it may do worse.

    fatal   piece that kills its process
    ours    piece that is refused
    theirs  piece in which the program fails
    slow    seconds that each takes
    """

    fatal: int = -1
    ours: int = -1
    theirs: int = -1
    slow: float = 0.0
    name: str = "small"

    def prepare(self, host: Host) -> Do:
        """What does a piece."""
        return self.do

    def do(self, piece: Piece, advance: Advance) -> tuple[int, int]:
        """Do one."""
        (index,) = piece
        time.sleep(self.slow)
        if index == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)
        if index == self.ours:
            raise LocateError(f"piece {index} cannot be done")
        if index == self.theirs:
            raise ValueError(f"piece {index} is a fault")
        return os.getpid(), 2 * index


@dataclass(frozen=True)
class Marked:
    """A folder in which what is kept leaves a mark, and is not found again here."""

    path: Path

    def file(self, number: int) -> Path:
        """Where it would be."""
        return self.path / f"{number}.parquet"

    def has(self, number: int) -> bool:
        """Never."""
        return False

    def read(self, number: int) -> None:
        """As on a machine that does not share the folder."""

    def write(self, number: int, found: object) -> None:
        """Leave a mark."""
        (self.path / f"{number}.mark").touch()


@dataclass(frozen=True)
class Full(Marked):
    """A folder whose disk is full."""

    def write(self, number: int, found: object) -> None:
        """Fail."""
        raise LocateError("no space left")


def missing(
    work: Small, count: int, kept: Marked | None = None, opening: Opening | None = None, **more: object
) -> Missing:
    """So many pieces of work."""
    given = {"identity": lambda: 1, "memory": 0, "advance": lambda count: None, "begin": lambda: None} | more
    return Missing(
        work=work,
        do=work.do,
        opening=opening or Opening(open_host),
        pieces=[(index,) for index in range(count)],
        numbers=range(count),
        size=lambda number: 1,
        products="torch",
        kept=kept,
        **given,
    )
