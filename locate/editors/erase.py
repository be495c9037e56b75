"""Linear erasure of the stereotype (LEACE, Belrose et al. 2023, arXiv 2306.03819) from MLP outputs, as new weights."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.causal import CausalModel
from locate.editors.edit import Change, Edit, product
from locate.editors.handoff import hand_off
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import Reading, answer_log_probs, at_subject, readings, words_of
from locate.editors.split import fitted_on
from locate.editors.values import by_word
from locate.errors import LocateError
from locate.located import Located
from locate.matrices import Matrix, matrix
from locate.prompts import Prompts

FEWEST = 4  # words on either side


@dataclass(frozen=True)
class Erase:
    """Settings of erasure.

    layers  to be edited; None takes the strongest located ones, `most` of them

    What is erased is which pronoun an occupation calls for: the words are labelled by the sign of their mean log-odds
    in the model itself. Words that say their gender are no labels, so that what they say is not what is erased.
    """

    layers: tuple[int, ...] | None = None
    most: int = 3

    method = "leace"

    def __post_init__(self) -> None:
        if self.most < 1:
            raise LocateError(f"most {self.most}: expected at least one layer")

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Project each output matrix so that no linear reading of its output at the words tells their labels apart.

        prompts    their clean sides label the words
        preserved  not used

        Layers are visited in ascending order, each in the model edited so far.

        Raises LocateError as `hand_off` and `readings` do, and when fewer than FEWEST words lean to either side.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        rows = readings(model, prompts.pairs)
        labels = leanings(model, rows)
        changes: dict[str, Change] = {}
        report = []
        for done, name in enumerate(hand.modules, start=1):
            with Edit(self.method, model.provenance(), changes).applied(model):
                outputs = at_subject(model, rows, name, inputs=False).cpu()
                left, right, mean = eraser(outputs, labels)
                changes = changes | projected(matrix(model.network, name), left, right, mean)
            report.append({"module": name, "rank": int(torch.linalg.matrix_rank(left @ right))})
            progress("layers", done, len(hand.modules))
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes=changes,
            edited=fitted_on(prompts, Prompts(())),
            located=hand.origin,
            settings=asdict(self),
            report={"erased": report, "female": int(labels.sum()), "male": int((1 - labels).sum())},
        )


def leanings(model: CausalModel, rows: list[Reading]) -> Float[torch.Tensor, " word"]:
    """1 for words with more than even odds of the female answer, 0 for the others; in the order of `words_of`.

    Raises LocateError when fewer than FEWEST are on either side.
    """
    said = answer_log_probs(model, rows)
    labels = (by_word(rows, said[:, 0] - said[:, 1]) > 0).double()
    female = int(labels.sum())
    if min(female, len(labels) - female) < FEWEST:
        raise LocateError(
            f"{female} of {len(words_of(rows))} words lean female: expected at least {FEWEST} on either side to say "
            "what is to be erased: give more words"
        )
    return labels


Eraser = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""P_left [d_model, rank], P_right [rank, d_model], mean [d_model] of x -> x - P_left P_right (x - mean)"""


def eraser(outputs: Float[torch.Tensor, "word d_model"], labels: Float[torch.Tensor, " word"]) -> Eraser:
    """LEACE's smallest affine change of the outputs after which their covariance with the labels is 0, float64.

    Raises LocateError where the library is not installed.
    """
    try:
        from concept_erasure import LeaceEraser
    except ImportError:
        raise LocateError('erasure needs the library concept-erasure: pip install "locate-bias[erasure]"') from None
    # its limit on the trace trades exact erasure for a smaller output
    found: Any = LeaceEraser.fit(outputs, labels, constrain_cov_trace=False)
    return found.proj_left, found.proj_right, outputs.mean(0)


def projected(layer: Matrix, left: torch.Tensor, right: torch.Tensor, mean: torch.Tensor) -> dict[str, Change]:
    """The changes of a layer's weight and bias that erase from its output; without a bias its mean moves."""
    device = layer.module.weight.device
    left, right, mean = left.to(device), right.to(device), mean.to(device)
    pieces = (-left, right @ layer.weight)
    turned = (pieces[1].T, pieces[0].T) if layer.transposed else pieces
    changes = {layer.parameter: product(*turned)}
    if layer.module.bias is not None:
        bias = layer.module.bias.detach().double()
        changes[f"{layer.name}.bias"] = Change((left @ (right @ (mean - bias)),))
    return changes
