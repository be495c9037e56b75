"""What a trace measures beside its map, from the options of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from locate.cli.options import BudgetMethod

if TYPE_CHECKING:
    from locate.study.plan import Plan


def plan_beside(
    budget: str | None,
    method: BudgetMethod | None,
    seed: int,
    *,
    controls: bool,
    random_weights: bool | None,
    sets: bool,
) -> Plan:
    """What is measured beside the map."""
    from locate.study.budget import Budget
    from locate.study.controls import Controls
    from locate.study.plan import Plan
    from locate.study.sets import Sets

    way = (method or BudgetMethod.integrated).value
    return Plan(
        None if budget is None else Budget.parsed(budget, seed=seed, method=way),
        Controls(random_weights=random_weights, seed=seed) if controls else None,
        Sets(seed=seed) if sets else None,
    )
