"""A run folder while it is being filled: parts, and the recipe that decides whether a run may be resumed."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, write_json
from locate.tracing.table import ESTIMATES, META_FILE, TRACE_FILE, Trace, load_trace, tidy, write_table

PARTS = "parts"
FIRST_FILES = (PARTS, f"{ESTIMATES}.parquet")  # what a run may leave behind that was stopped before its meta.json


@dataclass(frozen=True)
class RunFolder:
    """A folder that holds a run's parts until they are one trace."""

    path: Path

    @staticmethod
    def open(path: str | Path, meta: dict[str, Any]) -> RunFolder:
        """Claim a folder for a run: new, empty, or holding the same run.

        Raises LocateError when it holds something else, with both values of what differs.
        """
        folder = RunFolder(Path(path))
        if folder.path.exists() and not folder.path.is_dir():
            raise LocateError(f"output {path} is a file: expected a folder")
        if (folder.path / META_FILE).is_file():
            folder.same_run(read_json(folder.path / META_FILE), meta)
        elif folder.path.is_dir() and any(each.name not in FIRST_FILES for each in folder.path.iterdir()):
            raise LocateError(f"output folder {path} is not empty and holds no run: choose a new or empty one")
        else:
            write_json(folder.path / META_FILE, meta)
        return folder

    def same_run(self, found: Any, meta: dict[str, Any]) -> None:
        """Raise LocateError unless the run here has the same recipe."""
        if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
            raise LocateError(f"{self.path / META_FILE} is not a run's: choose another folder")
        old, new = found["recipe"], meta["recipe"]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                raise LocateError(
                    f"output folder {self.path} holds another run: its {key} is {old.get(key)!r}, this one's is "
                    f"{new.get(key)!r}: choose another folder, or delete that one"
                )

    def finished(self) -> Trace | None:
        """The trace, if this run is complete."""
        if read_json(self.path / META_FILE)["status"] != "complete":
            return None
        return load_trace(self.path)

    def part(self, chunk: int) -> Path:
        """File of a chunk's rows."""
        return self.path / PARTS / f"part-{chunk:05d}.parquet"

    def read_part(self, chunk: int) -> pd.DataFrame | None:
        """Rows of a chunk that was measured before."""
        path = self.part(chunk)
        return tidy(pd.read_parquet(path)) if path.is_file() else None

    def write_part(self, chunk: int, table: pd.DataFrame) -> None:
        """Keep the rows of a chunk."""
        write_table(self.part(chunk), table)

    def finish(self, trace: Trace) -> None:
        """Write the whole trace, then let the parts go."""
        write_table(self.path / TRACE_FILE, trace.table)
        write_json(self.path / META_FILE, trace.meta)
        shutil.rmtree(self.path / PARTS, ignore_errors=True)
