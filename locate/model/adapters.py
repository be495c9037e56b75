"""Finds adapters, in a folder of their own or beside a model, and merges them into the weights on loading."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import read_json

SETTINGS = "adapter_config.json"
FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.weight)?$")
WEIGHTS, PICKLE = "adapter_model.safetensors", "adapter_model.bin"
MERGING = (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError, NotImplementedError, ImportError)


def has_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter."""
    return (folder / SETTINGS).is_file()


def adapter_weights(folder: Path, allow_pickle: bool) -> Path:
    """The file of an adapter's weights.

    Raises LocateError where there is none, or only a pickle, which is not allowed.
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
    """An adapter's settings.

    Raises LocateError for an adapter that cannot be merged into weights.
    """
    settings = read_json(folder / SETTINGS)
    if not isinstance(settings, dict) or not settings.get("peft_type"):
        raise LocateError(f"{folder / SETTINGS} names no peft_type: expected an adapter that PEFT has saved")
    if "PROMPT" in str(settings["peft_type"]) or settings["peft_type"] in ("PREFIX_TUNING", "P_TUNING"):
        raise LocateError(
            f"{folder} is an adapter of kind {settings['peft_type']}, which prepends to the prompt and cannot be "
            "merged into weights: expected LoRA or another kind that changes weights"
        )
    return settings


def base_of(folder: Path) -> str:
    """The name of the model that an adapter was made for; a path is tried from here, then from the adapter's folder.

    Raises LocateError where the adapter names none.
    """
    name = adapter_settings(folder).get("base_model_name_or_path")
    if not name:
        raise LocateError(f"{folder / SETTINGS} names no base_model_name_or_path: write the base model's folder there")
    beside = folder / str(name)
    return str(beside) if not Path(str(name)).exists() and beside.exists() else str(name)


@contextmanager
def without_adapter(folder: Path) -> Iterator[Path]:
    """A view of a model's folder without the adapter in it, which transformers would apply by itself."""
    if not has_adapter(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as temporary:
        for path in folder.iterdir():
            if not path.name.startswith("adapter_"):
                (Path(temporary) / path.name).symlink_to(path.resolve())
        yield Path(temporary)


def merge_adapter(network: Any, folder: Path, allow_pickle: bool) -> Any:
    """The network with an adapter merged into its weights, in place.

    Raises LocateError where PEFT is not installed, a tensor of the adapter has no place or is missing, or PEFT fails.
    """
    from locate.model.quiet import quiet_transformers

    try:
        with quiet_transformers():
            from peft import PeftModel
    except ImportError:
        raise LocateError(f'the adapter in {folder} needs the package peft: pip install "locate-bias[lora]"') from None
    kept = set(adapter_tensors(folder, allow_pickle))
    try:
        with quiet_transformers(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PEFT warns of, missing tensors and tied weights, is checked here
            wrapped = PeftModel.from_pretrained(network, str(folder), is_trainable=False)
            check_tensors(wrapped, kept, folder)
            untie(wrapped.get_base_model())
            plain = wrapped.merge_and_unload(safe_merge=True)
            mark_if_untied(plain)
            return plain
    except LocateError:
        raise
    except MERGING as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = " ".join(line.strip() for line in lines[:2])[:200]  # torch names the tensor in its second line
        raise LocateError(
            f"the adapter in {folder} cannot be merged ({reason}): check that it was made for this model"
        ) from None


def untie(network: Any) -> None:
    """Give the output head weights of its own where it shares the embedding's and an adapter changes one of the two.

    Unmerged, such an adapter changes only the one that it was made for.
    """
    layers = [network.get_input_embeddings(), network.get_output_embeddings()]
    if None in layers or not any(hasattr(layer, "base_layer") for layer in layers):
        return
    embedding, head = (getattr(layer, "base_layer", layer) for layer in layers)
    if head.weight is embedding.weight:
        head.weight = type(head.weight)(head.weight.detach().clone(), requires_grad=False)


def mark_if_untied(network: Any) -> None:
    """Let the configuration say that head and embedding differ, where an adapter has made them differ."""
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    if head is not None and head.weight is not embedding.weight:
        network.config.get_text_config().tie_word_embeddings = False
        network.config.tie_word_embeddings = False


def adapter_tensors(folder: Path, allow_pickle: bool) -> dict[str, Any]:
    """The tensors in an adapter's file, by name.

    Raises LocateError where the file is damaged.
    """
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = adapter_weights(folder, allow_pickle)
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (SafetensorError, UnpicklingError, OSError, RuntimeError, ValueError, TypeError, EOFError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise LocateError(f"{path} is damaged ({reason}): save the adapter again") from None


def idle_note(folder: Path, allow_pickle: bool) -> str | None:
    """A note on a LoRA adapter whose every product is zero; None for others."""
    factors: dict[str, list[bool]] = {}
    for name, tensor in adapter_tensors(folder, allow_pickle).items():
        stem = FACTOR.sub("", name)
        if stem == name:
            return None
        factors.setdefault(stem, []).append(bool(tensor.any()))
    if any(all(each) for each in factors.values()):
        return None
    return "the adapter changes nothing: one of the two factors of each of its matrices is zero, as before training"


def check_tensors(wrapped: Any, kept: set[str], folder: Path) -> None:
    """Raise LocateError unless the adapter's file holds exactly the tensors that PEFT made places for."""
    from peft import get_peft_model_state_dict

    placed = set(get_peft_model_state_dict(wrapped))
    for lacking, what in ((kept - placed, "that the model has no place for"), (placed - kept, "too few")):
        if lacking:
            raise LocateError(
                f"the adapter in {folder} has {len(lacking)} tensors {what} ({sorted(lacking)[0]}): check that it was "
                "made for this model, and save it again"
            )
