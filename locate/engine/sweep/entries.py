"""Entries: what leaves the first layer of the rows that are written there after its attention.

After the attention a block treats each position by itself, so a row that is written at one position there leaves the
layer changed at that position alone. Rows of one base run that are written at different positions can therefore share
one run of the block, a *carrier*: each is read off at its own position.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float

from locate.engine.rows import Limits
from locate.engine.sweep.bases import Bases, keys_of
from locate.engine.sweep.climbers import Climber
from locate.engine.sweep.parts import rows_at_once, work_in_parts
from locate.engine.sweep.writes import Writes
from locate.model.hooked import Model

Carrier = list[Climber]
"""rows of one base run and one layer, written at different positions"""


@dataclass(frozen=True, eq=False)
class Entries:
    """The residual stream that leaves the first layer of each entering row, at its first position.

    place    of a row among the vectors; rows that do not enter have none
    """

    place: dict[int, int]
    vectors: Float[torch.Tensor, "entry d_model"]


def run_entries(model: Model, bases: Bases, moving: Sequence[Climber], limits: Limits) -> Entries:
    """Run the first layer of every row that enters."""
    entering = [each for each in moving if each.enters]
    embedded = bases.activation["resid_pre", 0]
    found = Entries(
        {each.row: place for place, each in enumerate(entering)},
        embedded.new_empty(len(entering), embedded.shape[-1]),
    )
    for (layer, n_pos), carriers in sorted(group_carriers(entering).items()):

        def carry(part: Sequence[Carrier], layer: int = layer) -> Any:
            return carry_through(model, bases, layer, part)

        for part, leaving in work_in_parts(carriers, rows_at_once(model, limits, n_pos, 0), carry):
            found.vectors[[found.place[each.row] for carrier in part for each in carrier]] = leaving
    return found


def group_carriers(entering: Sequence[Climber]) -> dict[tuple[int, int], list[Carrier]]:
    """Carriers by layer and number of tokens, as few as there are rows at the fullest position of each base run."""
    taken: Counter[tuple[int, int, int]] = Counter()
    carriers: dict[tuple[int, int], dict[tuple[int, int], Carrier]] = defaultdict(lambda: defaultdict(list))
    for each in entering:
        here = each.first_layer, each.base, each.first_pos
        carriers[each.first_layer, each.n_pos][each.base, taken[here]].append(each)
        taken[here] += 1
    return {key: list(found.values()) for key, found in carriers.items()}


def carry_through(
    model: Model, bases: Bases, layer: int, carriers: Sequence[Carrier]
) -> Float[torch.Tensor, "row d_model"]:
    """What leaves a layer at the first position of each row of some carriers, row by row and carrier by carrier."""
    rows = [(place, each) for place, carrier in enumerate(carriers) for each in carrier]
    positions = [each.first_pos for _, each in rows]
    first, end = min(positions), max(positions) + 1
    where = torch.tensor([[place for place, _ in rows], [pos - first for pos in positions]], device=model.device)
    base = torch.tensor([carrier[0].base for carrier in carriers], device=model.device)
    here = ((place, each, write) for place, each in rows for write in each.writes if write.layer == layer)
    block = bases.given[rows[0][1].n_pos][layer]
    with torch.inference_mode():
        entering = bases.activation["resid_pre", layer][base, first:end]
        leaving = Writes.of(model, bases, here).run(block, layer, entering, first, keys_of(bases, layer, base, first))
        return leaving[*where]
