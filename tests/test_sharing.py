"""Sharing a run on the command line: what --jobs, --shard and --slurm take, and a Slurm script that is run."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from locate.cli.app import application
from locate.cli.sharing import executor_of, print_slurm, start_early, tell_shard, threads_of
from locate.errors import LocateError
from locate.model.causal import load_causal
from locate.model.loading import load
from locate.tracing.models import open_models, opening_of
from locate.work import here
from locate.workers.on_ray import Ray
from locate.workers.processes import Processes
from locate.workers.shards import Shard


def test_who_runs_the_chunks():
    for jobs in (None, 1):
        with executor_of(jobs, None) as found:
            assert found is here
    with executor_of(None, "2/3") as found:
        assert found == Shard(1, 3)
    with executor_of(2, None) as found:
        assert isinstance(found, Processes)
    with executor_of(2, None, "local") as found:
        assert isinstance(found, Ray)
        assert (found.address, found.jobs, found.connection) == ("local", 2, None)


def test_several_processes_compute_with_one_thread_each_and_shards_as_the_run_began(tmp_path):
    assert threads_of(None, None, None, tmp_path) is None
    assert threads_of("1", None, None, tmp_path) == threads_of(None, 1, None, tmp_path) == 1
    assert threads_of(None, None, "1/2", tmp_path) is None
    assert threads_of(None, None, None, tmp_path, "auto") == threads_of("1", 100, None, tmp_path, "auto") == 1
    (tmp_path / "meta.json").write_text(json.dumps({"threads": 3}))
    assert threads_of(None, None, "1/2", tmp_path) == 3
    assert threads_of("1", None, "1/2", tmp_path) == 1


@pytest.mark.parametrize(
    ("threads", "jobs", "shard", "ray", "said"),
    [
        (None, 2, "1/2", None, "--jobs 2 with --shard 1/2: choose one"),
        (None, 0, None, None, "jobs 0: expected a whole number from 1 up"),
        (None, 0, None, "local", "jobs 0: expected a whole number from 1 up"),
        (None, None, "3", None, "shard '3': expected"),
        (None, None, "1/2", "auto", "--ray auto with --shard 1/2: choose one"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, threads, jobs, shard, ray, said):
    with pytest.raises(LocateError, match=said):
        threads_of(threads, jobs, shard, tmp_path, ray)


def test_a_shard_that_is_done_says_what_follows(tmp_path, capsys):
    tell_shard(tmp_path / "a b", True)
    told = json.loads(capsys.readouterr().out)
    assert told == {"run": str(tmp_path / "a b"), "next": f"locate-bias gather '{tmp_path}/a b'"}


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_beside_jobs_are_refused(tmp_path):
    with pytest.raises(LocateError, match="--threads 2 with --jobs 2: each of several processes computes with one"):
        threads_of("2", 2, None, tmp_path)
    with pytest.raises(LocateError, match="--threads 2 with --ray auto: each of several processes computes with one"):
        threads_of("2", None, None, tmp_path, "auto")


@pytest.mark.parametrize(
    ("count", "jobs", "shard", "ray", "said"),
    [
        (0, None, None, None, "--slurm 0: expected"),
        (2, 2, None, None, "leave --jobs"),
        (2, None, "1/2", None, "leave --jobs"),
        (2, None, None, "auto", "leave --jobs, --shard and --ray out"),
    ],
)
def test_a_script_of_something_else_is_refused(tmp_path, count, jobs, shard, ray, said):
    with pytest.raises(LocateError, match=said):
        print_slurm(count, [tmp_path], None, None, jobs, shard, ray)


@pytest.mark.parametrize(
    ("device", "threads", "expected"),
    [(None, None, "--cpus-per-task=1"), ("cuda", None, "--gres=gpu:1"), ("cpu", "4", "--cpus-per-task=4")],
)
def test_a_script_asks_for_what_a_shard_needs(tmp_path, monkeypatch, capsys, device, threads, expected):
    monkeypatch.setattr(sys, "argv", ["locate-bias", "trace", "--slurm=3", "-o", "a b"])
    print_slurm(3, [tmp_path], threads, device, None, None)
    script = capsys.readouterr().out
    assert f"#SBATCH {expected}\n" in script
    assert "#SBATCH --array=1-3\n" in script
    assert ("gpu" in script) == (device == "cuda")
    assert "--slurm" not in script.splitlines()[-1]
    assert script.splitlines()[-1].endswith("-o 'a b'" + ("" if threads else " --threads 1") + " --shard auto")


def test_the_script_runs_as_a_job_array_and_is_gathered(folder_of, tmp_path, monkeypatch):
    """Slurm itself is not needed: it runs the script once for each number of the array."""
    monkeypatch.chdir(tmp_path)
    run = ["trace", "-m", str(folder_of("gpt2")), "-o", "run of two", "--slurm", "2", "--limit", "4"]
    few = ["--components", "mlp_out", "--roles", "last", "--no-controls"]
    monkeypatch.setattr(sys, "argv", ["locate-bias", *run, *few])
    told = CliRunner().invoke(application(), [*run, *few], catch_exceptions=False)
    (tmp_path / "trace.sh").write_text(told.stdout)
    common = os.environ | {"SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "2"}
    shards = [
        subprocess.Popen(["bash", "trace.sh"], cwd=tmp_path, env=common | {"SLURM_ARRAY_TASK_ID": str(number)},
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for number in (1, 2)
    ]  # fmt: skip
    for each in shards:
        out, err = each.communicate(timeout=240)
        assert each.returncode == 0, err
        assert "locate-bias gather 'run of two'" in out
    gather = next(line[1:] for line in told.stdout.splitlines() if " gather " in line)
    words = shlex.split(gather)
    assert words[:4] == [sys.executable, "-m", "locate", "gather"]
    CliRunner().invoke(application(), [*words[3:], "--formats", "html"], catch_exceptions=False)
    assert {"report.html", "located.json", "effects.csv"} <= {each.name for each in (tmp_path / "run of two").iterdir()}
    assert not (tmp_path / "run of two" / "parts").exists()


class Watched(Processes):
    """Starts nothing, and remembers what it was told to expect."""

    def start(self) -> None:
        """Nothing."""

    def expect(self, opening, memory) -> None:
        """Remember it."""
        self.seen = opening


@pytest.mark.parametrize(("loads", "opens"), [(load, open_models), (load_causal, load_causal)], ids=["trace", "tests"])
def test_what_is_opened_early_is_what_the_work_asks_for(folder_of, loads, opens):
    """Else processes would start, open a model, and be ended for others that open the same."""
    name, executor = str(folder_of("gpt2")), Watched(1)
    reading = {"allow_pickle": False, "trust_remote_code": False, "revision": None, "bos": "yes", "chat": False}
    reading |= {"device_map": None, "quantise": None} if loads is load else {}
    start_early(executor, name, "fp32", None, reading, opens)
    model = loads(name, device=None, dtype="fp32", threads=1, **reading)
    assert executor.seen == (opening_of(model) if loads is load else model.opening())
    start_early(executor, "no/such/model", "fp32", None, reading, opens)
    assert executor.seen is None, "what is on a hub is fetched once"
