"""Averages and their intervals: whole groups are resampled, and a second, plain implementation agrees."""

import bare
import numpy as np
import pandas as pd
import pytest
from handmade import map_trace
from scipy.stats import kstest, norm, t

from locate import LocateError, analyse, occupation_pairs
from locate.mediation import average, effects, normalised, stability
from locate.mediation.averages import among_largest
from locate.mediation.effect_table import terms_of
from locate.mediation.resampling import Intervals

SITE = {"component": "mlp_out", "layer": 0, "unit": -1, "window": 1, "severed": "", "origin": "source"}
SITE |= {"role": "subject_last", "key": "", "name": ""}
ABOUT = {"metric": "logit_diff", "view": "stereotype", "rounding": 0.0}


def table(rows):
    """Effects with what is not given taken from one site; a row without a pair number is a pair of its own."""
    return pd.DataFrame(
        [
            {"direction": "denoising", "pair": pair, "total": 1.0, "nde": 0.0} | SITE | ABOUT | row
            for pair, row in enumerate(rows)
        ]
    )


def of_groups(values, **labels):
    """Effects from a list of values for each group."""
    return table(
        [{"group": f"g{number}", "nie": value} | labels for number, each in enumerate(values) for value in each]
    )


def one(averages):
    """The one row of averages of one cell."""
    (found,) = averages.to_dict("records")
    return found


def ratio(draw, values):
    """Mean over the rows of drawn groups, and its standard error robust to groups."""
    rows = [value for each in draw for value in values[each]]
    mean = sum(rows) / len(rows)
    rest = [sum(value - mean for value in values[each]) for each in draw]
    groups = len(values)
    return mean, np.sqrt(groups / (groups - 1) * sum(each**2 for each in rest)) / len(rows)


def jackknife(values):
    """Standard error of the mean over rows from leaving out one group after the other."""
    groups = range(len(values))
    mean = ratio(groups, values)[0]
    left = [ratio([other for other in groups if other != each], values)[0] - mean for each in groups]
    return np.sqrt((len(values) - 1) / len(values) * sum(each**2 for each in left))


def plain_interval(values, samples, seed, level):
    """The wider of the bootstrap-t and the widened percentile interval, one draw at a time."""
    groups, tail = len(values), (1 - level) / 2
    mean = ratio(range(groups), values)[0]
    deviations, pivots = [], []
    for times in np.random.default_rng(seed).multinomial(groups, [1 / groups] * groups, size=samples):
        drawn, error = ratio([group for group, count in enumerate(times) for _ in range(count)], values)
        deviations.append(drawn - mean)
        pivots.append((drawn - mean) / error)
    wider = t.ppf(1 - tail, groups - 1) / norm.ppf(1 - tail) * np.sqrt(groups / (groups - 1))
    below, above = wider * np.quantile(deviations, [tail, 1 - tail])
    least, most = np.quantile(pivots, [tail, 1 - tail]) * jackknife(values)
    return mean + min(below, -most), mean + max(above, -least)


def test_mean_counts_pairs_alike_and_says_how_many():
    found = one(average(of_groups([[1.0, 2.0, 3.0], [10.0]])))
    assert found["effect"] == pytest.approx(4.0)
    assert (found["n"], found["groups"]) == (4, 2)


def test_tokens_of_one_role_are_averaged_within_their_pair_first():
    """A pair with three middle tokens counts as much as one with one."""
    rows = [{"group": "a", "pair": 0, "nie": value} for value in (1.0, 2.0, 3.0)]
    rows += [{"group": "b", "pair": 1, "nie": 10.0}]
    found = one(average(table(rows)))
    assert found["effect"] == pytest.approx(6.0)
    assert found["n"] == 2


@pytest.mark.parametrize("column", ["total", "nie", "nde"])
def test_every_effect_can_be_averaged(column):
    rows = [{"group": g, "total": 7.0, "nie": 5.0, "nde": 3.0} for g in "ab"]
    expected = {"total": 7.0, "nie": 5.0, "nde": 3.0}[column]
    assert one(average(table(rows), column))["effect"] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("label", "values"),
    [
        ("direction", ["denoising", "noising"]),
        ("component", ["mlp_out", "attn_out"]),
        ("layer", [0, 1]),
        ("unit", [0, 1]),
        ("window", [1, 5]),
        ("severed", ["", "mlp_out"]),
        ("role", ["last", "further"]),
    ],
)
def test_cells_are_told_apart_by(label, values):
    rows = [{"group": g, label: value, "nie": float(n)} for n, value in enumerate(values) for g in "ab"]
    found = average(table(rows)).set_index(label)["effect"]
    assert found.to_dict() == dict(zip(values, [0.0, 1.0], strict=True))


def test_interval_is_the_plain_ones():
    values = [[1.0, 2.0], [4.0], [0.5, -1.0, 3.0], [2.0, 2.5], [0.0], [1.5, 1.0], [-2.0], [9.0, 6.0, 5.0], [1.0, 1.2]]
    found = one(average(of_groups(values), chosen=Intervals(samples=500, seed=3, level=0.9)))
    assert (found["low"], found["high"]) == pytest.approx(plain_interval(values, 500, 3, 0.9), rel=1e-9)
    assert found["high"] - found["effect"] > 1.1 * (found["effect"] - found["low"])


def test_few_groups_have_students_interval_with_the_jackknife_error():
    values = [[1.0, 2.0], [4.0], [0.5, -1.0, 3.0], [2.0, 2.5]]
    found = one(average(of_groups(values), chosen=Intervals(level=0.9)))
    half = t.ppf(0.95, 3) * jackknife(values)
    assert (found["low"], found["high"]) == pytest.approx((found["effect"] - half, found["effect"] + half))


def test_more_rows_of_the_same_groups_do_not_narrow_the_interval():
    values = [[1.0, 2.0], [4.0, 3.0], [0.5, -1.0], [2.0, 2.5], [3.5, 0.0]]
    once, four = one(average(of_groups(values))), one(average(of_groups([each * 4 for each in values])))
    assert (four["low"], four["high"]) == pytest.approx((once["low"], once["high"]))
    assert (once["n"], four["n"]) == (10, 40)


def test_rows_that_repeat_their_group_give_the_width_of_groups():
    """40 groups of 4 equal rows: 1.96 standard errors over 40, not over 160, on either side."""
    effect = np.random.default_rng(1).normal(size=40)
    found = one(average(of_groups([[value] * 4 for value in effect]), chosen=Intervals(samples=4000)))
    width = 2 * 1.96 * effect.std(ddof=1) / np.sqrt(40)
    assert found["high"] - found["low"] == pytest.approx(width, rel=0.12)


def simulated(mean, cells=300, groups=40, rows=4, seed=0):
    """Effects of many independent cells with group effects; every cell is one simulation."""
    draw = np.random.default_rng(seed)
    values = mean + draw.normal(size=(cells, groups, 1)) + draw.normal(size=(cells, groups, rows))
    cell, group, turn = (each.ravel() for each in np.indices(values.shape))
    frame = pd.DataFrame({"layer": cell, "group": group, "pair": group * rows + turn, "nie": values.ravel()})
    return frame.assign(**{key: value for key, value in SITE.items() if key != "layer"}, **ABOUT, direction="denoising")


def test_intervals_cover_the_truth_as_often_as_they_say():
    found = average(simulated(0.3), chosen=Intervals(samples=1000))
    assert len(found) == 300
    assert 0.90 <= ((found["low"] < 0.3) & (found["high"] > 0.3)).mean() <= 0.98


def test_p_is_uniform_where_there_is_no_effect():
    p = average(simulated(0.0, seed=5), chosen=Intervals(samples=1000))["p"]
    assert kstest(p, "uniform").pvalue > 0.01
    assert (p <= 0.05).mean() < 0.09


def test_p_is_two_sided():
    up, down = average(simulated(0.3, cells=20)), average(simulated(0.3, cells=20).assign(nie=lambda t: -t["nie"]))
    assert up["p"].tolist() == down["p"].tolist()
    assert up["effect"].tolist() == pytest.approx((-down["effect"]).tolist())


def test_p_flips_groups_not_rows():
    """Two of the eight patterns of three signs reach the observed: p is about 1/4 for any number of rows."""
    assert one(average(of_groups([[1.0] * 30, [1.1] * 30, [0.9] * 30])))["p"] == pytest.approx(0.25, abs=0.03)


def test_a_cell_that_is_zero_throughout_has_p_one():
    found = one(average(of_groups([[0.0, 0.0], [0.0], [0.0]])))
    assert (found["p"], found["q"], found["effect"], found["low"], found["high"]) == (1, 1, 0, 0, 0)


def test_q_is_benjamini_and_hochbergs():
    found = average(simulated(0.15, cells=30))
    p = found["p"].tolist()
    by_size, q, smallest = sorted(range(30), key=p.__getitem__), [0.0] * 30, 1.0
    for rank in range(30, 0, -1):
        cell = by_size[rank - 1]
        smallest = min(smallest, p[cell] * 30 / rank)
        q[cell] = smallest
    assert found["q"].tolist() == pytest.approx(q)
    assert len(set(q)) > 5


def test_a_higher_level_widens_the_interval_around_the_same_mean():
    effect = of_groups(np.random.default_rng(0).normal(size=(12, 2)).tolist())
    narrow, wide = one(average(effect, chosen=Intervals(level=0.5))), one(average(effect, chosen=Intervals(level=0.99)))
    assert wide["low"] < narrow["low"] < narrow["effect"] < narrow["high"] < wide["high"]
    assert narrow["effect"] == wide["effect"]


def test_the_seed_decides_the_draws():
    effect = of_groups(np.random.default_rng(0).normal(size=(12, 2)).tolist())
    assert average(effect, chosen=Intervals(seed=1)).equals(average(effect, chosen=Intervals(seed=1)))
    assert (
        one(average(effect, chosen=Intervals(seed=1)))["low"] != one(average(effect, chosen=Intervals(seed=2)))["low"]
    )


def test_a_cell_of_one_group_has_no_interval():
    """A role that only one occupation has: resampling it says nothing, least of all a width of 0."""
    rows = [{"group": g, "nie": 1.0, "role": "last"} for g in "abc"] + [
        {"group": "a", "nie": 5.0, "role": "subject_middle"}
    ]
    found = average(table(rows)).set_index("role").loc["subject_middle"]
    assert found["effect"] == 5.0
    assert found["groups"] == 1
    assert np.isnan([found["low"], found["high"]]).all()


def test_an_analysis_says_how_it_averaged():
    analysis = analyse(map_trace(layers=1), level=0.9, samples=200)
    shown = analysis.shown()
    assert shown.unit == "nats"
    assert (shown.column, shown.level, shown.clusters, analysis.intervals.samples) == ("nie", 0.9, "group", 200)
    expected = average(analysis.effects, "nie", Intervals(level=0.9, samples=200))
    assert set(shown.table) - set(expected) == {"share", "stability"}
    pd.testing.assert_frame_equal(shown.table[list(expected)], expected)


def test_normalised_divides_the_means():
    """Means 3 and 6: a half; the mean of the pairs' own ratios would be 1.6."""
    rows = [{"group": "a", "nie": 2.0, "total": 11.6}, {"group": "b", "nie": 4.0, "total": 0.4}]
    rows += [{"group": g, "nie": 3.0, "total": 6.0} for g in "cdefgh"]
    found = one(normalised(table(rows)))
    assert found["effect"] == pytest.approx(0.5)
    assert found["low"] < 0.5 < found["high"]
    assert (found["n"], found["groups"]) == (8, 8)


def test_normalised_interval_is_that_of_the_ratio():
    """Where the share is the same in all groups, resampling cannot move it, however much the effects differ."""
    rows = [
        {"group": g, "nie": size, "total": 4 * size} for g, size in zip("abcde", (1.0, 2.0, 5.0, 3.0, 9.0), strict=True)
    ]
    found = one(normalised(table(rows)))
    assert (found["effect"], found["low"], found["high"]) == pytest.approx((0.25, 0.25, 0.25))


def test_normalised_is_missing_where_the_totals_interval_holds_zero():
    rows = [
        {"group": g, "layer": layer, "nie": 1.0, "total": total + 5.0 * layer}
        for layer in range(2)
        for g, total in zip("abcdef", (1.0, -1.0, 2.0, -1.5, 0.5, -1.2), strict=True)
    ]
    found = normalised(table(rows)).set_index("layer")[["effect", "low", "high"]]
    assert found.loc[0].isna().all()
    assert found.loc[1].notna().all()


def test_normalised_holds_for_negative_totals():
    rows = [{"group": g, "nie": -1.0, "total": total} for g, total in zip("abc", (-4.0, -2.0, -3.0), strict=True)]
    assert one(normalised(table(rows)))["effect"] == pytest.approx(1 / 3)


def test_normalised_is_missing_where_all_totals_are_zero():
    found = one(normalised(of_groups([[0.0], [0.0], [0.0]], total=0.0)))
    assert np.isnan([found["effect"], found["low"], found["high"]]).all()


def test_normalised_says_its_unit():
    analysis = analyse(map_trace(layers=1), samples=200)
    units = analysis.averages.groupby("quantity")["unit_of_effect"].unique()
    assert list(units["nie / total"]) == ["share of the total effect"]
    assert list(units["nie"]) == list(units["nde"]) == list(units["total"]) == ["nats"]
    assert analysis.shown("nie / total").unit == "share of the total effect"


@pytest.mark.parametrize("derive", [average, normalised])
@pytest.mark.parametrize(
    ("effect", "options", "message"),
    [
        (of_groups([[1.0, 2.0]]), {}, r"1 group: expected at least 2 to resample: trace more occupations"),
        (of_groups([[1.0], [2.0]]), {"level": 0.0}, r"level 0\.0, 2000 samples: expected a level in \(0, 1\)"),
        (of_groups([[1.0], [2.0]]), {"level": 1.0}, r"level 1\.0"),
        (of_groups([[1.0], [2.0]]), {"level": 95.0}, r"level 95\.0"),
        (of_groups([[1.0], [2.0]]), {"samples": 99}, r"99 samples: expected .* at least 100 samples"),
        (of_groups([[1.0], [2.0]]), {"column": "share"}, r"column 'share': expected one of total, nie, nde"),
        (of_groups([[1.0], [np.nan]]), {}, r"1 values of 'nie' are missing: choose another metric"),
        (
            of_groups([[1.0], [2.0]], nde=np.nan),
            {"column": "nde"},
            r"2 values of 'nde' are missing: trace both directions",
        ),
    ],
)
def test_bad_input_is_refused(derive, effect, options, message):
    options = dict(options)
    with pytest.raises(LocateError, match=message):
        derive(effect, options.pop("column", "nie"), Intervals(**options))


def test_effects_of_a_trace_are_averaged_to_what_was_planted():
    found = average(effects(map_trace(lambda component, layer, role, group: layer + 1.0))).set_index(
        ["direction", "component", "layer", "role"]
    )
    assert found.loc[("denoising", "mlp_out", 2, "last"), "effect"] == pytest.approx(3.0)
    assert found.loc[("noising", "attn_out", 0, "subject_last"), "effect"] == pytest.approx(-1.0)
    assert (found["n"] == 24).all()
    assert (found["groups"] == 12).all()


def layers_of(values):
    """Effects of several layers in the same groups: layer -> one value a group."""
    return table(
        [
            {"pair": number, "group": f"g{number}", "layer": layer, "nie": value}
            for layer, each in values.items()
            for number, value in enumerate(each)
        ]
    )


def test_stability_is_how_often_a_site_is_among_the_strongest():
    """One draw at a time, by the size of the mean; the sign does not matter."""
    rng = np.random.default_rng(3)
    values = {layer: rng.normal(loc, 1.0, 12) for layer, loc in enumerate([0.5, -0.6, 0.4, 0.1, 3.0])}
    found = stability(layers_of(values), top=2, chosen=Intervals(samples=400, seed=5)).set_index("layer")["stability"]
    weights = np.random.default_rng(5).multinomial(12, [1 / 12] * 12, size=400)
    counts = dict.fromkeys(values, 0)
    for times in weights:
        sizes = {layer: abs((times * each).sum() / 12) for layer, each in values.items()}
        for layer in sorted(sizes, key=sizes.get, reverse=True)[:2]:
            counts[layer] += 1
    assert found.to_dict() == {layer: count / 400 for layer, count in counts.items()}
    assert found[4] == 1
    assert 0 < found[3] < found[1] < 1
    assert found.sum() == pytest.approx(2)


def test_stability_ranks_each_direction_by_itself():
    strong, weak = layers_of({0: [2.0, 3.0], 1: [1.0, 1.0]}), layers_of({0: [0.1, 0.1], 1: [0.2, 0.3]})
    both = pd.concat([strong, weak.assign(direction="noising")])
    found = stability(both, top=1, chosen=Intervals(samples=100)).set_index(["direction", "layer"])["stability"]
    assert found.to_dict() == {
        ("denoising", 0): 1, ("denoising", 1): 0, ("noising", 0): 0, ("noising", 1): 1,
    }  # fmt: skip


def test_stability_draws_groups_not_rows():
    """A site that is strong in one group alone is among the first only when that group is drawn."""
    found = stability(layers_of({0: [9.0, *[0.0] * 9], 1: [0.5] * 10}), top=1, chosen=Intervals(samples=4000))
    assert found.set_index("layer")["stability"][0] == pytest.approx(1 - 0.9**10, abs=0.03)


@pytest.mark.parametrize("top", [1, 3, 7])
def test_the_largest_are_those_of_a_stable_sort(top):
    sizes = np.random.default_rng(1).integers(-1, 4, size=(200, 7)).astype(float)  # with many ties
    order = np.argsort(-sizes, axis=1, kind="stable")[:, :top]
    expected = np.zeros(sizes.shape, bool)
    np.put_along_axis(expected, order, True, axis=1)
    np.testing.assert_array_equal(among_largest(sizes, top), expected)


def test_stability_needs_a_number_of_sites():
    with pytest.raises(LocateError, match="top 0: expected a number of sites >= 1"):
        stability(layers_of({0: [1.0, 2.0]}), top=0)


def test_what_is_no_larger_than_rounding_is_nothing(gpt2):
    """A tenth of a millionth of a nat with one sign in every pair: p is 1 where the trace rounds to that."""
    rows = pd.DataFrame(
        [
            {
                "pair": i,
                "group": f"g{i}",
                "template": "t",
                "direction": "denoising",
                "nie": 1e-7 * (i + 1),
                "total": 1.0,
            }
            | SITE
            | ABOUT
            for i in range(30)
        ]
    )
    assert average(rows)["p"].iloc[0] < 1e-4
    rounded = average(rows.assign(rounding=2e-5))
    assert rounded["p"].iloc[0] == rounded["q"].iloc[0] == 1.0
    found = bare.trace(gpt2, occupation_pairs("anti", templates_each=1).first(6))
    assert effects(found)["rounding"].between(0, 1e-4, inclusive="neither").all()
    assert effects(found)["rounding"].nunique() == 1
    assert (effects(found, "odds_ratio")["rounding"] == 0).all()
    assert terms_of(found).rounding == effects(found)["rounding"].iloc[0]
