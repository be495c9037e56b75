"""The verb that ends a run which several processes have filled."""

from __future__ import annotations

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
    Run,
    check_seed,
    format_list,
)


def gather(
    run: Run,
    metric: Metric = "logit_diff",
    kind: Kind = None,
    clusters: ClustersOption = Clusters.group,
    seed: IntervalSeed = 0,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    formats: Formats = "html,png,svg,pdf",
    as_json: AsJson = False,
) -> None:
    """End a run that several shards have filled, or say what is missing: effects, located.json, figures, report."""
    check_seed(seed)
    wanted = format_list(formats)
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
