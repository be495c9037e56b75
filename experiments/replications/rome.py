"""Meng et al. 2022 (ROME), causal tracing: is the same seen for gender as for facts?

    python experiments/replications/rome.py [--model MODEL]

Gaussian noise of 3 standard deviations on the occupation's embeddings, 10 draws; score: probability of the
stereotypical pronoun. Prompts whose clean run prefers the other one are left out, as the paper traces only facts that
the model knows. Windows cover the same share of the layers as in the paper (10 of 48), at least 2. Severed: the outputs
of one kind at the restored token are frozen to their corrupted values from the restored layer up.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from rules import Claim, Estimate, decided, draws, peak_contrast
from runner import Findings, Study, left_out, main

import locate
from locate.mediation import average, pair_log_odds
from locate.model.hooked import Model
from locate.report.figures import Averages, plot_map
from locate.words import without_folders

STUDY = Study("rome", "Meng et al. 2022 (ROME), section 2", "is gender restored where facts are?")
METRIC, UNIT = "prob_stereotypical", "probability"
NOISE = locate.Noise(sigmas=3.0, samples=10)
TEMPLATES_EACH = 1
PAPER_WINDOW, PAPER_LAYERS = 10, 48
ABOVE = "difference above 0 by its whole interval"


def window_of(n_layers: int) -> int:
    """Layers restored at once: as large a share as 10 of the paper's 48, at least 2, at most 10."""
    return int(np.clip(round(PAPER_WINDOW / PAPER_LAYERS * n_layers), 2, PAPER_WINDOW))


def preferring(model: Model, prompts: locate.Prompts) -> tuple[locate.Prompts, int]:
    """The prompts after which the model prefers the stereotypical pronoun, and how many it does not."""
    last = locate.Map(components=("mlp_out",), layers=(model.n_layers - 1,), roles=("last",))
    trace = locate.trace(model, prompts, last, directions=("noising",), probabilities=False)
    found = pair_log_odds(trace)
    signed = found["log_odds"] * found["stereotype"].astype(float)
    wanted = set(found.loc[signed > 0, "pair"])
    pairs = tuple(pair for index, pair in enumerate(prompts) if index in wanted)
    return locate.Prompts(pairs, prompts.skipped), len(prompts) - len(pairs)


def by_role(effects: pd.DataFrame) -> pd.DataFrame:
    """AIE by component, window, severed kind, layer and role, with both intervals.

    paper_low, paper_high  mean -+ 1.96 std / sqrt(n) over prompts, as the paper draws them
    low, high              ours: by resampling occupations
    """
    cells = ["component", "window", "severed", "layer", "role"]
    prompts = effects.groupby([*cells, "pair"], observed=True)["nie"].mean()
    paper = prompts.groupby(cells, observed=True).agg(["mean", "std", "count"]).reset_index()
    paper["half"] = 1.96 * paper["std"] / np.sqrt(paper["count"])
    averages = average(effects)
    table = averages.merge(paper, on=cells, validate="one_to_one")
    table["paper_low"], table["paper_high"] = table["mean"] - table["half"], table["mean"] + table["half"]
    return table[[*cells, "effect", "low", "high", "paper_low", "paper_high", "n", "groups", "q"]]


def figure_of(averages: Averages, model: str, window: int) -> go.Figure:
    """The map of whole windows."""
    title = f"Restored probability of the stereotypical pronoun, {without_folders(model)}"
    return plot_map(averages, title=title, window=window)


def severed_contrast(effects: pd.DataFrame, n_layers: int) -> Estimate:
    """How much more severing the MLP takes away than severing attention: mean over the bottom half of the layers."""
    rows = effects[
        (effects["component"] == "resid_pre")
        & (effects["role"] == "subject_last")
        & (effects["layer"] < n_layers // 2)
        & (effects["severed"] != "")
    ]
    found = draws(rows, ["severed", "layer"])
    mlp = (found.cells["severed"] == "mlp_out").to_numpy()
    return found.estimate(lambda means: means[..., ~mlp].mean(-1) - means[..., mlp].mean(-1), UNIT)


def claims_of(effects: pd.DataFrame, window: int, n_layers: int) -> list[Claim]:
    """The paper's three findings."""
    wide = effects[effects["window"] == window]
    subject = peak_contrast(wide, "mlp_out", "attn_out", "subject_last", UNIT)
    last = peak_contrast(wide, "attn_out", "mlp_out", "last", UNIT)
    severed = severed_contrast(effects, n_layers)
    peaks = f"largest AIE over layers, windows of {window}; "
    rule = f"AIE with attention severed less that with the MLP severed, bottom half of the layers; {ABOVE}"
    return [
        Claim("at the subject's last token, MLP above attention", peaks + ABOVE, subject, decided(subject, 0)),
        Claim("at the last token, attention above MLP", peaks + ABOVE, last, decided(last, 0)),
        Claim("low layers act through the MLP at that token", rule, severed, decided(severed, 0)),
    ]


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Trace the occupations that the model has the stereotype of."""
    window = window_of(model.n_layers)
    everything = locate.occupation_pairs("anti", templates_each=TEMPLATES_EACH).first(options.limit)
    prompts, against = preferring(model, everything)
    chosen = locate.Map(
        components=("resid_pre", "attn_out", "mlp_out"), windows=(1, window), severed=("attn_out", "mlp_out")
    )
    trace = locate.trace(model, prompts, chosen, corruption=NOISE, directions=("denoising",))
    analysis = locate.analyse(trace, metric=METRIC)
    effects = analysis.effects
    total = effects.drop_duplicates("pair")["total"].mean()
    settings = {
        "noise": NOISE.describe() | {"scale": trace.meta["corruption"]["scale"]},
        "window": window,
        "templates each": TEMPLATES_EACH,
        "mean total effect": total,
    }
    counts = left_out(trace.meta["ledger"]) | {"prefers the other pronoun": against}
    claims = claims_of(effects, window, model.n_layers)
    return Findings(
        claims,
        counts,
        settings,
        {"aie": by_role(effects)},
        {"map": figure_of(analysis, model.name, window)},
    )


if __name__ == "__main__":
    main(STUDY, replicate)
