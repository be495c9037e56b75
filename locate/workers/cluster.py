"""A connection to a Ray cluster: one that is started here and ends with it, or one that is there."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locate.errors import LocateError

LOCAL = "local"
NO_INSTALL = 'sharing a run by Ray needs the package ray: pip install "locate-bias[cluster]"'
STORE = 100 * 2**20  # bytes for tables on their way; Ray takes no less than 75 MiB
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",  # report nothing to Ray's makers
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # it would print to stdout that an actor has died
}
REACH = 5.0  # seconds for the first answer of an address


def library() -> Any:
    """Ray itself.

    Raises LocateError where it is not installed.
    """
    try:
        with quiet():
            import ray
    except ImportError:
        raise LocateError(NO_INSTALL) from None
    return ray


@contextmanager
def quiet() -> Iterator[None]:
    """Inside the block what is started is told to say little."""
    before = {name: os.environ.get(name) for name in QUIET}
    os.environ.update({name: text for name, text in QUIET.items() if before[name] is None})
    try:
        yield
    finally:
        for name in QUIET:
            if before[name] is None:
                os.environ.pop(name, None)


@dataclass(eq=False)
class Connection:
    """A connection to a cluster, held by a thread of its own.

    Connecting takes seconds, in which the program goes on; and Linux ends the processes of a cluster with the thread
    that has started them, so that it stays.

    address  of the cluster; LOCAL to start one, which ends with the connection; None for that which the program has
    cores    that a local one has
    then     called once it is there
    """

    address: str | None
    cores: int
    then: Callable[[], None]
    up: threading.Event = field(default_factory=threading.Event)
    down: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.hold, daemon=True)
        self.thread.start()

    def hold(self) -> None:
        """Connect, and stay until it is closed."""
        ray, folder = library(), None
        try:
            folder = self.open(ray)
            self.then()
        except BaseException as error:
            self.error = error
        self.up.set()
        self.down.wait()
        if self.address is not None:
            ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def open(self, ray: Any) -> Path | None:
        """Connect; return the folder of a cluster that was started.

        Raises LocateError where there is none.
        """
        if self.address is None:
            return None
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        quietly = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self.address == LOCAL:
            own = {"num_cpus": self.cores, "object_store_memory": STORE, "include_dashboard": False}
            with quiet():
                found = ray.init(LOCAL, **own, **quietly)
            return Path(found.address_info["session_dir"])
        try:
            reach(self.address)
            ray.init(self.address, **quietly)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            said = " ".join(str(error).split())
            raise LocateError(
                f"no connection to a Ray cluster at {self.address!r} ({said[:300]}): expected the address of one that "
                f"runs, like 10.0.0.1:6379, or auto, or {LOCAL} to start one here"
            ) from error
        return None

    def wait(self) -> None:
        """Wait until it is there.

        Raises LocateError where there is no cluster.
        """
        self.up.wait()
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Leave the cluster; one that was started ends."""
        self.down.set()
        self.thread.join()


def reach(address: str) -> None:
    """Raise OSError where nobody listens at an address; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), REACH).close()
