"""How fast is the exact sweep? The same job by locate and by its peers, in one run, on random weights.

The job is read off as log-odds; the sweep is measured with the probabilities that a trace keeps by default, too.

    python benchmarks/sweep.py [--shape gpt2-small] [--pairs 64] [--tokens 8,16] [--peer-seconds 30] [--out FOLDER]

A peer runs every cell at full depth, so its cells cost the same: it is given random cells for --peer-seconds, and its
time for the whole job is its time for a cell times the number of cells. What it found there is compared with the sweep.
"""

import argparse
import json
import os
import platform
import random
import re
import resource
import tempfile
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"  # the peers' progress bars

import numpy as np
import pandas as pd
import torch
from job import SHAPES, Cell, Job, make_job, make_model, operations
from peers import PEERS

import locate
from locate.engine import sweep
from locate.engine.rows import Limits
from locate.model.memory import default_memory
from locate.model.products import multiplying, product_library

EXACT = 1e-4  # nats
OURS, WITH = "locate, sweep", "locate, sweep with probabilities"
TL = "transformer_lens.patching"


def on_gpu(device: str) -> bool:
    """Whether a device is an NVIDIA GPU."""
    return torch.device(device).type == "cuda"


def wait(device: str) -> None:
    """Until a GPU has done what it was told."""
    if on_gpu(device):
        torch.cuda.synchronize(device)


def product_speed(d: int, device: str) -> float:
    """Floating-point operations a second of a large fp32 product by the library that the sweep takes.

    The best of several, and of two sizes on a CPU, where the smaller fits into the cache.
    """
    weight, best = torch.randn(4 * d, d, device=device), 0.0
    with torch.inference_mode(), multiplying("float32", device, torch.get_num_threads()):
        for rows in (65536,) if on_gpu(device) else (1024, 4096):
            x = torch.randn(rows, d, device=device)
            for _ in range(8):
                wait(device)
                started = time.perf_counter()
                torch.nn.functional.linear(x, weight)
                wait(device)
                best = max(best, 2 * rows * d * 4 * d / (time.perf_counter() - started))
    return best


def by_locate(
    model: locate.model.hooked.Model, job: Job, repeats: int, probabilities: bool
) -> tuple[float, np.ndarray]:
    """Median seconds of the whole job, and its log-odds [cell, pair]."""
    runs, rows, seconds = job.runs(probabilities), job.rows(), []
    for _ in range(repeats):
        started = time.perf_counter()
        found = sweep.measure(model, runs, rows, limits=Limits(default_memory(model.device))).rows
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), (found[:, 0] - found[:, 1]).reshape(len(job.cells), -1)


def by_peer(name: str, folder: Path, job: Job, expected: np.ndarray, allowed: float) -> dict[str, object]:
    """Seconds a peer would take for the whole job, from random cells, and how far it is from the sweep there."""
    device = str(job.clean.device)
    place = {cell: index for index, cell in enumerate(job.cells)}
    cells: list[Cell] = random.Random(0).sample(job.cells, len(job.cells))
    with torch.no_grad():
        one = PEERS[name](str(folder), job)
        one(cells[0])
        wait(device)
        spent, done, apart = 0.0, 0, 0.0
        for cell in cells:
            started = time.perf_counter()
            found = one(cell)
            wait(device)
            spent += time.perf_counter() - started
            done += 1
            apart = max(apart, float(np.abs(found.double().cpu().numpy() - expected[place[cell]]).max()))
            if spent > allowed:
                break
    return {"engine": name, "seconds": spent / done * len(cells), "cells run": done, "largest difference": apart}


def measured(
    shape: str, folder: Path, job: Job, allowed: float, peers: list[str], repeats: int, probabilities: bool
) -> pd.DataFrame:
    """One row for each engine, where the job's prompts are; the sweep's seconds are the median of some repeats."""
    device = str(job.clean.device)
    model = locate.load(str(folder), device=device)
    by_locate(model, make_job(2, job.clean.shape[1], job.n_layers, job.first), 1, probabilities=True)
    seconds, expected = by_locate(model, job, repeats, probabilities=False)
    cells = len(job.cells)
    table = [{"engine": OURS, "seconds": seconds, "cells run": cells, "largest difference": 0.0}]
    if probabilities:
        longer, found = by_locate(model, job, 1, probabilities=True)
        apart = float(np.abs(found - expected).max())
        table += [{"engine": WITH, "seconds": longer, "cells run": cells, "largest difference": apart}]
    table += [by_peer(name, folder, job, expected, allowed) for name in peers]
    result = pd.DataFrame(table)
    assert result["largest difference"].max() <= EXACT, result
    least = operations(shape, job) + (result["engine"] == WITH) * 2 * model.d_model * model.d_vocab * len(job.rows())
    speed = product_speed(SHAPES[shape].get("n_embd") or SHAPES[shape]["hidden_size"], device)
    return result.assign(
        tokens=job.clean.shape[1],
        first=job.first,
        layers=job.n_layers,
        pairs=len(job.clean),
        cells=len(job.cells),
        least_operations=least,
        product_speed=speed,
        times_the_limit=result["seconds"] / (least / speed),
        times_as_fast_as_transformer_lens=result.loc[result["engine"] == TL, "seconds"].squeeze() / result["seconds"],
    )


def curves(shape: str, folder: Path, pairs: int, allowed: float, device: str) -> pd.DataFrame:
    """The sweep beside transformer_lens.patching over tokens, layers and pairs."""
    settings = SHAPES[shape]
    depth = settings.get("n_layer") or settings["num_hidden_layers"]
    jobs = [("tokens", n_pos, depth, pairs // 4) for n_pos in (4, 8, 16, 32)]
    jobs += [("layers", 8, layers, pairs // 4) for layers in (3, 6, 12)]
    jobs += [("pairs", 8, depth, count) for count in (1, 4, 16, 64)]
    parts = []
    for over, n_pos, layers, count in jobs:
        here = folder if layers == depth else make_model(shape, folder.with_name(f"{folder.name}-{layers}"), layers)
        part = measured(shape, here, make_job(count, n_pos, layers, 0).on(device), allowed, [TL], 1, False)
        parts.append(part.assign(over=over))
        print(part[["engine", "tokens", "layers", "pairs", "seconds"]].to_string(index=False), flush=True)
    return pd.concat(parts, ignore_index=True)


def processor() -> str:
    """Name of the processor, as far as the system tells it."""
    about = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", about.read_text()) if about.exists() else []
    return names[0] if names else platform.machine()


def machine(device: str) -> str:
    """What the job ran on."""
    if on_gpu(device):
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {torch.get_num_threads()} threads"


def peak(device: str) -> int:
    """Most memory of the device that was in use at once, MiB."""
    if on_gpu(device):
        return round(torch.cuda.max_memory_allocated(device) / 2**20)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measure, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="gpt2-small")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        metavar="PEER",
        help="beside transformer_lens.patching; by default all of them for GPT-2, whose names they use, else none",
    )
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--tokens", default="8,16")
    parser.add_argument("--peer-seconds", type=float, default=30.0)
    parser.add_argument("--repeats", type=int, default=3, help="of the sweep; its seconds are their median")
    parser.add_argument("--first", default="0,2", help="how many positions are equal in both prompts")
    parser.add_argument("--no-curves", action="store_true")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
    options = parser.parse_args()
    gpt2 = options.shape.startswith("gpt2")
    peers = [each for each in (options.peers or (PEERS if gpt2 else ())) if each != TL]
    kind = ("" if options.shape == "gpt2-small" else f"_{options.shape}") + ("_gpu" if on_gpu(options.device) else "")
    with tempfile.TemporaryDirectory() as temporary:
        folder = make_model(options.shape, Path(temporary) / options.shape)
        depth = locate.load(str(folder), device="cpu").n_layers
        parts = []
        for n_pos in [int(each) for each in options.tokens.split(",")]:
            for first in [int(each) for each in options.first.split(",")]:
                job = make_job(options.pairs, n_pos, depth, first).on(options.device)
                others = peers if first == 0 else []
                repeats, allowed = options.repeats, options.peer_seconds
                parts.append(measured(options.shape, folder, job, allowed, [TL, *others], repeats, True))
                print(parts[-1].drop(columns=["least_operations", "product_speed"]).to_string(index=False), flush=True)
        pd.concat(parts, ignore_index=True).to_csv(options.out / f"sweep{kind}.csv", index=False)
        if not options.no_curves:
            curve = curves(options.shape, folder, options.pairs, options.peer_seconds / 3, options.device)
            curve.to_csv(options.out / f"sweep_curves{kind}.csv", index=False)
    about = {
        "machine": machine(options.device),
        "torch": torch.__version__,
        "products by": product_library("float32", torch.device(options.device).type, torch.get_num_threads()),
        "shape": options.shape,
        "peak memory (MiB)": peak(options.device),
    }
    (options.out / f"sweep{kind}.json").write_text(json.dumps(about, indent=2) + "\n")
    print(about)


if __name__ == "__main__":
    main()
