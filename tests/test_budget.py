"""Runs within a budget: what is chosen, what it costs, and what the agreement of estimates says."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace

import bare
import numpy as np
import pandas as pd
import pytest
from bare import job_of
from handmade import map_trace
from test_identities import PROMPTS, pair

from locate import Budget, LocateError, Noise, Swap, estimate, load, load_trace, trace
from locate.mediation.agreement import PLACE, agreement
from locate.mediation.resampling import Intervals
from locate.planted import draw_plan, plant
from locate.prompts import Prompts
from locate.study import budget as budgets
from locate.study.budget import count_affordable, largest_allowed
from locate.tracing.estimates import SiteEstimates, mean_estimates
from locate.tracing.plan import Map

MAP = Map(("mlp_out", "head", "neuron"))
SITES = 3 * 1 + 3 * 4 + 3 * 128


@pytest.mark.parametrize("method", ["attribution", "integrated"])
@pytest.mark.parametrize("corruption", [Swap(), Noise(samples=2)])
def test_estimates_of_sites_are_the_means_of_those_of_patches(gpt2, method, corruption):
    """A second way to the same numbers: one estimate for every patch of every pair, averaged as effects are."""
    both = PROMPTS + Prompts((pair("police officer", "construction worker"),))
    map = Map(("resid_pre", "attn_out", "mlp_out", "head", "neuron", "mlp_out_unit"))
    job = job_of(gpt2, both, map, corruption=corruption)
    sums = SiteEstimates("stereotype", budgets.METHODS[method])
    parts = [sums.table(job, pairs) for pairs in (job.pairs[:2], job.pairs[2:])]
    found = mean_estimates(pd.concat(parts, ignore_index=True))
    one_by_one = estimate(gpt2, both, map, method=method, corruption=corruption)
    keys = ["direction", *PLACE]
    within = one_by_one.groupby([*keys, "pair"], observed=True)["nie"].mean()
    expected = within.groupby(keys, observed=True).agg(["mean", "size"])
    found = found.set_index(keys).sort_index()
    assert len(found) == len(expected) > 2000
    expected = expected.reindex(found.index)
    np.testing.assert_allclose(found["estimate"], expected["mean"], rtol=0, atol=1e-6)
    assert (found["n"] == expected["size"]).all()
    assert found["estimate"].abs().max() > 0.05


def test_passes_are_not_exceeded_and_the_strongest_are_measured(gpt2):
    found = trace(gpt2, PROMPTS, MAP, budget=Budget(passes=400), controls=None)
    assert 250 < len(found) <= 400
    chosen = found.estimates.drop_duplicates(PLACE)
    about = found.meta["estimates"]
    assert about["sites"] == len(chosen)
    assert about["top_sites"] == chosen["chosen"].str.contains("top").sum() >= 5
    assert about["audit_sites"] == chosen["chosen"].str.contains("audit").sum() >= 20
    sizes = found.estimates.assign(size=found.estimates["estimate"].abs()).groupby(PLACE)["size"].max()
    top = chosen[chosen["chosen"].str.contains("top")].set_index(PLACE).index
    assert sizes[top].min() >= sizes.drop(top).max()
    measured = found.table[PLACE].astype({"component": str, "role": str, "key": str}).drop_duplicates()
    expected = chosen.loc[chosen["chosen"] != "", PLACE]
    pd.testing.assert_frame_equal(
        measured.sort_values(PLACE, ignore_index=True).astype({"layer": int, "unit": int}),
        expected.sort_values(PLACE, ignore_index=True).astype({"layer": int, "unit": int}),
    )


def test_what_is_measured_within_a_budget_is_what_the_whole_run_measures(gpt2):
    whole = bare.trace(gpt2, PROMPTS, MAP).table
    part = trace(gpt2, PROMPTS, MAP, budget=Budget(passes=300), controls=None).table
    keys = ["pair", "direction", *PLACE, "clean_pos"]
    both = part.merge(whole, on=keys, validate="one_to_one")
    assert len(both) == len(part) > 200
    np.testing.assert_allclose(both["patched_female_x"], both["patched_female_y"], rtol=0, atol=2e-5)
    assert (both["patched_female_x"] - both["base_female_x"]).abs().max() > 1e-2


def test_a_large_budget_measures_everything(gpt2):
    small = Map(("mlp_out", "head"))
    found = trace(gpt2, PROMPTS, small, budget=Budget(passes=10**6), controls=None)
    assert len(found) == len(bare.trace(gpt2, PROMPTS, small))
    assert all(each.unchosen == 0 and each.measured == each.sites for each in agreement(found))


def test_a_stopped_run_goes_on_with_its_choice_and_another_budget_is_refused(gpt2, tmp_path, monkeypatch):
    budget = Budget(passes=300, seed=1)
    found = trace(gpt2, PROMPTS, MAP, budget=budget, controls=None, output=tmp_path / "run")
    read = load_trace(tmp_path / "run")
    assert [each.as_json() for each in agreement(read)] == [each.as_json() for each in agreement(found)]
    meta = json.loads((tmp_path / "run" / "meta.json").read_text())  # stopped after the choice
    (tmp_path / "run" / "meta.json").write_text(json.dumps(meta | {"status": "running"}))
    (tmp_path / "run" / "trace.parquet").unlink()
    monkeypatch.setattr(budgets, "SiteEstimates", None)
    again = trace(gpt2, PROMPTS, MAP, budget=budget, controls=None, output=tmp_path / "run")
    pd.testing.assert_frame_equal(again.table, found.table)
    with pytest.raises(LocateError, match="holds another run: its chosen_by is"):
        trace(gpt2, PROMPTS, MAP, budget=Budget(passes=301, seed=1), controls=None, output=tmp_path / "run")
    with pytest.raises(LocateError, match="holds another run: its chosen_by is"):
        trace(gpt2, PROMPTS, replace(MAP, layers=(0, 1, 2)), budget=budget, controls=None, output=tmp_path / "run")


def test_time_is_shared_between_estimating_and_measuring(gpt2):
    """Enough for everything here; too little is refused before anything is estimated."""
    found = trace(gpt2, PROMPTS, Map(("mlp_out",)), budget=Budget(seconds=36_000), controls=None)
    assert found.meta["estimates"]["top_sites"] == found.meta["estimates"]["sites"]
    with pytest.raises(LocateError, match=r"estimating every site would take about \d+ s: give at least \d+s"):
        trace(gpt2, PROMPTS, Map(("mlp_out",)), budget=Budget(seconds=0.001), controls=None)


def test_as_many_sites_as_the_time_allows():
    """Sites cost a second each here, and an hour is left."""
    import time

    assert 3000 < count_affordable(10**6, lambda count: float(count), 3600.0, time.monotonic()) <= 3600
    assert count_affordable(50, lambda count: float(count), 3600.0, time.monotonic()) == 50
    assert largest_allowed(100, lambda count: count <= 37) == 37
    assert largest_allowed(100, lambda count: False) == 1


def test_planted_sites_are_chosen_and_estimates_agree(tmp_path):
    made = plant(tmp_path / "model", draw_plan(4, "llama"), occupations=12, templates_each=1)
    model = load(str(made.folder), device="cpu")
    found = trace(model, made.prompts, Map(("mlp_out", "head")), budget=Budget(passes=2000), controls=None)
    columns = found.table[["component", "layer", "unit", "role", "key"]].astype(object)
    measured = set(columns.itertuples(index=False, name=None))
    assert {tuple(site) for site in made.truth if site.component != "attn_out"} <= measured
    for each in agreement(found):
        assert each.rho > 0.5
        assert each.low <= each.rho <= each.high
        assert each.hidden < 0.5
        assert "rank correlation" in each.line()


def made_run(estimates, chosen):
    """A run of six MLP sites with exact effects 2, 1, 2/3 at two roles, of which some were measured."""
    whole = map_trace(components=("mlp_out",), roles=("subject_last", "last"))
    rows = whole.table[PLACE].drop_duplicates().astype({"component": str, "role": str, "key": str})
    table = rows.assign(direction="denoising", estimate=estimates, chosen=chosen, n=1)
    measured = rows[np.array(chosen) != ""]
    kept = whole.table.merge(measured, on=PLACE)
    return replace(whole, table=kept.astype(whole.table.dtypes), estimates=table)


def test_agreement_by_hand():
    exact = [2.0, 1.0, 1.0, 0.5, 2 / 3, 1 / 3]
    same = made_run(exact, ["top+audit", "audit", "audit", "audit", "audit", ""])
    (found,) = agreement(same, chosen=Intervals(samples=100))
    assert (found.sites, found.measured, found.audited, found.top, found.recall) == (6, 5, 5, 3, 1.0)
    assert found.rho == pytest.approx(1.0)
    assert found.signs == 1.0
    assert found.hidden == pytest.approx(1.0, rel=0.2)
    assert found.unchosen == 4
    assert found.at_most == pytest.approx(1 - 0.05**0.25)
    turned = made_run([-each for each in exact], ["audit"] * 6)
    (found,) = agreement(turned, chosen=Intervals(samples=100))
    assert found.rho == pytest.approx(-1.0)
    assert found.signs == 0.0
    assert (found.top, found.recall) == (3, 1.0)  # strongest by size, whichever the sign
    with pytest.raises(LocateError, match="not made within a budget"):
        agreement(map_trace())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", (90.0, None)),
        ("5min", (300.0, None)),
        ("5 min", (300.0, None)),
        ("1.5h", (5400.0, None)),
        ("20000", (None, 20000)),
        ("20,000", (None, 20000)),
        ("400 patched runs", (None, 400)),
        ("20,000 patched runs", (None, 20000)),
        (" 1 patched run ", (None, 1)),
    ],
)
def test_budgets_are_read(text, expected):
    found = Budget.parsed(text)
    assert (found.seconds, found.passes) == expected


@pytest.mark.parametrize(
    "text",
    ["", "soon", "-5s", "1.5", "5 parsecs", "1,5min", "20,00", "1.5 patched runs", "5min 30s", "5s patched runs"],
)
def test_bad_budgets_are_refused(text):
    with pytest.raises(LocateError, match=re.escape(f"budget {text!r}: expected {budgets.SPELT}")):
        Budget.parsed(text)


def test_every_spelling_that_help_and_error_name_is_read():
    shown = subprocess.run(
        [sys.executable, "-m", "locate", "trace", "--help"], capture_output=True, text=True, check=True,
        env={**os.environ, "COLUMNS": "200"},
    ).stdout  # fmt: skip
    helped = next(line for line in shown.splitlines() if "--budget " in line)
    for text in (budgets.SPELT, helped):
        spelt = re.findall(r"'([^']+)'|\b(\d[\d.]*(?:s|min|h)?)\b", text)
        assert len(spelt) >= 4, text
        for quoted, bare_text in spelt:
            Budget.parsed(quoted or bare_text)


@pytest.mark.parametrize("bad", [{}, {"seconds": 1.0, "passes": 1}, {"passes": 0}, {"passes": 5, "audit": 1.0}])
def test_budgets_of_nothing_are_refused(bad):
    with pytest.raises(LocateError, match="expected"):
        Budget(**bad)


def test_windows_and_own_patches_have_no_budget(gpt2):
    with pytest.raises(LocateError, match="leave windows and severed paths out"):
        trace(gpt2, PROMPTS, Map(("mlp_out",), windows=(1, 2)), budget=Budget(passes=10), controls=None)
    with pytest.raises(LocateError, match="a budget chooses sites of a map: leave patches out"):
        trace(gpt2, PROMPTS, patches=[], budget=Budget(passes=10))
