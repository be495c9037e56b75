"""The staircase: rows that begin at one position climb the layers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from locate.errors import LocateError
from locate.memory import ran_out
from locate.models import Model
from locate.rows import MOST_ROWS, Key, Limits, Measured, Placed, Row, Run, chosen
from locate.sites import UNITS
from locate.sweep.bases import KEPT_SHARE, Bases, execute, run_bytes
from locate.sweep.climbers import Climber, climbers
from locate.sweep.replay import Given, Keys, read_out

CPU_POSITIONS = 2048  # of all rows of a stair: more make nothing faster on a CPU, and fall out of its cache


def measure(
    model: Model,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    limits: Limits,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Execute every run, and every row from where it begins to differ from its base run.

    Raises LocateError when the model carries somebody else's hooks inside its blocks, which would see some positions of
    some rows only, or when its blocks cannot be run on their own.

    limits    how much may be done at once; the rows at once are halved when memory runs out all the same
    progress  called with the number of rows just finished
    """
    others = model.hooked_by_others()
    if others:
        raise LocateError(f"model {model.name!r} has hooks at {others[0]}: take them off, or choose --engine plain")
    plain = np.empty((len(runs), len(runs[0].answers)))
    out = np.empty((len(rows), plain.shape[1]))
    for part, used in portions(model, runs, rows, limits):
        place = {run: index for index, run in enumerate(used)}
        moved = [Row(place[rows[i].base], place[rows[i].source], rows[i].writes) for i in part]
        plain[used], out[part] = measure_portion(model, [runs[i] for i in used], moved, limits, progress)
    return Measured(plain, out)


def portions(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits
) -> Iterator[tuple[list[int], list[int]]]:
    """Rows, in their order, with the runs they need, so that what is kept of these runs fits a share of the memory."""
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    size = run_bytes(model, wanted, max(len(run.ids) for run in runs))
    part: list[int] = []
    used: dict[int, None] = {}
    for index, row in enumerate(rows):
        more = used | dict.fromkeys((row.base, row.source))
        if part and len(more) * size > limits.memory * KEPT_SHARE:
            yield part, list(used)
            part, more = [], dict.fromkeys((row.base, row.source))
        part.append(index)
        used = more
    idle = set(range(len(runs))) - {run for row in rows for run in (row.base, row.source)}
    yield part, [*used, *sorted(idle)]


def measure_portion(
    model: Model, runs: Sequence[Run], rows: Sequence[Row], limits: Limits, progress: Callable[[int], None] | None
) -> tuple[Float[np.ndarray, "run answer"], Float[np.ndarray, "row answer"]]:
    """Log-probabilities (nats) of runs and of rows whose runs' activations are kept together."""
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    bases = execute(model, runs, wanted, limits)
    moving = climbers(model.n_layers, runs, rows, bases.same_positions)
    out = np.array(bases.log_probs[[row.base for row in rows]])
    if progress is not None:
        progress(len(rows) - len(moving))
    for stair, found in climbed(model, bases, moving, limits):
        out[[each.row for each in stair]] = found
        if progress is not None:
            progress(len(stair))
    return bases.log_probs, out


def climbed(
    model: Model, bases: Bases, moving: Sequence[Climber], limits: Limits
) -> Iterator[tuple[list[Climber], Float[np.ndarray, "row answer"]]]:
    """Stairs and what they found: rows of one length and first position, lowest first, as many as fit the memory."""
    alike: dict[tuple[int, int], list[Climber]] = defaultdict(list)
    for each in moving:
        alike[each.n_pos, each.first_pos].append(each)
    share = 1.0 - KEPT_SHARE
    for (n_pos, first), group in sorted(alike.items()):
        group.sort(key=lambda each: each.whole_from)
        start = 0
        while start < len(group):
            fitting = limits.rows(row_bytes(model, n_pos, first), share)
            most = max(1, CPU_POSITIONS // (n_pos - first)) if model.device == "cpu" else fitting
            stair = group[start : start + min(fitting, most)]
            try:
                found = climb(model, bases, stair)
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                if len(stair) == 1:
                    raise LocateError("out of memory with a single row: choose --dtype bfloat16") from error
                share /= 2
                continue
            yield stair, found
            start += len(stair)


def row_bytes(model: Model, n_pos: int, first: int) -> int:
    """Bytes of a row under way: residual stream, MLP, attention, keys and values, and its logits."""
    run = n_pos - first
    attention = 3 * model.n_heads * run * n_pos + 4 * n_pos * model.n_heads * model.d_head
    width = run * (3 * model.d_mlp + 8 * model.d_model) + attention + model.d_vocab
    return model.number_bytes * width + 4 * model.d_vocab


def climb(model: Model, bases: Bases, stair: Sequence[Climber]) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) of the answers of rows of one length and first position, sorted by `whole_from`.

    In each layer a row is either not yet under way; or it enters behind the attention, and the layer is run at its
    first position alone; or it is whole, and the layer is run at all positions from the first one on. Sorted rows that
    are whole come first in the batch.
    """
    first, n_pos, last = stair[0].first_pos, stair[0].n_pos, model.n_layers - 1
    starts = torch.tensor([each.first_layer for each in stair])
    whole_from = torch.tensor([each.whole_from for each in stair])
    base = torch.tensor([each.base for each in stair])
    writes = Writes.of(model, bases, stair)
    blocks = bases.given[n_pos]
    with torch.inference_mode():
        embedded = bases.activation["resid_pre", 0]
        residual = embedded.new_empty(len(stair), n_pos - first, embedded.shape[-1])
        for layer in range(int(starts.min()), last):
            join = torch.nonzero((starts == layer) & (whole_from == layer))[:, 0]
            residual[join] = bases.activation["resid_pre", layer][base[join], first:n_pos]
            writes.into_residual(residual, layer)
            whole = torch.arange(int((whole_from <= layer).sum()))
            if len(whole):
                with model.hooked(writes.hooks(layer, first, whole)):
                    keys = keys_of(bases, layer, base[whole], first)
                    residual[: len(whole)] = blocks[layer].run(residual[: len(whole)], first, keys)
            enter = torch.nonzero((starts == layer) & (whole_from > layer))[:, 0]
            if len(enter):
                residual[enter] = bases.activation["resid_pre", layer + 1][base[enter], first:n_pos]
                residual[enter, 0] = entered(model, bases, writes, layer, first, n_pos, enter, base[enter])
        join = torch.nonzero(starts == last)[:, 0]
        residual[join] = bases.activation["resid_pre", last][base[join], first:n_pos]
        writes.into_residual(residual, last)
        with model.hooked(writes.hooks(last, n_pos - 1, torch.arange(len(stair)))):
            final = last_position(blocks[last], residual, first, keys_of(bases, last, base, first))
        return answers(model, bases, stair, final[:, 0], blocks[last])


def entered(
    model: Model,
    bases: Bases,
    writes: Writes,
    layer: int,
    first: int,
    n_pos: int,
    rows: Int[torch.Tensor, " row"],
    base: Int[torch.Tensor, " row"],
) -> Float[torch.Tensor, "row d_model"]:
    """What leaves a layer at the first position of rows that are written there behind its attention.

    Its other positions leave the layer as in the base run: nothing before the attention has changed.
    """
    alone = bases.activation["resid_pre", layer][base, first : first + 1]
    with model.hooked(writes.hooks(layer, first, rows)):
        return bases.given[n_pos][layer].run(alone, first, keys_of(bases, layer, base, first))[:, 0]


def keys_of(bases: Bases, layer: int, base: Int[torch.Tensor, " row"], first: int) -> Keys | None:
    """Keys and values of the positions before `first` in each row's base run."""
    if first == 0:
        return None
    keys, values = bases.keys[layer]
    return keys[base, :, :first], values[base, :, :first]


def last_position(
    given: Given, residual: Float[torch.Tensor, "row pos d_model"], first: int, before: Keys | None
) -> Float[torch.Tensor, "row 1 d_model"]:
    """The last block at the last position alone; the positions before it are run to their keys and values."""
    count = residual.shape[1] - 1
    if count:
        own = given.keys(residual[:, :-1], first)
        before = own if before is None else (torch.cat([before[0], own[0]], 2), torch.cat([before[1], own[1]], 2))
    return given.run(residual[:, -1:], first + count, before)


def answers(
    model: Model, bases: Bases, stair: Sequence[Climber], final: Float[torch.Tensor, "row d_model"], given: Given
) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) of each row's answers, from the residual stream that leaves the last block."""
    ids = [bases.runs[each.base].answers for each in stair]
    size = MOST_ROWS if model.device == "cpu" else len(stair)
    parts = [slice(start, start + size) for start in range(0, len(stair), size)]
    return np.concatenate([chosen(read_out(model, final[part], given.returns_tuple), ids[part]) for part in parts])


@dataclass(frozen=True, eq=False)
class Spot:
    """Where in a stair one component at one layer is written, and with what; one entry for each write."""

    row: Int[torch.Tensor, " write"]
    pos: Int[torch.Tensor, " write"]
    unit: Int[torch.Tensor, " write"] | None
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class Writes:
    """All writes of a stair, by component and layer."""

    model: Model
    spots: dict[Key, Spot]
    count: int
    first: int

    @staticmethod
    def of(model: Model, bases: Bases, stair: Sequence[Climber]) -> Writes:
        """The writes of some rows, their values gathered from the runs."""
        found: dict[Key, dict[tuple[int, int, int | None], tuple[int, Climber, Placed]]] = defaultdict(dict)
        for place, each in enumerate(stair):
            for write in each.writes:  # of several to one place the last holds
                found[write.component, write.layer][place, write.base_pos, write.unit] = place, each, write
        spots = {key: spot(bases.activation[key], key[0], list(here.values())) for key, here in found.items()}
        return Writes(model, spots, len(stair), stair[0].first_pos)

    def into_residual(self, residual: Float[torch.Tensor, "row pos d_model"], layer: int) -> None:
        """Write the residual stream that enters a layer, in place."""
        here = self.spots.get(("resid_pre", layer))
        if here is not None:
            residual[here.row, here.pos - self.first] = here.value

    def hooks(self, layer: int, first: int, rows: Int[torch.Tensor, " row"]) -> list[tuple[str, Callable]]:
        """Hooks that write inside a block that runs some rows at the positions `first` and up."""
        hooks = []
        for (component, at), here in self.spots.items():
            if at == layer and component != "resid_pre":
                place = torch.full((self.count,), -1)  # of each row of the stair among those run, -1 for the others
                place[rows] = torch.arange(len(rows))
                chosen = torch.nonzero(place[here.row] >= 0)[:, 0]
                where = [place[here.row[chosen]], here.pos[chosen] - first]
                where += [] if here.unit is None else [here.unit[chosen]]
                hooks.append((self.model.hook(component, layer), writing(tuple(where), here.value[chosen])))
        return hooks


def writing(where: tuple[torch.Tensor, ...], value: torch.Tensor) -> Callable:
    """A hook that writes values at row, position and, where there are units, unit."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = activation.clone()
        changed[where] = value
        return changed

    return hook


def spot(kept: torch.Tensor, component: str, writes: Sequence[tuple[int, Climber, Placed]]) -> Spot:
    """The writes of one component and layer, their values gathered from what was kept of the runs."""
    row = torch.tensor([place for place, _, _ in writes])
    pos = torch.tensor([write.base_pos for _, _, write in writes])
    unit = torch.tensor([write.unit for _, _, write in writes]) if component in UNITS else None
    run = torch.tensor([each.source if write.origin == "source" else each.base for _, each, write in writes])
    at = torch.tensor([write.source_pos if write.origin == "source" else write.base_pos for _, _, write in writes])
    value = kept[run, at] if unit is None else kept[run, at, unit]
    for place, (_, _, write) in enumerate(writes):
        if isinstance(write.origin, torch.Tensor):
            value[place] = write.origin.to(value)
        elif write.origin == "zero":
            value[place] = 0
    return Spot(row, pos, unit, value)
