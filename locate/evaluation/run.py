"""Running the tests on a model; a test that is finished is not run again."""

from __future__ import annotations

import hashlib
import inspect
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.chunks import TestStep, measure_tests
from locate.evaluation.evaluation import Evaluation
from locate.evaluation.folder import EvaluationFolder, RunningEvaluation
from locate.evaluation.scores import LEVEL, Items, Score, Test
from locate.evaluation.tests import at_hand, choose_tests, limit_of, sample_items, wanted_tests
from locate.files import hash_of, read_json
from locate.parts import Parts
from locate.schema import EVALUATION_VERSION, library_version, locate_version
from locate.work import Executor, here
from locate.workers.shards import Shard

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

LIBRARIES = ("torch", "transformers", "lm-eval", "numpy", "pandas", "scipy")
RECEIPT = "receipt.json"


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
    folder    where every chunk of a test is kept as soon as it is measured; the same call goes on there after an
              interruption, and tests that were run there before belong to what is returned
    executor  where chunks of tests are measured (see `locate.workers.processes.Processes`); default: in this process.
              With a `Shard` others fill the same folder, and `gather_evaluation` deletes what they kept for one another
    step      progress (see `TestStep`)

    A model edited by locate carries a receipt of the words and templates it was edited on; tests that can tell them
    from others do.

    Raises LocateError for a test that is asked for and has no data, for two tests of one name, for a folder that holds
    another evaluation (other weights, items, limit, seed or version of locate) or that another process fills alone, and
    for a model that was changed in memory where other processes are to measure it.
    """
    from locate.model.causal import load_causal

    model = load_causal(model) if isinstance(model, str) else model
    asked = wanted_tests(tests)
    for test in asked.values():
        limit_of(test, limit)
    places, left_out = choose_tests(asked, tests is not None, None if data is None else Path(data), sources or {})
    edited = edited_of(model)
    meta = starting_meta(model, edited, limit, seed, left_out)
    shared = isinstance(executor, Shard)
    run = RunningEvaluation(
        None if folder is None else EvaluationFolder.open(Path(folder), shared=shared), meta, tuple(places)
    )
    with run.filled():
        todo: list[Asked] = []
        for test, place in ((asked[name], place) for name, place in places.items()):
            one = read_items(test, place, limit, seed)
            table = run.finished(test.name, one.about)
            if table is None:
                todo.append(one)
            elif not shared:
                run.keep(test.name, one.about, table, scores_of(test, table, edited))
        run_missing(model, todo, run, edited, executor, step)
    if not run.scores:
        listed = "; ".join(f"{name}: {why}" for name, why in left_out.items())
        raise LocateError(f"no test was run: {listed[:300]}")
    return run.evaluation()


@dataclass(frozen=True)
class Asked:
    """A test with its items, and what evaluation.json says of them."""

    test: Test
    items: Items
    about: dict[str, Any]


def read_items(test: Test, place: Path | str, limit: int | None, seed: int) -> Asked:
    """A test with the items that are asked for."""
    with at_hand(test, place) as found:
        items = sample_items(test, found, limit_of(test, limit), seed)
        return Asked(test, items, about_items(test, found, items, limit))


def run_missing(
    model: CausalModel,
    todo: Sequence[Asked],
    run: RunningEvaluation,
    edited: Mapping[str, Any] | None,
    executor: Executor,
    step: TestStep,
) -> None:
    """Measure tests, and score and keep each as soon as it is measured."""
    folder, waiting = run.folder, []

    def keeps(place: int, chunks: int) -> Parts:
        assert folder is not None
        return folder.parts(todo[place].test, todo[place].about, run.meta, chunks)

    given = [(one.test, one.items) for one in todo]
    with computing_alike(model, run) if todo else nullcontext():
        for place, table, seconds in measure_tests(model, given, executor, step, None if folder is None else keeps):
            test, about = todo[place].test, todo[place].about | {"seconds": round(seconds, 3), "threads": model.threads}
            settle = partial(run.settle, test.name, about, table, partial(scores_of, test, table, edited))
            if not settle():
                waiting.append(settle)
    run.settle_all(waiting)


@contextmanager
def computing_alike(model: CausalModel, run: RunningEvaluation) -> Iterator[None]:
    """Inside the block one library computes all matrix products: that of the chunks which are kept already."""
    from locate.model.products import multiplied_by, product_library

    def choose() -> str:
        return product_library(model.dtype, model.device, model.threads)

    with multiplied_by(choose() if run.folder is None else run.folder.agreed(run.meta, choose)):
        yield


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
            "dtype": model.dtype,
            "network_sha256": weights,
            "tokenizer_sha256": model.checkpoint.tokenizer_sha256,
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
