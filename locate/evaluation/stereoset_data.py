"""StereoSet (Nadeem et al. 2021, arXiv 2004.09456): a stereotype, its opposite and something unrelated, in context."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.published import bad_row
from locate.evaluation.text_files import check_has_rows, file_of, read_json_lines, read_text

NAMES = ("dev.json", "dev.json.gz", "stereoset_dev.jsonl", "stereoset_dev.jsonl.gz")
TASKS = ("intrasentence", "intersentence")
DOMAINS = ("gender", "profession", "race", "religion")
LABELS = {"stereotype": "stereotype", "anti-stereotype": "anti_stereotype", "unrelated": "unrelated"}
TEXTS = ("context", *LABELS.values())
EXPECTED = (
    f"a task ({' or '.join(TASKS)}), a bias_type ({', '.join(DOMAINS)}), and text for target, context, stereotype, "
    "anti_stereotype and unrelated"
)


@dataclass(frozen=True)
class Association:
    """One item of StereoSet.

    row      its line in a JSON Lines file, or its place in its list of the official file, from 1
    task     "intrasentence": the three are one sentence, filled in three ways; "intersentence": they follow the context
    domain   "gender", "profession", "race" or "religion"
    target   the term whose stereotype it is about; what scores are averaged over and intervals resample
    context  the sentence before (intersentence), or the sentence with BLANK
    """

    row: int
    task: str
    domain: str
    target: str
    context: str
    stereotype: str
    anti_stereotype: str
    unrelated: str


def read_stereoset(path: str | Path) -> tuple[Association, ...]:
    """The items of the development set, in the file's order.

    path  the official dev.json (`data`, with its lists `intersentence` and `intrasentence`), or a JSON Lines file with
          one object a line (task, bias_type, target, context, stereotype, anti_stereotype, unrelated); either may be
          gzipped; or the folder that holds one

    No hash of the official file is known here, so none is compared: every row is checked.

    Raises LocateError for a missing file or another layout, and names the first malformed row.
    """
    path = file_of(path, NAMES)
    lines = path.name.removesuffix(".gz").endswith(".jsonl")
    rows = read_json_lines(path) if lines else official_rows(path)
    found = tuple(association(path, number, row) for number, row in rows)
    check_has_rows(path, found)
    return found


def official_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """The items of the official layout as flat rows.

    Raises LocateError for another layout, and names an item without one sentence of each label.
    """
    try:
        data = json.loads(read_text(path))["data"]
        lists = {task: data[task] for task in TASKS}
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, LocateError):
            raise
        raise LocateError(
            f"{path} is not StereoSet's dev.json ({type(error).__name__}: {error}): expected data with "
            f"{' and '.join(TASKS)}, or a file .jsonl"
        ) from None
    for task, items in lists.items():
        for number, item in enumerate(items, start=1):
            try:
                texts = {LABELS[each["gold_label"]]: each["sentence"] for each in item["sentences"]}
                right = len(texts) == len(item["sentences"]) == len(LABELS)
            except (KeyError, TypeError):
                right = False
            if not right:
                raise LocateError(f"{path}, {task} item {number}: expected one sentence each of {', '.join(LABELS)}")
            yield number, {name: item.get(name) for name in ("bias_type", "target", "context")} | texts | {"task": task}


def association(path: Path, number: int, row: Any) -> Association:
    """The item that a row describes.

    Raises LocateError naming a malformed row.
    """
    if isinstance(row, dict):
        given = {name: row.get(name) for name in ("target", *TEXTS)}
        texts = {name: text for name, text in given.items() if isinstance(text, str) and text.strip()}
        if len(texts) == len(given) and row.get("task") in TASKS and row.get("bias_type") in DOMAINS:
            return Association(row=number, task=row["task"], domain=row["bias_type"], **texts)
    raise bad_row(path, number, str(row), EXPECTED)
