"""The two ways a prompt is corrupted: another subject in its place, or noise on the subject's embeddings."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace

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


@dataclass(frozen=True)
class Swap:
    """The corrupted run executes the pair's own corrupted prompt (symmetric token replacement)."""

    samples: int = 1

    def describe(self) -> dict[str, object]:
        """For meta.json."""
        return {"kind": "swap"}


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
            raise LocateError(f"noise of {self.sigmas} sigmas, {self.samples} samples: expected more than 0 of each")

    def describe(self) -> dict[str, object]:
        """For meta.json."""
        return {"kind": "noise", **asdict(self)}


Corruption = Swap | Noise


def as_executed(prompts: Prompts, corruption: Corruption) -> Prompts:
    """The prompts that are run: under noise both prompts of a pair are the clean one."""
    if isinstance(corruption, Swap):
        return prompts
    pairs = (replace(pair, corrupted=pair.clean, corrupted_subject=pair.clean_subject) for pair in prompts)
    return replace(prompts, pairs=tuple(pairs))


def noise_scale(model: Model, pairs: list[TokenPair], corruption: Corruption) -> float:
    """Standard deviation of the noise in the embedding's own unit; 0 under swap."""
    if isinstance(corruption, Swap):
        return 0.0
    runs = [Run(pair.clean, (0,)) for pair in pairs]
    return corruption.sigmas * embedding_std(model, runs, [subject_positions(pair) for pair in pairs])


def subject_positions(pair: TokenPair) -> tuple[int, ...]:
    """Token indices of the clean subject."""
    return tuple(i for i, role in enumerate(pair.clean_roles) if role in SUBJECT_ROLES)


def runs_of(
    pair: TokenPair, corruption: Corruption, scale: float, d_model: int, probabilities: bool = True
) -> list[Run]:
    """The clean run, then one corrupted run for each sample.

    Noise is drawn from (seed, place of the pair among the prompts, sample) alone. Where the neutral answer is not one
    token, the female one is measured in its place, and `collect` leaves its column empty.
    """
    female, male, neutral = pair.answers
    answers = (female, male, female if neutral is None else neutral)
    clean = Run(pair.clean, answers, normalised=probabilities)
    if isinstance(corruption, Swap):
        return [clean, replace(clean, ids=pair.corrupted)]
    where = subject_positions(pair)
    runs = [clean]
    for sample in range(corruption.samples):
        draw = np.random.default_rng([corruption.seed, pair.index, sample]).standard_normal((len(where), d_model))
        runs.append(replace(clean, noised=where, noise=torch.from_numpy(scale * draw)))
    return runs
