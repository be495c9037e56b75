"""Versions and schemas of the files that locate writes."""

import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema

from locate.errors import LocateError

TRACE_VERSION = 2
COMPARE_VERSION = 2
EDIT_VERSION = 1
RECEIPT_VERSION = 2
LOCATED_VERSION = 3
EVALUATION_VERSION = 1
LIBRARIES = ("transformer-lens", "torch", "transformers", "numpy", "pandas")


def locate_version() -> str:
    """Version of the installed distribution."""
    return library_version("locate-bias")


def library_version(distribution: str) -> str:
    """Version of an installed distribution, or "not installed"."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def programs() -> dict[str, str]:
    """Versions of what a trace is computed with; another one may round otherwise."""
    libraries = {name: library_version(name) for name in LIBRARIES}
    return libraries | {"locate-bias": locate_version(), "python": platform.python_version()}


@cache
def schema(name: str) -> dict[str, Any]:
    """One of the package's JSON Schemas, by name."""
    text = files("locate").joinpath("schemas", f"{name}.schema.json").read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def validate(value: Any, name: str, where: str | Path) -> None:
    """Raise LocateError, naming the place in the file, unless a JSON value fits the schema of that name."""
    error = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema(name)).iter_errors(value))
    if error is not None:
        place = "/".join(str(step) for step in error.absolute_path) or "the top"
        raise LocateError(f"{where} does not fit the schema {name!r} at {place}: {error.message[:200]}")
