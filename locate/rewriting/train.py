"""Trains a rewriter on texts and people's rewrites of them: LoRA, or LoRA on a network in four bits, under guards."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from locate.editors.adapter import write_factors
from locate.editors.handoff import hand_off
from locate.editors.receipt import check_free, staging
from locate.errors import LocateError
from locate.evaluation.run import network_hash
from locate.files import cache_folder, hash_of, read_json, strict, write_json
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, row_logits
from locate.rewriting.originals import Original, Originals
from locate.rewriting.request import Request
from locate.rewriting.rewrite import COPIED, CUT, EMPTY, REFUSED, Rewritten, prompt_of, rewrite_rows, same_words
from locate.schema import locate_version
from locate.training.guards import Breach, Guards, Looks, is_repeating, percent
from locate.training.rows import LeftOut
from locate.training.scope import Trained, changes_of, linear_matrices, open_lora
from locate.training.tokens import TokenRow
from locate.training.trainer import Recipe, check_installed, train_completions

ABOUT = "rewriter.json"
VERSION = 1
TEXTS = 16  # held-out texts that are rewritten at each look
REFERENCES = 48  # held-out references whose likelihood is measured at each look


@dataclass(frozen=True)
class Rewriter:
    """How a rewriter is trained; MBIAS's own recipe is rank 64, dropout 0.2, rate 2e-5, 2 epochs, four bits.

    rank       of LoRA's factors; alpha is twice the rank
    four_bits  whether the frozen matrices are held in four bits (nf4, quantised twice) while the factors are trained
               (QLoRA, Dettmers et al. 2023), which needs the package bitsandbytes
    layers     whose MLP output matrices are trained, from a located.json; None trains every linear layer
    rate       largest step size of AdamW
    batch      rows of a step; at_once of them are read at once (None for all)
    longest    tokens of a row, request and rewrite together; longer ones are left out and counted
    guards     how often the training is looked at, and what ends it; those of perplexity, definitions and pronouns play
               no part
    """

    rank: int = 16
    dropout: float = 0.0
    four_bits: bool = False
    layers: tuple[int, ...] | None = None
    rate: float = 2e-4
    epochs: int = 2
    batch: int = 8
    at_once: int | None = None
    longest: int = 512
    guards: Guards = field(default_factory=Guards)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or self.longest < 2 or not 0 <= self.dropout < 1:
            raise LocateError(
                f"rank {self.rank}, longest {self.longest}, dropout {self.dropout}: expected positive numbers, and a "
                "dropout in [0, 1)"
            )
        self.recipe()

    def recipe(self) -> Recipe:
        """How the rows are trained on."""
        return Recipe(self.epochs, self.batch, self.rate, self.seed, self.at_once)


@dataclass(frozen=True)
class RewritingSeen:
    """What was found at one look.

    step       optimiser steps done
    reference  mean log-probability per token of held-out people's rewrites, nats
    empty, refused, copied, cut, repeating  share of the rewrites of held-out texts, percent
    exact      share of them that have the very words of a reference, percent
    """

    step: int
    reference: float
    empty: float
    refused: float
    copied: float
    cut: float
    repeating: float
    exact: float


class RewritingWatch(Looks):
    """Looks at a rewriter in training.

    rows  held out; the rest is that of `Looks`
    """

    kind = RewritingSeen
    settings = MappingProxyType({"reference": "chosen"})

    def __init__(
        self,
        model: CausalModel,
        rows: Sequence[Original],
        request: Request,
        guards: Guards,
        steps: int,
        place: Path | None = None,
    ) -> None:
        super().__init__(model, guards, steps, place)
        self.request = request
        self.references = [token_row(model, request, row) for row in spread(rows, REFERENCES)]
        self.texts = [(row.line, row) for row in spread(rows, TEXTS)]

    def look(self, step: int, model: CausalModel) -> RewritingSeen:
        """Everything that is watched."""
        made = [row for some in rewrite_rows(model, self.texts, self.request) for row in some]
        shares = {name: percent([row.outcome == name for row in made]) for name in (EMPTY, REFUSED, COPIED, CUT)}
        return RewritingSeen(
            step=step,
            reference=float(np.mean([answer_likelihood(model, row) for row in self.references])),
            repeating=percent([is_repeating(row.rewrite) for row in made]),
            exact=percent([has_reference(row) for row in made]),
            **shares,
        )

    def breaches(self, was: RewritingSeen, now: RewritingSeen) -> tuple[Breach, ...]:
        """The guards of a rewriter."""
        limit = self.guards
        lost = was.reference - now.reference
        return (
            ("reference", lost, limit.chosen, "nats a token lost by held-out rewrites of people"),
            ("empty", now.empty - was.empty, limit.empty, "points more empty rewrites"),
            ("repeating", now.repeating - was.repeating, limit.repeating, "points more repeating rewrites"),
        )


def spread(rows: Sequence[Original], count: int) -> list[Original]:
    """At most so many rows, evenly from all."""
    return list(rows[:: max(1, len(rows) // count)])[:count]


def has_reference(row: Rewritten) -> bool:
    """Whether a rewrite has the very words of a reference."""
    return any(same_words(row.rewrite, each) for each in row.references)


def answer_likelihood(model: CausalModel, row: TokenRow) -> float:
    """Mean log-probability per token of an answer, nats."""
    import torch

    logits = row_logits(model, [[*row.prompt, *row.chosen]])[0, len(row.prompt) - 1 : -1]
    ids = torch.tensor(row.chosen, device=logits.device)
    return float(logits.log_softmax(-1).gather(-1, ids[:, None]).double().mean())


def token_row(model: CausalModel, request: Request, row: Original) -> TokenRow:
    """The request for a text and its first reference, as token ids."""
    return TokenRow(tuple(request.prompt_ids(model, row.text)), tuple(request.answer_ids(model, row.references[0])), ())


def readable(model: CausalModel, rows: Originals, request: Request, longest: int) -> Originals:
    """The rows that the model can be trained on; those it cannot are left out with the reason.

    Raises LocateError where none is left on one of the two sides.
    """
    most = min(longest, model.context)
    kept: dict[str, list[Original]] = {"train": [], "held_out": []}
    gone = list(rows.left_out)
    for name, some in kept.items():
        for row in getattr(rows, name):
            try:
                length = token_row(model, request, row).length
                asked = prompt_of(model, request, row)
                reason = f"longer than {most} tokens" if length > most else asked if isinstance(asked, str) else None
            except LocateError as error:
                reason = str(error)
            if reason is None:
                some.append(row)
            else:
                gone.append(LeftOut(row.line, reason))
    if not kept["train"] or not kept["held_out"]:
        raise LocateError(
            f"{', '.join(rows.source)}: {len(kept['train'])} rows to train on and {len(kept['held_out'])} held out can "
            f"be read by {model.name!r} in {most} tokens: expected at least one of each"
        )
    return Originals(tuple(kept["train"]), tuple(kept["held_out"]), tuple(gone), rows.source)


def train_rewriter(
    model: CausalModel,
    rows: Originals,
    how: Rewriter,
    folder: str | Path,
    *,
    request: Request | None = None,
    located: Located | None = None,
    step: Step = ignore_step,
) -> dict[str, Any]:
    """Train a rewriter and write it as a LoRA adapter of the model, with rewriter.json; returns what that holds.

    The folder is loaded like any adapter: `locate.load_causal(folder)` and PEFT merge it into its base model. Training
    and `rewrite_file` ask with the same `Request`. A training that was stopped goes on from its last kept step.

    Raises LocateError without TRL and PEFT, for a folder that is not empty, and when a guard is breached.
    """
    check_installed()
    target = Path(folder)
    check_free(target)
    if model.dtype != "float32":
        raise LocateError(f"model {model.name!r} is in {model.dtype}: training needs float32 (--dtype float32)")
    request = request or Request()
    rows = readable(model, rows, request, how.longest)
    tokens = [token_row(model, request, row) for row in rows.train]
    trained = open_lora(model, modules_of(model, how, located), how.rank, how.dropout, how.seed, how.four_bits)
    told = {
        "schema": VERSION,
        "locate": locate_version(),
        "model": model.provenance(),
        "request": asdict(request),
        "settings": asdict(how),
        "matrices": list(trained.names),
        "data": rows.as_json(),
        "held_out_lines": [row.line for row in rows.held_out],
    }
    about = [told, [[*row.prompt, *row.chosen] for row in tokens], network_hash(model), model.device]
    place = cache_folder() / f"rewriter-{hash_of(strict(about))[:32]}"
    watch = RewritingWatch(model, rows.held_out, request, how.guards, how.recipe().steps(len(tokens)), place)
    watch(0, model.network)
    try:
        losses = train_completions(model, trained, tokens, how.recipe(), look=watch, step=step, place=place)
    except LocateError:
        shutil.rmtree(place, ignore_errors=True)  # a breach would come again
        raise
    write_rewriter(model, trained, target, told | {"losses": losses, "checkpoints": watch.report()})
    shutil.rmtree(place, ignore_errors=True)
    return told | {"losses": losses, "checkpoints": watch.report()}


def modules_of(model: CausalModel, how: Rewriter, located: Located | None) -> Sequence[str]:
    """Names of the matrices that get factors."""
    if located is None:
        if how.layers is not None:
            raise LocateError(f"layers {list(how.layers)} without a located.json: give both, or neither")
        return linear_matrices(model)
    return hand_off(model, located, layers=how.layers, most=len(located.layers) or 1).modules


def write_rewriter(model: CausalModel, trained: Trained, target: Path, told: dict[str, Any]) -> None:
    """The factors as an adapter, and what they were trained with, whole or not at all."""
    changes = changes_of(trained, dict(model.network.named_parameters()))
    if not changes:
        raise LocateError("training changed nothing: no rewriter was written; train for more steps")
    with staging(target) as place:
        write_factors(changes, model, place)
        write_json(place / ABOUT, told)


def held_out_lines(folder: str | Path, source: dict[str, str]) -> list[int] | None:
    """The lines of a file that the rewriter in a folder did not see in training; None for another file or no rewriter.

    source  the file's sha256 by its name
    """
    path = Path(folder) / ABOUT
    about = read_json(path) if path.is_file() else {}
    if not isinstance(about, dict) or set(about.get("data", {}).get("source", {}).values()) != set(source.values()):
        return None
    return [int(line) for line in about["held_out_lines"]]


def read_request(folder: str | Path) -> Request | None:
    """How the rewriter in a folder was asked in training; None for a folder without one.

    Raises LocateError for a rewriter.json of another version.
    """
    path = Path(folder) / ABOUT
    if not path.is_file():
        return None
    about = read_json(path)
    if not isinstance(about, dict) or about.get("schema") != VERSION:
        raise LocateError(f"{path} is of another version: expected schema {VERSION}: train the rewriter again")
    asked = about["request"]
    return Request(asked["instruction"], tuple((text, rewrite) for text, rewrite in asked["examples"]))
