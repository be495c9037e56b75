"""v*: what a block should say at the subject's last token so that both answers are equally likely."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int

from locate.editors.readings import Reading, at_subject, batch_of, equal_batches, first_of, words_of
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import precise
from locate.sites import check

SOLVERS = ("newton", "adam")


@dataclass(frozen=True)
class Values:
    """How v* is found.

    solver   "newton": the smallest change of the block's output that makes log p(she) = log p(he), by damped
             Gauss-Newton steps; "adam": gradient descent on |P(she) - P(he)| with MEMIT's terms and defaults (Meng et
             al. 2023, arXiv 2210.07229): kl times KL(before || after) on `kept` prompts, decay times |delta|^2 / |h|^2
    steps    of the solver
    clamp    largest |delta| as a share of the block's output |h|
    damping  newton: how much a small change is preferred to an exact one, as a share of the mean squared slope
    rate, kl, decay  adam: step size and weights
    """

    solver: str = "newton"
    steps: int = 4
    clamp: float = 0.75
    damping: float = 0.05
    rate: float = 0.5
    kl: float = 0.0625
    decay: float = 0.5

    def __post_init__(self) -> None:
        check("solver", self.solver, SOLVERS)


@dataclass(frozen=True, eq=False)
class WantedChanges:
    """The changes found.

    words   in order
    delta   what is to be added to the block's output, per word
    before, after  mean |log-odds| over the readings of each word, nats: without delta, and with it written in
    share   |delta| / |h| per word
    """

    words: list[str]
    delta: Float[torch.Tensor, "word d_model"]
    before: Float[torch.Tensor, " word"]
    after: Float[torch.Tensor, " word"]
    share: Float[torch.Tensor, " word"]
    losses: dict[str, list[float]] = field(default_factory=dict)

    def about(self) -> dict[str, Any]:
        """Means over the words, for a report."""
        return {
            "words": len(self.words),
            "before": float(self.before.mean()),
            "after": float(self.after.mean()),
            "share": float(self.share.mean()),
        } | ({"losses": self.losses} if self.losses else {})


@contextmanager
def adding_output(network: Any, block: str, subject: Int[torch.Tensor, " row"], extra: torch.Tensor) -> Iterator[None]:
    """Inside the context `extra` [row, d_model] is added to a block's output at each row's subject."""

    def add(module: Any, args: Any, result: Any) -> Any:
        state = first_of(result).clone()
        rows = torch.arange(len(subject), device=state.device)
        state[rows, subject] = state[rows, subject] + extra.to(state.dtype)
        return (state, *result[1:]) if isinstance(result, tuple) else state

    hook = network.get_submodule(block).register_forward_hook(add)
    try:
        yield
    finally:
        hook.remove()


def find_values(
    model: CausalModel,
    rows: Sequence[Reading],
    block: str,
    how: Values,
    *,
    share: float = 1.0,
    kept: Sequence[Reading] = (),
    step: Step = ignore_step,
) -> WantedChanges:
    """The change of a block's output at the last token of each word that makes both answers equally likely.

    rows   readings of the words
    block  Hugging Face name of the block whose output is changed
    share  how much of the log-odds to remove, 1 for all of them; the delta that removes all is scaled by it
    kept   adam: prompts about the same words whose next-token distribution should stay

    |P(she) - P(he)|, the bias of LSDM (arXiv 2403.14409), and |log p(she) - log p(he)| are 0 at the same values; which
    of them is descended only decides the path.
    """
    size = at_subject(model, rows, block, inputs=False).norm(dim=-1)
    find = solve_newton if how.solver == "newton" else solve_adam
    delta, losses = find(model, rows, block, how, how.clamp * size, kept, step)
    delta = share * delta
    nothing = torch.zeros_like(delta)
    before, after = (by_word(rows, odds_and_slopes(model, rows, block, each)[0].abs()) for each in (nothing, delta))
    return WantedChanges(words_of(rows), delta, before, after, delta.norm(dim=-1) / size, losses)


def by_word(rows: Sequence[Reading], values: Float[torch.Tensor, " reading"]) -> Float[torch.Tensor, " word"]:
    """Means over the readings of each word."""
    words = words_of(rows)
    index = torch.tensor([words.index(row.word) for row in rows])
    sums = torch.zeros(len(words), dtype=values.dtype).index_add(0, index, values.cpu())
    return sums / torch.bincount(index, minlength=len(words))


def odds_and_slopes(
    model: CausalModel, rows: Sequence[Reading], block: str, delta: Float[torch.Tensor, "word d_model"]
) -> tuple[Float[torch.Tensor, " reading"], Float[torch.Tensor, "reading d_model"]]:
    """Log-odds (female minus male, nats) after each reading with delta added, and their slopes in delta."""
    words = words_of(rows)
    odds = torch.empty(len(rows), dtype=torch.float64)
    slopes = torch.empty(len(rows), delta.shape[1], dtype=torch.float64)
    for places in equal_batches(rows):
        ids, subject, answers = batch_of(model, rows, places)
        index = [words.index(rows[place].word) for place in places]
        extra = delta[index].to(model.device).requires_grad_(True)
        with precise(model.dtype), adding_output(model.network, block, subject, extra):
            logits = last_logits(model, ids)[:, -1].gather(-1, answers).double()
            here = logits[:, 0] - logits[:, 1]
            (slope,) = torch.autograd.grad(here.sum(), extra)
        odds[torch.tensor(places)] = here.detach().cpu()
        slopes[torch.tensor(places)] = slope.double().cpu()
    return odds, slopes


Solution = tuple[torch.Tensor, dict[str, list[float]]]


def solve_newton(
    model: CausalModel,
    rows: Sequence[Reading],
    block: str,
    how: Values,
    largest: Float[torch.Tensor, " word"],
    kept: Sequence[Reading],
    step: Step,
) -> Solution:
    """Each word's smallest delta with J delta = -log-odds, linearised anew at every step; the best found is kept."""
    words = words_of(rows)
    places: dict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[row.word].append(place)
    width = at_subject(model, rows[:1], block, inputs=False).shape[1]
    delta = torch.zeros(len(words), width, dtype=torch.float64)
    best, least = delta.clone(), torch.full((len(words),), float("inf"), dtype=torch.float64)
    for turn in range(how.steps + 1):
        odds, slopes = odds_and_slopes(model, rows, block, delta)
        here = by_word(rows, odds.abs())
        better = here < least
        best[better], least[better] = delta[better], here[better]
        if turn == how.steps:
            break
        delta = torch.stack(
            [
                solve_smallest(slopes[places[word]], odds[places[word]], delta[i], how.damping)
                for i, word in enumerate(words)
            ]
        )
        delta = clamp_rows(delta, largest.cpu())
        step(turn + 1, how.steps)
    return best, {}


def solve_smallest(
    slopes: Float[torch.Tensor, "reading d_model"],
    odds: Float[torch.Tensor, " reading"],
    delta: Float[torch.Tensor, " d_model"],
    damping: float,
) -> Float[torch.Tensor, " d_model"]:
    """The delta that minimises |odds + J (delta - delta_now)|^2 + damping * mean |J|^2 * |delta|^2."""
    gram = slopes @ slopes.T
    ridge = damping * gram.diagonal().mean().clamp_min(1e-30)
    wanted = odds - slopes @ delta
    return -slopes.T @ torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), wanted)


def clamp_rows(
    delta: Float[torch.Tensor, "word d_model"], largest: Float[torch.Tensor, " word"]
) -> Float[torch.Tensor, "word d_model"]:
    """Each row shortened to at most its largest length."""
    length = delta.norm(dim=-1).clamp_min(1e-30)
    return delta * (largest.to(delta) / length).clamp(max=1)[:, None]


def solve_adam(
    model: CausalModel,
    rows: Sequence[Reading],
    block: str,
    how: Values,
    largest: Float[torch.Tensor, " word"],
    kept: Sequence[Reading],
    step: Step,
) -> Solution:
    """Gradient descent on |P(she) - P(he)| + kl KL + decay |delta|^2 / |h|^2, summed over words, each by itself."""
    words = words_of(rows)
    width = at_subject(model, rows[:1], block, inputs=False).shape[1]
    delta = torch.zeros(len(words), width, requires_grad=True)
    size = (largest / how.clamp).float().cpu()
    each = torch.bincount(torch.tensor([words.index(row.word) for row in rows]), minlength=len(words)).float()
    optimiser = torch.optim.Adam([delta], lr=how.rate)
    before = dict(kept_distributions(model, kept))
    losses: dict[str, list[float]] = {"bias": [], "kl": [], "decay": []}
    for turn in range(how.steps):
        optimiser.zero_grad()
        bias = bias_backward(model, rows, block, delta, words, each)
        divergence = kl_backward(model, kept, block, delta, words, before, how.kl)
        decay = (how.decay * delta.norm(dim=-1) ** 2 / size**2).sum()
        decay.backward()
        optimiser.step()
        with torch.no_grad():
            delta.copy_(clamp_rows(delta, largest.cpu()))
        for name, value in (("bias", bias), ("kl", divergence), ("decay", float(decay.detach()))):
            losses[name].append(value / len(words))
        step(turn + 1, how.steps)
    return delta.detach().double(), losses


def bias_backward(
    model: CausalModel,
    rows: Sequence[Reading],
    block: str,
    delta: torch.Tensor,
    words: list[str],
    each: Float[torch.Tensor, " word"],
) -> float:
    """Gradients of the sum over words of the mean |P(she) - P(he)|; returns the sum."""
    total = 0.0
    for places in equal_batches(rows):
        ids, subject, answers = batch_of(model, rows, places)
        index = torch.tensor([words.index(rows[place].word) for place in places])
        with precise(model.dtype), adding_output(model.network, block, subject, delta[index].to(model.device)):
            said = last_logits(model, ids)[:, -1].float().softmax(-1).gather(-1, answers)
            loss = ((said[:, 0] - said[:, 1]).abs() / each[index].to(said)).sum()
            loss.backward()
        total += float(loss.detach())
    return total


def kept_distributions(model: CausalModel, kept: Sequence[Reading]) -> Iterator[tuple[int, torch.Tensor]]:
    """log-probabilities of the next token after each prompt that should stay."""
    for places in equal_batches(kept):
        ids, _, _ = batch_of(model, kept, places)
        with torch.no_grad(), precise(model.dtype):
            said = last_logits(model, ids)[:, -1].float().log_softmax(-1)
        yield from zip(places, said, strict=True)


def kl_backward(
    model: CausalModel,
    kept: Sequence[Reading],
    block: str,
    delta: torch.Tensor,
    words: list[str],
    before: dict[int, torch.Tensor],
    weight: float,
) -> float:
    """Gradients of weight * KL(before || after) on the prompts that should stay, summed; returns the sum."""
    total = 0.0
    for places in equal_batches(kept):
        ids, subject, _ = batch_of(model, kept, places)
        index = torch.tensor([words.index(kept[place].word) for place in places])
        with precise(model.dtype), adding_output(model.network, block, subject, delta[index].to(model.device)):
            said = last_logits(model, ids)[:, -1].float().log_softmax(-1)
            was = torch.stack([before[place] for place in places])
            loss = weight * torch.nn.functional.kl_div(said, was, log_target=True, reduction="sum")
            loss.backward()
        total += float(loss.detach())
    return total
