"""MEMIT (Meng et al. 2023, arXiv 2210.07229) with a neutral target: LSDM without preserved keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from locate.editors.edit import Edit
from locate.editors.lsdm import LSDM
from locate.editors.pace import Part
from locate.editors.progress import Progress, no_progress
from locate.editors.split import fitted_on
from locate.editors.values import Values
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.prompts import Prompts


@dataclass(frozen=True)
class MEMIT:
    """Settings of MEMIT; the defaults are those published for GPT-J.

    layers    to be edited; None takes the strongest located ones, `most` of them
    ridge     lambda: weight of C = E[k k^T] over the preserved text, against one key of an edited word
    steps     of gradient descent on each word's target
    rate, kl, decay, clamp   of it, as in `Values`
    prefixes  random beginnings before each prompt, drawn from the model
    text      file whose keys are preserved; None for the package's prose

    MEMIT itself makes one answer likely; with the pronouns as answers, the neutral target is |P(she) - P(he)| = 0.
    """

    layers: tuple[int, ...] | None = None
    most: int = 5
    ridge: float = 15000.0
    steps: int = 25
    rate: float = 0.5
    kl: float = 0.0625
    decay: float = 0.5
    clamp: float = 0.75
    prefixes: int = 5
    text: Path | None = None
    seed: int = 0

    method = "memit"

    def machinery(self) -> LSDM:
        """LSDM with MEMIT's settings: targets of the last layer alone, spread over all, in one pass.

        Raises LocateError for settings that are out of range.
        """
        return LSDM(
            layers=self.layers,
            most=self.most,
            ridge=self.ridge,
            preserve=0.0,
            spread="top",
            rounds=1,
            prefixes=self.prefixes,
            values=Values("adam", self.steps, self.clamp, rate=self.rate, kl=self.kl, decay=self.decay),
            text=self.text,
            seed=self.seed,
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
        """Insert values after which both pronouns are equally likely.

        prompts    pairs whose clean prompts are edited, grouped by word
        preserved  not used: only the covariance of the text holds other keys in place

        Raises LocateError as `LSDM.edit` does.
        """
        made = self.machinery().edit(model, located, prompts, preserved=preserved, progress=progress)
        return replace(made, method=self.method, edited=fitted_on(prompts, Prompts(())))

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of, as of `LSDM`."""
        return self.machinery().expected_parts(model, located, prompts, preserved=preserved)
