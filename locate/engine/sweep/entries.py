"""Entries: what leaves the first layer of the rows that are written there after its attention.

After the attention a block treats each position by itself, so a row that is written at one position there leaves the
layer changed at that position alone. Rows of one base run that are written at different positions can therefore share
one run of the block, a *carrier*: each is read off at its own position. Where nothing but a block's outputs is written,
and the block is one of few steps, not even that is needed: the stream behind the attention is known from what was kept,
and the MLP is run for the written position alone.
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
    """The residual stream that leaves the first layer of each entering row, at its first position; on the first device.

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
    direct, others = by_first_block(bases, entering)
    for layer, rows in direct.items():

        def step(part: Sequence[Climber], layer: int = layer) -> Any:
            return step_through(model, bases, layer, part)

        for stepped, leaving in work_in_parts(rows, rows_at_once(model, limits, 1, 0), step):
            found.vectors[[found.place[each.row] for each in stepped]] = leaving.to(found.vectors.device)
    for (layer, n_pos), carriers in sorted(group_carriers(others).items()):

        def carry(part: Sequence[Carrier], layer: int = layer) -> Any:
            return carry_through(model, bases, layer, part)

        for part, leaving in work_in_parts(carriers, rows_at_once(model, limits, n_pos, 0), carry):
            places = [found.place[each.row] for carrier in part for each in carrier]
            found.vectors[places] = leaving.to(found.vectors.device)
    return found


def by_first_block(bases: Bases, entering: Sequence[Climber]) -> tuple[dict[int, list[Climber]], list[Climber]]:
    """Rows of which only the MLP of their first layer has to be run, by layer; and the others."""
    direct: dict[int, list[Climber]] = defaultdict(list)
    others = []
    for each in entering:
        components = [write.component for write in each.writes if write.layer == each.first_layer]
        if bases.given[each.n_pos][each.first_layer].takes(components):
            direct[each.first_layer].append(each)
        else:
            others.append(each)
    return direct, others


def step_through(model: Model, bases: Bases, layer: int, rows: Sequence[Climber]) -> Float[torch.Tensor, "row d_model"]:
    """What leaves a layer at the first position of each row: the stream behind the attention, and what the MLP adds."""
    device, above = model.device_of(layer), bases.activation["resid_pre", layer + 1]
    base, pos = torch.tensor([[each.base, each.first_pos] for each in rows], device=device).T
    here = [(place, each, write) for place, each in enumerate(rows) for write in each.writes if write.layer == layer]
    spots = Writes.of(model, bases, here).spots
    block = bases.given[rows[0].n_pos][layer].fused
    assert block is not None
    with torch.inference_mode():
        middle = above[base.to(above.device), pos.to(above.device)].to(device)
        if ("mlp_out", layer) in bases.activation:
            middle -= bases.activation["mlp_out", layer][base, pos]
        if (attention := spots.get(("attn_out", layer))) is not None:
            entering = bases.activation["resid_pre", layer][base, pos]
            middle[attention.row] = entering[attention.row] + attention.value
        added = torch.empty_like(middle)
        run = torch.ones(len(rows), dtype=torch.bool, device=device)
        if (mlp := spots.get(("mlp_out", layer))) is not None:
            added[mlp.row] = mlp.value
            run[mlp.row] = False
        added[run] = block.mlp(block.norms[1](middle[run]))
        return middle.add_(added)


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
    device = model.device_of(layer)
    where = torch.tensor([[place for place, _ in rows], [pos - first for pos in positions]], device=device)
    base = torch.tensor([carrier[0].base for carrier in carriers], device=device)
    here = ((place, each, write) for place, each in rows for write in each.writes if write.layer == layer)
    block = bases.given[rows[0][1].n_pos][layer]
    with torch.inference_mode():
        entering = bases.activation["resid_pre", layer][base, first:end]
        leaving = Writes.of(model, bases, here).run(block, layer, entering, first, keys_of(bases, layer, base, first))
        return leaving[*where]
