"""How far does a map move when a model's 4-bit weights are rounded once more?

    python experiments/rounding/run.py RUN [--model FOLDER] [--kinds Q8_0 Q4_0] [--out FOLDER]

RUN is a run folder of the model as it is. Rounded models and their runs are kept in --work; the same command goes on.
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file, save_file

import locate
from locate.files import write_json

HERE = Path(__file__).resolve().parent
SMOLLM2 = HERE.parents[1] / "models" / "smollm2-135m-instruct"
WEIGHTS = "model.safetensors"
BLOCK, STEPS = 32, 15  # of Q4_1: numbers that share a smallest and a largest value, steps between these
KEPT = ["direction", "component", "layer", "role", "effect_a", "effect_b", "change", "low", "high", "n", "q"]


def is_rounded(name: str, weights: np.ndarray) -> bool:
    """Whether a tensor is a matrix of a block: the embeddings stay as they are."""
    return weights.ndim == 2 and ".layers." in name


def round_to(weights: np.ndarray, kind: str) -> np.ndarray:
    """A matrix rounded to a quantisation of GGUF, as float32."""
    wanted = GGMLQuantizationType[kind]
    packed = quantize(np.ascontiguousarray(weights, dtype=np.float32), wanted)
    return dequantize(packed, wanted).reshape(weights.shape).astype(np.float32)


def expected_square(weights: np.ndarray) -> float:
    """Sum of squares of the error that rounding to Q4_1 has left in such weights, were it spread evenly over a step.

    The smallest and the largest number of a block are exact.
    """
    blocks = weights.reshape(-1, BLOCK).astype(np.float64)
    steps = (blocks.max(axis=1) - blocks.min(axis=1)) / STEPS
    return float((BLOCK - 2) * (steps**2).sum() / 12)


def round_again(model: Path, folder: Path, kind: str) -> dict[str, float]:
    """Write a copy of a model whose blocks' matrices are rounded, and measure both roundings.

    Returns the error of this rounding, and the one expected of Q4_1 before it: root mean squares as shares of the
    weights' own.
    """
    shutil.copytree(model, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("SHA256SUMS", "SOURCE.md"))
    weights = load_file(model / WEIGHTS)
    size = error = before = 0.0
    for name, tensor in weights.items():
        if not is_rounded(name, tensor):
            continue
        weights[name] = round_to(tensor, kind)
        size += float((tensor.astype(np.float64) ** 2).sum())
        error += float(((weights[name].astype(np.float64) - tensor) ** 2).sum())
        before += expected_square(tensor)
    save_file(weights, folder / WEIGHTS, {"format": "pt"})
    return {"rounding": (error / size) ** 0.5, "expected_before": (before / size) ** 0.5}


def traced(model: Path, folder: Path) -> locate.Trace:
    """The map that `make demo` measures, without controls."""
    map = locate.Map(components=("attn_out", "mlp_out"), roles=("subject_last", "last"))
    prompts = locate.occupation_pairs(templates_each=1)
    return locate.trace(locate.load(str(model), device="cpu"), prompts, map, controls=None, output=folder)


def main() -> None:
    """Round, trace, compare, and write results/changes_KIND.csv and results/KIND.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--model", type=Path, default=SMOLLM2)
    parser.add_argument("--kinds", nargs="+", default=["Q8_0", "Q4_0"])
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=HERE / "results")
    options = parser.parse_args()
    for kind in options.kinds:
        rounded = options.work / f"rounded-{kind}"
        errors = round_again(options.model, rounded, kind)
        found = locate.compare(locate.load_trace(options.run), traced(rounded, options.work / f"rounded-{kind}-run"))
        options.out.mkdir(parents=True, exist_ok=True)
        found.table[KEPT].to_csv(options.out / f"changes_{kind}.csv", index=False, float_format="%.6g")
        totals = [asdict(each) for each in found.totals]
        write_json(options.out / f"{kind}.json", errors | {"unit": found.unit, "totals": totals})


if __name__ == "__main__":
    main()
