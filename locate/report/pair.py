"""One prompt pair's own map, by layer and token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from locate.errors import LocateError
from locate.mediation.analysis import Analysis, Shown
from locate.prompts.pair import places
from locate.report.cells import NOT_MEASURED, STILL, Frame, add_panel, layers_of, marks_line
from locate.report.figures import (
    BAR,
    LEAST,
    NAMES,
    QUANTITIES,
    SIDES,
    headline,
    join_names,
    meaning,
    metric_and_unit,
    side_by_side,
)
from locate.report.quiet import quiet_subplots
from locate.report.spelling import Part, Token, parts_of
from locate.report.theme import GREY, Scale, add_words, safe, with_foot
from locate.tracing.table import whole_sites
from locate.words import decimals, signed, site_words

FOOT_TEXT = "One pair, no interval: what holds on average is in the other figures."
COLUMN = 52  # px of a token's column, at least


def plot_pair(
    analysis: Analysis, pair: int, *, direction: str = "denoising", column: str = "nie", title: str = ""
) -> go.Figure:
    """Layer x token heatmap of one pair's own effects: no average, no interval.

    pair    its number in the trace
    column  "nie", "nde" or "total"

    Every part of the clean prompt has its column: the tokens that were patched and, hatched and in grey, the text
    between them, as far as it can be told ("…" where not). The exchanged words are in bold.

    Raises LocateError when the pair is not in the trace.
    """
    rows = whole_sites(analysis.effects)
    rows = rows[
        (rows["pair"] == pair)
        & (rows["direction"] == direction)
        & (rows["unit"] < 0)
        & (rows["window"] == 1)
        & (rows["clean_pos"] >= 0)
    ]
    if rows.empty:
        numbers = sorted(analysis.effects["pair"].unique())
        span = f"{numbers[0]} to {numbers[-1]}" if numbers else "none"
        raise LocateError(f"pair {pair} with direction {direction!r} is not in the trace: expected one of {span}")
    components = [name for name in NAMES if name in set(rows["component"])]
    parts, shown = parts_of_pair(rows), of_pair(analysis, rows, column)
    frame = frame_of(rows.assign(effect=rows[column]), parts, shown)
    figure = quiet_subplots(
        1, len(components), shared_yaxes=True, horizontal_spacing=0.02, subplot_titles=[NAMES[c] for c in components]
    )
    for place, component in enumerate(components, start=1):
        panel = rows[rows["component"] == component].assign(effect=rows[column])
        add_panel(figure, cells_of_pair(panel, parts, frame, shown), frame, place)
    figure.update_xaxes(tickangle=-40)
    figure.update_yaxes(title="layer", col=1)
    figure.update_layout(coloraxis=frame.scale.axis())
    quantity = QUANTITIES[column].removeprefix("average ")
    what = f"{quantity} of each token in one prompt: {join_names(NAMES[each] for each in components)}"
    marks = marks_line(figure, frame.scale, empty_words(parts))
    add_words(
        figure, title or headline(what, shown, direction),
        caption(rows.iloc[0], analysis, shown, direction, quantity, marks),
        SIDES + BAR + side_by_side(len(components), frame.panel), frame.height,
        left=SIDES, bottom=24 + int(4.6 * max(len(each.text) for each in parts)),
    )  # fmt: skip
    return with_foot(figure, FOOT_TEXT)


def of_pair(analysis: Analysis, rows: pd.DataFrame, column: str) -> Shown:
    """What the figure says about its effects; nothing of averages, which one pair does not have."""
    return Shown(
        rows, column, analysis.metric.name, analysis.metric.unit, model=analysis.model, subject=analysis.subject,
        answers=analysis.answers,
        rounding=analysis.rounding(),
    )  # fmt: skip


def parts_of_pair(rows: pd.DataFrame) -> list[Part]:
    """The clean prompt of one pair, part by part."""
    known = rows.drop_duplicates("clean_pos").sort_values("clean_pos")
    tokens = [
        Token(int(position), str(piece), str(role))
        for position, piece, role in zip(known["clean_pos"], known["token"], known["role"], strict=True)
    ]
    text, group = str(rows["clean"].iloc[0]), str(rows["group"].iloc[0])
    found = places(text, group)
    return parts_of(tokens, text, found[0] if len(found) == 1 else None)


def frame_of(rows: pd.DataFrame, parts: Sequence[Part], shown: Shown) -> Frame:
    """Rows, columns and colours of one pair's map."""
    drawn = rows.loc[rows["effect"].abs() > shown.rounding, "effect"].to_numpy()
    keys = [str(number) for number in range(len(parts))]
    layers, labels = layers_of(rows), [label(each) for each in parts]
    return Frame(layers, keys, labels, Scale.of(drawn, shown.unit)).wide(max(COLUMN, LEAST / len(parts)))


def cells_of_pair(rows: pd.DataFrame, parts: Sequence[Part], frame: Frame, shown: Shown) -> pd.DataFrame:
    """The effects of one component as cells of the map, and a cell without a colour where there is none."""
    measured = {(int(row["layer"]), int(row["clean_pos"])): row for row in rows.to_dict("records")}
    found = []
    for layer in frame.layers:
        for key, part in zip(frame.columns, parts, strict=True):
            row = None if part.position is None else measured.get((int(layer), part.position))
            effect = np.nan if row is None else float(row["effect"])
            empty = NOT_MEASURED if row is None else STILL if abs(effect) <= shown.rounding else ""
            told = empty or f"{signed(effect, frame.scale.digits + 1)} {safe(shown.unit)}"
            where = f"“{readable(part)}”"
            if row is not None:
                site = site_words(str(row["component"]), int(layer), part.role, subject=shown.subject)
                where = f"{where}<br>{safe(site)}"
            found.append(
                {"layer": layer, "column": key, "effect": effect, "hover": f"<b>{where}</b><br>{told}", "empty": empty}
            )
    return pd.DataFrame(found).assign(fails=False)


def caption(row: pd.Series, analysis: Analysis, shown: Shown, direction: str, quantity: str, marks: str) -> str:
    """Both prompts, what the cells show, and the pair's total effect."""
    total = row["total"]
    corrupted = "the same with noise" if row["corrupted"] == row["clean"] else f"“{row['corrupted']}”"
    return (
        f"Clean: “{row['clean']}”; corrupted: {corrupted}. {direction.capitalize()} ({meaning(direction)}): {quantity} "
        f"on the {metric_and_unit(shown)}; positive is {analysis.terms.positive}; total effect of "
        f"this pair {signed(total, decimals(abs(total)))}. Exchanged words in bold" + (f"; {marks}." if marks else ".")
    )


def empty_words(parts: Sequence[Part]) -> str:
    """Why cells have no colour."""
    gaps = ", as the words in grey are" if any(each.position is None for each in parts) else ""
    return f"0 within rounding, or not measured{gaps}"


def label(part: Part) -> str:
    """A part of the prompt as an axis label: bold in the subject, grey where nothing was measured."""
    text = f"<b>{readable(part)}</b>" if part.subject else readable(part)
    return text if part.position is not None else f'<span style="color:{GREY}">{text}</span>'


def readable(part: Part) -> str:
    """The text of a part, escaped; spaces at the start of a token, and ends of lines, can be seen."""
    text = part.text.replace("\n", "⏎")
    return safe(text if part.position is None else "␣" * (len(text) - len(text.lstrip(" "))) + text.lstrip(" "))
