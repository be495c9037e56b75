"""How often the training text itself goes on from a word to "she" rather than "he"."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import islice

import pandas as pd

REACH = 15  # words after the subject
WORD = re.compile(r"([^\W_]+)(?:['\u2019][^\W_]+)*")  # group 1: "she" of "she'd"
PRONOUNS = dict.fromkeys(("she", "her", "hers", "herself"), "she") | dict.fromkeys(
    ("he", "him", "his", "himself"), "he"
)


def subjects(words: Iterable[str]) -> re.Pattern[str]:
    """One pattern of all words, lower case and whole: neither "nurses" nor the "mother" of "mother-in-law".

    Longest first, so "registered nurse" is not counted as "nurse". A possessive 's belongs to the match.
    """
    choices = "|".join(re.escape(word.lower()) for word in sorted(words, key=len, reverse=True))
    return re.compile(rf"(?<![^\W_])(?<![^\W_]-)({choices})(?![^\W_])(?!-[^\W_])(?:['\u2019]s\b)?")


def first_pronoun(text: str, start: int) -> str | None:
    """Gender ("she" or "he") of the first gendered pronoun in the next REACH words of the line."""
    end = text.find("\n", start)
    words = WORD.finditer(text, start, len(text) if end < 0 else end)
    return next((PRONOUNS[word[1]] for word in islice(words, REACH) if word[1] in PRONOUNS), None)


def she_shares(words: pd.DataFrame, texts: Iterable[str]) -> pd.DataFrame:
    """Occurrences of each word and the pronouns after it, in one pass over the texts.

    words  columns "word" and "set"
    texts  documents whose paragraphs are lines

    Returns `words` with `seen` (occurrences, singular, any case; the name "Mason" and the verb "cook" are not
    told apart), `with_pronoun`, `she`, `he` (occurrences) and `she_share` = she / with_pronoun.
    """
    pattern = subjects(words["word"])
    counts: Counter[tuple[str, str | None]] = Counter()
    for text in texts:
        lower = text.lower()
        counts.update((match[1], first_pronoun(lower, match.end())) for match in pattern.finditer(lower))
    keys = words["word"].str.lower()
    she, he, neither = ([counts[key, pronoun] for key in keys] for pronoun in ("she", "he", None))
    table = words[["word", "set"]].assign(she=she, he=he)
    table["with_pronoun"] = table["she"] + table["he"]
    table["seen"] = table["with_pronoun"] + neither
    table["she_share"] = table["she"] / table["with_pronoun"]
    return table[["word", "set", "seen", "with_pronoun", "she", "he", "she_share"]]
