"""What a training changes: whole matrices, every parameter, or LoRA's thin factors; and the change it made."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.matrices import Matrix, matrix
from locate.training.four_bits import hold_in_four_bits
from locate.training.twin import twin

ALPHA = 2  # LoRA's alpha for each of its ranks, as its paper and the recipes for DPO have it
ADAPTER = "default"


@dataclass(frozen=True, eq=False)
class Trained:
    """A network that can be trained, and how it says what became of it.

    network  a twin of the model's (see `locate.training.twin`), in which everything but the scope is frozen
    lora     LoRA's configuration; None where parameters themselves are trained
    names    of the matrices that have a pair of factors, or of the parameters that are trained
    transposed  whether the model stores those matrices as [in, out]
    """

    network: Any
    lora: Any
    names: tuple[str, ...]
    transposed: bool = False


def linear_matrices(model: CausalModel) -> list[str]:
    """Names of all linear layers but the one that reads out the vocabulary."""
    head = model.network.get_output_embeddings()
    linear = (torch.nn.Linear, conv1d())
    return [name for name, module in model.network.named_modules() if type(module) in linear and module is not head]


def conv1d() -> type:
    """GPT-2's linear layer, which stores its weight as [in, out]."""
    from transformers.pytorch_utils import Conv1D

    kind: type = Conv1D
    return kind


def open_parameters(model: CausalModel, names: Sequence[str] | None) -> Trained:
    """A network whose parameters of these names are trained; None for every one."""
    known = [name for name, _ in model.network.named_parameters()]
    chosen = known if names is None else list(names)
    lacking = sorted(set(chosen) - set(known))
    if lacking:
        raise LocateError(
            f"model {model.name!r} has no parameter {lacking[0]!r} of its own (of {len(chosen)} asked for, "
            f"{len(lacking)} are missing): expected names as in its checkpoint"
        )
    return Trained(twin(model.network, chosen), None, tuple(chosen))


def open_lora(
    model: CausalModel, modules: Sequence[str], rank: int, dropout: float, seed: int, four_bits: bool = False
) -> Trained:
    """A network in which every one of these linear layers gets LoRA's two thin factors (Hu et al. 2021).

    four_bits  whether all linear layers but the one that reads out the vocabulary are held in four bits

    Raises LocateError where PEFT puts factors elsewhere, or fewer of them.
    """
    from peft import LoraConfig

    found = [matrix(model.network, name) for name in modules]
    kinds = {each.transposed for each in found}
    if len(kinds) != 1:
        raise LocateError(f"{len(modules)} matrices for LoRA: expected at least one, all stored alike")
    config = LoraConfig(
        r=rank,
        lora_alpha=ALPHA * rank,
        lora_dropout=dropout,
        target_modules=list(modules),
        fan_in_fan_out=kinds == {True} and not four_bits,  # which are held as [out, in]
        task_type="CAUSAL_LM",
    )
    body = twin(model.network)
    if four_bits:
        hold_in_four_bits(body, linear_matrices(model))
    network = add_lora(body, config, seed)
    check_matched(network, modules)
    return Trained(network, config, tuple(modules), kinds == {True})


def add_lora(network: Any, config: Any, seed: int) -> Any:
    """A network with LoRA's factors, drawn with a seed of their own."""
    from peft import get_peft_model

    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a property of transformers that PEFT reads
        torch.manual_seed(seed)
        return get_peft_model(network, config)


def factor_layers(network: Any) -> dict[str, Any]:
    """The layers of a network that have LoRA's factors, by the name they have without."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in network.named_modules()
        if hasattr(module, "lora_A") and hasattr(module, "base_layer")
    }


def check_matched(network: Any, asked: Sequence[str]) -> None:
    """Raise LocateError unless exactly the matrices that were asked for have LoRA's factors."""
    found, wanted = set(factor_layers(network)), set(asked)
    if found != wanted:
        odd = sorted(found ^ wanted)
        raise LocateError(
            f"LoRA was put on {len(found)} matrices, asked for were {len(wanted)}; the first that differs is {odd[0]}"
        )


Factors = tuple[torch.Tensor, ...]
"""what is added to a parameter: (change,) of its shape, or (left [row, rank], right [rank, column])"""


def changes_of(trained: Trained, before: Mapping[str, torch.Tensor]) -> dict[str, Factors]:
    """What training added to each parameter, by its name; parameters that stayed the same are left out.

    before  the model's parameters by name

    Whole changes are float64, so that adding them gives the trained parameter bit for bit; factors are as trained.

    Raises LocateError where something is no longer finite.
    """
    found = factor_changes(trained) if trained.lora is not None else whole_changes(trained, before)
    for name, factors in found.items():
        if not all(bool(factor.isfinite().all()) for factor in factors):
            raise LocateError(f"parameter {name} is no longer finite after training: choose a smaller rate")
    return found


def whole_changes(trained: Trained, before: Mapping[str, torch.Tensor]) -> dict[str, Factors]:
    """Trained parameters less the model's own."""
    now = dict(trained.network.named_parameters())
    return {
        name: (now[name].detach().double() - before[name].detach().double(),)
        for name in trained.names
        if not torch.equal(now[name].detach(), before[name].detach())
    }


def factor_changes(trained: Trained) -> dict[str, Factors]:
    """LoRA's products in the orientation in which each layer stores its weight."""
    found: dict[str, Factors] = {}
    for name, layer in factor_layers(trained.network).items():
        own = Matrix(name, layer.base_layer, trained.transposed)
        left: Float[torch.Tensor, "out rank"] = layer.lora_B[ADAPTER].weight.detach() * layer.scaling[ADAPTER]
        right: Float[torch.Tensor, "rank in"] = layer.lora_A[ADAPTER].weight.detach()
        if bool(left.any()):
            found[own.parameter] = (right.T, left.T) if own.transposed else (left, right)
    return found
