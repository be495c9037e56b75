"""New stamps, which do nothing yet, and folding stamps into wider MLPs where the architecture allows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float

from locate.editors.covariance import median_squares
from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.matrices import WIDTHS, has_config_width, matrix, widen, wider_config
from locate.model.stamp import Stamp, inputs_of


def empty_stamp(network: Any, template: str, layer: int, width: int, seed: int) -> Stamp:
    """A stamp that does nothing yet: random keys, values of 0."""
    inputs = inputs_of(network, template.format(layer))
    fed, into = inputs[0].shape[1], matrix(network, template.format(layer)).shape[0]
    device, stream = inputs[0].module.weight.device, torch.Generator().manual_seed(seed)
    drawn = [(torch.randn(width, fed, generator=stream) * fed**-0.5).to(device) for _ in inputs]
    return Stamp(layer, template, drawn[0], torch.zeros(into, width, device=device), *drawn[1:])


@dataclass(frozen=True)
class Units:
    """How large a number is in what an MLP reads and in what it writes: the rms of a token, the median over tokens.

    One model's MLP reads numbers of 0.1, another's of 1, and what a stamp can learn in so many steps of a given size
    would depend on that: its hidden units answer to the product of key and input, twice so beside a gated MLP.
    """

    inputs: float
    outputs: float

    def write(self, stamp: Stamp) -> Stamp:
        """A stamp for inputs and outputs of size 1 as one for the model's own, which computes the same.

        Gradients flow.
        """
        linear = None if stamp.linear is None else stamp.linear / self.inputs
        return replace(stamp, keys=stamp.keys / self.inputs, values=stamp.values * self.outputs, linear=linear)


def units_of(model: CausalModel, module: str, text: Sequence[Sequence[int]]) -> Units:
    """The units of one MLP, over windows of text.

    module  name of its output matrix

    Raises LocateError where it reads or writes zeros alone.
    """
    output, fed = matrix(model.network, module), inputs_of(model.network, module)[0]
    read = median_squares(model, [fed.name], text, inputs=True)[fed.name] / fed.shape[1]
    written = median_squares(model, [module], text, inputs=False)[module] / output.shape[0]
    if not (read > 0 and written > 0):
        raise LocateError(f"the MLP of {module} reads or writes zeros alone: stamp another layer (--layers)")
    return Units(read**0.5, written**0.5)


def fold(network: Any, stamps: Sequence[Stamp]) -> Any:
    """A model of the same architecture whose wider MLPs compute their stamps; the MLPs of other layers gain zeros.

    Raises LocateError where the architecture has no such MLPs.
    """
    reason = unfoldable(network, stamps)
    if reason is not None:
        raise LocateError(f"{reason}: the stamp has to stay beside its MLP")
    more = max(stamp.width for stamp in stamps)
    added = added_rows(network, stamps, more)

    def tensors(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if name not in added:
            return tensor
        block, axis = added[name]
        return torch.cat([tensor, block.to(tensor)], dim=axis)

    return widen(network, more, tensors)


def unfoldable(network: Any, stamps: Sequence[Stamp]) -> str | None:
    """Why no wider MLP of an architecture computes some stamps; None where one does."""
    if not stamps:
        return None
    output = matrix(network, stamps[0].module)
    inputs = inputs_of(network, output.name)
    if inputs[0].shape[0] != output.shape[1]:
        return f"{inputs[0].name} makes gate and factor in one matrix"
    if wider_config(network, stamps[0].width) is None:
        return f"{type(network).__name__} has no width of its MLPs among {', '.join(WIDTHS)}"
    if not has_config_width(network, outputs(network, stamps[0].template), stamps[0].width):
        return f"the width that its configuration names is not that of every MLP of {type(network).__name__}"
    return None


def outputs(network: Any, template: str) -> list[str]:
    """Names of the output matrices of all MLPs."""
    names: list[str] = []
    while has_module(network, name := template.format(len(names))):
        names.append(name)
    return names


def added_rows(network: Any, stamps: Sequence[Stamp], more: int) -> dict[str, tuple[torch.Tensor, int]]:
    """What every MLP's tensors gain, and along which axis: (block, axis) by parameter name."""
    by_layer = {stamp.layer: stamp for stamp in stamps}
    added: dict[str, tuple[torch.Tensor, int]] = {}
    for layer, name in enumerate(outputs(network, stamps[0].template)):
        output = matrix(network, name)
        stamp = by_layer.get(layer)
        into, fed = output.shape[0], inputs_of(network, output.name)[0].shape[1]
        rows = [] if stamp is None else [stamp.keys] + ([] if stamp.linear is None else [stamp.linear])
        for place, each in enumerate(inputs_of(network, output.name)):
            block = pad_rows(rows[place], more) if rows else torch.zeros(more, fed)
            added[each.parameter] = (each.stored(block), int(each.transposed))
            if each.module.bias is not None:
                added[f"{each.name}.bias"] = (torch.zeros(more), 0)
        block = torch.zeros(into, more) if stamp is None else pad_rows(stamp.values.T, more).T
        added[output.parameter] = (output.stored(block), int(not output.transposed))
    return added


def pad_rows(rows: Float[torch.Tensor, "width column"], more: int) -> Float[torch.Tensor, "more column"]:
    """Rows followed by zeros."""
    return torch.cat([rows, torch.zeros(more - len(rows), rows.shape[1], device=rows.device, dtype=rows.dtype)])


def has_module(network: Any, name: str) -> bool:
    """Whether a model has a module of that name."""
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True
