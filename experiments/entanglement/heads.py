"""What the strongest heads attend to, what they write, and how much of the lowest MLP's effect goes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from measuring import HEADS, Neuron, Work, couple_of, effects_of

import locate
from locate.model.matrices import matrix
from locate.prompts import Prompts
from locate.prompts.tokens import TokenPair
from locate.sites import BEFORE, Patch, Site, Write
from locate.tracing.stage import Settings, Stage, prepare

ATTENDED = (BEFORE, "subject_first", "subject_middle", "subject_last", "after_subject", "further", "last")
VALUE = "blocks.{}.attn.hook_v"
LISTED = 8
"""pieces of the vocabulary at either end"""

Head = tuple[int, int]
"""layer and unit"""


def site_of(head: Head) -> Site:
    """A head at the last token."""
    return Site("head", head[0], "last", head[1])


def measure_paths(work: Work, heads: Sequence[Head], prompts: Prompts) -> dict[str, pd.DataFrame]:
    """Effects of the heads alone and by their direct path, and of their attention to each role."""
    map = locate.Map(("head",), HEADS.layers, ("last",), severed=("both",), only=tuple(site_of(each) for each in heads))
    edges = [Site("pattern", layer, "last", unit, key) for layer, unit in heads for key in ATTENDED]
    pattern = locate.Map(("pattern",), HEADS.layers, ("last",), keys=ATTENDED, only=tuple(edges))
    return {
        "head": effects_of(work.trace("heads-direct", prompts, map), prompts),
        "pattern": effects_of(work.trace("heads-attention", prompts, pattern), prompts),
    }


def measure_mediated(
    work: Work, heads: Sequence[Head], sets: dict[str, Sequence[Neuron]], prompts: Prompts
) -> pd.DataFrame:
    """Effects of sets of the lowest MLP's neurons at the occupation, as they are and with heads held at the base run.

    A set named "MLP" is the whole output. What a held head takes from an effect went through it.
    """
    patches = []
    held = {"": (), "all": tuple(heads)} | {f"{layer}.{unit}": ((layer, unit),) for layer, unit in heads}
    for name, neurons in sets.items():
        sites = [Site("neuron", layer, "subject_last", unit) for layer, unit in neurons]
        writes = tuple(Write(each) for each in sites or [Site("mlp_out", 0, "subject_last")])
        for label, some in held.items():
            frozen = tuple(Write(site_of(each), "base") for each in some)
            patches.append(Patch(writes[0].site, writes + frozen, name=f"{name}|{label}"))
    return effects_of(work.trace("neurons-through-heads", prompts, patches=patches), prompts)


def attention_weights(work: Work, heads: Sequence[Head], prompts: Prompts) -> pd.DataFrame:
    """Attention of each head from the last token of clean prompts to the tokens of each role."""
    rows = []
    for pair in token_pairs(work, prompts):
        weights = activations(work, pair.clean, "pattern", heads)
        for (layer, unit), own in weights.items():
            for position, role in enumerate(pair.clean_roles):
                place = {"pair": pair.index, "group": couple_of(pair.pair), "layer": layer, "unit": unit, "role": role}
                rows.append(place | {"weight": float(own[unit, -1, position])})
    return pd.DataFrame(rows).groupby(["pair", "group", "layer", "unit", "role"], as_index=False)["weight"].sum()


def reads(work: Work, heads: Sequence[Head], prompts: Prompts) -> pd.DataFrame:
    """Which tokens the change of each head's output comes from: what it adds to *she* less *he*, by role.

    The head's output is the sum over tokens of attention times value. Each term, read through W_O, the weight of the
    last norm (not its scale) and the unembedding of " she" less " he", is that of the clean less that of the corrupted
    prompt, signed by the stereotype. One row per pair, head and role: `written`, in logits before that scale.
    """
    network = locate.load_causal(work.name, device="cpu").network
    towards = {head: direction_of(work, network, head) for head in heads}
    per_value = work.model.n_heads // work.model.n_kv_heads
    rows = []
    for pair in token_pairs(work, prompts):
        for ids, roles, sign in ((pair.clean, pair.clean_roles, 1), (pair.corrupted, pair.corrupted_roles, -1)):
            pattern = activations(work, ids, "pattern", heads)
            values = activations(work, ids, "value", heads)
            for layer, unit in heads:
                place = {"pair": pair.index, "group": couple_of(pair.pair), "layer": layer, "unit": unit}
                own = values[layer, unit][:, unit // per_value].double() @ towards[layer, unit]
                terms = pattern[layer, unit][unit, -1].double() * own * sign * pair.pair.stereotype
                rows += [
                    place | {"role": role, "written": float(term)} for role, term in zip(roles, terms, strict=True)
                ]
    return pd.DataFrame(rows).groupby(["pair", "group", "layer", "unit", "role"], as_index=False)["written"].sum()


def direction_of(work: Work, network: Any, head: Head) -> torch.Tensor:
    """The direction of a head's output that adds to the logit of " she" less that of " he", before the last scale."""
    she, he = (work.model.encode(word)[0][-1] for word in (" she", " he"))
    unembedding = network.get_output_embeddings().weight.detach()
    answer = network.model.norm.weight.detach().double() * (unembedding[she] - unembedding[he]).double()
    return answer @ output_matrix(work, network, head)


def output_matrix(work: Work, network: Any, head: Head) -> torch.Tensor:
    """W_O of one head: [d_model, d_head]."""
    columns = slice(head[1] * work.model.d_head, (head[1] + 1) * work.model.d_head)
    return matrix(network, str(work.model.module("head", head[0]))).weight[:, columns]


def readout(work: Work, heads: Sequence[Head], prompts: Prompts) -> pd.DataFrame:
    """What the stereotype moves in each head's output at the last token, read on the vocabulary.

    The output of the clean less that of the corrupted prompt, signed by the stereotype and averaged, through W_O, the
    weight of the last norm (not its scale) and the unembedding: the pieces it raises and lowers most, and the place of
    " she" and " he" among all pieces.
    """
    network = locate.load_causal(work.name, device="cpu").network
    moved = {head: torch.zeros(work.model.d_head, dtype=torch.float64) for head in heads}
    pairs = token_pairs(work, prompts)
    for pair in pairs:
        clean, corrupted = (activations(work, ids, "head", heads) for ids in (pair.clean, pair.corrupted))
        for head in heads:
            difference = clean[head][-1, head[1]] - corrupted[head][-1, head[1]]
            moved[head] += pair.pair.stereotype * difference.double() / len(pairs)
    unembedding = network.get_output_embeddings().weight.detach().double()
    norm = network.model.norm.weight.detach().double()
    she, he = (work.model.encode(word)[0][-1] for word in (" she", " he"))
    rows = []
    for layer, unit in heads:
        written = output_matrix(work, network, (layer, unit)) @ moved[layer, unit]
        logits = unembedding @ (norm * written)
        order = logits.argsort(descending=True)
        place = order.argsort()
        words = [[work.model.tokenizer.decode([int(i)]).strip() for i in some] for some in (order, order.flip(0))]
        rows.append(
            {"layer": layer, "unit": unit, "raised": " ".join(first_words(words[0]))}
            | {"lowered": " ".join(first_words(words[1])), "place_of_she": int(place[she]) + 1}
            | {"place_of_he_from_below": len(order) - int(place[he]), "pieces": len(order)}
        )
    return pd.DataFrame(rows)


def first_words(pieces: Sequence[str]) -> list[str]:
    """The first different words of plain letters, whatever their case."""
    return list(dict.fromkeys(each.lower() for each in pieces[:200] if each.isascii() and each.isalpha()))[:LISTED]


def token_pairs(work: Work, prompts: Prompts) -> Sequence[TokenPair]:
    """The pairs as tokens with their roles."""
    map = locate.Map(("mlp_out",), roles=("last",))
    return prepare(work.model, Stage("pairs", prompts, map, ("denoising",)), Settings()).pairs


def activations(work: Work, ids: Sequence[int], component: str, heads: Sequence[Head]) -> dict[Head, torch.Tensor]:
    """A component of the heads' layers after a prompt.

    "pattern" is [head, query, key], "head" and "value" [pos, head, d_head]; several heads may share one value.
    """
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Callable:
        def hook(value: torch.Tensor, hook: Any) -> None:
            seen[layer] = value.detach()[0].clone()

        return hook

    layers = sorted({layer for layer, _ in heads})
    names = [VALUE.format(layer) if component == "value" else work.model.hook(component, layer) for layer in layers]
    hooks = [(name, keep(layer)) for name, layer in zip(names, layers, strict=True)]
    with work.model.hooked(hooks), torch.inference_mode():
        work.model.logits(torch.tensor([list(ids)]))
    shape = (len(ids), -1, work.model.d_head)
    return {head: seen[head[0]] if component == "pattern" else seen[head[0]].reshape(shape) for head in heads}
