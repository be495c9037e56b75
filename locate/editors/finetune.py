"""Fine-tuning with the losses of the fairness stamp: what an edit without locating, or without a stamp, would do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch.func import functional_call

from locate.editors.covariance import preserved_parts, preserved_windows
from locate.editors.edit import Edit, ParameterChange, apply_change
from locate.editors.fast import (
    LOSSES,
    PARTS,
    Pools,
    divergence,
    merge_answers,
    rise_and_fall,
    shuffle_forever,
    shuffle_once,
    thin_log,
    training_cost,
)
from locate.editors.handoff import hand_off
from locate.editors.pace import Part
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import Reading, batch_of, equal_batches, neutral_readings, readings
from locate.editors.split import fitted_on
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.likelihood import last_logits
from locate.model.matrices import matrix
from locate.model.products import precise
from locate.prompts import Prompts
from locate.sites import check

SCOPES = ("located", "everything")
PASSAGES = 4  # windows of preserved text in a step


@dataclass(frozen=True)
class FineTune:
    """Settings of fine-tuning; alpha, beta, preserve, gamma, epochs, batch and text are those of `FAST`.

    scope   "located": the output matrices of the located layers; "everything": every parameter
    layers  to be trained in scope "located"; None takes the strongest located ones, `most` of them
    rate    largest step size of Adam; it rises over the first tenth of the run and falls to 0, as the stamp's does
    """

    scope: str = "located"
    layers: tuple[int, ...] | None = None
    most: int = 3
    loss: str = "log_odds"
    alpha: float = 1.0
    beta: float = 1.0
    preserve: float = 20.0
    gamma: float = 10.0
    epochs: int = 12
    batch: int = 32
    rate: float = 3e-4
    text: Path | None = None
    seed: int = 0

    method = "finetune"

    def __post_init__(self) -> None:
        check("scope", self.scope, SCOPES)
        check("loss", self.loss, LOSSES)
        if min(self.most, self.epochs, self.batch) < 1 or self.rate <= 0 or min(self.weights) < 0:
            raise LocateError(
                f"most {self.most}, epochs {self.epochs}, batch {self.batch}, rate {self.rate}, weights "
                f"{self.weights}: expected positive numbers, and loss weights of 0 or more"
            )
        if self.scope == "everything" and self.layers is not None:
            raise LocateError(
                f"layers {list(self.layers)} with scope 'everything': name layers only with scope 'located'"
            )

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
        """Train until both pronouns are equally likely after the words; the model itself stays as it is.

        prompts    pairs whose clean prompts are edited
        preserved  pairs after whose clean prompts the next-token distribution stays

        Raises LocateError as `hand_off` and `readings` do, and when the weights are no longer finite.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        before = dict(model.network.named_parameters())
        names = [matrix(model.network, name).parameter for name in hand.modules]
        trained = {
            name: before[name].detach().float().clone() for name in (names if self.scope == "located" else before)
        }
        pools = Pools(
            readings(model, prompts.pairs),
            neutral_readings(model, prompts),
            readings(model, preserved.pairs),
            preserved_windows(model, self.text, step=lambda done, of: progress("text", done, of)),
        )
        history = self.train(model, trained, pools, progress)
        return Edit(
            method=f"{self.method}-{self.scope}",
            model=model.provenance(),
            changes={
                name: change
                for name, tensor in trained.items()
                if (change := parameter_change(name, before[name], tensor))
            },
            edited=fitted_on(prompts, preserved),
            located=hand.origin_of_all("every parameter") if self.scope == "everything" else hand.origin,
            settings=asdict(replace(self, text=None)) | {"text": str(self.text or "bundled")},
            report={"losses": history},
        )

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`); text that is kept is left out."""
        training = training_cost(model, prompts, self.epochs, self.batch, PASSAGES)
        return [*preserved_parts(model, self.text), Part("training", training)]

    def train(
        self, model: CausalModel, trained: dict[str, torch.Tensor], pools: Pools, progress: Progress
    ) -> list[dict[str, Any]]:
        """Adam on copies of the parameters; returns the parts of the loss over the run, each as it enters the sum."""
        copies = [tensor.requires_grad_(True) for tensor in trained.values()]
        optimiser = torch.optim.Adam(copies, lr=self.rate)
        stream = torch.Generator().manual_seed(self.seed)
        edited, neutral, preserved = (
            list(equal_batches(each, self.batch)) for each in (pools.edited, pools.neutral, pools.preserved)
        )
        others = [shuffle_forever(each, stream) for each in (neutral, preserved, [[i] for i in range(len(pools.text))])]
        order = [places for _ in range(self.epochs) for places in shuffle_once(edited, stream)]
        schedule = rise_and_fall(optimiser, self.rate, len(order))
        seen = []
        for done, places in enumerate(order, start=1):
            passages = [pools.text[next(others[2])[0]] for _ in range(PASSAGES)]
            parts = [
                *self.edit_losses(model, trained, pools.edited, places),
                self.beta * prompt_loss(model, trained, pools.neutral, next(others[0])),
                self.preserve * prompt_loss(model, trained, pools.preserved, next(others[1])),
                self.gamma * passage_loss(model, trained, passages),
            ]
            optimiser.zero_grad()
            torch.stack(parts).sum().backward()
            optimiser.step()
            schedule.step()
            seen.append({name: float(part.detach()) for name, part in zip(PARTS, parts, strict=True)})
            progress("training", done, len(order))
        return thin_log(seen)

    def edit_losses(
        self, model: CausalModel, trained: dict[str, torch.Tensor], rows: Sequence[Reading], places: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The gap of the answers, and alpha times the divergence of all else, of a batch."""
        ids, _, answers = batch_of(model, rows, places)
        before, after = (each[:, -1] for each in both_log_probs(model, trained, ids))
        pair = after.gather(-1, answers)
        gap = pair[:, 0] - pair[:, 1] if self.loss == "log_odds" else pair[:, 0].exp() - pair[:, 1].exp()
        return gap.abs().mean(), self.alpha * divergence(merge_answers(before, answers), merge_answers(after, answers))


def both_log_probs(
    model: CausalModel, trained: dict[str, torch.Tensor], ids: torch.Tensor, keep: int = 1
) -> tuple[Float[torch.Tensor, "row pos piece"], Float[torch.Tensor, "row pos piece"]]:
    """log-probabilities at the last positions, of the model and with the trained parameters in it."""
    cast = {name: tensor.to(model.network.dtype) for name, tensor in trained.items()}
    with precise(model.dtype):
        with torch.no_grad():
            before = last_logits(model, ids, keep).float().log_softmax(-1)
        after = functional_call(model.network, cast, (ids,), {"logits_to_keep": keep}).logits.float().log_softmax(-1)
    return before, after


def prompt_loss(
    model: CausalModel, trained: dict[str, torch.Tensor], kept: Sequence[Reading], places: Sequence[int]
) -> torch.Tensor:
    """KL of the next token after prompts that should stay."""
    before, after = both_log_probs(model, trained, batch_of(model, kept, places)[0])
    return divergence(before[:, -1], after[:, -1])


def passage_loss(model: CausalModel, trained: dict[str, torch.Tensor], rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """KL of every next token of windows of text."""
    ids = torch.tensor(rows, device=model.device)
    return divergence(*both_log_probs(model, trained, ids, keep=ids.shape[1]))


def parameter_change(name: str, before: torch.Tensor, trained: torch.Tensor) -> ParameterChange | None:
    """The change that makes a parameter the trained one, bit for bit, float64; None where nothing changed.

    Raises LocateError when the trained parameter is not finite.
    """
    after = trained.detach().to(before.dtype)
    if not after.isfinite().all():
        raise LocateError(f"parameter {name} is no longer finite after training: choose a smaller rate")
    change = ParameterChange((after.double() - before.detach().double(),))
    assert torch.equal(apply_change(before.detach(), change), after)
    return change if change.whole.any() else None
