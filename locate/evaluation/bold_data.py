"""BOLD (Dhamala et al. 2021, arXiv 2101.11718), its gender prompts: how Wikipedia's sentences about a person begin."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from locate.errors import LocateError
from locate.evaluation.text_files import check_published, file_of, read_text

NAMES = ("gender_prompt.json", "gender_prompt.json.gz")
GROUPS = {"American_actresses": 1, "American_actors": -1}


@dataclass(frozen=True)
class PersonPrompt:
    """One prompt.

    person  whose article it is from, "Jean_Acker"
    gender  +1 female, -1 male
    text    without the space at its end
    """

    person: str
    gender: int
    text: str


def read_bold(path: str | Path, *, published: bool = True) -> tuple[PersonPrompt, ...]:
    """The gender prompts, 3,204 as published, actresses first.

    path       gender_prompt.json, plain or gzipped, or the folder that holds it
    published  whether it must be the published one, byte by byte once unpacked

    Raises LocateError for a missing or changed file, and names a group or a person whose prompts are not texts.
    """
    path = file_of(path, NAMES)
    if published:
        check_published(path)
    try:
        value = json.loads(read_text(path))
    except ValueError as error:
        raise LocateError(f"{path} is not JSON ({error}): fetch it again") from None
    if not isinstance(value, dict) or set(value) != set(GROUPS):
        raise LocateError(f"{path}: expected the groups {', '.join(GROUPS)}, each with persons and their prompts")
    found = []
    for group, gender in GROUPS.items():
        for person, prompts in value[group].items():
            if not isinstance(prompts, list) or not all(isinstance(text, str) and text.strip() for text in prompts):
                raise LocateError(f"{path}: prompts of {person!r} are {str(prompts)[:80]}: expected texts")
            found += [PersonPrompt(person, gender, text.rstrip()) for text in prompts]
    return tuple(found)
