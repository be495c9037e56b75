"""effects(): total, natural indirect and natural direct effect of every patch, from the trace's table alone."""

from __future__ import annotations

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.metrics import Metric, metric_named
from locate.tracing.table import SITE, Trace

VIEWS = ("stereotype", "signed")
PLACE = ["clean_pos", "corrupted_pos"]
CELL = ["pair", *SITE, *PLACE]
EFFECTS = ["total", "nie", "nde"]
KEPT = ["group", "template", "kind", "stereotype", "clean", "corrupted", "token"]


def effects(trace: Trace, metric: str = "logit_diff", *, view: str = "stereotype") -> pd.DataFrame:
    """Effects of every patch in every pair, averaged over the samples of a noise corruption.

    metric  "logit_diff" (nats; the default), "prob_diff", "prob_stereotypical" or "odds_ratio" (see `locate.metrics`)
    view    "stereotype": a female-minus-male metric is multiplied by the pair's stereotype sign, so that positive is
            towards the stereotype of the clean subject; "signed": it is left female minus male

    Returns one row per (pair, patch, direction) with the labels of the trace and

    base, source, patched  the metric of the three runs
    total   y(source) - y(base): total effect of replacing the whole prompt
    nie     y(base with the site from source) - y(base): natural indirect effect through the site
    nde     y(source with the site held at base) - y(base): natural direct effect around the site; it is read off the
            patched run of the other direction, and nan where that was not traced or the patch writes other values
            than the source's (zero, given vectors, frozen sites)

    in the unit of the metric; for odds_ratio each is y' / y - 1 (Vig et al. 2020, equations 1 to 3). For a difference
    metric total(base to source) = nde(base to source) - nie(source to base) holds exactly (Pearl 2001).

    Under the stereotype view and for metrics that need a stereotype, pairs with sign 0 are left out; `attrs` counts
    them in "without_stereotype".

    Raises LocateError for an unknown metric or view, one that needs probabilities that were left out, or when no pair
    is left.
    """
    chosen = metric_named(metric)
    if view not in VIEWS:
        raise LocateError(f"view {view!r}: expected one of {', '.join(VIEWS)}")
    if chosen.absolute and not trace.meta.get("probabilities", True):
        raise LocateError(
            f"metric {metric!r} needs probabilities, which this run left out: choose logit_diff or odds_ratio, or "
            "trace again with them"
        )
    table, without = trace.table, 0
    if view == "stereotype" or not chosen.signed:
        unsigned = table["stereotype"] == 0
        without = int(table.loc[unsigned, "pair"].nunique())
        table = table[~unsigned]
        if table.empty:
            raise LocateError(
                f"none of the {without} pairs has a stereotype, which metric {metric!r} in view {view!r} needs: give "
                "the prompts a stereotype of -1 or 1, or use view='signed' with logit_diff or prob_diff"
            )
    twice = table.duplicated([*CELL, "sample", "direction"])
    if twice.any():
        where = ", ".join(f"{name} {value!r}" for name, value in table.loc[twice, CELL].iloc[0].items())
        raise LocateError(f"two patches are filed at {where}: trace them apart, the table cannot tell them apart")
    rows = values(table, chosen, view)
    rows = rows.merge(held_at_base(rows), on=[*CELL, "sample", "direction"], how="left", validate="one_to_one")
    rows["total"] = chosen.effect(rows["source"].to_numpy(), rows["base"].to_numpy())
    rows["nie"] = chosen.effect(rows["patched"].to_numpy(), rows["base"].to_numpy())
    nde = chosen.effect(rows["held"].to_numpy(), rows["base"].to_numpy())
    rows["nde"] = np.where(rows["origin"] == "source", nde, np.nan)
    result = over_samples(rows)
    result.attrs = {
        "metric": chosen.name,
        "unit": chosen.unit,
        "view": view if chosen.signed else "stereotype",
        "without_stereotype": without,
    }
    return result


def default_view(trace: Trace) -> str:
    """The stereotype view where any pair has a stereotype, else female minus male."""
    return "stereotype" if (trace.table["stereotype"] != 0).any() else "signed"


def values(table: pd.DataFrame, metric: Metric, view: str) -> pd.DataFrame:
    """The labels of a trace's rows with the metric of the three runs instead of log-probabilities."""
    sign = table["stereotype"].to_numpy(dtype=float)
    rows = table[[*CELL, "sample", "direction", *KEPT]].copy()
    for run in ("base", "source", "patched"):
        y = metric.value(table[f"{run}_female"].to_numpy(), table[f"{run}_male"].to_numpy(), sign)
        rows[run] = y * sign if metric.signed and view == "stereotype" else y
    return rows


def held_at_base(rows: pd.DataFrame) -> pd.DataFrame:
    """For each row the metric of the source run with the site held at base: the other direction's patched run."""
    held = rows[[*CELL, "sample", "direction", "patched"]].rename(columns={"patched": "held"})
    held["direction"] = held["direction"].map({"denoising": "noising", "noising": "denoising"}).astype("category")
    return held


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
