"""An edit of a model: changes of parameters by Hugging Face name, to be inspected, saved, applied and undone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from safetensors.torch import save_file

from locate.errors import LocateError
from locate.files import strict, write_whole
from locate.model.causal import CausalModel
from locate.model.stamp import Stamp, read_edit, stamps_in
from locate.notebook import LISTED, first_rows, sentences, title
from locate.schema import EDIT_VERSION, locate_version
from locate.words import decimals, without_folders

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class ParameterChange:
    """What is added to one parameter, in its own shape: a whole tensor, or the product of two thin ones.

    factors  (change,) of the parameter's shape, or (left [row, rank], right [rank, column]) of a matrix
    """

    factors: tuple[torch.Tensor, ...]

    @property
    def whole(self) -> torch.Tensor:
        """The change itself, float64."""
        first = self.factors[0].double()
        return first if len(self.factors) == 1 else first @ self.factors[1].double()

    @property
    def rank(self) -> int | None:
        """Largest rank it can have; None where it is not kept as a product."""
        return None if len(self.factors) == 1 else int(self.factors[0].shape[1])


@dataclass(frozen=True, eq=False)
class Edit:
    """What an editor changes in a model.

    method    "lsdm", "fast" and so on
    model     what identifies the model that it was made for (`CausalModel.provenance`)
    changes   by parameter name
    stamps    small networks beside MLPs (FAST)
    edited    {"words": [...], "templates": [...]} that it was fitted on; whatever is not there was held out
    located   what was taken from located.json: its hash, the component, role, layers
    settings  of the editor
    report    what the editor measured while it worked
    """

    method: str
    model: dict[str, Any]
    changes: Mapping[str, ParameterChange]
    stamps: tuple[Stamp, ...] = ()
    edited: dict[str, list[str]] = field(default_factory=dict)
    located: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)

    def frame(self) -> pd.DataFrame:
        """One row per changed parameter or stamp: name, shape, rank, norm of the change, its largest number."""
        frame = pd.DataFrame(self._rows(), columns=["parameter", "shape", "rank", "norm", "largest"])
        return frame.astype({"norm": float, "largest": float})

    def _rows(self) -> Iterator[tuple[str, str, int | None, float, float]]:
        """The rows of `frame`, each worked out when it is asked for."""
        for name, change in self.changes.items():
            yield name, *about(change.whole, change.rank)
        for stamp in self.stamps:
            for name, tensor in stamp.tensors().items():
                yield name, *about(tensor, None)

    def _repr_html_(self) -> str:
        words, forms = (self.edited.get(name, []) for name in ("words", "templates"))
        rows = [
            {
                "parameter": name,
                "shape": shape,
                "rank": "" if rank is None else str(rank),
                "norm of the change": f"{norm:.{decimals(norm)}f}",
                "largest number of it": f"{largest:.{decimals(largest)}f}",
            }
            for name, shape, rank, norm, largest in islice(self._rows(), LISTED)
        ]
        layers = self.located.get("edited_layers", [])
        where = layers if isinstance(layers, str) else f"layers {', '.join(map(str, layers))}"
        return (
            title(f"Edit of {without_folders(str(self.model.get('name')))} by {self.method}")
            + sentences(f"Changed: {where}. Fitted on {len(words)} words in {len(forms)} templates.")
            + first_rows(rows, len(self.changes) + sum(len(stamp.tensors()) for stamp in self.stamps))
        )

    @contextmanager
    def applied(self, model: CausalModel) -> Iterator[CausalModel]:
        """The model with this edit while the block lasts; afterwards every parameter is the very tensor it was.

        Raises LocateError when the edit was made for another model.
        """
        self.check_model(model)
        parameters = dict(model.network.named_parameters())
        before = {name: parameters[name].data for name in self.changes}
        hooks: list[Any] = []
        try:
            for name, change in self.changes.items():
                parameters[name].data = apply_change(before[name], change)
            for stamp in self.stamps:
                hooks += stamp.attach(model.network)
            yield model
        finally:
            for hook in hooks:
                hook.remove()
            for name, tensor in before.items():
                parameters[name].data = tensor

    def check_model(self, model: CausalModel) -> None:
        """Raise LocateError unless the edit was made for this model, and the model has its parameters."""
        asked, found = self.model.get("weights_sha256"), model.checkpoint.weights_sha256
        if asked != found:
            raise LocateError(
                f"the edit was made for {self.model.get('name')!r} with weights {str(asked)[:12]}..., but "
                f"{model.name!r} has {found[:12]}...: apply it to the model that it was made for"
            )
        shapes = {name: tensor.shape for name, tensor in model.network.named_parameters()}
        for name, change in self.changes.items():
            if name not in shapes or shapes[name] != change.whole.shape:
                raise LocateError(
                    f"the edit changes {name} {list(change.whole.shape)}, but {model.name!r} has "
                    f"{list(shapes[name]) if name in shapes else 'no such parameter'}: make the edit again"
                )

    def save(self, path: str | Path) -> Path:
        """Write everything into one safetensors file, whole or not at all."""
        tensors: Tensors = {}
        for name, change in self.changes.items():
            for place, factor in enumerate(change.factors):
                tensors[f"change.{name}.{place}"] = factor.contiguous()
        for number, stamp in enumerate(self.stamps):
            tensors |= {f"stamp.{number}.{name}": tensor for name, tensor in stamp.tensors().items()}
        about = {name: getattr(self, name) for name in ("method", "model", "edited", "located", "settings", "report")}
        about |= {"schema": EDIT_VERSION, "locate": locate_version(), "stamps": [each.about() for each in self.stamps]}
        meta = {"locate_edit": json.dumps(strict(about), allow_nan=False)}
        return write_whole(Path(path), lambda partial: save_file(tensors, partial, metadata=meta))


def about(change: torch.Tensor, rank: int | None) -> tuple[str, int | None, float, float]:
    """Shape, rank, norm and largest number of a change."""
    return "x".join(map(str, change.shape)), rank, float(change.norm()), float(change.abs().max())


def apply_change(tensor: torch.Tensor, change: ParameterChange) -> torch.Tensor:
    """A parameter after a change: added in float64, rounded once to the parameter's dtype."""
    return (tensor.double() + change.whole.to(tensor.device)).to(tensor.dtype)


def product_change(left: Float[torch.Tensor, "row rank"], right: Float[torch.Tensor, "rank column"]) -> ParameterChange:
    """A change kept as two thin matrices where that is smaller, else whole."""
    rank = left.shape[1]
    thin = rank * (left.shape[0] + right.shape[1]) < left.shape[0] * right.shape[1]
    return ParameterChange((left, right)) if thin else ParameterChange((left @ right,))


def load_edit(path: str | Path) -> Edit:
    """Read what `Edit.save` wrote.

    Raises LocateError for a file that is missing, damaged, or of another schema.
    """
    about, tensors = read_edit(path)
    factors: dict[str, list[torch.Tensor]] = {}
    for key in sorted(name for name in tensors if name.startswith("change.")):
        factors.setdefault(key.removeprefix("change.").rpartition(".")[0], []).append(tensors[key])
    return Edit(
        method=about["method"],
        model=about["model"],
        changes={name: ParameterChange(tuple(parts)) for name, parts in factors.items()},
        stamps=stamps_in(about, tensors),
        edited=about["edited"],
        located=about["located"],
        settings=about["settings"],
        report=about["report"],
    )
