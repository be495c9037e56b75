"""Preference data: a prompt, the less biased continuation and the more biased one; every bad row named by its line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.training.rows import (
    HELD_OUT,
    SPLITS,
    TRAIN,
    Cells,
    LeftOut,
    Numbered,
    drawn_apart,
    found_file,
    has_words,
    is_writable,
    label_of,
    left_out_counts,
    note_on,
    numbered_rows,
)

TEXTS = ("prompt", "chosen", "rejected")
COMPLETION = "completion"  # the chosen text, as sets without a rejected one call it
LABELS = ("topic", "form", "group", "split")
FEWEST = 4  # held-out rows that guards can be measured on
OPENING = "([{\u201c\u2018/-\u2014"  # no space follows these
UNSPACED = "\u2e80"  # Chinese and Japanese, which put no spaces between words, begin here


@dataclass(frozen=True)
class Preference:
    """One row.

    chosen, rejected  continuations of the prompt, each with the white space that it begins with; rejected is "" in
                      data that has only one
    group             what a split keeps together and intervals resample; the prompt where the data names none
    line              of the file
    even              whether DPO's reference is taken to find both continuations as likely
    """

    prompt: str
    chosen: str
    rejected: str
    group: str
    line: int
    topic: str = ""
    form: str = ""
    split: str = ""
    even: bool = False


@dataclass(frozen=True)
class Preferences:
    """Rows to train on and rows held out, with what was left out.

    joined  in how many rows a space was put between prompt and continuation
    source  sha256 by file name
    """

    train: tuple[Preference, ...]
    held_out: tuple[Preference, ...]
    left_out: tuple[LeftOut, ...]
    joined: int
    source: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Counts, reasons and lines, for a receipt."""
        return {
            "source": self.source,
            "train": len(self.train),
            "held_out": len(self.held_out),
            "joined with a space": self.joined,
        } | left_out_counts(self.left_out)

    def without(self, unusable: Callable[[Preference], str | None]) -> Preferences:
        """The same without rows that a reason is given against.

        Raises LocateError where too few are left.
        """
        parts: dict[str, list[Preference]] = {"train": [], "held_out": []}
        gone = list(self.left_out)
        for name, rows in parts.items():
            for row in getattr(self, name):
                reason = unusable(row)
                if reason is None:
                    rows.append(row)
                else:
                    gone.append(LeftOut(row.line, reason))
        kept = replace(self, train=tuple(parts["train"]), held_out=tuple(parts["held_out"]), left_out=tuple(gone))
        check_enough(kept, ", ".join(self.source))
        return kept


def read_preferences(
    source: str | Path | None = None, *, held_out: float = 0.15, seed: int = 0, rejected: bool = True
) -> Preferences:
    """Rows of the package's own set, of a file, or of a data set of the hub.

    source    None for the package's set; a CSV or JSON Lines file, plain or gzipped; or OWNER/NAME:CONFIGURATION:SPLIT
              of the hub. Columns: prompt, chosen, rejected (as ahmedallam/BiasDPO has them), or prompt and completion;
              group, topic, form and split ("train", "held_out") may stand beside
    held_out  share of the groups that are held out where the data has no column `split`
    seed      of that choice
    rejected  whether a rejected text is needed, as it is for DPO; where it is not, one that is there is looked at only

    A row is left out, and named by its line, where a text is missing, empty or not text, where chosen and rejected are
    the same, where it repeats or contradicts another row, or where its split has no such name. A space is put between
    prompt and continuation where neither has one.

    Raises LocateError for a file or column that is missing, and where fewer than 4 rows could be held out.
    """
    if not 0 < held_out < 1:
        raise LocateError(f"held_out {held_out}: expected a share between 0 and 1")
    with found_file(own_set() if source is None else source) as (path, hashes):
        return read_rows(path, hashes, held_out, seed, rejected)


def own_set() -> Path:
    """The package's own preference set."""
    return Path(str(files("locate"))) / "editors" / "tables" / "preferences.csv"


def read_rows(path: Path, hashes: dict[str, str], held_out: float, seed: int, rejected: bool) -> Preferences:
    """The rows of a file, checked one by one."""
    used: list[Preference] = []
    gone: list[LeftOut] = []
    seen: dict[tuple[str, str, str], int] = {}
    joined = 0
    for line, cells in preference_rows(path, rejected):
        found = preference_of(line, cells, rejected)
        reason = found if isinstance(found, str) else repeated(found, seen)
        if reason is not None:
            gone.append(LeftOut(line, reason))
            continue
        assert isinstance(found, Preference)
        seen[key_of(found)] = line
        spaced = with_space(found)
        joined += spaced != found
        used.append(spaced)
    train, apart = divide(used, held_out, seed)
    made = Preferences(tuple(train), tuple(apart), tuple(gone), joined, hashes)
    check_enough(made, str(path))
    return made


def check_enough(rows: Preferences, where: str) -> None:
    """Raise LocateError where there is nothing to train on, or too little to guard it by."""
    if not rows.train or len(rows.held_out) < FEWEST:
        told = note_on(rows.as_json())
        raise LocateError(
            f"{where} has {len(rows.train)} usable rows to train on and {len(rows.held_out)} held out: expected at "
            f"least 1 and {FEWEST}{'' if told is None else f'; {told}'}"
        )


def preference_rows(path: Path, rejected: bool) -> list[Numbered]:
    """(line, cells by column) of a file; for what is no such row, why not.

    Raises LocateError where no row has the columns that are needed.
    """
    rows, columns = numbered_rows(path)
    if COMPLETION in columns and "chosen" not in columns:
        columns.add("chosen")
    missing = [column for column in TEXTS[: 3 if rejected else 2] if column not in columns]
    if missing:
        raise LocateError(
            f"{path} lacks the columns {', '.join(missing)}: found {', '.join(sorted(columns)) or 'none'}; expected "
            f"{', '.join(TEXTS) if rejected else 'prompt and chosen, or prompt and completion'}"
        )
    return rows


def preference_of(line: int, cells: Cells | str, rejected: bool) -> Preference | str:
    """The row, or why it cannot be used."""
    if isinstance(cells, str):
        return cells
    texts = {name: cells.get(name) for name in TEXTS}
    if texts["chosen"] is None:
        texts["chosen"] = cells.get(COMPLETION)
    if not rejected:
        texts["rejected"] = other_text(texts["rejected"], texts["chosen"])
    for name, text in texts.items():
        needed = rejected or name != "rejected"
        if not isinstance(text, str):
            return f"{name} is missing" if text is None else f"{name} is not text"
        if needed and not has_words(text):
            return f"{name} is empty"
        if not is_writable(text):
            return f"{name} has broken characters"
    prompt, chosen, other = (str(texts[name]) for name in TEXTS)
    if chosen.split() == other.split():
        return "chosen and rejected are the same"
    labels = {name: label_of(cells, name) for name in LABELS}
    if labels["split"].lower() not in SPLITS:
        return f"split {labels['split']!r} is neither {TRAIN} nor {HELD_OUT}"
    if not is_writable("".join(labels.values())):
        return "a label has broken characters"
    split = SPLITS[labels["split"].lower()]
    return Preference(
        prompt, chosen, other, labels["group"] or prompt.strip(), line, labels["topic"], labels["form"], split
    )


def other_text(text: Any, chosen: Any) -> str:
    """A rejected text that no training needs, where it can be looked at; "" where it cannot."""
    usable = isinstance(text, str) and has_words(text) and is_writable(text)
    return text if usable and text.split() != str(chosen).split() else ""


def key_of(row: Preference) -> tuple[str, str, str]:
    """A row's texts without the white space around words, to find it again."""
    prompt, chosen, rejected = (" ".join(text.split()) for text in (row.prompt, row.chosen, row.rejected))
    return prompt, chosen, rejected


def repeated(row: Preference, seen: dict[tuple[str, str, str], int]) -> str | None:
    """Whether a row says what an earlier one says, or the opposite."""
    prompt, chosen, rejected = key_of(row)
    if (prompt, chosen, rejected) in seen:
        return f"repeats line {seen[prompt, chosen, rejected]}"
    if rejected and (prompt, rejected, chosen) in seen:
        return f"contradicts line {seen[prompt, rejected, chosen]}"
    return None


def with_space(row: Preference) -> Preference:
    """The row with one space between prompt and continuations, where either has one or words would run together."""
    texts = [text for text in (row.chosen, row.rejected) if text]
    spaced = [text[:1].isspace() for text in texts]
    if row.prompt[-1:].isspace() and not any(spaced):
        return row
    if any(spaced) or (row.prompt[-1] not in OPENING and all(begins_with_a_word(text) for text in texts)):
        chosen, rejected = (
            f" {text}" if text and not text[0].isspace() else text for text in (row.chosen, row.rejected)
        )
        return replace(row, prompt=row.prompt.rstrip(), chosen=chosen, rejected=rejected)
    return row


def begins_with_a_word(text: str) -> bool:
    """Whether a text begins with a letter or digit of a script that puts spaces between words, or with a quotation."""
    return (text[0].isalnum() and text[0] < UNSPACED) or text[0] in "\"'\u201c\u2018("


def divide(rows: Sequence[Preference], share: float, seed: int) -> tuple[list[Preference], list[Preference]]:
    """Rows to train on and rows held out: as the data says, or whole groups of those that say nothing."""
    apart = drawn_apart([row.group for row in rows if not row.split], share, seed)
    held = [row for row in rows if row.split == HELD_OUT or (not row.split and row.group in apart)]
    gone = {row.line for row in held}
    return [row for row in rows if row.line not in gone], held
