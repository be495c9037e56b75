"""Stage: a set of rows that is measured together; and Job, a stage prepared for a model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import pandas as pd
import torch

from locate.engine.plain import measure as measure_plainly
from locate.engine.rows import Limits, Run
from locate.engine.sweep import measure as sweep
from locate.errors import LocateError
from locate.files import hash_of
from locate.model.hooked import Model
from locate.model.memory import default_memory
from locate.prompts.notes import SAME
from locate.prompts.pair import Prompts
from locate.prompts.tokens import MAX_DROPPED, Ledger, TokenPair, tokenise
from locate.sites import DIRECTIONS, PATTERN, Patch, Write, check
from locate.tracing.corrupt import Corruption, Swap, clean_run
from locate.tracing.layout import Layout, lay_out
from locate.tracing.plan import Cell, Map, cells_of_map, cells_of_patches, hash_of_patches

CHUNK_ROWS = 20_000  # rows measured, and kept on disk, at a time: large enough for the sweep to fill its batches
CHUNK_PAIRS = 128
CHUNK_OPERATIONS = 1e14  # about: a second of a GPU, and some minutes of a processor,
CHUNK_OPERATIONS_CPU = 2e13  # where it is less: that is what an interruption may cost, and what a last worker waits for
SHARED = 16  # chunks that a stage has at the least, for several processes to share,
SHARED_OPERATIONS = 1e11  # as far as each is about a second of a core; on a GPU that would be too little to fill it
ENGINES = {"sweep": sweep, "plain": measure_plainly}


@runtime_checkable
class Rewrite(Protocol):
    """Writes values other than the source's, which turns a patch into a control.

    A frozen dataclass; its fields decide, with its name, whether parts of a stage are those of another run.
    """

    @property
    def together(self) -> bool:
        """Whether values come from other pairs, so that all must be laid out at once; else a pair's rows must not
        depend on which pairs are laid out beside it."""

    def rewrite(self, job: Job, layout: Layout) -> Layout:
        """The layout with other rows in place of its own, one for one."""


@runtime_checkable
class Derive(Protocol):
    """Fills the table of a chunk without patched rows, for instance with estimates from gradients."""

    def table(self, job: Job, pairs: Sequence[TokenPair]) -> pd.DataFrame:
        """The table that is kept for some pairs."""

    def operations(self, job: Job) -> float:
        """About how many floating-point operations all pairs take."""


@dataclass(frozen=True, eq=False)
class Stage:
    """A set of rows that is measured together: a map, a control, a step of a search.

    name        what progress and forecasts call it; its parts are kept under this name
    patches     a Map, or patches one by one
    rewrite     None for the source's own values
    derive      None for patched rows
    untrained   seed of random weights, to measure it in the same model before any training; None for its own weights
    """

    name: str
    prompts: Prompts
    patches: Map | Sequence[Patch]
    directions: tuple[str, ...] = DIRECTIONS
    rewrite: Rewrite | None = None
    derive: Derive | None = None
    untrained: int | None = None

    def describe(self) -> dict[str, Any]:
        """What decides its rows, as JSON."""
        ways: dict[str, Any] = {"rewrite": self.rewrite, "derive": self.derive}
        if isinstance(self.patches, Map):
            patches: Any = asdict(self.patches)
        else:
            patches = hash_of_patches(self.patches)
        return {
            "name": self.name,
            "prompts_sha256": self.prompts.hash,
            "patches_sha256": hash_of(patches),
            "directions": list(self.directions),
            "untrained": self.untrained,
        } | {name: None if way is None else [type(way).__name__, asdict(way)] for name, way in ways.items()}


@dataclass(frozen=True)
class Settings:
    """How every stage of a run is measured; the arguments are those of `locate.trace`."""

    corruption: Corruption = field(default_factory=Swap)
    batch_size: int | None = None
    memory: int | None = None
    engine: str = "sweep"
    compare_precision: bool = True
    probabilities: bool = True
    max_dropped: float = MAX_DROPPED

    def __post_init__(self) -> None:
        check("engine", self.engine, tuple(ENGINES))
        if not isinstance(self.corruption, Corruption):
            raise LocateError(
                f"corruption {self.corruption!r}: expected Swap(), Noise(), or an object with samples, describe, "
                "executed, scale and corrupted (see locate.tracing.corrupt.Corruption)"
            )

    def limits(self, model: Model) -> Limits:
        """How much may be done at once on the model's device."""
        return Limits(default_memory(*model.devices) if self.memory is None else self.memory, self.batch_size)


@dataclass(frozen=True, eq=False)
class Job:
    """A stage prepared for a model: its pairs as tokens, and what is patched in each; made by `prepare`.

    pairs   those that the tokenizer leaves usable, longest first: chunks of pairs of one length make the fewest and
            largest batches
    forms   of a map: for each role, the patches of a token
    scale   what the corruption has measured in the model (see `Corruption.scale`)
    """

    model: Model
    stage: Stage
    settings: Settings
    pairs: list[TokenPair]
    ledger: Ledger
    forms: dict[str, list[Patch]]
    scale: float
    limits: Limits

    @property
    def map(self) -> Map | None:
        """The map, if that is what is patched."""
        return self.stage.patches if isinstance(self.stage.patches, Map) else None

    def cells(self, pair: TokenPair) -> list[Cell]:
        """The cells of one pair."""
        if isinstance(self.stage.patches, Map):
            return list(cells_of_map(self.forms, pair))
        return list(cells_of_patches(self.stage.patches, pair))

    def runs(self, pair: TokenPair) -> list[Run]:
        """The clean run of a pair, then its corrupted ones."""
        clean, corruption = clean_run(pair, self.settings.probabilities), self.settings.corruption
        return [clean, *corruption.corrupted(pair, clean, self.scale, self.model.d_model)]

    def lay_out(self, pairs: Sequence[TokenPair], *, patched: bool = True) -> Layout:
        """The runs and rows of some pairs; without any rows where `patched` is False."""
        cells = self.cells if patched else lambda _: []
        pieces = self.model.tokenizer.convert_ids_to_tokens
        return lay_out(pairs, self.runs, cells, self.stage.directions, pieces)

    def rows(self, pair: TokenPair) -> int:
        """How many rows of the table a pair will fill."""
        return self.cell_counts[pair.index] * len(self.stage.directions) * self.settings.corruption.samples

    @cached_property
    def cell_counts(self) -> dict[int, int]:
        """How many cells each pair has, by its index."""
        if self.map is None or PATTERN in self.map.components:
            return {pair.index: len(self.cells(pair)) for pair in self.pairs}
        return {pair.index: sum(len(self.forms.get(token.role, ())) for token in pair.aligned) for pair in self.pairs}

    def size(self, pairs: Sequence[TokenPair]) -> int:
        """How much of the stage some pairs make up: rows, or the pairs themselves where no rows are run."""
        return len(pairs) if self.stage.derive is not None else sum(self.rows(pair) for pair in pairs)

    @cached_property
    def planned(self) -> int:
        """Rows of the whole stage; or pairs."""
        return self.size(self.pairs)

    @cached_property
    def chunks(self) -> list[list[TokenPair]]:
        """Pairs measured, and kept on disk, at a time: the same on every machine, so that any of them can resume."""
        together = self.stage.rewrite is not None and self.stage.rewrite.together
        size = len(self.pairs) if together else self.chunk
        return [self.pairs[start : start + size] for start in range(0, len(self.pairs), size)]

    @property
    def chunk(self) -> int:
        """How many pairs a chunk has."""
        rows = sum(self.rows(pair) for pair in self.pairs) / len(self.pairs)
        each = 0.5 * self.model.checkpoint.parameters * max(len(pair.clean) for pair in self.pairs)
        return pairs_in_chunk(len(self.pairs), rows, rows * each, on_cpu=self.model.device == "cpu")


def pairs_in_chunk(pairs: int, rows: float, operations: float, *, on_cpu: bool) -> int:
    """How many of a stage's pairs a chunk has; at least one.

    rows, operations  of a pair, about
    """
    longest = CHUNK_OPERATIONS_CPU if on_cpu else CHUNK_OPERATIONS
    most = min(CHUNK_PAIRS, round(CHUNK_ROWS / rows), round(longest / operations))
    if on_cpu:
        most = min(most, max(math.ceil(SHARED_OPERATIONS / operations), math.ceil(pairs / SHARED)))
    return max(1, most)


AS_USUAL = Settings()


def one_of(map: Map | None, patches: Sequence[Patch] | None) -> Map | Sequence[Patch]:
    """What a run patches: a map (the default one where neither is given), or patches one by one.

    Raises LocateError when both are given.
    """
    if patches is None:
        return map or Map()
    if map is not None:
        raise LocateError("both a map and patches were given: expected one of them")
    return patches


def prepare(model: Model, stage: Stage, settings: Settings = AS_USUAL) -> Job:
    """Check a stage against a model and the settings, and read its prompts.

    Raises LocateError for unusable prompts or patches, or where nothing can be written in any pair.
    """
    for direction in stage.directions:
        check("direction", direction, DIRECTIONS)
    if not stage.directions or len(set(stage.directions)) != len(stage.directions):
        raise LocateError(f"directions {stage.directions}: expected denoising, noising or both, each once")
    limits, corruption = settings.limits(model), settings.corruption
    forms = check_patches(model, stage.patches)
    executed = corruption.executed(stage.prompts)
    pairs, ledger = tokenise(executed, model.encode, max_dropped=settings.max_dropped, context=model.context)
    if executed is not stage.prompts:  # where the corruption makes both prompts the same, it does so by intention
        ledger = replace(ledger, notes={note: count for note, count in ledger.notes.items() if note != SAME})
    job = Job(
        model=model,
        stage=stage,
        settings=settings,
        pairs=sorted(pairs, key=lambda pair: (-len(pair.clean), -len(pair.corrupted))),
        ledger=ledger,
        forms=forms,
        scale=corruption.scale(model, pairs),
        limits=limits,
    )
    check_placed(job)
    return job


def check_patches(model: Model, patches: Map | Sequence[Patch]) -> dict[str, list[Patch]]:
    """For each role of a map, the patches of a token; none for patches given one by one.

    Raises LocateError for patches that cannot be written in the model.
    """
    if isinstance(patches, Map):
        model.check_components(patches.hooked)
        return patches.forms_by_role(model.n_layers, {name: model.units(name) for name in patches.components})
    model.check_components({write.site.component for patch in patches for write in patch.writes})
    check_apart(patches)
    for patch in patches:
        for write in patch.writes:
            check_fits(model, write)
    return {}


def check_placed(job: Job) -> None:
    """Raise LocateError where a map, or any one of the patches, has no token to be written at in any pair."""
    if not any(job.rows(pair) for pair in job.pairs):
        raise LocateError("no patch has a token to be written at in any pair: choose other roles or patches")
    patches = () if isinstance(job.stage.patches, Map) else job.stage.patches
    unplaced = [patch for patch in patches if not any(list(cells_of_patches([patch], pair)) for pair in job.pairs)]
    if unplaced:
        raise LocateError(
            f"{len(unplaced)} patches have no token to be written at in any pair, the first at {unplaced[0].anchor}: "
            "leave them out"
        )


def check_fits(model: Model, write: Write) -> None:
    """Raise LocateError for a write at a layer or unit that the model lacks, or of a vector of another width."""
    site, units = write.site, model.units(write.site.component)
    if site.layer >= model.n_layers or (site.unit is not None and units is not None and site.unit >= units):
        raise LocateError(
            f"{site}: expected a layer below {model.n_layers}" + (f" and a unit below {units}" if units else "")
        )
    if site.component == PATTERN and isinstance(write.origin, torch.Tensor):
        raise LocateError(f"origin of {site} is a vector: expected source, base or zero")
    width = {"head": model.d_head, "neuron": None, "mlp_out_unit": None}.get(site.component, model.d_model)
    shape = () if width is None else (width,)
    if isinstance(write.origin, torch.Tensor) and tuple(write.origin.shape) != shape:
        raise LocateError(f"vector of shape {tuple(write.origin.shape)} for {site}: expected {shape}")


def check_apart(patches: Sequence[Patch]) -> None:
    """Raise LocateError when two patches would have one name in the table."""
    seen = set()
    for patch in patches:
        name = (patch.anchor, patch.window, patch.severed, patch.origin, patch.name)
        if name in seen:
            raise LocateError(f"two patches have the anchor {patch.anchor}: give them names, or trace them separately")
        seen.add(name)
