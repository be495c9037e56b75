"""What a comparison shows: maps of both models and of their difference on one colour scale, and its files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.files import write_text, write_whole
from locate.mediation.analysis import Shown
from locate.mediation.comparison import Comparison
from locate.report.cells import (
    Frame,
    add_panel,
    cells_of,
    is_still,
    layers_of,
    marks_line,
    role_label,
    role_labels,
    tilt,
)
from locate.report.figures import (
    BAR,
    NAMES,
    QUANTITIES,
    ROOM,
    ROOM_TILTED,
    caption_of,
    headline,
    join_names,
    side_by_side,
    whole_vectors,
)
from locate.report.page.comparison import comparison_page
from locate.report.quiet import quiet_subplots
from locate.report.theme import Scale, add_words, safe
from locate.report.write import FORMATS, save_figures
from locate.sites import ROLES, check
from locate.tracing.table import META_FILE, whole_sites
from locate.words import decimals, role_words, with_interval, without_folders

PANELS = ("a", "b", "change")
NOTE = "B - A: mean over the same pairs, positive where B has more of it"
BETWEEN, ROW_TITLES = 26, 110  # px between rows of panels, and for the titles left of them
COLUMN, LEAST = 60, 200  # px of a column of roles, and of a panel, at least


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

    One colour scale, centred on 0, serves all panels. Cells above the false-discovery threshold have a dot, in each
    panel by its own q; other marks are those of `plot_map`.

    Raises LocateError when there is nothing to draw.
    """
    shown = comparison.shown()
    rows = whole_vectors(shown.table, direction, window)
    if rows.empty:
        raise LocateError(
            f"no cells of direction {direction!r} and window {window} to draw: compare runs that have them"
        )
    roles = [role for role in ROLES if role in set(rows["role"])]
    parts = {name: rows[rows["component"] == name] for name in NAMES if name in set(rows["component"])}
    frame = frame_of(rows, roles, shown).wide(max(COLUMN, LEAST / len(roles)))
    frame = replace(frame, labels=role_labels(roles, shown.subject, frame.width))
    figure = beside({NAMES[name]: part for name, part in parts.items()}, "role", frame, comparison)
    figure.update_xaxes(tickangle=tilt(frame.width))
    what = f"change of the {QUANTITIES[shown.column]} by layer and token: {join_names(NAMES[each] for each in parts)}"
    return add_words(
        figure, title or headline(what + between(comparison), shown, direction, window),
        caption(figure, comparison, frame, direction, window),
        ROW_TITLES + BAR + side_by_side(3, frame.panel), stack_height(frame, len(parts)), left=ROW_TITLES,
        bottom=ROOM_TILTED if tilt(frame.width) else ROOM,
    )  # fmt: skip


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
    frame = frame_of(rows, heads, shown).wide(LEAST / len(heads))
    figure = beside({role_label(role, shown.subject, 18): rows}, "unit", frame, comparison)
    figure.update_xaxes(title="head")
    what = f"change of the {QUANTITIES[shown.column]} of attention heads at the {role_words(role, shown.subject)}"
    return add_words(
        figure, title or headline(what + between(comparison), shown, direction),
        caption(figure, comparison, frame, direction),
        ROW_TITLES + BAR + side_by_side(3, frame.panel), frame.height, left=ROW_TITLES,
    )  # fmt: skip


def frame_of(rows: pd.DataFrame, columns: Sequence[str], shown: Shown) -> Frame:
    """The frame of maps of A, of B and of the change, on one colour scale."""
    panels = [panel_of(rows, each) for each in PANELS]
    drawn = np.concatenate([each.loc[~is_still(each, shown), "effect"].to_numpy() for each in panels])
    return Frame(layers_of(rows), columns, columns, Scale.of(drawn, shown.unit))


def stack_height(frame: Frame, lines: int) -> int:
    """Pixels of so many rows of panels."""
    return lines * frame.height + (lines - 1) * BETWEEN


def beside(parts: dict[str, pd.DataFrame], column: str, frame: Frame, comparison: Comparison) -> go.Figure:
    """A row of three panels for each part: A, B and the change, which is 0 by construction where both are."""
    heads = [f"A: {safe(names(comparison)[0])}", f"B: {safe(names(comparison)[1])}", "B - A"]
    figure = quiet_subplots(
        len(parts), 3, shared_yaxes=True, shared_xaxes=True, horizontal_spacing=0.02,
        vertical_spacing=BETWEEN / stack_height(frame, len(parts)) if len(parts) > 1 else 0.0, subplot_titles=heads,
    )  # fmt: skip
    shown = comparison.shown()
    for line, (name, part) in enumerate(parts.items(), start=1):
        both = is_still(panel_of(part, "a"), shown) & is_still(panel_of(part, "b"), shown)
        for place, panel in enumerate(PANELS, start=1):
            rows = panel_of(part, panel)
            silent = both if panel == "change" else is_still(rows, shown)
            add_panel(figure, cells_of(rows, rows[column], shown, frame.scale.digits, silent), frame, place, line)
        figure.update_yaxes(title=f"{name}<br>layer", row=line, col=1)
    return figure.update_layout(coloraxis=frame.scale.axis())


def caption(figure: go.Figure, comparison: Comparison, frame: Frame, direction: str, window: int = 1) -> str:
    """What the panels show, with the total effect in both models and its change."""
    totals = [each for each in comparison.totals if each.direction == direction]
    told = "".join(
        f"; total effect {', '.join(f'{name} {with_interval(*side, decimals(abs(side[0])))}' for name, side in sides)}"
        for total in totals
        for sides in [(("A", total.a), ("B", total.b), ("B - A", total.change))]
    )
    marks = marks_line(figure, frame.scale)
    return caption_of(comparison.shown(), direction, f"{NOTE}{told}" + (f"; {marks}" if marks else ""), window)


def names(comparison: Comparison) -> list[str]:
    """The names of both models, without folders or owners."""
    return [without_folders(str(side["name"])) for side in (comparison.a, comparison.b)]


def between(comparison: Comparison) -> str:
    """Which models are compared, as the end of a title."""
    first, second = names(comparison)
    return f", from {first} (A) to {second} (B)"


def panel_of(rows: pd.DataFrame, panel: str) -> pd.DataFrame:
    """Rows with the effects, intervals and q of one panel under the names that maps are drawn from."""
    if panel == "change":
        return rows.rename(columns={"change": "effect"})
    names = ["effect", "low", "high", "q"]
    return rows.drop(columns=["low", "high", "q"]).rename(columns={f"{name}_{panel}": name for name in names})


def change_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """Every figure of changes that the comparison has the rows for, by file name."""
    assert comparison.table is not None
    table = comparison.table
    drawn: dict[str, go.Figure] = {}
    for direction in [each.direction for each in comparison.totals]:
        rows = whole_sites(table[table["direction"] == direction])
        for window in sorted({int(width) for width in rows.loc[rows["unit"] < 0, "window"]}):
            suffix = direction if window == 1 else f"{direction}_window{window}"
            drawn[f"change_{suffix}"] = plot_changes(comparison, direction=direction, window=window)
        heads = rows[(rows["component"] == "head") & (rows["window"] == 1)]
        for role in [role for role in ROLES if role in set(heads["role"])]:
            drawn[f"change_heads_{role}_{direction}"] = plot_head_changes(comparison, role=role, direction=direction)
    return drawn


def write_comparison(
    comparison: Comparison,
    folder: str | Path,
    *,
    formats: Sequence[str] = FORMATS,
    step: Callable[[str], None] | None = None,
    commands: Sequence[str] = (),
) -> Written:
    """Write changes.csv, compare.json, figures/ and report.html into a folder.

    formats, step, commands  as in `write_report`

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
    drawn = change_figures(comparison)
    paths, missing = save_figures(drawn, folder / "figures", formats)
    say("report")
    page = write_text(folder / "report.html", comparison_page(comparison, drawn, commands=commands, missing=missing))
    return Written((csv, content, page, *paths), missing)
