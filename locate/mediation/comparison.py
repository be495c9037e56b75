"""Comparison: what changed between two traces, largest first, saved as compare.json."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, strict, write_json
from locate.mediation.analysis import Analysis, Shown, analyse
from locate.mediation.averages import ROW
from locate.mediation.change_table import average_changes, paired, total_changes
from locate.mediation.effect_table import EFFECTS
from locate.mediation.matching import matched, same
from locate.mediation.overlaps import Overlap, overlap
from locate.notebook import Rows, as_table, first_rows, sentences, title
from locate.schema import COMPARE_VERSION, locate_version, validate
from locate.sites import DIRECTIONS, check
from locate.tracing.table import Trace
from locate.words import QUANTITIES, chance, decimals, metric_words, site_words, with_interval, without_folders

THRESHOLD = 0.05
TOP = 20
UNSAVED = ("table", "rounding", "subject", "answers")
SIDE = ("name", "revision", "weights_sha256", "architecture", "dtype")

Interval = tuple[float, float, float]
"""average, low and high end of its interval"""


@dataclass(frozen=True)
class SiteChange:
    """One site, its average effect in both models, and the change from A to B.

    unit              index of a head or neuron; None for whole vectors
    severed, key, name, origin, window  of its patch, as in the trace's table
    a, b, change      in the unit of the `Comparison`; `change` is the mean of B minus A over the same pairs
    n, groups, p, q   of the change; q is p after Benjamini and Hochberg over all sites compared
    """

    direction: str
    component: str
    layer: int
    role: str
    unit: int | None
    window: int
    severed: str
    origin: str
    key: str
    name: str
    a: Interval
    b: Interval
    change: Interval
    n: int
    groups: int
    p: float
    q: float


@dataclass(frozen=True)
class TotalChange:
    """The average total effect of one direction in both models, and its change from A to B."""

    direction: str
    a: Interval
    b: Interval
    change: Interval
    n: int
    groups: int
    p: float


@dataclass(frozen=True)
class Comparison:
    """What changed from model A to model B, saved as compare.json.

    quantity, metric, unit, view, level  what an effect is (see `effects` and `average`)
    positive         what a positive effect says, and so a positive change: more so in B
    a, b             the two models: name, revision, weights, architecture, dtype
    same_weights     whether only something else differs, such as the dtype
    differing        everything that differs between the two traces: name -> [in A, in B]
    pairs, cells     how many are in both, in A alone and in B alone; a cell is a pair, a site and a direction. Only
                     those in both are compared
    totals           the total effect by direction
    sites            largest change first, by size, of the narrowest window; the residual stream and severed patches
                     only where nothing else was traced. All are in `table`
    overlaps         of the strongest sites of A and of B, by direction (see `overlap`)
    table            every site, as `changes` returns it; None when read from a file, beside which changes.csv has it
    rounding, subject, answers  as in `Shown`, the first of a change; not saved
    """

    quantity: str
    metric: str
    unit: str
    view: str
    positive: str
    level: float
    threshold: float
    a: dict[str, Any]
    b: dict[str, Any]
    same_weights: bool
    differing: dict[str, list[Any]]
    pairs: dict[str, int]
    cells: dict[str, int]
    without_stereotype: int
    totals: tuple[TotalChange, ...]
    sites: tuple[SiteChange, ...]
    overlaps: tuple[Overlap, ...] = ()
    table: pd.DataFrame | None = field(default=None, compare=False, repr=False)
    rounding: float = field(default=0.0, compare=False, repr=False)
    subject: str = field(default="subject", compare=False, repr=False)
    answers: tuple[str | None, ...] | None = field(default=None, compare=False, repr=False)

    def as_json(self) -> dict[str, Any]:
        """The content of compare.json."""
        content = {each.name: getattr(self, each.name) for each in fields(self) if each.name not in UNSAVED}
        content |= {name: [asdict(each) for each in content[name]] for name in ("totals", "sites", "overlaps")}
        return {"schema": COMPARE_VERSION, "locate": locate_version()} | content

    def save(self, path: str | Path) -> Path:
        """Write compare.json.

        Raises LocateError when something in it does not fit the schema, such as an effect that is not a number.
        """
        content = strict(self.as_json())
        validate(content, "compare", path)
        return write_json(Path(path), content)

    def shown(self) -> Shown:
        """The table of every site, with what a figure says about it.

        Raises LocateError for a comparison that was read from a file.
        """
        if self.table is None:
            raise LocateError("this comparison was read from a file and holds no table: compare the two runs again")
        return Shown(
            self.table, self.quantity, self.metric, self.unit, self.positive, self.level, subject=self.subject,
            answers=self.answers, rounding=self.rounding,
        )  # fmt: skip

    def frame(self) -> pd.DataFrame:
        """One row per listed site."""
        return pd.DataFrame([asdict(site) for site in self.sites])

    def _repr_html_(self) -> str:
        names = [without_folders(str(side["name"])) for side in (self.a, self.b)]
        totals = self._rows("total effect", [(each.direction, each) for each in self.totals])
        sites = self._rows("largest changes", [(self._site_words(each), each) for each in self.sites])
        return (
            title(
                f"From {names[0]} (A) to {names[1]} (B): {QUANTITIES[self.quantity]} on the "
                f"{metric_words(self.metric, self.answers)}, in {self.unit}"
            )
            + sentences(
                "The weights are the same." if self.same_weights else "",
                f"Positive is {self.positive}; a positive change is more so in B. {self.pairs['both']} pairs are in "
                f"both, {self.pairs['only_a']} in A alone, {self.pairs['only_b']} in B alone; {self.level:.0%} "
                "intervals.",
            )
            + as_table(totals)
            + first_rows([row | {"q": chance(each.q)} for row, each in zip(sites, self.sites, strict=True)])
            + (Rows(self.overlaps)._repr_html_() if self.overlaps else "")
        )

    def _rows(self, name: str, found: Sequence[tuple[str, SiteChange | TotalChange]]) -> list[dict[str, str]]:
        """The rows of a table of effects in both models, with as many decimals as the largest needs.

        name   of the first column
        found  what it holds, and the effects
        """
        sizes = (abs(side[0]) for _, each in found for side in (each.a, each.b, each.change))
        digits = decimals(max(sizes, default=0.0))
        rows = []
        for words, each in found:
            told = {"A": each.a, "B": each.b, "B - A": each.change}
            intervals = {column: with_interval(*value, digits=digits) for column, value in told.items()}
            rows.append({name: words} | intervals)
        return rows

    def _site_words(self, site: SiteChange) -> str:
        """A changed patch in words, with its direction where several were traced."""
        words = site_words(site.component, site.layer, site.role, site.unit, subject=self.subject)
        way = site.direction if len(self.totals) > 1 else ""
        more = ", ".join(each for each in (more_of(site), way) if each)
        return f"{words} ({more})" if more else words


def compare_traces(
    a: Trace | Analysis,
    b: Trace | Analysis,
    *,
    quantity: str = "nie",
    direction: str | None = None,
    top: int = TOP,
    k: int | None = None,
    **settings: Any,
) -> Comparison:
    """Compare the same trace of two models: base and instruct, before and after an edit, two checkpoints.

    quantity   "nie", "nde" or "total"
    direction  "denoising" or "noising" alone; None for all that were traced
    top        how many sites to list
    k          size of the sets whose overlap is told, as in `overlap`
    settings   of `analyse`, where traces are given; two analyses must have the same ones

    Raises LocateError when the traces do not match (see `matched`), or share less than half of their cells.
    """
    check("quantity", quantity, tuple(EFFECTS))
    if top < 1:
        raise LocateError(f"top {top}: expected a number of sites >= 1")
    ours, theirs = settled(a, b, settings)
    ways = ours.trace.meta["directions"]
    if direction is not None:
        check("direction", direction, DIRECTIONS)
        check("direction", direction, tuple(ways))
    unlike = matched(ours.trace, theirs.trace, ours.metric)
    derived = [each.effects for each in (ours, theirs)]
    if direction is not None:
        derived = [each[each["direction"] == direction] for each in derived]
    found = paired(*derived)
    table = average_changes(found, quantity, ours.intervals)
    totals = total_changes(found, ours.intervals)
    sides = [{name: each.trace.meta["model"].get(name) for name in SIDE} for each in (ours, theirs)]
    pairs = [set(each["pair"]) for each in derived]
    first, second = (known(each, quantity) for each in derived)
    return Comparison(
        quantity=quantity,
        metric=ours.metric.name,
        unit=ours.metric.unit,
        view=ours.terms.view,
        positive=ours.terms.positive,
        level=ours.intervals.level,
        threshold=THRESHOLD,
        a=sides[0],
        b=sides[1],
        same_weights=sides[0]["weights_sha256"] == sides[1]["weights_sha256"],
        differing=unlike,
        pairs=shares(len(pairs[0] & pairs[1]), len(pairs[0] - pairs[1]), len(pairs[1] - pairs[0])),
        cells=shares(len(found.change), found.only_a, found.only_b),
        without_stereotype=ours.terms.without_stereotype,
        totals=tuple(TotalChange(direction=str(row["direction"]), **numbers(row)) for row in totals.to_dict("records")),
        sites=tuple(site_change(row) for row in largest(table).head(top).to_dict("records")),
        overlaps=overlap(first, second, quantity, ours.intervals, k=k),
        table=table,
        rounding=ours.rounding(quantity) + theirs.rounding(quantity),
        subject=ours.subject,
        answers=ours.answers if ours.answers == theirs.answers else None,
    )


def overlap_traces(
    a: Trace | Analysis,
    b: Trace | Analysis,
    *,
    quantity: str = "nie",
    direction: str | None = None,
    k: int | None = None,
    **settings: Any,
) -> Rows[Overlap]:
    """Overlap of the strongest sites of two runs, by direction; other prompts, answers and weights are no hindrance.

    quantity, direction, settings  as in `compare_traces`
    k                              as in `overlap`

    Raises LocateError where the depth of the models differs, for analyses under different settings, where no site is in
    both runs, and as `overlap` does.
    """
    check("quantity", quantity, tuple(EFFECTS))
    ours, theirs = settled(a, b, settings)
    for name in ("n_layers", "n_heads", "d_model"):
        one, other = (each.trace.meta["model"].get(name) for each in (ours, theirs))
        same(name, one, other, "the sites of such models do not correspond")
    first, second = (known(each.effects, quantity) for each in (ours, theirs))
    found = overlap(first, second, quantity, ours.intervals, k=k)
    found = Rows(each for each in found if direction in (None, each.direction))
    if not found:
        raise LocateError("no two sites are in both runs: trace the same components, layers and roles in one direction")
    return found


def known(effects: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """The rows whose effect is defined."""
    return effects[effects[quantity].notna()]


def settled(a: Trace | Analysis, b: Trace | Analysis, settings: dict[str, Any]) -> tuple[Analysis, Analysis]:
    """Both as analyses under the same settings; two traces take the view of the first.

    Raises LocateError for two analyses whose settings differ.
    """
    first = analyse(a, **settings)
    second = analyse(b, **settings) if isinstance(b, Analysis) else replace(first, trace=b)
    for name in ("metric", "view", "kind", "intervals"):
        one, other = getattr(first, name), getattr(second, name)
        if one != other:
            raise LocateError(f"{name} {one!r} in A, {other!r} in B: analyse both under the same settings")
    return first, second


def shares(both: int, only_a: int, only_b: int) -> dict[str, int]:
    """Counts of what is in both, and in one alone."""
    return {"both": both, "only_a": only_a, "only_b": only_b}


def largest(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by the size of their change: whole sites without the residual stream, or all if nothing else was traced.

    Where windows of several widths were traced, only the narrowest count.
    """
    known = table[table["groups"] > 1]
    chosen = known[(known["severed"] == "") & (known["component"] != "resid_pre")]
    chosen = known if chosen.empty else chosen
    chosen = chosen[chosen["window"] == chosen["window"].min()]
    return chosen.iloc[chosen["change"].abs().argsort(kind="stable")[::-1]]


def numbers(row: dict[Hashable, Any]) -> dict[str, Any]:
    """The averages of a row of `changes`, with their intervals and counts."""
    found: dict[str, Any] = {
        name: (float(row[f"effect_{name}"]), float(row[f"low_{name}"]), float(row[f"high_{name}"])) for name in "ab"
    }
    found["change"] = float(row["change"]), float(row["low"]), float(row["high"])
    return found | {"n": int(row["n"]), "groups": int(row["groups"]), "p": float(row["p"])}


def more_of(site: SiteChange) -> str:
    """What a patch is besides one site copied from the source: a window, severed, to a key, a named set, an origin."""
    told = {
        f"window {site.window}": site.window > 1,
        f"{site.severed} severed": bool(site.severed),
        f"to {site.key}": bool(site.key),
        site.name: bool(site.name),
        f"from {site.origin}": site.origin not in ("source", "base+source"),
    }
    return ", ".join(text for text, holds in told.items() if holds)


def site_change(row: dict[Hashable, Any]) -> SiteChange:
    """A row of `changes` as a site."""
    labels: dict[str, Any] = {name: str(row[name]) for name in ROW if name not in ("layer", "unit", "window")}
    labels |= {"layer": int(row["layer"]), "window": int(row["window"])}
    return SiteChange(**labels, unit=None if row["unit"] < 0 else int(row["unit"]), q=float(row["q"]), **numbers(row))


def load_comparison(path: str | Path) -> Comparison:
    """Read a compare.json, or the one in a folder.

    Raises LocateError when it is missing or does not fit its schema.
    """
    path = Path(path)
    path = path / "compare.json" if path.is_dir() else path
    content = read_json(path)
    if isinstance(content, dict) and content.get("schema") == COMPARE_VERSION - 1:
        content |= {"schema": COMPARE_VERSION, "overlaps": []}
    validate(content, "compare", path)
    entries = {key: value for key, value in content.items() if key not in ("schema", "locate")}
    totals = tuple(TotalChange(**with_intervals(each)) for each in entries.pop("totals"))
    sites = tuple(SiteChange(**with_intervals(each)) for each in entries.pop("sites"))
    overlaps = Rows(Overlap(**each) for each in entries.pop("overlaps"))
    return Comparison(**entries, totals=totals, sites=sites, overlaps=overlaps)


def with_intervals(content: dict[str, Any]) -> dict[str, Any]:
    """The entries with JSON's lists of three turned into tuples."""
    return content | {name: tuple(content[name]) for name in ("a", "b", "change")}
