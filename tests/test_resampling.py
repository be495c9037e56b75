"""Intervals and p-values on simulated tables of known truth: they cover, and false discoveries are as few as said."""

import itertools

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest, t
from test_averages import ABOUT, SITE, of_groups, one, table

from locate import LocateError, analyse
from locate.mediation import average, effects, normalised, stability
from locate.mediation.averages import limits_of, summed
from locate.mediation.permutation import counted_p, sign_flip_p
from locate.mediation.resampling import FEW, Intervals

UNEQUAL = (1, 2, 3, 4, 8, 2, 1, 5)
SHAPES = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "exponential": lambda rng, shape: rng.exponential(size=shape) - 1,
    "t3": lambda rng, shape: rng.standard_t(3, size=shape) / np.sqrt(3),
}


def made(values, group, template=None, **labels):
    """Effects of values [pair, cell], every cell a layer of its own."""
    pairs, cells = values.shape
    frame = pd.DataFrame({
        "layer": np.repeat(np.arange(cells), pairs), "pair": np.tile(np.arange(pairs), cells),
        "group": np.tile(group, cells), "nie": values.T.ravel(), "total": 1.0, "nde": 0.0, "direction": "denoising",
    })  # fmt: skip
    frame = frame.assign(**({key: value for key, value in SITE.items() if key != "layer"} | ABOUT | labels))
    if template is not None:
        frame["template"] = np.tile(template, cells)
    for name in ("component", "severed", "origin", "role", "key", "name", "direction", "metric", "view"):
        frame[name] = frame[name].astype("category")
    return frame


def grouped(shape, sizes, groups, cells=500, seed=0):
    """Tables of mean 0 with effects of groups, and the group of each pair."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), np.resize(sizes, groups))
    values = SHAPES[shape](rng, (groups, cells))[group] + 0.5 * rng.normal(size=(len(group), cells))
    return values, group


def crossed(between, groups=24, templates=18, each=4, cells=400, seed=0):
    """Tables of mean 0 with effects of groups (deviation 1) and templates (`between`), spread as the package's."""
    rng = np.random.default_rng(seed)
    group = np.tile(np.arange(groups), each)
    template = (group + np.repeat(np.arange(each), groups) * (templates // each)) % templates
    own, shared = rng.normal(size=(groups, cells)), between * rng.normal(size=(templates, cells))
    return own[group] + shared[template] + rng.normal(size=(len(group), cells)), group, template


def covered(found):
    """Share of the intervals that hold 0."""
    return ((found["low"] <= 0) & (found["high"] >= 0)).mean()


@pytest.mark.parametrize("groups", [12, 30])
@pytest.mark.parametrize("sizes", [(4,), UNEQUAL], ids=["equal", "unequal"])
@pytest.mark.parametrize("shape", SHAPES)
def test_intervals_cover(shape, sizes, groups):
    """93 to 97 %, with three Monte Carlo errors of 500 tables around it."""
    assert 0.90 <= covered(average(made(*grouped(shape, sizes, groups)), chosen=Intervals(samples=1000))) <= 0.99


def test_resampling_prompts_instead_of_occupations_does_not_cover():
    """The old trap: every prompt a group of its own."""
    values, group = grouped("normal", (8,), 20)
    assert covered(average(made(values, np.arange(len(group))), chosen=Intervals(samples=500))) < 0.65
    assert covered(average(made(values, group), chosen=Intervals(samples=500))) > 0.92


@pytest.mark.parametrize("each", [4, 18])
@pytest.mark.parametrize("between", [0.0, 1.0])
def test_two_way_intervals_cover(between, each):
    found = average(made(*crossed(between, each=each)), chosen=Intervals(clusters="group+template", samples=500))
    assert 0.90 <= covered(found) <= 0.99
    assert (found["templates"] == 18).all()


def test_groups_alone_do_not_cover_templates_that_were_not_tried():
    effect = made(*crossed(1.0, each=18))
    assert covered(average(effect, chosen=Intervals(samples=500))) < 0.88


def test_without_an_effect_of_templates_two_ways_are_as_wide_as_one():
    """Drawing both at once would count the noise within pairs three times: wider by half here."""
    effect = made(*crossed(0.0, groups=40))
    one_way, two_way = (
        average(effect, chosen=Intervals(clusters=each, samples=500)) for each in ("group", "group+template")
    )
    ratio = (two_way["high"] - two_way["low"]) / (one_way["high"] - one_way["low"])
    assert 0.97 < ratio.median() < 1.1
    assert ratio.min() > 0.9


def test_two_way_error_is_cameron_gelbach_and_millers():
    """Student's p from V_group + V_template - V_both by loops over pairs, errors by leaving out clusters."""
    values, group, template = crossed(1.0, groups=9, templates=6, each=3, cells=1)
    y = values[:, 0]
    rest = y - y.mean()

    def variance(labels):
        sums = [rest[labels == each].sum() for each in np.unique(labels)]
        return len(sums) / (len(sums) - 1) * sum(np.square(sums)) / len(y) ** 2

    def left_out(labels):
        means = np.array([y[labels != each].mean() for each in np.unique(labels)])
        return (len(means) - 1) / len(means) * ((means - y.mean()) ** 2).sum()

    share = (variance(template) - (rest**2).sum() / len(y) ** 2) / variance(template)
    assert 0 < share < 1
    first, second = left_out(group), share * left_out(template)
    freedom = (first + second) ** 2 / (first**2 / 8 + second**2 / 5)
    found = one(average(made(values, group, template), chosen=Intervals(clusters="group+template")))
    assert found["p"] == pytest.approx(2 * t.sf(abs(y.mean()) / np.sqrt(first + second), freedom))


def test_two_way_share_of_the_total_has_the_wider_interval():
    """Templates that move the indirect effect and leave the total one alone widen the share's interval."""
    values, group, template = crossed(1.0, each=18, cells=40)
    effect = made(values + 3, group, template).assign(total=6.0)
    narrow, wide = (normalised(effect, chosen=Intervals(clusters=each)) for each in ("group", "group+template"))
    assert wide["effect"].tolist() == pytest.approx(((values + 3).mean(0) / 6).tolist())
    assert ((wide["high"] - wide["low"]) / (narrow["high"] - narrow["low"])).median() > 1.2


def test_stability_draws_templates_too():
    """A site that is strong in one of six templates alone loses its place when that template is not drawn."""
    group, template = (each.ravel() for each in np.indices((8, 6)))
    values = np.stack([np.where(template == 0, 9.0, 0.0), np.full(48, 0.5)], axis=1)
    effect = made(values, group, template)
    by_group = stability(effect, top=1, chosen=Intervals(samples=1000)).set_index("layer")["stability"]
    by_both = stability(effect, top=1, chosen=Intervals(clusters="group+template", samples=1000)).set_index("layer")[
        "stability"
    ]
    assert by_group[0] == 1
    assert by_both[0] == pytest.approx(1 - (5 / 6) ** 6, abs=0.1)


@pytest.mark.parametrize(
    ("effect", "clusters", "message"),
    [
        (of_groups([[1.0], [2.0]]), "pair", "clusters 'pair': expected one of group, group.template"),
        (of_groups([[1.0], [2.0]]), "group+template", "no column 'template', which clusters 'group.template' needs"),
        (of_groups([[1.0], [2.0]], template="a"), "group+template", "1 templates: expected at least 4 to resample"),
    ],
)
def test_clusters_that_cannot_be_resampled_are_refused(effect, clusters, message):
    for derive in (average, normalised, stability):
        with pytest.raises(LocateError, match=message):
            derive(effect, chosen=Intervals(clusters=clusters))


def test_limits_say_whether_what_is_resampled_is_known_to_cover():
    effect = made(*crossed(0.0, groups=12, templates=8, each=8, cells=2))
    limits = limits_of(effect, Intervals(clusters="group+template"))
    assert (limits.sound, limits.smallest_q) == (True, 0.0)
    fewer = made(*crossed(0.0, groups=12, templates=7, each=7, cells=2))
    assert limits_of(fewer, Intervals(clusters="group+template")).sound is False
    few = limits_of(of_groups([[1.0], [2.0], [3.0]]))
    assert (few.sound, few.smallest_q) == (False, 0.25)
    assert limits_of(made(*grouped("normal", (1,), 11, cells=2))).sound is False
    assert limits_of(made(*grouped("normal", (1,), 12, cells=2))).sound is True


@pytest.mark.parametrize("clusters", ["group", "group+template"])
def test_a_ranking_says_what_it_was_resampled_over(clusters):
    from handmade import TEMPLATES, map_trace

    trace = map_trace(layers=1, components=("mlp_out",), templates=[*TEMPLATES, "A {subject} ran", "My {subject} sat"])
    analysis = analyse(trace, clusters=clusters, samples=200)
    limits = limits_of(analysis.effects, analysis.intervals)
    assert analysis.shown().clusters == analysis.located.clusters == clusters
    assert (analysis.located.sound, analysis.located.smallest_q) == (limits.sound, limits.smallest_q)
    assert limits.sound is (clusters == "group")


def test_a_cell_that_one_group_decides_has_a_finite_interval():
    """Draws without that group have no spread at all: a bootstrap-t alone would be endless."""
    found = one(average(of_groups([[50.0], *[[0.0]] * 19])))
    assert np.isfinite([found["low"], found["high"]]).all()
    assert found["low"] < 0 < found["effect"] < found["high"] < 20


def test_cells_of_few_groups_among_many_have_students_interval():
    rng = np.random.default_rng(0)
    values = rng.normal(size=FEW - 1)
    rows = [{"group": f"g{number}", "nie": value, "role": "subject_middle"} for number, value in enumerate(values)]
    rows += [{"group": f"g{number}", "nie": 1.0 + 0.1 * number} for number in range(30)]
    found = average(table(rows)).set_index("role").loc["subject_middle"]
    half = t.ppf(0.975, FEW - 2) * values.std(ddof=1) / np.sqrt(FEW - 1)
    assert (found["low"], found["high"]) == pytest.approx((values.mean() - half, values.mean() + half))


def enumerated(sums):
    """Two-sided p over all patterns of signs."""
    patterns = np.array(list(itertools.product([-1, 1], repeat=len(sums))))
    return (np.abs(patterns @ sums) >= abs(sums.sum()) - 1e-12).mean()


@pytest.mark.parametrize("groups", [2, 5, 11])
def test_p_of_few_groups_is_exact(groups):
    sums = np.random.default_rng(groups).normal(0.4, 1, size=(groups, 20))
    assert sign_flip_p(sums, 2000, 0).tolist() == pytest.approx([enumerated(each) for each in sums.T])


@pytest.mark.parametrize("mean", [0.3, 1.0, 3.0])
def test_counted_p_is_the_exact_share_and_never_below_it(mean):
    for seed in range(15):
        sums = np.random.default_rng(seed).normal(mean, 1, size=14)
        exact = enumerated(sums)
        assert exact <= counted_p(sums) <= 1.03 * exact


def test_counted_p_counts_ties_and_leaves_groups_without_an_effect_out():
    assert counted_p(np.array([1.0] * 20)) == pytest.approx(2**-19)
    assert counted_p(np.array([1.0] * 20 + [0.0] * 7)) == pytest.approx(2**-19)
    assert counted_p(np.array([1.0] * 19 + [-1.0])) == pytest.approx(2 * 21 / 2**20)
    assert counted_p(np.array([1.0, -1.0])) == 1


@pytest.mark.parametrize("groups", [6, 27])
def test_rounding_moves_no_p(groups):
    """A group without an effect is measured as a little above or below 0; equal effects as a little apart."""
    sums = np.repeat([1.0, 0.0], [4, groups - 4])[:, None]
    noise = np.random.default_rng(0).normal(0, 1e-7, size=(groups, 200))
    (exact,) = sign_flip_p(sums, 2000, 0)
    assert exact == pytest.approx(2 / 16, rel=0.1)
    assert set(sign_flip_p(sums + noise, 2000, 0)) == {exact}


def test_p_is_fine_enough_for_a_map_of_thousands_of_sites():
    """One strong neuron among 3,000 idle ones passes; 1,000 flips alone give it 1 / 1001, and q = 1."""
    values, group = grouped("normal", (1,), 40, cells=3000)
    values[:, 77] += 1.5
    found = average(made(values, group), chosen=Intervals(samples=1000))
    strong = found.set_index("layer").loc[77]
    assert strong["p"] < 1e-6
    assert strong["q"] < 0.001
    assert (found["q"] <= 0.05).sum() == 1


def test_small_p_are_no_rarer_or_more_frequent_than_they_say():
    """Across the border between drawn and counted p."""
    values, group = grouped("normal", (1,), 25, cells=4000, seed=3)
    p = average(made(values, group), chosen=Intervals(samples=1000))["p"].to_numpy()
    for border in (0.001, 0.01, 0.03, 0.05, 0.1):
        error = np.sqrt(border / 4000)
        assert border - 3 * error <= (p <= border).mean() <= border + 3 * error
    assert kstest(p, "uniform").pvalue > 0.01


def test_small_p_do_not_hang_on_the_seed():
    values, group = grouped("normal", (1,), 25, cells=10)
    first, second = (average(made(values + 1, group), chosen=Intervals(seed=seed))["p"] for seed in (0, 1))
    small = first <= 0.05
    assert small.sum() > 5
    assert first[small].tolist() == second[small].tolist()


def maps_of(rng, sites=60, groups=20, each=4, real=12):
    """A map whose sites lean on common factors of the group and of the pair, the first few with an effect."""
    factors, noise = rng.normal(size=(groups, 3)), rng.normal(size=(groups * each, 3))
    loads = rng.normal(size=(3, sites))
    group = np.repeat(np.arange(groups), each)
    values = (factors @ loads)[group] + 0.5 * noise @ loads + 0.5 * rng.normal(size=(groups * each, sites))
    values[:, :real] += 2.0
    return values, group


def false_share(found, real=12):
    """Share of false discoveries among those of q at most 0.05; 0 where there is none."""
    passing = found.loc[found["q"] <= 0.05, "layer"]
    return (passing >= real).mean() if len(passing) else 0.0


def test_false_discoveries_are_as_few_as_q_says_and_prompts_as_groups_are_found_out():
    rng = np.random.default_rng(1)
    right, wrong, found = [], [], 0
    for _ in range(40):
        values, group = maps_of(rng)
        by_group = average(made(values, group), chosen=Intervals(samples=200))
        right.append(false_share(by_group))
        wrong.append(false_share(average(made(values, np.arange(len(group))), chosen=Intervals(samples=200))))
        found += (by_group["q"].to_numpy()[:12] <= 0.05).sum()
    assert np.mean(right) <= 0.05 + 3 * np.std(right) / np.sqrt(40)
    assert np.mean(right) < 0.1
    assert np.mean(wrong) > 0.25
    assert found > 100


def test_q_is_of_one_direction_whatever_else_was_traced():
    """A map is everything of one direction: the other one's sites do not change its q."""
    values, group = grouped("normal", (2,), 20, cells=12)
    values[:, :4] += 0.8
    there, back = made(values, group), made(-values[:, 4:], group, direction="noising")
    both = pd.concat([there, back])
    found = average(both).set_index(["direction", "layer"])["q"]
    for name, alone in (("denoising", there), ("noising", back)):
        assert found[name].to_dict() == average(alone).set_index("layer")["q"].to_dict()
    assert (found["denoising"] <= 0.05).any()


def test_memory_stays_bounded_in_blocks(monkeypatch):
    """The same numbers, a few cells at a time."""
    values, group = grouped("normal", UNEQUAL, 16, cells=23)
    whole = average(made(values, group), chosen=Intervals(samples=500))
    for module in ("resampling", "permutation"):
        monkeypatch.setattr(f"locate.mediation.{module}.BLOCK", 500 * 5)
    pd.testing.assert_frame_equal(average(made(values, group), chosen=Intervals(samples=500)), whole)


def test_sums_by_group_template_and_both_are_those_of_the_rows():
    values, group, template = crossed(0.5, groups=7, cells=3)
    _, design = summed(made(values, group, template), "nie", "group+template")
    np.testing.assert_allclose(design.groups.above, [values[group == each].sum(0) for each in range(7)])
    assert design.templates.below.sum() == values.size
    assert design.both.below.sum() == values.size
    assert design.both.below.shape[0] == len(set(zip(group, template, strict=True)))


def test_effects_of_a_trace_can_be_averaged_both_ways():
    from handmade import TEMPLATES, map_trace

    trace = map_trace(layers=1, components=("mlp_out",), templates=[*TEMPLATES, "A {subject} ran", "My {subject} sat"])
    found = average(effects(trace), chosen=Intervals(clusters="group+template"))
    assert (found["n"] == 48).all()
    assert (found["templates"] == 4).all()


def test_the_observed_signs_count_among_the_drawn_ones():
    """A drawn p is (reached + 1) / (samples + 1), as a plain count of the same draws gives."""
    sums = np.random.default_rng(2).normal(0.1, 1, size=(20, 12))
    p = sign_flip_p(sums, 300, 4)
    signs = np.random.default_rng([4, 1]).choice([-1.0, 1.0], size=(300, 20))
    plain = [(sum(abs(flips @ each) >= abs(each.sum()) for flips in signs) + 1) / 301 for each in sums.T]
    assert (p > 0.05).sum() > 5
    assert p[p > 0.05].tolist() == pytest.approx([each for each in plain if each > 0.05])
