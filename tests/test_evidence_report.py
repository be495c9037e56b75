"""What a run's evidence looks like to people: figures, lines, tables and the command line."""

import json
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_report import caption

from locate import Budget, Controls, LocateError, Map, Sets, analyse, cli, load, load_located, load_trace, rank, trace
from locate.mediation.controls import control_table
from locate.mediation.sets import areas, set_table
from locate.planted import draw_plan, plant
from locate.report import write_report
from locate.report.answer import evidence_lines
from locate.report.evidence import controls_line, plot_agreement, plot_controls, plot_sets
from locate.report.write import all_figures, figures_of
from locate.words import decimals, with_interval

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("planted") / "model", draw_plan(6, "gpt2"), occupations=20, templates_each=1)


@pytest.fixture(scope="module")
def run(planted):
    """Controls, sets and estimates of a planted bias."""
    model = load(str(planted.folder), device="cpu")
    small = Controls(sites=2, pairs=20, sets=20, random_weights=False)
    return trace(
        model, planted.prompts, Map(("mlp_out", "attn_out")), budget=Budget(passes=10**6), controls=small,
        sets=Sets(largest=2, pool=3),
    )  # fmt: skip


def test_the_figure_of_controls_draws_the_table(run):
    analysis, table = analyse(run), control_table(run)
    figure = plot_controls(analysis, direction="denoising")
    drawn_marks = {mark.name: mark for mark in figure.data}
    assert set(drawn_marks) == {
        "the site itself", "shuffled source", "random direction", "definitional words", "neutral words",
    }  # fmt: skip
    for name, mark in drawn_marks.items():
        if name != "the site itself":
            rows = table[(table["control"] == name) & (table["direction"] == "denoising")]
            assert sorted(mark.x) == pytest.approx(sorted(rows["effect"]))
            np.testing.assert_allclose(np.array(mark.x) + np.array(mark.error_x.array), rows["high"])
            np.testing.assert_allclose(np.array(mark.x) - np.array(mark.error_x.arrayminus), rows["low"])
    own = table[(table["control"] == "shuffled source") & (table["direction"] == "denoising")]["own"]
    assert sorted(drawn_marks["the site itself"].x) == pytest.approx(sorted(own))
    assert "n = 20 pairs of 20 groups" in caption(figure)
    with pytest.raises(LocateError, match="no controls of direction 'noising'"):
        plot_controls(table[table["direction"] == "denoising"], analysis.shown(), direction="noising")


def test_the_figure_of_sets_draws_faithfulness(run):
    table = set_table(run)
    figure = plot_sets(analyse(run))
    lines = {line.name: line for line in figure.data if line.name}
    for kind, name in (("circuit", "circuit"), ("top", "the strongest"), ("greedy", "greedy")):
        assert list(lines[name].y) == pytest.approx(list(table.loc[table["kind"] == kind, "faithfulness"]))
    assert "CPR" in caption(figure)


def test_the_figure_of_estimates_draws_both(run):
    figure = plot_agreement(analyse(run))
    drawn_points = sum(len(mark.x) for mark in figure.data if mark.mode == "markers")
    chosen = run.estimates["chosen"]
    assert drawn_points == chosen.str.contains("top").sum() + chosen.str.contains("audit").sum()


def test_every_figure_has_its_controls_at_the_foot(run):
    analysis = analyse(run, samples=200)
    drawn_figures = figures_of(analysis)
    assert {"map_denoising", "controls_noising", "sets", "estimates", "pair"} <= set(drawn_figures)
    for name, figure in drawn_figures.items():
        (foot,) = [each.text.replace("<br>", " ") for each in figure.layout.annotations if each.name == "foot"]
        own = {"pair": "One pair, no interval", "occupations": "Unpatched prompts"}
        assert foot.startswith(own.get(name, "controls: patched with")), name
        assert ("shuffled source" in foot) == (name not in own)
        assert figure.layout.meta["foot"] == foot.replace("\u00a0", " ")
    bare = replace(run, controls=None, meta={k: v for k, v in run.meta.items() if k not in ("controls", "audit")})
    assert controls_line(analyse(bare), "denoising") == "no controls were run"
    plain = all_figures(analysis)["map_denoising"]
    assert drawn_figures["map_denoising"].layout.height > plain.layout.height


def test_the_lines_tell_the_tables(run):
    analysis = analyse(run)
    located = analysis.located
    lines = "\n".join(evidence_lines(analysis, located))
    first = control_table(run).query("direction == 'denoising' and control == 'shuffled source'").iloc[0]
    digits = decimals(abs(first["effect"]))
    numbers = with_interval(first["effect"], first["low"], first["high"], digits)
    assert f"{numbers} with the value of another subject (shuffled source)" in lines
    assert "not run: random weights, left out, as asked" in lines
    assert f"p {located.set_test.p:.2g}" in lines
    assert "\n    " not in lines
    assert f"CPR {areas(run).cpr[0]:.2f}" in lines
    assert "rank correlation of estimates with exact effects" in lines
    assert rank(run, component="attn_out", role="last").set_test is None


def test_a_run_folder_holds_the_evidence(run, tmp_path):
    run.save(tmp_path)
    report = write_report(run, tmp_path, formats=["html"])
    read = load_trace(tmp_path)
    assert read.meta == run.meta
    found = pd.read_csv(tmp_path / "controls.csv")
    np.testing.assert_allclose(found["effect"], control_table(run)["effect"], rtol=1e-5, atol=1e-9)
    assert len(pd.read_csv(tmp_path / "sets.csv")) == len(set_table(run))
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Evidence</h2>" in page
    assert "located on half of the groups" in page
    assert load_located(tmp_path) == report.located
    assert report.located.set_test.sets == 20


@pytest.fixture
def command(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["locate-bias", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        out = capsys.readouterr()
        return stop.value.code or 0, out.out, out.err

    return run


@pytest.mark.usefixtures("one_setting")
def test_the_command_line_traces_within_a_budget_and_tells_the_evidence(command, planted, tmp_path):
    arguments = ["trace", "--model", planted.folder, "--components", "mlp_out,head", "--swap", "opposite"]
    arguments += ["--roles", "subject_last,last", "--templates-each", 1, "--limit", 12]
    arguments += ["--budget", 1000, "--sets", "--formats", "html", "-o", tmp_path]
    code, out, err = command(*arguments, "--json")
    assert code == 0
    told = json.loads(out)
    assert any("sites measured" in line for line in told["evidence"])
    assert any(", itself " in line and "(shuffled source)" in line for line in told["evidence"])
    assert told["located"]["trace"]["estimates"]["passes"] == 1000
    assert "control: shuffled source" in err
    names = {path.name for path in tmp_path.iterdir()}
    assert {"controls.csv", "controls.parquet", "estimates.parquet", "sets.csv", "sets.parquet"} <= names
    assert (tmp_path / "figures" / "estimates.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--budget", "soon"], "budget 'soon': expected a time in s, min or h like 90s"),
        (["--budget", "90s", "--dry-run"], "--budget already says what the run will cost: leave --dry-run out"),
    ],
)
def test_bad_budgets_are_one_line(command, planted, tmp_path, arguments, message):
    code, out, err = command("trace", "--model", planted.folder, "-o", tmp_path / "run", *arguments)
    assert code == 1
    assert out == ""
    assert message in err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
