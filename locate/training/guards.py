"""Guards of a training: what is looked at while it goes on, and how far it may go before it is stopped."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from locate.errors import LocateError
from locate.evaluation import generation, occupations, perplexity
from locate.evaluation.scores import Items
from locate.files import read_json, write_json
from locate.model.causal import CausalModel
from locate.model.likelihood import generate, ignore_step, log_likelihoods
from locate.training.preferences import Preference

PAIRS = 100  # held-out rows that are looked at
TEXTS, TOKENS = 16, 24  # texts that the model writes at each look, and tokens of each
PROMPTS = 64  # about occupations, in which the probability of she and he is looked at
EXCERPTS = 4  # every fourth of the package's excerpts
GRAM = 3  # words
KEPT = "looks.json"


@dataclass(frozen=True)
class Guards:
    """How often a training is looked at, and what ends it.

    looks        times that it is looked at, spread evenly over its steps, the last after the last step
    chosen       nats per token that the held-out chosen texts may lose
    empty, repeating  percentage points by which the share of empty, or repeating, texts that the model writes may rise
    perplexity   percent by which the perplexity of held-out prose may rise
    definitions  percentage points of the words that say their gender that may lose their own pronoun
    pronouns     how many times as likely, or as unlikely, she and he together may become after occupations: log-odds
                 near 0 say nothing of a model that has either word always, or never
    """

    looks: int = 6
    chosen: float = 0.5
    empty: float = 10.0
    repeating: float = 20.0
    perplexity: float = 5.0
    definitions: float = 10.0
    pronouns: float = 10.0

    def __post_init__(self) -> None:
        limits = (self.chosen, self.empty, self.repeating, self.perplexity, self.definitions)
        if self.looks < 1 or not all(each >= 0 for each in limits) or not self.pronouns >= 1:
            raise LocateError(f"{self}: expected at least one look, limits of 0 or more, and pronouns of 1 or more")

    def due(self, step: int, steps: int) -> bool:
        """Whether a training is looked at after this step of so many."""
        return step == 0 or any(step == -(-steps * k // self.looks) for k in range(1, self.looks + 1))


@dataclass(frozen=True)
class Seen:
    """What was found at one look.

    step         optimiser steps done
    chosen, rejected  mean log-probability per token of held-out continuations, nats; nan where there are none
    margin       mean over held-out pairs of how far log p(chosen) - log p(rejected) has come from the first look, nats;
                 beta times it is DPO's reward margin
    accuracy     share of these pairs in which it is further, percent (DPO's reward accuracy)
    empty, repeating  share of texts without a word, and of those in which most triples of words come again, percent
    perplexity   of held-out prose, per token
    definitions  words that say their gender whose own pronoun is the likelier, percent
    pronouns     mean probability of she and he together after occupations, percent
    """

    step: int
    chosen: float
    rejected: float
    margin: float
    accuracy: float
    empty: float
    repeating: float
    perplexity: float
    definitions: float
    pronouns: float


Breach = tuple[str, float, float, str]
"""a guard: its name, how far what it watches has moved, how far it may, and what that is called"""


class Looks(ABC):
    """Looks at a model in training where it is due, and stops it when a guard is breached.

    model  as it is before; the first look at it is what the others are compared with
    place  folder that keeps what was seen before a stop; None for none

    What is looked at, and which guards there are, say the classes below it.
    """

    kind: type[Any]
    """a dataclass with `step`: what one look finds"""
    settings: Mapping[str, str] = MappingProxyType({})
    """guards whose setting has another name than what they watch"""

    def __init__(self, model: CausalModel, guards: Guards, steps: int, place: Path | None = None) -> None:
        self.model, self.guards, self.steps = model, guards, steps
        self.kept = None if place is None else place / KEPT
        before = read_json(self.kept) if self.kept is not None and self.kept.is_file() else {"start": [], "seen": []}
        self.start: tuple[float, ...] = tuple(before["start"])
        self.seen = [self.kind(**with_nan(each)) for each in before["seen"]]

    @abstractmethod
    def look(self, step: int, model: CausalModel) -> Any:
        """Everything that is watched."""

    @abstractmethod
    def breaches(self, was: Any, now: Any) -> tuple[Breach, ...]:
        """The guards, for what was seen at first and is seen now."""

    def __call__(self, step: int, network: Any) -> None:
        """Look where it is due.

        Raises LocateError when a guard is breached: which, what it was at first, what it is now, and the way out.
        """
        if not self.guards.due(step, self.steps) or (self.seen and step == 0):
            return
        self.seen = [each for each in self.seen if each.step < step]  # a stop may have lost steps that were looked at
        try:
            self.seen.append(self.look(step, self.model.with_network(network)))
        except LocateError as error:
            if step == 0:
                raise
            raise LocateError(
                f"training stopped after step {step} of {self.steps}: {error}; or choose a smaller rate; no model was "
                "written"
            ) from None
        self.check(self.seen[-1])
        if self.kept is not None:
            write_json(self.kept, {"start": list(self.start), "seen": self.report()})

    def check(self, now: Any) -> None:
        """Raise LocateError where something went too far from the first look."""
        was = self.seen[0]
        for name, moved, most, what in self.breaches(was, now):
            if not moved <= most:
                setting = self.settings.get(name, name)
                raise LocateError(
                    f"training stopped after step {now.step} of {self.steps}: {moved:.3g} {what} ({name} "
                    f"{getattr(was, name):.4g} at the start, {getattr(now, name):.4g} now), at most {most:g} allowed: "
                    f"choose a smaller rate or fewer epochs, or raise guards.{setting}; no model was written"
                )

    def report(self) -> list[dict[str, Any]]:
        """What was seen, for a receipt."""
        return [asdict(each) for each in self.seen]


class Watch(Looks):
    """Looks at a model that is trained on preferences.

    pairs  held-out rows; the rest is that of `Looks`
    """

    kind = Seen

    def __init__(
        self, model: CausalModel, pairs: Sequence[Preference], guards: Guards, steps: int, place: Path | None = None
    ) -> None:
        super().__init__(model, guards, steps, place)
        self.pairs = tuple(pairs[:: max(1, len(pairs) // PAIRS)])[:PAIRS]
        rows = occupations.read().rows
        each = {row.word: row for row in rows if row.kind == occupations.DEFINITION}
        neutral = [row for row in rows if row.kind == occupations.OCCUPATION]
        self.words = Items((*each.values(), *neutral[:: max(1, len(neutral) // PROMPTS)][:PROMPTS]), source={})
        excerpts = perplexity.read(None)
        self.prose = Items(excerpts.rows[::EXCERPTS], source=excerpts.source)
        self.prompts = [row.text for row in generation.read_prompts().rows][:: max(1, 56 // TEXTS)][:TEXTS]

    def look(self, step: int, model: CausalModel) -> Seen:
        """Everything that is watched."""
        chosen = log_likelihoods(model, [(row.prompt, row.chosen) for row in self.pairs])
        with_other = [row for row in self.pairs if row.rejected]
        rejected = log_likelihoods(model, [(row.prompt, row.rejected) for row in with_other])
        ahead: tuple[float, ...] = ()
        if len(with_other) == len(self.pairs):
            both = zip(chosen, rejected, strict=True)
            ahead = tuple(one.log_likelihood - other.log_likelihood for one, other in both)
        self.start = self.start or ahead
        further = np.array(ahead) - np.array(self.start)
        texts = generate(model, self.prompts, tokens=TOKENS)
        told = occupations.measure(model, self.words, ignore_step)
        gendered, neutral = (told[told["kind"] == kind] for kind in (occupations.DEFINITION, occupations.OCCUPATION))
        own = np.sign(gendered["she"] - gendered["he"]) == gendered["stereotype"]
        prose = perplexity.score(perplexity.measure(model, self.prose, ignore_step))[0]
        return Seen(
            step=step,
            chosen=per_token(chosen),
            rejected=per_token(rejected),
            margin=float(further.mean()) if len(further) else float("nan"),
            accuracy=100 * float((further > 0).mean()) if len(further) else float("nan"),
            empty=percent([not re.search(r"\w", text) for text in texts]),
            repeating=percent([is_repeating(text) for text in texts]),
            perplexity=prose.value,
            definitions=percent(list(own)),
            pronouns=100 * float(np.exp(neutral[["she", "he"]]).sum(axis=1).mean()),
        )

    def breaches(self, was: Seen, now: Seen) -> tuple[Breach, ...]:
        """The guards of preferences."""
        limit = self.guards
        low, high = sorted((was.pronouns, now.pronouns))
        times = high / low if low > 0 else math.inf
        return (
            ("chosen", was.chosen - now.chosen, limit.chosen, "nats a token lost by held-out chosen texts"),
            ("empty", now.empty - was.empty, limit.empty, "points more empty texts"),
            ("repeating", now.repeating - was.repeating, limit.repeating, "points more repeating texts"),
            ("perplexity", 100 * (now.perplexity / was.perplexity - 1), limit.perplexity, "% higher perplexity"),
            ("definitions", was.definitions - now.definitions, limit.definitions, "points fewer words that say their "
             "gender keep their pronoun"),
            ("pronouns", times, limit.pronouns, "times as likely or unlikely she and he after occupations"),
        )  # fmt: skip


def with_nan(kept: dict[str, Any]) -> dict[str, Any]:
    """What JSON keeps, in which nan is null."""
    return {name: float("nan") if value is None else value for name, value in kept.items()}


def per_token(found: Sequence[Any]) -> float:
    """Mean log-probability per token over texts, each text counting once; nan without texts."""
    return float(np.mean([each.log_likelihood / each.tokens for each in found])) if found else float("nan")


def percent(flags: Sequence[bool]) -> float:
    """Share of those that are true, in percent."""
    return 100 * float(np.mean(flags))


def is_repeating(text: str) -> bool:
    """Whether most triples of neighbouring words of a text occur in it more than once."""
    words = re.findall(r"\w+", text.lower())
    triples = list(zip(*(words[i:] for i in range(GRAM)), strict=False))
    return bool(triples) and len(set(triples)) <= len(triples) / 2
