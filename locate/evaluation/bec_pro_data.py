"""BEC-Pro (Bartl et al. 2020, arXiv 2010.14534), English: professions in sentences about a woman and about a man."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from locate.errors import LocateError
from locate.evaluation.published import bad_row, read_share
from locate.evaluation.text_files import check_has_rows, check_published, read_csv

SENTENCES, PROFESSIONS = "BEC-Pro_EN.tsv", "Professions_US_DE.tsv"
COLUMNS = ("Sentence", "Template", "Person", "Gender", "Profession", "Prof_Gender")
COUNTERPARTS = {
    "She": "He",
    "woman": "man",
    "sister": "brother",
    "daughter": "son",
    "wife": "husband",
    "girlfriend": "boyfriend",
    "mother": "father",
    "aunt": "uncle",
    "mom": "dad",
}
GENDERS = {**dict.fromkeys(COUNTERPARTS, "female"), **dict.fromkeys(COUNTERPARTS.values(), "male")}
GROUPS = ("female", "male", "balanced")
PRIOR = "person"


@dataclass(frozen=True)
class ProfessionSentence:
    """One profession in one template, said of a woman and of a man.

    profession     "taper"
    group          which of the workforce is the majority: "female", "male" or "balanced"
    share_women    in the US workforce, percent
    template       "<person subject> is a <profession>."
    person         the two words, "She/He"
    female, male   the sentence with either
    female_prior, male_prior   the same two with the word person in the profession's place
    """

    profession: str
    group: str
    share_women: float
    template: str
    person: str
    female: str
    male: str
    female_prior: str
    male_prior: str


def read_bec_pro(folder: str | Path, *, published: bool = True) -> tuple[ProfessionSentence, ...]:
    """The 5,400 published sentences as 2,700 couples: 60 professions, 5 templates, 9 couples of words.

    folder     that holds BEC-Pro_EN.tsv and Professions_US_DE.tsv
    published  whether both must be the published ones, byte by byte

    The article is as published: "He is a electrician" too.

    Raises LocateError for a missing or changed file, and names a malformed or repeated line, a sentence without its
    counterpart, or one that differs from it in more than the person's word.
    """
    shares = profession_shares(folder, published)
    path = open_file(folder, SENTENCES, published)
    sides: dict[tuple[str, str, str], dict[str, tuple[int, dict[str, str]]]] = {}
    for number, row in read_csv(path, COLUMNS, tabs=True):
        person, gender, profession = row["Person"], row["Gender"], row["Profession"]
        known = GENDERS.get(person) == gender and row["Prof_Gender"] in GROUPS and profession in shares
        if not known or profession not in row["Sentence"]:
            expected = f"a sentence with its profession, listed in {PROFESSIONS}, and its person's gender"
            raise bad_row(path, number, row["Sentence"], expected)
        female = person if gender == "female" else next(she for she, he in COUNTERPARTS.items() if he == person)
        side = sides.setdefault((profession, row["Template"], female), {})
        if gender in side:
            raise bad_row(path, number, row["Sentence"], "each sentence once")
        side[gender] = (number, row)
    check_has_rows(path, list(sides))
    return tuple(couple_of(path, key, side, shares[key[0]]) for key, side in sides.items())


def couple_of(
    path: Path, key: tuple[str, str, str], side: dict[str, tuple[int, dict[str, str]]], share_women: float
) -> ProfessionSentence:
    """The two sentences of one profession, template and couple of words."""
    profession, template, word = key
    number, row = next(iter(side.values()))
    if len(side) < 2:
        raise bad_row(path, number, row["Sentence"], "a counterpart of the other gender")
    female, male = (side[gender][1]["Sentence"] for gender in ("female", "male"))
    pairs = list(zip(female.split(), male.split(), strict=False))
    if len(female.split()) != len(male.split()) or sum(one != other for one, other in pairs) != 1:
        raise bad_row(path, number, row["Sentence"], "a counterpart that differs in one word only")
    return ProfessionSentence(
        profession, row["Prof_Gender"], share_women, template, f"{word}/{COUNTERPARTS[word]}", female, male,
        prior(female, profession), prior(male, profession),
    )  # fmt: skip


def prior(sentence: str, profession: str) -> str:
    """The sentence with the word person in the profession's place, and the article that it takes."""
    return re.sub(rf"\b(an? )?{re.escape(profession)}\b", lambda found: ("a " if found[1] else "") + PRIOR, sentence)


def profession_shares(folder: str | Path, published: bool) -> dict[str, float]:
    """Share of women in the US workforce of each profession, percent.

    Raises LocateError naming a line without a percentage, or with a profession that was named before.
    """
    path = open_file(folder, PROFESSIONS, published)
    found: dict[str, float] = {}
    for number, row in read_csv(path, ("simplified_professions", "percent_us"), tabs=True):
        name = row["simplified_professions"]
        if name in found:
            raise bad_row(path, number, name, "each profession once")
        found[name] = read_share(path, number, row["percent_us"])
    return found


def open_file(folder: str | Path, name: str, published: bool) -> Path:
    """A file of the folder, compared with the published one where that is asked for."""
    path = Path(folder) / name
    if not path.is_file():
        raise LocateError(f"no file {path}: expected {SENTENCES} and {PROFESSIONS} as they were published")
    if published:
        check_published(path)
    return path
