"""What was loaded, compared with what the files hold: nothing may be left out, and nothing made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from locate.errors import LocateError
from locate.model.checkpoint import Checkpoint
from locate.model.weights import header_of, weight_files

COMPUTED = re.compile(r"(masked_bias|rotary_emb\.inv_freq|position_ids)$")
BUFFERS = re.compile(rf"{COMPUTED.pattern}|((attn|attention)\.bias|relative_position_index)$")
"""tensors of old checkpoints that are not weights: models compute them, those of COMPUTED in every architecture"""
SHOWN = 3


def check_complete(plain: Any, info: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Raise LocateError unless the weight files and the model hold the same tensors, and the architecture is as named.

    A tensor that is missing would be random; one that the model has no place for, or a head of its own where the
    configuration ties the head to the embedding, would be left out: the model measured would not be the file's.
    """
    where, built = checkpoint.files.gguf or checkpoint.folder, type(plain).__name__
    absent = sorted(str(key) for key in [*info["missing_keys"], *info["mismatched_keys"]])
    left_out = sorted(name for name in map(str, info["unexpected_keys"]) if not COMPUTED.search(name))
    if absent:
        more = f", and hold {name_some(left_out)} instead" if left_out else ""
        raise LocateError(
            f"the weights in {where} lack {name_some(absent)}, which would be random{more}: download or save them "
            "again, or correct config.json"
        )
    left_out = left_out or untied_head(plain, checkpoint)
    if left_out:
        raise LocateError(
            f"the weights in {where} hold {name_some(left_out)}, for which {built} with this config.json has no "
            "place: the numbers would be those of another model: correct config.json, or save the model with its "
            "own code"
        )
    if built != checkpoint.architecture:
        raise LocateError(
            f"config.json in {checkpoint.folder} names {checkpoint.architecture}, but its model_type "
            f"{plain.config.model_type!r} makes {built}: correct the one that is wrong"
        )


def name_some(tensors: list[str]) -> str:
    """How many tensors there are, and the names of the first."""
    more = ", ..." if len(tensors) > SHOWN else ""
    return f"{len(tensors)} tensor{'s' if len(tensors) > 1 else ''} ({', '.join(tensors[:SHOWN])}{more})"


def untied_head(plain: Any, checkpoint: Checkpoint) -> list[str]:
    """The stored output head if it differs from the embedding that takes its place; else an empty list."""
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    if head is None or head.weight is not embedding.weight or checkpoint.files.gguf is not None:
        return []
    names = {module: name for name, module in plain.named_modules(remove_duplicate=False)}
    stored = stored_tensors(checkpoint.folder, [f"{names[each]}.weight" for each in (head, embedding)])
    return [] if len(stored) < 2 or torch.equal(*stored.values()) else [f"{names[head]}.weight"]


def stored_tensors(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Those of the named tensors that are in the safetensors files of a folder."""
    found: dict[str, torch.Tensor] = {}
    for path in safetensors_of(folder):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name) for name in names if name in file.keys()}  # noqa: SIM118
    return found


def safetensors_of(folder: Path) -> list[Path]:
    """The safetensors files that a folder's model is read from; none where it is read from pickles."""
    return [path for path in weight_files(str(folder), folder, True) if path.suffix == ".safetensors"]


def notes_on_loaded(plain: Any, checkpoint: Checkpoint) -> list[str]:
    """Notes on a head that was not tied, and on tensors that transformers leaves out by its own list."""
    if checkpoint.files.gguf is not None:
        return []
    notes = []
    head, embedding = plain.get_output_embeddings(), plain.get_input_embeddings()
    tied = getattr(plain.config.get_text_config(), "tie_word_embeddings", False)
    if tied and head is not None and head.weight is not embedding.weight:
        notes.append(
            "config.json ties the output head to the embedding, and the file holds two that differ; the file was "
            "followed"
        )
    ignored = left_out_by_list(plain, checkpoint)
    if ignored:
        notes.append(f"the file holds {name_some(ignored)}, which transformers leaves out of {type(plain).__name__}")
    return notes


def left_out_by_list(plain: Any, checkpoint: Checkpoint) -> list[str]:
    """Weights in the files that transformers knows to leave out of the model, such as heads for later tokens."""
    patterns = getattr(plain, "_keys_to_ignore_on_load_unexpected", None) or ()
    stored = {name for path in safetensors_of(checkpoint.folder) for name in header_of(path)}
    stored -= set(plain.state_dict())
    return sorted(
        name for name in stored if not BUFFERS.search(name) and any(re.search(each, name) for each in patterns)
    )
