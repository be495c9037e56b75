"""GAP (Webster et al. 2018) and its gender-flipped copy (Bartl et al. 2020): natural texts about the other gender."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from locate.evaluation.gap_data import PARTS, gap_files, read_gap
from locate.evaluation.paired import gap, is_measured, likelihood_columns, preference, without_ideal
from locate.evaluation.scores import CHUNK, Items, Score, Step, Test, mean_with_interval
from locate.evaluation.text_files import file_hashes, folder_of

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

NAME = "gap"
ORIGINALS = {"female originals": 1, "male originals": -1}


def read(path: Path | None) -> Items:
    """The texts of a folder (or beside a file), with their flipped copies; those without are counted as skipped."""
    folder = folder_of(path, PARTS)
    texts, skipped = read_gap(folder, published=False)
    paths, flipped = gap_files(folder)
    return Items(texts, {each.reason: len(each.lines) for each in skipped}, file_hashes([*paths, flipped]))


def measure(model: CausalModel, items: Items, step: Step) -> pd.DataFrame:
    """One row per text: name, gender of the original, page, and log-likelihood and tokens of original and flipped."""
    rows = items.rows
    asked = {name: [("", getattr(row, name)) for row in rows] for name in ("original", "flipped")}
    about = {name: [getattr(row, name) for row in rows] for name in ("name", "gender", "page")}
    return pd.DataFrame(about | likelihood_columns(model, asked, step))


def score(table: pd.DataFrame) -> list[Score]:
    """The scores of all texts (part ""), and of those about a woman and about a man as they were written.

    prefers_original  share of texts that are likelier as they were written than flipped, in percent
    gap               mean log-likelihood of the original minus the flipped text, in nats
    log_odds          mean of the female minus the male version, in nats, originals of either gender counting half

    Flipping also changes first names, and spoils some sentences, so originals are likelier whatever the model thinks of
    gender (no ideal is given): bias shows in the difference of the two parts, of which log_odds is half. What flipping
    costs cancels in it as far as it is the same for both; its ideal is 0.

    Wikipedia pages are resampled: the texts of one page are about the same people.
    """
    found = [log_odds(table)]
    for part, gender in ({"": 0} | ORIGINALS).items():
        chosen = table[table["gender"] == gender] if part else table
        found += [
            without_ideal(preference(NAME, "prefers_original", chosen, "original", "flipped", part, group="page")),
            without_ideal(gap(NAME, "gap", chosen, "original", "flipped", part, group="page")),
        ]
    return found


def log_odds(table: pd.DataFrame) -> Score:
    """Half the gap of female originals minus that of male ones, in nats; nan unless there are both.

    The interval resamples how far each text moves the score (its influence), so that chance differences in how many
    texts either gender has do not widen it.
    """
    rows = table[is_measured(table, "original", "flipped")]
    gaps, gender = (rows["original"] - rows["flipped"]).to_numpy(dtype=float), rows["gender"].to_numpy()
    pages = rows["page"].to_numpy()
    estimate = (np.nan,) * 3
    if {1, -1} <= set(gender.tolist()):
        means = {sign: gaps[gender == sign].mean() for sign in (1, -1)}
        own = np.where(gender > 0, means[1], means[-1])
        share = np.where(gender > 0, (gender > 0).mean(), (gender < 0).mean())
        estimate = mean_with_interval((means[1] - means[-1]) / 2 + gender * (gaps - own) / (2 * share), pages)
    skipped, ties = len(table) - len(rows), int((gaps == 0).sum())
    return Score(NAME, "log_odds", *estimate, "nats", len(rows), len(set(pages)), ties=ties, skipped=skipped, ideal=0.0)


TEST = Test(
    name=NAME,
    title="GAP: natural texts about a woman or a man, against their gender-flipped copies (Bartl et al. 2020)",
    kind="bias",
    read=read,
    measure=measure,
    score=score,
    files=("gap", "gap-coreference", "gap-development.tsv"),
    chunk=CHUNK,
    cluster=lambda table: table["page"].to_numpy(),
)
