"""LSDM, least square debiasing (Cai et al. 2024, arXiv 2403.14409): MLP output matrices changed in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from locate.causal import CausalModel
from locate.editors.covariance import covariances, preserved_windows
from locate.editors.edit import Change, Edit, changed, product
from locate.editors.handoff import Handoff, hand_off
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import Reading, at_subject, neutral_readings, random_prefixes, readings
from locate.editors.split import fitted_on
from locate.editors.values import Values, wanted_values
from locate.errors import LocateError
from locate.located import Located
from locate.matrices import matrix
from locate.prompts import Prompts
from locate.sites import check

SPREADS = ("each", "top")


@dataclass(frozen=True)
class LSDM:
    """Settings of LSDM.

    layers    to be edited; None takes the strongest located ones, `most` of them
    ridge     lambda: weight of C = E[k k^T] over the preserved text, against one key of an edited word
    preserve  weight of one key of a preserved definitional word
    spread    over several layers, ascending. "each": every layer has targets of its own, found in the model edited so
              far, and takes its share of the log-odds that are left; "top": targets of the last layer's block alone,
              whose residual is spread over the layers below, as MEMIT does
    rounds    how often the layers are visited, in the model edited so far; 1 as published
    prefixes  random beginnings, drawn from the model, before each prompt whose keys are averaged
    values    how v* is found
    text      file whose keys are preserved; None for the package's prose and what the model writes itself
    """

    layers: tuple[int, ...] | None = None
    most: int = 3
    ridge: float = 1000.0
    preserve: float = 4.0
    spread: str = "each"
    rounds: int = 2
    prefixes: int = 1
    values: Values = field(default_factory=Values)
    text: Path | None = None
    seed: int = 0

    method = "lsdm"

    def __post_init__(self) -> None:
        check("spread", self.spread, SPREADS)
        if self.ridge < 0 or self.preserve < 0 or self.rounds < 1 or self.most < 1 or self.prefixes < 0:
            raise LocateError(
                f"ridge {self.ridge}, preserve {self.preserve}, rounds {self.rounds}, most {self.most}, prefixes "
                f"{self.prefixes}: expected none negative, and at least one round and layer"
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
        """Move the occupations' values to where both pronouns are equally likely, and nothing else.

        prompts    their clean sides are edited, grouped by word
        preserved  whose words' keys keep their values

        Raises LocateError as `hand_off` and `readings` do.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        prefixes = random_prefixes(model, self.prefixes, self.seed)
        text = preserved_windows(model, self.text, step=lambda done, of: progress("text", done, of))
        moments = covariances(model, hand.modules, text, step=lambda done, of: progress("covariance", done, of))
        neutral = neutral_readings(model, prompts) if self.values.solver == "adam" else []
        work = Work(
            hand,
            readings(model, prompts.pairs),
            readings(model, prompts.pairs, prefixes),
            readings(model, preserved.pairs, prefixes),
            neutral,
            moments,
            progress,
        )
        parts: dict[str, list[Pieces]] = {name: [] for name in hand.modules}
        report = []
        for turn in range(self.rounds):
            report += [{"round": turn} | said for said in self.round(model, work, parts)]
            progress("rounds", turn + 1, self.rounds)
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes={matrix(model.network, name).parameter: joined(model, name, parts[name]) for name in hand.modules},
            edited=fitted_on(prompts, preserved),
            located=hand.origin,
            settings=asdict(replace(self, text=None)) | {"text": str(self.text or "bundled")},
            report={"targets": report},
        )

    def round(self, model: CausalModel, work: Work, parts: dict[str, list[Pieces]]) -> list[dict[str, Any]]:
        """Visit every layer once; returns what was found of the targets, per set of targets."""
        if self.spread == "top":
            return [self.visit(model, work, parts, work.hand.modules, 1.0)]
        count = len(work.hand.modules)
        return [
            self.visit(model, work, parts, (name,), 1 / (count - place)) for place, name in enumerate(work.hand.modules)
        ]

    def visit(
        self, model: CausalModel, work: Work, parts: dict[str, list[Pieces]], names: Sequence[str], share: float
    ) -> dict[str, Any]:
        """Find targets of the last module's block, and spread what is missing over the modules (MEMIT's algorithm 1).

        share  of the log-odds that the targets are to take away
        """
        top = dict(zip(work.hand.modules, work.hand.blocks, strict=True))[names[-1]]
        with written(model, parts):
            said = wanted_values(
                model, work.edited, top, self.values, share=share, kept=work.neutral,
                step=lambda done, of: work.progress("targets", done, of),
            )  # fmt: skip
            goal = at_subject(model, work.edited, top, inputs=False) + said.delta.to(model.device)
        for place, name in enumerate(names):
            with written(model, parts):
                rest = (goal - at_subject(model, work.edited, top, inputs=False)) / (len(names) - place)
                keys = at_subject(model, work.behind, name, inputs=True).T
                fixed = at_subject(model, work.kept, name, inputs=True).T * self.preserve**0.5
            parts[name].append(least_squares(keys, rest.T, fixed, self.ridge * work.moments[name]))
        with written(model, parts):
            left = (goal - at_subject(model, work.edited, top, inputs=False)).norm() / said.delta.norm()
        return said.about() | {"modules": list(names), "residual_left": float(left)}


@dataclass(frozen=True, eq=False)
class Work:
    """What every visit of a layer needs: prompts as tokens, the covariances, and where the layers are.

    edited  prompts alone, in which targets are found; behind, each prefix too, from which keys are averaged
    """

    hand: Handoff
    edited: list[Reading]
    behind: list[Reading]
    kept: list[Reading]
    neutral: list[Reading]
    moments: Mapping[str, torch.Tensor]
    progress: Progress


Pieces = tuple[torch.Tensor, torch.Tensor]
"""two factors [d_model, word], [word, d_mlp] of a change of an output matrix"""


def least_squares(
    keys: Float[torch.Tensor, "d_mlp word"],
    rest: Float[torch.Tensor, "d_model word"],
    fixed: Float[torch.Tensor, "d_mlp kept"],
    moment: Float[torch.Tensor, "d_mlp d_mlp"],
) -> Pieces:
    """The change of W that minimises |(W + Delta) E - V*|^2 + |Delta P|^2 + tr(Delta C Delta^T), as its two factors.

    keys    E, a column per word
    rest    V* - W E, what the values lack
    fixed   P, keys whose values stay
    moment  lambda C

    Delta = (V* - W E) E^T (E E^T + P P^T + lambda C)^-1, LSDM's equation 12 with MEMIT's C, solved in float64. Where
    the matrix is singular (lambda 0), the solution of least norm.
    """
    system = keys @ keys.T + fixed @ fixed.T + moment
    try:
        right = torch.linalg.solve(system, keys).T
    except torch.linalg.LinAlgError:
        right = (torch.linalg.pinv(system, hermitian=True) @ keys).T
    return rest, right


@contextmanager
def written(model: CausalModel, parts: Mapping[str, Sequence[Pieces]]) -> Any:
    """While it lasts, the model has the changes made so far; each rounded once from its original weight."""
    before = {}
    try:
        for name, pieces in parts.items():
            layer = matrix(model.network, name)
            before[name] = layer.module.weight.data
            if pieces:
                layer.module.weight.data = changed(before[name], joined(model, name, pieces))
        yield
    finally:
        for name, tensor in before.items():
            matrix(model.network, name).module.weight.data = tensor


def joined(model: CausalModel, name: str, pieces: Sequence[Pieces]) -> Change:
    """The sum of several changes of one matrix, in the orientation in which it is stored."""
    left = torch.cat([each[0] for each in pieces], dim=1)
    right = torch.cat([each[1] for each in pieces], dim=0)
    return product(right.T, left.T) if matrix(model.network, name).transposed else product(left, right)
