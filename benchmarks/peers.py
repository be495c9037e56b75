"""The same cells by other tools: each gives log-odds [pair] of the corrupted prompts with one clean activation."""

from collections.abc import Callable

import pandas as pd
import torch
from job import Cell, Job
from transformers import AutoModelForCausalLM

import locate

Engine = Callable[[Cell], torch.Tensor]


def log_odds(logits: torch.Tensor, job: Job) -> torch.Tensor:
    """Log-odds of the two answers at the last token: [pair]."""
    return logits[:, -1, job.answers[0]] - logits[:, -1, job.answers[1]]


def plain(folder: str, job: Job) -> torch.nn.Module:
    """The model as transformers has it, where the job's prompts are."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return model.to(job.clean.device).eval()


def transformer_lens(folder: str, job: Job) -> Engine:
    """transformer_lens.patching, all pairs in one batch."""
    from transformer_lens import patching

    model = locate.load(folder, device=str(job.clean.device))
    names = {"resid_pre": "resid_pre", "attn_out": "attn_out", "mlp_out": "mlp_out"}
    hooks = {model.hook(each, layer) for each in names for layer in range(job.n_layers)}
    cache = model.bridge.run_with_cache(job.clean, names_filter=lambda name: name in hooks, prepend_bos=False)[1]

    def one(cell: Cell) -> torch.Tensor:
        component, layer, pos = cell
        found = patching.generic_activation_patch(
            model.bridge,
            job.corrupted,
            cache,
            lambda logits: log_odds(logits, job),
            patching.layer_pos_patch_setter,
            names[component],
            index_df=pd.DataFrame({"layer": [layer], "pos": [pos]}),
            reduce="none",
        )
        return torch.as_tensor(getattr(found, "values", found)).flatten()

    return one


def nnsight(folder: str, job: Job) -> Engine:
    """nnsight, all pairs in one batch."""
    from nnsight import NNsight

    model = NNsight(plain(folder, job))
    blocks = model.transformer.h
    kept: dict[tuple[str, int], torch.Tensor] = {}
    for layer in range(job.n_layers):
        with model.trace(input_ids=job.clean):
            entering = blocks[layer].input.save()
            attention = blocks[layer].attn.c_proj.output.save()
            output = blocks[layer].mlp.c_proj.output.save()
        kept |= {("resid_pre", layer): entering, ("attn_out", layer): attention, ("mlp_out", layer): output}

    def one(cell: Cell) -> torch.Tensor:
        component, layer, pos = cell
        value = kept[component, layer][:, pos]
        with model.trace(input_ids=job.corrupted):
            if component == "resid_pre":
                blocks[layer].input[:, pos] = value
            elif component == "attn_out":
                blocks[layer].attn.c_proj.output[:, pos] = value
            else:
                blocks[layer].mlp.c_proj.output[:, pos] = value
            logits = model.lm_head.output.save()
        return log_odds(logits, job)

    return one


def pyvene(folder: str, job: Job) -> Engine:
    """pyvene as in its tutorials: an intervenable model for each cell, source and base given as prompts."""
    import pyvene as pv

    model = plain(folder, job)
    names = {"resid_pre": "block_input", "attn_out": "attention_output", "mlp_out": "mlp_output"}

    def one(cell: Cell) -> torch.Tensor:
        component, layer, pos = cell
        place = pv.RepresentationConfig(layer, names[component], "pos", 1)
        patched = pv.IntervenableModel(pv.IntervenableConfig([place], intervention_types=pv.VanillaIntervention), model)
        _, out = patched({"input_ids": job.corrupted}, [{"input_ids": job.clean}], {"sources->base": pos})
        return log_odds(out.logits, job)

    return one


def rome(folder: str, job: Job) -> Engine:
    """ROME's own loop: one prompt at a time, its clean row in every pass, hooks on the modules."""
    model = plain(folder, job)
    blocks = model.transformer.h

    def one(cell: Cell) -> torch.Tensor:
        component, layer, pos = cell

        def write(value: torch.Tensor) -> torch.Tensor:
            value = value.clone()
            value[1:, pos] = value[0, pos]
            return value

        if component == "resid_pre":
            handle = blocks[layer].register_forward_pre_hook(lambda _, inputs: (write(inputs[0]), *inputs[1:]))
        else:
            module = blocks[layer].attn.c_proj if component == "attn_out" else blocks[layer].mlp.c_proj
            handle = module.register_forward_hook(lambda _, __, output: write(output))
        couples = torch.stack([job.clean, job.corrupted], 1)  # [pair, 2, pos]
        found = torch.cat([log_odds(model(couple).logits[1:], job) for couple in couples])
        handle.remove()
        return found

    return one


PEERS = {"transformer_lens.patching": transformer_lens, "nnsight": nnsight, "pyvene": pyvene, "ROME's loop": rome}
