"""Plan: what a run measures beside its map."""

from __future__ import annotations

from dataclasses import dataclass

from locate.study.budget import Budget
from locate.study.controls import Controls
from locate.study.sets import Sets

USUAL = Controls()


@dataclass(frozen=True)
class Plan:
    """What is measured beside the map.

    budget    None for the whole map; else every site is estimated, and the strongest and a random sample are patched
    controls  of the strongest sites; None for none
    sets      of the strongest sites; None for none
    """

    budget: Budget | None = None
    controls: Controls | None = USUAL
    sets: Sets | None = None
