"""An edited checkpoint's files against the original's files, tensor by tensor, whatever was loaded in between."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.loaded import safetensors_of


def compare_files(model: CausalModel, folder: Path, allowed: Collection[str]) -> dict[str, Any] | None:
    """What became of every tensor of the original's files in the edited model's files.

    folder   with the configuration and weights of the edited model
    allowed  names of the tensors that may differ

    Returns how many are bit for bit as before, how many are the same numbers in another format, the names of those that
    changed, of those that the model has under another name too (a head that is the embedding), and of those that are
    gone. None where the original's weights are not numbers in safetensors files: a GGUF file, a pickle, or a model with
    an adapter merged into it.

    Raises LocateError when a tensor that is not among those allowed differs.
    """
    if model.checkpoint.files.gguf is not None or model.checkpoint.files.adapter is not None:
        return None
    before, after = safetensors_of(model.checkpoint.folder), safetensors_of(folder)
    if not before:
        return None
    told: dict[str, Any] = {"same": 0, "converted": 0, "changed": [], "tied": [], "gone": []}
    tied = tied_names(model.network)
    with ExitStack() as stack:
        was, now = StoredTensors(stack, before), StoredTensors(stack, after)
        for name in was.names():
            place = now.name_of(name)
            if place is None:
                told["tied" if name in tied else "gone"].append(name)
                continue
            old, new = was.tensor(name), now.tensor(place)
            own = new[tuple(slice(0, size) for size in old.shape)]
            if old.shape == new.shape and old.dtype == new.dtype and torch.equal(bits(old), bits(new)):
                told["same"] += 1
            elif old.shape == new.shape and torch.equal(bits(old.to(new.dtype)), bits(new)):
                told["converted"] += 1
            elif place in allowed or (old.shape != new.shape and torch.equal(bits(old.to(own.dtype)), bits(own))):
                told["changed"].append(name)
            else:
                raise LocateError(
                    f"tensor {name} of the original's file differs in the edited model's, though the edit does not "
                    "name it: nothing was kept"
                )
    return told


def tied_names(network: Any) -> set[str]:
    """Names of tensors that share their memory with another."""
    places: dict[int, list[str]] = {}
    for name, tensor in network.state_dict().items():
        places.setdefault(tensor.data_ptr(), []).append(name)
    return {name for names in places.values() if len(names) > 1 for name in names}


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes."""
    return tensor.contiguous().flatten().view(torch.uint8)


class StoredTensors:
    """The tensors of safetensors files by name, each read when asked for."""

    def __init__(self, stack: ExitStack, paths: Sequence[Path]) -> None:
        files = [stack.enter_context(safe_open(path, "pt")) for path in paths]
        self.files = {name: file for file in files for name in file.keys()}  # noqa: SIM118, not a dict

    def names(self) -> list[str]:
        """All names, in order."""
        return sorted(self.files)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor."""
        found: torch.Tensor = self.files[name].get_tensor(name)
        return found

    def name_of(self, name: str) -> str | None:
        """The name here of a tensor of another checkpoint, which may have another prefix; None where there is none."""
        if name in self.files:
            return name
        found = [here for here in self.files if here.endswith(f".{name}") or name.endswith(f".{here}")]
        return found[0] if len(found) == 1 else None
