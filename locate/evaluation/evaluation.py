"""What an evaluation found: scores, the tables behind them, and their origin; kept in a folder and read again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.scores import Score, label
from locate.files import read_json, write_json, write_parquet, write_whole
from locate.notebook import LISTED, Rows, first_rows, title
from locate.schema import validate
from locate.words import without_folders

FILE, SCORES, TABLES = "evaluation.json", "scores.csv", "items"
NUMBERS = ("value", "low", "high")
KINDS = {"bias": "bias", "control": "to be kept", "ability": "ability"}
"""kind of a score: in words, in the order in which they are shown"""


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The scores of one model.

    meta    the provenance, as evaluation.json holds it
    scores  in the order of the tests
    tables  test: one row per item with what the model said of it
    """

    meta: dict[str, Any]
    scores: tuple[Score, ...]
    tables: dict[str, pd.DataFrame]

    @property
    def name(self) -> str:
        """The model's name."""
        return str(self.meta["model"]["name"])

    def of(self, test: str) -> Rows[Score]:
        """The scores of one test."""
        return Rows(score for score in self.scores if score.test == test)

    def frame(self) -> pd.DataFrame:
        """One row per score, with the columns of `Score`."""
        return pd.DataFrame([asdict(score) for score in self.scores])

    def as_json(self) -> dict[str, Any]:
        """The content of evaluation.json."""
        return self.meta | {"scores": [asdict(score) for score in self.scores]}

    def save(self, folder: str | Path) -> Path:
        """Write evaluation.json, scores.csv and items/TEST.parquet, each whole or not at all; returns the first path.

        Raises LocateError when a file cannot be written.
        """
        folder = Path(folder)
        for name, table in self.tables.items():
            write_table(folder, name, table)
        return self.save_scores(folder)

    def save_scores(self, folder: Path) -> Path:
        """Write evaluation.json and scores.csv, for tables that are there already."""
        frame = self.frame()
        write_whole(
            folder / SCORES,
            lambda partial: frame.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n"),
        )
        return write_json(folder / FILE, self.as_json())

    def _repr_html_(self) -> str:
        main = main_scores(self.scores)
        rows = [{"score": label(each), "kind": KINDS[each.kind]} | each.cells() for each in main[:LISTED]]
        return title(f"Bias and ability of {without_folders(self.name)}") + first_rows(rows, len(self.scores))


def main_scores(scores: Sequence[Score]) -> list[Score]:
    """Scores of whole tests, of the parts of tests without a score of the whole, and controls; by kind."""
    whole = {score.test for score in scores if not score.part}
    return [
        score
        for kind in KINDS
        for score in scores
        if score.kind == kind and (not score.part or score.test not in whole or kind == "control")
    ]


def write_table(folder: Path, name: str, table: pd.DataFrame) -> Path:
    """Write the table of one test, whole or not at all."""
    return write_parquet(table_path(folder, name), table)


def table_path(folder: Path, name: str) -> Path:
    """Where the table of a test is kept."""
    return folder / TABLES / f"{name}.parquet"


def read_table(folder: Path, name: str, rows: int) -> pd.DataFrame:
    """The table of one test.

    Raises LocateError when it is missing, is not a table, or has another number of rows.
    """
    path = table_path(folder, name)
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LocateError(f"{path} cannot be read ({str(error)[:120]}): evaluate the model again") from None
    if len(table) != rows:
        raise LocateError(f"{path} has {len(table)} rows, but {FILE} says {rows}: evaluate the model again")
    return table


def read_meta(folder: Path) -> dict[str, Any]:
    """The content of evaluation.json.

    Raises LocateError when it is missing or does not fit its schema.
    """
    content: dict[str, Any] = read_json(folder / FILE)
    validate(content, "evaluation", folder / FILE)
    return content


def load_evaluation(folder: str | Path) -> Evaluation:
    """Read what `evaluate` has written.

    Raises LocateError when a file is missing, or does not fit its schema or the other files.
    """
    folder = Path(folder)
    content = read_meta(folder)
    scores = Rows(read_score(each) for each in content.pop("scores"))
    tables = {name: read_table(folder, name, about["rows"]) for name, about in content["tests"].items()}
    stray = next((score for score in scores if score.test not in tables), None)
    if stray is not None:
        raise LocateError(f"{folder / FILE} has a score of test {stray.test!r}, which it does not list: evaluate again")
    return Evaluation(content, scores, tables)


def read_score(content: dict[str, Any]) -> Score:
    """A score, with nan for unknown numbers."""
    return Score(**content | {name: math.nan if content[name] is None else float(content[name]) for name in NUMBERS})
