"""A checksum of a model's numbers as they are in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits_of(network: Any) -> int:
    """A checksum of all parameters, exact whatever the order of summing: networks that differ in one number have two.

    network  a torch module
    """
    return bits_in(dict(network.named_parameters()))


def bits_in(tensors: Mapping[str, torch.Tensor]) -> int:
    """The same of tensors by name."""
    found = 0
    for _, tensor in sorted(tensors.items()):
        bits = tensor.detach().contiguous().view(WHOLE[tensor.element_size()])
        found = (found * 1_000_003 + int(bits.sum(dtype=torch.int64))) % 2**64
    return found
