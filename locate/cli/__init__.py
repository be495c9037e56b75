"""The command line: `locate-bias trace | rank | plot | compare | edit | evaluate | prompts | selftest`."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # what Typer exits with, and shells expect, after Ctrl-C


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 1."""
    from locate.cli.editing import app
    from locate.errors import LocateError

    try:
        app()
    except LocateError as error:
        print(f"locate-bias: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            print(
                "locate-bias: stopped; what was finished is kept, and the same command continues it",
                file=sys.stderr,
            )
        raise
