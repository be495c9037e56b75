"""What is sent to a worker and what it answers."""

from __future__ import annotations

import pickle
from collections.abc import Hashable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from locate.errors import LocateError
from locate.work import Kept, Piece, Work


@dataclass(frozen=True)
class Identity:
    """What the process that asks has opened; a worker's own must be the same.

    value     of `Missing.identity`
    products  library that computes matrix products (see `product_library`)
    """

    value: Hashable
    products: str


@dataclass(frozen=True)
class Task:
    """A piece that is to be done.

    work    pickled; a worker prepares the same bytes once
    number  of the piece
    piece   what it is
    kept    where a worker that sees the folder keeps what it gives; None where it only sends it back
    """

    work: bytes
    number: int
    piece: Piece
    kept: Kept | None = None


@dataclass(frozen=True)
class Ready:
    """A worker has opened what the process that asks has."""


@dataclass(frozen=True)
class Count:
    """How much a worker has done since it last said so, in what `Advance` counts."""

    count: int


@dataclass(frozen=True)
class Done:
    """A piece, and what it gave."""

    number: int
    found: Any


@dataclass(frozen=True)
class Written:
    """A piece whose worker has kept what it gave."""

    number: int


@dataclass(frozen=True)
class Placed:
    """A worker on a cluster has started.

    machine   that it is on
    programs  versions of what it computes with (see `programs`)
    """

    machine: str
    programs: dict[str, str]


@dataclass(frozen=True)
class Failed:
    """Why a worker gave up.

    reason  in a line
    ours    whether the reason is told as a LocateError; else it is a fault of the program, with its traceback
    """

    reason: str
    ours: bool

    def error(self) -> Exception:
        """The same as an error to be raised."""
        return LocateError(self.reason) if self.ours else RuntimeError(self.reason)


@dataclass(frozen=True)
class Ended:
    """A worker's answers have ended."""


class Pickler(pickle.Pickler):
    """Refuses what is defined in the program itself, which other processes do not find."""

    def reducer_override(self, thing: Any) -> Any:
        """Raise LocateError for a class or function of the program, or an object of such a class."""
        if getattr(thing, "__module__", None) == "__main__":
            name = getattr(thing, "__name__", type(thing).__name__)
            raise LocateError(
                f"{name} is defined in the program itself, where other processes do not find it: put it into a module "
                "of its own"
            )
        return NotImplemented


def pickled(work: Work) -> bytes:
    """Work as bytes.

    Raises LocateError where it holds something that no other process can read.
    """
    found = BytesIO()
    try:
        Pickler(found).dump(work)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise LocateError(f"{work.name!r} cannot be sent to other processes ({error}): do it in this one") from error
    return found.getvalue()
