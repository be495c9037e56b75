"""The runs that the live page shows, and everything derived from them, each part once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.explorer.state import State
from locate.mediation.analysis import Analysis, analyse
from locate.mediation.comparison import Comparison, compare_traces
from locate.mediation.effect_table import EVERY, answers_of
from locate.metrics import metric_named
from locate.report.page.answer import Answer, answer_of
from locate.report.page.comparison import PANELS, change_view
from locate.report.page.map_cells import (
    CELL,
    TEXTS,
    Cells,
    absent_words,
    averages_of,
    map_cells,
    pair_effects,
    settings_of,
)
from locate.report.page.map_data import cell_of, maps_of, view_of
from locate.tracing.table import Trace, load_trace, whole_sites

Part = TypeVar("Part")
CHANGE = PANELS["change"]


@dataclass(frozen=True, eq=False)
class Runs:
    """One run, A, or two, A and B.

    folders  where they lie, in this order
    traces   what was measured
    """

    folders: tuple[Path, ...]
    traces: tuple[Trace, ...]
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    @staticmethod
    def read(folders: tuple[Path, ...]) -> Runs:
        """The runs in these folders.

        Raises LocateError where a folder holds none, or two do not match.
        """
        found = Runs(folders, tuple(load_trace(each) for each in folders))
        if len(folders) > 1:
            found.comparison(found.first)
        return found

    def once(self, key: Any, derive: Callable[[], Part]) -> Part:
        """What was derived under this key, or is derived now."""
        if key not in self._kept:
            self._kept[key] = derive()
        part: Part = self._kept[key]
        return part

    @property
    def first(self) -> State:
        """The state that the page opens with."""
        analysis = self.once("first", lambda: analyse(self.traces[0]))
        view = analysis.view if analysis.metric.signed else "stereotype"
        panel = CHANGE if len(self.traces) > 1 else "A"
        direction = str(self.traces[0].meta["directions"][0])
        return State(panel, analysis.metric.name, view, analysis.terms.kind, direction, "nie")

    def allowed(self, state: State) -> dict[str, list[str]]:
        """The values of each switch that the runs allow, where those before it stand as they do."""
        trace = self.traces[0]
        kinds = sorted({str(each) for each in trace.table["kind"].unique()})
        kinds += [EVERY] if len(kinds) > 1 else []
        kind = state.kind if state.kind in kinds else self.first.kind
        found = self.settings(kind)
        metrics = list(dict.fromkeys(each.metric.name for each in found))
        metric = state.metric if state.metric in metrics else metrics[0]
        both = len(trace.meta["directions"]) > 1
        return {
            "panel": list(PANELS.values()) if len(self.traces) > 1 else ["A"],
            "kind": kinds,
            "metric": metrics,
            "view": [each.view for each in found if each.metric.name == metric],
            "direction": [str(each) for each in trace.meta["directions"]],
            "quantity": ["nie", "nde"] if both and self.has_direct(kind, metric) else ["nie"],
        }

    def settings(self, kind: str) -> list[Analysis]:
        """The first run in every metric and view that it has, for pairs of one kind."""
        return self.once(("settings", kind), lambda: settings_of(analyse(self.traces[0], kind=kind)))

    def absent(self, state: State) -> str:
        """Which metrics and views the first run lacks, and why."""
        return absent_words(self.settings(state.kind))

    def has_direct(self, kind: str, metric: str) -> bool:
        """Whether every effect of the first run has its direct effect."""
        view = "signed" if metric_named(metric).signed else None
        key = ("direct", kind, metric)
        found = self.once(key, lambda: analyse(self.traces[0], kind=kind, metric=metric, view=view))
        return bool(found.effects["nde"].notna().all())

    def analysis(self, state: State, run: int = 0) -> Analysis:
        """The analysis of a run under the state's settings."""
        metric = metric_named(state.metric)
        view = state.view if metric.signed else None
        key = ("analysis", run, state.metric, view, state.kind)
        return self.once(key, lambda: analyse(self.traces[run], metric=metric, view=view, kind=state.kind))

    def cells(self, state: State, run: int = 0) -> Cells:
        """The cells of a run, and the pairs behind them."""
        every = replace(state, view="signed")  # no pair is left out
        return self.once(("cells", run, state.metric, state.kind), lambda: map_cells(self.analysis(every, run)))

    def comparison(self, state: State) -> Comparison:
        """What changed from A to B under the state's settings."""
        key = ("comparison", state.metric, state.view, state.kind, state.quantity)
        both = [self.analysis(state, run) for run in (0, 1)]
        return self.once(key, lambda: compare_traces(*both, quantity=state.quantity))

    def view(self, state: State) -> dict[str, Any]:
        """Numbers and colours of every cell in the state's panel."""
        key = ("view", state.settings)
        return self.once(key, lambda: self._view(state))

    def _view(self, state: State) -> dict[str, Any]:
        if len(self.traces) == 1:
            own = averages_of(self.cells(state), self.analysis(state), state.direction, state.quantity)
            return view_of(own, state.quantity)
        found = self.comparison(state)
        total = next(each for each in found.totals if each.direction == state.direction)
        rows = whole_sites(found.shown().table).astype(TEXTS)
        rows = self.cells(state).places.merge(rows[rows["direction"] == state.direction], on=CELL, how="left")
        panel = next(name for name, words in PANELS.items() if words == state.panel)
        return change_view(found, total, panel, rows)

    def maps(self, state: State) -> list[dict[str, Any]]:
        """The grids of the state's map; see `maps_of`."""
        return maps_of(self.cells(state).places, self.view(state), self.analysis(state).subject)

    def sites(self, state: State) -> list[dict[str, Any]]:
        """Every cell in words, with its module and its names in effects.csv."""
        analysis = self.analysis(state)
        rows = self.cells(state).places.to_dict("records")
        key = ("sites", state.metric, state.kind)
        return self.once(key, lambda: [cell_of(row, analysis, analysis.subject) for row in rows])

    def answer(self, state: State) -> Answer:
        """The answer of the run in the state's panel."""
        run = 1 if state.panel == "B" else 0
        analysis = self.analysis(state, run)
        key = ("answer", run, state.metric, state.view, state.kind, state.direction)
        return self.once(key, lambda: answer_of(analysis, analysis.rank(direction=state.direction)))

    def behind(self, state: State) -> pd.DataFrame:
        """The pairs of the open cell with their `effect` and `total`; empty for a difference of runs.

        First come those that have most of what the cell has: the highest where its average is positive, else the
        lowest.

        Under the signed view all pairs count, under the stereotype view those with a stereotype.
        """
        if state.panel == CHANGE or state.cell is None:
            return pd.DataFrame()
        run = 1 if state.panel == "B" else 0
        cells, analysis = self.cells(state, run), self.analysis(state, run)
        key = ("effects", run, state.metric, state.view, state.kind, state.direction, state.quantity)
        values = self.once(key, lambda: pair_effects(cells, analysis, state.direction, state.quantity))
        place = self.place(cells, state)
        if place is None:
            return pd.DataFrame()
        found = cells.pairs.assign(effect=values[place], total=values[-1]).reset_index(names="pair")
        found = found[found["effect"].notna()]
        sign = -1 if found["effect"].mean() >= 0 else 1
        return found.iloc[np.argsort(sign * found["effect"].to_numpy(), kind="stable")]

    def place(self, cells: Cells, state: State) -> int | None:
        """The number of the open cell among those of a run; None where it has none such."""
        wanted = self.cells(state).places.iloc[state.cell]
        same = (cells.places[CELL] == wanted[CELL]).all(axis=1).to_numpy()
        return int(np.flatnonzero(same)[0]) if same.any() else None

    def settle(self, state: State) -> State:
        """The state with what these runs do not have replaced by what they have."""
        for _ in range(2):  # the views allowed depend on the metric that was settled before
            state = state.settled(self.allowed(state))
        cells = self.cells(state)
        cell = state.cell if state.cell is not None and state.cell < len(cells.places) else None
        pair = state.pair if state.pair in set(cells.pairs.index) else None
        return replace(state, cell=cell, pair=pair)

    @property
    def answers(self) -> tuple[str | None, ...] | None:
        """The answers that all pairs of the first run share; see `answers_of`."""
        return answers_of(self.traces[0].meta)

    def title(self) -> str:
        """The models in a line."""
        return " (A) and ".join(analyse(each).model for each in self.traces) + (" (B)" if len(self.traces) > 1 else "")


def check_folders(folders: tuple[Path, ...]) -> None:
    """Raise LocateError unless there are one or two folders."""
    if not 1 <= len(folders) <= 2:
        raise LocateError(f"{len(folders)} runs: expected one, or two to compare")
