"""From located.json to what is edited: the layers, their Hugging Face modules, and whether they fit this model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from locate.errors import LocateError
from locate.files import hash_of, strict
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.matrices import matrix

SAME = ("weights_sha256", "tokenizer_sha256", "prepend_bos")


@dataclass(frozen=True)
class Handoff:
    """What an editor takes from a located.json.

    layers    to be edited, ascending
    template  Hugging Face name of the output matrices, {} for the layer
    located   the layers that were located, strongest first; empty where none was
    origin    what an edit and its receipt record of it
    """

    layers: tuple[int, ...]
    template: str
    located: tuple[int, ...]
    origin: dict[str, Any]

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the matrices to be edited."""
        return tuple(self.template.format(layer) for layer in self.layers)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Names of the blocks that hold them."""
        return tuple(block_of(self.template, layer) for layer in self.layers)

    def origin_of_all(self, where: str) -> dict[str, Any]:
        """What an edit of everything records of the located.json, of which it uses no layer.

        where  what it changed, in words; the tensors themselves stand in the receipt
        """
        own = {name: value for name, value in self.origin.items() if name != "modules"}
        return own | {"edited_layers": where, "chosen_by": "scope"}


def hand_off(
    model: CausalModel, located: Located, *, layers: Sequence[int] | None = None, most: int, highest: bool = False
) -> Handoff:
    """The layers that an editor changes.

    layers   chosen by the user, located or not; None takes the strongest that were located
    most     how many of those at most
    highest  whether only the highest of them is taken

    Raises LocateError when the located.json is of other weights, names no layer, is not about MLPs, or names modules
    that the model lacks, and for a model with a stamp.
    """
    check_unstamped(model)
    check_same_model(model, located)
    template = located.module_template
    if located.why_no_layers is not None:
        raise LocateError(f"located.json names no layer: {located.why_no_layers}, and edit with its located.json")
    if located.component != "mlp_out" or "{}" not in template:
        raise LocateError(
            f"located.json hands over layers of {located.component!r} ({template or 'no module'}): editors change MLP "
            "output matrices: rank with component mlp_out (locate-bias rank RUN --layers-of mlp_out -o located.json)"
        )
    if layers is None and not located.layers:
        raise LocateError(
            "located.json names no layer, since nothing passed its threshold: choose layers yourself (--layers), or "
            "trace with another swap or more prompts"
        )
    chosen = sorted(set(layers if layers is not None else located.layers[:most]))
    chosen = chosen[-1:] if highest else chosen
    for layer in chosen:
        matrix(model.network, template.format(layer))
    origin = {
        "sha256": hash_of(strict(located.as_json())),
        "component": located.component,
        "role": located.role,
        "quantity": located.quantity,
        "metric": located.metric,
        "direction": located.direction,
        "layers": list(located.layers),
        "edited_layers": chosen,
        "chosen_by": "located" if layers is None else "user",
        "modules": [template.format(layer) for layer in chosen],
        "module_template": template,
    }
    return Handoff(tuple(chosen), template, located.layers, origin)


def check_unstamped(model: CausalModel) -> None:
    """Raise LocateError for a model with a stamp beside an MLP, which cannot be traced, nor saved with another edit."""
    if model.checkpoint.stamps is not None:
        raise LocateError(
            f"model {model.name!r} has a stamp beside an MLP, which a further edit would lose: edit the original, or "
            f"the one without the stamp in {model.checkpoint.folder}"
        )


def check_same_model(model: CausalModel, located: Located) -> None:
    """Raise LocateError, with both values, unless the located.json was traced in this very model."""
    traced, here = located.trace["model"], model.provenance()
    for name in (*SAME, *({"before"} & set(traced))):
        if traced.get(name) != here[name]:
            same = name in ("prepend_bos", "before")
            way = "read it with the same --bos and --chat" if same else "trace this model"
            raise LocateError(
                f"located.json was traced in {traced.get('name')!r} with {name} {str(traced.get(name))[:16]}, but "
                f"{model.name!r} has {str(here[name])[:16]}: {way}, and edit with that located.json"
            )


def block_of(template: str, layer: int) -> str:
    """Name of the block that a module belongs to: "transformer.h.3" of "transformer.h.{}.mlp.c_proj"."""
    before, _, after = template.partition("{}")
    if not before.endswith(".") or not after.startswith("."):
        raise LocateError(f"module template {template!r}: expected the layer between two dots, like h.{{}}.mlp.c_proj")
    return f"{before}{layer}"
