"""What was loaded, compared with what the files hold: nothing may be left out, and nothing made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from locate.checkpoint import Checkpoint
from locate.errors import LocateError


def check_complete(plain: Any, info: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Raise LocateError unless the weights' file and the model hold the same tensors.

    A tensor that is missing would be random; one that the model has no place for, or a head of its own where the
    configuration ties the head to the embedding, would be left out, and another model measured than the file holds.
    """
    where = checkpoint.files.gguf or checkpoint.folder
    absent = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    if absent:
        raise LocateError(
            f"the weights in {where} lack {len(absent)} tensors ({', '.join(absent[:3])}), which would be "
            "random: download or save them again"
        )
    left_out = sorted(map(str, info["unexpected_keys"])) or untied(plain, checkpoint)
    if left_out:
        raise LocateError(
            f"the weights in {where} hold {len(left_out)} tensors that {checkpoint.architecture} with this config.json "
            f"leaves out ({', '.join(left_out[:3])}): the numbers would be of another model: correct config.json, or "
            "save the model with its own code"
        )


def untied(plain: Any, checkpoint: Checkpoint) -> list[str]:
    """The output head in a file that differs from the embedding that takes its place; none where all is well."""
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head is None or head.weight is not embedding.weight or checkpoint.files.gguf is not None:
        return []
    names = {module: name for name, module in plain.named_modules(remove_duplicate=False)}
    stored = stored_tensors(checkpoint.folder, [f"{names[each]}.weight" for each in (head, embedding)])
    return [] if len(stored) < 2 or torch.equal(*stored.values()) else [f"{names[head]}.weight"]


def stored_tensors(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Those of the named tensors that are in the safetensors files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("model*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
    return found
