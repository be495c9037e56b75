"""The verb that ends a run which several processes have filled."""

from __future__ import annotations

from functools import partial
from typing import Any

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
    from locate.cli.following import after_trace, read_options
    from locate.cli.show import print_report
    from locate.cli.steps import Steps, Work
    from locate.cli.writing import FIGURES_EACH, Writing
    from locate.mediation.analysis import analyse
    from locate.report import write_report
    from locate.workers.gather import gather as gathered

    result = gathered(run)
    analysis = analyse(result, metric=metric, kind=kind, clusters=clusters.value, seed=seed)
    model = result.meta["model"]
    derived = {"--kind": kind, "--clusters": None if clusters is Clusters.group else clusters.value}
    following = partial(after_trace, folder=run, model=model["name"], reading=read_options(model), effects=derived)
    with Steps() as steps:
        works: list[Work] = Writing(FIGURES_EACH * len(result.meta["directions"]), wanted, len(result)).works()
        steps.expect(works)
        where: dict[str, Any] = {"component": layers_of, "role": layers_at, "formats": wanted}
        report = write_report(analysis, run, **where, step=steps.say, following=following)
    print_report(result, report, analysis, following(report.located), as_json)
