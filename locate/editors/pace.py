"""What an edit and its receipt consist of, about what each part costs, and from these the time left for all of them.

The cost of a part is counted in tokens that the network reads, one after the other of a prompt or a text: known before
the work starts, on any machine. How long a token takes is measured as the parts go by.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from locate.model.causal import CausalModel
from locate.tracing.progress import FIRST, Progress

WRITTEN = 2.0  # a token that is written, against one that is read, as measured on mini and SmolLM2 on a CPU
SCORED = 1.5  # a token whose own probability is wanted, for which the vocabulary is read out at every token
FELT = 2.5  # a token that is read forwards and back, for slopes
TRAINED = 1 + FELT  # a token of a training step, which is read without the edit too
PRIOR = 0.05  # share of a part that others' pace counts for in it, until more of it is done
SAMPLE, SAMPLE_LENGTH = 64, 2000  # texts that are counted, and characters of each


@dataclass(frozen=True)
class Part:
    """A part of the work.

    what  as progress calls it; a part that comes several times, with others between, is declared as often
    cost  about how many tokens are read, those of other kinds counted as so many of these (`WRITTEN`, `FELT`, ...)
    like  another that takes as long for each token, once that has been measured; "" for none
    """

    what: str
    cost: float
    like: str = ""


@dataclass(frozen=True)
class Spent:
    """Cost and seconds of a part, or of some of it."""

    what: str
    cost: float
    seconds: float


def tokens_in(model: CausalModel, texts: Sequence[str]) -> float:
    """About how many tokens texts have: counted in a sample, and scaled by the number of characters."""
    chosen = random.Random(0).sample(range(len(texts)), min(SAMPLE, len(texts)))
    sample = [texts[place][:SAMPLE_LENGTH] for place in chosen]
    tokens, characters = sum(len(model.encoder.encode(text)[0]) for text in sample), sum(map(len, sample))
    return tokens * sum(map(len, texts)) / max(1, characters)


class EditPace:
    """Turns what an editor and the receipt report into progress with the time left for all that was declared.

    parts  in their order, without those that are kept from an earlier start; one that never comes is dropped when a
           later one begins

    A part that was not declared, as of an editor of the user's own, has a rate, but no time left: nobody knows what
    comes after it.
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        self.waiting = list(parts)
        self.spent: list[Spent] = []
        self.part: Part | None = None
        self.what = ""
        self.first = self.done = 0
        self.planned = 1
        self.since = self.began = self.last = time.monotonic()

    def tell(self, what: str, done: int, planned: int) -> Progress:
        """How far the edit is, now that so much of a part is done."""
        now = time.monotonic()
        if what != self.what or done < self.done:
            self.begin(what, done, now)
        self.done, self.planned, self.last = done, max(1, planned), now
        taken = self.last - self.began
        rate = (done - self.first) / taken if taken > FIRST else None
        return Progress(what, done, planned, rate or None, self.left())

    def begin(self, what: str, done: int, now: float) -> None:
        """Begin a part with the first that is told of it; what lies between it and the part before is its own time."""
        if self.part is not None:
            self.spent.append(Spent(self.what, self.part.cost * self.done / self.planned, self.last - self.since))
        names = [each.what for each in self.waiting]
        self.part = self.waiting[names.index(what)] if what in names else None
        if self.part is not None:
            del self.waiting[: names.index(what) + 1]
        self.what, self.first = what, done
        self.since, self.began = self.last, now

    def remaining(self) -> list[Part]:
        """What is still to be done of the part that runs, and all that is to come."""
        now = [] if self.part is None else [Part(self.what, self.part.cost * (1 - self.done / self.planned))]
        return [*now, *self.waiting]

    def left(self) -> float | None:
        """Seconds for everything that remains; None before any pace is known, and in a part that was not declared."""
        if self.part is None:
            return None
        # the first report tells of work whose start nobody saw
        share = (self.done - self.first) / self.planned
        own = Spent(self.what, self.part.cost * share, self.last - self.began)
        pool = pace_of([*self.spent, own])
        if pool is None:
            return None
        here, *coming = self.remaining()
        prior = self.pace_alike(self.part) or pace_of(self.spent) or pool
        weight = PRIOR * self.part.cost
        pace = (own.seconds + prior * weight) / max(own.cost + weight, 1e-9)
        return here.cost * pace + sum(part.cost * (self.pace_alike(part) or pool) for part in coming)

    def pace_alike(self, part: Part) -> float | None:
        """Seconds for each token in parts of this one's name, or of the one it is like; None before there are any."""
        return pace_of([each for each in self.spent if each.what in (part.what, part.like)], 0.0)


def pace_of(spent: Sequence[Spent], least: float = FIRST) -> float | None:
    """Seconds for each token; None where nothing was done, or in less time than says anything."""
    cost, seconds = sum(each.cost for each in spent), sum(each.seconds for each in spent)
    return seconds / cost if cost and seconds > least else None
