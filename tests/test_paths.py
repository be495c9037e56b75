"""Severed and direct paths: what lies downstream, a second implementation, both engines, and the figures of paths."""

import numpy as np
import pytest
import torch
from bare import trace
from transformers import AutoModelForCausalLM

from locate.mediation import effects
from locate.prompts import Pair, Prompts
from locate.sites import Patch, Site
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

EXACT = 2e-5  # nats
TEXT = "The {subject} said that"
PROMPTS = Prompts(
    (
        Pair("The nurse said that", "The man said that", "nurse", "man", "nurse", TEXT, neutral=None, stereotype=1),
        Pair("The engineer said that", "The woman said that", "engineer", "woman", "engineer", TEXT, neutral=None,
             stereotype=-1),
    )
)  # fmt: skip
ROLES = ("subject_last", "last")
PLACE = ["pair", "direction", "component", "layer", "unit", "role"]


def frozen(patch: Patch) -> dict[str, list[int]]:
    """Layers whose outputs a severed patch holds at the base run's values."""
    found: dict[str, list[int]] = {}
    for write in patch.writes[1:]:
        assert (write.origin, write.site.position) == ("base", patch.anchor.position)
        found.setdefault(write.site.component, []).append(write.site.layer)
    return found


@pytest.mark.parametrize(
    ("component", "attention", "mlps"),
    [
        ("resid_pre", [1, 2], [1, 2]),
        ("attn_out", [2], [1, 2]),
        ("head", [2], [1, 2]),
        ("pattern", [2], [1, 2]),
        ("mlp_out", [2], [2]),
        ("neuron", [2], [2]),
        ("mlp_out_unit", [2], [2]),
    ],
)
def test_only_what_lies_downstream_is_frozen(component, attention, mlps):
    """A block's MLP reads its attention, and the next block's attention reads both."""
    site = Site(component, 1, "last", None if component in ("resid_pre", "attn_out", "mlp_out") else 0)
    assert frozen(Patch.cut(site, "both", 3)) == {"attn_out": attention, "mlp_out": mlps}
    assert frozen(Patch.cut(site, "attn_out", 3)) == {"attn_out": attention}
    assert frozen(Patch.cut(site, "mlp_out", 3)) == {"mlp_out": mlps}
    assert Patch.cut(site, "both", 3).writes[0].site == site
    assert Patch.cut(Site("mlp_out", 2, "last"), "both", 3).origin == "base+source"


@pytest.mark.parametrize(
    ("windows", "severed"), [((1, 3), {("resid_pre", 1), ("mlp_out", 1)}), ((3,), {("resid_pre", 1)})]
)
def test_only_single_sites_are_severed(windows, severed):
    map = Map(("resid_pre", "mlp_out"), windows=windows, severed=("both",))
    patches = map.forms(3, {"resid_pre": None, "mlp_out": None})
    assert {(patch.anchor.component, patch.window) for patch in patches if patch.severed} == severed
    assert {patch.window for patch in patches if patch.anchor.component == "mlp_out"} == set(windows)


@pytest.fixture(scope="module")
def severed(gpt2):
    """Effects of residuals, outputs and heads, whole and severed."""
    components = ("resid_pre", "attn_out", "mlp_out", "head")
    found = trace(gpt2, PROMPTS, Map(components, roles=ROLES, severed=("attn_out", "mlp_out", "both")))
    return effects(found, view="signed")


def beside_whole(rows, severed: str, column: str = "nie"):
    """The effects of severed patches beside those of the same patches whole."""
    cut = rows[rows["severed"] == severed]
    whole = rows[rows["severed"] == ""]
    joined = cut.merge(whole, on=PLACE, suffixes=("_cut", ""), validate="one_to_one")
    assert len(joined) == len(cut) > 0
    return joined[[*PLACE, f"{column}_cut", column]]


def test_nothing_answers_to_the_last_mlp(severed):
    """In the last layer the direct effect of mlp_out is its whole effect; of attn_out, where MLPs may answer."""
    for component, cut in (("mlp_out", "both"), ("attn_out", "attn_out"), ("head", "attn_out")):
        rows = severed[(severed["component"] == component) & (severed["layer"] == 2)]
        both = beside_whole(rows, cut)
        np.testing.assert_allclose(both["nie_cut"], both["nie"], rtol=0, atol=1e-12)
        assert both.loc[both["role"] == "last", "nie"].abs().max() > 1e-3
    answered = beside_whole(severed[(severed["component"] == "attn_out") & (severed["layer"] == 2)], "both")
    assert (answered["nie_cut"] - answered["nie"]).abs().max() > 1e-4


def test_a_token_that_nothing_reads_any_more_has_no_effect(severed):
    last = severed[
        (severed["layer"] == 2) & (severed["role"] == "subject_last") & (severed["component"] != "resid_pre")
    ]
    assert len(last) > 0
    assert last["nie"].abs().max() == 0
    below = severed[(severed["layer"] == 0) & (severed["role"] == "subject_last") & (severed["severed"] == "both")]
    assert below["nie"].abs().max() > 1e-4  # later tokens read what was written itself


NATIVE = {
    "gpt2": ("transformer.h", "attn.c_proj", "mlp.c_proj", "transformer.ln_f"),
    "llama": ("model.layers", "self_attn.o_proj", "mlp.down_proj", "model.norm"),
    "gpt_neox": ("gpt_neox.layers", "attention.dense", "mlp.dense_4h_to_h", "gpt_neox.final_layer_norm"),
    "phi": ("model.layers", "self_attn.dense", "mlp.fc2", "model.final_layernorm"),
}


@pytest.mark.parametrize("family", NATIVE)
def test_the_direct_path_is_the_write_read_out_by_the_final_norm(model_of, folder_of, family):
    """The base run's final residual plus what the site changes, through the plain model's own norm and unembedding.

    In GPT-NeoX and Phi attention and MLP run in parallel.
    """
    plain = AutoModelForCausalLM.from_pretrained(folder_of(family), attn_implementation="eager").eval()
    model = model_of(family)
    layers, attention, mlp, norm = NATIVE[family]
    blocks, final = plain.get_submodule(layers), plain.get_submodule(norm)
    sites = {("resid_pre", i): (block, True) for i, block in enumerate(blocks)}
    sites |= {("attn_out", i): (block.get_submodule(attention), False) for i, block in enumerate(blocks)}
    sites |= {("mlp_out", i): (block.get_submodule(mlp), False) for i, block in enumerate(blocks)}
    clean, corrupted = (
        values_in(plain, model.encode(text)[0], sites, final) for text in ("The nurse said that", "The man said that")
    )
    one = Prompts(PROMPTS.pairs[:1])
    table = trace(model, one, Map(("resid_pre", "attn_out", "mlp_out"), roles=("last",), severed=("both",))).table
    female, male = (model.encode("The nurse said that" + word)[0][-1] for word in (" she", " he"))
    rows = table[(table["severed"] == "both") & (table["direction"] == "denoising")]
    assert len(rows) == len(sites)
    for row in rows.to_dict("records"):
        key = row["component"], row["layer"]
        with torch.inference_mode():
            moved = corrupted["final"] + clean[key] - corrupted[key]
            theirs = plain.get_output_embeddings()(final(moved)).log_softmax(-1)
        assert row["patched_female"] == pytest.approx(float(theirs[female]), abs=EXACT)
        assert row["patched_male"] == pytest.approx(float(theirs[male]), abs=EXACT)
    assert np.ptp(rows["patched_female"]) > 1e-2


def values_in(plain, ids: list[int], sites: dict, final) -> dict:
    """What enters or leaves some modules at the last token, and what enters the final norm under "final"."""
    kept, handles = {}, []
    for key, (module, entering) in (sites | {"final": (final, True)}).items():
        hook = (
            (lambda _, inputs, key=key: kept.update({key: last_token(inputs[0])}))
            if entering
            else (lambda _, __, out, key=key: kept.update({key: last_token(out)}))
        )
        handles.append(module.register_forward_pre_hook(hook) if entering else module.register_forward_hook(hook))
    with torch.inference_mode():
        plain(torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return kept


def last_token(value: torch.Tensor) -> torch.Tensor:
    """The vector at the last position of one prompt."""
    return value.reshape(-1, value.shape[-1])[-1].clone()


def test_a_heads_direct_path_is_its_part_of_the_output_matrix(gpt2, folder_of):
    """z of one head, times its rows of the output matrix, added to the final residual."""
    plain = AutoModelForCausalLM.from_pretrained(folder_of("gpt2"), attn_implementation="eager").eval()
    blocks, final = plain.transformer.h, plain.transformer.ln_f
    sites = {layer: (block.attn.c_proj, True) for layer, block in enumerate(blocks)}
    clean, corrupted = (
        values_in(plain, gpt2.encode(text)[0], sites, final) for text in ("The nurse said that", "The man said that")
    )
    table = trace(gpt2, Prompts(PROMPTS.pairs[:1]), Map(("head",), roles=("last",), severed=("both",))).table
    female = gpt2.encode("The nurse said that she")[0][-1]
    rows = table[(table["severed"] == "both") & (table["direction"] == "denoising")]
    assert len(rows) == 3 * gpt2.n_heads
    for row in rows.to_dict("records"):
        layer, own = row["layer"], slice(8 * row["unit"], 8 * row["unit"] + 8)
        moved = (clean[layer] - corrupted[layer])[own] @ blocks[layer].attn.c_proj.weight[own]
        with torch.inference_mode():
            theirs = plain.lm_head(final(corrupted["final"] + moved)).log_softmax(-1)[female]
        assert row["patched_female"] == pytest.approx(float(theirs), abs=EXACT)


@pytest.mark.parametrize("corruption", [None, Noise(samples=1)])
def test_both_engines_sever_alike(gpt2, corruption):
    """Every severed path of residuals, outputs, heads and attention weights."""
    map = Map(
        ("resid_pre", "attn_out", "mlp_out", "head", "pattern"), severed=("attn_out", "mlp_out", "both"),
        keys=("subject_last", "last"), layers=(0, 2),
    )  # fmt: skip
    slow, fast = (trace(gpt2, PROMPTS, map, corruption=corruption, engine=name).table for name in ("plain", "sweep"))
    labels = [name for name in slow.columns if not name.startswith(("base_", "source_", "patched_"))]
    assert slow[labels].equals(fast[labels])
    for name in ("patched_female", "patched_male"):
        np.testing.assert_allclose(fast[name], slow[name], rtol=0, atol=1e-5)
    moved = (slow["patched_female"] - slow["base_female"]).abs()
    assert (moved.groupby([slow["component"], slow["severed"]], observed=True).max() > 1e-5).all()
