"""load(): makes a checked model from files, network, tokenizer and bridge."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError

from locate.errors import LocateError
from locate.model.adapters import merge_adapter, without_adapter
from locate.model.checkpoint import Checkpoint, Files, architecture_of, files_of, find_checkpoint, tokenizer_files_of
from locate.model.encoder import (
    UNCHECKED,
    Encoder,
    check_ids,
    context_of,
    encoder_of,
    first_difference,
    has_second_reading,
    tokenizer_class,
)
from locate.model.finite import check_finite
from locate.model.gguf_file import read_weights
from locate.model.hooked import DTYPES, SHORT_DTYPES, Model, choose_device
from locate.model.loaded import check_complete, notes_on_loaded
from locate.model.placement import Placement, check_device_map, check_memory, input_device
from locate.model.products import precise
from locate.model.quantised import check_quantise, quantised_note
from locate.model.quiet import quiet_transformers
from locate.model.startup_check import PROMPTS, countable_units, verify
from locate.model.threads import choose_threads, torch_threads
from locate.sites import check

UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)


def load(
    name: str | Path = "mini",
    *,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    bos: str = "auto",
    chat: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    threads: int | None = None,
    device_map: str | None = None,
    quantise: int | None = None,
) -> Model:
    """Load a causal language model and check that it can be traced exactly.

    name               "mini" (bundled), a local folder, a GGUF file, a LoRA folder, or a Hugging Face id
    device             "cpu", "cuda", "cuda:1"; None takes cuda where there is one
    dtype              float32, bfloat16, float16 or float64 (or fp32, bf16, fp16, fp64); tf32 on an NVIDIA GPU
    revision           branch, tag or commit of a Hugging Face id
    bos                before every text: "auto" (what the tokenizer puts there), "yes" (BOS), "no" (nothing)
    chat               the text begins the answer in a conversation, by the tokenizer's own chat template
    allow_pickle       also read weights that are not safetensors (pickle can run code)
    trust_remote_code  run the model's own Python code
    threads            torch computes with while the model is loaded and measured; None for as many as the process is
                       granted, or one where a short trial finds that more are no faster
    device_map         "auto" or "balanced": spread over all GPUs, blocks whole, for a model larger than one of them
    quantise           8 or 4: hold the matrices in so many bits, for a trace in less memory; see docs/scale.md

    Raises LocateError when the model is missing, gated, not a causal language model or too large for the memory, when
    it fails the start-up check, or when it has a stamp beside an MLP (see `load_stamped`).
    """
    name, dtype = str(name), SHORT_DTYPES.get(dtype, dtype)
    check("dtype", dtype, tuple(DTYPES))
    check_device_map(device_map, device)
    check_quantise(quantise)
    placement = Placement(choose_device(device), device_map, quantise)
    if dtype == "tf32" and not placement.device.startswith("cuda"):
        raise LocateError(f"dtype tf32 on {placement.device}: it needs an NVIDIA GPU: choose float32 or bfloat16")
    checkpoint = find_checkpoint(
        name, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    if checkpoint.stamps is not None:
        raise LocateError(
            f"model {name!r} has a stamp beside an MLP, where no hook sees it, and cannot be traced: trace the model "
            "before its edit, and judge this one with locate-bias evaluate"
        )
    threads = choose_threads(threads)
    with torch_threads(threads), precise(dtype):
        bridge, encoder, plain = boot(
            checkpoint, placement, DTYPES[dtype], allow_pickle, trust_remote_code, bos=bos, chat=chat
        )
    options: dict[str, Any] = {"device": placement.device if device_map is None else None, "revision": revision}
    options |= {"bos": bos, "chat": chat, "allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
    options |= {"threads": threads, "device_map": device_map, "quantise": quantise}
    held = input_device(bridge.original_model) if device_map is not None else placement.device
    model = Model(name, checkpoint, bridge, encoder, dtype, held, options=options, threads=threads)
    model.own_hooks.update(model.hooks_in_blocks())
    model.unit_counts.update(countable_units(model))
    with torch_threads(threads), precise(dtype):
        model.checks.update(verify(model, plain))
    return model


def full_twin(model: Model) -> Model:
    """The same model loaded again in full precision: its weights whole, and in fp32 where its dtype is a shorter one.

    Raises LocateError as `load` does, for instance when the two do not fit the memory together.
    """
    dtype = model.dtype if model.dtype in ("float32", "float64") else "float32"
    return load(model.name, dtype=dtype, **model.options | {"quantise": None})


def load_encoder(
    name: str = "mini",
    *,
    revision: str | None = None,
    bos: str = "auto",
    chat: bool = False,
    trust_remote_code: bool = False,
) -> tuple[Encoder, int]:
    """How a model reads text and the longest text it takes; its weights are neither read nor downloaded.

    Raises LocateError when the model is missing, gated, or not a causal language model.
    """
    files = files_of(name, revision=revision, trust_remote_code=trust_remote_code, weights=False)
    architecture = architecture_of(name, files.folder, trust_remote_code)
    tokenizer_files_of(name, files.tokenizer)
    encoder, config = boot_encoder(name, files, architecture, trust_remote_code, bos=bos, chat=chat)
    return encoder, context_of(config)


def boot(
    checkpoint: Checkpoint,
    placement: Placement,
    dtype: torch.dtype,
    allow_pickle: bool,
    trust_remote_code: bool,
    *,
    bos: str,
    chat: bool,
) -> tuple[Any, Encoder, list[Float[torch.Tensor, " d_vocab"]]]:
    """Bridge and encoder of a checkpoint, and the plain model's final logits of the check prompts.

    The plain logits are taken before anything but its weights' bits and places is changed in the model.
    """
    name = str(checkpoint.home)
    encoder, config = boot_encoder(
        name, checkpoint.files, checkpoint.architecture, trust_remote_code, bos=bos, chat=chat
    )
    plain = read_network(checkpoint, placement.first, dtype, allow_pickle, trust_remote_code, attention="eager")
    notes = notes_on_loaded(plain, checkpoint)
    split = () if placement.quantise is None else split_matrices(checkpoint, config)
    placement.place(plain, name, split)
    if placement.quantise is not None:
        notes = [*notes, quantised_note(plain, placement.quantise, split)]
    device = input_device(plain)
    encoder = check_numbers(name, plain, encoder, device, notes)
    logits = [plain_logits(plain, encoder, prompt, device) for prompt in PROMPTS]
    fuse_activations(plain)
    into_one_line = hooking if placement.quantise is None else hooking_packed
    with into_one_line(checkpoint.architecture):
        bridge = build_bridge(checkpoint, plain, encoder.tokenizer, device, dtype, trust_remote_code)
    return bridge, encoder, logits


def plain_logits(plain: Any, encoder: Encoder, prompt: str, device: str) -> Float[torch.Tensor, " d_vocab"]:
    """A plain model's logits after a prompt with nothing before it."""
    ids = torch.tensor([encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]], device=device)
    with torch.inference_mode():
        found: torch.Tensor = plain(ids).logits[0, -1].float().cpu()
    return found


def check_numbers(name: str, plain: Any, encoder: Encoder, device: str, notes: Sequence[str] = ()) -> Encoder:
    """The encoder, told how many rows the embedding has.

    notes  further notes on the model that was loaded

    Raises LocateError where ids of the tokenizer lie beyond it or beyond the output head, or where logits are nan or
    infinite.
    """
    head = plain.get_output_embeddings()
    rows = min(len(each.weight) for each in (plain.get_input_embeddings(), head) if each is not None)
    beyond = check_ids(encoder.tokenizer, rows, name)
    if max(encoder.before, default=0) >= rows:
        raise LocateError(
            f"model {name!r}: id {max(encoder.before)} stands before every text, but the embedding has {rows} rows: "
            "choose --bos no, or save tokenizer and model again from one model"
        )
    for prompt in PROMPTS:
        check_finite(plain_logits(plain, encoder, prompt, device), f"logits of model {name!r}", prompt)
    return replace(encoder, rows=rows, notes=tuple(dict.fromkeys([*encoder.notes, *beyond, *notes])))


def read_network(
    checkpoint: Checkpoint,
    device: str,
    dtype: torch.dtype,
    allow_pickle: bool,
    trust_remote_code: bool,
    *,
    attention: str | None = None,
) -> Any:
    """The Hugging Face model of a checkpoint, as it is, in evaluation mode and without gradients.

    attention  the implementation of attention; None for what Hugging Face chooses

    Raises LocateError when it does not fit the memory, does not load, or lacks a tensor.
    """
    from transformers import AutoModelForCausalLM

    check_memory(checkpoint, device, dtype)
    files = checkpoint.files
    with quiet_transformers():
        if files.gguf is not None:
            plain, info = read_weights(files.gguf, files.folder, dtype, attention)
        else:
            try:
                with without_adapter(files.folder) as place:
                    loaded: Any = AutoModelForCausalLM.from_pretrained(
                        place,
                        dtype=dtype,
                        use_safetensors=not allow_pickle or None,
                        trust_remote_code=trust_remote_code,
                        attn_implementation=attention,
                        output_loading_info=True,
                    )
            except UNLOADABLE as error:
                raise LocateError(explain_unloadable(checkpoint.folder, error)) from error
            plain, info = loaded
    check_complete(plain, info, checkpoint)
    if files.adapter is not None:
        plain = merge_adapter(plain, files.adapter, allow_pickle)
    plain = plain.eval().requires_grad_(False)
    torch.nn.Module.to(plain, device)
    return plain


def fuse_activations(plain: Any) -> None:
    """Compute gelu_new in one pass over the numbers instead of eight: a seventh of the time of a GPT-2 on a CPU.

    The function is the same, its rounding is not; `verify` compares the result with the plain model.
    """
    from transformers.activations import GELUTanh, NewGELUActivation

    for module in plain.modules():
        for name, child in module.named_children():
            if type(child) is NewGELUActivation:
                setattr(module, name, GELUTanh())


def boot_encoder(
    name: str, files: Files, architecture: str, trust_remote_code: bool, *, bos: str, chat: bool
) -> tuple[Encoder, Any]:
    """How a model reads text, and its configuration."""
    from transformers import AutoConfig

    tokenizer, notes = read_tokenizer(files.tokenizer, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=trust_remote_code)
    except UNLOADABLE as error:
        raise LocateError(explain_unloadable(files.folder, error)) from error
    settings = bridge_adapter(config, architecture, files.folder).cfg
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and files.adapter is None:  # an adapter may bring rows of its own
        notes = [*notes, *check_ids(tokenizer, int(rows), name)]
    custom = bool(getattr(settings, "default_prepend_bos", True))
    return encoder_of(tokenizer, bos=bos, chat=chat, custom=custom, notes=notes), config


def bridge_adapter(config: Any, architecture: str, folder: Path) -> Any:
    """What TransformerLens knows of an architecture."""
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    with hooking(architecture):
        settings = build_bridge_config_from_hf(config, architecture, str(folder), torch.float32)
        return ArchitectureAdapterFactory.select_architecture_adapter(settings)


def split_matrices(checkpoint: Checkpoint, config: Any) -> tuple[str, ...]:
    """The layers of queries, keys and values as one matrix, which TransformerLens reads and splits into three."""
    adapter = bridge_adapter(config, checkpoint.architecture, checkpoint.folder)
    try:
        return tuple(
            str(adapter.translate_transformer_lens_path(f"blocks.{layer}.attn.qkv"))
            for layer in range(int(adapter.cfg.n_layers))
        )
    except ValueError:  # they are apart
        return ()


def read_tokenizer(folder: Path, trust_remote_code: bool) -> tuple[Any, list[str]]:
    """The tokenizer of a folder, which reads texts as its file says, and notes on that.

    Raises LocateError when it does not load, gives no character offsets, or reads texts differently from its file.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = load_tokenizer(AutoTokenizer, folder, trust_remote_code)
    found = first_difference(tokenizer, folder)
    if found is None:
        return tokenizer, [] if has_second_reading(folder) else [UNCHECKED]
    text, ours, theirs = found
    what = f"{tokenizer_class(folder)} reads {text!r} as {ours[:12]}, the tokenizer's own file as {theirs[:12]}"
    if (folder / "tokenizer.json").is_file():
        tokenizer = load_tokenizer(PreTrainedTokenizerFast, folder, trust_remote_code)
        if first_difference(tokenizer, folder) is None:
            return tokenizer, [f"{what}; the file was followed"]
    raise LocateError(f"the tokenizer in {folder}: {what}: save it again as tokenizer.json with the class that made it")


def load_tokenizer(kind: Any, folder: Path, trust_remote_code: bool) -> Any:
    """A tokenizer by a class of transformers.

    Raises LocateError when it does not load, or gives no character offsets.
    """
    try:
        tokenizer = kind.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises bare exceptions for files it cannot read
        raise LocateError(explain_unloadable(folder, error)) from error
    if not tokenizer.is_fast:
        raise LocateError(f"the tokenizer in {folder} gives no character offsets: expected tokenizer.json")
    return tokenizer


def explain_unloadable(folder: Path, error: BaseException) -> str:
    """The error for files that Hugging Face cannot load."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"model in {folder} does not load ({lines[0]}): check its files"


def build_bridge(
    checkpoint: Checkpoint, plain: Any, tokenizer: Any, device: str, dtype: torch.dtype, trust_remote_code: bool
) -> Any:
    """The TransformerBridge around a loaded model."""
    from transformer_lens.model_bridge import TransformerBridge

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the bridge warns of attributes it adds to the model itself
        bridge = TransformerBridge.boot_transformers(
            str(checkpoint.folder),
            hf_model=plain,
            tokenizer=tokenizer,
            device=device,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
        )
    bridge.eval()
    return bridge


@contextmanager
def hooking(architecture: str) -> Iterator[None]:
    """Turn TransformerLens's error for an architecture it does not know into one line."""
    try:
        yield
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LocateError(
            f"TransformerLens cannot hook {architecture} ({reason}): choose an architecture it supports"
        ) from error


@contextmanager
def hooking_packed(architecture: str) -> Iterator[None]:
    """Turn TransformerLens's error for matrices that it would read, and that are packed, into one line."""
    try:
        yield
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError, RuntimeError) as error:
        raise LocateError(
            f"TransformerLens cannot hook {architecture} with quantised matrices, whose numbers it reads to split "
            "those that are stored as one: leave --quantise out, or choose another architecture"
        ) from error
