"""The command line as a user meets it."""

import json
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from locate import cli

pytestmark = pytest.mark.usefixtures("unchecked_types")

FAST = ["--formats", "html", "--device", "cpu"]
FEW = [*FAST, "--components", "mlp_out", "--roles", "subject_last,last", "--direction", "denoising"]


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
def traced(folder_of, tmp_path_factory):
    """A run folder made by the command line."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    arguments = ["trace", "--model", str(folder_of("gpt2")), "--limit", "6", "-o", str(folder), *FAST]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["locate-bias", *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert stop.value.code == 0
    return folder


def test_trace_goes_from_prompts_to_located_json(traced):
    names = {path.name for path in traced.iterdir()}
    assert names == {
        "trace.parquet",
        "controls.parquet",
        "meta.json",
        "effects.csv",
        "controls.csv",
        "located.json",
        "report.html",
        "figures",
    }
    located = json.loads((traced / "located.json").read_text())
    assert located["module_template"] == "transformer.h.{}.mlp.c_proj"
    assert (traced / "figures" / "map_denoising.html").stat().st_size > 1e4
    assert (traced / "figures" / "plotly.min.js").stat().st_size > 1e6


def test_a_finished_run_is_derived_again_without_measuring(run, traced, folder_of):
    before = (traced / "trace.parquet").stat().st_mtime_ns
    code, out, err = run("trace", "--model", folder_of("gpt2"), "--limit", 6, "-o", traced, *FAST)
    assert code == 0
    assert "layers of mlp_out at subject_last" in out
    assert "measuring" not in err
    assert (traced / "trace.parquet").stat().st_mtime_ns == before


def test_rank_prints_a_table_or_json(run, traced, tmp_path):
    code, out, _ = run("rank", traced, "--direction", "noising", "--top", 3, "-o", tmp_path / "other.json")
    assert code == 0
    assert "noising" in out
    assert "95% interval" in out
    code, out, err = run("rank", traced, "--json", "--top", 5, "-o", tmp_path / "other.json")
    assert code == 0
    assert err == ""
    assert json.loads(out) == json.loads((tmp_path / "other.json").read_text())
    assert len(json.loads(out)["sites"]) == 5


def test_rank_imports_no_torch(traced, tmp_path):
    script = (
        "import sys; sys.argv = ['locate-bias', 'rank', sys.argv[1], '-o', sys.argv[2]]\n"
        "from locate.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformer_lens' not in sys.modules"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(traced), str(tmp_path / "x.json")], check=True, capture_output=True
    )


def test_help_and_version_import_nothing_heavy():
    script = (
        "import sys; sys.argv = ['locate-bias', sys.argv[1]]\n"
        "from locate.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'plotly', 'transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for flag in ("--help", "--version"):
        subprocess.run([sys.executable, "-c", script, flag], check=True, capture_output=True)


def test_help_lists_the_verbs_in_the_order_of_their_use(run):
    code, out, _ = run("--help")
    assert code == 0
    verbs = re.findall(r"^│ (\w+) {2,}", out, re.MULTILINE)
    assert verbs == [
        "prompts",
        "trace",
        "gather",
        "rank",
        "plot",
        "explore",
        "edit",
        "evaluate",
        "compare",
        "rewrite",
        "selftest",
    ]


VERBS = ("prompts", "trace", "gather", "rank", "plot", "explore", "edit", "evaluate", "compare", "selftest", "rewrite")
BELOW = ("train", "run", "judge")


def test_help_groups_the_options(run):
    code, out, _ = run("trace", "--help")
    assert code == 0
    assert re.findall(r"^╭─ (.*?) ─", out, re.MULTILINE) == [
        "Options", "Model", "Prompts", "What is patched", "Effects", "Evidence", "Measuring", "Precision", "Output",
    ]  # fmt: skip


@pytest.mark.parametrize("words", [(verb,) for verb in VERBS] + [("rewrite", verb) for verb in BELOW])
def test_help_cuts_nothing_at_80_columns(run, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run(*words, "--help")
    assert code == 0
    assert "…" not in out
    assert max(map(len, out.splitlines())) == 80


def test_plot_draws_a_pair(run, traced):
    code, out, _ = run("plot", traced, "--pair", 2, "--formats", "html")
    assert code == 0
    assert "pair_2_denoising.html" in out
    assert (traced / "figures" / "pair_2_denoising.html").is_file()


def test_prompts_shows_tokens_with_roles(run, folder_of):
    code, out, _ = run("prompts", "--model", folder_of("gpt2"), "--limit", 3)
    assert code == 0
    assert "Ġthat:last" in out
    assert ":subject_last" in out
    assert "3 kept, 0 dropped" in out
    code, out, _ = run("prompts", "--model", folder_of("gpt2"), "--limit", 3, "--json")
    first = json.loads(out)["pairs"][0]
    assert [role for _, role in first["tokens"]][-1] == "last"
    code, out, _ = run("prompts", "--list")
    assert out.startswith("occupation,share_women,year,source,stereotype")


@pytest.mark.usefixtures("one_setting")
def test_own_pairs_from_a_csv(run, folder_of, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(
        "clean,corrupted,clean_subject,corrupted_subject,stereotype\n"
        "The nurse said that,The man said that,nurse,man,1\n"
        "The driver said that,The woman said that,driver,woman,-1\n"
    )
    code, out, _ = run("trace", "--model", folder_of("gpt2"), "-p", file, "-o", tmp_path / "run", *FEW, "--json")
    assert code == 0
    assert json.loads(out)["located"]["sites"][0]["n"] == 2


def test_a_run_is_ranked_by_its_neutral_answer(run, traced):
    code, out, _ = run("rank", traced, "--metric", "neutral_male", "--view", "signed")
    assert code == 0
    assert "positive is towards the neutral answer" in out


def test_a_neutral_answer_that_own_pairs_lack_is_missed_before_the_model_is_loaded(run, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "clean,corrupted,clean_subject,corrupted_subject,neutral\n"
        "The nurse said that,The man said that,nurse,man,-\nThe cook said that,The man said that,cook,man,\n"
        "The clerk said that,The man said that,clerk,man,\n"
    )
    code, _, err = run("trace", "-m", tmp_path / "none", "--prompts", pairs, "--metric", "neutral_male", *FAST)
    assert code == 1
    assert err.startswith("locate-bias: --metric neutral_male needs a neutral answer, and 1 of 3 pairs have none")


@pytest.mark.usefixtures("one_setting")
def test_own_pairs_without_a_stereotype_are_ranked_signed(run, folder_of, tmp_path):
    file = tmp_path / "own.csv"
    file.write_text(
        "clean,corrupted,clean_subject,corrupted_subject\n"
        "The nurse said that,The man said that,nurse,man\n"
        "The driver said that,The woman said that,driver,woman\n"
    )
    code, out, _ = run("trace", "--model", folder_of("gpt2"), "-p", file, "-o", tmp_path / "run", *FEW, "--json")
    assert code == 0
    assert json.loads(out)["located"]["view"] == "signed"


@pytest.mark.usefixtures("one_setting")
def test_both_kinds_of_words_are_traced_and_told_apart(run, folder_of, tmp_path):
    code, out, _ = run(
        "trace", "--model", folder_of("gpt2"), "--words", "both", "--swap", "opposite", "--limit", 12, "--components",
        "mlp_out", "--roles", "subject_last", "--direction", "denoising", "-o", tmp_path / "run", *FAST,
    )  # fmt: skip
    assert code == 0
    assert "24 pairs kept" in out
    assert "selectivity" in out
    table = pd.read_csv(tmp_path / "run" / "selectivity.csv")
    assert (table[["stereotype_n", "definition_n"]] == 12).all(axis=None)
    assert (pd.read_csv(tmp_path / "run" / "effects.csv")["n"] == 12).all()
    assert (tmp_path / "run" / "figures" / "selectivity_denoising.html").is_file()
    assert (tmp_path / "run" / "regression.csv").is_file()
    code, out, _ = run("rank", tmp_path / "run", "--kind", "definition", "--json")
    assert code == 0
    assert json.loads(out)["kind"] == "definition"
    code, _, err = run("rank", tmp_path / "run", "--kind", "user")
    assert code == 1
    assert "kind 'user' was not traced: expected one of definition, occupation, or 'all'" in err


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("noise", [["--corrupt", "noise", "--draws", "2"], ["--words", "definitional"]])
def test_other_ways_to_trace(run, folder_of, tmp_path, noise):
    components = ["--components", "mlp_out,head", "--windows", "1,2", "--roles", "subject_last,last"]
    components += ["--direction", "denoising"]
    code, out, _ = run(
        "trace", "--model", folder_of("gpt2"), "--limit", 4, "-o", tmp_path / "run", *FAST, *noise, *components
    )
    assert code == 0
    assert "head" in out
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    assert {"map_denoising", "map_denoising_window2", "heads_last_denoising"} <= names


@pytest.mark.usefixtures("one_setting")
def test_edges_units_and_severed_paths_are_traced_and_drawn(run, folder_of, tmp_path):
    paths = ["--components", "pattern,neuron,mlp_out_unit,attn_out", "--keys", "subject_last", "--severed", "both"]
    few = ["--layers", "1", "--roles", "last", "--direction", "noising"]
    code, out, _ = run("trace", "--model", folder_of("gpt2"), "--limit", 3, "-o", tmp_path / "run", *FAST, *paths, *few)
    assert code == 0
    assert "layers of attn_out at last" in out
    names = {path.stem for path in (tmp_path / "run" / "figures").iterdir()}
    units = {"neurons_noising", "mlp_out_units_noising"}
    assert names >= {"attention_last_noising", "direct_noising", "map_noising", "layers_noising"} | units
    located = json.loads((tmp_path / "run" / "located.json").read_text())
    assert {site["component"] for site in located["sites"]} <= {"neuron", "mlp_out_unit", "attn_out"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "./none"], "no such folder"),
        (["--prompts", "none.csv"], "no file none.csv"),
        (["--template", "The nurse said that"], "holds the slot {subject} 0 times"),
        (["--components", "mlp"], "component 'mlp': expected one of"),
        (["--layers", "5-3"], "5-3 runs backwards"),
        (["--seed", "-1"], "--seed -1: expected"),
        (["--draws", "3"], "add --corrupt noise"),
        (["--words", "definitional", "--swap", "same"], "leave --swap out"),
        (["--components", "mlp_out,mlp_out"], "each once"),
        (["--layers-at", "last", "--roles", "subject_last"], "--layers-at 'last': expected one of subject_last"),
        (["--layers", "a-b"], "--layers 'a-b': expected whole numbers"),
        (["--formats", "gif"], "format 'gif': expected one of html, png, svg, pdf"),
        (["--metric", "bias"], "metric 'bias': expected one of logit_diff"),
        (["--limit", "0"], "limit 0: expected"),
        (["--limit", "1"], "1 group: expected at least 2 groups"),
        (["--dtype", "int4"], "dtype 'int4': expected one of"),
        (["--layers-of", "head"], "--layers-of 'head': expected one of attn_out, mlp_out"),
        (["--layers-at", "end"], "--layers-at 'end': expected one of"),
        (["--components", "resid_pre", "--layers-of", "mlp_out"], "add attn_out, mlp_out or head"),
        (["--keys", "last"], "keys ('last',) without pattern: add pattern to the components"),
        (["--severed", "attention"], "severed component 'attention': expected one of attn_out, mlp_out, both"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_1(run, folder_of, tmp_path, arguments, message):
    model = [] if "--model" in arguments else ["--model", folder_of("gpt2")]
    code, out, err = run("trace", *model, "--limit", 4, "-o", tmp_path / "run", *FAST, *arguments)
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert out == ""
    assert last.startswith("locate-bias: ")
    assert message in last
    assert "Traceback" not in err
    assert not (tmp_path / "run" / "trace.parquet").exists()


def test_an_unknown_option_is_a_usage_error(run):
    code, out, err = run("trace", "--nonsense")
    assert (code, out) == (1, "")
    assert "No such option: --nonsense" in err
    assert "Traceback" not in err


def test_an_answer_of_two_tokens_is_one_line(run, folder_of, tmp_path):
    file = tmp_path / "own.jsonl"
    pair = {"clean": "The nurse said that", "corrupted": "The man said that", "clean_subject": "nurse"}
    pair |= {"corrupted_subject": "man", "female": " librarian"}
    other = {"clean": "The engineer said that", "clean_subject": "engineer"}
    file.write_text("\n".join(json.dumps(each) for each in (pair, pair | other)))
    code, out, err = run("trace", "--model", folder_of("gpt2"), "-p", file, "-o", tmp_path / "run", *FAST)
    assert (code, out) == (1, "")
    assert "2 x answer ' librarian' must be a single token, got [" in err.splitlines()[-1]


def test_another_models_run_is_refused_and_kept(run, traced, folder_of):
    before = {path.name: path.stat().st_mtime_ns for path in traced.iterdir() if path.is_file()}
    code, _, err = run("trace", "--model", folder_of("llama"), "--limit", 6, "-o", traced, *FAST)
    assert code == 1
    assert "holds another run: its" in err
    assert before == {path.name: path.stat().st_mtime_ns for path in traced.iterdir() if path.is_file()}


@pytest.mark.usefixtures("one_setting")
def test_a_stopped_run_continues_where_it_was(run, folder_of, tmp_path):
    """Real processes: one killed after its first chunks, the next stopped by Ctrl-C; the same command then ends it."""
    command = [sys.executable, "-m", "locate", "trace", "--model", str(folder_of("gpt2")), "--batch-size", "8"]
    command += ["-o", str(tmp_path / "run"), "--no-controls", *FEW]
    parts = tmp_path / "run" / "parts" / "map"
    killed, _ = stopped(command, signal.SIGKILL, parts, 2)
    assert killed == -signal.SIGKILL
    first = len(list(parts.glob("part-*.parquet")))
    assert first >= 2
    code, err = stopped(command, signal.SIGINT, parts, first + 1)
    assert code == 130
    assert "Traceback" not in err
    assert "the same command continues there" in err
    assert len(list(parts.glob("part-*.parquet"))) > first
    rows = sum(len(pd.read_parquet(part)) for part in parts.glob("part-*.parquet"))
    command[command.index("--batch-size") + 1] = "256"
    code, out, err = run(*command[3:])
    assert code == 0, err
    assert "layers of mlp_out" in out
    assert f"map: {rows:,} of" in err
    assert not parts.parent.exists()


def stopped(command, blow, parts, chunks):
    """Start a command and send it a signal once so many chunks are kept; its exit code and what it said."""
    heeding = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "  # a shell's background job
    heeding += "os.execv(sys.argv[1], sys.argv[1:])"  # is started with Ctrl-C ignored, and so are these tests
    process = subprocess.Popen(
        [sys.executable, "-c", heeding, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while len(list(parts.glob("part-*.parquet")) if parts.is_dir() else []) < chunks:
        assert process.poll() is None, f"ended before {chunks} chunks were kept: {process.communicate()[1]}"
        time.sleep(0.05)
    process.send_signal(blow)
    err = process.communicate()[1]
    return process.returncode, err


def test_prompts_of_several_kinds_are_refused_before_anything_is_loaded(run, tmp_path):
    """Which kind is spoken of must be said; the mixture only where it is asked for."""
    pairs = pd.DataFrame(
        {
            "clean": ["The nurse said that", "The cook said that"],
            "corrupted": ["The man said that", "The woman said that"],
            "clean_subject": ["nurse", "cook"],
            "corrupted_subject": ["man", "woman"],
            "stereotype": [1, -1],
            "kind": ["first", "second"],
        }
    )
    pairs.to_csv(tmp_path / "pairs.csv", index=False)
    code, out, err = run("trace", "--prompts", tmp_path / "pairs.csv", "-o", tmp_path / "run", *FAST)
    assert (code, out) == (1, "")
    assert "the pairs are of kinds first, second: choose one of them, or 'all' for the mixture" in err
    assert not (tmp_path / "run").exists()
    code, _, err = run("trace", "--prompts", tmp_path / "pairs.csv", "-o", tmp_path / "run", "--kind", "third", *FAST)
    assert code == 1
    assert "kind 'third' was not traced: expected one of first, second" in err
