"""Run every notebook in this folder and keep its outputs: what readers see was made by this code.

python notebooks/run.py [--check]     with --check nothing is written
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
MINUTES = 30  # for one cell, on a machine that is busy


def executed(path: Path, parameters: str = "") -> nbformat.NotebookNode:
    """The notebook with fresh outputs; an error in a cell is raised.

    parameters  Python that is run after the cell with the tag "parameters", or the first one, to set other values
    """
    notebook = nbformat.read(path, as_version=4)
    if parameters:
        code = [place for place, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
        tagged = [place for place in code if "parameters" in notebook.cells[place].metadata.get("tags", ())]
        notebook.cells.insert((tagged or code)[0] + 1, nbformat.v4.new_code_cell(parameters))
    NotebookClient(notebook, timeout=MINUTES * 60, resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without run times, and without stderr, where libraries name folders of this machine."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    return notebook


def main() -> None:
    """Run all of them."""
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = executed(path)
        if "--check" not in sys.argv:
            nbformat.write(tidy(notebook), path)
        print(path.name)


if __name__ == "__main__":
    main()
