"""How matrix products are computed during a measurement: as precisely as asked, by the faster library."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from locate.errors import LocateError
from locate.model.threads import torch_threads

FASTER = 1.4  # how much faster oneDNN must be to be taken
TRIAL = (512, 768, 3072)  # rows and widths of the product that decides
ROOM = 2 * 10**9  # bytes of weights that may be kept once more
PREPARED = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
"""How many products oneDNN, and torch before it, keep prepared, each for one number of rows and with memory of its own;
1,024 by default, of which most would never be used again."""
GRAIN = 128  # rows; oneDNN takes as long to prepare a product for a new number of rows as to multiply about as many


def keep_few_prepared() -> None:
    """Tell oneDNN and torch, unless the user has told them; both read it once, at the first product of a process."""
    for name, count in PREPARED.items():
        os.environ.setdefault(name, count)


keep_few_prepared()


@contextmanager
def precise(dtype: str) -> Iterator[None]:
    """Inside the block fp32 matrix products are as precise as the dtype says, whatever torch's flags say."""
    kinds: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    before = [kind.fp32_precision for kind in kinds]
    try:
        for kind in kinds:
            kind.fp32_precision = "tf32" if dtype == "tf32" else "ieee"
        yield
    finally:
        for kind, precision in zip(kinds, before, strict=True):
            kind.fp32_precision = precision


@contextmanager
def multiplying(dtype: str, device: str, threads: int, *, timed: bool = True) -> Iterator[None]:
    """Inside the block matrix products are precise and use this many threads and, on a CPU, the faster library.

    timed  False for text that is sampled: a trial of both libraries falls out now one way, now the other, they round
           differently, and one token drawn otherwise makes another text. Then torch chooses, each time alike
    """
    faster = OneDNN() if timed and product_library(dtype, device, threads) == "oneDNN" else nullcontext()
    with torch_threads(threads), precise(dtype), faster:
        yield


@contextmanager
def multiplied_by(library: str) -> Iterator[None]:
    """Inside the block this library computes the products, whichever is faster here: that of the other parts of a run.

    Raises LocateError for oneDNN where torch has none.
    """
    if library == "oneDNN" and not torch.backends.mkldnn.is_available():
        raise LocateError("this run's products were computed by oneDNN, which this torch lacks: choose another folder")
    AGREED.append(library)
    try:
        yield
    finally:
        AGREED.pop()


AGREED: list[str] = []
"""The library of a run that is shared or resumed, the innermost last; a trial might choose another one here."""


def product_library(dtype: str, device: str, threads: int) -> str:
    """What computes the products: "oneDNN", or "torch" for whatever torch chooses by itself."""
    if AGREED and dtype == "float32" and device == "cpu":
        return AGREED[-1]
    return "oneDNN" if dtype == "float32" and device == "cpu" and onednn_is_faster(threads) else "torch"


def product_grain(dtype: str, device: str, threads: int) -> int:
    """Of what the numbers of rows in products should be multiples, so that there are few of them to prepare for."""
    return GRAIN if product_library(dtype, device, threads) == "oneDNN" else 1


@cache
def onednn_is_faster(threads: int) -> bool:
    """Whether oneDNN multiplies fp32 matrices faster than torch's own choice, which is slow on some processors."""
    if not torch.backends.mkldnn.is_available():
        return False
    rows, width, out = TRIAL
    x, weight, bias = torch.randn(rows, width), torch.randn(out, width), torch.randn(out)
    with torch.inference_mode(), torch_threads(threads), precise("float32"):
        ours, usual = seconds(lambda: onednn(x, weight, bias), lambda: linear(x, weight, bias))
    return FASTER * ours < usual


def seconds(*works: Callable[[], object], repeats: int = 8) -> list[float]:
    """Seconds that each piece of work takes, the best of several; they take turns, so that all meet the same load."""
    best = [float("inf")] * len(works)
    for _ in range(repeats + 1):
        for index, work in enumerate(works):
            started = time.perf_counter()
            work()
            best[index] = min(best[index], time.perf_counter() - started)
    return best


def onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x times the transpose of weight, plus bias, by oneDNN; the operator that torch's own compiler emits.

    All must be without gaps: for views with gaps oneDNN falls back to a loop that is a hundred times slower.
    """
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


def product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x times the transpose of weight, plus bias, by the library chosen around it, without a look at every function.

    `OneDNN` looks at all functions of torch to find the products among them; code that calls this one for its products
    can do without (`torch._C.DisableTorchFunction`). x is [..., width], weight [out, width], the result [..., out].
    """
    chosen = CHOSEN.get()
    return linear(x, weight, bias) if chosen is None else chosen.multiply(x, weight, bias)


class OneDNN(TorchFunctionMode):
    """Inside the block oneDNN computes the products of linear layers on fp32 CPU tensors."""

    def __init__(self, room: int = ROOM) -> None:
        super().__init__()
        self.room = room
        self.laid_out: dict[tuple[Any, ...], tuple[torch.Tensor, torch.Tensor]] = {}

    def __enter__(self) -> OneDNN:
        self.before = CHOSEN.set(self)
        super().__enter__()
        return self

    def __exit__(self, *ended: Any) -> None:
        super().__exit__(*ended)
        CHOSEN.reset(self.before)

    def twin(self) -> OneDNN:
        """Another for another thread, which knows the same weights without gaps."""
        other = OneDNN(self.room)
        other.laid_out = self.laid_out
        return other

    def multiply(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        """x times the transpose of weight, plus bias; by torch where the tensors are not for oneDNN."""
        if is_for_onednn((x, weight, bias), None, 3, 3):
            return onednn(x, self.without_gaps(weight), bias)
        return linear(x, weight, bias)

    def without_gaps(self, weight: torch.Tensor) -> torch.Tensor:
        """A weight with its rows one after the other; a copy of it is kept for the next call while there is room.

        The weight itself is kept too: while it is alive, nothing else can take its address.
        """
        if weight.is_contiguous():
            return weight
        place = weight.data_ptr(), weight.shape, weight.stride()
        if place not in self.laid_out:
            copy = weight.contiguous()
            if copy.nbytes > self.room:
                return copy
            self.room -= copy.nbytes
            self.laid_out[place] = weight, copy
        return self.laid_out[place][1]

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is linear and is_for_onednn(args, kwargs, 2, 3):
            return onednn(args[0], self.without_gaps(args[1]), args[2] if len(args) == 3 else None)
        if func is torch.addmm and is_for_onednn(args, kwargs, 3, 3) and args[0].ndim == 1:
            return onednn(args[1], self.without_gaps(args[2].t()), args[0])
        return func(*args, **(kwargs or {}))


CHOSEN: ContextVar[OneDNN | None] = ContextVar("CHOSEN", default=None)
"""What computes products inside `multiplying`; None for torch's own choice."""


def is_for_onednn(args: tuple, kwargs: dict | None, least: int, most: int) -> bool:
    """Whether a product has nothing but fp32 CPU tensors as arguments, none of them empty or requiring a gradient.

    oneDNN's operator has no gradient: one that passed through it would be lost without a word.
    """
    if kwargs or not least <= len(args) <= most:
        return False
    tensors = [each for each in args if each is not None]
    if torch.is_grad_enabled() and any(each.requires_grad for each in tensors):
        return False
    return all(each.device.type == "cpu" and each.dtype == torch.float32 and each.numel() for each in tensors)
