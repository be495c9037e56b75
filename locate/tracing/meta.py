"""meta.json: where the numbers of a run come from."""

from __future__ import annotations

import platform
from dataclasses import asdict
from typing import Any

from locate.files import hash_of, strict
from locate.model.products import product_library
from locate.schema import TRACE_VERSION, library_version, locate_version
from locate.tracing.plan import Map, hash_of_patches
from locate.tracing.stage import Job

LIBRARIES = ("transformer-lens", "torch", "transformers", "numpy", "pandas")


def starting_meta(job: Job, chosen_by: dict[str, Any] | None = None) -> dict[str, Any]:
    """meta.json of a run's map as it stands before anything is measured.

    chosen_by  how the sites of the map are chosen, None where the user chose; a run is continued only with the same
    """
    model, settings, prompts = job.model, job.settings, job.stage.prompts
    described = settings.corruption.describe()
    corruption = described | ({"scale": job.scale} if job.scale else {})
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
                "quantise": model.quantised,
                "prepend_bos": model.prepend_bos,
                "before": " ".join(model.encoder.provenance()["before"]),
                "prompts_sha256": prompts.hash,
                "patches_sha256": hash_of(patches_of(job)),
                "directions": "+".join(job.stage.directions),
                "corruption": ", ".join(f"{key} {value}" for key, value in described.items()),
                "chunk": f"{job.chunk} pairs, longest first",
                "engine": settings.engine,
                "probabilities": settings.probabilities,
            },
            "model": model.provenance(),
            "device": ", ".join(model.devices),
            "products": product_library(model.dtype, model.device, model.threads),
            "threads": model.threads,
            "memory": {"allowed": job.limits.memory},
            "probabilities": settings.probabilities,
            "checks": dict(model.checks),
            "modules": model.module_templates(),
            "prompts": {"pairs": len(prompts), "sha256": prompts.hash, "answers": prompts.answers},
            "ledger": job.ledger.as_json(),
            "map": None if job.map is None else asdict(job.map),
            "directions": list(job.stage.directions),
            "corruption": corruption,
            "libraries": {name: library_version(name) for name in LIBRARIES}
            | {"locate-bias": locate_version(), "python": platform.python_version()},
            "seconds": 0.0,
        }
    )
    if chosen_by is None:
        return dict(meta)
    return dict(meta) | {"estimates": chosen_by, "recipe": meta["recipe"] | {"chosen_by": hash_of(chosen_by)}}


def patches_of(job: Job) -> object:
    """What is patched, as JSON or its hash."""
    if isinstance(job.stage.patches, Map):
        return [[role, hash_of_patches(forms)] for role, forms in job.forms.items()]
    return hash_of_patches(job.stage.patches)
