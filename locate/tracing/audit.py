"""Checks of every job on a few of its rows: against the plain engine, full precision, and what always holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from locate.engine import plain
from locate.engine.rows import Limits, Measurement, PlacedWrite, Row, Run
from locate.engine.sweep import measure
from locate.engine.sweep.climbers import find_climbers
from locate.errors import LocateError
from locate.model.hooked import EMBEDDING_HOOK, Model
from locate.model.loading import full_twin
from locate.tracing.stage import ENGINES, Job

PAIRS = 4
ROWS = 32
REDUCED = ("bfloat16", "float16", "tf32")
LIMIT = {"float64": 1e-5, "float32": 2e-4, "float16": 0.05, "bfloat16": 0.2, "tf32": 0.05}
"""nats; how far rounding moves one row between batches of two shapes, with room for large models"""
FLOOR = {"float64": 1e-7, "float32": 1e-5, "float16": 0.003, "bfloat16": 0.03, "tf32": 0.003}
"""nats; on average, where patches do next to nothing"""

Engine = Callable[..., Measurement]


def audit_job(job: Job) -> dict[str, dict[str, float]]:
    """How far a random sample of a job's rows lies from what must hold, from other engines and other precisions."""
    pairs = [pair for pair in job.pairs if job.rows(pair)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    layout = job.lay_out([pairs[i] for i in sorted(chosen)])
    sample = job.model, layout.runs, layout.rows, job.limits
    engine, found = ENGINES[job.settings.engine], {}
    if job.settings.engine == "sweep":
        found["engine"] = audit_engine(*sample)
    found["identities"] = audit_identities(*sample, engine)
    reduced = job.model.dtype in REDUCED or job.model.quantised is not None
    if reduced and job.settings.compare_precision:
        found["precision"] = audit_precision(*sample, engine)
    return found


def audit_engine(model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits) -> dict[str, float]:
    """Largest difference (nats) of some rows between the sweep and the plain engine, and how many were compared.

    Also in how many of the layers the block gave a base run the bridge's numbers in few steps, and was run so where
    nothing but its outputs is written ("few_steps" of "layers"). It tells how a run was made, and decides nothing.

    Raises LocateError when they differ by more than rounding, or by more than half of what the patches do: then this
    architecture is not swept exactly.
    """
    sample = sample_rows(runs, rows, model.n_layers)
    try:
        fast = measure(model, runs, sample, limits=limits)
    except (ValueError, TypeError, AttributeError, IndexError, KeyError) as error:
        if isinstance(error, LocateError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}) cannot be swept ({reason}): choose --engine plain"
        ) from error
    slow = plain.measure(model, runs, sample, limits=limits)
    apart = np.abs(fast.rows - slow.rows)
    effect = rms(slow.rows - slow.runs[[row.base for row in sample]])
    if not (apart.max() <= LIMIT[model.dtype] and rms(apart) <= max(effect / 2, FLOOR[model.dtype])):
        raise LocateError(
            f"model {model.name!r} ({model.checkpoint.architecture}): the sweep differs from the plain engine by "
            f"{apart.max():.2g} nats, expected at most {LIMIT[model.dtype]:.2g} in {model.dtype}, and by "
            f"{rms(apart):.2g} on average, where patches move answers by {effect:.2g}: choose --engine plain"
        )
    return {
        "rows": len(sample),
        "largest_difference": float(apart.max()),
        "rms": rms(apart),
        "rms_effect": effect,
        "few_steps": fast.few_steps or 0,
        "layers": model.n_layers,
    }


def audit_identities(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, engine: Engine
) -> dict[str, float]:
    """Largest differences (nats) from what must hold: patching a run with itself changes nothing, and patching it whole
    with another gives that one's answer, so that the indirect effect of everything is the total effect.

    Raises LocateError where either is beyond rounding: then what is written is not what the model reads.
    """
    copies = [*runs, *(copy_of(model, run) for run in runs)]
    own = [self_patch(row, len(runs)) for row in sample_rows(runs, rows, model.n_layers)]
    whole = [whole_patch(model, runs, *couple) for couple in sorted({(row.base, row.source) for row in rows})]
    found = engine(model, copies, [*own, *whole], limits=limits)
    expected = found.runs[[row.base for row in own] + [row.source for row in whole]]
    apart = np.abs(found.rows - expected).max(1)
    total = np.abs(found.runs[[row.source for row in whole]] - found.runs[[row.base for row in whole]]).max()
    result = {
        "rows": len(own) + len(whole),
        "self": float(apart[: len(own)].max()),
        "everything": float(apart[len(own) :].max()),
        "largest_total": float(total),
    }
    for name, what in (("self", "a run patched with itself"), ("everything", "a run patched whole with another")):
        if not result[name] <= LIMIT[model.dtype]:
            raise LocateError(
                f"model {model.name!r} ({model.checkpoint.architecture}): {what} is {result[name]:.2g} nats off, "
                f"expected at most {LIMIT[model.dtype]:.2g} in {model.dtype}: its patches cannot be trusted"
            )
    return result


def copy_of(model: Model, run: Run) -> Run:
    """The same run with zero noise on its first token, so that the sweep does not see that it is the same."""
    if run.noise is not None or EMBEDDING_HOOK not in model.hook_points():
        return run
    return replace(run, noised=(0,), noise=torch.zeros(1, model.d_model))


def self_patch(row: Row, n_runs: int) -> Row:
    """The same sites of the base run, written from its copy."""
    writes = tuple(
        replace(write, source_pos=write.base_pos, origin="source", keys=tuple((key, key) for key, _ in write.keys))
        for write in row.writes
    )
    return Row(row.base, n_runs + row.base, writes)


def whole_patch(model: Model, runs: Sequence[Run], base: int, source: int) -> Row:
    """The last block at the last token written whole: what enters it, and both outputs."""
    here, there = len(runs[base].ids) - 1, len(runs[source].ids) - 1
    return Row(
        base,
        source,
        tuple(
            PlacedWrite(component, model.n_layers - 1, None, here, there, "source")
            for component in ("resid_pre", "attn_out", "mlp_out")
        ),
    )


def audit_precision(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, engine: Engine
) -> dict[str, float]:
    """How far some rows' log-probabilities (nats) lie from those of the same model in full precision, loaded for the
    purpose: in fp32, with whole weights.

    Of a quantised model also how far what the rows' patches do lies from what they do there ("rms_effect_difference",
    beside "rms_effect" of the full model): its runs without a patch differ already.
    """
    sample = sample_rows(runs, rows, model.n_layers)
    held = model.dtype if model.quantised is None else f"{model.quantised} bits"
    try:
        full = full_twin(model)
    except LocateError as error:
        raise LocateError(
            f"{held} cannot be compared with full precision ({error}): --no-compare-precision skips it"
        ) from error
    ours, theirs = (engine(each, runs, sample, limits=limits) for each in (model, full))
    apart = np.abs(ours.rows - theirs.rows)
    result = {"rows": len(sample), "largest_difference": float(apart.max()), "rms": rms(apart)}
    if model.quantised is None:
        return result
    bases = [row.base for row in sample]
    effects, wanted = (each.rows - each.runs[bases] for each in (ours, theirs))
    return result | {"rms_effect_difference": rms(effects - wanted), "rms_effect": rms(wanted)}


def sample_rows(runs: Sequence[Run], rows: Sequence[Row], n_layers: int) -> list[Row]:
    """At most ROWS rows, drawn at random among those that the sweep runs; among all where it runs none."""
    moving = [rows[each.row] for each in find_climbers(n_layers, runs, rows, lambda *_: True)] or list(rows)
    return [moving[i] for i in np.random.default_rng(0).permutation(len(moving))[:ROWS]]


def rms(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
