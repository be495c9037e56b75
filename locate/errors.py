"""The one error that locate raises for what the caller can fix."""


class LocateError(ValueError):
    """Bad input: the message holds the value given, where, what was expected, and the way out, in one line."""
