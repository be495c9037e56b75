"""trace(): a run with its controls, and within a budget where there is one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import write_json
from locate.model.hooked import Model
from locate.prompts.build import occupation_pairs
from locate.prompts.pair import Prompts
from locate.sites import Patch
from locate.study.budget import Budget, chosen_sites
from locate.study.controls import Controls, control_rows, with_controls
from locate.study.sets import Sets, with_sets
from locate.tracing import collect
from locate.tracing.forecast import forecast
from locate.tracing.job import prepare
from locate.tracing.plan import Map
from locate.tracing.table import CONTROLS, META_FILE, SETS, Trace, write_table

SHARED = (
    "directions", "corruption", "batch_size", "memory", "engine", "compare_precision", "probabilities",
)  # fmt: skip

DEFAULT = Controls()


def trace(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    patches: Sequence[Patch] | None = None,
    budget: Budget | None = None,
    controls: Controls | None = DEFAULT,
    sets: Sets | None = None,
    output: str | Path | None = None,
    say: Callable[[str], None] | None = None,
    **options: Any,
) -> Trace:
    """Run the clean, corrupted and patched prompts, and the controls of the strongest sites.

    prompts   pairs; None for the package's occupations, each against one of the opposite stereotype
    map, patches, output, options  as of `locate.tracing.collect.trace`
    budget    None for the whole map; else every site is estimated, and the strongest and a random sample are measured
              (see `Budget`); the trace keeps the estimates, `locate.agreement` compares them with what was measured
    controls  how much is spent on them (see `Controls`); None for none
    sets      also measure sets of the strongest sites (see `Sets`); None for none
    say       called with a word on what is being done

    Raises LocateError for unusable prompts or patches, or an output folder that holds something else.
    """
    prompts = occupation_pairs() if prompts is None else prompts
    say = say or (lambda _: None)
    estimates, about = None, None
    if budget is not None:
        if patches is not None:
            raise LocateError("a budget chooses sites of a map: leave patches out")
        given = {name: value for name, value in options.items() if name != "progress"}
        map, estimates, about = chosen_sites(model, prompts, map or Map(), budget, output, given, say)
    found = collect.trace(model, prompts, map, patches=patches, output=output, chosen_by=about, **options)
    found = replace(found, estimates=estimates)
    shared = {name: options[name] for name in SHARED if name in options} | {"compare_precision": False}
    if controls is not None and "controls" not in found.meta:
        found = kept(with_controls(model, prompts, found, controls, shared, say), CONTROLS, output)
    if sets is not None and "sets" not in found.meta:
        found = kept(with_sets(model, prompts, found, sets, shared, say), SETS, output)
    return found


def foretold(
    model: Model, prompts: Prompts, map: Map, controls: Controls | None = DEFAULT, **options: Any
) -> dict[str, Any]:
    """What a run will cost (see `Forecast`), and about how many rows and seconds its controls add."""
    found = forecast(model, prompts, map, **options)
    job = prepare(model, prompts, map, **options)
    rows = 0
    if controls is not None:
        rows = control_rows(model, controls, found.pairs, found.rows, len(job.directions), job.corruption.samples)
    return asdict(found) | {"control_rows": rows, "control_seconds": found.seconds * rows / found.rows}


def kept(trace: Trace, name: str, output: str | Path | None) -> Trace:
    """The trace itself; a table beside it, and meta with what it says of that, are written where there is a folder."""
    if output is not None:
        table = getattr(trace, name)
        if table is not None:
            write_table(Path(output) / f"{name}.parquet", table)
        write_json(Path(output) / META_FILE, trace.meta)
    return trace
