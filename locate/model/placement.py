"""Where a model's blocks are: on one device, or spread over several GPUs by accelerate."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from locate.errors import LocateError
from locate.model.checkpoint import Checkpoint
from locate.model.memory import WORKING_SHARE
from locate.model.quantised import quantise
from locate.sites import check

MAPS = ("auto", "balanced")
"""two names of one way, as in transformers: as evenly as blocks of a size allow"""


@dataclass(frozen=True)
class Placement:
    """Where a model is held, and in how many bits.

    device      of the whole model; with a map, that on which matrices are packed
    device_map  how it is spread over all GPUs, None for the one device
    quantise    bits of its matrices, None for full weights
    """

    device: str
    device_map: str | None = None
    quantise: int | None = None

    @property
    def first(self) -> str:
        """The device that the weights are read into: the CPU where they are packed or spread before they are used."""
        return self.device if self.device_map is None and self.quantise is None else "cpu"

    def place(self, network: Any, name: str, whole: Collection[str] = ()) -> None:
        """Pack a network that is where `first` says, and put it where it is used, in place.

        name   of the model, for messages
        whole  layers that are not packed where others are, but rounded as if they were

        Raises LocateError when it does not fit there, or cannot be packed.
        """
        if self.quantise is not None:
            quantise(network, self.quantise, self.device, whole)
        if self.device_map is not None:
            spread(network, name)
        elif self.quantise is not None:
            check_room(f"model {name!r} in {self.quantise} bits", bytes_of(network), network.dtype, self.device)
            torch.nn.Module.to(network, self.device)


def check_device_map(device_map: str | None, device: str | None) -> None:
    """Raise LocateError for a map that is unknown, contradicts a device, or has no GPU to spread a model over."""
    if device_map is None:
        return
    check("device_map", device_map, MAPS)
    if device is not None:
        raise LocateError(f"device {device!r} with device_map {device_map!r}: the map chooses devices: leave one out")
    if not torch.cuda.is_available():
        raise LocateError(
            f"device_map {device_map!r} spreads a model over CUDA GPUs, and torch finds none here: leave it out, or "
            "run on a machine with GPUs"
        )


def check_memory(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
    """Raise LocateError when the weights will not fit in the free memory."""
    size = checkpoint.parameters * torch.empty(0, dtype=dtype).element_size()
    check_room(f"model in {checkpoint.folder}", size, dtype, device)


def check_room(what: str, size: int, dtype: torch.dtype, device: str) -> None:
    """Raise LocateError when weights of `size` bytes, with what runs besides, will not fit a device."""
    needed = size * WORKING_SHARE
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if needed > free:
        raise LocateError(
            f"{what} needs about {needed / 2**30:.1f} GiB in {dtype} on {device}, where "
            f"{free / 2**30:.1f} GiB are free: choose --dtype bfloat16, another device, or a smaller model"
        )


def bytes_of(network: Any) -> int:
    """Bytes of a network's parameters and buffers, those that are shared once."""
    return sum(each.nbytes for each in (*network.parameters(), *network.buffers()))


def spread(network: Any, name: str) -> None:
    """Spread a network that is in the CPU's memory over all GPUs, its blocks whole; accelerate moves what passes them.

    name  of the model, for the message

    Raises LocateError when it does not fit the GPUs' free memory.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    whole = list(network._no_split_modules or ())
    free = {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}
    room = {index: int(each / WORKING_SHARE) for index, each in free.items()}
    even = get_balanced_memory(network, dict(room), no_split_module_classes=whole)
    found = infer_auto_device_map(network, max_memory=even, no_split_module_classes=whole)
    if any(not isinstance(place, int) for place in found.values()):
        raise LocateError(
            f"model {name!r} needs about {bytes_of(network) * WORKING_SHARE / 2**30:.1f} GiB, and the {len(free)} GPUs "
            f"have {sum(free.values()) / 2**30:.1f} GiB free, in which its blocks do not fit whole: choose --dtype "
            "bfloat16, --quantise 8 or 4, or more GPUs (none of it is left on the CPU)"
        )
    dispatch_model(network, found, skip_keys=network._skip_keys_device_placement)


def input_device(network: Any) -> str:
    """The device that takes the token ids: that of the embedding."""
    return str(network.get_input_embeddings().weight.device)
