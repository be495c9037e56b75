"""effects(): total, natural indirect and natural direct effect of every patch, from the trace's table alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.mediation.keys import Codes, number_rows
from locate.metrics import Metric, metric_named, positive_means
from locate.sites import DIRECTIONS, check
from locate.tracing.table import SITE, Trace

VIEWS = ("stereotype", "signed")
OCCUPATION, DEFINITION, EVERY = "occupation", "definition", "all"
PLACE = ["clean_pos", "corrupted_pos"]
CELL = ["pair", *SITE, *PLACE]
EFFECTS = ["total", "nie", "nde"]
KEPT = ["group", "template", "kind", "stereotype", "clean", "corrupted", "token"]


@dataclass(frozen=True)
class Terms:
    """How the effects of a trace are derived: metric, view and kind, and what they leave out.

    metric              its values are what the effects compare; they share its unit
    view                "stereotype" or "signed"
    kind                of the pairs: "occupation", "definition", "user" or "all"
    other_kinds         pairs of each other kind, which are left out
    without_stereotype  pairs that the view or the metric leaves out
    rounding            rounding error of the effects (see `rounding`); 0 for a metric that is not in nats
    """

    metric: Metric
    view: str
    kind: str
    other_kinds: dict[str, int]
    without_stereotype: int
    rounding: float

    @property
    def unit(self) -> str:
        """Unit of the metric and of its effects."""
        return self.metric.unit

    @property
    def positive(self) -> str:
        """What a positive effect means."""
        return positive_means(self.metric, self.view)


def terms_of(
    trace: Trace, metric: str | Metric = "logit_diff", *, view: str = "stereotype", kind: str | None = None
) -> Terms:
    """The terms of `effects` called with the same arguments.

    Raises LocateError for an unknown metric, view or kind, or a metric that needs probabilities that were left out, or
    an answer that a pair lacks.
    """
    chosen = metric_named(metric)
    check("view", view, VIEWS)
    if chosen.absolute and not trace.meta.get("probabilities", True):
        raise LocateError(
            f"metric {chosen.name!r} needs probabilities, which this run left out: choose logit_diff or odds_ratio, or "
            "trace again with them"
        )
    table = of_kind(trace.table, kind)
    check_answers(table, chosen)
    others = trace.table[~trace.table["kind"].isin(table["kind"].unique())]
    counted = others.groupby("kind", observed=True)["pair"].nunique()
    signed = chosen.signed and view == "signed"
    return Terms(
        metric=chosen,
        view="signed" if signed else "stereotype",
        kind=default_kind(trace.table) if kind is None else kind,
        other_kinds={str(each): int(n) for each, n in counted.items()},
        without_stereotype=0 if signed else int(table.loc[table["stereotype"] == 0, "pair"].nunique()),
        rounding=rounding(trace) if chosen.unit == "nats" else 0.0,
    )


def check_answers(table: pd.DataFrame, metric: Metric) -> None:
    """Raise LocateError where a pair has no log-probability of an answer that the metric compares."""
    missing = table[[f"base_{answer}" for answer in metric.answers]].isna().any(axis=1)
    if missing.any():
        pairs = table["pair"]
        raise LocateError(
            f"{pairs[missing].nunique()} of {pairs.nunique()} pairs have no neutral answer of one token, which metric "
            f"{metric.name!r} compares: choose logit_diff, or trace pairs that have one"
        )


def effects(
    trace: Trace, metric: str | Metric = "logit_diff", *, view: str = "stereotype", kind: str | None = None
) -> pd.DataFrame:
    """Effects of every patch in every pair, averaged over the samples of a noise corruption.

    metric  the name of one of METRICS ("logit_diff", in nats, is the default), or a `Metric` of yours
    view    "stereotype": a female-minus-male metric is multiplied by the pair's stereotype sign, so that positive is
            towards the stereotype of the clean subject; "signed": it is left female minus male
    kind    only pairs of this kind ("occupation", "definition", "user"); "all" for every pair; None for the kind that
            `default_kind` chooses, so that words that say their gender never enter the averages of a bias

    Returns one row per (pair, patch, direction) with the labels of the trace, the names of the `metric` and `view`, the
    `rounding` of the trace (see `Terms`), and

    base, source, patched  the metric of the three runs
    total   y(source) - y(base): total effect of replacing the whole prompt
    nie     y(base with the site from source) - y(base): natural indirect effect through the site
    nde     y(source with the site held at base) - y(base): natural direct effect around the site; it is read off the
            patched run of the other direction, and nan where that was not traced or the patch writes other values
            than the source's (zero, given vectors, frozen sites)

    in the unit of the metric; for odds_ratio each is y' / y - 1 (Vig et al. 2020, equations 1 to 3). For a difference
    metric total(base to source) = nde(base to source) - nie(source to base) holds exactly (Pearl 2001).

    Under the stereotype view and for metrics that need a stereotype, pairs with sign 0 are left out; `terms_of` counts
    them, and says the kind.

    Raises LocateError as `terms_of` does, or when no pair is left.
    """
    terms, table = terms_of(trace, metric, view=view, kind=kind), of_kind(trace.table, kind)
    if terms.view == "stereotype":
        table = table[table["stereotype"] != 0]
        if table.empty:
            raise LocateError(
                f"none of the {terms.without_stereotype} pairs has a stereotype, which metric {terms.metric.name!r} in "
                f"view {view!r} needs: give the prompts a stereotype of -1 or 1, or use view='signed' with logit_diff "
                "or prob_diff"
            )
    place = number_rows(table, [*CELL, "sample"])
    direction = (table["direction"] == DIRECTIONS[1]).to_numpy().astype(np.int64)
    here = place * 2 + direction
    twice = pd.Series(here, index=table.index).duplicated()
    if twice.any():
        where = ", ".join(f"{name} {value!r}" for name, value in table.loc[twice, CELL].iloc[0].items())
        raise LocateError(f"two patches are filed at {where}, so no table can tell them apart: trace them in two runs")
    rows, effect = values(table, terms.metric, view), terms.metric.effect
    held = held_at_base(rows["patched"].to_numpy(), place, direction)
    rows["total"] = effect(rows["source"].to_numpy(), rows["base"].to_numpy())
    rows["nie"] = effect(rows["patched"].to_numpy(), rows["base"].to_numpy())
    rows["nde"] = np.where(rows["origin"] == "source", effect(held, rows["base"].to_numpy()), np.nan)
    result = over_samples(rows)
    for name, word in (("metric", terms.metric.name), ("view", terms.view)):
        result[name] = pd.Categorical.from_codes(np.zeros(len(result), dtype=int), [word])
    result["rounding"] = terms.rounding
    return result


def one_word(effects: pd.DataFrame, column: str) -> str | None:
    """The metric or view that a table of effects names; None where it names none, or several."""
    words = effects[column].unique() if column in effects else []
    return str(words[0]) if len(words) == 1 else None


def rounding(trace: Trace) -> float:
    """Rounding error of this trace's log-odds effects (nats): twice the largest difference of runs that must agree."""
    audit = trace.meta.get("audit", {})
    found = [audit.get("identities", {}).get(name, 0.0) for name in ("self", "everything")]
    return 2 * max(*found, audit.get("engine", {}).get("largest_difference", 0.0))


def default_kind(table: pd.DataFrame) -> str:
    """The kind of pairs that results are about where none is asked for; it is chosen here and nowhere else.

    The only kind there is; else occupations; else the only kind besides definitional words.

    Raises LocateError where several remain.
    """
    kinds = sorted({str(each) for each in table["kind"].unique()})
    for chosen in (
        kinds,
        [each for each in kinds if each == OCCUPATION],
        [each for each in kinds if each != DEFINITION],
    ):
        if len(chosen) == 1:
            return chosen[0]
    raise LocateError(f"the pairs are of kinds {', '.join(kinds)}: choose one of them, or {EVERY!r} for the mixture")


def subject_of(kind: str) -> str:
    """What pairs of a kind exchange, in a word: "occupation", "word" (one that says its gender) or "subject"."""
    return {OCCUPATION: "occupation", DEFINITION: "word"}.get(kind, "subject")


def answers_of(meta: dict[str, Any]) -> tuple[str | None, ...] | None:
    """The answers that all pairs of a trace share, from its meta; None where they differ, or an older run says none."""
    found = meta.get("prompts", {}).get("answers")
    return None if found is None else tuple(found)


def of_kind(table: pd.DataFrame, kind: str | None) -> pd.DataFrame:
    """The rows of one kind of pairs; see `effects`.

    Raises LocateError when there are none.
    """
    chosen = default_kind(table) if kind is None else kind
    found = table if chosen == EVERY else table[table["kind"] == chosen]
    if found.empty:
        have = ", ".join(sorted({str(each) for each in table["kind"].unique()}))
        raise LocateError(f"kind {chosen!r} was not traced: expected one of {have}, or {EVERY!r}")
    return found


def default_view(trace: Trace) -> str:
    """The stereotype view where any pair has a stereotype, else female minus male."""
    return "stereotype" if (trace.table["stereotype"] != 0).any() else "signed"


def values(table: pd.DataFrame, metric: Metric, view: str) -> pd.DataFrame:
    """The labels of a trace's rows with the metric of the three runs instead of log-probabilities."""
    sign = table["stereotype"].to_numpy(dtype=float)
    rows = table[[*CELL, "sample", "direction", *KEPT]].copy()
    for run in ("base", "source", "patched"):
        first, second = (table[f"{run}_{answer}"].to_numpy() for answer in metric.answers)
        y = metric.value(first, second, sign)
        rows[run] = y * sign if metric.signed and view == "stereotype" else y
    return rows


def held_at_base(patched: np.ndarray, place: Codes, direction: Codes) -> np.ndarray:
    """For each row the metric of the source run with the site held at base: the other direction's patched run.

    place, direction  numbers of the cell and sample, and of the direction, of each row; nan where only one was traced
    """
    found = np.full(2 * (int(place.max()) + 1), np.nan)
    found[2 * place + direction] = patched
    return found[2 * place + 1 - direction]


def over_samples(rows: pd.DataFrame) -> pd.DataFrame:
    """Means over the samples of each patch; the rows as they are where there is one sample."""
    numbers = ["base", "source", "patched", *EFFECTS]
    if rows["sample"].nunique() == 1:
        return rows[["direction", *CELL, *KEPT, *numbers]].reset_index(drop=True)
    keys = ["direction", *CELL]
    grouped = rows.groupby(keys, sort=False, observed=True)
    means = grouped[numbers].mean()
    return grouped[KEPT].first().join(means).reset_index()


def pair_log_odds(trace: Trace) -> pd.DataFrame:
    """Log-odds of the answers (log p female - log p male, nats) after each clean prompt, one row per pair."""
    first = trace.table[trace.table["sample"] == 0].drop_duplicates(["pair", "direction"])
    clean = pd.concat(
        [
            first[first["direction"] == direction].assign(
                log_odds=lambda rows, run=run: rows[f"{run}_female"] - rows[f"{run}_male"]
            )
            for direction, run in (("noising", "base"), ("denoising", "source"))
        ]
    ).drop_duplicates("pair")
    columns = ["pair", "group", "template", "kind", "stereotype", "clean", "log_odds"]
    result = clean[columns].sort_values("pair").reset_index(drop=True)
    assert np.isfinite(result["log_odds"]).all()
    return result
