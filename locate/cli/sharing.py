"""Who shares the work of a run: this process alone, or several."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from locate.cli.options import thread_count
from locate.errors import LocateError

if TYPE_CHECKING:
    from locate.tracing.measure import Executor


def threads_of_jobs(text: str | None, jobs: int | None) -> int | None:
    """The number of threads of a process: one where the work is shared among several."""
    count = thread_count(text)
    if jobs is None:
        return count
    from locate.workers.jobs import check_jobs

    check_jobs(jobs)
    if count not in (None, 1):
        raise LocateError(f"--threads {count} with --jobs {jobs}: each of several processes computes with one thread")
    return 1


@contextmanager
def executor_of(jobs: int | None) -> Iterator[Executor]:
    """Where chunks are run: in this process, or in several."""
    from locate.tracing.measure import here

    if jobs is None or jobs == 1:
        yield here
        return
    from locate.workers.processes import Processes

    with Processes(jobs) as executor:
        yield executor
