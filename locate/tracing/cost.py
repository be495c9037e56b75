"""What rows cost: floating-point operations, counted before anything is run."""

from __future__ import annotations

from locate.engine.sweep.climbers import find_climbers, token_layers
from locate.model.hooked import Model
from locate.prompts.tokens import TokenPair
from locate.tracing.stage import Job


def cost(job: Job, pair: TokenPair) -> tuple[float, int]:
    """Floating-point operations of a pair's rows, and how many of the rows have to be run."""
    layout = job.lay_out([pair])
    runs, rows = layout.runs, layout.rows
    block, out = operations(job.model)
    out *= job.settings.probabilities
    whole = len(runs[0].ids) * job.model.n_layers * block + out
    if job.settings.engine == "plain":
        return (len(rows) + len(runs)) * whole, len(rows)
    moving = find_climbers(job.model.n_layers, runs, rows, lambda *_: True)
    run = sum(token_layers(each, job.model.n_layers) for each in moving)
    return len(runs) * whole + run * block + len(moving) * out, len(moving)


def operations(model: Model) -> tuple[float, float]:
    """Floating-point operations of one position in one block, and of computing one position's probabilities."""
    out = model.d_vocab * model.d_model
    return 2.0 * max(1, model.checkpoint.parameters - out) / model.n_layers, 2.0 * out


def stage_operations(job: Job, pairs: int = 2) -> float:
    """About how many operations a stage takes, from a few of its pairs spread over their lengths."""
    if job.stage.derive is not None:
        return job.stage.derive.operations(job)
    filled = [pair for pair in job.pairs if job.rows(pair)]
    sample = filled[:: max(1, len(filled) // pairs)][:pairs]
    share = sum(job.rows(pair) for pair in sample)
    return sum(cost(job, pair)[0] for pair in sample) * job.planned / share
