"""The examples of docs/extending.md, each run as it stands: a file of its own, and the code that uses it."""

import sys

import pytest
from fewer import fewer_judged
from pages import ROOT, blocks, run_python

import locate

pytestmark = pytest.mark.usefixtures("unchecked_types")

PAGE = ROOT / "docs" / "extending.md"
SECTIONS = tuple(dict.fromkeys(block.section for block in blocks(PAGE, "python")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of mini and its located.json, as the examples name them."""
    place = tmp_path_factory.mktemp("extending")
    prompts = locate.occupation_pairs("anti", templates_each=1).first(12)
    where = locate.Map(components=("mlp_out",), roles=("subject_last", "last"))
    trace = locate.trace(locate.load("mini"), prompts, where, controls=None, output=place / "runs" / "demo-mini")
    locate.rank(trace).save(place / "runs" / "demo-mini" / "located.json")
    return place


def test_there_is_an_example_of_each():
    assert SECTIONS == ("A corruption", "A metric", "An editor", "A data set")


@pytest.mark.parametrize("section", SECTIONS)
def test_the_example_runs_as_written(section, runs, monkeypatch, capsys):
    found = [block for block in blocks(PAGE, "python") if block.section == section]
    file, *using = found
    assert file.file
    assert using
    monkeypatch.chdir(runs)
    monkeypatch.syspath_prepend(str(runs))
    fewer_judged(monkeypatch, whole=("occupations",))  # which the page shows a score of
    run_python(found, capsys)
    sys.modules.pop(file.file.removesuffix(".py"))
