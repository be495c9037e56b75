"""Chintam et al. 2023: which heads' outputs at the last token carry the gender of man and woman?

    python experiments/replications/chintam.py [--model MODEL]

Prompts of Vig et al. 2020 (professions that do not say their gender), the noun of the other gender swapped in; noising;
relative odds NIE of each head's output at the last token.
"""

from __future__ import annotations

import argparse

import pandas as pd
import plotly.graph_objects as go
from rules import Claim, Estimate, decided, draws, held_out_share, same_heads
from runner import Findings, Study, left_out, main

import locate
from locate.evaluation.readers import profession_pairs
from locate.model.hooked import Model
from locate.report.figures import Averages, plot_heads
from locate.words import without_folders

STUDY = Study(
    "chintam", "Chintam et al. 2023", "which heads' outputs at the last token carry the gender of man and woman?"
)
UNIT = "relative odds"
TEMPLATES_EACH = 1
FEW = 2
PUBLISHED = {
    "gpt2": {
        (9, 7): 7.90, (10, 9): 7.39, (8, 11): 0.39, (6, 0): 0.33, (11, 1): 0.29, (9, 2): 0.29, (11, 7): 0.21,
        (4, 3): 0.18, (7, 5): 0.15, (8, 5): 0.13,
    },
}  # fmt: skip


def figure_of(averages: Averages, model: str) -> go.Figure:
    """The map of heads."""
    title = f"Indirect effect of each head's output at the last token, {without_folders(model)}"
    return plot_heads(averages, title=title, direction="noising")


def occupations(options: argparse.Namespace, each: int | None) -> tuple[locate.Prompts, int]:
    """Professions that do not say their gender, and the number of prompts of the others."""
    prompts = profession_pairs(options.data / "vig_mediation", "anti", templates_each=each)
    pairs = tuple(pair for pair in prompts if pair.kind == "occupation")
    return locate.Prompts(pairs, prompts.skipped).first(options.limit), len(prompts) - len(pairs)


def depth_of_strongest(effects: pd.DataFrame, n_layers: int) -> Estimate:
    """Layer of the strongest head as a share of the depth (0 the lowest layer, 1 the highest)."""
    found = draws(effects, ["layer", "unit"])
    layer = found.cells["layer"].to_numpy()
    return found.estimate(lambda means: layer[means.argmax(-1)] / max(1, n_layers - 1), "of the depth")


def claims_of(effects: pd.DataFrame, model: Model) -> list[Claim]:
    """Two heads carry most of it, in the upper half; and the published heads, where the model is theirs."""
    total = model.n_layers * model.n_heads
    share = held_out_share(effects, ["layer", "unit"], FEW)
    depth = depth_of_strongest(effects, model.n_layers)
    rule = (
        f"strongest {FEW} of {total} heads, chosen on one half of the professions, have more than half of all positive "
    )
    rule += "heads' effect in the other"
    above = "its layer above half of the depth, by the whole interval"
    claims = [
        Claim("two heads carry most of it", rule, share, decided(share, 0.5)),
        Claim("the strongest head is in the upper half", above, depth, decided(depth, 0.5)),
    ]
    published = PUBLISHED.get(model.name.rsplit("/", 1)[-1])
    if published is not None:
        ours = draws(effects, ["layer", "unit"])
        order = ours.cells.iloc[(-ours.means).argsort(kind="stable")]
        count, verdict, p = same_heads(
            list(order.itertuples(index=False, name=None)), list(published), total, ours.n, ours.groups
        )
        named = ", ".join(f"{layer}.{head} {effect}" for (layer, head), effect in published.items())
        rule = "at least half of their ten, and more than by chance (p < 0.05)"
        claims.append(Claim("strongest heads", rule, count, verdict, named, f"p {p:.2g}"))
    return claims


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Patch every head's output at the last token."""
    prompts, definitional = occupations(options, TEMPLATES_EACH)
    heads = locate.Map(components=("head",), roles=("last",))
    trace = locate.trace(model, prompts, heads, directions=("noising",), probabilities=False)
    analysis = locate.analyse(trace, metric="odds_ratio")
    effects = analysis.effects
    averages = analysis.average().sort_values("effect", ascending=False, kind="stable", ignore_index=True)
    counts = left_out(trace.meta["ledger"]) | {"says its gender": definitional}
    settings = {
        "templates each": TEMPLATES_EACH,
        "swap": "anti",
        "mean total effect": effects.drop_duplicates("pair")["total"].mean(),
        "median total effect": effects.drop_duplicates("pair")["total"].median(),
    }
    table = averages[["layer", "unit", "effect", "low", "high", "n", "groups", "q"]]
    return Findings(
        claims_of(effects, model), counts, settings, {"heads": table}, {"heads": figure_of(analysis, model.name)}
    )


if __name__ == "__main__":
    main(STUDY, replicate)
