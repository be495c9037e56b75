"""Random models as GGUF files, written with gguf's own writer, and what plain transformers makes of their weights."""

from pathlib import Path

import numpy as np
import torch
from families import TOKENS, tokenizer
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGMLQuantizationType, GGUFWriter, get_tensor_name_map
from gguf.quants import dequantize, quantize
from transformers import AutoConfig, AutoModelForCausalLM

WIDE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
GROUPED = WIDE | {"num_key_value_heads": 2, "vocab_size": 380, "max_position_embeddings": 64}
CONFIGS = {
    "llama": GROUPED | {"tie_word_embeddings": False},
    "qwen2": GROUPED | {"tie_word_embeddings": True},
    "qwen3": GROUPED | {"head_dim": 32, "tie_word_embeddings": True},
    "gpt2": {"vocab_size": 380, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


def network(family: str):
    """A random model of a family, wide enough for blocks of 32 numbers."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **CONFIGS[family], **TOKENS)).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            weights.normal_(1.0 if "norm" in name and weights.ndim == 1 else 0.0, 0.2)
    return model


def write_gguf(path: Path, model, kind: str = "F16", *, add_bos: bool | None = None, extra=None, change=None):
    """Write a model, its weights quantised, and put into the model what they are after that.

    add_bos  of the tokenizer; None says nothing
    extra    called with the writer, to add what should not be there
    change   called with name and array of each tensor; None instead of an array leaves it out
    """
    config = model.config
    family = config.model_type
    writer = GGUFWriter(path, family)
    size = config.to_dict()
    heads = size.get("num_attention_heads", size.get("n_head"))
    width, layers = size.get("hidden_size", size.get("n_embd")), size.get("num_hidden_layers", size.get("n_layer"))
    writer.add_name("tiny")
    writer.add_vocab_size(380)
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(size.get("intermediate_size", 4 * width))
    writer.add_head_count(heads)
    if family == "gpt2":
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    else:
        writer.add_head_count_kv(config.num_key_value_heads)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(10000.0)
        head = getattr(config, "head_dim", None) or width // heads
        writer.add_rope_dimension_count(head)
        writer.add_key_length(head)
        writer.add_value_length(head)
    add_tokenizer(writer, add_bos)
    add_tensors(writer, model, GGMLQuantizationType[kind], change)
    if extra is not None:
        extra(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def add_tokenizer(writer: GGUFWriter, add_bos: bool | None) -> None:
    """The byte-level BPE of the test families, with the vocabulary padded to the embedding."""
    import json

    made = tokenizer()
    about = json.loads(made.backend_tokenizer.to_str())
    pieces = sorted(made.get_vocab(), key=made.get_vocab().get)
    types = [3 if piece == "<|endoftext|>" else 1 for piece in pieces]
    missing = 380 - len(pieces)
    pieces += [f"[PAD{number}]" for number in range(missing)]
    types += [5] * missing
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    writer.add_token_merges([" ".join(pair) for pair in about["model"]["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    if add_bos is not None:
        writer.add_add_bos_token(add_bos)


def add_tensors(writer: GGUFWriter, model, kind, change) -> None:
    """The weights in llama.cpp's names and order, matrices quantised; the model gets what they are after that."""
    family = model.config.model_type
    arch = next(arch for arch in MODEL_ARCH if MODEL_ARCH_NAMES[arch] == family)
    names = get_tensor_name_map(arch, 2)
    for name, parameter in model.named_parameters():
        stem, _, suffix = name.rpartition(".")
        theirs = f"{names.get_name(stem)}.{suffix}"
        weights = stored(parameter.detach().numpy(), theirs, model.config)
        quantised = weights.ndim == 2 and "position" not in theirs
        used = kind if quantised else GGMLQuantizationType.F32
        data = quantize(np.ascontiguousarray(weights), used) if quantised else np.ascontiguousarray(weights)
        if quantised:
            back = dequantize(data, used).astype(np.float32).reshape(weights.shape)
            with torch.no_grad():
                parameter.copy_(torch.tensor(restored(back, theirs, model.config)))
        data = data if change is None else change(theirs, data)
        if data is not None:
            writer.add_tensor(theirs, data, raw_dtype=used)


def stored(weights: np.ndarray, name: str, config) -> np.ndarray:
    """A tensor as llama.cpp stores it."""
    if config.model_type == "gpt2" and weights.ndim == 2 and "embd" not in name:
        return weights.T
    heads = heads_of(name, config)
    if heads:
        return weights.reshape(heads, 2, -1, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
    return weights


def restored(weights: np.ndarray, name: str, config) -> np.ndarray:
    """A tensor as Hugging Face has it."""
    if config.model_type == "gpt2" and "embd" not in name:
        return np.ascontiguousarray(weights.T)
    heads = heads_of(name, config)
    if heads:
        return weights.reshape(heads, -1, 2, weights.shape[1]).swapaxes(1, 2).reshape(weights.shape)
    return weights


def heads_of(name: str, config) -> int:
    """Heads whose rows llama.cpp interleaves in this tensor; 0 for none."""
    if config.model_type != "llama":
        return 0
    return {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(name.split(".")[-2], 0)
