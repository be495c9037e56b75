"""trace(): measure every patch in every pair, in chunks that can be resumed."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from locate.errors import LocateError
from locate.files import hash_of, strict
from locate.memory import default, peak
from locate.models import Model
from locate.plain import measure as measure_plainly
from locate.prompts.build import occupation_pairs
from locate.prompts.pair import Prompts
from locate.prompts.tokens import MAX_DROPPED, Ledger, TokenPair, tokenise
from locate.rows import Limits, Measured, Row, Run
from locate.schema import TRACE_VERSION, library_version, locate_version
from locate.sites import DIRECTIONS, Patch, Write, check
from locate.sweep import measure as sweep
from locate.tracing.audit import PAIRS, audit
from locate.tracing.corrupt import Corruption, Noise, Swap, as_executed, noise_scale, runs_of
from locate.tracing.folder import RunFolder
from locate.tracing.plan import Cell, Map, cells_of_map, cells_of_patches, hash_of_patches, row_of
from locate.tracing.table import LABELS, LOGS, NUMBERS, Trace, tidy

CHUNK_ROWS = 20_000  # rows measured, and kept on disk, at a time: large enough for the sweep to fill its batches
CHUNK_PAIRS = 64
ENGINES = {"sweep": sweep, "plain": measure_plainly}
LIBRARIES = ("transformer-lens", "torch", "transformers", "numpy", "pandas")

Progress = Callable[[int, int], None]
"""called with the rows done and the rows planned"""


@dataclass(frozen=True, eq=False)
class Job:
    """Everything that decides what is measured."""

    model: Model
    pairs: list[TokenPair]
    ledger: Ledger
    forms: Sequence[Patch]
    patches: Sequence[Patch] | None
    roles: tuple[str, ...] | None
    directions: tuple[str, ...]
    corruption: Corruption
    scale: float
    limits: Limits
    engine: str

    def cells(self, pair: TokenPair) -> list[Cell]:
        """The cells of one pair."""
        if self.patches is not None:
            return list(cells_of_patches(self.patches, pair))
        return list(cells_of_map(self.forms, self.roles, pair))

    def rows(self, pair: TokenPair) -> int:
        """How many rows of the table a pair will fill."""
        if self.patches is not None:
            return len(self.cells(pair)) * len(self.directions) * self.corruption.samples
        tokens = sum(self.roles is None or token.role in self.roles for token in pair.aligned)
        return tokens * len(self.forms) * len(self.directions) * self.corruption.samples

    @property
    def chunk(self) -> int:
        """Pairs measured, and kept on disk, at a time: the same on every machine, so that any of them can resume."""
        rows = sum(self.rows(pair) for pair in self.pairs) / len(self.pairs)
        return max(1, min(CHUNK_PAIRS, round(CHUNK_ROWS / rows)))


def trace(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    patches: Sequence[Patch] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    corruption: Corruption | None = None,
    output: str | Path | None = None,
    batch_size: int | None = None,
    memory: int | None = None,
    engine: str = "sweep",
    max_dropped: float = MAX_DROPPED,
    progress: Progress | None = None,
) -> Trace:
    """Run the clean, corrupted and patched prompts, and keep the answers' log-probabilities.

    prompts      pairs; None for the package's occupations under the anti-stereotypical swap
    map          which components, layers, roles and windows to patch, one token at a time; None for all layers and
                 tokens of resid_pre, attn_out and mlp_out
    patches      instead of a map: the caller's own patches, each written at once
    directions   "denoising" (clean activations into the corrupted run), "noising" (the reverse), or both; the natural
                 direct effect needs both
    corruption   Swap() or Noise(); None for Swap()
    output       run folder: filled as the run goes, and resumed when it holds the same run unfinished
    batch_size   prompts executed at once, at most; None for as many as fit
    memory       bytes that may be used besides the model; None for a share of what is free on its device
    engine       "sweep" (every row from where it begins to differ) or "plain" (every row at full depth, with hooks);
                 both are exact
    max_dropped  largest share of pairs that the tokenizer may make unusable, in [0, 1]

    Raises LocateError for unusable prompts or patches, or an output folder that holds something else.
    """
    limits = Limits(default(model.device) if memory is None else memory, batch_size)
    way = corruption or Swap()
    job = prepare(model, prompts, map, patches, tuple(directions), way, max_dropped, limits, engine)
    meta = starting_meta(job, prompts_of(prompts), map)
    folder = RunFolder.open(output, meta) if output is not None else None
    done = folder.finished() if folder is not None else None
    if done is not None:
        return done
    started = time.monotonic()
    if engine == "sweep":
        meta["audit"] = audited(job)
    table = collect(job, folder, progress)
    end = {"status": "complete", "rows": len(table), "seconds": time.monotonic() - started}
    result = Trace(table, meta | end | {"memory": {"allowed": limits.memory, "peak": peak(model.device)}})
    if folder is not None:
        folder.finish(result)
    return result


def prompts_of(prompts: Prompts | None) -> Prompts:
    """The prompts given, or the package's own."""
    return occupation_pairs() if prompts is None else prompts


def prepare(
    model: Model,
    prompts: Prompts | None,
    map: Map | None,
    patches: Sequence[Patch] | None,
    directions: tuple[str, ...],
    corruption: Corruption,
    max_dropped: float,
    limits: Limits,
    engine: str,
) -> Job:
    """Check the arguments against the model and each other."""
    for direction in directions:
        check("direction", direction, DIRECTIONS)
    if not directions or len(set(directions)) != len(directions):
        raise LocateError(f"directions {directions}: expected denoising, noising or both, each once")
    check("engine", engine, tuple(ENGINES))
    if map is not None and patches is not None:
        raise LocateError("both a map and patches were given: expected one of them")
    map = map or Map()
    if patches is None:
        components = set(map.components) | set(map.severed)
        model.supported(components)
        forms = map.forms(model.n_layers, {name: model.units(name) for name in map.components})
    else:
        model.supported({write.site.component for patch in patches for write in patch.writes})
        apart(patches)
        for patch in patches:
            for write in patch.writes:
                fits(model, write)
        forms = []
    if isinstance(corruption, Noise):
        model.embedded()
    executed = as_executed(prompts_of(prompts), corruption)
    pairs, ledger = tokenise(executed, model.encode, max_dropped=max_dropped)
    scale = noise_scale(model, pairs, corruption)
    job = Job(model, pairs, ledger, forms, patches, map.roles, directions, corruption, scale, limits, engine)
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
    width = {"head": model.d_head, "neuron": None}.get(site.component, model.d_model)
    shape = () if width is None else (width,)
    if isinstance(write.origin, torch.Tensor) and tuple(write.origin.shape) != shape:
        raise LocateError(f"vector of shape {tuple(write.origin.shape)} for {site}: expected {shape}")


def apart(patches: Sequence[Patch]) -> None:
    """Raise LocateError when two patches would have one name in the table."""
    seen = set()
    for patch in patches:
        name = (patch.anchor, patch.window, patch.severed, patch.origin)
        if name in seen:
            raise LocateError(f"two patches are filed at {patch.anchor}: trace them apart, or give them other anchors")
        seen.add(name)


def starting_meta(job: Job, prompts: Prompts, map: Map | None) -> dict[str, Any]:
    """meta.json as it stands before anything is measured."""
    model = job.model
    patches = hash_of_patches(job.forms if job.patches is None else job.patches)
    corruption = job.corruption.describe() | ({"scale": job.scale} if isinstance(job.corruption, Noise) else {})
    meta: Any = strict(
        {
            "schema": TRACE_VERSION,
            "status": "running",
            "rows": 0,
            "recipe": {
                "schema": TRACE_VERSION,
                "locate": locate_version(),
                "weights_sha256": model.checkpoint.weights_sha256,
                "tokenizer_sha256": model.checkpoint.tokenizer_sha256,
                "config_sha256": model.checkpoint.config_sha256,
                "dtype": model.dtype,
                "prepend_bos": model.prepend_bos,
                "prompts_sha256": prompts.hash,
                "patches_sha256": hash_of([patches, job.roles]),
                "directions": "+".join(job.directions),
                "corruption": ", ".join(f"{key} {value}" for key, value in job.corruption.describe().items()),
                "chunk": job.chunk,
                "engine": job.engine,
            },
            "model": model.provenance(),
            "device": model.device,
            "checks": dict(model.checks),
            "modules": model.module_templates(),
            "prompts": {"pairs": len(prompts), "sha256": prompts.hash},
            "ledger": job.ledger.as_json(),
            "map": None if job.patches is not None else asdict(map or Map()),
            "directions": list(job.directions),
            "corruption": corruption,
            "libraries": {name: library_version(name) for name in LIBRARIES}
            | {"locate-bias": locate_version(), "python": platform.python_version()},
            "seconds": 0.0,
        }
    )
    return dict(meta)


def audited(job: Job) -> dict[str, float]:
    """What a random sample of the job's rows differs by between the two engines (see `locate.tracing.audit`)."""
    pairs = [pair for pair in job.pairs if job.rows(pair)]
    chosen = np.random.default_rng(0).permutation(len(pairs))[:PAIRS]
    runs, rows, _ = layout([pairs[i] for i in sorted(chosen)], job)
    return audit(job.model, runs, rows, job.limits)


def collect(job: Job, folder: RunFolder | None, progress: Progress | None) -> pd.DataFrame:
    """The whole table, chunk by chunk; chunks already on disk are read instead of measured."""
    planned, done = sum(job.rows(pair) for pair in job.pairs), 0

    def advance(rows: int) -> None:
        nonlocal done
        done += rows
        if progress is not None:
            progress(done, planned)

    parts = []
    for chunk, start in enumerate(range(0, len(job.pairs), job.chunk)):
        part = folder.read_part(chunk) if folder is not None else None
        if part is None:
            part = measure_chunk(job, job.pairs[start : start + job.chunk], advance)
            if folder is not None:
                folder.write_part(chunk, part)
        else:
            advance(len(part))
        parts.append(part)
    return tidy(pd.concat([part.astype(dict.fromkeys(LABELS, "object")) for part in parts], ignore_index=True))


def measure_chunk(job: Job, pairs: Sequence[TokenPair], advance: Callable[[int], None]) -> pd.DataFrame:
    """Rows of the table for a few pairs."""
    runs, rows, labels = layout(pairs, job)
    if not rows:
        return tidy(pd.DataFrame(columns=[*LABELS, *NUMBERS, *LOGS]))
    measured = ENGINES[job.engine](job.model, runs, rows, limits=job.limits, progress=advance)
    table = pd.concat([pd.DataFrame(labels), logs_of(rows, measured)], axis=1)
    without = {pair.index for pair in pairs if pair.answers[2] is None}
    table.loc[table["pair"].isin(without), [name for name in LOGS if name.endswith("neutral")]] = np.nan
    return tidy(table)


def layout(pairs: Sequence[TokenPair], job: Job) -> tuple[list[Run], list[Row], list[dict[str, object]]]:
    """The runs and rows of a few pairs, and what each row is called in the table."""
    runs: list[Run] = []
    rows: list[Row] = []
    labels: list[dict[str, object]] = []
    for pair in pairs:
        clean = len(runs)
        runs += runs_of(pair, job.corruption, job.scale, job.model.d_model)
        cells = job.cells(pair)
        tokens = job.model.tokenizer.convert_ids_to_tokens(list(pair.clean))
        for sample in range(job.corruption.samples):
            for direction in job.directions:
                rows += [row_of(cell, direction, clean, clean + 1 + sample) for cell in cells]
                labels += [labels_of(pair, cell, direction, sample, tokens) for cell in cells]
    return runs, rows, labels


def labels_of(pair: TokenPair, cell: Cell, direction: str, sample: int, tokens: Sequence[str]) -> dict[str, object]:
    """The columns that say what a row is."""
    anchor, token = cell.patch.anchor, cell.token
    return {
        "pair": pair.index,
        "group": pair.pair.group,
        "template": pair.pair.template,
        "kind": pair.pair.kind,
        "stereotype": pair.pair.stereotype,
        "clean": pair.pair.clean,
        "corrupted": pair.pair.corrupted,
        "direction": direction,
        "sample": sample,
        "component": anchor.component,
        "layer": anchor.layer,
        "unit": -1 if anchor.unit is None else anchor.unit,
        "window": cell.patch.window,
        "severed": cell.patch.severed,
        "origin": cell.patch.origin,
        "role": cell.role,
        "token": "" if token is None else tokens[token.clean],
        "clean_pos": -1 if token is None else token.clean,
        "corrupted_pos": -1 if token is None else token.corrupted,
    }


def logs_of(rows: Sequence[Row], measured: Measured) -> pd.DataFrame:
    """The columns that were measured, nats."""
    base = measured.runs[[row.base for row in rows]]
    source = measured.runs[[row.source for row in rows]]
    return pd.DataFrame(np.concatenate([base, source, measured.rows], axis=1), columns=LOGS)
