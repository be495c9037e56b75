"""The verb `locate-bias compare`, on the application of the other verbs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.completion import DIRECTION
from locate.cli.options import (
    EFFECTS,
    OUTPUT,
    AsJson,
    Formats,
    IntervalSeed,
    Metric,
    Quantity,
    View,
    check_seed,
    folder_name,
    format_list,
)
from locate.errors import LocateError

if TYPE_CHECKING:
    from rich.table import Table

    from locate.mediation.comparison import Comparison
    from locate.report.change_maps import Written

SHOWN = 10
EVALUATION = "evaluation.json"
LISTED = ("dtype", "quantise", "device", "engine", "revision", "before", "tokenizer_sha256")

RunA = Annotated[Path, typer.Argument(metavar="RUN_A", help="run folder or evaluation folder of the first model (A)")]
RunB = Annotated[Path, typer.Argument(metavar="RUN_B", help="the same of the second model (B), made in the same way")]


def compare(
    run_a: RunA,
    run_b: RunB,
    metric: Metric = "logit_diff",
    view: View = None,
    quantity: Quantity = "nie",
    direction: Annotated[
        str | None,
        typer.Option(
            autocompletion=DIRECTION,
            rich_help_panel=EFFECTS,
            help="denoising or noising; default: all that were traced",
        ),
    ] = None,
    overlap: Annotated[
        bool,
        typer.Option(
            "--overlap",
            rich_help_panel=EFFECTS,
            help="say only how many of the strongest sites both share; the prompts of the runs may differ",
        ),
    ] = False,
    strongest: Annotated[
        int | None, typer.Option(rich_help_panel=EFFECTS, help="sites of each set whose overlap is told; default: 10")
    ] = None,
    seed: IntervalSeed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="folder; default: runs/A-to-B")
    ] = None,
    top: Annotated[int, typer.Option(rich_help_panel=OUTPUT, help="number of sites in compare.json")] = 20,
    formats: Formats = "html,png,svg,pdf",
    as_json: AsJson = False,
) -> None:
    """Compare two runs, or two evaluations: every change from A to B, pair by pair or item by item.

    No model is loaded.
    """
    from locate.cli.steps import Steps

    check_seed(seed)
    folder = output or Path("runs") / f"{folder_name(run_a)}-to-{folder_name(run_b)}"
    if any((run / EVALUATION).is_file() for run in (run_a, run_b)):
        from locate.cli.judging import compare_judged

        if (metric, view, quantity, direction, overlap, strongest) != ("logit_diff", None, "nie", None, False, None):
            raise LocateError(f"{run_a} or {run_b} holds an evaluation: leave the options of traces out")
        compare_judged(run_a, run_b, folder, formats, seed, as_json)
        return
    if overlap:
        settings = {"metric": metric, "view": view, "quantity": quantity, "direction": direction, "seed": seed}
        show_overlap(run_a, run_b, settings | {"k": strongest}, as_json)
        return
    from locate.cli.following import after_comparison
    from locate.cli.show import print_following
    from locate.cli.writing import comparison_works
    from locate.mediation import compare_traces
    from locate.report.change_maps import write_comparison
    from locate.tracing import load_trace

    wanted = format_list(formats)
    with Steps() as steps:
        first, second = load_trace(run_a), load_trace(run_b)
        steps.expect(comparison_works(len(first), len(first.meta["directions"]), wanted))
        steps.say("effects")
        found = compare_traces(
            first,
            second,
            metric=metric,
            view=view,
            quantity=quantity,
            direction=direction,
            top=top,
            k=strongest,
            seed=seed,
        )
        models = [each.meta["model"] for each in (first, second)]
        commands = after_comparison(found, (run_a, run_b), models, folder)
        written = write_comparison(found, folder, formats=wanted, step=steps.say, commands=commands)
    print_comparison(found, written, as_json)
    if not as_json:
        print_following(commands)


def show_overlap(run_a: Path, run_b: Path, settings: dict[str, Any], as_json: bool) -> None:
    """How many of the strongest sites two runs share; nothing is written."""
    from dataclasses import asdict

    from locate.cli.show import stdout
    from locate.mediation.comparison import overlap_traces
    from locate.tracing import load_trace

    found = overlap_traces(load_trace(run_a), load_trace(run_b), **settings)
    if as_json:
        print(json.dumps([asdict(each) for each in found], indent=2))
        return
    for each in found:
        stdout().print(f"{each.direction}: {each.text()}")


def print_comparison(found: Comparison, written: Written, as_json: bool) -> None:
    """Totals, what else differs, and the largest changes; or the JSON of compare.json."""
    from locate.cli.show import print_paths, print_whole, say, stdout, tell_page
    from locate.files import strict

    if as_json:
        content = {"comparison": found.as_json(), "paths": [str(path) for path in written.paths]}
        print(json.dumps(strict(content), indent=2, ensure_ascii=False))
        return
    console = stdout()
    console.print(
        f"A {found.a['name']}, B {found.b['name']}{'; the weights are the same' if found.same_weights else ''}"
    )
    for name in [name for name in LISTED if name in found.differing]:
        console.print(f"{name}: {found.differing[name][0]} in A, {found.differing[name][1]} in B")
    for name in ("pairs", "cells"):
        counts = getattr(found, name)
        if counts["only_a"] or counts["only_b"]:
            console.print(f"{name} left out: {counts['only_a']} only in A, {counts['only_b']} only in B")
    if found.without_stereotype:
        console.print(f"{found.without_stereotype} pairs have no stereotype and are left out")
    for total in found.totals:
        console.print(
            f"total effect, {total.direction}: {total.a[0]:+.3f} in A, {total.b[0]:+.3f} in B, change "
            f"{interval(total.change)} {found.unit}, n {total.n}"
        )
    console.print(f"positive is {found.positive}; a positive change is more so in B")
    for each in found.overlaps:
        say(console, f"{each.direction}: {each.text()}")
    if found.sites:
        console.print()
        say(console, change_title(found))
        print_whole(console, change_table(found))
    print_paths(written.paths, written.missing)
    tell_page(written.paths)


def change_table(found: Comparison) -> Table:
    """The largest changes; a column says what makes a patch more than one site, where any is."""
    from rich.table import Table

    from locate.mediation.comparison import more_of
    from locate.report.answer import site_name, with_ends
    from locate.words import chance, decimals, signed

    table = Table(box=None, pad_edge=False)
    shown = found.sites[:SHOWN]
    digits = decimals(max((abs(value) for site in shown for value in (*site.change, site.a[0], site.b[0])), default=0))
    columns = {
        "site": [site_name(site.component, site.layer, site.role, site.unit, "subject") for site in shown],
        "direction": [site.direction for site in shown] if len({site.direction for site in shown}) > 1 else [],
        "patch": [more_of(site) for site in shown] if any(map(more_of, shown)) else [],
        "A": [signed(site.a[0], digits) for site in shown],
        "B": [signed(site.b[0], digits) for site in shown],
        f"change, {found.level:.0%} interval": [with_ends(*site.change, digits) for site in shown],
        "n": [str(site.n) for site in shown] if len({site.n for site in shown}) > 1 else [],
        "q": [chance(site.q) for site in shown],
    }
    columns = {title: cells for title, cells in columns.items() if cells}
    for title in columns:
        table.add_column(title, justify="left" if title in ("site", "direction", "patch") else "right", no_wrap=True)
    for cells in zip(*columns.values(), strict=True):
        table.add_row(*cells)
    return table


def change_title(found: Comparison) -> str:
    """What the table lists, in words."""
    from locate.words import COPIED, QUANTITIES, metric_words

    shown = found.sites[:SHOWN]
    words = metric_words(found.metric, found.answers)
    title = f"Largest changes: {QUANTITIES[found.quantity]} on the {words}, in {found.unit}"
    ways, counts = ({getattr(site, name) for site in shown} for name in ("direction", "n"))
    title += f", values copied {COPIED[ways.pop()]}" if len(ways) == 1 else ""
    return title + (f"; n = {counts.pop()} pairs" if len(counts) == 1 else "")


def interval(value: tuple[float, float, float]) -> str:
    """An average with its interval."""
    return f"{value[0]:+.3f} [{value[1]:+.3f}, {value[2]:+.3f}]"
