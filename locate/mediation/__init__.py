"""Mediation: effects, averages with intervals, shares, stability, selectivity, regression on scores, changes."""

from locate.mediation.averages import average, normalised, stability
from locate.mediation.change_table import changes
from locate.mediation.comparison import Comparison, compare, load_comparison
from locate.mediation.effect_table import default_view, effects, pair_log_odds
from locate.mediation.regression import gender_regression, gender_scores
from locate.mediation.selectivity_table import selectivity

__all__ = [
    "Comparison",
    "average",
    "changes",
    "compare",
    "default_view",
    "effects",
    "gender_regression",
    "gender_scores",
    "load_comparison",
    "normalised",
    "pair_log_odds",
    "selectivity",
    "stability",
]
