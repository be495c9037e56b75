"""Shards: the same command on several machines, which share a run folder and nothing else.

Each goes through the whole run. A chunk is measured by whoever claims it first (see `locate.claims`), and read by the
others as soon as it is there; the chunk of one that has died is taken over.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from locate.claims import SILENT, Claim, Claims
from locate.errors import LocateError
from locate.work import Missing

POLL = 0.5  # seconds between two looks at what others have finished


@dataclass(frozen=True)
class Shard:
    """One of several processes that fill a run folder; an executor of `trace`, whose `output` they share.

    number, count  it begins at another place than the others, so that they seldom ask for the same chunk: from 0 up
    silent         seconds after which the claim of another machine that has not changed is taken to be that of a dead
                   process
    """

    number: int = 0
    count: int = 1
    silent: float = SILENT

    def __post_init__(self) -> None:
        if not 0 <= self.number < self.count:
            raise LocateError(f"shard {self.number + 1} of {self.count}: expected one from 1 to their number")

    def __call__(self, missing: Missing) -> Iterator[tuple[int, Any]]:
        """Do pieces that nobody else does, and read the others as they come.

        Raises LocateError where nothing is kept.
        """
        kept = missing.kept
        if kept is None:
            raise LocateError("a shard shares a run folder with others: give one")
        claims: dict[Path, Claims] = {}
        numbers = missing.longest_first()
        start = self.number * len(numbers) // self.count
        left = [*numbers[start:], *numbers[:start]]
        while left:
            before = len(left)
            for number in list(left):
                found = kept.read(number)
                if found is not None:
                    missing.count(number, missing.size(number))
                elif (claim := self.claim(kept.file(number), claims)) is not None:
                    with claim:
                        if kept.has(number):
                            continue  # its owner finished it in between
                        found = missing.do(missing.pieces[number], partial(missing.count, number))
                        kept.write(number, found)
                else:
                    continue
                left.remove(number)
                yield number, found
            if len(left) == before:
                time.sleep(POLL)

    def claim(self, file: Path, claims: dict[Path, Claims]) -> Claim | None:
        """The claim on a piece by the file that keeps it; None where somebody who may be alive has it.

        claims  by folder: they remember what was seen of others
        """
        return claims.setdefault(file.parent, Claims(file.parent, self.silent)).take(file.stem)


def shard_of(text: str, environ: Mapping[str, str] | None = None) -> Shard:
    """The shard that a text names: "2/8", or "auto" for what Slurm's job arrays and other launchers say.

    environ  variables; None for those of this process

    Raises LocateError for anything else.
    """
    environ = os.environ if environ is None else environ
    if text == "auto":
        return shard_from(environ)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found:
        raise LocateError(f"shard {text!r}: expected a number of a number, like 2/8, or auto")
    return Shard(int(found[1]) - 1, int(found[2]))


def shard_from(environ: Mapping[str, str]) -> Shard:
    """The shard that Slurm's array variables, or RANK and WORLD_SIZE, name."""
    try:
        if "SLURM_ARRAY_TASK_ID" in environ:
            least, count = (int(environ[f"SLURM_ARRAY_TASK_{name}"]) for name in ("MIN", "COUNT"))
            step = int(environ.get("SLURM_ARRAY_TASK_STEP", "1"))
            return Shard((int(environ["SLURM_ARRAY_TASK_ID"]) - least) // step, count)
        if "RANK" in environ and "WORLD_SIZE" in environ:
            return Shard(int(environ["RANK"]), int(environ["WORLD_SIZE"]))
    except (KeyError, ValueError) as error:
        raise LocateError(
            f"shard auto: a variable is missing or no number ({error}): give the shard, like 2/8"
        ) from error
    raise LocateError(
        "shard auto: expected SLURM_ARRAY_TASK_ID, or RANK and WORLD_SIZE, to be set: give the shard, like 2/8"
    )
