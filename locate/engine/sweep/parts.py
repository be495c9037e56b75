"""How much the sweep does at once, and what it does when memory runs out anyway."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from locate.engine.rows import Limits
from locate.engine.sweep.bases import KEPT_SHARE
from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.memory import ran_out
from locate.model.products import product_grain

CPU_POSITIONS = 1024  # of all rows at once: more make nothing faster on a CPU, and fall out of its cache
MULTIPLE = 8  # of which the rows of a product should be: for 1,022 or 1,023 oneDNN takes a tenth longer than for 1,024

Item = TypeVar("Item")
Result = TypeVar("Result")


def rows_at_once(model: Model, limits: Limits, n_pos: int, first: int, abreast: int = 1) -> int:
    """How many rows that run positions `first` to `n_pos` a batch may have, so many of which are under way at once."""
    fitting = limits.rows(row_bytes(model, n_pos, first), (1.0 - KEPT_SHARE) / abreast)
    if model.device != "cpu":
        return fitting
    most, step = min(fitting, max(1, CPU_POSITIONS // (n_pos - first))), row_step(n_pos - first)
    return most // step * step or most


def rows_to_run(model: Model, joined: int, most: int, positions: int) -> int:
    """How many of `most` rows to run where the first `joined` have to be, so that products come in few sizes.

    positions  of a row
    """
    wanted, step = product_grain(model.dtype, model.device, model.threads), row_step(positions)
    grain = 1 if wanted == 1 else max(1, wanted // positions // step) * step
    return min(most, -(-joined // grain) * grain)


def row_step(positions: int) -> int:
    """Of what the number of rows should be a multiple, so that rows times positions is one of `MULTIPLE`."""
    return MULTIPLE // math.gcd(MULTIPLE, positions)


def row_bytes(model: Model, n_pos: int, first: int) -> int:
    """Bytes of a row under way: residual stream, MLP, attention, keys and values, and its logits."""
    run = n_pos - first
    attention = 3 * model.n_heads * run * n_pos + 4 * n_pos * model.n_heads * model.d_head
    width = run * (3 * model.d_mlp + 8 * model.d_model) + attention + model.d_vocab
    return model.number_bytes * width + 4 * model.d_vocab


def work_in_parts(
    items: Sequence[Item], size: int, work: Callable[[Sequence[Item]], Result]
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Items, `size` at a time, and what the work on them found; half as many at a time once memory runs out."""
    start = 0
    while start < len(items):
        part = items[start : start + size]
        try:
            found = work(part)
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error):
                raise
            if len(part) == 1:
                raise LocateError("out of memory with a single row: choose --dtype bfloat16") from error
            size = len(part) // 2
            continue
        yield part, found
        start += len(part)
