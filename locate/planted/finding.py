"""Does this installation find a bias whose place is known? Made models, traced and judged."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from locate.mediation.averages import average
from locate.mediation.effects import effects
from locate.models import load
from locate.planted.build import Planted, plant
from locate.planted.judge import Verdict, judge
from locate.planted.plan import LAYOUTS, Plan, drawn
from locate.tracing.collect import trace
from locate.tracing.plan import Map

COMPONENTS = ("mlp_out", "attn_out", "head")
GOAL = 0.99  # of the AUROC
LEAST = 0.5  # nats; a total effect below says that the model was not made as planned


@dataclass(frozen=True)
class Finding:
    """What was found in one made model.

    total     mean total effect towards the stereotype, nats
    verdicts  by direction
    """

    plan: Plan
    total: float
    verdicts: dict[str, Verdict]

    @property
    def passed(self) -> bool:
        """Whether the bias is there, and both directions find its place."""
        found = self.verdicts.values()
        return self.total >= LEAST and all(each.auroc >= GOAL and each.first and each.role == 1 for each in found)


def find(planted: Planted, device: str | None = None) -> Finding:
    """Trace a made model and judge where its sites are ranked, under denoising and noising."""
    measured = effects(
        trace(
            load(str(planted.folder), device=device), planted.prompts, Map(components=COMPONENTS), probabilities=False
        )
    )
    sites = average(measured, samples=100)
    total = average(measured, "total", samples=100)
    verdicts = {str(name): judge(rows, planted.truth) for name, rows in sites.groupby("direction", observed=True)}
    return Finding(planted.plan, float(total.loc[total["direction"] == "denoising", "effect"].mean()), verdicts)


def selftest(
    models: int = 4, *, seed: int = 0, device: str | None = None, make: Callable[..., Planted] = plant
) -> Iterator[Finding]:
    """Make some models, of each layout in turn, and find what was planted in them; one finding after the other."""
    for index in range(models):
        with tempfile.TemporaryDirectory() as temporary:
            plan = drawn(seed + index // len(LAYOUTS), LAYOUTS[index % len(LAYOUTS)])
            yield find(make(Path(temporary) / "model", plan), device)
