"""Training on preferences where bias was located: BiasDPO (Allam 2024), and fine-tuning on the chosen texts alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from locate.editors.edit import Edit, ParameterChange
from locate.editors.handoff import Handoff, hand_off
from locate.editors.pace import TRAINED, Part
from locate.editors.progress import Progress, no_progress
from locate.editors.pronoun_rows import balancing_rows, keeping_rows
from locate.editors.split import fitted_on
from locate.errors import LocateError
from locate.evaluation.run import network_hash
from locate.files import hash_of, strict
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.matrices import matrix
from locate.prompts import Prompts
from locate.prompts.build import occupation_table
from locate.sites import check
from locate.training.guards import Guards, Watch
from locate.training.preferences import Preference, Preferences, read_preferences
from locate.training.scope import Trained, changes_of, linear_matrices, open_lora, open_parameters
from locate.training.tokens import TokenRow, token_rows, usable
from locate.training.trainer import Recipe, check_installed, train_completions, train_preferences

SCOPES = ("located", "everything")


@dataclass(frozen=True)
class Preferring:
    """What training on preferences has in common.

    preferences  a CSV or JSON Lines file with prompt, chosen and rejected, or OWNER/NAME:CONFIGURATION:SPLIT of the
                 hub; None for the package's own set
    pronouns     rows made for each word of the prompts that an edit is fitted on, in which its pronoun is the text: of
                 occupations and persons both pronouns are to be as likely, words that say their gender keep their own;
                 0 trains on the preferences alone, as BiasDPO does
    scope        "located": the output matrices of the located layers; "everything": every parameter, or with a rank
                 every linear layer but the one that reads out the vocabulary
    rank         of LoRA's factors; None trains the matrices themselves
    layers       to be trained in scope "located"; None takes the strongest located ones, `most` of them
    rate         largest step size of AdamW
    batch        rows of a step; at_once of them are read at once (None for all), which needs less memory
    end          whether the end-of-text token is learnt after every continuation
    longest      tokens of a row; longer ones are left out and counted
    held_out     share of the rows held out for the guards where the data does not say which
    guards       how often the training is looked at, and what ends it
    place        folder in which a stopped training is kept, under a hash of all that it depends on; None keeps nothing
    """

    preferences: str | None = None
    pronouns: int = 1
    scope: str = "located"
    rank: int | None = None
    dropout: float = 0.0
    layers: tuple[int, ...] | None = None
    most: int = 3
    rate: float = 3e-4
    epochs: int = 1
    batch: int = 8
    at_once: int | None = None
    end: bool = False
    longest: int = 512
    held_out: float = 0.15
    guards: Guards = field(default_factory=Guards)
    seed: int = 0
    place: Path | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check("scope", self.scope, SCOPES)
        least = min(self.most, self.longest - 1, self.pronouns + 1, 1 if self.rank is None else self.rank)
        if least < 1 or not 0 <= self.dropout < 1:
            raise LocateError(
                f"most {self.most}, longest {self.longest}, dropout {self.dropout}, rank {self.rank}, pronouns "
                f"{self.pronouns}: expected positive numbers, a dropout in [0, 1), and pronouns from 0 up"
            )
        if self.scope == "everything" and self.layers is not None:
            raise LocateError(
                f"layers {list(self.layers)} with scope 'everything': name layers only with scope 'located'"
            )
        if self.rank is None and self.dropout:
            raise LocateError(f"dropout {self.dropout} without rank: it is LoRA's: name a rank too")
        self.recipe()

    def recipe(self) -> Recipe:
        """How the rows are trained on."""
        return Recipe(self.epochs, self.batch, self.rate, self.seed, self.at_once)

    def rows(self, model: CausalModel, prompts: Prompts, *, rejected: bool) -> Preferences:
        """The rows that this model is trained on, without those about occupations that an edit may not see."""
        found = read_preferences(self.preferences, held_out=self.held_out, seed=self.seed, rejected=rejected)
        seen = {pair.group.lower() for pair in prompts}
        apart = [name for name in occupation_table()["occupation"] if name.lower() not in seen]
        return usable(model, without_words(found, apart), longest=self.longest, end=self.end, rejected=rejected)

    def tokens(
        self, model: CausalModel, rows: Preferences, prompts: Prompts, preserved: Prompts, *, rejected: bool
    ) -> list[TokenRow]:
        """What is trained on: the rows, and those made of the prompts, as token ids.

        rejected  whether rejected texts are trained on, against a reference
        """
        own = balancing_rows(prompts.pairs, self.pronouns, self.seed)
        own += keeping_rows(preserved.pairs, self.pronouns, self.seed, reference=rejected)
        read = token_rows(model, rows.train, self.end, rejected=rejected)
        return read + token_rows(model, own, False, rejected=rejected)

    def open(self, model: CausalModel, hand: Handoff) -> Trained:
        """A network in which what the settings name can be trained."""
        if self.rank is not None:
            modules = hand.modules if self.scope == "located" else linear_matrices(model)
            return open_lora(model, modules, self.rank, self.dropout, self.seed)
        names = [matrix(model.network, name).parameter for name in hand.modules]
        return open_parameters(model, names if self.scope == "located" else None)

    def parts(self, model: CausalModel, prompts: Prompts, preserved: Prompts, texts: int) -> list[Part]:
        """What the edit consists of; `texts` of each row are read in a step."""
        rows = self.rows(model, prompts, rejected=texts > 1)
        tokens = sum(row.length for row in self.tokens(model, rows, prompts, preserved, rejected=texts > 1))
        return [Part("training", TRAINED * texts * tokens * self.epochs)]

    def train(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        preserved: Prompts,
        rows: Preferences,
        tokens: Sequence[TokenRow],
        method: str,
        run: Callable[[Trained, Watch, Path | None], list[float]],
    ) -> Edit:
        """Open what is trained, look at it, train it under guards, and tell what became of it."""
        if model.dtype != "float32":
            raise LocateError(f"model {model.name!r} is in {model.dtype}: training needs float32 (--dtype float32)")
        hand = hand_off(model, located, layers=self.layers, most=self.most)
        trained = self.open(model, hand)
        about = [
            repr(self),
            method,
            model.provenance(),
            model.device,
            network_hash(model),
            trained.names,
            rows.as_json(),
            [[row.prompt, row.chosen, row.rejected] for row in tokens],
        ]
        place = None if self.place is None else self.place / hash_of(strict(about))[:32]
        watch = Watch(model, rows.held_out, self.guards, self.recipe().steps(len(tokens)), place)
        watch(0, model.network)
        losses = run(trained, watch, place)
        before = dict(model.network.named_parameters())
        changes = {name: ParameterChange(each) for name, each in changes_of(trained, before).items()}
        trained_on = "every parameter" if self.rank is None else "every linear layer but the unembedding"
        told = asdict(self) | {"layers": None if self.layers is None else list(self.layers)}
        del told["place"]
        return Edit(
            method=method,
            model=model.provenance(),
            changes=changes,
            edited=fitted_on(prompts, preserved),
            located=hand.origin_of_all(trained_on) if self.scope == "everything" else hand.origin,
            settings=told,
            report={
                "losses": losses,
                "checkpoints": watch.report(),
                "data": rows.as_json(),
                "pronoun rows": len(tokens) - len(rows.train),
                "matrices": len(trained.names),
            },
        )


@dataclass(frozen=True)
class DPO(Preferring):
    """Direct preference optimisation towards less biased continuations; see `Preferring` for the other settings.

    beta  how strongly the model is held to what it was (Rafailov et al. 2023); recipes for texts alone take 0.1
    sft   weight of the chosen text's own likelihood beside it, which works against a quiet collapse
    """

    beta: float = 1.0
    sft: float = 0.0

    method = "dpo"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0 or self.sft < 0:
            raise LocateError(f"beta {self.beta}, sft {self.sft}: expected a positive beta, and sft of 0 or more")

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Train; the model itself stays as it is.

        prompts  rows that name an occupation which is not among their words are left out, so that those stay unseen

        Raises LocateError as `hand_off` and `read_preferences` do, when a guard is breached, and without TRL and PEFT.
        """
        check_installed()
        rows = self.rows(model, prompts, rejected=True)
        tokens = self.tokens(model, rows, prompts, preserved, rejected=True)
        return self.train(
            model, located, prompts, preserved, rows, tokens, self.method,
            lambda trained, watch, place: train_preferences(
                model, trained, tokens, self.recipe(), beta=self.beta, sft=self.sft, look=watch, place=place,
                step=lambda done, of: progress("training", done, of),
            ),
        )  # fmt: skip

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`)."""
        return self.parts(model, prompts, preserved, 2)


@dataclass(frozen=True)
class SFT(Preferring):
    """Fine-tuning on the chosen continuations alone, DPO's baseline; see `Preferring` for the settings."""

    method = "sft"

    def edit(
        self,
        model: CausalModel,
        located: Located,
        prompts: Prompts,
        *,
        preserved: Prompts,
        progress: Progress = no_progress,
    ) -> Edit:
        """Train; the model itself stays as it is.

        Raises LocateError as `DPO.edit` does.
        """
        check_installed()
        rows = self.rows(model, prompts, rejected=False)
        tokens = self.tokens(model, rows, prompts, preserved, rejected=False)
        return self.train(
            model, located, prompts, preserved, rows, tokens, self.method,
            lambda trained, watch, place: train_completions(
                model, trained, tokens, self.recipe(), look=watch, place=place,
                step=lambda done, of: progress("training", done, of),
            ),
        )  # fmt: skip

    def expected_parts(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts
    ) -> list[Part]:
        """What the edit consists of (see `Part`)."""
        return self.parts(model, prompts, preserved, 1)


def without_words(rows: Preferences, words: Sequence[str]) -> Preferences:
    """The rows in which none of these words stands, in singular or plural."""
    if not words:
        return rows
    names = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    plurals = "|".join(re.escape(word[:-1]) + "ies" for word in words if word.endswith("y"))
    pattern = re.compile(rf"\b(({names})(s|es)?{f'|{plurals}' if plurals else ''})\b", re.IGNORECASE)

    def names_one(row: Preference) -> str | None:
        found = pattern.search(f"{row.prompt} {row.chosen} {row.rejected}")
        return "names an occupation that is held out" if found else None

    return rows.without(names_one)
