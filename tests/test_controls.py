"""Controls: they change what they say they change, find nothing where nothing is, and stay with the run."""

from dataclasses import replace

import bare
import numpy as np
import pandas as pd
import pytest
import torch
from bare import job_of
from handmade import both, map_trace, odds, trace_of
from test_identities import EXACT, pair

from locate import Controls, Noise, Swap, load, load_trace, trace
from locate.engine.plain import execute_runs
from locate.errors import LocateError
from locate.mediation import average, effects
from locate.mediation.controls import LOCATED, SETS, control_table, set_test
from locate.model.untrained import make_untrained
from locate.planted import draw_plan, plant
from locate.prompts import Pair, Prompts
from locate.sites import Site
from locate.study import controls as controls_of_runs
from locate.study.disturb import RandomDirections, ShuffledSources
from locate.study.random_sets import draw_sets
from locate.study.sample import halves, sample_pairs
from locate.tracing.measure import measure_chunk
from locate.tracing.plan import Map

SITES = (Site("mlp_out", 1, "subject_last"), Site("head", 2, "last", 1), Site("neuron", 0, "subject_last", 3))
CHOSEN = Map(("mlp_out", "head", "neuron"), only=SITES)
PROMPTS = Prompts(
    (
        pair("nurse", "man"),
        pair("police officer", "woman", sign=-1),
        pair("engineer", "woman", "The {subject} laughed because", -1),
        pair("librarian", "man"),
    )
)


@pytest.fixture(params=[Swap(), Noise(samples=2)], ids=["swap", "noise"])
def job(request, gpt2):
    return job_of(gpt2, PROMPTS, CHOSEN, corruption=request.param)


def test_shuffled_sources_are_other_groups_runs_of_the_same_kind_at_the_same_role(job):
    layout = job.lay_out(job.pairs)
    each = len(layout.runs) // len(job.pairs)
    moved = ShuffledSources(0).rewrite(job, layout)
    assert moved.labels == layout.labels
    partners = set()
    columns = layout.labels["pair"], layout.labels["role"]
    for old, new, number, role in zip(layout.rows, moved.rows, *columns, strict=True):
        own, other = job.pairs[new.base // each], job.pairs[new.source // each]
        assert (old.base, own.index) == (new.base, number)
        assert own.pair.group != other.pair.group
        assert new.source % each == old.source % each
        (write,) = new.writes
        roles = other.corrupted_roles if new.source % each else other.clean_roles
        assert roles[write.source_pos] == role
        assert write.base_pos == old.writes[0].base_pos
        partners.add((own.index, other.index))
    assert len(partners) > len(job.pairs)
    sources = [[row.source for row in ShuffledSources(seed).rewrite(job, layout).rows] for seed in (0, 1)]
    assert sources[0] == [row.source for row in moved.rows] != sources[1]


def test_a_shuffled_source_is_the_patch_of_a_pair_made_of_both_prompts(gpt2):
    """A second way: a pair whose clean prompt is the other pair's, traced as any other."""
    two = Prompts((pair("nurse", "man"), pair("engineer", "woman")))
    job = job_of(gpt2, two, CHOSEN, rewrite=ShuffledSources(0))
    found = measure_chunk(job, job.pairs, lambda _: None)
    crossed = Prompts((pair("engineer", "man"), pair("nurse", "woman")))
    expected = bare.trace(gpt2, crossed, CHOSEN).table
    keys = ["pair", "component", "direction"]
    both_ways = found[found["direction"] == "denoising"].merge(
        expected[expected["direction"] == "denoising"], on=keys, validate="one_to_one"
    )
    assert len(both_ways) == 6
    np.testing.assert_allclose(both_ways["patched_female_x"], both_ways["patched_female_y"], rtol=0, atol=EXACT)
    assert (both_ways["patched_female_x"] - both_ways["base_female_x"]).abs().max() > 1e-3


def test_random_directions_are_as_long_as_the_difference_and_another_way(job):
    layout = job.lay_out(job.pairs)
    rows = layout.rows
    wanted = sorted({(write.component, write.layer) for row in rows for write in row.writes})
    kept = execute_runs(job.model, layout.runs, wanted, job.limits)[1]
    moved = RandomDirections(0).rewrite(job, layout)
    assert set(moved.labels["origin"]) == {"given"}
    assert set(layout.labels["origin"]) == {"source"}
    cosines = []
    for old, new in zip(rows, moved.rows, strict=True):
        (write,) = old.writes
        own = kept[old.base][write.component, write.layer][write.base_pos].double()
        other = kept[old.source][write.component, write.layer][write.source_pos].double()
        if write.unit is not None:
            own, other = own[write.unit], other[write.unit]
        step = new.writes[0].origin - own
        assert float(step.norm()) == pytest.approx(float((other - own).norm()), rel=1e-9)
        if own.ndim:
            cosines.append(float((step.flatten() @ (other - own).flatten()) / step.norm() / (other - own).norm()))
    assert abs(np.mean(cosines)) < 0.3
    assert max(np.abs(cosines)) < 0.9
    again = RandomDirections(0).rewrite(job, layout)
    assert all(torch.equal(a.writes[0].origin, b.writes[0].origin) for a, b in zip(moved.rows, again.rows, strict=True))


def test_random_directions_of_a_pair_do_not_depend_on_those_beside_it(job):
    moved = RandomDirections(0).rewrite(job, job.lay_out(job.pairs))
    own = [row for row, pair in zip(moved.rows, moved.labels["pair"], strict=True) if pair == job.pairs[1].index]
    alone = RandomDirections(0).rewrite(job, job.lay_out(job.pairs[1:2]))
    assert len(own) == len(alone.rows) > 1
    for row, other in zip(own, alone.rows, strict=True):
        torch.testing.assert_close(row.writes[0].origin, other.writes[0].origin, rtol=0, atol=1e-5)


def test_an_untrained_model_has_other_weights_and_the_same_tokens(gpt2):
    other = make_untrained(gpt2, 0)
    assert other.checkpoint.weights_sha256 != gpt2.checkpoint.weights_sha256
    assert other.checkpoint.tokenizer_sha256 == gpt2.checkpoint.tokenizer_sha256
    assert make_untrained(gpt2, 0).checkpoint.weights_sha256 == other.checkpoint.weights_sha256
    assert make_untrained(gpt2, 1).checkpoint.weights_sha256 != other.checkpoint.weights_sha256


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    made = plant(tmp_path_factory.mktemp("planted") / "model", draw_plan(3, "gpt2"), occupations=24, templates_each=1)
    model = load(str(made.folder), device="cpu")
    return made, model, trace(model, made.prompts, Map(("mlp_out", "attn_out")), probabilities=False)


def test_controls_of_a_planted_bias_say_what_is_planted(planted):
    """Half of the other occupations have the pair's own stereotype, the rest the corrupted prompt's."""
    made, _, traced = planted
    path = made.plan.stereotype
    table = control_table(traced)
    site = table[(table["component"] == "mlp_out") & (table["layer"] == path.mlp_layer)]
    site = site[(site["role"] == "subject_last") & (site["direction"] == "denoising")].set_index("control")
    own = site.loc["shuffled source", "own"]
    assert own > 1
    assert 0.2 * own < site.loc["shuffled source", "effect"] < 0.8 * own
    assert abs(site.loc["random direction", "effect"]) < 0.25 * own
    assert abs(site.loc["neutral words", "effect"]) < 0.05 * own
    untouched = table[table["control"] == "random weights"]
    assert len(untouched) == 2
    assert untouched["effect"].abs().max() < 0.1 * own
    assert traced.meta["controls"]["not_run"] == {}


def test_the_located_set_of_a_planted_bias_beats_all_random_ones(planted):
    made, _, traced = planted
    found = set_test(traced)
    assert (found.component, found.role, found.layers[0]) == ("mlp_out", "subject_last", made.plan.stereotype.mlp_layer)
    assert found.p == pytest.approx(1 / (1 + found.sets))
    assert found.low > found.largest
    about = traced.meta["controls"]["random_sets"]
    assert about["groups_located"] + about["groups_compared"] == traced.table["group"].nunique()
    rows = traced.controls[traced.controls["control"] == SETS]
    assert set(rows["group"].astype(str)) <= set(halves(traced, 0)[1])
    assert not set(rows["group"].astype(str)) & set(halves(traced, 0)[0])


def sets_trace(joint: dict[str, float], groups: int = 8):
    """A trace whose only control are sets of these mean joint effects."""
    rows = []
    for name, size in joint.items():
        for number in range(groups):
            labels = {"pair": number, "group": f"g{number}", "stereotype": 1, "name": name}
            spread = 0.01 * (number - groups / 2)
            rows += both(odds(2.0), odds(-2.0), odds(size - 2.0 + spread), odds(2.0), **labels)[:1]
    table = trace_of(rows).table.assign(control=SETS)
    about = {"component": "mlp_out", "role": "last", "direction": "denoising", "sites": [], "sets": len(joint) - 1}
    whole = map_trace()
    return replace(whole, controls=table, meta=whole.meta | {"controls": {"random_sets": about}})


@pytest.mark.parametrize(("own", "p"), [(3.0, 1 / 5), (0.5, 3 / 5), (-1.0, 1.0)])
def test_p_of_a_set_counts_those_that_carry_as_much(own, p):
    found = set_test(sets_trace({LOCATED: own, "random 0": 1.0, "random 1": 0.2, "random 2": 0.6, "random 3": -0.5}))
    assert found.p == pytest.approx(p)
    assert found.effect == pytest.approx(own, abs=0.02)
    assert found.largest == pytest.approx(1.0, abs=0.02)
    assert (found.sets, found.groups) == (4, 8)


def test_random_sets_are_different_sites_and_never_more_than_there_are():
    one, two = ([Site("head", layer, "last", unit) for unit in range(4)] for layer in (0, 1))
    assert len(draw_sets([one], 99, 0)) == 4
    assert len(draw_sets([one, one], 99, 0)) == 6
    many = draw_sets([one, two, *([[Site("head", 2, "last", unit) for unit in range(9)]] * 2)], 30, 0)
    assert len({frozenset(each) for each in many}) == len(many) == 30
    assert all(len(set(each)) == 4 for each in many)
    assert sorted(site.layer for site in many[0]) == [0, 1, 2, 2]


def test_a_sample_has_one_pair_of_each_group_before_a_second():
    found = map_trace(groups=[f"g{index}" for index in range(6)], templates=("a {subject}", "b {subject}"))
    all_pairs = Prompts(tuple(Pair(f"a{i} x", f"a{i} y", "x", "y", f"g{i // 2}", "t") for i in range(12)))
    assert len({each.group for each in sample_pairs(all_pairs, found, 6, 0)}) == 6
    assert len({each.group for each in sample_pairs(all_pairs, found, 9, 0)}) == 6
    assert len(sample_pairs(all_pairs, found, 99, 0)) == 12
    assert {each.group for each in sample_pairs(all_pairs, found, 99, 0, ["g1"])} == {"g1"}


def test_controls_stay_with_the_run_and_are_measured_once(gpt2, tmp_path, monkeypatch):
    alone = bare.trace(gpt2, PROMPTS, Map(("mlp_out",)), output=tmp_path / "run")
    assert alone.controls is None
    small = Controls(sites=2, pairs=4)
    whole = trace(gpt2, PROMPTS, Map(("mlp_out",)), output=tmp_path / "run", controls=small)
    pd.testing.assert_frame_equal(whole.table, alone.table)
    read = load_trace(tmp_path / "run")
    assert read.meta == whole.meta
    pd.testing.assert_frame_equal(control_table(read), control_table(whole))
    monkeypatch.setattr(controls_of_runs, "strongest", None)
    for asked in (small, None):
        again = trace(gpt2, PROMPTS, Map(("mlp_out",)), output=tmp_path / "run", controls=asked)
        assert again.meta == whole.meta
    with pytest.raises(LocateError, match=r"controls were measured with sites 2, pairs 4, .*this run asks for sites 5"):
        trace(gpt2, PROMPTS, Map(("mlp_out",)), output=tmp_path / "run")
    (tmp_path / "run" / "controls.parquet").unlink()
    with pytest.raises(LocateError, match=r"controls\.parquet cannot be read .*: trace again"):
        load_trace(tmp_path / "run")


def test_what_was_not_run_is_said_with_its_reason(gpt2):
    own = Prompts(tuple(replace(each, female=" they", male=" he") for each in PROMPTS))
    found = trace(gpt2, own, Map(("mlp_out",)), controls=Controls(random_weights=False), corruption=Swap())
    missing = found.meta["controls"]["not_run"]
    assert set(missing) == {"definitional words", "neutral words", "random weights"}
    assert "answers are not those of the package's words" in missing["neutral words"]
    assert found.meta["controls"]["random_sets"] == {"reason": "fewer than 8 groups"}
    assert set(found.controls["control"]) == {"shuffled source", "random direction"}
    assert set_test(found) is None
    edges = trace(gpt2, PROMPTS, Map(("pattern",), roles=("last",)), controls=Controls(random_weights=False))
    assert "no single site to control" in edges.meta["controls"]["not_run"]["shuffled source"]


def test_controls_are_beside_the_sites_own_effect(gpt2):
    found = trace(gpt2, PROMPTS, Map(("mlp_out",)), controls=Controls(sites=3, pairs=4, random_weights=False))
    own = average(effects(found)).set_index(["direction", "component", "layer", "unit", "role"])["effect"]
    table = control_table(found)
    assert len(table) == 4 * 3 * 2
    for row in table.itertuples():
        assert row.own == pytest.approx(own[row.direction, row.component, row.layer, row.unit, row.role])
        assert row.low <= row.effect <= row.high
        assert row.size >= abs(row.effect) - 1e-12
    assert control_table(bare.trace(gpt2, PROMPTS, Map(("mlp_out",)))).empty


@pytest.mark.parametrize("bad", [{"sites": 0}, {"pairs": 0}, {"sets": 0}, {"seed": -1}])
def test_bad_controls_are_refused(bad):
    with pytest.raises(LocateError, match="expected at least 1 of each, and a seed from 0 up"):
        Controls(**bad)
