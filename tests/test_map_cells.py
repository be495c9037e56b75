"""What is behind the cells of a page: averages, pairs and groups, under every setting, packed and unpacked."""

from __future__ import annotations

import base64
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from handmade import GROUPS, both, map_trace, odds, trace_of

from locate import analyse
from locate.report.page import map_data
from locate.report.page.map_cells import (
    absent_words,
    averages_of,
    group_means,
    map_cells,
    packed,
    pair_effects,
    settings_of,
)


def several_tokens():
    """Pairs of which every second has two tokens further on, whose effects differ."""
    rows = []
    for pair, group in enumerate(GROUPS):
        for place in range(2 + pair % 2):
            denoised = odds(-2.0 + 0.1 * pair + place)
            rows += both(
                odds(2.0), odds(-2.0), denoised, odds(1.0), pair=pair, group=group, role="further", clean_pos=3 + place
            )
        rows += both(odds(2.0), odds(-2.0), odds(0.0), odds(0.5), pair=pair, group=group, clean_pos=1)
    return trace_of(rows)


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "odds_ratio"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("quantity", ["nie", "nde"])
def test_pairs_average_to_their_cell_whatever_the_tokens_of_a_role(metric, direction, quantity):
    analysis = analyse(several_tokens(), metric=metric)
    cells = map_cells(analysis)
    found = averages_of(cells, analysis, direction, quantity)
    effects = pair_effects(cells, analysis, direction, quantity)
    assert effects.shape == (len(cells.places) + 1, len(GROUPS))
    np.testing.assert_allclose(np.nanmean(effects[:-1], axis=1), found.table["effect"], rtol=1e-9, atol=1e-12)
    assert np.isfinite(effects).all()
    rows = analysis.average(quantity)
    rows = rows[(rows["direction"] == direction) & (rows["role"] == "further")]
    place = cells.places.index[cells.places["role"] == "further"][0]
    assert found.table.loc[place, ["effect", "low", "high", "q"]].tolist() == pytest.approx(
        rows[["effect", "low", "high", "q"]].iloc[0].tolist()
    )
    totals = analysis.effects[analysis.effects["direction"] == direction].drop_duplicates("pair").set_index("pair")
    np.testing.assert_allclose(effects[-1], totals["total"].reindex(cells.pairs.index), rtol=1e-12)


def test_totals_stand_beside_their_own_pairs():
    rows = []
    for pair, group in enumerate(GROUPS):
        rows += both(odds(0.1 * pair), odds(-2.0), odds(0.0), odds(0.0), pair=pair, group=group)
    analysis = analyse(trace_of(rows))
    totals = pair_effects(map_cells(analysis), analysis, "denoising")[-1]
    assert totals.tolist() == pytest.approx([2.0 + 0.1 * pair for pair in range(len(GROUPS))])


def test_pairs_without_a_role_have_no_effect_there():
    trace = several_tokens()
    lacking = trace.table[~((trace.table["role"] == "further") & (trace.table["pair"] == 3))]
    analysis = analyse(replace(trace, table=lacking))
    cells = map_cells(analysis)
    effects = pair_effects(cells, analysis, "denoising")
    further = cells.places.index[cells.places["role"] == "further"][0]
    assert np.flatnonzero(np.isnan(effects[further])).tolist() == [3]
    assert not np.isnan(effects[-1]).any()


def unpacked(given, columns):
    """As the page's script reads it."""
    numbers = np.frombuffer(base64.b64decode(given["data"]), "<i2").reshape(-1, columns).astype(float)
    values = numbers * np.array(given["step"])[:, None]
    return np.where(numbers == -32768, np.nan, values)


def test_packing_keeps_effects_to_a_thirty_thousandth_of_their_row_and_missing_ones_missing():
    effects = np.array([[1.0, -3.0, np.nan], [1e-6, 2e-6, -1e-7], [0.0, 0.0, np.nan], [np.nan] * 3])
    back = unpacked(packed(effects), 3)
    assert (np.isnan(back) == np.isnan(effects)).all()
    sizes = np.nanmax(np.abs(np.nan_to_num(effects)), axis=1, keepdims=True)
    assert (np.abs(np.nan_to_num(back - effects)) <= sizes / 32767 + 1e-15).all()


def test_a_run_is_shown_in_every_metric_and_view_that_it_has():
    shown = {(each.metric.name, each.view) for each in settings_of(analyse(map_trace()))}
    assert shown == {
        ("logit_diff", "stereotype"), ("logit_diff", "signed"), ("prob_diff", "stereotype"), ("prob_diff", "signed"),
        ("prob_stereotypical", "stereotype"), ("odds_ratio", "stereotype"),
    }  # fmt: skip
    plain = replace(map_trace(), meta=map_trace().meta | {"probabilities": False})
    assert {each.metric.name for each in settings_of(analyse(plain))} == {"logit_diff", "odds_ratio"}
    unknown = map_trace(stereotype=0)
    assert {(each.metric.name, each.view) for each in settings_of(analyse(unknown))} == {
        ("logit_diff", "signed"),
        ("prob_diff", "signed"),
    }


NEUTRAL = "log-odds of the female against the neutral answer, log-odds of the neutral against the male answer"


def test_metrics_that_a_run_lacks_are_told_with_the_reason():
    absent = map_data.map_data(analyse(map_trace()))["absent"]
    assert absent == f"Not to choose from here: {NEUTRAL} (some pairs have no neutral answer of one token)."
    plain = replace(map_trace(), meta=map_trace().meta | {"probabilities": False})
    said = absent_words(settings_of(analyse(plain)))
    assert said.startswith(
        "Not to choose from here: probability of the female minus that of the male answer, probability of the "
        "stereotypical answer (this run kept no probabilities: trace again without --no-probabilities); log-odds"
    )
    said = absent_words(settings_of(analyse(map_trace(stereotype=0))))
    assert said.count("(no pair has a stereotype)") == 1
    assert "stereotypical answer, the stereotype view (no pair has a stereotype)" in said
    trace = map_trace()
    answers = [f"{run}_{name}" for run in ("base", "source", "patched") for name in ("neutral",)]
    whole = replace(trace, table=trace.table.assign(**dict.fromkeys(answers, -1.0)))
    assert absent_words(settings_of(analyse(whole))) == ""


def test_cells_that_are_0_in_every_pair_are_told_from_those_that_were_not_measured():
    trace = map_trace()
    table = trace.table[~((trace.table["layer"] == 2) & (trace.table["component"] == "mlp_out"))]
    analysis = analyse(replace(trace, table=table))
    cells = map_cells(analysis)
    found = averages_of(cells, analysis, "denoising")
    before = cells.places["role"] == "before_subject"
    assert (found.zero == before).all()
    maps = map_data.map_data(analysis)["maps"]
    (outputs,) = (each for each in maps if each["name"] == "MLP output")
    assert outputs["layers"] == [0, 1]


def test_too_many_pairs_are_kept_as_means_of_their_groups(monkeypatch):
    analysis = analyse(map_trace())
    whole = map_data.map_data(analysis)
    monkeypatch.setattr(map_data, "MOST_BYTES", 1000)
    small = map_data.map_data(analysis)
    assert (whole["grouped"], small["grouped"]) == (False, True)
    assert [each["group"] for each in small["pairs"]] == list(GROUPS)
    assert {each["pairs"] for each in small["pairs"]} == {2}
    name = "logit_diff denoising"
    pairs, groups = unpacked(whole["effects"][name], 24), unpacked(small["effects"][name], 12)
    expected = pd.DataFrame(pairs.T).groupby(np.repeat(np.arange(12), 2)).mean().to_numpy().T
    np.testing.assert_allclose(groups, expected, atol=2e-4)
    cells = map_cells(replace(analysis, view="signed"))
    means = group_means(cells, pair_effects(cells, replace(analysis, view="signed"), "denoising"))
    np.testing.assert_allclose(groups, means, atol=2e-4)


def test_so_many_units_that_no_grid_shows_them_are_listed_strongest_first():
    rows = []
    for pair, group in enumerate(GROUPS):
        for unit in range(70):
            size = odds(-2.0 + 0.01 * unit * (-1) ** unit)
            rows += both(odds(2.0), odds(-2.0), size, odds(1.0), pair=pair, group=group, component="neuron", unit=unit)
    found = map_data.map_data(analyse(trace_of(rows)))
    (listed,) = found["maps"]
    assert listed["name"].endswith("the 40 strongest of 70")
    effects = [abs(found["views"][0]["effect"][cell]) for cell in listed["list"]]
    assert effects == sorted(effects, reverse=True)
    assert effects[0] == pytest.approx(0.69, abs=1e-6)
    assert len(found["cells"]) == len(effects) == 40, "the page holds cells that it never shows"
    assert sorted(found["cells"][cell]["site"]["unit"] for cell in listed["list"]) == list(range(30, 70))
    strongest = listed["list"][0]
    assert found["cells"][strongest]["site"]["unit"] == 69
    packed_effects = found["effects"]["logit_diff denoising"]
    row = np.frombuffer(base64.b64decode(packed_effects["data"]), "<i2").reshape(41, -1)[strongest]
    np.testing.assert_allclose(row * packed_effects["step"][strongest], -0.69, atol=1e-4)
