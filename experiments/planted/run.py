"""Which method finds a planted bias, and where does each fail? Eleven kinds of made models, located in several ways.

    python experiments/planted/run.py [--plain 52] [--hard 12] [--jobs 1] [--out FOLDER]

Writes verdicts.csv (a row for each model and method), edges.csv (attention weights), selectivity.csv (stereotype beside
definition), their means in summary.csv, and a figure of it.
"""

import argparse
import sys
import time
from pathlib import Path

import pandas as pd
from figure import draw
from methods import Host, Tables, Trials
from scipy.stats import binomtest

from locate.cli.sharing import executor_of
from locate.errors import LocateError
from locate.model.products import product_library
from locate.planted import Plan, draw_plan
from locate.planted.plan import LAYOUTS, VARIANTS
from locate.work import Executor, Missing, Opening

PAIRED = ("plain", "spread", "or", "vote", "backup")  # variants in which pairs of sites are written too
PAIRED_PLAIN = 12


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the models by variant and method, and how often the strongest sites are planted, with interval."""
    grouped = table.assign(nats=table["recovered"] * table["total"]).groupby(["variant", "method"], sort=False)
    means = grouped[["auroc", "precision", "role"]].mean()
    means["recovered"] = grouped["nats"].sum() / grouped["total"].sum()  # not the mean of shares of small totals
    hits = grouped["first"].agg(hits="sum", models="size")
    spans = [binomtest(hit, models).proportion_ci(method="exact") for hit, models in hits.itertuples(index=False)]
    hits["low"], hits["high"] = [span.low for span in spans], [span.high for span in spans]
    return means.join(hits).reset_index()


def plans(plain: int, hard: int) -> list[Plan]:
    """What is made: models of either layout in turn, each with a seed of its own."""
    counts = {variant: plain if variant == "plain" else hard for variant in VARIANTS}
    return [
        draw_plan(1000 * (1 + place) + index // 2, LAYOUTS[index % 2], variant)
        for place, (variant, count) in enumerate(counts.items())
        for index in range(count)
    ]


def every(planned: list[Plan], executor: Executor) -> Tables:
    """The rows of each table, of one model after the other, wherever each is made and measured."""
    paired = [
        plan.variant in PAIRED and (plan.variant != "plain" or index < PAIRED_PLAIN)
        for index, plan in enumerate(planned)
    ]
    work, host = Trials(tuple(planned), tuple(paired)), Host()
    missing = Missing(
        work=work,
        do=work.prepare(host),
        opening=Opening(Host),
        identity=host.identity,
        pieces=[(place,) for place in range(len(planned))],
        numbers=range(len(planned)),
        products=product_library("float32", "cpu", 1),
    )
    found: dict[int, Tables] = {}
    started = time.monotonic()
    for number, rows in executor(missing):
        found[number] = rows
        left = (time.monotonic() - started) / len(found) * (len(planned) - len(found))
        print(f"{len(found)} of {len(planned)} models, about {left:.0f} s left", file=sys.stderr, flush=True)
    return {
        name: [row for number in sorted(found) for row in found[number][name]]
        for name in ("verdicts", "edges", "selectivity")
    }


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plain", type=int, default=52)
    parser.add_argument("--hard", type=int, default=12, help="models of each other variant")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    try:
        with executor_of(options.jobs, None) as executor:
            tables = every(plans(options.plain, options.hard), executor)
    except LocateError as error:
        sys.exit(str(error))
    for name, rows in tables.items():
        pd.DataFrame(rows).to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g")
    means = summary(pd.DataFrame(tables["verdicts"]))
    means.to_csv(options.out / "summary.csv", index=False, float_format="%.4g")
    draw(means, options.out / "methods.png")
    print(means.to_string(index=False))


if __name__ == "__main__":
    main()
