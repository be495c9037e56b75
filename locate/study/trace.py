"""trace(): what is measured in a run, and why: a map, then what its result calls for.

Measuring and choosing alternate: each stage is measured by `locate.tracing.measure.measure`, and what it gave decides
the next one. `study` says in which order; every other module of this package is one of its steps.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.memory import peak_memory
from locate.model.products import multiplied_by
from locate.prompts.build import occupation_pairs
from locate.prompts.pair import Prompts
from locate.prompts.tokens import MAX_DROPPED
from locate.sites import DIRECTIONS, Patch
from locate.study.budget import Budget, choose_sites, describe
from locate.study.controls import Controls, control
from locate.study.expected import expected_stages
from locate.study.plan import USUAL, Plan
from locate.study.sets import Sets, check_groups, measure_sets
from locate.tracing.corrupt import Corruption, Swap
from locate.tracing.folder import ASKED, RunFolder
from locate.tracing.measure import Outcome, Stages, measure
from locate.tracing.meta import starting_meta
from locate.tracing.plan import Map
from locate.tracing.progress import Report
from locate.tracing.stage import Job, Settings, Stage, one_of, prepare
from locate.tracing.table import CONTROLS, SETS, Trace
from locate.work import Executor, here
from locate.workers.shards import Shard


def trace(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    patches: Sequence[Patch] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    corruption: Corruption | None = None,
    budget: Budget | None = None,
    controls: Controls | None = USUAL,
    sets: Sets | None = None,
    output: str | Path | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    engine: str = "sweep",
    compare_precision: bool = True,
    probabilities: bool = True,
    max_dropped: float = MAX_DROPPED,
    executor: Executor = here,
    progress: Report | None = None,
) -> Trace:
    """Run the clean, corrupted and patched prompts, keep the answers' log-probabilities, and measure controls.

    prompts      pairs; None for the package's occupations, each against one of the opposite stereotype
    map          which components, layers, roles and windows to patch, one token at a time; None for all layers and
                 tokens of resid_pre, attn_out and mlp_out
    patches      instead of a map: the caller's own patches, each written at once
    directions   "denoising" (clean activations into the corrupted run), "noising" (the reverse), or both; the natural
                 direct effect needs both
    corruption   Swap(), Noise(), or an object of your own (see `Corruption`); None for Swap()
    budget       None for the whole map; else every site is estimated, and the strongest and a random sample are
                 patched (see `Budget`); the trace keeps the estimates
    controls     how much is spent on controls of the strongest sites (see `Controls`); None for none
    sets         also measure sets of the strongest sites (see `Sets`); None for none
    output       run folder: filled as the run goes, and resumed when it holds the same run unfinished
    batch_size   prompts executed at once, at most; None for as many as fit
    memory       bytes that may be used besides the model; None for a share of what is free on its device
    engine       "sweep" (every row from where it begins to differ) or "plain" (every row at full depth, with hooks);
                 both are exact
    compare_precision  in reduced precision, measure a sample of rows in fp32 too; meta says how far they lie apart
    probabilities  False for the answers' logits in place of their log-probabilities: metrics that compare answers are
                 the same, the others are refused; a quarter faster on small models, whose vocabulary weighs most
    max_dropped  largest share of pairs that the tokenizer may make unusable, in [0, 1]
    executor     where chunks of rows are run; `here` runs them in this process
    progress     called with a `Progress` as rows are measured

    Raises LocateError for unusable prompts or patches, or an output folder that holds something else.
    """
    if budget is not None and patches is not None:
        raise LocateError("a budget chooses sites of a map: leave patches out")
    prompts = occupation_pairs() if prompts is None else prompts
    stage = Stage("map", prompts, one_of(map, patches), tuple(directions))
    settings = Settings(corruption or Swap(), batch_size, memory, engine, compare_precision, probabilities, max_dropped)
    plan = Plan(budget, controls, sets)
    return run(model, stage, plan, settings, output=output, executor=executor, progress=progress)


def run(
    model: Model,
    stage: Stage,
    plan: Plan,
    settings: Settings,
    *,
    output: str | Path | None = None,
    executor: Executor = here,
    progress: Report | None = None,
) -> Trace:
    """The same for a map given as a stage; see `trace`."""
    started = time.monotonic()
    job = prepare(model, stage, settings)
    if plan.sets is not None:
        check_groups(len({pair.pair.group for pair in job.pairs}))
    chosen_by = None if plan.budget is None else describe(plan.budget, job.map or Map())
    meta, shared = starting_meta(job, chosen_by), isinstance(executor, Shard)
    if shared:
        check_shared(plan, output)
        wanted = {CONTROLS: plan.controls, SETS: plan.sets}
        meta |= {ASKED: [name for name, each in wanted.items() if each is not None]}
    folder = None if output is None else RunFolder.open(output, meta, shared=shared)
    if shared and folder is not None:
        job = with_memory(job, folder.began_with("memory")["allowed"])
        settings = job.settings
    begun = None if folder is None else folder.began_with("products")  # a run of an earlier version may not say
    products = meta["products"] if begun is None else begun
    with multiplied_by(products), nullcontext() if folder is None else folder.filled():
        return measure(
            model,
            study(job, plan, meta | {"products": products}, folder, started),
            settings,
            folder=folder,
            executor=executor,
            progress=progress,
            expected=() if progress is None else expected_stages(job, plan),
            prepared=[job],
        )


def check_shared(plan: Plan, output: str | Path | None) -> None:
    """Raise LocateError where several processes cannot make one run: without a folder, or with a budget of time."""
    if output is None:
        raise LocateError("a shard shares a run folder with others: give one with output")
    if plan.budget is not None and plan.budget.seconds is not None:
        raise LocateError("a budget of time leaves each shard other sites: give it in patched runs")


def with_memory(job: Job, memory: int) -> Job:
    """The job with the memory that the run began with, on which the size of batches, and their rounding, depends."""
    settings = replace(job.settings, memory=memory)
    return replace(job, settings=settings, limits=settings.limits(job.model))


def study(job: Job, plan: Plan, meta: dict[str, Any], folder: RunFolder | None, started: float) -> Stages[Trace]:
    """Ask for the stages of a run one after the other; return its trace.

    job      the map, prepared
    meta     meta.json as it stands before anything is measured
    folder   where tables are written as soon as they are whole: what is in it already is not measured again
    started  when the run began
    """
    found = None if folder is None else folder.finished()
    if found is None:
        found = yield from measure_map(job, plan, meta, folder, started)
        if folder is not None:
            folder.finish(found)
    prompts, directions = job.stage.prompts, job.stage.directions
    check_settings(found, plan)
    if plan.controls is not None and CONTROLS not in found.meta:
        found = yield from control(job.model, prompts, found, plan.controls, directions)
        if folder is not None:
            folder.add(found, CONTROLS)
    if plan.sets is not None and SETS not in found.meta:
        found = yield from measure_sets(prompts, found, plan.sets)
        if folder is not None:
            folder.add(found, SETS)
    return found


def check_settings(found: Trace, plan: Plan) -> None:
    """Raise LocateError where a folder's controls or sets were measured with other settings than are asked for."""
    for name, wanted in ((CONTROLS, plan.controls), (SETS, plan.sets)):
        old = (found.meta.get(name) or {}).get("settings")
        if wanted is not None and old is not None and old != asdict(wanted):
            had, asked = (", ".join(f"{key} {value}" for key, value in each.items()) for each in (old, asdict(wanted)))
            raise LocateError(
                f"{name} were measured with {had}; this run asks for {asked}: choose another output folder, or the "
                "same settings"
            )


def measure_map(job: Job, plan: Plan, meta: dict[str, Any], folder: RunFolder | None, started: float) -> Stages[Trace]:
    """Ask for the map, or for the part of it that the budget allows; return the trace."""
    stage, estimates = job.stage, None
    if plan.budget is not None:
        map, estimates, about = yield from choose_sites(job, job.map or Map(), plan.budget, folder, started)
        stage = replace(stage, patches=map)
        part = prepare(job.model, stage, job.settings)
        meta = starting_meta(part) | {"estimates": about, "recipe": meta["recipe"]}
    outcome: Outcome = yield stage
    end = {
        "audit": outcome.audit,
        "status": "complete",
        "rows": len(outcome.table),
        "seconds": outcome.seconds,
        "memory": {"allowed": outcome.job.limits.memory, "peak": peak_memory(*job.model.devices)},
    }
    return Trace(outcome.table, meta | end, estimates=estimates)
