"""How far a trace of a quantised model is from that of the full one: memory, rows, effects, and the strongest sites.

    python benchmarks/quantised.py [--model models/smollm2-135m-instruct] [--limit 24] [--out FOLDER]

The same map is traced in full precision and with matrices in 8 and in 4 bits, with one thread. Of each: the bytes of
the weights; root mean squares of the differences in the patched rows' log-probabilities of *she* and *he*, and in the
indirect effects on the log-odds (nats); the correlation of those effects; and how many of the three strongest sites
are the same.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import locate
from locate.mediation import effects
from locate.model.placement import bytes_of
from locate.tracing.table import SITE

BITS = (None, 8, 4)
MAP = locate.Map(components=("attn_out", "mlp_out"), roles=("subject_last", "after_subject", "last"))
STRONGEST = 3


def traced(name: str, bits: int | None, limit: int) -> tuple[int, pd.DataFrame, pd.DataFrame]:
    """Bytes of the weights, rows, and indirect effects."""
    model = locate.load(name, threads=1, quantise=bits)
    prompts = locate.occupation_pairs("opposite", templates_each=1).first(limit)
    found = locate.trace(model, prompts, MAP, controls=None, compare_precision=False)
    return bytes_of(model.bridge.original_model), found.table, effects(found, "logit_diff")


def strongest(found: pd.DataFrame) -> list[tuple[object, ...]]:
    """The sites with the largest average effects in the first direction, the largest first."""
    first = found[found["direction"] == found["direction"].iloc[0]]
    sizes = first.groupby(list(SITE), observed=True)["nie"].mean().abs().sort_values(ascending=False, kind="stable")
    return list(sizes.index[:STRONGEST])


def rms(values: pd.Series | np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, dtype=float)))))


def main() -> None:
    """Trace, compare, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
    options = parser.parse_args()
    rows, whole = [], None
    for bits in BITS:
        size, table, found = traced(options.model, bits, options.limit)
        whole = whole or (table, found)
        logs = [table[name] - whole[0][name] for name in ("patched_female", "patched_male")]
        rows.append(
            {
                "bits": 32 if bits is None else bits,
                "weights (MiB)": size / 2**20,
                "rows": len(table),
                "log-probabilities apart, rms (nats)": rms(np.concatenate(logs)),
                "effects, rms (nats)": rms(whole[1]["nie"]),
                "effects apart, rms (nats)": rms(found["nie"] - whole[1]["nie"]),
                "correlation of effects": float(np.corrcoef(found["nie"], whole[1]["nie"])[0, 1]),
                "strongest sites shared": len(set(strongest(found)) & set(strongest(whole[1]))),
            }
        )
    result = pd.DataFrame(rows)
    print(result.to_string(index=False))
    result.to_csv(options.out / "quantised.csv", index=False, float_format="%.6g")


if __name__ == "__main__":
    main()
