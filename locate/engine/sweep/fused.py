"""Blocks in few steps over memory, for rows in which nothing inside a block is written but its two outputs.

The bridge runs a block in many small steps, so that each can be hooked, and on a CPU they take much of the time. Here a
block of a well-known layout is run with the same weights, without hooks and in fewer steps: norms, rotary positions and
gate in place, heads that share keys as one product, keys and values written where they are read.
A layout is recognised by its parts. Its numbers are checked: every measurement compares them with the bridge's on a
base run (see `sweep.replay`), and where they differ, the bridge's own block is run.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float

from locate.model.products import product

SAME = 1e-4  # of the largest number that a block adds
OUTPUTS = ("attn_out", "mlp_out")

Keys = tuple[Float[torch.Tensor, "row kv_head key d_head"], Float[torch.Tensor, "row kv_head key d_value"]]
"""keys and values"""
Tables = tuple[Float[torch.Tensor, "1 pos d_head"], Float[torch.Tensor, "1 pos d_head"]]
"""cosines and sines of rotary positions"""
Projected = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""queries [row pos head d_head], keys and values [row pos kv_head d_head]"""


class Change(NamedTuple):
    """What is written inside a block: a component, where in its activation, and the values."""

    component: str
    where: tuple[torch.Tensor, ...]
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class FusedBlock:
    """A pre-norm block: attention, then MLP, each added to the residual stream.

    norms    before the attention and before the MLP
    project  normed residual stream -> queries, keys, values
    out      heads' outputs side by side -> attn_out
    mlp      normed residual stream -> mlp_out
    scaling  of the products of queries and keys
    """

    norms: tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[torch.Tensor], torch.Tensor]]
    project: Callable[[torch.Tensor], Projected]
    out: Callable[[torch.Tensor], torch.Tensor]
    mlp: Callable[[torch.Tensor], torch.Tensor]
    scaling: float

    def run(
        self,
        residual: Float[torch.Tensor, "row pos d_model"],
        mask: Float[torch.Tensor, "1 1 pos end"],
        tables: Tables | None,
        before: Keys | None,
        changes: Sequence[Change] = (),
    ) -> Float[torch.Tensor, "row pos d_model"]:
        """The block's output, given the keys and values of the positions before, with its outputs changed."""
        with torch._C.DisableTorchFunction():  # products are asked for by `product`
            queries, keys, values = self.attended(residual, tables, before)
            attention = self.out(attend(queries, keys, values, mask[0, 0], self.scaling))
            middle = changed("attn_out", attention, changes).add_(residual)
            output = changed("mlp_out", self.mlp(self.norms[1](middle)), changes)
            return output.add_(middle)

    def keys(self, residual: Float[torch.Tensor, "row pos d_model"], tables: Tables | None) -> Keys:
        """Keys and values of these positions."""
        _, keys, values = self.attended(residual, tables, None)
        return keys, values

    def attended(
        self, residual: Float[torch.Tensor, "row pos d_model"], tables: Tables | None, before: Keys | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [row kv_head group pos d_head], and all keys and values that they attend to."""
        queries, keys, values = self.project(self.norms[0](residual))
        groups = queries.shape[2] // keys.shape[2]
        grouped = rearrange(queries, "row pos (kv_head group) d_head -> row kv_head group pos d_head", group=groups)
        turned = torch.empty_like(grouped, memory_format=torch.contiguous_format)
        rotate(grouped, tables, turned)
        first = 0 if before is None else before[0].shape[2]
        all_keys, all_values = (
            each.new_empty(each.shape[0], each.shape[2], first + each.shape[1], each.shape[3])
            for each in (keys, values)
        )
        if before is not None:
            all_keys[:, :, :first], all_values[:, :, :first] = before
        rotate(keys.transpose(1, 2), tables, all_keys[:, :, first:])
        all_values[:, :, first:] = values.transpose(1, 2)
        return turned, all_keys, all_values


def changed(component: str, activation: torch.Tensor, changes: Sequence[Change]) -> torch.Tensor:
    """A component's activation with what is written there, in place."""
    for change in changes:
        if change.component == component:
            activation[change.where] = change.value
    return activation


def rotate(x: Float[torch.Tensor, "... pos d_head"], tables: Tables | None, out: torch.Tensor) -> None:
    """Turn the two halves of each vector by the angles of its position; without tables copy it."""
    if tables is None:
        out.copy_(x)
        return
    (cos_a, cos_b), (sin_a, sin_b) = (table[0].chunk(2, -1) for table in tables)
    (a, b), (out_a, out_b) = x.chunk(2, -1), out.chunk(2, -1)
    torch.mul(a, cos_a, out=out_a).addcmul_(b, sin_a, value=-1)
    torch.mul(b, cos_b, out=out_b).addcmul_(a, sin_b)


def attend(
    queries: Float[torch.Tensor, "row kv_head group pos d_head"],
    keys: Float[torch.Tensor, "row kv_head key d_head"],
    values: Float[torch.Tensor, "row kv_head key d_value"],
    mask: Float[torch.Tensor, "pos key"],
    scaling: float,
) -> Float[torch.Tensor, "row pos width"]:
    """Each head's output, side by side.

    The heads that share keys are one product, and keys stand before queries: so a softmax over a few keys runs along
    memory that many queries fill.
    """
    rows, kv_heads, groups = queries.shape[:3]
    together = queries.flatten(0, 1).flatten(1, 2)
    scores = torch.baddbmm(mask.T.repeat(1, groups), keys.flatten(0, 1), together.mT, alpha=scaling)
    found = torch.bmm(scores.softmax(1).mT, values.flatten(0, 1))
    return rearrange(
        found,
        "(row kv_head) (group pos) d_value -> row pos (kv_head group d_value)",
        row=rows,
        kv_head=kv_heads,
        group=groups,
    )


def fused(block: Any) -> FusedBlock | None:
    """A block of the bridge in few steps; None where its parts are of no layout that is known here."""
    layer = below(block)
    for parts, make in ((LLAMA, fused_llama), (GPT2, fused_gpt2)):
        if set(dict(layer.named_children())) == set(parts):
            inside = {name: below(getattr(layer, name)) for name in parts}
            if all(set(dict(inside[name].named_children())) == names for name, names in parts.items() if names):
                return make(*inside.values())
    return None


LLAMA: dict[str, set[str]] = {
    "input_layernorm": set(),
    "self_attn": {"q_proj", "k_proj", "v_proj", "o_proj"},
    "post_attention_layernorm": set(),
    "mlp": {"gate_proj", "up_proj", "down_proj", "act_fn"},
}
"""parts of a block of Llama, Mistral, Qwen2 and others, and the parts of these"""
GPT2: dict[str, set[str]] = {
    "ln_1": set(),
    "attn": {"c_attn", "c_proj", "attn_dropout", "resid_dropout"},
    "ln_2": set(),
    "mlp": {"c_fc", "c_proj", "act", "dropout"},
}


def below(module: Any) -> Any:
    """The Hugging Face module that a bridge's component stands for."""
    return getattr(module, "original_component", module)


def fused_llama(norm: Any, attention: Any, second: Any, mlp: Any) -> FusedBlock | None:
    """A block with RMS norms, rotary positions, grouped heads and a SiLU gate."""
    query, key, value, out = (below(getattr(attention, name)) for name in ("q_proj", "k_proj", "v_proj", "o_proj"))
    gate, up, down = (below(getattr(mlp, name)) for name in ("gate_proj", "up_proj", "down_proj"))
    plain = all(type(each) is torch.nn.Linear for each in (query, key, value, out, gate, up, down))
    alike = all(len({each.bias is None for each in together}) == 1 for together in ((query, key, value), (gate, up)))
    if not (plain and alike and all(hasattr(each, "variance_epsilon") for each in (norm, second))):
        return None
    joint, leaving, entering, closing = (
        one_product(*each) for each in ((query, key, value), (out,), (gate, up), (down,))
    )
    sizes = [each.out_features // attention.head_dim for each in (query, key, value)]

    def project(normed: torch.Tensor) -> Projected:
        queries, keys, values = joint(normed).unflatten(-1, (-1, attention.head_dim)).split(sizes, -2)
        return queries, keys, values

    def gated(normed: torch.Tensor) -> torch.Tensor:
        opening, found = entering(normed).chunk(2, -1)
        return closing(torch.nn.functional.silu(opening, inplace=True) * found)

    return FusedBlock((rms_norm(norm), rms_norm(second)), project, leaving, gated, attention.scaling)


def fused_gpt2(norm: Any, attention: Any, second: Any, mlp: Any) -> FusedBlock | None:
    """A block with layer norms, one product for queries, keys and values, and an activation without a gate."""
    layers = [below(each) for each in (attention.c_attn, attention.c_proj, mlp.c_fc, mlp.c_proj)]
    if any(type(each).__name__ != "Conv1D" for each in layers):
        return None
    joint, out, first, last = map(turned_product, layers)

    def project(normed: torch.Tensor) -> Projected:
        queries, keys, values = joint(normed).unflatten(-1, (-1, attention.head_dim)).chunk(3, -2)
        return queries, keys, values

    return FusedBlock(
        (norm, second), project, out, lambda normed: last(below(mlp.act)(first(normed))), attention.head_dim**-0.5
    )


def one_product(*layers: torch.nn.Linear) -> Callable[[torch.Tensor], torch.Tensor]:
    """Linear layers of one input as one product, faster than several small ones; their outputs side by side."""
    weight = side_by_side([layer.weight for layer in layers])
    bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
    return lambda x: product(x, weight, bias)


def turned_product(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """The product of a layer of GPT-2, whose weight is [width, out]."""
    return lambda x: product(x, layer.weight.t(), layer.bias)


def side_by_side(weights: Sequence[torch.Tensor]) -> Float[torch.Tensor, "out width"]:
    """Matrices of one width as one; they are moved to lie there one after the other, so nothing is kept twice.

    What is written into one of them afterwards is written into the whole.
    """
    places = [(each.untyped_storage().data_ptr(), each.data_ptr(), each.is_contiguous()) for each in weights]
    at = itertools.accumulate((each.nbytes for each in weights[:-1]), initial=weights[0].data_ptr())
    if places != [(places[0][0], place, True) for place in at]:
        with torch.inference_mode(False), torch.no_grad():
            whole = torch.cat(list(weights))
            for each, part in zip(weights, whole.split([len(each) for each in weights]), strict=True):
                each.data = part
    rows = sum(len(each) for each in weights)
    return weights[0].detach().as_strided((rows, weights[0].shape[1]), (weights[0].shape[1], 1))


def rms_norm(norm: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """An RMS norm of Hugging Face in three steps."""

    def normed(x: torch.Tensor) -> torch.Tensor:
        squares = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
        return (x * squares.div_(x.shape[-1]).add_(norm.variance_epsilon).rsqrt_()).mul_(norm.weight)

    return normed
