"""The notebooks run from top to bottom, on few prompts; what is kept in them was made on all."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from locate.prompts.build import occupation_table

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
FEW = list(occupation_table()["occupation"])[::12]
FEWER = {"01": {"occupations": 6}, "02": {"templates": 4, "persons": 12, "gendered": 4}, "03": {}}
FEWER_ROWS = """
import sys
import pytest
sys.path.append({tests!r})
from fewer import fewer_rows
fewer_rows(pytest.MonkeyPatch(), {fewer})
"""
TRAINING = {"epochs": 1, "batch": 256}


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tables_of(notebook):
    return [
        out.data["text/html"]
        for cell in code_of(notebook)
        for out in cell.outputs
        if "text/html" in out.get("data", {})
    ]


def text_of(notebook):
    return "".join(out.text for cell in code_of(notebook) for out in cell.outputs if out.output_type == "stream")


def pictures_of(notebook):
    return [out for cell in code_of(notebook) for out in cell.outputs if "image/png" in out.get("data", {})]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the kernel's own libraries
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_the_notebook_runs(path, tmp_path):
    from run import executed

    for name in ("rain", "snow", "wind"):
        text = f"There was {name} all night, and in the morning the street was full of leaves.\n\n"
        (tmp_path / f"{name}.txt").write_text(text * 8)
    fewer_rows = FEWER_ROWS.format(tests=str(Path(__file__).parent), fewer=FEWER[path.name[:2]])
    notebook = executed(path, f"{fewer_rows}jobs, training, prose = {FEW}, {TRAINING}, {str(tmp_path)!r}")
    assert len(code_of(notebook)) >= 8
    assert len(pictures_of(notebook)) >= 4
    assert not [out for cell in code_of(notebook) for out in cell.outputs if out.output_type == "error"]
    if path.name.startswith("03"):
        assert "the live page answers: 200 OK" in text_of(notebook)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_what_is_kept_is_of_one_whole_run(path):
    """Cells were run in their order, none is left out, and none failed."""
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    assert len(pictures_of(notebook)) >= 4
    assert not [out for cell in code_of(notebook) for out in cell.outputs if out.output_type == "error"]


SHOWN = {
    "01": ("104 pairs, 104 groups", "Trace of mini", "The located set against random ones", "Strongest sites of mini"),
    "02": ("Edit of mini by lsdm", "kept definition words", "Receipt of fast on mini", "From mini (A) to fast (B)"),
    "03": (
        "42 pairs, 14 groups",
        "her, his",
        "Trace of mini",
        "log-odds of her against his",
        "so few groups allow no q",
    ),
}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_objects_show_themselves_as_tables_in_one_hand(path):
    notebook = nbformat.read(path, as_version=4)
    shown = "".join(tables_of(notebook))
    for words in SHOWN[path.name[:2]]:
        assert words in shown
    assert shown.count('<th scope="row"') >= 10
    raw = [each for cell in code_of(notebook) for each in cell.outputs if each.get("data", {}).keys() == {"text/plain"}]
    assert all(len(each.data["text/plain"]) < 200 for each in raw)


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_every_figure_has_the_theme_of_the_house(path):
    """plotly's own figures come with another look and a button that uploads them."""
    for cell in code_of(nbformat.read(path, as_version=4)):
        assert cell.source.count("plotly.express.") == cell.source.count("Figure(plotly.express.")
        assert not re.search(r"go\.Figure|make_subplots|graph_objects", cell.source)
