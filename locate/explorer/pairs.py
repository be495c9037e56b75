"""One pair of a run: both prompts as tokens with their roles, the answers' probabilities, and the pair's own map."""

from __future__ import annotations

from typing import Any

import pandas as pd
from dash import html

from locate.explorer import parts
from locate.explorer.runs import CHANGE, Runs
from locate.explorer.state import State
from locate.report.pair import parts_of_pair
from locate.tracing.table import Trace, whole_sites
from locate.words import NAMES


def pair_parts(runs: Runs, state: State) -> list[Any]:
    """What is shown of the open pair; [] where none is."""
    if state.pair is None:
        return []
    run = 1 if state.panel == "B" else 0
    analysis = runs.analysis(state, run)
    rows = whole_sites(analysis.effects)
    rows = rows[(rows["pair"] == state.pair) & (rows["direction"] == state.direction) & (rows["unit"] < 0)]
    rows = rows[(rows["window"] == 1) & (rows["clean_pos"] >= 0)]
    if rows.empty:
        return [html.H3(f"pair {state.pair}"), html.P("No single token of this pair was patched in this direction.")]
    prompt = parts_of_pair(rows)
    tokens = [(each.position, each.text) for each in prompt]
    spans = [(each.text if each.position is not None else f" {each.text} ", each.role) for each in prompt]
    note = "one pair, no interval" + (" (model A)" if state.panel == CHANGE else "")
    return [
        html.H3(f"{rows['group'].iloc[0]}: {note}"),
        parts.tokens_line("clean prompt", spans),
        html.P([html.B("corrupted prompt: "), str(rows["corrupted"].iloc[0])], dir="auto", className="tokens"),
        html.Div(answers(runs.traces[run], state.pair), className="scroll"),
        *parts.token_maps(rows.assign(effect=rows[state.quantity]), tokens, analysis.metric.unit, NAMES),
    ]


def answers(trace: Trace, pair: int) -> Any:
    """Probabilities of she and he after both prompts; log-odds alone where the run left probabilities out."""
    rows = trace.table[trace.table["pair"] == pair]
    said = []
    for prompt, direction in (("clean", "noising"), ("corrupted", "denoising")):
        said += [(prompt, *each) for each in runs_of(rows, direction)]
    if not trace.meta.get("probabilities", True):
        return html.P("; ".join(f"log-odds after the {prompt} prompt {she - he:+.2f} nats" for prompt, she, he in said))
    return parts.probabilities([("", prompt, she, he) for prompt, she, he in said], ("she", "he"))


def runs_of(rows: pd.DataFrame, direction: str) -> list[tuple[float, float]]:
    """Log-probabilities of both answers after the prompt that is the base of this direction, or the other's source."""
    own = rows[rows["direction"] == direction]
    column, found = ("base", own) if len(own) else ("source", rows[rows["direction"] != direction])
    return [(float(found[f"{column}_female"].mean()), float(found[f"{column}_male"].mean()))] if len(found) else []
