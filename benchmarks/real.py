"""How fast is the exact sweep on a real model's job? The demo's trace beside transformer_lens.patching, in one run.

    python benchmarks/real.py [--model models/smollm2-135m-instruct] [--limit PAIRS] [--peer-seconds 120] [--out FOLDER]

The job is that of `make demo`: every pair of the default prompts, attention and MLP outputs of every layer at the last
token of the occupation and of the prompt, both directions; prompts have several lengths. The peer patches all prompts
whose lengths are the same in one batch, each at its own positions; it is given random batches for --peer-seconds, and
its time is theirs for as many rows as the job has. Where the sweep takes oneDNN's products, the peer is timed with them
too. What it found is compared with the sweep. Both read log-odds; the sweep is measured with the probabilities that a
trace keeps by default, and in bfloat16, too.
"""

import argparse
import json
import random
import resource
import time
from collections import defaultdict
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from job import token_operations
from sweep import EXACT, OURS, TL, WITH, machine, product_speed
from transformer_lens import patching

import locate
from locate.engine import sweep
from locate.engine.rows import Limits, Row, Run
from locate.model.hooked import Model
from locate.model.memory import default_memory
from locate.model.products import multiplying, product_library
from locate.tracing.stage import Settings, Stage, prepare

HALF = "locate, sweep in bfloat16"
TL_FASTER = f"{TL}, products by oneDNN"
COMPONENTS = ("attn_out", "mlp_out")
ROLES = ("subject_last", "last")

Batch = tuple[int, int, str, int, int]
"""tokens of base and source, component, layer, and which of a pair's positions"""


def demo(model: Model, limit: int | None, probabilities: bool) -> tuple[list[Run], list[Row]]:
    """Runs and rows of the demo's map."""
    prompts = locate.occupation_pairs("opposite", templates_each=1)
    stage = Stage(
        "map", prompts if limit is None else prompts.first(limit), locate.Map(components=COMPONENTS, roles=ROLES)
    )
    job = prepare(model, stage, Settings(probabilities=probabilities))
    layout = job.lay_out(job.pairs)
    return layout.runs, layout.rows


def by_locate(model: Model, limit: int | None, repeats: int, probabilities: bool) -> tuple[float, np.ndarray]:
    """Median seconds of the whole job, and its log-odds, she - he, nats: [row]."""
    runs, rows = demo(model, limit, probabilities)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        found = sweep.measure(model, runs, rows, limits=Limits(default_memory(model.device))).rows
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds)), found[:, 0] - found[:, 1]


def batched(runs: list[Run], rows: list[Row]) -> dict[Batch, list[int]]:
    """The rows that the peer runs in one batch: one component and layer, prompts of the same lengths."""
    places: dict[tuple[int, int], set[int]] = defaultdict(set)
    for row in rows:
        places[row.base, row.source].add(row.writes[0].base_pos)
    found = defaultdict(list)
    for index, row in enumerate(rows):
        write = row.writes[0]
        place = sorted(places[row.base, row.source]).index(write.base_pos)
        lengths = len(runs[row.base].ids), len(runs[row.source].ids)
        found[*lengths, write.component, write.layer, place].append(index)
    return found


def patch_batch(model: Model, runs: list[Run], rows: list[Row], component: str, layer: int) -> tuple[float, np.ndarray]:
    """Seconds that transformer_lens.patching takes for rows of one component, layer and lengths, and their log-odds."""
    base, source = (torch.tensor([runs[getattr(row, end)].ids for row in rows]) for end in ("base", "source"))
    at, taken = (torch.tensor([getattr(row.writes[0], end) for row in rows]) for end in ("base_pos", "source_pos"))
    answers = torch.tensor([runs[row.base].answers for row in rows])
    each, name = torch.arange(len(rows)), model.hook(component, layer)
    cache = model.bridge.run_with_cache(source, names_filter=lambda other: other == name, prepend_bos=False)[1]

    def write(activation: torch.Tensor, index: object, clean: torch.Tensor) -> torch.Tensor:
        activation[each, at] = clean[each, taken]
        return activation

    def log_odds(logits: torch.Tensor) -> torch.Tensor:
        return logits[each, -1, answers[:, 0]] - logits[each, -1, answers[:, 1]]

    one = pd.DataFrame({"layer": [layer]})
    started = time.perf_counter()
    found = patching.generic_activation_patch(
        model.bridge, base, cache, log_odds, write, component, index_df=one, reduce="none"
    )
    seconds = time.perf_counter() - started
    return seconds, torch.as_tensor(getattr(found, "values", found)).flatten().numpy()


def by_peer(
    name: str, within: AbstractContextManager, model: Model, limit: int | None, expected: np.ndarray, allowed: float
) -> dict[str, object]:
    """Seconds that transformer_lens.patching would take for all rows, from random batches, and how far it is away."""
    with within:
        found = patch_batches(model, limit, expected, allowed)
    return {"engine": name} | found


def patch_batches(model: Model, limit: int | None, expected: np.ndarray, allowed: float) -> dict[str, object]:
    """What `by_peer` tells of the peer, as the products are computed now."""
    runs, rows = demo(model, limit, False)
    batches = batched(runs, rows)
    spent, done, apart = 0.0, 0, 0.0
    for number, batch in enumerate(random.Random(0).sample(list(batches), len(batches))):
        chosen = batches[batch]
        seconds, found = patch_batch(model, runs, [rows[i] for i in chosen], *batch[2:4])
        apart = max(apart, float(np.abs(found - expected[chosen]).max()))
        if number:  # the first warms up
            spent, done = spent + seconds, done + len(chosen)
        if spent > allowed:
            break
    return {"seconds": spent / done * len(rows), "rows run": done, "largest difference": apart}


def operations(model: Model, runs: list[Run], rows: list[Row]) -> float:
    """The fewest floating-point operations of a Llama that give the rows' log-odds exactly (see `job.operations`)."""
    d, kv, mlp = model.d_model, model.n_kv_heads * model.d_head, 6 * model.d_model * model.d_mlp
    last, total = model.n_layers - 1, 0.0
    for row in rows:
        write, ids, others = row.writes[0], runs[row.base].ids, runs[row.source].ids
        n_pos, pos = len(ids), write.base_pos
        same = pos == write.source_pos and ids[: pos + 1] == others[: pos + 1]
        if same or (write.layer == last and pos < n_pos - 1):
            continue
        token = token_operations(d, kv, mlp, n_pos)
        entry = mlp if write.component == "attn_out" else 0
        above = last - write.layer
        whole = max(0, above - 1) * (n_pos - pos) * token
        end = (n_pos - pos - 1) * 4 * d * kv + token if above else 0
        total += entry + whole + end + 4 * d
    return total


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(Path(__file__).parents[1] / "models" / "smollm2-135m-instruct"))
    parser.add_argument("--limit", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer-seconds", type=float, default=120.0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
    options = parser.parse_args()
    model = locate.load(options.model, device="cpu")
    by_locate(model, 2, 1, probabilities=True)
    seconds, expected = by_locate(model, options.limit, options.repeats, probabilities=False)
    peak = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    longer, found = by_locate(model, options.limit, 1, probabilities=True)
    speed = product_speed(model.d_model, "cpu")
    rows, library = len(expected), product_library("float32", "cpu", model.threads)
    peers: dict[str, AbstractContextManager] = {TL: nullcontext()}
    if library == "oneDNN":  # how much of the ratio is the library's
        peers[TL_FASTER] = multiplying("float32", "cpu", model.threads)
    table = [
        {"engine": OURS, "seconds": seconds, "rows run": rows, "largest difference": 0.0},
        {"engine": WITH, "seconds": longer, "rows run": rows, "largest difference": np.abs(found - expected).max()},
        *(by_peer(*each, model, options.limit, expected, options.peer_seconds) for each in peers.items()),
    ]
    assert max(each["largest difference"] for each in table) <= EXACT, table
    half, found = by_locate(locate.load(options.model, device="cpu", dtype="bfloat16"), options.limit, 1, False)
    table.append(
        {"engine": HALF, "seconds": half, "rows run": rows, "largest difference": np.abs(found - expected).max()}
    )
    runs, planned = demo(model, options.limit, False)
    least = operations(model, runs, planned)
    result = pd.DataFrame(table)
    result = result.assign(
        rows=rows,
        pairs=len(runs) // 2,
        least_operations=least,
        product_speed=speed,
        times_the_limit=result["seconds"] / (least / speed),
        times_as_fast_as_transformer_lens=result.loc[result["engine"] == TL, "seconds"].squeeze() / result["seconds"],
    )
    print(result.to_string(index=False))
    result.to_csv(options.out / "sweep_demo.csv", index=False)
    about = {
        "machine": machine("cpu"),
        "torch": torch.__version__,
        "products by": library,
        "threads": model.threads,
        "rms of bfloat16 to fp32 (nats)": float(np.sqrt(np.square(found - expected).mean())),
        "peak memory of the sweep (MiB)": peak,
    }
    (options.out / "sweep_demo.json").write_text(json.dumps(about, indent=2) + "\n")
    print(about)


if __name__ == "__main__":
    main()
