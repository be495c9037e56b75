"""The visitor's own prompt on the live page: its fields, its tokens at once, and what a click measures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
from dash import Dash, Input, Output, dcc, html, no_update
from dash import State as Given
from dash.exceptions import PreventUpdate

from locate.errors import LocateError
from locate.explorer import parts
from locate.explorer.live import Asked, Live, Stale, asked_of
from locate.explorer.maps import legend, token_maps
from locate.explorer.runs import Runs
from locate.explorer.state import FIELDS, token_of
from locate.report.theme import Scale
from locate.words import NAMES

ASKED = dict(
    zip(FIELDS, ("sentence with {subject}", "subject", "in its place", "female answer", "male answer"), strict=True)
)
EXAMPLE = dict(zip(FIELDS, ("The {subject} said that", "nurse", "mechanic", "she", "he"), strict=True))


def own_prompt(receipt: tuple[str, ...], note: str) -> list[Any]:
    """The fields of the visitor's own prompt, and where its answers go."""
    fields = [
        html.Label([ASKED[name], dcc.Input(id=name, value=EXAMPLE[name], type="text", autoComplete="off")])
        for name in FIELDS
    ]
    edited = [html.H3("The edit's receipt"), html.Ul([html.Li(each) for each in receipt])] if receipt else []
    return [
        html.Section(
            [html.H2("Your prompt"), html.P(note, className="note"), html.Div(fields, className="own"),
             html.Div(id="tokens"), html.P(html.Button("Measure", id="measure", type="button")),
             dcc.Store(id="request"), html.Div(id="probabilities"), html.Div(id="own-map"), *edited]
        )
    ]  # fmt: skip


def note_on(runs: Runs, live: Live) -> str:
    """Which model answers, and whether it is that of the run."""
    name, model = live.models[0]
    same = model.checkpoint.weights_sha256 == runs.traces[0].meta["model"]["weights_sha256"]
    return f"Answered by {name}" + ("." if same else ", which is not the model of the run.")


def answer_prompts(app: Dash, runs: Runs, live: Live) -> None:
    """Tokens follow the fields at once; a click measures the probabilities, and then the map.

    A prompt that was measured is kept in the address, and measured again where that is opened.
    """
    read_prompts(app, runs, live)
    measure_prompts(app, runs, live)


def texts_of(values: tuple[Any, ...]) -> tuple[str, ...]:
    """The texts of the fields, "" where one is empty."""
    return tuple(str(each or "") for each in values)


def read_prompts(app: Dash, runs: Runs, live: Live) -> None:
    """The fields take what the address holds; their tokens follow them."""

    @app.callback(
        *(Output(name, "value") for name in FIELDS),
        Output("measure", "n_clicks"),
        Input("url", "pathname"),
        Given("url", "search"),
    )
    def fill(_: str | None, query: str | None) -> tuple[Any, ...]:
        kept = runs.first.asked(query).prompt
        if not kept:
            raise PreventUpdate
        return (*kept, 1)

    @app.callback(
        Output("tokens", "children"),
        Output("probabilities", "children", allow_duplicate=True),
        Output("own-map", "children", allow_duplicate=True),
        Given("url", "search"),
        *(Input(name, "value") for name in FIELDS),
        prevent_initial_call="initial_duplicate",
    )
    def read(query: str | None, *values: Any) -> tuple[Any, Any, Any]:
        left: Any = (
            no_update if runs.first.asked(query).prompt == texts_of(values) else []
        )  # that prompt's own answers stay
        try:
            pair, clean, corrupted = live.tokens(asked_of(values))
        except LocateError as error:
            return [html.P(str(error), className="refusal", role="status")], left, left
        lines = [
            parts.tokens_line("clean prompt", list(zip(clean, pair.clean_roles, strict=True))),
            parts.tokens_line("corrupted prompt", list(zip(corrupted, pair.corrupted_roles, strict=True))),
        ]
        alone = len(pair.clean) - len(pair.aligned)
        note = [html.P(f"{alone} tokens of the clean prompt have no counterpart", className="note")] if alone else []
        return [*lines, *note], left, left


def measure_prompts(app: Dash, runs: Runs, live: Live) -> None:
    """A click measures the probabilities, and then the map."""

    @app.callback(
        Output("probabilities", "children"),
        Output("own-map", "children", allow_duplicate=True),
        Output("request", "data"),
        Output("url", "search", allow_duplicate=True),
        Input("measure", "n_clicks"),
        Given("visitor", "data"),
        Given("url", "search"),
        *(Given(name, "value") for name in FIELDS),
        prevent_initial_call=True,
    )
    def measure(clicks: int | None, visitor: str, query: str | None, *values: Any) -> tuple[Any, Any, Any, Any]:
        asked, number = asked_of(values), clicks or 0
        try:
            rows = live.probabilities(asked, live.request(visitor, number))
        except LocateError as error:
            return [html.P(str(error), className="refusal", role="status")], [], no_update, no_update
        except Stale:
            return no_update, no_update, no_update, no_update
        table = html.Div(parts.probabilities(rows, (asked.female, asked.male)), className="scroll")
        waiting = [html.P("measuring every token and layer ...", className="note", role="status")]
        address = replace(runs.settle(runs.first.asked(query)), prompt=texts_of(values)).query(token_of(query))
        return [table], waiting, {"number": number, "visitor": visitor, "asked": list(values)}, address

    @app.callback(
        Output("own-map", "children"),
        Input("request", "data"),
        Given("narrow", "data"),
        prevent_initial_call=True,
    )
    def draw(request: dict[str, Any] | None, narrow: bool | None) -> Any:
        if not request:
            return no_update
        try:
            wanted = live.request(request["visitor"], request["number"])
            found = live.maps(asked_of(tuple(request["asked"])), wanted)
        except Stale:
            return no_update
        except LocateError as error:
            return [html.P(str(error), className="refusal", role="status")]
        return own_maps(live, asked_of(tuple(request["asked"])), found, narrow=bool(narrow))


def own_maps(live: Live, asked: Asked, found: list[tuple[str, pd.DataFrame]], *, narrow: bool) -> list[Any]:
    """The maps of the visitor's prompt, one model after the other, on one colour scale."""
    tokens = list(enumerate(live.tokens(asked)[1]))
    note = f"“{asked.pair().clean}”: one pair, no interval. Effects are female minus male, denoising."
    children: list[Any] = [html.P(note, className="note", dir="auto")]
    shown = [
        (name, rows[rows["direction"] == "denoising"].assign(effect=lambda each: each["nie"])) for name, rows in found
    ]
    scale = Scale.of(pd.concat([rows["effect"] for _, rows in shown]).to_numpy(), "nats")
    children.append(legend(scale.limit, scale.digits, scale.unit))
    for name, rows in shown:
        total = float(rows["total"].iloc[0])
        heading = html.H3(f"{name}: total effect {total:+.2f} nats")
        children += [heading, *token_maps(rows, tokens, scale, NAMES, narrow=narrow)]
    return children
