"""The parts of the live page around its maps, as Dash components: the answer, the open cell, and an open pair."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from dash import dcc, html

from locate.explorer.maps import number_words
from locate.mediation.located import THRESHOLD
from locate.report.page.answer import Answer
from locate.report.quiet import CONFIG, Figure
from locate.words import chance, interval_words, signed

FIRST_PAIRS = 12
SIGNS = {1: "stereotypically female", -1: "stereotypically male", 0: "without stereotype"}
DOTS = {1: "#b35806", -1: "#542788", 0: "#5a5a63"}
Children = list[Any]


def facts(view: dict[str, Any], cell: int, site: dict[str, Any], subject: str, level: float) -> html.Dl:
    """The numbers of the open cell."""
    digits, q = view["digits"] + 1, view["q"][cell]
    effect = f"{number_words(view, cell, digits)} {view['unit']} ({level:.0%} interval)"
    lines = [("effect", f"{effect}, positive means {view['positive']}")]
    share, stability = (view[name][cell] if name in view else None for name in ("share", "stability"))
    if share is not None:
        lines.append(("share", f"{round(share, 2) + 0.0:.0%} of the total effect {signed(view['total'][0], digits)}"))
    lines += [(each["name"], number_words(each, cell, digits)) for each in view["beside"]]
    lines.append(("n", f"{view['n'][cell]} pairs of {view['groups'][cell]} {subject}s"))
    doubt = "" if q is None or q <= THRESHOLD else f": above {THRESHOLD}, so this may be chance"
    lines.append(("q", "none" if q is None else f"{chance(q)}{doubt}"))
    if stability is not None:
        lines.append(("stability", f"among the five strongest in {stability:.0%} of resamples"))
    if "module" in site:
        lines.append(("module", site["module"] or "none: no module writes it alone"))
    for name, value, low, high, n, _ in view["controls"].get(str(cell), []):
        lines.append((f"control: {name}", f"{interval_words(value, low, high)}, n {n}"))
    return html.Dl([part for name, value in lines for part in (html.Dt(name), html.Dd(value))])


def dots(pairs: pd.DataFrame, subject: str, unit: str) -> dcc.Graph:
    """The effect of each group, the mean over its pairs, as a dot in a stack."""
    groups = pairs.groupby("group", sort=False).agg(effect=("effect", "mean"), stereotype=("stereotype", "first"))
    width = max(float(np.ptp(groups["effect"])), 1e-12) / 60
    groups["height"] = groups.groupby(np.rint(groups["effect"] / width)).cumcount()
    figure = Figure()
    for sign, part in groups.groupby("stereotype"):
        figure.add_scatter(
            x=part["effect"], y=part["height"], mode="markers", name=SIGNS[int(sign)], text=part.index,
            marker={"size": 7, "color": DOTS[int(sign)]}, hovertemplate="%{text}: %{x:.3f}<extra></extra>",
        )  # fmt: skip
    figure.add_vline(x=0, line={"color": "black", "width": 1})
    figure.update_yaxes(visible=False)
    figure.update_xaxes(title=f"effect of each {subject}, {unit}")
    figure.update_layout(height=240, margin={"l": 10, "r": 10, "t": 30, "b": 40}, legend={"orientation": "h", "y": 1.2})
    config: Any = {**CONFIG, "displayModeBar": False, "responsive": True}
    return dcc.Graph(figure=figure, config=config, className="plot", style={"height": "240px"})


def pair_table(pairs: pd.DataFrame, subject: str, unit: str, digits: int) -> html.Div:
    """Pairs of the open cell; each opens its own map."""
    heads = [subject, f"effect, {unit}", "total effect", "clean prompt", "corrupted prompt"]
    body = [html.Tr(pair_row(row, digits)) for row in pairs.to_dict("records")]
    table = html.Table(
        [html.Thead(html.Tr([html.Th(each, scope="col") for each in heads])), html.Tbody(body)], className="pairs"
    )
    return html.Div(table, className="scroll")


def pair_row(row: dict[Any, Any], digits: int) -> Children:
    """A pair as a row: the button that opens it, its numbers, and its prompts."""
    opens: dict[str, Any] = {"data-pair": str(row["pair"])}
    return [
        html.Td(html.Button(row["group"], type="button", title="open this pair", **opens)),
        html.Td(signed(row["effect"], digits), className="number"),
        html.Td(signed(row["total"], digits), className="number"),
        html.Td(row["clean"], dir="auto"),
        html.Td("the same, with noise" if row["corrupted"] == row["clean"] else row["corrupted"], dir="auto"),
    ]


def tokens_line(title: str, tokens: Sequence[tuple[str, str]]) -> html.P:
    """A prompt as its tokens, coloured by role."""
    spans = [
        html.Span(text, className=f"token {role or 'between'}", title=role.replace("_", " ") or "not patched")
        for text, role in tokens
    ]
    return html.P([html.B(f"{title}: "), *spans], className="tokens", dir="auto")


def probabilities(rows: Sequence[tuple[str, str, float, float]], answers: tuple[str, str]) -> html.Table:
    """Probabilities of both answers by model and prompt; without a name there is one model."""
    named = any(model for model, *_ in rows)
    head = [*(["model"] if named else []), "prompt", *(f"p({each.strip()})" for each in answers), "log-odds, nats"]
    body = [
        html.Tr(
            [*([html.Td(model)] if named else []), html.Td(prompt, dir="auto"), html.Td(f"{np.exp(first):.4f}"),
             html.Td(f"{np.exp(second):.4f}"), html.Td(f"{first - second:+.2f}")]
        )
        for model, prompt, first, second in rows
    ]  # fmt: skip
    return html.Table([html.Thead(html.Tr([html.Th(each, scope="col") for each in head])), html.Tbody(body)])


def answer_parts(told: Answer, whose: str = "") -> Children:
    """The answer of a run: what carries the preference, and how sure that is; `whose` where there are two runs."""
    largest = max((abs(each.effect) for each in told.carriers), default=1.0)
    carriers = [
        html.Li(
            [
                html.Span(each.words),
                html.Span(
                    className=f"bar {'against' if each.against else 'along'}",
                    style={"width": f"{100 * abs(each.effect) / largest:.1f}%"},
                ),
                html.Span(
                    f"{interval_words(each.effect, each.low, each.high)} {told.unit}"
                    + ("" if each.share is None else f", {abs(each.share):.0%} of the total")
                    + (" the other way" if each.against else ""),
                    className="size",
                ),
            ]
        )
        for each in told.carriers
    ]
    return [
        html.P(f"{whose}{told.question}", className="question"),
        html.Div(
            [
                html.Section(
                    [
                        html.H2("What carries it"),
                        html.Ol(carriers, className="carriers") if carriers else "No site passes.",
                    ]
                ),
                html.Section([html.H2("How sure that is"), html.Ul([html.Li(each) for each in told.sure])]),
            ],
            className="answer",
        ),
    ]
