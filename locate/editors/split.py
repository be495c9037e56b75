"""Which words and templates an edit is fitted on, and which are held out to judge it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from locate.errors import LocateError
from locate.files import shuffle_names
from locate.prompts import Pair, Prompts


@dataclass(frozen=True)
class Split:
    """Words and templates, fitted and held out."""

    words: tuple[str, ...]
    held_out_words: tuple[str, ...]
    templates: tuple[str, ...]
    held_out_templates: tuple[str, ...]


def split(words: Sequence[str], templates: Sequence[str], share: float, seed: int) -> Split:
    """Hold out a share of the words, and a share of the templates.

    Raises LocateError for a share outside [0, 1), or one that leaves nothing to fit on.
    """
    if not 0 <= share < 1:
        raise LocateError(f"held out {share}: expected a share in [0, 1)")
    parts = []
    for names in (words, templates):
        order = shuffle_names(names, seed)
        count = round(share * len(order))
        if count >= len(order):
            raise LocateError(f"holding out {share} of {len(order)} leaves nothing to edit: expected a smaller share")
        parts.append((tuple(order[count:]), tuple(order[:count])))
    return Split(parts[0][0], parts[0][1], parts[1][0], parts[1][1])


def leave_out(prompts: Prompts, words: Sequence[str], templates: Sequence[str]) -> Prompts:
    """The pairs that hold none of the words and templates held out."""
    left = tuple(pair for pair in prompts if pair.group not in set(words) and pair.template not in set(templates))
    if not left:
        raise LocateError("all prompts are held out: nothing is left to edit: expected a smaller share")
    return replace(prompts, pairs=left)


def fitted_on(prompts: Prompts, preserved: Prompts) -> dict[str, list[str]]:
    """The words and templates that an edit saw, for its receipt; the preserved words are among the words."""

    def told(pairs: Sequence[Pair], name: str) -> list[str]:
        return list(dict.fromkeys(str(getattr(pair, name)) for pair in pairs))

    return {
        "words": told((*prompts.pairs, *preserved.pairs), "group"),
        "templates": told((*prompts.pairs, *preserved.pairs), "template"),
        "preserved": told(preserved.pairs, "group"),
    }
