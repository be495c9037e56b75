"""What rows write, gathered so that one hook writes for all rows of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from locate.engine.rows import Key, PlacedWrite
from locate.engine.sweep.bases import Bases
from locate.engine.sweep.climbers import Climber
from locate.engine.sweep.fused import Change, Keys
from locate.engine.sweep.replay import BlockInputs
from locate.model.hooked import Model
from locate.sites import PATTERN, UNITS

RowWrite = tuple[int, Climber, PlacedWrite]
"""a row's place in a batch, the row, and one of its writes"""


@dataclass(frozen=True, eq=False)
class Spot:
    """Where in a batch one component at one layer is written, and with what; one entry for each write."""

    row: Int[torch.Tensor, " write"]
    pos: Int[torch.Tensor, " write"]
    unit: Int[torch.Tensor, " write"] | None
    value: torch.Tensor
    key: Int[torch.Tensor, " write"] | None = None

    def where(self, first: int) -> tuple[torch.Tensor, ...]:
        """Indices into a hook's activation in a block that runs the positions `first` and up."""
        assert self.unit is not None or self.key is None
        if self.unit is None:
            return self.row, self.pos - first
        if self.key is None:
            return self.row, self.pos - first, self.unit
        return self.row, self.unit, self.pos - first, self.key


@dataclass(frozen=True, eq=False)
class Writes:
    """All writes of a batch, by component and layer."""

    model: Model
    spots: dict[Key, Spot]

    @staticmethod
    def of(model: Model, bases: Bases, lodged: Iterable[RowWrite]) -> Writes:
        """Some writes, their values gathered from the runs."""
        found: dict[Key, dict[tuple[int, int, int | None, tuple[int, ...]], RowWrite]] = defaultdict(dict)
        for place, each, write in lodged:  # of several to one place the last holds
            place_of = place, write.base_pos, write.unit, tuple(key for key, _ in write.keys)
            found[write.component, write.layer].pop(place_of, None)
            found[write.component, write.layer][place_of] = place, each, write
        spots = {
            key: (gather_pattern_spot if key[0] == PATTERN else gather_spot)(
                bases.activation[key], key[0], list(here.values())
            )
            for key, here in found.items()
        }
        return Writes(model, spots)

    def into_residual(self, residual: Float[torch.Tensor, "row pos d_model"], layer: int, first: int) -> None:
        """Write the residual stream that enters a layer at the positions `first` and up, in place."""
        here = self.spots.get(("resid_pre", layer))
        if here is not None:
            residual[here.row, here.pos - first] = here.value

    def run(
        self,
        block: BlockInputs,
        layer: int,
        residual: Float[torch.Tensor, "row pos d_model"],
        first: int,
        before: Keys | None,
    ) -> Float[torch.Tensor, "row pos d_model"]:
        """What leaves a layer at the positions `first` and up, with the writes inside its block."""
        changes = self.inside(layer, first)
        if block.takes(each.component for each in changes):
            return block.run_fused(residual, first, before, changes)
        hooks = [(self.model.hook(each.component, layer), write_hook(each.where, each.value)) for each in changes]
        with self.model.hooked(hooks):
            return block.run(residual, first, before)

    def inside(self, layer: int, first: int) -> list[Change]:
        """What is written inside a block that runs the positions `first` and up."""
        ordered = sorted(self.spots.items(), key=lambda each: each[0])  # a whole output before its units, at one hook
        return [
            Change(component, here.where(first), here.value)
            for (component, at), here in ordered
            if at == layer and component != "resid_pre"
        ]


def write_hook(where: tuple[torch.Tensor, ...], value: torch.Tensor) -> Callable:
    """A hook that writes values at row, position and, where there are units, unit."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = activation.clone()
        changed[where] = value
        return changed

    return hook


def gather_spot(kept: torch.Tensor, component: str, writes: Sequence[RowWrite]) -> Spot:
    """The writes of one component and layer, their values gathered from what was kept of the runs."""

    def indices(values: Iterable[int | None]) -> Int[torch.Tensor, " write"]:
        return torch.tensor(list(values), device=kept.device)

    row = indices(place for place, _, _ in writes)
    pos = indices(write.base_pos for _, _, write in writes)
    unit = indices(write.unit for _, _, write in writes) if component in UNITS else None
    run = indices(each.source if write.origin == "source" else each.base for _, each, write in writes)
    at = indices(write.source_pos if write.origin == "source" else write.base_pos for _, _, write in writes)
    value = kept[run, at] if unit is None else kept[run, at, unit]
    for place, (_, _, write) in enumerate(writes):
        if isinstance(write.origin, torch.Tensor):
            value[place] = write.origin.to(value)
        elif write.origin == "zero":
            value[place] = 0
    return Spot(row, pos, unit, value)


def gather_pattern_spot(
    kept: Float[torch.Tensor, "run query head key"], component: str, writes: Sequence[RowWrite]
) -> Spot:
    """The writes of one layer's attention weights, one entry for each key, gathered from what was kept of the runs."""
    found: dict[tuple[int | None, ...], tuple[int | None, ...]] = {}
    for place, each, write in writes:
        for here, there in write.keys:
            own = each.base, write.base_pos, write.unit, here, write.origin == "zero"
            other = each.source, write.source_pos, write.unit, there, False
            found[place, write.base_pos, write.unit, here] = other if write.origin == "source" else own
    row, pos, unit, key = torch.tensor(list(found), device=kept.device).unbind(1)
    *values, zero = torch.tensor(list(found.values()), device=kept.device).unbind(1)
    return Spot(row, pos, unit, kept[tuple(values)].masked_fill(zero.bool(), 0), key)
