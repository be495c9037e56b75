"""Vig et al. 2020, attention: which heads carry the gender of a pronoun to what is said of two persons?

    python experiments/replications/vig_heads.py [--model MODEL] [--sets winobias/dev winobias/test]

base   the prompt that ends in the female pronoun; source, the one that ends in the male one
y      p(continuation about the person of male stereotype) / p(the other one), geometric means over tokens
TE     y(source) / y(base) - 1; NIE, NDE: attention weights of a head, of a layer or of all from the other run
kept   examples whose y(source) / y(base) is above 1, and of those above its 0.25 quantile, as their stored results show
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from attention import Coded, Heads, by_layer, coded, everywhere, measure, singly
from rules import HOLDS, NONE, OPEN, Claim, decided, draws, held_out_share, same_heads, same_number
from runner import Findings, Study, main

from locate.errors import LocateError
from locate.evaluation.readers import (
    Continuations,
    Reference,
    read_reference,
    reference_file,
    winobias_continuations,
    winogender_continuations,
)
from locate.model.hooked import Model
from locate.report.cells import Frame, add_panel, layers_of, marks_line
from locate.report.quiet import quiet_subplots
from locate.report.theme import Scale, add_words
from locate.words import with_interval

SETS = ("winobias/dev", "winobias/test", "winogender/bls", "winogender/bergsma")
STUDY = Study(
    "vig_heads",
    "Vig et al. 2020, section 4",
    "which attention heads carry the gender of a pronoun to what is said of two persons?",
    {"--sets": {"nargs": "+", "choices": SETS, "default": ["winobias/dev", "winogender/bls"], "help": "data sets"}},
)
QUANTILE = 0.25
TOP = 5
TOLERANCE = 0.02
UNIT = "relative odds"
ABOVE = "above 0 by its whole interval"
WITHIN = f"within {TOLERANCE:.0%} of the published mean"
QUANTITIES = {"total": "TE (above 0 by the filter)", "nie": "NIE, all heads at once", "nde": "NDE, all heads at once"}


def examples_of(name: str, options: argparse.Namespace) -> tuple[tuple[Continuations, ...], int]:
    """The examples of one data set, and how many rows of it make none."""
    data, _, part = name.partition("/")
    if data == "winobias":
        found, skipped = winobias_continuations(options.data / "winobias", part)
    else:
        found, skipped = winogender_continuations(options.data / "vig_mediation", options.data / "winogender", part)
    return found[: options.limit], sum(len(each.lines) for each in skipped)


def odds(logs: np.ndarray) -> np.ndarray:
    """y from the continuations' mean log-probabilities [..., continuation (of female, of male)]."""
    return np.exp(logs[..., 1] - logs[..., 0])


def kept(ratios: np.ndarray, quantile: float = QUANTILE) -> np.ndarray:
    """Which examples are analysed: y(source) / y(base) above 1, and above a quantile of those."""
    aligned = ratios > 1
    return aligned & (ratios > np.quantile(ratios[aligned], quantile)) if aligned.any() else aligned


def effects_of(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """TE, NIE and NDE from [example, prompt, set, continuation]; the first set is the prompt as it is."""
    y = odds(logs)
    base, source = y[:, 0, :1], y[:, 1, :1]
    return (source / base - 1)[:, 0], y[:, 0, 1:] / base - 1, y[:, 1, 1:] / base - 1


def sets_of(model: Model) -> list[tuple[int, int, Heads]]:
    """Layer and head (-1 for all) of each set that is replaced: heads, layers, the whole model."""
    size = (model.n_layers, model.n_heads)
    heads = [(*divmod(index, model.n_heads), one) for index, one in enumerate(singly(*size))]
    layers = [(layer, -1, all_) for layer, all_ in enumerate(by_layer(*size))]
    return [*heads, *layers, (-1, -1, everywhere(*size))]


def metric_and_unit(model: Model, examples: Sequence[Continuations]) -> tuple[pd.DataFrame, dict[str, int]]:
    """Effects of the examples that are kept, one row an example and set; and how many are left out, by reason."""
    usable: list[tuple[Continuations, Coded]] = []
    reasons: dict[str, int] = {}
    for example in examples:
        try:
            usable.append((example, coded(model, example)))
        except LocateError as error:
            reasons[str(error)] = reasons.get(str(error), 0) + 1
    plain = [odds(measure(model, one, [frozenset()])[:, 0]) for _, one in usable]
    ratios = np.array([source / base for base, source in plain])
    chosen = kept(ratios)
    reasons["odds ratio of 1 or below"] = int((ratios <= 1).sum())
    reasons[f"odds ratio in the lowest {QUANTILE:.0%} of the others"] = int((ratios > 1).sum() - chosen.sum())
    if not chosen.any():
        raise LocateError(f"none of {len(examples)} examples is left ({reasons}): take more, or another model")
    sets = sets_of(model)
    everything = [frozenset(), *(heads for _, _, heads in sets)]
    places = np.flatnonzero(chosen)
    total, nie, nde = effects_of(np.array([measure(model, usable[place][1], everything) for place in places]))
    parts = [
        pd.DataFrame(
            {
                "pair": int(place),
                "group": usable[place][0].group,
                "layer": [layer for layer, _, _ in sets],
                "head": [head for _, head, _ in sets],
                "total": total[row],
                "nie": nie[row],
                "nde": nde[row],
            }
        )
        for row, place in enumerate(places)
    ]
    return pd.concat(parts, ignore_index=True), reasons


def averaged(effects: pd.DataFrame) -> pd.DataFrame:
    """Means of each head, layer and the model, with intervals over pairs of persons; strongest NIE first."""
    found = {column: draws(effects, ["layer", "head"], column) for column in ("nie", "nde")}
    table = found["nie"].cells.copy()
    for column, each in found.items():
        table[column] = each.means
        table[f"{column}_low"], table[f"{column}_high"] = np.quantile(each.drawn, [0.025, 0.975], axis=0)
    table["n"], table["groups"] = found["nie"].n, found["nie"].groups
    return table.sort_values("nie", ascending=False, kind="stable", ignore_index=True)


def claims_of(
    name: str, effects: pd.DataFrame, table: pd.DataFrame, model: Model, reference: Reference | None
) -> list[Claim]:
    """The claims about one data set."""
    whole = effects[effects["layer"] < 0]
    claims, verdicts = [], {}
    for column, said in QUANTITIES.items():
        found = draws(whole, ["layer"], column).estimate(lambda means: means[..., 0], UNIT)
        rule, published = ABOVE, ""
        verdicts[column] = decided(found, 0)
        verdict = NONE if column == "total" else verdicts[column]
        if reference is not None:
            number = reference.means[{"nie": "indirect", "nde": "direct"}.get(column, column)]
            rule, published = WITHIN, f"{number:.3g} (n {reference.analysed})"
            verdict = same_number(found, number, TOLERANCE)
        claims.append(Claim(f"{name}: mean {said}", rule, found, verdict, published))
    heads, count = effects[effects["head"] >= 0], model.n_layers * model.n_heads
    few = max(1, round(0.1 * count))
    share = held_out_share(heads, ["layer", "head"], few)
    rule = f"strongest {few} of {count} heads, chosen on one half of the groups, have more than half of all positive "
    rule += "heads' effect in the other; not decided unless the NIE of all heads is above 0"
    verdict = decided(share, 0.5) if verdicts["nie"] == HOLDS else OPEN
    claims.append(Claim(f"{name}: a small part carries it", rule, share, verdict))
    if reference is not None:
        mean = reference.head["indirect"].mean(0)
        order = np.argsort(-mean, axis=None, kind="stable")[:TOP]
        theirs = [tuple(int(each) for each in np.unravel_index(place, mean.shape)) for place in order]
        ours = list(table.loc[table["head"] >= 0, ["layer", "head"]].itertuples(index=False, name=None))
        count, verdict, p = same_heads(ours, theirs, mean.size, effects["pair"].nunique(), share.groups)
        named = ", ".join(f"{layer}.{head} {mean[layer, head]:.3f}" for layer, head in theirs)
        rule = f"at least half of their {TOP}, and more than by chance (p < 0.05)"
        claims.append(Claim(f"{name}: strongest heads", rule, count, verdict, named, f"p {p:.2g}"))
    return claims


def figure_of(tables: dict[str, pd.DataFrame], model: Model, unit: str = UNIT) -> go.Figure:
    """Layer x head map of the mean NIE, one panel a data set; with a dot where the interval holds 0."""
    heads = [str(head) for head in range(model.n_heads)]
    figure = quiet_subplots(1, len(tables), shared_yaxes=True, horizontal_spacing=0.04, subplot_titles=list(tables))
    own = {name: table[table["head"] >= 0] for name, table in tables.items()}
    scale = Scale.of(pd.concat(own.values())["nie"].to_numpy(), unit)
    frame = Frame(layers_of(pd.concat(own.values())), heads, heads, scale).wide()
    for place, rows in enumerate(own.values(), start=1):
        add_panel(figure, cells_of(rows, scale), frame, place)
    figure.update_xaxes(title="head")
    figure.update_yaxes(title="layer", col=1)
    n = ", ".join(f"{table['n'].iloc[0]} ({name})" for name, table in tables.items())
    marks = marks_line(figure, scale).replace("q > 0.05", "the 95% interval by bootstrap over pairs of persons holds 0")
    caption = "Odds of the continuation of male stereotype after she, with the weights of one head from he. "
    caption += f"n = {n}; {marks}."
    title = f"Mean indirect effect of each head's attention weights, {model.name.rsplit('/', 1)[-1]}"
    figure.update_layout(coloraxis=scale.axis())
    return add_words(figure, title, caption, 180 + frame.panel * len(tables), frame.height)


def cells_of(rows: pd.DataFrame, scale: Scale) -> pd.DataFrame:
    """Mean effects of heads as cells of a map; they fail where the interval holds 0."""
    hovers = [
        f"<b>attention weights, layer {row.layer}, head {row.head}</b><br>effect "
        f"{with_interval(row.nie, row.nie_low, row.nie_high, scale.digits + 1)}<br>n {row.n}"
        for row in rows.itertuples()
    ]
    return pd.DataFrame(
        {
            "layer": rows["layer"].to_numpy(),
            "column": rows["head"].astype(str).to_numpy(),
            "effect": rows["nie"].to_numpy(),
            "hover": hovers,
            "empty": "",
            "fails": ~(rows["nie_low"] * rows["nie_high"] > 0).to_numpy(),
        }
    )


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Measure every data set."""
    model.check_components(["pattern"])
    claims: list[Claim] = []
    left_out: dict[str, int] = {}
    tables: dict[str, pd.DataFrame] = {}
    totals: dict[str, float] = {}
    for name in options.sets:
        examples, skipped = examples_of(name, options)
        effects, reasons = metric_and_unit(model, examples)
        data, _, part = name.partition("/")
        path = reference_file(options.data / "vig_mediation" / "reference", data, model.name.rsplit("/", 1)[-1], part)
        tables[name] = averaged(effects)
        claims += claims_of(name, effects, tables[name], model, None if path is None else read_reference(path))
        left_out |= {f"{name}: {reason}": count for reason, count in reasons.items()}
        left_out[f"{name}: published rows that make no example"] = skipped
        totals[name] = float(effects.loc[effects["layer"] < 0, "total"].median())
    joined = pd.concat([table.assign(set=name) for name, table in tables.items()], ignore_index=True)
    settings = {
        "sets": options.sets,
        "quantile": QUANTILE,
        "median TE": totals,
        "continuation": "attends as the run makes it",
    }
    return Findings(claims, left_out, settings, {"heads": joined}, {"heads": figure_of(tables, model)})


if __name__ == "__main__":
    main(STUDY, replicate)
