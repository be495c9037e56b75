"""What sharing a run among processes saves, and what many machines would take, reckoned from what was measured.

    python benchmarks/scale.py [--model models/smollm2-135m-instruct] [--limit PAIRS] [--most 2] [--only PART]
                               [--out FOLDER]

Measured: the command of `make demo`, without pictures, in one process with one thread, then in --most processes, by as
many actors of a Ray cluster of its own, and by as many shards, each once; their rows and controls must be equal bit for
bit. Of each the seconds of the map and of the controls, as meta.json has them, and of the whole command with loading,
effects, figures and report; of shards those of the slowest, and of `gather`. Besides: the seconds until a process is
ready, and of reading a chunk when the run is put together. And `evaluate` with its bundled tests whose items are cut
into chunks, in one process with one thread and in --most; the scores must be the same texts.

Reckoned: maps of all layers of models of 7 and of 70 billion parameters by 1 to 1,000 workers, each as fast as one
thread was here, or as --speed says (operations a second). Workers start at once, each reads the weights at --reading
bytes a second, chunks are handed out one by one, and the tables are read at the end by one process.
"""

import argparse
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

import locate
from locate.files import read_json
from locate.parts import PARTS
from locate.tracing.models import opening_of
from locate.tracing.stage import Settings, Stage, pairs_in_chunk, prepare
from locate.workers.processes import Processes

COMPONENTS, ROLES = ("attn_out", "mlp_out"), ("subject_last", "last")
MAP = locate.Map(components=COMPONENTS, roles=ROLES)
TESTS = ("occupations", "unseen_forms", "natural", "biaske")
LARGE = {"7B": (7e9, 32), "70B": (70e9, 80)}  # parameters and layers
PAIRS, TOKENS = 1000, 16  # of the maps that are reckoned
WORKERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1000)


def pairs(limit: int | None) -> locate.Prompts:
    """The prompts of the demo."""
    found = locate.occupation_pairs("opposite", templates_each=1)
    return found if limit is None else found.first(limit)


def command(name: str, limit: int | None, folder: Path, *more: str) -> list[str]:
    """The command that is timed."""
    few = [] if limit is None else ["--limit", str(limit)]
    return [
        sys.executable, "-m", "locate", "trace", "-m", name, "-o", str(folder), *few, "--templates-each", "1",
        "--components", ",".join(COMPONENTS), "--roles", ",".join(ROLES), "--formats", "html", *more,
    ]  # fmt: skip


def timed(way: str, workers: int, folder: Path, run: Callable[[], float]) -> dict[str, object]:
    """One run: what it took."""
    started = time.perf_counter()
    more = run()
    seconds = time.perf_counter() - started
    meta = read_json(folder / "meta.json")
    return {
        "way": way,
        "workers": workers,
        "map (s)": meta["seconds"],
        "controls (s)": meta["controls"]["seconds"],
        "whole command (s)": seconds - more,
        "gather (s)": more or math.nan,
    }


def asked(words: Sequence[str]) -> float:
    """Run a command; nothing comes after it."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return 0.0


def shards(words: Sequence[str], count: int, folder: Path, chunks: list[float]) -> float:
    """Run a command as so many shards, then put the run together; returns the seconds of that.

    chunks  the seconds of reading each chunk are put there
    """
    running = [
        subprocess.Popen([*words, "--shard", f"{number}/{count}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number in range(1, count + 1)
    ]
    if any(each.wait() for each in running):
        raise SystemExit("a shard failed")
    started = time.perf_counter()
    for file in sorted((folder / PARTS).glob("*/part-*.parquet")):
        began = time.perf_counter()
        pd.read_parquet(file)
        chunks.append(time.perf_counter() - began)
    read = time.perf_counter() - started
    asked([sys.executable, "-m", "locate", "gather", str(folder), "--formats", "html"])
    return time.perf_counter() - started - read


def start_of_a_worker(model: locate.model.hooked.Model) -> float:
    """Seconds until one process has opened the model, beside nothing else."""
    started = time.perf_counter()
    with Processes(1) as executor:
        few = locate.Map(components=COMPONENTS[:1], layers=(0,), roles=ROLES[-1:])
        executor.expect(opening_of(model), 0)
        locate.trace(model, pairs(1), few, controls=None, executor=executor)
        return time.perf_counter() - started


def measured(name: str, limit: int | None, most: int) -> tuple[pd.DataFrame, list[float]]:
    """All ways, with how many times as fast as the first each is; and the seconds of reading each chunk.

    Raises AssertionError where their numbers differ.
    """
    chunks: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)

        def ask(own: str, *more: str) -> Callable[[], float]:
            return lambda: asked(command(name, limit, place / own, *more))

        rows = [
            timed("this process", 1, place / "1", ask("1", "--threads", "1")),
            timed("processes", most, place / "2", ask("2", "--jobs", str(most))),
            timed("Ray", most, place / "3", ask("3", "--jobs", str(most), "--ray", "local")),
        ]
        words = command(name, limit, place / "4", "--threads", "1")
        rows.append(timed("shards", most, place / "4", lambda: shards(words, most, place / "4", chunks)))
        first = locate.load_trace(place / "1")
        for own in ("2", "3", "4"):
            other = locate.load_trace(place / own)
            pd.testing.assert_frame_equal(other.table, first.table, check_exact=True)
            pd.testing.assert_frame_equal(other.controls, first.controls, check_exact=True)
    table = pd.DataFrame(rows)
    for column, short in (("map (s)", "map"), ("whole command (s)", "whole command")):
        table[f"times faster, {short}"] = table[column].iloc[0] / table[column]
    return table, chunks


def judged(name: str, most: int) -> pd.DataFrame:
    """Seconds of an evaluation in one process and in several.

    Raises SystemExit where their scores differ.
    """
    rows, scores = [], []
    with tempfile.TemporaryDirectory() as temporary:
        for way, jobs in (("this process", 1), ("processes", most)):
            folder = Path(temporary) / str(jobs)
            words = [sys.executable, "-m", "locate", "evaluate", name, "--tests", ",".join(TESTS), "-o", str(folder)]
            started = time.perf_counter()
            asked([*words, "--formats", "html", "--jobs", str(jobs)])
            rows.append({"way": way, "workers": jobs, "whole command (s)": time.perf_counter() - started})
            scores.append((folder / "scores.csv").read_bytes())
    if len(set(scores)) > 1:
        raise SystemExit("the scores differ")
    table = pd.DataFrame(rows)
    return table.assign(**{"times faster": table["whole command (s)"].iloc[0] / table["whole command (s)"]})


def speed_of(model: locate.model.hooked.Model, limit: int | None, seconds: float) -> float:
    """Operations a second of the map, as the size of chunks counts them."""
    job = prepare(model, Stage("map", pairs(limit), MAP), Settings())
    return job.planned * 0.5 * model.checkpoint.parameters * max(len(each.clean) for each in job.pairs) / seconds


def reckoned(name: str, workers: int, speed: float, reading: float, a_chunk: float, start: float) -> dict[str, object]:
    """Seconds and efficiency of a map of a large model by so many workers."""
    parameters, layers = LARGE[name]
    rows = 2 * layers * len(COMPONENTS) * len(ROLES)
    operations = rows * 0.5 * parameters * TOKENS  # of a pair, as `Job.chunk` counts them
    chunks = math.ceil(PAIRS / pairs_in_chunk(PAIRS, rows, operations, on_cpu=True))
    load = start + 2 * parameters / reading
    work = PAIRS * operations / speed
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
    parser.add_argument("--only", choices=("traces", "tests"), help="what is run; default: both")
    options = parser.parse_args()
    if options.only != "tests":
        traces(options)
    if options.only != "traces":
        keep("scale_tests", judged(options.model, options.most), options.out)


def keep(name: str, table: pd.DataFrame, out: Path) -> None:
    """Print a table and write it."""
    print(table.to_string(index=False), flush=True)
    table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")


def traces(options: argparse.Namespace) -> None:
    """All ways to share a trace, and what is reckoned from them."""
    table, chunks = measured(options.model, options.limit, options.most)
    model = locate.load(options.model, threads=1)
    start = start_of_a_worker(model)
    a_chunk = sum(chunks) / len(chunks)
    speed = options.speed or speed_of(model, options.limit, float(table["map (s)"].iloc[0]))
    large = pd.DataFrame(
        [reckoned(name, workers, speed, options.reading, a_chunk, start) for name in LARGE for workers in WORKERS]
    )
    keep("scale", table, options.out)
    keep("scale_reckoned", large, options.out)
    print(f"{speed:.3g} operations a second of a worker; {start:.1f} s until one is ready; {a_chunk:.3f} s a chunk")


if __name__ == "__main__":
    main()
