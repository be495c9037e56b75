"""Chunks on a Ray cluster: the rows of one process, bit for bit, whichever actors die; and nothing is left running."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import psutil
import pytest
from pieces import Full, Marked, Small, missing, open_host, refuse_to_open

from locate.errors import LocateError
from locate.model.loading import load
from locate.parts import Parts
from locate.prompts import occupation_pairs
from locate.study.trace import trace
from locate.tracing import stage as stages
from locate.tracing.plan import Map
from locate.tracing.table import load_trace
from locate.work import Opening
from locate.workers.cluster import Connection, reach
from locate.workers.on_ray import Ray, Remote
from locate.workers.pool import TRIES

pytestmark = pytest.mark.usefixtures("unchecked_types")

PROMPTS = occupation_pairs("anti", templates_each=1).first(8)
MAP = Map(("mlp_out",), roles=("subject_last", "last"))


@pytest.fixture(scope="module")
def two():
    """A cluster of its own with two actors, that tests share: starting one takes seconds."""
    with Ray("local", 2) as executor:
        executor.connect()
        assert executor.connection is not None
        executor.connection.wait()
        yield executor
    left = [each.name() for each in psutil.Process().children(recursive=True)]
    assert not {"raylet", "gcs_server"} & set(left), "the cluster has not ended"


@pytest.fixture
def free(two):
    """The same without actors, so that others find room."""
    two.close()
    return two


@pytest.fixture(scope="module")
def model(folder_of):
    """A random GPT-2 in a folder, computed with one thread, as each actor does."""
    return load(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(stages, "CHUNK_PAIRS", 2)


@pytest.fixture(scope="module")
def whole(model):
    """The run of one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "CHUNK_PAIRS", 2)
        return trace(model, PROMPTS, MAP, controls=None)


def actors() -> list[psutil.Process]:
    """The actors of this process's cluster."""
    found = []
    for each in psutil.Process().children(recursive=True):
        try:
            if each.name().startswith("ray::Actor"):
                found.append(each)
        except psutil.NoSuchProcess:
            continue
    return found


def test_the_rows_are_those_of_one_process(model, whole, two):
    done = []
    found = trace(model, PROMPTS, MAP, controls=None, executor=two, progress=lambda each: done.append(each.done))
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    assert done[-1] == len(whole)
    assert len(actors()) == 2


def test_a_run_goes_on_when_its_actors_are_killed(model, whole, two, tmp_path, monkeypatch):
    """They keep chunks in the run's folder themselves."""
    written, killed = [], []
    monkeypatch.setattr(Parts, "write", lambda self, chunk, table: written.append(chunk))

    def kill(progress) -> None:
        if progress.done and not killed:
            killed.append(progress.done)
            for each in actors():
                each.kill()

    found = trace(model, PROMPTS, MAP, controls=None, executor=two, output=tmp_path / "run", progress=kill)
    assert 0 < killed[0] < len(whole)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    assert list(tmp_path.rglob("*.partial*")) == []
    assert written == [], "what actors keep is written again"


@contextmanager
def killing(times: int, seed: int) -> Iterator[list[int]]:
    """Kills actors, one at a time, at random moments; more often than they can start again would be for ever."""
    rng, killed, over = random.Random(seed), [], threading.Event()

    def kill() -> None:
        while len(killed) < times and not over.wait(rng.uniform(0.1, 4.0)):
            alive = actors()
            if alive:
                chosen = rng.choice(alive)
                chosen.send_signal(signal.SIGKILL)
                killed.append(chosen.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def test_actors_that_are_killed_at_random_lose_nothing(two, monkeypatch):
    monkeypatch.setattr("locate.workers.pool.TRIES", 1000)
    advanced = []
    with killing(4, seed=0) as killed:
        while len(killed) < 4:
            advanced.clear()
            found = dict(two(missing(Small(slow=0.1), 30, advance=advanced.append)))
            assert {number: double for number, (_, double) in found.items()} == {each: 2 * each for each in range(30)}
            assert sum(advanced) == 30


def test_a_piece_that_always_ends_its_actor_is_given_up(two):
    with pytest.raises(LocateError, match=rf"chunk 3 of 'small' ended its process {TRIES} times, at last on .*--jobs"):
        list(two(missing(Small(fatal=2), 4)))


def test_errors_come_back_as_what_they_are(two):
    with pytest.raises(LocateError, match=r"^piece 1 cannot be done \(on .*\)$"):
        list(two(missing(Small(ours=1), 3)))
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*ValueError: piece 2 is a fault"):
        list(two(missing(Small(theirs=2), 3)))
    with pytest.raises(LocateError, match="no such model"):
        list(two(missing(Small(), 1, opening=Opening(refuse_to_open))))
    two.close()
    with pytest.raises(LocateError, match=r"in memory is not the one in its files"):
        list(two(missing(Small(), 1, identity=lambda: 2)))


def test_another_version_is_refused(free, monkeypatch):
    monkeypatch.setattr("locate.workers.on_ray.programs", lambda: {"torch": "0.1"})
    with pytest.raises(LocateError, match=r"has locate-bias .*, this machine None: all who share a run must compute"):
        list(free(missing(Small(), 1)))


def test_a_machine_without_the_package_is_told(free, monkeypatch, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['locate'] = None\n")
    monkeypatch.setattr("locate.workers.on_ray.python_path", lambda: str(tmp_path))
    with pytest.raises(LocateError, match=r"an actor cannot be made \(.*locate.*\): install locate-bias on"):
        list(free(missing(Small(), 1)))


def test_what_is_kept_on_a_disk_that_is_not_shared_comes_back(two, tmp_path):
    found = dict(two(missing(Small(), 3, kept=Marked(tmp_path))))
    assert sorted(each.name for each in tmp_path.iterdir()) == ["0.mark", "1.mark", "2.mark"]
    assert [found[number][1] for number in range(3)] == [0, 2, 4]
    for kept in (Full(tmp_path), Marked(tmp_path / "no such folder")):
        assert [found[1] for _, found in sorted(two(missing(Small(), 3, kept=kept)))] == [0, 2, 4]


def test_who_finds_no_room_is_told(two):
    list(two(missing(Small(), 2)))  # both actors are there, and hold the cluster
    with Ray(jobs=3) as another, pytest.raises(LocateError, match=r"3 actors on the Ray cluster.*at most 2.*1 CPU"):
        list(another(missing(Small(), 3)))
    with Ray(patience=1.0) as another, pytest.raises(LocateError, match=r"within 1 s: .* has 2 CPU, of which 0 CPU"):
        list(another(missing(Small(), 3)))
    cuda = missing(Small(), 1, opening=Opening(open_host, {"device": "cuda:1"}))
    with Ray() as another, pytest.raises(LocateError, match=r"expected at most 0, since each needs 1 CPU and 1 GPU"):
        list(another(cuda))
    with Ray() as another, pytest.raises(LocateError, match=r"expected at most 0, .* and 1048576.0 GiB"):
        list(another(missing(Small(), 1, memory=2**50)))
    assert [found[1] for _, found in sorted(two(missing(Small(), 2)))] == [0, 2], "another one has ended the cluster"


def test_actors_that_were_expected_open_their_models_early(free):
    with Ray() as another:
        another.expect(Opening(open_host), 0)
        another.connection.wait()
        early = list(another.workers)
        assert len(early) == 2
        list(another(missing(Small(), 4)))
        assert another.workers == early
    with Ray() as another:
        another.expect(Opening(open_host), 2**50)
        another.connection.wait()
        assert another.workers == []


def test_each_actor_has_one_gpu(two):
    """Ray shows an actor its own alone, as the first."""
    opening, actor = Opening(open_host, {"device": "cuda:3"}), Remote(None, len)
    assert two.opening_for(opening, actor).arguments == {"device": "cuda"}
    assert two.opening_for(Opening(open_host), actor) == Opening(open_host)


def test_addresses(two, monkeypatch):
    with pytest.raises(LocateError, match="connected to a Ray cluster already"):
        Ray("10.0.0.1:6379")
    with pytest.raises(OSError, match="refused"):
        reach("127.0.0.1:1")
    connection = Connection("127.0.0.1:1", 1, lambda: None)
    with pytest.raises(LocateError, match=r"no connection to a Ray cluster at '127.0.0.1:1' .* or local to start one"):
        connection.wait()
    with pytest.raises(LocateError, match="jobs 0: expected"):
        Ray(jobs=0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(LocateError, match=r'needs the package ray: pip install "locate-bias\[cluster\]"'):
        Ray("local")


def test_a_cluster_that_is_there_is_used_and_left_running(free, folder_of, tmp_path):
    import ray

    address = ray.get_runtime_context().gcs_address
    run = [sys.executable, "-m", "locate", "trace", "-m", str(folder_of("gpt2")), "-o", str(tmp_path), "--ray", address]
    few = ["--components", "mlp_out", "--roles", "last", "--no-controls", "--limit", "4", "--formats", "html", "--json"]
    done = subprocess.run([*run, *few], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("{"), "something else than JSON is on stdout"
    loaded = load(str(folder_of("gpt2")), threads=1, device="cpu")
    pairs = occupation_pairs().first(4)
    one = trace(loaded, pairs, Map(("mlp_out",), roles=("last",)), controls=None).table
    there = load_trace(tmp_path).table
    pd.testing.assert_frame_equal(there, one, check_exact=True)
    end = time.monotonic() + 30
    while actors() and time.monotonic() < end:
        time.sleep(0.1)
    assert actors() == []
    assert [found[1] for _, found in sorted(free(missing(Small(), 2)))] == [0, 2]


PROGRAM = """
import sys
from pieces import Small, missing
from locate.workers.on_ray import Ray
print("begun", flush=True)
with Ray("local", 1) as executor:
    for number, _ in executor(missing(Small(slow=0.05), 100_000)):
        print(number, flush=True)
"""


def of_cluster(driver: int) -> list[psutil.Process]:
    """Ray's processes of the cluster that a process has started: they keep files in its folder open."""
    found = []
    for each in psutil.process_iter():
        try:
            files = [str(file.readlink()) for file in Path(f"/proc/{each.pid}/fd").iterdir()]
        except OSError:
            continue
        if each.pid != driver and any("/session_" in file and f"_{driver}/" in file for file in files):
            found.append(each)
    return found


def folders(driver: int) -> list[Path]:
    """Folders of such a cluster."""
    return list(Path("/tmp/ray").glob(f"session_*_{driver}"))


@pytest.mark.parametrize(("sent", "early"), [(signal.SIGINT, False), (signal.SIGKILL, False), (signal.SIGINT, True)])
def test_nothing_is_left_running(sent, early):
    """After Ctrl-C, which the terminal sends to all, and after a kill; while it works, and while the cluster starts.

    Two of Ray's own processes take a minute to notice that a cluster was killed.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    ) as child:  # fmt: skip
        for _ in range(1 if early else 2):
            assert child.stdout.readline(), child.stderr.read()
        if early:
            time.sleep(random.Random(0).uniform(1, 4))
        began = of_cluster(child.pid)
        assert early or {"raylet", "ray::DashboardAgent"} <= {each.name() for each in began}
        if sent == signal.SIGKILL:
            child.kill()
        else:
            os.killpg(child.pid, sent)
        child.communicate(timeout=60)
        assert child.returncode != 0
    end = time.monotonic() + 30
    slow = ("ray::DashboardA", "ray::RuntimeEnv") if sent == signal.SIGKILL else ()
    while left := [each for each in of_cluster(child.pid) if not each.name().startswith(slow or ("none",))]:
        assert time.monotonic() < end, left
        time.sleep(0.1)
    assert sent == signal.SIGKILL or folders(child.pid) == []
