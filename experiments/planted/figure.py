"""The figure of summary.csv: how many of the strongest sites are planted, by method and kind of model.

python experiments/planted/figure.py
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from locate.report.quiet import Figure
from locate.report.theme import add_words, ink

SCALE = "Cividis"
HERE = Path(__file__).resolve().parent
ABOUT = (
    "Bold: precision, the share of planted sites among as many of the strongest, mean over models; below: models whose "
    "strongest MLP, attention and head are planted; empty: not measured."
)


def shades(values: pd.Series) -> list[str]:
    """The colours "#rrggbb" of values from 0 to 1."""
    mixed = sample_colorscale(SCALE, values.tolist(), colortype="tuple")
    return ["#{:02x}{:02x}{:02x}".format(*(round(255 * part) for part in each)) for each in mixed]


def draw(means: pd.DataFrame, path: Path) -> Path:
    """Methods against variants, coloured by precision: the share of planted sites among as many of the strongest."""
    variants, methods = list(dict.fromkeys(means["variant"])), list(dict.fromkeys(means["method"]))
    cells = means.assign(
        text=[
            f"<b>{row.precision:.2f}</b><br>{row.hits} of {row.models}"
            for row in means[["precision", "hits", "models"]].itertuples(index=False)
        ]
    )
    precision = cells.pivot(index="method", columns="variant", values="precision")
    precision = precision.reindex(index=methods, columns=variants)
    figure = Figure(
        go.Heatmap(
            z=precision,
            x=variants,
            y=methods,
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"title": "precision"},
        )
    )
    measured = cells[cells["precision"].notna()]
    figure.add_scatter(
        x=measured["variant"], y=measured["method"], text=measured["text"], mode="text", hoverinfo="skip",
        textfont={"color": [ink(each) for each in shades(measured["precision"])]},
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title="kind of made model", showgrid=False)
    add_words(figure, "Which sites are planted?", ABOUT, 1200, 36 * len(methods), left=230, right=110, top=0)
    figure.write_image(path, scale=2)
    return path


if __name__ == "__main__":
    draw(pd.read_csv(HERE / "summary.csv"), HERE / "methods.png")
