"""How far a run's estimates agree with its exact effects, and how large the effects of unmeasured sites may be."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from locate.errors import LocateError
from locate.mediation.effect_table import default_view, effects
from locate.mediation.resampling import DEFAULT, Intervals
from locate.notebook import Row, Rows
from locate.tracing.table import Trace
from locate.words import decimals, interval_words

PLACE = ["component", "layer", "unit", "role", "key"]
TOP_SHARE = 0.1


@dataclass(frozen=True)
class Agreement(Row):
    """Estimates against exact effects in one direction, on the sites drawn at random.

    sites        of the whole map
    measured     how many of them have exact effects
    audited      drawn at random from all, whatever their estimates
    rho          Spearman's rank correlation between estimated and exact average effects of the audited sites, with a
                 95 % bootstrap interval over sites
    signs        share of the audited sites whose estimate has the sign of the exact effect
    top          how many of the audited sites count as the truly strongest: a tenth of them, 3 at the least
    recall       share of those that the estimates put among as many of the audited sites
    hidden       the largest size of an exact effect among audited sites that the estimates did not choose, in nats; nan
                 where they chose all
    unchosen     how many audited sites the estimates did not choose
    at_most      with 95 % confidence, at most this share of the sites that were not measured exceeds it
    """

    direction: str
    sites: int
    measured: int
    audited: int
    rho: float
    low: float
    high: float
    signs: float
    top: int
    recall: float
    hidden: float
    unchosen: int
    at_most: float

    def as_json(self) -> dict[str, Any]:
        """The fields as a dict, for programs."""
        return asdict(self)

    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column."""
        digits = decimals(self.hidden)
        return {
            "estimates against exact effects": self.direction,
            "sites measured": f"{self.measured:,} of {self.sites:,}",
            "of these drawn at random": f"{self.audited:,}",
            "rank correlation": interval_words(self.rho, self.low, self.high),
            "sign right": f"{self.signs:.0%}",
            "strongest recalled": f"{self.recall:.0%} of {self.top}",
            "largest not chosen, nats": f"{self.hidden:.{digits}f}" if self.unchosen else "",
            "unmeasured beyond it, 95%": f"{self.at_most:.0%} at most" if self.unchosen else "",
        }

    def line(self) -> str:
        """The agreement in one sentence."""
        text = (
            f"{self.direction}: {self.measured:,} of {self.sites:,} sites measured; {self.audited} random sites: rank "
            f"correlation of estimates with exact effects {self.rho:.2f} [{self.low:.2f}, {self.high:.2f}], sign right "
            f"in {self.signs:.0%}, {self.recall:.0%} of the {self.top} strongest recalled"
        )
        if self.unchosen:
            text += (
                f"; of {self.unchosen} that the estimates left out the largest has {self.hidden:.3f} nats, which at "
                f"most {self.at_most:.0%} of the unmeasured exceed (95 %)"
            )
        return text


def agreement(trace: Trace, chosen: Intervals = DEFAULT, *, both: pd.DataFrame | None = None) -> Rows[Agreement]:
    """How the estimates of a run within a budget compare with its exact log-odds effects, for each direction.

    chosen  resamples and seed; intervals are of 95 %
    both    as `estimated_and_exact` returns it, where it is known already

    Raises LocateError for a run that has no estimates.
    """
    both = estimated_and_exact(trace) if both is None else both
    return Rows(of_direction(str(name), rows, chosen) for name, rows in both.groupby("direction", sort=False))


def estimated_and_exact(trace: Trace, derived: pd.DataFrame | None = None) -> pd.DataFrame:
    """The estimates of a run with a column `exact`: average log-odds effects (nats), nan where not measured.

    derived  effects of the run on the log-odds in its default view, where they are known already

    Raises LocateError for a run that has no estimates.
    """
    if trace.estimates is None:
        raise LocateError("this run was not made within a budget and has no estimates to compare: trace with one")
    derived = effects(trace, view=default_view(trace)) if derived is None else derived
    within = derived.groupby(["direction", *PLACE, "pair"], observed=True)["nie"].mean()
    exact = within.groupby(["direction", *PLACE], observed=True).mean().rename("exact").reset_index()
    exact = exact.astype(dict.fromkeys(["direction", "component", "role", "key"], str))
    return trace.estimates.merge(exact, on=["direction", *PLACE], how="left", validate="one_to_one")


def of_direction(direction: str, rows: pd.DataFrame, chosen: Intervals) -> Agreement:
    """The agreement in one direction; rows have `estimate`, `exact` (nan where not measured) and `chosen`."""
    audited = rows[rows["chosen"].str.contains("audit") & rows["exact"].notna()]
    estimate, exact = audited["estimate"].to_numpy(), audited["exact"].to_numpy()
    draws = np.random.default_rng(chosen.seed).integers(len(audited), size=(chosen.samples, len(audited)))
    many = np.array([spearman(estimate[draw], exact[draw]) for draw in draws])
    top = min(len(audited), max(3, round(TOP_SHARE * len(audited))))
    truly, guessed = (set(np.argsort(-np.abs(values), kind="stable")[:top]) for values in (exact, estimate))
    unchosen = audited[~audited["chosen"].str.contains("top")]["exact"].abs()
    low, high = np.nanquantile(many, [0.025, 0.975])
    return Agreement(
        direction=direction,
        sites=len(rows),
        measured=int(rows["exact"].notna().sum()),
        audited=len(audited),
        rho=spearman(estimate, exact),
        low=float(low),
        high=float(high),
        signs=float((np.sign(estimate) == np.sign(exact)).mean()),
        top=top,
        recall=len(truly & guessed) / top,
        hidden=float(unchosen.max()) if len(unchosen) else float("nan"),
        unchosen=len(unchosen),
        at_most=float(1 - 0.05 ** (1 / len(unchosen))) if len(unchosen) else 0.0,
    )


def spearman(one: np.ndarray, other: np.ndarray) -> float:
    """Rank correlation; nan where one side is constant."""
    a, b = rankdata(one), rankdata(other)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])
