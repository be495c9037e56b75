"""A job: everything that decides what is measured, checked against the model, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch

from locate.engine.plain import measure as measure_plainly
from locate.engine.rows import Limits, Measurement, Row, Run
from locate.engine.sweep import measure as sweep
from locate.errors import LocateError
from locate.model.hooked import Model
from locate.model.memory import default_memory
from locate.prompts.build import occupation_pairs
from locate.prompts.notes import SAME
from locate.prompts.pair import Prompts
from locate.prompts.tokens import MAX_DROPPED, Ledger, TokenPair, tokenise
from locate.sites import DIRECTIONS, PATTERN, Patch, Write, check
from locate.tracing.audit import PAIRS, REDUCED, audit, identity_audit, precision_audit
from locate.tracing.corrupt import Corruption, Noise, Swap, as_executed, noise_scale, runs_of
from locate.tracing.plan import Cell, Map, cells_of_map, cells_of_patches, row_of
from locate.tracing.table import LABELS, LOGS, NUMBERS, tidy

CHUNK_ROWS = 20_000  # rows measured, and kept on disk, at a time: large enough for the sweep to fill its batches
CHUNK_PAIRS = 128
CHUNK_OPERATIONS = 1e14  # about: some minutes of two cores, which is what an interruption may cost
ENGINES = {"sweep": sweep, "plain": measure_plainly}


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that decides what is measured; made by `prepare`.

    pairs            of the prompts, those that the tokenizer leaves usable, longest first: chunks of pairs of one
                     length make the fewest and largest batches
    forms, patches   the patches of a token of each role of a map, or the caller's own
    scale            standard deviation of the noise
    """

    model: Model
    prompts: Prompts
    map: Map | None
    pairs: list[TokenPair]
    ledger: Ledger
    forms: dict[str, list[Patch]]
    patches: Sequence[Patch] | None
    directions: tuple[str, ...]
    corruption: Corruption
    scale: float
    limits: Limits
    engine: str
    compare_precision: bool
    probabilities: bool

    def cells(self, pair: TokenPair) -> list[Cell]:
        """The cells of one pair."""
        if self.patches is not None:
            return list(cells_of_patches(self.patches, pair))
        return list(cells_of_map(self.forms, pair))

    def rows(self, pair: TokenPair) -> int:
        """How many rows of the table a pair will fill."""
        if self.patches is not None or (self.map is not None and PATTERN in self.map.components):
            cells = len(self.cells(pair))
        else:
            cells = sum(len(self.forms.get(token.role, ())) for token in pair.aligned)
        return cells * len(self.directions) * self.corruption.samples

    @property
    def chunk(self) -> int:
        """Pairs measured, and kept on disk, at a time: the same on every machine, so that any of them can resume."""
        rows = sum(self.rows(pair) for pair in self.pairs) / len(self.pairs)
        each = 0.5 * self.model.checkpoint.parameters * max(len(pair.clean) for pair in self.pairs)
        return max(1, min(CHUNK_PAIRS, round(CHUNK_ROWS / rows), round(CHUNK_OPERATIONS / (rows * each))))


def prepare(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    patches: Sequence[Patch] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    corruption: Corruption | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    engine: str = "sweep",
    compare_precision: bool = True,
    probabilities: bool = True,
    max_dropped: float = MAX_DROPPED,
) -> Job:
    """Check the arguments of `trace` against the model and each other."""
    limits = Limits(default_memory(model.device) if memory is None else memory, batch_size)
    prompts = occupation_pairs() if prompts is None else prompts
    corruption, directions = corruption or Swap(), tuple(directions)
    for direction in directions:
        check("direction", direction, DIRECTIONS)
    if not directions or len(set(directions)) != len(directions):
        raise LocateError(f"directions {directions}: expected denoising, noising or both, each once")
    check("engine", engine, tuple(ENGINES))
    if map is not None and patches is not None:
        raise LocateError("both a map and patches were given: expected one of them")
    if patches is None:
        map = map or Map()
        model.check_components(map.hooked)
        forms = map.forms_by_role(model.n_layers, {name: model.units(name) for name in map.components})
    else:
        model.check_components({write.site.component for patch in patches for write in patch.writes})
        apart(patches)
        for patch in patches:
            for write in patch.writes:
                fits(model, write)
        forms = {}
    if isinstance(corruption, Noise):
        model.check_embedding()
    executed = as_executed(prompts, corruption)
    pairs, ledger = tokenise(executed, model.encode, max_dropped=max_dropped, context=model.context)
    if isinstance(corruption, Noise):  # there they are the same by intention
        ledger = replace(ledger, notes={note: count for note, count in ledger.notes.items() if note != SAME})
    job = Job(
        model=model,
        prompts=prompts,
        map=map,
        pairs=sorted(pairs, key=lambda pair: (-len(pair.clean), -len(pair.corrupted))),
        ledger=ledger,
        forms=forms,
        patches=patches,
        directions=directions,
        corruption=corruption,
        scale=noise_scale(model, pairs, corruption),
        limits=limits,
        engine=engine,
        compare_precision=compare_precision,
        probabilities=probabilities,
    )
    if not any(job.rows(pair) for pair in pairs):
        raise LocateError("no patch has a token to be written at in any pair: choose other roles or patches")
    unplaced = [patch for patch in patches or () if not any(list(cells_of_patches([patch], pair)) for pair in pairs)]
    if unplaced:
        raise LocateError(
            f"{len(unplaced)} patches have no token to be written at in any pair, the first at {unplaced[0].anchor}: "
            "leave them out"
        )
    return job


def fits(model: Model, write: Write) -> None:
    """Raise LocateError for a write at a layer or unit that the model lacks, or of a vector of another width."""
    site, units = write.site, model.units(write.site.component)
    if site.layer >= model.n_layers or (site.unit is not None and units is not None and site.unit >= units):
        raise LocateError(
            f"{site}: expected a layer below {model.n_layers}" + (f" and a unit below {units}" if units else "")
        )
    if site.component == PATTERN and isinstance(write.origin, torch.Tensor):
        raise LocateError(f"vector for {site}: expected source, base or zero")
    width = {"head": model.d_head, "neuron": None, "mlp_out_unit": None}.get(site.component, model.d_model)
    shape = () if width is None else (width,)
    if isinstance(write.origin, torch.Tensor) and tuple(write.origin.shape) != shape:
        raise LocateError(f"vector of shape {tuple(write.origin.shape)} for {site}: expected {shape}")


def apart(patches: Sequence[Patch]) -> None:
    """Raise LocateError when two patches would have one name in the table."""
    seen = set()
    for patch in patches:
        name = (patch.anchor, patch.window, patch.severed, patch.origin, patch.name)
        if name in seen:
            raise LocateError(f"two patches are filed at {patch.anchor}: give them names, or trace them apart")
        seen.add(name)


def audited(job: Job) -> dict[str, dict[str, float]]:
    """How far a random sample of the job's rows lies from what must hold, other engines and other precisions."""
    pairs = [pair for pair in job.pairs if job.rows(pair)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    runs, rows, _ = layout([pairs[i] for i in sorted(chosen)], job)
    found = {}
    if job.engine == "sweep":
        found["engine"] = audit(job.model, runs, rows, job.limits)
    found["identities"] = identity_audit(job.model, runs, rows, job.limits, ENGINES[job.engine])
    if job.model.dtype in REDUCED and job.compare_precision:
        found["precision"] = precision_audit(job.model, runs, rows, job.limits, ENGINES[job.engine])
    return found


Change = Callable[[list[Run], list[Row], dict[str, list[object]]], list[Row]]
"""takes runs, rows and the columns that say what each row is, and returns what is measured in the place of the rows"""


def measure_chunk(
    job: Job, pairs: Sequence[TokenPair], advance: Callable[[int], None], change: Change | None = None
) -> pd.DataFrame:
    """Rows of the table for a few pairs; `change` puts other rows in their place."""
    runs, rows, labels = layout(pairs, job)
    if not rows:
        return tidy(pd.DataFrame(columns=[*LABELS, *NUMBERS, *LOGS]))
    rows = rows if change is None else change(runs, rows, labels)
    measured = ENGINES[job.engine](job.model, runs, rows, limits=job.limits, progress=advance)
    table = pd.concat([pd.DataFrame(labels), logs_of(rows, measured)], axis=1)
    without = {pair.index for pair in pairs if pair.answers[2] is None}
    table.loc[table["pair"].isin(without), [name for name in LOGS if name.endswith("neutral")]] = np.nan
    return tidy(table)


def layout(
    pairs: Sequence[TokenPair], job: Job, *, cells: bool = True
) -> tuple[list[Run], list[Row], dict[str, list[object]]]:
    """The runs and rows of a few pairs, and the columns of the table that say what each row is; runs alone if asked."""
    runs: list[Run] = []
    rows: list[Row] = []
    labels: dict[str, list[object]] = {name: [] for name in LABELS + NUMBERS}
    for pair in pairs:
        clean = len(runs)
        runs += runs_of(pair, job.corruption, job.scale, job.model.d_model, job.probabilities)
        filled = job.cells(pair) if cells else []
        same = labels_of_pair(pair) | labels_of_cells(
            filled, job.model.tokenizer.convert_ids_to_tokens(list(pair.clean))
        )
        for sample in range(job.corruption.samples):
            for direction in job.directions:
                rows += [row_of(cell, direction, clean, clean + 1 + sample) for cell in filled]
                for name, value in (same | {"direction": direction, "sample": sample}).items():
                    labels[name] += value if isinstance(value, list) else [value] * len(filled)
    return runs, rows, labels


def labels_of_pair(pair: TokenPair) -> dict[str, object]:
    """The columns that say which pair a row is of; one value for all its rows."""
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


def logs_of(rows: Sequence[Row], measured: Measurement) -> pd.DataFrame:
    """The columns that were measured, nats."""
    base = measured.runs[[row.base for row in rows]]
    source = measured.runs[[row.source for row in rows]]
    return pd.DataFrame(np.concatenate([base, source, measured.rows], axis=1), columns=LOGS)
