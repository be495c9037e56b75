"""Readers of data in the user's own folder: published bias tests, what Vig et al. 2020 released, and the user's pairs.

    locate.evaluation.readers.read_winobias("WinoBias/wino", "type1", "dev")

Every file whose published form is known is compared with it: its sha256 and its number of rows. `published=False` reads
one that was changed; every row is still checked, and the first bad one is named by its line.
"""

from locate.evaluation.bbq_data import Question, read_bbq
from locate.evaluation.bec_pro_data import ProfessionSentence, read_bec_pro
from locate.evaluation.bold_data import PersonPrompt, read_bold
from locate.evaluation.crows_pairs_data import CrowsPair, read_crows_pairs
from locate.evaluation.gap_data import FlippedText, read_gap
from locate.evaluation.items import Continuations, Schema, Sentence, SentencePair, SkippedRows
from locate.evaluation.professions_data import (
    DEFINITIONAL,
    Profession,
    profession_pairs,
    profession_scores,
    read_professions,
    read_templates,
)
from locate.evaluation.seat_data import AssociationTest, read_seat
from locate.evaluation.sentences_data import Texts, read_sentence_pairs
from locate.evaluation.stereoset_data import Association, read_stereoset
from locate.evaluation.vig_data import Reference, read_reference, reference_file
from locate.evaluation.winobias_data import read_winobias, winobias_continuations, winobias_occupations
from locate.evaluation.winogender_data import (
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
