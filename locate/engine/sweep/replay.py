"""One block at a time: base runs that keep what a block was given, and blocks run again on the rows that changed.

Nothing here knows an architecture. A block is called as its own model called it, with the arguments of the base run cut
to the positions that are run again; a stand-in for the Hugging Face cache puts the base run's keys and values in front.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange, repeat
from jaxtyping import Float

from locate.engine.rows import Run, answers_in
from locate.engine.sweep.fused import OUTPUTS, SAME, Change, FusedBlock, Keys, fused
from locate.errors import LocateError
from locate.model.hooked import Model, own_forward

CACHES = ("past_key_values", "layer_past", "past_key_value")
WITH_POSITIONS = ("attention_mask", "position_ids", "position_embeddings", "cache_position")
BY_HEAD = ("alibi",)
UNCUT = ("position_bias",)  # by head and distance from the last key: a block cuts it to its keys itself


class KeysReady(Exception):
    """Raised to leave a block as soon as its keys and values are known."""


class Cache:
    """Takes the place of the model's cache: keeps a block's keys and values, and puts others in front of them.

    before  keys and values of earlier positions, or None
    stop    leave the block (KeysReady) when its keys and values are known
    """

    def __init__(self, before: Keys | None = None, stop: bool = False) -> None:
        self.before, self.stop = before, stop
        self.own: Keys | None = None

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_: Any, **__: Any) -> Keys:
        """All keys and values that the block attends to."""
        self.own = keys, values
        if self.stop:
            raise KeysReady
        if self.before is None:
            return keys, values
        return torch.cat([self.before[0], keys], 2), torch.cat([self.before[1], values], 2)

    def get_seq_length(self, *_: Any) -> int:
        """Number of positions in front."""
        return 0 if self.before is None else self.before[0].shape[2]


@dataclass(frozen=True, eq=False)
class BlockInputs:
    """A block, and what its model gives it besides the residual stream when it runs one prompt of a length.

    arguments      by name; tensors are those of one prompt
    cache_name     which of them is the cache
    returns_tuple  whether the block's output is the first of a tuple
    fused          the same block in few steps, where its numbers are the same
    """

    block: Any
    arguments: dict[str, Any]
    cache_name: str
    returns_tuple: bool
    fused: FusedBlock | None = None

    @property
    def rotary(self) -> tuple[torch.Tensor, ...]:
        """Its tables of rotary positions, if it is given any."""
        tables = self.arguments.get("position_embeddings")
        return tables if isinstance(tables, tuple) else () if tables is None else (tables,)

    def run(
        self, residual: Float[torch.Tensor, "row pos d_model"], first: int, before: Keys | None
    ) -> Float[torch.Tensor, "row pos d_model"]:
        """The block's output at positions `first` and up, given the keys and values of those before; hooks are run."""
        return self.call(residual, first, Cache(before))

    def takes(self, components: Iterable[str]) -> bool:
        """Whether it can be run in few steps when these are written inside it."""
        return self.fused is not None and all(component in OUTPUTS for component in components)

    def run_fused(
        self,
        residual: Float[torch.Tensor, "row pos d_model"],
        first: int,
        before: Keys | None,
        changes: Sequence[Change] = (),
    ) -> Float[torch.Tensor, "row pos d_model"]:
        """The block's output at positions `first` and up in few steps, with its outputs changed; no hook is run."""
        assert self.fused is not None
        end = first + residual.shape[1]
        mask = self.arguments["attention_mask"][:, :, first:end, :end]
        return self.fused.run(residual, mask, self.tables(first, end), before, changes)

    def tables(self, first: int, end: int) -> Any:
        """Its tables of rotary positions, cut to some positions; None where it is given none."""
        return cut_argument("position_embeddings", self.arguments.get("position_embeddings"), first, end, 1)

    def keys(self, residual: Float[torch.Tensor, "row pos d_model"], first: int) -> Keys:
        """Keys and values of positions `first` and up; attention and MLP are not run."""
        if self.fused is not None:
            return self.fused.keys(residual, self.tables(first, first + residual.shape[1]))
        cache = Cache(stop=True)
        with suppress(KeysReady):
            self.call(residual, first, cache)
        assert cache.own is not None
        return cache.own

    def call(self, residual: torch.Tensor, first: int, cache: Cache) -> torch.Tensor:
        """The block's output with a cache."""
        rows, end = residual.shape[0], first + residual.shape[1]
        arguments = {name: cut_argument(name, value, first, end, rows) for name, value in self.arguments.items()}
        output = self.block(residual, **arguments | {self.cache_name: cache})
        return output[0] if isinstance(output, tuple) else output


def with_fused(
    given: BlockInputs,
    residual: Float[torch.Tensor, "row pos d_model"],
    output: Float[torch.Tensor, "row pos d_model"],
    checked: dict[Any, FusedBlock | None],
) -> BlockInputs:
    """A block with itself in few steps beside it, where that gives the first of some rows the same output.

    In fp32 only: in other dtypes models take norms and softmax in fp32, which few steps would not.

    checked  what was found of blocks at prompts of other lengths; what is found is put there
    """
    mask = given.arguments.get("attention_mask")
    if residual.dtype != torch.float32 or len(given.rotary) not in (0, 2):
        return given
    if not isinstance(mask, torch.Tensor) or not mask.is_floating_point() or mask.shape[:2] != (1, 1):
        return given
    if given.block not in checked:
        checked[given.block] = quick = fused(given.block)
        if quick is not None:
            found = replace(given, fused=quick).run_fused(residual[:1], 0, None)
            if not (found - output[:1]).abs().max() <= SAME * (output - residual)[:1].abs().max():
                checked[given.block] = None
    return replace(given, fused=checked[given.block])


def one_prompt(name: str, value: Any, prompts: int) -> Any:
    """An argument of a block that ran several prompts of one length without padding, for one of them."""
    if isinstance(value, tuple):
        return tuple(one_prompt(name, each, prompts) for each in value)
    if name in BY_HEAD and value is not None:
        return value[: len(value) // prompts]
    if name in WITH_POSITIONS and value is not None and name != "cache_position":
        return value[:1]
    return value


def moved(value: Any, device: torch.device) -> Any:
    """An argument of a block on the block's own device: a model makes masks and tables once for all of its devices."""
    if isinstance(value, tuple):
        return tuple(moved(each, device) for each in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def cut_argument(name: str, value: Any, first: int, end: int, rows: int) -> Any:
    """An argument for one prompt, cut to the queries at positions `first` to `end`.

    A mask has a row for each query and a column for each key, and some models want it for each prompt. Position ids and
    rotary tables belong to the queries, since the keys before them are rotated already; one serves all rows. ALiBi
    holds a bias for each head and key, whichever the query; it is repeated, since heads and prompts share an axis.
    """
    if isinstance(value, tuple):
        return tuple(cut_argument(name, each, first, end, rows) for each in value)
    if value is None or name not in (*WITH_POSITIONS, *BY_HEAD):
        return value
    if name in BY_HEAD:
        return repeat(value, "head ... -> (row head) ...", row=rows)
    if name == "cache_position":
        return value[first:end]
    if name == "attention_mask":
        return repeat(value[:, :, first:end, :end], "1 head query key -> row head query key", row=rows)
    return value[:, first:end]


@contextmanager
def watching(
    model: Model, kept: Callable[[int, BlockInputs, Keys], None], checked: dict[Any, FusedBlock | None]
) -> Iterator[None]:
    """Inside the context every block that runs tells `kept` its layer, what it was given, and its keys and values.

    checked  see `with_fused`
    """
    blocks = list(model.blocks)
    caches: dict[int, Cache] = {}
    given: dict[int, tuple[dict[str, Any], str]] = {}

    def before(layer: int) -> Callable:
        def hook(block: Any, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            names, cache_name = signature(model, block)
            arguments = dict(zip(names[1:], args[1:], strict=False)) | kwargs
            caches[layer] = Cache()
            given[layer] = arguments, cache_name
            return args[:1], arguments | {cache_name: caches[layer]}

        return hook

    def after(layer: int) -> Callable:
        def hook(block: Any, args: tuple, output: Any) -> None:
            own = caches[layer].own
            if own is None:
                raise LocateError(
                    f"model {model.name!r} ({model.checkpoint.architecture}): block {layer} keeps no keys and values, "
                    "so it cannot be swept: choose --engine plain"
                )
            arguments, cache_name = given[layer]
            check_arguments(model, arguments, cache_name)
            here = model.device_of(layer)
            single = {name: moved(one_prompt(name, value, len(args[0])), here) for name, value in arguments.items()}
            known = BlockInputs(block, single, cache_name, isinstance(output, tuple))
            entering, leaving = args[0].to(here), output[0] if known.returns_tuple else output
            kept(layer, with_fused(known, entering, leaving, checked), own)

        return hook

    handles = [block.register_forward_pre_hook(before(i), with_kwargs=True) for i, block in enumerate(blocks)]
    handles += [block.register_forward_hook(after(i)) for i, block in enumerate(blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def signature(model: Model, block: Any) -> tuple[list[str], str]:
    """Names of a block's arguments, and of the one that is its cache."""
    names = list(inspect.signature(type(block.original_component).forward).parameters)[1:]  # without self
    cache = next((name for name in CACHES if name in names), None)
    if cache is None:
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}): its blocks take no cache ({', '.join(names)}), "
            "so they cannot be swept: choose --engine plain"
        )
    return names, cache


def check_arguments(model: Model, arguments: dict[str, Any], cache_name: str) -> None:
    """Raise LocateError for a tensor among a block's arguments that locate does not know how to cut."""
    for name, value in arguments.items():
        tensors = [each for each in (value if isinstance(value, tuple) else (value,)) if isinstance(each, torch.Tensor)]
        cuttable = name in (*WITH_POSITIONS, *BY_HEAD, *UNCUT, cache_name)
        if (tensors and not cuttable) or (name == "attention_mask" and any(each.ndim != 4 for each in tensors)):
            raise LocateError(
                f"model {model.name!r} ({model.checkpoint.architecture}): its blocks take {name!r} of shape "
                f"{tuple(tensors[0].shape)}, which locate cannot cut to some positions: choose --engine plain"
            )


def read_out(
    model: Model, residual: Float[torch.Tensor, "row d_model"], runs: Sequence[Run], returns_tuple: bool
) -> Float[np.ndarray, "row answer"]:
    """Each run's answers from final residual streams: the model itself runs, with blocks that pass them through.

    So the final norm, a projection, soft-capping or a scale are the model's own.
    """
    whole = rearrange(residual, "row d_model -> row 1 d_model")

    def through(*_: Any, **__: Any) -> Any:
        return (whole,) if returns_tuple else whole

    with ExitStack() as passing:
        for block in model.blocks:
            passing.enter_context(own_forward(block, through))
        return answers_in(model, torch.zeros(len(residual), 1, dtype=torch.long), runs)
