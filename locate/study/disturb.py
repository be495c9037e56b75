"""Two replacements for the source's activation: another pair's activation, and a random step of the same length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from locate.engine.plain import execute_runs
from locate.engine.rows import PlacedWrite, Row
from locate.errors import LocateError
from locate.files import hash_of
from locate.tracing.layout import Layout, PairRuns
from locate.tracing.stage import Job


@dataclass(frozen=True)
class ShuffledSources:
    """Each row takes its values from another pair's run of the same kind, at a token of the same role.

    The other pair is drawn from those of other groups that have such a token.
    """

    seed: int
    together = True

    def rewrite(self, job: Job, layout: Layout) -> Layout:
        """The rows with another source.

        Raises LocateError where no other group has a token of a row's role.
        """
        rng = np.random.default_rng([self.seed, 2])
        changed = []
        for row, role, (own, direction, sample) in zip(
            layout.rows, layout.labels["role"], layout.origins(), strict=True
        ):
            other = partner(layout.pairs, own, str(role), rng)
            token = next(each for each in other.pair.aligned if each.role == role)
            at = token.clean if direction == "denoising" else token.corrupted
            writes = tuple(
                PlacedWrite(write.component, write.layer, write.unit, write.base_pos, at, write.origin)
                for write in row.writes
            )
            changed.append(Row(row.base, other.couple(direction, sample)[1], writes))
        return layout.rewritten(changed)


def partner(pairs: Sequence[PairRuns], own: PairRuns, role: str, rng: np.random.Generator) -> PairRuns:
    """A random pair of another group that has a token of a role."""
    for place in rng.permutation(len(pairs)):
        other = pairs[place]
        if other.pair.pair.group != own.pair.pair.group and any(token.role == role for token in other.pair.aligned):
            return other
    raise LocateError(f"no other group has a token at {role}: give more prompts")


@dataclass(frozen=True)
class RandomDirections:
    """Each row moves its site as far as the source would, in a random direction of its space; drawn pair by pair."""

    seed: int
    together = False

    def rewrite(self, job: Job, layout: Layout) -> Layout:
        """The rows with vectors as their values."""
        rows, runs = layout.rows, layout.runs
        wanted = sorted({(write.component, write.layer) for row in rows for write in row.writes})
        kept = execute_runs(job.model, runs, wanted, job.limits)[1]
        draws: dict[int, torch.Generator] = {}
        changed = []
        for row, pair in zip(rows, layout.labels["pair"], strict=True):
            number, writes = int(pair), []  # type: ignore[call-overload]
            if number not in draws:
                draws[number] = torch.Generator().manual_seed(int(hash_of([self.seed, number])[:15], 16))
            for write in row.writes:
                own = kept[row.base][write.component, write.layer][write.base_pos]
                other = kept[row.source][write.component, write.layer][write.source_pos]
                if write.unit is not None:
                    own, other = own[write.unit], other[write.unit]
                way = torch.randn(own.shape, generator=draws[number], dtype=torch.float64).to(own.device)
                moved = own.double() + way * ((other.double() - own.double()).norm() / way.norm())
                writes.append(
                    PlacedWrite(write.component, write.layer, write.unit, write.base_pos, write.source_pos, moved)
                )
            changed.append(Row(row.base, row.source, tuple(writes)))
        return layout.rewritten(changed, origin="given")
