"""README and docs/ as the tests read them: their blocks of code, the outputs below them, and their prose."""

import math
import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
DECIMAL = re.compile(r"-?\d+\.\d+")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FILE = re.compile(r"`(\w+\.py)`:\n\n$")


@dataclass(frozen=True)
class Block:
    """A block of code.

    language  "python", "sh", "console" or "text"
    file      name of the file that a page says it is, or ""
    output    the text block right below it, or None
    section   the heading of the second level that it stands under
    """

    language: str
    code: str
    file: str
    output: str | None
    section: str


def blocks(page: Path, language: str) -> list[Block]:
    """The blocks of a page in one language, in their order."""
    text = page.read_text(encoding="utf-8")
    found = list(FENCE.finditer(text))
    listed = []
    for place, match in enumerate(found):
        named = FILE.search(text[: match.start()])
        below = found[place + 1] if place + 1 < len(found) else None
        answered = below is not None and below[1] == "text" and not text[match.end() : below.start()].strip()
        headings = re.findall(r"^## (.*)$", text[: match.start()], re.MULTILINE)
        listed.append(
            Block(
                match[1],
                match[2],
                named[1] if named else "",
                below[2] if below is not None and answered else None,
                headings[-1] if headings else "",
            )
        )
    return [each for each in listed if each.language == language]


def without_code(page: Path) -> str:
    """The prose and tables of a page on one line."""
    return " ".join(FENCE.sub("", page.read_text(encoding="utf-8")).split())


def same(told: str, printed: str) -> bool:
    """Whether an output is what the page shows: "..." stands for anything, and spaces do not count.

    Numbers with a decimal point may differ as they do between processors.
    """
    pieces = re.split(rf"({DECIMAL.pattern}|\.\.\.|\s+)", told.strip())
    match = re.fullmatch("".join(map(pattern_of, pieces)), printed.strip(), re.DOTALL)
    return match is not None and all(map(is_near, DECIMAL.findall(told), match.groups()))


def pattern_of(piece: str) -> str:
    """What a piece of an output may be printed as."""
    if DECIMAL.fullmatch(piece):
        return f"({DECIMAL.pattern})"
    return ".*?" if piece == "..." else r"\s+" if piece.isspace() else re.escape(piece)


def is_near(shown: str, found: str) -> bool:
    """Whether two numbers differ by no more than a thousandth."""
    return math.isclose(float(shown), float(found), rel_tol=1e-3)


def run_python(found: list[Block], capsys) -> None:
    """Run blocks one after the other in one namespace and the current folder, and compare what they print.

    A block that the page calls a file is written there, for the others to import.
    """
    names: dict[str, object] = {"__name__": "__main__"}
    for block in found:
        if block.file:
            Path(block.file).write_text(block.code, encoding="utf-8")
            continue
        capsys.readouterr()
        exec(compile(block.code, block.section or "page", "exec"), names)
        printed = capsys.readouterr().out
        if block.output is not None:
            assert same(block.output, printed), printed
