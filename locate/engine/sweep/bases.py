"""The unpatched runs of a chunk: what rows start from, attend to, and take their values from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Int

from locate.engine.rows import Key, Limits, Run, answers_of, batches_by_length, explaining_out_of_memory, noise_hooks
from locate.engine.sweep.fused import FusedBlock
from locate.engine.sweep.replay import BlockInputs, Keys, watching
from locate.model.hooked import Model
from locate.model.memory import LEAST
from locate.sites import PATTERN

KEPT_SHARE = 0.5  # of the memory, for what is kept of runs; the rest is for what is under way


@dataclass(frozen=True, eq=False)
class Bases:
    """Everything kept of some runs; shorter runs are padded with zeros, which nothing reads.

    log_probs   of each run's answers, nats
    activation  by component and layer: [run, pos, ...], on the device of the layer
    keys        by layer: keys and values of every position, there too
    given       by number of tokens and layer: how a block is called
    """

    runs: Sequence[Run]
    log_probs: Float[np.ndarray, "run answer"]
    activation: dict[Key, torch.Tensor] = field(default_factory=dict)
    keys: dict[int, Keys] = field(default_factory=dict)
    given: dict[int, dict[int, BlockInputs]] = field(default_factory=dict)

    @property
    def few_steps(self) -> int:
        """Number of layers whose blocks may be run in few steps, at all of the lengths."""
        every = list(self.given.values())
        return sum(all(given[layer].fused is not None for given in every) for layer in every[0])

    def same_positions(self, one: int, other: int) -> bool:
        """Whether prompts of two lengths number their common positions alike; some rotary tables do not."""
        common = min(one, other)
        for layer, ours in self.given[one].items():
            pairs = zip(ours.rotary, self.given[other][layer].rotary, strict=True)
            if not all(torch.equal(a[:, :common], b[:, :common]) for a, b in pairs):
                return False
        return True


def execute_bases(model: Model, runs: Sequence[Run], wanted: Iterable[Key], limits: Limits) -> Bases:
    """Run every prompt once, keeping the wanted activations, all residual streams, keys and values."""
    bases = Bases(runs, np.empty((len(runs), len(runs[0].answers))))
    longest = max(len(run.ids) for run in runs)
    names = sorted({*wanted, *(("resid_pre", layer) for layer in range(model.n_layers))})

    def into(kept: torch.Tensor | None, batch: Sequence[int], value: torch.Tensor, axis: int) -> torch.Tensor:
        """A tensor over all runs with the values of a batch filled in; positions stand on `axis`."""
        if kept is None:
            shape = list(value.shape)
            shape[0], shape[axis] = len(runs), longest
            kept = value.new_zeros(shape)
        kept.narrow(axis, 0, value.shape[axis])[list(batch)] = value
        return kept

    def keep(key: Key, batch: Sequence[int]) -> Callable:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            value = by_query(activation, longest) if key[0] == PATTERN else activation
            here = model.device_of(key[1])  # what enters the first block on a device comes from the one before
            bases.activation[key] = into(bases.activation.get(key), batch, value.to(here), 1)

        return hook

    checked: dict[Any, FusedBlock | None] = {}
    working = replace(limits, memory=max(LEAST, int(limits.memory * (1 - KEPT_SHARE))))
    for batch in batches_by_length(runs, lambda run: len(run.ids), model, working):
        chosen = [runs[i] for i in batch]

        def arrived(layer: int, given: BlockInputs, keys: Keys, batch: Sequence[int] = batch) -> None:
            bases.given.setdefault(len(runs[batch[0]].ids), {})[layer] = given
            old = bases.keys.get(layer, (None, None))
            bases.keys[layer] = into(old[0], batch, keys[0], 2), into(old[1], batch, keys[1], 2)

        keepers = [(model.hook(*key), keep(key, batch)) for key in names]
        with (
            model.hooked(noise_hooks(chosen) + keepers),
            watching(model, arrived, checked),
            explaining_out_of_memory(len(batch)),
        ):
            bases.log_probs[batch] = answers_of(model, chosen)
    return bases


def by_query(
    pattern: Float[torch.Tensor, "run head query key"], longest: int
) -> Float[torch.Tensor, "run query head longest"]:
    """Attention weights with their positions in front, padded to the keys of the longest run."""
    in_front = rearrange(pattern, "run head query key -> run query head key")
    return torch.nn.functional.pad(in_front, (0, longest - pattern.shape[-1]))


def keys_of(bases: Bases, layer: int, base: Int[torch.Tensor, " row"], first: int) -> Keys | None:
    """Keys and values of the positions before `first` in each row's base run."""
    if first == 0:
        return None
    keys, values = bases.keys[layer]
    return keys[base, :, :first], values[base, :, :first]


def run_bytes(model: Model, wanted: Iterable[Key], tokens: int) -> int:
    """Bytes that are kept of a run padded to `tokens`: residual streams, keys, values, and the wanted activations."""
    widths = {"head": model.n_heads * model.d_head, "neuron": model.d_mlp, PATTERN: model.n_heads * tokens}
    always = model.n_layers * (model.d_model + 2 * model.n_kv_heads * model.d_head)
    width = always + sum(widths.get(component, model.d_model) for component, _ in wanted if component != "resid_pre")
    return model.number_bytes * tokens * width
