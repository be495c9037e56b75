"""Tests of a model shared through a folder, and stopped in the middle of a test: chunks are kept, and read again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
from test_evaluate_shared import LIMIT, WORDS, Word, measure_words, own, same
from typer.testing import CliRunner

from locate.claims import Claims, this_process
from locate.cli.app import application
from locate.cli.sharing import threads_of, threads_of_run
from locate.errors import LocateError
from locate.evaluation import occupations
from locate.evaluation.evaluation import load_evaluation
from locate.evaluation.folder import EvaluationFolder, gather_evaluation, source_sha256
from locate.evaluation.run import evaluate
from locate.model import products
from locate.model.causal import load_causal
from locate.model.products import multiplied_by, product_library
from locate.parts import part_name
from locate.work import here
from locate.workers.shards import Shard

TESTS = ("occupations", "generation")
MANY = tuple(Word(f"{word} {number}") for word in WORDS for number in range(6))
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from test_evaluation_shards import LIMIT, MANY, TESTS
from test_evaluate_shared import own
from locate.evaluation import occupations
from locate.evaluation.run import evaluate
from locate.model.causal import load_causal
from locate.workers.shards import Shard
occupations.TEST = replace(occupations.TEST, chunk=16)
model = load_causal({model!r}, device="cpu", bos="yes", threads=1)
print("ready", flush=True)
evaluate(model, tests=[*TESTS, own(MANY)], limit=LIMIT, folder={output!r}, executor=Shard({number}, 3))
"""


@pytest.fixture(scope="module")
def model(folder_of):
    """A random GPT-2 in a folder, computed with one thread."""
    return load_causal(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(occupations, "TEST", replace(occupations.TEST, chunk=16))


class Stop(Exception):
    """Ends an evaluation in a test."""


def stopping_after(count: int, executor=here):
    """An executor that stops when so many chunks are done."""
    return (
        StoppingShard(executor.number, executor.count, stop=count) if isinstance(executor, Shard) else Stopping(count)
    )


class Stopping:
    """The same for this process alone."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __call__(self, missing):
        yield from stopped(here(missing), self.count)


@dataclass(frozen=True)
class StoppingShard(Shard):
    """The same for a shard."""

    stop: int = 0

    def __call__(self, missing):
        yield from stopped(super().__call__(missing), self.stop)


def stopped(found, count):
    """So many chunks, and a stop."""
    for done, each in enumerate(found, 1):
        yield each
        if done == count:
            raise Stop


def counted(words: list[str]):
    """A test of many words, in chunks of three, that notes those that it measures."""

    def measure(model, items, step):
        words.extend(row.text for row in items.rows)
        return measure_words(model, items, step)

    return own(MANY, measure=measure)


def begin(model, output: Path, number: int) -> subprocess.Popen[bytes]:
    """A shard as a process of its own."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), model=str(model.name), output=str(output), number=number)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_shards_of_which_one_is_killed_find_what_one_process_does(model, tmp_path):
    output = tmp_path / "judged"
    shards = [begin(model, output, number) for number in range(3)]
    shards[0].stdout.readline()
    time.sleep(random.Random(0).uniform(0, 0.3))
    shards[0].kill()
    ends = [each.communicate(timeout=240) for each in shards]
    assert [each.returncode for each in shards[1:]] == [0, 0], [end[1].decode()[-2000:] for end in ends]
    chunks = sorted(path.relative_to(output / "parts") for path in (output / "parts").rglob("part-*.parquet"))
    assert [path.parts[0] for path in chunks] == ["generation"] + ["occupations"] * 3 + ["own"] * 14
    found = gather_evaluation(output)
    same(found, evaluate(model, tests=[*TESTS, own(MANY)], limit=LIMIT))
    assert {each.name for each in output.iterdir()} == {"evaluation.json", "scores.csv", "items"}


def test_a_stopped_test_goes_on_with_the_chunks_that_are_missing(model, tmp_path):
    first, second = [], []
    with pytest.raises(Stop):
        evaluate(model, tests=[counted(first)], folder=tmp_path, executor=stopping_after(5))
    assert not (tmp_path / "evaluation.json").exists()
    assert len(first) == 15
    told = []
    found = evaluate(model, tests=[counted(second)], folder=tmp_path, step=lambda *each: told.append(each[1:]))
    assert len(second) == len(MANY) - 15
    assert not set(first) & set(second)
    assert told[0] == (15, len(MANY)), "what is kept counts as done, at once"
    assert told[-1] == (len(MANY), len(MANY))
    assert found.meta["tests"]["own"]["seconds"] > 0
    assert list(found.tables["own"]) == ["word", "she"]
    same(found, evaluate(model, tests=[counted([])]))
    assert {each.name for each in tmp_path.iterdir()} == {"evaluation.json", "scores.csv", "items"}
    evaluate(model, tests=[counted(second)], folder=tmp_path)
    assert len(second) == len(MANY) - 15, "a finished test is not measured again"


def test_a_damaged_chunk_is_measured_again(model, tmp_path):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5))
    chunk = tmp_path / "parts" / "own" / f"{part_name(2)}.parquet"
    chunk.write_bytes(chunk.read_bytes()[:100])
    same(evaluate(model, tests=[own(MANY)], folder=tmp_path), evaluate(model, tests=[own(MANY)]))


def measure_otherwise(model, items, step) -> pd.DataFrame:
    """The same, by another function."""
    return measure_words(model, items, step)


@pytest.mark.parametrize(
    ("again", "said"),
    [
        ({"limit": 20}, "limit is None, this one's is 20"),
        ({"seed": 1}, "seed is 0, this one's is 1"),
        ({"test": own(MANY, chunk=4)}, "chunks is 14, this one's is 11"),
    ],
    ids=["items", "seed", "chunks"],
)
def test_chunks_of_something_else_are_refused_with_both_values(model, tmp_path, again, said):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()}
    test, given = again.get("test", own(MANY)), {key: value for key, value in again.items() if key != "test"}
    with pytest.raises(LocateError, match=rf"parts of another test 'own': its .*{said}.*or delete those parts"):
        evaluate(model, tests=[test], folder=tmp_path, **given)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*") if path.is_file()} == before


def test_chunks_of_another_text_of_a_function_are_refused_with_the_way_out(model, tmp_path):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5))
    with pytest.raises(LocateError, match=r"before the code of test 'own' changed: delete that folder"):
        evaluate(model, tests=[own(MANY, measure=partial(measure_otherwise))], folder=tmp_path)
    assert len(evaluate(model, tests=[own(MANY, measure=partial(measure_words))], folder=tmp_path).scores) == 1


def test_a_test_that_stopped_before_its_first_chunk_is_in_nobodys_way(model, tmp_path):
    def refuse(missing):
        raise Stop

    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=refuse)
    assert len(evaluate(model, tests=[own(MANY)], folder=tmp_path, limit=2, seed=1).tables["own"]) == 2


def test_what_failed_before_it_began_leaves_no_folder(model, tmp_path):
    with pytest.raises(LocateError, match="has no item"):
        evaluate(model, tests=[own(())], folder=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(LocateError, match="has no item"):
        evaluate(model, tests=[own(())], folder=tmp_path / "empty")
    assert (tmp_path / "empty").is_dir(), "it was there before"


@pytest.mark.parametrize("executor", [here, Shard(0, 2)], ids=["alone", "a shard"])
def test_all_chunks_are_computed_alike(model, tmp_path, executor):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5, executor))
    assert threads_of(None, None, "2/2", tmp_path) == threads_of_run(tmp_path) == 1
    other = replace(model, threads=3)
    with pytest.raises(
        LocateError, match=r"was begun with threads 1, here it is 3: all of it must be.*, or delete .*parts"
    ):
        evaluate(other, tests=[own(MANY)], folder=tmp_path, executor=executor)
    found = evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=executor)
    assert found.meta["tests"]["own"]["threads"] == 1


@pytest.mark.parametrize("name", ["../../victim", "..", "a/b", "a\\b", ".programs.json", "", "x" * 101])
def test_a_name_that_no_file_can_have_is_refused(model, tmp_path, name):
    (tmp_path / "victim").mkdir()
    with pytest.raises(LocateError, match="its name becomes that of a file"):
        evaluate(model, tests=[replace(own(), name=name)], folder=tmp_path / "one" / "two")
    assert (tmp_path / "victim").is_dir()


@pytest.mark.parametrize("content", ["null", "[]", "{}", '{"chunks', ""])
@pytest.mark.parametrize("file", ["about.json", ".programs.json"])
def test_a_damaged_description_is_told_with_the_way_out(model, tmp_path, file, content):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5))
    (described,) = (tmp_path / "parts").rglob(file)
    described.write_text(content)
    with pytest.raises(LocateError, match=rf"is damaged: delete {described.parent}, and"):
        evaluate(model, tests=[own(MANY)], folder=tmp_path)


@pytest.mark.parametrize("path", ["own/about.json", ".programs.json"])
def test_chunks_of_which_nobody_knows_what_they_are_are_measured_again(model, tmp_path, path):
    words, asked = [], {"folder": tmp_path, "limit": LIMIT}
    evaluate(model, tests=["generation"], **asked)
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], executor=stopping_after(5), **asked)
    (tmp_path / "parts" / path).unlink()
    evaluate(model, tests=[counted(words)], **asked)
    assert len(words) == LIMIT


def test_one_process_sweeps_up_what_dead_ones_left(model, tmp_path):
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY)], folder=tmp_path, executor=stopping_after(5, Shard()))
    dead = [tmp_path / name for name in ("shard-0a.0.claim", "scores-own.0.claim", "tables.3.claim")]
    owner = this_process() | {"process": 2**22 + 1, "beat": 0}
    for path in dead:
        path.write_text(json.dumps(owner))
    (tmp_path / ".scores.00.partial.csv").write_text("half")
    evaluate(model, tests=[own(MANY)], folder=tmp_path)
    assert {each.name for each in tmp_path.iterdir()} == {"evaluation.json", "scores.csv", "items"}


def test_files_of_others_are_nobodys_evaluation(model, tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "mine.txt").write_text("mine")
    for executor in (here, Shard()):
        with pytest.raises(LocateError, match="expected a new or empty folder, or one that holds an evaluation"):
            evaluate(model, tests=[own()], folder=tmp_path, executor=executor)
    assert (tmp_path / "parts" / "mine.txt").read_text() == "mine"
    assert [each.name for each in tmp_path.iterdir()] == ["parts"]


@pytest.mark.parametrize(
    ("given", "said"),
    [(None, "measured NoneType: expected a table"), (pd.DataFrame({"x": [1, "a"]}), "values of one type each")],
    ids=["no table", "types"],
)
def test_what_cannot_be_kept_is_told_in_a_line(model, tmp_path, given, said):
    test = own(MANY[:2], measure=lambda model, items, step: given)
    with pytest.raises(LocateError, match=said):
        evaluate(model, tests=[test], folder=tmp_path)


@pytest.mark.parametrize("executor", [here, Shard(1, 2)], ids=["alone", "a shard"])
def test_all_chunks_are_computed_with_the_library_of_the_first(model, tmp_path, monkeypatch, executor):
    """Another process's trial of both libraries may fall out the other way."""
    seen = []

    def measure(model, items, step):
        seen.append(product_library(model.dtype, model.device, model.threads))
        return measure_words(model, items, step)

    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: True)
    first = Shard(0, 2) if isinstance(executor, Shard) else here
    with pytest.raises(Stop):
        evaluate(model, tests=[own(MANY, measure=measure)], folder=tmp_path, executor=stopping_after(5, first))
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: False)
    evaluate(model, tests=[own(MANY, measure=measure)], folder=tmp_path, executor=executor)
    assert seen == ["oneDNN"] * 14
    other = evaluate(model, tests=[own(MANY, measure=measure)])
    assert seen[14:] == ["torch"] * 14
    assert len(other.tables["own"]) == len(MANY)


@pytest.mark.parametrize("executor", [here, Shard(1, 2)], ids=["alone", "a shard"])
def test_a_folder_that_one_process_fills_is_nobody_elses(model, tmp_path, executor):
    with (
        EvaluationFolder.open(tmp_path, shared=False).filled(),
        pytest.raises(LocateError, match=f"is being filled by process {os.getpid()}"),
    ):
        evaluate(model, tests=["generation"], limit=2, folder=tmp_path, executor=executor)


def test_gather_says_what_is_missing_and_who_has_it(model, tmp_path):
    with pytest.raises(LocateError, match="holds no evaluation"):
        gather_evaluation(tmp_path)
    result = CliRunner().invoke(application(), ["gather", str(tmp_path)])
    assert "expected a folder that the shards of `trace` or `evaluate` have begun to fill" in str(result.exception)
    asked = {"tests": ["generation", own(MANY)], "limit": LIMIT, "folder": tmp_path}
    with pytest.raises(Stop):
        evaluate(model, executor=stopping_after(5, Shard()), **asked)
    before = sorted(tmp_path.rglob("*"))
    with (
        Claims(tmp_path / "parts" / "own").take(part_name(13)),
        pytest.raises(LocateError, match=rf"own: 4 of 14 chunks; being measured: chunk 14 by process {os.getpid()}"),
    ):
        gather_evaluation(tmp_path)
    assert sorted(tmp_path.rglob("*")) == before
    with pytest.raises(LocateError, match=r"own: 4 of 14 chunks: run its shards again.*or delete a test in .*parts"):
        gather_evaluation(tmp_path)
    with EvaluationFolder.open(tmp_path, shared=True).filled(), pytest.raises(LocateError, match="wait for process"):
        gather_evaluation(tmp_path)
    evaluate(model, executor=Shard(), **asked)
    with EvaluationFolder.open(tmp_path, shared=True).filled(), pytest.raises(LocateError, match="is being filled by"):
        gather_evaluation(tmp_path)
    assert list(gather_evaluation(tmp_path).tables) == ["generation", "own"]
    same(load_evaluation(tmp_path), evaluate(model, **asked | {"folder": None}))


def test_one_shard_scores_a_test_and_the_others_wait_for_it(model, tmp_path):
    scored = []

    def score(table):
        scored.append(threading.current_thread().name)
        return own().score(table)

    test = replace(own(MANY), score=score)
    asked = {"tests": [test], "folder": tmp_path, "executor": Shard()}
    claim = Claims(tmp_path).take("scores-own")
    late = threading.Timer(1.0, claim.release)
    late.start()
    found = evaluate(model, **asked)
    assert not late.is_alive(), "it went on although another process was scoring"
    assert len(scored) == 1
    assert len(evaluate(model, **asked).scores) == len(found.scores)
    assert len(scored) == 1, "a shard that comes later takes what is there"


def test_the_same_on_the_command_line(model, folder_of, tmp_path, monkeypatch):
    monkeypatch.setattr(occupations, "TEST", replace(occupations.TEST, chunk=1024))
    output, runner = tmp_path / "a b", CliRunner()
    command = [
        "evaluate",
        str(folder_of("gpt2")),
        "--tests",
        "occupations,generation",
        "--limit",
        "4",
        "-o",
        str(output),
    ]
    monkeypatch.setattr(sys, "argv", ["locate-bias", *command, "--slurm", "2"])
    script = runner.invoke(application(), [*command, "--slurm", "2"], catch_exceptions=False).stdout
    assert "sbatch --time=2:00:00 evaluate.sh" in script
    assert script.splitlines()[-1].endswith(f"-o '{output}' --threads 1 --shard auto")
    assert not output.exists()
    with multiplied_by("torch"):
        shard = runner.invoke(application(), [*command, "--threads", "1", "--shard", "1/2"], catch_exceptions=False)
    assert f"locate-bias gather '{output}'" in shard.stdout
    refused = runner.invoke(application(), ["gather", str(output), "--metric", "prob_diff"])
    assert isinstance(refused.exception, LocateError)
    assert "holds an evaluation: leave the options of traces out" in str(refused.exception)
    done = runner.invoke(application(), ["gather", str(output), "--formats", "html"], catch_exceptions=False)
    assert "occupations" in done.stdout
    assert (output / "figures" / "evaluation.html").is_file()
    told = runner.invoke(application(), ["gather", str(output), "--formats", "html", "--json"], catch_exceptions=False)
    assert set(json.loads(told.stdout)["tests"]) == {"occupations", "generation"}


def test_a_function_without_a_text_has_no_hash():
    assert source_sha256(len) is None
    assert source_sha256(measure_words) != source_sha256(measure_otherwise)
