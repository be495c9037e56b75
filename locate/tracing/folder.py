"""A run folder while it is being filled: parts, and the recipe that decides whether a run may be resumed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, strict, write_json, write_parquet
from locate.tracing.stage import Stage
from locate.tracing.table import ESTIMATES, META_FILE, TRACE_FILE, Trace, load_trace, read_table, tidy

PARTS, STAGE_FILE = "parts", "stage.json"


class NotKept(LocateError):
    """A folder cannot keep what is measured, or holds what another run has measured: the run cannot go on."""


@contextmanager
def keeping() -> Iterator[None]:
    """Turn a folder's errors into NotKept, to tell them from those of stages that cannot be measured."""
    try:
        yield
    except LocateError as error:
        raise NotKept(str(error)) from error


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
        elif folder.path.is_dir() and any(folder.path.iterdir()):
            raise LocateError(f"output folder {path} is not empty and holds no run: choose a new or empty one")
        else:
            write_json(folder.path / META_FILE, meta)
        return folder

    def same_run(self, found: Any, meta: dict[str, Any]) -> None:
        """Raise LocateError unless the run here has the same recipe."""
        if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
            raise LocateError(f"{self.path / META_FILE} does not belong to a run: choose another folder")
        old, new = found["recipe"], meta["recipe"]
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                raise LocateError(
                    f"output folder {self.path} holds another run: its {key} is {old.get(key)!r}, this one's is "
                    f"{new.get(key)!r}: choose another folder, or delete that one"
                )

    def began_with(self, name: str) -> Any:
        """A setting that the run began with, as its meta.json has it; None where it does not say."""
        return read_json(self.path / META_FILE).get(name)

    def finished(self) -> Trace | None:
        """The trace, if this run is complete."""
        if read_json(self.path / META_FILE)["status"] != "complete":
            return None
        return load_trace(self.path)

    def parts(self, stage: Stage) -> Parts:
        """Where the chunks of a stage are kept.

        Raises LocateError when those that are there belong to another stage of that name.
        """
        return Parts.open(self.path / PARTS / slug(stage.name), stage)

    def estimates(self) -> pd.DataFrame | None:
        """The estimates of a run within a budget, with its choice of sites, once that is made."""
        file = self.path / f"{ESTIMATES}.parquet"
        return read_table(file) if file.is_file() else None

    def keep_estimates(self, estimates: pd.DataFrame) -> None:
        """Write the estimates with the choice, then delete their parts."""
        write_parquet(self.path / f"{ESTIMATES}.parquet", estimates)
        self.forget()

    def keep_audit(self, audit: dict[str, Any]) -> None:
        """Save what the checks of the model have measured, for a resumed run that finds every row measured."""
        meta = read_json(self.path / META_FILE)
        if meta["status"] != "complete":
            write_json(self.path / META_FILE, meta | {"audit": audit})

    def audit(self) -> dict[str, Any]:
        """The saved results of the checks of the model."""
        return dict(read_json(self.path / META_FILE).get("audit", {}))

    def finish(self, trace: Trace) -> None:
        """Write the table of the trace itself and meta, then delete its parts."""
        write_parquet(self.path / TRACE_FILE, trace.table)
        write_json(self.path / META_FILE, trace.meta)
        self.forget()

    def add(self, trace: Trace, name: str) -> None:
        """Write a table beside the trace, and meta with what it says about the table, then delete their parts."""
        table = getattr(trace, name)
        if table is not None:
            write_parquet(self.path / f"{name}.parquet", table)
        write_json(self.path / META_FILE, trace.meta)
        self.forget()

    def forget(self) -> None:
        """Delete parts that are in a table by now."""
        shutil.rmtree(self.path / PARTS, ignore_errors=True)


@dataclass(frozen=True)
class Parts:
    """The chunks of a stage in a folder of their own, one file each.

    tidied  whether they are rows of a trace
    """

    path: Path
    tidied: bool

    @staticmethod
    def open(path: Path, stage: Stage) -> Parts:
        """Claim a folder for the chunks of a stage.

        Raises LocateError when it holds those of another stage.
        """
        description: Any = strict(stage.describe())
        file = path / STAGE_FILE
        if file.is_file():
            found = read_json(file)
            for key in sorted(set(found) | set(description)):
                if found.get(key) != description.get(key):
                    raise LocateError(
                        f"{path} holds parts of another stage {stage.name!r}: its {key} is {found.get(key)!r}, this "
                        f"one's is {description.get(key)!r}: choose another output folder, or delete those parts"
                    )
        else:
            write_json(file, description)
        return Parts(path, stage.derive is None)

    def file(self, chunk: int) -> Path:
        """File of a chunk."""
        return self.path / f"part-{chunk:05d}.parquet"

    def has(self, chunk: int) -> bool:
        """Whether a chunk is there."""
        return self.file(chunk).is_file()

    def read(self, chunk: int) -> pd.DataFrame | None:
        """A chunk that was measured before; None where it is missing, or its file is damaged, which is then removed."""
        path = self.file(chunk)
        try:
            table = pd.read_parquet(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):  # what pyarrow raises for a file that is cut or overwritten
            path.unlink(missing_ok=True)
            return None
        return tidy(table) if self.tidied else table

    def all(self, chunks: int) -> dict[int, pd.DataFrame]:
        """The chunks of a stage that were measured before, by number; `chunks` is how many the stage has."""
        found = {number: self.read(number) for number in range(chunks)}
        return {number: table for number, table in found.items() if table is not None}

    def write(self, chunk: int, table: pd.DataFrame) -> None:
        """Keep a chunk."""
        write_parquet(self.file(chunk), table)


def slug(name: str) -> str:
    """The name of a stage as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
