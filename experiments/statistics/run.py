"""Do intervals cover as often as they say, and are false discoveries as few? Made tables of known truth.

    python experiments/statistics/run.py [--tables 1000] [--maps 150] [--out FOLDER]

Writes coverage.csv, discoveries.csv and selectivity.csv.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from simulate import EFFECTS, UNEQUAL, crossed, drawn, sized, table

from locate.mediation import average, selectivity
from locate.mediation.resampling import Intervals

CHUNK = 500  # tables at once
SITES, REAL, GROUPS, EACH = 200, 40, 30, 4


def covered(found: pd.DataFrame, truth: float = 0.0, slack: float = 1e-9) -> tuple[int, float]:
    """Intervals that hold the truth, and their median width."""
    inside = (found["low"] <= truth + slack) & (found["high"] >= truth - slack)
    return int(inside.sum()), float((found["high"] - found["low"]).median())


def percentile(effect: pd.DataFrame, samples: int = 2000) -> pd.DataFrame:
    """The plain percentile interval over groups, for comparison."""
    sums = effect.groupby(["group", "layer"], observed=True)["nie"].agg(["sum", "size"]).unstack("layer")
    above, below = sums["sum"].to_numpy(), sums["size"].to_numpy(dtype=float)
    weights = np.random.default_rng(0).multinomial(len(above), np.full(len(above), 1 / len(above)), size=samples)
    low, high = np.quantile((weights @ above) / (weights @ below), [0.025, 0.975], axis=0)
    return pd.DataFrame({"low": low, "high": high})


def by_prompt(effect: pd.DataFrame) -> pd.DataFrame:
    """The old trap: every prompt is resampled as if it were a group of its own."""
    return average(effect.assign(group=effect["pair"]))


def two_way(effect: pd.DataFrame) -> pd.DataFrame:
    """Groups and templates."""
    return average(effect, chosen=Intervals(clusters="group+template"))


def coverage(tables: int) -> pd.DataFrame:
    """Coverage of 95 % intervals, one way and two ways."""
    rows = []
    for groups in (8, 12, 20, 40, 104):
        for sizes in ((4,), UNEQUAL):
            for shape in EFFECTS:
                group = sized(groups, sizes)
                design = {"groups": groups, "sizes": "4" if len(sizes) == 1 else "1 to 8", "effects": shape}
                methods = {"group": average, "percentile": percentile, "prompt (trap)": by_prompt}
                rows += measured(tables, design, methods, shape, group, np.arange(len(group)) % 18, 0.0)
    for groups, templates, each in ((20, 18, 18), (20, 18, 4), (40, 8, 8), (40, 4, 4), (104, 18, 4)):
        for between in (0.0, 0.3, 1.0):
            group, template = crossed(groups, templates, each)
            design = {"groups": groups, "sizes": f"{each} of {templates} templates", "effects": "normal"}
            design |= {"between_templates": between}
            methods = {"group": average, "group+template": two_way}
            rows += measured(tables // 2, design, methods, "normal", group, template, between)
    return pd.DataFrame(rows)


def measured(tables, design, methods, shape, group, template, between) -> list[dict[str, object]]:
    """A row for each method on the same tables."""
    counts, widths = dict.fromkeys(methods, 0), {name: [] for name in methods}
    for seed in range(max(1, tables // CHUNK)):
        rng = np.random.default_rng([seed, len(group), list(EFFECTS).index(shape)])
        effect = table(drawn(rng, shape, group, template, CHUNK, between), group, template)
        for name, method in methods.items():
            inside, width = covered(method(effect))
            counts[name] += inside
            widths[name].append(width)
    n = max(1, tables // CHUNK) * CHUNK
    print(design, {name: count / n for name, count in counts.items()}, file=sys.stderr, flush=True)
    return [
        {"between_templates": 0.0} | design | {"resampled": name, "tables": n, "covered": count / n,
         "error": np.sqrt(count / n * (1 - count / n) / n), "width": np.mean(widths[name])}
        for name, count in counts.items()
    ]  # fmt: skip


def discoveries(maps: int) -> pd.DataFrame:
    """False-discovery rate of q <= 0.05 over maps of correlated sites, some with an effect."""
    rows = []
    methods = {"group": average, "group+template": two_way, "prompt (trap)": by_prompt}
    for shape in ("normal", "exponential"):
        for size in (0.0, 0.8):
            found: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
            for seed in range(maps):
                effect = one_map(np.random.default_rng([seed, 7]), shape, size)
                for name, method in methods.items():
                    passing = method(effect).set_index("layer")["q"].sort_index().to_numpy() <= 0.05
                    false = passing[REAL:].sum() if size else passing.sum()
                    found[name].append((false / max(1, passing.sum()), passing[:REAL].mean()))
            for name, each in found.items():
                share, power = np.array(each).T
                rows.append({
                    "effects": shape, "size": size, "resampled": name, "maps": maps, "fdr": share.mean(),
                    "error": share.std(ddof=1) / np.sqrt(maps), "found": power.mean() if size else np.nan,
                })  # fmt: skip
                print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def one_map(rng: np.random.Generator, shape: str, size: float) -> pd.DataFrame:
    """Sites that lean on three common factors of the occupation; the first few have an effect."""
    group, template = crossed(GROUPS, 18, EACH)
    loads = rng.normal(size=(3, SITES))
    own = (EFFECTS[shape](rng, (GROUPS, 3)) @ loads + EFFECTS[shape](rng, (GROUPS, SITES))) / 2
    values = own[group] + 0.5 * rng.normal(size=(len(group), SITES))
    values[:, :REAL] += size
    return table(values, group, template)


def leanings(tables: int) -> pd.DataFrame:
    """Coverage of the intervals of selectivity."""
    rows = []
    for shape in ("normal", "exponential"):
        for s, d in ((1.0, 1.0), (2.0, 0.5), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.7), (0.2, 0.1)):
            truth, counts, widths = (s**2 - d**2) / (s**2 + d**2), 0, []
            for seed in range(max(1, tables // CHUNK)):
                rng = np.random.default_rng([seed, 9])
                parts = []
                for mean, groups, kind in ((s, 40, "occupation"), (d, 20, "definition")):
                    group = sized(groups, (4,))
                    values = mean + drawn(rng, shape, group, group % 18, CHUNK)
                    part = table(values, np.char.add(kind[0], group.astype(str)), group % 18, kind)
                    parts.append(part.assign(pair=part["pair"] + 1000 * len(parts), kind=kind))
                effect = pd.concat(parts)
                inside, width = covered(selectivity(effect, threshold=1.0), truth)
                counts, widths = counts + inside, [*widths, width]
            n = max(1, tables // CHUNK) * CHUNK
            rows.append({
                "effects": shape, "s": s, "d": d, "selectivity": truth, "tables": n, "covered": counts / n,
                "error": np.sqrt(counts / n * (1 - counts / n) / n), "width": np.mean(widths),
            })  # fmt: skip
            print(rows[-1], file=sys.stderr, flush=True)
    return pd.DataFrame(rows)


def main() -> None:
    """Measure and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=1000)
    parser.add_argument("--maps", type=int, default=150)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    started = time.monotonic()
    parts = {"discoveries": (discoveries, options.maps), "selectivity": (leanings, options.tables)}
    for name, (measure, count) in {"coverage": (coverage, options.tables), **parts}.items():
        measure(count).to_csv(options.out / f"{name}.csv", index=False, float_format="%.4g")
    print(f"{(time.monotonic() - started) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
