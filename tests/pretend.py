"""GPUs that are not there: tensors in the CPU's memory that say they are on one, and refuse to meet those of another.

What moves between devices, and what is made on which, is followed through every function of torch that is called; two
devices in one operation are an error, as they are on real GPUs. No number changes. Kernels, speed and the memory that a
GPU takes are not pretended.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

CPU = torch.device("cpu")
INDEXING = (torch.Tensor.__getitem__, torch.Tensor.__setitem__)
COMPARING = (torch._has_compatible_shallow_copy_type, torch.Tensor.copy_)
TO_HOST = (torch.Tensor.numpy, torch.Tensor.__array__)
MEMORY = 8 * 2**30


def place_of(tensor: torch.Tensor) -> torch.device:
    """Where a tensor says it is."""
    found: torch.device = vars(tensor).get("pretended", CPU)
    return found


def device_named(name: Any) -> torch.device:
    """A device by name or number; "cuda" is its first GPU."""
    device = torch.device("cuda", name) if isinstance(name, int) else torch.device(name)
    return torch.device("cuda", 0) if device.type == "cuda" and device.index is None else device


def is_device(value: Any) -> bool:
    """Whether an argument of `to` is a device."""
    return isinstance(value, str | int | torch.device) and not isinstance(value, bool)


class PretendDevices(TorchFunctionMode):
    """Inside the block tensors may be on GPUs that are not there.

    moves  how many tensors were moved from one device to another, by (from, to)
    """

    def __init__(self) -> None:
        super().__init__()
        self.moves: dict[tuple[str, str], int] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.device:
            return device_named(args[0]) if len(args) == 1 and isinstance(args[0], int) else func(*args, **kwargs)
        if func is torch._C._nn._parse_to:
            return func(*(device_named(each) if is_device(each) else each for each in args), **kwargs)
        if func == torch.Tensor.device.__get__:  # made anew each time
            return place_of(args[0])
        if func == torch.Tensor.data.__set__:
            args[0].pretended = place_of(args[1])
            return func(*args)
        if func in (torch.Tensor.to, torch.Tensor.cpu):
            return self.moved(func, args, kwargs)
        if kwargs.get("device") is not None:
            place = device_named(kwargs["device"])
            return marked(func(*args, **kwargs | {"device": CPU}), place)
        place = common_place(func, args, kwargs)
        if func in TO_HOST and place != CPU:
            raise TypeError(f"can't convert {place} device type tensor to numpy")
        return marked(func(*args, **kwargs), place)

    def moved(self, func: Any, args: tuple, kwargs: dict) -> torch.Tensor:
        """A tensor moved as `to` or `cpu` would; a copy where it goes elsewhere."""
        tensor, before, target = args[0], place_of(args[0]), None
        if func is torch.Tensor.cpu:
            target = CPU
        elif isinstance(args[1] if len(args) > 1 else None, torch.Tensor):
            target = place_of(args[1])
        else:
            named = [each for each in (*args[1:], kwargs.get("device")) if is_device(each)]
            target = device_named(named[0]) if named else before
            args = (tensor, *(CPU if is_device(each) else each for each in args[1:]))
            kwargs = kwargs | ({"device": CPU} if kwargs.get("device") is not None else {})
        found = func(*args, **kwargs)
        if target == before:
            return marked(found, before)
        key = str(before), str(target)
        self.moves[key] = self.moves.get(key, 0) + 1
        return marked(found.clone() if found is tensor else found, target)


def common_place(func: Any, args: tuple, kwargs: dict) -> torch.device:
    """The one device of everything that an operation is given."""
    given = list(tensors_in((*args, *kwargs.values())))
    if func in COMPARING:
        return place_of(args[0])
    if func in INDEXING:  # indices may be in the CPU's memory
        inside = list(tensors_in(args[1:2]))
        given = [each for each in given if place_of(each) != CPU or not any(each is other for other in inside)]
    places = {place_of(each) for each in given if each.ndim or place_of(each) != CPU}
    if len(places) > 1:
        raise RuntimeError(f"{func} met tensors on {' and '.join(sorted(map(str, places)))}")
    return places.pop() if places else CPU


def tensors_in(values: Iterable[Any]) -> Iterator[torch.Tensor]:
    """The tensors among some values, those in tuples and lists too."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from tensors_in(value)


def marked(found: Any, place: torch.device) -> Any:
    """What an operation returned, said to be on a device."""
    for each in tensors_in((found,)):
        if place_of(each) != place:
            each.pretended = place
    return found


@contextmanager
def pretending(count: int = 2) -> Iterator[PretendDevices]:
    """Inside the block torch has so many GPUs."""
    made = torch.nn.Parameter.__new__

    def parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        found = made(cls, data, requires_grad)
        return found if data is None else marked(found, place_of(data))

    with pytest.MonkeyPatch.context() as patch, PretendDevices() as devices:
        patch.setattr(torch.nn.Parameter, "__new__", parameter)
        patch.setattr(torch._C, "DisableTorchFunction", nullcontext)
        patch.setattr(torch.cuda, "is_available", lambda: True)
        patch.setattr(torch.cuda, "device_count", lambda: count)
        patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (MEMORY, MEMORY))
        patch.setattr(torch.cuda, "max_memory_allocated", lambda device=None: 1)
        yield devices
