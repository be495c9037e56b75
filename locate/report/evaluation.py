"""Figures of evaluations: every score with its interval beside its ideal, and before beside after."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import plotly.graph_objects as go

from locate.errors import LocateError
from locate.evaluation.change import EvaluationChange, ScoreChange, change_text
from locate.evaluation.evaluation import FILE, KINDS, Evaluation, main_scores
from locate.evaluation.meaning import BETTER, WORSE, meaning_of
from locate.evaluation.scores import Score
from locate.files import write_text
from locate.report.page.scores import evaluation_change_page, evaluation_page
from locate.report.quiet import quiet_subplots
from locate.report.theme import COLOURS, GAP, LABEL, LETTER, TEXT, add_words, safe
from locate.report.write import FORMATS, save_figures, write_csv
from locate.sites import check
from locate.words import without_folders

COLOUR = dict(zip(KINDS, (COLOURS[1], COLOURS[2], COLOURS[0]), strict=True))
UNITS = {"%": "percent", "perplexity": "perplexity", "bits": "bits per byte"}
ROW, HEAD = 24, 62  # pixels of a score, and of a panel besides its scores
WIDE = 30.0  # largest over smallest value beyond which an axis of positive numbers is logarithmic
LEFT, ACROSS, RIGHT, RIGHT_CHANGE = 290, 540, 30, 220  # px: labels, panels, and what stands right of them
DODGE, FADED, READABLE = 0.17, 0.4, 0.75
Panels = dict[tuple[str, str], list[int]]
Say = Callable[[str], None]


def plot_evaluation(evaluation: Evaluation | EvaluationChange, *, title: str = "") -> go.Figure:
    """Scores as dots with their intervals, those of one kind and unit on one axis, each beside its ideal.

    Scores of parts of a test are drawn only where the test has none of its whole, or where they are controls.

    Of an `EvaluationChange` it draws before beside after.

    Raises LocateError when there is nothing to draw.
    """
    if isinstance(evaluation, EvaluationChange):
        return plot_evaluation_change(evaluation, title=title)
    scores = drawn_scores(evaluation.scores)
    figure, panels = panelled(scores)
    for (kind, _), places in panels.items():
        own = [scores[place] for place in places]
        ideals(figure, own, row_of(panels, places))
        figure.add_scatter(
            **dots(own, heights(own)), name=KINDS[kind], showlegend=False, marker={"size": 9, "color": COLOUR[kind]},
            row=row_of(panels, places), col=1,
        )  # fmt: skip
    counts = f"n {spread([score.n for score in scores])} items in {spread([score.groups for score in scores])} groups"
    edited = ", edited" if evaluation.meta["edited"] else ""
    caption = (
        f"Model {evaluation.name}, {evaluation.meta['model']['dtype']}{edited}. Dot and line: score and its "
        f"{evaluation.meta['level']:.0%} interval over groups; vertical tick: ideal; {counts}; {len(scores)} of "
        f"{len(evaluation.scores)} scores, all are in scores.csv."
    )
    return drawn_panels(
        figure, title or f"Bias and ability of {without_folders(evaluation.name)}", caption, panels, RIGHT
    )


def plot_evaluation_change(found: EvaluationChange, *, title: str = "") -> go.Figure:
    """Scores before (open) and after (filled) with their intervals; changes within noise are faded.

    Raises LocateError when there is nothing to draw.
    """
    by_key = {each.before.key: each for each in found.changes}
    changes = [by_key[score.key] for score in drawn_scores([each.before for each in found.changes])]
    figure, panels = panelled([each.before for each in changes])
    for (kind, _), places in panels.items():
        row, own = row_of(panels, places), [changes[place] for place in places]
        ideals(figure, [each.before for each in own], row)
        for height, each in zip(heights(own), own, strict=True):
            add_change(figure, each, height, COLOUR[kind], row)
    names = [without_folders(each.name) for each in (found.before, found.after)]
    noise = sum(each.within_noise is not False for each in changes)
    paired = sum(each.paired for each in changes)
    caption = (
        f"Open: {names[0]}; filled: {names[1]}; with their 95% intervals; vertical tick: ideal. At "
        f"the right, the change with its own 95% interval, of {paired} scores paired by item; faded where it holds 0 "
        f"({noise} of {len(changes)} scores). n {spread([each.before.n for each in changes])} items."
    )
    return drawn_panels(
        figure, title or f"Bias and ability from {names[0]} to {names[1]}", caption, panels, RIGHT_CHANGE
    )


def add_change(figure: go.Figure, change: ScoreChange, height: float, colour: str, row: int) -> None:
    """A score before, a little above its line, and after, a little below; and the change in words."""
    opacity = 1.0 if change.within_noise is False else FADED
    for symbol, shift, score in (("circle-open", DODGE, change.before), ("circle", -DODGE, change.after)):
        figure.add_scatter(
            **dots([score], [height + shift]), showlegend=False, opacity=opacity,
            marker={"size": 9, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}},
            row=row, col=1,
        )  # fmt: skip
    said = f", {change.verdict}" if change.verdict in (BETTER, WORSE) else ""
    figure.add_annotation(
        text=f"{change_text(change).removesuffix(' (no interval)')}{said}", x=1.02, xref="x domain", xanchor="left",
        y=height, yref="y", showarrow=False, font={"size": LABEL}, opacity=max(opacity, READABLE), row=row, col=1,
    )  # fmt: skip


def drawn_scores(scores: Sequence[Score]) -> list[Score]:
    """The main scores that have a value.

    Raises LocateError when there is none.
    """
    found = [score for score in main_scores(scores) if math.isfinite(score.value)]
    if not found:
        raise LocateError("no score with a value to draw: evaluate the model on more items")
    return found


def panelled(scores: Sequence[Score]) -> tuple[go.Figure, Panels]:
    """An empty figure with a panel for each kind and unit, as high as its scores need; and their places by panel."""
    panels: Panels = {}
    for place, score in enumerate(scores):
        panels.setdefault((score.kind, score.unit), []).append(place)
    sizes = [ROW * len(places) for places in panels.values()]
    room = sum(sizes) + HEAD * (len(panels) - 1)
    figure = quiet_subplots(
        len(panels), 1, row_heights=sizes, vertical_spacing=HEAD / room if len(panels) > 1 else 0,
        subplot_titles=[f"<b>{KINDS[kind]}</b>" for kind, _ in panels],
    )  # fmt: skip
    for row, ((_, unit), places) in enumerate(panels.items(), start=1):
        own = [scores[place] for place in places]
        names = [name_of(score) for score in own]
        figure.update_yaxes(
            tickvals=heights(own), ticktext=names, range=[-0.7, len(own) - 0.3], tickfont={"size": LABEL},
            row=row, col=1,
        )  # fmt: skip
        figure.update_xaxes(**axis(unit, own), row=row, col=1)
    figure.update_annotations(x=0, xanchor="left", font={"size": 13})  # the panels' titles; there are no others yet
    return figure, panels


def axis(unit: str, scores: Sequence[Score]) -> dict[str, object]:
    """The horizontal axis of a panel: shares from 0 to 100, zero marked, wide positive ones logarithmic."""
    shared: dict[str, object] = {
        "title": {"text": UNITS.get(unit, unit), "standoff": 4, "font": {"size": LABEL}},
        "zeroline": True,
        "tickfont": {"size": LABEL},
    }
    values = [score.value for score in scores]
    if unit == "%" and min(values) >= 0 and max(values) <= 100:
        return shared | {"range": [-2, 102]}
    if min(values) > 0 and max(values) > WIDE * min(values):
        return shared | {"type": "log", "dtick": 1}
    return shared


def heights(panel: Sequence[object]) -> list[float]:
    """The height of each line of a panel, the first at the top."""
    return [float(len(panel) - 1 - place) for place in range(len(panel))]


def dots(scores: Sequence[Score], at: Sequence[float]) -> dict[str, object]:
    """Values and intervals as a scatter plot's arguments."""
    ends = [(score.value - score.low, score.high - score.value) for score in scores]
    down, up = ([None if math.isnan(each) else max(0.0, each) for each in side] for side in zip(*ends, strict=True))
    return {
        "x": [score.value for score in scores],
        "y": list(at),
        "text": [name_of(score) for score in scores],
        "mode": "markers",
        "error_x": {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "array": up, "arrayminus": down,
        },
        "customdata": [[score.low, score.high, score.n, score.groups] for score in scores],
        "hovertemplate": "%{text}: %{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>n %{customdata[2]}, "
        "%{customdata[3]} groups<extra></extra>",
    }  # fmt: skip


def ideals(figure: go.Figure, scores: Sequence[Score], row: int) -> None:
    """A vertical tick at the ideal of each score that has one."""
    known = [(score, at) for score, at in zip(scores, heights(scores), strict=True) if score.ideal is not None]
    if known:
        figure.add_scatter(
            x=[score.ideal for score, _ in known], y=[at for _, at in known], mode="markers", showlegend=False,
            marker={"symbol": "line-ns", "size": 16, "line": {"width": 3, "color": "#555555"}},
            hovertemplate="ideal: %{x}<extra></extra>", row=row, col=1,
        )  # fmt: skip


def row_of(panels: Panels, places: list[int]) -> int:
    """The row of a panel, from 1."""
    return list(panels.values()).index(places) + 1


def name_of(score: Score) -> str:
    """A score as an axis label: its test, plain name and part."""
    plain = meaning_of(score.test, score.name).words
    return safe(f"{score.test}: {plain}{f' ({score.part})' if score.part else ''}")


def spread(counts: Sequence[int]) -> str:
    """One count, or the smallest and largest of them."""
    return f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"


def drawn_panels(figure: go.Figure, title: str, caption: str, panels: Panels, right: int) -> go.Figure:
    """The figure with its title, caption, and room for its labels, of which none is cut."""
    height = sum(ROW * len(places) for places in panels.values()) + HEAD * (len(panels) - 1)
    labels = [text for axis in figure.select_yaxes() for text in axis.ticktext or ()]
    left = max(LEFT, int(LETTER[TEXT] * max(map(len, labels))) + GAP)
    return add_words(figure, title, caption, left + right + ACROSS, height, left=left, right=right, bottom=50)


def write_evaluation_figure(
    evaluation: Evaluation, folder: str | Path, formats: Sequence[str] = FORMATS
) -> tuple[list[Path], str]:
    """Draw an evaluation into its folder, with report.html; see `save_figures`.

    Raises LocateError for an unknown format, or when a file cannot be written.
    """
    for each in formats:
        check("format", each, FORMATS)
    drawn = {"evaluation": plot_evaluation(evaluation)}
    paths, missing = save_figures(drawn, Path(folder) / "figures", formats)
    page = write_text(Path(folder) / "report.html", evaluation_page(evaluation, drawn, missing=missing))
    return [page, *paths], missing


def write_evaluation_change(
    found: EvaluationChange, folder: str | Path, *, formats: Sequence[str] = FORMATS, step: Say | None = None
) -> tuple[list[Path], str]:
    """Write changes.csv, retained.csv where scores need both models, the figure and report.html.

    Returns the paths, and a line that says how to get what could not be drawn.

    Raises LocateError for an unknown format, a folder that holds an evaluation, or when a file cannot be written.
    """
    folder, say = Path(folder), step or (lambda _: None)
    for each in formats:
        check("format", each, FORMATS)
    if (folder / FILE).exists():
        raise LocateError(f"folder {folder} holds an evaluation: choose another for its comparison")
    say("changes")
    paths = [write_csv(folder / "changes.csv", found.frame())]
    if found.retained:
        paths.append(write_csv(folder / "retained.csv", Evaluation({}, found.retained, {}).frame()))
    say("figures")
    figures = {"change": plot_evaluation_change(found)}
    drawn, missing = save_figures(figures, folder / "figures", formats)
    say("report")
    paths.append(write_text(folder / "report.html", evaluation_change_page(found, figures, missing=missing)))
    return paths + drawn, missing
