"""Which rows have to be run, and from where: layer and position at which each begins to differ from its base run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from locate.engine.rows import PlacedWrite, Row, Run


@dataclass(frozen=True, eq=False, slots=True)
class Climber:
    """A row that has to be run.

    row, base, source  the row, and the indices of its runs
    n_pos              number of tokens of its base run
    first_layer        the layer of its first write
    first_pos          the position of its first write
    enters             whether all it writes in that layer is its first position, after the attention: then nothing
                       else leaves the layer changed (see `sweep.entries`), and it climbs from the next one
    writes             those that can change anything
    """

    row: int
    base: int
    source: int
    n_pos: int
    first_layer: int
    first_pos: int
    enters: bool
    writes: tuple[PlacedWrite, ...]

    @property
    def from_layer(self) -> int:
        """The layer from which on all its positions from `first_pos` up are run."""
        return self.first_layer + self.enters

    @property
    def writes_above(self) -> Iterator[PlacedWrite]:
        """Its writes in the layers that it climbs."""
        return (write for write in self.writes if write.layer >= self.from_layer)


def find_climbers(
    n_layers: int, runs: Sequence[Run], rows: Sequence[Row], same_positions: Callable[[int, int], bool]
) -> list[Climber]:
    """The rows that have to be run; the others have the same answers as their base run.

    same_positions  whether prompts of two lengths number their common positions alike
    """
    equal = {}
    for couple in {(row.base, row.source) for row in rows}:
        one, other = (runs[index] for index in couple)
        equal[couple] = equal_positions(one, other) if same_positions(len(one.ids), len(other.ids)) else 0
    found = (
        find_climber(n_layers, len(runs[row.base].ids), index, row, equal[row.base, row.source])
        for index, row in enumerate(rows)
    )
    return [each for each in found if each is not None]


def equal_positions(one: Run, other: Run) -> int:
    """Number of leading positions at which two runs read the same, so that all their activations there are equal."""
    common = min(len(one.ids), len(other.ids))
    ends = [place for place in range(common) if one.ids[place] != other.ids[place]]
    return min([*ends, *one.noised, *other.noised, common])


def find_climber(n_layers: int, n_pos: int, index: int, row: Row, equal: int) -> Climber | None:
    """Where a row begins to differ from its base run; None where it never does.

    equal  number of leading positions at which base and source are the same
    """
    writes = [write for write in row.writes if reaches_the_end(write, n_pos, n_layers)]
    changing = [write.base_pos for write in writes if not changes_nothing(write, equal)]
    if not changing:
        return None
    first = min(changing)
    writes = [write for write in writes if write.base_pos >= first]  # from here on an earlier one may have changed it
    layer = min(write.layer for write in writes)
    here = [write for write in writes if write.layer == layer]
    behind = all(write.component != "resid_pre" and write.base_pos == first for write in here)
    enters = behind and layer < n_layers - 1  # the last layer is run at one position anyway
    return Climber(index, row.base, row.source, n_pos, layer, first, enters, tuple(writes))


def reaches_the_end(write: PlacedWrite, n_pos: int, n_layers: int) -> bool:
    """Whether anything at the last token reads a site: after the last attention only that token itself does."""
    return write.layer < n_layers - 1 or write.component == "resid_pre" or write.base_pos == n_pos - 1


def changes_nothing(write: PlacedWrite, equal: int) -> bool:
    """Whether a write into an unchanged base run puts back what stands there.

    equal  number of leading positions at which base and source are the same
    """
    if write.origin == "base":
        return True
    same_keys = all(here == there for here, there in write.keys)
    return write.origin == "source" and write.base_pos == write.source_pos < equal and same_keys


def token_layers(each: Climber, n_layers: int) -> int:
    """How many positions a row is run at, summed over layers; in the last layer only the last position counts."""
    return each.enters + (n_layers - 1 - each.from_layer) * (each.n_pos - each.first_pos) + 1
