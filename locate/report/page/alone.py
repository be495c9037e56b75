"""A figure's own HTML file, which draws with the plotly.js beside it and asks no other address for anything."""

from __future__ import annotations

from html import escape

import plotly.graph_objects as go
import plotly.io

from locate.report.quiet import CONFIG

PLOTLY_FILE = "plotly.min.js"


def figure_page(name: str, figure: go.Figure) -> str:
    """The file of one figure; `PLOTLY_FILE` must lie in its folder."""
    meta = figure.layout.meta
    title = str(meta["title"]) if isinstance(meta, dict) and "title" in meta else name
    drawn = plotly.io.to_html(
        figure, config=CONFIG, include_plotlyjs=False, full_html=False, div_id=f"figure-{name}", validate=False
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<script src="{PLOTLY_FILE}"></script></head>\n'
        f'<body style="margin:0;background:#fff;overflow-x:auto">\n{drawn}\n</body></html>\n'
    )
