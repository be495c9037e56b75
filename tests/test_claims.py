"""Claims: one owner at a time, and none that is dead, whatever the clocks say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from locate import claims
from locate.claims import Claims, is_running, this_process
from locate.errors import LocateError


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.05)


def foreign(**changes) -> str:
    """What a claim of another machine holds."""
    return json.dumps({"host": "far", "machine": "far 1", "process": 7, "began": 1.0, "beat": 0} | changes)


def test_one_of_many_has_a_claim(tmp_path):
    start, taken = threading.Barrier(16), []

    def take() -> None:
        start.wait()
        found = Claims(tmp_path).take("chunk-3")
        if found is not None:
            taken.append(found)

    threads = [threading.Thread(target=take) for _ in range(16)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    (claim,) = taken
    assert Claims(tmp_path).take("chunk-3") is None
    assert Claims(tmp_path).owner("chunk-3") == f"process {os.getpid()} of {this_process()['host']}"
    other = Claims(tmp_path).take("chunk-30")
    assert other is not None
    other.release()
    claim.release()
    assert list(tmp_path.iterdir()) == []
    with Claims(tmp_path).take("chunk-3"):
        assert Claims(tmp_path).take("chunk-3") is None
    assert Claims(tmp_path).owner("chunk-3") is None


def test_the_claim_of_a_process_that_was_killed_is_taken_over_at_once(tmp_path):
    program = f"from locate.claims import Claims; from pathlib import Path; Claims(Path({str(tmp_path)!r})).take('a'); "
    child = subprocess.Popen([sys.executable, "-c", program + "print(1, flush=True); import time; time.sleep(99)"],
                             stdout=subprocess.PIPE)  # fmt: skip
    child.stdout.readline()
    assert Claims(tmp_path).take("a") is None
    child.kill()
    assert child.poll() is None or Claims(tmp_path).alive(Claims(tmp_path).latest("a")[1]) is False
    child.wait()
    child.stdout.close()
    with Claims(tmp_path).take("a") as found:
        assert found.path.name == "a.1.claim"
        assert Claims(tmp_path).take("a") is None


def test_another_machine_is_dead_when_its_claim_has_not_changed_for_a_while(tmp_path):
    path = tmp_path / "a.0.claim"
    path.write_text(foreign())
    watcher = Claims(tmp_path, silent=0.3)
    for _ in range(2):
        assert watcher.take("a") is None
        time.sleep(0.1)
    path.write_text(foreign(beat=1))
    time.sleep(0.25)
    assert watcher.take("a") is None, "it has changed since"
    time.sleep(0.35)
    with watcher.take("a") as found:
        assert found.path.name == "a.1.claim"


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_an_hour_off_decides_nothing(tmp_path, monkeypatch, hours):
    path = tmp_path / "a.0.claim"
    path.write_text(foreign())
    os.utime(path, (time.time() + 3600 * hours, time.time() + 3600 * hours))
    assert Claims(tmp_path, silent=60).take("a") is None
    with Claims(tmp_path).take("b"):
        real = time.time
        monkeypatch.setattr(time, "time", lambda: real() + 3600 * hours)
        assert Claims(tmp_path).take("b") is None


def test_a_live_claim_goes_on_changing(tmp_path):
    with Claims(tmp_path).take("a") as claim:
        seen = set()
        end = time.monotonic() + 10
        while len(seen) < 3 and time.monotonic() < end:
            seen.add(claim.path.read_text())
            time.sleep(0.02)
        assert len(seen) >= 3


def test_a_claim_that_is_just_being_written_is_alive(tmp_path):
    (tmp_path / "a.0.claim").write_text("")
    watcher = Claims(tmp_path, silent=0.2)
    assert watcher.take("a") is None
    assert watcher.owner("a") == "an unknown process"
    time.sleep(0.3)
    with watcher.take("a") as found:
        assert found is not None


@pytest.mark.parametrize("change", [{"began": -1.0}, {"process": 2**22 + 1}, {"process": None}, {"began": None}])
def test_a_process_number_that_another_one_has_by_now_is_another_process(change):
    assert is_running(this_process())
    assert not is_running(this_process() | change)


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(LocateError, match=r"cannot write .*choose another folder"):
        Claims(tmp_path / "file" / "in").take("a")


def test_who_lives_is_told_at_once_here_and_by_its_claim_elsewhere(tmp_path):
    watcher = Claims(tmp_path, silent=0.4)
    assert watcher.living("a") is None
    with Claims(tmp_path).take("a"):
        assert watcher.living("a") == f"process {os.getpid()} of {this_process()['host']}"
        assert watcher.names("") == ["a"]
    path = tmp_path / "b-1.0.claim"
    path.write_text(foreign())
    started = time.monotonic()
    assert watcher.living("b-1") is None
    assert time.monotonic() - started >= 0.4
    path.write_text(foreign(beat=5))
    beating = threading.Timer(0.2, lambda: path.write_text(foreign(beat=6)))
    beating.start()
    assert Claims(tmp_path, silent=5.0).living("b-1") == "process 7 of far"
    beating.join()
    assert watcher.names("b-") == ["b-1"]
