"""The staircase: rows that begin at one position climb the layers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from threading import Lock

import numpy as np
import torch
from jaxtyping import Float

from locate.engine.rows import MOST_ROWS, Limits, Measurement, Row, Run
from locate.engine.sweep.abreast import batches_abreast, work_abreast
from locate.engine.sweep.bases import KEPT_SHARE, Bases, execute_bases, keys_of, run_bytes
from locate.engine.sweep.climbers import Climber, find_climbers, token_layers
from locate.engine.sweep.entries import Entries, run_entries
from locate.engine.sweep.parts import rows_at_once, rows_to_run, work_in_parts
from locate.engine.sweep.replay import BlockInputs, Keys, read_out
from locate.engine.sweep.writes import Writes
from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.products import multiplying


def measure(
    model: Model,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    limits: Limits,
    progress: Callable[[int], None] | None = None,
) -> Measurement:
    """Execute every run, and every row from where it begins to differ from its base run.

    Raises LocateError when the model carries somebody else's hooks inside its blocks, which would see some positions of
    some rows only, or when its blocks cannot be run on their own.

    limits    how much may be done at once; the number of rows is halved when memory runs out anyway
    progress  called with the number of rows just finished
    """
    others = model.foreign_hooks()
    if others:
        raise LocateError(f"model {model.name!r} has hooks at {others[0]}: take them off, or choose --engine plain")
    plain = np.empty((len(runs), len(runs[0].answers)))
    out = np.empty((len(rows), plain.shape[1]))
    few_steps = model.n_layers
    for part, used in portions(model, runs, rows, limits):
        place = {run: index for index, run in enumerate(used)}
        moved = [Row(place[rows[i].base], place[rows[i].source], rows[i].writes) for i in part]
        with multiplying(model.dtype, model.device, model.threads):
            found = measure_portion(model, [runs[i] for i in used], moved, limits, progress)
        plain[used], out[part] = found.runs, found.rows
        few_steps = min(few_steps, found.few_steps or 0)
    return Measurement(plain, out, few_steps)


def portions(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits
) -> Iterator[tuple[list[int], list[int]]]:
    """Rows with the runs they need, so that what is kept of them fits a share of the memory.

    Rows of the same two runs come together, whatever the order of `rows`: else every portion would need all the runs.
    """
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    size = run_bytes(model, wanted, max(len(run.ids) for run in runs))
    entry = model.number_bytes * model.d_model
    part: list[int] = []
    used: dict[int, None] = {}
    by_runs = sorted(range(len(rows)), key=lambda i: sorted((rows[i].base, rows[i].source)))
    for index in by_runs:
        row = rows[index]
        more = used | dict.fromkeys((row.base, row.source))
        if part and len(more) * size + len(part) * entry > limits.memory * KEPT_SHARE:
            yield part, list(used)
            part, more = [], dict.fromkeys((row.base, row.source))
        part.append(index)
        used = more
    idle = set(range(len(runs))) - {run for row in rows for run in (row.base, row.source)}
    yield part, [*used, *sorted(idle)]


def measure_portion(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, progress: Callable[[int], None] | None
) -> Measurement:
    """The same of runs and of rows whose runs' activations are kept together."""
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    bases = execute_bases(model, runs, wanted, limits)
    moving = find_climbers(model.n_layers, runs, rows, bases.same_positions)
    out = np.array(bases.log_probs[[row.base for row in rows]])
    if progress is not None:
        progress(len(rows) - len(moving))
    for stair, found in climb_stairs(model, bases, moving, limits):
        out[[each.row for each in stair]] = found
        if progress is not None:
            progress(len(stair))
    return Measurement(bases.log_probs, out, bases.few_steps)


def climb_stairs(
    model: Model, bases: Bases, moving: Sequence[Climber], limits: Limits
) -> Iterator[tuple[Sequence[Climber], Float[np.ndarray, "row answer"]]]:
    """Stairs and what they found: rows of one length and first position, lowest first, as many as fit the memory."""
    entered = run_entries(model, bases, moving, limits)
    count = batches_abreast(model, bases, moving, limits)
    reading = Lock()

    def up(stair: Sequence[Climber]) -> Float[np.ndarray, "row answer"]:
        final, last = climb(model, bases, entered, stair)
        with reading:  # the model's own end is run, with its blocks taken out
            return read_answers(model, bases, stair, final, last)

    def whole(stair: Sequence[Climber]) -> list[tuple[Sequence[Climber], Float[np.ndarray, "row answer"]]]:
        return list(work_in_parts(stair, len(stair), up))

    groups = groups_of(moving)
    sizes = {(n_pos, first): rows_at_once(model, limits, n_pos, first, count) for n_pos, first in groups}
    if count == 1:
        for place, group in groups.items():
            yield from work_in_parts(group, sizes[place], up)
        return
    stairs = [
        group[at : at + sizes[place]] for place, group in groups.items() for at in range(0, len(group), sizes[place])
    ]
    stairs.sort(key=lambda stair: -sum(token_layers(each, model.n_layers) for each in stair))
    for _, parts in work_abreast(stairs, whole, count, model.threads):
        yield from parts


def batched(group: Sequence[Climber], size: int) -> list[Sequence[Climber]]:
    """A group in parts of so many rows."""
    return [group[start : start + size] for start in range(0, len(group), size)]


def groups_of(moving: Sequence[Climber]) -> dict[tuple[int, int], list[Climber]]:
    """Rows of one length and first position, lowest first."""
    alike: dict[tuple[int, int], list[Climber]] = defaultdict(list)
    for each in moving:
        alike[each.n_pos, each.first_pos].append(each)
    return {place: sorted(group, key=lambda each: each.from_layer) for place, group in sorted(alike.items())}


def climb(
    model: Model, bases: Bases, entered: Entries, stair: Sequence[Climber]
) -> tuple[Float[torch.Tensor, "row d_model"], BlockInputs]:
    """What leaves the last block at the last position of rows of one length and first position, and that block.

    The rows are sorted by `from_layer`.

    Rows that have joined come first in the batch, so each layer is run on a part of it that grows. Some that join
    further up may be run with them, from zeros that mean nothing and are replaced as they join. From a block on one
    device to the next on another they are moved.
    """
    first, n_pos, last = stair[0].first_pos, stair[0].n_pos, model.n_layers - 1
    begin = np.array([each.from_layer for each in stair])
    base = torch.tensor([each.base for each in stair])
    above = ((place, each, write) for place, each in enumerate(stair) for write in each.writes_above)
    writes = Writes.of(model, bases, above)
    blocks = bases.given[n_pos]
    with torch.inference_mode():
        embedded = bases.activation["resid_pre", 0]
        residual = embedded.new_zeros(len(stair), n_pos - first, embedded.shape[-1])
        for layer in range(begin[0], last + 1):
            device = model.device_of(layer)
            residual, base = residual.to(device), base.to(device)
            old, joined = np.searchsorted(begin, [layer, layer + 1]).tolist()
            residual[old:joined] = bases.activation["resid_pre", layer][base[old:joined], first:n_pos]
            enter = [place for place in range(old, joined) if stair[place].enters]
            residual[enter, 0] = entered.vectors[[entered.place[stair[place].row] for place in enter]].to(device)
            writes.into_residual(residual, layer, first)
            run = rows_to_run(model, joined, len(stair), n_pos - first)
            keys = keys_of(bases, layer, base[:run], first)
            if layer < last:
                residual[:run] = writes.run(blocks[layer], layer, residual[:run], first, keys)
        before = keys_before_last(blocks[last], residual, first, keys)
        final = writes.run(blocks[last], last, residual[:, -1:], n_pos - 1, before)
        return final[:, 0], blocks[last]


def keys_before_last(
    given: BlockInputs, residual: Float[torch.Tensor, "row pos d_model"], first: int, before: Keys | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Keys and values of all positions but the last, of which those from `first` on are run."""
    if residual.shape[1] == 1:
        return before
    own = given.keys(residual[:, :-1], first)
    return own if before is None else (torch.cat([before[0], own[0]], 2), torch.cat([before[1], own[1]], 2))


def read_answers(
    model: Model, bases: Bases, stair: Sequence[Climber], final: Float[torch.Tensor, "row d_model"], given: BlockInputs
) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) of each row's answers, from the residual stream that leaves the last block."""
    runs = [bases.runs[each.base] for each in stair]
    size = MOST_ROWS if model.device == "cpu" else len(stair)
    parts = [slice(start, start + size) for start in range(0, len(stair), size)]
    return np.concatenate([read_out(model, final[part], runs[part], given.returns_tuple) for part in parts])
