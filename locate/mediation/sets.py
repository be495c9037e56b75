"""What sets of sites carry, and how faithful circuits are, from their log-probabilities."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float

from locate.errors import LocateError
from locate.mediation.effect_table import effects
from locate.mediation.resampling import DEFAULT, Intervals, cluster_weights
from locate.metrics import Metric
from locate.notebook import as_table, sentences, title
from locate.tracing.table import Trace

CIRCUIT = "circuit"


@dataclass(frozen=True)
class Areas:
    """Areas over the size of the circuit, as a share of all sites (Mueller et al. 2025), with intervals over groups.

    cpr  area under the faithfulness: 1 is a circuit whose first site does all; more is better
    cmd  area between the faithfulness and 1: 0 is best
    """

    cpr: tuple[float, float, float]
    cmd: tuple[float, float, float]
    n: int
    groups: int

    def text(self) -> str:
        """Both areas with their intervals, and n."""
        cpr, cmd = self._values()
        return f"CPR {cpr}, CMD {cmd}; n = {self.n} pairs of {self.groups} groups"

    def _values(self) -> list[str]:
        """Both areas with their intervals."""
        return [f"{own:.2f} [{low:.2f}, {high:.2f}]" for own, low, high in (self.cpr, self.cmd)]

    def _repr_html_(self) -> str:
        names = {"under the faithfulness (CPR)": "more is better", "between it and 1 (CMD)": "0 is best"}
        rows = [
            {"area": name, "value and interval": value, "": best}
            for (name, best), value in zip(names.items(), self._values(), strict=True)
        ]
        counts = f"{self.n} pairs of {self.groups} groups."
        return title("Faithfulness of the circuits, over their size") + as_table(rows) + sentences(counts)


@dataclass(frozen=True, eq=False)
class Shares:
    """Means of all sets over all groups, and of resampled groups.

    names   of the sets
    effect  in the metric's unit
    share   of the total effect
    drawn   that share in each resample of the groups
    sites   of the whole map
    tails   quantiles that bound an interval
    """

    names: tuple[str, ...]
    effect: Float[np.ndarray, " set"]
    share: Float[np.ndarray, " set"]
    drawn: Float[np.ndarray, "sample set"]
    n: int
    groups: int
    sites: int
    tails: tuple[float, float]


def set_table(trace: Trace, metric: str | Metric = "logit_diff", chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Joint effect and faithfulness of every set that a run measured, with intervals over groups.

    One row per set: `kind` ("top", "greedy", "circuit"), `size` (sites), `share` (of all sites), `effect` (mean over
    pairs, in the metric's unit, of writing the set into the corrupted run, or all but the set into the clean one),
    `faithfulness`, `low` and `high`, `n` pairs, `groups`. Faithfulness is (m(set) - m(corrupted)) / (m(clean) -
    m(corrupted)) with the means over pairs divided (Mueller et al. 2025): the share of the total effect that the set
    carries. The empty circuit is measured; the whole one is the clean run, with faithfulness 1.

    Raises LocateError for a run without sets, or where the total effect cannot be told from 0.
    """
    return table_of(resample_shares(trace, metric, chosen))


def table_of(sums: Shares) -> pd.DataFrame:
    """The rows of `set_table`."""
    quantiles = np.quantile(sums.drawn, sums.tails, axis=0)
    sites, rows = sums.sites, []
    for place, name in enumerate(sums.names):
        kind, size = name.split()
        rows.append(
            {
                "kind": kind,
                "size": int(size),
                "share": int(size) / sites,
                "effect": sums.effect[place],
                "faithfulness": sums.share[place],
                "low": quantiles[0, place],
                "high": quantiles[1, place],
                "n": sums.n,
                "groups": sums.groups,
            }
        )
    whole = {"kind": CIRCUIT, "size": sites, "share": 1.0, "effect": 0.0, "faithfulness": 1.0, "low": 1.0, "high": 1.0}
    table = pd.DataFrame([*rows, whole | {"n": sums.n, "groups": sums.groups}])
    return table.sort_values(["kind", "size"], kind="stable", ignore_index=True)


def areas(trace: Trace, metric: str | Metric = "logit_diff", chosen: Intervals = DEFAULT) -> Areas:
    """CPR and CMD of the run's circuits, by trapezoids between the sizes that were measured.

    Raises LocateError as `set_table` does.
    """
    return areas_of(resample_shares(trace, metric, chosen))


def areas_of(sums: Shares) -> Areas:
    """CPR and CMD of the circuits among the sets."""
    named = enumerate(sums.names)
    circuits = sorted((int(name.split()[1]), place) for place, name in named if name.startswith(CIRCUIT))
    x = np.array([size / sums.sites for size, _ in circuits] + [1.0])

    def of(shares: np.ndarray) -> np.ndarray:
        """CPR and CMD, stacked along a new first axis."""
        y = shares[..., [place for _, place in circuits]]
        y = np.concatenate([y, np.ones((*y.shape[:-1], 1))], axis=-1)
        return np.array([np.trapezoid(y, x, axis=-1), np.trapezoid(np.abs(1 - y), x, axis=-1)])

    def interval(own: float, many: np.ndarray) -> tuple[float, float, float]:
        low, high = np.quantile(many, sums.tails)
        return float(own), float(low), float(high)

    own, many = of(sums.share), of(sums.drawn)
    return Areas(interval(own[0], many[0]), interval(own[1], many[1]), sums.n, sums.groups)


def resample_shares(trace: Trace, metric: str | Metric, chosen: Intervals) -> Shares:
    """Effects and faithfulness of every set over all groups, and in each resample of the groups.

    Raises LocateError as `set_table` does.
    """
    if trace.sets is None:
        raise LocateError("this run measured no sets of sites: trace again with sets")
    view = "stereotype" if (trace.sets["stereotype"] != 0).any() else "signed"
    rows = effects(replace(trace, table=trace.sets), metric, view=view)
    names = [str(name) for name in dict.fromkeys(rows["name"])]
    by_group = rows.groupby(["group", "name"], observed=True)[["nie", "total"]].sum().unstack("name")
    nie, total = (by_group[column].reindex(columns=names).to_numpy(dtype=float) for column in ("nie", "total"))
    groups, n = len(by_group), rows["pair"].nunique()
    weights = cluster_weights(groups, chosen.samples, chosen.seed)
    bottoms = weights @ total
    low, high = np.quantile(bottoms[:, 0], [0.025, 0.975])
    if low <= 0 <= high:
        raise LocateError("the total effect cannot be told from 0, so shares of it mean nothing: give more pairs")
    circuit = np.array([name.startswith(CIRCUIT) for name in names])

    def shares(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
        return np.where(circuit, 1 - top / bottom, top / bottom)

    effect, share, drawn = nie.sum(0) / n, shares(nie.sum(0), total.sum(0)), shares(weights @ nie, bottoms)
    return Shares(tuple(names), effect, share, drawn, n, groups, int(trace.meta["sets"]["sites"]), chosen.tails)
