"""Several batches at once: on a CPU half of the threads each, so that no core waits for another.

A batch is many short steps, of which some use one core, and after each of the others the threads wait for each other.
Two batches with half of the threads each fill these gaps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from queue import Empty, SimpleQueue
from typing import TypeVar

from locate.engine.rows import Limits
from locate.engine.sweep.bases import Bases
from locate.engine.sweep.climbers import Climber
from locate.engine.sweep.fused import OUTPUTS
from locate.model.hooked import Model
from locate.model.products import CHOSEN, OneDNN
from locate.model.threads import torch_threads

MOST = 2

Item = TypeVar("Item")
Result = TypeVar("Result")


def batches_abreast(model: Model, bases: Bases, moving: Iterable[Climber], limits: Limits) -> int:
    """How many batches of rows to run at once: one, or two on a CPU with an even number of threads.

    One where a block has to be run with hooks, which are put on for a single batch, and where a batch size is asked
    for, which is what is under way at most.
    """
    if model.device != "cpu" or model.threads % MOST or limits.batch_size is not None:
        return 1
    if bases.few_steps < model.n_layers:
        return 1
    plain = (*OUTPUTS, "resid_pre")
    return MOST if all(write.component in plain for each in moving for write in each.writes) else 1


def work_abreast(
    items: Sequence[Item], work: Callable[[Item], Result], count: int, threads: int
) -> Iterator[tuple[Item, Result]]:
    """Items, and what the work on them found, by `count` threads of which this one is one; in any order.

    threads  of torch, which they share

    An error of one ends the others after the item that they are at, and is raised. So does closing the iterator.
    """
    todo = deque(items)
    found: SimpleQueue[tuple[Item, Result]] = SimpleQueue()

    def help(chosen: OneDNN | None) -> None:
        try:
            with computing_alike(chosen, threads // count):
                for item in taken(todo):
                    found.put((item, work(item)))
        except BaseException:
            todo.clear()
            raise

    with ThreadPoolExecutor(count) as pool:
        helpers = [pool.submit(help, CHOSEN.get()) for _ in range(count - 1)]
        try:
            with torch_threads(threads // count):
                for item in taken(todo):
                    yield item, work(item)
                    yield from waiting(found)
        finally:
            todo.clear()
        for helper in helpers:
            helper.result()
        yield from waiting(found)


def taken(todo: deque[Item]) -> Iterator[Item]:
    """Items, each by the thread that comes first."""
    while True:
        try:
            item = todo.popleft()
        except IndexError:
            return
        yield item


def waiting(found: SimpleQueue[Result]) -> Iterator[Result]:
    """What lies in a queue now."""
    while True:
        try:
            each = found.get_nowait()
        except Empty:
            return
        yield each


@contextmanager
def computing_alike(chosen: OneDNN | None, threads: int) -> Iterator[None]:
    """Inside the block, in a thread of its own, products are computed by what another thread has chosen."""
    with torch_threads(threads), nullcontext() if chosen is None else chosen.twin():
        yield
