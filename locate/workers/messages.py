"""What is sent to a worker and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Source:
    """How a worker gets the model that is traced.

    options        of `load`, with the worker's device and threads
    weights_sha256 of its files
    bits           checksum of the numbers in memory (see `bits_of`)
    products       library that computes them (see `product_library`)
    """

    name: str
    dtype: str
    options: dict[str, Any]
    weights_sha256: str
    bits: int
    products: str


@dataclass(frozen=True)
class Chunk:
    """A chunk to be measured.

    stage   the stage and its settings, pickled; a worker prepares the same bytes once
    number  of the chunk
    pairs   indices of its pairs
    """

    stage: bytes
    number: int
    pairs: tuple[int, ...]


@dataclass(frozen=True)
class Ready:
    """A worker has its model."""


@dataclass(frozen=True)
class Rows:
    """How many rows a worker has measured since it last said so."""

    count: int


@dataclass(frozen=True)
class Done:
    """A chunk with its table."""

    number: int
    table: Any


@dataclass(frozen=True)
class Failed:
    """Why a worker gave up.

    reason  in a line
    ours    whether the reason is told as a LocateError; else it is a fault of the program, with its traceback
    """

    reason: str
    ours: bool


@dataclass(frozen=True)
class Ended:
    """A worker's answers have ended."""
