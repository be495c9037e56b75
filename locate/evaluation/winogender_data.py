"""Winogender schemas (Rudinger et al. 2018, arXiv 1804.09301): an occupation, a participant, a pronoun for one."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.items import Continuations, Schema, SkippedRows
from locate.evaluation.published import bad_row, read_share, read_table
from locate.sites import check

PERSONS = {"0": "occupation", "1": "participant"}
GENDERS = ("male", "female", "neutral")
STATS = {"bls": "share_women", "bergsma": "share_women_text"}
SLOT = re.compile(r"\$(NOM|POSS|ACC)_PRONOUN")
FORMS = {"NOM": ("she", "he"), "POSS": ("her", "his"), "ACC": ("her", "him")}
TEMPLATE_COLUMNS = ("occupation(0)", "other-participant(1)", "answer", "sentence")
STRUCTURE = "winogender_templates_structurefilter.tsv"


def winogender_occupations(folder: str | Path, *, published: bool = True) -> pd.DataFrame:
    """The 60 occupations: occupation, share_women (percent, US labour statistics), year, share_women_text (in text).

    folder     that holds occupations-stats.tsv
    published  whether it must be the published one, byte by byte

    share_women_text is Bergsma and Lin's (2006), from how often each gender is mentioned with the word.

    Raises LocateError for a missing, changed or malformed file.
    """
    name = "occupations-stats.tsv"
    path = Path(folder) / name
    columns = ("occupation", "bergsma_pct_female", "bls_pct_female", "bls_year")
    rows = []
    for number, (occupation, bergsma, bls, year) in read_table(folder, name, columns, published):
        if not year.isdigit():
            raise bad_row(path, number, year, "a year")
        rows.append((occupation, read_share(path, number, bls), int(year), read_share(path, number, bergsma)))
    return pd.DataFrame(rows, columns=["occupation", "share_women", "year", "share_women_text"])


def read_winogender(folder: str | Path, *, published: bool = True) -> tuple[Schema, ...]:
    """The sentences, each with its three pronouns: 240 as published, from all_sentences.tsv.

    Raises LocateError for a missing or changed file, and names a malformed line or a sentence that lacks a pronoun.
    """
    name = "all_sentences.tsv"
    path = Path(folder) / name
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    for number, (key, sentence) in read_table(folder, name, ("sentid", "sentence"), published):
        parts = key.split(".")
        if len(parts) != 5 or parts[2] not in PERSONS or parts[3] not in GENDERS:
            raise bad_row(path, number, key, "occupation.participant.0 or 1.gender.txt")
        texts = found.setdefault((parts[0], parts[1], PERSONS[parts[2]]), {})
        if parts[3] in texts:
            raise bad_row(path, number, key, "each sentence once")
        texts[parts[3]] = sentence
    for (occupation, participant, person), texts in found.items():
        if set(texts) != set(GENDERS):
            raise LocateError(
                f"{path}: {occupation}.{participant} about the {person} has {', '.join(texts)}: expected "
                f"{', '.join(GENDERS)}"
            )
    return tuple(Schema(*key, texts["female"], texts["male"], texts["neutral"]) for key, texts in found.items())


def winogender_continuations(
    templates: str | Path, stats: str | Path, stat: str = "bls", *, published: bool = True
) -> tuple[tuple[Continuations, ...], tuple[SkippedRows, ...]]:
    """Prompts up to the pronoun with the two continuations, as Vig et al. 2020 form them: 44.

    templates  folder that holds winogender_templates_structurefilter.tsv, their choice of templates whose two sentences
               begin alike
    stats      folder that holds occupations-stats.tsv
    stat       "bls" (US labour statistics) or "bergsma" (text): an occupation of more than 50 % women is of female
               stereotype, its participant of male, and the other way round

    Returns the examples, and the twos that make none with the reason.

    Raises LocateError for a missing, changed or malformed file.
    """
    check("stat", stat, tuple(STATS))
    table = winogender_occupations(stats, published=published)
    shares = dict(zip(table["occupation"], table[STATS[stat]], strict=True))
    path = Path(templates) / STRUCTURE
    rows = read_table(templates, STRUCTURE, TEMPLATE_COLUMNS, published)
    if len(rows) % 2:
        raise LocateError(f"{path} has {len(rows)} templates: expected an even number")
    examples: list[Continuations] = []
    skipped: list[int] = []
    for two in zip(rows[::2], rows[1::2], strict=True):
        for number, cells in two:
            if cells[0] not in shares or cells[2] not in PERSONS or len(SLOT.findall(cells[3])) != 1:
                raise bad_row(path, number, "\t".join(cells), "a known occupation, answer 0 or 1, and one pronoun")
        about = {cells[2]: split(cells) for _, cells in two}
        first, second = (cells for _, cells in two)
        if first[:2] != second[:2] or len(about) != 2 or about["0"][:2] != about["1"][:2]:
            skipped += [number for number, _ in two]
            continue
        examples.append(example_of(first[0], first[1], about["0"], about["1"], shares[first[0]] > 50))
    reason = "not two sentences that begin alike, one about each person"
    return tuple(examples), (SkippedRows(tuple(skipped), reason),) if skipped else ()


def split(cells: list[str]) -> tuple[str, str, str]:
    """A template's words before the pronoun, the pronoun's form, and the words after it."""
    text = cells[3].replace("$OCCUPATION", cells[0]).replace("$PARTICIPANT", cells[1])
    start, form, end = SLOT.split(text)
    return start.strip(), form, end


def example_of(
    occupation: str,
    participant: str,
    of_occupation: tuple[str, str, str],
    of_participant: tuple[str, str, str],
    female: bool,
) -> Continuations:
    """The example of two sentences that begin alike; `female` says whether the occupation is of female stereotype."""
    start, form, _ = of_occupation
    she, he = FORMS[form]
    persons, ends = (occupation, participant), (of_occupation[2], of_participant[2])
    if not female:
        persons, ends = persons[::-1], ends[::-1]
    return Continuations(f"{start} {she}", f"{start} {he}", *ends, *persons, group=occupation)
