"""A run folder while it is being filled: parts, and the recipe that decides whether a run may be resumed."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pandas as pd

from locate.claims import Claims
from locate.errors import LocateError
from locate.files import read_json, strict, write_json, write_parquet
from locate.tracing.stage import Stage
from locate.tracing.table import ESTIMATES, META_FILE, TRACE_FILE, Trace, load_trace, read_table, tidy

TURN = 0.1  # seconds between two looks at whether another process has written its tables
ASKED = "asked"  # for shards: the tables beside the trace that a run is to make
ALONE, SHARING = "run", "shard-"  # claims of a process that fills a folder alone, and of those that share it
PARTS, STAGE_FILE, CHUNKS = "parts", "stage.json", "chunks"


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
    """A folder that holds a run's parts until they are one trace.

    shared  whether several processes fill it, each at its own pace: parts are then kept until `locate-bias gather`, and
            what another one has finished stands
    """

    path: Path
    shared: bool = False

    @staticmethod
    def open(path: str | Path, meta: dict[str, Any], *, shared: bool = False) -> RunFolder:
        """Claim a folder for a run: new, empty, or holding the same run; `shared` with other processes.

        Raises LocateError when it holds something else, with both values of what differs.
        """
        folder = RunFolder(Path(path), shared)
        if folder.path.exists() and not folder.path.is_dir():
            raise LocateError(f"output {path} is a file: expected a folder")
        if (folder.path / META_FILE).is_file():
            found = read_json(folder.path / META_FILE)
            folder.same_run(found, meta)
            if shared:
                folder.same_programs(found, meta)
        elif folder.path.is_dir() and any(not each.name.startswith(".") for each in folder.path.iterdir()):
            raise LocateError(f"output folder {path} is not empty and holds no run: choose a new or empty one")
        else:
            write_json(folder.path / META_FILE, meta)
        return folder

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Inside the block this process fills the folder: alone, or beside others that share it.

        Raises LocateError where another process fills it alone, or this one would while others share it.
        """
        claims = Claims(self.path)
        claim = claims.take(f"{SHARING}{uuid4().hex[:12]}" if self.shared else ALONE)
        while claim is None:
            self.check_nobody([ALONE])
            claim = claims.take(ALONE)
        with claim:
            if not self.shared:
                for dead in self.path.glob(f"{ALONE}.*.claim"):
                    if dead != claim.path:
                        dead.unlink(missing_ok=True)
            self.check_nobody([ALONE] if self.shared else claims.names(SHARING))
            yield

    def check_nobody(self, names: Sequence[str]) -> None:
        """Raise LocateError where a process that has one of these claims is alive."""
        claims = Claims(self.path)
        for name in names:
            owner = claims.living(name)
            if owner is not None:
                raise LocateError(
                    f"{self.path} is being filled by {owner}: wait until it has ended, or share a run from its start "
                    "with --shard"
                )

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

    def same_programs(self, found: dict[str, Any], meta: dict[str, Any]) -> None:
        """Raise LocateError unless the processes that share the folder compute alike.

        Other versions of a library, or another number of threads, round otherwise.
        """
        mine: dict[str, Any] = meta["libraries"] | {"threads": meta["threads"]}
        theirs = found.get("libraries", {}) | {"threads": found.get("threads")}
        for name in sorted(set(mine) | set(theirs)):
            if mine.get(name) != theirs.get(name):
                raise LocateError(
                    f"{self.path} was begun with {name} {theirs.get(name)}, here it is {mine.get(name)}: all who "
                    "share a run must compute alike, so choose the same"
                )

    def began_with(self, name: str) -> Any:
        """A setting that the run began with, as its meta.json has it; None where it does not say."""
        return read_json(self.path / META_FILE).get(name)

    def finished(self) -> Trace | None:
        """The trace, if this run is complete."""
        if read_json(self.path / META_FILE)["status"] != "complete":
            return None
        return load_trace(self.path)

    def parts(self, stage: Stage, chunks: int) -> Parts:
        """Where the chunks of a stage are kept; so many it has.

        Raises LocateError when those that are there belong to another stage of that name.
        """
        return Parts.open(self.path / PARTS / slug(stage.name), stage, chunks)

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

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Inside the block no other process that shares the folder writes its tables and meta."""
        if not self.shared:
            yield
            return
        claims = Claims(self.path)
        while (claim := claims.take("tables")) is None:
            time.sleep(TURN)
        with claim:
            yield

    def forget(self) -> None:
        """Delete parts that are in a table by now; where the folder is shared, others may still read them."""
        if self.shared:
            return
        shutil.rmtree(self.path / PARTS, ignore_errors=True)


@dataclass(frozen=True)
class Parts:
    """The chunks of a stage in a folder of their own, one file each.

    tidied  whether they are rows of a trace
    """

    path: Path
    tidied: bool

    @staticmethod
    def open(path: Path, stage: Stage, chunks: int) -> Parts:
        """Claim a folder for the chunks of a stage.

        Raises LocateError when it holds those of another stage.
        """
        description: Any = strict(stage.describe() | {CHUNKS: chunks})
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
        return self.path / f"{claim_of(chunk)}.parquet"

    def has(self, chunk: int) -> bool:
        """Whether a chunk is there."""
        return self.file(chunk).is_file()

    def read(self, chunk: int) -> pd.DataFrame | None:
        """A chunk that was measured before; None where it is missing, or its file is damaged, which is then removed.

        Raises LocateError where the system does not let it be read.
        """
        path = self.file(chunk)
        try:
            table = pd.read_parquet(path)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise LocateError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
            path.unlink(missing_ok=True)  # pyarrow's own errors have no number: the file is cut, or overwritten
            return None
        return tidy(table) if self.tidied else table

    def all(self, chunks: int) -> dict[int, pd.DataFrame]:
        """The chunks of a stage that were measured before, by number; `chunks` is how many the stage has."""
        found = {number: self.read(number) for number in range(chunks)}
        return {number: table for number, table in found.items() if table is not None}

    def write(self, chunk: int, table: pd.DataFrame) -> None:
        """Keep a chunk."""
        write_parquet(self.file(chunk), table)


def claim_of(chunk: int) -> str:
    """Name of the claim on a chunk."""
    return f"part-{chunk:05d}"


def slug(name: str) -> str:
    """The name of a stage as a folder's name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
