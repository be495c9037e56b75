"""The command line: `locate-bias trace | rank | plot | prompts`."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 1."""
    from locate.cli.verbs import app
    from locate.errors import LocateError

    try:
        app()
    except LocateError as error:
        print(f"locate-bias: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("locate-bias: stopped; what was measured is kept, and the same command continues", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
