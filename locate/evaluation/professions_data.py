"""The professions, scores and templates of Vig et al. 2020 (arXiv 2004.12265), and the prompts that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.published import bad_row, check_row_count, published_path, read_lines
from locate.files import read_json
from locate.prompts.build import SLOT, fill_template, spread_templates
from locate.prompts.pair import Dropped, Prompts
from locate.sites import check

DEFINITIONAL = 0.75
"""from here up, in size, a profession says its gender and is left out of their mean total effect"""

SWAPS = ("anti", "same", "man", "woman")
GENDERED = {1: "woman", -1: "man"}


@dataclass(frozen=True)
class Profession:
    """A profession and what people said of it (Bolukbasi et al. 2016), each in [-1, 1].

    definitional   how far the word says the gender
    stereotypical  how far people expect it

    Positive is female here, as everywhere in locate; the published file has negative for female.
    """

    name: str
    definitional: float
    stereotypical: float

    @property
    def leaning(self) -> int:
        """Sign of the sum of both scores: +1 female, -1 male, 0 neither; the paper's released lists use this sign."""
        total = self.definitional + self.stereotypical
        return int(total > 0) - int(total < 0)

    @property
    def says_gender(self) -> bool:
        """Whether its definitional score is at least 0.75 in size."""
        return abs(self.definitional) >= DEFINITIONAL


def read_professions(folder: str | Path, *, published: bool = True) -> tuple[Profession, ...]:
    """The 320 professions of professions.json; an underscore in a name becomes a space.

    Raises LocateError for a missing or changed file, and names a malformed row by its place in the list.
    """
    name = "professions.json"
    path = published_path(folder, name, published)
    rows = read_json(path)
    if not isinstance(rows, list):
        raise LocateError(f"{path} holds no list: expected [name, definitional, stereotypical] for each profession")
    check_row_count(path, len(rows), published)
    found = tuple(profession_of(path, place, row) for place, row in enumerate(rows, start=1))
    if len({each.name for each in found}) < len(found):
        raise LocateError(f"{path} names a profession twice: expected each once")
    return found


def profession_of(path: Path, place: int, row: object) -> Profession:
    """The profession that a row describes.

    Raises LocateError naming the row when it is malformed.
    """
    match row:
        case [str(name), int() | float() as definitional, int() | float() as stereotypical] if (
            name.strip() and max(abs(definitional), abs(stereotypical)) <= 1
        ):
            return Profession(name.replace("_", " "), 0.0 - definitional, 0.0 - stereotypical)
    raise bad_row(
        path, place, str(row), "[name, definitional, stereotypical] with scores in [-1, 1] (rows are counted)"
    )


def read_templates(folder: str | Path, *, published: bool = True) -> tuple[str, ...]:
    """The 17 templates of prompt_templates.txt, with the slot {subject}.

    Raises LocateError for a missing or changed file, and names a line without exactly one slot.
    """
    name = "prompt_templates.txt"
    found = []
    for number, line in read_lines(folder, name, published):
        if line.count("{}") != 1:
            raise bad_row(Path(folder) / name, number, line, "one slot {}")
        found.append(line.strip().replace("{}", SLOT))
    return tuple(found)


def profession_scores(folder: str | Path, *, published: bool = True) -> pd.DataFrame:
    """One row per profession: word, stereotypical and factual (definitional) score, and stereotype, their sum's sign.

    Positive is female. `gender_regression` takes this form.
    """
    rows = [
        (each.name, each.stereotypical, each.definitional, each.leaning)
        for each in read_professions(folder, published=published)
    ]
    return pd.DataFrame(rows, columns=["word", "stereotypical", "factual", "stereotype"])


def profession_pairs(
    folder: str | Path, swap: str = "anti", *, templates_each: int | None = None, published: bool = True
) -> Prompts:
    """Pairs whose clean prompt is about a profession, in the templates of Vig et al. 2020.

    swap  what stands in its place in the corrupted prompt:
          "anti"  the noun of the other gender than the profession leans to, man or woman: their paper's set-gender
          "same"  the noun of the gender that it leans to
          "man", "woman"  that noun, whatever the profession: their released aggregation chooses between these two by
                  the gender that the model prefers, which only a run can tell
    templates_each  templates for each profession, spread evenly; None for all 17

    `kind` is "definition" for a profession that says its gender (|definitional| >= 0.75), else "occupation";
    `stereotype` is the sign of the sum of both scores. Under "anti" and "same" the professions that lean nowhere are
    listed in `skipped`.

    Raises LocateError for an unknown swap, and as `read_professions` and `read_templates` do.
    """
    check("swap", swap, SWAPS)
    professions = read_professions(folder, published=published)
    forms = read_templates(folder, published=published)
    pairs, skipped = [], []
    for each, form in fill_templates(professions, forms, templates_each):
        other = swap if swap in GENDERED.values() else GENDERED.get(each.leaning * (1 if swap == "same" else -1))
        if other is None:
            skipped.append(Dropped(each.name, form, f"leans to no gender, so no {swap!r} swap"))
            continue
        kind = "definition" if each.says_gender else "occupation"
        pairs.append(fill_template(form, each.name, other, each.name, kind, each.leaning, None))
    return Prompts(tuple(pairs), tuple(skipped))


def fill_templates(
    professions: tuple[Profession, ...], forms: tuple[str, ...], each: int | None
) -> Iterator[tuple[Profession, str]]:
    """Every profession in its templates; all of them come once before any comes twice."""
    return ((professions[index], form) for index, form in spread_templates(len(professions), forms, each))
