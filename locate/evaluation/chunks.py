"""The chunks of tests: what is measured at a time, in this process or in others, and each test's table from them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.evaluation.scores import Items, Step, Test
from locate.parts import Parts
from locate.work import Advance, Do, Executor, Missing, Piece

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

TestStep = Callable[[str, float, int], None]
"""progress: (test, how many of its items are done, of how many); tests whose chunks are measured side by side take
turns"""
Measure = Callable[["CausalModel", Items, Step], pd.DataFrame]
Chunk = tuple[pd.DataFrame, float]
"""a chunk's table, and the seconds that it took"""
SECONDS = "seconds of its chunk"  # a column of the tables of chunks that are kept
PARTS = 1000  # of an item, in which progress is counted: a test may have one long text


@dataclass(frozen=True, eq=False)
class TestsWork:
    """Tests as work for other processes; a piece is (place of the test, places of its items).

    names   of the tests
    chunks  how many items each measures at a time at most; 0 for all together
    """

    names: tuple[str, ...]
    measures: tuple[Measure, ...]
    items: tuple[Items, ...]
    chunks: tuple[int, ...]

    @property
    def name(self) -> str:
        """In messages and errors."""
        return "evaluation"

    def prepare(self, model: CausalModel) -> Do:
        """What measures a chunk with a model of this process."""
        return partial(self.measure, model)

    def measure(self, model: CausalModel, piece: Piece, advance: Advance) -> Chunk:
        """A chunk's table, and the seconds that it took.

        Raises LocateError where the test gives no table, or one with another number of rows than the chunk has items.
        """
        place, *chosen = piece
        items = replace(self.items[place], rows=tuple(self.items[place].rows[each] for each in chosen))
        whole, told = PARTS * len(items), 0

        def step(done: int, total: int) -> None:
            nonlocal told
            before, told = told, whole * done // max(total, 1)
            advance(told - before)

        started = time.perf_counter()
        table = self.measures[place](model, items, step)
        self.check(place, table, len(items))
        advance(whole - told)
        return table, time.perf_counter() - started

    def check(self, place: int, table: object, count: int) -> None:
        """Raise LocateError where what a test has measured is not a table, or has not one row per item of its chunk."""
        name, chunk = self.names[place], self.chunks[place]
        if not isinstance(table, pd.DataFrame):
            raise LocateError(f"test {name!r} measured {type(table).__name__}: expected a table (pandas.DataFrame)")
        if chunk and len(table) != count:
            raise LocateError(
                f"test {name!r} has chunks of {chunk} items, and measured {len(table)} rows of {count} items: expected "
                "one row per item, or no `chunk`"
            )


@dataclass(frozen=True)
class TestParts:
    """Where the chunks of several tests are kept (see `locate.work.Kept`), with the seconds that each took.

    path    the folder of all
    places  of each piece: the chunks of its test, and its number among them
    """

    path: Path
    places: tuple[tuple[Parts, int], ...]

    def file(self, number: int) -> Path:
        """Where a chunk is kept."""
        parts, own = self.places[number]
        return parts.file(own)

    def has(self, number: int) -> bool:
        """Whether it is there."""
        parts, own = self.places[number]
        return parts.has(own)

    def read(self, number: int) -> Chunk | None:
        """It; None where it is missing or damaged."""
        parts, own = self.places[number]
        table = parts.read(own)
        if table is None or SECONDS not in table:
            return None
        seconds = table.pop(SECONDS)
        return table, float(seconds.iloc[0]) if len(seconds) else 0.0

    def write(self, number: int, chunk: Chunk) -> None:
        """Keep it."""
        parts, own = self.places[number]
        table, seconds = chunk
        parts.write(own, table.assign(**{SECONDS: seconds}))


def chunks_of(place: int, test: Test, items: Items) -> list[Piece]:
    """The chunks of the test at a place, all of about one size: of so many items as it says at most, or of all items.

    Items of like length share a chunk, the longest first: batches inside a chunk then need as little padding as those
    of the whole test.
    """
    count = math.ceil(len(items) / (test.chunk or len(items)))
    if count == 1:
        return [(place, *range(len(items)))]
    order = sorted(range(len(items)), key=lambda each: -len(str(items.rows[each])))
    ends = [len(order) * number // count for number in range(count + 1)]
    return [(place, *order[first:end]) for first, end in pairwise(ends)]


def measure_tests(
    model: CausalModel,
    tests: Sequence[tuple[Test, Items]],
    executor: Executor,
    step: TestStep,
    keeps: Callable[[int, int], Parts] | None = None,
) -> Iterator[tuple[int, pd.DataFrame, float]]:
    """Measure tests side by side, and give each as soon as it is done: its place, table, and its chunks' seconds.

    Chunks are the same wherever they are measured, so that the numbers are.

    keeps  place of a test, number of its chunks -> where they are kept; those that are there are read instead
    """
    work = TestsWork(
        tuple(test.name for test, _ in tests),
        tuple(test.measure for test, _ in tests),
        tuple(items for _, items in tests),
        tuple(test.chunk for test, _ in tests),
    )
    chunks = [chunks_of(place, test, items) for place, (test, items) in enumerate(tests)]
    pieces = [piece for own in chunks for piece in own]
    done: Counter[int] = Counter()

    def watch(number: int, count: int) -> None:
        place = pieces[number][0]
        done[place] += count
        test, items = tests[place]
        step(test.name, done[place] / PARTS, len(items))

    asked = replace(
        missing(model, work, pieces),
        cost=lambda number: cost_of(*tests[pieces[number][0]], pieces[number]),
        kept=None if keeps is None else keep_all(keeps, chunks),
        watch=watch,
    )
    found: dict[int, Chunk] = {}
    for number, chunk in measured(asked, executor):
        found[number] = chunk
        place = pieces[number][0]
        own = [each for each, piece in enumerate(pieces) if piece[0] == place]
        if all(each in found for each in own):
            tables, seconds = zip(*(found.pop(each) for each in own), strict=True)
            yield place, join([pieces[each][1:] for each in own], tables), sum(seconds)


def cost_of(test: Test, items: Items, piece: Piece) -> float:
    """About how long a chunk takes beside others: by its letters; one that is a whole test may take longest."""
    return math.inf if not test.chunk else float(sum(len(str(items.rows[each])) for each in piece[1:]))


def keep_all(keeps: Callable[[int, int], Parts], chunks: Sequence[Sequence[Piece]]) -> TestParts | None:
    """Where the chunks of all tests are kept, from where those of each are; None without tests."""
    parts = [keeps(place, len(own)) for place, own in enumerate(chunks)]
    places = tuple((own, number) for own, pieces in zip(parts, chunks, strict=True) for number in range(len(pieces)))
    return TestParts(parts[0].path.parent, places) if parts else None


def measured(asked: Missing, executor: Executor) -> Iterator[tuple[int, Chunk]]:
    """Every chunk: those that are kept, then those that are measured now, which are kept first."""
    kept = asked.kept
    there = {} if kept is None else {number: kept.read(number) for number in asked.numbers}
    read = {number: found for number, found in there.items() if found is not None}
    for place in dict.fromkeys(asked.pieces[number][0] for number in read):  # at once: they are no part of the pace
        own = [number for number in read if asked.pieces[number][0] == place]
        asked.count(own[0], sum(map(asked.size, own)))
    yield from read.items()
    left = [number for number in asked.numbers if number not in read]
    for number, found in executor(replace(asked, numbers=left)) if left else ():
        if kept is not None and not kept.has(number):
            kept.write(number, found)
        yield number, found


def join(chunks: Sequence[Piece], tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """A test's table from those of its chunks, its rows in the order of the items."""
    if len(tables) == 1:
        return tables[0]
    order = np.argsort(np.concatenate(chunks))
    return pd.concat(tables, ignore_index=True).iloc[order].reset_index(drop=True)


def missing(model: CausalModel, work: TestsWork, pieces: Sequence[Piece]) -> Missing:
    """All chunks as work that is to be done, for an executor."""
    from locate.model.likelihood import memory_of
    from locate.model.products import product_library

    return Missing(
        work=work,
        do=work.prepare(model),
        opening=model.opening(),
        identity=model.identity,
        pieces=pieces,
        numbers=range(len(pieces)),
        size=lambda number: PARTS * (len(pieces[number]) - 1),
        memory=memory_of(model),
        products=product_library(model.dtype, model.device, model.threads),
    )
