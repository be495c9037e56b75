"""Work that is cut into pieces, and who decides where each is done: here, in other processes, on other machines."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Piece = tuple[int, ...]
"""indices of what is done at a time: pairs, items, edits"""

Advance = Callable[[int], None]
"""called with how much was done since it was last called"""

Do = Callable[[Piece, Advance], Any]
"""does a piece, and returns what it gives"""


@runtime_checkable
class Work(Protocol):
    """What is done to every piece; it is pickled for other processes, which prepare it once.

    name  in messages and errors
    """

    @property
    def name(self) -> str: ...

    def prepare(self, host: Any) -> Do:
        """What does a piece in this process, with what its opening has given."""


@dataclass(frozen=True)
class Opening:
    """How another process comes by what pieces are done with, a model for instance: it calls a function of a module.

    open       the function
    arguments  of it; one named "device" may be changed where each process has a GPU of its own
    """

    open: Callable[..., Any]
    arguments: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Kept(Protocol):
    """A folder in which what pieces give is kept, by their numbers."""

    @property
    def path(self) -> Path: ...

    def file(self, number: int) -> Path:
        """Where it is kept: the same file for all who share the folder."""

    def has(self, number: int) -> bool:
        """Whether it is there."""

    def read(self, number: int) -> Any:
        """What was kept; None where it is missing or damaged."""

    def write(self, number: int, found: Any) -> None:
        """Keep it, whole or not at all."""


@dataclass(frozen=True, eq=False)
class Missing:
    """The pieces of work that are still to be done.

    work      for processes that prepare it themselves
    do        does a piece in this one
    opening   of other processes
    identity  of what this process has opened: computed where others are to prove that they have the same
    pieces    all of them, by number
    numbers   of those that are missing
    size      of a piece, in what `advance` counts
    cost      about how long a piece takes beside others: those who share the work begin with the longest
    memory    bytes that each process needs; 0 where that is not known
    products  library that computes matrix products (see `product_library`)
    kept      where they are kept; None where nothing is
    advance   to be called as they are done
    begin     to be called when the first is begun, where processes get ready first: that is not part of the pace
    watch     to be called as they are done, with the number of the piece first
    """

    work: Work
    do: Do
    opening: Opening
    identity: Callable[[], Hashable]
    pieces: Sequence[Piece]
    numbers: Sequence[int]
    size: Callable[[int], int] = lambda number: 1
    cost: Callable[[int], float] = lambda number: 1.0
    memory: int = 0
    products: str = "torch"
    kept: Kept | None = None
    advance: Advance = lambda count: None
    begin: Callable[[], None] = lambda: None
    watch: Callable[[int, int], None] = lambda number, count: None

    def longest_first(self) -> list[int]:
        """The numbers of those that are missing, for who shares the work: so the last ones end at about one time."""
        return sorted(self.numbers, key=lambda number: -self.cost(number))

    def count(self, number: int, count: int) -> None:
        """Count what was done of a piece; less than nothing where a process took it along as it ended."""
        self.advance(count)
        self.watch(number, count)


Executor = Callable[[Missing], Iterator[tuple[int, Any]]]
"""decides where pieces are done: takes those that are missing, and gives for each its number and what it gave, in any
order; it may get ready when it is called, and may keep a piece itself"""


@runtime_checkable
class Early(Protocol):
    """An executor whose processes can start before there is work."""

    def expect(self, opening: Opening | None, memory: int) -> None:
        """Start what takes long; where an opening is known already, open it, in about so many bytes each."""


def here(missing: Missing) -> Iterator[tuple[int, Any]]:
    """The executor of this process: one piece after the other."""
    for number in missing.numbers:
        yield number, missing.do(missing.pieces[number], partial(missing.count, number))
