"""Adapters in folders of their own or beside a model: found, and merged into the weights when these are loaded."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import read_json

SETTINGS = "adapter_config.json"
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MERGING = (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, NotImplementedError, ImportError)


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


def adapter_weights(folder: Path, allow_pickle: bool) -> Path:
    """The file of an adapter's weights.

    Raises LocateError where there is none, or a pickle that is not allowed.
    """
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    if not (folder / PICKLE).is_file():
        raise LocateError(f"{folder} has {SETTINGS} but no {WEIGHTS}: save the adapter again, or remove {SETTINGS}")
    if not allow_pickle:
        raise LocateError(
            f"{folder / PICKLE} is a pickle, which can run code: convert it to safetensors, or pass allow_pickle=True "
            "(--allow-pickle) if you trust it"
        )
    return folder / PICKLE


def adapter_settings(folder: Path) -> dict[str, Any]:
    """What an adapter says of itself.

    Raises LocateError for an adapter that cannot be merged into weights.
    """
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict) or not settings.get("peft_type"):
        raise LocateError(f"{folder / SETTINGS} names no peft_type: expected an adapter that PEFT has saved")
    if "PROMPT" in str(settings["peft_type"]) or settings["peft_type"] in ("PREFIX_TUNING", "P_TUNING"):
        raise LocateError(
            f"{folder} is an adapter of kind {settings['peft_type']}, which stands before the prompt and cannot be "
            "merged into weights: expected LoRA or another that changes weights"
        )
    return settings


def base_of(folder: Path) -> str:
    """The name of the model that an adapter was made for; a path is looked for from here, then from the adapter.

    Raises LocateError where the adapter names none.
    """
    name = adapter_settings(folder).get("base_model_name_or_path")
    if not name:
        raise LocateError(f"{folder / SETTINGS} names no base_model_name_or_path: write the base model's folder there")
    beside = folder / str(name)
    return str(beside) if not Path(str(name)).exists() and beside.exists() else str(name)


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A view of a model's folder that does not show the adapter in it, which transformers would put on by itself."""
    if not has_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(temporary) / path.name).symlink_to(path.resolve())
        yield Path(temporary)


def merged(network: Any, folder: Path, allow_pickle: bool) -> Any:
    """The network with an adapter merged into its weights, in place.

    Raises LocateError where a tensor of the adapter has no place, one is missing, or nothing was changed.
    """
    try:
        from peft import PeftModel
    except ImportError:
        raise LocateError(f'the adapter in {folder} needs the package peft: pip install "locate-bias[lora]"') from None
    kept = adapter_tensors(folder, allow_pickle)
    try:
        from locate.startup import quiet

        with quiet():
            wrapped = PeftModel.from_pretrained(network, str(folder), is_trainable=False)
            check_tensors(wrapped, kept, folder)
            return wrapped.merge_and_unload(safe_merge=True)
    except LocateError:
        raise
    except MERGING as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LocateError(
            f"the adapter in {folder} cannot be merged ({lines[0][:200]}): check that it was made for this model"
        ) from None


def adapter_tensors(folder: Path, allow_pickle: bool) -> set[str]:
    """Names of the tensors in an adapter's file."""
    from safetensors import SafetensorError, safe_open

    path = adapter_weights(folder, allow_pickle)
    if path.suffix != ".safetensors":
        import torch

        return set(torch.load(path, map_location="cpu", weights_only=True))
    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except SafetensorError as error:
        raise LocateError(f"{path} is not a safetensors file ({error}): save the adapter again") from None


def check_tensors(wrapped: Any, kept: set[str], folder: Path) -> None:
    """Raise LocateError unless the adapter's file and the places made for it hold the same tensors."""
    from peft import get_peft_model_state_dict

    placed = set(get_peft_model_state_dict(wrapped))
    for lacking, what in ((kept - placed, "that the model has no place for"), (placed - kept, "too few")):
        if lacking:
            raise LocateError(
                f"the adapter in {folder} has {len(lacking)} tensors {what} ({sorted(lacking)[0]}): check that it was "
                "made for this model, and save it again"
            )
