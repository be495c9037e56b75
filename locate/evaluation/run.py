"""Running the tests on a model; a test that is finished is not run again."""

from __future__ import annotations

import hashlib
import inspect
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.chunks import TestStep, measure_tests
from locate.evaluation.evaluation import FILE, Evaluation, load_evaluation, write_table
from locate.evaluation.scores import LEVEL, Items, Score, Test
from locate.evaluation.tests import at_hand, choose_tests, limit_of, sample_items, wanted_tests
from locate.files import hash_of, read_json, strict
from locate.notebook import Rows
from locate.schema import EVALUATION_VERSION, library_version, locate_version
from locate.work import Executor, here

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

LIBRARIES = ("torch", "transformers", "lm-eval", "numpy", "pandas", "scipy")
RECEIPT = "receipt.json"
Found = TypeVar("Found")


def no_progress(test: str, done: float, total: int) -> None:
    """Report nothing."""


def evaluate(
    model: CausalModel | str = "mini",
    *,
    tests: Sequence[str | Test] | None = None,
    data: str | Path | None = None,
    sources: Mapping[str, str | Path] | None = None,
    limit: int | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    executor: Executor = here,
    step: TestStep = no_progress,
) -> Evaluation:
    """Judge bias and ability of a model.

    tests     names, or tests of your own (`locate.evaluation.scores.Test`); default: those whose items the package
              carries and, with `data`, each whose files are found there. The others are listed in meta["left_out"],
              with what they lack
    data      folder with data sets
    sources   test: its file or folder, or a data set on the Hugging Face hub, OWNER/NAME[:CONFIGURATION[:SPLIT]]
    limit     items of each test at most (BLiMP: of each paradigm), drawn with `seed` and named in the meta by a hash
    folder    where every test is kept as soon as it is finished; the same call goes on there after an interruption, and
              tests that were run there before belong to what is returned
    executor  where chunks of tests are measured (see `locate.workers.processes.Processes`); default: in this process
    step      progress (see `TestStep`)

    A model edited by locate carries a receipt of the words and templates it was edited on; tests that can tell them
    from others do.

    Raises LocateError for a test that is asked for and has no data, for two tests of one name, for a folder that holds
    another evaluation (other weights, items, limit, seed or version of locate), and for a model that was changed in
    memory where other processes are to measure it.
    """
    from locate.model.causal import load_causal

    model = load_causal(model) if isinstance(model, str) else model
    asked = wanted_tests(tests)
    for test in asked.values():
        limit_of(test, limit)
    places, left_out = choose_tests(asked, tests is not None, None if data is None else Path(data), sources or {})
    edited = edited_of(model)
    meta = starting_meta(model, edited, limit, seed, left_out)
    run = RunningEvaluation.claim(None if folder is None else Path(folder), meta, tuple(places))
    todo: list[tuple[Test, Items, dict[str, Any]]] = []
    for name, place in places.items():
        test = asked[name]
        with at_hand(test, place) as found:
            items = sample_items(test, found, limit_of(test, limit), seed)
            about = about_items(test, found, items, limit)
        table = run.finished(name, about)
        if table is None:
            todo.append((test, items, about))
        else:
            run.keep(name, about, table, scores_of(test, table, edited))
    given = [(test, items) for test, items, _ in todo]
    for number, table, seconds in measure_tests(model, given, executor, step):
        test, _, about = todo[number]
        run.keep(test.name, about | {"seconds": round(seconds, 3)}, table, scores_of(test, table, edited))
    if not run.scores:
        listed = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise LocateError(f"no test was run: {listed[:300]}")
    return run.evaluation()


def scores_of(test: Test, table: pd.DataFrame, edited: Mapping[str, Any] | None) -> Sequence[Score]:
    """The scores of a table; tests that take `edited` are given what was edited."""
    return test.score(table, **edited_argument(test.score, edited))


def edited_argument(function: Callable[..., Any], edited: Mapping[str, Any] | None) -> dict[str, Any]:
    """What was edited, as a keyword argument of a function that has it."""
    takes = edited is not None and "edited" in inspect.signature(function).parameters
    return {"edited": dict(edited or {})} if takes else {}


def edited_of(model: CausalModel) -> dict[str, list[str]] | None:
    """The words and templates that an edited model's receipt names; None for a model that was not edited.

    Raises LocateError for a receipt without them.
    """
    path = model.checkpoint.home / RECEIPT
    if not path.is_file():
        return None
    content = read_json(path)
    edited = content.get("edited") if isinstance(content, dict) else None
    lists = [edited.get(name) for name in ("words", "templates")] if isinstance(edited, dict) else [None]
    if not all(isinstance(each, list) and all(isinstance(word, str) for word in each) for each in lists):
        raise LocateError(f"{path}: expected an entry 'edited' with lists of 'words' and 'templates', got {edited!r}")
    return {name: list(edited[name]) for name in ("words", "templates")}  # type: ignore[index]


def starting_meta(
    model: CausalModel,
    edited: dict[str, list[str]] | None,
    limit: int | None,
    seed: int,
    left_out: dict[str, str],
) -> dict[str, Any]:
    """The content of evaluation.json before any test is run; a folder continues where `recipe` is the same."""
    weights = network_hash(model)
    return {
        "schema": EVALUATION_VERSION,
        "locate": locate_version(),
        "recipe": {
            "locate": locate_version(),
            "network_sha256": weights,
            "tokenizer_sha256": model.checkpoint.tokenizer_sha256,
            "dtype": model.dtype,
            **model.encoder.provenance(),
            "limit": limit,
            "seed": seed,
        },
        "model": model.provenance() | {"network_sha256": weights},
        "device": model.device,
        "threads": model.threads,
        "level": LEVEL,
        "edited": edited,
        "libraries": {name: library_version(name) for name in LIBRARIES} | {"python": platform.python_version()},
        "left_out": left_out,
        "tests": {},
    }


def network_hash(model: CausalModel) -> str:
    """sha256 of the parameters as they are in memory, which an edit may have changed since they were read.

    Stamps beside MLPs are included, whether they are there for a while or for good.
    """
    import torch

    from locate.model.stamp import stamp_tensors

    digest = hashlib.sha256()
    for name, tensor in sorted((model.network.state_dict() | stamp_tensors(model.network)).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def about_items(test: Test, found: Items, items: Items, limit: int | None) -> dict[str, Any]:
    """What evaluation.json says of a test's items: where they come from, which they are, and what was left out."""
    if not items.rows:
        raise LocateError(f"test {test.name!r} has no item in {', '.join(found.source)}: choose other data")
    return {
        "title": test.title,
        "kind": test.kind,
        "source": dict(items.source),
        "items": len(items),
        "of": len(found),
        "limit": limit_of(test, limit),
        "limit_is_for": "the test" if test.strata is None else "each stratum",
        "items_sha256": hash_of([row_as_json(row) for row in items.rows]),
        "skipped": dict(items.skipped),
    }


def row_as_json(value: Any) -> Any:
    """A row in types that JSON has, so that it can be hashed."""
    if is_dataclass(value) and not isinstance(value, type):
        return row_as_json(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): row_as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [row_as_json(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(row_as_json(item) for item in value)
    return value if isinstance(value, str | int | float | bool | None) else str(value)


@dataclass
class RunningEvaluation:
    """An evaluation while its tests are run; every test is on the disk as soon as it is finished.

    order  of the tests, whichever is finished first; others that were run in the folder before stand in front
    """

    folder: Path | None
    meta: dict[str, Any]
    order: tuple[str, ...]
    scores: dict[str, Sequence[Score]]
    tables: dict[str, pd.DataFrame]

    @staticmethod
    def claim(folder: Path | None, meta: dict[str, Any], order: tuple[str, ...]) -> RunningEvaluation:
        """Claim a folder: new, empty, or holding the same evaluation, whose finished tests are taken over.

        Raises LocateError when it holds something else, with both values of what differs.
        """
        if folder is None or not (folder / FILE).is_file():
            if folder is not None and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise LocateError(f"output {folder}: expected a new or empty folder, or one that holds an evaluation")
            return RunningEvaluation(folder, meta, order, {}, {})
        found = load_evaluation(folder)
        for key in meta["recipe"]:
            check_same(folder, key, found.meta["recipe"].get(key), meta["recipe"][key])
        meta["tests"] = dict(found.meta["tests"])
        return RunningEvaluation(folder, meta, order, {name: found.of(name) for name in found.tables}, found.tables)

    def finished(self, name: str, about: dict[str, Any]) -> pd.DataFrame | None:
        """The table of a test that was finished before, with the seconds it took; None for one that was not.

        Raises LocateError when it measured other items.
        """
        if self.folder is None or name not in self.tables:
            return None
        old = self.meta["tests"][name]
        check_same(self.folder, f"items_sha256 of {name}", old["items_sha256"], about["items_sha256"])
        about["seconds"] = old["seconds"]
        return self.tables[name]

    def keep(self, name: str, about: dict[str, Any], table: pd.DataFrame, scores: Sequence[Score]) -> None:
        """Add a finished test, and write it."""
        if self.folder is not None and name not in self.tables:
            write_table(self.folder, name, table)
        self.scores[name], self.tables[name] = tuple(scores), table
        self.meta["tests"][name] = about | {"rows": len(table)}
        if self.folder is not None:
            self.evaluation().save_scores(self.folder)

    def evaluation(self) -> Evaluation:
        """What was found so far."""
        scores = Rows(score for some in self.ordered(self.scores).values() for score in some)
        meta: Any = strict(self.meta | {"tests": self.ordered(self.meta["tests"])})
        return Evaluation(dict(meta), scores, self.ordered(self.tables))

    def ordered(self, found: Mapping[str, Found]) -> dict[str, Found]:
        """What was found of tests, in their order."""
        places = {name: place for place, name in enumerate(self.order)}
        return dict(sorted(found.items(), key=lambda each: places.get(each[0], -1)))


def check_same(folder: Path, key: str, old: object, new: object) -> None:
    """Raise LocateError where a folder's value is not this evaluation's."""
    if old != new:
        raise LocateError(
            f"output folder {folder} holds another evaluation: its {key} is {old!r}, this one's is {new!r}: choose "
            "another folder, or delete that one"
        )
