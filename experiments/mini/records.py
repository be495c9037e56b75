"""Records of the training runs that made `mini`, each of which continued the one before: curves and settings."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd


def folders(results: Path) -> list[Path]:
    """The folders run-1, run-2 and so on, in order."""
    return sorted(results.glob("run-*"), key=lambda path: int(path.name.removeprefix("run-")))


def keep(work: Path, results: Path, number: int) -> None:
    """Copy what a run wrote to its working folder, without the steps it repeated after it was cut off."""
    target = results / f"run-{number}"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(work / "training.json", target)
    curve = pd.read_csv(work / "curve.csv").drop_duplicates("step", keep="last")
    curve.to_csv(target / "curve.csv", index=False)


def settings(results: Path) -> list[dict[str, Any]]:
    """Settings of each run."""
    return [json.loads((folder / "training.json").read_text()) for folder in folders(results)]


def curve(results: Path) -> pd.DataFrame:
    """One curve: steps, tokens and seconds count on from run to run; `run` says which it is."""
    parts: list[pd.DataFrame] = []
    before = pd.Series({"step": 0, "tokens": 0, "seconds": 0})
    for number, folder in enumerate(folders(results), 1):
        part = pd.read_csv(folder / "curve.csv")
        part[before.index] += before
        parts.append(part.assign(run=number))
        before = part[before.index].iloc[-1]
    return pd.concat(parts, ignore_index=True)
