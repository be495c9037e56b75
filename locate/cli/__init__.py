"""The command line: `locate-bias trace | rank | plot | prompts`."""

from __future__ import annotations

import sys

INTERRUPTED = 130  # what Typer returns, and shells expect, after Ctrl-C


def main() -> None:
    """Run the command line; what the user can mend is one line on stderr and exit code 1."""
    import click

    from locate.cli.verbs import app
    from locate.errors import LocateError

    try:
        code = app(standalone_mode=False) or 0
    except LocateError as error:
        print(f"locate-bias: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(1) from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("locate-bias: stopped; what was measured is kept, and the same command continues", file=sys.stderr)
    raise SystemExit(code)
