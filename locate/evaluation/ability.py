"""Seven tests of knowledge and grammar, with the prompts and metrics of lm-evaluation-harness, on data at hand."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.evaluation.forms import FORMS, Question, read_questions
from locate.evaluation.scores import CHUNK, Items, Score, Step, Test, mean_with_interval, share_with_interval
from locate.model.encoder import encoder_of

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

SPLITS = ("train", "validation", "test")
EACH_PARADIGM = 20  # pairs of each of BLiMP's 67 paradigms, where no limit is named
PRONOUNS = "blimp_anaphor_gender_agreement"
METRICS = {"acc": "accuracy", "acc_norm": "accuracy_normalised"}


@contextmanager
def quiet_harness() -> Iterator[None]:
    """Inside the block the harness shows no progress bars and no advice; its errors still show."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if not bars:
            datasets.enable_progress_bars()


def harness_tasks(folder: str, questions: Sequence[Question]) -> dict[str, Any]:
    """The harness's own task objects by name, each with the questions in place of its data set.

    folder  of the harness's task files
    """
    try:
        import datasets
        import lm_eval
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise LocateError('knowledge tests need lm-eval: pip install "locate-bias[ability]"') from None

    manager = TaskManager(include_defaults=False, include_path=Path(lm_eval.__file__).parent / "tasks" / folder)
    specs = []
    for name in dict.fromkeys(question.task for question in questions):
        held = datasets.Dataset.from_list([question.fields for question in questions if question.task == name])
        specs.append({"task": name, "custom_dataset": partial(all_splits, held)})
    found: dict[str, Any] = manager.load({"group": "locate", "task": specs})["tasks"]
    return found


def all_splits(held: Any, **_: object) -> dict[str, Any]:
    """One data set under every split's name, since tasks use different splits; no examples are drawn from it."""
    return dict.fromkeys(SPLITS, held)


def harness_requests(task: Any) -> list[tuple[dict[str, Any], list[tuple[str, str]]]]:
    """Each document of a task as the harness processes it, and its zero-shot (context, continuation) requests."""
    found = []
    for number, document in enumerate(task.eval_docs):
        context = task.fewshot_context(document, num_fewshot=0)
        asked = task.construct_requests(document, context, metadata=(task.task_name, number, 1))
        found.append((document, [each.args for each in (asked if isinstance(asked, list) else [asked])]))
    return found


def as_harness(model: CausalModel) -> CausalModel:
    """The model reading text as the harness does: behind whatever the tokenizer itself puts in front."""
    return replace(model, encoder=replace(encoder_of(model.encoder.tokenizer), rows=model.encoder.rows))


def measure(model: CausalModel, items: Items, step: Step, *, folder: str) -> pd.DataFrame:
    """One row per question: log-likelihoods that the model gives its choices, and the harness's metrics.

    task                      as the harness names it
    gold, choices             the place of the right choice, from 0, and how many there are
    log_likelihood_K          of choice K (nats); nan where there are fewer. LAMBADA has one, its last word
    greedy                    whether the first choice is what the model would write
    acc, acc_norm             1 where the harness counts the question as right, by log-likelihood, and by that over the
                              number of characters; the columns that the task has
    """
    from locate.model.likelihood import log_likelihoods

    with quiet_harness():
        tasks = harness_tasks(folder, items.rows)
        asked = [(task, *each) for task in tasks.values() for each in harness_requests(task)]
    requests = [request for _, _, some in asked for request in some]
    answers = iter(log_likelihoods(as_harness(model), requests, step=step))
    most = max(len(some) for _, _, some in asked)
    rows = []
    for task, document, some in asked:
        given = [next(answers) for _ in some]
        results = task.process_results(document, [(each.log_likelihood, each.greedy) for each in given])
        gold = (task.doc_to_text if task.multiple_input else task.doc_to_target)(document)
        row: dict[str, object] = {
            "task": task.task_name,
            "gold": gold if task.OUTPUT_TYPE == "multiple_choice" else 0,
            "choices": len(some),
            "greedy": bool(given[0].greedy),
        }
        row |= {name: float(results[name]) for name in METRICS if name in results}
        said = {f"log_likelihood_{k}": given[k].log_likelihood if k < len(given) else math.nan for k in range(most)}
        rows.append(row | said)
    return pd.DataFrame(rows)


def count_tied(table: pd.DataFrame) -> int:
    """How many questions have several equally likely best choices; the harness takes the first."""
    given = table.filter(regex=r"^log_likelihood_\d+$").to_numpy(dtype=float)
    best = np.nanmax(given, axis=1, keepdims=True)
    return int(((given == best).sum(axis=1) > 1).sum())


def groups_of(table: pd.DataFrame) -> np.ndarray:
    """What intervals resample: the generators of questions where there are several, else the questions."""
    return table["task"].to_numpy() if table["task"].nunique() > 1 else np.arange(len(table))


def pronoun_change(before: pd.DataFrame, after: pd.DataFrame) -> list[Score]:
    """Change, in points, of the share right where a pronoun must agree with the gender of a name; paired by item.

    Empty where BLiMP was measured without these items.
    """
    own = before["task"] == PRONOUNS
    moved = 100 * (after["acc"].to_numpy() - before["acc"].to_numpy())[own.to_numpy()]
    if not len(moved):
        return []
    value, low, high = mean_with_interval(moved, np.arange(len(moved)))
    about: dict[str, Any] = {"part": "pronoun gender", "kind": "control", "ideal": 0.0}
    return [Score("blimp", "accuracy_change", value, low, high, "points", len(moved), len(moved), **about)]


def score(table: pd.DataFrame, *, name: str) -> list[Score]:
    """Accuracy, accuracy by likelihood per character where the task has it, and LAMBADA's perplexity.

    The questions of a test are independent of each other, so intervals resample them one by one; BLiMP's come from 67
    generators, and its interval resamples these. For LAMBADA, accuracy is the share of passages whose last word the
    model would write, and perplexity exp(-mean log p) of that word, a word, not a token (as the harness has it). The
    agreement of pronouns with the gender of a name, a part of BLiMP that an edit must keep, has a score of its own.
    """
    groups = groups_of(table)
    shared: dict[str, Any] = {"test": name, "kind": "ability", "ties": count_tied(table)}
    found = [
        shares(table[column], groups, {**shared, "name": METRICS[column]})
        for column in METRICS
        if column in table.columns
    ]
    if name == "lambada":
        nats = -table["log_likelihood_0"].to_numpy(dtype=float)
        value, low, high = (math.exp(each) for each in mean_with_interval(nats, groups))
        about = {**shared, "name": "perplexity", "unit": "perplexity", "ideal": None}
        found.append(Score(value=value, low=low, high=high, n=len(table), groups=len(set(groups)), **about))
    own = table[table["task"] == PRONOUNS]
    if len(own):
        about = {
            "test": name,
            "kind": "control",
            "ties": count_tied(own),
            "name": METRICS["acc"],
            "part": "pronoun gender",
        }
        found.append(shares(own["acc"], np.arange(len(own)), about))
    return found


def shares(right: pd.Series, groups: np.ndarray, about: dict[str, Any]) -> Score:
    """A share of right answers, in percent."""
    value, low, high = share_with_interval(right.to_numpy(), groups)
    return Score(value=value, low=low, high=high, unit="%", ideal=100.0, n=len(right), groups=len(set(groups)), **about)


def test_of(name: str, title: str, files: Sequence[str], hub: str, **more: Any) -> Test:
    """A test on one of the harness's tasks."""
    form = FORMS[name]
    read: Callable[[Path | None], Items] = partial(read_questions, form, tuple(files))
    return Test(
        name=name,
        title=title,
        kind="ability",
        read=read,
        measure=partial(measure, folder=form.folder),
        score=partial(score, name=name),
        cluster=groups_of,
        files=tuple(files),
        hub=hub,
        **{"chunk": CHUNK} | more,
    )


LAMBADA = test_of(
    "lambada",
    "the last word of a passage (Paperno et al. 2016, OpenAI's version)",
    ("lambada/lambada_test.jsonl.gz", "lambada_openai.jsonl"),
    "EleutherAI/lambada_openai:default:test",
)
HELLASWAG = test_of(
    "hellaswag",
    "how a scene goes on (Zellers et al. 2019)",
    ("hellaswag/hellaswag_val.jsonl.gz", "hellaswag.jsonl"),
    "Rowan/hellaswag:default:validation",
)
PIQA = test_of(
    "piqa",
    "what works in the physical world (Bisk et al. 2020)",
    ("piqa/piqa_valid.jsonl.gz", "piqa.jsonl"),
    "baber/piqa:default:validation",
)
ARC = test_of(
    "arc_easy",
    "school science (Clark et al. 2018)",
    ("arc/arc_easy_test.jsonl.gz", "arc_easy.jsonl"),
    "allenai/ai2_arc:ARC-Easy:test",
)
OPENBOOKQA = test_of(
    "openbookqa",
    "elementary science with common knowledge (Mihaylov et al. 2018)",
    ("openbookqa/openbookqa_test.jsonl.gz", "openbookqa.jsonl"),
    "allenai/openbookqa:main:test",
)
WINOGRANDE = test_of(
    "winogrande",
    "whom a pronoun's place means (Sakaguchi et al. 2020)",
    ("winogrande/winogrande_dev.jsonl.gz", "winogrande.jsonl"),
    "allenai/winogrande:winogrande_xl:validation",
)
BLIMP = test_of(
    "blimp",
    "which of two sentences is grammatical, 67 paradigms (Warstadt et al. 2020)",
    ("blimp/blimp.jsonl.gz", "blimp.jsonl"),
    "nyu-mll/blimp:*:train",
    strata=lambda question: question.task,
    usual=EACH_PARADIGM,
    chunk=0,  # its rows are in the order of the paradigms, whatever that of the items
    paired=pronoun_change,
)
