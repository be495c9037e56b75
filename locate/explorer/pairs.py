"""One pair of a run: both prompts as tokens with their roles, the answers' probabilities, and the pair's own map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from dash import html

from locate.explorer import maps, parts
from locate.explorer.runs import CHANGE, Runs
from locate.explorer.state import State
from locate.mediation.effect_table import answers_of
from locate.report.figures import QUANTITIES
from locate.report.pair import parts_of_pair
from locate.report.spelling import Part
from locate.report.theme import Scale
from locate.tracing.table import Trace, whole_sites
from locate.words import NAMES, metric_words


def pair_parts(runs: Runs, state: State, *, narrow: bool) -> list[Any]:
    """What is shown of the open pair; [] where none is."""
    if state.pair is None:
        return []
    run = 1 if state.panel == "B" else 0
    analysis = runs.analysis(state, run)
    every = analysis.effects
    every = every[(every["pair"] == state.pair) & (every["direction"] == state.direction)]
    if every.empty:
        return [html.P(f"Pair {state.pair} has no effect under these settings.")]
    rows = whole_sites(every[(every["unit"] < 0) & (every["window"] == 1) & (every["clean_pos"] >= 0)])
    row, note = every.iloc[0], "one pair, no interval" + (" (model A)" if state.panel == CHANGE else "")
    prompt = [] if rows.empty else parts_of_pair(rows)
    spans = [(each.text if each.position is not None else f" {each.text} ", each.role) for each in prompt]
    measure = metric_words(analysis.metric.name, analysis.answers)
    about = f"{state.direction.capitalize()}; {QUANTITIES[state.quantity]} on the {measure}, {analysis.metric.unit}."
    own = pair_maps(rows.assign(effect=rows[state.quantity]), prompt, analysis.metric.unit, narrow=narrow)
    return [
        html.H3(f"{row['group']}: {note}"),
        parts.tokens_line("clean prompt", spans or [(str(row["clean"]), "")]),
        html.P([html.B("corrupted prompt: "), str(row["corrupted"])], dir="auto", className="tokens"),
        html.Div(answers(runs.traces[run], state.pair), className="scroll"),
        html.P(about if own else "No whole vector was patched at single tokens, so this pair has no map of its own."),
        *own,
    ]


def pair_maps(rows: pd.DataFrame, prompt: Sequence[Part], unit: str, *, narrow: bool) -> list[Any]:
    """The pair's own maps; [] where no whole vector was patched."""
    if rows.empty:
        return []
    tokens = [(each.position, each.text) for each in prompt]
    scale = Scale.of(rows["effect"].to_numpy(), unit)
    legend = maps.legend(scale.limit, scale.digits, unit)
    return [legend, *maps.token_maps(rows, tokens, scale, NAMES, narrow=narrow)]


def answers(trace: Trace, pair: int) -> Any:
    """Probabilities of both answers after both prompts; log-odds alone where the run left probabilities out."""
    rows = trace.table[trace.table["pair"] == pair]
    said = []
    for prompt, direction in (("clean", "noising"), ("corrupted", "denoising")):
        said += [(prompt, *each) for each in runs_of(rows, direction)]
    if not trace.meta.get("probabilities", True):
        return html.P("; ".join(f"log-odds after the {prompt} prompt {she - he:+.2f} nats" for prompt, she, he in said))
    female, male = (answers_of(trace.meta) or ("female", "male"))[:2]
    return parts.probabilities([("", prompt, she, he) for prompt, she, he in said], (str(female), str(male)))


def runs_of(rows: pd.DataFrame, direction: str) -> list[tuple[float, float]]:
    """Log-probabilities of both answers after the prompt that is the base of this direction, or the other's source."""
    own = rows[rows["direction"] == direction]
    column, found = ("base", own) if len(own) else ("source", rows[rows["direction"] != direction])
    return [(float(found[f"{column}_female"].mean()), float(found[f"{column}_male"].mean()))] if len(found) else []
