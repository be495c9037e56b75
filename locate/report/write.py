"""Filling a run folder: effects.csv, located.json, figures and report.html."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
import plotly.io

from locate.errors import LocateError
from locate.files import write_text, write_whole
from locate.mediation import average, default_view, effects, normalised, pair_log_odds
from locate.mediation.controls import control_table
from locate.mediation.effect_table import DEFINITION
from locate.mediation.located import Located, rank
from locate.mediation.selectivity_table import comparable
from locate.mediation.sets import set_table
from locate.prompts.build import occupation_table
from locate.report import evidence
from locate.report import figures as draw
from locate.report import selectivity as compare
from locate.report.html import page
from locate.report.images import write_static
from locate.report.paths import path_figures
from locate.report.quiet import CONFIG
from locate.sites import check
from locate.tracing.table import Trace, whole_sites

FORMATS = ("html", "png", "svg", "pdf")
STATIC = ("png", "svg", "pdf")


@dataclass(frozen=True, eq=False)
class Report:
    """What was written: located sites, averages, paths, what could not be written, and what the evidence says."""

    located: Located
    averages: pd.DataFrame
    paths: tuple[Path, ...]
    missing: str = ""
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Intervals:
    """How intervals are made; see `average`."""

    level: float
    samples: int
    seed: int
    clusters: str = "group"

    def settings(self) -> dict[str, Any]:
        """As keyword arguments of what resamples groups alone: few words, halves of the occupations."""
        return {"level": self.level, "samples": self.samples, "seed": self.seed}

    def clustered(self) -> dict[str, Any]:
        """As keyword arguments of averages over a whole run."""
        return self.settings() | {"clusters": self.clusters}

    def average(self, derived: pd.DataFrame, column: str = "nie") -> pd.DataFrame:
        """`average` with these settings."""
        return average(derived, column, **self.clustered())


def write_report(
    trace: Trace,
    folder: str | Path,
    *,
    metric: str = "logit_diff",
    direction: str | None = None,
    component: str | None = None,
    role: str | None = None,
    top: int = 20,
    kind: str | None = None,
    formats: Sequence[str] = FORMATS,
    clusters: str = "group",
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
    step: Callable[[str], None] | None = None,
) -> Report:
    """Derive everything that a run folder shows from its trace.

    direction  of located.json; None takes denoising where it was traced
    formats    of the figures; HTML is self-contained
    step       called with a word on what is being done

    The other arguments are those of `rank`. Writes effects.csv (indirect, direct and total averages with intervals,
    and the share of the total), located.json, figures/ and report.html; of a trace of occupations and definitional
    words also selectivity.csv and regression.csv. All else speaks of one kind of pairs.

    Raises LocateError for an unknown format, or when a file cannot be written.
    """
    for each in formats:
        check("format", each, FORMATS)
    say = step or (lambda _: None)
    folder = Path(folder)
    say("effects")
    view = default_view(trace)
    derived = effects(trace, metric, view=view, kind=kind)
    chosen = Intervals(level, samples, seed, clusters)
    averages = chosen.average(derived)
    say("ranking")
    located = rank(
        trace,
        metric=metric,
        view=view,
        direction=direction,
        component=component,
        role=role,
        kind=kind,
        top=top,
        **chosen.clustered(),
    )
    tables = compared_tables(trace, metric, chosen)
    table = write_averages(folder / "effects.csv", derived, averages, chosen)
    json_path = located.save(folder / "located.json")
    more = [*compare.write_compared(tables, folder), *write_evidence(trace, folder, metric, chosen)]
    say("figures")
    drawn = figures_of(trace, derived, averages, tables, metric, chosen)
    paths, missing = save_figures(drawn, folder / "figures", formats)
    say("report")
    lines = evidence.evidence_lines(trace, located, metric, **chosen.settings())
    html = write_text(folder / "report.html", page(trace, located, drawn, missing, lines))
    return Report(located, averages, (table, json_path, html, *more, *paths), missing, tuple(lines))


def draw_figures(
    trace: Trace,
    folder: str | Path,
    *,
    metric: str = "logit_diff",
    kind: str | None = None,
    formats: Sequence[str] = FORMATS,
    clusters: str = "group",
    seed: int = 0,
) -> tuple[list[Path], str]:
    """Draw the figures of a run again; see `save_figures`. Nothing else in the folder is touched."""
    derived = effects(trace, metric, view=default_view(trace), kind=kind)
    chosen = Intervals(0.95, 2000, seed, clusters)
    tables = compared_tables(trace, metric, chosen)
    drawn = figures_of(trace, derived, chosen.average(derived), tables, metric, chosen)
    return save_figures(drawn, Path(folder) / "figures", formats)


def figures_of(
    trace: Trace,
    derived: pd.DataFrame,
    averages: pd.DataFrame,
    tables: dict[str, pd.DataFrame],
    metric: str,
    chosen: Intervals,
) -> dict[str, go.Figure]:
    """Every figure of a run, with its controls at the foot."""
    drawn = all_figures(trace, derived, averages) | compare.comparison_figures(trace, tables)
    drawn |= evidence.evidence_figures(trace, averages, metric, **chosen.settings())
    return evidence.with_controls(drawn, trace, metric, **chosen.settings())


def write_evidence(trace: Trace, folder: Path, metric: str, chosen: Intervals) -> list[Path]:
    """controls.csv and sets.csv, as far as the run has them."""
    tables = {"controls": control_table(trace, metric, **chosen.settings())}
    if trace.sets is not None:
        with suppress(LocateError):  # shares of a total that cannot be told from 0; the report says so
            tables["sets"] = set_table(trace, metric, **chosen.settings())
    return [write_csv(folder / f"{name}.csv", table) for name, table in tables.items() if len(table)]


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV, whole or not at all."""
    return write_whole(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))


def compared_tables(trace: Trace, metric: str, chosen: Intervals) -> dict[str, pd.DataFrame]:
    """Selectivity and regression where both kinds of words were traced; else nothing."""
    return compare.compared(trace, metric, **chosen.settings()) if comparable(trace.table) else {}


def write_averages(path: Path, derived: pd.DataFrame, averages: pd.DataFrame, chosen: Intervals) -> Path:
    """effects.csv: one row per quantity, direction and site; the direct effect where both directions tell it."""
    parts = [averages.assign(quantity="nie")]
    parts += [
        chosen.average(derived[derived[name].notna()], name).assign(quantity=name)
        for name in ("nde", "total")
        if derived[name].notna().any()
    ]
    if derived.attrs["unit"] != "relative odds":
        parts.append(normalised(derived, **chosen.clustered()).assign(quantity="nie / total"))
    table = pd.concat(parts, ignore_index=True)
    units = {"nie / total": "share of the total effect"}
    table.insert(0, "unit_of_effect", [units.get(each, derived.attrs["unit"]) for each in table["quantity"]])
    table.insert(0, "metric", derived.attrs["metric"])
    table.insert(0, "quantity", table.pop("quantity"))
    return write_csv(path, table)


def all_figures(trace: Trace, derived: pd.DataFrame, averages: pd.DataFrame) -> dict[str, go.Figure]:
    """Every figure that the trace has the rows for, by file name."""
    title = draw.title_of(trace, "nie")
    drawn: dict[str, go.Figure] = {}
    for direction in trace.meta["directions"]:
        rows = whole_sites(averages[averages["direction"] == direction])
        for window in sorted({int(width) for width in rows.loc[rows["unit"] < 0, "window"]}):
            suffix = direction if window == 1 else f"{direction}_window{window}"
            drawn[f"map_{suffix}"] = draw.plot_map(averages, title=title, direction=direction, window=window)
            if set(rows["role"]) != {"before_subject"}:
                drawn[f"layers_{suffix}"] = draw.plot_layers(averages, title=title, direction=direction, window=window)
        for role in sorted(
            {str(role) for role in rows.loc[(rows["component"] == "head") & (rows["window"] == 1), "role"]}
        ):
            name = f"heads_{role}_{direction}"
            drawn[name] = draw.plot_heads(averages, role=role, title=title, direction=direction)
        drawn |= path_figures(averages, direction, title)
    direction = trace.meta["directions"][0]
    single = whole_sites(derived)
    single = single[
        (single["direction"] == direction) & (single["clean_pos"] >= 0) & (single["unit"] < 0) & (single["window"] == 1)
    ]
    if len(single):
        strongest = single.loc[single["total"].abs().idxmax()]
        headline = f"Indirect effects in {trace.meta['model']['name']}: the pair with the largest total effect"
        drawn["pair"] = draw.plot_pair(derived, int(strongest["pair"]), direction=direction, title=headline)
    log_odds = pair_log_odds(trace)
    log_odds = log_odds[log_odds["kind"] != DEFINITION]
    if len(set(log_odds["group"]) & set(occupation_table()["occupation"])) >= 3:
        drawn["occupations"] = draw.plot_occupations(
            log_odds, occupation_table(), title=f"Occupations in {trace.meta['model']['name']}"
        )
    return drawn


def save_figures(
    figures: dict[str, go.Figure], folder: str | Path, formats: Sequence[str] = FORMATS
) -> tuple[list[Path], str]:
    """Write figures as self-contained HTML and, where a Chrome or Chromium is found, as static images.

    Returns the paths, and a line that says how to get the rest ("" when nothing is missing).
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocateError(f"cannot make the folder {folder}: {error}: choose another") from error
    paths = []
    if "html" in formats:
        for name, figure in figures.items():
            html = plotly.io.to_html(figure, config=CONFIG, include_plotlyjs=True, full_html=True)
            paths.append(write_text(folder / f"{name}.html", html))
    static = [each for each in STATIC if each in formats]
    if not static:
        return paths, ""
    targets = [(folder / f"{name}.{each}", figure) for name, figure in figures.items() for each in static]
    written, missing = write_static(targets)
    return paths + written, missing
