"""Readers of published data: bias tests, and what Vig et al. 2020 released, in the user's own folder; and of own pairs.

    locate.datasets.read_winobias("WinoBias/wino", "type1", "dev")

Every file whose published form is known is compared with it: its sha256 and its number of rows. `published=False` reads
one that was changed; every row is still checked, and the first bad one is named by its line.
"""

from locate.datasets.bbq import Question, read_bbq
from locate.datasets.bec_pro import ProfessionSentence, read_bec_pro
from locate.datasets.bold import PersonPrompt, read_bold
from locate.datasets.crows_pairs import CrowsPair, read_crows_pairs
from locate.datasets.gap import FlippedText, read_gap
from locate.datasets.professions import (
    DEFINITIONAL,
    Profession,
    profession_pairs,
    profession_scores,
    read_professions,
    read_templates,
)
from locate.datasets.reference import Reference, read_reference, reference_file
from locate.datasets.seat import AssociationTest, read_seat
from locate.datasets.sentence_pairs import Texts, read_sentence_pairs
from locate.datasets.sentences import Continuations, Schema, Sentence, SentencePair, SkippedRows
from locate.datasets.stereoset import Association, read_stereoset
from locate.datasets.winobias import read_winobias, winobias_continuations, winobias_occupations
from locate.datasets.winogender import (
    read_winogender,
    winogender_continuations,
    winogender_occupations,
)

__all__ = [
    "DEFINITIONAL",
    "Association",
    "AssociationTest",
    "Continuations",
    "CrowsPair",
    "FlippedText",
    "PersonPrompt",
    "Profession",
    "ProfessionSentence",
    "Question",
    "Reference",
    "Schema",
    "Sentence",
    "SentencePair",
    "SkippedRows",
    "Texts",
    "profession_pairs",
    "profession_scores",
    "read_bbq",
    "read_bec_pro",
    "read_bold",
    "read_crows_pairs",
    "read_gap",
    "read_professions",
    "read_reference",
    "read_seat",
    "read_sentence_pairs",
    "read_stereoset",
    "read_templates",
    "read_winobias",
    "read_winogender",
    "reference_file",
    "winobias_continuations",
    "winobias_occupations",
    "winogender_continuations",
    "winogender_occupations",
]
