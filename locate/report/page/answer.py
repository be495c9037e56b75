"""The answer of a run in words that need no glossary: what carries the preference, how much, how sure, what next."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from locate.mediation.analysis import Analysis
from locate.mediation.controls import PLACE, SetTest
from locate.mediation.effect_table import DEFINITION, default_view
from locate.mediation.located import Located, LocatedSite, has_shares, is_clear
from locate.report.answer import can_be_edited, carriers, controlled_site
from locate.tracing.table import CONTROL
from locate.words import NAMES, chance, decimals, interval_words, metric_words, signed, site_words

FIVE = 5  # sites among which stability is counted
MOST, AGAINST = 3, 1  # sites that are told, with the total effect and against it
INSTEAD = {"shuffled source": "another {subject}'s value", "random direction": "a move as far in a random direction"}
"""control: what is written into the site instead"""
ELSEWHERE = {
    "neutral words": "words that say no gender (female minus male)",
    "definitional words": "words that say their gender",
}
"""control: what the prompts are about instead"""
HALF = 0.5  # of the effect that a control may leave before it is said to leave most
CHANCE = 0.05


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
        (
            *certainty(analysis, located),
            *control_sentences(analysis, located),
            *(sentence(each) for each in located.limits()),
        ),
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
    middle, first, last = (factor(math.exp(each)) for each in (effect, low, high))
    return f": the odds change {middle}-fold [{first}, {last}]"


def factor(value: float) -> str:
    """A factor with as many decimals as its size needs."""
    return f"{value:.{2 if value < 1 else 1 if value < 10 else 0}f}"


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


def certainty(analysis: Analysis, located: Located) -> list[str]:
    """How the strongest site was tested, the located set, and what was not measured."""
    subject, said = analysis.subject, []
    if located.sites:
        first = located.sites[0]
        rank = (
            f", and is among the five strongest in {first.stability:.0%} of the resamples of {first.groups} {subject}s"
        )
        said.append(
            f"Chance: the strongest site has q {smaller(first.q)}, corrected for all sites measured"
            f"{rank if len(located.sites) > FIVE else ''}."
        )
    if located.set_test is not None:
        said.append(set_sentence(located.set_test, subject, located.unit))
    if analysis.estimated is not None:
        sites = len(analysis.estimated) // len(analysis.trace.meta["directions"])
        measured = analysis.estimated["exact"].notna().sum() // len(analysis.trace.meta["directions"])
        said.append(f"Budget: {measured:,} of {sites:,} sites were measured, the others are estimated: see Evidence.")
    if (analysis.effects["severed"] != "").any():
        said.append("Severed patches were measured too: they are in the figures, not in the map.")
    return said


def set_sentence(test: SetTest, subject: str, unit: str) -> str:
    """The located set against random ones, and what the number of sets allows."""
    carry, sets = "carries" if len(test.layers) == 1 else "carry", "set" if test.sets == 1 else "sets"
    floor = 1 / (test.sets + 1)
    least = f", the smallest that {test.sets} {sets} allow" if test.p <= floor * 1.001 and floor > CHANCE / 2 else ""
    return (
        f"Random sets: {counted(test.layers)}, located on one half of the {subject}s, {carry} "
        f"{interval_words(test.effect, test.low, test.high)} {unit} together on the other half, the best of "
        f"{test.sets} random {sets} {with_sign(test.largest)} (p = {test.p:.2g}{least})."
    )


def sentence(text: str) -> str:
    """A text as a sentence."""
    return f"{text[0].upper()}{text[1:]}."


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
    """What each control leaves of the effect at the strongest site that has controls, and what that means."""
    rows = analysis.controls
    rows = rows[(rows["direction"] == located.direction) & (rows[CONTROL] != "random weights")]
    if analysis.metric.signed and analysis.view != default_view(analysis.trace) and len(rows):
        return [f"Controls: they are told in the {default_view(analysis.trace)} view."]
    if rows.empty:
        return ["Controls: none were run, so any other prompt may do the same: trace again with controls."]
    first, subject = controlled_site(rows, located), analysis.subject
    same = rows[(rows[PLACE] == first[PLACE]).all(axis=1)].set_index(CONTROL)
    words = site_words(
        str(first["component"]), int(first["layer"]), str(first["role"]), int(first["unit"]), subject=subject
    )
    instead = [name for name in INSTEAD if name in same.index]
    elsewhere = [name for name in ELSEWHERE if name in same.index]
    said = []
    if instead:
        left = "; ".join(
            f"{INSTEAD[name].format(subject=subject)} leaves {interval_of(same.loc[name])}" for name in instead
        )
        most = max(float(same.loc[name, "effect"] / first["own"]) for name in instead)
        verdict = "less than half is left" if most < HALF else f"so much of it is not that of this {subject}"
        said.append(f"Controls: of {with_sign(first['own'])} at {words}, {left}: {verdict}.")
    if elsewhere:
        told = "; ".join(f"{ELSEWHERE[name]} {interval_of(same.loc[name])}" for name in elsewhere)
        said.append(f"The same site in prompts about other words: {told}.")
    return said


def interval_of(row: pd.Series) -> str:
    """A control's effect with its interval."""
    return interval_words(float(row["effect"]), float(row["low"]), float(row["high"]))


def advice_of(located: Located, carriers: Sequence[Carrier]) -> tuple[str, ...]:
    """What to do with this answer."""
    if located.why_no_layers is not None:
        return (f"No layer is handed to editors: {located.why_no_layers}.",)
    if located.kind == DEFINITION:
        return ("These words say their gender themselves: it is to be kept, so there is nothing to edit here.",)
    if not located.layers:
        why = "no layer passes" if carriers else "nothing passes"
        return (f"Do not edit by this map: {why}. Trace more pairs, another swap, or other words.",)
    found = f"{counted(located.layers)} of the {NAMES[str(located.component)]}"
    if not can_be_edited(located):
        return (f"Editors change outputs of MLPs, and here {found} pass: trace mlp_out too.",)
    test = located.set_test
    if test is not None and test.p > CHANCE and test.sets >= 1 / CHANCE:
        return (f"Do not edit by this map: random sets carry as much as {found} (p = {test.p:.2g}). Trace more pairs.",)
    return (
        f"Edit a copy of the model at {found} (those that pass at that output; editors take the strongest), and read "
        "the receipt: that a site carries the preference does not prove that it is the best place to edit.",
    )
