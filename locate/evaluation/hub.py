"""Data sets of the Hugging Face hub as JSON lines, for the tests that read them; used only where a user names one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from locate.errors import LocateError
from locate.files import hash_of_files

NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.*-]+)?(:[\w.-]+)?")
EVERY = "*"  # in place of a configuration: all of them, one after the other


def is_hub_name(text: str) -> bool:
    """Whether a text has the form OWNER/NAME, OWNER/NAME:CONFIGURATION or OWNER/NAME:CONFIGURATION:SPLIT."""
    return NAME.fullmatch(text) is not None


def parts_of(name: str, usual: str | None) -> tuple[str, str | None, str]:
    """Data set, configuration and split; what the name leaves open comes from the test's usual name of that data set.

    Raises LocateError where neither names a split.
    """
    owner, *more = name.split(":")
    known, *rest = (usual or "").split(":")
    if known == owner:
        more += rest[len(more) :]
    if len(more) < 2:
        raise LocateError(f"data set {name!r}: expected OWNER/NAME:CONFIGURATION:SPLIT (CONFIGURATION may be default)")
    return owner, None if more[0] == "default" else more[0], more[1]


@contextmanager
def fetched(name: str, usual: str | None) -> Iterator[tuple[Path, dict[str, str]]]:
    """A data set of the hub as a file of JSON lines, in its own columns, and its name with the file's sha256.

    Raises LocateError when it cannot be fetched.
    """
    owner, configuration, split = parts_of(name, usual)
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"{owner.split('/')[1]}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for row in rows_of(owner, configuration, split):
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        yield path, {f"{owner}:{configuration or 'default'}:{split}": hash_of_files([path])}


def rows_of(owner: str, configuration: str | None, split: str) -> Iterator[dict[str, Any]]:
    """The rows of one configuration, or of every one in turn.

    Raises LocateError when the hub or the data set does not answer.
    """
    import datasets

    try:
        names = datasets.get_dataset_config_names(owner) if configuration == EVERY else [configuration]
        for each in names:
            yield from datasets.load_dataset(owner, each, split=split)
    except (OSError, ValueError, RuntimeError) as error:
        raise LocateError(
            f"data set {owner!r} ({configuration or 'default'}, {split}) cannot be fetched from the hub "
            f"({str(error)[:160]}): give its file instead"
        ) from error
