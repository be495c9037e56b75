"""Edits made and measured: one after another, or by several processes at once."""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd
import torch
from editing import editor_of, lighter, prompts_for

import locate
from locate.editors.fit import Fitting
from locate.errors import LocateError
from locate.evaluation import biaske, occupations, perplexity
from locate.evaluation.scores import Items, Score
from locate.evaluation.tests import sample_items
from locate.model.causal import CausalModel, load_causal

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
        """Load the model and read the tests."""
        splits = [prompts_for(seed, options.persons).words for seed in options.seeds]
        items = items_of({word for each in splits for word in each.held_out_words}, options.texts)
        return Trial(load_causal(options.model, device=options.device), located, options, items)

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


OWN: list[Trial] = []  # what a process of several works on: its own model, loaded once, for all tasks it is given


def begin(located: locate.Located, options: argparse.Namespace, items: dict[str, Items], before: Tables) -> None:
    """Set up one of several processes, which has one thread and loads a model of its own."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a traceback of its own
    torch.set_num_threads(1)
    OWN.append(Trial(load_causal(options.model, device=options.device), located, options, items, before))


def take(task: Task) -> Made:
    """Make an edit on this process's model."""
    return OWN[0].make(task)


def every(trial: Trial, tasks: Iterable[Task], jobs: int) -> Iterator[Made]:
    """Each task as it is finished, by so many processes with a model each.

    After one that fails none is begun. Raises LocateError then, when those under way are finished and passed on.
    """
    if jobs == 1:
        yield from map(trial.make, tasks)
        return
    given = (trial.located, trial.options, trial.items, trial.before)
    start = multiprocessing.get_context("spawn")  # a fork would share CUDA and the threads of torch
    left, failed = iter(tasks), None
    with ProcessPoolExecutor(jobs, mp_context=start, initializer=begin, initargs=given) as pool:
        running = {pool.submit(take, task) for task in itertools.islice(left, jobs)}
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for each in done:
                try:
                    yield each.result()
                except (BrokenProcessPool, LocateError, RuntimeError) as error:
                    failed = failed or error
            if failed is None:
                running |= {pool.submit(take, task) for task in itertools.islice(left, jobs - len(running))}
    if failed is not None:
        raise LocateError(
            f"an edit failed ({str(failed) or type(failed).__name__}): try fewer --jobs, or one, to see it"
        )


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
