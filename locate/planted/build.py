"""Making a model with a known bias path: a Hugging Face folder, the prompts that show its bias, and where it sits."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.files import write_json, write_whole
from locate.planted.layouts import checkpoint_tensors, config
from locate.planted.plan import DEFINITION, STEREOTYPE, Plan
from locate.planted.weights import draw_directions, make_embedding, make_layers, make_unembedding
from locate.prompts.build import (
    DEFAULT_TEMPLATES_EACH,
    SLOT,
    fill_template,
    occupation_table,
    opposite_partners,
    spread_templates,
)
from locate.prompts.build import templates as package_templates
from locate.prompts.pair import FEMALE, MALE, Prompts
from locate.sites import LAST, LAST_SUBJECT

GENDERED = {"woman": 1, "man": -1}
TOKENIZER = ("tokenizer.json", "tokenizer_config.json")
BOS = 0  # of the bundled tokenizer


class Place(NamedTuple):
    """A site as tables of effects name it; unit is -1 for whole vectors, key "" for all but attention edges."""

    component: str
    layer: int
    unit: int
    role: str
    key: str = ""


Truth = frozenset[Place]


@dataclass(frozen=True, eq=False)
class Planted:
    """A made model.

    folder       where it is saved, as `locate.load` takes it
    prompts      occupations, each with what the plan's variant puts in its place
    definitions  words that say their gender, each with its counterpart in its place
    truth        the sites that carry the stereotype from the occupation to the answer
    definition   those that carry the gender that a word says
    edges        the attention weights that the stereotype passes: of its heads, from the last token to the subject's
    aside        sites that repair: silent in every run without a patch, they count as neither of these
    """

    folder: Path
    plan: Plan
    prompts: Prompts
    definitions: Prompts
    truth: Truth
    definition: Truth
    edges: Truth
    aside: Truth


def plant(folder: str | Path, plan: Plan, *, occupations: int = 24, templates_each: int = 2) -> Planted:
    """Make a model after a plan and save it, with the bundled tokenizer, as an ordinary Hugging Face folder.

    occupations     at most so many in each prompt set, equally many of either stereotype
    templates_each  templates for each of them

    Raises LocateError when the folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise LocateError(f"folder {folder} is not empty: expected a new one for the made model")
    folder.mkdir(parents=True, exist_ok=True)
    words = Words.read()
    chosen = words.usable(occupations)
    found = draw_directions(plan)
    features = features_of(plan, words, chosen)
    made = checkpoint_tensors(
        plan,
        make_embedding(plan, found, words.vocabulary, features),
        make_layers(plan, found),
        make_unembedding(plan, found, words.vocabulary, words.last_piece(FEMALE), words.last_piece(MALE)),
    )
    save(folder, plan, made, words)
    return Planted(
        folder,
        plan,
        prompts=prompts_of(chosen, templates_each, plan.kind.swap),
        definitions=definitions_of(templates_each),
        truth=truth_of(plan, STEREOTYPE),
        definition=truth_of(plan, DEFINITION),
        edges=edges_of(plan),
        aside=aside_of(plan),
    )


@dataclass(frozen=True, eq=False)
class Words:
    """The bundled tokenizer, as far as a made model needs it."""

    tokenizer: object
    vocabulary: int

    @staticmethod
    def read() -> Words:
        """The tokenizer of the bundled model."""
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_str(files("locate").joinpath("mini", TOKENIZER[0]).read_text(encoding="utf-8"))
        return Words(tokenizer, tokenizer.get_vocab_size())

    def pieces(self, text: str) -> list[int]:
        """Ids of a text's pieces."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)  # type: ignore[attr-defined]

    def last_piece(self, word: str) -> int:
        """Id of a word's last piece."""
        return self.pieces(word)[-1]

    def usable(self, count: int) -> pd.DataFrame:
        """Occupations whose last piece, which carries their features, has one stereotype and occurs nowhere else."""
        rows = occupation_table()
        rows = rows[rows["stereotype"] != 0]
        elsewhere = {piece for form in package_templates() for piece in self.pieces(form.replace(SLOT, ""))}
        elsewhere |= {piece for name in rows["occupation"] for piece in self.pieces(f" {name}")[:-1]}
        elsewhere |= {self.last_piece(f" {word}") for word in GENDERED}
        last = rows["occupation"].map(lambda name: self.last_piece(f" {name}"))
        alone = (rows.groupby(last)["stereotype"].transform("nunique") == 1) & ~last.isin(elsewhere)
        return pd.concat([rows[alone & (rows["stereotype"] == sign)].head(count // 2) for sign in (1, -1)])


def features_of(plan: Plan, words: Words, chosen: pd.DataFrame) -> dict[int, dict[str, int]]:
    """Signs of the features that each subject's last piece carries; distractors have signs of their own."""
    rng = np.random.default_rng([plan.seed, 5])
    distractors = dict.fromkeys(path.feature for path in plan.paths if not path.read)
    found: dict[int, dict[str, int]] = {}
    for name, sign in zip(chosen["occupation"], chosen["stereotype"], strict=True):
        signs = {each: int(rng.choice([-1, 1])) for each in distractors}
        found[words.last_piece(f" {name}")] = {STEREOTYPE: int(sign)} | signs
    for word, gender in GENDERED.items():
        found[words.last_piece(f" {word}")] = {DEFINITION: gender}
    return found


def save(folder: Path, plan: Plan, made: Mapping[str, np.ndarray], words: Words) -> None:
    """Weights, configuration, tokenizer and plan."""
    from safetensors.numpy import save_file

    write_whole(folder / "model.safetensors", lambda partial: save_file(dict(made), partial, metadata={"format": "pt"}))
    write_json(folder / "config.json", config(plan, words.vocabulary, BOS))
    write_json(folder / "planted.json", asdict(plan))
    for name in TOKENIZER:
        with as_file(files("locate").joinpath("mini", name)) as source:
            shutil.copy(source, folder / name)


def prompts_of(chosen: pd.DataFrame, templates_each: int = DEFAULT_TEMPLATES_EACH, swap: str = "opposite") -> Prompts:
    """Each occupation in some templates, with one of the opposite stereotype in its place, or a word of that gender."""
    signs = {str(name): int(sign) for name, sign in zip(chosen["occupation"], chosen["stereotype"], strict=True)}
    says = {gender: word for word, gender in GENDERED.items()}
    partners = opposite_partners(chosen) if swap == "opposite" else {name: says[-sign] for name, sign in signs.items()}
    names = list(signs)
    forms: Sequence[str] = package_templates()
    return Prompts(
        tuple(
            fill_template(
                form, names[index], partners[names[index]], names[index], "occupation", signs[names[index]], None
            )
            for index, form in spread_templates(len(names), forms, templates_each)
        )
    )


def definitions_of(templates_each: int = DEFAULT_TEMPLATES_EACH) -> Prompts:
    """Words that say their gender, each with its counterpart in its place; every template is a group of its own."""
    forms: Sequence[str] = package_templates()
    words = list(GENDERED)
    return Prompts(
        tuple(
            fill_template(form, words[index], words[1 - index], form, "definition", GENDERED[words[index]], None)
            for index, form in spread_templates(len(words), forms, templates_each)
        )
    )


def truth_of(plan: Plan, feature: str) -> Truth:
    """The sites of a feature's paths."""
    found = set()
    for path in plan.of(feature):
        found.add(Place("mlp_out", path.mlp_layer, -1, LAST_SUBJECT))
        found.add(Place("attn_out", path.head_layer, -1, LAST))
        found.add(Place("head", path.head_layer, path.head, LAST))
    if plan.readout is not None and feature == STEREOTYPE:
        found.add(Place("mlp_out", plan.n_layers - 1, -1, LAST))
    return frozenset(found)


def edges_of(plan: Plan) -> Truth:
    """The attention weights from the last token to the subject's, of the heads that move the stereotype."""
    return frozenset(Place("pattern", path.head_layer, path.head, LAST, LAST_SUBJECT) for path in plan.of(STEREOTYPE))


def aside_of(plan: Plan) -> Truth:
    """The backup, where there is one."""
    if plan.backup_layer is None:
        return frozenset()
    return frozenset({Place("mlp_out", plan.backup_layer, -1, LAST_SUBJECT)})
