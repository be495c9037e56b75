"""What all replications share: options, running, the result files, and the table of the README.

python experiments/replications/runner.py        write the README's table again from the results
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from rules import Claim, Estimate

import locate
from locate.files import write_json, write_text
from locate.model.encoder import BOS
from locate.model.hooked import Model
from locate.prompts.tokens import Ledger
from locate.report import save_figures

HERE = Path(__file__).resolve().parent
DATA = HERE.parents[2] / "shared" / "data"
START, END = "<!-- results -->", "<!-- end of results -->"


@dataclass(frozen=True)
class Study:
    """A published study, what is asked of it here, and options of its own."""

    name: str
    source: str
    question: str
    extra: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Findings:
    """What a replication found.

    left_out  how many prompts or examples were left out, by reason
    settings  choices that a reader needs: corruption, windows, number of templates
    tables    written as NAME_KEY.csv; figures as NAME_KEY.png
    """

    claims: Sequence[Claim]
    left_out: Mapping[str, int]
    settings: Mapping[str, object]
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, go.Figure] = field(default_factory=dict)


Measure = Callable[[Model, argparse.Namespace], Findings]


def options_of(study: Study, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options that every replication has."""
    parser = argparse.ArgumentParser(description=f"{study.source}: {study.question}")
    parser.add_argument("--model", default="mini", help="mini, a folder, or a Hugging Face id")
    parser.add_argument("--limit", type=int, help="only the first prompts (or examples)")
    parser.add_argument("--device", help="cpu or cuda; the best there is by default")
    parser.add_argument("--bos", choices=BOS, default="auto", help="whether BOS stands in front of every prompt")
    parser.add_argument("--data", type=Path, default=DATA, help="folder with winobias, winogender and vig_mediation")
    parser.add_argument("--out", type=Path, default=HERE / "results", help="folder for the results")
    for name, settings in study.extra.items():
        parser.add_argument(name, **settings)
    return parser.parse_args(arguments)


def main(study: Study, measure: Measure, arguments: Sequence[str] | None = None) -> Path:
    """Run a replication, write its results, and print its claims; the README's table too where results go there.

    What the caller can mend ends it with one line.
    """
    options = options_of(study, arguments)
    started = time.monotonic()
    try:
        model = locate.load(options.model, device=options.device, bos=options.bos)
        findings = measure(model, options)
        path = write(study, model, options, findings, time.monotonic() - started)
    except locate.LocateError as error:
        sys.exit(str(error))
    for claim in findings.claims:
        print(f"{claim.claim}: {claim.ours} (n {claim.ours.n}): {claim.verdict}")
    if options.out == HERE / "results":
        tabulate()
    return path


def write(study: Study, model: Model, options: argparse.Namespace, findings: Findings, seconds: float) -> Path:
    """Write a replication's json, tables and figures into a folder named after the model."""
    folder = options.out / re.sub(r"[^\w.-]+", "_", Path(options.model).name)
    content = {"name": study.name, "source": study.source, "question": study.question} | {
        "model": model.provenance() | {"name": Path(options.model).name},
        "limit": options.limit,
        "seconds": round(seconds, 1),
        "claims": [asdict(claim) for claim in findings.claims],
        "left_out": dict(findings.left_out),
        "settings": dict(findings.settings),
    }
    for key, table in findings.tables.items():
        text = table.to_csv(index=False, float_format="%.5g")
        write_text(folder / f"{study.name}_{key}.csv", text)
    figures = {f"{study.name}_{key}": figure for key, figure in findings.figures.items()}
    missing = save_figures(figures, folder, ("png",))[1]
    if missing:
        print(missing, file=sys.stderr)
    return write_json(folder / f"{study.name}.json", content)


def left_out(ledger: Ledger | Mapping[str, object]) -> dict[str, int]:
    """Reasons and counts of a ledger, or of a trace's meta.json."""
    content = ledger.as_json() if isinstance(ledger, Ledger) else ledger
    reasons = content["reasons"]
    assert isinstance(reasons, dict)
    return {str(reason): int(count) for reason, count in reasons.items()}


def tabulate(results: Path = HERE / "results", readme: Path = HERE / "README.md") -> None:
    """Put the table of all results between the README's marks."""
    text = readme.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    tail = rest.partition(END)[2]
    write_text(readme, f"{head}{START}\n\n{table_of(results)}\n{END}{tail}")


def table_of(results: Path) -> str:
    """The results as Markdown: one table a model, one row a claim."""
    parts = []
    for folder in sorted(each for each in results.iterdir() if each.is_dir()):
        contents = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]
        parts.append(f"### {contents[0]['model']['name']}\n\n{rows_of(contents)}")
    return "\n".join(parts)


def rows_of(contents: Sequence[dict]) -> str:
    """A model's table."""
    lines = [
        "| command, minutes | finding | decided by | published | ours | n (groups) | verdict |",
        "|---|---|---|---|---|---:|---|",
    ]
    for content in contents:
        fewer = "" if content["limit"] is None else f" --limit {content['limit']}"
        first = f"`{content['name']}.py{fewer}`, {content['seconds'] / 60:.1f}"
        for claim in content["claims"]:
            ours = Estimate(**claim["ours"])
            number = f"{ours}; {claim['note']}" if claim["note"] else str(ours)
            cells = [first, claim["claim"], claim["rule"], claim["published"] or "none", number]
            cells += [f"{ours.n:,} ({ours.groups})", f"**{claim['verdict']}**"]
            lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            first = ""
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    tabulate()
