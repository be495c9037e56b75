"""Stereotype against definition: worked out by hand, covered in simulation, and found where it was planted."""

import json
import re

import numpy as np
import pandas as pd
import pytest
from handmade import GROUPS, both, map_trace, odds, trace_of
from test_report import caption, labels, marked
from test_resampling import SHAPES, made

from locate import LocateError, analyse, load, load_located, rank, trace
from locate.mediation import average, effects, gender_scores, selectivity
from locate.mediation.resampling import Intervals
from locate.mediation.selectivity_table import NEITHER, UNTRACED, total_selectivity
from locate.planted import draw_plan, plant
from locate.planted.build import GENDERED
from locate.prompts import Prompts, templates
from locate.prompts.build import fill_template
from locate.report import write_report
from locate.report.figures import plot_map
from locate.report.selectivity import comparison_figures, plot_regression, plot_selectivity
from locate.sites import DIRECTIONS
from locate.tracing.plan import Map

MAP = Map(components=("mlp_out", "head"), roles=("subject_last", "last"))
WORDS = ("king", "queen", "mother", "father", "actress", "actor", "aunt", "uncle", "bride", "monk", "nun", "wife")


def two_kinds(sizes, spread=0.02, words=WORDS, jobs=GROUPS):
    """A trace in which a site (layer) has these effects (stereotype, definition), a little different by group."""
    rows = []
    for kind, names in ((0, jobs), (1, words)):
        for number, group in enumerate(names):
            for layer, each in enumerate(sizes):
                size = each[kind] * (1 + spread * (number - (len(names) - 1) / 2))
                rows += both(
                    odds(2.0), odds(-2.0), odds(size - 2), odds(2 - size), pair=number + 100 * kind, group=group,
                    kind=("occupation", "definition")[kind], layer=layer,
                )  # fmt: skip
    return trace_of(rows)


def found(sizes, **options):
    """Selectivity under denoising, by layer."""
    rows = selectivity(effects(two_kinds(sizes), kind="all"), chosen=Intervals(**options))
    return rows[rows["direction"] == "denoising"].set_index("layer").sort_index()


def test_selectivity_is_one_zero_and_minus_one_where_it_should_be():
    rows = found([(1.0, 0.0), (0.0, 2.0), (1.5, 1.5), (2.0, 1.0), (-2.0, 1.0), (0.5, 1.0)])
    assert rows["selectivity"].tolist() == pytest.approx([1, -1, 0, 0.6, 0.6, -0.6])
    assert rows["stereotype"].tolist() == pytest.approx([1.0, 0.0, 1.5, 2.0, -2.0, 0.5])
    assert rows["definition"].tolist() == pytest.approx([0.0, 2.0, 1.5, 1.0, 1.0, 1.0])
    assert (rows["low"] <= rows["selectivity"] + 1e-9).all()
    assert (rows["selectivity"] <= rows["high"] + 1e-9).all()
    assert (rows["high"] - rows["low"] < 0.25).all()
    assert (rows[["stereotype_n", "definition_groups"]] == 12).all(axis=None)


def test_effects_of_each_kind_are_those_averaged_alone():
    every = effects(two_kinds([(1.0, 2.0), (3.0, 0.5)]), kind="all")
    site = ["direction", "layer"]
    rows = selectivity(every).set_index(site).sort_index()
    for name, kind in (("stereotype", "occupation"), ("definition", "definition")):
        alone = average(effects(two_kinds([(1.0, 2.0), (3.0, 0.5)]), kind=kind)).set_index(site).sort_index()
        np.testing.assert_array_equal(rows[name], alone["effect"])
        for each in ("low", "high", "q", "n", "groups"):
            np.testing.assert_array_equal(rows[f"{name}_{each}"], alone[each])


def test_where_neither_is_there_it_is_undefined_and_counted():
    """Effects that change their sign from group to group: 0/0 would be made of noise."""
    trace = map_trace(lambda component, layer, role, group: (-1.0) ** group if layer else 1.0, components=("mlp_out",))
    words = trace.table.assign(kind="definition", group=trace.table["group"].astype(str) + "ess")
    words["pair"] += 1000
    both_kinds = trace_of(pd.concat([trace.table, words]).to_dict("records"))
    rows = selectivity(effects(both_kinds, kind="all"))
    assert rows.loc[rows["layer"] == 0, "selectivity"].tolist() == pytest.approx([0.0] * len(rows[rows["layer"] == 0]))
    assert rows.loc[rows["layer"] > 0, ["selectivity", "low", "high"]].isna().all(axis=None)
    assert (rows["why_undefined"] == NEITHER).sum() == (rows["layer"] > 0).sum()
    assert not (rows["why_undefined"] == UNTRACED).any()


def test_a_site_that_one_kind_lacks_is_kept_and_counted():
    trace = two_kinds([(1.0, 1.0), (1.0, 1.0)])
    lacking = (trace.table["kind"] == "definition") & (trace.table["layer"] == 1)
    rows = selectivity(effects(trace_of(trace.table[~lacking].to_dict("records")), kind="all")).set_index("layer")
    assert rows.loc[1, "selectivity"].isna().all()
    assert (rows.loc[1, "definition_n"] == 0).all()
    assert rows.loc[0, "selectivity"].notna().all()
    assert (rows["why_undefined"] == UNTRACED).sum() == 2


def test_the_whole_prompts_selectivity_stands_beside_it():
    """Totals of 4 for both kinds."""
    value, low, high = total_selectivity(effects(two_kinds([(1.0, 0.0)]), kind="all"))["denoising"]
    assert value == pytest.approx(0.0)
    assert low <= value <= high


def simulated(s, d, shape, groups=(16, 12), cells=300, seed=2):
    """Effects of two kinds around s and d, every layer a table of its own."""
    rng = np.random.default_rng(seed)
    parts = []
    for turn, (mean, count) in enumerate(zip((s, d), groups, strict=True)):
        group = np.repeat(np.arange(count), 3)
        values = SHAPES[shape](rng, (count, cells))[group] + 0.5 * rng.normal(size=(len(group), cells))
        names = np.array([f"{turn}-{number}" for number in range(count)])[group]
        part = made(mean + values, names, kind=("occupation", "definition")[turn])
        parts.append(part.assign(pair=part["pair"] + 1000 * turn))
    return pd.concat(parts)


@pytest.mark.parametrize("shape", ["normal", "exponential"])
@pytest.mark.parametrize(("s", "d"), [(1.0, 1.0), (2.0, 0.5), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.7)])
def test_intervals_cover(s, d, shape):
    """At the ends too, where an interval of the value itself could not."""
    truth = (s**2 - d**2) / (s**2 + d**2)
    rows = selectivity(simulated(s, d, shape), threshold=1.0, chosen=Intervals(samples=500))
    covered = (rows["low"] <= truth + 1e-9) & (rows["high"] >= truth - 1e-9)
    assert 0.88 <= covered.mean() <= 0.995
    assert (rows["high"] - rows["low"]).median() < 1.9


def test_interval_holds_the_angles_that_the_data_do_not_contradict():
    """Fieller's set by a search over angles, with Student's t where groups are few."""
    from scipy.stats import t

    rng = np.random.default_rng(0)
    for s, d in ((1.0, 0.2), (0.3, 1.0), (-0.8, 0.8), (0.1, 0.1)):
        values = [mean + 0.5 * rng.normal(size=6) for mean in (s, d)]
        every = two_kind_table(values)
        (row,) = selectivity(every, threshold=1.0).to_dict("records")
        means, errors = [each.mean() for each in values], [each.std(ddof=1) / np.sqrt(6) for each in values]
        angle = np.linspace(0, np.pi, 40001)
        across = np.abs(means[0] * np.sin(angle) - means[1] * np.cos(angle))
        error = np.sqrt((errors[0] * np.sin(angle)) ** 2 + (errors[1] * np.cos(angle)) ** 2)
        kept = np.cos(2 * angle[across <= t.ppf(0.975, 5) * error])
        assert (row["low"], row["high"]) == pytest.approx((kept.min(), kept.max()), abs=1e-3)


def two_kind_table(values):
    """Effects of one site from one value a group, of two kinds."""
    parts = [
        made(each[:, None], [f"{turn}-{number}" for number in range(len(each))],
             kind=("occupation", "definition")[turn]).assign(pair=np.arange(len(each)) + 100 * turn)
        for turn, each in enumerate(values)
    ]  # fmt: skip
    return pd.concat(parts)


def test_kinds_are_resampled_apart():
    """A steady definition and an unsteady stereotype: the order of words in the other kind changes nothing."""
    rng = np.random.default_rng(4)
    s, d = 1 + rng.normal(size=14), 1 + rng.normal(size=14)
    straight, turned = (selectivity(two_kind_table([s, each]), threshold=1.0) for each in (d, d[::-1]))
    assert straight["selectivity"].tolist() == pytest.approx(turned["selectivity"].tolist())
    assert straight["low"].tolist() == pytest.approx(turned["low"].tolist(), abs=0.15)
    assert straight["low"].tolist() != turned["low"].tolist()


def test_one_kind_alone_or_the_signed_view_is_refused():
    whole = two_kinds([(1.0, 1.0)])
    with pytest.raises(LocateError, match="the effects hold kind occupation and no 'definition'"):
        selectivity(effects(whole))
    with pytest.raises(LocateError, match="effects in view 'signed': expected 'stereotype'"):
        selectivity(effects(whole, view="signed", kind="all"))


def test_planted_paths_are_told_apart(tmp_path):
    """+1 at the stereotype's MLP and head, -1 at those of the definition."""
    planted = plant(tmp_path / "model", draw_plan(3, "gpt2"), occupations=12, templates_each=1)
    forms = templates()[:4]
    words = Prompts(tuple(
        fill_template(form, word, other, f"{word} {number}", "definition", GENDERED[word], None)
        for word, other in (("man", "woman"), ("woman", "man"))
        for number, form in enumerate(forms)
    ))  # fmt: skip
    model = load(str(planted.folder), device="cpu")
    run = trace(model, planted.prompts + words, MAP, directions=("denoising",), probabilities=False)
    rows = selectivity(effects(run, kind="all")).set_index(["component", "layer", "unit", "role"])
    stereotype, definition = planted.plan.paths[:2]
    assert definition.feature == "definition"
    for path, sign in ((stereotype, 1), (definition, -1)):
        for place in (("mlp_out", path.mlp_layer, -1, "subject_last"), ("head", path.head_layer, path.head, "last")):
            row = rows.loc[place]
            assert sign * row["selectivity"] > 0.95
            assert max(row["low"] * sign, row["high"] * sign) > 0.97
            assert min(row["low"] * sign, row["high"] * sign) > 0.8


PATHS = ((1.0, 0.1), (0.1, 1.0), (0.8, 0.8))


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """The run folder of a trace of both kinds."""
    folder = tmp_path_factory.mktemp("both")
    return folder, write_report(two_kinds(PATHS), folder, formats=["html"])


def test_a_report_of_both_kinds_speaks_of_occupations_alone(told):
    """effects.csv, located.json and the captions; never of the mixture."""
    folder, report = told
    table = pd.read_csv(folder / "effects.csv")
    rows = table[(table["quantity"] == "nie") & (table["direction"] == "denoising")].set_index("layer")
    assert rows["effect"].tolist() == pytest.approx([1.0, 0.1, 0.8])
    assert (rows[["n", "groups"]] == 12).all(axis=None)
    assert report.located.kind == "occupation"
    assert "n = 12 occupation pairs of 12 groups" in caption(plot_map(analyse(two_kinds(PATHS))))
    assert rank(two_kinds(PATHS), kind="definition").sites[0].layer == 1
    drawn = {path.name for path in (folder / "figures").iterdir()}
    assert drawn >= {"selectivity_denoising.html", "selectivity_noising.html", "map_denoising.html"}


def test_located_carries_selectivity_and_keeps_it(told):
    folder, report = told
    sites = {site.layer: site for site in load_located(folder).sites}
    assert load_located(folder) == report.located
    truth = [(s**2 - d**2) / (s**2 + d**2) for s, d in PATHS]
    assert [sites[layer].selectivity.value for layer in range(3)] == pytest.approx(truth)
    assert [sites[layer].selectivity.definition for layer in range(3)] == pytest.approx([0.1, 1.0, 0.8])
    assert all(site.selectivity.low <= site.selectivity.value <= site.selectivity.high for site in sites.values())
    assert (sites[0].selectivity.n, sites[0].selectivity.groups) == (12, 12)
    html = (folder / "report.html").read_text()
    assert re.search(r'<th scope="col"[^>]*>selectivity</th>', html)
    assert f">{sites[0].selectivity.text()}</td>" in html


def test_selectivity_csv_is_the_table_with_its_unit(told):
    table = pd.read_csv(told[0] / "selectivity.csv", keep_default_na=False, na_values=[""])
    assert set(table["unit_of_effect"]) == {"nats"}
    expected = selectivity(effects(two_kinds(PATHS), kind="all"))
    assert table["selectivity"].tolist() == pytest.approx(expected["selectivity"].tolist(), rel=1e-4)


def test_without_definitional_words_there_is_no_selectivity(tmp_path):
    found = rank(map_trace(layers=1))
    assert not found.selective
    assert "selectivity" not in found._repr_html_()
    assert load_located(found.save(tmp_path / "located.json")) == found
    assert json.loads((tmp_path / "located.json").read_text())["sites"][0]["selectivity"] is None


def test_an_undefined_selectivity_is_said_and_kept(tmp_path):
    """Of two layers one has effects that change their sign from group to group, in both kinds."""
    trace = two_kinds([(1.0, 1.0), (1.0, 1.0)])
    odd = (trace.table["layer"] == 1) & (trace.table["pair"] % 2 == 1)
    for answer in ("female", "male"):
        trace.table[f"patched_{answer}"] = trace.table[f"patched_{answer}"].mask(
            odd, 2 * trace.table[f"base_{answer}"] - trace.table[f"patched_{answer}"]
        )
    found = rank(trace)
    by_layer = {site.layer: site.selectivity for site in found.sites}
    assert by_layer[1].value is None
    assert by_layer[1].text() == "undefined"
    assert by_layer[0].value == pytest.approx(0, abs=1e-9)
    assert load_located(found.save(tmp_path / "located.json")) == found


def test_few_groups_say_what_they_do_not_allow():
    few = rank(map_trace(layers=1, groups=GROUPS[:4]))
    assert few.smallest_q == 0.125
    assert not few.sound
    assert few.limits() == [
        "so few groups allow no q below 0.12: no site can pass 0.05",
        "fewer than 12 groups: intervals may cover less than 95%",
    ]
    assert min(site.q for site in few.sites) >= 0.125
    assert rank(map_trace(layers=1)).limits() == []


def test_q_is_the_same_in_effects_csv_and_located_json(told):
    folder, report = told
    table = pd.read_csv(folder / "effects.csv")
    rows = table[(table["quantity"] == "nie") & (table["direction"] == "denoising")].set_index("layer")["q"]
    assert {site.layer: site.q for site in report.located.sites} == pytest.approx(rows.to_dict(), rel=1e-4)


def test_the_map_of_selectivity_shows_each_site_where_it_is():
    analysis = analyse(two_kinds(PATHS))
    figure = plot_selectivity(analysis, direction="denoising")
    (panel,) = [each for each in figure.data if each.coloraxis == "coloraxis"]
    assert labels(figure) == ["<b>last token of the occupation</b>"]
    assert np.array(panel.z)[:, 0] == pytest.approx([(s**2 - d**2) / (s**2 + d**2) for s, d in PATHS])
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-1, 1)
    text = caption(figure)
    assert "n = 12 pairs of 12 occupations and 12 pairs of 12 words; hatched: neither effect has q ≤ 0.05" in text
    assert analysis.total_selectivity["denoising"] == pytest.approx((0, 0, 0), abs=0.005)
    assert "whole prompt 0.00 [0.00, 0.00] (95%)" in text
    table = analysis.selectivity
    undefined = analyse(two_kinds(PATHS))
    undefined.__dict__["selectivity"] = table.assign(
        selectivity=np.where(table["layer"] == 1, np.nan, table["selectivity"])
    )
    drawn = plot_selectivity(undefined)
    assert marked(drawn, "hatching")[0][:, 0].tolist() == [False, True, False]
    told = next(each for each in drawn.data if each.name == "empty").hovertext[1][0]
    assert told.split("<br>")[1] == "neither effect has q ≤ 0.05"
    assert told.split("<br>")[2].startswith("stereotype ")
    with pytest.raises(LocateError, match="no cells of direction 'up'"):
        plot_selectivity(analysis, direction="up")
    with pytest.raises(LocateError, match="only one kind of words was traced"):
        plot_selectivity(analyse(map_trace(layers=1)))


def test_lines_of_the_regression_are_its_coefficients():
    words = [*gender_scores()["word"][:14], "king", "queen", "actress", "actor", "mother", "father"]
    table = gender_scores().set_index("word")
    rows = []
    for pair, word in enumerate(words):
        for layer, (stereotypical, factual) in enumerate([(0.5, 3.0), (-1.0, 0.25)]):
            size = stereotypical * table.loc[word, "stereotypical"] + factual * table.loc[word, "factual"]
            kind = "definition" if pair >= 14 else "occupation"
            sign = int(np.sign(table.loc[word].sum())) or 1
            rows += both(
                odds(size), odds(0.0), odds(size), odds(0.0), pair=pair, group=word, kind=kind, layer=layer,
                stereotype=sign,
            )  # fmt: skip
    trace = trace_of(rows)
    analysis = analyse(trace, samples=200)
    figure = plot_regression(analysis)
    lines = {each.name: list(each.y) for each in figure.data if each.mode == "lines+markers"}
    assert lines["stereotypical score"] == pytest.approx([0.5, -1.0], abs=1e-6)
    assert lines["factual score"] == pytest.approx([3.0, 0.25], abs=1e-6)
    assert "n = 20 words" in caption(figure)
    assert set(comparison_figures(analysis)) == {
        f"{name}_{direction}" for name in ("selectivity", "regression_subject_last") for direction in DIRECTIONS
    }
    relative = analyse(trace, metric="odds_ratio", samples=200)
    assert relative.regression is None
    assert relative.selectivity is not None
    with pytest.raises(LocateError, match="at role 'last' to draw"):
        plot_regression(analysis, role="last")


def test_kinds_without_a_stereotype_are_not_compared(tmp_path):
    trace = two_kinds(PATHS)
    trace.table["stereotype"] = 0
    assert not write_report(trace, tmp_path, formats=[]).located.selective


def test_one_definitional_word_alone_does_not_stop_the_report(tmp_path):
    """Of a single word there is no interval: nothing is compared, and occupations are reported as ever."""
    report = write_report(two_kinds(PATHS, words=("king",)), tmp_path, formats=[])
    assert not report.located.selective
    assert report.located.sites[0].n == 12
    assert not (tmp_path / "selectivity.csv").exists()
