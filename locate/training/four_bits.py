"""Frozen matrices held in four bits while LoRA's factors are trained beside them (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from locate.errors import LocateError
from locate.model.quantised import BLOCK

NO_INSTALL = 'four bits need the package bitsandbytes: pip install "locate-bias[qlora]", or leave them out'


class Product(torch.autograd.Function):
    """x times the transpose of a matrix in four bits, which is unpacked for the product and again for its gradient."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, packed: torch.Tensor, state: Any, bias: torch.Tensor | None) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        ctx.packed, ctx.state = packed, state
        return torch.nn.functional.linear(x, unpacked(packed, state), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """[..., out] -> [..., in]; nothing else is trained."""
        return gradients[0] @ unpacked(ctx.packed, ctx.state), None, None, None


class FourBitLinear(torch.nn.Linear):
    """A frozen linear layer whose weight is packed into four bits (nf4, with scales that are quantised too)."""

    def __init__(self, weight: torch.Tensor, bias: torch.nn.Parameter | None) -> None:
        """Take the place of a layer with this weight, [out, in]."""
        from bitsandbytes.functional import quantize_4bit

        out, into = weight.shape
        super().__init__(into, out, bias=False, device="meta")
        packed, self.state = quantize_4bit(
            weight.contiguous(), blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        self.weight = torch.nn.Parameter(packed, requires_grad=False)
        self.register_parameter("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        product: torch.Tensor = Product.apply(x, self.weight, self.state, self.bias)
        return product


def unpacked(packed: torch.Tensor, state: Any) -> torch.Tensor:
    """A matrix out of its four bits, in the dtype that it had."""
    from bitsandbytes.functional import dequantize_4bit

    matrix: torch.Tensor = dequantize_4bit(packed, state)
    return matrix


def hold_in_four_bits(network: Any, names: Sequence[str]) -> None:
    """Replace linear layers of a network by ones in four bits, in place.

    The network has to be a twin: what it shares with its model is not touched.

    Raises LocateError without bitsandbytes, and for rows that are no whole number of blocks: on a CPU version 0.50
    rounds those to more than twice the error of others.
    """
    try:
        import bitsandbytes.functional  # noqa: F401
    except ImportError:
        raise LocateError(NO_INSTALL) from None
    for name in names:
        holder, _, own = name.rpartition(".")
        parent = network.get_submodule(holder)
        layer = getattr(parent, own)
        weight = layer.weight.detach() if isinstance(layer, torch.nn.Linear) else layer.weight.detach().T
        if weight.shape[1] % BLOCK:
            raise LocateError(
                f"{name} has rows of {weight.shape[1]} numbers, which bitsandbytes rounds wrongly: four bits need a "
                f"multiple of {BLOCK}: leave them out"
            )
        setattr(parent, own, FourBitLinear(weight, layer.bias))
