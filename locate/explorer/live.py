"""Prompts of the visitor's own: their tokens at once, then the answers' probabilities, then their map."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.mediation.effect_table import effects
from locate.model.hooked import Model
from locate.prompts.pair import Pair, Prompts
from locate.prompts.tokens import TokenPair, check_fits, tokenise_pair
from locate.study.trace import trace
from locate.tracing.plan import Map
from locate.tracing.progress import Progress

COMPONENTS = ("attn_out", "mlp_out")
LONGEST = 5000  # characters of a prompt
LEAST = Map(components=("mlp_out",), layers=(0,), roles=("last",))
"""the smallest map: its base runs give the probabilities"""


class Stale(Exception):
    """A newer request has come, so nobody waits for this one."""


@dataclass(frozen=True)
class Request:
    """One measurement that a visitor asked for: whose, and its number among theirs, from 1 up."""

    visitor: str
    number: int


@dataclass(frozen=True)
class Asked:
    """A visitor's prompts.

    template                 a sentence with {subject}
    subject, counterfactual  what takes its place in the clean and in the corrupted prompt
    female, male             the answers compared, without their leading space
    """

    template: str
    subject: str
    counterfactual: str
    female: str = "she"
    male: str = "he"

    def pair(self) -> Pair:
        """The pair of prompts.

        Raises LocateError for a template without {subject}, or words that make no pair.
        """
        if self.template.count("{subject}") != 1:
            raise LocateError(f"template {self.template!r}: expected {{subject}} exactly once, where the words stand")
        clean, corrupted = self.subject.strip(), self.counterfactual.strip()
        if not clean or not corrupted:
            raise LocateError("expected a subject and a counterfactual, such as nurse and mechanic")
        longest = len(self.template) + max(len(clean), len(corrupted))
        if longest > LONGEST:
            raise LocateError(f"a prompt of {longest:,} characters: expected at most {LONGEST:,}")
        if clean == corrupted:
            raise LocateError(f"subject and counterfactual are the same, {clean!r}: expected two, to be exchanged")
        return Pair(
            self.template.replace("{subject}", clean),
            self.template.replace("{subject}", corrupted),
            clean,
            corrupted,
            group=clean,
            template=self.template,
            female=f" {self.female.strip()}",
            male=f" {self.male.strip()}",
            neutral=None,
        )


@dataclass(frozen=True, eq=False)
class Live:
    """The models that prompts are run in, one request at a time; a visitor's older one gives way to their newer.

    models  name and model: the run's own, and an edited one beside it
    """

    models: tuple[tuple[str, Model], ...]
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _numbers: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)
    _newest: dict[str, int] = field(default_factory=dict, init=False, repr=False)

    def request(self, visitor: str, number: int) -> Request:
        """A visitor's request, which makes every one of theirs with a smaller number stale."""
        with self._numbers:
            self._newest[visitor] = max(number, self._newest.get(visitor, number))
        return Request(visitor, number)

    @contextmanager
    def turn(self, request: Request) -> Iterator[None]:
        """The models for one request.

        Raises Stale where a newer request has come meanwhile.
        """
        with self._lock:
            self.check(request)
            yield

    def check(self, request: Request) -> None:
        """Raise Stale where the visitor has asked for something newer."""
        if request.number != self._newest[request.visitor]:
            raise Stale

    def tokens(self, asked: Asked) -> tuple[TokenPair, list[str], list[str]]:
        """How the first model reads a pair: its tokens with their roles, and their texts in both prompts.

        Raises LocateError where it cannot be used.
        """
        model, pair = self.models[0][1], asked.pair()
        found = check_fits(tokenise_pair(0, pair, model.encode), model.context)
        texts = [[text_of(model, token) for token in ids] for ids in (found.clean, found.corrupted)]
        return found, texts[0], texts[1]

    def probabilities(self, asked: Asked, request: Request) -> list[tuple[str, str, float, float]]:
        """Model, prompt, and log-probabilities of both answers after it.

        Raises Stale, or LocateError where the pair cannot be used.
        """
        prompts, rows = Prompts((asked.pair(),)), []
        with self.turn(request):
            for name, model in self.models:
                table = trace(model, prompts, LEAST, controls=None).table
                for prompt, direction in (("clean", "noising"), ("corrupted", "denoising")):
                    row = table[table["direction"] == direction].iloc[0]
                    rows.append((name, str(row[prompt]), float(row["base_female"]), float(row["base_male"])))
        return rows

    def maps(self, asked: Asked, request: Request) -> list[tuple[str, pd.DataFrame]]:
        """Model, and the effects of every token and layer in the pair, female minus male; see `effects`.

        Raises Stale, or LocateError where the pair cannot be used.
        """

        def stop_if_stale(_: Progress) -> None:
            self.check(request)

        prompts, found = Prompts((asked.pair(),)), []
        with self.turn(request):
            for name, model in self.models:
                measured = trace(model, prompts, Map(components=COMPONENTS), controls=None, progress=stop_if_stale)
                found.append((name, effects(measured, view="signed")))
        return found


def text_of(model: Model, token: int) -> str:
    """The text of one token; its piece where the token holds a part of a character alone."""
    text = str(model.tokenizer.decode([token]))
    return str(model.tokenizer.convert_ids_to_tokens([token])[0]) if "\ufffd" in text else text


def asked_of(values: tuple[Any, ...]) -> Asked:
    """The visitor's prompts from the values of the page's fields, of which some may be empty."""
    template, subject, counterfactual, female, male = (str(each or "") for each in values)
    return Asked(template, subject, counterfactual, female or "she", male or "he")
