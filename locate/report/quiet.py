"""Figures of one look whose pages send nothing over the network: no button uploads what they show."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from locate.report.theme import PANEL, TEMPLATE

CONFIG = {"showSendToCloud": False, "plotlyServerURL": ""}
"""of plotly.js, whose toolbar otherwise has a button that uploads the figure to a cloud service"""


class Figure(go.Figure):
    """A plotly figure with the house's template, shown and written with `CONFIG` unless the caller's own differs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.layout.template = TEMPLATE

    def to_html(self, *args: Any, **kwargs: Any) -> Any:
        """As plotly's."""
        return super().to_html(*args, **quiet(args, kwargs))

    def write_html(self, file: Any, *args: Any, **kwargs: Any) -> Any:
        """As plotly's."""
        return super().write_html(file, *args, **quiet(args, kwargs))

    def show(self, *args: Any, **kwargs: Any) -> Any:
        """As plotly's."""
        return super().show(*args, **quiet((), kwargs))

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        return super()._repr_mimebundle_(*args, **quiet((), kwargs))

    def _ipython_display_(self) -> None:
        import plotly.io

        if plotly.io.renderers.render_on_display and plotly.io.renderers.default:
            self.show()
        else:
            print(repr(self))


def quiet(args: tuple[Any, ...], given: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments with `CONFIG` under the caller's own config; a config among args is the caller's."""
    return given if args else given | {"config": CONFIG | (given.get("config") or {})}


def quiet_subplots(rows: int, columns: int, **options: Any) -> Figure:
    """plotly's `make_subplots`, on a `Figure`."""
    return make_subplots(rows, columns, figure=Figure(), **options).update_annotations(font_size=PANEL)
