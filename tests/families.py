"""Small random models of the families that locate must trace, built in code and saved as ordinary folders."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

TEXT = """The nurse said that she was tired. The man said that he was late. The woman said that she was early.
The police officer laughed because he was happy. The engineer thought that they were right. The doctor was sad.
The librarian said that she knew him. The construction worker said that he knew her. A person and the secretary."""

VOCABULARY = 380
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LAYERED = SIZES | {"intermediate_size": 64, "max_position_embeddings": 64}
GROUPED = LAYERED | {"num_key_value_heads": 2}
TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}

FAMILIES = {
    "gpt2": {
        "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64,
        "architectures": ["GPT2LMHeadModel"],
    },
    "gpt_neox": SIZES | {
        "intermediate_size": 64, "max_position_embeddings": 64, "use_parallel_residual": True,
        "architectures": ["GPTNeoXForCausalLM"],
    },
    "llama": SIZES | {
        "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "architectures": ["LlamaForCausalLM"],
    },
    "qwen2": SIZES | {
        "intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "architectures": ["Qwen2ForCausalLM"],
    },
    "gemma2": SIZES | {
        "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64,
        "sliding_window": 4, "query_pre_attn_scalar": 8, "architectures": ["Gemma2ForCausalLM"],
    },
    "phi": SIZES | {
        "intermediate_size": 64, "max_position_embeddings": 64, "architectures": ["PhiForCausalLM"],
    },
    "opt": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "ffn_dim": 64,
        "max_position_embeddings": 64, "word_embed_proj_dim": 32, "architectures": ["OPTForCausalLM"],
    },
    "bloom": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "n_layer": 3, "n_head": 4, "architectures": ["BloomForCausalLM"],
    },
}  # fmt: skip

MORE_FAMILIES = {
    "gptj": {
        "vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "rotary_dim": 4,
        "architectures": ["GPTJForCausalLM"],
    },
    "xglm": {
        "vocab_size": VOCABULARY, "d_model": 32, "num_layers": 3, "attention_heads": 4, "ffn_dim": 64,
        "max_position_embeddings": 64, "architectures": ["XGLMForCausalLM"],
    },
    "gpt_neo": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": 3,
        "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 64,
        "architectures": ["GPTNeoForCausalLM"],
    },
    "mistral": GROUPED | {"sliding_window": 3, "architectures": ["MistralForCausalLM"]},
    "gemma3_text": GROUPED | {
        "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "architectures": ["Gemma3ForCausalLM"],
    },
    "qwen3": GROUPED | {"head_dim": 8, "architectures": ["Qwen3ForCausalLM"]},
    "phi3": GROUPED | {"architectures": ["Phi3ForCausalLM"]},
    "falcon": {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
        "ffn_hidden_size": 64, "architectures": ["FalconForCausalLM"],
    },
    "mpt": {
        "vocab_size": VOCABULARY, "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 64,
        "architectures": ["MptForCausalLM"],
    },
    "olmo2": GROUPED | {"architectures": ["Olmo2ForCausalLM"]},
    "stablelm": GROUPED | {"architectures": ["StableLmForCausalLM"]},
    "cohere": GROUPED | {"architectures": ["CohereForCausalLM"]},
    "mixtral": GROUPED | {
        "num_local_experts": 4, "num_experts_per_tok": 2, "architectures": ["MixtralForCausalLM"],
    },
    "qwen2_moe": GROUPED | {
        "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32, "architectures": ["Qwen2MoeForCausalLM"],
    },
}  # fmt: skip


def save_family(family: str, folder: Path, **sizes: int) -> Path:
    """Build a random model from a fixed seed and save it with its tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **(FAMILIES | MORE_FAMILIES)[family] | sizes, **TOKENS)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if weights.ndim >= 2:
                weights.normal_(0, 0.3)  # large enough for every site to matter
            elif "bias" in name:
                weights.normal_(0, 0.1)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE in which "nurse" is one token and "police officer" several."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    common = "The nurse man woman said that she he they laughed because person engineer driver police officer\n"
    bpe.train_from_iterator([common] * 50 + [TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>"
    )
