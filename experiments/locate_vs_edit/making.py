"""Edits made and measured, in this process or in others."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
from editing import editor_of, lighter, prompts_for

import locate
from locate.editors.fit import Fitting
from locate.errors import LocateError
from locate.evaluation import biaske, occupations, perplexity
from locate.evaluation.scores import Items, Score
from locate.evaluation.tests import sample_items
from locate.model.causal import CausalModel, load_causal
from locate.model.likelihood import memory_of
from locate.model.products import product_library
from locate.work import Advance, Do, Executor, Missing, Piece

Tables = dict[str, pd.DataFrame]
Task = tuple[str, tuple[int, ...], int, bool]
"""Editor, layers, seed, and whether the layers are the located set."""
Made = tuple[Task, dict[str, Any], pd.DataFrame]
"""A task, its row of scores, and its rows of words."""
TESTS = {occupations.NAME: occupations.TEST, "perplexity": perplexity.TEST, biaske.NAME: biaske.TEST}


@dataclass
class Trial:
    """What an edit is made on and judged by.

    items   of each test
    before  the tests' tables of the model without an edit
    """

    model: CausalModel
    located: locate.Located
    options: argparse.Namespace
    items: dict[str, Items]
    before: Tables = field(default_factory=dict)

    @staticmethod
    def of(options: argparse.Namespace, located: locate.Located) -> Trial:
        """Load the model, computed with one thread where several processes are to share the edits; read the tests."""
        splits = [prompts_for(seed, options.persons).words for seed in options.seeds]
        items = items_of({word for each in splits for word in each.held_out_words}, options.texts)
        threads = 1 if options.jobs > 1 else None
        return Trial(load_causal(options.model, device=options.device, threads=threads), located, options, items)

    def make(self, task: Task) -> Made:
        """Edit, measure with the edit on, and take it off."""
        name, layers, seed, own = task
        started = time.monotonic()
        fitting = prompts_for(seed, self.options.persons)
        editor = editor_of(name, lighter(self.options) | {"layers": layers, "seed": seed})
        made = editor.edit(self.model, self.located, fitting.edited, preserved=fitting.preserved)
        fitted = time.monotonic() - started
        with made.applied(self.model):
            after = measured(self.model, self.items)
        row: dict[str, Any] = {"size": len(layers), "located": own, "fit_seconds": round(fitted, 1)}
        row |= row_of(scores_of(self.before, after, fitting))
        row["seconds"] = round(time.monotonic() - started, 1)
        return task, row, words_of(self.before[occupations.NAME], after[occupations.NAME], fitting)


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits as work for other processes; a piece is the place of a task."""

    located: locate.Located
    options: argparse.Namespace
    items: dict[str, Items]
    before: Tables
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """In messages and errors."""
        return "edits"

    def prepare(self, model: CausalModel) -> Do:
        """What makes an edit on a model of this process."""
        trial = Trial(model, self.located, self.options, self.items, self.before)

        def make(piece: Piece, advance: Advance) -> Made:
            return trial.make(self.tasks[piece[0]])

        return make


def every(trial: Trial, tasks: Iterable[Task], executor: Executor) -> Iterator[Made]:
    """Each task as it is finished, wherever the executor has it done; one that fails ends the others."""
    model = trial.model
    work = Edits(trial.located, trial.options, trial.items, trial.before, tuple(tasks))
    missing = Missing(
        work=work,
        do=work.prepare(model),
        opening=model.opening(),
        identity=model.identity,
        pieces=[(place,) for place in range(len(work.tasks))],
        numbers=range(len(work.tasks)),
        memory=memory_of(model),
        products=product_library(model.dtype, model.device, model.threads),
    )
    for _, made in executor(missing):
        yield made


def items_of(words: set[str], texts: int | None) -> dict[str, Items]:
    """What an edit is judged by: these occupations and words that say their gender, perplexity, BiasKE-style facts.

    texts  that perplexity is taken of, at most; None for all

    Raises LocateError for less than two, which an interval needs.
    """
    if texts is not None and texts < 2:
        raise LocateError(f"--texts {texts}: expected a number of texts from 2 up, for an interval")
    chosen: dict[str, Callable[[Any], bool]] = {
        occupations.NAME: lambda row: row.kind == occupations.DEFINITION or row.word in words,
        "perplexity": lambda row: True,
        biaske.NAME: lambda row: row.kind == "facts",
    }
    read = {name: test.read(None) for name, test in TESTS.items()}
    items = {name: replace(each, rows=tuple(filter(chosen[name], each.rows))) for name, each in read.items()}
    return items | {"perplexity": sample_items(perplexity.TEST, items["perplexity"], texts, 0)}


def measured(model: CausalModel, items: dict[str, Items]) -> Tables:
    """The tests' tables of one model."""
    return {name: TESTS[name].measure(model, each, lambda done, of: None) for name, each in items.items()}


def scores_of(before: Tables, after: Tables, fitting: Fitting) -> dict[str, Score]:
    """Success and cost of an edit; words and templates held out are those that it never saw."""
    unseen, forms = fitting.words.held_out_words, fitting.words.held_out_templates
    jobs = [tables[occupations.NAME] for tables in (before, after)]
    kept = occupations.kept_definitions(*jobs)
    own = [table[table["word"].isin(unseen)] for table in jobs]
    afgb = [next(each for each in occupations.score(table) if each.name == "afgb") for table in own]
    return {
        "cut": occupations.log_odds_cut(*jobs, unseen),
        "cut_both": occupations.log_odds_cut(*jobs, unseen, forms),
        "afgb_before": afgb[0],
        "afgb": afgb[1],
        "kept_words": kept[0],
        "kept_prompts": kept[1],
        "perplexity": perplexity.perplexity_change(before["perplexity"], after["perplexity"]),
        "ds": biaske.retention(before[biaske.NAME], after[biaske.NAME]),
    }


def row_of(scores: dict[str, Score]) -> dict[str, float]:
    """Scores as one row: each with the ends of its interval."""
    row: dict[str, float] = {}
    for name, score in scores.items():
        row |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return row


def words_of(before: pd.DataFrame, after: pd.DataFrame, fitting: Fitting) -> pd.DataFrame:
    """Per held-out occupation: summed |log-odds| before and after (nats) and prompts, in all and in held-out templates.

    Resampling these sums gives the draws of `log_odds_cut`.
    """
    was, now = occupations.paired_tables(before, after)
    rows = was[["word", "template"]].assign(before=was["odds"].abs(), after=now["odds"].abs(), prompts=1)
    rows = rows[(was["kind"] == occupations.OCCUPATION) & was["word"].isin(fitting.words.held_out_words)]
    other = rows[rows["template"].isin(fitting.words.held_out_templates)]
    sums = [each.drop(columns="template").groupby("word", sort=False).sum() for each in (rows, other)]
    return sums[0].join(sums[1].add_suffix("_both")).reset_index()
