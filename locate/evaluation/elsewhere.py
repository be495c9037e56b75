"""She or he after occupations where an editor was not fitted: in forms that no template has, and in others' sentences.

An edit that holds in its own templates alone has changed the templates. Both tests measure what `occupations` measures,
in the same columns, so that the same cut is computed from their tables.
"""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.occupations import COLUMNS, OCCUPATION, log_odds_cut, prompt_score
from locate.evaluation.scores import CHUNK, Items, Score, Step, Test
from locate.prompts.build import SLOT, fit_article, occupation_table
from locate.prompts.pair import FEMALE, MALE

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

FORMS, NATURAL = "unseen_forms", "natural"


def table(name: str) -> pd.DataFrame:
    """One of the package's tables."""
    with files("locate").joinpath("evaluation", "tables", f"{name}.csv").open(encoding="utf-8") as file:
        return pd.read_csv(file)


def read_forms(path: Path | None = None) -> Items:
    """Every occupation of the package in one form of each kind, in turn.

    A row holds word, kind, template, stereotype, share_women and prompt.
    """
    check_bundled(path)
    rows = []
    for kind, forms in table(FORMS).groupby("kind", sort=False)["form"]:
        for place, job in enumerate(occupation_table().itertuples()):
            form = forms.iloc[place % len(forms)]
            prompt = fit_article(form, job.occupation).replace(SLOT, job.occupation)
            rows.append((job.occupation, kind, form, int(job.stereotype), float(job.share_women), prompt))
    return Items(tuple(rows), source={"locate": "bundled"})


def read_natural(path: Path | None = None) -> Items:
    """Beginnings of sentences from novels and Wikipedia in which she or he followed an occupation.

    A pattern found them, and those in which the pronoun means somebody else were taken out by hand. Before the pronoun
    stand no names and no words that say a gender; which of the two was written is not used. The sentences, their
    sources and licences are in evaluation/tables/natural.csv. A row is as in `read_forms`; its template is its text.
    """
    check_bundled(path)
    jobs = occupation_table().set_index("occupation")
    rows = []
    for each in table(NATURAL).itertuples():
        job = jobs.loc[each.occupation]
        about = each.context, int(job["stereotype"]), float(job["share_women"])
        rows.append((each.occupation, each.licence, *about, each.context))
    return Items(tuple(rows), source={"locate": "bundled"})


def check_bundled(path: Path | None) -> None:
    """Raise LocateError for a path: the items are the package's."""
    if path is not None:
        raise LocateError(f"{path}: this test reads no file, only the package's sentences: give it no source")


def measure(model: CausalModel, items: Items, step: Step) -> pd.DataFrame:
    """One row per prompt, in the columns of `occupations.measure`; part is the kind of form, or the licence.

    Raises LocateError where she or he is not one token.
    """
    from locate.model.likelihood import next_log_probs

    said = next_log_probs(model, [row[-1] for row in items.rows], [FEMALE, MALE], step=step).numpy()
    names = ["word", "part", "template", "stereotype", "share_women"]
    found = pd.DataFrame([row[:-1] for row in items.rows], columns=names).assign(kind=OCCUPATION)
    return found.assign(she=said[:, 0], he=said[:, 1], they=float("nan"))[[*COLUMNS, "part"]]


def scores_of(test: str, table: pd.DataFrame, parts: bool) -> list[Score]:
    """log_odds and abs_log_odds, of all prompts and, where asked for, of each kind of form; occupations resampled."""
    rows = table.assign(odds=table["she"] - table["he"])
    found = []
    for part in ("", *(dict.fromkeys(rows["part"]) if parts else ())):
        chosen = rows[rows["part"] == part] if part else rows
        for name, size in (("log_odds", False), ("abs_log_odds", True)):
            found.append(prompt_score(name, chosen, "odds", part, size=size, test=test))
    return found


def test_of(name: str, title: str, parts: bool) -> Test:
    """One of the two tests."""
    return Test(
        name=name,
        title=title,
        kind="bias",
        read=read_forms if name == FORMS else read_natural,
        measure=measure,
        score=lambda table: scores_of(name, table, parts),
        paired=lambda before, after: [log_odds_cut(before, after, test=name)],
        chunk=CHUNK,
        cluster=lambda table: table["word"].to_numpy(),
    )


UNSEEN_FORMS = test_of(FORMS, "Unseen forms: she or he after occupations in forms that no template has", True)
NATURAL_SENTENCES = test_of(NATURAL, "Natural sentences: she or he after occupations in others' sentences", False)
