"""Kills processes of shared runs at random moments, and checks that nothing is lost, torn or left running.

    python tests/kills.py [--kills 125] [--seed 0] [--ways here,processes,shards,ray,tests] [--out FILE.csv]

Each way of running a trace, and an evaluation by shards ("tests"), has its share of the kills: a worker, a shard or the
process that was asked, by SIGKILL, SIGTERM or SIGINT. What was asked and has died is started again, until its run is
whole. Then its tables must be those of a run of one process that nobody disturbed, bit for bit; a chunk that was kept
when something died must be the same file at the end; and neither half a file, nor a claim, nor a process may be left.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
from families import save_family

WAYS = ("here", "processes", "shards", "ray", "tests")
SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
KINDS = ("worker", "asked")  # what is killed: a process that measures for another one, or the one that was started
SHARDS = 3
LAST = 100.0  # seconds in which what is left of a run must end: two of Ray's processes take a minute
LONGEST = 120.0  # seconds that a start may take to its end, at the most
PROGRAM = """
import sys
sys.path.insert(0, {tests!r})
from locate.model.loading import load
from locate.model.products import multiplied_by
from locate.prompts import occupation_pairs
from locate.study.controls import Controls
from locate.study.trace import trace
from locate.tracing import stage
from locate.tracing.folder import RunFolder
from locate.tracing.plan import Map
from locate.work import here
from locate.workers import pool, processes
stage.CHUNK_PAIRS = 2
RunFolder.forget = lambda folder: None  # kept for a look at the end
pool.TRIES = 10**6
model = load({model!r}, device="cpu", bos="yes", threads=1)
prompts = occupation_pairs("anti", templates_each=1).first(96)
print("ready", flush=True)
with multiplied_by("torch"), {executor} as executor:
    trace(
        model, prompts, Map(("mlp_out", "attn_out")), output={output!r}, executor=executor,
        controls=Controls(sites=2, pairs=16, sets=9, random_weights=False),
    )
"""
EVALUATION = """
import sys
sys.path.insert(0, {tests!r})
from dataclasses import replace
from locate.evaluation import occupations
from locate.evaluation.run import evaluate
from locate.model.causal import load_causal
from locate.work import here
from locate.workers.shards import Shard
occupations.TEST = replace(occupations.TEST, chunk=8)
model = load_causal({model!r}, device="cpu", bos="yes", threads=1)
print("ready", flush=True)
executor = here if {count} == 1 else Shard({number}, {count})
evaluate(model, tests=["occupations", "generation"], limit=1600, folder={output!r}, executor=executor)
"""
EXECUTORS = {
    "here": "__import__('contextlib').nullcontext(here)",
    "processes": "processes.Processes(2)",
    "ray": "__import__('locate.workers.on_ray', fromlist=['Ray']).Ray('local', 2)",
}


@dataclass
class Attempt:
    """One run that is disturbed until it is whole.

    alone    whether one process does it, which nobody disturbs
    started  what was asked for and runs: one process, or the shards
    kept     chunks that were there when something died, with their inode and time
    """

    way: str
    model: Path
    output: Path
    rng: random.Random
    alone: bool = False
    started: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    kept: dict[Path, tuple[int, int]] = field(default_factory=dict)
    done: set[int] = field(default_factory=set)

    @property
    def count(self) -> int:
        """How many processes are asked."""
        return SHARDS if self.way in ("shards", "tests") and not self.alone else 1

    def start(self, number: int) -> None:
        """Start what is asked for, and read until its model is there."""
        executor = EXECUTORS.get(
            self.way,
            "__import__('contextlib').nullcontext(__import__('locate.workers.shards', fromlist=['Shard']).Shard("
            f"{number}, {SHARDS}))",
        )
        program = (EVALUATION if self.way == "tests" else PROGRAM).format(
            tests=str(Path(__file__).parent), model=str(self.model), output=str(self.output), executor=executor,
            number=number, count=self.count,
        )  # fmt: skip
        self.started[number] = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def run(self, kills: int) -> Counter[str]:
        """Start, kill at random moments so often at most, start again, until the run is whole."""
        killed: Counter[str] = Counter()
        began = last = time.monotonic()
        early, pause = self.next()
        while len(self.done) < self.count:
            for number in set(range(self.count)) - self.done:
                if number not in self.started:
                    self.start(number)
            time.sleep(0.05)
            for number, each in list(self.started.items()):
                if each.poll() is not None:
                    end_of(each)
                    del self.started[number]
                    if each.returncode == 0:
                        self.done.add(number)
            if not early and not self.has_new():
                began = time.monotonic()  # the pause begins with a new chunk
            if killed.total() < kills and time.monotonic() - began > pause:
                killed += self.kill()
                began = last = time.monotonic()
                early, pause = self.next()
            if time.monotonic() - last > LONGEST:
                raise SystemExit(f"{self.way}: not whole after {LONGEST:.0f} s without a kill")
        return killed

    def next(self) -> tuple[bool, float]:
        """Whether the next kill may fall into the start; and the seconds to it, else from the next chunk."""
        early = self.rng.random() < 0.3
        return early, self.rng.uniform(0.2, 8.0) if early else self.rng.uniform(0.0, 1.5)

    def has_new(self) -> bool:
        """Whether a chunk is kept that was not when something last died."""
        return any(path not in self.kept for path in self.output.glob("parts/*/part-*.parquet"))

    def kill(self) -> Counter[str]:
        """Kill one of the processes, and remember what was kept."""
        found: list[tuple[str, psutil.Process]] = []
        for each in self.started.values():
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(each.pid)
                found.append(("asked", own))
                found += [("worker", child) for child in own.children(recursive=True) if is_worker(child)]
        if not found:
            return Counter()
        workers = [each for each in found if each[0] == "worker"]
        kind, victim = self.rng.choice(workers if workers and self.rng.random() < 0.6 else found)
        sent = self.rng.choice(SIGNALS)
        with suppress(psutil.NoSuchProcess):
            victim.send_signal(sent)
            own = [each for each in self.started.values() if each.pid == victim.pid]
            (own or [victim])[0].wait(30)  # psutil would take the exit code of this process's own children
            self.look()
            return Counter({kind: 1})
        return Counter()

    def look(self) -> None:
        """Remember every chunk that is kept; one that was there before must be the same file."""
        now = {}
        for path in self.output.glob("parts/*/part-*.parquet"):
            with suppress(FileNotFoundError):
                now[path] = (path.stat().st_ino, path.stat().st_mtime_ns)
        lost = [str(path.relative_to(self.output)) for path, told in self.kept.items() if now.get(path) != told]
        if lost:
            raise SystemExit(f"{self.way}: chunks that were kept are gone, or were measured again: {lost}")
        self.kept = now


def is_worker(process: psutil.Process) -> bool:
    """Whether a process measures chunks for another one."""
    with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, psutil.AccessDenied):
        words = process.cmdline()
        return "locate.workers.worker" in words or any(word.startswith("ray::Actor") for word in words[:1])
    return False


def end_of(child: subprocess.Popen[bytes]) -> None:
    """Close what was read of a process that has ended."""
    if child.stdout is not None:
        child.stdout.close()


def check(attempt: Attempt, whole: dict[str, pd.DataFrame], before: set[int]) -> None:
    """Raise SystemExit unless a run that was disturbed is the one that was not, and nothing is left of it."""
    from locate.tracing.folder import RunFolder

    attempt.look()
    found = tables_of(attempt)
    for name, other in whole.items():
        if not found[name].equals(other):
            raise SystemExit(f"{attempt.way}: the {name} are not those of a run that nobody disturbed")
    left = [path.name for path in attempt.output.rglob("*") if ".partial" in path.name or path.suffix == ".claim"]
    own = [path for path in left if not path.startswith("part-")]  # of a chunk whose owner died: taken over, and kept
    if own:
        raise SystemExit(f"{attempt.way}: half a file or a claim is left: {own}")
    RunFolder(attempt.output).forget()
    end = time.monotonic() + LAST
    while (running := still_running(before)) and time.monotonic() < end:
        time.sleep(0.2)
    if running:
        raise SystemExit(f"{attempt.way}: still running: {running}")


def still_running(before: set[int]) -> list[str]:
    """Processes of a run that were not there before."""
    found = []
    for each in psutil.process_iter(["pid", "cmdline", "status"]):
        words = " ".join(each.info["cmdline"] or [])
        ours = "locate.workers" in words or "ray::" in words or "raylet" in words or "gcs_server" in words
        if ours and each.info["pid"] not in before and each.info["status"] != psutil.STATUS_ZOMBIE:
            found.append(words[:100])
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Disturb runs, and write how often what was killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args(arguments)
    ways, rng = options.ways.split(","), random.Random(options.seed)
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        (place / "model").mkdir()
        model = save_family("gpt2", place / "model")
        whole = {}
        for way in {"tests" if way == "tests" else "here" for way in ways}:
            undisturbed = Attempt(way, model, place / f"whole-{way}", rng, alone=True)
            undisturbed.run(0)
            whole[way] = tables_of(undisturbed)
        before = set(psutil.pids())
        for index, way in enumerate(ways):
            share = options.kills // len(ways) + (index < options.kills % len(ways))
            killed, runs = Counter[str](), 0
            while killed.total() < share:
                attempt = Attempt(way, model, place / f"{way}-{runs}", rng)
                killed += attempt.run(min(share - killed.total(), 6))
                check(attempt, whole["tests" if way == "tests" else "here"], before)
                runs += 1
                print(f"{way}: {runs} runs whole after {killed.total()} of {share} kills", file=sys.stderr, flush=True)
            rows.append({"way": way, "runs": runs, "kills": killed.total()} | {kind: killed[kind] for kind in KINDS})
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    if options.out is not None:
        table.to_csv(options.out, index=False)


def tables_of(attempt: Attempt) -> dict[str, pd.DataFrame]:
    """Rows and controls of a run, or what an evaluation measured and scored; gathered, where there are shards."""
    from locate.evaluation.folder import gather_evaluation
    from locate.tracing.table import load_trace
    from locate.workers.gather import gather

    if attempt.way == "tests":
        judged = gather_evaluation(attempt.output)
        return judged.tables | {"scores": judged.frame()}
    found = gather(attempt.output) if attempt.way == "shards" else load_trace(attempt.output)
    assert found.controls is not None
    return {"rows": found.table, "controls": found.controls}


if __name__ == "__main__":
    main()
