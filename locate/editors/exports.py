"""Files for other tools: hyper-parameters of ROME, MEMIT and EasyEdit, and importances of the MIB benchmark."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from locate.editors.handoff import block_of, hand_off
from locate.editors.readings import catching
from locate.errors import LocateError
from locate.files import write_json, write_text
from locate.mediation import Intervals, default_view, effects
from locate.mediation.averages import total_effect
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.products import precise
from locate.sites import DIRECTIONS, LAST_SUBJECT, ROLES, check
from locate.tracing.table import Trace, whole_sites

METHODS = ("MEMIT", "ROME")
TOKENS = {LAST_SUBJECT: "subject_last", "subject_first": "subject_first", "last": "last"}
"""the editors' names of the roles that they know"""

COMMON: dict[str, Any] = {
    "v_num_grad_steps": 20,
    "v_lr": 0.5,
    "v_weight_decay": 0.5,
    "kl_factor": 0.0625,
    "mom2_adjustment": True,
    "mom2_dataset": "wikipedia",
    "mom2_n_samples": 100000,
    "mom2_dtype": "float32",
}
OWN: dict[str, dict[str, Any]] = {
    "MEMIT": {"clamp_norm_factor": 0.75, "layer_selection": "all", "mom2_update_weight": 15000},
    "ROME": {"clamp_norm_factor": 4, "context_template_length_params": [[5, 10], [10, 10]]},
}
"""numbers of the files published with ROME (gpt2-xl) and MEMIT (GPT-J; gpt2-xl has 20 steps and weight 20000)"""


def hparams(located: Located, model: CausalModel, method: str = "MEMIT", *, most: int | None = None) -> dict[str, Any]:
    """The hyper-parameter file of an editor for this model, with the located layers; numbers as published with it.

    method  "MEMIT" or "ROME"
    most    how many of the strongest layers to hand over; None for one to ROME, which edits one, and all to MEMIT

    Names of modules are found in the model, not in a table of architectures.

    Raises LocateError as `hand_off` does, for an unknown method, and for a role or a head that the editor cannot name.
    """
    check("method", method, METHODS)
    limit = (1 if method == "ROME" else len(located.layers)) if most is None else most
    hand = hand_off(model, located, most=limit)
    if located.role not in TOKENS:
        raise LocateError(
            f"located.json is about role {located.role!r}; {method} edits at one of {', '.join(TOKENS)}: rank at "
            "one of these"
        )
    total = int(located.trace["model"]["n_layers"])
    numbers = COMMON | OWN[method] | ({"v_num_grad_steps": 25} if method == "MEMIT" else {})
    attention = str(located.trace["modules"]["attn_out"])
    head = head_name(model)
    return {
        "layers": list(hand.layers),
        "fact_token": TOKENS[located.role],
        "v_loss_layer": total - 1,
        **numbers,
        "rewrite_module_tmp": hand.template,
        "layer_module_tmp": block_of(hand.template, 0).removesuffix("0") + "{}",
        "mlp_module_tmp": parent_module(hand.template),
        "attn_module_tmp": parent_module(attention),
        "ln_f_module": last_norm(model),
        "lm_head_module": head,
    }


def save_hparams(content: Mapping[str, Any], path: str | Path, method: str = "MEMIT", *, model: str = "") -> Path:
    """Write hyper-parameters: .json as ROME and MEMIT read them, .yaml as EasyEdit does, with further entries it needs.

    model  EasyEdit's model_name: a folder or name that transformers loads

    Raises LocateError for another ending, and for a .yaml file without a model.
    """
    check("method", method, METHODS)
    target = Path(path)
    if target.suffix == ".json":
        return write_json(target, dict(content))
    if target.suffix != ".yaml" or not model:
        raise LocateError(f"{target.name}, model {model!r}: expected a .json file, or a .yaml file and a model's name")
    whole = {"alg_name": method, "model_name": model, "stats_dir": "./data/stats", "device": 0} | dict(content)
    # every value in JSON, which is YAML too, a line each: as the published files look
    return write_text(target, "".join(f"{name}: {json.dumps(value)}\n" for name, value in whole.items()))


def parent_module(template: str) -> str:
    """The module around another: "h.{}.mlp" of "h.{}.mlp.c_proj"; a module right inside the block stands for itself."""
    above = template.rpartition(".")[0]
    return template if above.endswith("{}") else above


def head_name(model: CausalModel) -> str:
    """The module that holds the unembedding, by the first name of its weight: the embedding where they are tied."""
    weight = model.network.get_output_embeddings().weight
    found = [name for name, tensor in model.network.named_parameters() if tensor is weight]
    return found[0].removesuffix(".weight")


def last_norm(model: CausalModel) -> str:
    """The module whose output goes into the unembedding, found by running one token.

    Raises LocateError where something that is not a module comes between them.
    """
    head = model.network.get_output_embeddings()
    fed: list[torch.Tensor] = []
    said: dict[str, torch.Tensor] = {}
    hooks = [head.register_forward_pre_hook(lambda _, args: fed.append(args[0].detach()))]
    for name, module in model.network.named_modules():
        if module is not head and not list(module.children()):
            hooks.append(module.register_forward_hook(keeper(said, name)))
    try:
        with torch.inference_mode(), precise(model.dtype):
            model.network(torch.tensor([[model.start]], device=model.device))
    finally:
        for hook in hooks:
            hook.remove()
    same = [name for name, tensor in said.items() if tensor.shape == fed[0].shape and torch.equal(tensor, fed[0])]
    if not same:
        raise LocateError(f"no module of {model.name!r} has the unembedding's input as output: ln_f_module has no name")
    return same[0]


def keeper(said: dict[str, torch.Tensor], name: str) -> Any:
    """A hook that keeps a module's output, where that is one tensor."""

    def keep(module: Any, args: Any, result: Any) -> None:
        if isinstance(result, torch.Tensor):
            said[name] = result.detach()

    return keep


def importances(
    trace: Trace, model: CausalModel, *, direction: str = "denoising", role: str | None = None
) -> dict[str, Any]:
    """Scores of the nodes of MIB's graph, from a trace of every head and every MLP, as `Graph.from_json` reads them.

    direction  of the effects
    role       the tokens that count; None adds up the effects at all roles of a prompt

    The score of a node is its average indirect effect (nats), positive where it carries the total effect. MIB patches
    a node at all positions at once; a sum of effects at one role after another is that to first order only, and
    "about" says which it is. MIB keeps a node without a score in every circuit, so a trace that lacks one is refused;
    the input alone may have none. Edges were not measured: there are none, and MIB must be run with level "node".

    Raises LocateError for another model, when a node was not traced, and when the total effect may be 0.
    """
    check("direction", direction, DIRECTIONS)
    derived = effects(trace, view=default_view(trace))
    derived = derived[derived["direction"] == direction]
    if role is not None:
        check("role", role, ROLES)
        derived = derived[derived["role"] == role]
    said = trace.meta["model"]
    if said["weights_sha256"] != model.checkpoint.weights_sha256:
        raise LocateError(
            f"the trace is of {said['name']!r}, but {model.name!r} has other weights: give the model that was traced"
        )
    heads = range(said["n_heads"])
    needed = [
        name for layer in range(said["n_layers"]) for name in (*(f"a{layer}.h{head}" for head in heads), f"m{layer}")
    ]
    scores = node_effects(derived)
    lacking = [name for name in needed if name not in scores]
    if lacking:
        raise LocateError(
            f"{len(lacking)} of {len(needed)} nodes were not traced in direction {direction!r} at role {role!r} "
            f"({', '.join(lacking[:3])}...): trace every layer with --components head,mlp_out"
        )
    sign = direction_of(derived)
    nodes = {name: {"in_graph": True, "score": sign * scores[name]} for name in needed}
    first = {"in_graph": True} | ({"score": sign * scores["input"]} if "input" in scores else {})
    cfg = {name: int(said[name]) for name in ("n_layers", "n_heads", "d_model")}
    return {
        "cfg": cfg | {"parallel_attn_mlp": is_parallel(model, trace.meta["modules"])},
        "nodes": {"input": first} | nodes | {"logits": {"in_graph": True}},
        "edges": {},
        "about": {
            "quantity": "nie",
            "metric": "logit_diff",
            "unit": "nats",
            "direction": direction,
            "role": role or "sum over all roles",
            "model": said["name"],
        },
    }


def node_effects(derived: pd.DataFrame) -> dict[str, float]:
    """Average effect of every node by its name in MIB: heads, MLPs, and the embedding, where the residual starts."""
    rows = whole_sites(derived)
    rows = rows[rows["window"] == 1]
    pairs = rows.groupby(["component", "layer", "unit", "pair"], observed=True)["nie"].sum()
    means = pairs.groupby(["component", "layer", "unit"], observed=True).mean()
    names = {"head": "a{0}.h{1}", "mlp_out": "m{0}", "resid_pre": "input"}
    return {
        names[component].format(layer, unit): float(value)
        for (component, layer, unit), value in means.items()
        if component in names and (component != "resid_pre" or layer == 0)
    }


def direction_of(derived: pd.DataFrame) -> int:
    """Sign of the average total effect.

    Raises LocateError where its interval holds 0.
    """
    mean, low, high = total_effect(derived, Intervals(samples=1000))
    if not (low > 0 or high < 0):
        raise LocateError(
            f"the total effect is {mean:.3f} [{low:.3f}, {high:.3f}]: expected an interval without 0: trace more pairs"
        )
    return 1 if mean > 0 else -1


def is_parallel(model: CausalModel, templates: Mapping[str, str | None]) -> bool:
    """Whether a block's attention and MLP read the same residual stream: the MLP never sees the attention's output."""
    attention, output = (str(templates[name]).format(0) for name in ("attn_out", "mlp_out"))
    ids = torch.tensor([[model.start]], device=model.device)
    fed: list[torch.Tensor] = []

    def run() -> None:
        with (
            torch.inference_mode(),
            precise(model.dtype),
            catching(model.network, output, lambda _, tensor: fed.append(tensor.detach().clone()), inputs=True),
        ):
            model.network(ids)

    run()
    hook = model.network.get_submodule(attention).register_forward_hook(tilt)
    try:
        run()
    finally:
        hook.remove()
    return torch.equal(fed[0], fed[1])


def tilt(module: Any, args: Any, result: torch.Tensor) -> torch.Tensor:
    """A module's output plus a ramp over its units, which no norm takes out again."""
    return result + torch.arange(result.shape[-1], device=result.device, dtype=result.dtype)
