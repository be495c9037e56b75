"""Which method finds a planted bias? Made models of random depth, width and layout, each located in several ways.

    python experiments/planted/run.py [--models 52] [--backups 12] [--out FOLDER]

Writes verdicts.csv (a row for each model and method) and prints the means, which are summary.csv.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

import locate
from locate.gradients import estimate
from locate.mediation import average, effects
from locate.planted import Plan, Planted, drawn, judge, plant
from locate.planted.plan import LAYOUTS
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

MAP = Map(components=("mlp_out", "attn_out", "head"))
OCCUPATIONS, TEMPLATES = 16, 1
NOISE = Noise(sigmas=3.0, samples=5)


def exact(direction: str, **options: object) -> Callable[[locate.Model, Planted], pd.DataFrame]:
    """Exact patching in one direction."""
    return lambda model, made: effects(
        locate.trace(model, made.prompts, MAP, directions=(direction,), probabilities=False, **options)
    )


def estimated(method: str) -> Callable[[locate.Model, Planted], pd.DataFrame]:
    """An estimate from gradients, of denoising."""
    return lambda model, made: estimate(model, made.prompts, MAP, method=method, directions=("denoising",))


METHODS = {
    "exact patching, swap, denoising": exact("denoising"),
    "exact patching, swap, noising": exact("noising"),
    "exact patching, noise (ROME)": exact("denoising", corruption=NOISE),
    "integrated gradients, swap": estimated("integrated"),
    "attribution patching, swap": estimated("attribution"),
}


def verdicts(plan: Plan) -> list[dict[str, object]]:
    """One row for each method."""
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        made = plant(Path(temporary) / "model", plan, occupations=OCCUPATIONS, templates_each=TEMPLATES)
        model = locate.load(str(made.folder), device="cpu")
        for method, measure in METHODS.items():
            found = measure(model, made)
            verdict = asdict(judge(average(found, samples=100), made.truth))
            about = {"layout": plan.layout, "seed": plan.seed, "backup": plan.backup_layer is not None}
            rows.append({"method": method} | about | verdict | {"total": found["total"].mean()})
    return rows


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the models, by method, with and without a backup."""
    columns = ["auroc", "precision", "first", "role"]
    grouped = table.groupby(["backup", "method"], sort=False)
    return grouped[columns].mean().join(grouped.size().rename("models")).reset_index()


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=52)
    parser.add_argument("--backups", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    plans = [drawn(1000 + index // 2, LAYOUTS[index % 2]) for index in range(options.models)]
    plans += [drawn(2000 + index // 2, LAYOUTS[index % 2], backup=True) for index in range(options.backups)]
    rows, started = [], time.monotonic()
    for done, plan in enumerate(plans, 1):
        rows += verdicts(plan)
        left = (time.monotonic() - started) / done * (len(plans) - done)
        print(f"{done} of {len(plans)} models, about {left:.0f} s left", file=sys.stderr, flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "verdicts.csv", index=False, float_format="%.5g")
    means = summary(table)
    means.to_csv(options.out / "summary.csv", index=False, float_format="%.4g")
    print(means.to_string(index=False))


if __name__ == "__main__":
    main()
