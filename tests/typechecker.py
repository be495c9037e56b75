"""The run-time check of annotations during tests: an int may stand where a float is expected, as in static typing.

A sweep calls its functions some hundred thousand times and makes its hooks anew for each row; checked every time, the
checks would take twice as long as the work. So:

- only a function whose annotations name shapes is checked by jaxtyping, which binds axes to sizes; the types of all
  others are checked by beartype alone;
- a function that names shapes, or is defined within another, is checked in its first calls in each test;
- a function that is defined within another is made anew each time the outer one runs; its checks are compiled once.
"""

import dataclasses
import functools
import inspect
import threading
from collections import defaultdict
from typing import ForwardRef, get_args

import jaxtyping
from beartype import BeartypeConf, beartype

FIRST = 10  # calls of each function that are checked in a test
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
with_shapes = jaxtyping.jaxtyped
checked = {}  # by a function's code and annotations, as text
running = threading.local()  # by the same, the functions whose checks are under way
calls = {}  # by a function's code: how many were checked in this test, as a list of one number


def jaxtyped(*, typechecker):
    """What jaxtyping's import hook decorates with."""

    def decorate(item):
        if inspect.isclass(item):
            if dataclasses.is_dataclass(item):
                item.__init__ = decorate(item.__init__)
            return item
        if not inspect.isfunction(item):
            return with_shapes(item, typechecker=typechecker)
        count = calls.setdefault(item.__code__, [0])
        if "<locals>" in item.__qualname__:
            if jaxtyping.config.jaxtyping_disable or count[0] >= FIRST:  # modules keep their checks for other tests
                return item
            return at_first(item, shared(item, hints(item), typechecker), count)
        if any(map(shaped, hints(item).values())):
            return at_first(item, with_shapes(item, typechecker=typechecker), count)
        return typechecker(item)

    return decorate


def at_first(item, with_checks, count):
    """The function, behind its checks in the first calls of a test."""

    @functools.wraps(item)
    def call(*arguments, **named):
        if count[0] >= FIRST:
            return item(*arguments, **named)
        count[0] += 1
        return with_checks(*arguments, **named)

    return call


def begin_test():
    """Check the next calls of every function."""
    for count in calls.values():
        count[0] = 0


def hints(item):
    """A function's annotations by name; a string where a name in it is known to its outer function alone."""
    return {name: read(hint, item.__globals__) for name, hint in item.__annotations__.items()}


def read(hint, known):
    """An annotation as an object, where it can be made one."""
    try:
        return eval(hint, known) if isinstance(hint, str) else hint
    except NameError:
        return hint


def shaped(hint):
    """Whether an annotation names a shape; one that cannot be read counts as such."""
    if isinstance(hint, list | tuple):
        return any(map(shaped, hint))
    if isinstance(hint, str | ForwardRef) or (inspect.isclass(hint) and issubclass(hint, jaxtyping.AbstractArray)):
        return True
    return any(map(shaped, get_args(hint)))


def shared(item, annotations, typechecker):
    """A function of a moment behind the checks of its code."""
    if any(isinstance(each, str) for each in annotations.values()):
        return with_shapes(item, typechecker=typechecker)
    key = item.__code__, str(annotations)  # jaxtyping makes an annotation anew too, under the same name
    if key not in checked:

        @functools.wraps(item)
        def innermost(*arguments, **named):
            return running.items[key].pop()(*arguments, **named)

        innermost.__annotations__ = annotations
        innermost.__signature__ = annotated(inspect.signature(item), annotations)
        del innermost.__wrapped__  # or the first one made would live as long as its checks
        checked[key] = with_shapes(innermost, typechecker=typechecker)
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


def annotated(signature, annotations):
    """A signature with annotations that have been read."""
    parameters = [
        each.replace(annotation=annotations.get(each.name, each.annotation)) for each in signature.parameters.values()
    ]
    return signature.replace(
        parameters=parameters, return_annotation=annotations.get("return", signature.return_annotation)
    )


jaxtyping.jaxtyped = jaxtyped
