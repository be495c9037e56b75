"""Planted truth: models made with a known bias path, and how well it is found in them.

A word's stereotype enters as a feature of its last piece; one MLP writes it at that piece in a direction of its own;
one head moves it to the last token; the unembedding reads it there. Beside it stand the same path for words that say
their gender, and distractors of equal size that nothing reads. Variants make it harder: several paths, saturated
read-outs, repair, attention that carries the bias, louder surroundings (`locate.planted.plan.VARIANTS`).
"""

from locate.planted.build import Place, Planted, plant
from locate.planted.finding import Finding, find_planted, selftest
from locate.planted.judging import Verdict, judge
from locate.planted.plan import LAYOUTS, VARIANTS, Plan, draw_plan

__all__ = [
    "LAYOUTS",
    "VARIANTS",
    "Finding",
    "Place",
    "Plan",
    "Planted",
    "Verdict",
    "draw_plan",
    "find_planted",
    "judge",
    "plant",
    "selftest",
]
