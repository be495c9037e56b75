"""What the command line prints on stdout: results, and what to type next."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from locate.cli.table import site_table, table_foot, table_title
from locate.files import strict
from locate.mediation.located import Located
from locate.prompts.tokens import Ledger, TokenPair
from locate.report.answer import answer_lines, control_lines, layers_line
from locate.report.write import Report
from locate.tracing.table import Trace

if TYPE_CHECKING:
    from locate.mediation.analysis import Analysis
    from locate.planted.finding import Finding
    from locate.study.forecast import RunForecast


JOINED = "\N{NO-BREAK SPACE}"  # where a line is not folded


def stdout() -> Console:
    """A console on stdout that never wraps a table when it is piped."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)


def say(console: Console, line: str) -> None:
    """A sentence: folded at spaces on a terminal, where what follows is indented, and in one line elsewhere.

    A number stays on one line with what stands in brackets behind it.
    """
    if console.is_terminal:
        indent = len(line) - len(line.lstrip())
        after = " " * (indent and indent + 2)
        whole = re.sub(
            r"(?<=\d),? (?=\[|\()|(?<=\d), (?=[-+\d.]+\])", lambda found: found[0].replace(" ", JOINED), line
        )
        folded = fill(whole, console.width, subsequent_indent=after, break_long_words=False, break_on_hyphens=False)
        line = folded.replace(JOINED, " ")
    console.print(line, soft_wrap=True)


def print_located(located: Located, paths: Sequence[Path], as_json: bool, analysis: Analysis | None = None) -> None:
    """What was located, in words and as a table, or the JSON of located.json.

    analysis  that it comes from, for what its controls say
    """
    if as_json:
        print(json.dumps(strict(located.as_json()), indent=2, ensure_ascii=False))
        return
    console = stdout()
    evidence = [] if analysis is None or located.quantity != "nie" else control_lines(analysis, located)
    for line in [*answer_lines(located), *located.limits(), *evidence]:
        say(console, line)
    if located.sites:
        print_table(console, located)
    console.print()
    say(console, layers_line(located, analysis))
    print_paths(paths, "")


def print_table(console: Console, located: Located) -> None:
    """The strongest sites with what the columns mean."""
    table, hidden = site_table(located, console.width)
    console.print()
    say(console, table_title(located))
    print_whole(console, table)
    say(console, table_foot(located, hidden))


def print_whole(console: Console, table: Table) -> None:
    """A table of which nothing is cut: words are folded where there is little room, and a number never is.

    Where not even that makes room, the terminal breaks the lines.
    """
    for column in table.columns:
        if column.justify == "left":
            column.no_wrap, column.overflow = False, "fold"
        else:
            column.min_width = max(len(str(cell)) for cell in [column.header, *column.cells])
    unbounded = Console(width=10_000)
    width = console.width
    console.width = max(width, Measurement.get(unbounded, unbounded.options, table).minimum)
    console.print(table, crop=False)
    console.width = width


def print_forecast(found: RunForecast, workers: int, as_json: bool) -> None:
    """What a run would cost, and how long so many processes would share it."""
    content = found.as_json() | {"processes": workers, "shared_seconds": found.shared(workers)}
    if as_json:
        print(json.dumps(content, indent=2))
        return
    main = found.map
    spread = f"between {main.low:.3g} and {main.high:.3g} s"
    lines = [
        f"{main.pairs:,} pairs, {main.rows:,} rows, of which {main.run:,} have to be run",
        f"{main.operations:.2g} floating-point operations",
        f"about {main.seconds:.3g} s of measuring ({spread}), and {main.peak / 1e9:.2f} GB of memory at most",
    ]
    for name, title in (("control", "controls"), ("set", "sets of sites")):
        if content[f"{name}_rows"]:
            seconds = content[f"{name}_seconds"]
            lines.append(f"{title}: about {content[f'{name}_rows']:,} rows and {seconds:.2g} s more")
    if workers > 1:
        lines.append(
            f"shared by {workers} processes, each as fast as this one: about {found.shared(workers):.3g} s in all"
        )
    if main.busy:
        lines.append("the machine is busy with other work, so the time may be far off")
    stdout().print("\n".join(lines), soft_wrap=True)


def print_findings(findings: Sequence[Finding], as_json: bool) -> None:
    """What was planted in each made model, and whether it was found."""
    if as_json:
        print(json.dumps(strict([asdict(each) | {"passed": each.passed} for each in findings]), indent=2))
        return
    console = stdout()
    for each in findings:
        plan, path = each.plan, each.plan.stereotype
        found = each.verdicts | {"definition": each.definition, "attention": each.edges}
        scores = ", ".join(f"{name} {verdict.auroc:.3f}" for name, verdict in found.items())
        console.print(
            f"{'found ' if each.passed else 'MISSED'}  {plan.layout}, {plan.n_layers} layers of {plan.n_heads} heads: "
            f"MLP {path.mlp_layer} at the occupation, head {path.head_layer}.{path.head} at the last token; "
            f"total effect {each.total:+.2f} nats; AUROC: {scores}; at most {each.confused:.0%} by the other path"
        )
    console.print(f"{sum(each.passed for each in findings)} of {len(findings)} found")


def print_report(trace: Trace, report: Report, analysis: Analysis, following: Sequence[str], as_json: bool) -> None:
    """What a trace found, where it was written, how to look at it, and what to type next."""
    if as_json:
        content = {
            "located": report.located.as_json(),
            "evidence": list(report.lines),
            "paths": [str(path) for path in report.paths],
        }
        print(json.dumps(strict(content), indent=2, ensure_ascii=False))
        return
    ledger = trace.meta["ledger"]
    console = stdout()
    console.print(
        f"{ledger['kept']} pairs kept, {ledger['dropped']} dropped, {ledger['skipped']} skipped; {len(trace):,} rows "
        f"in {trace.meta['seconds']:.0f} s",
    )
    for reason, count in ledger["reasons"].items():
        say(console, f"  {count} left out: {reason}")
    print_notes(ledger)
    console.print()
    print_located(report.located, report.paths, False, analysis)
    tell_missing(report.missing)
    tell_page(report.paths)
    print_following(following)


def print_following(commands: Sequence[str]) -> None:
    """What to type next; each command stands in one line, to be copied."""
    if commands:
        console = stdout()
        console.print("what to type next:")
        for each in commands:
            console.print(f"  {each}", soft_wrap=True)


def tell_missing(missing: str) -> None:
    """What could not be written, on stderr."""
    if missing:
        Console(stderr=True, highlight=False).print(missing, markup=False, soft_wrap=True)


def print_paths(paths: Sequence[Path], missing: str) -> None:
    """The files written: a few by name, a folder's figures together."""
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    console = stdout()
    for folder, names in folders.items():
        listed = ", ".join(names) if len(names) <= 4 else f"{len(names)} files"
        console.print(f"written to {folder}: {listed}", soft_wrap=True)
    tell_missing(missing)


def tell_page(paths: Sequence[Path]) -> None:
    """How to look at the report among the files written."""
    for page in [path for path in paths if path.name == "report.html"]:
        stdout().print(f"open it in a browser: {page}", soft_wrap=True)


def print_tokens(
    pairs: Sequence[TokenPair], ledger: Ledger, pieces: Callable[[list[int]], list[str]], as_json: bool
) -> None:
    """Each prompt's tokens with their roles, and the ledger."""
    if as_json:
        listed = [
            {
                "clean": pair.pair.clean,
                "corrupted": pair.pair.corrupted,
                "tokens": list(zip(pieces(list(pair.clean)), pair.clean_roles, strict=True)),
                "corrupted_tokens": list(zip(pieces(list(pair.corrupted)), pair.corrupted_roles, strict=True)),
                "answers": list(pair.answers),
            }
            for pair in pairs
        ]
        print(json.dumps({"pairs": listed, "ledger": ledger.as_json()}, indent=2, ensure_ascii=False))
        return
    console = stdout()
    for pair in pairs:
        for name, ids, roles in (
            ("clean", pair.clean, pair.clean_roles),
            ("corrupted", pair.corrupted, pair.corrupted_roles),
        ):
            tokens = "  ".join(f"{piece}:{role}" for piece, role in zip(pieces(list(ids)), roles, strict=True))
            console.print(f"{name:9} {tokens}", soft_wrap=True)
        answers = " ".join(
            f"{word!r}={token}"
            for word, token in zip((pair.pair.female, pair.pair.male, pair.pair.neutral), pair.answers, strict=True)
        )
        console.print(f"{'answers':9} {answers}\n", soft_wrap=True)
    counts = ledger.as_json()
    console.print(f"{ledger.kept} kept, {len(ledger.dropped)} dropped, {len(ledger.skipped)} skipped")
    for reason, count in counts["reasons"].items():  # type: ignore[attr-defined]
        console.print(f"  {count} left out: {reason}", soft_wrap=True)
    print_notes(counts)


def print_notes(ledger: Mapping[str, Any]) -> None:
    """What the pairs make one say, and of how many."""
    for sentence, count in ledger.get("notes", {}).items():
        stdout().print(f"  note: {sentence} ({count} pair{'s' * (count > 1)})", soft_wrap=True, markup=False)
