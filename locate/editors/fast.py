"""FAST, the fairness stamp (arXiv 2405.09341): a small network trained beside one MLP, the model itself frozen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float

from locate.editors.below import KeptBelow
from locate.editors.covariance import WINDOW, preserved_parts, preserved_windows
from locate.editors.edit import Edit
from locate.editors.handoff import Handoff, block_of, hand_off
from locate.editors.pace import SCORED, TRAINED, Part, tokens_in
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import Reading, batch_of, equal_batches, neutral_readings, readings
from locate.editors.split import fitted_on
from locate.editors.stamp import Units, empty_stamp, units_of
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.likelihood import last_logits
from locate.model.products import precise
from locate.model.stamp import Stamp
from locate.prompts import Prompts
from locate.sites import check

LOSSES = ("log_odds", "probability")
PARTS = ("edit", "same", "neutral", "preserved", "text")
LOGGED = 20  # reports over a training run
HIGHEST_OF = 3  # strongest located layers, of which the highest is stamped


@dataclass(frozen=True)
class FAST:
    """Settings of the fairness stamp.

    layers  the one to stamp; None takes the highest of the three strongest located ones. The paper takes the strongest
            alone. Higher up, a stamp reads what the whole prompt made of the word, and is trained through fewer blocks
    width   rows of K' and V'; 1024 as the paper has it (not confirmed) is more than a small model needs
    loss    L_e: "log_odds", mean |log p(she) - log p(he)|, or "probability", mean |P(she) - P(he)| as in the paper
    alpha   weight of L_s1, KL(before || after) on the edited prompts with both answers taken as one event: everything
            but their balance stays
    beta    weight of L_s2, KL(before || after) of the next token on prompts about the same words where no pronoun
            follows
    preserve  weight of the same on prompts about words that say their gender
    gamma   weight of KL(before || after) of every next token of the preserved text
    epochs, batch, passages  passes over the edited prompts; prompts, and windows of text, in a step
    rate    step size of Adam, in units of what the MLP reads and writes (`Units`), so that one number serves models
            whose MLPs read large numbers and small ones
    text    file of preserved text; None for the package's prose and what the model writes itself

    Alpha 40, beta 0.1 and rate 0.1, as reported elsewhere for the paper, are not confirmed by it and belong to the
    loss of probabilities.
    """

    layers: tuple[int, ...] | None = None
    width: int = 256
    loss: str = "log_odds"
    alpha: float = 1.0
    beta: float = 1.0
    preserve: float = 5.0
    gamma: float = 10.0
    epochs: int = 2
    batch: int = 32
    passages: int = 2
    rate: float = 5e-3
    text: Path | None = None
    seed: int = 0

    method = "fast"

    def __post_init__(self) -> None:
        check("loss", self.loss, LOSSES)
        sizes, weights = (self.width, self.epochs, self.batch, self.passages), self.weights
        if min(sizes) < 1 or min(weights) < 0 or self.rate <= 0:
            raise LocateError(
                f"width {self.width}, epochs {self.epochs}, batch {self.batch}, passages {self.passages}, rate "
                f"{self.rate}, weights {weights}: expected positive numbers, and loss weights of 0 or more"
            )
        if self.layers is not None and len(self.layers) != 1:
            raise LocateError(f"layers {list(self.layers)}: a stamp stands beside one layer: name one")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights of the losses that keep what is not the bias."""
        return self.alpha, self.beta, self.preserve, self.gamma

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Train a stamp beside one located layer's MLP until both pronouns are equally likely after the words.

        prompts    pairs whose clean prompts are edited
        preserved  pairs after whose clean prompts the next-token distribution stays

        Raises LocateError as `hand_off`, `readings`, `empty_stamp` and `units_of` do.
        """
        hand = hand_off(model, located, layers=self.layers, most=HIGHEST_OF, highest=True)
        rows = readings(model, prompts.pairs)
        pools = Pools(
            rows,
            neutral_readings(model, prompts),
            readings(model, preserved.pairs),
            preserved_windows(model, self.text, step=lambda done, of: progress("text", done, of)),
        )
        trainee = Trainee.new(model, hand, pools.text, width=self.width, seed=self.seed)
        history = self.train(trainee, pools, progress)
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes={},
            stamps=(trainee.trained(),),
            edited=fitted_on(prompts, preserved),
            located=hand.origin,
            settings=asdict(replace(self, text=None)) | {"text": str(self.text or "bundled")},
            report={"units": asdict(trainee.units), "losses": history},
        )

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`); text that is kept is left out.

        Raises LocateError as `hand_off` does.
        """
        hand = hand_off(model, located, layers=self.layers, most=HIGHEST_OF, highest=True)
        above = 1 - hand.layers[0] / int(located.trace["model"]["n_layers"])
        training = above * training_cost(model, prompts, self.epochs, self.batch, self.passages)
        return [*preserved_parts(model, self.text), Part("stamp", training)]

    def train(self, trainee: Trainee, pools: Pools, progress: Progress) -> list[dict[str, float]]:
        """Adam on the stamp's matrices; returns the parts of the loss over the run, each as it enters the sum."""
        optimiser = torch.optim.Adam(trainee.stamp.tensors().values(), lr=self.rate)
        stream = torch.Generator().manual_seed(self.seed)
        edited, *others = pools.batches(self.batch, self.passages)
        total = self.epochs * len(edited)
        schedule = rise_and_fall(optimiser, self.rate, total)
        neutral, preserved, text = (shuffle_forever(each, stream) for each in others)
        seen: list[dict[str, float]] = []
        order = (places for _ in range(self.epochs) for places in shuffle_once(edited, stream))
        for done, places in enumerate(order, start=1):
            parts = [
                *self.edit_losses(trainee, pools.edited, places),
                self.beta * kept_loss(trainee, pools.neutral, next(neutral)),
                self.preserve * kept_loss(trainee, pools.preserved, next(preserved)),
                self.gamma * text_loss(trainee, [pools.text[place] for place in next(text)]),
            ]
            optimiser.zero_grad()
            torch.stack(parts).sum().backward()
            optimiser.step()
            schedule.step()
            seen.append({name: float(part.detach()) for name, part in zip(PARTS, parts, strict=True)})
            progress("stamp", done, total)
        return thin_log(seen)

    def edit_losses(
        self, trainee: Trainee, rows: Sequence[Reading], places: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """L_e, and alpha L_s1, of a batch."""
        ids, _, answers = batch_of(trainee.model, rows, places)
        before, after = (each[:, -1] for each in trainee.both_log_probs(ids))
        pair = after.gather(-1, answers)
        gap = pair[:, 0] - pair[:, 1] if self.loss == "log_odds" else pair[:, 0].exp() - pair[:, 1].exp()
        return gap.abs().mean(), self.alpha * divergence(merge_answers(before, answers), merge_answers(after, answers))


def training_cost(model: CausalModel, prompts: Prompts, epochs: int, batch: int, passages: int) -> float:
    """About how many tokens a training reads: in each step as many of all three sorts of prompts, and windows of text.

    batch, passages  prompts, and windows of text, in a step
    """
    rows = tokens_in(model, [pair.clean for pair in prompts])
    text = SCORED * passages * WINDOW * len(prompts) / batch
    return TRAINED * epochs * (3 * rows + text)


@dataclass(frozen=True, eq=False)
class Pools:
    """What a stamp is trained on: prompts as tokens, and windows of text."""

    edited: list[Reading]
    neutral: list[Reading]
    preserved: list[Reading]
    text: list[list[int]]

    def batches(self, prompts: int, passages: int) -> list[list[list[int]]]:
        """Places of each pool in batches of so many prompts at most, and of so many windows of text."""
        places = range(len(self.text))
        return [
            *(list(equal_batches(pool, prompts)) for pool in (self.edited, self.neutral, self.preserved)),
            [list(places[first : first + passages]) for first in places[::passages]],
        ]


@dataclass(frozen=True, eq=False)
class Trainee:
    """A stamp in training.

    stamp  for inputs and outputs of size 1: what Adam moves
    units  of its MLP, in which it is attached
    below  what enters its block, kept: its training changes nothing there
    """

    model: CausalModel
    stamp: Stamp
    units: Units
    below: KeptBelow

    @staticmethod
    def new(model: CausalModel, hand: Handoff, text: Sequence[Sequence[int]], *, width: int, seed: int) -> Trainee:
        """An empty stamp beside the MLP that is handed over."""
        (layer,), (module,) = hand.layers, hand.modules
        stamp = empty_stamp(model.network, hand.template, layer, width, seed)
        for tensor in stamp.tensors().values():
            tensor.requires_grad_(True)
        below = KeptBelow(model.network, [block_of(hand.template, each) for each in range(layer)])
        return Trainee(model, stamp, units_of(model, module, text), below)

    def trained(self) -> Stamp:
        """The stamp in the model's own units, without gradients."""
        written = self.units.write(self.stamp)
        return Stamp.of(written.about(), {name: tensor.detach() for name, tensor in written.tensors().items()})

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Inside the block the stamp stands beside its MLP."""
        hooks = self.units.write(self.stamp).attach(self.model.network)
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def both_log_probs(
        self, ids: torch.Tensor, keep: int = 1
    ) -> tuple[Float[torch.Tensor, "row pos piece"], Float[torch.Tensor, "row pos piece"]]:
        """log-probabilities at the last positions, without and with the stamp; gradients flow through the second."""
        with precise(self.model.dtype):
            with torch.no_grad(), self.below.skipped(ids):
                before = last_logits(self.model, ids, keep).float().log_softmax(-1)
            with self.below.skipped(ids), self.attached():
                after = last_logits(self.model, ids, keep).float().log_softmax(-1)
        return before, after


def divergence(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Mean KL(before || after) over the rows, nats; both as log-probabilities."""
    found = (before.exp() * (before - after)).sum(-1)
    return found.mean()


def merge_answers(
    said: Float[torch.Tensor, "row piece"], answers: Float[torch.Tensor, "row 2"] | torch.Tensor
) -> Float[torch.Tensor, "row event"]:
    """log-probabilities with both answers taken as one event, in the place of the first."""
    pair = said.gather(-1, answers).logsumexp(-1, keepdim=True)
    together = said.scatter(-1, answers[:, :1], pair)
    rest = torch.ones_like(said, dtype=torch.bool).scatter(-1, answers[:, 1:], False)
    return rearrange(together[rest], "(row event) -> row event", row=len(said))


def kept_loss(trainee: Trainee, kept: Sequence[Reading], places: Sequence[int]) -> torch.Tensor:
    """KL of the next token after prompts that should stay."""
    ids, _, _ = batch_of(trainee.model, kept, places)
    before, after = trainee.both_log_probs(ids)
    return divergence(before[:, -1], after[:, -1])


def text_loss(trainee: Trainee, rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """KL of every next token of windows of text."""
    ids = torch.tensor(rows, device=trainee.model.device)
    return divergence(*trainee.both_log_probs(ids, keep=ids.shape[1]))


def shuffle_once(batches: Sequence[list[int]], stream: torch.Generator) -> list[list[int]]:
    """The batches in another order."""
    return [batches[i] for i in torch.randperm(len(batches), generator=stream)]


def rise_and_fall(optimiser: torch.optim.Optimizer, rate: float, steps: int) -> torch.optim.lr_scheduler.OneCycleLR:
    """The step size over a training: it rises to `rate` in a tenth of the steps, at least one, and falls to nearly 0.

    Smith and Topin 2018 ("super-convergence"), with cosines in place of lines.
    """
    every = steps + 1  # the schedule steps once more than the optimiser
    return torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, total_steps=every, pct_start=max(0.1, 2 / every))


def shuffle_forever(batches: Sequence[list[int]], stream: torch.Generator) -> Iterator[list[int]]:
    """The batches again and again, each time in another order."""
    while True:
        yield from shuffle_once(batches, stream)


def thin_log(seen: Sequence[dict[str, float]]) -> list[dict[str, Any]]:
    """Means over LOGGED stretches of the run."""
    size = max(1, len(seen) // LOGGED)
    stretches = [seen[first : first + size] for first in range(0, len(seen), size)]
    return [{name: sum(row[name] for row in part) / len(part) for name in PARTS} for part in stretches]
