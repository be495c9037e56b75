"""Rows of tokens that begin alike: the beginning is run once, and the rest of each row attends to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int
from transformers.cache_utils import Cache, DynamicLayer

from locate.model.causal import CausalModel
from locate.model.likelihood import group_by_length, last_logits
from locate.model.products import precise

SHARED = 6  # first tokens by which rows are put together
FEWEST = 8  # rows that share them, so that a batch of their own pays


def batches_alike(rows: Sequence[Sequence[int]], size: int) -> Iterator[list[int]]:
    """Indices of rows of equal length, at most `size` at once; those that share a long beginning are by themselves."""
    for places in group_by_length(rows).values():
        counts = Counter(tuple(rows[place][:SHARED]) for place in places)
        groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for place in places:
            head = tuple(rows[place][:SHARED])
            groups[head if counts[head] >= FEWEST else ()].append(place)
        for group in groups.values():
            for first in range(0, len(group), size):
                yield group[first : first + size]


def shared_tokens(ids: Int[torch.Tensor, "row pos"], most: int) -> int:
    """How many first tokens all rows have in common, `most` at most; 0 for a single row, which shares with none."""
    if len(ids) == 1:
        return 0
    same = (ids[:, :most] == ids[:1, :most]).all(0).long()
    return int(same.cumprod(0).sum())


def run_beginning(model: CausalModel, ids: Int[torch.Tensor, "row pos"]) -> Cache | None:
    """Keys and values of tokens that all rows begin with, for each row; None where there are no tokens.

    Gradients do not flow into them.
    """
    if ids.shape[1] == 0:
        return None
    layers = [DynamicLayer() for _ in range(model.network.config.get_text_config().num_hidden_layers)]
    with torch.no_grad(), precise(model.dtype):
        last_logits(model, ids[:1], past_key_values=Cache(layers=list(layers)), use_cache=True)
    for layer in layers:
        for name in ("keys", "values"):  # an expanded tensor takes no more memory than one row
            setattr(layer, name, getattr(layer, name).expand(len(ids), -1, -1, -1))
    return Cache(layers=list(layers))
