"""Effects of traces of one or two rows, by hand."""

import numpy as np
import pytest
from handmade import both, map_trace, odds, row, trace_of

from locate import LocateError, occupation_pairs, trace
from locate.mediation import effects, pair_log_odds
from locate.mediation.effect_table import EFFECTS, one_word, terms_of
from locate.tracing.table import Trace

CLEAN, CORRUPTED, DENOISED, NOISED = odds(2.0), odds(-1.0), odds(0.5), odds(1.25)


def only(derived, direction):
    """The one row of a direction."""
    (found,) = derived[derived["direction"] == direction].to_dict("records")
    return found


def test_denoising_by_hand():
    """Base is the corrupted run (-1), source the clean one (2)."""
    found = only(effects(trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED))), "denoising")
    assert (found["base"], found["source"], found["patched"]) == pytest.approx((-1, 2, 0.5))
    assert (found["total"], found["nie"], found["nde"]) == pytest.approx((3, 1.5, 2.25))


def test_noising_by_hand():
    """Base is the clean run (2), source the corrupted one (-1)."""
    found = only(effects(trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED))), "noising")
    assert (found["base"], found["source"], found["patched"]) == pytest.approx((2, -1, 1.25))
    assert (found["total"], found["nie"], found["nde"]) == pytest.approx((-3, -0.75, -1.5))


def test_probability_metric_by_hand():
    trace = trace_of(both((0.6, 0.2), (0.2, 0.3), (0.5, 0.25), (0.4, 0.3)))
    found = only(effects(trace, "prob_diff"), "denoising")
    assert (found["total"], found["nie"], found["nde"]) == pytest.approx((0.5, 0.35, 0.2))
    found = only(effects(trace, "prob_stereotypical"), "noising")
    assert (found["total"], found["nie"], found["nde"]) == pytest.approx((-0.4, -0.2, -0.1))


@pytest.mark.parametrize("metric", ["logit_diff", "prob_diff", "prob_stereotypical"])
def test_pearls_identity_is_exact(metric):
    """TE(base to source) = NDE(base to source) - NIE(source to base), of any numbers."""
    draw = np.random.default_rng(0)
    rows = []
    for pair in range(6):
        runs = [odds(float(x)) for x in draw.normal(size=4)]
        rows += both(*runs, pair=pair, stereotype=int(draw.choice([-1, 1])))
    derived = effects(trace_of(rows), metric)
    there = derived[derived["direction"] == "denoising"].set_index("pair")
    back = derived[derived["direction"] == "noising"].set_index("pair")
    assert (there["nde"] - back["nie"]).to_numpy() == pytest.approx(there["total"].to_numpy(), abs=1e-12)
    assert (back["nde"] - there["nie"]).to_numpy() == pytest.approx(back["total"].to_numpy(), abs=1e-12)


def test_exchanging_clean_and_corrupted_exchanges_the_directions():
    trace = effects(trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED)))
    exchanged = effects(trace_of(both(CORRUPTED, CLEAN, NOISED, DENOISED)))
    for name in ("total", "nie", "nde"):
        assert only(trace, "denoising")[name] == pytest.approx(only(exchanged, "noising")[name])
        assert only(trace, "noising")[name] == pytest.approx(only(exchanged, "denoising")[name])
    assert only(trace, "denoising")["total"] == pytest.approx(-only(exchanged, "denoising")["total"])


def test_a_patch_of_nothing_and_a_patch_of_everything():
    """A patch that changes nothing leaves all of the effect direct; one that changes everything leaves none."""
    nothing = only(effects(trace_of(both(CLEAN, CORRUPTED, CORRUPTED, CLEAN))), "denoising")
    assert (nothing["nie"], nothing["nde"]) == pytest.approx((0, nothing["total"]))
    everything = only(effects(trace_of(both(CLEAN, CORRUPTED, CLEAN, CORRUPTED))), "denoising")
    assert (everything["nie"], everything["nde"]) == pytest.approx((everything["total"], 0))


@pytest.mark.parametrize(("stereotype", "nie"), [(1, 1.5), (-1, -1.5)])
def test_stereotype_view_multiplies_by_the_sign(stereotype, nie):
    trace = trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED, stereotype=stereotype))
    seen = only(effects(trace), "denoising")
    assert seen["nie"] == pytest.approx(nie)
    assert seen["base"] == pytest.approx(-stereotype)
    assert only(effects(trace, view="signed"), "denoising")["nie"] == pytest.approx(1.5)


@pytest.mark.parametrize(
    ("metric", "view", "pairs", "without"),
    [
        ("logit_diff", "stereotype", [0, 2], 1),
        ("logit_diff", "signed", [0, 1, 2], 0),
        ("prob_diff", "signed", [0, 1, 2], 0),
        ("prob_stereotypical", "signed", [0, 2], 1),
        ("odds_ratio", "signed", [0, 2], 1),
    ],
)
def test_pairs_without_a_stereotype_are_left_out_and_counted(metric, view, pairs, without):
    rows = [
        each
        for pair, sign in enumerate((1, 0, -1))
        for layer in range(2)
        for each in both(CLEAN, CORRUPTED, DENOISED, NOISED, pair=pair, stereotype=sign, layer=layer)
    ]
    derived = effects(trace_of(rows), metric, view=view)
    assert sorted(derived["pair"].unique()) == pairs
    assert terms_of(trace_of(rows), metric, view=view).without_stereotype == without
    assert derived[["total", "nie", "nde"]].notna().all(axis=None)


def test_no_stereotype_at_all_is_refused_with_the_way_out():
    trace = trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED, stereotype=0))
    with pytest.raises(LocateError, match=r"none of the 1 pairs has a stereotype.*use view='signed'"):
        effects(trace)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "nats"}, "metric 'nats': expected one of logit_diff"),
        ({"view": "male"}, "view 'male': expected one of stereotype, signed"),
    ],
)
def test_unknown_metric_or_view_is_refused(options, message):
    with pytest.raises(LocateError, match=message):
        effects(map_trace(layers=1), **options)


def test_effects_and_their_terms_say_what_was_derived():
    trace = trace_of(both(CLEAN, CORRUPTED, DENOISED, NOISED))
    about = terms_of(trace, "prob_diff", view="signed")
    assert (about.metric.name, about.unit, about.view) == ("prob_diff", "probability", "signed")
    derived = effects(trace, "prob_diff", view="signed")
    assert (one_word(derived, "metric"), one_word(derived, "view")) == ("prob_diff", "signed")
    assert terms_of(trace, "odds_ratio", view="signed").view == "stereotype"
    assert one_word(effects(trace, "odds_ratio", view="signed"), "view") == "stereotype"


def noisy():
    """One pair with two noise draws: both corrupted runs and both patched runs differ."""
    first = both((0.6, 0.2), (0.1, 0.4), (0.3, 0.3), (0.5, 0.3), sample=0)
    second = both((0.6, 0.2), (0.3, 0.2), (0.5, 0.1), (0.4, 0.2), sample=1)
    return trace_of([*first, *second], corruption={"kind": "noise", "samples": 2})


def test_samples_are_averaged_in_the_metric_itself():
    """Probabilities are averaged, not their logarithms."""
    found = only(effects(noisy(), "prob_diff"), "denoising")
    assert found["base"] == pytest.approx((-0.3 + 0.1) / 2)
    assert found["patched"] == pytest.approx((0.0 + 0.4) / 2)
    assert found["nie"] == pytest.approx((0.3 + 0.3) / 2)
    assert found["total"] == pytest.approx((0.7 + 0.3) / 2)


def test_log_odds_of_samples_are_averaged_as_log_odds():
    found = only(effects(noisy()), "denoising")
    assert found["nie"] == pytest.approx((np.log(4) + np.log(5 / 1.5)) / 2)


def test_samples_are_joined_with_the_same_sample_of_the_other_direction():
    """Ratios tell: each draw's direct effect is relative to its own base."""
    found = only(effects(noisy(), "odds_ratio"), "denoising")
    assert found["nde"] == pytest.approx(((3 / 5) / 4 - 1 + (1 / 2) / (2 / 3) - 1) / 2)


def test_samples_leave_one_row_with_the_labels():
    derived = effects(noisy())
    assert len(derived) == 2
    assert derived[["group", "clean", "token"]].drop_duplicates().to_numpy().tolist() == [
        ["nurse", "The nurse said that", "Ġnurse"]
    ]


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_direct_effect_needs_the_other_direction(direction):
    rows = [each for each in both(CLEAN, CORRUPTED, DENOISED, NOISED) if each["direction"] == direction]
    found = only(effects(trace_of(rows)), direction)
    assert np.isnan(found["nde"])
    assert np.isfinite([found["total"], found["nie"]]).all()


def test_a_patch_missing_in_the_other_direction_leaves_only_its_own_direct_effect_empty():
    rows = [
        *both(CLEAN, CORRUPTED, DENOISED, NOISED, layer=0),
        row(CORRUPTED, CLEAN, DENOISED, layer=1, direction="denoising"),
    ]
    derived = effects(trace_of(rows)).set_index(["layer", "direction"])
    assert derived.loc[(0, "denoising"), "nde"] == pytest.approx(2.25)
    assert np.isnan(derived.loc[(1, "denoising"), "nde"])


def test_tokens_at_different_places_in_the_two_prompts_are_joined_rightly():
    """A subject one token longer in the clean prompt: clean 2 plays the part of corrupted 1, clean 3 of corrupted 2."""
    rows = [
        *both(CLEAN, CORRUPTED, odds(0.0), odds(1.0), clean_pos=2, corrupted_pos=1),
        *both(CLEAN, CORRUPTED, odds(0.25), odds(1.5), clean_pos=3, corrupted_pos=2, role="after_subject"),
    ]
    derived = effects(trace_of(rows)).set_index(["direction", "clean_pos"])
    assert derived.loc[("denoising", 2), ["nie", "nde"]].tolist() == pytest.approx([1.0, 2.0])
    assert derived.loc[("denoising", 3), ["nie", "nde"]].tolist() == pytest.approx([1.25, 2.5])
    assert derived.loc[("noising", 2), ["nie", "nde"]].tolist() == pytest.approx([-1.0, -2.0])
    assert derived.loc[("noising", 3), ["nie", "nde"]].tolist() == pytest.approx([-0.5, -1.75])


def test_patches_that_differ_in_one_label_only_are_joined_with_their_own():
    rows, expected = [], {}
    variants = [{}, {"layer": 1}, {"window": 3}, {"severed": "mlp_out"}, {"component": "attn_out"}, {"pair": 1}]
    variants += [{"component": "head", "unit": unit} for unit in (0, 1)]
    for number, labels in enumerate(variants):
        rows += both(CLEAN, CORRUPTED, DENOISED, odds(number / 4), **labels)
        expected[number] = number / 4 + 1
    derived = effects(trace_of(rows))
    assert derived.loc[derived["direction"] == "denoising", "nde"].tolist() == pytest.approx(list(expected.values()))


def test_two_patches_filed_at_one_site_are_refused():
    """A site written from the source and set to zero in one trace cannot be told apart in its table."""
    rows = both(CLEAN, CORRUPTED, DENOISED, NOISED) + both(CLEAN, CORRUPTED, odds(0.1), odds(0.2))
    with pytest.raises(LocateError, match="mlp_out"):
        effects(trace_of(rows))


def test_order_of_rows_changes_nothing():
    trace = map_trace(layers=2)
    shuffled = Trace(trace.table.sample(frac=1, random_state=3).reset_index(drop=True), trace.meta)
    keys = ["pair", "direction", "component", "layer", "role"]
    first, second = (effects(each).set_index(keys).sort_index() for each in (trace, shuffled))
    assert first[["total", "nie", "nde"]].equals(second[["total", "nie", "nde"]])


@pytest.mark.parametrize("directions", [["denoising"], ["noising"], ["denoising", "noising"]])
def test_pair_log_odds_are_those_of_the_clean_run(directions):
    rows = [
        each
        for pair, (clean, group) in enumerate([(1.5, "nurse"), (-0.5, "driver")])
        for layer in range(2)
        for each in both(odds(clean), odds(9.0), odds(8.0), odds(7.0), pair=pair, group=group, layer=layer)
        if each["direction"] in directions
    ]
    found = pair_log_odds(trace_of(reversed(rows)))
    assert found["pair"].tolist() == [0, 1]
    assert found["group"].tolist() == ["nurse", "driver"]
    assert found["log_odds"].tolist() == pytest.approx([1.5, -0.5])


def test_pair_log_odds_are_not_repeated_for_samples():
    assert pair_log_odds(noisy())["log_odds"].tolist() == pytest.approx([np.log(3)])


@pytest.mark.parametrize("origin", ["zero", "given", "base+source"])
def test_no_direct_effect_is_read_off_patches_that_write_other_values(origin):
    """The other direction's zeroed run is not the run with the site held at base."""
    (there, back) = both(odds(2.0), odds(-2.0), odds(1.0), odds(0.5), origin=origin)
    found = effects(trace_of([there, back]))
    assert found["nde"].isna().all()
    assert found["nie"].notna().all()


def test_two_kinds_of_patch_at_one_site_are_kept_apart():
    rows = both(odds(2.0), odds(-2.0), odds(1.0), odds(0.5)) + both(
        odds(2.0), odds(-2.0), odds(0), odds(0), origin="zero"
    )
    found = effects(trace_of(rows)).query("direction == 'denoising'").set_index("origin")["nie"]
    assert found["source"] == pytest.approx(3.0)
    assert found["zero"] == pytest.approx(2.0)


def test_metrics_that_need_probabilities_refuse_a_run_without(gpt2):
    """Log-odds and their ratios are the same; the others would be wrong."""
    few = occupation_pairs("anti", templates_each=1, occupations=["nurse", "engineer"])
    whole, bare = (trace(gpt2, few, probabilities=each) for each in (True, False))
    assert bare.meta["probabilities"] is False
    for metric in ("logit_diff", "odds_ratio"):
        expected, found = effects(whole, metric), effects(bare, metric)
        np.testing.assert_allclose(found[EFFECTS], expected[EFFECTS], rtol=1e-5, atol=2e-5, equal_nan=True)
        assert found["total"].abs().max() > 1e-3
    for metric in ("prob_diff", "prob_stereotypical"):
        effects(whole, metric)
        with pytest.raises(LocateError, match=f"'{metric}' needs probabilities, which this run left out"):
            effects(bare, metric)
