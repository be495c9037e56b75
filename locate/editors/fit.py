"""The package's prompts for an edit: words and templates to fit on, and those held out to judge it by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from locate.editors.split import Split, leave_out, split
from locate.prompts import Prompts, definitional_pairs, occupation_pairs, person_pairs, preserved_pairs, templates
from locate.prompts.build import definitional_table, forms, occupation_table

EACH, PERSONS_EACH = 3, 1  # templates for each occupation and preserved word; for each other word for people
FORMS_EACH = 2  # further forms for every word


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
    people in general and carries over; beside the definitional words stand others that say their gender. Every word
    stands in templates and in further forms (`locate.prompts.build.forms`).
    """
    every = list(occupations) if occupations is not None else list(occupation_table()["occupation"])
    words = split(every, templates(), held_out, seed)
    gendered = split(list(definitional_table()["word"]), templates(), held_out, seed)
    fitted = sorted(words.templates, key=templates().index)
    each = min(EACH, len(fitted))
    names = sorted(words.words)
    jobs = both(lambda **how: occupation_pairs("neutral", occupations=names, **how), fitted, each)
    edited = (jobs if own is None else own) + both(person_pairs, fitted, min(PERSONS_EACH, each))
    said = leave_out(both(definitional_pairs, fitted, each), gendered.held_out_words, ())
    return Fitting(edited, said + both(preserved_pairs, fitted, each), words, gendered)


def both(pairs: Callable[..., Prompts], templates: Sequence[str], each: int) -> Prompts:
    """Pairs in so many of the templates for each word, and in `FORMS_EACH` of the further forms."""
    return pairs(templates=templates, templates_each=each) + pairs(templates=forms(), templates_each=FORMS_EACH)
