"""Gathering a run folder that several processes have filled: what is missing, and cleaning up when nothing is."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.claims import Claims
from locate.errors import LocateError
from locate.files import read_json
from locate.parts import ABOUT_FILE, CHUNKS, PARTS, SHARING, OwnedFolder, Parts, part_name
from locate.tracing.folder import ASKED
from locate.tracing.table import META_FILE, Trace, load_trace


@dataclass(frozen=True)
class PartsState:
    """How far a stage or a test is.

    have     chunks that are there, of `chunks`
    owners   chunk that somebody has claimed: who; the claim may be that of a dead process
    """

    name: str
    have: int
    chunks: int
    owners: dict[int, str]

    def words(self) -> str:
        """The same in words."""
        said = f"{self.name}: {self.have} of {self.chunks} chunks"
        owners = ", ".join(f"chunk {number + 1} by {owner}" for number, owner in self.owners.items())
        return f"{said}; being measured: {owners}" if owners else said


def gather(path: str | Path) -> Trace:
    """The trace of a run folder that shards have filled; what they kept for one another is deleted.

    Raises LocateError where something is missing, with what it is.
    """
    folder = OwnedFolder(Path(path))
    meta = read_json(folder.path / META_FILE)
    if not isinstance(meta, dict) or "recipe" not in meta:
        raise LocateError(f"{folder.path} holds no run: expected a folder that locate-bias trace has written")
    check_complete(folder.path, what_is_missing(folder.path, meta))
    clean(folder)
    return load_trace(folder.path)


def check_complete(path: Path, missing: list[str]) -> None:
    """Raise LocateError where something is missing of what shards are to fill."""
    if missing:
        raise LocateError(f"{path} is not complete: {'; '.join(missing)}: run its shards again, in any number")


def clean(folder: OwnedFolder) -> None:
    """Delete what shards kept for one another.

    Raises LocateError while one of them still reads it.
    """
    with folder.filled():
        shutil.rmtree(folder.path / PARTS, ignore_errors=True)
        for each in folder.path.rglob(".*.partial.*"):
            each.unlink(missing_ok=True)
        for each in folder.path.glob(f"{SHARING}*.claim"):
            each.unlink(missing_ok=True)
    for each in folder.path.glob("*.claim"):
        each.unlink(missing_ok=True)


def what_is_missing(path: Path, meta: dict[str, Any]) -> list[str]:
    """What a run still lacks, in words; [] where it is complete."""
    asked = [name for name in (meta.get(ASKED) or []) if name not in meta]
    if meta.get("status") == "complete" and not asked:
        return []
    stages = [state.words() for state in states(path) if state.have < state.chunks]
    waiting = [] if meta.get("status") == "complete" else ["the map"]
    return [f"{name} not finished" for name in [*waiting, *asked]] + stages


def states(path: Path) -> list[PartsState]:
    """How far the stages or tests are whose chunks are kept in a folder."""
    found = []
    for file in sorted((path / PARTS).glob(f"*/{ABOUT_FILE}")):
        parts = Parts(file.parent)
        about, claims = parts.about(), Claims(parts.path)
        numbers = range(int(about[CHUNKS]))
        have = {number for number in numbers if parts.has(number)}
        owners = {number: claims.owner(part_name(number)) for number in numbers if number not in have}
        known = {number: owner for number, owner in owners.items() if owner is not None}
        found.append(PartsState(str(about["name"]), len(have), len(numbers), known))
    return found
