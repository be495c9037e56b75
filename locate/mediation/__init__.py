"""Mediation: effects of a trace, their averages with intervals, and normalised effects."""

from locate.mediation.averages import average, normalised
from locate.mediation.effects import default_view, effects, pair_log_odds

__all__ = ["average", "default_view", "effects", "normalised", "pair_log_odds"]
