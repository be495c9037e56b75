"""A run within a budget: every site is estimated, and the strongest and a random sample are patched."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.files import hash_of
from locate.mediation.agreement import PLACE
from locate.sites import PATTERN, Site, check
from locate.tracing.estimates import SiteEstimates, map_of_single_sites, mean_estimates
from locate.tracing.folder import RunFolder
from locate.tracing.forecast import forecast
from locate.tracing.measure import Stages
from locate.tracing.plan import Map, before, keys_at
from locate.tracing.stage import Job, prepare

METHODS = {"attribution": 0, "integrated": 5}
"""steps of the integrated gradient"""
STAGE = "estimates"
UNITS_OF_TIME = {"s": 1.0, "min": 60.0, "h": 3600.0}
SPELLING = re.compile(
    r"(?P<time>\d+(?:\.\d+)?)\s*(?P<unit>s|min|h)|(?P<runs>\d{1,3}(?:,\d{3})+|\d+)(?:\s*patched\s+runs?)?"
)
SPELT = "a time in s, min or h like 90s, 5min or 1.5h, or a number of patched runs like 20000 or '20,000 patched runs'"
LEAST_AUDIT = 20
LEAST_TOP = 5
FEW = 4
ESTIMATING = 0.8  # of the time, at most
TRIALS = 3  # forecasts of what the time allows


@dataclass(frozen=True)
class Budget:
    """What a run may cost: either seconds or patched passes.

    seconds  of estimating and patching; loading the model and measuring the controls are not counted
    passes   rows that are patched
    method   of the estimates: "integrated" or "attribution" (see `locate.study.estimate.estimate`)
    audit    share of the patched sites that are drawn at random from all of them
    seed     of the draw
    """

    seconds: float | None = None
    passes: int | None = None
    method: str = "integrated"
    audit: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        check("method", self.method, tuple(METHODS))
        given = [each for each in (self.seconds, self.passes) if each is not None]
        if len(given) != 1 or given[0] <= 0:
            raise LocateError(f"budget of {self.seconds} seconds, {self.passes} passes: expected one of them, above 0")
        if not 0 < self.audit < 1:
            raise LocateError(f"audit {self.audit}: expected a share in (0, 1)")

    @staticmethod
    def parsed(text: str, **settings: Any) -> Budget:
        """A budget from a time in s, min or h like "90s" or "1.5 h", or from a number of patched runs.

        The number may have commas between thousands, and "patched runs" after it.

        Raises LocateError for any other text.
        """
        found = SPELLING.fullmatch(text.strip())
        if found is None:
            raise LocateError(f"budget {text!r}: expected {SPELT}")
        if found["runs"]:
            return Budget(passes=int(found["runs"].replace(",", "")), **settings)
        return Budget(seconds=float(found["time"]) * UNITS_OF_TIME[found["unit"]], **settings)


def describe(budget: Budget, map: Map) -> dict[str, Any]:
    """What decides which sites are chosen, for meta and to recognise a run."""
    return asdict(budget) | {"map_sha256": hash_of(asdict(map))}


def choose_sites(
    job: Job, map: Map, budget: Budget, folder: RunFolder | None, started: float
) -> Stages[tuple[Map, pd.DataFrame, dict[str, Any]]]:
    """Ask for estimates; return the map of the sites that are patched, the estimates, and what meta says of the choice.

    job      of the whole map
    folder   where the choice is kept: once made, it is not made again
    started  when the time of the budget began

    Raises LocateError where the time is not enough for the estimates.
    """
    estimates = None if folder is None else folder.estimates()
    if estimates is None:
        map_of_single_sites(job)
        view = "stereotype" if any(pair.pair.stereotype for pair in job.pairs) else "signed"
        derive = SiteEstimates(view, METHODS[budget.method])
        if budget.seconds is not None:
            check_time(job, derive, budget)
        outcome = yield replace(job.stage, name=STAGE, derive=derive)
        estimates = mark_chosen(job, map, mean_estimates(outcome.table), budget, started)
        if folder is not None:
            folder.keep_estimates(estimates)
    only = sites_of(estimates[estimates["chosen"] != ""])
    sites = estimates.drop_duplicates(PLACE)
    counts = {f"{name}_sites": int(sites["chosen"].str.contains(name).sum()) for name in ("top", "audit")}
    return replace(map, only=tuple(only)), estimates, describe(budget, map) | {"sites": len(sites)} | counts


def check_time(job: Job, derive: SiteEstimates, budget: Budget) -> None:
    """Raise LocateError when estimating alone would take more than its share of the time, judging by a few pairs."""
    few = job.pairs[:FEW]
    started = time.monotonic()
    derive.table(job, few)
    needed = (time.monotonic() - started) * len(job.pairs) / len(few)
    if needed > ESTIMATING * float(budget.seconds or 0):
        faster = ", or the method attribution (--budget-method attribution)" if budget.method != "attribution" else ""
        raise LocateError(
            f"budget of {budget.seconds:g} s: estimating every site would take about {needed:.0f} s: give at least "
            f"{math.ceil(needed / ESTIMATING)}s, or fewer prompts{faster}"
        )


def mark_chosen(job: Job, map: Map, estimates: pd.DataFrame, budget: Budget, started: float) -> pd.DataFrame:
    """The estimates with a column `chosen`: the strongest sites by either direction, and those drawn at random."""
    sizes = estimates.assign(size=estimates["estimate"].abs()).groupby(PLACE, sort=False)["size"].max()
    ordered = sizes.sort_values(ascending=False, kind="stable").index
    drawn = np.random.default_rng([budget.seed, 5]).permutation(len(ordered))
    each = {place: rows_at(job, *place) for place in {(str(role), str(key)) for *_, role, key in ordered}}
    rows = np.array([each[role, key] for *_, role, key in ordered])

    def chosen(count: int) -> tuple[np.ndarray, np.ndarray]:
        audit = min(len(ordered), max(LEAST_AUDIT, round(budget.audit * count)))
        top = len(ordered) if count == len(ordered) else max(LEAST_TOP, count - audit)
        return np.arange(min(len(ordered), top)), drawn[:audit]

    def forecast_of(count: int) -> float:
        top, audit = chosen(count)
        only = sites_of(ordered[np.union1d(top, audit)].to_frame(index=False))
        stage = replace(job.stage, patches=replace(map, only=tuple(only)))
        return forecast(prepare(job.model, stage, job.settings)).seconds

    if budget.passes is not None:
        count = largest_allowed(len(ordered), lambda n: rows[np.union1d(*chosen(n))].sum() <= budget.passes)
    else:
        count = count_affordable(len(ordered), forecast_of, float(budget.seconds or 0), started)
    top, audit = chosen(count)
    words = pd.Series("", index=ordered)
    words.iloc[top] = "top"
    words.iloc[audit] = np.where(words.iloc[audit] == "", "audit", "top+audit")
    return estimates.merge(words.rename("chosen").reset_index(), on=PLACE, how="left", validate="many_to_one")


def largest_allowed(limit: int, allowed: Callable[[int], bool]) -> int:
    """The largest number up to a limit that is allowed, where all smaller ones are allowed too; at least 1."""
    low, high = 1, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle - 1)
    return low


def count_affordable(limit: int, seconds_of: Callable[[int], float], budget: float, started: float) -> int:
    """How many sites can be patched in what is left of the time, from a few forecasts.

    Raises LocateError when estimating has used the time up.
    """
    count = min(limit, LEAST_AUDIT + LEAST_TOP)
    for _ in range(TRIALS):
        needed = seconds_of(count)
        left = budget - (time.monotonic() - started)
        if left <= 0:
            raise LocateError(
                f"budget of {budget:g} s: estimating and timing took {budget - left:.0f} s: give more time"
            )
        if needed <= left and count == limit:
            break
        count = int(min(limit, max(1, count * min(left / needed, 8.0))))
    return count


def rows_at(job: Job, role: str, key: str) -> int:
    """Rows of the table that a site fills."""
    per_token = len(job.stage.directions) * job.settings.corruption.samples
    if not key:
        return per_token * sum(token.role == role for pair in job.pairs for token in pair.aligned)
    site = Site(PATTERN, 0, role, 0, key)
    return per_token * sum(
        token.role == role and bool(before(keys_at(site, pair), token)) for pair in job.pairs for token in pair.aligned
    )


def sites_of(rows: pd.DataFrame) -> Sequence[Site]:
    """Each row's site, once."""
    return [
        Site(row.component, int(row.layer), row.role, None if row.unit < 0 else int(row.unit), row.key or None)
        for row in rows.drop_duplicates(PLACE).itertuples()
    ]
