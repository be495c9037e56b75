"""Gathering a run folder that several processes have filled: what is missing, and cleaning up when nothing is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.claims import Claims
from locate.errors import LocateError
from locate.files import read_json
from locate.tracing.folder import ASKED, CHUNKS, PARTS, SHARING, STAGE_FILE, RunFolder, claim_of
from locate.tracing.table import META_FILE, Trace, load_trace


@dataclass(frozen=True)
class StageState:
    """How far a stage is.

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
    folder = RunFolder(Path(path))
    meta = read_json(folder.path / META_FILE)
    if not isinstance(meta, dict) or "recipe" not in meta:
        raise LocateError(f"{folder.path} holds no run: expected a folder that locate-bias trace has written")
    missing = what_is_missing(folder, meta)
    if missing:
        raise LocateError(f"{folder.path} is not complete: {'; '.join(missing)}: run its shards again, in any number")
    with folder.filled():  # no shard still reads what is deleted here
        folder.forget()
        for each in folder.path.rglob(".*.partial.*"):
            each.unlink(missing_ok=True)
        for each in folder.path.glob(f"{SHARING}*.claim"):
            each.unlink(missing_ok=True)
    for each in folder.path.glob("*.claim"):
        each.unlink(missing_ok=True)
    return load_trace(folder.path)


def what_is_missing(folder: RunFolder, meta: dict[str, Any]) -> list[str]:
    """What a run still lacks, in words; [] where it is complete."""
    asked = [name for name in (meta.get(ASKED) or []) if name not in meta]
    if meta.get("status") == "complete" and not asked:
        return []
    stages = [state.words() for state in states(folder) if state.have < state.chunks]
    waiting = [] if meta.get("status") == "complete" else ["the map"]
    return [f"{name} not finished" for name in [*waiting, *asked]] + stages


def states(folder: RunFolder) -> list[StageState]:
    """How far the stages are whose chunks are kept."""
    found = []
    for path in sorted((folder.path / PARTS).glob(f"*/{STAGE_FILE}")):
        stage, claims = read_json(path), Claims(path.parent)
        numbers = range(int(stage[CHUNKS]))
        have = {number for number in numbers if (path.parent / f"{claim_of(number)}.parquet").is_file()}
        owners = {number: claims.owner(claim_of(number)) for number in numbers if number not in have}
        known = {number: owner for number, owner in owners.items() if owner is not None}
        found.append(StageState(str(stage["name"]), len(have), len(numbers), known))
    return found
