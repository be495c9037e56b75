"""Plants a fault in a copy of the project and runs tests there, in a process forked with the libraries loaded."""

import multiprocessing
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ["pytest", "torch", "transformer_lens.model_bridge", "scipy.stats", "plotly.graph_objects", "rich", "typer"]
GREEN, RED = 100, 101  # not 0 and 1: an exception before the tests ends with 1, and is no failed test
SETTINGS = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1"}


@dataclass(frozen=True)
class Fault:
    """One line changed in one file, and the tests that must notice."""

    name: str
    file: str
    line: str
    becomes: str
    tests: tuple[str, ...]


def copy_project(target: Path) -> None:
    """The package, its tests and settings; the large model files and the shared data only as links."""
    shutil.copytree(ROOT / "locate", target / "locate", ignore=shutil.ignore_patterns("mini", "__pycache__"))
    (target / "locate" / "mini").symlink_to(ROOT / "locate" / "mini")
    shutil.copytree(ROOT / "tests", target / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("replications", "locate_vs_edit", "lsdm_table", "rounding", "entanglement"):
        shutil.copytree(ROOT / "experiments" / name, target / "experiments" / name)
    shutil.copy(ROOT / "experiments" / "editing.py", target / "experiments")
    shutil.copy(ROOT / "pyproject.toml", target)
    (target / "figures").symlink_to(ROOT / "figures")
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (target.parent / "shared").symlink_to(shared)


def noticed(target: Path, planted: Fault) -> bool:
    """Plant a fault, run its tests, take it out again; whether any test failed."""
    path = target / "locate" / planted.file
    text = path.read_text()
    if text.count(planted.line) != 1:
        raise SystemExit(
            f"fault {planted.name!r}: {planted.file} holds its line {text.count(planted.line)} times, expected once"
        )
    path.write_text(text.replace(planted.line, planted.becomes))
    red = fail_in(target, planted.tests)
    path.write_text(text)
    return red


def fail_in(target: Path, tests: tuple[str, ...]) -> bool:
    """Whether any of some tests fails in a copy; no two at a time in one copy."""
    log = target.parent / "log"
    process = forks().Process(target=run_tests, args=(target, tests, log))
    process.start()
    process.join()
    if process.exitcode not in (GREEN, RED):
        raise SystemExit(f"pytest {' '.join(tests)} ended with {process.exitcode}\n{log.read_text()[-2000:]}")
    return process.exitcode == RED


@cache
def forks() -> ForkServerContext:
    """Where processes are forked that have the libraries loaded, but not the package: importing them takes longest."""
    os.environ |= SETTINGS
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LIBRARIES)
    return context


def run_tests(target: Path, tests: tuple[str, ...], log: Path) -> None:
    """Run tests on the copy's package, in this process, which ends with GREEN, RED or pytest's other codes over GREEN.

    What they print goes to the log.
    """
    import pytest

    if "locate" in sys.modules:
        raise SystemExit(f"the package is loaded from {sys.modules['locate'].__file__}, not from its copy")
    with log.open("w") as said:
        for stream in (1, 2):
            os.dup2(said.fileno(), stream)
    os.environ["PYTHONPATH"] = str(target)
    os.chdir(target)
    sys.dont_write_bytecode = True
    sys.path[:0] = [str(target), str(target / "tests")]
    loaded = "ignore::pytest.PytestAssertRewriteWarning"  # some libraries bring a plugin, and are loaded already
    sys.exit(GREEN + pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-W", loaded, *tests]))
