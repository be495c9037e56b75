"""One page as one file: its parts, its script and figures, and a policy under which a browser sends nothing."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from locate.files import strict
from locate.notebook import Cells, as_table
from locate.report.quiet import CONFIG


@dataclass(frozen=True)
class Section:
    """A part of a page: its heading, the name in its address, and its HTML."""

    name: str
    title: str
    html: str


@dataclass(frozen=True, eq=False)
class Page:
    """What a page holds.

    title     its heading and the name of its window
    lead      HTML above the contents: the answer
    sections  in order; empty ones are left out
    figures   drawn where a section holds `place_of` their names
    data      what the page's script reads; None where there is nothing to click
    """

    title: str
    lead: str
    sections: Sequence[Section]
    figures: Mapping[str, go.Figure] = field(default_factory=dict)
    data: Mapping[str, Any] | None = None

    def html(self) -> str:
        """The whole page; it needs no other file and no network."""
        scripts = [plotly_js(), asset("page.js")] if self.figures or self.data is not None else []
        shown = [each for each in self.sections if each.html]
        contents = "".join(f'<li><a href="#{each.name}">{escape(each.title)}</a></li>' for each in shown)
        body = "\n".join(
            f'<section id="{each.name}"><h2>{escape(each.title)}</h2>\n{each.html}</section>' for each in shown
        )
        return (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{policy(scripts)}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            '<meta name="color-scheme" content="light dark">\n'
            f"<title>{escape(self.title)}</title>\n<style>{asset('page.css')}</style></head>\n<body>\n"
            f"<header><h1>{escape(self.title)}</h1>\n{self.lead}</header>\n"
            f'<nav aria-label="Contents"><ul>{contents}</ul></nav>\n<main>\n{body}\n</main>\n'
            + "".join(data_element(f"figure-{name}", figure_data(each)) for name, each in self.figures.items())
            + ("" if self.data is None else data_element("data", strict(self.data)))
            + "".join(f"<script>{each}</script>\n" for each in scripts)
            + "</body></html>\n"
        )


def place_of(name: str, title: str, caption: str) -> str:
    """Where a figure is drawn, under its title, with its caption as text."""
    return (
        f'<figure><h3>{escape(title)}</h3><div class="plot" data-figure="{escape(name)}" role="img" '
        f'aria-label="{escape(title)}"></div><figcaption>{escape(caption)}</figcaption></figure>'
    )


def figure_data(figure: go.Figure) -> dict[str, Any]:
    """What plotly.js draws."""
    content: dict[str, Any] = json.loads(figure.to_json())
    return {"data": content["data"], "layout": content["layout"], "config": {**CONFIG, "displaylogo": False}}


def data_element(name: str, content: Any) -> str:
    """Data in a script element that a browser does not run; "<" is written so that no text can end the element."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{text}</script>\n'


def policy(scripts: Sequence[str]) -> str:
    """The page's content security policy: these scripts alone run, and nothing is loaded, sent or submitted."""
    hashes = " ".join(f"'sha256-{digest(each)}'" for each in scripts) or "'none'"
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; connect-src 'none'; "
        "form-action 'none'; base-uri 'none'"
    )


def digest(text: str) -> str:
    """SHA-256 of a script, in base64, as a policy names it."""
    return base64.b64encode(sha256(text.encode()).digest()).decode("ascii")


@cache
def plotly_js() -> str:
    """plotly.js; read once."""
    return str(get_plotlyjs())


@cache
def asset(name: str) -> str:
    """A file that lies beside this module; read once."""
    return files("locate.report.page").joinpath(name).read_text(encoding="utf-8")


def table(rows: Sequence[Cells], *, name: str = "") -> str:
    """Rows as a table that scrolls sideways where it must; "" where there is none; name is its class in page.css."""
    return f'<div class="scroll {escape(name)}">{as_table(rows)}</div>' if rows else ""


def items(lines: Sequence[str]) -> str:
    """Sentences as a list; "" where there are none."""
    return f"<ul>{''.join(f'<li>{escape(each)}</li>' for each in lines)}</ul>" if lines else ""
