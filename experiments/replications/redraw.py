"""Draw the figures of results again from their tables, where these hold all that a figure shows; no model is run.

python experiments/replications/redraw.py [RESULTS]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import chintam
import lsdm
import pandas as pd
import plotly.graph_objects as go
import rome

from locate.mediation.analysis import Shown
from locate.metrics import metric_named, positive_means
from locate.report import save_figures

HERE = Path(__file__).resolve().parent
ANSWERS = (" she", " he", None)


def shown_of(table: pd.DataFrame, metric: str, direction: str, **same: object) -> Shown:
    """A table of results with what a figure needs besides.

    same  columns that a table leaves out, as they hold one value
    """
    chosen = metric_named(metric)
    columns = {"unit": -1, "window": 1, "severed": "", "key": "", "name": "", "origin": "source", **same}
    lacking = {name: value for name, value in columns.items() if name not in table}
    whole = table.assign(direction=direction, **lacking).fillna({"severed": ""})
    return Shown(whole, metric=metric, unit=chosen.unit, positive=positive_means(chosen, "stereotype"), answers=ANSWERS)


def figures_of(folder: Path) -> dict[str, go.Figure]:
    """The figures of one model's results, by file name."""
    about = {name: json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("rome", "lsdm")}
    model = about["rome"]["model"]["name"]
    window = int(about["rome"]["settings"]["window"])
    found = {
        "rome_map": rome.figure_of(shown_of(table_of(folder, "rome_aie"), rome.METRIC, "denoising"), model, window),
        "chintam_heads": chintam.figure_of(
            shown_of(table_of(folder, "chintam_heads"), "odds_ratio", "noising", component="head", role="last"), model
        ),
    }
    for name, (_, metric) in lsdm.CORRUPTIONS.items():
        shown = shown_of(table_of(folder, f"lsdm_{name}"), metric, "denoising")
        found[f"lsdm_{name}"] = lsdm.figure_of(shown, model, name)
    return found


def table_of(folder: Path, name: str) -> pd.DataFrame:
    """A table of results."""
    return pd.read_csv(folder / f"{name}.csv")


def main(results: Path) -> None:
    """Draw the figures of every model."""
    for folder in sorted(each for each in results.iterdir() if each.is_dir()):
        save_figures(figures_of(folder), folder, ("png",))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "results")
