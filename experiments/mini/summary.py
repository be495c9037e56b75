"""What the tables of `mini` say in numbers: correlations and shares, each with n and a 95 % interval."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import BootstrapMethod, binomtest, pearsonr

LEAST_SEEN = 50  # occurrences in the training text
LEAST_WITH_PRONOUN = 10
RESAMPLES = 10_000
X = {
    "text_she_share": "she-share of the pronouns after the occupation in the training text",
    "text_she_log_odds": "log((she + 1/2) / (he + 1/2)) of these pronouns (nats)",
    "share_women": "women among the occupation's workers in US labour statistics (%)",
}


def frequent(occupations: pd.DataFrame, shares: pd.DataFrame, odds: pd.DataFrame) -> pd.DataFrame:
    """Occupations seen LEAST_SEEN times or more, with the columns of X.

    The columns taken from the text are empty where fewer than LEAST_WITH_PRONOUN pronouns were seen.
    """
    table = occupations.rename(columns={"occupation": "word"}).assign(set="occupation")
    table = table.merge(shares, on=["word", "set"], validate="1:1").merge(odds, on=["word", "set"], validate="1:1")
    table = table[table["seen"] >= LEAST_SEEN]
    enough = table["with_pronoun"] >= LEAST_WITH_PRONOUN
    smoothed = np.log((table["she"] + 0.5) / (table["he"] + 0.5))
    return table.assign(
        text_she_share=table["she_share"].where(enough),
        text_she_log_odds=smoothed.where(enough),
    )


def correlation(x: pd.Series, y: pd.Series, seed: int) -> dict[str, float]:
    """Pearson r over the rows where x is given, with a percentile bootstrap interval over these rows."""
    known = x.notna()
    result = pearsonr(x[known], y[known])
    method = BootstrapMethod(n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(seed))
    low, high = result.confidence_interval(0.95, method=method)
    return {"r": result.statistic, "low": low, "high": high, "n": int(known.sum())}


def correlations(table: pd.DataFrame, seed: int) -> dict[str, dict[str, object]]:
    """Correlation of the occupations' mean log-odds with each column of X."""
    return {name: {"x": text, **correlation(table[name], table["log_odds"], seed)} for name, text in X.items()}


def share(right: np.ndarray) -> dict[str, float]:
    """Share of true entries with its Wilson interval."""
    low, high = binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    return {"share": right.mean(), "low": low, "high": high, "n": len(right)}


def definitions(definitional: pd.DataFrame, odds: np.ndarray, templates: Sequence[str]) -> dict[str, object]:
    """Share of the definitional words whose likelier pronoun is the word's own, over and in each template.

    odds  log p(" she") - log p(" he") in nats: [word, template]
    """
    gender = definitional["gender"].to_numpy()
    right = np.sign(odds.mean(1)) == gender
    each = np.sign(odds) == gender[:, None]  # [word, template]
    return {
        "mean_over_templates": {**share(right), "wrong": definitional["word"][~right].tolist()},
        "templates": {template: share(column) for template, column in zip(templates, each.T, strict=True)},
    }
