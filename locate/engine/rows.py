"""What an engine executes and what it returns: runs, patched rows, and their answers' log-probabilities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from locate.errors import LocateError
from locate.model.finite import check_finite_answers
from locate.model.hooked import EMBEDDING_HOOK, Model
from locate.model.memory import LEAST, ran_out

Key = tuple[str, int]
"""component and layer"""

MOST_ROWS = 256


@dataclass(frozen=True, eq=False)
class Run:
    """A prompt as it is executed without any patch.

    ids       token ids, BOS included
    answers   ids whose log-probabilities are wanted
    normalised  False where their logits are enough, which differ by one constant from their log-probabilities; the
                same for all runs that are measured together
    noised    positions whose token embedding is changed
    noise     what is added there: [noised, d_model], or None
    """

    ids: tuple[int, ...]
    answers: tuple[int, ...]
    noised: tuple[int, ...] = ()
    noise: torch.Tensor | None = None
    normalised: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class PlacedWrite:
    """One write at fixed positions: base[base_pos] of a component and layer takes its value from `origin`.

    keys  for a pattern: the positions attended to that are written, each (in base, in source)
    """

    component: str
    layer: int
    unit: int | None
    base_pos: int
    source_pos: int
    origin: str | torch.Tensor
    keys: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, eq=False, slots=True)
class Row:
    """One patched run: the base run (an index) with writes from the source run (an index)."""

    base: int
    source: int
    writes: tuple[PlacedWrite, ...]


@dataclass(frozen=True)
class Limits:
    """How much an engine may do at once.

    memory      bytes besides the model
    batch_size  rows, and prompts, at most; None for as many as fit
    """

    memory: int
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.memory < LEAST:
            raise LocateError(f"memory of {self.memory} bytes: expected at least {LEAST:,}")
        if self.batch_size is not None and self.batch_size < 1:
            raise LocateError(f"batch size {self.batch_size}: expected a number of prompts >= 1")

    def rows(self, each: int, share: float = 1.0) -> int:
        """How many rows of `each` bytes fit a share of the memory."""
        fitting = max(1, int(self.memory * share) // each)
        return fitting if self.batch_size is None else min(fitting, self.batch_size)


@dataclass(frozen=True, eq=False)
class Measurement:
    """Log-probabilities (nats) of each run's answers, or their logits, without a patch and patched.

    few_steps  layers whose blocks the sweep may run in few steps (see `sweep.fused`); None by the plain engine
    """

    runs: Float[np.ndarray, "run answer"]
    rows: Float[np.ndarray, "row answer"]
    few_steps: int | None = None


def noise_hooks(runs: Sequence[Run]) -> list[tuple[str, Callable]]:
    """The hook that adds each run's noise to its token embeddings; none where no run has any."""
    noisy = [(place, run) for place, run in enumerate(runs) if run.noise is not None]
    if not noisy:
        return []

    def hook(embedding: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = embedding.clone()
        for place, run in noisy:
            changed[place, list(run.noised)] += run.noise.to(changed)  # type: ignore[union-attr]
        return changed

    return [(EMBEDDING_HOOK, hook)]


@contextmanager
def explaining_out_of_memory(rows: int) -> Iterator[None]:
    """Turn an out-of-memory error into one line that names the way out."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise LocateError(
            f"out of memory with {rows} prompts at once: choose a smaller --memory or --batch-size, or --dtype bfloat16"
        ) from error


def batches_by_length(items: Sequence[Any], length: Callable, model: Model, limits: Limits) -> Iterable[list[int]]:
    """Batches of indices; all items of a batch have one length."""
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(items):
        by_length[length(item)].append(index)
    for tokens, indices in sorted(by_length.items()):
        size = min(MOST_ROWS, limits.rows(prompt_bytes(model, tokens)))
        for start in range(0, len(indices), size):
            yield indices[start : start + size]


def prompt_bytes(model: Model, tokens: int) -> int:
    """Bytes of a prompt that is run whole: its logits, attention and hidden states."""
    width = model.d_vocab + 3 * model.n_heads * tokens + 3 * model.d_mlp + 12 * model.d_model
    return model.number_bytes * tokens * width


def answers_of(model: Model, runs: Sequence[Run]) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) or logits of each run's own answers at its last token, under the hooks in force."""
    return answers_in(model, torch.tensor([run.ids for run in runs]), runs)


def answers_in(model: Model, ids: Int[torch.Tensor, "row pos"], runs: Sequence[Run]) -> Float[np.ndarray, "row answer"]:
    """The same as `answers_of`, with the given token ids in place of the runs' own."""
    answers = np.array([run.answers for run in runs])
    if runs[0].normalised:
        logits = model.final_logits(ids).log_softmax(-1)
    else:
        wanted, places = np.unique(answers, return_inverse=True)
        logits, answers = model.final_logits(ids, wanted.tolist()), places.reshape(answers.shape)
    found = logits.gather(-1, torch.tensor(answers, device=logits.device)).double().cpu().numpy()
    return check_finite_answers(
        found, f"logits of model {model.name!r}", lambda i: str(model.tokenizer.decode(runs[i].ids))
    )
