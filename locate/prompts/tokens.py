"""How a tokenizer sees a pair: tokens with roles, the alignment of its two prompts, and the ledger of what was kept."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from locate.errors import LocateError
from locate.prompts.notes import notes_of
from locate.prompts.pair import Dropped, Pair, Prompts, subject_span
from locate.sites import AFTER, BEFORE, FIRST, FURTHER, LAST, LAST_SUBJECT, MIDDLE

Encode = Callable[[str], tuple[list[int], list[tuple[int, int]]]]
"""text -> token ids and the character span of each; a token that stands for no text (BOS) has an empty span"""

MAX_DROPPED = 0.2
UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN")  # scripts without spaces


@dataclass(frozen=True)
class Aligned:
    """A token of the clean prompt and the token that plays its part in the corrupted one."""

    clean: int
    corrupted: int
    role: str


@dataclass(frozen=True)
class TokenPair:
    """A pair as token ids.

    index      its place among the prompts
    clean, corrupted                ids of each prompt, BOS included
    clean_roles, corrupted_roles    one role a token
    aligned    tokens that have a counterpart, by clean position
    answers    ids of the female, male and neutral answer; neutral is None where it is not one token
    """

    index: int
    pair: Pair
    clean: tuple[int, ...]
    corrupted: tuple[int, ...]
    clean_roles: tuple[str, ...]
    corrupted_roles: tuple[str, ...]
    aligned: tuple[Aligned, ...]
    answers: tuple[int, int, int | None]


@dataclass(frozen=True)
class Ledger:
    """What became of every pair: kept, or dropped with the reason; and the tokens that found no counterpart.

    notes   sentences on the pairs kept, or on what was decided for them, each with the number of pairs it is true of
    """

    kept: int
    dropped: tuple[Dropped, ...]
    skipped: tuple[Dropped, ...]
    without_neutral: int
    without_counterpart: dict[str, int]
    notes: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """For meta.json: counts, reasons and notes with counts, and each pair left out."""

        def listed(rows: Sequence[Dropped]) -> list[list[str]]:
            return [[row.group, row.template, row.reason] for row in rows]

        return {
            "kept": self.kept,
            "dropped": len(self.dropped),
            "skipped": len(self.skipped),
            "reasons": dict(Counter(row.reason for row in self.dropped + self.skipped)),
            "neutral answer not one token": self.without_neutral,
            "tokens without counterpart": self.without_counterpart,
            "notes": self.notes,
            "dropped pairs": listed(self.dropped),
            "skipped pairs": listed(self.skipped),
        }


def roles_of(spans: Sequence[tuple[int, int]], subject: tuple[int, int]) -> tuple[str, ...]:
    """The role of each token, from character spans; the subject's span includes the space before it.

    A subject of one token is subject_last; a prompt that ends in its subject has no token in the role last.

    Raises LocateError when no token, or a token shared with other words, holds the subject.
    """
    start, end = subject
    inside = [i for i, (a, b) in enumerate(spans) if a < b and a < end and b > start]
    if not inside:
        raise LocateError("no token holds the subject")
    if spans[inside[-1]][1] > end or spans[inside[0]][0] < start:
        raise LocateError("a token of the subject reaches into the words beside it")
    first, last, final = inside[0], inside[-1], len(spans) - 1
    roles = []
    for i in range(len(spans)):
        if i < first:
            roles.append(BEFORE)
        elif i <= last:
            roles.append(LAST_SUBJECT if i == last else FIRST if i == first else MIDDLE)
        else:
            roles.append(LAST if i == final else AFTER if i == last + 1 else FURTHER)
    return tuple(roles)


def with_space(prompt: str, subject: str) -> tuple[int, int]:
    """Span of the subject and the space before it, which some tokenizers keep in a token of its own."""
    start, end = subject_span(prompt, subject)
    return (start - 1 if prompt[:start].endswith(" ") else start), end


def align(clean: Sequence[str], corrupted: Sequence[str]) -> tuple[Aligned, ...]:
    """Pair the tokens of two prompts by role.

    Tokens before and after the subject are paired one by one. So are those within it when both subjects have as many;
    otherwise the last is paired with the last, and the first with the first where both have one.

    Raises LocateError when the words around the subject fall into different numbers of tokens.
    """
    first, end = subject_tokens(clean)
    other_first, other_end = subject_tokens(corrupted)
    if first != other_first or len(clean) - end != len(corrupted) - other_end:
        raise LocateError("the words around the subject fall into different numbers of tokens")
    shift = other_end - end
    couples = [(i, i) for i in range(first)]
    if shift == 0:
        couples += [(i, i) for i in range(first, end)]
    else:
        if clean[first] == FIRST and corrupted[first] == FIRST:
            couples.append((first, first))
        couples.append((end - 1, other_end - 1))
    couples += [(i, i + shift) for i in range(end, len(clean))]
    return tuple(Aligned(i, j, clean[i]) for i, j in couples)


def subject_tokens(roles: Sequence[str]) -> tuple[int, int]:
    """Half-open range of the subject's tokens."""
    end = list(roles).index(LAST_SUBJECT) + 1
    return list(roles).index(FIRST) if FIRST in roles else end - 1, end


def answer_id(encode: Encode, prompt: str, ids: Sequence[int], answer: str) -> int:
    """The token that continues a prompt with an answer, as the tokenizer splits them together.

    Raises LocateError when it is not exactly one token.
    """
    together = encode(prompt + answer)[0]
    if together[: len(ids)] != list(ids) or len(together) != len(ids) + 1:
        rest = together[len(ids) :] if together[: len(ids)] == list(ids) else together
        raise LocateError(f"answer {answer!r} must be a single token, got {rest}")
    return together[-1]


def shared_answer(encode: Encode, pair: Pair, clean: list[int], corrupted: list[int], answer: str) -> int:
    """The single token of an answer, the same after both prompts.

    Raises LocateError when it is several tokens, or a different token after each prompt.
    """
    after_clean = answer_id(encode, pair.clean, clean, answer)
    after_corrupted = answer_id(encode, pair.corrupted, corrupted, answer)
    if after_clean != after_corrupted:
        raise LocateError(f"answer {answer!r} is another token after the corrupted prompt")
    return after_clean


def tokenise_pair(index: int, pair: Pair, encode: Encode) -> TokenPair:
    """A pair as token ids with roles, alignment and answers.

    Raises LocateError with the reason why it cannot be used.
    """
    clean, clean_spans = encode(pair.clean)
    corrupted, corrupted_spans = encode(pair.corrupted)
    if clean == corrupted and pair.clean != pair.corrupted:
        raise LocateError("clean and corrupted prompt are the same tokens")
    clean_roles = roles_of(clean_spans, with_space(pair.clean, pair.clean_subject))
    corrupted_roles = roles_of(corrupted_spans, with_space(pair.corrupted, pair.corrupted_subject))
    female = shared_answer(encode, pair, clean, corrupted, pair.female)
    male = shared_answer(encode, pair, clean, corrupted, pair.male)
    if female == male:
        raise LocateError(f"answers {pair.female!r} and {pair.male!r} are the same token")
    try:
        neutral = None if pair.neutral is None else shared_answer(encode, pair, clean, corrupted, pair.neutral)
    except LocateError:
        neutral = None
    return TokenPair(
        index,
        pair,
        tuple(clean),
        tuple(corrupted),
        clean_roles,
        corrupted_roles,
        align(clean_roles, corrupted_roles),
        (female, male, neutral),
    )


def check_fits(pair: TokenPair, context: int | None) -> TokenPair:
    """The pair itself.

    Raises LocateError when a prompt of it is longer than the model's context.
    """
    longest = max(len(pair.clean), len(pair.corrupted))
    if context is not None and longest > context:
        raise LocateError(f"{longest:,} tokens, the model takes {context:,}")
    return pair


def tokenise(
    prompts: Prompts, encode: Encode, *, max_dropped: float = MAX_DROPPED, context: int | None = None
) -> tuple[list[TokenPair], Ledger]:
    """Tokenise all pairs; those that cannot be used go to the ledger with the reason.

    max_dropped  largest share of pairs that may be dropped, in [0, 1]
    context      the longest prompt that the model takes, in tokens; None for any length

    Raises LocateError when more are dropped, or none is left.
    """
    if not 0 <= max_dropped <= 1:
        raise LocateError(f"max_dropped {max_dropped}: expected a share in [0, 1]")
    kept: list[TokenPair] = []
    dropped: list[Dropped] = []
    for index, pair in enumerate(prompts):
        try:
            kept.append(check_fits(tokenise_pair(index, pair, encode), context))
        except LocateError as error:
            dropped.append(Dropped(pair.group, pair.template, str(error)))
    share = len(dropped) / len(prompts) if len(prompts) else 1.0
    if not kept or share > max_dropped:
        raise LocateError(too_few(dropped, len(prompts), max_dropped, bool(kept)))
    alone: Counter[str] = Counter()
    for each in kept:
        alone.update(each.clean_roles[i] for i in set(range(len(each.clean))) - {a.clean for a in each.aligned})
    without = sum(each.pair.neutral is not None and each.answers[2] is None for each in kept)
    notes: Counter[str] = Counter()
    for sentence, count in prompts.notes:
        notes[sentence] += count
    notes |= notes_of([each.pair for each in kept]) | note_spaced_twins(kept, encode)
    return kept, Ledger(len(kept), tuple(dropped), prompts.skipped, without, dict(sorted(alone.items())), dict(notes))


def too_few(dropped: Sequence[Dropped], count: int, max_dropped: float, kept: bool) -> str:
    """The error where too many pairs, or all, cannot be used."""
    counts = Counter(row.reason for row in dropped).most_common(3)
    reasons = "; ".join(f"{many} x {reason}" for reason, many in counts) or "there were none"
    long = bool(dropped) and all("the model takes" in row.reason for row in dropped)
    return (
        f"{len(dropped)} of {count} pairs cannot be used, expected at most {max_dropped:.0%} ({reasons}): "
        + ("choose shorter prompts" if long else "choose other answers or subjects")
        + (", or allow more with max_dropped" if kept else "")
    )


def note_spaced_twins(pairs: Sequence[TokenPair], encode: Encode) -> dict[str, int]:
    """A note on answers without a space where the same word after a space is one token too, and is likely meant."""
    found: Counter[tuple[str, str]] = Counter()
    for each in pairs:
        twins = [has_spaced_twin(each, answer, encode) for answer in (each.pair.female, each.pair.male)]
        if any(twins):
            found[(each.pair.female, each.pair.male)] += 1
    return {
        f"the answers {female!r} and {male!r} have no space before them: the same word with a space is one token too, "
        f"and as a rule far likelier: write {' ' + female!r} and {' ' + male!r}": count
        for (female, male), count in found.items()
    }


def has_spaced_twin(pair: TokenPair, answer: str, encode: Encode) -> bool:
    """Whether an answer that continues the last word would be a single, different token after a space."""
    last = pair.pair.clean[-1]
    if (
        answer[0].isspace()
        or not (last.isalnum() or last in ".,;:!?")
        or unicodedata.name(last, "").startswith(UNSPACED)
    ):
        return False
    try:
        return answer_id(encode, pair.pair.clean, pair.clean, " " + answer) not in pair.answers
    except LocateError:
        return False
