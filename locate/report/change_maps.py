"""What a comparison shows: maps of both models and of their difference on one colour scale, and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.files import write_whole
from locate.mediation.comparison import Comparison
from locate.report.figures import (
    NAMES,
    QUANTITIES,
    add_panel,
    finished,
    layer_axes,
    marked,
    n_layers,
    safe,
    whole_sites,
    whole_vectors,
)
from locate.report.quiet import quiet_subplots
from locate.report.write import FORMATS, save_figures
from locate.sites import ROLES, check
from locate.tracing.table import META_FILE

PANELS = ("a", "b", "change")
NOTE = "B - A: mean over the same pairs, positive where B has more of it; faded: q > 0.05"


@dataclass(frozen=True, eq=False)
class Written:
    """What was written for a comparison: the paths, and a line on what could not be written."""

    paths: tuple[Path, ...]
    missing: str = ""


def plot_changes(
    comparison: Comparison, *, title: str = "", direction: str = "denoising", window: int = 1
) -> go.Figure:
    """Layer x role maps of model A, of model B and of the change B - A, one line of panels per component.

    direction, window  as in `plot_map`

    One colour scale, centred on 0, serves all panels. Cells above the false-discovery threshold are faded, in each
    panel by its own q.

    Raises LocateError when there is nothing to draw.
    """
    shown = comparison.shown()
    rows = whole_vectors(shown.table, direction, window)
    if rows.empty:
        raise LocateError(
            f"no cells of direction {direction!r} and window {window} to draw: compare runs that have them"
        )
    roles = [role for role in ROLES if role in set(rows["role"])]
    parts = {NAMES[name]: rows[rows["component"] == name] for name in NAMES if name in set(rows["component"])}
    parts = {name: part.assign(column=part["role"].astype(str)) for name, part in parts.items()}
    figure, limit = beside(parts, roles, comparison)
    figure.update_xaxes(tickvals=roles, ticktext=[marked(role) for role in roles], tickangle=-40)
    width, height = 200 + 3 * max(200, 58 * len(roles)), 190 + len(parts) * (70 + 30 * n_layers(rows))
    return finished(figure, shown, title, direction, limit, width, height, window, NOTE)


def plot_head_changes(
    comparison: Comparison, *, role: str = "last", title: str = "", direction: str = "denoising"
) -> go.Figure:
    """Layer x head maps at one role of model A, of model B and of the change B - A.

    direction: as in `plot_changes`.

    Raises LocateError when no heads were compared at that role.
    """
    shown = comparison.shown()
    rows = whole_sites(shown.table)
    rows = rows[(rows["direction"] == direction) & (rows["component"] == "head") & (rows["role"] == role)]
    rows = rows[rows["window"] == 1]
    if rows.empty:
        raise LocateError(f"no heads of direction {direction!r} at role {role!r}: compare runs with component 'head'")
    heads = [str(head) for head in sorted(rows["unit"].unique())]
    name = f"{NAMES['head']} at {role.replace('_', ' ')}"
    figure, limit = beside({name: rows.assign(column=rows["unit"].astype(str))}, heads, comparison)
    figure.update_xaxes(title="head", type="category")
    width, height = 200 + 3 * max(200, 46 * len(heads)), 240 + 34 * n_layers(rows)
    return finished(figure, shown, title, direction, limit, width, height, note=NOTE)


def beside(parts: dict[str, pd.DataFrame], columns: Sequence[str], comparison: Comparison) -> tuple[go.Figure, float]:
    """A row of three panels for each part, and the limit of their common colour scale."""
    heads = [f"A: {short(comparison.a['name'])}", f"B: {short(comparison.b['name'])}", "B - A"]
    figure = quiet_subplots(
        len(parts), 3, shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.02,
        vertical_spacing=0.06 if len(parts) > 1 else 0.0, subplot_titles=heads,
    )  # fmt: skip
    rows = pd.concat(parts.values())
    limit = float(rows[["effect_a", "effect_b", "change"]].abs().max().max()) or 1.0
    layer_axes(figure, rows)
    for line, (name, part) in enumerate(parts.items(), start=1):
        for place, panel in enumerate(PANELS, start=1):
            add_panel(figure, panel_of(part, panel), columns, place, limit, line)
        figure.update_yaxes(title=f"{name}<br>layer", row=line, col=1)
    return figure, limit


def panel_of(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Rows with the effects, intervals and q of one panel under the names that maps are drawn from."""
    if panel == "change":
        return rows.rename(columns={"change": "effect"})
    names = ["effect", "low", "high", "q"]
    return rows.drop(columns=["low", "high", "q"]).rename(columns={f"{name}_{panel}": name for name in names})


def short(name: str) -> str:
    """The last part of a model's name, which may be a folder's path."""
    return safe(Path(name).name or name)


def change_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """Every figure of changes that the comparison has the rows for, by file name."""
    assert comparison.table is not None
    table = comparison.table
    names = [Path(str(side["name"])).name for side in (comparison.a, comparison.b)]
    title = f"{QUANTITIES[comparison.quantity].capitalize()}: {names[0]} (A) and {names[1]} (B)"
    drawn: dict[str, go.Figure] = {}
    for direction in [each.direction for each in comparison.totals]:
        rows = whole_sites(table[table["direction"] == direction])
        for window in sorted({int(width) for width in rows.loc[rows["unit"] < 0, "window"]}):
            suffix = direction if window == 1 else f"{direction}_window{window}"
            drawn[f"change_{suffix}"] = plot_changes(comparison, title=title, direction=direction, window=window)
        heads = rows[(rows["component"] == "head") & (rows["window"] == 1)]
        for role in [role for role in ROLES if role in set(heads["role"])]:
            drawn[f"change_heads_{role}_{direction}"] = plot_head_changes(
                comparison, role=role, title=title, direction=direction
            )
    return drawn


def write_comparison(
    comparison: Comparison,
    folder: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    step: Callable[[str], None] | None = None,
) -> Written:
    """Write changes.csv, compare.json and figures/ into a folder.

    formats, step  as in `write_report`

    Raises LocateError for an unknown format, a comparison without its table, a folder that holds a run, or when a file
    cannot be written.
    """
    for each in formats:
        check("format", each, FORMATS)
    folder, say = Path(folder), step or (lambda _: None)
    if (folder / META_FILE).exists():
        raise LocateError(f"folder {folder} holds a run: choose another for its comparison")
    if comparison.table is None:
        raise LocateError("this comparison was read from a file and holds no table: compare the two runs again")
    say("changes")
    table = comparison.table
    named = table.assign(quantity=comparison.quantity, metric=comparison.metric, unit_of_effect=comparison.unit)
    first = ["quantity", "metric", "unit_of_effect"]
    named = named[[*first, *table.columns]]
    csv = write_whole(folder / "changes.csv", lambda partial: named.to_csv(partial, index=False, float_format="%.6g"))
    content = comparison.save(folder / "compare.json")
    say("figures")
    paths, missing = save_figures(change_figures(comparison), folder / "figures", formats)
    return Written((csv, content, *paths), missing)
