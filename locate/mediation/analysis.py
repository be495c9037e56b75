"""Analysis: everything derived from a trace under one set of settings, each part once, when first asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import pandas as pd

from locate.errors import LocateError
from locate.mediation.agreement import Agreement, agreement, estimated_and_exact
from locate.mediation.averages import ROW, average, normalised, stability, total_effect
from locate.mediation.controls import CHOOSING, SetTest, control_table, set_test
from locate.mediation.effect_table import (
    EFFECTS,
    EVERY,
    VIEWS,
    Terms,
    answers_of,
    default_kind,
    default_view,
    effects,
    pair_log_odds,
    rounding,
    subject_of,
    terms_of,
)
from locate.mediation.located import Located
from locate.mediation.overlaps import Overlap, overlap
from locate.mediation.ranking import TOP, Derived, Wanted, rank_sites, rankable
from locate.mediation.regression import gender_regression, words_without_score
from locate.mediation.resampling import Intervals
from locate.mediation.selectivity_table import KINDS, comparable, of_kind, selectivity, total_selectivity
from locate.mediation.sets import Areas, Shares, areas_of, resample_shares, table_of
from locate.metrics import Metric, difference, metric_named
from locate.notebook import Rows
from locate.sites import check
from locate.tracing.table import Trace
from locate.words import without_folders

SHARE = "nie / total"
UNIT_OF_SHARE = "share of the total effect"
Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Shown:
    """A table of averages, with what a figure says about it.

    table     as `average` or `changes` returns it; an analysis adds to indirect effects `share` of the total effect and
              `stability` as in `LocatedSite`, each nan where it is undefined
    column    "nie", "nde" or "total", or the share "nie / total"
    metric, unit, positive, level, clusters  as in `Located`
    kind      of the pairs, where others were traced beside it; else ""
    model     its name, or the last part of its folder's path
    subject   what the pairs exchange: "occupation", or "subject" where they are of other kinds
    totals    average total effect with its interval by direction, in the metric's unit; empty beside shares of it
    rounding  an effect no larger is 0 within rounding, in `unit`
    """

    table: pd.DataFrame
    column: str = "nie"
    metric: str = "logit_diff"
    unit: str = "nats"
    positive: str = "towards the stereotype"
    level: float = 0.95
    clusters: str = "group"
    kind: str = ""
    model: str = ""
    subject: str = "occupation"
    totals: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    answers: tuple[str | None, ...] | None = None
    rounding: float = 0.0


@dataclass(frozen=True, eq=False)
class Analysis:
    """What is derived from a trace under one set of settings; made by `analyse`.

    trace      what was measured
    metric     whose effects are derived
    view       "stereotype" or "signed"; see `effects`
    kind       of the pairs; None for the kind that `default_kind` chooses
    intervals  level, resamples, seed and clusters

    Each part is a property that is derived when it is first asked for, and kept: `effects`, `averages`, `located`,
    `controls`, `set_test`, `sets`, `areas`, `agreement`, `selectivity`, `overlap`, `regression`, `log_odds`,
    `stability`.
    """

    trace: Trace
    metric: Metric
    view: str
    kind: str | None
    intervals: Intervals
    _kept: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)

    def _once(self, key: tuple[Any, ...], derive: Callable[[], Part]) -> Part:
        if key not in self._kept:
            self._kept[key] = derive()
        found: Part = self._kept[key]
        return found

    @cached_property
    def terms(self) -> Terms:
        """Metric, view and kind of the effects, and what they leave out."""
        return terms_of(self.trace, self.metric, view=self.view, kind=self.kind)

    def effects_of(self, view: str, kind: str | None = None) -> pd.DataFrame:
        """Effects in another view, or of another kind of pairs."""
        kind = default_kind(self.trace.table) if kind is None else kind
        view = view if self.metric.signed else "stereotype"
        return self._once(("effects", view, kind), lambda: effects(self.trace, self.metric, view=view, kind=kind))

    @property
    def effects(self) -> pd.DataFrame:
        """One row per pair, patch and direction; see `effects`."""
        return self.effects_of(self.view, self.kind)

    def average(self, quantity: str = "nie") -> pd.DataFrame:
        """Averages of one quantity, "nie", "nde" or "total", or of the share "nie / total"; see `average`.

        Raises LocateError for an unknown quantity, and as `average` does.
        """
        check("quantity", quantity, (*EFFECTS, SHARE))
        return self._once(("average", quantity), lambda: self._average(quantity))

    def _average(self, quantity: str) -> pd.DataFrame:
        if quantity == SHARE:
            return normalised(self.effects, "nie", self.intervals)
        known = self.effects[self.effects[quantity].notna()] if quantity != "nie" else self.effects
        return average(known, quantity, self.intervals)

    @cached_property
    def averages(self) -> pd.DataFrame:
        """Averages of every quantity, as effects.csv has them: `quantity`, `metric`, `unit_of_effect`, and so on.

        Indirect, direct and total effects, and the share of the total for a metric whose effects are differences.
        """
        quantities = ["nie", *[name for name in ("nde", "total") if self.effects[name].notna().any()]]
        quantities += [SHARE] if self.metric.effect is difference else []
        table = pd.concat([self.average(each).assign(quantity=each) for each in quantities], ignore_index=True)
        quantity = table.pop("quantity")
        unit = [self.unit_of(each) for each in quantity]
        first = pd.DataFrame({"quantity": quantity, "metric": self.metric.name, "unit_of_effect": unit})
        return pd.concat([first, table], axis=1)

    def unit_of(self, quantity: str) -> str:
        """Unit of an average: a share of the total effect, or the metric's unit."""
        return UNIT_OF_SHARE if quantity == SHARE else self.metric.unit

    def shown(self, quantity: str = "nie") -> Shown:
        """Averages of one quantity, with what a figure says about them."""
        table = self.average(quantity)
        if quantity == "nie":
            table = table.assign(share=self._share_carried()).merge(self.ranked_stability, on=ROW, how="left")
        return Shown(
            table=table,
            column=quantity,
            metric=self.metric.name,
            unit=self.unit_of(quantity),
            positive=self.terms.positive,
            level=self.intervals.level,
            clusters=self.intervals.clusters,
            kind=self.terms.kind if self.terms.other_kinds else "",
            model=self.model,
            subject=self.subject,
            answers=self.answers,
            totals={} if quantity == SHARE else {each: self.total(each) for each in self.trace.meta["directions"]},
            rounding=self.rounding(quantity),
        )

    @property
    def model(self) -> str:
        """The model's name, without the folders or the owner before it."""
        return without_folders(str(self.trace.meta["model"]["name"]))

    @property
    def answers(self) -> tuple[str | None, ...] | None:
        """The female, male and neutral answer, where all pairs have the same and the run says so."""
        return answers_of(self.trace.meta)

    @property
    def subject(self) -> str:
        """What the pairs exchange, in a word; see `subject_of`."""
        return subject_of(self.terms.kind)

    @cached_property
    def ranked_stability(self) -> pd.DataFrame:
        """Stability of the sites that are ranked, among themselves, as `rank` has it."""
        ranked = rankable(self.effects, None)
        if ranked.empty:
            return self.average()[ROW].assign(stability=float("nan"))
        return stability(ranked, "nie", self.intervals)

    def _share_carried(self) -> Any:
        """Share of the total effect by row of the averages; nan for a metric whose effects are no differences."""
        return self.average(SHARE)["effect"].to_numpy() if self.metric.effect is difference else float("nan")

    def rounding(self, quantity: str = "nie") -> float:
        """Rounding of effects in their own unit: that of log-odds, times the largest value of another difference.

        A probability moves by at most itself times what its logarithm moves by.
        """
        found = rounding(self.trace)
        if quantity == SHARE:
            found /= min(abs(self.total(each)[0]) for each in self.trace.meta["directions"]) or 1.0
        elif self.metric.unit != "nats" and self.metric.effect is difference:
            found *= float(self.effects[["base", "source"]].abs().max().max())
        return found

    def total(self, direction: str) -> tuple[float, float, float]:
        """Average total effect of a direction, low and high end of its interval."""
        rows = self.effects[self.effects["direction"] == direction]
        return self._once(("total", direction), lambda: total_effect(rows, self.intervals))

    @cached_property
    def stability(self) -> pd.DataFrame:
        """How often each site is among the five strongest when groups are resampled; see `stability`."""
        return stability(self.effects, "nie", self.intervals)

    @cached_property
    def log_odds(self) -> pd.DataFrame:
        """Log-odds of the answers after each clean prompt; see `pair_log_odds`."""
        return pair_log_odds(self.trace)

    @property
    def located(self) -> Located:
        """The sites ranked by their indirect effect in the first direction traced; see `rank` for others."""
        return self.rank()

    def rank(
        self,
        *,
        quantity: str = "nie",
        direction: str | None = None,
        component: str | None = None,
        role: str | None = None,
        window: int | None = None,
        top: int = TOP,
    ) -> Located:
        """Rank the sites by their average effect; arguments as `locate.rank`."""
        direction = str(self.trace.meta["directions"][0]) if direction is None else direction
        wanted = Wanted(quantity, direction, component, role, window, top)
        return self._once(("rank", wanted), lambda: rank_sites(self._derived(), wanted))

    def _derived(self) -> Derived:
        both = comparable(self.trace.table)
        every = self.effects_of("stereotype", EVERY) if both else None
        return Derived(self.trace, self.terms, self.effects, every, self.set_test, self.intervals)

    @cached_property
    def controls(self) -> pd.DataFrame:
        """Each control's average effect beside its site's own; see `control_table`. Empty where none were run."""
        whole = None if self.trace.controls is None else self.effects_of(default_view(self.trace))
        return control_table(self.trace, self.metric, self.intervals.by_group, whole=whole)

    @cached_property
    def set_test(self) -> SetTest | None:
        """The located set against random ones; None where none were compared."""
        return set_test(self.trace, self.metric, self.intervals.by_group)

    @cached_property
    def _shares(self) -> Shares | LocateError | None:
        if self.trace.sets is None:
            return None
        try:
            return resample_shares(self.trace, self.metric, self.intervals.by_group)
        except LocateError as error:
            return error

    @property
    def why_no_sets(self) -> str:
        """Why the measured sets are not shown (the total effect cannot be told from 0); else ""."""
        return str(self._shares) if isinstance(self._shares, LocateError) else ""

    @cached_property
    def sets(self) -> pd.DataFrame | None:
        """Effect and faithfulness of every set; see `set_table`. None where none are to be shown."""
        return table_of(self._shares) if isinstance(self._shares, Shares) else None

    @cached_property
    def areas(self) -> Areas | None:
        """Areas of the circuits' faithfulness; see `areas`. None where no sets are to be shown."""
        return areas_of(self._shares) if isinstance(self._shares, Shares) else None

    @cached_property
    def estimated(self) -> pd.DataFrame | None:
        """Estimates beside exact effects; see `estimated_and_exact`. None for a run without a budget."""
        if self.trace.estimates is None:
            return None
        known = self.effects_of(default_view(self.trace)) if self.metric.name == CHOOSING else None
        return estimated_and_exact(self.trace, known)

    @cached_property
    def agreement(self) -> Rows[Agreement]:
        """How far estimates agree with exact effects, by direction; see `agreement`. Empty without estimates."""
        return Rows() if self.estimated is None else agreement(self.trace, both=self.estimated)

    def _both_kinds(self, view: str) -> pd.DataFrame | None:
        """Effects of every kind in a view, where both kinds of words were traced and the metric allows the view."""
        if not comparable(self.trace.table) or (view == "signed" and not self.metric.signed):
            return None
        found = self.effects_of(view, EVERY)
        return found if comparable(found) else None

    @cached_property
    def selectivity(self) -> pd.DataFrame | None:
        """Stereotype against definition at each site; see `selectivity`. None without both kinds of words."""
        both = self._both_kinds("stereotype")
        return None if both is None else selectivity(both, "nie", self.intervals.by_group)

    @cached_property
    def total_selectivity(self) -> dict[str, tuple[float, float, float]]:
        """Selectivity of the whole prompt by direction; empty without both kinds of words."""
        both = self._both_kinds("stereotype")
        return {} if both is None else total_selectivity(both, self.intervals.by_group)

    @cached_property
    def overlap(self) -> Rows[Overlap]:
        """Located sets of the stereotype (A) and of the definition (B), by direction; empty without both kinds.

        See `locate.mediation.overlaps.overlap`.
        """
        both = self._both_kinds("stereotype")
        if both is None:
            return Rows()
        first, second = (of_kind(both, name, kind) for name, kind in KINDS.items())
        return overlap(first, second, "nie", self.intervals)

    @cached_property
    def regression(self) -> pd.DataFrame | None:
        """Effects regressed on two scores of a word; see `gender_regression`. None where it is undefined."""
        both = self._both_kinds("signed")
        try:
            return None if both is None else gender_regression(both, chosen=self.intervals.by_group)
        except LocateError:
            return None

    @cached_property
    def without_score(self) -> int:
        """How many words the regression leaves out because they have no score."""
        both = self._both_kinds("signed")
        return 0 if both is None else len(words_without_score(both))

    def _repr_html_(self) -> str:
        found = [self.located, self.set_test, self.areas, self.agreement or None, self.overlap or None]
        return "".join(each._repr_html_() for each in found if each is not None)


def analyse(
    trace: Trace | Analysis,
    *,
    metric: str | Metric = "logit_diff",
    view: str | None = None,
    kind: str | None = None,
    clusters: str = "group",
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Analysis:
    """Everything that a trace says under one set of settings; each part is derived when first asked for.

    metric   the name of one of METRICS ("logit_diff", in nats, is the default), or a `Metric` of your own
    view     "stereotype" or "signed" (see `effects`); None for the stereotype view where any pair has a stereotype
    kind     of the pairs: "occupation", "definition", "user" or "all"; None for the one that `default_kind` chooses
    clusters, level, samples, seed   as in `Intervals`

    An Analysis is returned as it is.

    Raises LocateError for an unknown metric, view or clusters, or settings that make no interval; the parts raise it as
    the functions that derive them do.
    """
    if isinstance(trace, Analysis):
        if (metric, view, kind, clusters, level, samples, seed) != ("logit_diff", None, None, "group", 0.95, 2000, 0):
            raise LocateError("an Analysis has its settings already: give the trace to analyse it under others")
        return trace
    view = default_view(trace) if view is None else view
    check("view", view, VIEWS)
    return Analysis(trace, metric_named(metric), view, kind, Intervals(level, samples, seed, clusters))


def rank(
    trace: Trace | Analysis,
    *,
    quantity: str = "nie",
    direction: str | None = None,
    component: str | None = None,
    role: str | None = None,
    window: int | None = None,
    top: int = TOP,
    **settings: Any,
) -> Located:
    """Rank the sites of a trace by their average effect, for editors and tables.

    quantity         "nie", "nde" or "total"
    direction        "denoising": is the site sufficient? "noising": is it necessary? None takes the first traced
    component, role  where `layers` and `modules` are read off; None for mlp_out at subject_last where they were traced,
                     else the first that was, in the order of EDITABLE and of FALLBACK_ROLES
    window           width of the patches ranked; None for the narrowest
    top              how many sites to list
    settings         of `analyse`, where a trace is given

    Raises LocateError when the trace lacks the direction, the component, the role or the window.
    """
    return analyse(trace, **settings).rank(
        quantity=quantity, direction=direction, component=component, role=role, window=window, top=top
    )
