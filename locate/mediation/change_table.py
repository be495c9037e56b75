"""Changes of effects between two models: differences pair by pair, averaged with intervals over groups."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from locate.errors import LocateError
from locate.mediation.averages import ROW, average, rounding_of
from locate.mediation.effect_table import EFFECTS, KEPT, PLACE, one_word
from locate.mediation.resampling import DEFAULT, Intervals
from locate.tracing.table import SITE

CELL = [*ROW, "pair"]
NUMBERS = ["base", "source", "patched", *EFFECTS]
LEAST_SHARED = 0.5


@dataclass(frozen=True, eq=False)
class Paired:
    """Two effects tables cut to the cells that both hold, in the same row order, and their difference.

    A cell is a pair, a site and a direction; effects are averaged over the tokens of a role, since two tokenizers may
    place them differently.

    a, b, change    effects tables; `change` is b - a
    only_a, only_b  cells that one of them holds alone
    """

    a: pd.DataFrame
    b: pd.DataFrame
    change: pd.DataFrame
    only_a: int
    only_b: int


def paired(effects_a: pd.DataFrame, effects_b: pd.DataFrame) -> Paired:
    """Pair two effects tables cell by cell.

    Raises LocateError when their metrics or views differ, or when they share less than half of their cells.
    """
    for name in ("metric", "view"):
        values = one_word(effects_a, name), one_word(effects_b, name)
        if values[0] != values[1]:
            raise LocateError(f"{name} {values[0]!r} in A, {values[1]!r} in B: take effects of the same {name}")
    a, b = per_cell(effects_a), per_cell(effects_b)
    shared = a.index.intersection(b.index, sort=False)
    alone = len(a) - len(shared), len(b) - len(shared)
    if not len(shared) or len(shared) < LEAST_SHARED * (len(shared) + sum(alone)):
        raise LocateError(
            f"{len(shared)} cells are in both runs, {alone[0]} in A alone, {alone[1]} in B alone: the models split the "
            "prompts into different tokens: trace both at roles that both have, such as subject_last and last"
        )
    a, b = a.loc[shared], b.loc[shared]
    change = a.assign(**{name: b[name] - a[name] for name in NUMBERS})
    of_a = {"rounding": rounding_of(effects_a)}
    a, b, change = (table.reset_index().assign(**of_a) for table in (a, b, change))
    return Paired(a, b, change, *alone)


def per_cell(effects: pd.DataFrame) -> pd.DataFrame:
    """Effects averaged over the tokens of each role, indexed by cell."""
    labels = [name for name in (*CELL, *KEPT) if isinstance(effects[name].dtype, pd.CategoricalDtype)]
    plain = effects.astype(dict.fromkeys(labels, "object"))
    grouped = plain.groupby(CELL, sort=False)
    return grouped[KEPT].first().assign(**dict.fromkeys(PLACE, -1)).join(grouped[NUMBERS].mean())


def changes(
    effects_a: pd.DataFrame,
    effects_b: pd.DataFrame,
    column: str = "nie",
    chosen: Intervals = DEFAULT,
) -> pd.DataFrame:
    """Change of the average effect of each site and direction from model A to model B, pairs matched.

    effects_a, effects_b    of the same prompts and patches in two models, as `effects()` returns them
    column                  "total", "nie" or "nde"
    chosen                  as in `average`

    Returns one row per (site, direction): `change`, the mean over pairs of B's effect minus A's, with `low`, `high`,
    `n`, `groups`, `p` and `q` as `average` gives them for these differences; `effect_a` and `effect_b`, whose
    difference it is, each with its own low, high and q. Only cells that both tables hold count; `paired` says how
    many either holds alone.

    Raises LocateError as `paired` and `average` do.
    """
    return average_changes(paired(effects_a, effects_b), column, chosen)


def total_changes(found: Paired, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Change of the average total effect, one row per direction, in the columns of `changes`."""
    first = ~found.a.duplicated(["direction", "pair"])
    whole = dict.fromkeys(SITE, "") | {"component": "resid_pre", "layer": 0, "unit": -1, "window": 1, "role": "last"}
    a, b, change = (table[first].assign(**whole) for table in (found.a, found.b, found.change))
    return average_changes(Paired(a, b, change, found.only_a, found.only_b), "total", chosen)


def average_changes(found: Paired, column: str, chosen: Intervals) -> pd.DataFrame:
    """Averages of both tables and of their difference, side by side; effects undefined in either are left out."""
    known = found.a[column].notna() & found.b[column].notna() if column in EFFECTS else slice(None)
    a, b, change = (average(table[known], column, chosen) for table in (found.a, found.b, found.change))
    result = change.rename(columns={"effect": "change"})
    for name, table in (("a", a), ("b", b)):
        for each in ("effect", "low", "high", "q"):
            result[f"{each}_{name}"] = table[each]
    return result
