"""How products of matrices are computed while something is measured: as precisely as asked, by the faster library."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from typing import Any

import torch
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

FASTER = 1.25  # how much faster oneDNN must be to be taken
TRIAL = (512, 768, 3072)  # rows and widths of the product that decides


@contextmanager
def precise(dtype: str) -> Iterator[None]:
    """While it lasts, fp32 products are as precise as a dtype says, whatever torch was told before."""
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
def products(dtype: str, device: str) -> Iterator[None]:
    """While it lasts, products are precise, and those of fp32 on a CPU come from oneDNN where that is faster."""
    with precise(dtype), OneDNN() if library(dtype, device) == "oneDNN" else nullcontext():
        yield


def library(dtype: str, device: str) -> str:
    """What computes the products: "oneDNN", or "torch" for whatever torch chooses by itself."""
    return "oneDNN" if dtype == "float32" and device == "cpu" and onednn_is_faster() else "torch"


@cache
def onednn_is_faster() -> bool:
    """Whether oneDNN multiplies fp32 matrices faster than torch's own choice, which is slow on some processors."""
    if not torch.backends.mkldnn.is_available():
        return False
    rows, width, out = TRIAL
    x, weight, bias = torch.randn(rows, width), torch.randn(out, width), torch.randn(out)
    with torch.inference_mode(), precise("float32"):
        return FASTER * seconds(lambda: onednn(x, weight, bias)) < seconds(lambda: linear(x, weight, bias))


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Seconds that some work takes, the best of several."""
    work()
    found = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return min(found)


def onednn(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """x times the transpose of weight, plus bias, by oneDNN; the operator that torch's own compiler emits.

    Views with gaps are copied: oneDNN would fall back to a loop for them, a hundred times slower.
    """
    if not weight.t().is_contiguous():
        weight = weight.contiguous()
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")
    return result


class OneDNN(TorchFunctionMode):
    """While it lasts, the products of linear layers on fp32 CPU tensors are oneDNN's."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is linear and fits(args, kwargs, 2, 3):
            return onednn(args[0], args[1], args[2] if len(args) == 3 else None)
        if func is torch.addmm and fits(args, kwargs, 3, 3) and args[0].ndim == 1:
            return onednn(args[1], args[2].t(), args[0])
        return func(*args, **(kwargs or {}))


def fits(args: tuple, kwargs: dict | None, least: int, most: int) -> bool:
    """Whether a product has nothing but fp32 CPU tensors, at least two rows deep, as arguments."""
    if kwargs or not least <= len(args) <= most:
        return False
    tensors = [each for each in args if each is not None]
    return all(each.device.type == "cpu" and each.dtype == torch.float32 and each.numel() for each in tensors)
