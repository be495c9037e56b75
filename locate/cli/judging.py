"""The verb `locate-bias evaluate`, and what `compare` says of two evaluations."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.completion import TEST_LIST
from locate.cli.options import (
    MODEL_HELP,
    OUTPUT,
    AllowPickle,
    AsJson,
    Bos,
    BosOption,
    Chat,
    Device,
    Dtype,
    Formats,
    Jobs,
    RayOption,
    Revision,
    Threads,
    TrustCode,
    check_seed,
    format_list,
    run_folder,
    split,
)
from locate.cli.sharing import (
    ShardOption,
    SlurmOption,
    executor_of,
    print_slurm,
    start_early,
    tell_shard,
    threads_of,
    threads_of_run,
)
from locate.errors import LocateError

if TYPE_CHECKING:
    from rich.table import Table

    from locate.cli.steps import Steps
    from locate.evaluation.change import EvaluationChange
    from locate.evaluation.chunks import TestStep
    from locate.evaluation.evaluation import Evaluation
    from locate.evaluation.scores import Score


Judged = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
TESTS = "Tests and their data"
CHANGES = 3.0  # seconds that the intervals of changes take, about
SOURCE_HELP = (
    "data of one test: TEST=FILE, TEST=FOLDER, or TEST=OWNER/NAME[:CONFIGURATION[:SPLIT]] on the hub; repeatable"
)
LIMIT_HELP = "largest number of items of a test, drawn at random (of bbq and blimp: of each category or paradigm)"


def evaluate(
    model: Judged = "mini",
    tests: Annotated[
        str | None,
        typer.Option(
            autocompletion=TEST_LIST,
            rich_help_panel=TESTS,
            help="names separated by commas; default: all whose data is bundled or in --data",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(rich_help_panel=TESTS, help="folder of data sets; every test whose files are in it is run"),
    ] = None,
    source: Annotated[list[str] | None, typer.Option(rich_help_panel=TESTS, help=SOURCE_HELP)] = None,
    text: Annotated[
        Path | None,
        typer.Option(rich_help_panel=TESTS, help="text that perplexity is measured on; default: bundled prose"),
    ] = None,
    limit: Annotated[int | None, typer.Option(rich_help_panel=TESTS, help=LIMIT_HELP)] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=TESTS, help="seed of that draw")] = 0,
    device: Device = None,
    threads: Threads = None,
    jobs: Jobs = None,
    ray: RayOption = None,
    shard: ShardOption = None,
    slurm: SlurmOption = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="folder; default: runs/MODEL-evaluation"),
    ] = None,
    formats: Formats = "html,png,svg,pdf",
    as_json: AsJson = False,
) -> None:
    """Run tests of bias and ability on a model, with intervals.

    The same command continues an evaluation that was stopped.
    """
    from locate.cli.steps import Steps

    check_seed(seed)
    wanted, sources = format_list(formats), parsed_sources(source or [], text)
    folder = run_folder(output, model, "evaluation")
    if slurm is not None:
        print_slurm(slurm, [folder], threads, device, jobs, shard, ray)
        return
    count = threads_of(threads, jobs, shard, folder, ray) or threads_of_run(folder)
    asked = None if tests is None else split("--tests", tests)
    with Steps() as steps, executor_of(jobs, shard, ray) as executor:
        steps.say("loading the model")
        from locate.evaluation.run import evaluate as run_tests
        from locate.model.causal import load_causal

        reading: dict[str, Any] = {
            "allow_pickle": allow_pickle,
            "trust_remote_code": trust_remote_code,
            "revision": revision,
        }
        reading |= {"bos": bos.value, "chat": chat}
        start_early(executor, model, dtype, device, reading, load_causal)
        loaded = load_causal(model, device=device, dtype=dtype, threads=count, **reading)
        steps.notes(loaded.notes)
        found = run_tests(
            loaded,
            tests=asked,
            data=data,
            sources=sources,
            limit=limit,
            seed=seed,
            folder=folder,
            executor=executor,
            step=progress(steps),
        )
        tell = (lambda as_json: tell_shard(folder, as_json)) if shard else conclude_judged(found, folder, wanted, steps)
    tell(as_json)


def conclude_judged(found: Evaluation, folder: Path, wanted: Sequence[str], steps: Steps) -> Callable[[bool], None]:
    """Draw the figure of an evaluation into its folder; return what prints the answer."""
    from locate.cli.following import after_evaluation
    from locate.cli.show import print_following, print_paths, tell_page
    from locate.cli.steps import Work
    from locate.cli.writing import drawing
    from locate.report.evaluation import write_evaluation_figure

    steps.expect([Work("figure", drawing(1, wanted))])
    steps.say("figure")
    paths, missing = write_evaluation_figure(found, folder, wanted)

    def tell(as_json: bool) -> None:
        if as_json:
            print_json(found.as_json())
            return
        print_evaluation(found)
        print_paths([folder / name for name in ("evaluation.json", "scores.csv")] + paths, missing)
        tell_page(paths)
        print_following(after_evaluation(found, folder))

    return tell


def gather_judged(folder: Path, formats: Sequence[str]) -> Callable[[bool], None]:
    """End an evaluation that several shards have filled; return what prints it."""
    from locate.cli.steps import Steps
    from locate.evaluation.folder import gather_evaluation

    found = gather_evaluation(folder)
    with Steps() as steps:
        return conclude_judged(found, folder, formats, steps)


def parsed_sources(given: Sequence[str], text: Path | None) -> dict[str, str | Path]:
    """The sources by test.

    Raises LocateError for one without a test, and for two of one test.
    """
    found: dict[str, str | Path] = {}
    for each in [*given, *([] if text is None else [f"perplexity={text}"])]:
        name, equals, place = each.partition("=")
        if not (name and equals and place):
            raise LocateError(f"--source {each!r}: expected TEST=FILE, TEST=FOLDER or TEST=OWNER/NAME")
        if name in found:
            raise LocateError(f"test {name!r} has two sources, {str(found[name])!r} and {place!r}: give one")
        found[name] = place
    return found


def progress(steps: Steps) -> TestStep:
    """Progress that names the tests under way, with the time left of them: how long the others take is not known."""
    under: dict[str, tuple[float, int]] = {}
    told: dict[str, Callable[[float, int], None]] = {}  # that of the last line: its pace begins when the line does

    def step(test: str, done: float, total: int) -> None:
        under[test] = done, total
        names = [name for name, (some, all_of) in under.items() if some < all_of] or [test]
        line = ", ".join(names)
        if line not in told:
            told.clear()
            told[line] = steps.counted(line, "this test" if len(names) == 1 else "these tests")
        told[line](sum(under[name][0] for name in names), sum(under[name][1] for name in names))

    return step


def print_json(content: object) -> None:
    """A result for programs."""
    from locate.files import strict

    print(json.dumps(strict(content), indent=2, ensure_ascii=False))


def print_evaluation(found: Evaluation) -> None:
    """The main scores of a model, and what was left out."""
    from locate.cli.show import print_whole, stdout
    from locate.evaluation.evaluation import main_scores

    console = stdout()
    shown = main_scores(found.scores)
    title = f"{found.name}, {found.meta['model']['dtype']} on {found.meta['device']}"
    print_whole(console, score_table(shown, title, console.is_terminal))
    if len(shown) < len(found.scores):
        console.print(f"{len(found.scores) - len(shown)} more scores, of parts of the data, are in scores.csv")
    for name, about in found.meta["tests"].items():
        for reason, count in about["skipped"].items():
            console.print(f"{name}: {count} items left out: {reason}", soft_wrap=True)
        if about["items"] < about["of"]:
            console.print(
                f"{name}: {about['items']} of {about['of']} items, at most {about['limit']} of "
                f"{about['limit_is_for']}, drawn "
                f"with seed {found.meta['recipe']['seed']}",
                soft_wrap=True,
            )
    if found.meta["left_out"]:
        console.print(f"not run, because their data is missing: {', '.join(found.meta['left_out'])}", soft_wrap=True)


def score_table(scores: Sequence[Score], title: str, short: bool = False) -> Table:
    """Scores with their intervals; a short one leaves out columns that are empty or 0 throughout."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    columns: dict[str, list[str]] = {
        "test": [score.test for score in scores],
        "score": [score.name for score in scores],
        "part": [score.part for score in scores],
        "value, 95% interval": [interval(score.value, score.low, score.high) for score in scores],
        "unit": [score.unit for score in scores],
        "ideal": ["" if score.ideal is None else f"{score.ideal:g}" for score in scores],
    }
    for name in ("n", "groups", "ties", "skipped", "empty"):
        columns[name] = [f"{getattr(score, name):,}" for score in scores]
    if short:
        columns = {title: cells for title, cells in columns.items() if set(cells) - {"", "0"}}
    for title in columns:
        left = title in ("test", "score", "part", "unit")
        table.add_column(title, justify="left" if left else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A number with its interval, as far as there is one."""
    if math.isnan(value):
        return "none"
    return f"{value:{sign}.4g}" + (
        "" if math.isnan(low) or math.isnan(high) else f" [{low:{sign}.4g}, {high:{sign}.4g}]"
    )


def compare_judged(first: Path, second: Path, folder: Path, formats: str, seed: int, as_json: bool) -> None:
    """Compare two evaluation folders, write the changes with their figure, and print them."""
    from locate.cli.show import print_paths, tell_page
    from locate.cli.steps import Steps, Work
    from locate.cli.writing import PAGE, drawing
    from locate.evaluation.change import compare_evaluations
    from locate.evaluation.evaluation import load_evaluation
    from locate.report.evaluation import write_evaluation_change

    wanted = format_list(formats)
    with Steps() as steps:
        steps.expect([Work("changes", CHANGES), Work("figures", drawing(1, wanted)), Work("report", PAGE)])
        steps.say("changes")
        found = compare_evaluations(load_evaluation(first), load_evaluation(second), seed=seed)
        paths, missing = write_evaluation_change(found, folder, formats=wanted, step=steps.say)
    if as_json:
        print_json(found.as_json() | {"paths": [str(path) for path in paths]})
        return
    print_changes(found)
    print_paths(paths, missing)
    tell_page(paths)


def print_changes(found: EvaluationChange) -> None:
    """The changes of the main scores, what needs both models, and what differs besides."""
    from rich.table import Table

    from locate.cli.show import print_whole, stdout
    from locate.evaluation.evaluation import main_scores

    console = stdout()
    console.print(
        f"A {found.before.name}, B {found.after.name}{'; the weights are the same' if found.same_weights else ''}"
    )
    for name, pair in found.differing.items():
        console.print(f"{name}: {str(pair[0])[:16]} in A, {str(pair[1])[:16]} in B")
    table = Table(title="changes from A to B", title_justify="left", box=None, pad_edge=False)
    for name in ("test", "score", "part", "A", "B", "change, 95% interval", "unit", "noise", "paired"):
        table.add_column(name, justify="right" if name in ("A", "B", "change, 95% interval") else "left", no_wrap=True)
    changes = {each.before.key: each for each in found.changes}
    shown = main_scores([each.before for each in found.changes])
    for score in shown:
        each = changes[score.key]
        noise = {None: "", True: "within", False: "beyond"}[each.within_noise]
        table.add_row(
            score.test, score.name, score.part, f"{each.before.value:.4g}", f"{each.after.value:.4g}",
            interval(each.change, each.low, each.high, "+"), score.unit, noise, "yes" if each.paired else "no",
        )  # fmt: skip
    print_whole(console, table)
    if len(shown) < len(changes):
        console.print(f"{len(changes) - len(shown)} more changes, of parts of the data, are in changes.csv")
    if found.retained:
        print_whole(console, score_table(found.retained, "of B given A", console.is_terminal))
    for side, labels in (("A", found.only_before), ("B", found.only_after)):
        if labels:
            console.print(f"only in {side}: {'; '.join(labels)}", soft_wrap=True)
