"""GAP (Webster et al. 2018, arXiv 1810.05201): Wikipedia texts about a person, and their gender-flipped copies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from locate.errors import LocateError
from locate.evaluation.items import PRONOUNS, SkippedRows
from locate.evaluation.published import bad_row
from locate.evaluation.text_files import check_has_rows, check_published, file_of, read_csv

PARTS = ("gap-development.tsv", "gap-test.tsv", "gap-validation.tsv")
FLIPPED = ("gap_flipped.tsv", "gap_flipped.tsv.gz")
COLUMNS = ("ID", "Text", "Pronoun", "URL")


@dataclass(frozen=True)
class FlippedText:
    """A text, and its copy with gendered words and first names of the other gender (Bartl et al. 2020).

    name      its ID, "development-1"
    line      its line in its file of GAP
    original  as in Wikipedia
    flipped   the copy
    gender    of the original's marked pronoun: +1 female, -1 male
    page      its Wikipedia page; what intervals resample
    """

    name: str
    line: int
    original: str
    flipped: str
    gender: int
    page: str


def gap_files(folder: str | Path) -> tuple[tuple[Path, ...], Path]:
    """The files of GAP that a folder holds, and the file of flipped copies.

    Raises LocateError where either is missing.
    """
    folder = Path(folder)
    found = tuple(folder / name for name in PARTS if (folder / name).is_file())
    if not found:
        raise LocateError(f"no file of GAP in {folder}: expected {', '.join(PARTS)}, or some of them")
    return found, file_of(folder, FLIPPED)


def read_gap(folder: str | Path, *, published: bool = True) -> tuple[tuple[FlippedText, ...], tuple[SkippedRows, ...]]:
    """The texts of every file of GAP that is there, in order, 4,454 as published; and those without a flipped copy.

    folder     that holds gap-development.tsv and so on, and gap_flipped.tsv, plain or gzipped
    published  whether they must be the published ones, byte by byte once unpacked

    Raises LocateError for a missing or changed file, and names a malformed line.
    """
    paths, flipped_path = gap_files(folder)
    for path in (*paths, flipped_path) if published else ():
        check_published(path)
    flipped = {row["ID"]: row["Text"] for _, row in read_csv(flipped_path, COLUMNS[:2], tabs=True)}
    found: list[FlippedText] = []
    skipped: list[SkippedRows] = []
    for path in paths:
        alone = []
        for number, row in read_csv(path, COLUMNS, tabs=True):
            text, other = row["Text"].strip(), flipped.get(row["ID"], "").strip()
            if not text or row["Pronoun"].lower() not in PRONOUNS or text == other:
                raise bad_row(
                    path,
                    number,
                    "\t".join(row.values()),
                    "a text, she or he in one of their forms, and a copy that differs",
                )
            if other:
                gender = PRONOUNS[row["Pronoun"].lower()]
                found.append(FlippedText(row["ID"], number, text, other, gender, row["URL"]))
            else:
                alone.append(number)
        if alone:
            skipped.append(SkippedRows(tuple(alone), f"no flipped copy of a text of {path.name}"))
    check_has_rows(Path(folder), found)
    return tuple(found), tuple(skipped)
