"""Readers of published data: WinoBias, Winogender, and what Vig et al. 2020 released, in the user's own folder.

    locate.datasets.read_winobias("WinoBias/wino", "type1", "dev")

Every file is compared with the published one: its sha256 and its number of rows. `published=False` reads a file that
was changed; every row is still checked, and the first bad one is named by its line.
"""

from locate.datasets.professions import (
    DEFINITIONAL,
    Profession,
    profession_pairs,
    profession_scores,
    read_professions,
    read_templates,
)
from locate.datasets.reference import Reference, read_reference, reference_file
from locate.datasets.sentences import Continuations, Schema, Sentence, SentencePair, SkippedRows
from locate.datasets.winobias import read_winobias, winobias_continuations, winobias_occupations
from locate.datasets.winogender import (
    read_winogender,
    winogender_continuations,
    winogender_occupations,
)

__all__ = [
    "DEFINITIONAL",
    "Continuations",
    "Profession",
    "Reference",
    "Schema",
    "Sentence",
    "SentencePair",
    "SkippedRows",
    "profession_pairs",
    "profession_scores",
    "read_professions",
    "read_reference",
    "read_templates",
    "read_winobias",
    "read_winogender",
    "reference_file",
    "winobias_continuations",
    "winobias_occupations",
    "winogender_continuations",
    "winogender_occupations",
]
