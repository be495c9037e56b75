"""Overlap of located sets: by hand, by a second implementation, in simulations of known truth, and where planted."""

import json

import numpy as np
import pandas as pd
import pytest
from handmade import GROUPS, map_trace
from test_cli import run  # noqa: F401
from test_resampling import made
from test_selectivity import two_kinds

from locate import LocateError, analyse
from locate.mediation import effects
from locate.mediation.comparison import overlap_traces
from locate.mediation.overlaps import draw_together, overlap, split_together
from locate.mediation.resampling import Intervals
from locate.report.selectivity import plot_selectivity

FEW = Intervals(samples=200)


def table_of(means, noise=0.0, groups=12, seed=0, prefix="", direction="denoising"):
    """Effects of one MLP a layer with these means, and normal noise from group to group."""
    rng = np.random.default_rng(seed)
    values = np.asarray(means, dtype=float) + noise * rng.normal(size=(groups, len(means)))
    rows = made(values, [f"{prefix}{number}" for number in range(groups)])
    return rows.assign(direction=direction, role="subject_last")


def only(found):
    """The overlap of the one direction there is."""
    (one,) = found
    return one


def test_sets_and_signs_by_hand():
    a, b = table_of([5, 4, -3, 1, 0.5, 0.1]), table_of([0.1, 4, 3, 5, 0.2, 0.3])
    found = only(overlap(a, b, chosen=FEW, k=3))
    assert (found.k, found.n, found.shared, found.opposite) == (3, 6, 2, 1)
    assert (found.share, found.chance) == pytest.approx((2 / 3, 0.5))
    assert (found.low, found.high) == pytest.approx((2 / 3, 2 / 3))
    assert (found.within_a, found.within_b, found.across) == pytest.approx((1.0, 1.0, 2 / 3))
    assert (
        "2 of the 3 strongest of 6 sites are shared, 1 of them with opposite signs: 0.67 [0.67, 0.67]" in found.text()
    )


def test_without_k_the_sets_have_ten_sites_or_half_of_them():
    assert only(overlap(table_of(range(30)), table_of(range(30)), chosen=FEW)).k == 10
    assert only(overlap(table_of(range(7)), table_of(range(7)), chosen=FEW)).k == 3
    for k in (0, 8):
        with pytest.raises(LocateError, match=f"the {k} strongest of 7 sites: expected a number from 1 to 7"):
            overlap(table_of(range(7)), table_of(range(7)), k=k)
    assert overlap(table_of([1.0]), table_of([1.0])) == ()


def test_only_sites_of_both_count_and_directions_stay_apart():
    a = pd.concat([table_of([3, 2, 1, 9]), table_of([1, 2, 3, 9], direction="noising")])
    b = a[a["layer"] < 3]
    found = overlap(a, b, chosen=FEW, k=1)
    assert [(each.direction, each.n, each.share) for each in found] == [("denoising", 3, 1.0), ("noising", 3, 1.0)]
    assert only(overlap(a, b[b["direction"] == "noising"], chosen=FEW)).direction == "noising"


def test_the_residual_stream_and_tokens_before_the_subject_are_no_sites():
    found = analyse(map_trace()).effects
    assert {each.n for each in overlap(found, found, chosen=FEW)} == {2 * 3 * 2}  # attention and MLP, layers, roles


def test_groups_of_both_are_drawn_as_often_in_both():
    first, second = draw_together(["a", "b", "c", "d"], ["x", "d", "b"], 500, 0)
    np.testing.assert_array_equal(first[:, [1, 3]], second[:, [2, 1]])
    assert (first.sum(1) == 4).all()
    assert (second.sum(1) == 3).all()
    assert abs(np.corrcoef(first[:, 1], first[:, 0])[0, 1]) < 0.15
    same = draw_together(list("abc"), list("cab"), 50, 0)
    np.testing.assert_array_equal(same[0], same[1][:, [1, 2, 0]])


def test_numbers_equal_those_of_a_plain_loop():
    a, b = table_of(range(8), 4.0, seed=1), table_of(range(8), 4.0, seed=2, prefix="w")
    found = only(overlap(a, b, chosen=FEW, k=3))

    def top(rows, weights):
        """Layers of the strongest means, weighted by how often each group is drawn."""
        means = {}
        for layer, own in rows.groupby("layer"):
            means[layer] = abs(np.average(own["nie"], weights=weights[own["group"].astype(int)]))
        return set(sorted(means, key=means.get)[-3:])

    b = b.assign(group=b["group"].str[1:])
    drawn = draw_together([str(i) for i in range(12)], [f"w{i}" for i in range(12)], 200, 0)
    sets = [[top(rows, each) for each in weights] for rows, weights in zip((a, b), drawn, strict=True)]
    own = [top(rows, np.ones(12)) for rows in (a, b)]
    many = np.array([len(one & two) / 3 for one, two in zip(*sets, strict=True)])
    share, (low, high) = len(own[0] & own[1]) / 3, np.quantile(many, [0.025, 0.975])
    assert found.share == pytest.approx(share)
    assert (found.low, found.high) == pytest.approx(
        (max(0, min(low, 2 * share - high)), min(1, max(high, 2 * share - low)))
    )
    halves = split_together([str(i) for i in range(12)], [f"w{i}" for i in range(12)], 0)
    one, other = (
        [[top(rows, abs(turn - each)) for each in weights] for rows, weights in zip((a, b), halves, strict=True)]
        for turn in (0, 1)
    )

    def mean_share(some, others):
        return np.mean([len(left & right) / 3 for left, right in zip(some, others, strict=True)])

    assert found.within_a == pytest.approx(mean_share(one[0], other[0]))
    assert found.within_b == pytest.approx(mean_share(one[1], other[1]))
    assert found.across == pytest.approx((mean_share(one[0], other[1]) + mean_share(other[0], one[1])) / 2)


def test_halves_have_no_group_in_common():
    first, second = split_together(list("abcde"), list("xyzdb"), 0)
    np.testing.assert_array_equal(first[:, [1, 3]], second[:, [4, 3]])
    assert set(np.unique(first)) == {0, 1}
    assert set(first[:, [0, 2, 4]].sum(1)) == {2}
    assert (first.mean(0) > 0.3).all()


def simulated(mixed, noise, tables=60, sites=120):
    """Overlaps of two tables of other groups whose true means are mixed of the same, and the true shares."""
    rng, found, truth = np.random.default_rng(3), [], []
    for number in range(tables):
        own, other = rng.standard_t(2, (2, sites))
        means = own, mixed * own + np.sqrt(1 - mixed**2) * other
        first, second = (table_of(each, noise, 30, 2 * number + side, "ab"[side]) for side, each in enumerate(means))
        found.append(only(overlap(first, second, chosen=FEW)))
        best = [set(np.argsort(-np.abs(each))[:10]) for each in means]
        truth.append(len(best[0] & best[1]) / 10)
    return found, np.array(truth)


def test_sets_that_are_the_same_share_what_halves_of_one_share():
    """The share itself is far below the true 1, since noise decides who is among the strongest."""
    found, truth = simulated(1.0, 8.0)
    assert truth.min() == 1
    assert 0.4 < np.mean([each.share for each in found]) < 0.7
    within = np.mean([(each.within_a + each.within_b) / 2 for each in found])
    assert np.mean([each.across for each in found]) == pytest.approx(within, abs=0.03)


@pytest.mark.parametrize(("mixed", "least"), [(0.0, 0.95), (0.7, 0.9)])
def test_sets_that_differ_share_less_than_halves_and_their_share_is_covered(mixed, least):
    found, truth = simulated(mixed, 4.0)
    covered = [each.low - 1e-9 <= true <= each.high + 1e-9 for each, true in zip(found, truth, strict=True)]
    assert np.mean(covered) >= least
    within = [(each.within_a + each.within_b) / 2 for each in found]
    assert np.mean(within) > 0.5
    assert np.mean([each.across < own for each, own in zip(found, within, strict=True)]) > 0.95
    assert np.mean([each.high - each.low for each in found]) < 0.6


def test_a_site_that_one_word_carries_alone_is_not_found_in_the_other_half():
    """Every site is moved by one group alone: sets of resampled groups agree, sets of other groups do not."""
    values = np.zeros((40, 200))
    values[np.arange(40), np.arange(40)] = np.linspace(1, 2, 40)
    values += 1e-3 * np.random.default_rng(0).normal(size=values.shape)
    rows = made(values, [str(number) for number in range(40)]).assign(role="subject_last")
    found = only(overlap(rows, rows, chosen=FEW))
    assert found.share == 1.0
    assert found.low > 0.2
    assert max(found.within_a, found.across) < 0.1


def test_kinds_that_are_carried_apart_share_nothing_and_the_figure_says_so():
    apart, shared = [(1.0, 0.1), (0.1, 1.0)], [(1.0, 2.0), (0.1, 0.3)]
    for sizes, share in ((apart, 0.0), (shared, 1.0)):
        analysis = analyse(two_kinds(sizes), samples=200)
        found = {each.direction: each for each in analysis.overlap}
        assert found["denoising"].share == found["noising"].share == share
        assert (found["denoising"].groups_a, found["denoising"].groups_b) == (12, 12)
        caption = plot_selectivity(analysis).layout.meta["caption"]
        assert f"{int(share)} of the 1 strongest of 2 sites are shared" in caption
    assert analyse(map_trace(layers=1)).overlap == ()


def test_runs_of_other_prompts_are_told_apart_by_their_sites():
    """Other groups, other sentences: what `compare` refuses."""
    a = map_trace(lambda component, layer, role, group: 1.0 + layer)
    b = map_trace(lambda component, layer, role, group: 3.0 - layer, groups=[f"{name}s" for name in GROUPS])
    found = overlap_traces(a, b, direction="noising", k=4, samples=200)
    assert [(each.direction, each.n, each.share) for each in found] == [("noising", 12, 0.0)]
    assert (found[0].within_a, found[0].across) == (1.0, 0.0)
    for other, message in (
        ({"n_layers": 12}, "layers 3 in A, 12 in B: the sites of such models do not correspond"),
        ({"n_heads": 4}, "n_heads 2 in A, 4 in B"),
    ):
        with pytest.raises(LocateError, match=message):
            overlap_traces(a, map_trace_with(b, **other), samples=200)
    with pytest.raises(LocateError, match="no two sites are in both runs"):
        overlap_traces(a, map_trace(components=("head",), unit=1), samples=200)


def map_trace_with(trace, **model):
    """The trace of a model of other sizes."""
    from dataclasses import replace

    return replace(trace, meta=trace.meta | {"model": trace.meta["model"] | model})


def test_the_command_line_says_it_and_writes_nothing(run, tmp_path):  # noqa: F811
    a, b = tmp_path / "a", tmp_path / "b"
    map_trace(templates=("The {subject} said that",)).save(a)
    map_trace(templates=("The {subject} cried because",)).save(b)
    code, out, _ = run("compare", a, b, "--overlap", "--direction", "denoising")
    assert code == 0
    assert "denoising: 6 of the 6 strongest of 12 sites are shared: 1.00 [1.00, 1.00], by chance 0.50" in " ".join(
        out.split()
    )
    code, out, _ = run("compare", a, b, "--overlap", "--strongest", 2, "--json")
    assert [(each["k"], each["share"]) for each in json.loads(out)] == [(2, 1.0)] * 2
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    code, _, err = run("compare", a, b)
    assert (code, "prompts" in err or "clean of pair" in err) == (1, True)


def test_effects_of_the_signed_view_are_taken_as_they_are():
    signed = analyse(map_trace(), view="signed").effects
    assert [each.share for each in overlap(signed, effects(map_trace(), view="signed"), chosen=FEW)] == [1.0, 1.0]
