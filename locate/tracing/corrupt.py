"""How a prompt is corrupted: another subject in its place, noise on its embeddings, or a way of the user's own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch

from locate.engine.plain import embedding_std
from locate.engine.rows import Run
from locate.errors import LocateError
from locate.model.hooked import Model
from locate.prompts.pair import Prompts
from locate.prompts.tokens import TokenPair
from locate.sites import FIRST, LAST_SUBJECT, MIDDLE

SUBJECT_ROLES = (FIRST, MIDDLE, LAST_SUBJECT)


@runtime_checkable
class Corruption(Protocol):
    """What makes the corrupted runs of a pair; any object that has these members can be given to `trace`.

    samples  corrupted runs of each pair
    """

    @property
    def samples(self) -> int: ...

    def describe(self) -> dict[str, object]:
        """Its kind and settings as JSON, for meta.json: a run folder is continued only with the same ones."""

    def executed(self, prompts: Prompts) -> Prompts:
        """The prompts that are run: a pair's corrupted prompt may differ from the one it was given."""

    def scale(self, model: Model, pairs: Sequence[TokenPair]) -> float:
        """A number measured in the model and shared by all pairs, such as the standard deviation of noise; else 0."""

    def corrupted(self, pair: TokenPair, clean: Run, scale: float, d_model: int) -> Sequence[Run]:
        """The corrupted runs of a pair, one for each sample, made of its clean run.

        They must depend on the pair and the sample alone, not on the pairs that are measured beside it.
        """


@dataclass(frozen=True)
class Swap:
    """The corrupted run executes the pair's own corrupted prompt (symmetric token replacement)."""

    samples: int = 1

    def describe(self) -> dict[str, object]:
        """For meta.json."""
        return {"kind": "swap"}

    def executed(self, prompts: Prompts) -> Prompts:
        """The prompts as they are."""
        return prompts

    def scale(self, model: Model, pairs: Sequence[TokenPair]) -> float:
        """0: nothing is measured beforehand."""
        return 0.0

    def corrupted(self, pair: TokenPair, clean: Run, scale: float, d_model: int) -> list[Run]:
        """The run of the corrupted prompt."""
        return [replace(clean, ids=pair.corrupted)]


@dataclass(frozen=True)
class Noise:
    """The corrupted run executes the clean prompt with Gaussian noise on its subject's token embeddings.

    sigmas   standard deviation of the noise, in standard deviations of the subjects' embeddings (ROME: 3)
    samples  draws per pair (ROME: 10); draw k of a pair is the same for every site and every batch size
    seed     of all draws
    """

    sigmas: float = 3.0
    samples: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.sigmas < math.inf or self.samples < 1:
            raise LocateError(
                f"noise of {self.sigmas} sigmas, {self.samples} samples: expected finite sigmas > 0, and samples >= 1"
            )

    def describe(self) -> dict[str, object]:
        """For meta.json."""
        return {"kind": "noise", **asdict(self)}

    def executed(self, prompts: Prompts) -> Prompts:
        """Pairs whose prompts are both the clean one."""
        return clean_alone(prompts)

    def scale(self, model: Model, pairs: Sequence[TokenPair]) -> float:
        """Standard deviation of the noise in the embedding's own unit.

        Raises LocateError when the architecture has no token embedding to hook.
        """
        model.check_embedding()
        runs = [Run(pair.clean, (0,)) for pair in pairs]
        return self.sigmas * embedding_std(model, runs, [subject_positions(pair) for pair in pairs])

    def corrupted(self, pair: TokenPair, clean: Run, scale: float, d_model: int) -> list[Run]:
        """The clean run with each draw; a draw depends on (seed, place of the pair among the prompts, sample) alone."""
        where = subject_positions(pair)
        runs = []
        for sample in range(self.samples):
            draw = np.random.default_rng([self.seed, pair.index, sample]).standard_normal((len(where), d_model))
            runs.append(replace(clean, noised=where, noise=torch.from_numpy(scale * draw)))
        return runs


def clean_alone(prompts: Prompts) -> Prompts:
    """The prompts with each pair's clean prompt in place of its corrupted one."""
    pairs = (replace(pair, corrupted=pair.clean, corrupted_subject=pair.clean_subject) for pair in prompts)
    return replace(prompts, pairs=tuple(pairs))


def subject_positions(pair: TokenPair) -> tuple[int, ...]:
    """Token indices of the clean subject."""
    return tuple(i for i, role in enumerate(pair.clean_roles) if role in SUBJECT_ROLES)


def clean_run(pair: TokenPair, probabilities: bool = True) -> Run:
    """The clean run of a pair.

    Where the neutral answer is not one token, the female one is measured in its place, and its column is left empty.
    """
    female, male, neutral = pair.answers
    return Run(pair.clean, (female, male, female if neutral is None else neutral), normalised=probabilities)
