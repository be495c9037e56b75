"""Maps of the live page as Dash components: tables of buttons; layers run across, and down on a narrow screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from dash import html

from locate.mediation.located import THRESHOLD
from locate.report.theme import Scale, colour, ink
from locate.words import interval_words, signed

FEW, MANY = 3, 8  # columns of a narrow map whose heads lie flat, and beyond which cells have no room for numbers
Children = list[Any]


def map_tables(
    maps: Sequence[dict[str, Any]], view: dict[str, Any], words: Sequence[str], chosen: int | None, *, narrow: bool
) -> Children:
    """One table of buttons for each component.

    maps    grids of numbers of cells, as `maps_of` makes them
    view    numbers and colours of every cell, as `view_of` makes them
    words   what each cell is
    chosen  the open cell
    narrow  whether the screen is, so that layers run down
    """
    zero = set(view["zero"])

    def button(cell: int, where: str, dense: bool) -> html.Td:
        return cell_of_map(cell, view, words, chosen, zero, where, dense)

    def made(given: dict[str, Any], place: int) -> html.Table:
        if "list" in given:
            rows = [
                html.Tr([html.Th(words[cell], scope="row"), button(cell, f"{place},{row},0", False)])
                for row, cell in enumerate(given["list"])
            ]
            return html.Table([html.Caption(given["name"]), html.Tbody(rows)], className="map wide")
        dense = narrow and len(given["rows"]) > MANY
        cells = [
            [
                button(cell, f"{place},{column},{row}" if narrow else f"{place},{row},{column}", dense)
                for column, cell in enumerate(line)
            ]
            for row, line in enumerate(given["cells"])
        ]
        return grid_table(given["name"], given["layers"], given["rows"], cells, narrow=narrow)

    return [html.Div(made(each, place), className="scroll") for place, each in enumerate(maps)]


def grid_table(
    name: str, layers: Sequence[int], rows: Sequence[str], cells: Sequence[Sequence[html.Td]], *, narrow: bool
) -> html.Table:
    """A table of cells.

    layers  of the columns of `cells`, which are rows of the table on a narrow screen
    rows    what its rows are, and the table's columns on a narrow screen
    """
    if narrow:
        corner, heads, names = "layer", list(rows), [str(each) for each in layers]
        lines = [[row[column] for row in cells] for column in range(len(layers))]
    else:
        corner, heads, names = "", [str(each) for each in layers], list(rows)
        lines = [list(row) for row in cells]
    size = "few" if len(heads) <= FEW else "dense" if len(heads) > MANY else ""
    head = [
        html.Th(corner, scope="col"), *(html.Th(html.Span(each), scope="col", dir="auto") for each in heads)
    ]  # fmt: skip
    body = [html.Tr([html.Th(each, scope="row", dir="auto"), *line]) for each, line in zip(names, lines, strict=True)]
    return html.Table(
        [html.Caption(name if narrow else f"{name}, by layer"), html.Thead(html.Tr(head)), html.Tbody(body)],
        className=f"map upright {size}".strip() if narrow else "map wide",
    )


def cell_of_map(
    cell: int, view: dict[str, Any], words: Sequence[str], chosen: int | None, zero: set[int], where: str, dense: bool
) -> html.Td:
    """A cell as a button that says its site and its numbers; hatched where nothing was measured, or it is 0."""
    if cell < 0:
        return html.Td(className="hatched", title="not measured")
    effect, digits = view["effect"][cell], view["digits"]
    if effect is None or cell in zero:
        told, text, look, name = "not measured" if effect is None else "0 in every pair", "", {}, "hatched"
    else:
        passes = view["q"][cell] is not None and view["q"][cell] <= THRESHOLD
        told = f"{number_words(view, cell, digits)} {view['unit']}"
        beyond = view["beyond"] and abs(effect) > view["limit"]
        shown = ("!" if beyond else "") if dense else signed(effect, digits)
        text, name = shown if passes else "·", "beyond" if beyond else ""
        look = {"background": view["fill"][cell], "color": view["ink"][cell]}
    attributes: dict[str, Any] = {
        "aria-label": f"{words[cell]}: {told}",
        "aria-pressed": "true" if cell == chosen else "false",
        "data-cell": str(cell),
        "data-place": where,
    }
    button = html.Button(
        text, type="button", className=name, style=look, title=f"{words[cell]}: {told}",
        tabIndex=0 if where.endswith(",0,0") else -1, **attributes,
    )  # fmt: skip
    return html.Td(button)


def number_words(numbers: dict[str, Any], cell: int, digits: int) -> str:
    """A cell's effect with its interval."""
    low, high = numbers["low"][cell], numbers["high"][cell]
    interval = "no interval" if low is None else f"[{signed(low, digits)}, {signed(high, digits)}]"
    return f"{signed(numbers['effect'][cell], digits)} {interval}"


def legend(limit: float, digits: int, unit: str) -> html.Div:
    """The colour scale, which ends at a limit on both sides."""
    end, steps = f"{limit:.{digits}f}", np.linspace(-1, 1, 21)
    colours = [html.I(style={"background": colour(each, 1.0)}) for each in steps]
    return html.Div([f"-{end} ", *colours, f" +{end} {unit}"], className="legend")


def caption(view: dict[str, Any], subject: str) -> str:
    """What the map shows, with the total effect and the counts."""
    pairs, groups = (max(each for each in view[name] if each is not None) for name in ("n", "groups"))
    said = (
        f"{view['about']}. Numbers: {view['words']}, {view['unit']}, positive means {view['positive']}. Total effect "
        f"{interval_words(*view['total'])}. n = {pairs} pairs of {groups} {subject}s. A dot in place of a number: q > "
        f"{THRESHOLD}. Hatched: 0 in every pair, or not measured."
    )
    if not view["beyond"]:
        return said
    return f"{said} Colours end at {view['limit']:.{view['digits']}f}; cells beyond it ({view['beyond']}) have a frame."


def token_maps(
    effects: pd.DataFrame,
    tokens: Sequence[tuple[int | None, str]],
    scale: Scale,
    names: dict[str, str],
    *,
    narrow: bool,
) -> Children:
    """A pair's own effects, one table for each component, of tokens and layers; no interval.

    effects  of one pair and direction: component, layer, clean_pos and `effect`
    tokens   the clean prompt's tokens in order: position (None where nothing was patched), and text
    scale    of the colours
    names    component: its name
    narrow   whether the screen is, so that layers run down
    """
    layers = sorted(int(each) for each in effects["layer"].unique())
    dense, tables = narrow and len(tokens) > MANY, []
    for component, part in effects.groupby("component", sort=False, observed=True):
        name = names[str(component)]
        known = {
            (int(place), int(layer)): float(effect)
            for place, layer, effect in zip(part["clean_pos"], part["layer"], part["effect"], strict=True)
        }
        cells = [
            [
                token_cell(
                    None if position is None else known.get((position, layer)), scale, f"{name}, layer {layer}", dense
                )
                for layer in layers
            ]
            for position, _ in tokens
        ]
        table = grid_table(name, layers, [text for _, text in tokens], cells, narrow=narrow)
        tables.append(html.Div(table, className="scroll"))
    return tables


def token_cell(effect: float | None, scale: Scale, words: str, dense: bool) -> html.Td:
    """A cell of a pair's own map; without its number where there is no room."""
    if effect is None:
        return html.Td(className="hatched", title=f"{words}: not measured")
    fill = colour(effect, scale.limit)
    told = f"{words}: {signed(effect, scale.digits + 1)} {scale.unit}"
    text = "" if dense else signed(effect, scale.digits)
    return html.Td(text, style={"background": fill, "color": ink(fill)}, title=told)
