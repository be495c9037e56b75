"""The checks of annotations that all tests run under refuse what they should, also within functions of a moment."""

from collections.abc import Callable  # noqa: F401, an annotation names it
from dataclasses import dataclass

import beartype
import jaxtyping
import pytest
import torch
import typechecker
from jaxtyping import Float

Row = Float[torch.Tensor, " n"]
COMPILED_EACH = [False, True]


def scaled(factor, compiled_each):
    """A function made within another, checked as jaxtyping does or as the tests do."""
    decorate = typechecker.with_shapes if compiled_each else jaxtyping.jaxtyped

    @decorate(typechecker=typechecker.check)
    def inner(values: Row, others: Row, deep: int) -> Row:
        if deep < 0:
            return values[:1]
        return factor * values if not deep else scaled(factor + 1, compiled_each)(values, others, deep - 1)

    return inner


@pytest.mark.parametrize("compiled_each", COMPILED_EACH)
def test_each_function_of_a_moment_is_itself(compiled_each):
    first, second = scaled(2, compiled_each), scaled(5, compiled_each)
    ones = torch.ones(3)
    assert [f(ones, ones, 0)[0].item() for f in (first, second, first)] == [2, 5, 2]
    assert first(ones, ones, 3)[0] == 5


@pytest.mark.parametrize("compiled_each", COMPILED_EACH)
@pytest.mark.parametrize("bad", ["axis", "type", "dtype", "returned"])
def test_what_is_wrong_is_refused_and_the_next_call_is_right(compiled_each, bad):
    ones = torch.ones(3)
    function = scaled(2, compiled_each)
    given = {
        "axis": (ones, ones[:2], 0), "type": (ones, ones, "0"), "dtype": (ones.long(), ones, 0),
        "returned": (ones, ones, -1),
    }[bad]  # fmt: skip
    with pytest.raises(jaxtyping.TypeCheckError):
        function(*given)
    assert function(ones, ones, 0)[0] == 2


def test_its_checks_are_compiled_once():
    scaled(1, False)
    before = len(typechecker.checked)
    scaled(2, False)
    assert len(typechecker.checked) == before
    assert jaxtyping.jaxtyped is typechecker.jaxtyped


@pytest.mark.parametrize("test", ["this test", "the next one"])
def test_the_first_calls_in_each_test_are_checked(test):
    function = scaled(2, False)
    with pytest.raises(jaxtyping.TypeCheckError):
        function(torch.ones(3), torch.ones(2), 0)
    for _ in range(typechecker.FIRST):
        function(torch.ones(3), torch.ones(3), 0)
    assert len(function(torch.ones(3), torch.ones(2), 0)) == 3
    assert len(scaled(2, False)(torch.ones(3), torch.ones(2), 0)) == 3
    typechecker.begin_test()
    with pytest.raises(jaxtyping.TypeCheckError):
        scaled(2, False)(torch.ones(3), torch.ones(2), 0)


def test_functions_that_name_no_shapes_are_checked_always():
    @typechecker.check
    def plain(number: float) -> int:
        return int(number)

    assert not any(map(typechecker.shaped, typechecker.hints(plain).values()))
    for _ in range(typechecker.FIRST + 1):
        assert plain(2) == 2
    with pytest.raises(beartype.roar.BeartypeCallHintViolation):
        plain("2")


@pytest.mark.parametrize(
    ("hint", "names_shapes"),
    [
        ("Row", True), ("dict[str, Row]", True), ("Row | None", True), ("Callable[[Row], None]", True),
        ("unknown", True), ("int | float", False), ("Callable[..., dict[str, int]]", False), ("None", False),
    ],
)  # fmt: skip
def test_annotations_that_name_shapes_are_told(hint, names_shapes):
    assert typechecker.shaped(typechecker.read(hint, globals())) == names_shapes


def test_the_fields_of_a_dataclass_are_checked():
    @jaxtyping.jaxtyped(typechecker=typechecker.check)
    @dataclass(frozen=True)
    class Plain:
        number: float

    @jaxtyping.jaxtyped(typechecker=typechecker.check)
    @dataclass
    class WithShapes:
        one: Row
        other: Row

    assert Plain(2).number == 2
    with pytest.raises((jaxtyping.TypeCheckError, beartype.roar.BeartypeCallHintViolation)):
        Plain("2")
    assert len(WithShapes(torch.ones(3), torch.ones(3)).one) == 3
    with pytest.raises(jaxtyping.TypeCheckError):
        WithShapes(torch.ones(3), torch.ones(2))
