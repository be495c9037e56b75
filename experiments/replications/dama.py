"""Limisiewicz et al. 2024 (DAMA): do the MLPs' effects follow the stereotype, beside the gender that a word says?

    python experiments/replications/dama.py [--model MODEL]

Noise of 3 standard deviations on the profession, 5 draws; denoising: log-odds (female minus male) that each MLP output
at the profession's last token restores, regressed over professions on the stereotypical and the factual score of
Vig et al. 2020 (y = a_s x_s + a_f x_f + b). One template a profession.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from rules import Claim, Estimate, decided
from runner import Findings, Study, left_out, main

import locate
from locate.evaluation.readers import profession_pairs, profession_scores
from locate.mediation import effects as derive_effects
from locate.mediation import gender_regression
from locate.model.hooked import Model

STUDY = Study(
    "dama",
    "Limisiewicz et al. 2024 (DAMA)",
    "does the MLPs' effect follow the stereotype of a profession, beside the gender it says, and in which layers?",
)
NOISE = locate.Noise(sigmas=3.0, samples=5)
ROLE, UNIT = "subject_last", "nats for one unit of score"
ABOVE = "coefficient above 0 by its whole interval"


def combined(effects: pd.DataFrame, weights: np.ndarray) -> pd.DataFrame:
    """The effects of all layers of a pair as one, a weighted sum over layers."""
    weighted = effects.assign(nie=effects["nie"] * weights[effects["layer"].to_numpy()])
    sums = weighted.groupby("pair", observed=True)["nie"].sum()
    once = effects.drop_duplicates("pair").assign(layer=0)
    return once.assign(nie=once["pair"].map(sums).astype(float))


def coefficient(effects: pd.DataFrame, scores: pd.DataFrame, term: str) -> Estimate:
    """A coefficient of the regression of one cell."""
    row = gender_regression(effects, scores).query("term == @term").iloc[0]
    size = [float(row[name]) for name in ("coefficient", "low", "high")]
    return Estimate(*size, int(effects["pair"].nunique()), int(row["words"]), UNIT)


def claims_of(effects: pd.DataFrame, scores: pd.DataFrame, n_layers: int) -> list[Claim]:
    """Both terms over all layers, and the stereotypical one in the upper half against the bottom half."""
    half = n_layers // 2
    layers = np.arange(n_layers)
    every = np.full(n_layers, 1.0)
    contrast = 1.0 * (layers >= n_layers - half) - 1.0 * (layers < half)
    stereotypical = coefficient(combined(effects, every), scores, "stereotypical")
    factual = coefficient(combined(effects, every), scores, "factual")
    upper = coefficient(combined(effects, contrast), scores, "stereotypical")
    rule = f"upper half of the layers less the bottom half; {ABOVE}"
    return [
        Claim(
            "MLP effects follow the stereotype", f"sum over layers; {ABOVE}", stereotypical, decided(stereotypical, 0)
        ),
        Claim("MLP effects follow the gender that is said", f"sum over layers; {ABOVE}", factual, decided(factual, 0)),
        Claim("the stereotype is in the upper layers", rule, upper, decided(upper, 0)),
    ]


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Trace the professions under noise and regress by layer."""
    folder = options.data / "vig_mediation"
    prompts = profession_pairs(folder, "man", templates_each=1).first(options.limit)
    scores = profession_scores(folder)
    chosen = locate.Map(components=("mlp_out",), roles=(ROLE,))
    trace = locate.trace(model, prompts, chosen, corruption=NOISE, directions=("denoising",), probabilities=False)
    effects = derive_effects(trace, view="signed", kind="all")
    by_layer = gender_regression(effects, scores)
    table = by_layer[["layer", "term", "coefficient", "low", "high", "words", "r2"]]
    claims = claims_of(effects, scores, model.n_layers)
    return Findings(claims, left_out(trace.meta["ledger"]), {"noise": NOISE.describe()}, {"layers": table})


if __name__ == "__main__":
    main(STUDY, replicate)
