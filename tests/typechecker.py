"""The run-time check of annotations during tests: an int may stand where a float is expected, as in static typing.

A function that is defined within another is made anew, and would have its checks compiled anew, each time the outer
one runs: for the hooks of a sweep that is half of a trace's time. Its checks are compiled once here, and serve each.
"""

import functools
import inspect
import threading
from collections import defaultdict

import jaxtyping
from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
compiled = jaxtyping.jaxtyped
checked = {}  # by a function's code and annotations, as text
running = threading.local()  # by the same, the functions whose checks are under way


def jaxtyped(*, typechecker):
    """What jaxtyping's import hook decorates with."""

    def decorate(item):
        if not inspect.isfunction(item) or "<locals>" not in item.__qualname__:
            return compiled(item, typechecker=typechecker)
        if jaxtyping.config.jaxtyping_disable:  # modules keep their checks for other tests
            return item
        if jaxtyping.config.jaxtyping_disable:  # modules keep their checks for other tests
            return item
        if (
            item.__defaults__
            or item.__kwdefaults__
            or any(isinstance(each, str) for each in item.__annotations__.values())
        ):
            return compiled(item, typechecker=typechecker)
        return shared(item, typechecker)

    return decorate


def shared(item, typechecker):
    """A function of a moment behind the checks of its code."""
    key = item.__code__, str(item.__annotations__)  # jaxtyping makes an annotation anew too, under the same name
    if key not in checked:

        @functools.wraps(item)
        def innermost(*arguments, **named):
            return running.items[key].pop()(*arguments, **named)

        innermost.__signature__ = inspect.signature(item)
        del innermost.__wrapped__  # or the first one made would live as long as its checks
        checked[key] = compiled(innermost, typechecker=typechecker)
    with_checks = checked[key]

    @functools.wraps(item)
    def outermost(*arguments, **named):
        waiting = running.__dict__.setdefault("items", defaultdict(list))[key]
        before = len(waiting)
        waiting.append(item)
        try:
            return with_checks(*arguments, **named)
        finally:
            del waiting[before:]  # it is still there where the arguments were refused

    return outermost


jaxtyping.jaxtyped = jaxtyped
