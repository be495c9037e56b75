"""What was measured so far: two tables in a folder, to which every finished edit is added whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, write_json, write_whole

KEY = ["editor", "layers", "seed"]
FILES = ("edits.csv", "words.csv")
RECIPE = "recipe.json"


def label(layers: tuple[int, ...]) -> str:
    """A set of layers as the tables have it: "0+2+4"."""
    return "+".join(map(str, layers))


def numbers(name: str) -> tuple[int, ...]:
    """The layers of a label."""
    return tuple(int(part) for part in str(name).split("+"))


@dataclass
class Kept:
    """The edits measured in a folder.

    recipe  what they have in common: model, prompts, settings; a folder with another one is refused
    edits   one row an edit: editor, layers ("0+2+4"), seed, size (how many layers), located (whether it is the located
            set), and its scores
    words   one row an edit and held-out occupation: summed size of the log-odds before and after (nats), and prompts
    """

    folder: Path
    recipe: dict[str, Any]
    edits: pd.DataFrame = field(default_factory=pd.DataFrame)
    words: pd.DataFrame = field(default_factory=pd.DataFrame)

    @staticmethod
    def open(folder: Path, recipe: dict[str, Any]) -> Kept:
        """Go on in a folder, or begin one.

        Raises LocateError when it holds edits of another recipe, with both values of what differs.
        """
        if not (folder / RECIPE).is_file():
            write_json(folder / RECIPE, recipe)
            return Kept(folder, recipe)
        old = read_json(folder / RECIPE)
        for name in sorted({*old, *recipe}):
            if old.get(name) != recipe.get(name):
                raise LocateError(
                    f"{folder} holds edits with {name} {old.get(name)!r}, these have {recipe.get(name)!r}: choose "
                    "another --out, or remove that folder"
                )
        kept = Kept(folder, recipe)
        if (folder / FILES[0]).is_file():
            kept.edits, kept.words = (pd.read_csv(folder / name, dtype={"layers": str}) for name in FILES)
            done = pd.MultiIndex.from_frame(kept.edits[KEY])
            kept.words = kept.words[pd.MultiIndex.from_frame(kept.words[KEY]).isin(done)]
        return kept

    def has(self, editor: str, layers: tuple[int, ...], seed: int) -> bool:
        """Whether an edit was measured before."""
        if self.edits.empty:
            return False
        return bool((self.edits[KEY] == [editor, label(layers), seed]).all(axis=1).any())

    def add(self, editor: str, layers: tuple[int, ...], seed: int, row: dict[str, Any], words: pd.DataFrame) -> None:
        """Add a finished edit, in an order that does not depend on which was finished first.

        Its words are on the disk before its row says that they are.
        """
        about = {"editor": editor, "layers": label(layers), "seed": seed}
        new = words.assign(**about)[[*KEY, *words.columns]]
        self.words = pd.concat([self.words, new]).sort_values(KEY, kind="stable", ignore_index=True)
        self.edits = pd.concat([self.edits, pd.DataFrame([about | row])]).sort_values(KEY, ignore_index=True)
        for name, table in reversed(list(zip(FILES, (self.edits, self.words), strict=True))):
            write_csv(table, self.folder / name)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whole or not at all."""
    return write_whole(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))
