"""How the pages of this folder become a site: `make docs` writes it to build/docs.

Sphinx reads the pages and, through autodoc, the docstrings. These are plain text with aligned columns, not
reStructuredText, so each is handed over paragraph by paragraph: prose as prose, what is indented or in columns as it
stands. Links between pages, to headings and to files of the repository are checked; a broken one fails the build.
"""

import re
import types
from importlib.metadata import version as installed_version
from typing import Any

from sphinx.util.docutils import SphinxDirective

project = "locate"
author = "The locate authors"
copyright = "The locate authors"
version = release = installed_version("locate-bias")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
nitpicky = False  # shapes in signatures, such as Float[Tensor, "row d_model"], are no names to link to
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # a default as it is written, not its repr, which may be no Python
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"locate {release}"
html_show_sphinx = False
html_copy_source = False

ROOMS = {
    "prompts": "Prompts",
    "model": "Models",
    "sites": "Sites and patches",
    "tracing": "Tracing",
    "study": "Studies",
    "mediation": "Analysis",
    "report": "Plots and reports",
    "plot": "Plots and reports",
    "explorer": "Plots and reports",
    "editors": "Editing",
    "evaluation": "Evaluation",
    "errors": "Errors",
}
"""room of the package: heading in the API reference"""

COLUMNS = re.compile(r"^\S.*?  +\S")


def as_text(paragraph: list[str]) -> list[str]:
    """A paragraph of prose, its marks escaped and what stands between backticks set as code."""
    parts = re.split(r"(`[^`]+`)", "\n".join(paragraph))
    shown = [f"`{each}`" if each.startswith("`") else re.sub(r"([*|\\_<])", r"\\\1", each) for each in parts]
    return "".join(shown).split("\n")


def as_it_stands(paragraph: list[str]) -> list[str]:
    """A paragraph whose columns and line ends count."""
    return ["::", "", *(f"    {line}" for line in paragraph)]


def read_plainly(app: Any, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Turn a docstring of plain text into what Sphinx reads, in place."""
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        else:
            paragraphs.append([])
    lines.clear()
    for paragraph in filter(None, paragraphs):
        kept = COLUMNS.match(paragraph[0]) or any(line.startswith(" ") for line in paragraph)
        lines += [*(as_it_stands if kept else as_text)(paragraph), ""]


class PublicNames(SphinxDirective):
    """`.. public-names::`, every name that `locate` offers, under the heading of the room that it comes from."""

    def run(self) -> list[Any]:
        """The documentation of all of them, in the order of ROOMS."""
        import locate

        found: dict[str, list[str]] = {heading: [] for heading in ROOMS.values()}
        for name in locate.__all__:
            thing = getattr(locate, name)
            if hasattr(thing, "__path__"):
                continue  # a room, whose public names are listed one by one
            where = thing.__name__ if isinstance(thing, types.ModuleType) else thing.__module__
            found[ROOMS[where.split(".")[1]]] += documented(thing, f"locate.{name}")
        lines = []
        for heading, text in found.items():
            lines += [heading, "-" * len(heading), "", *text] if text else []
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def documented(thing: object, name: str) -> list[str]:
    """The lines that have autodoc document a module, a class or a function."""
    if isinstance(thing, types.ModuleType):
        return [f".. automodule:: {thing.__name__}", "   :members:", ""]
    if isinstance(thing, type):
        return [f".. autoclass:: {name}", "   :members:", ""]
    return [f".. autofunction:: {name}", ""]


def link_to_files(app: Any, page: str, text: list[str]) -> None:
    """Take Markdown files outside this folder, which are no pages of the site, as files to read."""
    text[0] = re.sub(r"\]\((\.\./[^)#]*\.md)\)", r"](path:\1)", text[0])


def setup(app: Any) -> None:
    """Read every docstring as plain text, and list what is public."""
    app.connect("source-read", link_to_files)
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-docstring", read_plainly)
