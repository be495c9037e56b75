"""The experiment on rewriting: its list of words, its table, and what its README says of the committed results."""

import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

from locate.rewriting.originals import Original

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "rewriting"


@pytest.fixture(scope="module")
def experiment():
    spec = importlib.util.spec_from_file_location("rewriting_run", FOLDER / "run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def summary():
    return pd.read_csv(FOLDER / "results" / "summary.csv")


def told(summary, data, system, measure, rows="all"):
    (row,) = summary[
        (summary["set"] == data)
        & (summary["system"] == system)
        & (summary["measure"] == measure)
        & (summary["rows"] == rows)
    ].itertuples()
    return row


def test_words_that_mark_the_texts_and_not_their_rewrites(experiment):
    def row(line, text, reference):
        return Original(text, (reference,), (text,), line)

    rows = [row(k, f"Darn the {name} 22", f"The {name} 22") for k, name in enumerate("abcdef")]
    rows += [row(10 + k, f"heck {k}", "heck") for k in range(6)]
    assert experiment.marking_words(tuple(rows)) == {"darn"}
    assert experiment.marking_words(tuple(rows[:4])) == set()


def test_the_readme_holds_the_table_of_the_results(experiment, summary):
    table = experiment.markdown(summary)
    assert table == (FOLDER / "results" / "table.md").read_text()
    assert table.strip() in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize(
    ("data", "system", "measure"),
    [
        ("winobias_plus", "tuned", "exact"),
        ("winobias_plus", "prompted", "exact"),
        ("winobias_plus", "prompted, 3 examples", "exact"),
        ("paradetox", "tuned", "listed"),
        ("paradetox", "tuned", "copied"),
        ("paradetox", "tuned", "chrf"),
    ],
)
def test_the_answer_says_what_the_results_hold(summary, data, system, measure):
    said = " ".join((FOLDER / "README.md").read_text().partition("**Answer.**")[2].partition("<!--")[0].split())
    row = told(summary, data, system, measure)
    unit = " %" if row.unit == "%" else ""
    assert f"{row.value:.3g}{unit} [{row.low:.3g}, {row.high:.3g}]" in said


def test_what_the_answer_says_without_a_number(summary):
    for data, system in summary[["set", "system"]].drop_duplicates().itertuples(index=False):
        assert told(summary, data, system, "empty").value == 0
    assert told(summary, "winobias_plus", "tuned", "gendered").value == 0
    assert told(summary, "winobias_plus", "prompted", "copied").value == pytest.approx(66.5, abs=0.1)
    assert told(summary, "winobias_plus", "prompted, 3 examples", "copied").value > 66
    assert told(summary, "paradetox", "prompted, 3 examples", "copied").value > 50
    said = " ".join((FOLDER / "README.md").read_text().split())
    for measure, told_as in (
        ("listed", "there were {:.3g} [{:.3g}, {:.3g}]"),
        ("chrf", "against {:.3g} [{:.3g}, {:.3g}]"),
    ):
        row = told(summary, "paradetox", "tuned", measure, "original")
        assert told_as.format(row.value, row.low, row.high) in said
    row = told(summary, "paradetox", "tuned", "chrf", "change")
    assert f"a change of {row.value:.3g} [{row.low:.3g}, {row.high:.3g}]" in said
    assert f"(chrF {told(summary, 'paradetox', 'prompted', 'chrf').value:.0f})" in said
