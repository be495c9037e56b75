"""An evaluation while its tests are run: finished tests and chunks of others in a folder, which several may fill."""

from __future__ import annotations

import inspect
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from locate.claims import Claims
from locate.errors import LocateError
from locate.evaluation.evaluation import FILE, Evaluation, load_evaluation, write_table
from locate.evaluation.scores import Score, Test
from locate.files import hash_of, strict, write_json
from locate.notebook import Rows
from locate.parts import (
    ABOUT_FILE,
    CHUNKS,
    PARTS,
    TURN,
    OwnedFolder,
    Parts,
    check_complete,
    check_same,
    clean,
    damaged,
    is_of_others,
    read_described,
    states,
)

PROGRAMS_FILE, PRODUCTS, MEASURED_BY = ".programs.json", "products", "measure_sha256"
Found = TypeVar("Found")


@dataclass(frozen=True)
class EvaluationFolder(OwnedFolder):
    """A folder that holds finished tests, and chunks of those that are not."""

    @staticmethod
    def open(path: Path, *, shared: bool) -> EvaluationFolder:
        """Claim a folder: new, empty, or holding an evaluation.

        Raises LocateError when it holds something else.
        """
        folder = EvaluationFolder(path, shared)
        said = f"output {path}: expected a new or empty folder, or one that holds an evaluation"
        if path.exists() and not path.is_dir():
            raise LocateError(said)
        with folder.turn():
            begun = (path / FILE).is_file() or folder.programs_file.is_file()
            if not begun and path.is_dir() and any(map(is_of_others, path.iterdir())):
                raise LocateError(said)
        return folder

    @property
    def programs_file(self) -> Path:
        """What the chunks here are computed with; no test has a name like that."""
        return self.path / PARTS / PROGRAMS_FILE

    def finished(self) -> Evaluation | None:
        """The tests that are finished; None where none is."""
        return load_evaluation(self.path) if (self.path / FILE).is_file() else None

    def parts(self, test: Test, about: Mapping[str, Any], meta: Mapping[str, Any], chunks: int) -> Parts:
        """Where the chunks of a test are kept; so many it has.

        Raises LocateError where those of another test, model or setting are there.
        """
        parts, text = self.parts_of(test.name), source_sha256(test.measure)
        description = meta["recipe"] | {"name": test.name, "items_sha256": about["items_sha256"], CHUNKS: chunks}
        description |= {MEASURED_BY: text}
        with self.turn():
            if not self.shared and not any(parts.path.glob("part-*.parquet")):
                shutil.rmtree(parts.path, ignore_errors=True)
            elif (parts.path / ABOUT_FILE).is_file() and parts.about().get(MEASURED_BY) != text:
                raise LocateError(
                    f"{parts.path} holds chunks measured before the code of test {test.name!r} changed: delete that "
                    "folder to measure them again, or choose another output folder"
                )
            return parts.describe(f"test {test.name!r}", description)

    def agreed(self, meta: Mapping[str, Any], products: Callable[[], str]) -> str:
        """The library of matrix products that the chunks here are computed with; `products` chooses that of the first.

        Raises LocateError where this process computes otherwise than the one that began them, or that cannot be read.
        """
        file, mine = self.programs_file, {**meta["libraries"], "threads": meta["threads"]}
        with self.turn():
            begun = self.shared or any(self.path.glob(f"{PARTS}/*/part-*.parquet"))
            if not file.is_file():
                for each in self.path.glob(f"{PARTS}/*/part-*.parquet"):
                    each.unlink(missing_ok=True)  # nobody knows how they were computed
            if not begun or not file.is_file():
                write_json(file, mine | {PRODUCTS: products()})
            found = read_described(file, file.parent)
        if PRODUCTS not in found:
            raise damaged(file, file.parent)
        chosen = str(found.pop(PRODUCTS))
        self.check_programs(found, mine, f", or delete {file.parent} to measure unfinished tests again")
        return chosen

    def parts_of(self, test: str) -> Parts:
        """The chunks of a test."""
        return Parts(self.path / PARTS / test)

    def forget(self, test: str) -> None:
        """Delete the chunks of a finished test; where the folder is shared, others may still read them."""
        if self.shared:
            return
        shutil.rmtree(self.parts_of(test).path, ignore_errors=True)
        if not any(each.is_dir() for each in self.path.glob(f"{PARTS}/*")):
            shutil.rmtree(self.path / PARTS, ignore_errors=True)

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Inside the block this process fills the folder (see `OwnedFolder.filled`); a new one is not left empty."""
        new = not self.path.exists()
        try:
            with super().filled():
                yield
        finally:
            if new:
                with suppress(OSError):
                    self.path.rmdir()


def source_sha256(function: Callable[..., Any]) -> str | None:
    """A hash of a function's text, by which chunks that another text measured are noticed; None without one."""
    while isinstance(function, partial):
        function = function.func
    try:
        return hash_of(inspect.getsource(function))
    except (OSError, TypeError):
        return None


@dataclass
class RunningEvaluation:
    """An evaluation while its tests are run; every test is on the disk as soon as it is finished.

    order  of the tests, whichever is finished first; others that were run in the folder before stand in front
    """

    folder: EvaluationFolder | None
    meta: dict[str, Any]
    order: tuple[str, ...]
    scores: dict[str, Sequence[Score]] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.claims = None if self.folder is None else Claims(self.folder.path)

    @property
    def shared(self) -> bool:
        """Whether other processes fill the folder too."""
        return self.folder is not None and self.folder.shared

    @contextmanager
    def filled(self) -> Iterator[None]:
        """Inside the block this process fills the folder; what was finished there is taken over.

        Raises LocateError when it holds something else, with both values of what differs, or is being filled.
        """
        if self.folder is None:
            yield
            return
        with self.folder.filled():
            self.take_over()
            yield

    def take_over(self) -> None:
        """Take over the tests that are finished in the folder."""
        assert self.folder is not None
        found = self.folder.finished()
        if found is None:
            return
        recipe = {key: found.meta["recipe"].get(key) for key in self.meta["recipe"]}
        check_same(f"output folder {self.folder.path}", "another evaluation", recipe, self.meta["recipe"], "that one")
        self.meta["tests"] = dict(found.meta["tests"]) | self.meta["tests"]
        self.tables = dict(found.tables) | self.tables
        self.scores = {name: found.of(name) for name in found.tables} | self.scores

    def finished(self, name: str, about: dict[str, Any]) -> pd.DataFrame | None:
        """The table of a test that was finished before, with the seconds it took; None for one that was not.

        Raises LocateError when it measured other items.
        """
        if self.folder is None or name not in self.tables:
            return None
        old, key = self.meta["tests"][name], f"items_sha256 of {name}"
        items = {key: about["items_sha256"]}
        check_same(
            f"output folder {self.folder.path}", "another evaluation", {key: old["items_sha256"]}, items, "that one"
        )
        about |= {key: old[key] for key in ("seconds", "threads") if key in old}
        return self.tables[name]

    def settle(
        self, name: str, about: dict[str, Any], table: pd.DataFrame, score: Callable[[], Sequence[Score]]
    ) -> bool:
        """Score a test and keep it; False where another process that shares the folder is just doing so."""
        if not self.shared:
            self.keep(name, about, table, score())
            return True
        assert self.claims is not None
        claim = self.claims.take(f"scores-{name}")
        if claim is None:
            return False
        with claim:
            self.take_over()
            if name not in self.tables:
                self.keep(name, about, table, score())
        return True

    def settle_all(self, waiting: Sequence[Callable[[], bool]]) -> None:
        """Settle tests that others were scoring, as soon as they have, or are dead."""
        for settle in waiting:
            while not settle():
                time.sleep(TURN)

    def keep(self, name: str, about: dict[str, Any], table: pd.DataFrame, scores: Sequence[Score]) -> None:
        """Add a finished test, and write it."""
        new = name not in self.tables
        if self.folder is None:
            self.add(name, about, table, scores)
            return
        with self.folder.turn():
            if self.shared:
                self.take_over()  # what others have finished while this one was scored
            if new:
                write_table(self.folder.path, name, table)
            self.add(name, about, table, scores)
            self.evaluation().save_scores(self.folder.path)
        self.folder.forget(name)

    def add(self, name: str, about: dict[str, Any], table: pd.DataFrame, scores: Sequence[Score]) -> None:
        """Add a finished test."""
        self.scores[name], self.tables[name] = tuple(scores), table
        self.meta["tests"][name] = about | {"rows": len(table)}

    def evaluation(self) -> Evaluation:
        """What was found so far."""
        scores = Rows(score for some in self.ordered(self.scores).values() for score in some)
        meta: Any = strict(self.meta | {"tests": self.ordered(self.meta["tests"])})
        return Evaluation(dict(meta), scores, self.ordered(self.tables))

    def ordered(self, found: Mapping[str, Found]) -> dict[str, Found]:
        """What was found of tests, in their order."""
        places = {name: place for place, name in enumerate(self.order)}
        return dict(sorted(found.items(), key=lambda each: places.get(each[0], -1)))


def gather_evaluation(path: Path) -> Evaluation:
    """The evaluation in a folder that shards have filled; what they kept for one another is deleted.

    Raises LocateError where something is missing, with what it is.
    """
    folder = EvaluationFolder(path)
    found = folder.finished()
    finished = {} if found is None else found.meta["tests"]
    missing = [
        f"{state.words()}{'' if state.have < state.chunks else ', not scored'}"
        for state in states(path)
        if state.name not in finished
    ]
    check_complete(path, missing, f", or delete a test in {path / PARTS} to leave it out")
    if found is None:
        raise LocateError(f"{path} holds no evaluation: expected a folder that locate-bias evaluate has written")
    clean(folder)
    return found
