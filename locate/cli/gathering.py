"""The verb that ends a run which several processes have filled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from locate.cli.comparing import EVALUATION
from locate.cli.ending import Shown, conclude
from locate.cli.options import (
    AsJson,
    Clusters,
    ClustersOption,
    Formats,
    HandOff,
    IntervalSeed,
    Kind,
    Metric,
    RoleOption,
    check_seed,
    format_list,
)
from locate.errors import LocateError


def holds_tests(folder: Path) -> bool:
    """Whether a folder is filled with tests of a model and not with a run."""
    return not (folder / "meta.json").is_file() and ((folder / EVALUATION).is_file() or (folder / "parts").is_dir())


def gather(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="that the shards of `trace` or `evaluate` have filled")],
    metric: Metric = "logit_diff",
    kind: Kind = None,
    clusters: ClustersOption = Clusters.group,
    seed: IntervalSeed = 0,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    formats: Formats = "html,png,svg,pdf",
    as_json: AsJson = False,
) -> None:
    """End a run or an evaluation that several shards have filled, or say what is missing.

    A run gets its effects, located.json, figures and report, an evaluation its figure.
    """
    check_seed(seed)
    wanted = format_list(formats)
    if holds_tests(run):
        if (metric, kind, clusters, seed, layers_of, layers_at) != ("logit_diff", None, Clusters.group, 0, None, None):
            raise LocateError(f"{run} holds an evaluation: leave the options of traces out")
        from locate.cli.judging import gather_judged

        gather_judged(run, wanted)(as_json)
        return
    if not (run / "meta.json").is_file():
        raise LocateError(f"{run}: expected a folder that the shards of `trace` or `evaluate` have begun to fill")
    from locate.cli.following import read_options
    from locate.cli.steps import Steps
    from locate.cli.writing import FIGURES_EACH, Writing
    from locate.workers.gather import gather as gathered

    result = gathered(run)
    model, shown = result.meta["model"], Shown(metric, kind, clusters.value, seed, layers_of, layers_at, wanted)
    works = Writing(FIGURES_EACH * len(result.meta["directions"]), wanted, len(result)).works()
    with Steps() as steps:
        tell, _ = conclude(result, run, shown, steps, works, model=model["name"], reading=read_options(model))
    tell(as_json)
