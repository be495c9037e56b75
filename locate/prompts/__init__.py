"""Prompt pairs: what they are, where they come from, and how a tokenizer sees them."""

from locate.prompts.build import (
    DEFAULT_TEMPLATES_EACH,
    SWAPS,
    definitional_pairs,
    definitional_table,
    neutral_pairs,
    occupation_pairs,
    occupation_table,
    person_pairs,
    preserved_pairs,
    templates,
)
from locate.prompts.pair import Dropped, Pair, Prompts
from locate.prompts.read import read_pairs
from locate.prompts.tokens import Aligned, Ledger, TokenPair, tokenise

__all__ = [
    "DEFAULT_TEMPLATES_EACH",
    "SWAPS",
    "Aligned",
    "Dropped",
    "Ledger",
    "Pair",
    "Prompts",
    "TokenPair",
    "definitional_pairs",
    "definitional_table",
    "neutral_pairs",
    "occupation_pairs",
    "occupation_table",
    "person_pairs",
    "preserved_pairs",
    "read_pairs",
    "templates",
    "tokenise",
]
