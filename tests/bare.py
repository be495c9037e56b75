"""What tests of the map alone share: trace() without controls, and a map as a job."""

from functools import partial

from locate.sites import DIRECTIONS
from locate.study.trace import trace as whole_trace
from locate.tracing.plan import Map
from locate.tracing.stage import Settings, Stage, prepare

trace = partial(whole_trace, controls=None)


def job_of(model, prompts, map=None, directions=DIRECTIONS, rewrite=None, **settings):
    """A map, or some of a run's rows written otherwise, prepared for a model."""
    stage = Stage("map", prompts, map or Map(), tuple(directions), rewrite=rewrite)
    return prepare(model, stage, Settings(**settings))
