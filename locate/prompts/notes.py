"""Notes on the pairs: sentences for the ledger, each with the number of pairs it is true of."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache

from locate.errors import LocateError
from locate.prompts.build import needs_an, table
from locate.prompts.pair import Pair, code_point, is_invisible, subject_span

FORMS = {
    "she": ("he",), "her": ("him", "his"), "hers": ("his",), "herself": ("himself",), "woman": ("man",),
    "women": ("men",), "girl": ("boy",), "girls": ("boys",), "female": ("male",), "mother": ("father",),
    "elle": ("il", "lui"), "ella": ("él",), "ela": ("ele",), "lei": ("lui",),
}  # fmt: skip
MALE_WORDS = {word for words in FORMS.values() for word in words}
ENGLISH = {"she", "her", "hers", "herself", "he", "him", "his", "himself"}
ENDS = re.compile("[.!?\u2026][\"'\u201d\u2019)\\]]*$")
OPENS = re.compile("(?:^|[\\s(\\[{])[\"'\u201c\u2018\u00ab]$|[\u201c\u2018\u00ab(\\[{]$")  # quotes and brackets
JOINS = re.compile("\\b(?:[cdjlmnst]|\\w*qu|\\w*ll|un)['\u2019]$|\\w-$", re.IGNORECASE)  # elided words, hyphens
ARTICLE = re.compile(r"\b(an?)\s$", re.IGNORECASE)
ARTICLES = (
    ("a", "an"), ("der", "die", "das"), ("ein", "eine"), ("le", "la", "l'", "l\u2019"), ("un", "une"), ("el", "la"),
    ("un", "una", "uno", "un'", "un\u2019"), ("il", "lo", "la", "l'", "l\u2019"), ("o", "a"), ("um", "uma"),
)  # fmt: skip
BEFORE_SUBJECT = re.compile("(?:^|(?<=\\s))(?:\\w+\\s|\\w+['\u2019])$")
EXCERPT = 20  # characters of a prompt shown where two begin to differ

SAME = "clean and corrupted prompt are the same"
Note = tuple[str, str]
"""what kind of thing is noted, and the sentence about the pair at hand"""


def group_key(group: str) -> str:
    """What two spellings of one group have in common: neither capitals nor spaces."""
    return " ".join(group.split()).casefold()


def notes_of(pairs: Sequence[Pair]) -> dict[str, int]:
    """Sentences about the pairs, each with the number of pairs it is true of; examples are from the first of them."""
    said: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for pair in pairs:
        for kind, sentence in notes_on_pair(pair):
            said.setdefault(kind, sentence)
            counts[kind] += 1
    return {said[kind]: count for kind, count in counts.items()} | dict(notes_on_all(pairs))


def notes_on_pair(pair: Pair) -> Iterator[Note]:
    """The notes on one pair."""
    yield from notes_on_prompts(pair)
    yield from notes_on_answers(pair)
    if (pair.female.strip().casefold() in ENGLISH) and (pair.male.strip().casefold() in ENGLISH):
        yield from notes_on_english(pair)
    known = signs().get(group_key(pair.clean_subject), 0)
    if pair.stereotype * known < 0:
        yield (
            "stereotype",
            f"the stereotype is the opposite of the package's table, as {pair.stereotype:+d} of {pair.clean_subject!r}",
        )


def notes_on_prompts(pair: Pair) -> Iterator[Note]:
    """Notes on the text of both prompts."""
    if pair.clean == pair.corrupted:
        yield "same", SAME
    else:
        apart = difference(pair)
        if apart:
            yield "different", f"the prompts differ outside their subjects, as {apart}"
    hidden = [letter for letter in pair.clean + pair.corrupted if is_invisible(letter) or letter == "\u00a0"]
    if hidden:
        yield "hidden", f"the prompts hold characters that look like others or like none, as {code_point(hidden[0])}"
    before, slot, after = pair.template.partition("{subject}")
    if slot and not (pair.clean.startswith(ARTICLE.sub("", before)) and pair.clean.endswith(after)):
        yield "template", f"the template does not make the clean prompt, as {pair.template!r} and {pair.clean[:60]!r}"


def notes_on_answers(pair: Pair) -> Iterator[Note]:
    """Notes on answers that can hardly follow the prompts."""
    both = f"{pair.female!r} and {pair.male!r}"
    end = pair.clean[-EXCERPT:]
    spaced = pair.female.startswith(" ") or pair.male.startswith(" ")
    if pair.female.startswith(" ") != pair.male.startswith(" "):
        yield "one space", f"one of the answers {both} begins with a space and the other does not"
    if spaced and (OPENS.search(pair.clean) or JOINS.search(pair.clean)):
        yield "space", f"the answers {both} begin with a space after {end!r}, where no space follows"
    first = {word.strip()[0] for word in (pair.female, pair.male)}
    ended = ENDS.search(pair.clean) or OPENS.search(pair.clean) or pair.clean.endswith(":")
    if all(letter.isupper() for letter in first) and not ended:
        yield "capital", f"the answers {both} begin with a capital in the middle of a sentence"
    if ENDS.search(pair.clean) and all(letter.islower() for letter in first):
        yield "ended", f"the prompt ends its sentence, as {end!r}, and the answers {both} begin with a small letter"
    fits = FORMS.get(pair.female.strip().casefold())
    male = pair.male.strip().casefold()
    if fits and male in MALE_WORDS and male not in fits:
        yield "forms", f"the answers {both} are two forms of the pronoun: expected {' or '.join(map(repr, fits))}"
    wrong = exchanged_answer_note(pair)
    if wrong:
        yield "exchanged", wrong


def notes_on_english(pair: Pair) -> Iterator[Note]:
    """Notes on spelling, of prompts with English answers."""
    for prompt, subject in ((pair.clean, pair.clean_subject), (pair.corrupted, pair.corrupted_subject)):
        start = subject_span(prompt, subject)[0]
        article = ARTICLE.search(prompt[:start]) or re.match(r"(an?)\s(?=\w)", subject, re.IGNORECASE)
        word = subject[article.end() :] if article and article.string == subject else subject
        an = needs_an(word)
        if article and an is not None and an != (article[1].casefold() == "an"):
            yield "article", f"the article does not fit the word, as {f'{article[1]} {word}'!r}"
        if prompt[0].islower():
            yield "small", f"a prompt begins with a small letter, as {prompt[:EXCERPT]!r}"
        inside = re.search(r"[a-z,] $", prompt[:start])
        if inside and subject[0].isupper() and subject[1:2].islower():
            yield "inside", f"a subject has a capital inside the sentence, as {subject!r}"


def notes_on_all(pairs: Sequence[Pair]) -> Iterator[tuple[str, int]]:
    """Notes on the pairs together, with counts."""
    spellings: dict[str, set[str]] = {}
    for pair in pairs:
        spellings.setdefault(group_key(pair.group), set()).add(pair.group)
    for names in spellings.values():
        if len(names) > 1:
            told = ", ".join(repr(name) for name in sorted(names))
            yield (
                f"groups {told} differ in capitals or spaces alone, and are taken as {len(names)} groups",
                sum(pair.group in names for pair in pairs),
            )
    answers = Counter((pair.female, pair.male) for pair in pairs)
    if len(answers) > 1:
        told = ", ".join(f"{female!r} or {male!r}" for (female, male), _ in answers.most_common(3))
        yield f"the pairs have {len(answers)} couples of answers, averaged together: {told}", len(pairs)
    ways = Counter(way_of(pair) for pair in pairs)
    if ways[1] and ways[-1] and not any(pair.stereotype for pair in pairs):
        yield (
            f"no pair has a stereotype, while {ways[1]} swap towards female and {ways[-1]} towards male, so that their "
            "signed effects cancel: add the column stereotype (1 female, -1 male)",
            ways[1] + ways[-1],
        )


def way_of(pair: Pair) -> int:
    """The gender towards which the swap goes: 1 female, -1 male, 0 unknown."""
    clean, corrupted = (signs().get(group_key(word), 0) for word in (pair.clean_subject, pair.corrupted_subject))
    return (corrupted > clean) - (corrupted < clean)


@cache
def signs() -> dict[str, int]:
    """The gender or stereotype of the words that the package knows, except those that have none."""
    found: dict[str, int] = {}
    for name, word, sign in (
        ("occupations", "occupation", "stereotype"), ("gendered", "word", "gender"), ("definitional", "word", "gender"),
    ):  # fmt: skip
        rows = table(name)
        found |= {group_key(str(each)): int(value) for each, value in zip(rows[word], rows[sign], strict=True) if value}
    return found


def difference(pair: Pair) -> str:
    """Where the prompts of a pair first differ outside their subjects; "" where they do not."""
    start, end = subject_span(pair.clean, pair.clean_subject)
    other_start, other_end = subject_span(pair.corrupted, pair.corrupted_subject)
    for one, other in (
        (pair.clean[:start], pair.corrupted[:other_start]), (pair.clean[end:], pair.corrupted[other_end:]),
    ):  # fmt: skip
        if one != other:
            same = next(
                (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
            )
            at = one.rfind(" ", 0, same) + 1
            return f"{one[at : at + EXCERPT]!r} and {other[at : at + EXCERPT]!r}"
    return ""


def differs_in_article(pair: Pair) -> bool:
    """Whether the prompts differ, outside their subjects, only in the form of one article before them."""
    start, end = subject_span(pair.clean, pair.clean_subject)
    other_start, other_end = subject_span(pair.corrupted, pair.corrupted_subject)
    one, other = pair.clean[:start], pair.corrupted[:other_start]
    found, against = BEFORE_SUBJECT.search(one), BEFORE_SUBJECT.search(other)
    if found is None or against is None or pair.clean[end:] != pair.corrupted[other_end:]:
        return False
    words = {each[0].strip().casefold() for each in (found, against)}
    return one[: found.start()] == other[: against.start()] and any(words <= set(forms) for forms in ARTICLES)


def exchanged_answer_note(pair: Pair) -> str:
    """What is wrong where an answer is known as a word of the other gender; "" where none is."""
    female, male = pair.female.strip().casefold(), pair.male.strip().casefold()
    if female in MALE_WORDS - set(FORMS):
        return f"the female answer {pair.female!r} is a word for men: exchange the columns female and male"
    if male in set(FORMS) - MALE_WORDS:
        return f"the male answer {pair.male!r} is a word for women: exchange the columns female and male"
    return ""


def refuse_prompts(pair: Pair, allow_different: bool) -> None:
    """Raise LocateError for a pair whose prompts are equal, differ outside their subjects, or have swapped answers."""
    if group_key(pair.clean) == group_key(pair.corrupted):
        raise LocateError(f"clean and corrupted are the same prompt {pair.clean[:60]!r}: expected another subject")
    apart = difference(pair)
    if apart and not allow_different and not differs_in_article(pair):
        raise LocateError(
            f"the prompts differ outside their subjects ({apart}): make the words around the subjects alike or part "
            "of them, or allow it with --allow-different"
        )
    wrong = exchanged_answer_note(pair)
    if wrong:
        raise LocateError(wrong)
