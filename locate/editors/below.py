"""What enters a block of a network, kept by batch, so that the blocks below it run once for each batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch


class KeptBelow:
    """The results of the last of some blocks, by the tokens that were read, while nothing in or below it changes.

    blocks  Hugging Face names, from the lowest on; none where nothing is to be kept
    """

    def __init__(self, network: Any, blocks: Sequence[str]) -> None:
        self.modules = [network.get_submodule(name) for name in blocks]
        self.results: dict[tuple[torch.Size, bytes], Any] = {}

    @contextmanager
    def skipped(self, ids: torch.Tensor) -> Iterator[None]:
        """Inside the block a pass over these tokens leaves the kept blocks out where it is not the first one.

        Gradients do not flow into what is below.
        """
        key = ids.shape, ids.cpu().numpy().tobytes()
        if not self.modules:
            yield
        elif key in self.results:
            with returning(self.modules, self.results[key]):
                yield
        else:
            hook = self.modules[-1].register_forward_hook(lambda _, __, result: self.results.update({key: cut(result)}))
            try:
                yield
            finally:
                hook.remove()


@contextmanager
def returning(modules: Sequence[Any], result: Any) -> Iterator[None]:
    """Inside the block all of these modules return one result, and compute nothing."""
    try:
        for module in modules:
            module.forward = lambda *_, **__: result
        yield
    finally:
        for module in modules:
            del module.forward


def cut(result: Any) -> Any:
    """A block's result, a tensor or a tuple of them, cut off from what made it."""
    if isinstance(result, tuple):
        return tuple(cut(each) for each in result)
    return result.detach() if isinstance(result, torch.Tensor) else result
