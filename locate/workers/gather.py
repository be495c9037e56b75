"""Gathering a run folder that several processes have filled: what is missing, and cleaning up when nothing is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import read_json
from locate.parts import OwnedFolder, check_complete, clean, states
from locate.tracing.folder import ASKED
from locate.tracing.table import META_FILE, Trace, load_trace


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


def what_is_missing(path: Path, meta: dict[str, Any]) -> list[str]:
    """What a run still lacks, in words; [] where it is complete."""
    asked = [name for name in (meta.get(ASKED) or []) if name not in meta]
    if meta.get("status") == "complete" and not asked:
        return []
    stages = [state.words() for state in states(path) if state.have < state.chunks]
    waiting = [] if meta.get("status") == "complete" else ["the map"]
    return [f"{name} not finished" for name in [*waiting, *asked]] + stages
