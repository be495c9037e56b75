"""Models made with a known bias path: they are as planned, and what is found in them is judged rightly."""

import functools
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from locate import LocateError, load, trace
from locate.mediation import effects
from locate.planted import LAYOUTS, Place, draw_plan, judge, plant, selftest
from locate.planted.finding import judge_maps, trace_planted
from locate.planted.norms import FEATURE, WRITTEN
from locate.planted.weights import draw_directions
from locate.sites import Patch, Site, Write

SEED = 3


@pytest.fixture(scope="module", params=LAYOUTS)
def planted(request, tmp_path_factory):
    """A made model of each layout in turn."""
    return plant(
        tmp_path_factory.mktemp("planted") / "model", draw_plan(SEED, request.param), occupations=12, templates_each=1
    )


@pytest.fixture(scope="module")
def model(planted):
    return load(str(planted.folder), device="cpu")


@pytest.fixture(scope="module")
def maps(planted, model):
    """What is traced in it."""
    return trace_planted(planted, model)


def residual(model, text, layer):
    """Residual stream that enters a layer: [pos, d_model]."""
    kept = []
    with model.hooked([(model.hook("resid_pre", layer), lambda value, hook: kept.append(value[0].clone()))]):
        model.final_logits(torch.tensor([model.encode(text)[0]]))
    return kept[0].double().numpy()


def subject_position(planted, model, pair):
    """Index of the subject's last token."""
    return len(model.encode(pair.clean[: pair.clean.index(pair.clean_subject) + len(pair.clean_subject)])[0]) - 1


def test_what_is_planted_is_found(planted, maps):
    found = judge_maps(planted, maps)
    assert found.passed
    assert found.total > 1
    assert found.confused < 0.1
    for verdict in (*found.verdicts.values(), found.definition, found.edges):
        assert verdict.auroc > 0.99
        assert verdict.precision == verdict.role == 1


@pytest.mark.parametrize("site", [("mlp_out", -1, "subject_last"), ("attn_out", -1, "last")])
def test_another_truth_is_not_found(planted, maps, site):
    """The verdict can fail: with a site moved to a layer where nothing is planted, it does."""
    component, unit, role = site
    path = planted.plan.stereotype
    layer = path.mlp_layer if component == "mlp_out" else path.head_layer
    other = next(each for each in range(planted.plan.n_layers) if each != layer)
    truth = planted.truth - {Place(component, layer, unit, role)} | {Place(component, other, unit, role)}
    found = judge_maps(replace(planted, truth=frozenset(truth)), maps)
    assert not found.passed
    assert not any(each.first for each in found.verdicts.values())


def test_what_is_taken_for_the_other_path_is_not_passed(planted, maps):
    """With the two paths' truths exchanged, each has its whole effect under the other's swap."""
    found = judge_maps(replace(planted, truth=planted.definition, definition=planted.truth), maps)
    assert not found.passed
    assert found.confused > 0.8
    right = judge_maps(planted, maps)
    assert right.passed
    assert not replace(right, confused=0.5).passed


def test_features_are_written_moved_and_read_as_planned(planted, model):
    """At the subject's last token the MLP adds the stereotype's sign in its direction, and nothing was there before.

    Distractors are written as strongly, and the definition's direction stays empty for an occupation.
    """
    plan, made = planted.plan, draw_directions(planted.plan)
    for pair in planted.prompts.pairs[:6]:
        where = subject_position(planted, model, pair)
        after = residual(model, pair.clean, plan.n_layers - 1)[where]
        for path in plan.paths:
            direction = made.written[path.channel]
            assert abs(residual(model, pair.clean, path.mlp_layer)[where] @ direction) < 0.1
            if path.mlp_layer < plan.n_layers - 1:
                added = after @ direction
                if path.feature == "definition":
                    assert abs(added) < 0.15
                else:
                    assert 0.5 * WRITTEN < abs(added) < 1.3 * WRITTEN
                if path.feature == "stereotype":
                    assert np.sign(added) == pair.stereotype


def test_the_head_is_the_only_way(planted, model):
    """Without the planted head's write the bias is gone; without a distractor's it is what it was."""

    def biased(without):
        hooks = []
        if without is not None:

            def silence(value, hook):
                value[:, -1, without.head] = 0
                return value

            hooks = [(model.hook("head", without.head_layer), silence)]
        found = []
        for pair in planted.prompts.pairs[:8]:
            with model.hooked(hooks):
                logits = model.final_logits(torch.tensor([model.encode(pair.clean)[0]]))[0]
            she, he = (model.encode(word)[0][-1] for word in (pair.female, pair.male))
            found.append(pair.stereotype * float(logits[she] - logits[he]))
        return np.mean(found)

    whole = biased(None)
    assert whole > 0.5
    assert abs(biased(planted.plan.stereotype)) < 0.1 * whole
    distractor = planted.plan.paths[-1]
    assert biased(distractor) == pytest.approx(whole, rel=0.3)


def test_words_of_several_pieces_carry_their_feature_at_the_last(planted, model):
    counts = [len(model.encode(f" {pair.clean_subject}")[0]) for pair in planted.prompts]
    assert max(counts) > min(counts)
    pieces = [model.encode(f" {pair.clean_subject}")[0][1:] for pair in planted.prompts]  # without BOS
    last = {each[-1] for each in pieces}
    first = {each[0] for each in pieces} - last
    table = model.bridge.W_E.double().numpy()
    feature = draw_directions(planted.plan).feature["stereotype"]
    assert len(first) > 3
    np.testing.assert_allclose(table[sorted(first)] @ feature, 0, atol=1e-6)
    np.testing.assert_allclose(np.abs(table[sorted(last)] @ feature), FEATURE, atol=1e-6)
    assert sum(pair.stereotype for pair in planted.prompts) == 0


def test_a_plan_decides_everything(tmp_path):
    plan = draw_plan(SEED, "gpt2")
    assert plan == draw_plan(SEED, "gpt2")
    assert plan != draw_plan(SEED + 1, "gpt2")
    one, two = (plant(tmp_path / name, plan) for name in ("one", "two"))
    assert (one.folder / "model.safetensors").read_bytes() == (two.folder / "model.safetensors").read_bytes()
    assert json.loads((one.folder / "planted.json").read_text())["paths"][0]["feature"] == "stereotype"
    assert one.truth == two.truth


def test_plans_differ_in_depth_width_and_place():
    plans = [draw_plan(seed, layout) for seed in range(40) for layout in LAYOUTS]
    assert {plan.n_layers for plan in plans} == {5, 6, 7, 8}
    assert {plan.n_heads for plan in plans} == {4, 8}
    for plan in plans:
        assert len({path.mlp_layer for path in plan.paths}) == len(plan.paths)
        assert len({(path.head_layer, path.head // 2) for path in plan.paths}) == len(plan.paths)
        assert all(path.mlp_layer < path.head_layer < plan.n_layers for path in plan.paths)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_backup_hides_its_mlp_from_patches_of_one_site(tmp_path, layout):
    """The bias is there, the head is found; the MLP's effect is repaired, unless both are written together."""
    plan = draw_plan(SEED, layout, "backup")
    assert plan.stereotype.mlp_layer < plan.backup_layer < plan.stereotype.head_layer
    made = plant(tmp_path / "model", plan, occupations=12, templates_each=1)
    model = load(str(made.folder), device="cpu")
    sites = [Site("mlp_out", layer, "subject_last") for layer in (plan.stereotype.mlp_layer, plan.backup_layer)]
    alone, both = Patch.at(sites[0]), Patch(sites[0], tuple(Write(site) for site in sites), window=2)
    rows = effects(trace(model, made.prompts, patches=[alone, both], directions=("denoising",)))
    by_size = rows.groupby("window", observed=True)[["nie", "total"]].mean()
    assert by_size["total"].min() > 0.5
    assert by_size.loc[1, "nie"] < 0.5 * by_size.loc[2, "nie"]
    assert by_size.loc[2, "nie"] > 0.7 * by_size.loc[2, "total"]


def test_directions_are_orthonormal_and_of_mean_zero():
    made = draw_directions(draw_plan(SEED, "gpt2"))
    planted = [made.constant, made.subject, made.output, *made.feature.values(), *made.written.values()]
    planted += [made.moved[name] for name in made.moved if name.startswith("distractor")]
    planted += [*made.strange, made.drowning]
    every = np.array([*planted, *made.rest])
    np.testing.assert_allclose(every @ every.T, np.eye(len(every)), atol=1e-12)
    np.testing.assert_allclose(every.mean(1), 0, atol=1e-12)
    assert 0 < FEATURE < 1


def sites(values):
    """Averages with the given effects: component, layer, role -> effect."""
    rows = [
        {"component": component, "layer": layer, "unit": -1, "role": role, "key": "", "effect": effect}
        for (component, layer, role), effect in values.items()
    ]
    return pd.DataFrame(rows)


def test_verdicts_by_hand():
    """Of the four other sites one is stronger than the second planted one: 7 of 8 pairs in order."""
    table = sites({
        ("mlp_out", 0, "last"): 3.0, ("mlp_out", 1, "last"): -0.5, ("mlp_out", 0, "further"): 0.1,
        ("attn_out", 0, "last"): 1.0, ("attn_out", 1, "last"): 0.2, ("attn_out", 1, "further"): 0.3,
    })  # fmt: skip
    truth = frozenset({Place("mlp_out", 0, -1, "last"), Place("mlp_out", 1, -1, "last")})
    verdict = judge(table, truth)
    assert verdict.auroc == 7 / 8
    assert verdict.precision == 1 / 2
    assert verdict.first
    assert verdict.role == 1
    other = judge(table, frozenset({Place("attn_out", 1, -1, "last")}))
    assert other.auroc == 1 / 5
    assert not other.first
    assert other.role == 0


def test_equal_sites_count_half():
    table = sites({("mlp_out", 0, "last"): 1.0, ("mlp_out", 1, "last"): 1.0})
    assert judge(table, frozenset({Place("mlp_out", 1, -1, "last")})).auroc == 0.5


def test_sites_aside_count_neither_way():
    table = sites({("mlp_out", 0, "last"): 3.0, ("mlp_out", 1, "last"): 1.0, ("mlp_out", 2, "last"): 0.1})
    truth, aside = frozenset({Place("mlp_out", 1, -1, "last")}), frozenset({Place("mlp_out", 0, -1, "last")})
    assert judge(table, truth).auroc == 1 / 2
    assert judge(table, truth, aside).auroc == 1
    assert judge(table, truth, aside).first


def test_tables_that_cannot_be_judged_are_refused():
    table = sites({("mlp_out", 0, "last"): 1.0, ("mlp_out", 1, "last"): 1.0})
    with pytest.raises(LocateError, match="0 of 2 sites are planted"):
        judge(table, frozenset({Place("head", 1, 0, "last")}))
    with pytest.raises(LocateError, match="several effects of one site"):
        judge(pd.concat([table, table]), frozenset({Place("mlp_out", 1, -1, "last")}))


def test_made_models_do_not_overwrite(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LocateError, match="is not empty"):
        plant(tmp_path, draw_plan(0, "gpt2"))
    with pytest.raises(LocateError, match="layout 'bert': expected one of gpt2, llama"):
        draw_plan(0, "bert")
    with pytest.raises(LocateError, match="variant 'kind': expected one of plain, spread"):
        draw_plan(0, "gpt2", "kind")


def test_the_command_says_what_it_found_and_fails_where_it_did_not(monkeypatch, capsys):
    from locate.cli import verbs

    few = functools.partial(plant, occupations=8, templates_each=1)
    seen = []

    def quick(models, *, seed, device, threads):
        seen.extend(selftest(models, seed=seed, device=device, threads=threads, make=few))
        return iter(seen)

    monkeypatch.setattr("locate.planted.selftest", quick)
    verbs.selftest(models=1, seed=SEED)
    said = " ".join(capsys.readouterr().out.split())
    assert "found gpt2" in said
    assert "definition 1.000, attention 1.000; at most" in said
    assert "1 of 1 found" in said
    blind = [replace(each, total=0.0) for each in seen]
    monkeypatch.setattr("locate.planted.selftest", lambda *_, **__: iter(blind))
    with pytest.raises(LocateError, match="was not found in 1 of 1 models"):
        verbs.selftest(models=1)
    assert "MISSED  gpt2" in capsys.readouterr().out
