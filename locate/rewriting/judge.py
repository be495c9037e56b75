"""An LLM judges rewrites; every raw answer is kept, and a stop loses none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pandas as pd

from locate.errors import LocateError
from locate.files import write_text
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step
from locate.model.writing import write_answers
from locate.rewriting.criteria import CRITERIA, VERSION, key_of, question, score_in
from locate.rewriting.measures import FAILED
from locate.rewriting.request import Request, has_template, templated
from locate.rewriting.rewrite import UNREAD, Rewritten, append_lines
from locate.rewriting.server import REFUSED

REWRITE, ORIGINAL = "rewrite", "original"
FIRST = 5  # questions: where a server refuses all of these, something else is wrong


@runtime_checkable
class Judge(Protocol):
    """Whoever answers questions."""

    def about(self) -> dict[str, Any]:
        """What identifies it beside its answers."""
        ...

    def answer(self, question: str) -> str:
        """Its answer to a question."""
        ...


@dataclass(frozen=True, eq=False)
class LocalJudge:
    """A model on this machine, asked through its chat template; the likeliest token is taken each time.

    tokens  of an answer
    """

    model: CausalModel
    tokens: int = 96

    def about(self) -> dict[str, Any]:
        """The model."""
        return {"kind": "local", **{name: self.model.provenance()[name] for name in ("name", "weights_sha256")}}

    def answer(self, question: str) -> str:
        """The model's answer."""
        tokenizer = self.model.encoder.tokenizer
        said = templated(tokenizer, [{"role": "user", "content": question}], answering=True)
        ids = list(tokenizer(said, add_special_tokens=False)["input_ids"])
        if len(ids) + self.tokens > self.model.context:
            return f"(question and answer are longer than the {self.model.context:,} tokens that the judge takes)"
        written = write_answers(self.model, [ids], tokens=[self.tokens], ends=Request().end_ids(self.model))[0]
        return str(tokenizer.decode(written, skip_special_tokens=True))


def local_judge(model: CausalModel) -> LocalJudge:
    """A model as judge.

    Raises LocateError for one without a chat template, which cannot be asked anything.
    """
    if not has_template(model):
        raise LocateError(f"judge {model.name!r} has no chat template: choose an instruct model")
    return LocalJudge(model)


@dataclass(frozen=True)
class Answer:
    """One answer of a judge.

    of       "rewrite" or "original": which text of the row was judged
    answer   as it came
    score    between 0 and 1; nan where the answer holds none, for the reason in `problem`
    key      what the answer is found by: judge, version of the questions, question
    """

    line: int
    of: str
    criterion: str
    score: float
    problem: str
    answer: str
    key: str
    version: int = VERSION


@dataclass(frozen=True)
class Question:
    """A question that is to be asked about a row."""

    line: int
    of: str
    criterion: str
    text: str
    key: str


def questions(rows: Sequence[Rewritten], judge: Judge, criteria: Sequence[str], *, originals: bool) -> list[Question]:
    """What is asked: of every rewrite that did not fail each criterion, of every original those that suit it.

    A failed rewrite is not shown to the judge, which would find an empty text free of bias: it has the worst score.
    """
    about, made = judge.about(), []
    for row in rows:
        for name in criteria:
            each = CRITERIA[name]
            texts = [] if row.outcome in (*FAILED, UNREAD) else [(REWRITE, row.rewrite)]
            if originals and each.original and row.outcome != UNREAD:
                texts.append((ORIGINAL, row.text))
            for of, text in texts:
                asked = question(each, row.text, text)
                made.append(Question(row.line, of, name, asked, key_of(about, asked)))
    return made


def ask_judge(
    rows: Sequence[Rewritten],
    judge: Judge,
    path: Path,
    *,
    criteria: Sequence[str] = tuple(CRITERIA),
    originals: bool = True,
    parallel: int = 1,
    step: Step = ignore_step,
) -> list[Answer]:
    """Ask about every row, and keep every answer as it came in a JSON Lines file as soon as it is there.

    path      where answers are kept; those to the same questions by the same judge are not asked for again
    parallel  questions that are asked at once

    Raises LocateError as the judge does; the answers so far are then in the file.
    """
    asked = questions(rows, judge, criteria, originals=originals)
    known = kept_answers(path)
    waiting = {each.key: each for each in asked if each.key not in known}
    done, refused = len(asked) - len(waiting), 0
    step(done, len(asked))
    for each, answer in answered(judge, list(waiting.values()), 1 if isinstance(judge, LocalJudge) else parallel):
        refused += answer.startswith(REFUSED)
        if refused == FIRST and len(asked) - len(waiting) + refused == done + 1:
            raise LocateError(f"the judge refused its first {FIRST} questions: {answer}: check its model's name")
        score, problem = score_in(answer)
        found = Answer(each.line, each.of, each.criterion, score, problem, answer, each.key)
        append_lines(path, [answer_line(found, judge)])
        known[each.key] = found
        done += 1
        step(done, len(asked))
    return [
        Answer(each.line, each.of, each.criterion, known[each.key].score, known[each.key].problem,
               known[each.key].answer, each.key)
        for each in asked
    ]  # fmt: skip


def answered(judge: Judge, asked: Sequence[Question], parallel: int) -> Iterator[tuple[Question, str]]:
    """Questions with their answers, as they come; after an error nothing more is asked."""
    if parallel <= 1:
        for each in asked:
            yield each, judge.answer(each.text)
        return
    todo = iter(asked)
    with ThreadPoolExecutor(parallel) as pool:
        running: dict[Future[str], Question] = {}
        problem: LocateError | None = None
        while True:
            while problem is None and len(running) < parallel and (new := next(todo, None)) is not None:
                running[pool.submit(judge.answer, new.text)] = new
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                own = running.pop(future)
                try:
                    yield own, future.result()
                except LocateError as error:
                    problem = error
        if problem is not None:
            raise problem


def answer_line(answer: Answer, judge: Judge) -> str:
    """An answer as JSON, with who gave it."""
    told = asdict(answer) | {"score": None if answer.score != answer.score else answer.score, "judge": judge.about()}
    return json.dumps(told)


def kept_answers(path: Path) -> dict[str, Answer]:
    """The answers of a file, by their keys; a last line that a stop tore is not among them.

    Scores are read from the raw answers again.

    Raises LocateError, naming the line, for any other row that is none.
    """
    found: dict[str, Answer] = {}
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    if lines and lines[-1]:
        append_lines(path, [""])  # a stop may have lost the last line break
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells: Mapping[str, Any] = json.loads(line.decode("utf-8"))
            score, problem = score_in(cells["answer"])
            if cells["answer"].startswith(REFUSED):
                continue  # to be asked again
            found[cells["key"]] = Answer(
                int(cells["line"]), cells["of"], cells["criterion"], score, problem, cells["answer"], cells["key"]
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            if number == len(lines):
                write_text(path, b"\n".join([*lines[:-1], b""]).decode())
                break
            raise LocateError(f"{path}, line {number}: expected an answer that a judge gave: remove the line") from None
    return found


def judged_scores(rows: Sequence[Rewritten], answers: Sequence[Answer], criteria: Sequence[str]) -> pd.DataFrame:
    """One row per text and criterion: line, of, criterion, score; failed rewrites have the worst score.

    An answer without a score has nan, and is counted.
    """
    table = pd.DataFrame(
        [(each.line, each.of, each.criterion, each.score) for each in answers],
        columns=["line", "of", "criterion", "score"],
    )
    failed = [
        (row.line, REWRITE, name, CRITERIA[name].worst) for row in rows if row.outcome in FAILED for name in criteria
    ]
    return pd.concat([table, pd.DataFrame(failed, columns=table.columns)], ignore_index=True) if failed else table
