"""What sharing a run among processes saves, and what many machines would take, reckoned from what was measured.

    python benchmarks/scale.py [--model models/smollm2-135m-instruct] [--limit PAIRS] [--most 2] [--out FOLDER]

Measured: the map and controls of `make demo` in this process with one thread, then in --most processes, and by as many
shards, each once; their rows must be equal bit for bit. Of each the seconds of the map and of all. Besides: the seconds
until a process is ready, of a chunk, and of reading one when the run is put together.

Reckoned: maps of all layers of models of 7 and of 70 billion parameters by 1 to 1,000 workers, each as fast as one
thread was here, or as --speed says (operations a second). Workers start at once, each reads the weights at --reading
bytes a second, chunks are handed out one by one, and the tables are read at the end by one process.
"""

import argparse
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from pathlib import Path

import pandas as pd

import locate
from locate.tracing.folder import PARTS
from locate.tracing.stage import CHUNK_OPERATIONS, SHARED, Settings, Stage, prepare
from locate.workers.messages import Task
from locate.workers.processes import Processes

COMPONENTS, ROLES = ("attn_out", "mlp_out"), ("subject_last", "last")
MAP = locate.Map(components=COMPONENTS, roles=ROLES)
LARGE = {"7B": (7e9, 32), "70B": (70e9, 80)}  # parameters and layers
PAIRS, TOKENS = 1000, 16  # of the maps that are reckoned
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


def pairs(limit: int | None) -> locate.Prompts:
    """The prompts of the demo."""
    found = locate.occupation_pairs("opposite", templates_each=1)
    return found if limit is None else found.first(limit)


def timed(model: locate.model.hooked.Model, limit: int | None, jobs: int) -> tuple[dict[str, object], pd.DataFrame]:
    """One run in so many processes: what it took, and its rows."""
    ready: list[float] = []
    started = time.perf_counter()
    with Processes(jobs) as executor:
        if jobs > 1:
            watch_starts(executor, ready)
        found = locate.trace(model, pairs(limit), MAP, **({"executor": executor} if jobs > 1 else {}))
    row = {
        "way": "this process" if jobs == 1 else "processes",
        "workers": jobs,
        "map (s)": found.meta["seconds"],
        "all (s)": time.perf_counter() - started,
        "start of a worker (s)": statistics.median(ready) if ready else math.nan,
    }
    return row, found.table


def watch_starts(executor: Processes, ready: list[float]) -> None:
    """Note the seconds from the start of each process to its first answer."""
    begun: dict[int, float] = {}
    start, hand_out = executor.start, executor.hand_out

    def starting() -> None:
        start()
        begun[id(executor.workers[-1])] = time.perf_counter()

    def handing(waiting: deque[Task]) -> None:
        for worker in executor.workers:
            if worker.ready and id(worker) in begun:
                ready.append(time.perf_counter() - begun.pop(id(worker)))
        hand_out(waiting)

    executor.start, executor.hand_out = starting, handing  # type: ignore[method-assign]


def by_shards(name: str, limit: int | None, count: int, folder: Path) -> tuple[dict[str, object], pd.DataFrame]:
    """The same by so many commands that share a folder, and the seconds of putting it together."""
    few = [] if limit is None else ["--limit", str(limit)]
    command = [
        sys.executable, "-m", "locate", "trace", "-m", name, "-o", str(folder), *few, "--threads", "1",
        "--components", ",".join(COMPONENTS), "--roles", ",".join(ROLES), "--templates-each", "1",
    ]  # fmt: skip
    started = time.perf_counter()
    shards = [
        subprocess.Popen([*command, "--shard", f"{number}/{count}"], stderr=subprocess.DEVNULL)
        for number in range(1, count + 1)
    ]
    if any(each.wait() for each in shards):
        raise SystemExit("a shard failed")
    seconds = time.perf_counter() - started
    files = sorted((folder / PARTS).glob("*/part-*.parquet"))
    began = time.perf_counter()
    for file in files:
        pd.read_parquet(file)
    reading = (time.perf_counter() - began) / len(files)
    row = {"way": "shards, with their start", "workers": count, "map (s)": math.nan, "all (s)": seconds}
    row |= {"reading a chunk (s)": reading, "chunks": len(files)}
    return row, locate.load_trace(folder).table


def speed_of(model: locate.model.hooked.Model, limit: int | None, seconds: float) -> float:
    """Operations a second of the map, as the size of chunks counts them."""
    job = prepare(model, Stage("map", pairs(limit), MAP), Settings())
    return job.planned * 0.5 * model.checkpoint.parameters * max(len(each.clean) for each in job.pairs) / seconds


def reckoned(name: str, workers: int, speed: float, reading: float, a_chunk: float, start: float) -> dict[str, object]:
    """Seconds and efficiency of a map of a large model by so many workers."""
    parameters, layers = LARGE[name]
    rows = PAIRS * 2 * layers * len(COMPONENTS) * len(ROLES)
    operations = rows * 0.5 * parameters * TOKENS  # as `Job.chunk` counts them
    chunks = max(SHARED, math.ceil(operations / CHUNK_OPERATIONS))
    load = start + 2 * parameters / reading
    work = operations / speed
    rounds = math.ceil(chunks / workers) / chunks
    seconds = load + work * rounds + chunks * a_chunk
    alone = load + work + chunks * a_chunk
    return {
        "map": name,
        "workers": workers,
        "chunks": chunks,
        "start (s)": load,
        "measuring (s)": work * rounds,
        "putting together (s)": chunks * a_chunk,
        "all (s)": seconds,
        "efficiency": alone / (workers * seconds),
    }


def main() -> None:
    """Measure, reckon, print and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--most", type=int, default=2, help="processes, and shards")
    parser.add_argument("--speed", type=float, help="operations a second of a worker; default: as measured here")
    parser.add_argument("--reading", type=float, default=2e9, help="bytes a second at which a worker reads weights")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
    options = parser.parse_args()
    model = locate.load(options.model, threads=1)
    rows, table = timed(model, options.limit, 1)
    found = [rows]
    more, other = timed(model, options.limit, options.most)
    pd.testing.assert_frame_equal(other, table, check_exact=True)
    found.append(more)
    with tempfile.TemporaryDirectory() as temporary:
        more, other = by_shards(options.model, options.limit, options.most, Path(temporary) / "run")
    pd.testing.assert_frame_equal(other, table, check_exact=True)
    measured = pd.DataFrame([*found, more])
    measured["times faster, map"] = measured["map (s)"].iloc[0] / measured["map (s)"]
    measured["times faster, all"] = measured["all (s)"].iloc[0] / measured["all (s)"]
    a_chunk = float(measured["reading a chunk (s)"].iloc[2])
    start = float(measured["start of a worker (s)"].iloc[1])
    speed = options.speed or speed_of(model, options.limit, float(measured["map (s)"].iloc[0]))
    large = pd.DataFrame(
        [reckoned(name, workers, speed, options.reading, a_chunk, start) for name in LARGE for workers in WORKERS]
    )
    for name, each in {"scale": measured, "scale_reckoned": large}.items():
        print(each.to_string(index=False), flush=True)
        each.to_csv(options.out / f"{name}.csv", index=False, float_format="%.6g")
    print(f"{speed:.3g} operations a second of a worker")


if __name__ == "__main__":
    main()
