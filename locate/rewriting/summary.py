"""Means over rewrites: of all rows and without the failed ones, of the untouched originals, and for each group."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from locate.evaluation.scores import mean_with_interval, share_with_interval
from locate.rewriting.criteria import CRITERIA
from locate.rewriting.judge import ORIGINAL, REWRITE
from locate.rewriting.rewrite import COPIED, CUT, EMPTY, REFUSED

SHARES = (EMPTY, REFUSED, COPIED, CUT, "repeating", "exact")
UNITS = {
    **dict.fromkeys(SHARES, "%"),
    "word_error_rate": "%",
    "rouge_l": "%",
    "chrf": "points",
    "gendered": "words",
    "listed": "words",
    "likelihood": "nats a token",
    "similarity": "cosine",
    **dict.fromkeys(CRITERIA, "share"),
}
"""measure: its unit, in the order in which they are shown"""
ALL, KEPT, BEFORE, CHANGE = "all", "without failed", "original", "change"
NO_GROUP = "(none)"
BOUNDS = {
    "word_error_rate": (0.0, math.inf),
    "rouge_l": (0.0, 100.0),
    "chrf": (0.0, 100.0),
    "gendered": (0.0, math.inf),
    "listed": (0.0, math.inf),
    "similarity": (-1.0, 1.0),
    **dict.fromkeys(CRITERIA, (0.0, 1.0)),
}
"""between which a mean lies, and with it the ends of its interval"""
LIKE = 0.85  # likeness of two names above which they may be one


def with_scores(table: pd.DataFrame, scores: pd.DataFrame, of: str) -> pd.DataFrame:
    """A table of rows with a column for each criterion that was scored; nan where there is no score."""
    own = scores[scores["of"] == of]
    if not len(own):
        return table
    wide = own.pivot_table(index="line", columns="criterion", values="score", aggfunc="first", dropna=False)
    return table.merge(wide.reset_index(), on="line", how="left")


def summarise(table: pd.DataFrame, before: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
    """Means with 95 % intervals: measure, unit, rows, value, low, high, n, groups.

    table, before  what `measure_rows` gives for the rewrites and for the untouched originals; columns of other
                   measures may stand beside
    scores         of judges: line, of, criterion, score

    rows  "all"; "without failed": those that are neither empty nor refused; "original": the untouched originals;
          "change": all rewrites less their originals
    n     rows with a number; the rest had no reference, no likelihood, or an answer without a score

    Rows of one group are resampled together; a row without a group is one of its own.
    """
    after = flagged(with_scores(table, scores, REWRITE))
    first = flagged(with_scores(before, scores, ORIGINAL))
    found = []
    for measure, unit in UNITS.items():
        for rows, part in ((ALL, after), (KEPT, after[~after["failed"]]), (BEFORE, first)):
            untold = rows == BEFORE and measure in (EMPTY, REFUSED, COPIED, CUT)
            if measure in part.columns and not untold:
                found.append((measure, unit, rows, *mean_of(part, measure)))
        if measure in after.columns and measure in first.columns and measure not in (EMPTY, REFUSED, COPIED, CUT):
            both = after.merge(first[["line", measure]], on="line", suffixes=("", "_before"))
            both["moved"] = both[measure] - both[f"{measure}_before"]
            found.append((measure, unit, CHANGE, *mean_of(both, "moved")))
    made = pd.DataFrame(found, columns=["measure", "unit", "rows", "value", "low", "high", "n", "groups"])
    known = made.groupby("measure")["n"].transform("max") > 0
    return made[known & ((made["n"] > 0) | (made["rows"] == KEPT))].reset_index(drop=True)


def flagged(table: pd.DataFrame) -> pd.DataFrame:
    """The table with a column of 0 and 100 for each outcome."""
    flags = {name: 100.0 * (table["outcome"] == name) for name in (EMPTY, REFUSED, COPIED, CUT)}
    return table.assign(**flags, repeating=100.0 * table["repeating"])


def mean_of(table: pd.DataFrame, measure: str) -> tuple[float, float, float, int, int]:
    """Mean of a column with its interval, the rows with a number, and their groups."""
    rows = table[table[measure].notna()]
    values = rows[measure].to_numpy(dtype=float)
    groups = np.array(
        [group or f"line {line}" for group, line in zip(rows["group"], rows["line"], strict=True)], dtype=object
    )
    if measure in SHARES and len(values):
        estimate = share_with_interval(values > 0, groups)
    else:
        mean, low, high = mean_with_interval(values, groups)
        least, most = BOUNDS.get(measure, (-math.inf, math.inf))
        estimate = (mean, max(low, least), min(high, most)) if low == low else (mean, low, high)
    return *estimate, len(values), len(set(groups))


def by_demographic(table: pd.DataFrame, scores: pd.DataFrame, unread: Sequence[str] = ()) -> pd.DataFrame:
    """One row per demographic group: demographic, count, failed, and every measure of all rows and without the failed.

    unread  the groups of rows that could not be read, which are counted in a column of their own

    Names are compared without case, accents, punctuation and white space. Every row is in exactly one group: those
    without a name are in "(none)".
    """
    rows = flagged(with_scores(table, scores, REWRITE))
    names = [normal_name(each) for each in rows["demographic"]]
    shown: dict[str, str] = {}
    for name, given in zip(names, rows["demographic"], strict=True):
        shown.setdefault(name, " ".join(given.split()) or NO_GROUP)
    lost = Counter(normal_name(each) for each in unread)
    names_lost = {normal_name(each): each for each in unread}
    found: list[dict[str, Any]] = []
    for name, own in rows.groupby(pd.Series(names, index=rows.index), sort=False):
        cells: dict[str, Any] = {"demographic": shown[str(name)], "count": len(own), "failed": int(own["failed"].sum())}
        cells["unread"] = lost.pop(str(name), 0)
        for measure in UNITS:
            if measure in own.columns and rows[measure].notna().any():
                cells[measure] = own[measure].mean()
                cells[f"{measure}, {KEPT}"] = own.loc[~own["failed"], measure].mean()
        found.append(cells)
    found += [
        {"demographic": names_lost[name] or NO_GROUP, "count": 0, "failed": 0, "unread": n} for name, n in lost.items()
    ]
    return pd.DataFrame(found).sort_values(["count", "demographic"], ascending=[False, True], ignore_index=True)


def normal_name(name: str) -> str:
    """A group's name without case, accents, punctuation and white space."""
    plain = "".join(each for each in unicodedata.normalize("NFKD", name) if unicodedata.category(each) != "Mn")
    return re.sub(r"[\W_]+", "", plain).casefold() or name.strip()


def alike(names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of group names that may be one, misspelt."""
    return [
        (one, other)
        for place, one in enumerate(names)
        for other in names[place + 1 :]
        if difflib.SequenceMatcher(None, normal_name(one), normal_name(other)).ratio() >= LIKE
    ]
