"""Chunks in several processes: the rows of one process, bit for bit, whichever of them die."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pandas as pd
import psutil
import pytest
import torch
from bare import job_of

from locate.errors import LocateError
from locate.model.bits import bits_of
from locate.model.loading import load
from locate.model.products import multiplied_by
from locate.prompts import occupation_pairs
from locate.study.controls import Controls
from locate.study.trace import trace
from locate.tracing import stage as stages
from locate.tracing.corrupt import Swap
from locate.tracing.measure import Loop
from locate.tracing.models import opening_of
from locate.tracing.plan import Map
from locate.tracing.progress import Pace
from locate.workers.jobs import check_jobs
from locate.workers.processes import TRIES, Processes

PROMPTS = occupation_pairs("anti", templates_each=1).first(12)
MAP = Map(("mlp_out", "attn_out"), roles=("subject_last", "last"))
FEW = Controls(sites=1, pairs=8, sets=3)
CHEAP = replace(FEW, random_weights=False)


@pytest.fixture(scope="module")
def model(folder_of):
    """A random GPT-2 in a folder, computed with one thread, as each of several processes does."""
    return load(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(stages, "CHUNK_PAIRS", 2)


@pytest.fixture(scope="module")
def two():
    """Two processes that tests share."""
    with Processes(2) as executor:
        yield executor


@pytest.fixture(scope="module")
def whole(model):
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "CHUNK_PAIRS", 2)
        return trace(model, PROMPTS, MAP, controls=FEW)


def workers() -> list[psutil.Process]:
    """The workers of this process."""
    found = []
    for each in psutil.Process().children():
        try:
            if "locate.workers.worker" in each.cmdline():
                found.append(each)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def plain(table: pd.DataFrame) -> pd.DataFrame:
    """A table without categories."""
    labels = table.select_dtypes("category").columns
    return table.astype(dict.fromkeys(labels, "str")).reset_index(drop=True)


def same(found, whole) -> None:
    """Whether two runs have the same rows, bit for bit; the first may lack the controls of random weights."""
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    names = found.controls["control"].unique()
    rows = whole.controls[whole.controls["control"].isin(names)]
    pd.testing.assert_frame_equal(plain(found.controls), plain(rows), check_exact=True)
    assert len(names) >= 3


def test_the_rows_are_those_of_one_process(model, whole, two, tmp_path):
    done = []
    found = trace(
        model, PROMPTS, MAP, controls=FEW, executor=two, output=tmp_path,
        progress=lambda each: done.append((each.stage, each.done, each.planned)),
    )  # fmt: skip
    same(found, whole)
    last = {stage: (count, planned) for stage, count, planned in done}
    assert all(count == planned for count, planned in last.values())
    assert "control: random weights" in last
    assert len(workers()) == 2
    assert not (tmp_path / "parts").exists()


@contextmanager
def killing(times: int, seed: int) -> Iterator[list[int]]:
    """Kills workers of this process, one at a time, at random moments."""
    rng, killed, over = random.Random(seed), [], threading.Event()

    def kill() -> None:
        while len(killed) < times and not over.wait(rng.uniform(0.05, 1.0)):
            alive = workers()
            if alive:
                chosen = rng.choice(alive)
                chosen.send_signal(rng.choice([signal.SIGKILL, signal.SIGTERM]))
                killed.append(chosen.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_workers_that_are_killed_at_random_lose_nothing(model, whole, monkeypatch, tmp_path):
    monkeypatch.setattr("locate.workers.processes.TRIES", 1000)
    before = len(workers())
    with Processes(2) as executor:
        rows, begun = [], []
        job = job_of(model, PROMPTS.first(2), MAP)
        loop = Loop(model, job.settings, None, executor, Pace((), None), [job])
        missing = loop.missing(job, [0], None)
        missing = replace(missing, advance=rows.append, begin=lambda: begun.append(sum(rows)))
        ((number, table),) = executor(missing)
        assert (number, len(table), sum(rows)) == (0, job.planned, job.planned)
        assert begun == [0], "getting ready counts as measuring"
        with killing(6, seed=0) as killed:
            rounds = 0
            while len(killed) < 3:
                same(
                    trace(model, PROMPTS, MAP, controls=CHEAP, executor=executor, output=tmp_path / str(rounds)), whole
                )
                rounds += 1
        assert len(workers()) <= before + 2
    assert len(workers()) <= before
    assert list(tmp_path.rglob("*.partial*")) == []


def test_a_chunk_that_always_ends_its_process_is_given_up(model, monkeypatch):
    """As where the machine's memory killer ends whatever measures it."""
    started, before = [], set(workers())

    def start(self: Processes) -> None:
        begin(self)
        started.append(self.workers[-1].child.pid)
        os.kill(started[-1], signal.SIGKILL)

    begin = Processes.start
    monkeypatch.setattr(Processes, "start", start)
    with (
        Processes(1) as executor,
        pytest.raises(
            LocateError, match=rf"ended its process {TRIES} times, at last by signal 9 \(SIGKILL\).*fewer --jobs"
        ),
    ):
        trace(model, PROMPTS, MAP, controls=None, executor=executor)
    assert len(started) == TRIES
    assert set(workers()) <= before


def test_what_is_kept_when_a_run_stops_is_resumed_and_what_is_damaged_measured_again(model, whole, two, tmp_path):
    class Stop(Exception):
        pass

    def stop(found) -> None:
        if found.stage == "map" and found.done == found.planned:
            raise Stop

    with pytest.raises(Stop):
        trace(model, PROMPTS, MAP, controls=CHEAP, executor=two, output=tmp_path, progress=stop)
    parts = sorted((tmp_path / "parts" / "map").glob("part-*.parquet"))
    assert len(parts) >= 4, "what was measured is not kept"
    parts[0].write_bytes(parts[0].read_bytes()[:-100])
    parts[1].write_bytes(b"")
    parts[2].write_bytes(os.urandom(2000))
    same(trace(model, PROMPTS, MAP, controls=CHEAP, executor=two, output=tmp_path), whole)


def test_a_model_that_was_changed_in_memory_is_not_traced_from_its_files(folder_of):
    changed = load(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)
    before = bits_of(changed.bridge.original_model)
    with torch.no_grad():
        weight = next(iter(changed.bridge.original_model.parameters()))
        weight[0, 0] += 1
    assert bits_of(changed.bridge.original_model) != before
    with Processes(1) as executor, pytest.raises(LocateError, match=r"in memory is not the one in its files.*save it"):
        trace(changed, PROMPTS, MAP, controls=None, executor=executor)


@dataclass(frozen=True)
class Closure(Swap):
    """A corruption that no other process can read."""

    way: object = lambda: None

    def describe(self) -> dict[str, object]:
        """Its name."""
        return {"corrupt": "closure"}


def test_processes_that_were_expected_open_their_models_while_this_one_does(model):
    with Processes(2) as executor:
        executor.expect(opening_of(model), 0)
        early = {worker.child.pid for worker in executor.workers}
        trace(model, PROMPTS.first(4), MAP, controls=None, executor=executor)
        assert len(early) == 2
        assert {worker.child.pid for worker in executor.workers} == early
    with Processes(2) as executor:
        executor.expect(opening_of(model), 10**15)
        assert executor.workers == []
        executor.expect(replace(opening_of(model), arguments={"name": "no such model"}), 0)
        assert len(executor.workers) == 2
        executor.expect(opening_of(model), 0)
        assert len(executor.workers) == 2, "those of another model are still there"
        trace(model, PROMPTS.first(4), MAP, controls=None, executor=executor)


def test_what_a_worker_cannot_open_is_told(model):
    with Processes(1) as executor:
        executor.expect(opening_of(model), 0)
        executor.workers[0].send(Unreadable())
        with pytest.raises(RuntimeError, match=r"no_such_module"):
            trace(model, PROMPTS.first(4), MAP, controls=None, executor=executor)


class Unreadable:
    """What cannot be unpickled elsewhere."""

    def __reduce__(self) -> tuple[object, ...]:
        """It is read by importing what is not there."""
        return __import__, ("no_such_module",)


def test_what_is_defined_in_the_program_itself_is_refused(model, two, monkeypatch):
    monkeypatch.setattr(Closure, "__module__", "__main__")
    with pytest.raises(LocateError, match=r"Closure is defined in the program itself.*put it into a module"):
        trace(model, PROMPTS, MAP, controls=None, executor=two, corruption=Closure(way=None))


def test_what_other_processes_cannot_read_is_refused(model, two):
    with pytest.raises(LocateError, match=r"'map' cannot be sent to other processes.*do it in this one"):
        trace(model, PROMPTS, MAP, controls=None, executor=two, corruption=Closure(way=lambda: None))


@pytest.mark.parametrize("jobs", [0, -1, True, 10**6])
def test_so_many_processes_are_refused(jobs):
    with pytest.raises(LocateError, match=r"jobs .*: expected"):
        check_jobs(jobs)


def test_workers_end_when_their_process_is_killed(model, tmp_path):
    """Nothing is left running."""
    import subprocess
    import sys

    program = (
        "import sys\n"
        "from locate.model.loading import load\nfrom locate.study.trace import trace\n"
        "from locate.workers.processes import Processes\n"
        f"model = load({str(model.name)!r}, device='cpu', bos='yes', threads=1)\n"
        "with Processes(2) as executor:\n"
        "    while True:\n"
        "        trace(model, executor=executor, controls=None)\n"
        "        print('one', flush=True)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    alive = []
    end = time.monotonic() + 120
    while len(alive) < 2 and time.monotonic() < end:
        time.sleep(0.1)
        alive = psutil.Process(child.pid).children()
    assert len(alive) == 2
    time.sleep(random.Random(1).uniform(0, 3))
    child.kill()
    child.wait()
    child.stdout.close()
    _, left = psutil.wait_procs(alive, timeout=30)
    assert left == []


@pytest.mark.parametrize("library", ["torch", "oneDNN"])
def test_products_are_computed_by_one_library(model, two, library):
    """Which is faster a trial decides, now so, now otherwise, and the two round differently."""
    few = PROMPTS.first(4)
    with multiplied_by(library):
        alone = trace(model, few, MAP, controls=None)
        shared = trace(model, few, MAP, controls=None, executor=two)
    assert alone.meta["products"] == shared.meta["products"] == library
    pd.testing.assert_frame_equal(shared.table, alone.table, check_exact=True)
