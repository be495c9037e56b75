"""A stamp: a small network beside one MLP (FAST, arXiv 2405.09341), and folding it into a wider MLP."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.matrices import activation, matrix, siblings, widened

GATES = ("gate_proj", "w1", "gate")


@dataclass(frozen=True, eq=False)
class Stamp:
    """FFN*(h) = FFN(h) + Act(h K'^T) V'; beside a gated MLP Act(h K'^T) * (h G'^T) V', which a wider MLP computes too.

    layer     of the MLP
    template  Hugging Face name of the MLPs' output matrices, {} for the layer
    keys      K' [width, d_model]
    values    V' [d_model, width]
    linear    G' [width, d_model], what is multiplied with the activation; None beside an MLP without a gate
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

    def tensors(self) -> dict[str, torch.Tensor]:
        """Its matrices by name."""
        found = {"keys": self.keys, "values": self.values}
        return found if self.linear is None else found | {"linear": self.linear}

    def about(self) -> dict[str, Any]:
        """What is saved of it beside its matrices."""
        return {"layer": self.layer, "template": self.template}

    @staticmethod
    def of(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Stamp:
        """A stamp from what was saved of it."""
        return Stamp(about["layer"], about["template"], tensors["keys"], tensors["values"], tensors.get("linear"))

    def attach(self, network: Any) -> list[Any]:
        """Hook it beside its MLP; returns the hooks, to be removed.

        Gradients flow into its matrices where they require them.
        """
        inputs, act = inputs_of(network, self.template.format(self.layer)), activation(network)
        output = matrix(network, self.template.format(self.layer)).module
        seen: list[torch.Tensor] = []

        def keep(module: Any, args: tuple[torch.Tensor, ...]) -> None:
            seen[:] = [args[0]]

        def add(module: Any, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> torch.Tensor:
            h = seen.pop().to(self.keys.dtype)
            inner = act(h @ self.keys.T)
            if self.linear is not None:
                inner = inner * (h @ self.linear.T)
            return result + (inner @ self.values.T).to(result.dtype)

        return [inputs[0].module.register_forward_pre_hook(keep), output.register_forward_hook(add)]


def inputs_of(network: Any, name: str) -> list[Any]:
    """The matrices that feed an MLP's output matrix: one, or the gate and what it multiplies, in this order.

    Raises LocateError where the MLP is built otherwise.
    """
    found = siblings(network, name)
    gates = [each for each in found if each.name.rpartition(".")[2] in GATES]
    if len(found) == 1 and not gates:
        return found
    if len(found) == 2 and len(gates) == 1:
        return [gates[0], next(each for each in found if each is not gates[0])]
    names = ", ".join(each.name for each in found) or "none"
    raise LocateError(
        f"the MLP of {name} is fed by {names}: expected one linear layer, or a gate and another, to put a stamp beside"
    )


def empty_stamp(network: Any, template: str, layer: int, width: int, seed: int) -> Stamp:
    """A stamp that does nothing yet: random keys, values of 0."""
    inputs = inputs_of(network, template.format(layer))
    fed = inputs[0].weight.shape[1]
    into = matrix(network, template.format(layer)).weight.shape[0]
    device, stream = inputs[0].module.weight.device, torch.Generator().manual_seed(seed)
    drawn = [(torch.randn(width, fed, generator=stream) * fed**-0.5).to(device) for _ in inputs]
    return Stamp(layer, template, drawn[0], torch.zeros(into, width, device=device), *drawn[1:])


def fold(network: Any, stamps: Sequence[Stamp]) -> Any:
    """A model of the same architecture whose wider MLPs compute their stamps; the MLPs of other layers gain zeros.

    Raises LocateError where the architecture's configuration has no width for its MLPs.
    """
    more = max(stamp.width for stamp in stamps)
    added = added_rows(network, stamps, more)

    def tensors(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in added:
            return tensor
        block, axis = added[name]
        return torch.cat([tensor, block.to(tensor)], dim=axis)

    return widened(network, more, tensors)


def added_rows(network: Any, stamps: Sequence[Stamp], more: int) -> dict[str, tuple[torch.Tensor, int]]:
    """What every MLP's tensors gain, and along which axis: (block, axis) by parameter name."""
    template = stamps[0].template
    by_layer = {stamp.layer: stamp for stamp in stamps}
    added: dict[str, tuple[torch.Tensor, int]] = {}
    layer = 0
    while has_module(network, template.format(layer)):
        output = matrix(network, template.format(layer))
        stamp = by_layer.get(layer)
        into, fed = output.weight.shape[0], inputs_of(network, output.name)[0].weight.shape[1]
        rows = [] if stamp is None else [stamp.keys] + ([] if stamp.linear is None else [stamp.linear])
        for place, each in enumerate(inputs_of(network, output.name)):
            block = padded(rows[place], more) if rows else torch.zeros(more, fed)
            added[each.parameter] = (each.stored(block), int(each.transposed))
            if each.module.bias is not None:
                added[f"{each.name}.bias"] = (torch.zeros(more), 0)
        block = torch.zeros(into, more) if stamp is None else padded(stamp.values.T, more).T
        added[output.parameter] = (output.stored(block), int(not output.transposed))
        layer += 1
    return added


def padded(rows: Float[torch.Tensor, "width column"], more: int) -> Float[torch.Tensor, "more column"]:
    """Rows followed by zeros."""
    return torch.cat([rows, torch.zeros(more - len(rows), rows.shape[1], device=rows.device, dtype=rows.dtype)])


def has_module(network: Any, name: str) -> bool:
    """Whether a model has a module of that name."""
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True
