"""`locate-bias rewrite train | run | judge` as a user meets them."""

import json

import pandas as pd
import pytest
from test_cli import run  # noqa: F401
from test_judging import said, serving
from test_rewriting import SAID, TEMPLATE, written

from locate.files import read_json

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture
def data(tmp_path):
    rows = [(*row, "gender" if place % 2 else "Gender ") for place, row in enumerate(SAID)]
    return written(tmp_path / "own.csv", [*rows, ("", "x", "")], ("input_text", "debiased_text", "dimension"))


def test_from_rows_to_a_verdict(run, folder_of, data, tmp_path):  # noqa: F811
    rewriter, out = tmp_path / "rewriter", tmp_path / "out.jsonl"
    code, stdout, stderr = run(
        "rewrite", "train", folder_of("llama"), "--data", data, "-o", rewriter, "--instruction", "Say they.",
        "--held-out", 0.25, "--set", "rank=4", "--set", "rate=0.03", "--set", "epochs=1", "--set", "guards.looks=1",
        "--set", "guards.repeating=100", "--set", "guards.empty=100", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, stderr
    assert "24 rows trained on, 8 held out" in stdout
    assert "note: 1 rows are left out: 1 input_text is empty (line 34)" in stderr
    assert read_json(rewriter / "rewriter.json")["request"]["instruction"] == "Say they."

    code, stdout, stderr = run("rewrite", "run", rewriter, "--data", data, "-o", out, "--device", "cpu", "--batch", 8)
    assert code == 0, stderr
    assert stdout.startswith("33 rows: ")
    assert "line 34 was not read: input_text is empty" in stdout
    assert len(out.read_text().splitlines()) == 33

    held = tmp_path / "held.jsonl"
    code, _, stderr = run(
        "rewrite", "run", rewriter, "--data", data, "-o", held, "--part", "held-out", "--seed", 5, "--device", "cpu"
    )
    assert "the 8 rows are those that the rewriter's training held out" in stderr
    lines = [json.loads(line)["line"] for line in held.read_text().splitlines()]
    assert lines == read_json(rewriter / "rewriter.json")["held_out_lines"]

    before = out.read_bytes()
    again = run("rewrite", "run", rewriter, "--data", data, "-o", out, "--device", "cpu", "--batch", 8, "--json")
    assert json.loads(again[1])["rows"] == 33
    assert out.read_bytes() == before

    code, stdout, stderr = run("rewrite", "judge", out)
    assert code == 0, stderr
    assert "rewrites, mean and 95% interval" in stdout
    assert "not read: input_text is empty (line 34 of the texts) (lines 33)" in stdout
    summary = pd.read_csv(tmp_path / "out-judged" / "summary.csv")
    assert set(summary["rows"]) == {"all", "without failed", "original", "change"}
    assert summary.loc[summary["rows"] == "all", "n"].max() == 32


def test_only_what_was_held_out_and_examples_of_the_rest(run, folder_of, data, tmp_path):  # noqa: F811
    out = tmp_path / "out.jsonl"
    code, _, stderr = run(
        "rewrite", "run", folder_of("llama"), "--data", data, "-o", out, "--part", "held-out", "--held-out", 0.25,
        "--limit", 3, "--examples", 1, "--instruction", "Say.", "--device", "cpu",
    )  # fmt: skip
    assert code == 0, stderr
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(rows) == 3
    (shown,) = read_json(tmp_path / "out.meta.json")["request"]["examples"]
    assert tuple(shown) in SAID
    assert shown[0] not in [row["text"] for row in rows]
    code, stdout, stderr = run(
        "rewrite", "run", folder_of("llama"), "--data", data, "-o", tmp_path / "rest.jsonl", "--examples", 1,
        "--instruction", "Say.", "--device", "cpu", "--json",
    )  # fmt: skip
    assert json.loads(stdout)["rows"] == 32
    assert "the 1 rows that are shown as examples are not rewritten" in stderr
    every = tmp_path / "every.jsonl"
    code, stdout, _ = run(
        "rewrite", "run", folder_of("llama"), "--data", data, "-o", every, "--limit", 5, "--instruction", "Say.",
        "--device", "cpu", "--json",
    )  # fmt: skip
    assert json.loads(stdout)["rows"] == 5


def test_a_judge_behind_an_address_and_one_on_this_machine(run, folder_of, tmp_path):  # noqa: F811
    path = tmp_path / "own.csv"
    path.write_text("text,rewrite,dimension\nShe ran.,They ran.,a\nHe ran.,,b\n")
    with serving(said(0.5)) as (address, told):
        code, stdout, stderr = run(
            "rewrite", "judge", path, "-o", tmp_path / "judged", "--judge", address, "--judge-model", "m", "--json",
            "--criteria", "bias,faithfulness", "--similarity", folder_of("llama"), "--likelihood", folder_of("gpt2"),
        )  # fmt: skip
    assert code == 0, stderr
    assert len(told.asked) == 2 + 2  # both of the rewrite, bias of both originals
    found = {(row["measure"], row["rows"]): row for row in json.loads(stdout)["summary"]}
    assert found["bias", "all"]["value"] == 0.75
    assert found["bias", "without failed"]["value"] == 0.5
    assert {"likelihood", "similarity", "faithfulness"} <= {name for name, _ in found}
    code, stdout, _ = run("rewrite", "judge", path, "-o", tmp_path / "plain")
    assert "by group, all rows (without failed)" in stdout

    local = tmp_path / "local"
    import shutil

    shutil.copytree(folder_of("bloom"), local)
    (local / "chat_template.jinja").write_text(TEMPLATE)
    code, stdout, stderr = run(
        "rewrite", "judge", path, "-o", tmp_path / "here", "--judge", local, "--criteria", "bias", "--no-originals"
    )
    assert code == 0, stderr
    assert "1 answers of the judge have no score: no whole JSON object" in stdout
    assert json.loads((tmp_path / "here" / "answers.jsonl").read_text())["judge"]["kind"] == "local"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "mini", "--data", "none.csv", "-o", "out"), "no file none.csv"),
        (("train", "mini", "--data", "DATA", "-o", "out", "--set", "speed=3"), "setting 'speed=3' of rewrite train"),
        (("train", "mini", "--data", "DATA", "-o", "out", "--layers", "x"), "--layers"),
        (("train", "mini", "--data", "DATA", "-o", "out", "--layers", "1"), "layers [1] without a located.json"),
        (("run", "mini", "--data", "DATA", "-o", "out.csv"), "expected a name that ends in .jsonl"),
        (("run", "mini", "--data", "DATA", "-o", "out.jsonl", "--batch", "0"), "batch 0"),
        (("judge", "none.jsonl"), "no file none.jsonl"),
        (("judge", "DATA", "--judge", "http://localhost/v1"), "without a model: name it (--judge-model)"),
        (("judge", "DATA", "--judge", "mini", "--judge-model", "m"), "it names a model behind an address"),
        (("judge", "DATA", "--judge", "mini", "--criteria", "kindness"), "judge 'mini' has no chat template"),
        (("judge", "DATA", "--criteria", "bias"), "--judge-model and --criteria are a judge's: name it with --judge"),
        (("judge", "DATA", "--parallel", "0"), "--parallel 0: expected at least one question"),
        (("run", "mini", "--data", "DATA", "-o", "out.jsonl", "--limit", "-1"), "--limit -1: expected"),
        (("run", "mini", "--data", "DATA", "-o", "out.jsonl", "--examples", "-1"), "--examples -1"),
        (("judge", "DATA", "--words", "none.txt"), "none.txt"),
    ],
)
def test_what_is_wrong_is_one_line(run, data, arguments, message):  # noqa: F811
    code, _, stderr = run("rewrite", *(str(data) if each == "DATA" else each for each in arguments))
    assert code == 1
    assert message in stderr.splitlines()[-1]
    assert "Traceback" not in stderr


def test_the_verbs_below_it_are_shown(run):  # noqa: F811
    code, stdout, stderr = run("rewrite")
    assert code == 2
    assert all(verb in stdout for verb in ("train", "run", "judge"))
    assert not stderr
    code, _, stderr = run("rewrite", "frob")
    assert code == 1
    assert stderr == "locate-bias: No such command 'frob'. (see --help)\n"


def test_a_rewriter_is_asked_as_it_was_trained(run, data, tmp_path):  # noqa: F811
    (tmp_path / "rewriter.json").write_text('{"schema": 1, "request": {"instruction": "Say.", "examples": []}}')
    code, _, stderr = run(
        "rewrite", "run", tmp_path, "--data", data, "-o", tmp_path / "x.jsonl", "--instruction", "Say it otherwise."
    )
    assert code == 1
    assert "leave --instruction and --examples out" in stderr
