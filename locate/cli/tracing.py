"""What `locate-bias trace` does once its options are read: one run, or a run of each of several models and a table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.ending import Shown, conclude
from locate.cli.options import MODEL, folder_name, split
from locate.cli.sharing import start_early, tell_shard
from locate.errors import LocateError

if TYPE_CHECKING:
    import pandas as pd
    from rich.table import Table

    from locate.cli.steps import Steps
    from locate.mediation.located import Located
    from locate.model.hooked import Model
    from locate.prompts.pair import Prompts
    from locate.study.plan import Plan
    from locate.tracing.plan import Map
    from locate.tracing.progress import Progress
    from locate.tracing.stage import Settings
    from locate.work import Executor

ModelsOption = Annotated[
    str | None,
    typer.Option(
        "--models",
        metavar="A,B,...",
        rich_help_panel=MODEL,
        help="trace several models, one after the other, and end with one table of what was found in each",
    ),
]
TABLE = "models.csv"
OF_ONE = "for this model"  # the time left
Tell = Callable[[bool], None]


@dataclass(frozen=True)
class Asked:
    """A trace that is asked for, of whatever model.

    beside    what is measured beside the map
    reading   options of `load` that say how a model is read
    given     the same as they stand on the command line, for the commands to type next
    shown     what is derived from the run
    figures   about how many
    shared    whether other processes fill the same run folder
    """

    prompts: Prompts
    map: Map
    directions: tuple[str, ...]
    beside: Plan
    settings: Settings
    device: str | None
    dtype: str
    threads: int | None
    reading: dict[str, Any]
    given: Mapping[str, object]
    shown: Shown
    figures: int
    shared: bool

    def load(self, name: str, executor: Executor, steps: Steps) -> Model:
        """The model, here and in the processes that share the work."""
        from locate.model.loading import load

        start_early(executor, name, self.dtype, self.device, self.reading)
        model = load(name, device=self.device, dtype=self.dtype, threads=self.threads, **self.reading)
        steps.notes(model.notes)
        return model

    def run(self, name: str, folder: Path, executor: Executor, steps: Steps, place: str = "") -> tuple[Tell, Any]:
        """Trace a model; return what prints the answer, and what was located, None for a shard.

        place  of the model among several, in words, for the progress
        """
        from locate.cli.writing import Writing
        from locate.study.trace import run
        from locate.tracing.stage import Stage

        writing = Writing(self.figures, self.shown.formats)

        def follow(found: Progress) -> None:
            steps.progress(among(writing.follow(found), place))

        result = run(
            self.load(name, executor, steps),
            Stage("map", self.prompts, self.map, self.directions),
            self.beside,
            self.settings,
            output=folder,
            executor=executor,
            progress=follow,
        )
        if self.shared:
            return lambda as_json: tell_shard(folder, as_json), None
        writing.rows = len(result)
        works = writing.works()
        return conclude(result, folder, self.shown, steps, works, model=name, reading=self.given)


def among(found: Progress, place: str) -> Progress:
    """Progress of one of several models, which says so; its time left is that of this model."""
    return found if not place else replace(found, stage=f"{place}: {found.stage}", whole=OF_ONE)


def named_models(text: str, model: str, *, dry_run: bool) -> dict[str, str]:
    """The models of a list separated by commas, each with the name of its run folder.

    Raises LocateError beside another model or a forecast, and for two that would share a folder.
    """
    if model != "mini":
        raise LocateError(f"--models {text} with --model {model}: give one of them")
    if dry_run:
        raise LocateError("--dry-run forecasts one model: give it with --model")
    names = split("--models", text)
    folders = {name: folder_name(name) for name in names}
    if len(set(folders.values())) < len(names):
        folders = {name: "_".join(map(folder_name, Path(name).parts[-2:])) for name in names}
    if len(names) < 2 or len(set(folders.values())) < len(names):
        raise LocateError(f"--models {text}: expected at least two, each once, with names of their own")
    return folders


def trace_models(asked: Asked, models: dict[str, str], folder: Path, executor: Executor, steps: Steps) -> Tell:
    """Trace one model after the other; return what prints their table.

    A model that cannot be traced is named, and the others are traced all the same.
    """
    located: list[Located] = []
    folders, failed = [], {}
    for number, (name, own) in enumerate(models.items(), 1):
        place = f"model {number} of {len(models)}, {own}"
        steps.begin_one(OF_ONE)
        steps.say(f"{place}: loading")
        try:
            _, found = asked.run(name, folder / own, executor, steps, place)
        except LocateError as error:
            failed[name] = str(error)
            continue
        folders.append(folder / own)
        if found is not None:
            located.append(found)
    if asked.shared:
        return tell_shards(folders, failed)
    return tell_table(located, folders, failed, folder)


def check_failed(failed: dict[str, str]) -> None:
    """Raise LocateError where models could not be traced, with what was said of each."""
    if failed:
        raise LocateError("not traced: " + "; ".join(f"{name} ({reason})" for name, reason in failed.items()))


def tell_shards(folders: Sequence[Path], failed: dict[str, str]) -> Tell:
    """That a shard is done with all models, and what to type once all shards have ended."""

    def tell(as_json: bool) -> None:
        for each in folders:
            tell_shard(each, as_json)
        check_failed(failed)

    return tell


def tell_table(located: Sequence[Located], folders: Sequence[Path], failed: dict[str, str], folder: Path) -> Tell:
    """Write the table of all models; return what prints it."""
    from locate.files import strict, write_whole
    from locate.mediation.model_table import model_table

    if not located:
        check_failed(failed)
    table = model_table(located).assign(run=[str(each) for each in folders])
    path = folder / TABLE
    write_whole(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g", lineterminator="\n"))

    def tell(as_json: bool) -> None:
        if as_json:
            rows = table.astype(object).where(table.notna(), None).to_dict("records")
            print(json.dumps(strict({"models": rows, "not_traced": failed, "table": str(path)}), indent=2))
        else:
            print_models(table, path)
        check_failed(failed)

    return tell


def print_models(table: pd.DataFrame, path: Path) -> None:
    """The table of several models."""
    from locate.cli.show import print_paths, print_whole, say, stdout

    console = stdout()
    units = " or ".join(dict.fromkeys(table["unit"]))
    say(console, f"Total effect and strongest site of each model, in {units}, with 95% intervals:")
    print_whole(console, shown_table(table))
    print_paths([path], "")
    for run in table["run"]:
        say(console, f"open it in a browser: {Path(run) / 'report.html'}")


def shown_table(table: pd.DataFrame) -> Table:
    """The columns that matter most, one line for each model."""
    from rich.table import Table

    from locate.report.answer import SHORT
    from locate.words import chance, decimals, role_words, signed, without_folders

    shown = Table(box=None, pad_edge=False)
    for name in ("model", "layers", "total effect", "strongest site", "its effect", "share", "q", "located layers"):
        left = name in ("model", "strongest site", "located layers")
        shown.add_column(name, justify="left" if left else "right")
    for row in table.to_dict("records"):
        digits = decimals(abs(row["total"]))

        def ends(value: float, low: float, high: float, digits: int = digits) -> str:
            return f"{signed(value, digits)} [{signed(low, digits)}, {signed(high, digits)}]"

        cells = ["none: the total effect may be 0", "", "", ""]
        if isinstance(row["component"], str):
            site = f"{SHORT[row['component']]} {row['layer']:.0f}, {role_words(row['role'], 'subject')}"
            share = "" if row["share"] != row["share"] or row["share"] is None else f"{row['share']:.2f}"
            cells = [site, ends(row["effect"], row["low"], row["high"]), share, chance(row["q"])]
        total = ends(row["total"], row["total_low"], row["total_high"])
        where = f"{SHORT.get(row['layers_component'] or '', '')} {row['layers']}".strip() if row["layers"] else "none"
        shown.add_row(without_folders(row["model"]), str(row["n_layers"]), total, *cells, where)
    return shown
