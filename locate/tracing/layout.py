"""Layout: the runs and rows of a few pairs, and what each of them is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from locate.engine.rows import Row, Run
from locate.prompts.tokens import TokenPair
from locate.sites import DIRECTIONS, check
from locate.tracing.plan import Cell, row_of
from locate.tracing.table import LABELS, NUMBERS

Couple = tuple[int, int]
"""indices of a base run and a source run"""


@dataclass(frozen=True, eq=False)
class PairRuns:
    """The runs of one pair, by their index: its clean run, and a corrupted run for each sample."""

    pair: TokenPair
    clean: int
    corrupted: tuple[int, ...]

    def couple(self, direction: str, sample: int) -> Couple:
        """The base run and the source run of a direction."""
        check("direction", direction, DIRECTIONS)
        clean, corrupted = self.clean, self.corrupted[sample]
        return (corrupted, clean) if direction == "denoising" else (clean, corrupted)


@dataclass(frozen=True, eq=False)
class Layout:
    """What is executed for a few pairs.

    pairs   the runs of each pair, in the order given
    runs    every run
    rows    every patched row; their base and source are indices of runs
    labels  the columns of the table that say what each row is
    """

    pairs: tuple[PairRuns, ...]
    runs: list[Run]
    rows: list[Row]
    labels: dict[str, list[object]]

    def couples(self, directions: Sequence[str] = DIRECTIONS) -> Iterator[tuple[PairRuns, str, int]]:
        """Every pair, direction and sample."""
        for pair in self.pairs:
            for sample in range(len(pair.corrupted)):
                for direction in directions:
                    yield pair, direction, sample

    def origins(self) -> Iterator[tuple[PairRuns, str, int]]:
        """Pair, direction and sample of each row."""
        of_pair = {runs.pair.index: runs for runs in self.pairs}
        for pair, direction, sample in zip(
            self.labels["pair"], self.labels["direction"], self.labels["sample"], strict=True
        ):
            yield of_pair[int(pair)], str(direction), int(sample)  # type: ignore[call-overload]

    def rewritten(self, rows: list[Row], origin: str | None = None) -> Layout:
        """The same layout with other rows in place of its own, and with their values' origin where one is named."""
        labels = self.labels if origin is None else self.labels | {"origin": [origin] * len(rows)}
        return replace(self, rows=rows, labels=labels)


def lay_out(
    pairs: Sequence[TokenPair],
    runs_of: Callable[[TokenPair], Sequence[Run]],
    cells_of: Callable[[TokenPair], Sequence[Cell]],
    directions: Sequence[str],
    pieces_of: Callable[[list[int]], Sequence[str]],
) -> Layout:
    """The layout of some pairs: their runs, the clean one first, and a row for each cell, direction and sample."""
    found: list[PairRuns] = []
    runs: list[Run] = []
    rows: list[Row] = []
    labels: dict[str, list[object]] = {name: [] for name in LABELS + NUMBERS}
    for pair in pairs:
        own, cells = runs_of(pair), cells_of(pair)
        placed = PairRuns(pair, len(runs), tuple(range(len(runs) + 1, len(runs) + len(own))))
        same = labels_of_pair(pair) | labels_of_cells(cells, pieces_of(list(pair.clean)))
        found.append(placed)
        runs += own
        for sample in range(len(placed.corrupted)):
            for direction in directions:
                rows += [row_of(cell, direction, *placed.couple(direction, sample)) for cell in cells]
                for name, value in (same | {"direction": direction, "sample": sample}).items():
                    labels[name] += value if isinstance(value, list) else [value] * len(cells)
    return Layout(tuple(found), runs, rows, labels)


def labels_of_pair(pair: TokenPair) -> dict[str, object]:
    """The columns that say which pair a row belongs to; one value for all rows of the pair."""
    names = ("group", "template", "kind", "stereotype", "clean", "corrupted")
    return {"pair": pair.index} | {name: getattr(pair.pair, name) for name in names}


def labels_of_cells(cells: Sequence[Cell], tokens: Sequence[str]) -> dict[str, list[object]]:
    """The columns that say which patch a row is; tokens are those of the clean prompt."""
    anchors = [cell.patch.anchor for cell in cells]
    return {
        "component": [anchor.component for anchor in anchors],
        "layer": [anchor.layer for anchor in anchors],
        "unit": [-1 if anchor.unit is None else anchor.unit for anchor in anchors],
        "window": [cell.patch.window for cell in cells],
        "severed": [cell.patch.severed for cell in cells],
        "origin": [cell.patch.origin for cell in cells],
        "role": [cell.role for cell in cells],
        "key": [anchor.key or "" for anchor in anchors],
        "name": [cell.patch.name for cell in cells],
        "token": ["" if cell.token is None else tokens[cell.token.clean] for cell in cells],
        "clean_pos": [-1 if cell.token is None else cell.token.clean for cell in cells],
        "corrupted_pos": [-1 if cell.token is None else cell.token.corrupted for cell in cells],
    }
