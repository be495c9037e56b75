"""The words of a page, explained for someone who meets them for the first time."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

GLOSSARY = {
    "clean prompt, corrupted prompt": "The sentence under study, and the same sentence with its occupation exchanged "
    "(or blurred by noise).",
    "site": "One output inside the model: of the attention or the MLP of a layer, at one token.",
    "effect": "How far the answer moves when this one site takes its value from the other prompt (average indirect "
    "effect).",
    "total effect": "How far the answer moves when the whole prompt is exchanged. Effects of single sites need not add "
    "up to it.",
    "denoising, noising": "Denoising writes the clean value into the corrupted prompt: is the site sufficient? Noising "
    "does the reverse: is it necessary?",
    "nats": "The unit of log-odds: +1 nat multiplies the odds of she against he by 2.7, +0.1 by 1.1.",
    "interval": "Made anew from other occupations of the same kind, it would hold the true average in about 95 of 100 "
    "cases.",
    "q": "Of the sites with a q at most so large, the share that is expected to be chance (false-discovery rate).",
    "stability": "The share of resamples of the occupations in which the site is among the five strongest.",
    "stereotype view, signed view": "In the stereotype view positive means towards the stereotype of the occupation; "
    "in the signed view it means towards she.",
    "controls": "The same site with a value that should not do it: another occupation's, or a move as far in a random "
    "direction. What is left there is not the stereotype of this occupation. Besides, the same site in prompts about "
    "words that say their gender, and about words that say none.",
}


def described(words: Mapping[str, str]) -> str:
    """Words with what they mean."""
    return f"<dl>{''.join(f'<dt>{escape(word)}</dt><dd>{escape(text)}</dd>' for word, text in words.items())}</dl>"
