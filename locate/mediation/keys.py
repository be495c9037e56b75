"""Numbers for combinations of labels: which table rows belong to one cell, pair or sample, found without merging."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

MOST = 1 << 40  # combined codes beyond which they are numbered anew

Codes = Int[np.ndarray, " row"]


def number_rows(table: pd.DataFrame, columns: Sequence[str]) -> Codes:
    """A number for each row, the same for rows with the same values of the columns, in order of first appearance."""
    return number_together([code_column(table[name]) for name in columns])


def number_together(codes: Sequence[Codes]) -> Codes:
    """A number for each combination of codes from 0 up, in order of first appearance."""
    combined, count = np.zeros(len(codes[0]), dtype=np.int64), 1
    for each in codes:
        size = int(each.max()) + 1 if len(each) else 1
        if count * size > MOST:
            combined = pd.factorize(combined)[0].astype(np.int64)
            count = int(combined.max()) + 1
        combined, count = combined * size + each, count * size
    return pd.factorize(combined)[0].astype(np.int64)


def code_column(column: pd.Series) -> Codes:
    """A number for each value of a column; of a missing label, one of its own."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.int64) + 1
    return pd.factorize(column, use_na_sentinel=False)[0].astype(np.int64)


def first_rows(codes: Codes) -> Int[np.ndarray, " first"]:
    """The row in which each number first appears, for numbers given in order of first appearance."""
    return np.unique(codes, return_index=True)[1]
