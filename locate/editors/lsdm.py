"""LSDM, least square debiasing (Cai et al. 2024, arXiv 2403.14409): MLP output matrices changed in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from locate.editors.covariance import covariances, preserved_parts, preserved_windows, stream_sizes
from locate.editors.edit import Edit, ParameterChange, apply_change, product_change
from locate.editors.handoff import Handoff, hand_off
from locate.editors.joint import ROLES, Factors, slopes_of, solve_cheapest, solving_cost
from locate.editors.pace import FELT, Part, tokens_in
from locate.editors.progress import Progress, no_progress
from locate.editors.readings import (
    PREFIX_TOKENS,
    Reading,
    answer_log_probs,
    at_subject,
    neutral_readings,
    random_prefixes,
    readings,
)
from locate.editors.split import fitted_on
from locate.editors.values import Values, find_values
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.likelihood import Step
from locate.model.matrices import matrix
from locate.prompts import Prompts
from locate.sites import check

RIDGES = {"joint": 1.5e6, "each": 5000.0, "top": 300.0}
PREFIXES = {"joint": 0, "each": 1, "top": 1}
SPREADS = tuple(RIDGES)
FLOOR = 1e-6  # of the mean second moment, added to each: keys that the text never has cost something too


@dataclass(frozen=True)
class LSDM:
    """Settings of LSDM.

    layers    to be edited; None takes the strongest located ones, `most` of them
    ridge     lambda, what a change of the preserved text's values costs; None for the spread's own (`RIDGES`). "joint":
              nats squared of one prompt, for a change as long as the residual stream that leaves the layer's block, so
              that one number serves narrow and wide streams; the others: weight of C = E[k k^T] against one key of an
              edited word, as published
    preserve  weight of one prompt ("joint") or one key of a preserved definitional word
    spread    over several layers. "joint", which is not of the paper: all at once, fitted to the log-odds after each
              prompt (`cheapest`). The others fit values v* that were found before, layer by layer, ascending. "top", as
              published: targets of the last layer's block alone, whose residual is spread over the layers below, as
              MEMIT does; "each": every layer has targets of its own, found in the model edited so far, and takes its
              share of the log-odds that are left
    roles     "joint" alone: tokens at which the change's effect is counted: an edited matrix acts at all tokens. The
              paper, and the other spreads, have the subject's last token
    rounds    how often the layers are visited, in the model edited so far; 1 as published
    prefixes  random beginnings, drawn from the model, before each prompt; None for the spread's own (`PREFIXES`): the
              joint one has further forms of prompts instead
    values    "each" and "top" alone: how v* is found
    text      file whose keys are preserved; None for the package's prose and what the model writes itself
    """

    layers: tuple[int, ...] | None = None
    most: int = 3
    ridge: float | None = None
    preserve: float = 1.0
    spread: str = "joint"
    roles: tuple[str, ...] = ROLES
    rounds: int = 2
    prefixes: int | None = None
    values: Values = field(default_factory=Values)
    text: Path | None = None
    seed: int = 0

    method = "lsdm"

    def __post_init__(self) -> None:
        check("spread", self.spread, SPREADS)
        for role in self.roles:
            check("role", role, ROLES)
        if self.weight < 0 or self.preserve < 0 or self.rounds < 1 or self.most < 1 or self.beginnings < 0:
            raise LocateError(
                f"ridge {self.ridge}, preserve {self.preserve}, rounds {self.rounds}, most {self.most}, prefixes "
                f"{self.prefixes}: expected no negative number, and at least one round and layer"
            )
        if self.spread == "joint" and not (self.weight and self.roles):
            raise LocateError(
                f"ridge {self.ridge}, roles {list(self.roles)}: spread 'joint' needs a ridge above 0 and a role"
            )
        unused = "values" if self.spread == "joint" else "roles"
        if getattr(self, unused) != {"values": Values(), "roles": ROLES}[unused]:
            raise LocateError(
                f"{unused} {getattr(self, unused)}: spread {self.spread!r} does not use them: leave them out, or "
                f"choose another spread of {', '.join(SPREADS)}"
            )

    @property
    def weight(self) -> float:
        """The ridge, or the spread's own."""
        return RIDGES[self.spread] if self.ridge is None else self.ridge

    @property
    def beginnings(self) -> int:
        """The number of prefixes, or the spread's own."""
        return PREFIXES[self.spread] if self.prefixes is None else self.prefixes

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Make both pronouns equally likely after the clean sides of prompts, and leave the rest.

        prompts    what is edited; values and their keys ("each", "top") are means over the prompts of a word
        preserved  prompts whose log-odds ("joint"), or whose words' values, stay

        Raises LocateError as `hand_off` and `readings` do.
        """
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        prefixes = random_prefixes(model, self.beginnings, self.seed, lambda done, of: progress("prefixes", done, of))
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
            stream_sizes(model, hand.blocks, text) if self.spread == "joint" else {},
            progress,
        )
        parts: dict[str, list[Factors]] = {name: [] for name in hand.modules}
        report = (self.joint if self.spread == "joint" else self.layered)(model, work, parts)
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes={
                matrix(model.network, name).parameter: join_changes(model, name, parts[name]) for name in hand.modules
            },
            edited=fitted_on(prompts, preserved),
            located=hand.origin,
            settings=asdict(replace(self, text=None)) | {"text": str(self.text or "bundled")},
            report={"rounds": report} | ({"stream_sizes": dict(work.sizes)} if work.sizes else {}),
        )

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`); what is kept is left out.

        Raises LocateError as `hand_off` and `preserved_windows` do.
        """
        modules = hand_off(model, located, layers=self.layers, most=self.most).modules
        parts = [Part("prefixes", self.beginnings * PREFIX_TOKENS**2 / 2)] if self.beginnings else []
        parts += preserved_parts(model, self.text, modules)
        edited, fixed = (tokens_in(model, [pair.clean for pair in some]) for some in (prompts, preserved))
        behind, kept = (
            tokens + self.beginnings * (tokens + PREFIX_TOKENS * len(some))
            for tokens, some in ((edited, prompts), (fixed, preserved))
        )
        if self.spread == "joint":
            rows = behind + (kept if self.preserve else 0)
            count = (1 + self.beginnings) * (len(prompts) + (len(preserved) if self.preserve else 0))
            solving = Part("solve", solving_cost(model.network, modules, count * len(self.roles)))
            return [*parts, *self.rounds * [Part("slopes", FELT * rows), solving], Part("check", rows)]
        neutral = neutral_readings(model, prompts) if self.values.solver == "adam" else []
        each = edited + sum(len(reading.ids) for reading in neutral)
        targets = Part("targets", FELT * (self.values.steps * each + 3 * edited))
        keys = edited + behind + kept
        if self.spread == "top":
            return [*parts, *self.rounds * [targets, Part("keys", len(modules) * keys)]]
        return [*parts, *self.rounds * len(modules) * [targets, Part("keys", keys)]]

    def joint(self, model: CausalModel, work: Work, parts: dict[str, list[Factors]]) -> list[dict[str, Any]]:
        """Find all changes at once, anew from the slopes of the model edited so far; returns how far each round came.

        The log-odds of edited prompts are to become 0, those of the preserved ones what they were. What a round
        changes is weighed against the original model, not against the last round.
        """
        rows = [*work.behind, *(work.kept if self.preserve else [])]
        edited = len(work.behind)
        weights = torch.tensor([1.0] * edited + [self.preserve] * (len(rows) - edited)).double().to(model.device)
        moments = {
            name: self.weight / work.sizes[block] * floor_moment(work.moments[name])
            for name, block in zip(work.hand.modules, work.hand.blocks, strict=True)
        }
        goal, said = torch.zeros(len(rows), dtype=torch.float64, device=model.device), []
        for turn in range(self.rounds):
            with changes_written(model, parts):
                here = slopes_of(model, rows, work.hand.modules, self.roles, work.step("slopes"))
            if turn == 0:
                goal[edited:] = here.odds[edited:]
            said.append({"round": turn, "modules": list(parts)} | distances(here.odds, goal, edited))
            wanted = goal - here.odds + here.response(current_changes(parts))
            found = solve_cheapest(here, wanted, weights, moments, work.step("solve"))
            parts |= {name: [pieces] for name, pieces in found.items()}
        with changes_written(model, parts):
            pair = answer_log_probs(model, rows, work.step("check")).to(model.device)
        return [
            *said,
            {"round": self.rounds, "modules": list(parts)} | distances(pair[:, 0] - pair[:, 1], goal, edited),
        ]

    def layered(self, model: CausalModel, work: Work, parts: dict[str, list[Factors]]) -> list[dict[str, Any]]:
        """Visit the layers one after the other, in rounds; returns a report on each set of targets."""
        modules = work.hand.modules
        visits = [modules] if self.spread == "top" else [(name,) for name in modules]
        report = []
        for turn in range(self.rounds):
            for place, names in enumerate(visits):
                said = self.visit(model, work, parts, names, 1 / (len(visits) - place))
                report.append({"round": turn} | said)
        return report

    def visit(
        self, model: CausalModel, work: Work, parts: dict[str, list[Factors]], names: Sequence[str], share: float
    ) -> dict[str, Any]:
        """Find targets of the last module's block, and spread what is missing over the modules (MEMIT's algorithm 1).

        share  of the log-odds that the targets are to take away
        """
        top = dict(zip(work.hand.modules, work.hand.blocks, strict=True))[names[-1]]
        with changes_written(model, parts):
            said = find_values(
                model, work.edited, top, self.values, share=share, kept=work.neutral, step=work.step("targets")
            )
            goal = at_subject(model, work.edited, top, inputs=False) + said.delta.to(model.device)
        for place, name in enumerate(names):
            work.progress("keys", place, len(names))
            with changes_written(model, parts):
                rest = (goal - at_subject(model, work.edited, top, inputs=False)) / (len(names) - place)
                keys = at_subject(model, work.behind, name, inputs=True).T
                fixed = at_subject(model, work.kept, name, inputs=True).T * self.preserve**0.5
            parts[name].append(least_squares(keys, rest.T, fixed, self.weight * work.moments[name]))
        with changes_written(model, parts):
            left = (goal - at_subject(model, work.edited, top, inputs=False)).norm() / said.delta.norm()
        work.progress("keys", len(names), len(names))
        return said.about() | {"modules": list(names), "residual_left": float(left)}


@dataclass(frozen=True, eq=False)
class Work:
    """What every round needs: prompts as tokens, the covariances, and where the layers are.

    edited  prompts alone, in which targets are found
    behind  the same prompts alone and behind each prefix: what "joint" fits, and whose keys the others average
    kept    preserved prompts, alone and behind each prefix
    sizes   "joint" alone: squared length of the residual stream that leaves each block
    """

    hand: Handoff
    edited: list[Reading]
    behind: list[Reading]
    kept: list[Reading]
    neutral: list[Reading]
    moments: Mapping[str, torch.Tensor]
    sizes: Mapping[str, float]
    progress: Progress

    def step(self, what: str) -> Step:
        """Reports of a part."""
        return partial(self.progress, what)


def current_changes(parts: Mapping[str, Sequence[Factors]]) -> dict[str, Factors]:
    """The change of each matrix that has one."""
    return {name: pieces[0] for name, pieces in parts.items() if pieces}


def distances(
    odds: Float[torch.Tensor, " reading"], goal: Float[torch.Tensor, " reading"], edited: int
) -> dict[str, float]:
    """Mean |log-odds| of the edited prompts, and by how much those of the preserved ones moved (nan for none); nats."""
    away = (odds - goal).abs()
    return {"log_odds": float(away[:edited].mean()), "preserved_moved": float(away[edited:].mean())}


def floor_moment(moment: Float[torch.Tensor, "d_mlp d_mlp"]) -> Float[torch.Tensor, "d_mlp d_mlp"]:
    """A second moment made positive definite, also for units that are silent throughout the text."""
    return moment + FLOOR * moment.diagonal().mean() * torch.eye(len(moment), dtype=moment.dtype, device=moment.device)


def least_squares(
    keys: Float[torch.Tensor, "d_mlp word"],
    rest: Float[torch.Tensor, "d_model word"],
    fixed: Float[torch.Tensor, "d_mlp kept"],
    moment: Float[torch.Tensor, "d_mlp d_mlp"],
) -> Factors:
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
def changes_written(model: CausalModel, parts: Mapping[str, Sequence[Factors]]) -> Any:
    """Inside the block the model has the changes made so far; each rounded once from its original weight."""
    before = {}
    try:
        for name, pieces in parts.items():
            layer = matrix(model.network, name)
            before[name] = layer.module.weight.data
            if pieces:
                layer.module.weight.data = apply_change(before[name], join_changes(model, name, pieces))
        yield
    finally:
        for name, tensor in before.items():
            matrix(model.network, name).module.weight.data = tensor


def join_changes(model: CausalModel, name: str, pieces: Sequence[Factors]) -> ParameterChange:
    """The sum of several changes of one matrix, in the orientation in which it is stored."""
    left = torch.cat([each[0] for each in pieces], dim=1)
    right = torch.cat([each[1] for each in pieces], dim=0)
    return product_change(right.T, left.T) if matrix(model.network, name).transposed else product_change(left, right)
