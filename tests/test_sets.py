"""Sets of sites: planted ones are faithful, identities of circuits, and areas worked out by hand."""

from dataclasses import replace

import bare
import numpy as np
import pandas as pd
import pytest
from handmade import both, map_trace, odds, trace_of
from test_identities import pair

from locate import LocateError, Sets, load, load_trace, trace
from locate.mediation import effects
from locate.mediation.resampling import Intervals
from locate.mediation.sets import areas, set_table
from locate.planted import draw_plan, plant
from locate.prompts import Prompts
from locate.sites import Site
from locate.study.sample import halves
from locate.study.sets import rank_sites, search_greedily
from locate.tracing.measure import measure
from locate.tracing.plan import Map
from locate.tracing.stage import Settings

WORDS = ("nurse", "engineer", "doctor", "librarian", "secretary", "person", "man", "woman")
ONE_LENGTH = Prompts(tuple(pair(word, WORDS[index - 1]) for index, word in enumerate(WORDS)))


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    made = plant(tmp_path_factory.mktemp("planted") / "model", draw_plan(5, "llama"), occupations=16, templates_each=1)
    model = load(str(made.folder), device="cpu")
    map = Map(("mlp_out", "attn_out"))
    return made, trace(model, made.prompts, map, controls=None, sets=Sets(largest=3, pool=5), probabilities=False)


def test_the_planted_pair_of_sites_is_a_faithful_circuit(planted):
    """One MLP and one attention carry the bias: with both all is there, with one of them nothing."""
    made, found = planted
    path = made.plan.stereotype
    about = found.meta["sets"]
    truth = {("mlp_out", path.mlp_layer), ("attn_out", path.head_layer)}
    assert {(site["component"], site["layer"]) for site in about["top"][:2]} == truth
    assert (about["greedy"][0]["component"], about["greedy"][0]["layer"]) in truth
    circuits = set_table(found).query("kind == 'circuit'").set_index("size")
    assert circuits.index[0] == 0
    assert abs(circuits.loc[0, "faithfulness"]) < 0.02
    assert circuits.loc[1, "faithfulness"] < 0.2
    assert circuits.loc[circuits.index[2:], "faithfulness"].between(0.85, 1.15).all()
    assert circuits["faithfulness"].iloc[-1] == 1
    size = areas(found)
    assert 0.9 < size.cpr[0] < 1.05
    assert size.cpr[1] <= size.cpr[0] <= size.cpr[2]
    assert 0 < size.cmd[0] < 0.1


def test_sets_are_measured_on_groups_they_were_not_chosen_on(planted):
    _, found = planted
    first, second = halves(found, 0)
    assert set(found.sets["group"].astype(str)) == set(second)
    assert not set(found.sets["group"].astype(str)) & set(first)
    table = set_table(found)
    assert (table["groups"] == len(second)).all()


def test_a_set_of_one_is_the_site_itself_and_the_whole_map_leaves_nothing(gpt2):
    """The set of the strongest site is its patch; with every output from the corrupted run, its answer is left."""
    map = Map(("mlp_out", "attn_out"))
    found = trace(gpt2, ONE_LENGTH, map, controls=None, sets=Sets(largest=2, pool=2))
    whole = effects(bare.trace(gpt2, ONE_LENGTH, map), view="signed")
    first = found.meta["sets"]["top"][0]
    rows = whole.query("direction == 'denoising' and component == @first['component'] and layer == @first['layer']")
    rows = rows[rows["role"] == first["role"]]
    told = set(found.sets["group"].astype(str))
    expected = rows[rows["group"].astype(str).isin(told)].set_index("clean")["nie"].sort_index()
    sets = effects(replace(found, table=found.sets), view="signed")
    alone = sets[sets["name"] == "top 1"].set_index("clean")["nie"].sort_index()
    np.testing.assert_allclose(alone.to_numpy(), expected.to_numpy(), rtol=0, atol=2e-5)
    assert alone.abs().max() > 1e-2
    empty = sets[sets["name"] == "circuit 0"]
    lengths = empty[["clean", "corrupted"]].astype(str).map(lambda text: len(gpt2.encode(text)[0]))
    empty = empty[lengths["clean"] == lengths["corrupted"]]  # else the last token's own position differs
    assert len(empty) >= 2
    np.testing.assert_allclose(empty["nie"], empty["total"], rtol=0, atol=5e-5)
    assert empty["total"].abs().max() > 0.1


def test_the_greedy_search_takes_the_site_that_adds_most(gpt2):
    pool = [Site("mlp_out", 0, "subject_last"), Site("attn_out", 2, "last"), Site("mlp_out", 1, "after_subject")]
    run = bare.trace(gpt2, ONE_LENGTH, Map(("mlp_out", "attn_out"), only=tuple(pool)))
    order = measure(gpt2, search_greedily(run, ONE_LENGTH, pool, 2), Settings())
    single = effects(run, view="signed")
    single = single[single["direction"] == "denoising"]
    sums = single.groupby(["component", "layer"], observed=True)["nie"].sum() * np.sign(single["total"].sum())
    assert (order[0].component, order[0].layer) == sums.idxmax()
    assert len(order) == len(set(order)) == 2


def by_hand(shares: dict[str, float], sites: int):
    """A trace whose total effect is 4 nats in every pair, and whose sets carry these shares of it."""
    rows = []
    for name, share in shares.items():
        circuit = name.startswith("circuit")
        for number in range(4):
            labels = {"pair": number, "group": f"g{number}", "stereotype": 1, "name": name}
            denoised, noised = odds(-2.0 + 4 * share), odds(2.0 - 4 * (1 - share))
            rows += both(odds(2.0), odds(-2.0), denoised, noised, **labels)[circuit : circuit + 1]
    whole = map_trace()
    return replace(whole, sets=trace_of(rows).table, meta=whole.meta | {"sets": {"sites": sites}})


def test_faithfulness_and_areas_by_hand():
    found = by_hand({"circuit 0": 0.0, "circuit 1": 0.5, "circuit 5": 1.2, "top 1": 0.3}, 10)
    table = set_table(found, chosen=Intervals(samples=100)).set_index(["kind", "size"])
    assert table["faithfulness"].to_dict() == pytest.approx(
        {("circuit", 0): 0.0, ("circuit", 1): 0.5, ("circuit", 5): 1.2, ("circuit", 10): 1.0, ("top", 1): 0.3}
    )
    assert table.loc[("top", 1), "effect"] == pytest.approx(1.2)
    assert table.loc[("circuit", 1), "effect"] == pytest.approx(-2.0)
    size = areas(found, chosen=Intervals(samples=100))
    assert size.cpr[0] == pytest.approx(0.1 * 0.25 + 0.4 * 0.85 + 0.5 * 1.1)
    assert size.cmd[0] == pytest.approx(0.1 * 0.75 + 0.4 * 0.35 + 0.5 * 0.1)
    assert (size.n, size.groups) == (4, 4)


def test_shares_of_nothing_are_refused():
    found = by_hand({"circuit 0": 0.0, "circuit 1": 0.5}, 4)
    still = found.sets.copy()
    for answer in ("female", "male"):
        still[f"source_{answer}"] = still[f"base_{answer}"]
    with pytest.raises(LocateError, match="total effect cannot be told from 0"):
        set_table(replace(found, sets=still), chosen=Intervals(samples=100))
    with pytest.raises(LocateError, match="this run measured no sets of sites"):
        set_table(map_trace())


def test_heads_stand_for_their_attention_and_too_few_groups_are_refused(gpt2, tmp_path):
    found = bare.trace(gpt2, ONE_LENGTH, Map(("attn_out", "mlp_out", "head")))
    sites = rank_sites(found, [str(each) for each in found.table["group"].unique()])
    assert {site.component for site in sites} == {"head", "mlp_out"}
    assert len(sites) == len(set(sites))
    with pytest.raises(LocateError, match="3 groups: expected at least 8 for sets of sites"):
        trace(
            gpt2, Prompts(ONE_LENGTH.pairs[:3]), Map(("mlp_out",)), controls=None, sets=Sets(), output=tmp_path / "run"
        )
    assert not (tmp_path / "run").exists()  # before anything is measured
    with pytest.raises(LocateError, match="expected at least 1 of each"):
        Sets(largest=0)


def test_sets_stay_with_the_run(gpt2, tmp_path):
    found = trace(gpt2, ONE_LENGTH, Map(("mlp_out",)), controls=None, sets=Sets(2, 2), output=tmp_path / "run")
    read = load_trace(tmp_path / "run")
    assert read.meta == found.meta
    pd.testing.assert_frame_equal(read.sets, found.sets)
    assert len(read.sets) > 20
