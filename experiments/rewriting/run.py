"""What training adds to prompting: a model rewrites WinoBias+ and ParaDetox, asked, shown examples, and tuned.

    python experiments/rewriting/run.py --data DATA [--model FOLDER] [--sets winobias_plus paradetox] [--limit 300]

DATA is a folder with `winobias_plus/pairs.jsonl.gz` and `paradetox/paradetox.tsv.gz`. Rewriters, rewrites and their
tables are kept in --work, where the same command goes on; the summaries go to --out.
"""

from __future__ import annotations

import argparse
import math
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import locate
from locate.files import write_text, write_whole
from locate.model.causal import CausalModel
from locate.rewriting.measures import WORD, read_word_list
from locate.rewriting.originals import Original, Originals, drawn_rows, read_originals
from locate.rewriting.request import Request
from locate.rewriting.rewrite import rewrite_file
from locate.rewriting.train import Rewriter, read_request, train_rewriter
from locate.rewriting.verdict import judge_file

HERE = Path(__file__).resolve().parent
PROMPTED, SHOWN, TUNED = "prompted", "prompted, 3 examples", "tuned"
SYSTEMS = (PROMPTED, SHOWN, TUNED)
EXAMPLES = 3
SEED = 0
OFTEN, TIMES = 5, 4.0  # a listed word is in so many toxic texts, and so many times as often as in their rewrites


@dataclass(frozen=True)
class Task:
    """A data set, and what a model is asked to do with its texts.

    listed  whether words that mark the texts of the training rows, and not their rewrites, are counted
    """

    file: str
    instruction: str
    listed: bool = False


TASKS = {
    "winobias_plus": Task(
        "winobias_plus/pairs.jsonl.gz",
        "Rewrite the text so that it does not say whether anyone is a woman or a man: use they, them and their. Keep "
        "every other word. Answer with the new text only.",
    ),
    "paradetox": Task(
        "paradetox/paradetox.tsv.gz",
        "Rewrite the text so that it insults nobody and holds no swear words. Keep what it says. Answer with the new "
        "text only.",
        listed=True,
    ),
}


def main() -> None:
    """Train, rewrite, judge, and write the summaries."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with winobias_plus and paradetox")
    parser.add_argument("--model", default="models/smollm2-135m-instruct", help="an instruct model")
    parser.add_argument("--sets", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--limit", type=int, default=300, help="held-out rows that are rewritten, drawn at random")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--work", type=Path, default=Path("build/rewriting"), help="where unfinished work is kept")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    for name in options.sets:
        task = TASKS[name]
        source = options.data / task.file
        rows = read_originals(source, seed=SEED)
        kept = sorted(drawn_rows(rows.held_out, options.limit, SEED))
        words = word_list(rows, options.work / name) if task.listed else frozenset()
        for system in options.systems:
            output = options.work / name / f"{system.replace(', ', '-').replace(' ', '-')}.jsonl"
            model, request = asked(options, task, rows, system, output)
            print(f"{name}, {system}: {len(kept)} rows", file=sys.stderr, flush=True)
            rewrite_file(model, source, output, request, lines=kept)
            judge_file(output, output.with_suffix(""), words=words)
    write_results(options.work, options.out)


def asked(
    options: argparse.Namespace, task: Task, rows: Originals, system: str, output: Path
) -> tuple[CausalModel, Request]:
    """The model of a system, and how it is asked."""
    request = Request(task.instruction)
    if system == SHOWN:
        lines = drawn_rows(rows.train, EXAMPLES, SEED)
        shown = tuple((row.text, row.references[0]) for row in rows.train if row.line in lines)
        return locate.load_causal(options.model), Request(task.instruction, shown)
    if system == PROMPTED:
        return locate.load_causal(options.model), request
    folder = output.with_name("rewriter")
    if not folder.exists():
        started = time.monotonic()
        train_rewriter(
            locate.load_causal(options.model),
            rows,
            Rewriter(rate=options.rate, epochs=options.epochs, seed=SEED),
            folder,
            request=request,
            step=lambda done, of: print(
                f"training: step {done} of {of}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True
            ),
        )
    return locate.load_causal(str(folder)), read_request(folder) or request


def word_list(rows: Originals, folder: Path) -> frozenset[str]:
    """Words of the training texts that their rewrites avoid, which the package itself carries no list of."""
    path = folder / "words.txt"
    if not path.exists():
        write_text(path, "".join(f"{word}\n" for word in sorted(marking_words(rows.train))))
    return read_word_list(path)


def marking_words(rows: tuple[Original, ...]) -> set[str]:
    """Words in several texts that are in far fewer of their first rewrites."""
    before = Counter(word for row in rows for word in words_of(row.text))
    after = Counter(word for row in rows for word in words_of(row.references[0]))
    return {word for word, count in before.items() if count >= OFTEN and count >= TIMES * max(1, after[word])}


def words_of(text: str) -> set[str]:
    """The different words of a text, in lower case."""
    return {word.casefold() for word in WORD.findall(text) if re.fullmatch(r"[^\W\d_]+", word)}


def write_results(work: Path, out: Path) -> None:
    """One table of all summaries that are there, and their Markdown."""
    parts = []
    for name in TASKS:
        for system in SYSTEMS:
            path = work / name / system.replace(", ", "-").replace(" ", "-") / "summary.csv"
            if path.exists():
                parts.append(pd.read_csv(path).assign(set=name, system=system))
    table = pd.concat(parts, ignore_index=True)
    table = table[["set", "system", *(name for name in table.columns if name not in ("set", "system"))]]
    write_whole(out / "summary.csv", lambda partial: table.to_csv(partial, index=False))
    write_text(out / "table.md", markdown(table))


def markdown(table: pd.DataFrame) -> str:
    """A table for each data set: one line for each system, and one for the untouched originals."""
    shown = {
        "exact": "exact match, %",
        "word_error_rate": "word error rate, %",
        "chrf": "chrF",
        "gendered": "gendered words",
        "listed": "listed words",
        "empty": "empty, %",
        "refused": "refused, %",
        "copied": "copied, %",
        "cut": "cut, %",
    }
    lines = []
    for name, own in table.groupby("set", sort=False):
        names = [measure for measure in shown if measure in set(own["measure"])]
        lines += [f"### {name}", "", f"| system | {' | '.join(shown[each] for each in names)} | rows |"]
        lines.append("|---|" + "---|" * len(names) + "---:|")
        first = own[own["system"] == own["system"].iloc[0]]
        lines.append(line_of("untouched originals", first[first["rows"] == "original"], names))
        for system, each in own.groupby("system", sort=False):
            lines.append(line_of(str(system), each[each["rows"] == "all"], names))
        lines.append("")
    return "\n".join(lines)


def line_of(system: str, rows: pd.DataFrame, names: list[str]) -> str:
    """One line of that table."""
    by_name = {row.measure: row for row in rows.itertuples()}
    cells = []
    for name in names:
        row = by_name.get(name)
        if row is None:
            cells.append("")
        else:
            ends = "" if math.isnan(row.low) else f" [{row.low:.3g}, {row.high:.3g}]"
            cells.append(f"{row.value:.3g}{ends}")
    return f"| {system} | {' | '.join(cells)} | {max(row.n for row in by_name.values())} |"


if __name__ == "__main__":
    main()
