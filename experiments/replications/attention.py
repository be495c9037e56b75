"""Continuations scored while heads attend as they do after another prompt: the mediator of Vig et al. 2020, section 4.

The weights of a head are replaced among the prompt's own positions alone. The continuation's positions attend as the
run itself makes them: the other run has no such positions, since it is the prompt by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from locate.errors import LocateError
from locate.evaluation.readers import Continuations
from locate.model.hooked import Model
from locate.model.products import multiplying

Heads = frozenset[tuple[int, int]]
"""heads that are replaced together: (layer, head) each"""

ROWS = 64
"""runs at once, at most"""


@dataclass(frozen=True)
class Coded:
    """An example as token ids; both prompts have as many.

    female, male        the prompts
    of_female, of_male  the continuations
    """

    female: tuple[int, ...]
    male: tuple[int, ...]
    of_female: tuple[int, ...]
    of_male: tuple[int, ...]


def coded(model: Model, example: Continuations) -> Coded:
    """An example as the model's tokenizer reads it.

    Raises LocateError saying why it cannot be used.
    """
    female, male = (tuple(model.encode(text)[0]) for text in (example.female, example.male))
    if len(female) != len(male):
        raise LocateError("the two pronouns fall into different numbers of tokens")
    ends = []
    for text in (example.of_female, example.of_male):
        after = [tuple(model.encode(prompt + text)[0]) for prompt in (example.female, example.male)]
        if any(ids[: len(female)] != prompt for ids, prompt in zip(after, (female, male), strict=True)):
            raise LocateError("a token reaches from the prompt into the continuation")
        if after[0][len(female) :] != after[1][len(male) :]:
            raise LocateError("a continuation has other tokens after the other pronoun")
        ends.append(after[0][len(female) :])
    return Coded(female, male, *ends)


def singly(n_layers: int, n_heads: int) -> list[Heads]:
    """Every head by itself, in order of layer and head."""
    return [frozenset({(layer, head)}) for layer in range(n_layers) for head in range(n_heads)]


def by_layer(n_layers: int, n_heads: int) -> list[Heads]:
    """All heads of each layer."""
    return [frozenset((layer, head) for head in range(n_heads)) for layer in range(n_layers)]


def everywhere(n_layers: int, n_heads: int) -> Heads:
    """All heads of the model."""
    return frozenset(head for heads in by_layer(n_layers, n_heads) for head in heads)


def patterns(model: Model, prompts: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    """Attention weights of prompts of one length, one tensor a layer: [prompt, head, query, key]."""
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable:
        def hook(pattern: torch.Tensor, hook: Any) -> None:
            seen[layer] = pattern.detach().clone()

        return hook

    hooks = [(model.hook("pattern", layer), keep(layer)) for layer in range(model.n_layers)]
    with model.hooked(hooks), torch.inference_mode():
        model.logits(torch.tensor(prompts))
    return [seen[layer] for layer in range(model.n_layers)]


def writing(model: Model, sets: Sequence[Heads], source: Sequence[torch.Tensor]) -> list[tuple[str, Callable]]:
    """Hooks that write the source's weights into the heads of each row's set; source is [head, query, key] a layer."""

    def write(layer: int, rows: list[int], heads: list[int]) -> Callable:
        def hook(pattern: torch.Tensor, hook: Any) -> torch.Tensor:
            own = source[layer].shape[-1]
            changed = pattern.clone()
            changed[rows, heads, :own, :own] = source[layer][heads]
            return changed

        return hook

    hooks = []
    for layer in range(model.n_layers):
        places = [(row, head) for row, heads in enumerate(sets) for at, head in sorted(heads) if at == layer]
        if places:
            rows, heads = (list(each) for each in zip(*places, strict=True))
            hooks.append((model.hook("pattern", layer), write(layer, rows, heads)))
    return hooks


def scores(
    model: Model, prompt: Sequence[int], end: Sequence[int], sets: Sequence[Heads], source: Sequence[torch.Tensor]
) -> np.ndarray:
    """Mean log-probability (nats) of a continuation's tokens, one number for each set of heads that is replaced."""
    ids = torch.tensor([[*prompt, *end[:-1]]])
    found = []
    for start in range(0, len(sets), ROWS):
        some = sets[start : start + ROWS]
        with model.hooked(writing(model, some, source)), torch.inference_mode():
            logits = model.logits(ids.expand(len(some), -1))[:, len(prompt) - 1 :]
            chosen = torch.tensor(end, device=logits.device)[None, :, None].expand(len(some), -1, 1)
            logs = logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1).gather(-1, chosen)
        found.append(logs[..., 0].double().mean(1).cpu().numpy())
    return np.concatenate(found)


def measure(model: Model, example: Coded, sets: Sequence[Heads]) -> np.ndarray:
    """Mean log-probabilities of both continuations after both prompts, with each set of heads taken from the other one.

    sets  the empty set is the prompt as it is

    Returns [prompt (female, male), set, continuation (of female, of male)], nats.
    """
    prompts = (example.female, example.male)
    with multiplying(model.dtype, model.device, model.threads):
        weights = patterns(model, prompts)
        return np.stack(
            [
                np.stack(
                    [
                        scores(model, prompts[base], end, sets, [layer[1 - base] for layer in weights])
                        for end in (example.of_female, example.of_male)
                    ],
                    axis=-1,
                )
                for base in (0, 1)
            ]
        )
