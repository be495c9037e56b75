"""Metrics: plain functions of the answers' log-probabilities, and how two of their values make an effect."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from locate.errors import LocateError

ANSWERS = ("female", "male", "neutral")

Column = Float[np.ndarray, " row"]


@dataclass(frozen=True)
class Metric:
    """y(run) from the answers' log-probabilities, and the effect that two values of y make.

    unit    of y and of its effects
    value   (log p of the first answer, log p of the second, stereotype sign) -> y, one number a row
    effect  (y of the changed run, y of the reference run) -> effect
    absolute  True where the log-probabilities themselves count, not just their difference
    signed  True where y is the first answer minus the second, so that multiplying by the stereotype sign gives the
            stereotypical view
    positive  what a positive effect means, where the view does not say it: towards the stereotype, or the first answer
    answers   the two that are compared, of female, male and neutral; the one nearer to female comes first

    `Metric("name", "unit", value, difference, signed=True)` is a metric of your own: it is accepted wherever the name
    of a metric is, and files record its name.
    """

    name: str
    unit: str
    value: Callable[[Column, Column, Column], Column]
    effect: Callable[[Column, Column], Column]
    signed: bool
    absolute: bool = False
    positive: str = ""
    answers: tuple[str, str] = ("female", "male")

    def __post_init__(self) -> None:
        if len(set(self.answers)) != 2 or not set(self.answers) <= set(ANSWERS):
            raise LocateError(f"answers {self.answers} of metric {self.name!r}: expected two of {', '.join(ANSWERS)}")

    @property
    def stereotyped(self) -> bool:
        """Whether it has no value for a pair without a stereotype."""
        return not self.signed


def logit_diff(first: Column, second: Column, stereotype: Column) -> Column:
    """log p(first) - log p(second): the log-odds of the two answers, nats."""
    return first - second


def prob_diff(female: Column, male: Column, stereotype: Column) -> Column:
    """p(female) - p(male), in [-1, 1]."""
    return np.exp(female) - np.exp(male)


def odds_ratio(female: Column, male: Column, stereotype: Column) -> Column:
    """p(anti-stereotypical) / p(stereotypical): the bias y(u) of Vig et al. 2020, section 3.1.

    nan where the pair has no stereotype (sign 0).
    """
    sign = np.where(stereotype == 0, np.nan, stereotype)
    return np.exp(-sign * (female - male))


def prob_stereotypical(female: Column, male: Column, stereotype: Column) -> Column:
    """Probability of the stereotypical answer, the form of score that ROME traces (Meng et al. 2022, section 2.1).

    nan where the pair has no stereotype (sign 0).
    """
    return np.where(stereotype == 0, np.nan, np.exp(np.where(stereotype > 0, female, male)))


def difference(changed: Column, reference: Column) -> Column:
    """changed - reference."""
    return changed - reference


def relative(changed: Column, reference: Column) -> Column:
    """changed / reference - 1 (Vig et al. 2020, equations 1 to 3)."""
    return changed / reference - 1


METRICS = {
    metric.name: metric
    for metric in (
        Metric("logit_diff", "nats", logit_diff, difference, signed=True),
        Metric("prob_diff", "probability", prob_diff, difference, signed=True, absolute=True),
        Metric("prob_stereotypical", "probability", prob_stereotypical, difference, signed=False, absolute=True),
        Metric("odds_ratio", "relative odds", odds_ratio, relative, signed=False, positive="away from the stereotype"),
        Metric("female_neutral", "nats", logit_diff, difference, signed=True, answers=("female", "neutral")),
        Metric("neutral_male", "nats", logit_diff, difference, signed=True, answers=("neutral", "male")),
    )
}


def positive_means(metric: Metric, view: str) -> str:
    """What a positive effect means: in the metric's own words, or by its view."""
    if metric.positive:
        return metric.positive
    return "towards the stereotype" if view == "stereotype" else f"towards the {metric.answers[0]} answer"


def metric_named(name: str | Metric) -> Metric:
    """The metric of that name; a metric of the user's own is returned as it is.

    Raises LocateError for an unknown name.
    """
    if isinstance(name, Metric):
        return name
    if name not in METRICS:
        raise LocateError(f"metric {name!r}: expected one of {', '.join(METRICS)}")
    return METRICS[name]
