"""trace(): measure every patch in every pair, in chunks that can be resumed."""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from locate.files import hash_of, strict
from locate.model.hooked import Model
from locate.model.memory import peak_memory
from locate.model.products import product_library
from locate.prompts.pair import Prompts
from locate.prompts.tokens import MAX_DROPPED
from locate.schema import TRACE_VERSION, library_version, locate_version
from locate.sites import DIRECTIONS, Patch
from locate.tracing.corrupt import Corruption, Noise
from locate.tracing.folder import RunFolder
from locate.tracing.job import Job, audited, measure_chunk, prepare
from locate.tracing.plan import Map, hash_of_patches
from locate.tracing.table import LABELS, Trace, tidy

LIBRARIES = ("transformer-lens", "torch", "transformers", "numpy", "pandas")

Progress = Callable[[int, int], None]
"""called with the rows done and the rows planned"""


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
    compare_precision: bool = True,
    probabilities: bool = True,
    max_dropped: float = MAX_DROPPED,
    progress: Progress | None = None,
    chosen_by: dict[str, Any] | None = None,
) -> Trace:
    """Run the clean, corrupted and patched prompts, and keep the answers' log-probabilities.

    prompts      pairs; None for the package's occupations, each against one of the opposite stereotype
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
    compare_precision  in reduced precision, measure a sample of rows in fp32 too; meta says how far they lie apart
    probabilities  False for the answers' logits in place of their log-probabilities: metrics that compare answers are
                 the same, the others are refused; a quarter faster on small models, whose vocabulary weighs most
    max_dropped  largest share of pairs that the tokenizer may make unusable, in [0, 1]
    chosen_by    how the sites of the map were chosen, for meta; a run is continued only with the same

    Raises LocateError for unusable prompts or patches, or an output folder that holds something else.
    """
    job = prepare(
        model,
        prompts,
        map,
        patches=patches,
        directions=directions,
        corruption=corruption,
        batch_size=batch_size,
        memory=memory,
        engine=engine,
        compare_precision=compare_precision,
        probabilities=probabilities,
        max_dropped=max_dropped,
    )
    meta = starting_meta(job, chosen_by)
    folder = RunFolder.open(output, meta) if output is not None else None
    done = folder.finished() if folder is not None else None
    if done is not None:
        return done
    started = time.monotonic()
    with garbage_of_old_left():
        meta["audit"] = audited(job)
        table = collect(job, folder, progress)
    end = {"status": "complete", "rows": len(table), "seconds": time.monotonic() - started}
    result = Trace(table, meta | end | {"memory": {"allowed": job.limits.memory, "peak": peak_memory(model.device)}})
    if folder is not None:
        folder.finish(result)
    return result


@contextmanager
def garbage_of_old_left() -> Iterator[None]:
    """While it lasts, Python's garbage collector does not look through what was there before.

    Making many small rows sets it off again and again, and each time it would go through all modules and the model: a
    tenth of the time on small models.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def starting_meta(job: Job, chosen_by: dict[str, Any] | None = None) -> dict[str, Any]:
    """meta.json as it stands before anything is measured."""
    model = job.model
    patches = (
        [[role, hash_of_patches(forms)] for role, forms in job.forms.items()]
        if job.patches is None
        else hash_of_patches(job.patches)
    )
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
                "before": " ".join(model.encoder.provenance()["before"]),
                "prompts_sha256": job.prompts.hash,
                "patches_sha256": hash_of(patches),
                "directions": "+".join(job.directions),
                "corruption": ", ".join(f"{key} {value}" for key, value in job.corruption.describe().items()),
                "chunk": f"{job.chunk} pairs, longest first",
                "engine": job.engine,
                "probabilities": job.probabilities,
            },
            "model": model.provenance(),
            "device": model.device,
            "products": product_library(model.dtype, model.device, model.threads),
            "threads": model.threads,
            "probabilities": job.probabilities,
            "checks": dict(model.checks),
            "modules": model.module_templates(),
            "prompts": {"pairs": len(job.prompts), "sha256": job.prompts.hash},
            "ledger": job.ledger.as_json(),
            "map": None if job.map is None else asdict(job.map),
            "directions": list(job.directions),
            "corruption": corruption,
            "libraries": {name: library_version(name) for name in LIBRARIES}
            | {"locate-bias": locate_version(), "python": platform.python_version()},
            "seconds": 0.0,
        }
    )
    if chosen_by is None:
        return dict(meta)
    return dict(meta) | {"estimates": chosen_by, "recipe": meta["recipe"] | {"chosen_by": hash_of(chosen_by)}}


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
    whole = pd.concat([part.astype(dict.fromkeys(LABELS, "object")) for part in parts])
    return tidy(whole.sort_values("pair", kind="stable", ignore_index=True))
