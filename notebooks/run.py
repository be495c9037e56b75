"""Run every notebook in this folder and keep its outputs: what readers see was made by this code.

python notebooks/run.py [--check]     with --check nothing is written
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
MINUTES = 10


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with fresh outputs; an error in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=MINUTES * 60, resources={"metadata": {"path": str(HERE)}}).execute()
    return notebook


def main() -> None:
    """Run all of them."""
    for path in sorted(HERE.glob("*.ipynb")):
        notebook = executed(path)
        if "--check" not in sys.argv:
            for cell in notebook.cells:
                cell.metadata.pop("execution", None)
            nbformat.write(notebook, path)
        print(path.name)


if __name__ == "__main__":
    main()
