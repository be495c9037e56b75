"""The figure of summary.csv: how many of the strongest sites are planted, by method and kind of model.

python experiments/planted/figure.py
"""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go

HERE = Path(__file__).resolve().parent


def draw(means: pd.DataFrame, path: Path) -> Path:
    """Methods against variants, coloured by precision: the share of planted sites among as many of the strongest."""
    variants, methods = list(dict.fromkeys(means["variant"])), list(dict.fromkeys(means["method"]))
    cells = means.assign(
        text=[
            f"<b>{row.precision:.2f}</b><br>{row.hits} of {row.models}"
            for row in means[["precision", "hits", "models"]].itertuples(index=False)
        ]
    )
    precision, text = (
        cells.pivot(index="method", columns="variant", values=name).reindex(index=methods, columns=variants)
        for name in ("precision", "text")
    )
    figure = go.Figure(
        go.Heatmap(
            z=precision,
            x=variants,
            y=methods,
            text=text.fillna(""),
            texttemplate="%{text}",
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            xgap=2,
            ygap=2,
            colorbar={"title": "precision"},
        )
    )
    figure.update_yaxes(autorange="reversed")
    figure.update_layout(
        template="simple_white",
        title="Which sites are planted?<br><sup>bold: precision, the share of planted sites among as many of the "
        "strongest, mean over models; below: models whose strongest MLP, attention and head are planted; "
        "empty: not measured</sup>",
        xaxis_title="kind of made model",
        width=1200,
        height=480,
        margin={"l": 230},
    )
    figure.write_image(path, scale=2)
    return path


if __name__ == "__main__":
    draw(pd.read_csv(HERE / "summary.csv"), HERE / "methods.png")
