"""Metrics from probabilities that can be divided on paper, and the formulas of Vig et al. 2020."""

import numpy as np
import pytest
from handmade import both, map_trace, trace_of

from locate import LocateError, analyse, compare, load_located, rank
from locate.mediation import effects
from locate.mediation.effect_table import EFFECTS, terms_of
from locate.metrics import METRICS, Metric, logit_diff, metric_named
from locate.tracing.table import Trace

SHE, HE = np.log([0.6, 0.1, 0.25]), np.log([0.2, 0.4, 0.25])
FEMALE, MALE, NONE = np.ones(3), -np.ones(3), np.zeros(3)


@pytest.mark.parametrize(
    ("name", "stereotype", "expected"),
    [
        ("logit_diff", FEMALE, [np.log(3), -np.log(4), 0]),
        ("logit_diff", MALE, [np.log(3), -np.log(4), 0]),
        ("logit_diff", NONE, [np.log(3), -np.log(4), 0]),
        ("prob_diff", FEMALE, [0.4, -0.3, 0]),
        ("prob_diff", MALE, [0.4, -0.3, 0]),
        ("prob_diff", NONE, [0.4, -0.3, 0]),
        ("prob_stereotypical", FEMALE, [0.6, 0.1, 0.25]),
        ("prob_stereotypical", MALE, [0.2, 0.4, 0.25]),
        ("prob_stereotypical", NONE, [np.nan] * 3),
        ("odds_ratio", FEMALE, [1 / 3, 4, 1]),
        ("odds_ratio", MALE, [3, 1 / 4, 1]),
        ("odds_ratio", NONE, [np.nan] * 3),
    ],
)
def test_value_from_probabilities(name, stereotype, expected):
    assert METRICS[name].value(SHE, HE, stereotype) == pytest.approx(np.array(expected), nan_ok=True)


def test_only_pairs_without_a_stereotype_are_nan():
    mixed = np.array([1.0, 0.0, -1.0])
    assert METRICS["odds_ratio"].value(SHE, HE, mixed) == pytest.approx(np.array([1 / 3, np.nan, 1]), nan_ok=True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("logit_diff", 1.5), ("prob_diff", 1.5), ("prob_stereotypical", 1.5), ("odds_ratio", 3.0)],
)
def test_effect_of_two_values(name, expected):
    """2 against 0.5: a difference of 1.5, a change by 300 %."""
    assert METRICS[name].effect(np.array([2.0]), np.array([0.5])) == pytest.approx(np.array([expected]))


@pytest.mark.parametrize(
    ("name", "unit", "signed"),
    [
        ("logit_diff", "nats", True),
        ("prob_diff", "probability", True),
        ("prob_stereotypical", "probability", False),
        ("odds_ratio", "relative odds", False),
        ("female_neutral", "nats", True),
        ("neutral_male", "nats", True),
    ],
)
def test_every_metric_has_its_unit(name, unit, signed):
    metric = metric_named(name)
    assert (metric.name, metric.unit, metric.signed) == (name, unit, signed)
    assert set(METRICS) == {
        "logit_diff", "prob_diff", "prob_stereotypical", "odds_ratio", "female_neutral", "neutral_male",
    }  # fmt: skip


def with_they(trace: Trace, they: float = 0.125) -> Trace:
    """The trace with p(they) after the base run; half of it in the source run, a quarter in the patched one."""
    table = trace.table.copy()
    for run, share in (("base", 1), ("source", 2), ("patched", 4)):
        table[f"{run}_neutral"] = np.log(they / share)
    return Trace(table, trace.meta)


RUNS = ((0.4, 0.1), (0.2, 0.2), (0.3, 0.2), (0.5, 0.1))  # p(she), p(he): clean, corrupted, denoised, noised


@pytest.mark.parametrize(
    ("metric", "stereotype", "total", "nie"),
    [  # base p(they) 1/8, source 1/16, patched 1/32
        ("female_neutral", 1, np.log(0.4 * 16) - np.log(0.2 * 8), np.log(0.3 * 32) - np.log(0.2 * 8)),
        ("neutral_male", 1, np.log(1 / 16 / 0.1) - np.log(1 / 8 / 0.2), np.log(1 / 32 / 0.2) - np.log(1 / 8 / 0.2)),
        ("neutral_male", -1, np.log(1 / 8 / 0.2) - np.log(1 / 16 / 0.1), np.log(1 / 8 / 0.2) - np.log(1 / 32 / 0.2)),
    ],
)
def test_an_answer_against_the_neutral_one_by_hand(metric, stereotype, total, nie):
    derived = effects(with_they(trace_of(both(*RUNS, stereotype=stereotype))), metric)
    found = derived[derived["direction"] == "denoising"].iloc[0]
    assert (found["total"], found["nie"]) == pytest.approx((total, nie))


def test_she_against_they_and_they_against_he_add_up_to_she_against_he():
    trace = with_they(map_trace())
    whole, first, second = (effects(trace, name) for name in ("logit_diff", "female_neutral", "neutral_male"))
    for column in EFFECTS:
        assert (first[column] + second[column]).to_numpy() == pytest.approx(whole[column].to_numpy(), abs=1e-12)
        assert (second[column] != 0).any()


def test_what_is_positive_names_the_first_answer(tmp_path):
    trace = with_they(map_trace())
    assert terms_of(trace, "female_neutral", view="signed").positive == "towards the female answer"
    assert terms_of(trace, "neutral_male").positive == "towards the stereotype"
    analysis = analyse(trace, metric="neutral_male", view="signed", samples=100)
    assert analysis.terms.positive == "towards the neutral answer"
    assert load_located(analysis.located.save(tmp_path / "located.json")) == analysis.located
    other = {"weights_sha256": "v" * 64}
    meta = trace.meta | {name: trace.meta[name] | other for name in ("model", "recipe")}
    found = compare(analysis, analyse(Trace(trace.table, meta), metric="neutral_male", view="signed", samples=100))
    assert found.positive == "towards the neutral answer"
    found.save(tmp_path / "compare.json")


def test_pairs_without_a_neutral_answer_are_refused():
    trace = map_trace()
    trace.table.loc[trace.table["pair"] > 2, "base_neutral"] = -1.0
    with pytest.raises(
        LocateError, match=r"^3 of 24 pairs have no neutral answer of one token, which metric 'neutral_m"
    ):
        rank(trace, metric="neutral_male")


@pytest.mark.parametrize("answers", [("female", "they"), ("male", "male")])
def test_a_metric_compares_two_known_answers(answers):
    with pytest.raises(LocateError, match=r"of metric 'mine': expected two of female, male, neutral$"):
        Metric("mine", "nats", logit_diff, METRICS["logit_diff"].effect, signed=True, answers=answers)


def test_unknown_metric_is_refused():
    with pytest.raises(LocateError, match="metric 'ratio': expected one of logit_diff, prob_diff, prob_stereotypical"):
        metric_named("ratio")


@pytest.mark.parametrize(("stereotype", "flip"), [(1, False), (-1, True)])
def test_effects_of_vig_et_al(stereotype, flip):
    """Equations 1 to 3 of Vig et al. 2020: TE, NIE and NDE are y'/y - 1, with y = p(anti) / p(stereotypical)."""
    runs = [
        (0.6, 0.2),  # clean, the null intervention: y = 1/3
        (0.2, 0.4),  # corrupted, set-gender: y = 2, so TE = 5
        (0.4, 0.2),  # denoised, set-gender with the mediator held: y = 1/2, so NDE = 1/2
        (0.3, 0.3),  # noised, the mediator alone set: y = 1, so NIE = 2
    ]
    if flip:
        runs = [(he, she) for she, he in runs]
    derived = effects(trace_of(both(*runs, stereotype=stereotype)), "odds_ratio")
    null = derived[derived["direction"] == "noising"].iloc[0]
    assert (null["total"], null["nie"], null["nde"]) == pytest.approx((5, 2, 0.5))
