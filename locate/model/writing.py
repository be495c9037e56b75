"""Text that a model writes by itself, token after token, with keys and values in memory that is laid out once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from transformers.cache_utils import Cache, DynamicLayer

from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import multiplying
from locate.model.quiet import quiet_transformers

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
    No trial of speed chooses how products are computed, so that the same machine writes the same text again.

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
            with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads, timed=False):
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


def write_answers(
    model: CausalModel, rows: Sequence[Sequence[int]], *, tokens: Sequence[int], ends: Sequence[int]
) -> list[list[int]]:
    """What the model writes behind each row of ids: the likeliest token each time, until one that ends an answer.

    tokens  largest number of them for each row
    ends    ids at which an answer ends; none of them is in what is returned

    An answer that was cut has as many tokens as its row allows. Written with transformers' own `generate`, without
    what the checkpoint says about sampling and penalties. Rows are padded in front, so that rounding, and with it a
    choice between two tokens that are equally likely, depends on what is in a batch.
    """
    from transformers import GenerationConfig

    longest = max(len(row) for row in rows)
    ids = torch.tensor([[ends[0]] * (longest - len(row)) + list(row) for row in rows], device=model.device)
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows], device=model.device)
    how = GenerationConfig(
        do_sample=False, max_new_tokens=max(tokens), eos_token_id=list(ends), pad_token_id=ends[0], use_cache=True
    )
    own = model.network.generation_config
    model.network.generation_config = GenerationConfig()
    try:
        with quiet_transformers(), torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
            written = model.network.generate(ids, attention_mask=mask, generation_config=how)
    finally:
        model.network.generation_config = own
    return [until_end(answer[:most], ends) for answer, most in zip(written[:, longest:].tolist(), tokens, strict=True)]


def until_end(ids: Sequence[int], ends: Sequence[int]) -> list[int]:
    """The ids before the first that ends an answer."""
    place = next((i for i, each in enumerate(ids) if each in ends), len(ids))
    return list(ids[:place])
