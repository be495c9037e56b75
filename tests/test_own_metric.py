"""A metric of one's own goes through analyse, rank, compare and a report; its numbers are worked out by hand."""

import json

import numpy as np
import pandas as pd
import pytest
from handmade import META, both, odds, trace_of

import locate
from locate.metrics import Metric, difference
from locate.report import write_report

GROUPS = 4
WRITES = {0: 1.0, 1: 3.0}
"""layer -> log-odds towards the stereotype after its MLP's clean output is written into the corrupted run"""
MORE = 0.5


def margin(female, male, stereotype):
    """(p(female) - p(male)) / (p(female) + p(male))."""
    return np.tanh((female - male) / 2)


MARGIN = Metric("margin", "share", margin, difference, signed=True)


def traced(more=0.0):
    """Log-odds 2 towards the stereotype in the clean run, 2 against it in the corrupted one, in every pair."""
    rows = []
    for number in range(GROUPS):
        sign = 1 if number % 2 == 0 else -1
        for layer, size in WRITES.items():
            labels = {"pair": number, "group": f"g{number}", "stereotype": sign, "layer": layer}
            patched = odds((size - 2.0 + more) * sign), odds((2.0 - size) * sign)
            rows += both(odds(2.0 * sign), odds(-2.0 * sign), *patched, **labels)
    weights = {"weights_sha256": ("w" if more == 0.0 else "v") * 64}
    return trace_of(rows, recipe=META["recipe"] | weights, model=META["model"] | weights)


def effect_of(size):
    """Of a patch that moves the log-odds from -2 by so much; the margin of log-odds x is tanh(x / 2)."""
    return np.tanh((size - 2.0) / 2) + np.tanh(1.0)


TOTAL = 2 * np.tanh(1.0)


@pytest.fixture(scope="module")
def analysis():
    return locate.analyse(traced(), metric=MARGIN, samples=100)


def test_effects_and_averages_are_those_of_the_metric(analysis):
    effects = analysis.effects[analysis.effects["direction"] == "denoising"]
    assert len(effects) == GROUPS * len(WRITES)
    assert set(effects["metric"]) == {"margin"}
    assert effects["total"].tolist() == pytest.approx([TOTAL] * len(effects))
    for layer, size in WRITES.items():
        assert effects.loc[effects["layer"] == layer, "nie"].tolist() == pytest.approx([effect_of(size)] * GROUPS)
    table = analysis.averages[analysis.averages["direction"] == "denoising"]
    of = table.set_index(["quantity", "layer"])["effect"]
    assert of["nie"].to_dict() == pytest.approx({layer: effect_of(size) for layer, size in WRITES.items()})
    assert of["total"].to_dict() == pytest.approx(dict.fromkeys(WRITES, TOTAL))
    assert of["nie / total"].to_dict() == pytest.approx(
        {layer: effect_of(size) / TOTAL for layer, size in WRITES.items()}
    )
    # the noised run of a layer holds the clean run's log-odds at 2 - size: nde = tanh((2 - size) / 2) + tanh(1)
    held = {layer: np.tanh((2.0 - size) / 2) + np.tanh(1.0) for layer, size in WRITES.items()}
    assert of["nde"].to_dict() == pytest.approx(held)


def test_the_signed_view_is_female_minus_male():
    signed = locate.analyse(traced(), metric=MARGIN, view="signed", samples=100).effects
    here = signed[(signed["direction"] == "denoising") & (signed["layer"] == 1)].sort_values("pair")
    assert here["nie"].tolist() == pytest.approx([effect_of(3.0), -effect_of(3.0)] * 2)


def test_sites_are_ranked_by_it(analysis):
    found = locate.rank(traced(), metric=MARGIN, samples=100)
    assert found == analysis.located
    assert (found.metric, found.unit, found.positive) == ("margin", "share", "towards the stereotype")
    assert [(site.layer, site.effect) for site in found.sites] == [
        (1, pytest.approx(effect_of(3.0))),
        (0, pytest.approx(effect_of(1.0))),
    ]
    assert found.total == pytest.approx((TOTAL, TOTAL, TOTAL))


def test_two_models_are_compared_by_it(analysis):
    found = locate.compare(traced(), traced(MORE), metric=MARGIN, samples=100, direction="denoising")
    assert (found.metric, found.unit) == ("margin", "share")
    wanted = {layer: effect_of(size + MORE) - effect_of(size) for layer, size in WRITES.items()}
    assert {site.layer: site.change[0] for site in found.sites} == pytest.approx(wanted)
    assert {site.layer: site.a[0] for site in found.sites} == pytest.approx(
        {layer: effect_of(size) for layer, size in WRITES.items()}
    )
    again = locate.compare(analysis, locate.analyse(traced(MORE), metric=MARGIN, samples=100), direction="denoising")
    assert again.sites == found.sites
    other = Metric("margin of mine", "share", margin, difference, signed=True)
    with pytest.raises(locate.LocateError, match=r"^metric .* in A, .* in B: analyse both under the same settings$"):
        locate.compare(analysis, locate.analyse(traced(MORE), metric=other, samples=100))


def test_a_report_tells_it(analysis, tmp_path):
    write_report(analysis, tmp_path, formats=[])
    table = pd.read_csv(tmp_path / "effects.csv")
    assert set(table["metric"]) == {"margin"}
    assert set(table["unit_of_effect"]) == {"share", "share of the total effect"}
    kept = table[(table["quantity"] == "nie") & (table["direction"] == "denoising")].set_index("layer")["effect"]
    assert kept.to_dict() == pytest.approx({layer: effect_of(size) for layer, size in WRITES.items()}, rel=1e-5)
    found = json.loads((tmp_path / "located.json").read_text())
    assert (found["metric"], found["unit"]) == ("margin", "share")
    assert locate.load_located(tmp_path / "located.json").sites == analysis.located.sites
    page = (tmp_path / "report.html").read_text()
    assert "margin" in page
