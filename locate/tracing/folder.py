"""A run folder while it is being filled: parts, and the recipe that decides whether a run may be resumed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, write_json, write_parquet
from locate.parts import CHUNKS, PARTS, OwnedFolder, Parts, check_same, is_of_others, slug
from locate.tracing.stage import Stage
from locate.tracing.table import ESTIMATES, META_FILE, TRACE_FILE, Trace, load_trace, read_table, tidy

ASKED = "asked"  # for shards: the tables beside the trace that a run is to make


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
class RunFolder(OwnedFolder):
    """A folder that holds a run's parts until they are one trace."""

    @staticmethod
    def open(path: str | Path, meta: dict[str, Any], *, shared: bool = False) -> RunFolder:
        """Claim a folder for a run: new, empty, or holding the same run; `shared` with other processes.

        Raises LocateError when it holds something else, with both values of what differs.
        """
        folder = RunFolder(Path(path), shared)
        if folder.path.exists() and not folder.path.is_dir():
            raise LocateError(f"output {path} is a file: expected a folder")
        with folder.turn():
            folder.begin(meta)
        return folder

    def begin(self, meta: dict[str, Any]) -> None:
        """Write the run's meta, or find that of the same run.

        Raises LocateError when the folder holds something else, and for programs that compute otherwise than those
        that share the folder.
        """
        if (self.path / META_FILE).is_file():
            found = read_json(self.path / META_FILE)
            self.same_run(found, meta)
            if self.shared:
                self.check_programs(programs_of(found), programs_of(meta))
        elif self.path.is_dir() and any(is_of_others(each) for each in self.path.iterdir()):
            raise LocateError(f"output folder {self.path} is not empty and holds no run: choose a new or empty one")
        else:
            write_json(self.path / META_FILE, meta)

    def same_run(self, found: Any, meta: dict[str, Any]) -> None:
        """Raise LocateError unless the run here has the same recipe."""
        if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
            raise LocateError(f"{self.path / META_FILE} does not belong to a run: choose another folder")
        check_same(f"output folder {self.path}", "another run", found["recipe"], meta["recipe"], "that one")

    def began_with(self, name: str) -> Any:
        """A setting that the run began with, as its meta.json has it; None where it does not say."""
        return read_json(self.path / META_FILE).get(name)

    def finished(self) -> Trace | None:
        """The trace, if this run is complete."""
        if read_json(self.path / META_FILE)["status"] != "complete":
            return None
        return load_trace(self.path)

    def parts(self, stage: Stage, chunks: int) -> StageParts:
        """Where the chunks of a stage are kept; so many it has.

        Raises LocateError when those that are there belong to another stage of that name.
        """
        parts = StageParts(self.path / PARTS / slug(stage.name), stage.derive is None)
        with self.turn():
            parts.describe(f"stage {stage.name!r}", stage.describe() | {CHUNKS: chunks})
        return parts

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
        if meta["status"] != "complete" and "audit" not in meta:
            write_json(self.path / META_FILE, meta | {"audit": audit})

    def audit(self) -> dict[str, Any]:
        """The saved results of the checks of the model."""
        return dict(read_json(self.path / META_FILE).get("audit", {}))

    def finish(self, trace: Trace) -> None:
        """Write the table of the trace itself and meta, then delete its parts."""
        with self.turn():
            if self.shared and self.began_with("status") == "complete":
                return
            write_parquet(self.path / TRACE_FILE, trace.table)
            write_json(self.path / META_FILE, trace.meta | self.asked())
        self.forget()

    def add(self, trace: Trace, name: str) -> None:
        """Write a table beside the trace, and meta with what it says about the table, then delete their parts."""
        with self.turn():
            if self.shared and self.began_with(name) is not None:
                return
            table = getattr(trace, name)
            if table is not None:
                write_parquet(self.path / f"{name}.parquet", table)
            write_json(self.path / META_FILE, trace.meta | self.asked())
        self.forget()

    def asked(self) -> dict[str, Any]:
        """What meta says of the tables that shards are to make, where the folder is shared."""
        return {ASKED: self.began_with(ASKED)} if self.shared else {}

    def forget(self) -> None:
        """Delete parts that are in a table by now; where the folder is shared, others may still read them."""
        if self.shared:
            return
        shutil.rmtree(self.path / PARTS, ignore_errors=True)


@dataclass(frozen=True)
class StageParts(Parts):
    """The chunks of a stage.

    tidied  whether they are rows of a trace
    """

    tidied: bool

    def read(self, chunk: int) -> pd.DataFrame | None:
        """A chunk that was measured before; None where it is missing or damaged (see `Parts.read`)."""
        table = super().read(chunk)
        return tidy(table) if table is not None and self.tidied else table


def programs_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What a run's numbers are computed with, as its meta has it: versions by library, and threads."""
    return {**meta.get("libraries", {}), "threads": meta.get("threads")}
