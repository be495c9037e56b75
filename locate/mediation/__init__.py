"""Mediation: effects of a trace, their averages with intervals, normalised effects, and how firm a ranking is."""

from locate.mediation.averages import average, normalised, stability
from locate.mediation.effects import default_view, effects, pair_log_odds

__all__ = ["average", "default_view", "effects", "normalised", "pair_log_odds", "stability"]
