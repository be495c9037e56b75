"""evaluate and compare as a user meets them, and the figures they draw."""

import copy
import json
import math
import re
import subprocess
import sys
from dataclasses import replace

import pandas as pd
import pytest
from test_report import caption, drawn_words, panel_titles

from locate import cli
from locate.errors import LocateError
from locate.evaluation.change import compare_evaluations
from locate.evaluation.evaluation import Evaluation, load_evaluation, main_scores
from locate.evaluation.run import evaluate
from locate.evaluation.scores import Score
from locate.model.causal import load_causal
from locate.report.evaluation import name_of, plot_evaluation, plot_evaluation_change, write_evaluation_change

ROWS = [
    {"goal": "Open a door", "sol1": "turn the handle", "sol2": "eat the handle with salt and pepper", "label": 0},
    {"goal": "Make tea", "sol1": "burn the leaves", "sol2": "pour hot water on leaves", "label": 1},
    {"goal": "Sit down", "sol1": "use a chair", "sol2": "use a sea", "label": 0},
]
SCORES = (
    Score("stereoset", "ss", 58.0, 52.0, 64.0, "%", 255, 40, ideal=50.0),
    Score("stereoset", "ss", 61.0, 50.0, 70.0, "%", 80, 12, part="profession", ideal=50.0),
    Score("occupations", "log_odds", 1.2, 0.9, 1.5, "nats", 400, 40, ideal=0.0),
    Score("occupations", "right", 92.0, 85.0, 97.0, "%", 120, 30, part="definitional", ideal=100.0, kind="control"),
    Score("winobias", "gap", 0.3, math.nan, math.nan, "nats", 1, 1, part="type1", ideal=0.0),
    Score("lambada", "accuracy", math.nan, math.nan, math.nan, "%", 0, 0, kind="ability"),
    Score("perplexity", "perplexity", 61.0, 50.0, 80.0, "perplexity", 77, 12, kind="ability"),
    Score("lambada", "perplexity", 2831.0, 600.0, 13000.0, "perplexity", 25, 25, kind="ability"),
)
PROSE = ["perplexity: perplexity per token", "lambada: perplexity of the last word"]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line; returns exit code, stdout and stderr."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["locate-bias", *map(str, arguments)])
        try:
            cli.main()
            code = 0
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "piqa.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "own.txt").write_text("The nurse said that she was tired. He was not.\n" * 3)
    return folder


@pytest.fixture(scope="module")
def judged(data, tmp_path_factory):
    """Folders of two evaluations, and the evaluations: of mini, and of mini with smaller weights."""
    mini = load_causal("mini", device="cpu")
    network = copy.deepcopy(mini.network)
    for parameter in network.parameters():
        parameter.data *= 0.9
    models = {"mini": mini, "small": replace(mini.with_network(network), name="small")}
    folders = {name: tmp_path_factory.mktemp("judged") / name for name in models}
    sources = {"perplexity": data / "own.txt"}
    found = {
        name: evaluate(model, tests=["perplexity", "piqa"], data=data, sources=sources, folder=folders[name])
        for name, model in models.items()
    }
    return folders, found


def test_evaluate_prints_draws_and_keeps(run, data, tmp_path, judged):
    out = tmp_path / "out"
    text = ("--text", data / "own.txt")
    arguments = ["evaluate", "mini", "--data", data, "--tests", "perplexity,piqa", *text, "-o", out]
    code, said, err = run(*arguments, "--formats", "html", "--device", "cpu")
    assert code == 0
    assert re.search(r"^piqa: \d+ of \d+", err, re.MULTILINE)
    assert "mini, float32 on cpu" in said
    assert any(
        line.split()[:2] == ["piqa", "accuracy"] and line.split()[-5:] == ["3", "3", "0", "0", "0"]
        for line in said.splitlines()
    )
    assert re.search(r"^figure, step 1 of 1; about \d+ s left in all \.\.\.$", err, re.MULTILINE)
    assert {path.name for path in out.iterdir()} == {"evaluation.json", "scores.csv", "items", "figures", "report.html"}
    pd.testing.assert_frame_equal(load_evaluation(out).frame(), judged[1]["mini"].frame())
    code, said, _ = run(*arguments, "--formats", "html", "--device", "cpu", "--json")
    assert json.loads(said)["scores"] == json.loads((out / "evaluation.json").read_text())["scores"]


def test_a_source_is_read_from_the_command_line(run, data, tmp_path):
    code, said, _ = run(
        "evaluate", "--tests", "piqa", "--source", f"piqa={data / 'piqa.jsonl'}", "--limit", 2, "--seed", 3,
        "-o", tmp_path / "out", "--formats", "html", "--device", "cpu",
    )  # fmt: skip
    assert code == 0
    assert "piqa: 2 of 3 items, at most 2 of the test, drawn with seed 3" in said


@pytest.mark.parametrize(("arguments", "said"), [
    (["--tests", "nonsense"], "test 'nonsense': expected one of"),
    (["--source", "piqa"], "--source 'piqa': expected TEST=FILE"),
    (["--source", "perplexity=a", "--text", "b"], "test 'perplexity' has two sources, 'a' and 'b': give one"),
    (["--seed", "-1"], "--seed -1: expected a whole number from 0 to 4294967295"),
    (["--limit", "0", "--device", "cpu"], "limit 0: expected a number of items from 1 up"),
    (["--formats", "gif"], "gif"),
])  # fmt: skip
def test_what_the_user_can_mend_is_one_line(run, arguments, said, tmp_path):
    code, out, err = run("evaluate", "-o", tmp_path / "out", *arguments)
    assert (code, out) == (1, "")
    assert said in err.splitlines()[-1]
    assert "Traceback" not in err


def test_compare_tells_evaluations_from_traces(run, judged, tmp_path):
    folders, found = judged
    code, said, _ = run("compare", folders["mini"], folders["small"], "-o", tmp_path / "c", "--formats", "html")
    assert code == 0
    assert "A mini, B small" in said
    assert "perplexity_change" in said
    changes = pd.read_csv(tmp_path / "c/changes.csv")
    expected = compare_evaluations(found["mini"], found["small"]).frame()
    assert changes["change"].tolist() == pytest.approx(expected["change"].tolist(), rel=1e-4)
    assert changes["test"].tolist() == ["perplexity", "perplexity", "piqa", "piqa"]
    assert {path.name for path in (tmp_path / "c").iterdir()} == {
        "changes.csv",
        "retained.csv",
        "figures",
        "report.html",
    }
    code, said, _ = run(
        "compare", folders["mini"], folders["mini"], "-o", tmp_path / "d", "--formats", "html", "--json"
    )
    content = json.loads(said)
    assert content["same_weights"]
    assert [each["change"] for each in content["changes"]] == [0, 0, 0, 0]


def test_compare_refuses_what_it_cannot_do(run, judged, tmp_path):
    folders, found = judged
    for options in (["--quantity", "total"], ["--overlap"], ["--strongest", 5], ["--view", "signed"]):
        code, _, err = run("compare", folders["mini"], folders["small"], *options)
        assert (code, "holds an evaluation: leave the options of traces out" in err) == (1, True), options
    code, _, err = run("compare", folders["mini"], tmp_path)
    assert (code, f"no file {tmp_path / 'evaluation.json'}" in err) == (1, True)
    with pytest.raises(LocateError, match="holds an evaluation: choose another"):
        write_evaluation_change(compare_evaluations(*found.values()), folders["mini"])


def test_comparing_needs_no_torch(judged):
    folders, _ = judged
    script = (
        "import sys, locate\n"
        "from locate.evaluation.evaluation import load_evaluation\n"
        "found = locate.compare(*map(load_evaluation, sys.argv[1:]))\n"
        "locate.plot.evaluation(found), locate.plot.evaluation(found.before)\n"
        "assert not {'torch', 'transformers', 'lm_eval', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script, *map(str, folders.values())], check=True, capture_output=True)


def evaluation(scores=SCORES) -> Evaluation:
    meta = {"model": {"name": "a<b", "dtype": "float32"}, "level": 0.95, "edited": None}
    return Evaluation(meta, tuple(scores), {})


def test_main_scores_are_of_whole_tests_of_parts_without_one_and_controls():
    assert [(each.test, each.name, each.part) for each in main_scores(SCORES)] == [
        ("stereoset", "ss", ""), ("occupations", "log_odds", ""), ("winobias", "gap", "type1"),
        ("occupations", "right", "definitional"), ("lambada", "accuracy", ""), ("perplexity", "perplexity", ""),
        ("lambada", "perplexity", ""),
    ]  # fmt: skip


def test_a_figure_shows_each_score_beside_its_ideal():
    figure = plot_evaluation(evaluation())
    drawn = {
        text: (x, up, down)
        for trace in figure.data
        if trace.error_x.array is not None
        for text, x, up, down in zip(trace.text, trace.x, trace.error_x.array, trace.error_x.arrayminus, strict=True)
    }
    assert drawn == {
        "stereoset: stereotypical text preferred": (58, 6, 6),
        "occupations: log-odds of she against he": (1.2, pytest.approx(0.3), pytest.approx(0.3)),
        "winobias: how much likelier the stereotypical sentence is (type1)": (0.3, None, None),
        "occupations: right (definitional)": (92, 5, 7), "perplexity: perplexity per token": (61, 19, 11),
        "lambada: perplexity of the last word": (2831, 13000 - 2831, 2231),
    }  # fmt: skip
    ideals = [value for trace in figure.data if trace.error_x.array is None for value in trace.x]
    assert ideals == [50, 0, 0, 100]
    assert figure.layout.xaxis.range == (-2, 102)
    assert figure.layout.xaxis4.type == "log"
    assert [figure.layout[f"xaxis{n}"].title.text for n in ("", 2, 3, 4)] == [
        "percent",
        "nats",
        "percent",
        "perplexity",
    ]
    title = caption(figure)
    assert "Model a<b," in title
    assert "a&lt;b" in drawn_words(figure)
    assert "95% interval" in title
    assert "n 1 to 400 items in 1 to 40 groups" in title
    assert "6 of 8 scores" in title
    assert panel_titles(figure) == [
        "<b>bias</b>",
        "<b>bias</b>",
        "<b>to be kept</b>",
        "<b>ability</b>",
    ]


def test_no_label_of_a_score_is_cut():
    long = replace(SCORES[3], part="held-out words and templates of all the occupations")
    figure = plot_evaluation(evaluation((*SCORES, long)))
    longest = max(len(text) for axis in figure.select_yaxes() for text in axis.ticktext)
    assert figure.layout.margin.l > 5 * longest > 290
    assert plot_evaluation(evaluation(SCORES[3:])).layout.margin.l < figure.layout.margin.l


def test_lines_of_a_panel_have_their_own_names():
    figure = plot_evaluation(evaluation())
    (trace,) = [each for each in figure.data if each.text is not None and PROSE[1] in each.text]
    names = dict(zip(figure.layout.yaxis4.tickvals, figure.layout.yaxis4.ticktext, strict=True))
    assert [names[y] for y in trace.y] == list(trace.text) == PROSE


def test_nothing_to_draw_is_refused():
    with pytest.raises(LocateError, match="no score with a value to draw"):
        plot_evaluation(evaluation(SCORES[5:6]))


def test_a_figure_of_changes_fades_noise(judged):
    _, found = judged
    changed = compare_evaluations(found["mini"], found["small"])
    figure = plot_evaluation_change(changed)
    sides = {"circle-open": 0, "circle": 0}
    for trace in figure.data:
        if trace.error_x.array is None:
            continue
        sides[trace.marker.symbol] += 1
        (change,) = [each for each in changed.changes if name_of(each.before) == trace.text[0]]
        side = change.before if trace.marker.symbol == "circle-open" else change.after
        assert trace.x[0] == side.value
        assert (trace.opacity == 1) == (change.within_noise is False)
    assert sides == {"circle-open": 4, "circle": 4}
    words = [each for each in panel_titles(figure) if "[" in each or each[0] in "+-"]
    assert len(words) == 4
    assert "0 (" not in words
