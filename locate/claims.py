"""Claims: exclusive rights to a piece of work in a folder that several processes, or machines, share.

A claim is a file that only one process can create, whose content changes as long as that process lives. Whether its
owner is dead is told without comparing clocks: on the same machine by its process, elsewhere by a content that has not
changed for a while on the watcher's own clock. The claim of a dead owner is taken over by creating the next generation
of it, which again only one can.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from locate.errors import LocateError

BEAT = 5.0  # seconds between two changes of a claim's content
SILENT = 60.0  # seconds without a change after which the owner of a claim is taken to be dead


@cache
def this_machine() -> str:
    """What tells whether a process number means the same: the host, its start, and the namespace of processes."""
    parts = [socket.gethostname()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def began(process: int) -> float:
    """When a process of this machine began: ticks since the machine started, which no change of the clock moves, where
    Linux tells them.

    Raises psutil.NoSuchProcess where there is none.
    """
    if sys.platform != "linux":
        return psutil.Process(process).create_time()
    try:
        return float(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError) as error:
        raise psutil.NoSuchProcess(process) from error


def this_process() -> dict[str, Any]:
    """Who owns a claim of this process."""
    return {
        "host": socket.gethostname(),
        "machine": this_machine(),
        "process": os.getpid(),
        "began": began(os.getpid()),
    }


@dataclass(eq=False)
class Claim:
    """A right that this process has, until it is released or the process ends; a context that releases it."""

    path: Path
    _over: threading.Event = field(default_factory=threading.Event, init=False, repr=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        count = 0
        while not self._over.wait(BEAT):
            count += 1
            with suppress(OSError):  # a full disk: others will take the work over, and do the same
                self.path.write_text(json.dumps(this_process() | {"beat": count}), encoding="utf-8")

    def release(self) -> None:
        """Give the right back."""
        self._over.set()
        self._thread.join()
        self.path.unlink(missing_ok=True)

    def __enter__(self) -> Claim:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(eq=False)
class Claims:
    """The claims in a folder, and what this process has seen of those of others.

    silent  seconds without a change after which an owner is taken to be dead
    """

    folder: Path
    silent: float = SILENT
    _seen: dict[Path, tuple[str, float]] = field(default_factory=dict, init=False, repr=False)

    def take(self, name: str) -> Claim | None:
        """Claim a piece of work; None where somebody who may be alive has it.

        Raises LocateError where the folder cannot be written.
        """
        latest = self.latest(name)
        if latest is not None and self.alive(latest[1]):
            return None
        generation = 0 if latest is None else latest[0] + 1
        path = self.folder / f"{name}.{generation}.claim"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(json.dumps(this_process() | {"beat": 0}))
        except FileExistsError:
            return None
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise LocateError(f"cannot write {path}: {error}: free some space or choose another folder") from error
        return Claim(path)

    def latest(self, name: str) -> tuple[int, Path] | None:
        """Number and file of the newest claim of that name."""
        pattern = re.compile(re.escape(name) + r"\.(\d+)\.claim")
        found = []
        with suppress(OSError):
            for path in self.folder.iterdir():
                if (match := pattern.fullmatch(path.name)) is not None:
                    found.append((int(match[1]), path))
        return max(found, default=None)

    def alive(self, path: Path) -> bool:
        """Whether the owner of a claim may be alive; seen for the first time, one of another machine may."""
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        except OSError:
            return True
        owner = owner_in(text)
        if owner is not None and owner.get("machine") == this_machine():
            return is_running(owner)
        before, since = self._seen.get(path, (None, 0.0))
        if text != before:
            self._seen[path] = (text, time.monotonic())
            return True
        return time.monotonic() - since < self.silent

    def living(self, name: str) -> str | None:
        """Who has a piece of work, in words; None where nobody has, or who had it is dead.

        Of another machine that is told by waiting: until its claim has changed, or has not for long enough.
        """
        latest = self.latest(name)
        if latest is None:
            return None
        first, owner = read_or_none(latest[1]), self.owner(name)
        while self.alive(latest[1]):
            text = read_or_none(latest[1])
            if text != first or (owner_in(text or "") or {}).get("machine") == this_machine():
                return owner or "an unknown process"
            time.sleep(min(1.0, self.silent / 10))
        return None

    def owner_alive(self, name: str) -> str | None:
        """Who has a piece of work, in words, as far as is known at once; None where nobody has, or who had is dead."""
        latest = self.latest(name)
        return self.owner(name) if latest is not None and self.alive(latest[1]) else None

    def names(self, beginning: str) -> list[str]:
        """The claims there are whose name begins so, those of the dead too."""
        found = {re.sub(r"\.\d+\.claim$", "", path.name) for path in self.folder.glob(f"{beginning}*.claim")}
        return sorted(found)

    def owner(self, name: str) -> str | None:
        """Who has a piece of work, in words; None where nobody has."""
        latest = self.latest(name)
        if latest is None:
            return None
        try:
            found = owner_in(latest[1].read_text(encoding="utf-8"))
        except OSError:
            return None
        return "an unknown process" if found is None else f"process {found.get('process')} of {found.get('host')}"


def read_or_none(path: Path) -> str | None:
    """The text of a claim; None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def owner_in(text: str) -> dict[str, Any] | None:
    """The owner that a claim names; None where it is just being written."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def is_running(owner: dict[str, Any]) -> bool:
    """Whether a process of this machine still runs; another one may have its number by now."""
    try:
        number = int(owner["process"])
        ended = psutil.Process(number).status() == psutil.STATUS_ZOMBIE
        return not ended and began(number) == owner["began"]
    except (psutil.NoSuchProcess, psutil.AccessDenied, KeyError, TypeError, ValueError):
        return False
