"""A second body for a model: own modules and configuration, the same tensors, so that training leaves no trace."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def twin(network: Any, own: Collection[str] = ()) -> Any:
    """A copy of a network's modules that shares its tensors; what a trainer puts on it, the network never sees.

    own  parameters that get tensors of their own, which can be trained; the others are frozen

    Tied parameters stay tied. Dropout is left out: what is trained is compared with the network as it answers.
    """
    names = {id(tensor): name for name, tensor in network.named_parameters()}  # each tensor once, tied or not
    wanted = set(own)
    memo: dict[int, Any] = {}
    for tensor in network.parameters():
        mine = names[id(tensor)] in wanted
        data = tensor.detach().clone() if mine else tensor.detach()
        memo[id(tensor)] = torch.nn.Parameter(data, requires_grad=mine)
    memo |= {id(tensor): tensor for tensor in network.buffers()}
    made = copy.deepcopy(network, memo)
    for holder in (*made.modules(), made.config, made.config.get_text_config()):
        switch_off_dropout(holder)
    return made


def switch_off_dropout(holder: Any) -> None:
    """Set the rates of a module or a configuration to 0: a layer's own, and those that a module keeps as numbers."""
    if isinstance(holder, torch.nn.Dropout):
        holder.p = 0.0
    for name, value in list(vars(holder).items()):
        if isinstance(value, float) and ("dropout" in name or "layerdrop" in name or name.endswith("pdrop")):
            setattr(holder, name, 0.0)


@contextmanager
def own_surroundings(**environment: str) -> Iterator[None]:
    """Inside the block random numbers, the environment and torch's flags may be changed; afterwards they are as before.

    environment  variables that are set inside
    """
    states = random.getstate(), np.random.get_state(), dict(os.environ)
    flags = torch.is_grad_enabled(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.update(environment)
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        for name in os.environ.keys() - states[2].keys():
            del os.environ[name]
        os.environ.update(states[2])
        torch.set_grad_enabled(flags[0])
        torch.use_deterministic_algorithms(flags[1])
        torch.backends.cudnn.benchmark = flags[2]
