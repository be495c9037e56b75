"""Stereotype against definition: worked out by hand, covered in simulation, and found where it was planted."""

import numpy as np
import pandas as pd
import pytest
from handmade import GROUPS, both, map_trace, odds, trace_of
from test_resampling import SHAPES, made

from locate import LocateError, average, effects, load, selectivity, trace
from locate.planted import drawn, plant
from locate.planted.build import GENDERED
from locate.prompts import Prompts, templates
from locate.prompts.build import filled
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
    rows = selectivity(effects(two_kinds(sizes), kind="all"), **options)
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
    assert rows.attrs["undefined"] == (rows["layer"] > 0).sum()
    assert rows.attrs["untraced"] == 0


def test_a_site_that_one_kind_lacks_is_kept_and_counted():
    trace = two_kinds([(1.0, 1.0), (1.0, 1.0)])
    lacking = (trace.table["kind"] == "definition") & (trace.table["layer"] == 1)
    rows = selectivity(effects(trace_of(trace.table[~lacking].to_dict("records")), kind="all")).set_index("layer")
    assert rows.loc[1, "selectivity"].isna().all()
    assert (rows.loc[1, "definition_n"] == 0).all()
    assert rows.loc[0, "selectivity"].notna().all()
    assert rows.attrs["untraced"] == 2


def test_the_whole_prompts_selectivity_stands_beside_it():
    """Totals of 4 for both kinds."""
    rows = selectivity(effects(two_kinds([(1.0, 0.0)]), kind="all"))
    value, low, high = rows.attrs["total"]["denoising"]
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
    every = pd.concat(parts)
    every.attrs = parts[0].attrs
    return every


@pytest.mark.parametrize("shape", ["normal", "exponential"])
@pytest.mark.parametrize(("s", "d"), [(1.0, 1.0), (2.0, 0.5), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.7)])
def test_intervals_cover(s, d, shape):
    """At the ends too, where an interval of the value itself could not."""
    truth = (s**2 - d**2) / (s**2 + d**2)
    rows = selectivity(simulated(s, d, shape), samples=500, threshold=1.0)
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
    every = pd.concat(parts)
    every.attrs = parts[0].attrs
    return every


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
    planted = plant(tmp_path / "model", drawn(3, "gpt2"), occupations=12, templates_each=1)
    forms = templates()[:4]
    words = Prompts(tuple(
        filled(form, word, other, f"{word} {number}", "definition", GENDERED[word], None)
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
