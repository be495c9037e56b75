"""Mediation: effects of a trace, their averages with intervals, normalised effects, how firm a ranking is, changes."""

from locate.mediation.averages import average, normalised, stability
from locate.mediation.changes import changes
from locate.mediation.comparison import Comparison, compare, load_comparison
from locate.mediation.effects import default_view, effects, pair_log_odds

__all__ = [
    "Comparison",
    "average",
    "changes",
    "compare",
    "default_view",
    "effects",
    "load_comparison",
    "normalised",
    "pair_log_odds",
    "stability",
]
