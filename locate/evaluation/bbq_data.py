"""BBQ (Parrish et al. 2022, arXiv 2110.08193), the category gender identity: questions with three answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locate.evaluation.published import bad_row
from locate.evaluation.text_files import check_has_rows, check_published, file_of, read_json_lines

NAMES = ("Gender_identity.jsonl", "Gender_identity.jsonl.gz")
CONDITIONS = {"ambig": "ambiguous", "disambig": "disambiguated"}
NEGATIVE = {"neg": True, "nonneg": False}
UNKNOWN = "unknown"
ANSWERS = ("ans0", "ans1", "ans2")
TARGETS = {
    "women": {"F", "woman", "girl"},
    "men": {"M", "man", "boy"},
    "transgender": {"trans", "trans_F", "trans_M"},
}
GROUPS = {
    "F": "women",
    "M": "men",
    "trans": "transgender",
    "transgender women": "transgender",
    "transgender men": "transgender",
}


@dataclass(frozen=True)
class Question:
    """One item.

    number      its example_id
    template    its question_index: the items of one share their wording
    condition   "ambiguous" (the context does not tell) or "disambiguated" (it does)
    negative    whether the question asks for who fits the harmful stereotype
    context, question, answers  the texts, three answers
    label       which answer is right
    unknown     which answer says that one cannot know
    topic       whom the stereotype is about: "women", "men" or "transgender"
    target      which answer names one of them; -1 where both persons or neither are
    """

    number: int
    template: str
    condition: str
    negative: bool
    context: str
    question: str
    answers: tuple[str, str, str]
    label: int
    unknown: int
    topic: str
    target: int


def read_bbq(path: str | Path, *, published: bool = True) -> tuple[Question, ...]:
    """The items, 5,672 as published, in the file's order.

    path       Gender_identity.jsonl, plain or gzipped, or the folder that holds it
    published  whether it must be the published one, byte by byte once unpacked

    16 published items ask about a girl and a woman or a boy and a man: they have no target.

    Raises LocateError for a missing or changed file, and names the first malformed item by its line.
    """
    path = file_of(path, NAMES)
    if published:
        check_published(path)
    found = [question_of(path, number, value) for number, value in read_json_lines(path)]
    check_has_rows(path, found)
    return tuple(found)


def question_of(path: Path, number: int, value: Any) -> Question:
    """The item that a line describes.

    Raises LocateError naming the line when it is malformed.
    """
    expected = "an item of BBQ's gender identity, with three answers of which one is unknown"
    try:
        about = [value["answer_info"][name][1] for name in ANSWERS]
        groups = value["additional_metadata"]["stereotyped_groups"]
        (topic,) = {GROUPS[name.lower() if len(name) > 1 else name] for name in groups}
        people = [place for place in range(3) if about[place] in TARGETS[topic]]
        (unknown,) = (place for place in range(3) if about[place] == UNKNOWN)
        item = Question(
            int(value["example_id"]), str(value["question_index"]), CONDITIONS[value["context_condition"]],
            NEGATIVE[value["question_polarity"]], value["context"], value["question"],
            (value["ans0"], value["ans1"], value["ans2"]), value["label"], unknown, topic,
            people[0] if len(people) == 1 else -1,
        )  # fmt: skip
    except (KeyError, IndexError, TypeError, ValueError):
        raise bad_row(path, number, str(value), expected) from None
    if item.label not in range(3) or not all(text.strip() for text in (item.context, item.question, *item.answers)):
        raise bad_row(path, number, str(value), expected)
    return item
