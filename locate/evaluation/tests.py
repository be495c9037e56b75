"""The tests by name, loaded when they are used, and where each finds its items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np

from locate.errors import LocateError
from locate.evaluation.hub import fetched, is_hub_name
from locate.evaluation.scores import Items, Test
from locate.files import hash_of

HOME = {
    "occupations": ("occupations", "TEST"),
    "unseen_forms": ("elsewhere", "UNSEEN_FORMS"),
    "natural": ("elsewhere", "NATURAL_SENTENCES"),
    "biaske": ("biaske", "TEST"),
    "generation": ("generation", "GENERATION"),
    "winobias": ("winobias", "TEST"),
    "winogender": ("winogender", "TEST"),
    "stereoset": ("stereoset", "TEST"),
    "crows_pairs": ("crows_pairs", "TEST"),
    "bec_pro": ("bec_pro", "TEST"),
    "gap": ("gap", "TEST"),
    "bbq": ("bbq", "TEST"),
    "seat": ("seat", "TEST"),
    "bold": ("generation", "BOLD"),
    "sentences": ("sentences", "TEST"),
    "perplexity": ("perplexity", "TEST"),
    "lambada": ("ability", "LAMBADA"),
    "hellaswag": ("ability", "HELLASWAG"),
    "piqa": ("ability", "PIQA"),
    "arc_easy": ("ability", "ARC"),
    "openbookqa": ("ability", "OPENBOOKQA"),
    "winogrande": ("ability", "WINOGRANDE"),
    "blimp": ("ability", "BLIMP"),
}
"""test: (module of locate.evaluation, constant in it)"""

LONGEST_NAME = 100  # bytes of a test's name
BUNDLED = "bundled"  # the place of items that the package carries


def find_test(name: str) -> Test:
    """The test of that name.

    Raises LocateError for a name that no test has.
    """
    if name not in HOME:
        raise LocateError(f"test {name!r}: expected one of {', '.join(HOME)}")
    module, constant = HOME[name]
    test: Test = getattr(import_module(f"locate.evaluation.{module}"), constant)
    return test


def known_test(name: str, own: Sequence[Test] = ()) -> Test | None:
    """The test of that name: one of the user's own, or the package's; None where there is none."""
    found = next((test for test in own if test.name == name), None)
    return find_test(name) if found is None and name in HOME else found


def wanted_tests(tests: Sequence[str | Test] | None) -> dict[str, Test]:
    """The tests that are asked for, by name: all of the package's for None.

    Raises LocateError for a name that no test has, for a test whose name another one has, and for a name that no file
    can have.
    """
    wanted: dict[str, Test] = {}
    for each in HOME if tests is None else tests:
        test = find_test(each) if isinstance(each, str) else each
        others = [wanted.get(test.name), known_test(test.name)]
        check_name(test.name)
        if any(other is not None and other is not test for other in others):
            raise LocateError(f"test {test.name!r}: another test has that name: give it a name of its own")
        wanted[test.name] = test
    return wanted


def check_name(name: str) -> None:
    """Raise LocateError for a test's name that cannot be that of a file and of a folder."""
    if not name or name.startswith(".") or len(name.encode()) > LONGEST_NAME or any(sign in name for sign in "/\\\0"):
        raise LocateError(
            f"test {name[:60]!r}: its name becomes that of a file: expected one without slashes, that does not begin "
            f"with a dot and has at most {LONGEST_NAME} bytes"
        )


def place_of(test: Test, data: Path | None, source: str | Path | None) -> Path | str | None:
    """Where a test's items are: a path, a hub name, the package itself (BUNDLED), or None where they are not found.

    source  a path or a hub name that the user gave for this test

    Raises LocateError for a source that is neither.
    """
    if source is not None:
        path = Path(source).expanduser()
        if path.exists():
            return path
        if not is_hub_name(str(source)):
            raise LocateError(
                f"source {str(source)!r} of test {test.name!r}: expected an existing file or folder, or a data set "
                f"on the hub{f' such as {test.hub}' if test.hub else ''}"
            )
        return str(source)
    if data is not None and not data.is_dir():
        raise LocateError(f"data folder {data}: expected an existing folder")
    inside = [data / name for name in test.files] if data is not None else []
    found = next((each for each in inside if each.exists()), None)
    return found if found is not None or test.files else BUNDLED


@contextmanager
def at_hand(test: Test, place: Path | str) -> Iterator[Items]:
    """A test's items, fetched first where they are on the hub."""
    if isinstance(place, Path):
        yield test.read(place)
        return
    if place == BUNDLED:
        yield test.read(None)
        return
    with fetched(place, test.hub) as (path, source):
        items = test.read(path)
        yield Items(items.rows, items.skipped, source)


def how_to_find(test: Test, data: Path | None) -> str:
    """Where a test's data was looked for, and what was expected there."""
    listed = ", ".join(test.files[:3]) + (", ..." if len(test.files) > 3 else "")
    where = "no data folder was named" if data is None else f"{data} holds none of its files"
    hub = f", or its hub name as its source: {test.hub}" if test.hub else ""
    return f"{where}: expected a folder with {listed}{hub}"


def sample_items(test: Test, items: Items, limit: int | None, seed: int) -> Items:
    """At most `limit` items, per stratum where the test has strata; drawn with the seed and kept in their order.

    The draw depends on the test's name and on nothing that was drawn before, so that a test has the same items
    whether it runs alone or among others.
    """
    if limit is None:
        return items
    strata: dict[str, list[int]] = {}
    for place, row in enumerate(items.rows):
        strata.setdefault("" if test.strata is None else test.strata(row), []).append(place)
    rng = np.random.default_rng([seed, int(hash_of(test.name)[:8], 16)])
    kept = [
        int(place)
        for places in strata.values()
        for place in rng.choice(places, size=min(limit, len(places)), replace=False)
    ]
    return Items(tuple(items.rows[place] for place in sorted(kept)), items.skipped, items.source)


def limit_of(test: Test, limit: int | None) -> int | None:
    """The limit that was named, or the test's usual one.

    Raises LocateError for one below 1.
    """
    if limit is not None and limit < 1:
        raise LocateError(f"limit {limit}: expected a number of items from 1 up")
    return test.usual if limit is None else limit


def choose_tests(
    tests: Mapping[str, Test], asked: bool, data: Path | None, sources: Mapping[str, str | Path]
) -> tuple[dict[str, Path | str], dict[str, str]]:
    """Where the items of each test are, and what is missing for tests that nobody asked for and that have no data.

    Raises LocateError for a test that was asked for and has no data, and for the source of a test that is not run.
    """
    stray = next((name for name in sources if name not in tests), None)
    if stray is not None:
        raise LocateError(f"source for test {stray!r}: expected one of the tests that are run: {', '.join(tests)}")
    places: dict[str, Path | str] = {}
    left_out: dict[str, str] = {}
    for name, test in tests.items():
        place = place_of(test, data, sources.get(name))
        if place is not None:
            places[name] = place
        elif asked:
            raise LocateError(f"test {name!r}: {how_to_find(test, data)}")
        else:
            left_out[name] = how_to_find(test, data)
    return places, left_out
