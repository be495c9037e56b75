"""How many processes may share the work."""

from __future__ import annotations

from locate.errors import LocateError
from locate.model.threads import AFFINITY, granted_cores


def check_jobs(jobs: int) -> None:
    """Raise LocateError for a number of processes below 1, or above the cores that this one is granted."""
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise LocateError(f"jobs {jobs!r}: expected a whole number from 1 up")
    limits = granted_cores()
    least = min(limits, key=lambda name: limits[name])
    if jobs > limits[least]:
        what = "cores of this process" if least == AFFINITY else f"cores granted ({least})"
        raise LocateError(f"jobs {jobs}: expected at most {limits[least]}, the {what}")
