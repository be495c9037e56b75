"""The plain engine against implementations that share no code with it."""

import numpy as np
import pytest
import torch
from bare import trace
from transformers import AutoModelForCausalLM

from locate.prompts import Pair, Prompts
from locate.tracing.plan import Map

EXACT = 2e-5  # nats
PAIR = Pair(
    "The nurse said that", "The man said that", "nurse", "man", "nurse", "The {subject} said that", neutral=None
)


COMPARED = ("resid_pre", "attn_out", "mlp_out", "head", "pattern")


def cells(table, component: str, column: str = "patched_female"):
    rows = table[(table["component"] == component) & (table["direction"] == "denoising")]
    return rows.set_index(["layer", "unit", "corrupted_pos"])[column]


@pytest.fixture(scope="module")
def table(gpt2):
    return trace(gpt2, Prompts((PAIR,)), Map(components=COMPARED)).table


@pytest.mark.parametrize("component", COMPARED)
def test_denoising_equals_transformer_lens_patching(gpt2, table, component):
    """transformer_lens.patching writes the clean run's activation into the corrupted run, as denoising does."""
    from transformer_lens import patching

    clean, corrupted = (torch.tensor([gpt2.encode(text)[0]]) for text in (PAIR.clean, PAIR.corrupted))
    female = gpt2.encode(PAIR.clean + " she")[0][-1]
    sweeps = {
        "resid_pre": patching.get_act_patch_resid_pre,
        "attn_out": patching.get_act_patch_attn_out,
        "mlp_out": patching.get_act_patch_mlp_out,
        "head": patching.get_act_patch_attn_head_out_by_pos,
        "pattern": patching.get_act_patch_attn_head_pattern_by_pos,
    }
    with torch.inference_mode():
        cache = gpt2.bridge.run_with_cache(clean, names_filter=lambda name: name in hooks(gpt2), prepend_bos=False)[1]
        grid = sweeps[component](
            gpt2.bridge, corrupted, cache, lambda logits: logits[0, -1].float().log_softmax(-1)[female]
        )
    grid = np.asarray(grid.tolist())  # [layer, pos] or [layer, pos, head]
    grid = grid.swapaxes(1, 2) if component == "pattern" else grid  # that one is [layer, head, pos]
    ours = cells(table, component)
    assert len(ours) == grid.size
    for (layer, unit, pos), value in ours.items():
        theirs = grid[layer, pos] if unit < 0 else grid[layer, pos, unit]
        assert value == pytest.approx(theirs, abs=EXACT)
    assert np.ptp(grid) > 1e-2


def hooks(model):
    return {model.hook(each, layer) for each in COMPARED for layer in range(3)}


NATIVE = {
    "gpt2": ("attn.c_proj", "mlp.c_proj"),
    "llama": ("self_attn.o_proj", "mlp.down_proj"),
    "gpt_neox": ("attention.dense", "mlp.dense_4h_to_h"),
    "gemma2": ("post_attention_layernorm", "post_feedforward_layernorm"),
    "opt": ("self_attn.out_proj", "fc2"),
    "bloom": ("self_attention.dense", "mlp.dense_4h_to_h"),
}


@pytest.mark.parametrize("family", NATIVE)
def test_patches_equal_hooks_on_the_plain_hugging_face_model(model_of, folder_of, family):
    """The same patches by torch hooks on the modules of a model that TransformerLens has never touched.

    Gemma-2 normalises each output again before it joins the residual, so there the norms are hooked; OPT's fc2 sees its
    one prompt as [pos, d_model].
    """
    plain = AutoModelForCausalLM.from_pretrained(folder_of(family), attn_implementation="eager").eval()
    model = model_of(family)
    ours = trace(model, Prompts((PAIR,)), Map(components=("attn_out", "mlp_out"))).table
    clean, corrupted = (torch.tensor([model.encode(text)[0]]) for text in (PAIR.clean, PAIR.corrupted))
    female = model.encode(PAIR.clean + " she")[0][-1]
    blocks = next(module for name, module in plain.named_modules() if name.endswith((".h", ".layers")))
    for component, path in zip(("attn_out", "mlp_out"), NATIVE[family], strict=True):
        for (layer, _, pos), value in cells(ours, component).items():
            module = blocks[layer].get_submodule(path)
            theirs = patched(plain, module, clean, corrupted, pos)[female]
            assert value == pytest.approx(float(theirs), abs=5e-5)


@pytest.mark.parametrize(("severed", "path"), [("attn_out", "attn.c_proj"), ("mlp_out", "mlp.c_proj")])
def test_severed_paths_equal_frozen_modules_of_the_plain_model(gpt2, folder_of, severed, path):
    """The residual from the clean run, while one kind of output above it stays what the corrupted run had."""
    plain = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"), attn_implementation="eager").eval()
    table = trace(gpt2, Prompts((PAIR,)), Map(components=("resid_pre",), severed=(severed,))).table
    table = table[table["severed"] == severed]
    clean, corrupted = (torch.tensor([gpt2.encode(text)[0]]) for text in (PAIR.clean, PAIR.corrupted))
    female = gpt2.encode(PAIR.clean + " she")[0][-1]
    blocks = plain.transformer.h
    outputs = [block.get_submodule(path) for block in blocks]
    entering = [captured(plain, block, clean, entering=True) for block in blocks]
    leaving = [captured(plain, module, corrupted, entering=False) for module in outputs]
    for (layer, _, pos), value in cells(table, "resid_pre").items():
        before = written_before(blocks[layer], entering[layer], pos)
        frozen = [written_after(outputs[above], leaving[above], pos) for above in range(layer, len(blocks))]
        with torch.inference_mode():
            theirs = plain(corrupted).logits[0, -1].log_softmax(-1)[female]
        for handle in [before, *frozen]:
            handle.remove()
        assert value == pytest.approx(float(theirs), abs=5e-5)


def captured(plain, module, ids: torch.Tensor, *, entering: bool) -> torch.Tensor:
    """What enters or leaves a module in an unpatched run."""
    kept = []
    handle = (
        module.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0].clone()))
        if entering
        else module.register_forward_hook(lambda _, __, out: kept.append(out.clone()))
    )
    with torch.inference_mode():
        plain(ids)
    handle.remove()
    return kept[0]


def written_before(module, value: torch.Tensor, pos: int):
    """A hook that writes one position of what enters a module."""

    def hook(_, inputs):
        changed = inputs[0].clone()
        changed[:, pos] = value[:, pos]
        return (changed, *inputs[1:])

    return module.register_forward_pre_hook(hook)


def written_after(module, value: torch.Tensor, pos: int):
    """A hook that writes one position of what leaves a module."""

    def hook(_, __, out):
        changed = out.clone()
        changed[:, pos] = value[:, pos]
        return changed

    return module.register_forward_hook(hook)


def patched(plain, module, clean: torch.Tensor, corrupted: torch.Tensor, pos: int) -> torch.Tensor:
    """Log-probabilities at the last token when a module's output at one position comes from another prompt."""
    kept = []
    with torch.inference_mode():
        handle = module.register_forward_hook(lambda _, __, out: kept.append(out.clone()))
        plain(clean)
        handle.remove()

        def write(_, __, out):
            out = out.clone()
            out[..., pos, :] = kept[0][..., pos, :]
            return out

        handle = module.register_forward_hook(write)
        logits = plain(corrupted).logits
        handle.remove()
    return logits[0, -1].float().log_softmax(-1)


def test_stories260k_gives_its_published_log_odds(shared):
    """Log-odds after "The X said that", as the weights' own page gives them, through loader, tokenizer and trace."""
    from locate.mediation import pair_log_odds
    from locate.model.loading import load

    expected = {"nurse": 0.0810, "doctor": -0.6893, "farmer": -1.4692, "girl": 3.2235, "boy": -3.6309, "mom": 2.2174}
    pairs = tuple(
        Pair(f"The {word} said that", "The man said that", word, "man", word, "The {subject} said that")
        for word in expected
    )
    model = load(str(shared / "models" / "stories260k"), device="cpu")
    found = pair_log_odds(trace(model, Prompts(pairs), Map(components=("mlp_out",), layers=(0,), roles=("last",))))
    assert found.set_index("group")["log_odds"].to_dict() == pytest.approx(expected, abs=1e-3)
