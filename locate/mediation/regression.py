"""Regression of effects on two scores of a word: how stereotyped it is, and how much it says its gender."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from locate.errors import LocateError
from locate.mediation.averages import ROW
from locate.mediation.effect_table import EFFECTS, one_word
from locate.mediation.resampling import DEFAULT, Intervals, cluster_weights
from locate.prompts.build import definitional_table, occupation_table
from locate.sites import check

TERMS = ("stereotypical", "factual", "intercept")
SCORES = TERMS[:2]
FEWEST = 8  # words
COLLINEAR = 1e-6  # smallest over largest singular value of the scores
BLOCK = 1 << 22

Design = Float[np.ndarray, "word term"]
Values = Float[np.ndarray, "word cell"]
Coefficients = Float[np.ndarray, "term cell"]


def gender_scores() -> pd.DataFrame:
    """The package's scores: a row for each `word` with `stereotypical` and `factual`, positive for female, in [-1, 1].

    stereotypical  share of women in the occupation, 0 % as -1 and 100 % as +1; 0 for definitional words
    factual        +1 and -1 for words that say that they are female and male; 0 for occupations
    """
    jobs, words = occupation_table(), definitional_table()
    parts = [
        pd.DataFrame({"word": jobs["occupation"], "stereotypical": jobs["share_women"] / 50 - 1, "factual": 0.0}),
        pd.DataFrame({"word": words["word"], "stereotypical": 0.0, "factual": words["gender"].astype(float)}),
    ]
    return pd.concat(parts, ignore_index=True)


def gender_regression(
    effects: pd.DataFrame,
    scores: pd.DataFrame | None = None,
    column: str = "nie",
    chosen: Intervals = DEFAULT,
) -> pd.DataFrame:
    """y = a_s x_s + a_f x_f + b at every site and direction, by least squares over words (Limisiewicz et al. 2024).

    effects  of both kinds of words, female minus male: `effects(trace, view="signed", kind="all")`
    scores   columns word, stereotypical (x_s) and factual (x_f), positive for female, as `gender_scores` (the default)
             returns them; flip the signs of a table that is negative for female
    column   as in `average`; y is its mean over the pairs of a word (a group of the trace)
    chosen   level, resamples and seed of the intervals

    Returns one row per (direction, site) and `term` (stereotypical, factual, intercept): the `coefficient`, in the
    effects' unit for one unit of score, with `low` and `high`, `words`, and `r2`, the share of variance explained.
    Words are resampled; the interval is the wider of the percentile interval, widened for the number of words, and
    Student's with the HC3 error (MacKinnon and White 1985). Sites with fewer than 8 words, or whose own words' scores
    are collinear, have nan. `words_without_score` are left out.

    y is what the swap shows: an effect of "nurse" in the place of "man" holds the gender of "man", and one of "actress"
    in the place of "actor" twice that of a word. Neutral swaps or noise compare with nothing gendered.

    Raises LocateError for effects that are not signed, scores that are incomplete or collinear, and too few words.
    """
    check("column", column, tuple(EFFECTS))
    if one_word(effects, "view") != "signed":
        raise LocateError(
            f"effects in view {one_word(effects, 'view')!r}: expected 'signed' (female minus male), as the scores are: "
            "take effects(trace, view='signed', kind='all')"
        )
    if effects[column].isna().any():
        raise LocateError(
            f"{int(effects[column].isna().sum())} values of {column!r} are missing: choose another column"
        )
    known = checked(gender_scores() if scores is None else scores)
    values = by_word(effects, column)
    without = [str(word) for word in values.index if word not in known.index]
    values = values[values.index.isin(known.index)]
    x = known.loc[values.index].to_numpy(dtype=float)
    design = np.column_stack([x, np.ones(len(x))])
    check_design(design, without)
    y = values.to_numpy(dtype=float)
    found = np.full((3, len(TERMS), y.shape[1]), np.nan)
    r2 = np.full(y.shape[1], np.nan)
    for words, cells in alike(~np.isnan(y)):
        if len(words) >= FEWEST and not collinear(design[words]):
            part = fit(design[words], y[np.ix_(words, cells)])
            ends = interval(design[words], y[np.ix_(words, cells)], chosen)
            found[:, :, cells] = np.stack([part, *ends])
            r2[cells] = explained(design[words], y[np.ix_(words, cells)], part)
    index = values.columns.to_frame(index=False)
    parts = [
        index.assign(term=term, coefficient=found[0, place], low=found[1, place], high=found[2, place],
                     words=(~np.isnan(y)).sum(0), r2=r2)
        for place, term in enumerate(TERMS)
    ]  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def words_without_score(effects: pd.DataFrame, scores: pd.DataFrame | None = None) -> list[str]:
    """Words of the effects that have no score, in the order of the effects."""
    known = checked(gender_scores() if scores is None else scores)
    return [str(word) for word in effects["group"].unique() if word not in known.index]


def checked(scores: pd.DataFrame) -> pd.DataFrame:
    """The two scores by word.

    Raises LocateError for missing columns or values, or a word that stands twice.
    """
    missing = [name for name in ("word", *SCORES) if name not in scores]
    if missing:
        raise LocateError(f"the scores lack the columns {', '.join(missing)}: expected word, {', '.join(SCORES)}")
    twice = scores.loc[scores["word"].duplicated(), "word"].tolist()
    if twice:
        raise LocateError(f"the scores hold {twice[0]!r} more than once: expected one row for each word")
    table = scores.set_index("word")[list(SCORES)].astype(float)
    if not np.isfinite(table.to_numpy()).all():
        raise LocateError(f"{int((~np.isfinite(table.to_numpy())).sum())} scores are not finite: leave those words out")
    return table


def by_word(effects: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean effect of each word (row) at each site and direction (column); nan where it has none."""
    pairs = effects.groupby([*ROW, "group", "pair"], sort=False, observed=True)[column].mean()
    return pairs.groupby([*ROW, "group"], sort=False, observed=True).mean().unstack("group").T


def check_design(design: Design, without: list[str]) -> None:
    """Raise LocateError for too few words, or scores that do not tell the two apart."""
    if len(design) < FEWEST:
        more = f"; {len(without)} others have no score ({', '.join(without[:3])}, ...)" if without else ""
        raise LocateError(f"{len(design)} words with scores: expected at least {FEWEST}{more}")
    if collinear(design):
        raise LocateError(
            f"the scores of the {len(design)} words are collinear, so no regression can tell stereotypical from "
            "factual: trace occupations and definitional words together (--words both), with effects(trace, kind='all')"
        )


def collinear(design: Design) -> bool:
    """Whether one column is, but for rounding, a combination of the others."""
    lengths = np.linalg.norm(design, axis=0)
    if (lengths == 0).any():
        return True
    sizes = np.linalg.svd(design / lengths, compute_uv=False)
    return bool(sizes[-1] < COLLINEAR * sizes[0])


def alike(here: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each set of words, with the cells that have exactly these words."""
    patterns, which = np.unique(here, axis=1, return_inverse=True)
    for number, pattern in enumerate(patterns.T):
        yield np.flatnonzero(pattern), np.flatnonzero(which.ravel() == number)


def fit(design: Design, y: Values) -> Coefficients:
    """Least squares."""
    return np.linalg.lstsq(design, y, rcond=None)[0]


def explained(design: Design, y: Values, coefficients: Coefficients) -> Float[np.ndarray, " cell"]:
    """Share of the variance over words that the scores explain; nan where there is none."""
    total = ((y - y.mean(0)) ** 2).sum(0)
    left = ((y - design @ coefficients) ** 2).sum(0)
    return 1 - np.divide(left, total, out=np.full(total.shape, np.nan), where=total > 0)


def interval(design: Design, y: Values, chosen: Intervals) -> tuple[Coefficients, Coefficients]:
    """Low and high end of each coefficient."""
    words, terms = design.shape
    tail = chosen.tails[0]
    estimate = fit(design, y)
    student = stats.t.ppf(1 - tail, words - terms)
    half = student * hc3(design, y - design @ estimate)
    wider = student / stats.norm.ppf(1 - tail) * np.sqrt(words / (words - terms))
    weights = cluster_weights(words, chosen.samples, chosen.seed)
    squares = np.einsum("sw,wi,wj->sij", weights, design, design, optimize=True)
    usable = np.linalg.eigvalsh(squares)[:, 0] > COLLINEAR**2 * words
    low, high = np.empty_like(estimate), np.empty_like(estimate)
    step = max(1, BLOCK // (chosen.samples * terms))
    for first in range(0, y.shape[1], step):
        cells = slice(first, first + step)
        rest = y[:, cells] - design @ estimate[:, cells]
        products = np.einsum("sw,wt,wc->stc", weights[usable], design, rest, optimize=True)
        drawn = np.linalg.solve(squares[usable], products)
        below, above = wider * np.quantile(drawn, [tail, 1 - tail], axis=0)
        low[:, cells] = estimate[:, cells] + np.minimum(below, -half[:, cells])
        high[:, cells] = estimate[:, cells] + np.maximum(above, half[:, cells])
    return low, high


def hc3(design: Design, rest: Values) -> Coefficients:
    """Standard errors robust to unequal variances: residuals over 1 - leverage."""
    inverse = np.linalg.inv(design.T @ design)
    leverage = np.einsum("wi,ij,wj->w", design, inverse, design)
    weighted = rest / np.maximum(1 - leverage, np.finfo(float).eps)[:, None]
    return np.sqrt(np.einsum("tw,wc->tc", (inverse @ design.T) ** 2, weighted**2))
