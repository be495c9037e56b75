"""Cai et al. 2024 (LSDM): bottom MLPs at the last token of the occupation, top attention at the last token?

    python experiments/replications/lsdm.py [--model MODEL]

Once with the noise that they trace with (3 sigma on the occupation, 10 draws; difference of the two pronouns'
probabilities, towards the stereotype), once with man or woman swapped in (log-odds towards the stereotype). Denoising:
which site restores it?
"""

from __future__ import annotations

import argparse

import pandas as pd
import plotly.graph_objects as go
from rules import Claim, decided, half_contrast
from runner import Findings, Study, left_out, main

import locate
from locate.metrics import metric_named
from locate.model.hooked import Model
from locate.report.figures import Averages, plot_map
from locate.words import without_folders

STUDY = Study(
    "lsdm",
    "Cai et al. 2024 (LSDM)",
    "is it the bottom MLPs at the last token of the occupation, and the top attention at the last token?",
)
TEMPLATES_EACH = 2
RULE = (
    "summed size of the mean effects in that half of the layers, less that in the other, above 0 by its whole interval"
)
FINDINGS = (
    ("MLP at the occupation's last token: bottom half", "mlp_out", "subject_last", False),
    ("attention at the last token: top half", "attn_out", "last", True),
)
CORRUPTIONS = {"noise": (locate.Noise(), "prob_diff"), "swap": (locate.Swap(), "logit_diff")}
MAP = locate.Map(components=("mlp_out", "attn_out"))


def figure_of(averages: Averages, model: str, name: str) -> go.Figure:
    """The map under one corruption."""
    return plot_map(averages, title=f"Restored by one site, {name}, {without_folders(model)}")


def claims_of(name: str, effects: pd.DataFrame, n_layers: int) -> list[Claim]:
    """Both halves of the finding, under one corruption."""
    claims = []
    for said, component, role, upper in FINDINGS:
        contrast, share = half_contrast(
            effects, component, role, n_layers, metric_named(str(effects["metric"].iloc[0])).unit, upper=upper
        )
        claims.append(Claim(f"{name}: {said}", RULE, contrast, decided(contrast, 0), note=f"share {share:.2f}"))
    return claims


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Trace the same occupations under both corruptions."""
    prompts = locate.occupation_pairs("anti", templates_each=TEMPLATES_EACH).first(options.limit)
    claims, tables, figures = [], {}, {}
    counts: dict[str, int] = {}
    for name, (corruption, metric) in CORRUPTIONS.items():
        trace = locate.trace(model, prompts, MAP, corruption=corruption, directions=("denoising",))
        analysis = locate.analyse(trace, metric=metric)
        claims += claims_of(name, analysis.effects, model.n_layers)
        counts |= {f"{name}: {reason}": count for reason, count in left_out(trace.meta["ledger"]).items()}
        tables[name] = analysis.average()[["component", "layer", "role", "effect", "low", "high", "n", "groups", "q"]]
        figures[name] = figure_of(analysis, model.name, name)
    settings = {
        "templates each": TEMPLATES_EACH,
        "metrics": {name: metric for name, (_, metric) in CORRUPTIONS.items()},
        "noise": locate.Noise().describe(),
    }
    return Findings(claims, counts, settings, tables, figures)


if __name__ == "__main__":
    main(STUDY, replicate)
