"""The models of a run and its stages prepared for them, each made when it is first needed."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

from locate.model.bits import bits_of
from locate.model.hooked import Model
from locate.model.loading import load
from locate.model.untrained import make_untrained
from locate.tracing.stage import Job, Settings, Stage, prepare
from locate.work import Opening


def opening_of(model: Model) -> Opening:
    """How another process opens the model that is traced, computed with one thread."""
    return Opening(open_models, {"name": model.name, "dtype": model.dtype} | model.options | {"threads": 1})


def open_models(**arguments: Any) -> Models:
    """The models of a run in another process, loaded as `load` is told to."""
    return Models(load(**arguments))


class Models:
    """The model that is traced, and the same with random weights.

    trained   the model that is traced
    prepared  stages that the caller has prepared in it already
    """

    def __init__(self, trained: Model, prepared: Sequence[Job] = ()) -> None:
        self.trained, self.prepared = trained, prepared
        self.untrained: dict[int, Model] = {}

    def identity(self) -> Hashable:
        """What tells the model that is traced from another one: the hash of its files, and its numbers in memory."""
        return self.trained.checkpoint.weights_sha256, bits_of(self.trained.bridge.original_model)

    def plain_job(self, stage: Stage, settings: Settings) -> Job:
        """The stage prepared in the model that is traced, whatever weights it asks for: its pairs, chunks and rows."""
        given = [job for job in self.prepared if job.stage is stage]
        return given[0] if given else prepare(self.trained, stage, settings)

    def job(self, stage: Stage, settings: Settings) -> Job:
        """The stage prepared in the model whose weights it asks for."""
        seed = stage.untrained
        if seed is None:
            return self.plain_job(stage, settings)
        if seed not in self.untrained:
            self.untrained[seed] = make_untrained(self.trained, seed)
        return prepare(self.untrained[seed], stage, settings)
