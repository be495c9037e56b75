"""report.html of an evaluation, and of two compared: what the scores say, and every score with its interval."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import plotly.graph_objects as go

from locate.evaluation.change import EvaluationChange, ScoreChange, change_text, kept_cells
from locate.evaluation.evaluation import KINDS, Evaluation, main_scores
from locate.evaluation.meaning import VERDICTS
from locate.evaluation.scores import Score, label, value_text, which_way
from locate.evaluation.tests import known_test
from locate.report.page.document import Page, Section, items, table
from locate.report.page.glossary import described
from locate.report.page.lead import figure_places
from locate.report.theme import bare
from locate.words import decimals, without_folders

HEADINGS = {"bias": "Bias", "control": "What must be kept", "ability": "Ability"}
TOLD = 4  # sentences under each heading of the first screen
WORDS = {
    "interval": "Had other items of the same kind been drawn, the score would fall into it in about 95 of 100 cases.",
    "ideal": "What an unbiased model has, or a perfect one; not every score has one.",
    "n": "The items behind a score. Intervals resample their groups, such as occupations or paradigms.",
    "to be kept": "Scores that an edit should leave alone, such as the pronouns of words that say their gender.",
    "log-odds": "Of she against he, in nats: 0 where both are as likely, above it where she is likelier. +0.7 nats "
    "doubles the odds. Its size leaves out which of the two is likelier.",
    "which way": "Nearer to the ideal is less biased; where there is none, as of perplexity, the side that is named.",
    "name in brackets": "What the score is called in scores.csv, changes.csv and on the command line.",
}


VERDICT_WORDS = {
    "better, worse": "The change leaves out 0 with all its interval, and moves the score the way that is named, or the "
    "other way.",
    "moved": "Beyond chance, where nobody says which side is better.",
    "within chance": "The interval of the change holds 0: other items might as well show no change, or the reverse.",
}


def evaluation_page(found: Evaluation, figures: Mapping[str, go.Figure], *, missing: str = "") -> str:
    """The report of an evaluation as one HTML file.

    figures  of the evaluation, by file name
    missing  what could not be written, in a line
    """
    main = [each for each in main_scores(found.scores) if math.isfinite(each.value)]
    sections = [
        *[
            Section(kind, HEADINGS[kind], rows_table([each for each in found.scores if each.kind == kind]))
            for kind in KINDS
        ],
        Section("figures", "Figures", figure_places(figures, missing)),
        Section("tests", "What the tests measure", described(titles(found))),
        Section("provenance", "Where the numbers come from", provenance(found)),
        Section("words", "Words", described(WORDS)),
    ]
    return Page(
        title=f"Bias and ability of {without_folders(found.name)}",
        lead=cards({HEADINGS[kind]: [score_sentence(each) for each in main if each.kind == kind] for kind in KINDS}),
        sections=sections,
        figures={name: bare(each) for name, each in figures.items()},
    ).html()


def evaluation_change_page(found: EvaluationChange, figures: Mapping[str, go.Figure], *, missing: str = "") -> str:
    """The report of two evaluations compared, as one HTML file; arguments as in `evaluation_page`."""
    names = [without_folders(each.name) for each in (found.before, found.after)]
    main = {each.key for each in main_scores([change.before for change in found.changes])}
    told = [each for each in found.changes if each.before.key in main and math.isfinite(each.change)]
    moved = {HEADINGS[kind]: movements([each for each in told if each.before.kind == kind]) for kind in KINDS}
    both = [kept_cells(each) for each in found.retained if math.isfinite(each.value)]
    moved["Both models, item by item"] = [kept_sentence(each) for each in both]
    alone = [f"only before: {each}" for each in found.only_before] + [
        f"only after: {each}" for each in found.only_after
    ]
    differing = [f"{name}: {values[0]} before, {values[1]} after" for name, values in found.differing.items()]
    sections = [
        *[
            Section(kind, HEADINGS[kind], rows_table([each for each in found.changes if each.before.kind == kind]))
            for kind in KINDS
        ],
        Section("kept", "Needs both models", table([kept_cells(each) for each in found.retained])),
        Section("figures", "Figures", figure_places(figures, missing)),
        Section("differing", "What else differs", items([*differing, *alone])),
        Section("words", "Words", described(WORDS | VERDICT_WORDS)),
    ]
    return Page(
        title=f"What changed from {names[0]} to {names[1]}",
        lead=cards(moved),
        sections=sections,
        figures={name: bare(each) for name, each in figures.items()},
    ).html()


def movements(changes: Sequence[ScoreChange]) -> list[str]:
    """How many scores are better, worse or within chance, and those that moved; [] where there are none at all."""
    moved = [each for each in changes if each.within_noise is False]
    counts = Counter(each.verdict for each in changes)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS if counts[verdict])
    return [f"of {len(changes)} scores: {said}", *(change_sentence(each) for each in moved)] if changes else []


def cards(told: Mapping[str, Sequence[str]]) -> str:
    """The first sentences under their headings, side by side, and how many more the tables hold."""
    sections = [
        f"<section><h2>{escape(title)}</h2>{items([*lines[:TOLD], *more(len(lines) - TOLD)])}</section>"
        for title, lines in told.items()
        if lines
    ]
    return f'<div class="answer">{"".join(sections)}</div>'


def more(count: int) -> list[str]:
    """How many sentences are left out, where any are."""
    return [f"and {count} more in the tables below"] if count > 0 else []


def titles(found: Evaluation) -> dict[str, str]:
    """What each test measures, in a line; a test of the user's own is not known here."""
    known = {name: known_test(name) for name in dict.fromkeys(score.test for score in found.scores)}
    return {name: "a test of your own" if test is None else test.title for name, test in known.items()}


def score_sentence(score: Score) -> str:
    """A score with its interval, which way is better, and whether the interval holds the ideal."""
    text = f"{label(score)}: {value_text(score)}; {which_way(score)}"
    if score.ideal is None or math.isnan(score.low):
        return text
    holds = score.low <= score.ideal <= score.high
    return f"{text}; the ideal, {score.ideal:g}, lies {'inside' if holds else 'outside'} the interval"


def kept_sentence(cells: Mapping[str, str]) -> str:
    """A score that needs both models, in a line, from its row."""
    said = f", {cells['verdict']}" if cells["verdict"] else ""
    return f"{cells['score']}: {cells['value and interval']}{said}"


def change_sentence(change: ScoreChange) -> str:
    """A score that moved: better or worse, before, after, and the change with its interval."""
    values = [f"{each.value:.{decimals(abs(each.value))}f}" for each in (change.before, change.after)]
    unit = change.before.unit
    moved = f"{values[0]} to {values[1]} {unit}, a change of {change_text(change)}"
    return f"{label(change.before)}: {change.verdict}, {moved}"


def rows_table(scores: Sequence[Score] | Sequence[ScoreChange]) -> str:
    """Scores or changes as a table; "" where there are none."""
    return table([each.cells() for each in scores])


def provenance(found: Evaluation) -> str:
    """The evaluation's model and settings as a table."""
    facts: dict[str, Any] = {f"model: {name}": value for name, value in found.meta["model"].items()}
    facts |= {name: value for name, value in found.meta.items() if isinstance(value, str | int | float | bool)}
    return table([{"what": name, "value": str(value)} for name, value in facts.items()], name="facts")
