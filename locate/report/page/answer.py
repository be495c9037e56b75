"""The answer of a run in words that need no glossary: what carries the preference, how much, how sure, what next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from locate.mediation.analysis import Analysis
from locate.mediation.controls import PLACE
from locate.mediation.located import Located, LocatedSite, has_shares, is_clear
from locate.report.answer import carriers, controlled_site
from locate.tracing.table import CONTROL
from locate.words import chance, decimals, interval_words, metric_words, signed, site_words

MOST, AGAINST = 3, 1  # sites that are told, with the total effect and against it
CONTROLS = {
    "shuffled source": "another {subject}'s value",
    "random direction": "a random direction",
    "neutral words": "a neutral word's value",
    "definitional words": "the value of a word that says its gender",
}


@dataclass(frozen=True)
class Carrier:
    """A site that passes: its words, effect with interval, share of the total, and whether it works against that."""

    words: str
    effect: float
    low: float
    high: float
    share: float | None
    against: bool


@dataclass(frozen=True)
class Answer:
    """What a run says, for someone who sees such a run for the first time.

    question  what was exchanged, and by how much that moves the answers
    carriers  the strongest sites that pass, those with the total effect first
    unit      of their effects
    sure      how sure that is, a sentence each
    advice    what to do next, a sentence each
    commands  to type next
    """

    question: str
    carriers: tuple[Carrier, ...]
    unit: str
    sure: tuple[str, ...]
    advice: tuple[str, ...]
    commands: tuple[str, ...]


def answer_of(analysis: Analysis, located: Located, commands: Sequence[str] = ()) -> Answer:
    """The answer of a run, from the sites located under the analysis's settings.

    commands  to type next
    """
    found = carriers_of(located, analysis.subject)
    return Answer(
        question_of(analysis, located),
        found,
        located.unit,
        (*certainty(located, analysis.subject), *control_sentences(analysis, located), *located.limits()),
        advice_of(located, found),
        tuple(commands),
    )


def question_of(analysis: Analysis, located: Located) -> str:
    """What was exchanged in how many prompts, and the total effect in words."""
    rows = analysis.effects[analysis.effects["direction"] == located.direction]
    effect, low, high = located.total
    what = exchanged(rows, analysis.subject, located.direction, 1 if effect > 0 else -1)
    moved = f"{what} moves the {metric_words(located.metric, analysis.answers)} by {interval_words(effect, low, high)}"
    if not is_clear(located):
        groups = rows["group"].nunique()
        return (
            f"{moved} {located.unit} on average over {groups} {analysis.subject}s, which cannot be told from 0: "
            "nothing can be said to carry it."
        )
    way = f" {located.positive}" if effect > 0 else f" (positive is {located.positive})"
    return f"{moved} {located.unit}{way}{fold(located, effect, low, high)}."


def exchanged(rows: pd.DataFrame, subject: str, direction: str, sign: int) -> str:
    """What is exchanged, by the pair whose total effect is the largest on the side of the average's sign."""
    row = rows.iloc[(sign * rows["total"]).argmax()]
    pairs = rows["pair"].nunique()
    others = f", and so on in {pairs} pairs of prompts," if pairs > 1 else ""
    clean, corrupted = f"“{row['clean']}”", f"“{row['corrupted']}”"
    if clean == corrupted:
        way = "Taking away noise from" if direction == "denoising" else "Adding noise to"
        return f"{way} the {subject} in {clean}{others}"
    read, left = (clean, corrupted) if direction == "denoising" else (corrupted, clean)
    return f"Reading {read} in place of {left}{others}"


def fold(located: Located, effect: float, low: float, high: float) -> str:
    """A change of log-odds as a factor of the odds."""
    if located.unit != "nats":
        return ""
    ends = sorted((math.exp(low), math.exp(high)))
    return f": the odds change {math.exp(effect):.2g}-fold [{ends[0]:.2g}, {ends[1]:.2g}]"


def carriers_of(located: Located, subject: str) -> tuple[Carrier, ...]:
    """The strongest sites that pass: some with the total effect, then those against it; none where that may be 0."""
    if not is_clear(located):
        return ()
    along, against = carriers(located)
    return tuple(carrier(located, each, subject) for each in [*along[:MOST], *against[:AGAINST]])


def carrier(located: Located, site: LocatedSite, subject: str) -> Carrier:
    """A site in words, with its share of the total effect."""
    words = site_words(site.component, site.layer, site.role, site.unit, window=located.window, subject=subject)
    share = site.effect / located.total[0] if has_shares(located) else None
    return Carrier(words, site.effect, site.low, site.high, share, site.effect * located.total[0] < 0)


def certainty(located: Located, subject: str) -> list[str]:
    """How the strongest site was tested, and the located set."""
    said = []
    if located.sites:
        first = located.sites[0]
        said.append(
            f"Chance: the strongest site has q {smaller(first.q)}, corrected for all sites measured, and is among the "
            f"five strongest in {first.stability:.0%} of the resamples of {first.groups} {subject}s."
        )
    test = located.set_test
    if test is not None:
        said.append(
            f"Random sets: {counted(test.layers)} located on one half of the {subject}s carry "
            f"{interval_words(test.effect, test.low, test.high)} {located.unit} together on the other half, the best "
            f"of {test.sets} random sets {with_sign(test.largest)} (p = {test.p:.2g})."
        )
    return said


def counted(layers: Sequence[int]) -> str:
    """The first of some layers, and how many there are."""
    first = ", ".join(str(each) for each in layers[:MOST])
    more = len(layers) - MOST
    word = "layer" if len(layers) == 1 else "layers"
    return f"{word} {first}" + (f" and {more} more" if more > 0 else "")


def smaller(q: float) -> str:
    """A probability behind its sign: "< 0.001" or "= 0.02"."""
    text = chance(q)
    return text if text.startswith("<") else f"= {text}"


def with_sign(value: float) -> str:
    """A number with its sign and as many decimals as it needs."""
    return signed(value, decimals(abs(value)))


def control_sentences(analysis: Analysis, located: Located) -> list[str]:
    """What each control leaves of the effect at the strongest site along the total effect that has controls."""
    rows = analysis.controls
    rows = rows[(rows["direction"] == located.direction) & (rows[CONTROL] != "random weights")]
    if rows.empty:
        return ["Controls: none were run, so any other prompt may do the same: trace again with controls."]
    first = controlled_site(rows, located)
    same = rows[(rows[PLACE] == first[PLACE]).all(axis=1)]
    subject = analysis.subject
    words = site_words(
        str(first["component"]), int(first["layer"]), str(first["role"]), int(first["unit"]), subject=subject
    )
    told = {str(row[CONTROL]): interval_of(row) for _, row in same.iterrows()}
    parts = [f"with {text.format(subject=subject)} {told[name]}" for name, text in CONTROLS.items() if name in told]
    return [f"Controls: of {with_sign(first['own'])} at {words}, {'; '.join(parts)}."] if parts else []


def interval_of(row: pd.Series) -> str:
    """A control's effect with its interval."""
    return interval_words(float(row["effect"]), float(row["low"]), float(row["high"]))


def advice_of(located: Located, carriers: Sequence[Carrier]) -> tuple[str, ...]:
    """What to do with this answer."""
    if located.why_no_layers is not None:
        return (f"No layer is handed to editors: {located.why_no_layers}.",)
    if not located.layers:
        why = "no layer passes" if carriers else "nothing passes"
        return (f"Do not edit by this map: {why}. Trace more pairs, another swap, or other words.",)
    return (
        f"Edit a copy of the model at {counted(located.layers)}, and read the receipt: that a site carries the "
        "preference does not prove that it is the best place to edit.",
    )
