"""Metrics from probabilities that can be divided on paper, and the formulas of Vig et al. 2020."""

import numpy as np
import pytest
from handmade import both, trace_of

from locate import LocateError
from locate.mediation import effects
from locate.metrics import METRICS, metric_named

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
    ],
)
def test_every_metric_has_its_unit(name, unit, signed):
    metric = metric_named(name)
    assert (metric.name, metric.unit, metric.signed) == (name, unit, signed)


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
