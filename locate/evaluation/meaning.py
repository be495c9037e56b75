"""What the scores of the package's tests mean: a plain name for each, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

DOWN, UP = -1, 1
GOALS = {"bias": "less biased", "control": "better", "ability": "more able"}
NO_SIDE = "neither side is better"
BETTER, WORSE, MOVED, PAST, CHANCE, UNKNOWN = VERDICTS = (
    "better", "worse", "moved", "past the ideal, as far from it as before within chance", "within chance",
    "chance cannot be told",
)  # fmt: skip


@dataclass(frozen=True)
class Meaning:
    """What a score means.

    words      its plain name
    way        UP where higher is better, DOWN where lower is; 0 where the ideal tells, or nobody does
    unchanged  of a score that needs both models: what a model compared with itself has
    """

    words: str
    way: int = 0
    unchanged: float | None = None


ODDS = Meaning("log-odds of she against he")
SIZE = Meaning("size of the log-odds, prompt by prompt", DOWN)
CUT = Meaning("cut in the size of the log-odds", UP, 0.0)
LIKELIER = Meaning("how much likelier the stereotypical sentence is")
FEMALE = Meaning("how much likelier the female sentence is")
GENERATED = {
    "own": Meaning("a word of the prompt's gender"),
    "opposite": Meaning("a word of the other gender"),
    "stereotype": Meaning("an occupation that fits the prompt's gender"),
    "empty": Meaning("empty completions", DOWN),
}
MEANINGS: dict[str, dict[str, Meaning]] = {
    "occupations": {
        "log_odds": ODDS,
        "abs_log_odds": SIZE,
        "abs_log_odds_word": Meaning("size of an occupation's mean log-odds", DOWN),
        "afgb": Meaning("distance between the probabilities of he and she", DOWN),
        "pronouns": Meaning("probability of she and he together"),
        "slope": Meaning("log-odds gained with the share of women"),
        "correlation": Meaning("correlation of log-odds and share of women"),
        "prefers_stereotype": Meaning("occupations that lean to their stereotype"),
        "prefers_stereotype_centred": Meaning("the same, with the mean of all occupations taken off"),
        "definition_words": Meaning("gendered words that get their own pronoun", UP),
        "definition_prompts": Meaning("prompts about gendered words that get their pronoun", UP),
        "definition_margin": Meaning("log-odds of a gendered word's own pronoun", UP),
        "neutral_abs_log_odds": Meaning("size of the log-odds after words without gender", DOWN),
        "kept_definition_words": Meaning("gendered words that keep their own pronoun", UP, 100.0),
        "kept_definition_prompts": Meaning("prompts about gendered words that keep their pronoun", UP, 100.0),
        "log_odds_cut": CUT,
    },
    "unseen_forms": {"log_odds": ODDS, "abs_log_odds": SIZE, "log_odds_cut": CUT},
    "natural": {"log_odds": ODDS, "abs_log_odds": SIZE, "log_odds_cut": CUT},
    "biaske": {
        "ss": Meaning("stereotyped sentence preferred"),
        "ps": Meaning("stereotyped paraphrase preferred"),
        "ss_size": Meaning("size of the difference between both sentences", DOWN),
        "ps_size": Meaning("size of the difference between both paraphrases", DOWN),
        "log_odds": Meaning("how much likelier female words are"),
        "true_preferred": Meaning("facts whose true sentence is preferred", UP),
        "ds": Meaning("facts decided as before", UP, 100.0),
    },
    "generation": GENERATED,
    "bold": GENERATED,
    "winobias": {
        "prefers_pro": Meaning("stereotypical pronoun preferred"), "gap": LIKELIER, "log_odds": FEMALE,
    },
    "winogender": {
        "prefers_majority": Meaning("pronoun of the workers' majority preferred"),
        "log_odds": FEMALE,
        "correlation": Meaning("correlation with the share of women at work"),
        "correlation_text": Meaning("correlation with the share of women in texts"),
    },
    "stereoset": {
        "lms": Meaning("related text preferred to an unrelated one"),
        "ss": Meaning("stereotypical text preferred"),
        "icat": Meaning("ability and balance in one number", UP),
    },
    "crows_pairs": {
        "pct_stereotype": Meaning("stereotypical sentence preferred"),
        "likelihood_diff": Meaning("size of the difference between both sentences"),
        "gap": LIKELIER,
    },
    "bec_pro": {
        "log_odds": FEMALE,
        "association": Meaning("how much likelier a profession is after a woman"),
        "prefers_majority": Meaning("gender of the workers' majority preferred"),
        "correlation": Meaning("correlation with the share of women at work"),
    },
    "gap": {
        "prefers_original": Meaning("original preferred to its gender-flipped copy"),
        "gap": Meaning("how much likelier the original is than its copy"),
        "log_odds": Meaning("how much likelier texts about women are"),
    },
    "bbq": {
        "accuracy": Meaning("questions answered right", UP),
        "accuracy_per_token": Meaning("questions answered right, likelihood per token", UP),
        "bias": Meaning("answers that follow the stereotype, less those against it"),
        "bias_per_token": Meaning("the same, likelihood per token"),
    },
    "seat": {
        "effect_size": Meaning("how much nearer stereotypical sentences are"),
        "p": Meaning("chance of so large an effect size"),
    },
    "sentences": {
        "prefers_stereotype": Meaning("stereotypical sentence preferred"), "gap": LIKELIER, "log_odds": FEMALE,
    },
    "perplexity": {
        "perplexity": Meaning("perplexity per token", DOWN),
        "bits_per_byte": Meaning("bits per byte of text", DOWN),
        "perplexity_change": Meaning("change of the perplexity", DOWN, 0.0),
    },
    "lambada": {
        "accuracy": Meaning("last words that the model would write", UP),
        "perplexity": Meaning("perplexity of the last word", DOWN),
    },
    "blimp": {
        "accuracy": Meaning("grammatical sentence preferred", UP),
        "accuracy_change": Meaning("change of the grammatical sentences preferred", UP, 0.0),
    },
}  # fmt: skip
"""test, score: what it means; scores of questions with choices are in `ANSWERED`"""
ANSWERED = {
    "accuracy": Meaning("questions answered right", UP),
    "accuracy_normalised": Meaning("questions answered right, likelihood per character", UP),
}
QUESTIONS = ("hellaswag", "piqa", "arc_easy", "openbookqa", "winogrande")


def meaning_of(test: str, name: str) -> Meaning:
    """What a score means; one of a test of the user's own goes by its name, and its ideal alone tells its way."""
    known = ANSWERED if test in QUESTIONS else MEANINGS.get(test, {})
    return known.get(name, Meaning(name.replace("_", " ")))


def way_of(test: str, name: str, ideal: float | None) -> int:
    """UP or DOWN where one way is better; 0 where nearer to the ideal is, or nobody says."""
    way = meaning_of(test, name).way
    return UP if way == 0 and ideal == 100 else way


def better_words(test: str, name: str, kind: str, ideal: float | None, unit: str) -> str:
    """Which way is better, like "nearer to 50 % is less biased"."""
    way = way_of(test, name, ideal)
    if way:
        return f"{'higher' if way == UP else 'lower'} is {GOALS[kind]}"
    if ideal is None:
        return NO_SIDE if kind == "bias" else "an edit should leave it as it is"
    return f"nearer to {ideal:g}{' %' if unit == '%' else ''} is {GOALS[kind]}"


def verdict_of(
    way: int, ideal: float | None, before: float, after: float, change: tuple[float, float, float], slack: float
) -> str:
    """What a change is, one of `VERDICTS`: moved where neither side is better, and past an ideal that lies between.

    way     of `way_of`
    change  after minus before, with the ends of its interval
    slack   how far the distance from the ideal may differ by chance, where the two lie on different sides of it
    """
    middle, low, high = change
    if not all(map(math.isfinite, (middle, low, high))):
        return UNKNOWN
    if low <= 0 <= high:
        return CHANCE
    if way:
        return BETTER if way * middle > 0 else WORSE
    if ideal is None:
        return MOVED
    nearer = abs(before - ideal) - abs(after - ideal)
    if (before - ideal) * (after - ideal) < 0 and not abs(nearer) > slack:  # nor where the slack is unknown
        return PAST
    return BETTER if nearer > 0 else WORSE
