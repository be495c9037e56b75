"""Where what was kept from an earlier version and what is made anew differ by more than rounding."""

from collections.abc import Callable, Iterator, Set


def differences(
    old: object,
    new: object,
    where: str,
    *,
    ignored: Set[str],
    near: Callable[[str, float, float], bool],
    may_be_new: Callable[[str, str], bool] = lambda where, key: False,
) -> Iterator[str]:
    """A line for every place where two contents of JSON files differ.

    ignored     keys that are not compared
    near        whether two numbers at a place are equal but for rounding
    may_be_new  whether a key at a place may be in the new one alone
    """
    more = {"ignored": ignored, "near": near, "may_be_new": may_be_new}
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted((set(old) | set(new)) - ignored):
            if key in old and key in new:
                yield from differences(old[key], new[key], f"{where}.{key}", **more)
            elif key in old or not may_be_new(where, key):
                yield f"{where}.{key} is in one alone"
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield f"{where} has {len(old)} and {len(new)} entries"
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            yield from differences(one, other, f"{where}[{place}]", **more)
    elif {type(old), type(new)} <= {int, float} and float in (type(old), type(new)):
        if not near(where, old, new):
            yield f"{where}: {old} and {new}"
    elif old != new:
        yield f"{where}: {old!r} and {new!r}"
