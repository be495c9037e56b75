"""Rewrites of any system, as they are judged: locate's JSON Lines, MBIAS's tables with their scores, a user's file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.rewriting.criteria import CRITERIA
from locate.rewriting.judge import ORIGINAL, REWRITE
from locate.rewriting.originals import TEXT, demographic_of, original_of
from locate.rewriting.rewrite import CUT, UNREAD, Rewritten, outcome_of
from locate.training.rows import Cells, is_encodable, numbered_rows

REWRITES = ("rewrite", "output", "debiased_text")  # where there are two, the latter is a reference
PUBLISHED = {
    "bias": "Bias_Score",
    "toxicity": "Toxicity_Score",
    "knowledge_retention": "Knowledge_Retention_Score",
    "faithfulness": "Faithfulness_Score",
    "relevancy": "AnswerRelevancy_Score",
}
"""MBIAS's columns; scores of the untouched original have the same name behind Original_"""
UNSCORED = -1.0  # in MBIAS's tables: the judge gave no score


def read_outputs(path: str | Path) -> tuple[list[Rewritten], pd.DataFrame]:
    """Rewrites with their originals, and the scores that stand beside them in MBIAS's columns.

    path  CSV, tab-separated or JSON Lines with a text (text, input_text, biased_text, toxic or gendered) and its
          rewrite (rewrite, debiased_text or output); references, group and demographic (or dimension) may stand beside

    Scores have one row per text and criterion (line, of, criterion, score); -1 stands for a score that the judge did
    not give, and becomes nan. A missing rewrite is an empty one. Rows without a text come back as "unread".

    Raises LocateError for a file without these columns or without rows.
    """
    path = Path(path)
    if not path.is_file():
        raise LocateError(f"no file {path}: expected rewrites, as `rewrite run` writes them")
    numbered, columns = numbered_rows(path)
    text = next((name for name in TEXT if name in columns), None)
    rewrite = next((name for name in REWRITES if name in columns), None)
    if text is None or rewrite is None:
        raise LocateError(
            f"{path} lacks {'a text' if text is None else 'a rewrite'}: found {', '.join(sorted(columns)) or 'none'}; "
            f"expected one of {', '.join(TEXT)} and one of {', '.join(REWRITES)}"
        )
    if not numbered:
        raise LocateError(f"{path} holds no rewrite: expected at least one")
    rows = [output_of(line, cells, text, rewrite) for line, cells in numbered]
    scores = [found for line, cells in numbered if isinstance(cells, dict) for found in published_scores(line, cells)]
    return rows, pd.DataFrame(scores, columns=["line", "of", "criterion", "score"])


def output_of(line: int, cells: Cells | str, text: str, rewrite: str) -> Rewritten:
    """One row: a rewrite, or why it cannot be read."""
    if isinstance(cells, str):
        return Rewritten(line, "", "", UNREAD, cells)
    others = {name: cell for name, cell in cells.items() if name != rewrite}
    found = original_of(line, others, text, strict=False)
    given = cells.get(rewrite)
    if isinstance(found, str):
        told = f"{cells['reason']} (line {cells.get('line')} of the texts)" if cells.get("reason") else found
        return Rewritten(line, "", "", UNREAD, told, demographic=demographic_of(cells))
    row = Rewritten(line, found.text, "", UNREAD, "", found.references, found.group, found.demographic)
    if given is not None and (not isinstance(given, str) or not is_encodable(given)):
        return replace(row, reason=f"{rewrite} {'has broken characters' if isinstance(given, str) else 'is not text'}")
    made = (given or "").strip()
    own = cells.get("outcome")
    if own == UNREAD:
        return replace(row, reason=f"{cells.get('reason')} (line {cells.get('line')} of the texts)")
    return replace(row, rewrite=made, outcome=outcome_of(found.text, made) or (CUT if own == CUT else ""))


def published_scores(line: int, cells: Cells) -> list[tuple[int, str, str, float]]:
    """The scores of a row in MBIAS's columns.

    Raises LocateError for a cell that is no number.
    """
    found = []
    for of, prefix in ((REWRITE, ""), (ORIGINAL, "Original_")):
        for name in CRITERIA:
            given: Any = cells.get(f"{prefix}{PUBLISHED[name]}")
            if given is None:
                continue
            try:
                score = float(given) if given != "" else math.nan
            except (TypeError, ValueError, OverflowError):
                score = math.inf
            if score != UNSCORED and not (0 <= score <= 1 or math.isnan(score)):
                raise LocateError(
                    f"line {line}: {prefix}{PUBLISHED[name]} is {str(given)[:40]!r}: expected a number between 0 "
                    "and 1, or -1 where there is none"
                )
            found.append((line, of, name, math.nan if score == UNSCORED else score))
    return found


def unread_counts(rows: Sequence[Rewritten]) -> dict[str, list[int]]:
    """The lines that could not be read, by reason."""
    found: dict[str, list[int]] = {}
    for row in rows:
        if row.outcome == UNREAD:
            found.setdefault(row.reason, []).append(row.line)
    return found
