"""What sharing a run by Ray costs beside processes of this machine: figures/on_ray.csv.

    python benchmarks/on_ray.py [--model models/smollm2-135m-instruct] [--limit PAIRS] [--jobs 2] [--repeats 3]

The map of `make demo`, without controls, in turn in --jobs processes and in as many actors on a cluster that is started
for it, without a run folder; their rows must be equal bit for bit. Of each:

start (s)      from the first line to the first piece: processes, cluster and actors start, and open the model
map (s)        from there to the last piece
memory (MB)    of Ray's own processes, without actors and what they share with others
processes      of Ray, without actors
"""

import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import psutil

import locate
from locate.tracing.measure import Loop
from locate.tracing.progress import Pace
from locate.tracing.stage import Settings, Stage, prepare
from locate.workers.on_ray import Ray
from locate.workers.processes import Processes

MAP = locate.Map(components=("attn_out", "mlp_out"), roles=("subject_last", "last"))


def measured(
    model: locate.model.hooked.Model, limit: int, way: str, jobs: int
) -> tuple[dict[str, object], pd.DataFrame]:
    """One run: what it took, and its rows."""
    job = prepare(
        model, Stage("map", locate.occupation_pairs("opposite", templates_each=1).first(limit), MAP), Settings()
    )
    began: list[float] = []
    pace = Pace((), None)
    loop = Loop(model, job.settings, None, None, pace, [job])  # type: ignore[arg-type]
    missing = loop.missing(job, range(len(job.chunks)), None)
    pace.start("map", job.planned, 1.0)
    missing = replace(missing, begin=lambda: began.append(time.perf_counter()))
    started = time.perf_counter()
    with Ray("local", jobs) if way == "ray" else Processes(jobs) as executor:
        tables = dict(executor(missing))
        ended = time.perf_counter()
        own = [
            each for each in psutil.Process().children(recursive=True) if way == "ray" and "Actor" not in each.name()
        ]
        memory = sum(each.memory_full_info().uss for each in own) / 1e6
    row = {
        "way": way,
        "jobs": jobs,
        "chunks": len(tables),
        "start (s)": began[0] - started,
        "map (s)": ended - began[0],
        "end (s)": time.perf_counter() - ended,
        "memory (MB)": memory,
        "processes": len(own),
    }
    return row, pd.concat([tables[number] for number in sorted(tables)], ignore_index=True)


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/smollm2-135m-instruct")
    parser.add_argument("--limit", type=int, default=24)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures" / "on_ray.csv")
    options = parser.parse_args()
    model = locate.load(options.model, threads=1)
    rows, first = [], None
    for _ in range(options.repeats):
        for way in ("processes", "ray"):
            row, table = measured(model, options.limit, way, options.jobs)
            first = table if first is None else first
            pd.testing.assert_frame_equal(table, first, check_exact=True)
            rows.append(row)
            print(pd.DataFrame([row]).to_string(index=False), flush=True)
    found = pd.DataFrame(rows)
    found.to_csv(options.out, index=False, float_format="%.6g")
    print(found.groupby("way")[["start (s)", "map (s)", "end (s)"]].median())


if __name__ == "__main__":
    main()
