"""What the command line prints: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from locate.files import strict
from locate.mediation.effect_table import OCCUPATION
from locate.mediation.located import Located
from locate.prompts.tokens import Ledger, TokenPair
from locate.report.write import Report
from locate.tracing.table import Trace

if TYPE_CHECKING:
    from locate.planted.finding import Finding
    from locate.study.forecast import RunForecast
    from locate.tracing.progress import Progress

SHOWN = 10
PLAIN_EVERY = 15.0  # seconds between lines where stderr is not a terminal
TERMINAL_EVERY = 0.2


class Steps:
    """Progress on stderr: a line that is rewritten on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self.live = Live(console=self.console, transient=True, refresh_per_second=5)
        self.started = self.shown = 0.0
        self.first = 0
        self.stage = ""
        self.timed = False

    def __enter__(self) -> Steps:
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self.live.stop()

    def say(self, step: str) -> None:
        """Name what is being done."""
        if self.console.is_terminal:
            self.live.update(Text(f"{step} ..."))
        else:
            self.console.print(f"{step} ...", soft_wrap=True)

    def notes(self, sentences: Sequence[str]) -> None:
        """Sentences that stay on the screen: what a reader of the numbers has to know."""
        for each in sentences:
            self.console.print(f"note: {each}", markup=False, soft_wrap=True)

    def progress(self, found: Progress) -> None:
        """How far a run is; a line for each stage at the least, and one as soon as the time left is known."""
        now, timed = time.monotonic(), found.left is not None
        every = TERMINAL_EVERY if self.console.is_terminal else PLAIN_EVERY
        if found.stage == self.stage and timed <= self.timed and now - self.shown < every:
            return
        self.stage, self.timed, self.shown = found.stage, timed, now
        self.say(progress_line(found))

    def rows(self, done: int, planned: int) -> None:
        """Rows done so far, the rate, and an estimate of the time left."""
        now = time.monotonic()
        if not self.started:
            self.started, self.first = now, done
        if now - self.shown < (TERMINAL_EVERY if self.console.is_terminal else PLAIN_EVERY) and done < planned:
            return
        self.shown = now
        self.say(rows_line(done, planned, done - self.first, now - self.started))


def progress_line(found: Progress) -> str:
    """One line on the stage that is measured, its rate, and the time left for it and all that follows.

    Where nothing is known of what follows, the time left is that of the stage.
    """
    line = f"{found.stage}: {found.done:,} of {found.planned:,}"
    if found.rate is not None:
        line += f", {pace(found.rate)} a second"
    if found.left is not None:
        return f"{line}; about {duration(found.left)} left in all"
    if found.rate is None:
        return line
    return f"{line}; about {duration((found.planned - found.done) / found.rate)} left of this part"


def pace(rate: float) -> str:
    """Things a second."""
    return f"{rate:,.{0 if rate >= 3 else 1}f}"


def duration(seconds: float) -> str:
    """A time in seconds or minutes."""
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def rows_line(done: int, planned: int, measured: int, seconds: float) -> str:
    """One line on the rows done; the rate counts only what was measured now, not what a resumed run found."""
    line = f"measuring: {done:,} of {planned:,} rows"
    if measured and seconds > 1:
        rate = measured / seconds
        line += f", {pace(rate)} a second, about {duration((planned - done) / rate)} left"
    return line


def site_table(located: Located, shown: int = SHOWN) -> Table:
    """The strongest sites."""
    about = (
        [located.unit, located.direction]
        if located.kind == OCCUPATION
        else [located.unit, located.direction, located.kind]
    )
    title = f"{located.quantity} of {located.metric} ({', '.join(about)})"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in located.head():
        table.add_column(name, justify="left" if name in ("component", "role") else "right", no_wrap=True)
    for cells in located.rows()[:shown]:
        table.add_row(*cells)
    return table


def stdout() -> Console:
    """A console on stdout that never wraps a table when it is piped."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(highlight=False, markup=False, width=160)


def print_located(located: Located, paths: Sequence[Path], as_json: bool) -> None:
    """The located sites, or the JSON of located.json."""
    if as_json:
        print(json.dumps(strict(located.as_json()), indent=2, ensure_ascii=False))
        return
    console = stdout()
    effect, low, high = located.total
    console.print(
        f"total effect {effect:+.3f} [{low:+.3f}, {high:+.3f}] {located.unit}; positive is {located.positive}"
    )
    if located.without_stereotype:
        console.print(f"{located.without_stereotype} pairs have no stereotype and are left out")
    if located.sites:
        console.print(site_table(located))
    for limit in located.limits():
        console.print(limit)
    console.print(f"\n{located.layers_line()}", soft_wrap=True)
    print_paths(paths, "")


def print_forecast(found: RunForecast, as_json: bool) -> None:
    """What a run would cost."""
    content = found.as_json()
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


def print_report(trace: Trace, report: Report, as_json: bool) -> None:
    """What a trace found and where it was written."""
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
        console.print(f"  {count} left out: {reason}")
    print_notes(ledger)
    console.print()
    print_located(report.located, report.paths, False)
    for line in report.lines:
        console.print(line, soft_wrap=True)
    if report.missing:
        Console(stderr=True, highlight=False).print(report.missing, markup=False)


def print_paths(paths: Sequence[Path], missing: str) -> None:
    """The files written: a few by name, a folder's figures together."""
    folders: dict[Path, list[str]] = {}
    for path in paths:
        folders.setdefault(path.parent, []).append(path.name)
    console = stdout()
    for folder, names in folders.items():
        listed = ", ".join(names) if len(names) <= 4 else f"{len(names)} files"
        console.print(f"written to {folder}: {listed}", soft_wrap=True)
    if missing:
        Console(stderr=True, highlight=False).print(missing, markup=False)


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
