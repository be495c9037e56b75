"""Linear erasure of gender (LEACE, Belrose et al. 2023, arXiv 2306.03819) from MLP outputs, as new weights."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.editors.edit import Edit, ParameterChange, product_change
from locate.editors.handoff import hand_off
from locate.editors.pace import Part, tokens_in
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import at_subject, readings
from locate.editors.split import fitted_on
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.matrices import Matrix, matrix
from locate.prompts import Prompts

FEWEST = 4  # words of either gender


@dataclass(frozen=True)
class Erase:
    """Settings of erasure.

    layers  to be edited; None takes the strongest located ones, `most` of them

    The gender that words say themselves is erased, so that no occupation can borrow it. Occupations are not used as
    labels: most lean to the same side in most models, and making them alike would leave them there. What words say of
    their own gender goes too: an erasure cannot tell the two apart.
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
        """Project each output matrix so that no linear reading of its output at the words tells their gender.

        prompts    not used: every occupation is held out
        preserved  words that say their gender, which are the labels

        Layers are visited in ascending order, each in the model edited so far.

        Raises LocateError as `hand_off` and `readings` do, and with fewer than FEWEST words of either gender.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        labels = genders(preserved)
        rows = readings(model, [pair for pair in preserved if pair.stereotype])
        changes: dict[str, ParameterChange] = {}
        report = []
        for done, name in enumerate(hand.modules, start=1):
            with Edit(self.method, model.provenance(), changes).applied(model):
                outputs = at_subject(model, rows, name, inputs=False).cpu()
                left, right, mean = fit_eraser(outputs, labels)
                erasing = project_erasing(matrix(model.network, name), left, right, mean)
            changes |= erasing
            report.append({"module": name, "trace": float((left * right.T).sum())})
            progress("layers", done, len(hand.modules))
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes=changes,
            edited=fitted_on(Prompts(()), preserved),
            located=hand.origin,
            settings=asdict(self),
            report={"erased": report, "female": int(labels.sum()), "male": int((1 - labels).sum())},
        )

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`).

        Raises LocateError as `hand_off` does.
        """
        modules = hand_off(model, located, layers=self.layers, most=self.most).modules
        rows = tokens_in(model, [pair.clean for pair in preserved if pair.stereotype])
        return [Part("layers", len(modules) * rows)]


def genders(preserved: Prompts) -> Float[torch.Tensor, " word"]:
    """1 for female words, 0 for male ones, in the order in which they come; words without a gender are left out.

    Raises LocateError with fewer than FEWEST of either gender.
    """
    found = {pair.group: pair.stereotype for pair in preserved if pair.stereotype}
    labels = torch.tensor([float(sign > 0) for sign in found.values()], dtype=torch.float64)
    female = int(labels.sum())
    if min(female, len(labels) - female) < FEWEST:
        raise LocateError(
            f"{female} female and {len(labels) - female} male words: expected at least {FEWEST} of each to find what "
            "to erase: give more words that say their gender"
        )
    return labels


Eraser = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""P_left [d_model, rank], P_right [rank, d_model], mean [d_model] of x -> x - P_left P_right (x - mean)"""


def fit_eraser(outputs: Float[torch.Tensor, "word d_model"], labels: Float[torch.Tensor, " word"]) -> Eraser:
    """LEACE: the smallest affine change of the outputs that makes their covariance with the labels 0, float64.

    Raises LocateError where the library is not installed.
    """
    try:
        with warnings.catch_warnings():
            # as it is imported it compiles a function, not used here, in a way that torch has deprecated
            warnings.simplefilter("ignore", DeprecationWarning)
            from concept_erasure import LeaceEraser
    except ImportError:
        raise LocateError('erasure needs the library concept-erasure: pip install "locate-bias[erasure]"') from None
    # its limit on the trace trades exact erasure for a smaller output
    found: Any = LeaceEraser.fit(outputs, labels, constrain_cov_trace=False)
    return found.proj_left, found.proj_right, outputs.mean(0)


def project_erasing(
    layer: Matrix, left: torch.Tensor, right: torch.Tensor, mean: torch.Tensor
) -> dict[str, ParameterChange]:
    """Changes of weight and bias that erase gender from a layer's output; without a bias the output's mean moves."""
    device = layer.module.weight.device
    left, right, mean = left.to(device), right.to(device), mean.to(device)
    pieces = (-left, right @ layer.weight)
    turned = (pieces[1].T, pieces[0].T) if layer.transposed else pieces
    changes = {layer.parameter: product_change(*turned)}
    if layer.module.bias is not None:
        bias = layer.module.bias.detach().double()
        changes[f"{layer.name}.bias"] = ParameterChange((left @ (right @ (mean - bias)),))
    return changes
