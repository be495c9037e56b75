"""The package's prompts for an edit: words and templates to fit on, and those held out to judge it by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locate.editors.split import Split, leave_out, split
from locate.prompts import Prompts, definitional_pairs, occupation_pairs, person_pairs, preserved_pairs, templates
from locate.prompts.build import definitional_table, occupation_table

EACH, PERSONS_EACH = 3, 2  # templates for each occupation and preserved word; for each other word for people


@dataclass(frozen=True)
class Fitting:
    """What an editor is given.

    edited     occupations and other words for people, whose pronouns are to be equally likely
    preserved  words that say their gender, whose pronouns are to stay
    words      occupations fitted and held out, with the templates
    definitional  words of `definitional_pairs` preserved and held out
    """

    edited: Prompts
    preserved: Prompts
    words: Split
    definitional: Split


def fitting_prompts(
    held_out: float = 0.3,
    *,
    seed: int = 0,
    own: Prompts | None = None,
    occupations: Sequence[str] | None = None,
) -> Fitting:
    """Prompts to fit an editor on.

    held_out     share of the occupations, of the templates, and of the words of `definitional_pairs` that it never sees
    seed         of the choice of what is held out
    own          the user's prompts instead of the package's occupations; all their words and templates are fitted
    occupations  rows of the package's table to edit; None for all

    Beside the occupations stand other words for people (`person_pairs`), so that what is changed is said of
    people in general and carries over; beside the definitional words stand others that say their gender.
    """
    jobs = list(occupations) if occupations is not None else list(occupation_table()["occupation"])
    words = split(jobs, templates(), held_out, seed)
    gendered = split(list(definitional_table()["word"]), templates(), held_out, seed)
    forms = sorted(words.templates, key=templates().index)
    each = min(EACH, len(forms))
    if own is None:
        chosen = occupation_pairs("neutral", templates=forms, templates_each=each, occupations=sorted(words.words))
    else:
        chosen = own
    edited = chosen + person_pairs(templates=forms, templates_each=min(PERSONS_EACH, each))
    said = definitional_pairs(templates=forms, templates_each=each)
    preserved = leave_out(said, gendered.held_out_words, ()) + preserved_pairs(templates=forms, templates_each=each)
    return Fitting(edited, preserved, words, gendered)
