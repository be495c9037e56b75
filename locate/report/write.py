"""Filling a run folder: effects.csv, located.json, figures and report.html."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.files import write_text, write_whole
from locate.mediation.analysis import Analysis, analyse
from locate.mediation.effect_table import DEFINITION
from locate.mediation.located import Located
from locate.prompts.build import occupation_table
from locate.report import evidence
from locate.report import figures as draw
from locate.report import selectivity as compare
from locate.report.answer import evidence_lines
from locate.report.images import write_static
from locate.report.occupations import plot_occupations
from locate.report.page.alone import PLOTLY_FILE, figure_page
from locate.report.page.document import plotly_js
from locate.report.page.run import run_page
from locate.report.pair import plot_pair
from locate.report.paths import path_figures
from locate.sites import check
from locate.tracing.table import Trace, whole_sites

FORMATS = ("html", "png", "svg", "pdf")
STATIC = ("png", "svg", "pdf")
IN_THE_MAP = ("map_", "heads_")  # figures that the map of report.html makes superfluous there


@dataclass(frozen=True, eq=False)
class Report:
    """What was written: located sites, averages, paths, what could not be written, and what the evidence says."""

    located: Located
    averages: pd.DataFrame
    paths: tuple[Path, ...]
    missing: str = ""
    lines: tuple[str, ...] = ()


def write_report(
    trace: Trace | Analysis,
    folder: str | Path,
    *,
    direction: str | None = None,
    component: str | None = None,
    role: str | None = None,
    top: int = 20,
    formats: Sequence[str] = FORMATS,
    step: Callable[[str], None] | None = None,
    following: Callable[[Located], Sequence[str]] = lambda _: (),
    **settings: Any,
) -> Report:
    """Write everything that a run folder shows; it is derived once, by the analysis.

    direction, component, role, top  of located.json, as in `rank`
    formats                          of the figures; their HTML needs the plotly.js beside it, and no network
    step                             called with a word on what is being done
    following                        what was located -> commands to type next
    settings                         of `analyse`, where a trace is given

    Writes effects.csv (indirect, direct and total averages with intervals, and the share of the total), located.json,
    figures/ and report.html; of a trace of occupations and definitional words also selectivity.csv and regression.csv.
    All else speaks of one kind of pairs.

    Raises LocateError for an unknown format, or when a file cannot be written.
    """
    for each in formats:
        check("format", each, FORMATS)
    say, folder, analysis = step or (lambda _: None), Path(folder), analyse(trace, **settings)
    say("effects")
    averages = analysis.average()
    say("ranking")
    located = analysis.rank(direction=direction, component=component, role=role, top=top)
    table = write_csv(folder / "effects.csv", analysis.averages)
    json_path = located.save(folder / "located.json")
    more = [*compare.write_compared(analysis, folder), *write_evidence(analysis, folder)]
    say("figures")
    drawn = figures_of(analysis)
    paths, missing = save_figures(drawn, folder / "figures", formats)
    say("report")
    lines = evidence_lines(analysis, located)
    shown = {name: figure for name, figure in drawn.items() if not name.startswith(IN_THE_MAP)}
    page = run_page(analysis, located, shown, commands=following(located), missing=missing, lines=lines)
    html = write_text(folder / "report.html", page)
    return Report(located, averages, (table, json_path, html, *more, *paths), missing, tuple(lines))


def draw_figures(
    trace: Trace | Analysis, folder: str | Path, *, formats: Sequence[str] = FORMATS, **settings: Any
) -> tuple[list[Path], str]:
    """Draw the figures of a run again; see `save_figures`. Nothing else in the folder is touched."""
    return save_figures(figures_of(analyse(trace, **settings)), Path(folder) / "figures", formats)


def figures_of(analysis: Analysis) -> dict[str, go.Figure]:
    """Every figure of a run, with its controls at the foot."""
    drawn = all_figures(analysis) | compare.comparison_figures(analysis)
    return evidence.with_controls(drawn | evidence.evidence_figures(analysis), analysis)


def write_evidence(analysis: Analysis, folder: Path) -> list[Path]:
    """controls.csv and sets.csv, as far as the run has them."""
    tables = {"controls": analysis.controls, "sets": analysis.sets}
    return [
        write_csv(folder / f"{name}.csv", table) for name, table in tables.items() if table is not None and len(table)
    ]


def write_csv(path: Path, table: pd.DataFrame) -> Path:
    """Write a table as CSV, whole or not at all."""
    return write_whole(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))


def all_figures(analysis: Analysis) -> dict[str, go.Figure]:
    """Every figure of effects that the trace has the rows for, by file name."""
    trace, averages = analysis.trace, analysis.shown()
    drawn: dict[str, go.Figure] = {}
    for direction in trace.meta["directions"]:
        rows = whole_sites(averages.table[averages.table["direction"] == direction])
        for window in sorted({int(width) for width in rows.loc[rows["unit"] < 0, "window"]}):
            suffix = direction if window == 1 else f"{direction}_window{window}"
            drawn[f"map_{suffix}"] = draw.plot_map(averages, direction=direction, window=window)
            if set(rows["role"]) != {"before_subject"}:
                drawn[f"layers_{suffix}"] = draw.plot_layers(averages, direction=direction, window=window)
        for role in sorted(
            {str(role) for role in rows.loc[(rows["component"] == "head") & (rows["window"] == 1), "role"]}
        ):
            name = f"heads_{role}_{direction}"
            drawn[name] = draw.plot_heads(averages, role=role, direction=direction)
        drawn |= path_figures(averages, direction)
    direction = trace.meta["directions"][0]
    single = whole_sites(analysis.effects)
    single = single[
        (single["direction"] == direction) & (single["clean_pos"] >= 0) & (single["unit"] < 0) & (single["window"] == 1)
    ]
    if len(single):
        strongest = single.loc[single["total"].abs().idxmax()]
        drawn["pair"] = plot_pair(analysis, int(strongest["pair"]), direction=direction)
    log_odds = analysis.log_odds[analysis.log_odds["kind"] != DEFINITION]
    if len(set(log_odds["group"]) & set(occupation_table()["occupation"])) >= 3:
        drawn["occupations"] = plot_occupations(analysis)
    return drawn


def save_figures(
    figures: dict[str, go.Figure],
    folder: str | Path,
    formats: Sequence[str] = FORMATS,
) -> tuple[list[Path], str]:
    """Write figures as HTML, with one plotly.js beside them, and as static images where a Chrome or Chromium is found.

    Returns the paths, and a line that says how to get the rest ("" when nothing is missing).
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LocateError(f"cannot make the folder {folder}: {error}: choose another") from error
    paths = []
    if "html" in formats:
        paths.append(write_text(folder / PLOTLY_FILE, plotly_js()))
        for name, figure in figures.items():
            paths.append(write_text(folder / f"{name}.html", figure_page(name, figure)))
    static = [each for each in STATIC if each in formats]
    if not static:
        return paths, ""
    targets = [(folder / f"{name}.{each}", figure) for name, figure in figures.items() for each in static]
    written, missing = write_static(targets)
    return paths + written, missing
