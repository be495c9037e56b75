"""What rows write, gathered so that one hook writes for all rows of a batch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int

from locate.models import Model
from locate.rows import Key, Placed
from locate.sites import UNITS
from locate.sweep.bases import Bases
from locate.sweep.climbers import Climber

Lodged = tuple[int, Climber, Placed]
"""a row's place in a batch, the row, and one of its writes"""


@dataclass(frozen=True, eq=False)
class Spot:
    """Where in a batch one component at one layer is written, and with what; one entry for each write."""

    row: Int[torch.Tensor, " write"]
    pos: Int[torch.Tensor, " write"]
    unit: Int[torch.Tensor, " write"] | None
    value: torch.Tensor


@dataclass(frozen=True, eq=False)
class Writes:
    """All writes of a batch, by component and layer."""

    model: Model
    spots: dict[Key, Spot]

    @staticmethod
    def of(model: Model, bases: Bases, lodged: Iterable[Lodged]) -> Writes:
        """Some writes, their values gathered from the runs."""
        found: dict[Key, dict[tuple[int, int, int | None], Lodged]] = defaultdict(dict)
        for place, each, write in lodged:  # of several to one place the last holds
            found[write.component, write.layer][place, write.base_pos, write.unit] = place, each, write
        spots = {key: spot(bases.activation[key], key[0], list(here.values())) for key, here in found.items()}
        return Writes(model, spots)

    def into_residual(self, residual: Float[torch.Tensor, "row pos d_model"], layer: int, first: int) -> None:
        """Write the residual stream that enters a layer at the positions `first` and up, in place."""
        here = self.spots.get(("resid_pre", layer))
        if here is not None:
            residual[here.row, here.pos - first] = here.value

    def hooks(self, layer: int, first: int) -> list[tuple[str, Callable]]:
        """Hooks that write inside a block that runs the positions `first` and up."""
        hooks = []
        for (component, at), here in self.spots.items():
            if at == layer and component != "resid_pre":
                where = (here.row, here.pos - first) if here.unit is None else (here.row, here.pos - first, here.unit)
                hooks.append((self.model.hook(component, layer), writing(where, here.value)))
        return hooks


def writing(where: tuple[torch.Tensor, ...], value: torch.Tensor) -> Callable:
    """A hook that writes values at row, position and, where there are units, unit."""

    def hook(activation: torch.Tensor, hook: Any) -> torch.Tensor:
        changed = activation.clone()
        changed[where] = value
        return changed

    return hook


def spot(kept: torch.Tensor, component: str, writes: Sequence[Lodged]) -> Spot:
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
