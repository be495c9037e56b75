"""An Analysis derives each part once; a report asks it for everything and derives nothing itself."""

import re
import sys
from collections import Counter
from dataclasses import replace
from functools import wraps
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import GROUPS, both, map_trace, odds, trace_of
from shown import read

import locate
from locate import Analysis, LocateError
from locate.mediation import analysis as rooms
from locate.mediation.controls import LOCATED, SETS
from locate.metrics import Metric, difference
from locate.report import write_report

WORDS = ("actress", "actor", "mother", "father", "queen", "king", "aunt", "uncle", "sister", "brother")
SURFACE = (
    "load", "load_causal", "occupation_pairs", "read_pairs", "trace", "load_trace", "analyse", "rank",
    "load_located", "estimate", "edit", "save_edited", "evaluate", "compare", "Pair", "Prompts", "Site",
    "Patch", "Map", "Swap", "Noise", "Budget", "Controls", "DPO", "SFT", "Sets", "Trace", "Analysis", "Located", "LSDM",
    "FAST", "LocateError", "explore", "plot",
)  # fmt: skip
DERIVED = (
    "effects", "terms_of", "average", "normalised", "rank_sites", "stability", "control_table", "set_test",
    "selectivity", "total_selectivity", "gender_regression", "resample_shares", "pair_log_odds",
)  # fmt: skip
PARTS = (
    "effects", "averages", "located", "controls", "set_test", "sets", "areas", "selectivity", "regression", "log_odds",
    "stability",
)  # fmt: skip


def sets_of(names, circuit=False):
    """Rows of joint effects of named sets, four groups each."""
    rows = []
    for name, size in names.items():
        for number in range(4):
            labels = {"pair": number, "group": f"g{number}", "stereotype": 1, "name": name}
            patched = odds(-2.0 + size + 0.01 * number), odds(-2.0 + size)
            way = slice(1, 2) if circuit else slice(0, 1)
            rows += both(odds(2.0), odds(-2.0), *patched, **labels)[way]
    return rows


@pytest.fixture(scope="module")
def trace():
    """Occupations and words that say their gender, with a control, random sets, and sets of sites."""
    occupations = map_trace(components=("mlp_out", "attn_out"), layers=2)
    words = map_trace(
        lambda component, layer, role, group: 0.4 + 0.01 * group + 0.1 * layer,
        components=("mlp_out", "attn_out"), layers=2, groups=WORDS, kind="definition",
    )  # fmt: skip
    words.table["pair"] += len(occupations.table["pair"].unique())
    table = trace_of([*occupations.table.to_dict("records"), *words.table.to_dict("records")]).table
    shuffled = occupations.table[(occupations.table["component"] == "mlp_out") & (occupations.table["layer"] == 0)]
    shuffled = shuffled[shuffled["role"] == "subject_last"].assign(control="shuffled source")
    random = trace_of(sets_of({LOCATED: 3.0, "random 0": 1.0, "random 1": 0.5})).table.assign(control=SETS)
    sets = trace_of(sets_of({"top 1": 2.0}) + sets_of({"circuit 0": 0.1, "circuit 1": 3.0}, circuit=True)).table
    site = {"component": "mlp_out", "layer": 0, "role": "subject_last", "unit": None}
    about = {"component": "mlp_out", "role": "subject_last", "direction": "denoising", "sites": [site], "sets": 2}
    counted = {"kept": int(table["pair"].nunique())}
    return replace(
        occupations,
        table=table,
        controls=trace_of([*shuffled.to_dict("records"), *random.to_dict("records")]).table.assign(
            control=["shuffled source"] * len(shuffled) + [SETS] * len(random)
        ),
        sets=sets,
        meta=occupations.meta
        | {
            "rows": len(table),
            "ledger": occupations.meta["ledger"] | counted,
            "controls": {"random_sets": about},
            "sets": {"sites": 12},
        },
    )


@pytest.fixture
def calls(monkeypatch):
    """How often each function that derives something was called with what, from the analysis or from the report."""
    found = Counter()

    def counted(name, function):
        @wraps(function)
        def call(*arguments, **settings):
            given = (*arguments, *settings.values())
            words = [each for each in given if isinstance(each, str)]
            words += [each.name for each in given if isinstance(each, Metric)]
            tables = [
                each for each in given if isinstance(each, pd.DataFrame) and {"metric", "view"} <= {*each.columns}
            ]
            words += [f"{each['metric'].iloc[0]} {each['view'].iloc[0]}" for each in tables]
            found[name, *words] += 1
            return function(*arguments, **settings)

        return call

    everywhere = [each for name, each in sys.modules.items() if name.startswith("locate.report")]
    for name in DERIVED:
        original = getattr(rooms, name)
        for module in (rooms, *everywhere):
            if getattr(module, name, None) is original:
                monkeypatch.setattr(module, name, counted(name, original))
    return found


def test_a_whole_report_derives_each_part_once(trace, calls, tmp_path):
    report = write_report(trace, tmp_path, formats=["html"])
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names >= {"effects.csv", "located.json", "report.html", "controls.csv", "sets.csv", "selectivity.csv"}
    assert names >= {"regression.csv", "map_denoising.html", "controls_denoising.html", "sets.html", "pair.html"}
    assert report.located.set_test.sets == 2
    assert {name for name, *_ in calls} == set(DERIVED)
    assert {key: n for key, n in calls.items() if n > 1} == {}
    assert {tuple(words) for name, *words in calls if name == "effects" and "logit_diff" in words} == {
        ("stereotype", "occupation", "logit_diff"),
        ("stereotype", "all", "logit_diff"),
        ("signed", "all", "logit_diff"),
        ("signed", "occupation", "logit_diff"),  # of the page, which can switch the view
    }


def test_parts_asked_twice_are_the_same_object(trace):
    analysis = locate.analyse(trace, samples=100)
    for name in PARTS:
        part = getattr(analysis, name)
        assert part is not None, name
        assert getattr(analysis, name) is part, name
    assert analysis.average("total") is analysis.average("total") is not analysis.average("nie")
    assert analysis.rank() is analysis.located
    assert analysis.rank(top=1) is analysis.rank(top=1) is not analysis.located
    assert analysis.agreement == ()


def test_a_part_is_derived_when_it_is_first_asked_for(trace, calls):
    analysis = locate.analyse(trace, samples=100)
    assert not calls
    assert len(analysis.effects) > 0
    assert {name: n for (name, *_), n in calls.items()} == {"effects": 1}


def test_an_analysis_is_given_back_and_takes_no_settings(trace):
    analysis = locate.analyse(trace, seed=3, samples=100)
    assert locate.analyse(analysis) is analysis
    own = Metric("own", "nats", lambda female, male, stereotype: female - male, difference, signed=True)
    for settings in ({"metric": own}, {"metric": "prob_diff"}, {"view": "signed"}, {"kind": "all"}, {"level": 0.9},
                     {"clusters": "group+template"}, {"samples": 200}, {"seed": 1}):  # fmt: skip
        with pytest.raises(LocateError, match="has its settings already"):
            locate.analyse(analysis, **settings)
    with pytest.raises(LocateError, match="has its settings already"):
        locate.rank(analysis, metric="prob_diff")


def test_settings_reach_every_part(trace):
    wide, narrow = (locate.analyse(trace, level=level, samples=200, seed=1) for level in (0.99, 0.5))
    for name in ("averages", "controls", "sets", "selectivity", "regression"):
        one, other = (getattr(each, name) for each in (wide, narrow))
        widths = [(each["high"] - each["low"]).fillna(0.0) for each in (one, other)]
        assert (widths[0] >= widths[1] - 1e-9).all(), name
        assert (widths[0] > widths[1]).any(), name
    assert wide.located.level == 0.99
    assert wide.located.total[0] == pytest.approx(4.0) == narrow.located.total[0]


def test_a_notebook_shows_what_was_located_and_the_evidence(trace):
    analysis = locate.analyse(trace, samples=100)
    shown, located = read(analysis), analysis.located
    html = analysis._repr_html_()
    assert html.startswith(located._repr_html_())
    for part in (analysis.set_test, analysis.areas, analysis.overlap):
        assert part._repr_html_() in html
    assert "Total effect +4.00 [+4.00, +4.00] nats" in shown.sentences[0]
    assert [row["selectivity"] for row in shown.tables[0]] == [each.selectivity.text() for each in located.sites[:10]]
    plain = locate.analyse(replace(map_trace(layers=1), controls=None), samples=100)
    assert plain._repr_html_() == plain.located._repr_html_()
    assert "<script>" not in replace(analysis, trace=named(trace, "<script>"))._repr_html_()


def named(trace, name):
    return replace(trace, meta=trace.meta | {"model": trace.meta["model"] | {"name": name}})


def test_the_surface_is_as_documented():
    assert len(SURFACE) == 34
    assert set(locate.__all__) == set(SURFACE) == set(dir(locate))
    assert locate.Analysis is Analysis
    for name in (*locate.__all__, *(f"plot.{each}" for each in locate.plot.__all__)):
        found = locate
        for part in name.split("."):
            found = getattr(found, part)
        assert found.__doc__, name
    with pytest.raises(AttributeError, match="no attribute 'average'"):
        _ = locate.average


def test_no_table_carries_meaning_out_of_sight():
    root = Path(locate.__file__).parent
    files = [*root.rglob("*.py"), *(Path(__file__).parents[1] / "experiments").rglob("*.py")]
    assert len(files) > 100
    assert [str(path) for path in files if re.search(r"\.attrs\b", path.read_text())] == []


def test_no_part_carries_attributes(trace):
    analysis = locate.analyse(trace, samples=100)
    tables = [getattr(analysis, name) for name in PARTS]
    tables = [each for each in tables if isinstance(each, pd.DataFrame)]
    assert len(tables) >= 7
    assert [each.attrs for each in tables] == [{}] * len(tables)
    assert np.isfinite(analysis.average()["effect"]).all()
    assert set(GROUPS) < set(trace.table["group"].astype(str))
