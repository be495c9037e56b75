"""Mediation: from a trace to effects, averages with intervals, rankings and comparisons; `analysis` is the way in."""

from locate.mediation.analysis import Analysis, analyse, rank
from locate.mediation.averages import average, normalised, stability
from locate.mediation.change_table import changes
from locate.mediation.comparison import Comparison, compare_traces, load_comparison
from locate.mediation.effect_table import default_view, effects, pair_log_odds
from locate.mediation.regression import gender_regression, gender_scores
from locate.mediation.resampling import Intervals
from locate.mediation.selectivity_table import selectivity

__all__ = [
    "Analysis",
    "Comparison",
    "Intervals",
    "analyse",
    "average",
    "changes",
    "compare_traces",
    "default_view",
    "effects",
    "gender_regression",
    "gender_scores",
    "load_comparison",
    "normalised",
    "pair_log_odds",
    "rank",
    "selectivity",
    "stability",
]
