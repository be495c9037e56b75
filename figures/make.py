"""Draw the figures of this folder from the tables beside them.

    python figures/make.py                draw
    python figures/make.py RUN NAME       first take the tables NAME from a run folder of `locate-bias trace`

A table is effects_NAME.csv, as `average` returns it with what it is in effects_NAME.json; controls_NAME.csv and,
where sets were measured, sets_NAME.csv are as `control_table` and `set_table` return them.
occupations_NAME.csv holds the log-odds of the unpatched prompts, answers_NAME.csv the log-probabilities of the answers
after them.
"""

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
from speed import plots

import locate
from locate.files import write_json
from locate.mediation import average, effects, pair_log_odds
from locate.mediation.analysis import Shown, analyse
from locate.mediation.sets import Areas
from locate.metrics import ANSWERS
from locate.report import save_figures
from locate.report.evidence import controls_line, plot_controls, plot_sets
from locate.report.figures import plot_layers, plot_map
from locate.report.theme import with_foot
from locate.words import without_folders

HERE = Path(__file__).resolve().parent
FORMATS = ("png", "svg")
SAID = ("column", "metric", "unit", "positive", "level", "clusters", "kind", "answers", "rounding")
KEEP = [
    "direction",
    "component",
    "layer",
    "unit",
    "window",
    "severed",
    "origin",
    "role",
    "key",
    "name",
    "effect",
    "low",
    "high",
    "n",
    "groups",
]


def take(run: Path, name: str) -> None:
    """Write the table of a run's average indirect effects, and of its occupations."""
    trace = locate.load_trace(run)
    analysis = analyse(trace)
    averages, shown = analysis.average(), analysis.shown()
    averages[[*KEEP, "p", "q"]].to_csv(HERE / f"effects_{name}.csv", index=False, float_format="%.6g")
    controls, directions = analysis.controls, trace.meta["directions"]
    controls.to_csv(HERE / f"controls_{name}.csv", index=False, float_format="%.6g")
    about = {name: getattr(shown, name) for name in SAID} | {
        "model": trace.meta["model"],
        "ledger": trace.meta["ledger"]["reasons"],
    }
    about |= {"foot": {each: controls_line(analysis, each) for each in directions}}
    about |= {"totals": totals(trace), "set_test": asdict(analysis.set_test)}
    if trace.sets is not None:
        analysis.sets.to_csv(HERE / f"sets_{name}.csv", index=False, float_format="%.6g")
        about |= {"areas": asdict(analysis.areas)}
    write_json(HERE / f"effects_{name}.json", about)
    log_odds = pair_log_odds(trace).groupby("group", observed=True)["log_odds"]
    log_odds.agg(["mean", "sem", "size"]).to_csv(HERE / f"occupations_{name}.csv", float_format="%.6g")
    answers_of(trace).to_csv(HERE / f"answers_{name}.csv", float_format="%.6g")


def answers_of(trace: locate.Trace) -> pd.DataFrame:
    """Mean log-probabilities (nats) of the female, male and neutral answer after each occupation's clean prompts."""
    clean = trace.table[trace.table["direction"] == "noising"].drop_duplicates("pair")
    columns = {f"base_{answer}": answer for answer in ANSWERS}
    return clean.groupby("group", observed=True)[list(columns)].mean().rename(columns=columns)


def totals(trace: locate.Trace) -> dict[str, list[float]]:
    """Total effect, nats, with its interval: of the run's own words, and of the words that say their gender."""
    found = {"own": average(effects(trace), "total")}
    rows = trace.controls[trace.controls["control"] == "definitional words"].drop(columns="control")
    definitional = replace(trace, table=rows, controls=None, sets=None)
    found["definitional words"] = average(effects(definitional, kind="definition"), "total")
    first = trace.meta["directions"][0]
    return {
        name: [float(table.loc[table["direction"] == first, each].iloc[0]) for each in ("effect", "low", "high")]
        for name, table in found.items()
    }


def by_direction(about: dict[str, dict]) -> dict[str, tuple[float, float, float]]:
    """The total effect in both directions: where prompts are swapped, noising takes away what denoising restores."""
    effect, low, high = about["totals"]["own"]
    return {"denoising": (effect, low, high), "noising": (-effect, -high, -low)}


def draw(name: str) -> list[Path]:
    """Maps and lines in both directions from one table."""
    averages = pd.read_csv(HERE / f"effects_{name}.csv", keep_default_na=False)
    about = json.loads((HERE / f"effects_{name}.json").read_text())
    averages = Shown(
        averages,
        **{name: about[name] for name in SAID},
        model=without_folders(about["model"]["name"]),
        totals=by_direction(about),
    )
    figures = {}
    for direction in ("denoising", "noising"):
        figures[f"map_{name}_{direction}"] = plot_map(averages, direction=direction)
        figures[f"layers_{name}_{direction}"] = plot_layers(averages, direction=direction)
        for kind in ("map", "layers"):
            with_foot(figures[f"{kind}_{name}_{direction}"], about["foot"][direction])
    controls = pd.read_csv(HERE / f"controls_{name}.csv", keep_default_na=False)
    figures[f"controls_{name}"] = plot_controls(controls, averages)
    if "areas" in about:
        sets, areas = pd.read_csv(HERE / f"sets_{name}.csv"), Areas(**about["areas"])
        figures[f"sets_{name}"] = plot_sets(sets, areas, averages)
    paths, missing = save_figures(figures, HERE, FORMATS)
    if missing:
        sys.exit(missing)
    return paths


def main() -> None:
    """Take the tables of a run, if one is given, and draw."""
    if len(sys.argv) == 3:
        take(Path(sys.argv[1]), sys.argv[2])
    elif len(sys.argv) > 1:
        sys.exit(__doc__)
    for table in sorted(HERE.glob("effects_*.json")):
        for path in draw(table.stem.removeprefix("effects_")):
            print(path.name)
    paths, missing = save_figures(plots(), HERE, FORMATS)
    if missing:
        sys.exit(missing)
    for path in paths:
        print(path.name)


if __name__ == "__main__":
    main()
