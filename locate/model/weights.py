"""The weight files of a model's folder: which are read, what lies beside them, and what their headers say."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
OTHER_FORMATS = ("*.gguf", "*.pt", "*.pth", "tf_model.h5", "flax_model.msgpack", "*.onnx", "*.ckpt")
NO_MODEL = ("adapter_model.safetensors", "adapter_model.bin", "edit.safetensors", "training_args.bin")
"""files that are named like weights and hold none of the model itself"""
QUANTISED = ("quantize_config.json", "quant_config.json")
NUMBERS = ("F64", "F32", "F16", "BF16")
"""safetensors dtypes whose numbers are the weights themselves; others need a scale"""
WRITING = {
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "suppress_tokens": [],
    "begin_suppress_tokens": [], "bad_words_ids": [], "forced_bos_token_id": None, "forced_eos_token_id": None,
    "forced_decoder_ids": None, "sequence_bias": None, "exponential_decay_length_penalty": None, "min_new_tokens": 0,
    "min_length": 0, "guidance_scale": 1.0, "watermarking_config": None, "typical_p": 1.0, "length_penalty": 1.0,
}  # fmt: skip
"""settings of generation_config.json that change which words a model writes, and the value with which they do not"""
DRAWING = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0}
"""those that do so only where words are drawn (do_sample)"""

Header = dict[str, dict[str, Any]]
"""name of a tensor -> its dtype and shape in a safetensors file"""


def check_unquantised(name: str, folder: Path, config: dict[str, Any]) -> None:
    """Raise LocateError for a checkpoint whose configuration says that its weights are packed."""
    settings = config.get("quantization_config") or config.get("compression_config")
    packed = [file for file in QUANTISED if (folder / file).is_file()]
    if settings or packed:
        method = settings.get("quant_method", "unknown") if isinstance(settings, dict) else ", ".join(packed)
        raise LocateError(
            f"model {name!r} is quantised ({method}): its weights cannot be hooked and edited as numbers: give the "
            "unquantised model, or a GGUF file, which is dequantised"
        )


def weight_files(name: str, folder: Path, allow_pickle: bool) -> list[Path]:
    """The weight files that are loaded, in order of name: one file, or the shards of its index.

    Raises LocateError when there is none, when there are only pickles and they are not allowed, when the files do not
    hold what their index says, and when their numbers are packed or need a scale.
    """
    for file in (SINGLE, INDEX):
        if (folder / file).is_symlink() and not (folder / file).exists():
            raise LocateError(f"{folder / file} is a link to a file that is missing: download the model again")
        if (folder / file).is_dir():
            raise LocateError(f"{folder / file} is a folder: expected a file: save the model again")
    if (folder / SINGLE).is_file():
        check_stored(name, [folder / SINGLE], {})
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        shards, weight_map = shards_of(folder / INDEX)
        check_stored(name, shards, weight_map)
        return shards
    safe = [path for path in unread(folder, []) if path.endswith(".safetensors")]
    if safe:
        raise LocateError(
            f"model {name!r} has its weights in {', '.join(safe[:3])}: expected {SINGLE}, or shards with {INDEX}: "
            "rename the file, or save the model again"
        )
    return pickles_of(name, folder, allow_pickle)


def pickles_of(name: str, folder: Path, allow_pickle: bool) -> list[Path]:
    """The pickles that hold the weights.

    Raises LocateError when there is none, or they are not allowed.
    """
    found = sorted(folder.glob("pytorch_model*.bin"))
    if found and not allow_pickle:
        raise LocateError(
            f"model {name!r} has its weights in {found[0].name}, a pickle, which can run code: convert it to "
            "safetensors, or pass allow_pickle=True (--allow-pickle) if you trust it"
        )
    if (folder / PICKLE).is_file():
        return [folder / PICKLE]
    if (folder / PICKLE_INDEX).is_file():
        return shards_of(folder / PICKLE_INDEX)[0]
    others = [*(path.name for path in found), *unread(folder, found)]
    where = f", and found {', '.join(others[:3])}" if others else ""
    raise LocateError(
        f"model {name!r} has no weights: expected *.safetensors in {folder}{where}: save the model with save_pretrained"
    )


def shards_of(index: Path) -> tuple[list[Path], dict[str, str]]:
    """The files that an index of shards names, and which tensor it says is in which.

    Raises LocateError when it names none, or one that is missing.
    """
    content = read_json(index)
    found = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not found:
        raise LocateError(f"{index} names no shards: download or save the model again")
    weight_map = {str(name): str(file) for name, file in found.items()}
    shards = sorted(index.parent / file for file in set(weight_map.values()))
    absent = [path.name for path in shards if not path.is_file()]
    if absent:
        raise LocateError(f"{index} names {', '.join(absent[:3])}, which is missing: download the model again")
    return shards, weight_map


def check_stored(name: str, paths: Sequence[Path], weight_map: dict[str, str]) -> None:
    """Check weight files by their headers.

    weight_map  tensor -> file, as an index says; empty without one

    Raises LocateError for a tensor that the index puts into another file, one that is in two files, and weights whose
    numbers are packed or need a scale.
    """
    headers = {path.name: header_of(path) for path in paths}
    astray = [tensor for tensor, file in weight_map.items() if tensor not in headers[file]]
    if astray:
        raise LocateError(
            f"model {name!r}: its index says that {astray[0]} is in {weight_map[astray[0]]}, which does not hold it "
            f"({len(astray)} such tensors): download or save the model again"
        )
    counts = Counter(tensor for header in headers.values() for tensor in header)
    twice = [tensor for tensor, count in counts.items() if count > 1]
    if twice:
        raise LocateError(
            f"model {name!r}: {twice[0]} is in two of its weight files ({len(twice)} such tensors): save the model "
            "again, or remove the file that does not belong to it"
        )
    packed = {
        tensor: about["dtype"]
        for header in headers.values()
        for tensor, about in header.items()
        if tensor.endswith("weight") and about["dtype"] not in NUMBERS
    }
    if packed:
        first = min(packed)
        raise LocateError(
            f"model {name!r}: {first} is stored as {packed[first]} ({len(packed)} such tensors), and config.json names "
            f"no quantisation: expected one of {', '.join(NUMBERS)}: give the unquantised model"
        )


def header_of(path: Path) -> Header:
    """What a safetensors file says of its tensors.

    Raises LocateError for any other file.
    """
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return {key: {"dtype": entry["dtype"], "shape": entry["shape"]} for key, entry in header.items()
                if key != "__metadata__"}  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise LocateError(f"{path} is not a safetensors file ({error}): download or save it again") from None


def parameters_in(path: Path) -> int:
    """Number of stored parameters, from the header of a safetensors file; a pickle is assumed to hold fp32."""
    if path.suffix != ".safetensors":
        return path.stat().st_size // 4
    return sum(math.prod(about["shape"]) for about in header_of(path).values())


def unread(folder: Path, read: Sequence[Path]) -> list[str]:
    """Names of files in a folder that are named like weights but were not read."""
    patterns = ("*.safetensors", "pytorch_model*.bin", *OTHER_FORMATS)
    found = {path.name for pattern in patterns for path in folder.glob(pattern)}
    return sorted(found - {path.name for path in read} - set(NO_MODEL))


def notes_beside(folder: Path, read: Sequence[Path]) -> list[str]:
    """Notes on other files in a model's folder: weights left unread, settings of generation."""
    notes, others = [], unread(folder, read)
    if others:
        names = ", ".join(others[:4]) + (" and others" if len(others) > 4 else "")
        notes.append(f"the weights were read from {read[0].name}; {names} in the same folder was not read")
    return notes + writing_notes(folder)


def writing_notes(folder: Path) -> list[str]:
    """Notes on settings that change which words a model writes.

    Raises LocateError for a generation_config.json that is not an object.
    """
    path = folder / "generation_config.json"
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise LocateError(f"{path} holds no settings: expected an object like {{}}, or remove it")
    idle = WRITING | (DRAWING if content.get("do_sample") else {})
    found = [key for key, value in idle.items() if content.get(key) not in (None, [], {}, value)]
    if not found:
        return []
    return [
        f"generation_config.json sets {', '.join(found)}, which changes what the model writes; it is measured without"
    ]
