"""What a page shows is compared with what is printed, number by number."""

import pytest
from pages import same


@pytest.mark.parametrize(
    ("told", "printed", "expected"),
    [
        ("effect -0.002298 nats", "effect  -0.002297 nats\n", True),
        ("effect -0.002298 nats", "effect -0.002303 nats", False),
        ("effect 0.5 of 3", "effect 0.5 of 4", False),
        ("effect 0.5 nats", "effect -0.5 nats", False),
        ("0.5 ... 0.7", "0.5 and 0.6 and 0.7", True),
        ("0.5 ... 0.7", "0.5 and 0.6 and 0.8", False),
        ("one", "two", False),
    ],
)
def test_what_counts_as_the_same(told, printed, expected):
    assert same(told, printed) is expected
