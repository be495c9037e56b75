"""How one number per word follows another: slope and correlation, with intervals over words."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy import stats

from locate.evaluation.scores import LEVEL, SAMPLES
from locate.mediation.regression import FEWEST, fit, interval
from locate.mediation.resampling import Intervals, cluster_weights

CLOSEST = 1 - 1e-12  # to 1, so that Fisher's z is finite

Values = Float[np.ndarray, " word"]
Estimate = tuple[float, float, float]
"""value, low, high"""


def unknown(x: Values, y: Values) -> bool:
    """Whether no line can be drawn: fewer than 8 words, or no spread in one of the two."""
    return len(x) < FEWEST or not np.ptp(x) > 0 or not np.ptp(y) > 0


def slope(x: Values, y: Values, *, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Least-squares slope of y on x with the interval of `locate.gender_regression`; nan where none can be drawn."""
    if unknown(x, y):
        return (np.nan,) * 3
    design, values = np.column_stack([x, np.ones(len(x))]), y[:, None]
    ends = interval(design, values, Intervals(LEVEL, samples, seed))
    value, low, high = (float(part[0, 0]) for part in (fit(design, values), *ends))
    return value, low, high


def correlation(x: Values, y: Values, *, samples: int = SAMPLES, seed: int = 0) -> Estimate:
    """Pearson's r with an interval from resampling words; nan where there is none.

    The interval is the percentile interval of Fisher's z = artanh r, widened for the number of words as that of the
    slope is, and taken back to r: it stays within -1 and 1.
    """
    if unknown(x, y):
        return (np.nan,) * 3
    words = len(x)
    weights = cluster_weights(words, samples, seed)
    drawn = fisher(weights, x, y)
    drawn = drawn[np.isfinite(drawn)]
    z = float(fisher(np.ones((1, words)), x, y)[0])
    tail = (1 - LEVEL) / 2
    wider = stats.t.ppf(1 - tail, words - 2) / stats.norm.ppf(1 - tail) * np.sqrt(words / (words - 2))
    low, high = z + wider * (np.quantile(drawn, [tail, 1 - tail]) - z)
    return float(np.tanh(z)), float(np.tanh(low)), float(np.tanh(high))


def fisher(weights: Float[np.ndarray, "sample word"], x: Values, y: Values) -> Float[np.ndarray, " sample"]:
    """Fisher's z of the correlation of each weighting of the words; nan where one of the two has no spread."""
    shares = weights / weights.sum(1, keepdims=True)
    dx, dy = x - (shares @ x)[:, None], y - (shares @ y)[:, None]
    across = (shares * dx * dy).sum(1)
    spread = np.sqrt((shares * dx**2).sum(1) * (shares * dy**2).sum(1))
    r = np.divide(across, spread, out=np.full(len(shares), np.nan), where=spread > 0)
    return np.arctanh(np.clip(r, -CLOSEST, CLOSEST))
