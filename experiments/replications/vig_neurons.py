"""Vig et al. 2020, neurons: the total effect of set-gender, and which numbers of the MLP outputs carry it.

    python experiments/replications/vig_neurons.py [--model MODEL] [--units 25]

All 17 templates and all professions, with man and with woman in the profession's place; y is p(anti-stereotypical) /
p(stereotypical). Total effects in both readings: "paper", the noun against the profession's stereotype; "released
code", the noun of the gender that the model itself prefers after the profession, with y the other way up. Indirect
effects at the profession's last token: whole MLP outputs by layer, exact. Its single numbers are too many to patch
each: all are estimated from gradients on one template a profession, then the strongest and as many at random are
patched.
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd
from chintam import occupations
from rules import NONE, Claim, Estimate, decided, draws, held_out_share, mean
from runner import Findings, Study, left_out, main
from scipy.stats import spearmanr

import locate
from locate.evaluation.readers import profession_pairs, read_professions
from locate.mediation import average
from locate.mediation import effects as derive_effects
from locate.model.hooked import Model
from locate.prompts.pair import Prompts

STUDY = Study(
    "vig_neurons",
    "Vig et al. 2020, section 4 (neurons)",
    "how much does set-gender move the pronoun, and do few numbers of the MLP outputs at the profession carry it?",
    {"--units": {"type": int, "default": 25, "help": "strongest units to patch, and as many at random"}},
)
UNIT, LOG_UNIT = "relative odds", "nats"
ROLE = "subject_last"
TOP_SHARE = 0.05
MEAN = "mean above 0 by its whole interval"


def total_effects(trace: locate.Trace, leanings: dict[str, int]) -> pd.DataFrame:
    """Total effects of each prompt in both readings, from the runs with man and with woman.

    Returns one row a prompt: group, template, pair (its number), stereotype, `paper` (nan without a stereotype) and
    `released`, both in relative odds, and `paper_log`, the logarithm of 1 + paper, nats.
    """
    once = trace.table.drop_duplicates(["pair"])
    once = once.assign(
        group=once["group"].astype(str),
        template=once["template"].astype(str),
        plain=once["base_female"] - once["base_male"],
        swapped=once["source_female"] - once["source_male"],
        noun=once["corrupted"].astype(str).str.split().str[1],
    )
    wide = once.pivot(index=["group", "template"], columns="noun", values=["plain", "swapped"]).reset_index()
    plain, man, woman = (wide[key].to_numpy() for key in (("plain", "man"), ("swapped", "man"), ("swapped", "woman")))
    sign = wide["group"].map(leanings).to_numpy()
    against = np.where(sign > 0, plain - man, woman - plain)
    with_model = np.where(plain <= 0, plain - man, woman - plain)
    paper_log = np.where(sign == 0, np.nan, against)
    return pd.DataFrame(
        {
            "group": wide["group"],
            "template": wide["template"],
            "pair": np.arange(len(wide)),
            "stereotype": sign,
            "paper": np.exp(paper_log) - 1,
            "paper_log": paper_log,
            "released": np.exp(with_model) - 1,
        }
    )


def totals(model: Model, options: argparse.Namespace) -> tuple[pd.DataFrame, locate.Trace, dict[str, int]]:
    """Total effects of the professions that do not say their gender, the trace behind them, and what was left out."""
    folder = options.data / "vig_mediation"
    professions = {each.name: each for each in read_professions(folder)}
    both = [profession_pairs(folder, noun).first(options.limit) for noun in ("man", "woman")]
    pairs = tuple(pair for prompts in both for pair in prompts if not professions[pair.group].says_gender)
    chosen = locate.Map(components=("mlp_out",), roles=(ROLE,))
    trace = locate.trace(model, Prompts(pairs), chosen, directions=("noising",), probabilities=False)
    table = total_effects(trace, {name: each.leaning for name, each in professions.items()})
    counts = left_out(trace.meta["ledger"])
    counts["says its gender"] = sum(len(prompts) for prompts in both) // 2 - len(pairs) // 2
    counts["leans to no gender (paper's reading only)"] = int(table["paper"].isna().sum())
    return table, trace, counts


def against_stereotype(trace: locate.Trace) -> locate.Trace:
    """The pairs of a trace whose corrupted prompt has the noun against the profession's stereotype."""
    noun = trace.table["corrupted"].astype(str).str.split().str[1].map({"woman": 1, "man": -1})
    table = trace.table[noun.astype(int) == -trace.table["stereotype"]].reset_index(drop=True)
    return locate.Trace(table, trace.meta)


def sites(estimates: pd.DataFrame, count: int) -> tuple[locate.Site, ...]:
    """The `count` units with the strongest mean estimate, and as many of the others at random."""
    found = draws(estimates, ["layer", "unit"])
    order = found.cells.iloc[np.argsort(-np.abs(found.means), kind="stable")]
    others = order.iloc[count:].sample(min(count, max(0, len(order) - count)), random_state=0)
    chosen = pd.concat([order.iloc[:count], others])
    return tuple(locate.Site("mlp_out_unit", int(layer), ROLE, int(unit)) for layer, unit in chosen.to_numpy())


def units(model: Model, options: argparse.Namespace) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, int]]:
    """Estimates of every unit (towards the swapped-in noun, nats), exact averages of some, and what was left out."""
    prompts, _ = occupations(options, 1)
    everything = locate.Map(components=("mlp_out_unit",), roles=(ROLE,))
    estimates = locate.estimate(model, prompts, everything, directions=("noising",))
    estimates = estimates.assign(nie=-estimates["nie"])
    only = locate.Map(components=("mlp_out_unit",), roles=(ROLE,), only=sites(estimates, options.units))
    trace = locate.trace(model, prompts, only, directions=("noising",), probabilities=False)
    exact = average(derive_effects(trace, "odds_ratio"))
    logs = draws(derive_effects(trace), ["layer", "unit"])
    both = logs.cells.assign(exact_log=-logs.means).merge(
        exact[["layer", "unit", "effect", "low", "high", "n", "groups", "q"]]
    )
    means = draws(estimates, ["layer", "unit"])
    both = both.merge(means.cells.assign(estimate=means.means), on=["layer", "unit"], validate="one_to_one")
    both = both.sort_values("exact_log", key=np.abs, ascending=False, kind="stable", ignore_index=True)
    return estimates, both, left_out(trace.meta["ledger"])


def claims_of(table: pd.DataFrame, estimates: pd.DataFrame, found: pd.DataFrame) -> list[Claim]:
    """Total effects in both readings, sparse numbers, and how far the estimates can be trusted."""
    known = table[table["paper"].notna()]
    paper, released = mean(known, UNIT, "paper"), mean(table, UNIT, "released")
    log = mean(known, LOG_UNIT, "paper_log")
    count = max(1, round(TOP_SHARE * len(estimates[["layer", "unit"]].drop_duplicates())))
    share = held_out_share(estimates, ["layer", "unit"], count)
    rank = float(spearmanr(found["estimate"], found["exact_log"]).statistic)
    few = f"strongest {count} (5 %), chosen on one half of the professions, have more than half of all positive "
    few += "numbers' effect in the other"
    trust = f"estimates against {len(found)} patched: Spearman {rank:.2f}"
    first = found.iloc[0]
    size = [float(first[name]) for name in ("effect", "low", "high")]
    strongest = Estimate(*size, int(first["n"]), int(first["groups"]), UNIT)
    with_model = "set-gender with the model's own preference raises it (released code)"
    return [
        Claim("set-gender against the stereotype raises y (paper)", MEAN, paper, decided(paper, 0)),
        Claim("the same in log-odds", MEAN, log, decided(log, 0)),
        Claim(with_model, MEAN, released, decided(released, 0)),
        Claim("few numbers carry it (estimated)", few, share, decided(share, 0.5), note=trust),
        Claim(f"strongest number: {first['unit']:.0f} of layer {first['layer']:.0f}", "NIE, patched", strongest, NONE),
    ]


def replicate(model: Model, options: argparse.Namespace) -> Findings:
    """Total effects, layers and units."""
    table, trace, counts = totals(model, options)
    effects = derive_effects(against_stereotype(trace), "odds_ratio")
    by_layer = average(effects)[["layer", "effect", "low", "high", "n", "groups", "q"]]
    estimates, found, dropped = units(model, options)
    counts |= {f"numbers: {reason}": count for reason, count in dropped.items()}
    settings = {
        "templates": int(table["template"].nunique()),
        "median total effect, paper": table["paper"].median(),
        "median total effect, released code": table["released"].median(),
        "numbers": "estimated on one template a profession, then patched",
        "units estimated": len(estimates[["layer", "unit"]].drop_duplicates()),
    }
    return Findings(claims_of(table, estimates, found), counts, settings, {"layers": by_layer, "numbers": found})


if __name__ == "__main__":
    main(STUDY, replicate)
