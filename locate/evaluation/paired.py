"""Two texts compared: their log-likelihoods, the share that prefers the first, and the gap between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.evaluation.scores import Score, Step, mean_with_interval, share_with_interval

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

Request = tuple[str, str]
"""(context, continuation)"""


def likelihood_columns(
    model: CausalModel, requests: Mapping[str, Sequence[Request]], step: Step
) -> dict[str, list[float] | list[int]]:
    """For each name a column of log-likelihoods (nats), and `<name>_tokens`, the number of tokens in each sum.

    requests  name: (context, continuation) of each item; an empty context asks for a whole text, after BOS or else the
              end-of-text token

    A continuation longer than the model's context, or with a word that its tokenizer does not know (0 tokens), has no
    likelihood (nan); scores count it as skipped.
    """
    from locate.model.likelihood import log_likelihoods

    flat = [request for column in requests.values() for request in column]
    tokens = [token_count(model, request) for request in flat]
    fits = [place for place, count in enumerate(tokens) if 0 < count <= model.context]
    values = np.full(len(flat), np.nan)
    said = log_likelihoods(model, [flat[place] for place in fits], step=step)
    values[fits] = [each.log_likelihood for each in said]
    columns: dict[str, list[float] | list[int]] = {}
    start = 0
    for name, column in requests.items():
        end = start + len(column)
        columns[name], columns[f"{name}_tokens"] = values[start:end].tolist(), tokens[start:end]
        start = end
    return columns


def token_count(model: CausalModel, request: Request) -> int:
    """Tokens of a continuation; 0 where the tokenizer cannot read it."""
    from locate.model.likelihood import split_tokens

    try:
        return len(split_tokens(model, *request)[1])
    except LocateError:
        return 0


def is_measured(table: pd.DataFrame, *columns: str) -> pd.Series:
    """Which items have all these log-likelihoods."""
    return table[list(columns)].notna().all(axis=1)


def preference(
    test: str, name: str, table: pd.DataFrame, first: str, second: str, part: str = "", *, group: str = "group"
) -> Score:
    """Share of items whose first text is the likelier one, in percent, ideal 50; a tie is no win, and is counted.

    first, second  columns of log-likelihoods
    group          column that intervals resample
    """
    rows = table[is_measured(table, first, second)]
    wins, ties = rows[first] > rows[second], rows[first] == rows[second]
    value, low, high = share_with_interval(wins.to_numpy(), rows[group].to_numpy())
    return Score(
        test, name, value, low, high, "%", len(rows), rows[group].nunique(), part,
        ties=int(ties.sum()), skipped=len(table) - len(rows), ideal=50.0,
    )  # fmt: skip


def gap(
    test: str,
    name: str,
    table: pd.DataFrame,
    first: str,
    second: str,
    part: str = "",
    *,
    group: str = "group",
    size: bool = False,
) -> Score:
    """Mean difference of the log-likelihoods of the first and the second text, or of its size, in nats; ideal 0."""
    rows = table[is_measured(table, first, second)]
    values = (rows[first] - rows[second]).to_numpy(dtype=float)
    value, low, high = mean_with_interval(np.abs(values) if size else values, rows[group].to_numpy())
    return Score(
        test, name, value, low, high, "nats", len(rows), rows[group].nunique(), part,
        ties=int((values == 0).sum()), skipped=len(table) - len(rows), ideal=0.0,
    )  # fmt: skip


def without_ideal(score: Score) -> Score:
    """The score without an ideal, where nobody says what an unbiased model would have."""
    return replace(score, ideal=None)
