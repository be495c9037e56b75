"""The notebooks run from top to bottom, on few prompts; what is kept in them was made on all."""

import sys
from pathlib import Path

import nbformat
import pytest

from locate.prompts.build import occupation_table

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
sys.path.insert(0, str(NOTEBOOKS))
ALL = sorted(NOTEBOOKS.glob("*.ipynb"))
FEW = list(occupation_table()["occupation"])[::12]
FEWER = {"01": {"occupations": 6}, "02": {"templates": 4, "persons": 12, "gendered": 4}}
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


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.name)
def test_what_is_kept_is_of_one_whole_run(path):
    """Cells were run in their order, none is left out, and none failed."""
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    assert len(pictures_of(notebook)) >= 4
    assert not [out for cell in code_of(notebook) for out in cell.outputs if out.output_type == "error"]
