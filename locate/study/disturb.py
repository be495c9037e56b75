"""Two ways of writing something else than the source's activation: another pair's, and a random direction as long."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from locate.engine.plain import execute_runs
from locate.engine.rows import PlacedWrite, Row, Run
from locate.errors import LocateError
from locate.prompts.tokens import TokenPair
from locate.tracing.job import Change, Job


def shuffled(pairs: Sequence[TokenPair], seed: int) -> Change:
    """Each row takes its values from another pair's run of the same kind, at a token of the same role.

    The other pair is drawn from those of other groups that have such a token.

    Raises LocateError where there is none.
    """

    def change(runs: list[Run], rows: list[Row], labels: dict[str, list[object]]) -> list[Row]:
        rng = np.random.default_rng([seed, 2])
        each = len(runs) // len(pairs)
        place = {pair.index: index for index, pair in enumerate(pairs)}
        changed = []
        for row, number, role in zip(rows, labels["pair"], labels["role"], strict=True):
            own = place[int(number)]  # type: ignore[call-overload]
            other = partner(pairs, own, str(role), rng)
            token = next(each for each in pairs[other].aligned if each.role == role)
            from_clean = row.source % each == 0
            at = token.clean if from_clean else token.corrupted
            writes = tuple(
                PlacedWrite(write.component, write.layer, write.unit, write.base_pos, at, write.origin)
                for write in row.writes
            )
            changed.append(Row(row.base, other * each + row.source % each, writes))
        return changed

    return change


def partner(pairs: Sequence[TokenPair], own: int, role: str, rng: np.random.Generator) -> int:
    """A random pair of another group that has a token of a role."""
    for other in rng.permutation(len(pairs)):
        if pairs[other].pair.group != pairs[own].pair.group and any(
            token.role == role for token in pairs[other].aligned
        ):
            return int(other)
    raise LocateError(f"no other group has a token at {role}: give more prompts")


def random_directions(job: Job, seed: int) -> Change:
    """Each row moves its site as far as the source would, in a random direction of its space."""

    def change(runs: list[Run], rows: list[Row], labels: dict[str, list[object]]) -> list[Row]:
        wanted = sorted({(write.component, write.layer) for row in rows for write in row.writes})
        kept = execute_runs(job.model, runs, wanted, job.limits)[1]
        draws = torch.Generator().manual_seed(seed)
        changed = []
        for row in rows:
            writes = []
            for write in row.writes:
                own = kept[row.base][write.component, write.layer][write.base_pos]
                other = kept[row.source][write.component, write.layer][write.source_pos]
                if write.unit is not None:
                    own, other = own[write.unit], other[write.unit]
                way = torch.randn(own.shape, generator=draws, dtype=torch.float64).to(own.device)
                moved = own.double() + way * ((other.double() - own.double()).norm() / way.norm())
                writes.append(
                    PlacedWrite(write.component, write.layer, write.unit, write.base_pos, write.source_pos, moved)
                )
            changed.append(Row(row.base, row.source, tuple(writes)))
        labels["origin"][:] = ["given"] * len(rows)
        return changed

    return change
