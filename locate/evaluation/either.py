"""compare(): what changed between two models, from their traces or their evaluations."""

from __future__ import annotations

from typing import Any

from locate.errors import LocateError
from locate.evaluation.change import EvaluationChange, compare_evaluations
from locate.evaluation.evaluation import Evaluation
from locate.mediation.analysis import Analysis
from locate.mediation.comparison import Comparison, compare_traces
from locate.tracing.table import Trace


def compare(
    a: Trace | Analysis | Evaluation, b: Trace | Analysis | Evaluation, **settings: Any
) -> Comparison | EvaluationChange:
    """Compare two models: base and instruct, before and after an edit, two checkpoints.

    a, b      two traces or analyses of the same prompts and patches, or two evaluations of the same items
    settings  of `compare_traces` or of `compare_evaluations`

    Raises LocateError as those do, or for a trace and an evaluation.
    """
    judged = [isinstance(each, Evaluation) for each in (a, b)]
    if isinstance(a, Evaluation) and isinstance(b, Evaluation):
        return compare_evaluations(a, b, **settings)
    if isinstance(a, Evaluation) or isinstance(b, Evaluation):
        one, other = ("an evaluation" if each else "a trace" for each in judged)
        raise LocateError(f"A is {one}, B is {other}: compare two traces or two evaluations")
    return compare_traces(a, b, **settings)
