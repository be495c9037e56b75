"""Tests of a model shared by several processes: the numbers of one process, bit for bit, whichever of them die."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from locate import cli
from locate.cli.judging import progress
from locate.errors import LocateError
from locate.evaluation import biaske, occupations, scores
from locate.evaluation.chunks import chunks_of
from locate.evaluation.evaluation import load_evaluation
from locate.evaluation.run import evaluate
from locate.evaluation.scores import Items, Score, mean_with_interval
from locate.model.causal import load_causal
from locate.model.likelihood import next_log_probs
from locate.model.products import multiplied_by
from locate.workers.processes import Processes

LIMIT = 40
WORDS = ("nurse", "police officer", "doctor", "man", "secretary", "engineer", "librarian")


@dataclass(frozen=True)
class Word:
    """An item of a test of the user's own; measuring it ends the process once where it holds a file that is not there.

    home  the process that is never ended
    """

    text: str
    marker: str = ""
    home: int = 0


def measure_words(model, items: Items, step) -> pd.DataFrame:
    """One row a word: log-probability of she after it."""
    step(1, 2)
    for row in items.rows:
        if row.marker and row.home != os.getpid() and not Path(row.marker).exists():
            Path(row.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    found = next_log_probs(model, [f"The {row.text} said that" for row in items.rows], [" she"])
    step(2, 2)
    return pd.DataFrame({"word": [row.text for row in items.rows], "she": found[:, 0]})


def measure_twice(model, items: Items, step) -> pd.DataFrame:
    """Two rows a word."""
    return pd.concat([measure_words(model, items, step)] * 2)


def score_words(table: pd.DataFrame) -> list[Score]:
    """Mean log-probability of she."""
    mean = mean_with_interval(table["she"].to_numpy(), table["word"].to_numpy())
    return [Score("own", "she", *mean, "nats", n=len(table), groups=table["word"].nunique())]


def own(rows: tuple[Word, ...] = tuple(map(Word, WORDS)), **more) -> scores.Test:
    """A test of the user's own, with strata, in chunks of three."""
    given = {"measure": measure_words, "chunk": 3, "strata": lambda row: str(" " in row.text)} | more
    return scores.Test("own", "she after words", "bias", lambda path: Items(rows), score=score_words, **given)


TESTS = ("occupations", "generation", "biaske")


@pytest.fixture(scope="module")
def model(folder_of):
    """A random GPT-2 in a folder, computed with one thread, as each of several processes does."""
    return load_causal(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    for module in (occupations, biaske):
        monkeypatch.setattr(module, "TEST", replace(module.TEST, chunk=16))


@pytest.fixture(scope="module")
def two():
    """Two processes that tests share."""
    with Processes(2) as executor:
        yield executor


@pytest.fixture
def whole(model):
    """What this process finds."""
    return evaluate(model, tests=[*TESTS, own()], limit=LIMIT)


def same(found, whole) -> None:
    """Whether two evaluations are the same, bit for bit, whatever their seconds."""
    assert list(found.tables) == list(whole.tables) == list(found.meta["tests"])
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table, check_exact=True)
    assert found.frame().equals(whole.frame())
    about, wanted = (
        {name: each | {"seconds": 0} for name, each in one.meta["tests"].items()} for one in (found, whole)
    )
    assert about == wanted


def backwards(missing):
    """An executor that begins with the last piece."""
    for number in reversed(missing.numbers):
        yield number, missing.do(missing.pieces[number], lambda count: None)


def test_two_processes_find_what_one_does(model, whole, two, tmp_path):
    said = []
    found = evaluate(
        model, tests=[*TESTS, own()], limit=LIMIT, executor=two, folder=tmp_path, step=lambda *each: said.append(each)
    )
    same(found, whole)
    same(load_evaluation(tmp_path), whole)
    assert {each[0]: each[1:] for each in said} == {
        name: (about["items"], about["items"]) for name, about in whole.meta["tests"].items()
    }


def test_a_process_that_is_killed_loses_nothing(model, two, tmp_path):
    rows = tuple(Word(each, str(tmp_path / "killed") if each == "man" else "", os.getpid()) for each in WORDS)
    said = []
    before = [worker.child.pid for worker in two.workers]
    found = evaluate(model, tests=[own(rows), "occupations"], limit=LIMIT, executor=two, step=lambda *a: said.append(a))
    assert (tmp_path / "killed").exists()
    assert len(set(before) - {worker.child.pid for worker in two.workers}) == bool(before)
    same(found, evaluate(model, tests=[own(rows), "occupations"], limit=LIMIT))
    assert [each for each in said if each[0] == "own"][-1] == ("own", 7, 7)


def test_chunks_are_the_same_whoever_takes_them_and_in_what_order(model, whole):
    same(evaluate(model, tests=[*TESTS, own()], limit=LIMIT, executor=backwards), whole)


def test_who_shares_the_work_begins_with_the_longest_chunk(model):
    begun = []

    def noting(missing):
        begun.extend((missing.pieces[number][0], len(missing.pieces[number]) - 1) for number in missing.longest_first())
        yield from backwards(missing)

    evaluate(model, tests=["occupations", own(), "generation"], limit=LIMIT, executor=noting)
    assert begun[0] == (2, LIMIT), "a whole test, whose length nobody knows"
    assert [place for place, _ in begun[1:]] == [0, 0, 0, 1, 1, 1]


def test_the_rows_of_chunks_are_those_of_the_test_in_the_order_of_its_items(model):
    items = occupations.read()
    items = replace(items, rows=items.rows[:: len(items) // LIMIT])
    pieces = chunks_of(0, occupations.TEST, items)
    assert [len(piece) - 1 for piece in pieces] == [13, 14, 14]
    assert sorted(each for piece in pieces for each in piece[1:]) == list(range(len(items)))
    test = replace(occupations.TEST, read=lambda path: items, name="few")
    assert pieces[0][1:] != tuple(range(13)), "the longest items come first"
    chunked, together = (evaluate(model, tests=[replace(test, chunk=size)]).tables["few"] for size in (16, 0))
    pd.testing.assert_frame_equal(chunked, together, rtol=1e-5)


def test_a_test_whose_rows_are_not_its_items_has_no_chunks(model):
    with pytest.raises(LocateError, match=r"'own' has chunks of 3 items, and measured [46] rows of [23] items"):
        evaluate(model, tests=[own(measure=measure_twice)])
    assert len(evaluate(model, tests=[own(measure=measure_twice, chunk=0)]).tables["own"]) == 14


def test_a_stop_keeps_what_is_finished_and_the_order_stays_that_of_the_tests(model, whole, two, tmp_path):
    def stop(test: str, done: float, total: int) -> None:
        if test == "generation" and (tmp_path / "items").is_dir():
            raise KeyboardInterrupt

    asked = {"tests": ["generation", own(), "occupations", "biaske"], "limit": LIMIT, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        evaluate(model, executor=backwards_but_telling, step=stop, **asked)
    kept = load_evaluation(tmp_path)
    assert list(kept.tables) == ["own", "occupations", "biaske"]
    calls = []
    found = evaluate(model, executor=two, step=lambda *each: calls.append(each[0]), **asked)
    assert set(calls) == {"generation"}
    assert list(found.tables) == ["generation", "own", "occupations", "biaske"]
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(found.tables[name], table, check_exact=True)
    assert found.frame()["test"].drop_duplicates().tolist() == list(found.tables)


def backwards_but_telling(missing):
    """The same, with progress."""
    for number in reversed(missing.numbers):
        yield number, missing.do(missing.pieces[number], lambda count, number=number: missing.count(number, count))


def test_a_model_that_was_changed_in_memory_is_not_judged_from_its_files(folder_of):
    changed = load_causal(str(folder_of("gpt2")), device="cpu", threads=1)
    before = changed.identity()
    with torch.no_grad():
        next(iter(changed.network.parameters()))[0, 0] += 1
    assert changed.identity() != before
    with Processes(1) as executor, pytest.raises(LocateError, match=r"in memory is not the one in its files.*save it"):
        evaluate(changed, tests=["generation"], limit=2, executor=executor)


def test_a_test_that_other_processes_cannot_read_is_refused(model, two):
    hidden = own(measure=lambda model, items, step: measure_words(model, items, step))
    with pytest.raises(LocateError, match=r"'evaluation' cannot be sent to other processes.*do it in this one"):
        evaluate(model, tests=[hidden], executor=two)


@pytest.mark.parametrize("library", ["torch", "oneDNN"])
def test_other_processes_are_told_the_library_of_products(model, library):
    told = []

    def ask(missing):
        told.append(missing.products)
        return iter(())

    with multiplied_by(library), pytest.raises(LocateError, match="no test was run"):
        evaluate(model, tests=["generation"], limit=2, executor=ask)
    assert told == [library]


def test_progress_names_the_tests_that_are_under_way():
    lines = []

    class Steps:
        def counted(self, what, part):
            return lambda done, of: lines.append((what, part, done, of))

    step = progress(Steps())
    for each in (("a", 1, 4), ("b", 0.5, 2), ("a", 4, 4), ("b", 2, 2), ("c", 1, 3)):
        step(*each)
    assert lines == [
        ("a", "this test", 1, 4),
        ("a, b", "these tests", 1.5, 6),
        ("b", "this test", 0.5, 2),
        ("b", "this test", 2, 2),
        ("c", "this test", 1, 3),
    ]


def test_jobs_on_the_command_line(folder_of, model, tmp_path, monkeypatch, capsys):
    words = ["evaluate", str(folder_of("gpt2")), "--tests", "occupations,biaske", "--limit", str(LIMIT)]
    more = [
        "--bos",
        "yes",
        "--device",
        "cpu",
        "--formats",
        "html",
        "--json",
        "--jobs",
        "2",
        "-o",
        str(tmp_path / "out"),
    ]
    monkeypatch.setattr(sys, "argv", ["locate-bias", *words, *more])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code in (None, 0)
    out, err = capsys.readouterr()
    assert "biaske" in err
    alone = evaluate(model, tests=["occupations", "biaske"], limit=LIMIT)
    assert json.loads(out)["scores"] == alone.as_json()["scores"]
    assert json.loads(out)["threads"] == 1
    same(load_evaluation(tmp_path / "out"), alone)
