"""Pairs of prompts made of WinoBias and Winogender sentences, as a file that `locate.read_pairs` reads.

A sentence is cut before the first pronoun that refers to its occupation, which must be *she* or *he*. In the corrupted
prompt an occupation of the opposite stereotype stands in its place, matched by the share of women as in the package.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

import locate
from locate.evaluation.readers import read_winobias, read_winogender, winobias_occupations, winogender_occupations
from locate.prompts import Prompts
from locate.prompts.build import opposite_partners

FEMALE_FROM, MALE_TO = 55, 45
"""percent of women, as in the package's own table"""
ANSWERS = ("she", "he")

Cut = tuple[str, str]
"""the words before the pronoun, and the occupation that it refers to"""


def winobias_cuts(folder: Path) -> Iterator[Cut]:
    """Beginnings of WinoBias sentences, both types and both splits."""
    for kind in ("type1", "type2"):
        for split in ("dev", "test"):
            for pair in read_winobias(folder, kind, split):
                start, word = pair.pro.pronouns[0]
                if word in ANSWERS:
                    yield pair.pro.text[:start].strip(), pair.occupation


def winogender_cuts(folder: Path) -> Iterator[Cut]:
    """Beginnings of Winogender sentences whose pronoun refers to the occupation."""
    for schema in read_winogender(folder):
        words = schema.female.split()
        if schema.refers_to == "occupation" and "she" in words:
            yield " ".join(words[: words.index("she")]), schema.occupation


def signed(shares: pd.DataFrame) -> pd.DataFrame:
    """Occupations with a share of women in percent, and the sign of their stereotype."""
    percent = shares["share_women"]
    return shares.assign(stereotype=np.select([percent >= FEMALE_FROM, percent <= MALE_TO], [1, -1], 0))


def pairs_of(cuts: Iterable[Cut], occupations: pd.DataFrame, each: int, seed: int) -> pd.DataFrame:
    """Rows for `read_pairs`, at most `each` sentences an occupation, drawn at random.

    Sentences are left out that name the occupation not once, or its counterpart too, or have "a" before it: the
    counterpart may need "an".
    """
    signs = dict(zip(occupations["occupation"], occupations["stereotype"], strict=True))
    partners = {name: other.replace("ceo", "CEO") for name, other in opposite_partners(occupations).items()}
    rows = []
    for text, occupation in dict.fromkeys(cuts):
        lower, other = text.lower(), partners.get(occupation, "")
        usable = other and lower.count(occupation) == 1 and other.lower() not in lower
        if not usable or any(f"{article} {occupation}" in lower.split(". ")[-1] for article in ("a", "an")):
            continue
        start = lower.index(occupation)
        subject = text[start : start + len(occupation)]
        corrupted = text[:start] + other + text[start + len(occupation) :]
        rows.append((text, corrupted, subject, other, occupation, signs[occupation], " she", " he"))
    columns = ["clean", "corrupted", "clean_subject", "corrupted_subject", "group", "stereotype", "female", "male"]
    drawn = pd.DataFrame(rows, columns=columns).sample(frac=1.0, random_state=seed)
    return drawn[drawn.groupby("group").cumcount() < each].sort_index()


def sentence_pairs(name: str, data: Path, work: Path, each: int = 2, seed: int = 0) -> Prompts:
    """Pairs of one data set, "winobias" or "winogender", from its folder under `data`; the file is kept in `work`."""
    folder = data / name
    if name == "winobias":
        rows = pairs_of(winobias_cuts(folder), winobias_occupations(folder), each, seed)
    else:
        rows = pairs_of(winogender_cuts(folder), signed(winogender_occupations(folder)), each, seed)
    work.mkdir(parents=True, exist_ok=True)
    path = work / f"{name}.csv"
    rows.to_csv(path, index=False)
    return locate.read_pairs(path)
