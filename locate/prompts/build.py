"""The project's own prompts: occupations, definitional gender words, templates, and the pairs made of them."""

import re
from collections.abc import Sequence
from importlib.resources import files

import pandas as pd

from locate.errors import LocateError
from locate.prompts.pair import NEUTRAL, Dropped, Pair, Prompts

SLOT = "{subject}"
SWAPS = ("opposite", "anti", "same", "neutral", "someone")
GENDERED = {1: "woman", -1: "man"}
UNGENDERED = {"neutral": "person", "someone": "someone"}
ARTICLES = ("The ", "the ", "A ", "a ", "An ", "an ")
DEFAULT_TEMPLATES_EACH = 4


def table(name: str) -> pd.DataFrame:
    """One of the package's tables, by name."""
    with files("locate").joinpath("prompts", "tables", f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def occupation_table() -> pd.DataFrame:
    """Occupations: share_women (percent of the US workforce in it), year, source (see sources.csv), stereotype.

    The stereotype is the sign of the workforce's majority: +1 from 55 % women up, -1 from 45 % down, 0 between.
    """
    return table("occupations")


def definitional_table() -> pd.DataFrame:
    """Words that say their gender (+1 female, -1 male), each with its counterpart of the other gender."""
    return table("definitional")


def templates() -> list[str]:
    """The package's templates, each with the slot {subject}."""
    return list(table("templates")["template"])


def forms() -> list[str]:
    """Further forms, each with the slot {subject}: phrases before the subject, other verbs, longer ways to a pronoun.

    Editors are fitted on them beside the templates, so that what they change is not said in templates alone; traces and
    the tests of `evaluate` do not use them.
    """
    return list(table("forms")["form"])


def check_template(template: str) -> str:
    """The template itself.

    Raises LocateError unless it holds the slot exactly once.
    """
    if template.count(SLOT) != 1:
        raise LocateError(f"template {template!r} holds the slot {SLOT} {template.count(SLOT)} times: expected once")
    return template


def choose_templates(own: Sequence[str] | None, each: int | None) -> tuple[list[str], int | None]:
    """The templates to fill and how many of them each word meets: 4 of the package's, or all of the caller's."""
    if own is None:
        return templates(), DEFAULT_TEMPLATES_EACH if each is None else each
    return [check_template(form) for form in own], each


def spread_templates(words: int, chosen: Sequence[str], each: int | None) -> list[tuple[int, str]]:
    """(word index, template) so that every word meets `each` templates and templates are used about equally often.

    All words come once before any comes twice: the first pairs of the list already span many words.
    """
    count = len(chosen)
    if each is None:
        each = count
    if not 1 <= each <= count:
        raise LocateError(f"{each} templates for each word: expected 1 to {count}")
    stride = max(1, count // each)
    return [(word, chosen[(word + turn * stride) % count]) for turn in range(each) for word in range(words)]


def occupation_pairs(
    swap: str = "opposite",
    *,
    templates_each: int | None = None,
    templates: Sequence[str] | None = None,
    occupations: Sequence[str] | None = None,
    neutral: str | None = NEUTRAL,
) -> Prompts:
    """Pairs whose clean prompt is about an occupation.

    swap  what stands in its place in the corrupted prompt:
          "opposite"  an occupation of the opposite stereotype, the strongest with the strongest: how the stereotype of
                      an occupation travels
          "anti"      woman for a male-stereotyped occupation, man for a female-stereotyped one: the anti-stereotypical
                      set-gender of Vig et al. 2020, section 3.1. Much of its effect is the gender of the words man and
                      woman themselves, not the occupation's stereotype
          "same"      man for a male-stereotyped one, woman for a female-stereotyped one: what the aggregation released
                      with that paper does
          "neutral"   the word person
          "someone"   the word someone; here the subject is the occupation and the article before it
    templates_each  templates for each occupation, spread evenly; None for 4 of the package's or all of the caller's
    templates       templates of the caller with the slot {subject}; None for the package's
    occupations     rows of the package's table by name; None for all

    Occupations without a stereotype have no gendered swap: they are listed in `skipped`, except under "neutral" and
    "someone".

    Raises LocateError for an unknown swap or occupation, or a template without a slot.
    """
    if swap not in SWAPS:
        raise LocateError(f"swap {swap!r}: expected one of {', '.join(SWAPS)}")
    rows = choose_occupations(occupations)
    forms, each = choose_templates(templates, templates_each)
    partners = opposite_partners(occupation_table()) if swap == "opposite" else {}
    pairs, skipped = [], []
    for index, form in spread_templates(len(rows), forms, each):
        name, sign = str(rows["occupation"].iloc[index]), int(rows["stereotype"].iloc[index])
        if sign == 0 and swap not in UNGENDERED:
            skipped.append(Dropped(name, form, f"no stereotype, so no {swap!r} swap"))
            continue
        gendered = {"anti": GENDERED.get(-sign), "same": GENDERED.get(sign), "opposite": partners.get(name)}
        other = str((gendered | UNGENDERED)[swap])
        pairs.append(fill_template(form, name, other, name, "occupation", sign, neutral))
    return Prompts(tuple(pairs), tuple(skipped))


def definitional_pairs(
    *,
    templates_each: int | None = None,
    templates: Sequence[str] | None = None,
    neutral: str | None = NEUTRAL,
) -> Prompts:
    """Pairs whose clean prompt is about a word that says its gender, corrupted with its counterpart."""
    return worded_pairs("definitional", templates_each, templates, neutral)


def preserved_pairs(
    *,
    templates_each: int | None = None,
    templates: Sequence[str] | None = None,
    neutral: str | None = NEUTRAL,
) -> Prompts:
    """Pairs about further words that say their gender, which edits must preserve; none is in `definitional_pairs`."""
    return worded_pairs("gendered", templates_each, templates, neutral)


def neutral_pairs(
    *,
    templates_each: int | None = None,
    templates: Sequence[str] | None = None,
    neutral: str | None = NEUTRAL,
) -> Prompts:
    """Pairs whose clean prompt is about a word that says no gender, corrupted with the word person: a control."""
    return worded_pairs("neutral", templates_each, templates, neutral)


def person_pairs(
    *,
    templates_each: int | None = None,
    templates: Sequence[str] | None = None,
    neutral: str | None = NEUTRAL,
) -> Prompts:
    """Pairs about further words for people that say no gender: none is in `occupation_table` or a control.

    Editors are fitted on them as well as on occupations, so that they change what the model says of people in general.
    """
    return worded_pairs("persons", templates_each, templates, neutral)


def worded_pairs(name: str, each: int | None, own: Sequence[str] | None, neutral: str | None) -> Prompts:
    """Pairs about the words of a table, each corrupted with its counterpart and signed by its gender if it has one."""
    rows = table(name)
    forms, each = choose_templates(own, each)
    genders = rows["gender"] if "gender" in rows else pd.Series(0, rows.index)
    words = list(zip(rows["word"], rows["counterpart"], map(int, genders), strict=True))
    pairs = []
    for index, form in spread_templates(len(rows), forms, each):
        word, other, gender = words[index]
        pairs.append(fill_template(form, word, other, word, "definition" if gender else "neutral", gender, neutral))
    return Prompts(tuple(pairs))


def fill_template(form: str, clean: str, corrupted: str, group: str, kind: str, sign: int, neutral: str | None) -> Pair:
    """The pair that a template makes of two subjects; "a" or "an" fits each word, and is part of both subjects where
    it differs."""
    clean_form, corrupted_form = fit_article(form, clean), fit_article(form, corrupted)
    article, other = article_of(clean_form), article_of(corrupted_form)
    if corrupted == UNGENDERED["someone"]:
        corrupted_form, other = form.replace(article_of(form) + SLOT, SLOT), ""
        corrupted = corrupted.capitalize() if corrupted_form.startswith(SLOT) else corrupted
    elif article == other:
        article = other = ""
    return Pair(
        clean=clean_form.replace(SLOT, clean),
        corrupted=corrupted_form.replace(SLOT, corrupted),
        clean_subject=article + clean,
        corrupted_subject=other + corrupted,
        group=group,
        template=form,
        kind=kind,
        stereotype=sign,
        neutral=neutral,
    )


def fit_article(form: str, word: str) -> str:
    """The template with "a" or "an" before its slot, whichever the word needs."""
    article, an = article_of(form), needs_an(word)
    if article.casefold() not in ("a ", "an ") or an is None:
        return form
    right = article[0] + ("n " if an else " ")
    return form.replace(article + SLOT, right + SLOT)


def needs_an(word: str) -> bool | None:
    """Whether English puts "an" before a word; None where its letters do not tell, as in abbreviations."""
    if not word[:1].isalpha() or not word[:1].isascii() or word[:2].isupper() or word[1:2] == "-":
        return None
    small = word.casefold()
    if re.match(r"hour|honest|hono|heir", small):
        return True
    return small[0] in "aeiou" and not re.match(r"uni(?!n|m)|u[st][aeiuy]|eu|ewe|one\b|once\b|ur[aeio]|ubi|uk", small)


def article_of(form: str) -> str:
    """The article before the slot of a template, with its space; "" where there is none."""
    before = form.split(SLOT)[0]
    return next((each for each in ARTICLES if before == each or before.endswith(f" {each}")), "")


def choose_occupations(names: Sequence[str] | None) -> pd.DataFrame:
    """Rows of the occupation table, all or by name.

    Raises LocateError for a name that is not in it.
    """
    rows = occupation_table()
    if names is None:
        return rows
    unknown = [name for name in names if name not in set(rows["occupation"])]
    if unknown:
        raise LocateError(
            f"occupations {unknown} are not in the table: see `locate-bias prompts --list`, or give pairs in a file"
        )
    return rows.set_index("occupation").loc[list(names)].reset_index()


def opposite_partners(rows: pd.DataFrame) -> dict[str, str]:
    """For each occupation one of the opposite stereotype, matched by rank of share; the shorter list is reused."""
    female = (
        rows[rows["stereotype"] > 0].sort_values("share_women", ascending=False, kind="stable")["occupation"].tolist()
    )
    male = rows[rows["stereotype"] < 0].sort_values("share_women", kind="stable")["occupation"].tolist()
    partners = {name: male[rank % len(male)] for rank, name in enumerate(female)}
    return partners | {name: female[rank % len(female)] for rank, name in enumerate(male)}
