"""Bad input at the command line: one line that says what was expected, exit code 1, and nothing written."""

import shlex
import sys

import pytest
from handmade import map_trace

from locate import cli
from locate.cli.options import folder_name

pytestmark = pytest.mark.usefixtures("unchecked_types")

REFUSED = [
    ("trace --limit 0", "limit 0: expected a number of pairs >= 1"),
    ("trace --limit -3", "limit -3: expected a number"),
    ("trace --limit abc", "valid integer"),
    ("trace --nope", "No such option: --nope"),
    ("nope", "No such command 'nope'"),
    ("trace --templates-each 0", "0 templates for each word: expected 1 to"),
    ("trace --templates-each -1", "-1 templates for each word"),
    ("trace --seed -1", "--seed -1: expected a whole number from 0 to 4294967295"),
    ("trace --seed 99999999999999999999", "--seed 99999999999999999999: expected"),
    ("trace --windows 0", "widths >= 1"),
    ("trace --windows ,", "--windows ',': expected whole numbers"),
    ("trace --layers x", "--layers 'x': expected whole numbers like 0-3,7"),
    ("trace --layers ''", "--layers '': expected whole numbers"),
    ("trace --layers 3-1", "runs backwards"),
    ("trace --components ''", "--components '': expected words separated by commas"),
    ("trace --components foo", "component 'foo': expected one of resid_pre"),
    ("trace --components mlp_out,mlp_out", "expected each once"),
    ("trace --components pattern --layers-of mlp_out", "--layers-of mlp_out: no module writes pattern alone"),
    ("trace --roles ,", "--roles ',': expected words"),
    ("trace --roles nope", "role 'nope': expected one of"),
    ("trace --keys last", "without pattern: add pattern"),
    ("trace --keys ''", "--keys '': expected words"),
    ("trace --severed ''", "--severed '': expected words"),
    ("trace --formats ''", "--formats '': expected words"),
    ("trace --formats gif", "format 'gif': expected one of html, png, svg, pdf"),
    ("trace --sigmas 2", "--sigmas and --draws describe noise"),
    ("trace --corrupt noise --sigmas 0", "noise of 0.0 sigmas, 10 samples: expected finite sigmas > 0"),
    ("trace --corrupt noise --sigmas nan", "noise of nan sigmas"),
    ("trace --corrupt noise --sigmas inf", "noise of inf sigmas"),
    ("trace --corrupt noise --draws 0", "noise of 3.0 sigmas, 0 samples: expected finite sigmas > 0, and samples >= 1"),
    ("trace --prompts missing.csv", "no file missing.csv"),
    ("trace --prompts .", ". is a folder: expected"),
    ("trace --kind ''", "kind '' was not traced"),
    ("trace --kind nope", "kind 'nope' was not traced"),
    ("trace --template ''", "holds the slot {subject} 0 times"),
    ("trace --metric nope", "metric 'nope': expected one of logit_diff"),
    ("trace --budget 0", "expected one of them, above 0"),
    ("trace --budget abc", "budget 'abc': expected a time in s, min or h like 90s"),
    (
        "trace --budget-method attribution",
        "--budget-method attribution only applies to a run with a budget: add --budget",
    ),
    ("trace --budget 5s --dry-run", "leave --dry-run out"),
    ("trace --model nowhere/x/y --limit 4", "no such folder"),
    ("rank nowhere", "nowhere holds no run"),
    ("rank afile", "afile holds no run"),
    ("rank RUN --top 0", "top 0: expected a number of sites >= 1"),
    ("rank RUN --seed -1", "--seed -1: expected"),
    ("rank RUN --direction ''", "direction '': expected one of denoising, noising"),
    ("rank RUN --view ''", "view '': expected one of stereotype, signed"),
    ("rank RUN --quantity nope", "quantity 'nope': expected one of"),
    ("rank RUN --metric nope", "metric 'nope': expected one of"),
    ("rank RUN -o afile/x.json", "cannot write afile/x.json"),
    ("rank OLD", "has schema 1: expected 2"),
    ("rank CUT", "trace.parquet cannot be read"),
    ("rank HAND", "meta.json is not JSON"),
    ("plot RUN --pair 999 --formats html", "pair 999 with direction 'denoising' is not in the trace"),
    ("plot RUN --pair 0 --direction nope --formats html", "with direction 'nope'"),
    ("plot RUN --seed -1", "--seed -1: expected"),
    ("plot RUN --formats ,", "--formats ',': expected words"),
    ("compare RUN nowhere", "nowhere holds no run"),
    ("compare RUN RUN", "every change would be 0"),
    ("compare RUN RUN --seed -1", "--seed -1: expected"),
    ("edit mini --located nowhere.json -o ed", "no file nowhere.json"),
    ("edit mini --located afile -o ed", "afile is not JSON"),
    ("edit mini --located RUN -o afile", "afile exists already"),
    ("evaluate --tests ''", "--tests '': expected words"),
    ("evaluate --seed -1", "--seed -1: expected"),
    ("evaluate --source foo", "--source 'foo': expected TEST=FILE"),
    ("prompts --limit 0", "limit 0: expected"),
    ("selftest --models 0", "--models 0: expected"),
    ("selftest --seed -1", "--seed -1: expected"),
]
"""what is typed, and what the line holds"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with a file and runs that are whole, of an older version, cut short, and edited by hand."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "afile").write_text("x")
    for name in ("RUN", "OLD", "CUT", "HAND"):
        map_trace(layers=1, components=("mlp_out",)).save(tmp_path / name)
    meta = (tmp_path / "RUN" / "meta.json").read_text()
    (tmp_path / "OLD" / "meta.json").write_text(meta.replace('"schema": 2', '"schema": 1'))
    (tmp_path / "CUT" / "trace.parquet").write_bytes((tmp_path / "RUN" / "trace.parquet").read_bytes()[:100])
    (tmp_path / "HAND" / "meta.json").write_text(meta[:-5])
    return tmp_path


@pytest.mark.parametrize(("typed", "said"), REFUSED)
def test_bad_input_is_one_line_and_exit_code_1(here, monkeypatch, capsys, typed, said):
    before = sorted(here.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["locate-bias", *shlex.split(typed)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.endswith(" ...")]
    assert (stop.value.code, len(lines), out) == (1, 1, ""), err
    assert lines[0].startswith("locate-bias: ")
    assert said in lines[0]
    assert sorted(here.rglob("*")) == before


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (".", "work"),
        ("..", "over"),
        ("./x/", "x"),
        ("x", "x"),
        ("a b/c\nd", "c_d"),
        ("owner/name", "name"),
        ("/", "model"),
    ],
)
def test_a_run_folder_always_has_a_name(tmp_path, monkeypatch, given, name):
    (tmp_path / "over" / "work" / "x").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "over" / "work")
    assert folder_name(given) == name
