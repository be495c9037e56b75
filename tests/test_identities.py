"""What must hold in every model, whatever its weights: checked through the real loader on every family."""

import numpy as np
import pandas as pd
import pytest
from bare import trace

from locate.engine.plain import measure
from locate.engine.rows import Limits, PlacedWrite, Row, Run
from locate.mediation import effects
from locate.prompts import Pair, Prompts
from locate.sites import Patch, Site, Write
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

TEMPLATE = "The {subject} said that"
EXACT = 2e-5  # nats; fp32 rounding between batches of different shape


def pair(clean: str, corrupted: str, template: str = TEMPLATE, sign: int = 1) -> Pair:
    return Pair(
        clean=template.replace("{subject}", clean),
        corrupted=template.replace("{subject}", corrupted),
        clean_subject=clean,
        corrupted_subject=corrupted,
        group=clean,
        template=template,
        kind="occupation",
        stereotype=sign,
        neutral=None,
    )


PROMPTS = Prompts(
    (
        pair("nurse", "man"),
        pair("police officer", "woman", "The {subject} laughed because", -1),
        pair("engineer", "woman", sign=-1),
    )
)
ALL = Map(components=("resid_pre", "attn_out", "mlp_out", "head"))


@pytest.fixture(scope="module")
def traced(family_model):
    return trace(family_model, PROMPTS, ALL)


@pytest.fixture(scope="module")
def derived(traced):
    return effects(traced, view="signed")


def test_the_prompts_differ_in_length_and_in_answer(traced, derived):
    assert (traced.table["clean_pos"] != traced.table["corrupted_pos"]).any()
    assert derived["total"].abs().min() > 1e-2


def test_a_prompt_patched_with_itself_changes_nothing(family_model):
    same = Prompts((pair("nurse", "nurse"), pair("police officer", "police officer")))
    table = trace(family_model, same, ALL).table
    for answer in ("female", "male"):
        np.testing.assert_allclose(
            table[f"patched_{answer}"], table[f"base_{answer}"], rtol=0, atol=EXACT, equal_nan=False
        )


def test_the_whole_final_residual_carries_the_whole_total_effect(family_model):
    """Writing the last block whole at the last token, from inputs and both outputs, gives the source's answer."""
    layer = family_model.n_layers - 1
    writes = tuple(Write(Site(each, layer, "last")) for each in ("resid_pre", "attn_out", "mlp_out"))
    whole = trace(family_model, PROMPTS, patches=[Patch(Site("resid_pre", layer, "last"), writes)])
    rows = effects(whole, view="signed")
    assert len(rows) == 2 * len(PROMPTS)
    np.testing.assert_allclose(rows["nie"], rows["total"], rtol=0, atol=EXACT, equal_nan=False)


def test_the_last_layers_other_positions_carry_nothing(derived):
    """Only the last token is read: behind the last attention no other position can reach it."""
    last = derived[derived["layer"] == derived["layer"].max()]
    others = last[(last["role"] != "last") & last["component"].isin(["attn_out", "mlp_out", "head"])]
    assert len(others) > 20
    assert others["nie"].abs().max() <= EXACT
    at_last = last[(last["role"] == "last") & (last["component"] == "mlp_out")]
    assert at_last["nie"].abs().min() > 1e-4


def test_tokens_before_the_subject_carry_nothing(derived):
    before = derived[derived["role"] == "before_subject"]
    assert len(before) > 20
    assert before["nie"].abs().max() <= EXACT


def test_pearls_identity_is_exact(derived):
    """TE(base to source) = NDE(base to source) - NIE(source to base), pair by pair and site by site."""
    keys = ["pair", "component", "layer", "unit", "window", "severed", "clean_pos", "corrupted_pos"]
    forward = derived[derived["direction"] == "denoising"]
    backward = derived[derived["direction"] == "noising"]
    both = forward.merge(backward, on=keys, suffixes=("", "_back"), validate="one_to_one")
    assert len(both) == len(forward) > 0
    np.testing.assert_allclose(both["total"], both["nde"] - both["nie_back"], rtol=0, atol=1e-12, equal_nan=False)
    assert both["nie_back"].abs().max() > 1e-2


def test_total_effect_turns_its_sign_with_the_direction(derived):
    totals = derived.groupby(["pair", "direction"], observed=True)["total"].first().unstack()
    np.testing.assert_allclose(totals["denoising"], -totals["noising"], rtol=0, atol=1e-12, equal_nan=False)


def test_base_is_the_run_that_is_executed(family_model, traced):
    """Denoising executes the corrupted prompt; its base is what the model says of that prompt without hooks."""
    import torch

    row = traced.table[(traced.table["direction"] == "denoising") & (traced.table["pair"] == 0)].iloc[0]
    for prompt, column in ((row["corrupted"], "base"), (row["clean"], "source")):
        ids = family_model.encode(prompt)[0]
        logs = family_model.final_logits(torch.tensor([ids]))[0].log_softmax(-1)
        answers = [family_model.encode(prompt + word)[0][-1] for word in (" she", " he")]
        np.testing.assert_allclose(row[[f"{column}_female", f"{column}_male"]].astype(float), logs[answers], atol=1e-5)


def test_batch_size_and_order_change_nothing(family_model, traced):
    other = trace(family_model, Prompts(PROMPTS.pairs[::-1]), ALL, batch_size=1).table
    keys = ["clean", "direction", "component", "layer", "unit", "clean_pos"]
    both = traced.table.merge(other, on=keys, suffixes=("", "_other"), validate="one_to_one")
    assert len(both) == len(traced.table)
    for column in ("base_female", "source_male", "patched_female", "patched_male"):
        np.testing.assert_allclose(both[column], both[f"{column}_other"], rtol=0, atol=EXACT, equal_nan=False)


def test_noise_does_not_depend_on_the_batch(gpt2):
    noise = Noise(sigmas=3, samples=2, seed=1)
    whole = trace(gpt2, PROMPTS, Map(), corruption=noise, batch_size=64).table
    single = trace(gpt2, PROMPTS, Map(), corruption=noise, batch_size=1).table
    pd.testing.assert_frame_equal(whole, single, check_exact=False, rtol=0, atol=EXACT)


def test_noise_changes_only_the_subject(family_model):
    noise = Noise(sigmas=3, samples=2, seed=1)
    derived = effects(trace(family_model, PROMPTS, Map(layers=(0,)), corruption=noise), view="signed")
    assert derived.loc[derived["role"] == "before_subject", "nie"].abs().max() <= EXACT
    subject = derived[(derived["component"] == "resid_pre") & (derived["layer"] == 0) & (derived["pair"] == 0)]
    carried = subject.loc[subject["role"].str.startswith("subject") & (subject["direction"] == "denoising")]
    np.testing.assert_allclose(carried["nie"], carried["total"], rtol=0, atol=EXACT, equal_nan=False)
    assert carried["total"].abs().min() > 1e-3


def test_noise_differs_between_samples_and_seeds(gpt2):
    def bases(seed: int) -> np.ndarray:
        table = trace(gpt2, PROMPTS, Map(layers=(0,)), corruption=Noise(samples=2, seed=seed)).table
        rows = table[(table["direction"] == "denoising")].drop_duplicates(["pair", "sample"])
        return rows["base_female"].to_numpy()

    first, second = bases(0), bases(1)
    assert len(set(first.round(6))) == len(first) == 2 * len(PROMPTS)
    assert not np.isclose(first, second, atol=1e-6).any()
    np.testing.assert_array_equal(first, bases(0))


def test_noise_differs_between_pairs_of_one_prompt(gpt2):
    """The draw belongs to the pair: the same clean prompt twice gets two draws."""
    twice = Prompts((pair("nurse", "man"), pair("nurse", "woman")))
    table = trace(gpt2, twice, Map(layers=(0,)), corruption=Noise(samples=1)).table
    bases = table[table["direction"] == "denoising"].groupby("pair")["base_female"].first()
    assert abs(bases[0] - bases[1]) > 1e-6


def test_zero_base_and_given_vectors_are_written(gpt2):
    import torch

    site = Site("mlp_out", 1, "last")
    vector = torch.linspace(-1, 1, gpt2.d_model)

    def patched(origin) -> np.ndarray:
        table = trace(gpt2, PROMPTS, patches=[Patch.at(site, origin)], directions=("noising",)).table
        return table[["patched_female", "base_female"]].to_numpy()

    frozen, zero, given, given_zero = (patched(o) for o in ("base", "zero", vector, torch.zeros(gpt2.d_model)))
    np.testing.assert_allclose(frozen[:, 0], frozen[:, 1], atol=EXACT)
    np.testing.assert_allclose(zero, given_zero, atol=EXACT)
    assert np.abs(zero[:, 0] - zero[:, 1]).min() > 1e-4
    assert np.abs(given[:, 0] - zero[:, 0]).min() > 1e-4


def test_a_window_is_its_layers_written_together(gpt2):
    window = trace(gpt2, PROMPTS, patches=[Patch.over(Site("mlp_out", 1, "subject_last"), 2, gpt2.n_layers)]).table
    writes = tuple(Write(Site("mlp_out", layer, "subject_last")) for layer in (0, 1))
    joint = trace(gpt2, PROMPTS, patches=[Patch(Site("mlp_out", 1, "subject_last"), writes)]).table
    np.testing.assert_allclose(window["patched_female"], joint["patched_female"], atol=EXACT)
    alone = trace(gpt2, PROMPTS, patches=[Patch.at(Site("mlp_out", 1, "subject_last"))]).table
    assert np.abs(window["patched_female"] - alone["patched_female"]).max() > 1e-4


def test_severing_changes_what_a_residual_patch_does(gpt2):
    """Freezing either output above the patch must move some result of layer 0; the patch itself still acts."""
    plain = trace(gpt2, PROMPTS, Map(components=("resid_pre",), roles=("subject_last",))).table
    cut = trace(
        gpt2, PROMPTS, Map(components=("resid_pre",), roles=("subject_last",), severed=("mlp_out", "attn_out"))
    ).table
    assert set(cut["severed"]) == {"", "mlp_out", "attn_out"}
    keys = ["pair", "direction", "layer", "clean_pos"]
    for severed in ("mlp_out", "attn_out"):
        both = plain.merge(cut[cut["severed"] == severed], on=keys, suffixes=("", "_cut"), validate="one_to_one")
        moved = (both["patched_female"] - both["patched_female_cut"]).abs()
        assert moved[both["layer"] == 0].max() > 1e-4
    last = cut[(cut["layer"] == cut["layer"].max()) & (cut["severed"] != "")]
    assert (last["patched_female"] - last["base_female"]).abs().max() > 1e-4


def test_one_unit_of_a_head_is_written_not_its_neighbours(gpt2):
    """Writing every head of a layer in one patch equals writing its attn_out."""
    heads = tuple(Write(Site("head", 1, "last", unit)) for unit in range(gpt2.n_heads))
    joint = trace(gpt2, PROMPTS, patches=[Patch(Site("head", 1, "last", 0), heads)]).table
    whole = trace(gpt2, PROMPTS, patches=[Patch.at(Site("attn_out", 1, "last"))]).table
    np.testing.assert_allclose(joint["patched_female"], whole["patched_female"], atol=EXACT)
    one = trace(gpt2, PROMPTS, patches=[Patch.at(Site("head", 1, "last", 2))]).table
    assert np.abs(one["patched_female"] - whole["patched_female"]).max() > 1e-4


def test_measure_keeps_rows_apart(gpt2):
    """Two rows of one batch that write different positions give what each gives alone."""
    ids, other = (gpt2.encode(text)[0] for text in ("The nurse said that", "The man said that"))
    runs = [Run(tuple(other), (5, 6)), Run(tuple(ids), (5, 6))]
    rows = [
        Row(0, 1, (PlacedWrite("mlp_out", layer, None, place, place, "source"),)) for layer, place in ((0, 2), (1, 4))
    ]
    limits = Limits(10**8)
    together = measure(gpt2, runs, rows, limits=limits).rows
    apart = np.concatenate([measure(gpt2, runs, [row], limits=limits).rows for row in rows])
    np.testing.assert_allclose(together, apart, atol=EXACT)
    assert np.abs(together[0] - together[1]).max() > 1e-4
