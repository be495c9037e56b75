"""The rules of the house that a program can check."""

import ast
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "locate"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    {"errors", "files", "claims", "schema", "sites", "metrics", "words", "notebook", "parts", "prompts", "work"},
    {"model"},
    {"engine"},
    {"tracing"},
    {"mediation", "workers"},
    {"study", "evaluation"},
    {"training"},
    {"editors"},
    {"rewriting"},
    {"report", "planted", "plot"},
    {"explorer"},
    {"cli", "__main__"},
]


def room(path: Path) -> str:
    """The file or folder of the package that a module belongs to."""
    inside = path.relative_to(PACKAGE)
    return inside.parts[0].removesuffix(".py")


def floor(name: str) -> int:
    return next(level for level, rooms in enumerate(FLOORS) if name in rooms)


def imports(path: Path) -> set[str]:
    """Modules that a file imports anywhere, those for type checking included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "locate"}
    return found


def module_name(path: Path) -> str:
    """Dotted name of a file of the package."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def graph() -> dict[str, set[str]]:
    """Which files of the package each file imports; those for type checking included."""
    names = {module_name(path) for path in FILES}
    found: dict[str, set[str]] = {name: set() for name in names}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found[module_name(path)] |= {alias.name for alias in node.names} & names
            elif isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    inside = f"{node.module}.{alias.name}"
                    found[module_name(path)] |= {inside if inside in names else str(node.module)} & names
    return found


@pytest.mark.parametrize("path", [path for path in FILES if path != PACKAGE / "__init__.py"], ids=str)
def test_imports_point_down(path):
    here = room(path)
    for name in imports(path):
        if name.startswith("locate."):
            there = name.split(".")[1]
            assert floor(there) <= floor(here), f"{here} imports {there}, which is above it"


def test_no_file_imports_itself_round_a_circle():
    below = graph()
    assert below.pop("locate") == set()
    while free := {name for name, others in below.items() if not others & set(below)}:
        for name in free:
            del below[name]
    assert not below, f"these import each other round a circle: {sorted(below)}"


def test_every_room_has_a_floor():
    assert {room(path) for path in FILES} - {"__init__"} == set().union(*FLOORS)


@pytest.mark.parametrize("path", FILES, ids=str)
def test_transformer_lens_and_hugging_face_are_known_to_one_floor(path):
    outside = {name.split(".")[0] for name in imports(path)} & {"transformer_lens", "transformers", "huggingface_hub"}
    assert not outside or room(path) == "model" or (room(path) == "training" and outside == {"transformers"})


@pytest.mark.parametrize("path", FILES, ids=str)
def test_a_file_is_read_in_one_sitting_and_says_what_it_holds(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    assert ast.get_docstring(ast.parse(text)), f"{path} starts without a docstring"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_functions_fit_on_a_screen_and_public_ones_are_documented(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = (node.end_lineno or 0) - node.body[0].lineno
            assert body <= 66, f"{path}: {node.name} has {body} lines"
        nested = isinstance(node, ast.FunctionDef) and (node.name.startswith("__") or node.col_offset > 4)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_") and not nested:
            documented = ast.get_docstring(node) or node.col_offset > 0
            assert documented, f"{path}: {node.name} has no docstring"


def test_analysing_needs_no_torch():
    script = (
        "import sys, locate\n"
        "locate.load_trace, locate.analyse, locate.rank, locate.plot.map, locate.occupation_pairs\n"
        "assert not {'torch', 'transformers', 'transformer_lens'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_modules_of_experiments_have_names_of_their_own():
    """Tests import several experiments into one process."""
    names = Counter(path.name for path in (ROOT / "experiments").glob("*/*.py") if path.name != "run.py")
    assert [name for name, count in names.items() if count > 1] == []


def test_figures_of_experiments_have_the_look_of_the_house():
    """They are made by `locate.report.quiet`, whose template is the house's, not by plotly with one of its own."""
    for path in (ROOT / "experiments").rglob("*.py"):
        assert not re.search(r"\bmake_subplots|go\.Figure\(|simple_white|plotly\.express", path.read_text()), path


def test_every_name_that_the_package_offers_is_there():
    import locate

    for name in locate.__all__:
        assert getattr(locate, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'bias'"):
        _ = locate.bias


def test_the_file_map_is_complete():
    readme = (ROOT / "CONTRIBUTING.md").read_text()
    for name in {room(path) for path in FILES} - {"__init__", "__main__"}:
        entry = f"{name}/" if (PACKAGE / name).is_dir() else f"{name}.py"
        assert re.search(rf"^\s+{re.escape(entry)}\s", readme, re.MULTILINE), f"the file map lacks {entry}"


@pytest.mark.parametrize("package", [path.parent for path in FILES if path.name == "__init__.py"], ids=str)
def test_no_module_has_the_name_of_what_its_package_exports(package):
    """`import locate.mediation.effects` would be a function, and no module, where one of that name is exported."""
    modules = {path.stem for path in package.glob("*.py")} | {
        path.parent.name for path in package.glob("*/__init__.py")
    }
    exported = {
        alias.asname or alias.name
        for node in ast.walk(ast.parse((package / "__init__.py").read_text()))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    if package == PACKAGE:
        import locate

        exported |= set(locate.HOME)
    assert not (modules & exported) - {"Any"}
