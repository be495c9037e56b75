"""Where the known tokens of a prompt stand in its text, and so what text lies between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from locate.sites import BEFORE, FIRST, LAST, LAST_SUBJECT, MIDDLE

UNKNOWN = "…"
SUBJECT = (FIRST, MIDDLE, LAST_SUBJECT)
MOST = 1000  # ways to place the tokens that are looked at before they count as not placed
Span = tuple[int, int]


@dataclass(frozen=True)
class Token:
    """A token whose place in its prompt is known."""

    position: int
    piece: str
    role: str


@dataclass(frozen=True)
class Part:
    """A column of one prompt's map: a token, or a stretch of text between known tokens.

    position  of the token; None for a stretch
    text      as the prompt has it; UNKNOWN where it cannot be told; of a token that spells no whole text, its piece
    role      of the token; "" for a stretch
    subject   whether it belongs to the words that the pair exchanges
    """

    position: int | None
    text: str
    role: str
    subject: bool


def parts_of(tokens: Sequence[Token], text: str, subject: Span | None) -> list[Part]:
    """The prompt from left to right: its known tokens, and what lies between them.

    tokens   in the order of their positions
    subject  characters of the exchanged words in the text; None where they are not known

    A stretch of text is told where all ways to place the tokens agree on it, and is split where the subject begins and
    ends. A stretch before the first token that holds no text (marks that begin every prompt) is left out.
    """
    runs = runs_of(tokens)
    ways = list(ways_to_place(runs, text, subject))
    found: list[Part] = []
    for number, run in enumerate(runs):
        if run[0].position > (runs[number - 1][-1].position + 1 if number else 0):
            found += stretch(
                text, {way[number - 1][1] if number else 0 for way in ways}, {way[number][0] for way in ways}, subject
            )
        found += [Part(each.position, spell(each.piece), each.role, each.role in SUBJECT) for each in run]
    whole = not ways and tokens[-1].role == LAST
    return found + ([] if whole else stretch(text, {way[-1][1] for way in ways}, {len(text)}, subject))


def runs_of(tokens: Sequence[Token]) -> list[list[Token]]:
    """The tokens in runs of neighbours."""
    runs: list[list[Token]] = []
    for token in tokens:
        if runs and token.position == runs[-1][-1].position + 1:
            runs[-1].append(token)
        else:
            runs.append([token])
    return runs


def stretch(text: str, starts: set[int], ends: set[int], subject: Span | None) -> list[Part]:
    """The text from start to end, split at the subject; one unknown part unless both are told by all ways alike."""
    if len(starts) != 1 or len(ends) != 1:
        return [Part(None, UNKNOWN, "", False)]
    (start,), (end,) = starts, ends
    first, last = subject or (end, end)
    cuts = [start, *sorted({min(max(each, start), end) for each in (first, last)}), end]
    return [
        Part(None, text[a:b].strip(), "", first <= a and b <= last and a < b)
        for a, b in pairwise(cuts)
        if text[a:b].strip()
    ]


def ways_to_place(runs: Sequence[Sequence[Token]], text: str, subject: Span | None) -> list[list[Span]]:
    """Every way to place the runs in the text in their order; none where there are too many."""
    ways: list[list[Span]] = [[]]
    for run in runs:
        ways = [[*way, span] for way in ways for span in spans_of(run, text, way[-1][1] + 1 if way else 0, subject)]
        if len(ways) > MOST:
            return []
    return ways


def spans_of(run: Sequence[Token], text: str, start: int, subject: Span | None) -> list[Span]:
    """Where a run of tokens may stand in the text, from some character on.

    A run from the prompt's first token on stands at the start of the text, but for its marks that have no text.
    """
    if run[0].position > 0:
        return [each for each in found_in(text, run, start) if fits(run, each, text, subject)]
    for dropped in range(len(run) + 1):
        rest = run[dropped:]
        for each in found_in(text, rest, 0) if rest else [(0, 0)]:
            if each[0] == 0 and fits(rest, each, text, subject):
                return [each]
        if rest and rest[0].role != BEFORE:
            break
    return []


def found_in(text: str, run: Sequence[Token], start: int) -> list[Span]:
    """Where the spelling of a run occurs in the text, from some character on."""
    places: set[Span] = set()
    for whole in spellings(run) | ({each.lstrip() for each in spellings(run)} if start == 0 else set()):
        place = text.find(whole, start) if whole else -1
        while place >= 0:
            if place == 0 or whole in spellings(run):
                places.add((place, place + len(whole)))
            place = text.find(whole, place + 1)
    return sorted(places)


def fits(run: Sequence[Token], span: Span, text: str, subject: Span | None) -> bool:
    """Whether each token of a placed run stands where its role says."""
    for number, token in enumerate(run):
        begin = span[0] + (span[1] - span[0] - letters(run[number:]) if number else 0)
        end = span[1] - letters(run[number + 1 :])
        if token.role == LAST and end != len(text):
            return False
        if subject is not None and not {
            BEFORE: end <= subject[0],
            FIRST: begin in (subject[0] - 1, subject[0]),
            MIDDLE: subject[0] < begin and end < subject[1],
            LAST_SUBJECT: end == subject[1],
        }.get(token.role, begin >= subject[1]):
            return False
    return True


def letters(run: Sequence[Token]) -> int:
    """Characters of a run's shortest spelling."""
    return min(map(len, spellings(run))) if run else 0


def spellings(run: Sequence[Token]) -> set[str]:
    """What a run of pieces may spell: in a vocabulary of bytes, as GPT-2's, or of characters, as SentencePiece's."""
    joined = "".join(each.piece for each in run)
    found = {joined.replace("▁", " ")}
    if all(each in BYTES for each in joined):
        found.add(bytes(BYTES[each] for each in joined).decode(errors="replace"))
    return found


def spell(piece: str) -> str:
    """The text of one piece; a piece of some of a character's bytes stays as it is."""
    if all(each in BYTES for each in piece):
        text = bytes(BYTES[each] for each in piece).decode(errors="replace")
        return piece if "\ufffd" in text else text
    return piece.replace("▁", " ")


def letters_of_bytes() -> dict[str, int]:
    """The character for each byte in a vocabulary of bytes: its own where it is visible, else one from 256 up."""
    visible = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + number): byte for number, byte in enumerate(hidden)}


BYTES = letters_of_bytes()
