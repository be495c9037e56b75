"""The trace: a table of log-probabilities with its provenance, and how it is saved and read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, write_json, write_parquet
from locate.metrics import ANSWERS
from locate.notebook import as_table, title
from locate.schema import TRACE_VERSION, validate
from locate.words import NAMES, without_folders

LABELS = ["group", "template", "kind", "clean", "corrupted", "direction", "component", "severed", "origin"]
LABELS += ["role", "key", "name", "token"]
NUMBERS = ["pair", "stereotype", "sample", "layer", "unit", "window", "clean_pos", "corrupted_pos"]
LOGS = [f"{run}_{answer}" for run in ("base", "source", "patched") for answer in ANSWERS]
SITE = ["component", "layer", "unit", "window", "severed", "origin", "role", "key", "name"]

TRACE_FILE, META_FILE = "trace.parquet", "meta.json"
CONTROLS, ESTIMATES, SETS = BESIDE = ("controls", "estimates", "sets")  # tables that a run may have beside its own
CONTROL = "control"


@dataclass(frozen=True, eq=False)
class Trace:
    """What was measured: one row per pair, sample, patch and direction; nothing is derived yet.

    table  columns
           pair, group, template, kind, stereotype, clean, corrupted   the pair (see `Pair`)
           direction      "denoising" (base = corrupted, source = clean) or "noising" (the reverse)
           sample         noise draw, 0 under swap
           component, layer, unit, window, severed                     the patch; unit is -1 for whole vectors
           origin         where its values come from: "source", "base", "zero", "given", or several joined by +
           key, name      tokens attended to, of a pattern; the caller's name for a patch; "" for others
           role, token, clean_pos, corrupted_pos                       where; -1 when a patch writes several tokens
           base_*, source_*, patched_*   log-probabilities (nats) of the female, male and neutral answer at the last
                                         token of the base run, the source run, and the base run with the patch;
                                         nan for a neutral answer that is not one token; logits where meta says
                                         that probabilities were left out
    meta   provenance: schema and library versions, model, prompts, ledger, corruption, seconds
    controls   the same columns, and `control`, which control each row belongs to; None where none were run
    estimates  of a run within a budget: one row per site and direction of the whole map, with `estimate` (nats, in the
               view of meta) and `chosen` ("top", "audit", both joined by +, or ""); None for other runs
    sets       the columns of `table`, for sets of sites by name; None where none were measured
    """

    table: pd.DataFrame
    meta: dict[str, Any]
    controls: pd.DataFrame | None = None
    estimates: pd.DataFrame | None = None
    sets: pd.DataFrame | None = None

    def __len__(self) -> int:
        return len(self.table)

    def save(self, folder: str | Path) -> Path:
        """Write trace.parquet, meta.json and the tables beside them into a folder."""
        folder = Path(folder)
        write_parquet(folder / TRACE_FILE, self.table)
        for name in BESIDE:
            if getattr(self, name) is not None:
                write_parquet(folder / f"{name}.parquet", getattr(self, name))
        write_json(folder / META_FILE, self.meta)
        return folder

    def _repr_html_(self) -> str:
        model, ledger = self.meta["model"], self.meta["ledger"]
        layers = sorted(int(each) for each in self.table["layer"].unique())
        beside = [name for name in BESIDE if getattr(self, name) is not None]
        facts = {
            "rows": f"{len(self):,}",
            "pairs": f"{ledger['kept']} ({ledger['dropped']} dropped, {ledger['skipped']} skipped)",
            "corruption": str(self.meta["corruption"]["kind"]),
            "directions": ", ".join(self.meta["directions"]),
            "components": ", ".join(NAMES[each] for each in self.table["component"].unique()),
            "layers": ", ".join(map(str, layers)) if len(layers) < 3 else f"{layers[0]} to {layers[-1]}",
            "measured beside it": ", ".join(beside) or "nothing",
            "seconds": f"{self.meta['seconds']:.0f}",
        }
        name = f"Trace of {without_folders(model['name'])} ({model['architecture']}, {model['dtype']})"
        return title(name) + as_table([{"what": name, "value": value} for name, value in facts.items()])


def whole_sites(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of one site, or a window around it, copied from the source: not severed, no named set, no other origin.

    The rows are those of a trace's table, or of effects and averages made from it.
    """
    return rows[(rows["severed"] == "") & (rows["origin"] == "source") & (rows["name"] == "")]


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """The table in its fixed column order and types."""
    table = table[["pair", *[name for name in LABELS + NUMBERS if name != "pair"], *LOGS]].copy()
    for name in LABELS:
        table[name] = table[name].astype(str).astype("category")
    for name in NUMBERS:
        table[name] = table[name].astype("int32")
    return table


def load_trace(folder: str | Path) -> Trace:
    """Read a finished trace from its run folder; needs no model.

    Raises LocateError when the folder holds none, an unfinished one, or one of another schema version.
    """
    folder = Path(folder)
    if not (folder / META_FILE).is_file():
        raise LocateError(
            f"{folder} holds no run: expected {META_FILE} and {TRACE_FILE}, as `locate-bias trace` writes them"
        )
    meta = read_json(folder / META_FILE)
    if not isinstance(meta, dict):
        raise LocateError(f"{folder / META_FILE} holds no object: trace again")
    if meta.get("schema") != TRACE_VERSION:
        raise LocateError(
            f"{folder / META_FILE} has schema {meta.get('schema')!r}: expected {TRACE_VERSION}: trace again, or read "
            "it with the locate version that wrote it"
        )
    validate(meta, "meta", folder / META_FILE)
    if meta["status"] != "complete":
        raise LocateError(f"the run in {folder} is unfinished: run the same `locate-bias trace` again to continue it")
    table = read_table(folder / TRACE_FILE)
    missing = [name for name in LABELS + NUMBERS + LOGS if name not in table]
    if missing or len(table) != meta["rows"]:
        raise LocateError(
            f"{folder / TRACE_FILE} has {len(table)} rows and lacks columns {missing}: expected {meta['rows']} rows as "
            f"{META_FILE} says: trace again"
        )
    beside = {name: read_table(folder / f"{name}.parquet") for name in BESIDE if has_table(meta, name)}
    return Trace(tidy(table), meta, **beside)


def has_table(meta: dict[str, Any], name: str) -> bool:
    """Whether a run has that table beside its own: where no control could be measured, meta alone says why."""
    about = meta.get(name) or {}
    return bool(about) and (name != CONTROLS or bool(about.get("rows", 0)))


def read_table(path: Path) -> pd.DataFrame:
    """Read one of a run's tables.

    Raises LocateError when it cannot be read.
    """
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LocateError(f"{path} cannot be read ({error}): trace again") from None
