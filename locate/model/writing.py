"""Text that a model writes by itself, token after token, with keys and values in memory that is laid out once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from transformers.cache_utils import Cache, DynamicLayer

from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import multiplying

BATCH = 64  # rows written at once


class RoomyLayer(DynamicLayer):
    """Keys and values of a layer, written into memory for `longest` positions instead of copied at every token."""

    def __init__(self, longest: int) -> None:
        super().__init__()
        self.longest = longest
        self.room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All keys and values so far, [row, kv_head, pos, width], with these behind them."""
        if self.room is None:
            self.lazy_initialization(key_states, value_states)
            self.room = self.laid_out(key_states), self.laid_out(value_states)
        first = self.get_seq_length()
        end = first + key_states.shape[-2]
        for place, new in zip(self.room, (key_states, value_states), strict=True):
            place[:, :, first:end] = new
        self.keys, self.values = (place[:, :, :end] for place in self.room)
        return self.keys, self.values

    def laid_out(self, like: torch.Tensor) -> torch.Tensor:
        """Memory for the longest row."""
        return like.new_empty(*like.shape[:2], self.longest, like.shape[-1])


def write_rows(
    model: CausalModel, rows: int, length: int, *, seed: int, step: Step = ignore_step
) -> Int[torch.Tensor, "row pos"]:
    """Rows of `length` tokens that the model writes after its start token, sampled at temperature 1.

    The first token of each is the start token. Nothing ends a row: what a model writes behind an end-of-text token is
    another text. The random numbers belong to row and position, so that the batch changes nothing but rounding.

    step  called with the number of tokens written
    """
    drawn = torch.rand(rows, length - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    written = torch.full((rows, length), model.start)
    for first in range(0, rows, BATCH):
        own = slice(first, first + BATCH)
        ids = written[own].to(model.device)
        layers = model.network.config.get_text_config().num_hidden_layers
        cache = Cache(layers=[RoomyLayer(length) for _ in range(layers)])
        for place in range(1, length):
            with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
                logits = last_logits(model, ids[:, place - 1 : place], past_key_values=cache, use_cache=True)[:, -1]
            ids[:, place] = draw_tokens(logits, drawn[own, place - 1])
            step(first * (length - 1) + place * len(ids), rows * (length - 1))
        written[own] = ids.cpu()
    return written


def draw_tokens(
    logits: Float[torch.Tensor, "row piece"], drawn: Float[torch.Tensor, " row"]
) -> Int[torch.Tensor, " row"]:
    """A token of each row's distribution: the first at which its cumulated probability exceeds a number in [0, 1)."""
    below = logits.float().softmax(-1).cumsum(-1, dtype=torch.float64)
    wanted = drawn.to(below)[:, None] * below[:, -1:]
    return torch.searchsorted(below, wanted, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
