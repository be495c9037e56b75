"""Estimates from gradients: identities that they must fulfil, and exact patching beside them."""

import numpy as np
import pytest
import torch

from locate import LocateError, trace
from locate.mediation import effects
from locate.mediation.resampling import Intervals
from locate.model import products
from locate.planted import LAYOUTS, draw_plan, judge, plant
from locate.prompts import occupation_pairs
from locate.prompts.tokens import tokenise
from locate.sites import ROLES, Patch, Site, Write
from locate.study.estimate import estimate
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

WORDS = ["nurse", "engineer", "lawyer", "baker", "carpenter", "librarian"]
FEW = occupation_pairs("anti", templates_each=1, occupations=WORDS)
CELL = ["pair", "direction", "layer", "role", "clean_pos"]


def joined(one, other, on=CELL):
    """Two tables of effects side by side, every row of the first with its partner."""
    both = one.merge(other, on=on, suffixes=("", "_other"), validate="one_to_one")
    assert len(both) == len(one) > 0
    return both


@pytest.mark.parametrize("component", ["resid_pre", "attn_out", "mlp_out", "head", "neuron"])
def test_small_changes_are_estimated_to_first_order(model_of, component):
    """A vector near the base run's own activation: the exact effect is gradient times difference."""
    model = model_of("gpt2", "float64")
    prompts = occupation_pairs("anti", templates_each=1, occupations=["nurse"])
    unit = 1 if component in ("head", "neuron") else None
    width = {"head": model.d_head, "neuron": None}.get(component, model.d_model)
    site = Site(component, 1, "subject_last", unit)
    kept = []
    clean = torch.tensor([model.encode(prompts.pairs[0].clean)[0]])
    where = len(model.encode("The nurse")[0]) - 1
    with model.hooked([(model.hook(component, 1), lambda value, hook: kept.append(value.clone()))]):
        model.final_logits(clean)
    own = kept[0][0, where] if unit is None else kept[0][0, where, unit]
    draw = torch.randn(() if width is None else (width,), generator=torch.Generator().manual_seed(0)).double()
    errors = []
    for size in (1e-2, 1e-3):
        patch = Patch(site, (Write(site, own + size * draw),))
        exact = effects(trace(model, prompts, patches=[patch], directions=("noising",)))["nie"]
        guess = estimate(model, prompts, patches=[patch], directions=("noising",))["nie"]
        assert abs(exact[0]) > 0
        errors.append(abs(guess[0] - exact[0]) / abs(exact[0]))
    assert errors[1] < 0.02
    assert errors[1] < 0.5 * errors[0] or errors[1] < 1e-4


def test_heads_and_neurons_add_up_to_their_outputs(gpt2):
    """What they write is linear in them, so by the chain rule their estimates add up to the output's."""
    for units, whole in (("head", "attn_out"), ("neuron", "mlp_out"), ("mlp_out_unit", "mlp_out")):
        parts = estimate(gpt2, FEW, Map(components=(units,)))
        summed = parts.groupby(CELL, observed=True)["nie"].sum().reset_index()
        both = joined(estimate(gpt2, FEW, Map(components=(whole,))), summed)
        np.testing.assert_allclose(both["nie_other"], both["nie"], rtol=0, atol=1e-5)
        assert both["nie"].abs().max() > 1e-3


def same_length(model):
    """The pairs whose prompts have as many tokens: then every token is aligned."""
    counts = [(len(model.encode(pair.clean)[0]), len(model.encode(pair.corrupted)[0])) for pair in FEW]
    return type(FEW)(tuple(pair for pair, (one, other) in zip(FEW, counts, strict=True) if one == other))


def log_odds(model, pair, hooks):
    """Log-odds of a pair's answers after its clean prompt, nats."""
    with model.hooked(hooks):
        logits = model.final_logits(torch.tensor([model.encode(pair.clean)[0]]))[0]
    female, male = (model.encode(word)[0][-1] for word in (pair.female, pair.male))
    return float(logits[female] - logits[male])


def kept_pattern(model, text, layer):
    """Attention weights of a prompt: [head, query, key]."""
    kept = []
    with model.hooked([(model.hook("pattern", layer), lambda value, hook: kept.append(value[0].clone()))]):
        model.final_logits(torch.tensor([model.encode(text)[0]]))
    return kept[0]


@pytest.mark.parametrize(("family", "step", "rel"), [("gpt2", 1e-4, 1e-5), ("llama", 0.1, 3e-3)])
def test_edges_are_slopes_of_small_steps_of_the_weights(model_of, family, step, rel):
    """The estimate is the derivative on the way from the base run's weights to the source's, all else left.

    Llama's softmax is taken in fp32 whatever the model, so its steps must be larger.
    """
    model = model_of(family, "float64")
    pair, layer, head = same_length(model).pairs[0], 1, 1
    found = estimate(
        model, type(FEW)((pair,)), Map(("pattern",), layers=(layer,), roles=("last",), keys=ROLES),
        directions=("noising",), view="signed",
    )  # fmt: skip
    rows = found[found["unit"] == head]
    assert len(rows) > 2
    assert rows["nie"].abs().max() > 1e-5
    own, other = (kept_pattern(model, text, layer) for text in (pair.clean, pair.corrupted))
    roles = tokenise(type(FEW)((pair,)), model.encode)[0][0].clean_roles
    for key, rows_of_key in rows.groupby("key", observed=True):
        (row,) = rows_of_key.itertuples()
        keys = [index for index, role in enumerate(roles) if role == key]

        def moved(size, keys=keys):
            def hook(value, hook):
                value = value.clone()
                value[0, head, -1, keys] += size * (other - own)[head, -1, keys]
                return value

            return log_odds(model, pair, [(model.hook("pattern", layer), hook)])

        assert row.nie == pytest.approx((moved(step) - moved(-step)) / (2 * step), rel=rel, abs=1e-7)


def test_edges_add_up(gpt2):
    """Over its keys to the whole row of a head, and over heads to all of them written at once."""
    options = {"directions": ("denoising",)}
    whole = estimate(gpt2, FEW, Map(("pattern",)), **options)
    parts = estimate(gpt2, FEW, Map(("pattern",), keys=ROLES), **options)
    summed = parts.groupby([*CELL, "unit"], observed=True)["nie"].sum().reset_index()
    both = joined(whole, summed, [*CELL, "unit"])
    np.testing.assert_allclose(both["nie_other"], both["nie"], rtol=0, atol=1e-5)
    assert both["nie"].abs().max() > 1e-3
    heads = [Site("pattern", 1, "last", unit) for unit in range(gpt2.n_heads)]
    at_once = estimate(gpt2, FEW, patches=[Patch.joint("all", heads)], **options)
    last = whole[(whole["layer"] == 1) & (whole["role"] == "last")].groupby("pair")["nie"].sum()
    np.testing.assert_allclose(at_once.set_index("pair")["nie"].sort_index(), last.sort_index(), rtol=0, atol=1e-5)


def test_a_head_without_weights_is_a_head_that_is_silent(gpt2):
    """What a head adds up is linear in its weights: leaving out all of them is leaving out its output."""
    prompts = same_length(gpt2)
    for unit in range(gpt2.n_heads):
        edges, head = (
            estimate(gpt2, prompts, patches=[Patch.at(Site(component, 1, "last", unit), "zero")])
            for component in ("pattern", "head")
        )
        np.testing.assert_allclose(edges["nie"], head["nie"], rtol=0, atol=1e-5)
        assert edges["nie"].abs().max() > 1e-3


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_planted_edge_is_estimated_as_patching_finds_it(tmp_path, layout):
    """A bias that is carried by where a head attends: in sign, size and place."""
    from locate import load
    from locate.mediation import average

    planted = plant(tmp_path / "model", draw_plan(5, layout, "attention"), occupations=6, templates_each=1)
    model = load(str(planted.folder), device="cpu")
    map = Map(("pattern",), roles=("last",), keys=("subject_last", "after_subject", "last"))
    exact, *estimates = (
        average(rows, chosen=Intervals(samples=100))
        for rows in (
            effects(trace(model, planted.prompts, map, directions=("noising",), probabilities=False)),
            estimate(model, planted.prompts, map, directions=("noising",)),
            estimate(model, planted.prompts, map, directions=("noising",), method="integrated"),
        )
    )
    assert judge(exact, planted.edges).first
    strongest = exact["effect"].idxmin()
    assert exact["effect"][strongest] < -1
    for guess in estimates:
        assert judge(guess, planted.edges).auroc == 1
        assert 0.5 < guess["effect"][strongest] / exact["effect"][strongest] < 2


def test_integrated_estimates_of_other_values_are_refused(gpt2):
    patch = Patch.at(Site("head", 1, "last", 0), "zero")
    with pytest.raises(LocateError, match="writes zero: integrated gradients lead only from the base to the source"):
        estimate(gpt2, FEW, patches=[patch], method="integrated")


def test_integrated_gradients_are_complete(model_of):
    """Over all tokens the integrated estimates of the first residual add up to the total effect."""
    model = model_of("gpt2", "float64")
    prompts = same_length(model)
    assert len(prompts) >= 2
    gaps = []
    for steps in (2, 32):
        found = estimate(model, prompts, Map(("resid_pre",), layers=(0,)), method="integrated", steps=steps)
        per = found.groupby(["pair", "direction"], observed=True).agg({"nie": "sum", "total": "first"})
        gaps.append(np.abs(per["nie"] - per["total"]).max() / np.abs(per["total"]).max())
    assert gaps[1] < 1e-3
    assert gaps[1] < gaps[0]


@pytest.mark.parametrize("method", ["attribution", "integrated"])
def test_what_changes_nothing_is_estimated_as_nothing(gpt2, method):
    """Tokens before the subject, other tokens of the last layer's outputs, and sites frozen to their own run."""
    found = estimate(gpt2, FEW, Map(("attn_out", "mlp_out")), method=method)
    assert (found.loc[found["role"] == "before_subject", "nie"].abs() < 1e-6).all()
    ends = found[(found["layer"] == gpt2.n_layers - 1) & (found["role"] != "last")]
    assert len(ends) > 10
    assert (ends["nie"] == 0).all()
    frozen = [Patch.at(Site("mlp_out", 1, "subject_last"), "base")]
    assert (estimate(gpt2, FEW, patches=frozen, method=method)["nie"] == 0).all()


def test_estimates_lie_near_the_exact_effects(gpt2):
    map = Map(("mlp_out", "attn_out"))
    exact = effects(trace(gpt2, FEW, map))
    for method in ("attribution", "integrated"):
        both = joined(exact, estimate(gpt2, FEW, map, method=method), [*CELL, "component"])
        assert np.corrcoef(both["nie"], both["nie_other"])[0, 1] > 0.5
        np.testing.assert_allclose(both["total_other"], both["total"], atol=2e-5)
        np.testing.assert_allclose(both["base_other"], both["base"], atol=2e-5)


@pytest.mark.parametrize("corruption", [None, Noise(samples=2)])
@pytest.mark.parametrize("component", ["mlp_out", "pattern"])
def test_batches_change_nothing(gpt2, corruption, component):
    one, many = (
        estimate(gpt2, FEW, Map((component,)), method="integrated", corruption=corruption, batch_size=size)
        for size in (1, None)
    )
    both = joined(one, many, [*CELL, "unit"])
    np.testing.assert_allclose(both["nie_other"], one["nie"], rtol=0, atol=1e-5)
    assert one["nie"].abs().max() > 1e-3


def test_views_differ_by_the_stereotype(gpt2):
    signed, towards = (estimate(gpt2, FEW, Map(("mlp_out",)), view=view) for view in ("signed", "stereotype"))
    both = joined(towards, signed)
    np.testing.assert_allclose(both["nie"], both["nie_other"] * both["stereotype"].astype(float))
    assert set(both["stereotype"].astype(int)) == {-1, 1}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("method", ["attribution", "integrated"])
def test_a_planted_bias_is_estimated_where_it_is(tmp_path, layout, method):
    from locate import load
    from locate.mediation import average

    planted = plant(tmp_path / "model", draw_plan(5, layout), occupations=12, templates_each=1)
    found = estimate(
        load(str(planted.folder), device="cpu"), planted.prompts, Map(("mlp_out", "attn_out", "head")), method=method,
        directions=("denoising",),
    )  # fmt: skip
    assert judge(average(found, chosen=Intervals(samples=100)), planted.truth).auroc > 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "guess"}, "method 'guess': expected one of attribution, integrated"),
        ({"view": "up"}, "view 'up': expected one of stereotype, signed"),
        ({"steps": 0}, "0 steps: expected a number >= 1"),
    ],
)
def test_bad_options_are_refused(gpt2, options, message):
    with pytest.raises(LocateError, match=message):
        estimate(gpt2, FEW, **options)


def test_gradients_do_not_pass_through_a_product_that_has_none(gpt2, monkeypatch):
    """With the library whose operator has no gradient, estimates are those of torch's own products."""
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: False)
    usual = estimate(gpt2, FEW, Map(("mlp_out", "head")), method="integrated")
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: True)
    assert products.product_library("float32", "cpu", 1) == "oneDNN"
    other = estimate(gpt2, FEW, Map(("mlp_out", "head")), method="integrated")
    np.testing.assert_allclose(other["nie"], usual["nie"], rtol=0, atol=2e-5)
    assert usual["nie"].abs().max() > 1e-2
