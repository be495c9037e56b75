"""The command line: `locate-bias prompts | trace | rank | plot | edit | evaluate | compare | rewrite | selftest`."""

from __future__ import annotations

import sys
from typing import NoReturn

INTERRUPTED = 130  # what shells expect after Ctrl-C
KEPT = (
    "stopped; what is finished is kept (chunks of a run or of a test, rewrites, a judge's answers, and a "
    "training up to its last kept step), and the same command continues there; figures and fitted edits begin again"
)


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 1."""
    import typer

    from locate.cli.app import application
    from locate.errors import LocateError

    try:
        code = application()(standalone_mode=False, prog_name="locate-bias")  # after Ctrl-C Typer returns its code
    except LocateError as error:
        leave(str(error))
    except (typer.Abort, KeyboardInterrupt):
        leave(KEPT, INTERRUPTED)
    except Exception as error:
        usage = getattr(error, "format_message", None)  # of an option or a verb that Typer does not understand
        if usage is None:
            raise
        if len(sys.argv) == 1:
            print(usage())
            raise SystemExit(2) from None
        if not usage():  # of verbs below a verb, whose help is on the screen already
            raise SystemExit(2) from None
        leave(f"{usage()} (see --help)")
    if code == INTERRUPTED:
        leave(KEPT, INTERRUPTED)
    raise SystemExit(code if isinstance(code, int) else 0)


def leave(message: str, code: int = 1) -> NoReturn:
    """Say one line on stderr, and stop."""
    print(f"locate-bias: {' '.join(message.split())}", file=sys.stderr)
    raise SystemExit(code) from None
