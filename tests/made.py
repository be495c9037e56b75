"""Model folders and files of other kinds, made of a Llama folder: GGUF files and adapters."""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoTokenizer

TEMPLATE = (
    "{% for each in messages %}<{{ each['role'] }}>\n{{ each['content'] }}"
    "{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '\n<assistant>\n' }}{% endif %}"
)
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def save_gguf(folder, path, kind="F32", *, bos=None, extra=(), architecture="llama", **metadata):
    """Write a Llama folder as a GGUF file: matrices of a kind of quantisation, vectors in F32."""
    from gguf import GGMLQuantizationType, GGUFWriter, quants

    folder, wanted = Path(folder), GGMLQuantizationType[kind]
    config = AutoConfig.from_pretrained(folder)
    writer = GGUFWriter(str(path), architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    add_tokenizer(writer, folder, config.vocab_size, bos)
    for name, value in metadata.items():
        writer.add_uint16(name.replace("_", "."), value)
    weights = load_file(folder / "model.safetensors")
    for name, tensor in weights.items():
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
        count = next((count for part, count in heads.items() if part in name), None)
        value = (tensor if count is None else permuted(tensor, count)).float().numpy()
        if value.ndim > 1 and kind != "F32":
            writer.add_tensor(gguf_name(name), quants.quantize(value, wanted), raw_dtype=wanted)
        else:
            writer.add_tensor(gguf_name(name), value)
    for name, tensor in extra:
        writer.add_tensor(name, tensor.float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Path(path)


def add_tokenizer(writer, folder, size, bos):
    """The byte-level BPE of a folder, as GGUF has it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    pieces = sorted(content["model"]["vocab"], key=content["model"]["vocab"].get)
    pieces += [f"[unused{number}]" for number in range(len(pieces), size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types([3 if piece == "<|endoftext|>" else 1 for piece in pieces])
    writer.add_token_merges([" ".join(each) if isinstance(each, list) else each for each in content["model"]["merges"]])
    number = AutoTokenizer.from_pretrained(folder).bos_token_id
    writer.add_bos_token_id(number)
    writer.add_eos_token_id(number)
    if bos is not None:
        writer.add_add_bos_token(bos)


def permuted(weight, heads):
    """The rows of a query or key matrix in GGUF's order, whose rotary pairs are neighbours."""
    return (
        weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:]).swapaxes(1, 2).reshape(weight.shape)
    )


def gguf_name(name):
    """GGUF's name of a tensor."""
    stem, _, kind = name.rpartition(".")
    if stem in NAMES:
        return f"{NAMES[stem]}.{kind}"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.{kind}"


def save_adapter(base, folder, *, rank=2, named=None, modules=("q_proj", "down_proj"), seed=0, **changed):
    """A LoRA adapter with random factors for some matrices of a Llama folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 4 * rank, "bias": "none",
        "target_modules": list(modules), "base_model_name_or_path": str(base) if named is None else named,
        "inference_mode": True, "lora_dropout": 0.0, "fan_in_fan_out": False,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(settings | changed))
    stream, factors = torch.Generator().manual_seed(seed), {}
    for name, weight in load_file(Path(base) / "model.safetensors").items():
        if any(f".{module}.weight" in name for module in modules):
            stem = f"base_model.model.{name.removesuffix('.weight')}"
            factors[f"{stem}.lora_A.weight"] = 0.3 * torch.randn(rank, weight.shape[1], generator=stream)
            factors[f"{stem}.lora_B.weight"] = 0.3 * torch.randn(weight.shape[0], rank, generator=stream)
    save_file(factors, folder / "adapter_model.safetensors", {"format": "pt"})
    return folder
