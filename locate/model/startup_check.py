"""The start-up check: do hooks hold the tensors that locate means, and do patches do what they say?"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.model.hooked import Model
from locate.sites import PATTERN

TOLERANCE = {"float32": 1e-3, "float64": 1e-6, "bfloat16": 0.05, "float16": 0.02, "tf32": 0.02}
BLOCK = ("resid_pre", "attn_out", "mlp_out")
PROMPTS = ("The nurse said that", "The man said that")


def verify(model: Model, plain: list[Float[torch.Tensor, " d_vocab"]]) -> dict[str, float]:
    """Check, on one pair of prompts, that hooks hold the tensors that locate means and that patches do what they say.

    Returns the largest differences found, in nats of log-probability at the last token: hooked against plain model; a
    run whose first block is written whole from another run against that run; a run patched with itself against
    itself; all heads of a layer written against its attn_out written, and all neurons against its mlp_out; and, as a
    share of what the block adds, resid_pre + attn_out + mlp_out against the next resid_pre.

    Raises LocateError when a difference is beyond the dtype's share of how far the two prompts lie apart, or when the
    architecture lacks a hook.
    """
    model.check_components(BLOCK)
    ids = [model.tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    length = min(len(each) for each in ids)
    source, base = (torch.tensor([each[-length:]]) for each in ids)
    hooked = [model.final_logits(torch.tensor([each]))[0].cpu() for each in ids]
    kept = kept_activations(model, source)
    found = unit_gaps(model, source, base, kept) | {
        "plain": max(largest_difference(a, b) for a, b in zip(hooked, plain, strict=True)),
        "residual": max(residual_gap(kept, layer) for layer in range(model.n_layers - 1))
        if model.n_layers > 1
        else 0.0,
        "written": largest_difference(logits_with_layer_written(model, base, kept, 0), model.final_logits(source)),
        "self": largest_difference(
            logits_with_layer_written(model, source, kept, model.n_layers - 1), model.final_logits(source)
        ),
    }
    distance = largest_difference(model.final_logits(source), model.final_logits(base))
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

    And between a layer's attention weights set to zero and its heads' outputs set to zero.
    """
    gaps = {}
    layer = model.n_layers - 1
    if PATTERN in model.unit_counts:
        nothing = {
            (name, layer): torch.zeros_like(value)
            for (name, at), value in kept_activations(model, base, ("head", PATTERN)).items()
            if at == layer
        }
        blind, silent = (logits_with_layer_written(model, base, nothing, layer, (name,)) for name in (PATTERN, "head"))
        gaps[PATTERN] = largest_difference(blind, silent)
    for unit, whole in (("head", "attn_out"), ("neuron", "mlp_out")):
        if unit in model.unit_counts:
            units = kept_activations(model, source, (unit,))
            by_units = logits_with_layer_written(model, base, units, layer, (unit,))
            gaps[unit] = largest_difference(by_units, logits_with_layer_written(model, base, kept, layer, (whole,)))
    return gaps


def countable_units(model: Model) -> dict[str, int]:
    """How many heads, neurons and so on a block has, where they can be hooked one by one and all blocks have as many.

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
    """Whether the heads use attention weights that are written; some attention code has used its own by then."""

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


def logits_with_layer_written(
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
    """Largest difference of resid_pre + attn_out + mlp_out to the next resid_pre, as a share of what the block adds.

    What the dtype rounds off the residual stream does not count: streams hold a few numbers so large that in bfloat16
    their last digit is more than most blocks add.
    """
    rounding = torch.finfo(kept["resid_pre", layer].dtype).eps
    names = (("resid_pre", layer), ("resid_pre", layer + 1), ("attn_out", layer), ("mlp_out", layer))
    before, after, attention, mlp = (kept[name].cpu().double() for name in names)  # they may be on several devices
    added = attention + mlp
    apart = (before + added - after).abs() - rounding * (before.abs() + after.abs())
    return float(apart.max().clamp(min=0) / (after - before).abs().max())


def largest_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference of two runs' log-probabilities, nats; nan where either is nan, which no limit passes."""
    one, other = (each.double().log_softmax(-1).cpu() for each in (a, b))
    return float(torch.where(one == other, 0.0, one - other).abs().max())  # pieces never written are -inf in both
