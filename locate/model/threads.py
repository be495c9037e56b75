"""How many threads torch computes with: as many as the cores the process is granted, or one where that is as fast."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from locate.errors import LocateError

FASTER = 1.2  # how much faster several threads must be to be taken
TRIAL = (256, 256, 1024)  # rows and widths of the product that decides
ROUNDS = 41  # about 0.3 s: trials of 0.07 s took one thread at times where two were faster
TRIAL_SECONDS = 0.5  # after which no further round begins
AFFINITY, QUOTA, OMP = "CPU affinity", "cgroup CPU quota", "OMP_NUM_THREADS"
SLURM = ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE")


def granted_cores(root: Path = Path("/"), environ: Mapping[str, str] | None = None) -> dict[str, int]:
    """Cores that this process may use, by what limits them: CPU affinity, the cgroups' CPU quota, Slurm.

    root     of the file system that the cgroups are read from
    environ  variables; None for those of this process

    Raises LocateError for a Slurm variable that is not a whole number from 1 up.
    """
    environ = os.environ if environ is None else environ
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cgroup_quota(root)
    found = {AFFINITY: affinity} | ({} if quota is None else {QUOTA: max(1, int(quota))})
    return found | {name: number_in(name, environ[name]) for name in SLURM if environ.get(name)}


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """CPU time, in cores, that the cgroups of this process allow it, the least on the way up; None without a quota.

    Both versions of cgroups are read. In a container the path of the group can be the host's, and only its end, or
    nothing of it, is there: every folder that exists on the way counts.
    """
    listed = root / "proc/self/cgroup"
    found = []
    for line in listed.read_text().splitlines() if listed.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        steps = [step for step in path.split("/") if step not in ("", "..")]
        for mount in (controllers, "cpu") if controllers else ("", "unified"):
            home = root / "sys/fs/cgroup" / mount
            found += [quota_in(home.joinpath(*steps[:depth])) for depth in range(len(steps) + 1)]
    return min((each for each in found if each is not None), default=None)


def quota_in(group: Path) -> float | None:
    """CPU time, in cores, that one group is limited to; None without a limit."""
    try:
        if (group / "cpu.max").is_file():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
    except OSError:
        return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def number_in(name: str, text: str) -> int:
    """The number of threads that an option or a variable gives.

    Raises LocateError for anything but a whole number from 1 up.
    """
    if not text.strip().isdecimal() or int(text) < 1:
        raise LocateError(f"{name} {text!r}: expected a whole number from 1 up, or leave it out")
    return int(text)


def check_threads(threads: object, environ: Mapping[str, str] | None = None) -> None:
    """Raise LocateError unless this process may use that many threads; None leaves the choice to locate.

    More than OMP_NUM_THREADS says is allowed: that is a default, which an argument overrides.
    """
    if threads is None:
        return
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise LocateError(f"threads {threads!r}: expected a whole number from 1 up, or None")
    limits = granted_cores(environ=environ)
    least = min(limits, key=lambda name: limits[name])
    if threads > limits[least]:
        raise LocateError(f"threads {threads}: this process is granted {limits[least]} ({least}): ask for no more")


def choose_threads(threads: int | None = None, *, environ: Mapping[str, str] | None = None) -> int:
    """The number of threads asked for; without one, as many as are granted where that is clearly faster than one.

    No more than torch would take by itself are chosen. A short trial decides, so the choice depends on what else the
    machine does.

    Raises LocateError as `check_threads` does.
    """
    import torch

    environ = os.environ if environ is None else environ
    check_threads(threads, environ)
    if threads is not None:
        return threads
    most = min(torch.get_num_threads(), *granted_cores(environ=environ).values())
    if environ.get(OMP):
        most = min(most, number_in(OMP, environ[OMP].split(",")[0]))  # a list is one number for each level of nesting
    return most if most == 1 or is_faster(most) else 1


def is_faster(threads: int, seconds: Callable[[int], float] | None = None) -> bool:
    """Whether a product takes clearly less time with several threads than with one; they take turns, medians decide.

    seconds  of one product with that many threads; None to try it
    """
    seconds = seconds or product_seconds
    one, several = [], []
    started = time.perf_counter()
    for turn in range(ROUNDS + 1):
        pair = seconds(1), seconds(threads)
        if turn:  # the first starts the threads
            one.append(pair[0])
            several.append(pair[1])
            if time.perf_counter() - started > TRIAL_SECONDS:
                break
    return FASTER * statistics.median(several) < statistics.median(one)


def product_seconds(threads: int) -> float:
    """Seconds of a few products of the sizes of small models, with this many threads."""
    import torch

    rows, width, out = TRIAL
    x, weight = torch.ones(rows, width), torch.ones(out, width)
    with torch.inference_mode(), torch_threads(threads):
        started = time.perf_counter()
        for _ in range(3):
            torch.nn.functional.gelu(torch.nn.functional.linear(x, weight))
        return time.perf_counter() - started


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Inside the block torch computes with this many threads."""
    import torch

    before = torch.get_num_threads()
    if before == threads:
        yield
        return
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
