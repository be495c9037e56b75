"""One command over several models: a run of each, and a table of what was found."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pandas as pd
import pytest
from typer.testing import CliRunner

from locate.cli.app import application
from locate.cli.steps import Steps, Work, progress_line
from locate.cli.tracing import OF_ONE, among, named_models
from locate.errors import LocateError
from locate.mediation.located import load_located, share_of
from locate.mediation.model_table import model_table
from locate.tracing.progress import Progress

FEW = ["--limit", "8", "--components", "mlp_out,attn_out", "--roles", "subject_last,last", "--templates-each", "1"]
CHEAP = [*FEW, "--no-controls", "--formats", "html", "--threads", "1", "--bos", "yes"]


def run(*words: str):
    return CliRunner().invoke(application(), ["trace", *words])


@pytest.fixture(scope="module")
def swept(folder_of, tmp_path_factory):
    """Three models, of which one is not there."""
    output = tmp_path_factory.mktemp("several") / "runs"
    names = [str(folder_of("gpt2")), "no/such/model", str(folder_of("llama"))]
    return run("--models", ",".join(names), "-o", str(output), *CHEAP), output, names


def test_each_model_has_a_run_and_the_table_says_what_was_located(swept):
    result, output, names = swept
    table = pd.read_csv(output / "models.csv")
    assert list(table["model"]) == [names[0], names[2]]
    for row in table.to_dict("records"):
        located = load_located(f"{row['run']}/located.json")
        first = located.sites[0]
        assert (row["total"], row["total_low"], row["total_high"]) == pytest.approx(located.total, rel=1e-5)
        assert row["pairs"] == 8
        assert row["n_layers"] == located.trace["model"]["n_layers"]
        if located.total[1] * located.total[2] > 0:
            assert (row["component"], row["layer"], row["role"]) == (first.component, first.layer, first.role)
            assert row["effect"] == pytest.approx(first.effect, rel=1e-5)
            assert row["depth"] == pytest.approx(first.layer / (row["n_layers"] - 1))
            assert row["share"] == pytest.approx(float(share_of(first.effect, first.n, located)))
            assert row["low"] < row["effect"] < row["high"]
        else:
            assert pd.isna(row["component"])
            assert pd.isna(row["effect"])
        assert f"{row['run']}/report.html" in result.output
    assert isinstance(result.exception, LocateError)
    assert "not traced: no/such/model (" in str(result.exception)


def test_the_same_command_reads_what_is_measured(swept, monkeypatch):
    _, output, names = swept
    before = (output / "models.csv").read_bytes()
    monkeypatch.setattr("locate.tracing.measure.measure_chunk", None)
    result = run("--models", f"{names[0]},{names[2]}", "-o", str(output), *CHEAP, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert [each["model"] for each in found["models"]] == [names[0], names[2]]
    assert found["not_traced"] == {}
    assert (output / "models.csv").read_bytes() == before


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_processes_are_shared_by_one_model_after_the_other(swept, tmp_path):
    _, output, names = swept
    result = run("--models", f"{names[0]},{names[2]}", "-o", str(tmp_path / "runs"), *CHEAP, "--jobs", "2")
    assert result.exit_code == 0, result.output
    for each in sorted(output.glob("*/trace.parquet")):
        other = pd.read_parquet(tmp_path / "runs" / each.relative_to(output))
        pd.testing.assert_frame_equal(other, pd.read_parquet(each), check_exact=True)


def test_a_model_without_a_clear_total_has_no_site(swept):
    _, output, _ = swept
    located = load_located(next(output.glob("*/located.json")))
    for low, clear in ((-1.0, False), (0.5, True)):
        (row,) = model_table([replace(located, total=(1.0, low, 2.0))]).to_dict("records")
        assert (row["component"] is not None) == clear
        assert (row["total"], row["total_low"]) == (1.0, low)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--models", "a,b", "-m", "c"], "--models a,b with --model c: give one of them"),
        (["--models", "mini,mini"], "expected at least two, each once"),
        (["--models", "mini"], "expected at least two"),
        (["--models", "x/a/b,y/a/b"], "with names of their own"),
        (["--models", "a,b", "--dry-run"], "--dry-run forecasts one model"),
    ],
)
def test_what_does_not_go_together_is_refused(words, said):
    result = run(*words)
    assert isinstance(result.exception, LocateError)
    assert said in str(result.exception)


def test_the_time_left_is_that_of_one_model():
    steps = Steps()
    steps.expect([Work("effects", 5.0), Work("report", 5.0)])
    steps.say("report")
    assert "step 2 of 2; about 5 s left in all" in steps.line()
    steps.begin_one(OF_ONE)
    steps.say("model 2 of 2, b: map")
    assert steps.line() == "model 2 of 2, b: map ..."
    steps.expect([Work("effects", 5.0)])
    steps.say("effects")
    assert "about 5 s left for this model" in steps.line()
    found = among(Progress("map", 1, 9, left=30.0), "model 2 of 2, b")
    assert progress_line(found) == "model 2 of 2, b: map: 1 of 9; about 30 s left for this model"


def test_models_of_one_name_are_told_apart_by_their_folders():
    found = named_models("one/model,two/model,mini", "mini", dry_run=False)
    assert found == {"one/model": "one_model", "two/model": "two_model", "mini": "mini"}
