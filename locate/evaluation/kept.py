"""Measurements of a test that are kept by content, so that one model is not measured twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

import locate
from locate.evaluation.run import network_hash, row_as_json
from locate.evaluation.scores import Items, Step, Test
from locate.files import cache_folder, hash_of, hash_of_files, write_parquet

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

MEASURES = ("evaluation", "model", "prompts")  # the rooms whose code says what a measurement is


def measure_once(
    model: CausalModel,
    test: Test,
    items: Items,
    step: Step,
    *,
    network: str | None = None,
    folder: Path | None = None,
) -> pd.DataFrame:
    """What `test.measure` finds, kept under a hash of everything that it depends on.

    network  the model's `network_hash`, where it is known; None to take it
    folder   where it is kept; None for the user's cache
    """
    path = kept_path(model, test, items, network or network_hash(model), folder=folder)
    found = read_kept(path)
    if found is None:
        found = test.measure(model, items, step)
        write_parquet(path, found)
    return found


def kept_path(model: CausalModel, test: Test, items: Items, network: str, *, folder: Path | None = None) -> Path:
    """The file that keeps a measurement, named by a hash of everything that it depends on.

    These are the parameters in memory, tokenizer, what stands before a text, dtype, device, items and locate's code.
    """
    about = {
        "network": network,
        "tokenizer": model.checkpoint.tokenizer_sha256,
        "dtype": model.dtype,
        "device": model.device,
        "items": [row_as_json(row) for row in items.rows],
        "code": code_sha256(MEASURES),
        **model.encoder.provenance(),
    }
    return (folder or cache_folder()) / f"measured-{test.name}-{hash_of(about)[:32]}.parquet"


def read_kept(path: Path) -> pd.DataFrame | None:
    """The table in a file; None where the file is missing or damaged, so that it has to be measured again."""
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError):
        return None


def code_sha256(rooms: tuple[str, ...]) -> str:
    """A hash of the code and tables of some rooms of the package: numbers made by others do not belong together."""
    home = Path(locate.__file__).parent
    paths = (path for room in rooms for path in sorted((home / room).rglob("*")))
    return hash_of_files([path for path in paths if path.suffix in (".py", ".csv")])
