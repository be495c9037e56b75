"""How a run ends: what is derived from it, written beside it, and told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from locate.cli.steps import Steps, Work
    from locate.mediation.located import Located
    from locate.tracing.table import Trace


@dataclass(frozen=True)
class Shown:
    """What is derived from a run, and in which formats figures are drawn; the options of the same names."""

    metric: str
    kind: str | None
    clusters: str
    seed: int
    layers_of: str | None
    layers_at: str | None
    formats: Sequence[str]


def conclude(
    run: Trace,
    folder: Path,
    shown: Shown,
    steps: Steps,
    works: Sequence[Work],
    *,
    model: str,
    reading: Mapping[str, object],
) -> tuple[Callable[[bool], None], Located]:
    """Write effects, located.json, figures and the report into a run folder.

    Returns what prints the answer, and what was located.

    model, reading  name of the model and the options it was read with, for the commands to type next
    """
    from locate.cli.following import after_trace
    from locate.cli.show import print_report
    from locate.mediation.analysis import analyse
    from locate.report import write_report

    steps.expect(works)
    analysis = analyse(run, metric=shown.metric, kind=shown.kind, clusters=shown.clusters, seed=shown.seed)
    derived = {"--kind": shown.kind, "--clusters": None if shown.clusters == "group" else shown.clusters}
    following = partial(after_trace, folder=folder, model=model, reading=reading, effects=derived)
    report = write_report(
        analysis,
        folder,
        component=shown.layers_of,
        role=shown.layers_at,
        formats=shown.formats,
        step=steps.say,
        following=following,
    )
    tell = partial(print_report, run, report, analysis, following(report.located))
    return tell, report.located
