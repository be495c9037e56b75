"""Models in GGUF files: configuration and tokenizer as ordinary files, weights dequantised by transformers."""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import cache_folder
from locate.schema import library_version

SUFFIX = ".gguf"
SHARD = re.compile(r"-\d{5}-of-\d{5}$")
CONFIGURED = {
    "attention.key_length": "head_dim", "attention.sliding_window": "sliding_window", "logit_scale": "logit_scale",
    "attn_logit_softcapping": "attn_logit_softcapping", "final_logit_softcapping": "final_logit_softcapping",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps", "attention.layer_norm_epsilon": "layer_norm_eps",
    "expert_used_count": "num_experts_per_tok", "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier", "attention.scale": "attention_multiplier",
}  # fmt: skip
"""what the header calls a setting, and what a configuration calls it"""
CHANGING = (
    "logit_scale", "attn_logit_softcapping", "final_logit_softcapping", "embedding_scale", "residual_scale",
    "attention.scale",
)  # fmt: skip
"""those that must have a place; the others follow from the shapes, or have another name in some families"""
UNREADABLE = (  # damaged files run into all of these
    OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError,
    OverflowError, MemoryError,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """What the header of a GGUF file says.

    architecture  as GGUF names it ("llama", "qwen2")
    types         type of each tensor by name ("F32", "Q4_1")
    parameters    numbers stored
    pieces        the vocabulary, in order of id; empty where the file has none
    settings      the architecture's numbers and words by name, as in "rope.freq_base"
    """

    architecture: str
    types: dict[str, str]
    parameters: int
    pieces: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def quantisation(self) -> str:
        """The type of most of its matrices."""
        counts = Counter(kind for kind in self.types.values() if kind != "F32")
        return counts.most_common(1)[0][0] if counts else "F32"


def gguf_in(name: str, folder: Path) -> Path | None:
    """The GGUF file that a path stands for: itself, or the one in a folder without other weights; None for others.

    Raises LocateError for several files, or one shard of several.
    """
    if folder.suffix.lower() == SUFFIX:
        return check_unsharded(folder)
    if not folder.is_dir() or (folder / "config.json").exists():
        return None
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() == SUFFIX)
    if len(found) > 1 and not all(SHARD.search(path.stem) for path in found):
        names = ", ".join(path.name for path in found[:4])
        raise LocateError(f"folder {name!r} holds {len(found)} GGUF files ({names}): give one by its file name")
    return check_unsharded(found[0]) if found else None


def check_unsharded(path: Path) -> Path:
    """The path itself.

    Raises LocateError for one shard of a model.
    """
    if SHARD.search(path.stem):
        raise LocateError(
            f"{path} is one shard of a GGUF model: merge the shards with llama.cpp's `gguf-split --merge`, or give the "
            "model's safetensors"
        )
    return path


def read_header(path: Path) -> Header:
    """What the header of a GGUF file says.

    Raises LocateError for a damaged or sharded file, or where the package that reads it is not installed.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise LocateError(f'{path} needs the package gguf: pip install "locate-bias[gguf]"') from None
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise LocateError(f"{path} is not a GGUF file (it does not begin with GGUF): download it again")
    try:
        reader: Any = GGUFReader(path)
        shards = reader.fields.get("split.count")
        fields = {key: field.contents() for key, field in reader.fields.items() if key != "tokenizer.ggml.merges"}
        types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        parameters = sum(int(tensor.n_elements) for tensor in reader.tensors)
    except UNREADABLE as error:
        raise LocateError(f"{path} is damaged ({first_line(error)}): download it again") from None
    if shards is not None and int(shards.contents()) > 1:
        raise LocateError(
            f"{path} is one of {shards.contents()} shards: merge them with llama.cpp's `gguf-split --merge`, or give "
            "the model's safetensors"
        )
    if "general.architecture" not in fields or not types:
        raise LocateError(f"{path} names no architecture or holds no tensors: expected a language model's GGUF file")
    pieces = tuple(fields.get("tokenizer.ggml.tokens") or ())
    architecture = str(fields["general.architecture"])
    start = f"{architecture}."
    settings = {key.removeprefix(start): value for key, value in fields.items() if key.startswith(start)}
    return Header(architecture, types, parameters, pieces, settings)


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class where there is none."""
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@cache
def unpack(path: Path, sha256: str) -> Path:
    """A folder with the configuration and the tokenizer of a GGUF file as ordinary Hugging Face files.

    It lies in the user's cache (XDG_CACHE_HOME, else ~/.cache), under the hash of the file, and is made once.

    Raises LocateError for an architecture or a tokenizer that transformers cannot read.
    """
    about = read_header(path)
    cached = cache_folder() / "gguf"
    folder = cached / f"{sha256[:32]}-{library_version('transformers')}-{library_version('locate-bias')}"
    if (folder / "config.json").is_file():
        return folder
    try:
        cached.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cached, prefix=".partial-") as temporary:
            place = Path(temporary) / "model"
            write_files(path, about, place)
            try:
                place.rename(folder)
            except OSError:
                if not (folder / "config.json").is_file():  # else another process was faster
                    raise
    except OSError as error:
        raise LocateError(f"cannot write to {cached} ({error}): set XDG_CACHE_HOME to a folder with room") from None
    return folder


def write_files(path: Path, about: Header, place: Path) -> None:
    """Write configuration and tokenizer of a GGUF file into a folder."""
    from transformers import AutoConfig, AutoTokenizer
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    from locate.model.quiet import quiet_transformers

    try:
        with quiet_transformers():
            config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
            tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except UNREADABLE as error:
        raise LocateError(
            f"{path} ({about.architecture}) cannot be read by transformers' GGUF loader ({first_line(error)}): give "
            "the model's safetensors"
        ) from None
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
    if name is None or getattr(config, "is_encoder_decoder", False):
        raise LocateError(f"{path} is {about.architecture}: expected a decoder-only causal language model")
    config.architectures = [name]
    apply_header(path, about, config)
    vocabulary = tokenizer.get_vocab()
    wrong = [piece for number, piece in enumerate(about.pieces) if vocabulary.get(piece, number) != number]
    if wrong:
        raise LocateError(
            f"{path}: transformers gives {len(wrong)} pieces of its vocabulary wrong ids (such as {wrong[0]!r}): give "
            "the model's safetensors"
        )
    config.save_pretrained(place)
    tokenizer.save_pretrained(place)


def apply_header(path: Path, about: Header, config: Any) -> None:
    """Set in a configuration what the file says but transformers' loader leaves at its default.

    Raises LocateError where the configuration has no place for a setting that changes the numbers.
    """
    given = about.settings
    if about.pieces:
        config.vocab_size = len(about.pieces)
    if config.model_type == "gpt2" and "context_length" in given:
        config.n_positions = int(given["context_length"])
    for key, name in CONFIGURED.items():
        if key in given and hasattr(config, name):
            setattr(config, name, given[key])
    rope = getattr(config, "rope_parameters", None)
    nested = isinstance(rope, dict) and any(isinstance(each, dict) for each in rope.values())  # one a kind of layer
    if isinstance(rope, dict) and not nested:
        if "rope.freq_base" in given:
            rope["rope_theta"] = float(given["rope.freq_base"])
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        share = given.get("rope.dimension_count", width) / width
        if share != 1 or "partial_rotary_factor" in rope:
            rope["partial_rotary_factor"] = share
    lost = [key for key, name in CONFIGURED.items() if key in given and not hasattr(config, name) and key in CHANGING]
    scaling = given.get("rope.scaling.type", "none"), given.get("rope.scaling.factor", 1.0)
    if (scaling[0] != "none" and scaling[1] != 1.0) or "rope.scale_linear" in given:
        lost.append("rope.scaling")
    if lost:
        raise LocateError(
            f"{path} sets {', '.join(lost)}, which transformers' GGUF loader does not read: its numbers would be those "
            "of another model: give the model's safetensors"
        )


def read_weights(path: Path, folder: Path, dtype: Any, attention: str | None) -> tuple[Any, dict[str, Any]]:
    """The Hugging Face model of a GGUF file, dequantised, and what transformers says about its tensors.

    folder  where its configuration was unpacked

    Raises LocateError where transformers would leave a tensor of the file out.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(folder)
        with redirect_stderr(StringIO()):  # a progress bar that transformers' own switch leaves on
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                path.parent,
                gguf_file=path.name,
                config=config,
                dtype=dtype,
                attn_implementation=attention,
                output_loading_info=True,
            )
    except UNREADABLE as error:
        raise LocateError(f"{path} cannot be dequantised ({first_line(error)}): give the model's safetensors") from None
    network, info = loaded
    unread = unread_tensors(read_header(path), network)
    if unread:
        raise LocateError(
            f"{path} holds {len(unread)} tensors that transformers' GGUF loader leaves out ({', '.join(unread[:3])}): "
            "its numbers would be those of another model: give the model's safetensors"
        )
    if hasattr(network.config, "quantization_config"):
        del network.config.quantization_config
    network.hf_quantizer, network.is_quantized = None, False
    return network, dict(info)


def unread_tensors(about: Header, network: Any) -> list[str]:
    """Tensors of a GGUF file that transformers has no place for."""
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor, get_gguf_hf_weights_map

    kind = TENSOR_PROCESSORS.get(about.architecture, TensorProcessor)
    placed = set(get_gguf_hf_weights_map(network, kind(config=network.config.to_dict())))
    experts = tuple(f"ffn_{part}_exps" for part in ("gate", "up", "down"))  # placed by their own rule
    return sorted(name for name in about.types if name not in placed and not any(each in name for each in experts))
