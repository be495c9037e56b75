"""Shards: several processes fill one run folder; some of them die, disagree, or find a full disk."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from locate import parts as keeping
from locate.claims import Claims, this_machine, this_process
from locate.cli.app import application
from locate.errors import LocateError
from locate.model.loading import load
from locate.model.products import multiplied_by
from locate.parts import part_name
from locate.prompts import occupation_pairs
from locate.study.budget import Budget
from locate.study.controls import Controls
from locate.study.trace import trace
from locate.tracing import stage as stages
from locate.tracing.folder import RunFolder
from locate.tracing.plan import Map
from locate.work import here
from locate.workers.gather import gather
from locate.workers.shards import Shard, shard_of

PROMPTS = occupation_pairs("anti", templates_each=1).first(12)
MAP = Map(("mlp_out", "attn_out"), roles=("subject_last", "last"))
CHEAP = Controls(sites=1, pairs=8, sets=3, random_weights=False)
PROGRAM = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from locate.model.loading import load
from locate.study.trace import trace
from locate.tracing import stage
from locate.workers.shards import Shard
from test_shards import CHEAP, MAP, PROMPTS
stage.CHUNK_PAIRS = 1
model = load({model!r}, device="cpu", bos="yes", threads=1)
print("ready", flush=True)
trace(model, PROMPTS, MAP, controls=CHEAP, output={output!r}, executor=Shard({number}, 3))
"""


@pytest.fixture(scope="module")
def model(folder_of):
    """A random GPT-2 in a folder."""
    return load(str(folder_of("gpt2")), device="cpu", bos="yes", threads=1)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(stages, "CHUNK_PAIRS", 1)


def begin(model, output: Path, number: int) -> subprocess.Popen[bytes]:
    """A shard as a process of its own."""
    program = PROGRAM.format(tests=str(Path(__file__).parent), model=str(model.name), output=str(output), number=number)
    return subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def parts_of(output: Path) -> list[Path]:
    """The chunks of all stages that are kept."""
    return sorted((output / "parts").glob("*/part-*.parquet"))


def test_shards_of_which_one_is_killed_make_the_run_of_one_process(model, tmp_path):
    output, rng = tmp_path / "run", random.Random(0)
    shards = [begin(model, output, number) for number in range(3)]
    shards[0].stdout.readline()
    time.sleep(rng.uniform(0, 0.5))
    shards[0].kill()
    ends = [each.communicate(timeout=240) for each in shards]
    assert [each.returncode for each in shards[1:]] == [0, 0], [end[1].decode()[-2000:] for end in ends]
    assert len(parts_of(output)) >= len(PROMPTS)
    found = gather(output)
    with multiplied_by(found.meta["products"]):
        whole = trace(model, PROMPTS, MAP, controls=CHEAP)
    pd.testing.assert_frame_equal(found.table, whole.table, check_exact=True)
    pd.testing.assert_frame_equal(found.controls, whole.controls, check_exact=True)
    assert sorted(each.name for each in output.iterdir()) == [
        "controls.parquet", "meta.json", "trace.parquet",
    ]  # fmt: skip


class Stop(Exception):
    """Ends a shard in a test."""


def stopped(model, output: Path, after: int) -> None:
    """A shard that ends when it has so many rows of the map."""

    def stop(found) -> None:
        if found.stage == "map" and found.done >= after:
            raise Stop

    with pytest.raises(Stop):
        trace(model, PROMPTS, MAP, controls=CHEAP, output=output, executor=Shard(), progress=stop)


@pytest.fixture
def begun(model, tmp_path) -> Path:
    """A run that one shard has begun and left."""
    stopped(model, tmp_path / "run", 40)
    assert 0 < len(parts_of(tmp_path / "run")) < len(PROMPTS)
    return tmp_path / "run"


def test_gather_says_what_is_missing_and_deletes_nothing(begun):
    claim = Claims(begun / "parts" / "map").take(part_name(11))
    before = sorted(begun.rglob("*"))
    said = (
        rf"the map not finished; controls not finished; map: \d+ of 12 chunks; .*chunk 12 by process {os.getpid()} of "
    )
    with claim, pytest.raises(LocateError, match=said):
        gather(begun)
    assert [each for each in before if not each.exists()] == [claim.path]
    result = CliRunner().invoke(application(), ["gather", str(begun)])
    assert isinstance(result.exception, LocateError)
    assert "run its shards again" in str(result.exception)


def test_one_folder_is_filled_by_one_process_or_by_shards(model, begun):
    """As when the same command is given twice, or while shards still run."""
    said = rf"is being filled by process {os.getpid()} of .*: wait until it has ended, or share a run"
    path = begun.parent / "alone"
    trace(model, PROMPTS.first(2), MAP, controls=None, output=path)
    for folder, first, second in (
        (path, RunFolder(path), Shard()), (path, RunFolder(path), here), (begun, RunFolder(begun, shared=True), here),
    ):  # fmt: skip
        prompts, controls = (PROMPTS.first(2), None) if folder == path else (PROMPTS, CHEAP)
        with first.filled(), pytest.raises(LocateError, match=said):
            trace(model, prompts, MAP, controls=controls, output=folder, executor=second)
    with RunFolder(begun, shared=True).filled():
        trace(model, PROMPTS, MAP, controls=CHEAP, output=begun, executor=Shard())
        with pytest.raises(LocateError, match=said):
            gather(begun)
        assert parts_of(begun)
    assert list(begun.glob("*.claim")) == []
    gather(begun)
    assert parts_of(begun) == []


def test_a_run_whose_process_was_killed_is_taken_over(model, tmp_path):
    trace(model, PROMPTS.first(2), MAP, controls=None, output=tmp_path)
    dead = {"host": this_process()["host"], "machine": this_machine(), "process": 2**22 + 1, "began": 1.0, "beat": 0}
    (tmp_path / "run.0.claim").write_text(json.dumps(dead))
    trace(model, PROMPTS.first(2), MAP, controls=None, output=tmp_path)
    assert list(tmp_path.glob("*.claim")) == []


def test_a_shard_takes_over_what_a_dead_one_of_another_machine_had(model, begun):
    left = [number for number in range(12) if not (begun / "parts" / "map" / f"{part_name(number)}.parquet").exists()]
    path = begun / "parts" / "map" / f"{part_name(left[0])}.0.claim"
    path.write_text(json.dumps({"host": "far", "machine": "far", "process": 1, "began": 1.0, "beat": 9}))
    started = time.monotonic()
    trace(model, PROMPTS, MAP, controls=CHEAP, output=begun, executor=Shard(0, 2, silent=1.5))
    assert time.monotonic() - started >= 1.5
    assert len(gather(begun)) > 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"libraries": {"torch": "1.0"}}, r"was begun with locate-bias None|was begun with .*: all who share"),
        ({"threads": 7}, "was begun with threads 7, here it is 1: all of it must be computed alike"),
    ],
)
def test_who_computes_otherwise_does_not_join(model, begun, change, said):
    meta = json.loads((begun / "meta.json").read_text())
    (begun / "meta.json").write_text(json.dumps(meta | change))
    before = len(parts_of(begun))
    with pytest.raises(LocateError, match=said):
        trace(model, PROMPTS, MAP, controls=CHEAP, output=begun, executor=Shard())
    assert len(parts_of(begun)) == before


def test_all_use_the_memory_that_the_run_began_with(model, begun):
    meta = json.loads((begun / "meta.json").read_text())
    (begun / "meta.json").write_text(json.dumps(meta | {"memory": {"allowed": 123_456_789}}))
    found = trace(model, PROMPTS, MAP, controls=None, output=begun, executor=Shard())
    assert found.meta["memory"]["allowed"] == 123_456_789


def test_a_full_disk_ends_one_shard_and_harms_nothing(model, begun, monkeypatch):
    def full(path: Path, table: pd.DataFrame, **options: object) -> Path:
        raise LocateError(f"cannot write {path}: no space left on device: free some space or choose another folder")

    with monkeypatch.context() as patch:
        patch.setattr(keeping, "write_parquet", full)
        with pytest.raises(LocateError, match="no space left"):
            trace(model, PROMPTS, MAP, controls=CHEAP, output=begun, executor=Shard())
    assert list(begun.rglob("*.claim")) == []
    trace(model, PROMPTS, MAP, controls=CHEAP, output=begun, executor=Shard())
    assert len(gather(begun)) > 0


def test_a_shard_needs_a_folder_and_no_budget_of_time(model, tmp_path):
    with pytest.raises(LocateError, match="a shard shares a run folder"):
        trace(model, PROMPTS, MAP, executor=Shard())
    with pytest.raises(LocateError, match="a budget of time leaves each shard other sites"):
        trace(model, PROMPTS, MAP, budget=Budget(seconds=60), output=tmp_path, executor=Shard())


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("2/8", {}, Shard(1, 8)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, Shard(2, 4)),
        ("auto", {"SLURM_ARRAY_TASK_ID": "9", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_COUNT": "5",
                  "SLURM_ARRAY_TASK_STEP": "2"}, Shard(4, 5)),
        ("auto", {"RANK": "3", "WORLD_SIZE": "4"}, Shard(3, 4)),
    ],
)  # fmt: skip
def test_a_shard_is_named(text, environ, expected):
    assert shard_of(text, environ) == expected


@pytest.mark.parametrize(
    ("text", "environ", "said"),
    [
        ("0/8", {}, "shard 0 of 8: expected one from 1"),
        ("9/8", {}, "shard 9 of 8: expected one from 1"),
        ("two", {}, "shard 'two': expected a number of a number"),
        ("auto", {}, "expected SLURM_ARRAY_TASK_ID, or RANK and"),
        ("auto", {"RANK": "x", "WORLD_SIZE": "4"}, "no number"),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN"),
    ],
)
def test_another_text_names_none(text, environ, said):
    with pytest.raises(LocateError, match=said):
        shard_of(text, environ)
