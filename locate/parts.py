"""Parts: what pieces of work give, kept in a folder one file each; and who fills it, one process or several."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pandas as pd

from locate.claims import Claims
from locate.errors import LocateError
from locate.files import read_json, strict, write_json, write_parquet

TURN = 0.1  # seconds between two looks at whether another process has written its tables
ALONE, SHARING = "run", "shard-"  # claims of a process that fills a folder alone, and of those that share it
PARTS, ABOUT_FILE, CHUNKS = "parts", "about.json", "chunks"


@dataclass(frozen=True)
class OwnedFolder:
    """A folder that one process fills, or several.

    shared  whether several processes fill it, each at its own pace: parts are then kept until `locate-bias gather`, and
            what another one has finished stands
    """

    path: Path
    shared: bool = False

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
            self.check_nobody([ALONE] if self.shared else claims.names(SHARING))
            if not self.shared:
                self.sweep(claim.path)
            yield

    def sweep(self, mine: Path) -> None:
        """Delete what processes that were killed have left: their claims, and halves of files."""
        for dead in [*self.path.glob("*.claim"), *self.path.rglob(".*.partial.*")]:
            if dead != mine:
                dead.unlink(missing_ok=True)

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

    def check_programs(self, found: Mapping[str, Any], mine: Mapping[str, Any], otherwise: str = "") -> None:
        """Raise LocateError unless this process computes as the one that began the folder.

        Other versions of a library, or another number of threads, round otherwise.

        found      what the folder was begun with: versions by library, and threads
        mine       what this process computes with
        otherwise  what can be done besides computing as they do
        """
        for name in sorted(set(mine) | set(found)):
            if mine.get(name) != found.get(name):
                raise LocateError(
                    f"{self.path} was begun with {name} {found.get(name)}, here it is {mine.get(name)}: all of it "
                    f"must be computed alike, so choose the same{otherwise}"
                )


@dataclass(frozen=True)
class Parts:
    """The chunks of one whole in a folder of their own, one file each."""

    path: Path

    def describe(self, whole: str, description: Mapping[str, Any]) -> Parts:
        """Say what they are the chunks of, with their number; returns the same parts.

        whole  in words, like "stage 'map'"

        Raises LocateError where chunks of something else are there, with both values of the first key that differs.
        """
        file, described = self.path / ABOUT_FILE, cast("dict[str, Any]", strict(dict(description)))
        if file.is_file():
            check_same(str(self.path), f"parts of another {whole}", self.about(), described, "those parts")
            return self
        for each in self.path.glob("part-*.parquet"):
            each.unlink(missing_ok=True)  # nobody knows what they are chunks of
        write_json(file, described)
        return self

    def about(self) -> dict[str, Any]:
        """What they are the chunks of.

        Raises LocateError where that is damaged.
        """
        found = read_described(self.path / ABOUT_FILE, self.path)
        if not isinstance(found.get(CHUNKS), int):
            raise damaged(self.path / ABOUT_FILE, self.path)
        return found

    def file(self, chunk: int) -> Path:
        """File of a chunk."""
        return self.path / f"{part_name(chunk)}.parquet"

    def has(self, chunk: int) -> bool:
        """Whether a chunk is there."""
        return self.file(chunk).is_file()

    def read(self, chunk: int) -> pd.DataFrame | None:
        """A chunk that was measured before; None where it is missing, or its file is damaged, which is then removed.

        Raises LocateError where the system does not let it be read.
        """
        path = self.file(chunk)
        try:
            return pd.read_parquet(path, page_checksum_verification=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise LocateError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
            path.unlink(missing_ok=True)  # pyarrow's own errors have no number: the file is cut, or overwritten
            return None

    def all(self, chunks: int) -> dict[int, pd.DataFrame]:
        """The chunks that were measured before, by number; `chunks` is how many the whole has."""
        found = {number: self.read(number) for number in range(chunks)}
        return {number: table for number, table in found.items() if table is not None}

    def write(self, chunk: int, table: pd.DataFrame) -> None:
        """Keep a chunk."""
        write_parquet(self.file(chunk), table, write_page_checksum=True)


@dataclass(frozen=True)
class PartsState:
    """How far a stage or a test is.

    have     chunks that are there, of `chunks`
    owners   chunk that somebody has claimed who may be alive: who
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


def states(path: Path) -> list[PartsState]:
    """How far the stages or tests are whose chunks are kept in a folder."""
    found = []
    for file in sorted((path / PARTS).glob(f"*/{ABOUT_FILE}")):
        parts = Parts(file.parent)
        about, claims = parts.about(), Claims(parts.path)
        numbers = range(int(about[CHUNKS]))
        have = {number for number in numbers if parts.has(number)}
        owners = {number: claims.owner_alive(part_name(number)) for number in numbers if number not in have}
        known = {number: owner for number, owner in owners.items() if owner is not None}
        found.append(PartsState(str(about["name"]), len(have), len(numbers), known))
    return found


def check_complete(path: Path, missing: list[str], otherwise: str = "") -> None:
    """Raise LocateError where something is missing of what shards are to fill.

    otherwise  what can be done besides running them again
    """
    if not missing:
        return
    claims = Claims(path)
    names = [ALONE, *claims.names(SHARING)]
    busy = [owner for owner in map(claims.owner_alive, names) if owner is not None]
    ways = f"wait for {', '.join(busy)}" if busy else f"run its shards again, in any number{otherwise}"
    raise LocateError(f"{path} is not complete: {'; '.join(missing)}: {ways}")


def clean(folder: OwnedFolder) -> None:
    """Delete what shards kept for one another.

    Raises LocateError while one of them still reads it.
    """
    with folder.filled():
        shutil.rmtree(folder.path / PARTS, ignore_errors=True)


def read_described(file: Path, parts: Path) -> dict[str, Any]:
    """What a file says of chunks that are kept.

    Raises LocateError where it is damaged.
    """
    try:
        found = read_json(file)
    except LocateError as error:
        raise damaged(file, parts) from error
    if not isinstance(found, dict):
        raise damaged(file, parts)
    return found


def damaged(file: Path, parts: Path) -> LocateError:
    """What to say of such a file that cannot be read."""
    return LocateError(f"{file} is damaged: delete {parts}, and what it holds is measured again")


def check_same(where: str, what: str, found: Mapping[str, Any], mine: Mapping[str, Any], delete: str) -> None:
    """Raise LocateError for the first key whose value in a folder is another one than this process has.

    where   the folder
    what    it holds then
    delete  what to delete instead of choosing another folder
    """
    for key in dict.fromkeys([*mine, *found]):
        if found.get(key) != mine.get(key):
            raise LocateError(
                f"{where} holds {what}: its {key} is {found.get(key)!r}, this one's is {mine.get(key)!r}: choose "
                f"another folder, or delete {delete}"
            )


def is_of_others(path: Path) -> bool:
    """Whether a file in a folder that is not begun yet is neither a claim on it nor hidden."""
    return not path.name.startswith(".") and path.suffix != ".claim"


def part_name(chunk: int) -> str:
    """Name of a chunk's file, without its ending, and of the claim on it."""
    return f"part-{chunk:05d}"


def slug(name: str) -> str:
    """A name as that of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
