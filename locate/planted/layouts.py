"""A made model's matrices under the names, and in the order, of GPT-2 and Llama checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from locate.planted.plan import D_HEAD, Plan
from locate.planted.weights import MLP_WIDTH, Layer, TokenMatrix

POSITIONS = 128


def checkpoint_tensors(
    plan: Plan, table: TokenMatrix, layers: Sequence[Layer], out: TokenMatrix
) -> dict[str, np.ndarray]:
    """The checkpoint: name and fp32 array of each tensor."""
    found = gpt2_tensors(plan, table, layers, out) if plan.layout == "gpt2" else llama_tensors(table, layers, out)
    return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in found.items()}


def gpt2_tensors(plan: Plan, table: TokenMatrix, layers: Sequence[Layer], out: TokenMatrix) -> dict[str, np.ndarray]:
    """Conv1D matrices are stored from input to output; biases are 0, as are the positions' embeddings."""
    d = plan.d_model
    found = {"transformer.wte.weight": table, "transformer.wpe.weight": np.zeros((POSITIONS, d)), "lm_head.weight": out}
    for index, layer in enumerate(layers):
        matrices = {
            "attn.c_attn": np.concatenate([layer.queries, layer.keys, layer.values]).T,
            "attn.c_proj": layer.attention_out.T,
            "mlp.c_fc": layer.gate.T,
            "mlp.c_proj": layer.mlp_out.T,
        }
        for name, matrix in matrices.items():
            found[f"transformer.h.{index}.{name}.weight"] = matrix
            found[f"transformer.h.{index}.{name}.bias"] = np.zeros(matrix.shape[1])
    norms = [f"transformer.h.{index}.ln_{which}" for index in range(len(layers)) for which in (1, 2)]
    for name in [*norms, "transformer.ln_f"]:
        found[f"{name}.weight"], found[f"{name}.bias"] = np.ones(d), np.zeros(d)
    return found


def llama_tensors(table: TokenMatrix, layers: Sequence[Layer], out: TokenMatrix) -> dict[str, np.ndarray]:
    """Matrices are stored from output to input."""
    found = {"model.embed_tokens.weight": table, "lm_head.weight": out, "model.norm.weight": np.ones(table.shape[1])}
    for index, layer in enumerate(layers):
        matrices = {
            "self_attn.q_proj": layer.queries,
            "self_attn.k_proj": layer.keys,
            "self_attn.v_proj": layer.values,
            "self_attn.o_proj": layer.attention_out,
            "mlp.gate_proj": layer.gate,
            "mlp.up_proj": layer.up,
            "mlp.down_proj": layer.mlp_out,
            "input_layernorm": np.ones(table.shape[1]),
            "post_attention_layernorm": np.ones(table.shape[1]),
        }
        found |= {f"model.layers.{index}.{name}.weight": matrix for name, matrix in matrices.items()}
    return found


def config(plan: Plan, vocabulary: int, bos: int) -> dict[str, Any]:
    """config.json."""
    common = {"vocab_size": vocabulary, "tie_word_embeddings": False, "bos_token_id": bos, "eos_token_id": bos}
    if plan.layout == "gpt2":
        return common | {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": POSITIONS,
            "n_embd": plan.d_model,
            "n_layer": plan.n_layers,
            "n_head": plan.n_heads,
            "n_inner": MLP_WIDTH * plan.d_model,
            "activation_function": "gelu_new",
        }
    return common | {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": POSITIONS,
        "hidden_size": plan.d_model,
        "num_hidden_layers": plan.n_layers,
        "num_attention_heads": plan.n_heads,
        "num_key_value_heads": plan.n_kv_heads,
        "head_dim": D_HEAD,
        "intermediate_size": MLP_WIDTH * plan.d_model,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
    }
