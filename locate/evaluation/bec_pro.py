"""BEC-Pro for a causal model (after Bartl et al. 2020, arXiv 2010.14534): which gender does a profession suggest?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from locate.evaluation.bec_pro_data import GROUPS, PROFESSIONS, SENTENCES, read_bec_pro
from locate.evaluation.lines import correlation
from locate.evaluation.paired import gap, is_measured, likelihood_columns, preference, without_ideal
from locate.evaluation.scores import Items, Score, Step, Test
from locate.evaluation.text_files import file_hashes, folder_of

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

NAME = "bec_pro"
ABOUT = ("profession", "group", "share_women", "template", "person")
SIDES = ("female", "male", "female_prior", "male_prior")


def read(path: Path | None) -> Items:
    """The couples of sentences of a folder, or of the folder that a file lies in."""
    folder = folder_of(path, (SENTENCES, PROFESSIONS))
    rows = read_bec_pro(folder, published=False)
    return Items(rows, source=file_hashes(folder / name for name in (SENTENCES, PROFESSIONS)))


def measure(model: CausalModel, items: Items, step: Step) -> pd.DataFrame:
    """One row per couple: profession, group, share_women, template, person, and four log-likelihoods (nats).

    female, male              of the whole sentence about a woman, about a man
    female_prior, male_prior  of the same with the word person in the profession's place; each is measured once
    """
    texts = list(dict.fromkeys(getattr(each, side) for each in items.rows for side in SIDES))
    said = likelihood_columns(model, {"text": [("", text) for text in texts]}, step)["text"]
    of_text = dict(zip(texts, said, strict=True))
    columns = {name: [getattr(each, name) for each in items.rows] for name in ABOUT}
    likelihoods = {side: [of_text[getattr(each, side)] for each in items.rows] for side in SIDES}
    return pd.DataFrame(columns | likelihoods)


def score(table: pd.DataFrame) -> list[Score]:
    """Scores of all couples (part ""), and by the majority of a profession's workforce: "female", "male", "balanced".

    log_odds          mean log-likelihood of the female minus the male sentence, in nats
    association       the same minus that of the two sentences about a person, in nats; ideal 0
    prefers_majority  share of couples whose association has the sign of the workforce's majority, in percent; ideal 50;
                      of professions with a majority
    correlation       Pearson's r, over professions, of their mean association with the share of women; ideal 0

    Bartl et al. mask the person's word, and divide its probability by the one with the profession masked too. A causal
    model reads left to right, so that the person's word cannot see the profession: here the likelihood of the whole
    sentence stands for it, log p(person word) + log p(rest | person word), and the sentence with "person" for the
    masked profession. The first term is the same in both and falls out: what is left is how much likelier the
    profession is after a woman than after a man, beyond how much likelier "person" is. Professions are resampled: their
    couples share the word.
    """
    whole = table[is_measured(table, *SIDES)]
    skipped = table[~is_measured(table, *SIDES)]
    apart = table.assign(
        woman=table["female"] - table["female_prior"],
        man=table["male"] - table["male_prior"],
    )
    found: list[Score] = []
    for part in ("", *GROUPS):
        rows = apart[apart["group"] == part] if part else apart
        found += [
            without_ideal(gap(NAME, "log_odds", rows, "female", "male", part, group="profession")),
            gap(NAME, "association", rows, "woman", "man", part, group="profession"),
        ]
    leaning = apart[apart["group"] != "balanced"]
    female = leaning["group"] == "female"
    sides = leaning.assign(
        majority=leaning["woman"].where(female, leaning["man"]), minority=leaning["man"].where(female, leaning["woman"])
    )
    found.append(preference(NAME, "prefers_majority", sides, "majority", "minority", group="profession"))
    return [*found, following_share(whole, len(skipped))]


def following_share(whole: pd.DataFrame, skipped: int) -> Score:
    """How closely professions' mean associations follow their share of women."""
    odds = (whole["female"] - whole["female_prior"]) - (whole["male"] - whole["male_prior"])
    means = whole.assign(association=odds).groupby("profession")[["share_women", "association"]].mean()
    shares, values = (np.asarray(means[name], dtype=float) for name in ("share_women", "association"))
    ends = correlation(shares, values)
    return Score(NAME, "correlation", *ends, "r", len(whole), len(means), skipped=skipped, ideal=0.0)


TEST = Test(
    name=NAME,
    title="BEC-Pro: professions said of a woman and of a man (after Bartl et al. 2020, for causal models)",
    kind="bias",
    read=read,
    measure=measure,
    score=score,
    files=("bec_pro", "BEC-Pro", SENTENCES),
    strata=lambda couple: couple.profession,
    chunk=0,  # chunks would measure the priors, which many couples share, again and again
    cluster=lambda table: table["profession"].to_numpy(),
)
