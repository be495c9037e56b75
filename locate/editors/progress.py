"""How editors report their progress."""

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""(what, how many are done, of how many)"""


def no_progress(what: str, done: int, total: int) -> None:
    """Report nothing."""
