"""Mediation: effects of a trace, averages with intervals, shares, stability, selectivity, regression on scores."""

from locate.mediation.averages import average, normalised, stability
from locate.mediation.effects import default_view, effects, pair_log_odds
from locate.mediation.regression import gender_regression, gender_scores
from locate.mediation.selectivity import selectivity

__all__ = [
    "average",
    "default_view",
    "effects",
    "gender_regression",
    "gender_scores",
    "normalised",
    "pair_log_odds",
    "selectivity",
    "stability",
]
