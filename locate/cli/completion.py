"""What the shell completes beside verbs and options: names that options take, alone or separated by commas."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from locate.sites import COMPONENTS, DIRECTIONS, ROLES, SEVERED

Names = Sequence[str] | Callable[[], Sequence[str]]
Completer = Callable[[str], list[str]]


def one_of(names: Names) -> Completer:
    """A completer of one name; `names` may be a function, for those that take an import."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in listed(names) if name.startswith(incomplete)]

    return complete


def some_of(names: Names) -> Completer:
    """A completer of names separated by commas: the last one, of those that are not there yet."""

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in listed(names) if name.startswith(last) and name not in given]

    return complete


def listed(names: Names) -> Sequence[str]:
    """The names themselves."""
    return names() if callable(names) else names


def metrics() -> list[str]:
    """The names of the metrics."""
    from locate.metrics import METRICS

    return list(METRICS)


def tests() -> list[str]:
    """The names of the tests."""
    from locate.evaluation.tests import HOME

    return list(HOME)


def criteria() -> list[str]:
    """What a judge of rewrites scores."""
    from locate.rewriting.criteria import CRITERIA

    return list(CRITERIA)


METRIC, TEST_LIST, CRITERION_LIST = one_of(metrics), some_of(tests), some_of(criteria)
COMPONENT_LIST, ROLE_LIST, SEVERED_LIST = some_of(COMPONENTS), some_of(ROLES), some_of(tuple(SEVERED))
COMPONENT, ROLE, DIRECTION = one_of(COMPONENTS), one_of(ROLES), one_of(DIRECTIONS)
QUANTITY, VIEW = one_of(("nie", "nde", "total")), one_of(("stereotype", "signed"))
KIND = one_of(("occupation", "definition", "user", "all"))
FORMAT_LIST = some_of(("html", "png", "svg", "pdf"))
DTYPE = one_of(("float32", "bfloat16", "float16", "float64", "tf32"))
METHOD = one_of(("lsdm", "fast", "dpo", "memit", "dama", "leace", "finetune", "sft"))
