"""Who shares the work of a run: this process alone, or several."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.options import MEASURING, thread_count
from locate.errors import LocateError
from locate.files import read_json

if TYPE_CHECKING:
    from locate.work import Executor


ShardOption = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="I/N",
        rich_help_panel=MEASURING,
        help="be one of N that share a folder, on any machines; auto reads Slurm's array, or RANK and WORLD_SIZE",
    ),
]

SlurmOption = Annotated[
    int | None,
    typer.Option(
        "--slurm",
        metavar="N",
        rich_help_panel=MEASURING,
        help="only print a script for Slurm's sbatch: N shards of this very command, each with --threads, and gather",
    ),
]
PLENTY = 5  # times the size of its files: more than a model with all that is measured in it takes
SLURM = """\
#!/bin/bash
#SBATCH --job-name=locate-bias
#SBATCH --array=1-{count}
#SBATCH --cpus-per-task={threads}
#SBATCH --requeue
#SBATCH --open-mode=append
{gpu}# Save it as {verb}.sh and submit it, with what your cluster asks for; all nodes must see the output folder.
#   sbatch --time=2:00:00 {verb}.sh
# When all have ended, or to see what is missing:
#   {gather}
cd {folder} || exit 1
exec {command}
"""


def threads_of(
    text: str | None, jobs: int | None, shard: str | None, folder: Path, ray: str | None = None
) -> int | None:
    """The number of threads of a process: one where several share the work, and that which a shared run began with."""
    count = thread_count(text)
    if ray is not None and shard is not None:
        raise LocateError(f"--ray {ray} with --shard {shard}: choose one; each shard is one process")
    if jobs is not None and shard is not None:
        raise LocateError(f"--jobs {jobs} with --shard {shard}: choose one; each shard is one process")
    if shard is not None:
        from locate.workers.shards import shard_of

        shard_of(shard)
        begun = threads_of_run(folder)
        return begun if count is None else count
    if jobs is None and ray is None:
        return count
    if jobs is not None and ray in (None, "local"):
        from locate.workers.jobs import check_jobs

        check_jobs(jobs)
    if count not in (None, 1):
        way = f"--jobs {jobs}" if ray is None else f"--ray {ray}"
        raise LocateError(f"--threads {count} with {way}: each of several processes computes with one thread")
    return 1


def threads_of_run(folder: Path) -> int | None:
    """The threads that a run, or the chunks of tests, in a folder began with; None where nothing has begun."""
    begun = [path for path in (folder / "meta.json", folder / "parts" / ".programs.json") if path.is_file()]
    return next((each.get("threads") for each in map(read_json, begun) if isinstance(each, dict)), None)


@contextmanager
def executor_of(
    jobs: int | None, shard: str | None, ray: str | None = None, *, forecast: bool = False
) -> Iterator[Executor]:
    """Where chunks are run: in this process, in several, on a cluster, or in this one as one of several anywhere.

    forecast  whether nothing is measured, so that this process is enough
    """
    from locate.work import here

    if forecast:
        yield here
    elif ray is not None:
        from locate.workers.on_ray import Ray

        with Ray(ray, jobs) as executor:
            yield executor
    elif shard is not None:
        from locate.workers.shards import shard_of

        yield shard_of(shard)
    elif jobs is None or jobs == 1:
        yield here
    else:
        from locate.workers.processes import Processes

        with Processes(jobs) as processes:
            yield processes


def workers_of(jobs: int | None, shard: str | None) -> int:
    """How many processes would share a run, as far as the options say."""
    if shard is None:
        return jobs or 1
    from locate.workers.shards import shard_of

    return shard_of(shard).count


def start_early(
    executor: Executor,
    name: str,
    dtype: str,
    device: str | None,
    reading: dict[str, Any],
    opens: Callable[..., Any] | None = None,
) -> None:
    """Let other processes open a model of this machine while this one does.

    reading  further options of `load`, or of what opens it
    opens    by which they open it; None for what opens the models of a trace
    """
    from locate.work import Early

    if not isinstance(executor, Early):
        return
    if not (name == "mini" or Path(name).exists()):
        executor.expect(None, 0)  # what is on a hub is fetched once, by this process
        return
    from locate.model.hooked import SHORT_DTYPES, choose_device
    from locate.tracing.models import open_models
    from locate.work import Opening

    device, dtype = choose_device(device), SHORT_DTYPES.get(dtype, dtype)
    asked = {"name": name, "dtype": dtype, "device": device, "threads": 1} | reading
    files = Path(name).iterdir() if Path(name).is_dir() else [Path(name)]
    size = sum(each.stat().st_size for each in files if each.suffix in (".safetensors", ".bin", ".gguf"))
    executor.expect(Opening(opens or open_models, asked), PLENTY * size)


def tell_shard(folder: Path, as_json: bool) -> None:
    """That a shard is done, and what to type once all have ended."""
    from locate.cli.following import command
    from locate.cli.show import print_following, stdout

    if as_json:
        print(json.dumps({"run": str(folder), "next": command("gather", folder)}))
        return
    stdout().print(f"every chunk of {folder} is measured: this shard is done")
    print_following([command("gather", folder)])


def print_slurm(
    count: int,
    runs: Sequence[Path],
    threads: str | None,
    device: str | None,
    jobs: int | None,
    shard: str | None,
    ray: str | None = None,
) -> None:
    """A script for a job array of this very command, without `--slurm`, each of them a shard that fills these runs."""
    if count < 1:
        raise LocateError(f"--slurm {count}: expected a number of shards from 1 up")
    if any(each is not None for each in (jobs, shard, ray)):
        raise LocateError("--slurm makes shards of the command: leave --jobs, --shard and --ray out")
    words = sys.argv[1:]
    place = next(place for place, word in enumerate(words) if word.partition("=")[0] == "--slurm")
    words[place : place + (1 if "=" in words[place] else 2)] = []
    alone = [] if threads is not None else ["--threads", "1"]
    program = [sys.executable, "-m", "locate"]
    print(
        SLURM.format(
            verb=words[0],
            count=count,
            threads=threads or 1,
            gpu="#SBATCH --gres=gpu:1\n" if (device or "").startswith("cuda") else "",
            gather="\n#   ".join(shlex.join([*program, "gather", str(folder)]) for folder in runs),
            folder=shlex.quote(str(Path.cwd())),
            command=shlex.join([*program, *words, *alone, "--shard", "auto"]),
        ),
        end="",
    )
