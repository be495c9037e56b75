"""Chunks run on a Ray cluster: actors with a model each, on one that is started here or on one that is there."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import psutil

from locate.errors import LocateError
from locate.model.threads import granted_cores
from locate.schema import programs
from locate.work import Missing, Opening
from locate.workers.actor import Actor
from locate.workers.cluster import LOCAL, Connection, library
from locate.workers.jobs import check_jobs
from locate.workers.messages import Done, Ended, Failed, Identity, Placed, Task, Written
from locate.workers.pool import ALONE, Pool, Worker
from locate.workers.processes import check_memory, python_path

LOOK = 0.5  # seconds between two looks at whether actors have found room, while nothing is answered


@dataclass(eq=False)
class Remote(Worker):
    """A worker that is an actor.

    handle   of the actor
    put      puts work into the cluster's object store
    calls    what it has not answered yet
    machine  that it is on; None before it has started
    """

    handle: Any
    put: Callable[[bytes], Any]
    calls: list[Any] = field(default_factory=list)
    machine: str | None = None

    def send(self, message: object) -> None:
        """Call it."""
        if isinstance(message, Opening):
            self.handle.open.remote(pickle.dumps(message))
        elif isinstance(message, Identity):
            self.calls.append(self.handle.check.remote(message))
        else:
            assert isinstance(message, Task)
            work = self.put(message.work)
            self.calls.append(self.handle.do.remote(work, message.number, message.piece, message.kept))

    def end(self) -> None:
        """End it now."""
        ray = library()
        with suppress(ray.exceptions.RayError):  # it has ended, or its cluster has
            ray.kill(self.handle)

    def how(self) -> str:
        """Where it ended."""
        return f"on {self.machine or 'a machine that it had not reached'}"


@dataclass(eq=False)
class Ray(Pool[Remote]):
    """Does pieces of work in actors of a Ray cluster; an executor, and a context that ends them.

    address   of a cluster that is there, as `ray.init` takes it ("auto", "10.0.0.1:6379"); "local" to start one on
              this machine, which ends with the context; None for that which the program is connected to, else "local"
    jobs      actors; each has its own model, a CPU and one thread, and a GPU where the model is on one. None for as
              many as the cluster has room for
    patience  seconds that may pass in which no actor finds room, where others use the cluster

    A piece whose actor ends is done again in another one. Where actors see the folder in which pieces are kept, they
    keep them, and only their numbers are sent back; without a folder, or on machines that do not share it, what pieces
    give comes back through the cluster's object store. Other machines need the same versions of all that computes.

    connection  to the cluster, once one was begun
    memory      bytes that an actor asks the cluster for; 0 for none
    placed      when an actor last had room
    sent        the work that the cluster's object store has, and where

    Raises LocateError where Ray is not installed.
    """

    address: str | None = None
    jobs: int | None = None
    patience: float = 60.0
    connection: Connection | None = field(default=None, init=False)
    memory: int = field(default=0, init=False)
    placed: float = field(default=0.0, init=False)
    sent: tuple[bytes, Any] = field(default=(b"", None), init=False)
    keeps: ClassVar[bool] = True

    def __post_init__(self) -> None:
        connected = library().is_initialized()
        if self.address is not None and connected:
            raise LocateError(
                f"the program is connected to a Ray cluster already: leave the address {self.address!r} out to use "
                "that, or call ray.shutdown()"
            )
        if self.address is None and not connected:
            self.address = LOCAL
        if self.jobs is not None and self.address == LOCAL:
            check_jobs(self.jobs)
        elif self.jobs is not None and self.jobs < 1:
            raise LocateError(f"jobs {self.jobs}: expected a whole number from 1 up")

    def __enter__(self) -> Ray:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self.connection is not None:
                self.connection.up.wait()
                self.close()
        finally:
            self.disconnect()

    def disconnect(self) -> None:
        """Leave the cluster; one that was started ends."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None
            self.workers.clear()

    def connect(self, then: Callable[[], None] = lambda: None) -> None:
        """Begin to connect, if that has not begun; `then` is called in a thread once the cluster is there."""
        if self.connection is None:
            self.connection = Connection(self.address, self.cores(), then)

    def cores(self) -> int:
        """Of a cluster that is started here: as many as actors were asked for, or as this process is granted."""
        return min(granted_cores().values()) if self.jobs is None else self.jobs

    def expect(self, opening: Opening | None, memory: int) -> None:
        """Start the cluster before there is work, and actors, so that they open their models while this process does.

        opening  None where it is not known yet
        memory   that each of them needs, about; where so much is not free they are started later, and counted exactly
        """

        def start_all() -> None:
            count = self.jobs or self.room(0, opening)
            if opening is not None and self.fits(count, memory, opening):
                self.opening = opening
                for _ in range(count):
                    self.start()

        self.connect(start_all)

    def begin(self, missing: Missing, pieces: int) -> None:
        """Connect, then start actors, up to one a piece, and tell all of them what they must have."""
        self.connect()
        assert self.connection is not None
        self.connection.wait()
        super().begin(missing, pieces)
        self.placed = time.monotonic()

    def fits(self, count: int, memory: int, opening: Opening) -> bool:
        """Whether so many actors, of so many bytes each, find room."""
        if self.address == LOCAL:
            return count * memory < psutil.virtual_memory().available
        return count <= self.room(memory, opening)

    def room(self, memory: int, opening: Opening | None) -> int:
        """For how many actors the cluster's machines have room, where nobody else uses them."""
        needs = needs_of(memory, opening)
        nodes = [node["Resources"] for node in library().nodes() if node["Alive"]]
        return sum(int(min(node.get(name, 0) // need for name, need in needs.items())) for node in nodes)

    def most(self, missing: Missing) -> int:
        """As many as were asked for, or as there is room for.

        Raises LocateError where that is none.
        """
        memory = 0 if self.address == LOCAL else missing.memory
        room = self.room(memory, missing.opening)
        if room < (self.jobs or 1):
            needs = in_words(needs_of(memory, missing.opening))
            raise LocateError(
                f"{self.jobs or 1} actors on {self.place()}: expected at most {room}, since each needs {needs}: choose "
                "fewer --jobs, less --memory, or a larger cluster"
            )
        return self.jobs or room

    def check_room(self, missing: Missing, new: int) -> None:
        """Raise LocateError where so many more actors do not fit beside what uses this machine."""
        self.memory = 0 if self.address == LOCAL else missing.memory
        if self.address == LOCAL:
            check_memory(missing.memory, new)

    def place(self) -> str:
        """The cluster in words."""
        return "the Ray cluster of this machine" if self.address == LOCAL else f"the Ray cluster {self.address or ''}"

    def start_worker(self) -> Remote:
        """A new actor; where there is no room it waits for some."""
        needs = needs_of(self.memory, self.opening)
        options: dict[str, Any] = {"num_cpus": 1, "num_gpus": needs.get("GPU", 0), "max_restarts": 0}
        if "memory" in needs:
            options["memory"] = needs["memory"]
        environment = {"env_vars": ALONE | {"PYTHONPATH": python_path()}}
        made = library().remote(Actor).options(**options, runtime_env=environment).remote(str(Path.cwd()))
        return Remote(made, self.put, [made.place.remote()])

    def put(self, work: bytes) -> Any:
        """Work in the cluster's object store, put there once."""
        if self.sent[0] is not work:
            self.sent = work, library().put(work)
        return self.sent[1]

    def opening_for(self, opening: Opening, worker: Remote) -> Opening:
        """The same on the only GPU that Ray shows an actor."""
        if str(opening.arguments.get("device", "")).startswith("cuda"):
            return replace(opening, arguments=dict(opening.arguments) | {"device": "cuda"})
        return opening

    def answer(self, missing: Missing) -> tuple[Remote, object]:
        """The next that an actor answers; what it has kept is read."""
        while True:
            calls = {call: worker for worker in self.workers for call in worker.calls}
            done, _ = library().wait(list(calls), timeout=LOOK)
            if not done:
                self.check_placed()
                continue
            worker = calls[done[0]]
            worker.calls.remove(done[0])
            message = result(done[0])
            if isinstance(message, Written):
                assert missing.kept is not None
                found = missing.kept.read(message.number)
                message = Done(message.number, found) if found is not None else self.fetched(worker, message.number)
            if isinstance(message, Placed):
                worker.machine, self.placed = message.machine, time.monotonic()
                check_programs(message)
                continue
            if isinstance(message, Done):
                missing.count(message.number, missing.size(message.number))
            return worker, message

    def fetched(self, worker: Remote, number: int) -> object:
        """What an actor has kept on a machine whose folder is not the one here."""
        found = result(worker.handle.last.remote())
        return found if isinstance(found, Failed | Ended) else Done(number, found)

    def check_placed(self) -> None:
        """Raise LocateError where no actor has found room for long."""
        if any(worker.machine for worker in self.workers):
            self.placed = time.monotonic()
        elif time.monotonic() - self.placed > self.patience:
            ray = library()
            needs = needs_of(self.memory, self.opening)
            has, free = (
                in_words({name: each.get(name, 0) for name in needs})
                for each in (ray.cluster_resources(), ray.available_resources())
            )
            raise LocateError(
                f"no actor has started within {self.patience:.0f} s: {self.place()} has {has}, of which {free} are "
                f"free, and an actor needs {in_words(needs)}: wait until others leave it, or choose another cluster"
            )


def needs_of(memory: int, opening: Opening | None) -> dict[str, float]:
    """What an actor asks of the cluster; memory where it is known."""
    device = "" if opening is None else str(opening.arguments.get("device", ""))
    needs = {"CPU": 1.0} | ({"GPU": 1.0} if device.startswith("cuda") else {})
    return needs | ({"memory": float(memory)} if memory else {})


def in_words(resources: dict[str, float]) -> str:
    """What there is on a cluster."""
    found = [f"{each:g} {name}" for name, each in resources.items() if name != "memory"]
    if "memory" in resources:
        found.append(f"{resources['memory'] / 2**30:.1f} GiB")
    return " and ".join(found)


def result(call: Any) -> object:
    """What an actor answers; Ended where it has died, Failed where it cannot be made or what it says cannot be read."""
    ray = library()
    try:
        return ray.get(call)
    except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError) as error:
        return Failed(str(error), False)
    except ray.exceptions.RayError as error:
        if "ModuleNotFoundError" in str(error):
            said = str(error).strip().splitlines()[-1]
            return Failed(
                f"an actor cannot be made ({said}): install locate-bias on every machine of the cluster", True
            )
        return Ended()


def check_programs(placed: Placed) -> None:
    """Raise LocateError where a machine computes with other versions: they round otherwise."""
    mine = programs()
    for name in sorted(set(mine) | set(placed.programs)):
        if mine.get(name) != placed.programs.get(name):
            raise LocateError(
                f"{placed.machine} has {name} {placed.programs.get(name)}, this machine {mine.get(name)}: all who "
                "share a run must compute alike, so install the same"
            )
