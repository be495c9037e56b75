"""An edit of thin factors as an adapter folder, which PEFT and the tools that stand on it load beside the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from locate.editors.edit import Edit
from locate.editors.receipt import check_free, staging
from locate.errors import LocateError
from locate.files import write_json
from locate.model.adapters import SETTINGS, WEIGHTS
from locate.model.causal import CausalModel
from locate.model.matrices import matrix

SUFFIX = ".weight"


def write_adapter(edit: Edit, model: CausalModel, folder: str | Path) -> Path:
    """Write an edit as a LoRA adapter of this model: adapter_config.json and adapter_model.safetensors.

    edit    whose changes are all products of two thin factors, of linear layers: DPO and SFT with a rank, and others
            where the factors are smaller than the matrix
    folder  new or empty

    Each matrix has its own rank; alpha is the rank, so that PEFT adds the product as it is.

    Raises LocateError for another model's edit, a whole change, a stamp, and a folder that is not empty.
    """
    edit.check_model(model)
    target = Path(folder)
    check_free(target)
    if not edit.changes and not edit.stamps:
        raise LocateError(f"the edit by {edit.method} changes nothing: no adapter was written; train for more steps")
    if edit.stamps:
        raise LocateError(f"an edit by {edit.method} adds a network beside an MLP, which no LoRA adapter can: save it")
    for name, change in edit.changes.items():
        if change.rank is None or not name.endswith(SUFFIX):
            raise LocateError(
                f"the change of {name} is whole, not a product of thin factors: train with a rank (--set rank=16), or "
                "load the edited checkpoint instead"
            )
    with staging(target) as place:
        write_factors({name: change.factors for name, change in edit.changes.items()}, model, place)
    return target


def write_factors(changes: Mapping[str, Sequence[torch.Tensor]], model: CausalModel, place: Path) -> None:
    """Write products of thin factors as an adapter into a folder that is there.

    changes  by parameter name: left [row, rank] and right [rank, column] of what is added to it, as it is stored
    """
    tensors: dict[str, torch.Tensor] = {}
    ranks: dict[str, int] = {}
    kinds = set()
    for name, (left, right) in changes.items():
        module = name.removesuffix(SUFFIX)
        layer = matrix(model.network, module)
        out, into = (right.T, left.T) if layer.transposed else (left, right)
        tensors[f"base_model.model.{module}.lora_A.weight"] = into.float().contiguous()
        tensors[f"base_model.model.{module}.lora_B.weight"] = out.float().contiguous()
        ranks[module] = int(left.shape[1])
        kinds.add(layer.transposed)
    save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
    write_json(place / SETTINGS, adapter_settings(model, ranks, transposed=kinds == {True}))


def adapter_settings(model: CausalModel, ranks: dict[str, int], *, transposed: bool) -> dict[str, Any]:
    """What PEFT reads: the matrices by their full names, each with its rank."""
    most = max(ranks.values())
    other = {name: rank for name, rank in ranks.items() if rank != most}
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": model.name,
        "revision": model.checkpoint.revision if model.checkpoint.revision != "none" else None,
        "inference_mode": True,
        "r": most,
        "lora_alpha": most,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "target_modules": sorted(ranks),
        "rank_pattern": other,
        "alpha_pattern": other,
    }
