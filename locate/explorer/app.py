"""The live page: its layout, and what happens when a setting, a cell, a pair or a prompt is chosen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import plotly.graph_objects as go
from dash import Dash, Input, Output, ctx, dcc, html, no_update
from dash import State as Given

from locate.errors import LocateError
from locate.explorer import maps, parts
from locate.explorer.asking import answer_prompts, note_on, own_prompt
from locate.explorer.live import Live
from locate.explorer.pairs import pair_parts
from locate.explorer.runs import CHANGE, Runs
from locate.explorer.state import NUMBERS, SWITCHES, State, token_of
from locate.report.change_maps import plot_changes, plot_head_changes
from locate.report.figures import QUANTITIES, plot_heads, plot_map
from locate.report.images import write_static
from locate.report.page.document import asset
from locate.report.page.glossary import GLOSSARY
from locate.report.quiet import CONFIG
from locate.words import metric_words

TITLES = dict(zip(SWITCHES, ("model", "metric", "view", "pairs", "direction", "quantity"), strict=True))
FILLED = ("answer", "absent", "caption", "legend", "maps", "cell", "pair", "python")  # parts that follow the settings
NARROW = "(max-width: 700px)"  # as in page.css
SHELL = """<!doctype html>
<html lang="en"><head>{%metas%}<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark"><title>{%title%}</title>{%css%}<style>PAGE_CSS</style></head>
<body>{%app_entry%}<footer>{%config%}{%scripts%}{%renderer%}</footer></body></html>"""


def make_app(runs: Runs, live: Live | None = None, receipt: tuple[str, ...] = ()) -> Dash:
    """The live page of one or two runs.

    live     models for prompts of the visitor's own; None where none was given
    receipt  lines of the edit's receipt, where an edited model is beside the run's
    """
    app = Dash("locate.explorer", assets_folder=str(Path(__file__).parent / "assets"), update_title="")
    app.title = f"{runs.title()}: explore"
    own = [] if live is None else own_prompt(receipt, note_on(runs, live))
    app.index_string = SHELL.replace("PAGE_CSS", asset("page.css"))
    app.layout = lambda: layout(runs, own)  # made anew for every visitor
    app.clientside_callback(
        f"() => window.matchMedia({NARROW!r}).matches", Output("narrow", "data"), Input("url", "pathname")
    )
    show_map(app, runs)
    export(app, runs)
    if live is not None:
        answer_prompts(app, runs, live)
    return app


def layout(runs: Runs, own: list[Any]) -> html.Div:
    """Everything that is on the page before anything is chosen."""
    switches = [
        html.Fieldset(
            [html.Legend(TITLES[name]), dcc.RadioItems(id=name, options=[], inline=True, labelClassName="choice")],
            hidden=name == "panel" and len(runs.traces) == 1,
        )
        for name in SWITCHES
    ]
    shown = [
        html.H2("Map"),
        html.Div(switches, className="settings"),
        html.P(id="absent", className="note"),
        html.P(id="caption", className="caption"),
        html.Div(id="legend"),
        html.Div(id="maps"),
    ]
    taken = [
        html.P([html.Button(text, id=name, type="button") for name, text in EXPORTS.items()]),
        html.P(id="status", className="refusal", role="status"),
        html.Pre(html.Code(id="python", className="python")),
    ]
    polite: dict[str, Any] = {"aria-live": "polite"}
    return html.Div(
        [
            dcc.Store(id="visitor", data=uuid4().hex),
            dcc.Location(id="url", refresh=False),
            dcc.Store(id="chosen"),
            dcc.Store(id="narrow"),
            dcc.Download(id="download"),
            html.Header([html.H1(runs.title()), *header(runs), html.Div(id="answer")]),
            *own,
            html.Section(shown),
            html.Article(id="cell", className="cell", **polite),
            html.Article(id="pair", className="cell", hidden=True, **polite),
            html.Section([html.H2("Take it along"), *taken]),
            html.Section([html.H2("Words"), html.Dl([part for pair in GLOSSARY.items() for part in defined(*pair)])]),
        ]
    )


def defined(word: str, text: str) -> list[Any]:
    """A word and what it means."""
    return [html.Dt(word), html.Dd(text)]


EXPORTS = {"png": "PNG of the map", "svg": "SVG", "html": "HTML", "csv": "CSV of the open cell"}


def header(runs: Runs) -> list[Any]:
    """Where each run lies, and the hash of its weights."""
    return [
        html.P(f"{name}: {folder}, weights {trace.meta['model']['weights_sha256'][:12]}", className="note")
        for name, folder, trace in zip("AB", runs.folders, runs.traces, strict=False)
    ]


def show_map(app: Dash, runs: Runs) -> None:
    """The map, the open cell and the open pair follow the address, the switches, and what is clicked."""

    @app.callback(
        Output("url", "search"),
        *(Output(name, each) for name in SWITCHES for each in ("options", "value")),
        *(
            Output(name, "children")
            for name in ("answer", "absent", "caption", "legend", "maps", "cell", "pair", "python")
        ),
        Output("pair", "hidden"),
        Output("chosen", "data"),
        Input("url", "search"),
        Input("chosen", "data"),
        Input("narrow", "data"),
        *(Input(name, "value") for name in SWITCHES),
    )
    def show(query: str | None, chosen: dict[str, Any] | None, narrow: bool, *values: str | None) -> tuple[Any, ...]:
        state = runs.first.asked(query)
        if ctx.triggered_id in SWITCHES or ctx.triggered_id == "chosen":
            given: dict[str, Any] = {
                name: each for name, each in zip(SWITCHES, values, strict=True) if each is not None
            }
            opened = {name: (chosen or {})[name] for name in NUMBERS if name in (chosen or {})}
            state = replace(state, **given, **opened)
        state = runs.settle(state)
        allowed, view = runs.allowed(state), runs.view(state)
        switches = [
            part for name in SWITCHES for part in (options(name, allowed[name], runs.answers), getattr(state, name))
        ]
        words = [each["words"] for each in runs.sites(state)]
        query = state.query(token_of(query))
        return (
            query,
            *switches,
            parts.answer_parts(runs.answer(state), whose(runs, state)),
            runs.absent(state),
            maps.caption(view, runs.analysis(state).subject),
            maps.legend(view["limit"], view["digits"], view["unit"]),
            maps.map_tables(runs.maps(state), view, words, state.cell, narrow=bool(narrow)),
            cell_parts(runs, state, view),
            pair_parts(runs, state, narrow=bool(narrow)),
            python_line(runs, state),
            state.pair is None,
            {name: getattr(state, name) for name in NUMBERS},
        )


def whose(runs: Runs, state: State) -> str:
    """Whose answer it is, where there are two runs; that of A beside their difference."""
    if len(runs.traces) == 1:
        return ""
    run = 1 if state.panel == "B" else 0
    return f"{'AB'[run]}, {runs.analysis(state, run).model}: "


def options(name: str, values: list[str], answers: tuple[str | None, ...] | None) -> list[dict[str, str]]:
    """The choices of a switch, in words."""
    words = {"metric": lambda value: metric_words(value, answers), "quantity": QUANTITIES.__getitem__}.get(name, str)
    return [{"label": f" {words(value)}", "value": value} for value in values]


def cell_parts(runs: Runs, state: State, view: dict[str, Any]) -> list[Any]:
    """The open cell: its numbers, the groups as dots, and its pairs."""
    if state.cell is None:
        return [html.P("Choose a cell to see its interval, its controls and the prompts behind it.")]
    site, analysis = runs.sites(state)[state.cell], runs.analysis(state)
    heading = html.H3(site["words"])
    if view["effect"][state.cell] is None:
        return [heading, html.P("Not measured.")]
    found = parts.facts(view, state.cell, site, analysis.subject, analysis.intervals.level)
    pairs = runs.behind(state)
    if pairs.empty:
        return [heading, found]
    columns = [html.Div(found), html.Div(parts.dots(pairs, analysis.subject, view["unit"]))]
    few, rest = (
        parts.pair_table(each, analysis.subject, view["unit"], view["digits"] + 1)
        for each in (pairs.head(parts.FIRST_PAIRS), pairs.iloc[parts.FIRST_PAIRS :])
    )
    left = len(pairs) - parts.FIRST_PAIRS
    more = [html.Details([html.Summary(f"{left} more pairs"), rest])] if left > 0 else []
    return [heading, html.Div(columns, className="columns"), few, *more]


def python_line(runs: Runs, state: State) -> str:
    """The Python that draws the same map."""
    settings = f"metric={state.metric!r}, view={state.view!r}, kind={state.kind!r}"
    analysed = [f"locate.analyse(locate.load_trace({str(each)!r}), {settings})" for each in runs.folders]
    if state.panel == CHANGE:
        both = ",\n    ".join(analysed)
        compared = f"locate.compare(\n    {both},\n    quantity={state.quantity!r})"
        return f"locate.plot.changes({compared}, direction={state.direction!r})"
    own, role = analysed[1 if state.panel == "B" else 0], head_role(runs, state)
    plot, where = ("map", "") if role is None else ("heads", f"role={role!r}, ")
    return f"locate.plot.{plot}(\n    {own}.shown({state.quantity!r}),\n    {where}direction={state.direction!r})"


def export(app: Dash, runs: Runs) -> None:
    """The map as a picture or a page of its own, and the open cell as CSV."""

    @app.callback(
        Output("download", "data"),
        Output("status", "children"),
        *(Input(name, "n_clicks") for name in EXPORTS),
        Given("url", "search"),
        prevent_initial_call=True,
    )
    def save(*given: Any) -> tuple[Any, str]:
        state = runs.settle(runs.first.asked(given[-1]))
        try:
            return exported(runs, state, str(ctx.triggered_id)), ""
        except LocateError as error:
            return no_update, str(error)


def head_role(runs: Runs, state: State) -> str | None:
    """The role whose heads are drawn where no whole vector was patched: that of the open cell, or the last token."""
    places = runs.cells(state).places
    if (places["unit"] < 0).any() or not (places["component"] == "head").any():
        return None
    roles = places.loc[places["component"] == "head", "role"]
    opened = None if state.cell is None else str(places["role"].iloc[state.cell])
    return opened if opened in set(roles) else "last" if "last" in set(roles) else str(roles.iloc[0])


def figure_of(runs: Runs, state: State) -> go.Figure:
    """The map that is shown, as a figure."""
    role, way = head_role(runs, state), state.direction
    if state.panel == CHANGE:
        found = runs.comparison(state)
        return (
            plot_changes(found, direction=way) if role is None else plot_head_changes(found, role=role, direction=way)
        )
    shown = runs.analysis(state, 1 if state.panel == "B" else 0).shown(state.quantity)
    return plot_map(shown, direction=way) if role is None else plot_heads(shown, role=role, direction=way)


def exported(runs: Runs, state: State, kind: str) -> dict[str, Any]:
    """A file to be saved.

    Raises LocateError where nothing is open, or nothing can be drawn.
    """
    if kind == "csv":
        pairs = runs.behind(state)
        if pairs.empty:
            raise LocateError("no pairs to save: open a cell of one model first")
        return dict(dcc.send_data_frame(pairs.to_csv, "cell.csv", index=False))
    figure = figure_of(runs, state)
    if kind == "html":
        return {"content": figure.to_html(config=CONFIG), "filename": "map.html", "type": "text/html", "base64": False}
    with TemporaryDirectory() as folder:
        path = Path(folder) / f"map.{kind}"
        _, missing = write_static([(path, figure)])
        if missing:
            raise LocateError(missing)
        return dict(dcc.send_bytes(path.read_bytes(), path.name))
