"""The staircase: rows that begin at one position climb the layers together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from locate.models import Model
from locate.rows import Key, Measured, Placed, Row, Run, memory
from locate.sites import UNITS
from locate.sweep.bases import Bases, execute
from locate.sweep.replay import Given, Keys, read_out

WORKING_BYTES = 384 << 20


def measure(
    model: Model,
    runs: Sequence[Run],
    rows: Sequence[Row],
    *,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> Measured:
    """Execute every run once, and every row from where it begins to differ from its base run.

    batch_size  rows that climb together; None chooses as many as fit a stated working memory
    progress    called with the number of rows just finished
    """
    wanted = {(write.component, write.layer) for row in rows for write in row.writes}
    bases = execute(model, runs, wanted, batch_size)
    out = np.array(bases.log_probs[[row.base for row in rows]])
    climbs = [climber(model, bases, index, row) for index, row in enumerate(rows)]
    moving = [each for each in climbs if each is not None]
    if progress is not None:
        progress(len(rows) - len(moving))
    for stair in stairs(model, moving, batch_size):
        with memory(len(stair)):
            out[[each.row for each in stair]] = climb(model, bases, stair)
        if progress is not None:
            progress(len(stair))
    return Measured(bases.log_probs, out)


@dataclass(frozen=True, eq=False)
class Climber:
    """A row that has to be run: from which layer and position of its base run, and what it writes on its way."""

    row: int
    base: int
    source: int
    n_pos: int
    first_layer: int
    first_pos: int
    writes: tuple[Placed, ...]


def climber(model: Model, bases: Bases, index: int, row: Row) -> Climber | None:
    """Where a row begins to differ from its base run; None where it never does."""
    n_pos = len(bases.runs[row.base].ids)
    equal = bases.first_difference(row.base, row.source)
    writes = [write for write in row.writes if reaches_the_end(write, n_pos, model.n_layers)]
    changing = [write.base_pos for write in writes if not changes_nothing(write, equal)]
    if not changing:
        return None
    first = min(changing)
    writes = [write for write in writes if write.base_pos >= first]
    return Climber(index, row.base, row.source, n_pos, min(write.layer for write in writes), first, tuple(writes))


def reaches_the_end(write: Placed, n_pos: int, n_layers: int) -> bool:
    """Whether anything at the last token reads a site: behind the last attention only that token itself."""
    return write.layer < n_layers - 1 or write.component == "resid_pre" or write.base_pos == n_pos - 1


def changes_nothing(write: Placed, equal: int) -> bool:
    """Whether a write into an unchanged base run puts back what stands there.

    equal  number of leading positions at which base and source are the same
    """
    if write.origin == "base":
        return True
    return write.origin == "source" and write.base_pos == write.source_pos < equal


def stairs(model: Model, climbers: Sequence[Climber], batch_size: int | None) -> Iterator[list[Climber]]:
    """Rows of one length and first position, those that begin lowest first, as many as fit the working memory."""
    alike: dict[tuple[int, int], list[Climber]] = defaultdict(list)
    for each in climbers:
        alike[each.n_pos, each.first_pos].append(each)
    for (n_pos, first), group in sorted(alike.items()):
        size = batch_size or rows_that_fit(model, n_pos, first)
        group.sort(key=lambda each: each.first_layer)
        for start in range(0, len(group), size):
            yield group[start : start + size]


def rows_that_fit(model: Model, n_pos: int, first: int) -> int:
    """Rows whose residual streams, keys, attention and MLP fit the working memory."""
    run = n_pos - first
    attention = 3 * model.n_heads * run * n_pos + 4 * n_pos * model.n_heads * model.d_head
    return max(1, WORKING_BYTES // (4 * (attention + run * (3 * model.d_mlp + 12 * model.d_model) + 2 * model.d_vocab)))


def climb(model: Model, bases: Bases, stair: Sequence[Climber]) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities (nats) of the answers of rows of one length and first position, sorted by first layer."""
    first, n_pos = stair[0].first_pos, stair[0].n_pos
    starts = np.array([each.first_layer for each in stair])
    base = torch.tensor([each.base for each in stair])
    writes = Writes.of(model, bases, stair)
    embedded = bases.activation["resid_pre", 0]
    residual = embedded.new_empty(len(stair), n_pos - first, embedded.shape[-1])
    with torch.inference_mode():
        for layer in range(int(starts[0]), model.n_layers):
            joined, active = np.searchsorted(starts, [layer, layer + 1])
            residual[joined:active] = bases.activation["resid_pre", layer][base[joined:active], first:n_pos]
            under_way = residual[:active]
            writes.into_residual(under_way, layer)
            given, keys = bases.given[n_pos][layer], keys_of(bases, layer, base[:active], first)
            if layer < model.n_layers - 1:
                with model.hooked(writes.hooks(layer, first)):
                    residual[:active] = given.run(under_way, first, keys)
        with model.hooked(writes.hooks(layer, n_pos - 1)):
            final = last_position(given, residual, first, keys)
        return answers(model, bases, stair, final[:, 0], given)


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
    ids = torch.tensor([bases.runs[each.base].answers for each in stair], device=final.device)
    logits = read_out(model, final, given.returns_tuple)
    chosen = logits.gather(-1, ids) - logits.logsumexp(-1, keepdim=True)
    return chosen.double().cpu().numpy()


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
    first: int

    @staticmethod
    def of(model: Model, bases: Bases, stair: Sequence[Climber]) -> Writes:
        """The writes of some rows, their values gathered from the runs."""
        found: dict[Key, list[tuple[int, Climber, Placed]]] = defaultdict(list)
        for place, each in enumerate(stair):
            for write in each.writes:
                found[write.component, write.layer].append((place, each, write))
        spots = {key: spot(bases.activation[key], key[0], listed) for key, listed in found.items()}
        return Writes(model, spots, stair[0].first_pos)

    def into_residual(self, residual: Float[torch.Tensor, "row pos d_model"], layer: int) -> None:
        """Write the residual stream that enters a layer, in place."""
        here = self.spots.get(("resid_pre", layer))
        if here is not None:
            residual[here.row, here.pos - self.first] = here.value

    def hooks(self, layer: int, first: int) -> list[tuple[str, Callable]]:
        """Hooks that write inside a block that runs the positions `first` and up."""
        return [
            (self.model.hook(*key), self.hook(here, first))
            for key, here in self.spots.items()
            if key[1] == layer and key[0] != "resid_pre"
        ]

    def hook(self, here: Spot, first: int) -> Callable:
        """The hook of one component."""

        def write(activation: torch.Tensor, hook: Any) -> torch.Tensor:
            changed = activation.clone()
            where = (here.row, here.pos - first) if here.unit is None else (here.row, here.pos - first, here.unit)
            changed[where] = here.value
            return changed

        return write


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
