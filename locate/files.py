"""Writing files whole or not at all, where they are kept, and content hashes."""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import LocateError

if TYPE_CHECKING:
    import pandas as pd


def cache_folder() -> Path:
    """Where locate keeps what is expensive to compute: $XDG_CACHE_HOME/locate or ~/.cache/locate."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "locate"


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """Let `write` fill a temporary neighbour of `path`, then rename it: readers never see half a file.

    Raises LocateError when the file cannot be written (disk full, read-only, no permission); `path` is then unchanged.
    """
    partial = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.partial{path.suffix}")  # others may write it too
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        partial.replace(path)
    except OSError as error:
        raise LocateError(f"cannot write {path}: {error}: free some space or choose another folder") from error
    finally:
        with suppress(OSError):
            partial.unlink()
    return path


def write_text(path: Path, text: str) -> Path:
    """Write UTF-8 text, whole or not at all."""
    return write_whole(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: object) -> Path:
    """Write strict JSON (a nan or an infinity becomes null), whole or not at all."""
    return write_text(path, json.dumps(strict(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_parquet(path: Path, table: pd.DataFrame, **options: Any) -> Path:
    """Write a table as parquet, whole or not at all.

    options  of pyarrow's writer

    Raises LocateError where a column holds values of several types, or the file cannot be written.
    """
    try:
        return write_whole(path, lambda partial: table.to_parquet(partial, index=False, **options))
    except (ValueError, TypeError) as error:  # pyarrow's own
        said = " ".join(str(error).split())[:200]
        raise LocateError(
            f"{path} cannot hold its table ({said}): expected columns with values of one type each"
        ) from error


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises LocateError when it is missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=no_number)
    except FileNotFoundError:
        raise LocateError(f"no file {path}: expected one that locate has written") from None
    except OSError as error:
        raise LocateError(f"{path} cannot be read ({error.strerror}): expected a JSON file") from None
    except ValueError as error:
        raise LocateError(f"{path} is not JSON ({error}): expected one that locate has written") from None


def no_number(word: str) -> Any:
    """Refuse NaN and infinities, which strict JSON does not have."""
    raise ValueError(f"it holds {word}")


def strict(value: object) -> object:
    """The value with every nan or infinity turned into None, which JSON can hold."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [strict(item) for item in value]
    return value


def hash_of(value: object) -> str:
    """sha256 of a JSON value in canonical form, 64 hex digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def hash_of_files(paths: list[Path]) -> str:
    """sha256 over the bytes of the files, in the order given.

    Raises LocateError for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                while block := file.read(1 << 22):
                    digest.update(block)
        except OSError as error:
            raise LocateError(f"{path} cannot be read ({error.strerror}): check its permissions") from None
    return digest.hexdigest()


def shuffle_names(names: Sequence[str], seed: int) -> list[str]:
    """Names in an order that depends on the seed and each name alone, so that a longer list keeps the order."""
    return sorted(set(names), key=lambda name: hashlib.sha256(f"{seed}:{name}".encode()).hexdigest())
