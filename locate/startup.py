"""Booting a checkpoint into a bridge, and the check that patched runs of this architecture are exact."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch
from jaxtyping import Float
from safetensors import SafetensorError

from locate.adapters import merged, without_adapter
from locate.checkpoint import Checkpoint, Files
from locate.encoder import (
    UNCHECKED,
    Encoder,
    check_ids,
    encoder_of,
    first_difference,
    has_second_reading,
    tokenizer_class,
)
from locate.errors import LocateError
from locate.finite import finite
from locate.gguf_file import read_weights
from locate.loaded import check_complete, notes_on_loaded
from locate.sites import PATTERN

if TYPE_CHECKING:
    from locate.models import Model

WORKING_SHARE = 1.3  # weights, plus buffers and activations of small batches
TOLERANCE = {"float32": 1e-3, "float64": 1e-6, "bfloat16": 0.05, "float16": 0.02, "tf32": 0.02}
BLOCK = ("resid_pre", "attn_out", "mlp_out")
UNLOADABLE = (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError)
PROMPTS = ("The nurse said that", "The man said that")


def boot(
    checkpoint: Checkpoint,
    device: str,
    dtype: torch.dtype,
    allow_pickle: bool,
    trust_remote_code: bool,
    *,
    bos: str,
    chat: bool,
) -> tuple[Any, Encoder, list[Float[torch.Tensor, " d_vocab"]]]:
    """Bridge and encoder of a checkpoint, and the plain model's final logits of the check prompts.

    The plain logits are taken before anything is changed in the model.
    """
    name = str(checkpoint.home)
    encoder, _ = boot_encoder(name, checkpoint.files, checkpoint.architecture, trust_remote_code, bos=bos, chat=chat)
    plain = read_network(checkpoint, device, dtype, allow_pickle, trust_remote_code, attention="eager")
    encoder = check_numbers(name, plain, encoder, device, notes_on_loaded(plain, checkpoint))
    logits = [plain_logits(plain, encoder, prompt, device) for prompt in PROMPTS]
    fuse_activations(plain)
    return bridged(checkpoint, plain, encoder.tokenizer, device, dtype, trust_remote_code), encoder, logits


def plain_logits(plain: Any, encoder: Encoder, prompt: str, device: str) -> Float[torch.Tensor, " d_vocab"]:
    """A plain model's logits after a prompt without anything before it."""
    ids = torch.tensor([encoder.tokenizer(prompt, add_special_tokens=False)["input_ids"]], device=device)
    with torch.inference_mode():
        found: torch.Tensor = plain(ids).logits[0, -1].float().cpu()
    return found


def check_numbers(name: str, plain: Any, encoder: Encoder, device: str, notes: Sequence[str] = ()) -> Encoder:
    """The encoder, told how many rows the embedding has.

    notes  what else is said of the model that was loaded

    Raises LocateError where ids of the tokenizer lie beyond it or beyond the output head, or where logits are no
    numbers.
    """
    head = plain.get_output_embeddings()
    rows = min(len(each.weight) for each in (plain.get_input_embeddings(), head) if each is not None)
    beyond = check_ids(encoder.tokenizer, rows, name)
    if max(encoder.before, default=0) >= rows:
        raise LocateError(
            f"model {name!r}: id {max(encoder.before)} stands before every text, and the embedding has {rows} rows: "
            "choose --bos no, or save tokenizer and model again from one"
        )
    for prompt in PROMPTS:
        finite(plain_logits(plain, encoder, prompt, device), f"logits of model {name!r}", prompt)
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

    needed(checkpoint, device, dtype)
    files = checkpoint.files
    with quiet():
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
                raise LocateError(does_not_load(checkpoint.folder, error)) from error
            plain, info = loaded
    check_complete(plain, info, checkpoint)
    if files.adapter is not None:
        plain = merged(plain, files.adapter, allow_pickle)
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
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf
    from transformers import AutoConfig

    tokenizer, notes = read_tokenizer(files.tokenizer, trust_remote_code)
    try:
        config = AutoConfig.from_pretrained(files.folder, trust_remote_code=trust_remote_code)
    except UNLOADABLE as error:
        raise LocateError(does_not_load(files.folder, error)) from error
    with hooking(architecture):
        settings = build_bridge_config_from_hf(config, architecture, str(files.folder), torch.float32)
        settings = ArchitectureAdapterFactory.select_architecture_adapter(settings).cfg
    rows = getattr(config.get_text_config(), "vocab_size", None)
    if rows is not None and files.adapter is None:  # an adapter may bring rows of its own
        notes = [*notes, *check_ids(tokenizer, int(rows), name)]
    custom = bool(getattr(settings, "default_prepend_bos", True))
    return encoder_of(tokenizer, bos=bos, chat=chat, custom=custom, notes=notes), config


def read_tokenizer(folder: Path, trust_remote_code: bool) -> tuple[Any, list[str]]:
    """The tokenizer of a folder, which reads texts as its file says, and what is said of that.

    Raises LocateError when it does not load, tells no character offsets, or reads texts otherwise.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    tokenizer = loaded_tokenizer(AutoTokenizer, folder, trust_remote_code)
    found = first_difference(tokenizer, folder)
    if found is None:
        return tokenizer, [] if has_second_reading(folder) else [UNCHECKED]
    text, ours, theirs = found
    what = f"{tokenizer_class(folder)} reads {text!r} as {ours[:12]}, the tokenizer's own file as {theirs[:12]}"
    if (folder / "tokenizer.json").is_file():
        tokenizer = loaded_tokenizer(PreTrainedTokenizerFast, folder, trust_remote_code)
        if first_difference(tokenizer, folder) is None:
            return tokenizer, [f"{what}; the file was followed"]
    raise LocateError(f"the tokenizer in {folder}: {what}: save it again as tokenizer.json with the class that made it")


def loaded_tokenizer(kind: Any, folder: Path, trust_remote_code: bool) -> Any:
    """A tokenizer by a class of transformers.

    Raises LocateError when it does not load, or tells no character offsets.
    """
    try:
        tokenizer = kind.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # the tokenizers library raises bare exceptions for files it cannot read
        raise LocateError(does_not_load(folder, error)) from error
    if not tokenizer.is_fast:
        raise LocateError(f"the tokenizer in {folder} tells no character offsets: expected tokenizer.json")
    return tokenizer


def does_not_load(folder: Path, error: BaseException) -> str:
    """What is said of files that Hugging Face cannot load."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"model in {folder} does not load ({lines[0]}): check its files"


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' own progress bars and reports; locate shows its own, and refuses in one line."""
    from transformers.utils import logging

    shown, loud = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(loud)
        if shown:
            logging.enable_progress_bar()


def bridged(
    checkpoint: Checkpoint, plain: Any, tokenizer: Any, device: str, dtype: torch.dtype, trust_remote_code: bool
) -> Any:
    """The TransformerBridge around a loaded model."""
    from transformer_lens.model_bridge import TransformerBridge

    with hooking(checkpoint.architecture), warnings.catch_warnings():
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
    """Turn what TransformerLens raises for an architecture it does not know into one line."""
    try:
        yield
    except (ValueError, KeyError, AttributeError, NotImplementedError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LocateError(
            f"TransformerLens cannot hook {architecture} ({reason}): choose an architecture it supports"
        ) from error


def needed(checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
    """Raise LocateError when the weights will not fit into the free memory."""
    bytes_needed = checkpoint.parameters * torch.empty(0, dtype=dtype).element_size() * WORKING_SHARE
    if torch.device(device).type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if bytes_needed > free:
        raise LocateError(
            f"model in {checkpoint.folder} needs about {bytes_needed / 2**30:.1f} GiB in {dtype} on {device}, where "
            f"{free / 2**30:.1f} GiB are free: choose --dtype bfloat16, another device, or a smaller model"
        )


def verify(model: Model, plain: list[Float[torch.Tensor, " d_vocab"]]) -> dict[str, float]:
    """Check, on one pair of prompts, that hooks hold the tensors that locate means and that patches do what they say.

    Returns the largest differences found, in nats of log-probability at the last token: hooked against plain model; a
    run whose first block is written whole from another run against that run; a run patched with itself against
    itself; all heads of a layer written against its attn_out written, and all neurons against its mlp_out; and, as a
    share of what the block adds, resid_pre + attn_out + mlp_out against the next resid_pre.

    Raises LocateError when a difference is beyond the dtype's share of how far the two prompts lie apart, or when the
    architecture lacks a hook.
    """
    model.supported(BLOCK)
    ids = [model.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    length = min(len(each) for each in ids)
    source, base = (torch.tensor([each[-length:]]) for each in ids)
    hooked = [model.final_logits(torch.tensor([each]))[0].cpu() for each in ids]
    kept = kept_activations(model, source)
    found = unit_gaps(model, source, base, kept) | {
        "plain": max(apart(a, b) for a, b in zip(hooked, plain, strict=True)),
        "residual": max(residual_gap(kept, layer) for layer in range(model.n_layers - 1))
        if model.n_layers > 1
        else 0.0,
        "written": apart(written(model, base, kept, 0), model.final_logits(source)),
        "self": apart(written(model, source, kept, model.n_layers - 1), model.final_logits(source)),
    }
    distance = apart(model.final_logits(source), model.final_logits(base))
    limits = {name: TOLERANCE[model.dtype] * (1.0 if name == "residual" else distance) for name in found}
    wrong = [f"{name} {value:.2g} (at most {limits[name]:.2g})" for name, value in found.items()
             if not value <= limits[name]]  # fmt: skip
    if wrong:
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}) fails the start-up check: {', '.join(wrong)}: "
            "this architecture cannot be traced exactly"
        )
    return found


def unit_gaps(
    model: Model, source: torch.Tensor, base: torch.Tensor, kept: dict[tuple[str, int], torch.Tensor]
) -> dict[str, float]:
    """Largest difference between writing all units of a layer and writing the output they make, where hooked.

    And between heads that attend to nothing and heads that say nothing.
    """
    gaps = {}
    layer = model.n_layers - 1
    if PATTERN in model.unit_counts:
        nothing = {
            (name, layer): torch.zeros_like(value)
            for (name, at), value in kept_activations(model, base, ("head", PATTERN)).items()
            if at == layer
        }
        blind, silent = (written(model, base, nothing, layer, (name,)) for name in (PATTERN, "head"))
        gaps[PATTERN] = apart(blind, silent)
    for unit, whole in (("head", "attn_out"), ("neuron", "mlp_out")):
        if unit in model.unit_counts:
            units = kept_activations(model, source, (unit,))
            by_units = written(model, base, units, layer, (unit,))
            gaps[unit] = apart(by_units, written(model, base, kept, layer, (whole,)))
    return gaps


def countable_units(model: Model) -> dict[str, int]:
    """How many heads, neurons and so on each block has, where they can be hooked one by one and all have as many.

    A mixture of experts has no such neurons: there the hook of that name is the MLP's whole output.
    """
    counts = {}
    hooks = model.bridge.hook_dict
    ids = torch.tensor([model.tokenizer(PROMPTS[0], add_special_tokens=False)["input_ids"]])
    for unit, whole, shape in (("head", "attn_out", (model.d_head,)), ("neuron", "mlp_out", ())):
        names = [(model.hook(unit, layer), model.hook(whole, layer)) for layer in range(model.n_layers)]
        if all(own in hooks and hooks[own] is not hooks.get(other) for own, other in names):
            kept = kept_activations(model, ids, (unit,)).values()
            shapes = {tuple(each.shape[2:]) for each in kept}
            if len(shapes) == 1 and (found := shapes.pop())[1:] == shape and found:
                counts[unit] = found[0]
    counts["mlp_out_unit"] = model.d_model
    if "head" in counts and all(model.hook(PATTERN, layer) in hooks for layer in range(model.n_layers)):
        length = ids.shape[1]
        shapes = {tuple(each.shape) for each in kept_activations(model, ids, (PATTERN,)).values()}
        if shapes == {(1, counts["head"], length, length)} and patterns_are_read(model, ids):
            counts[PATTERN] = counts["head"]
    return counts


def patterns_are_read(model: Model, ids: torch.Tensor) -> bool:
    """Whether attention weights that are written are those the heads use; some attention has used its own by then."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return torch.zeros_like(activation)

    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # TransformerLens says so when it discards what was written
        try:
            with model.hooked([(model.hook(PATTERN, layer), hook) for layer in range(model.n_layers)]):
                model.final_logits(ids)
        except UserWarning:
            return False
    return True


def kept_activations(
    model: Model, ids: torch.Tensor, components: tuple[str, ...] = BLOCK
) -> dict[tuple[str, int], torch.Tensor]:
    """Activations of the components at every layer: each [row, pos, ...]."""
    kept: dict[tuple[str, int], torch.Tensor] = {}

    def keep(component: str, layer: int) -> Any:
        def hook(activation: torch.Tensor, hook: Any) -> None:
            kept[component, layer] = activation.detach().clone()

        return hook

    hooks = [
        (model.hook(component, layer), keep(component, layer))
        for component in components
        for layer in range(model.n_layers)
    ]
    with model.hooked(hooks):
        model.final_logits(ids)
    return kept


def written(
    model: Model,
    ids: torch.Tensor,
    kept: dict[tuple[str, int], torch.Tensor],
    layer: int,
    components: tuple[str, ...] = BLOCK,
) -> Float[torch.Tensor, "row d_vocab"]:
    """Final logits of a run whose components at one layer are written whole from kept activations."""

    def write(component: str) -> Any:
        def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            return kept[component, layer].to(activation)

        return hook

    with model.hooked([(model.hook(component, layer), write(component)) for component in components]):
        return model.final_logits(ids)


def residual_gap(kept: dict[tuple[str, int], torch.Tensor], layer: int) -> float:
    """Largest difference of resid_pre + attn_out + mlp_out to the next resid_pre, as a share of what the block adds."""
    before, after = kept["resid_pre", layer].double(), kept["resid_pre", layer + 1].double()
    added = kept["attn_out", layer].double() + kept["mlp_out", layer].double()
    return float((before + added - after).abs().max() / (after - before).abs().max())


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two runs' log-probabilities, nats; nan where either is nan, which no limit passes."""
    one, other = (each.double().log_softmax(-1).cpu() for each in (a, b))
    return float(torch.where(one == other, 0.0, one - other).abs().max())  # pieces never written are -inf in both
