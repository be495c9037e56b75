"""DAMA (Limisiewicz et al. 2024, arXiv 2310.18913): MLP outputs projected off directions that tell he from she."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float

from locate.editors.covariance import covariances, preserved_parts, preserved_windows
from locate.editors.edit import Edit, ParameterChange, product_change
from locate.editors.handoff import hand_off
from locate.editors.pace import FELT, Part, tokens_in
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import Reading, at_subject, batch_of, equal_batches, neutral_readings, readings, words_of
from locate.editors.split import fitted_on
from locate.editors.values import Values, adding_output, clamp_rows, kept_distributions, kl_backward
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.matrices import Matrix, matrix
from locate.model.products import precise
from locate.prompts import Prompts


@dataclass(frozen=True)
class DAMA:
    """Settings of DAMA.

    layers  to be edited; None takes the strongest located ones, `most` of them
    dims    directions that are projected away in each layer; fewer than words
    ridge   lambda: weight of C = E[k k^T] over the preserved text, against one key of a word
    centred whether the regression is about differences between words, as published; if not, it is also about what
            tells he from she after every word
    values  how the values of he and she are found; the solver is adam
    text    file whose keys are the covariance; None for the package's prose

    The paper edits layers 21 to 29 of LLaMA-7B; how many directions it takes there, and its lambda, are not confirmed
    here. The defaults are for a small model.
    """

    layers: tuple[int, ...] | None = None
    most: int = 3
    dims: int = 4
    ridge: float = 15000.0
    centred: bool = True
    values: Values = field(default_factory=lambda: Values("adam", steps=10))
    text: Path | None = None

    method = "dama"

    def __post_init__(self) -> None:
        if min(self.dims, self.most) < 1 or self.ridge < 0:
            raise LocateError(
                f"dims {self.dims}, most {self.most}, ridge {self.ridge}: expected at least one direction and layer, "
                "and a ridge of 0 or more"
            )
        if self.values.solver != "adam":
            raise LocateError(
                f"solver {self.values.solver!r}: DAMA's values are found by gradient descent: choose adam"
            )

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Project every output matrix off the directions in which the values of he and she differ.

        prompts    pairs for whose clean prompts the values are found
        preserved  not used

        Layers are visited in ascending order, each in the model edited so far.

        Raises LocateError as `hand_off` and `readings` do, and when there are no more words than `dims`.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        rows, neutral = readings(model, prompts.pairs), neutral_readings(model, prompts)
        text = preserved_windows(model, self.text, step=lambda done, of: progress("text", done, of))
        moments = covariances(model, hand.modules, text, step=lambda done, of: progress("covariance", done, of))
        changes: dict[str, ParameterChange] = {}
        report = []
        for place, name in enumerate(hand.modules):
            layer = matrix(model.network, name)

            def step(done: int, of: int, place: int = place) -> None:
                progress("values", place * of + done, len(hand.modules) * of)

            with Edit(self.method, model.provenance(), changes).applied(model):
                keys = at_subject(model, rows, name, inputs=True)
                values, losses = answer_values(model, rows, neutral, name, self.values, step)
                heard = whiten_keys(keys, self.ridge * moments[name]) @ layer.weight.T
                basis = pls_directions(heard.cpu(), (values[1] - values[0]).cpu(), self.dims, self.centred)
            changes |= {layer.parameter: project_off(layer, basis)}
            report.append({"module": name, "losses": losses})
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes=changes,
            edited=fitted_on(prompts, Prompts(())),
            located=hand.origin,
            settings=asdict(replace(self, text=None)) | {"text": str(self.text or "bundled")},
            report={"values": report},
        )

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`); what is kept is left out.

        Raises LocateError as `edit` does.
        """
        modules = hand_off(model, located, layers=self.layers, most=self.most).modules
        rows = tokens_in(model, [pair.clean for pair in prompts])
        neutral = sum(len(each.ids) for each in neutral_readings(model, prompts))
        finding = 2 * FELT * self.values.steps * (rows + neutral) + 2 * rows + neutral
        return [*preserved_parts(model, self.text, modules), Part("values", len(modules) * finding)]


def answer_values(
    model: CausalModel,
    rows: Sequence[Reading],
    neutral: Sequence[Reading],
    name: str,
    how: Values,
    step: Step = ignore_step,
) -> tuple[Float[torch.Tensor, "2 word d_model"], dict[str, list[float]]]:
    """What to add to a module's output at each word so that the female answer follows, and the same for the male one.

    Gradient descent on the answer's negative log-likelihood, kl times KL(before || after) on the neutral prompts, and
    decay times |delta|^2 / |h|^2; a part shared by both answers is found beside them and left out. Also the losses of
    every step, means over the words.
    """
    words = words_of(rows)
    size = at_subject(model, rows, name, inputs=False).norm(dim=-1).float().cpu()
    width = matrix(model.network, name).weight.shape[0]
    delta, shared = torch.zeros(2, len(words), width), torch.zeros(len(words), width)
    optimiser = torch.optim.Adam([delta.requires_grad_(True), shared.requires_grad_(True)], lr=how.rate)
    before = dict(kept_distributions(model, neutral))
    losses: dict[str, list[float]] = {"answer": [], "kl": [], "decay": []}
    for turn in range(how.steps):
        optimiser.zero_grad()
        said = divergence = 0.0
        for answer in range(2):
            said += answer_backward(model, rows, name, delta[answer] + shared, answer)
            divergence += kl_backward(model, neutral, name, delta[answer] + shared, words, before, how.kl)
        decay = how.decay * sum((part.norm(dim=-1) ** 2 / size**2).sum() for part in (*delta, shared))
        decay.backward()
        optimiser.step()
        with torch.no_grad():
            for part in (*delta, shared):
                part.copy_(clamp_rows(part, how.clamp * size))
        for kind, value in (("answer", said), ("kl", divergence), ("decay", float(decay.detach()))):
            losses[kind].append(value / len(words))
        step(turn + 1, how.steps)
    return delta.detach().double(), losses


def answer_backward(
    model: CausalModel, rows: Sequence[Reading], name: str, delta: Float[torch.Tensor, "word d_model"], answer: int
) -> float:
    """Gradients of the sum over words of the mean negative log-likelihood of an answer; returns the sum, nats."""
    words = words_of(rows)
    places_of = torch.tensor([words.index(row.word) for row in rows])
    each = torch.bincount(places_of, minlength=len(words)).float()
    total = 0.0
    for places in equal_batches(rows):
        ids, subject, answers = batch_of(model, rows, places)
        index = places_of[places]
        with precise(model.dtype), adding_output(model.network, name, subject, delta[index].to(model.device)):
            said = last_logits(model, ids)[:, -1].float().log_softmax(-1)
            loss = (-said.gather(-1, answers[:, answer : answer + 1])[:, 0] / each[index].to(said)).sum()
            loss.backward()
        total += float(loss.detach())
    return total


def whiten_keys(
    keys: Float[torch.Tensor, "word d_mlp"], moment: Float[torch.Tensor, "d_mlp d_mlp"]
) -> Float[torch.Tensor, "word d_mlp"]:
    """The keys times (U^T U + lambda C)^-1, float64; where that is singular (lambda 0), its pseudoinverse."""
    system = keys.T @ keys + moment
    try:
        return torch.linalg.solve(system, keys.T).T
    except torch.linalg.LinAlgError:
        return keys @ torch.linalg.pinv(system, hermitian=True)


def pls_directions(
    heard: Float[torch.Tensor, "word left"], wanted: Float[torch.Tensor, "word right"], dims: int, centred: bool
) -> Float[torch.Tensor, "left dims"]:
    """Orthonormal weights of a partial least squares regression of the second on the first, strongest first.

    Each direction is the first left singular vector of their cross-covariance; what it explains is taken out of both
    before the next.

    Raises LocateError for more directions than words (less one where they are centred), or than the first is wide.
    """
    most = min(len(heard) - centred, heard.shape[1])
    if dims > most:
        raise LocateError(f"dims {dims}, {len(heard)} words: expected at most {most}: give more words, or fewer dims")
    # in coordinates of the words' own span no matrix is larger than words x words
    heard, wanted = (each - centred * each.mean(0) for each in (heard, wanted))
    span, triangle = torch.linalg.qr(heard.T)
    left, right = triangle.T, torch.linalg.qr(wanted.T).R.T
    found = []
    for _ in range(dims):
        weight = torch.linalg.svd(left.T @ right, full_matrices=False).U[:, 0]
        score = left @ weight
        length = (score @ score).clamp_min(1e-300)
        left = left - torch.outer(score, left.T @ score / length)
        right = right - torch.outer(score, right.T @ score / length)
        found.append(weight)
    return torch.linalg.qr(span @ torch.stack(found, dim=1)).Q


def project_off(layer: Matrix, basis: Float[torch.Tensor, "d_model dims"]) -> ParameterChange:
    """The change of an output matrix W to (I - B B^T) W."""
    basis = basis.to(layer.weight)
    left, right = -basis, basis.T @ layer.weight
    return product_change(right.T, left.T) if layer.transposed else product_change(left, right)
