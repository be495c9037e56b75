"""CrowS-Pairs (Nangia et al. 2020, arXiv 2010.00133): two sentences, of which one stereotypes more than the other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locate.evaluation.published import bad_row
from locate.evaluation.text_files import check_has_rows, check_published, file_of, read_csv

NAMES = ("crows_pairs_anonymized.csv", "crows_pairs_anonymized.csv.gz", "crows_pairs.csv", "crows_pairs.csv.gz")
REQUIRED = ("sent_more", "sent_less", "stereo_antistereo", "bias_type")
DIRECTIONS = ("stereo", "antistereo")


@dataclass(frozen=True)
class CrowsPair:
    """One pair.

    line         its line in the file
    more, less   the sentence that stereotypes more, and the one that differs from it in the group it is about
    direction    "stereo": the pair shows a stereotype of a disadvantaged group; "antistereo": it goes against one
    domain       its bias_type: "gender", "race-color", ...
    writer       who wrote it, "" where the file does not say
    """

    line: int
    more: str
    less: str
    direction: str
    domain: str
    writer: str


def read_crows_pairs(path: str | Path, *, published: bool = True) -> tuple[CrowsPair, ...]:
    """The pairs, 1,508 as published, in the file's order.

    path       crows_pairs_anonymized.csv, plain or gzipped, or the folder that holds it
    published  whether it must be the published one, byte by byte once unpacked

    Raises LocateError for a missing or changed file or column, and names the first malformed row by its line.
    """
    path = file_of(path, NAMES)
    if published:
        check_published(path)
    found = []
    for number, row in read_csv(path, REQUIRED):
        filled = all(row[name].strip() for name in REQUIRED)
        if not filled or row["stereo_antistereo"] not in DIRECTIONS or row["sent_more"] == row["sent_less"]:
            raise bad_row(path, number, str(row), "two different sentences, stereo or antistereo, and a bias_type")
        more, less, direction, domain = (row[name] for name in REQUIRED)
        found.append(CrowsPair(number, more, less, direction, domain, row.get("anon_writer", "")))
    check_has_rows(path, found)
    return tuple(found)
