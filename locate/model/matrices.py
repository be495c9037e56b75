"""Weight matrices of a Hugging Face model by module name, seen as [out, in] however the layer stores them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError

WIDTHS = ("n_inner", "intermediate_size", "ffn_dim", "ffn_hidden_size")
NO_ACTIVATION = (torch.nn.Dropout, torch.nn.Identity)


@dataclass(frozen=True, eq=False)
class Matrix:
    """The weight of one linear layer.

    name        of the module, "transformer.h.0.mlp.c_proj"
    module      the layer itself
    transposed  True where the layer stores [in, out], as GPT-2's Conv1D does
    """

    name: str
    module: Any
    transposed: bool

    @property
    def parameter(self) -> str:
        """Name of its weight among the model's parameters."""
        return f"{self.name}.weight"

    @property
    def shape(self) -> tuple[int, int]:
        """Width of its output, and of its input."""
        rows, columns = self.module.weight.shape
        return (int(columns), int(rows)) if self.transposed else (int(rows), int(columns))

    @property
    def weight(self) -> Float[torch.Tensor, "out in"]:
        """A float64 copy of the weight."""
        stored = self.module.weight.detach().double()
        return stored.T if self.transposed else stored

    def stored(self, matrix: Float[torch.Tensor, "out in"]) -> Float[torch.Tensor, "row column"]:
        """A matrix in the orientation in which this layer stores its weight."""
        return matrix.T if self.transposed else matrix


def matrix(network: Any, name: str) -> Matrix:
    """The linear layer of that name.

    Raises LocateError when the model has no such module, or it is not a plain linear layer.
    """
    try:
        module = network.get_submodule(name)
    except AttributeError:
        raise LocateError(
            f"module {name!r} is not in the model ({type(network).__name__}): expected a located.json that was traced "
            "in this model"
        ) from None
    kind = type(module).__name__
    if type(module) is not torch.nn.Linear and kind != "Conv1D":
        raise LocateError(f"module {name!r} is a {kind}: expected a plain linear layer, whose weight can be edited")
    return Matrix(name, module, kind == "Conv1D")


def siblings(network: Any, name: str, times: int = 1) -> list[Matrix]:
    """The linear layers beside one, whose outputs are as wide as its input: what feeds an MLP's output matrix.

    times  how many times as wide: 2 where one layer makes gate and factor
    """
    width = times * matrix(network, name).shape[1]
    parent, _, own = name.rpartition(".")
    found = []
    for child, module in network.get_submodule(parent).named_children():
        linear = type(module) is torch.nn.Linear or type(module).__name__ == "Conv1D"
        if child != own and linear:
            beside = matrix(network, f"{parent}.{child}" if parent else child)
            if beside.shape[0] == width:
                found.append(beside)
    return found


def activation(network: Any, name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The activation function of a model's MLPs: that of its configuration, else the MLP's own module.

    name  of an MLP's output matrix; BLOOM and MPT have a module beside it and nothing in the configuration

    Raises LocateError where there is neither.
    """
    from transformers.activations import ACT2FN

    names = ("hidden_act", "activation_function", "hidden_activation", "ffn_act")
    said = next((getattr(network.config, name) for name in names if getattr(network.config, name, None)), None)
    if said in ACT2FN:
        function: Callable[[torch.Tensor], torch.Tensor] = ACT2FN[said]
        return function
    beside = network.get_submodule(name.rpartition(".")[0]).children()
    own = [each for each in beside if not list(each.parameters()) and not isinstance(each, NO_ACTIVATION)]
    if len(own) != 1:
        raise LocateError(
            f"the configuration of {type(network).__name__} names no activation of its MLPs (found {said!r}), and "
            f"{len(own)} modules beside {name} could be it: expected one of {', '.join(names)}, or one module"
        )
    return own[0]


def wider_config(network: Any, more: int) -> Any:
    """The configuration of the same model with that many more units in each MLP; None where it names no width."""
    config = copy.deepcopy(network.config)
    name = next((each for each in WIDTHS if hasattr(config, each)), None)
    if name is None:
        return None
    usual = 4 * int(getattr(config, "hidden_size", 0) or getattr(config, "n_embd", 0))
    setattr(config, name, int(getattr(config, name) or usual) + more)
    return config


def has_config_width(network: Any, names: Sequence[str], more: int) -> bool:
    """Whether the architecture takes the width of its MLPs from its configuration; BLOOM's may name one that is unused.

    names  of the MLPs' output matrices
    """
    config = wider_config(network, more)
    if config is None:
        return False
    with torch.device("meta"):
        built = type(network)(config)
    return all(matrix(built, name).shape[1] == matrix(network, name).shape[1] + more for name in names)


def widen(network: Any, more: int, tensors: Callable[[str, torch.Tensor], torch.Tensor]) -> Any:
    """The same model with wider MLPs, as its configuration describes them.

    more     units added to every MLP
    tensors  (parameter name, its tensor) -> its tensor in the wider model

    Raises LocateError where the configuration has no width of the MLPs.
    """
    from transformers import AutoModelForCausalLM

    config = wider_config(network, more)
    if config is None:
        raise LocateError(f"{type(network).__name__} has no MLP width: expected one of {', '.join(WIDTHS)}")
    wide = AutoModelForCausalLM.from_config(config).to(network.dtype).to(network.device).eval().requires_grad_(False)
    state = {key: tensors(key, tensor) for key, tensor in network.state_dict().items()}
    wide.load_state_dict(state)
    wide.generation_config = copy.deepcopy(network.generation_config)
    return wide
