"""Judges a file of rewrites: a table of rows, means with intervals, a table of groups, and what was counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import hash_of_files, write_json, write_whole
from locate.model.causal import CausalModel
from locate.model.embedding import Embedder
from locate.model.likelihood import log_likelihoods
from locate.rewriting.criteria import CRITERIA, VERSION
from locate.rewriting.judge import REWRITE, Answer, Judge, ask_judge, judged_scores
from locate.rewriting.measures import measure_rows, untouched
from locate.rewriting.outputs import read_outputs, unread_counts
from locate.rewriting.rewrite import UNREAD, Rewritten
from locate.rewriting.summary import alike, by_demographic, summarise, with_scores
from locate.sites import check
from locate.training.rows import has_words

Report = Callable[[str, int, int], None]
"""progress: (what, how many are done, of how many)"""
ANSWERS, ROWS, SUMMARY, GROUPS, ABOUT = "answers.jsonl", "rows.csv", "summary.csv", "groups.csv", "judged.json"


def report_nothing(what: str, done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What was found about a file of rewrites.

    rows     one per rewrite that could be read, with its measures
    summary  means with intervals (see `summarise`)
    groups   one row per demographic group (see `by_demographic`)
    about    what was judged, by whom, and how many rows, failures and answers without a score there were
    """

    rows: pd.DataFrame
    summary: pd.DataFrame
    groups: pd.DataFrame
    about: dict[str, Any]


def judge_file(
    path: str | Path,
    folder: str | Path,
    *,
    words: Collection[str] = (),
    model: CausalModel | None = None,
    embedder: Embedder | None = None,
    judge: Judge | None = None,
    criteria: Sequence[str] = tuple(CRITERIA),
    originals: bool = True,
    parallel: int = 1,
    step: Report = report_nothing,
) -> Verdict:
    """Judge a file of rewrites, and write rows.csv, summary.csv, groups.csv and judged.json into a folder.

    words      a list of words that ought to be gone
    model      measures how likely each rewrite is as a text of its own, nats a token
    embedder   measures how similar rewrite and original are
    judge      scores every rewrite by each of the criteria and, with `originals`, the untouched texts by bias and
               toxicity; its raw answers are kept in answers.jsonl, from which a stopped judging goes on
    parallel   questions that are asked at once

    Scores in MBIAS's columns of the file are taken as they are, those of empty rewrites too.

    Raises LocateError as `read_outputs` and the judge do.
    """
    for name in criteria:
        check("criterion", name, tuple(CRITERIA))
    target = Path(folder)
    rows, scores = read_outputs(path)
    if judge is not None and len(scores):
        raise LocateError(f"{path} holds a judge's scores already: leave --judge out, or take those columns out")
    table = measure_rows(rows, words)
    before = measure_rows(untouched(rows), words)
    if model is not None:
        table["likelihood"] = likelihoods(model, rows, lambda done, of: step("likelihood", done, of))
        before["likelihood"] = likelihoods(model, untouched(rows), lambda done, of: step("likelihood before", done, of))
    if embedder is not None:
        step("similarity", 0, len(table))
        table["similarity"] = embedder.similarities([(row.text, row.rewrite) for row in read(rows)])
        step("similarity", len(table), len(table))
    answers: list[Answer] = []
    if judge is not None:
        answers = ask_judge(
            rows, judge, target / ANSWERS, criteria=criteria, originals=originals, parallel=parallel,
            step=lambda done, of: step("judge", done, of),
        )  # fmt: skip
        scores = judged_scores(rows, answers, criteria)
    groups = by_demographic(table, scores, [row.demographic for row in rows if row.outcome == UNREAD])
    texts = pd.DataFrame([(row.line, row.text, row.rewrite) for row in read(rows)], columns=["line", "text", "rewrite"])
    found = Verdict(
        with_scores(texts.merge(table, on="line"), scores, REWRITE),
        summarise(table, before, scores),
        groups,
        {
            "file": {Path(path).name: hash_of_files([Path(path)])},
            "rows": len(rows),
            "unread": unread_counts(rows),
            "outcomes": dict(Counter(row.outcome or "rewritten" for row in rows)),
            "judge": None if judge is None else judge.about() | {"version": VERSION, "answers": len(answers)},
            "unparsable": dict(Counter(each.problem for each in answers if each.problem)),
            "unscored": int(scores["score"].isna().sum()),
            "likelihood": None if model is None else model.provenance(),
            "similarity": None if embedder is None else embedder.name,
            "listed_words": len(words),
            "alike": [list(pair) for pair in alike(list(groups["demographic"]))],
        },
    )
    write_verdict(found, target)
    return found


def read(rows: Sequence[Rewritten]) -> list[Rewritten]:
    """The rows that could be read."""
    return [row for row in rows if row.outcome != UNREAD]


def likelihoods(model: CausalModel, rows: Sequence[Rewritten], step: Callable[[int, int], None]) -> list[float]:
    """Mean log-probability per token of each rewrite as a text of its own, nats; nan for an empty one."""
    own = read(rows)
    full = [place for place, row in enumerate(own) if has_words(row.rewrite)]
    told = log_likelihoods(model, [("", own[place].rewrite) for place in full], step=step)
    found = [float("nan")] * len(own)
    for place, each in zip(full, told, strict=True):
        found[place] = each.log_likelihood / each.tokens
    return found


def write_verdict(found: Verdict, folder: Path) -> None:
    """The three tables and what they are about, each whole or not at all."""
    for name, table in ((ROWS, found.rows), (SUMMARY, found.summary), (GROUPS, found.groups)):
        write_whole(folder / name, lambda partial, table=table: table.to_csv(partial, index=False))  # type: ignore[misc]
    write_json(folder / ABOUT, found.about)
