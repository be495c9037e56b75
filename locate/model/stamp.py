"""A stamp: a small network beside one MLP (FAST, arXiv 2405.09341), put there for a while or for good."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open

from locate.errors import LocateError
from locate.model.matrices import activation, matrix, siblings
from locate.schema import EDIT_VERSION

GATES = ("gate_proj", "w1", "gate")
STAMP = "stamp"  # name of one that stays, below its MLP's output matrix


@dataclass(frozen=True, eq=False)
class Stamp:
    """FFN*(h) = FFN(h) + Act(h K'^T) V'; beside a gated MLP Act(h K'^T) * (h G'^T) V', which a wider MLP computes too.

    h is the MLP's input. Where one matrix makes gate and factor together, nothing tells which half is which, and the
    stamp has no gate.

    layer     of the MLP
    template  Hugging Face name of the MLPs' output matrices, {} for the layer
    keys      K' [width, d_model]
    values    V' [d_model, width]
    linear    G' [width, d_model], what is multiplied with the activation; None for a stamp without a gate
    """

    layer: int
    template: str
    keys: Float[torch.Tensor, "width d_model"]
    values: Float[torch.Tensor, "d_model width"]
    linear: Float[torch.Tensor, "width d_model"] | None = None

    @property
    def width(self) -> int:
        """Its hidden units."""
        return int(self.keys.shape[0])

    @property
    def module(self) -> str:
        """Name of its MLP's output matrix."""
        return self.template.format(self.layer)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its matrices by name."""
        found = {"keys": self.keys, "values": self.values}
        return found if self.linear is None else found | {"linear": self.linear}

    def about(self) -> dict[str, Any]:
        """What is saved about it besides its matrices."""
        return {"layer": self.layer, "template": self.template}

    @staticmethod
    def of(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Stamp:
        """A stamp from what was saved about it, and its matrices."""
        return Stamp(about["layer"], about["template"], tensors["keys"], tensors["values"], tensors.get("linear"))

    def attach(self, network: Any) -> list[Any]:
        """Hook it beside its MLP; returns the hooks, to be removed.

        Gradients flow into its matrices where they require them.

        Raises LocateError where it does not fit the MLP.
        """
        return self.put(network)[1]

    def stay(self, network: Any) -> None:
        """Hook it beside its MLP for good: its matrices belong to the network and move with it.

        Hugging Face would read what `save_pretrained` writes of such a network as the model without the stamp, so it
        is refused from now on.

        Raises LocateError where it does not fit the MLP, or another stays there.
        """
        output = matrix(network, self.module).module
        if hasattr(output, STAMP):
            raise LocateError(f"{self.module} already has a stamp beside it: expected one for each MLP")
        output.add_module(STAMP, self.put(network)[0])
        network.save_pretrained = refuse_saving

    def put(self, network: Any) -> tuple[Beside, list[Any]]:
        """The stamp in place, and its hooks."""
        fed, output = inputs_of(network, self.module)[0], matrix(network, self.module)
        own, wanted = (self.keys.shape[1], self.values.shape[0]), (fed.shape[1], output.shape[0])
        if own != wanted:
            raise LocateError(
                f"a stamp with {own[0]} inputs and {own[1]} outputs beside {self.module}, whose MLP has {wanted[0]} "
                f"and {wanted[1]}: it belongs to another model"
            )
        beside = Beside(self, activation(network, self.module)).to(output.module.weight.device)
        hooks = [fed.module.register_forward_pre_hook(beside.keep), output.module.register_forward_hook(beside.add)]
        return beside, hooks


class Beside(torch.nn.Module):
    """A stamp in place: it keeps its MLP's input, and adds to its MLP's output."""

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, stamp: Stamp, act: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in stamp.tensors().items():
            self.register_buffer(name, tensor)
        self.act = act
        self.fed: list[torch.Tensor] = []

    def forward(self, h: Float[torch.Tensor, "... d_model"]) -> Float[torch.Tensor, "... d_model"]:
        """Act(h K'^T) V', with its gate where it has one."""
        inner = self.act(h @ self.keys.T)
        linear = self._buffers.get("linear")
        if linear is not None:
            inner = inner * (h @ linear.T)
        return inner @ self.values.T

    def keep(self, module: Any, args: tuple[torch.Tensor, ...]) -> None:
        """The hook before the MLP's first matrix: keep the MLP's input."""
        self.fed[:] = [args[0]]

    def add(self, module: Any, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> torch.Tensor:
        """The hook after the MLP's output matrix: add the stamp's output to the MLP's."""
        return result + self(self.fed.pop().to(self.keys.dtype)).to(result.dtype)


def refuse_saving(*_: Any, **__: Any) -> None:
    """Replaces `save_pretrained` where a stamp stays."""
    raise LocateError("save_pretrained would leave the stamp out: copy the folder that this model was loaded from")


def inputs_of(network: Any, name: str) -> list[Any]:
    """The matrices that feed an MLP's output matrix: one, or the gate and what it multiplies, in this order.

    One that is twice as wide makes gate and factor together.

    Raises LocateError where the MLP is built otherwise.
    """
    found = siblings(network, name)
    gates = [each for each in found if each.name.rpartition(".")[2] in GATES]
    if len(found) == 1 and not gates:
        return found
    if len(found) == 2 and len(gates) == 1:
        return [gates[0], next(each for each in found if each is not gates[0])]
    together = [] if found else siblings(network, name, times=2)
    if len(together) == 1:
        return together
    names = ", ".join(each.name for each in found) or "none"
    raise LocateError(
        f"the MLP of {name} is fed by {names}: expected one linear layer, a gate and another, or one that makes both, "
        "so that a stamp fits beside it"
    )


def stamp_tensors(network: Any) -> dict[str, torch.Tensor]:
    """Matrices of the stamps in place, for a while or for good, by name: "transformer.h.1.mlp.c_proj.stamp.keys"."""
    found: dict[str, torch.Tensor] = {}
    for name, module in network.named_modules():
        for hook in module._forward_hooks.values():
            beside = getattr(hook, "__self__", None)
            if isinstance(beside, Beside):
                found |= {f"{name}.{STAMP}.{part}": tensor for part, tensor in beside.named_buffers(recurse=False)}
    return found


def read_edit(path: str | Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What edit.safetensors says, and its tensors.

    Raises LocateError for a file that is missing, damaged, or of another schema.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})["locate_edit"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    except (FileNotFoundError, SafetensorError, KeyError, ValueError, OSError) as error:
        raise LocateError(f"{path} is not an edit ({error}): expected edit.safetensors as locate writes it") from None
    if about["schema"] != EDIT_VERSION:
        raise LocateError(f"{path} has schema {about['schema']}, expected {EDIT_VERSION}: make the edit again")
    return about, tensors


def stamps_in(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> tuple[Stamp, ...]:
    """The stamps in what `read_edit` returned."""
    stamps = []
    for number, said in enumerate(about["stamps"]):
        own = f"stamp.{number}."
        held = {name.removeprefix(own): tensor for name, tensor in tensors.items() if name.startswith(own)}
        stamps.append(Stamp.of(said, held))
    return tuple(stamps)
