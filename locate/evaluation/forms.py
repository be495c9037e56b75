"""Questions of the seven ability tests: read from JSON lines, in the published form or in a shorter one."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.evaluation.published import bad_row
from locate.evaluation.scores import Items
from locate.files import hash_of_files

LETTERS = "ABCDEFGH"
FRAGMENT = re.compile(r"(?<=[.!?\"']) (?=[a-z][^.!?]*$)")  # before an unfinished last sentence in lower case
Fields = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """One document of one of the harness's tasks, with the columns of the published data set."""

    task: str
    fields: Fields


@dataclass(frozen=True)
class Form:
    """How the rows of one test look.

    folder   of the harness's task files
    task     the row's task, by the harness's name
    columns  the published data set's columns that the task reads, and a check of each
    shorter  a row in the shorter form -> the published one
    """

    folder: str
    task: Callable[[Fields], str]
    columns: dict[str, Callable[[Any], bool]]
    shorter: Callable[[Fields], Fields]


def is_filled(value: object) -> bool:
    """Whether it is a text that is not blank."""
    return isinstance(value, str) and bool(value.strip())


def is_one_of(*allowed: object) -> Callable[[Any], bool]:
    """A check for a few values, each of its own type."""
    return lambda value: any(value == each and type(value) is type(each) for each in allowed)


def is_endings(value: object) -> bool:
    """Whether it is four endings, as HellaSwag has them."""
    return isinstance(value, list) and len(value) == 4 and all(is_filled(each) for each in value)


def is_lettered(value: object) -> bool:
    """Whether it is choices with their labels, as ARC has them."""
    if not isinstance(value, dict) or set(value) != {"text", "label"}:
        return False
    texts, labels = value["text"], value["label"]
    return len(texts) == len(labels) >= 2 and all(is_filled(each) for each in [*texts, *labels])


def has_gap(value: object) -> bool:
    """Whether it is a sentence with one gap."""
    return is_filled(value) and str(value).count("_") == 1


def has_words(value: object) -> bool:
    """Whether it is a text of two words or more."""
    return is_filled(value) and len(str(value).split(" ")) > 1


def keep_row(row: Fields) -> Fields:
    """The row itself, for forms that have no shorter one."""
    return row


def split_scene(row: Fields) -> Fields:
    """HellaSwag's `ctx` taken apart: "activity: whole sentences, and the beginning of another".

    The beginning is what follows the last full stop in lower case; the published files hold it as ctx_b, and the
    harness writes it with a capital.
    """
    label, _, rest = str(row["ctx"]).partition(": ")
    whole, *begun = FRAGMENT.split(rest, maxsplit=1)
    parts = {"activity_label": label, "ctx_a": whole, "ctx_b": begun[0] if begun else ""}
    return parts | {"endings": row["endings"], "label": str(row["label"])}


def number_choice(stem: str, row: Fields) -> Fields:
    """A question whose right choice is given by its place."""
    labels = list(LETTERS[: len(row["choices"])])
    return {
        stem: row["question"],
        "choices": {"text": row["choices"], "label": labels},
        "answerKey": labels[row["label"]],
    }


def number_gap(row: Fields) -> Fields:
    """A WinoGrande row whose answer is a number."""
    return row | {"answer": str(row["answer"])}


def single_task(name: str) -> Callable[[Fields], str]:
    """A test that is a single task."""
    return lambda row: name


def choice_form(folder: str, task: str, stem: str) -> Form:
    """The form of ARC and OpenBookQA."""
    columns: dict[str, Callable[[Any], bool]] = {stem: is_filled, "choices": is_lettered, "answerKey": is_filled}
    return Form(folder, single_task(task), columns, lambda row: number_choice(stem, row))


FORMS = {
    "lambada": Form("lambada", single_task("lambada_openai"), {"text": has_words}, keep_row),
    "hellaswag": Form(
        "hellaswag",
        single_task("hellaswag"),
        {
            "activity_label": is_filled,
            "ctx_a": is_filled,
            "ctx_b": lambda value: isinstance(value, str),
            "endings": is_endings,
            "label": is_one_of("0", "1", "2", "3"),
        },
        split_scene,
    ),
    "piqa": Form(
        "piqa",
        single_task("piqa"),
        {"goal": is_filled, "sol1": is_filled, "sol2": is_filled, "label": is_one_of(0, 1)},
        keep_row,
    ),
    "arc_easy": choice_form("arc", "arc_easy", "question"),
    "openbookqa": choice_form("openbookqa", "openbookqa", "question_stem"),
    "winogrande": Form(
        "winogrande",
        single_task("winogrande"),
        {"sentence": has_gap, "option1": is_filled, "option2": is_filled, "answer": is_one_of("1", "2")},
        number_gap,
    ),
    "blimp": Form(
        "blimp",
        lambda row: f"blimp_{row['UID']}",
        {"UID": is_filled, "sentence_good": is_filled, "sentence_bad": is_filled},
        keep_row,
    ),
}  # fmt: skip


def read_questions(form: Form, names: tuple[str, ...], path: Path | None) -> Items:
    """The questions of a JSON-lines file (.jsonl, .jsonl.gz), or of the one of these names in a folder.

    Raises LocateError for a missing file and for a row that is not in the published form or the shorter one, by line.
    """
    file = found_file(names, path)
    rows = tuple(question(form, file, number, line) for number, line in lines_of(file))
    if not rows:
        raise LocateError(f"{file} has no row: expected at least one question")
    return Items(rows, source={str(file): hash_of_files([file])})


def found_file(names: tuple[str, ...], path: Path | None) -> Path:
    """The file itself, or the first of the names in a folder.

    Raises LocateError when there is none.
    """
    if path is None:
        raise LocateError(f"no data named: expected a folder with {' or '.join(names)}, or such a file")
    inside = [path / name for name in names] + [path / Path(name).name for name in names]
    found = next((each for each in ([path] if not path.is_dir() else inside) if each.is_file()), None)
    if found is None:
        raise LocateError(f"{path}: expected a file, or a folder with {' or '.join(names)}")
    return found


def lines_of(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers from 1.

    Raises LocateError for a file that is not UTF-8, or is named .gz but is not gzipped.
    """
    try:
        raw = file.read_bytes()
        text = (gzip.decompress(raw) if file.suffix == ".gz" else raw).decode("utf-8")
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise LocateError(f"{file} is not UTF-8 text ({error}): fetch it again") from None
    yield from ((number, line) for number, line in enumerate(text.split("\n"), start=1) if line.strip())


def question(form: Form, file: Path, number: int, line: str) -> Question:
    """One row, in the published form.

    Raises LocateError that names the line.
    """
    expected = f"a JSON object with {', '.join(form.columns)}, or its shorter form"
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise TypeError
        whole = row if is_published(form, row) else form.shorter(row)
    except (ValueError, KeyError, TypeError, IndexError):
        raise bad_row(file, number, line, expected) from None
    if not is_published(form, whole):
        raise bad_row(file, number, line, expected)
    return Question(form.task(whole), {name: whole[name] for name in form.columns})


def is_published(form: Form, row: Fields) -> bool:
    """Whether a row has the published columns, each with a value of its kind, and a right answer among its choices."""
    if not all(name in row and check(row[name]) for name, check in form.columns.items()):
        return False
    return "answerKey" not in form.columns or row["answerKey"] in row["choices"]["label"]
