"""Frozen matrices held in four bits while LoRA's factors are trained beside them (QLoRA, Dettmers et al. 2023)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from locate.errors import LocateError
from locate.model.quantised import BLOCK, QuantisedLinear

NO_INSTALL = 'four bits need the package bitsandbytes: pip install "locate-bias[qlora]", or leave them out'


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
        setattr(parent, own, QuantisedLinear(weight, layer.bias, 4))
