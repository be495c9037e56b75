"""Threads: as many as the process is granted, one where more are no faster, recorded and put back."""

import json
import os
import subprocess
import sys
from itertools import chain, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from bare import trace

from locate.errors import LocateError
from locate.evaluation.run import evaluate
from locate.model import threads
from locate.model.causal import load_causal
from locate.model.loading import load
from locate.model.threads import cgroup_quota, check_threads, choose_threads, granted_cores, is_faster, torch_threads
from locate.prompts import occupation_pairs

FEW = occupation_pairs(templates_each=1, occupations=["nurse", "engineer", "lawyer", "baker"])


def tree(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A file system that holds the control groups of this process."""
    placed = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (placed | {"proc/self/cgroup": groups}).items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2.0),
        ("0::/a/b\n", {"a/cpu.max": "200000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a/b\n", {"cpu.max": "100000 100000\n", "a/b/cpu.max": "300000 100000\n"}, 1.0),
        ("0::/docker/12ab\n", {"cpu.max": "300000 100000\n"}, 3.0),  # the host's path, in a container
        ("0::/../other\n", {"other/cpu.max": "400000 100000\n"}, 4.0),
        ("2:cpu:/x\n1:memory:/y\n", {"cpu/x/cpu.cfs_quota_us": "-1\n", "cpu/x/cpu.cfs_period_us": "100000\n"}, None),
        (
            "4:cpu,cpuacct:/x/y\n0::/z\n",
            {
                "cpu,cpuacct/x/cpu.cfs_quota_us": "100000\n",
                "cpu,cpuacct/x/cpu.cfs_period_us": "50000\n",
                "cpu,cpuacct/x/y/cpu.cfs_quota_us": "-1\n",
                "cpu,cpuacct/x/y/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        ("3:cpuset:/x\n", {"cpuset/x/cpu.max": "100000 100000\n"}, None),
    ],
)  # fmt: skip
def test_the_least_quota_on_the_way_up_counts(tmp_path, groups, files, expected):
    assert cgroup_quota(tree(tmp_path, groups, files)) == expected


def test_a_machine_without_control_groups_has_no_quota(tmp_path):
    assert cgroup_quota(tmp_path) is None


def test_slurm_and_a_quota_beside_affinity(tmp_path):
    root = tree(tmp_path, "0::/\n", {"cpu.max": "150000 100000\n"})
    cores = len(os.sched_getaffinity(0))
    assert granted_cores(root, {"SLURM_CPUS_PER_TASK": "3", "SLURM_CPUS_ON_NODE": "12"}) == {
        "CPU affinity": cores,
        "cgroup CPU quota": 1,
        "SLURM_CPUS_PER_TASK": 3,
        "SLURM_CPUS_ON_NODE": 12,
    }
    with pytest.raises(LocateError, match=r"SLURM_CPUS_PER_TASK 'two': expected a whole number from 1 up"):
        granted_cores(root, {"SLURM_CPUS_PER_TASK": "two"})


@pytest.fixture
def sixteen(monkeypatch):
    """A process that is granted 16 cores, of which torch would use 8, where several threads are faster."""
    monkeypatch.setattr(
        threads, "granted_cores", lambda root=None, environ=None: {"CPU affinity": 16, "cgroup CPU quota": 20}
    )
    monkeypatch.setattr(threads, "is_faster", lambda count: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    return monkeypatch


@pytest.mark.parametrize(
    ("asked", "environ", "expected"),
    [
        (None, {}, 8),
        (None, {"OMP_NUM_THREADS": "3"}, 3),
        (None, {"OMP_NUM_THREADS": "4,2"}, 4),
        (None, {"OMP_NUM_THREADS": "64"}, 8),
        (5, {"OMP_NUM_THREADS": "3"}, 5),
        (16, {}, 16),
    ],
)
def test_the_least_of_what_is_granted_is_taken(sixteen, asked, environ, expected):
    assert choose_threads(asked, environ=environ) == expected


def test_one_thread_where_more_are_no_faster(sixteen):
    sixteen.setattr(threads, "is_faster", lambda count: False)
    assert choose_threads(environ={}) == 1
    assert choose_threads(4, environ={}) == 4


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (0, "threads 0: expected a whole number from 1 up"),
        (-1, "threads -1: expected"),
        (1.5, "threads 1.5: expected"),
        (True, "threads True: expected"),
        (17, r"threads 17: this process is granted 16 \(CPU affinity\): ask for no more"),
    ],
)
def test_numbers_that_cannot_be_had_are_refused(sixteen, asked, message):
    with pytest.raises(LocateError, match=message):
        check_threads(asked, {})


@pytest.mark.parametrize(
    ("several", "expected"),
    [(repeat(1.0), False), (repeat(0.9), False), (repeat(0.5), True), (chain([9.0], repeat(0.5)), True),
     (chain(repeat(0.1, 3), repeat(2.0)), False)],
)  # fmt: skip
def test_several_threads_must_be_clearly_faster(monkeypatch, several, expected):
    """The first turn starts the threads and does not count; the middle of the others does."""
    monkeypatch.setattr(threads, "TRIAL_SECONDS", float("inf"))
    assert is_faster(4, lambda count: 1.0 if count == 1 else next(several)) is expected


def test_the_number_is_put_back():
    before = torch.get_num_threads()
    with torch_threads(before + 1), torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_run_goes_on_with_another_number_and_finds_the_same(folder_of, tmp_path):
    before = torch.get_num_threads()
    one, two = (load(str(folder_of("gpt2")), device="cpu", threads=count) for count in (1, 2))
    found = [trace(model, FEW) for model in (one, two)]
    assert [each.meta["threads"] for each in found] == [1, 2]
    assert found[0].meta["recipe"] == found[1].meta["recipe"]
    assert torch.get_num_threads() == before
    logs = [each.table.filter(regex="^(base|source|patched)").to_numpy(float) for each in found]
    assert logs[0].size
    np.testing.assert_allclose(logs[0], logs[1], atol=1e-5)
    trace(one, FEW, output=tmp_path / "run")
    assert trace(two, FEW, output=tmp_path / "run").meta["threads"] == 1  # found finished


def test_an_evaluation_says_its_threads(folder_of, tmp_path):
    model = load_causal(str(folder_of("gpt2")), device="cpu", threads=1)
    evaluate(model, tests=["occupations"], limit=4, folder=tmp_path / "judged")
    content = json.loads((tmp_path / "judged" / "evaluation.json").read_text())
    assert content["threads"] == 1
    assert "threads" not in content["recipe"]


NARROW = """
import os, sys, json
os.environ.pop("OMP_NUM_THREADS", None)
import torch
torch.set_num_threads(2)  # as torch would choose by the machine's cores
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import locate
seen = []
model = locate.load(sys.argv[1], device="cpu")
final = type(model).final_logits
type(model).final_logits = lambda *given, **named: seen.append(torch.get_num_threads()) or final(*given, **named)
pairs = locate.occupation_pairs(templates_each=1, occupations=["nurse", "engineer"])
found = locate.trace(model, pairs, controls=None, engine="plain")
print(json.dumps([model.threads, found.meta["threads"], sorted(set(seen)), torch.get_num_threads()]))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs a system that pins processes to cores")
def test_under_one_core_one_thread_measures(folder_of):
    """A real restriction: the process may run on one core, while torch counts two."""
    done = subprocess.run([sys.executable, "-c", NARROW, str(folder_of("gpt2"))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [1, 1, [1], 2]


@pytest.mark.parametrize("given", ["0", "-1", "abc", "1.5", "99999"])
@pytest.mark.parametrize("verb", [["trace"], ["evaluate"], ["selftest"], ["edit", "--located", "x", "-o", "y"]])
def test_a_bad_number_is_one_line(verb, given, monkeypatch, capsys):
    from locate import cli

    monkeypatch.setattr(sys, "argv", ["locate-bias", *verb, "--threads", given])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "expected a whole number from 1 up" in err or "this process is granted" in err
