"""The application: every verb of `locate-bias`, in the order in which they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from locate.cli.comparing import compare
from locate.cli.editing import edit
from locate.cli.judging import evaluate
from locate.cli.verbs import plot, prompts, rank, selftest, trace

ABOUT = "Where in a language model does gender bias live? Trace it, rank it, draw it."
VERBS: dict[Callable[..., None], str] = {
    prompts: "show tokens with their roles",
    trace: "prompts to figures and located.json",
    rank: "rank the sites of a run again",
    plot: "draw the figures of a run again",
    edit: "edit what was located, and prove it",
    evaluate: "judge a model's bias and ability",
    compare: "what changed between the runs, or the evaluations, of two models",
    selftest: "find a planted bias in made models",
}


def show_version(wanted: bool | None) -> None:
    """Print the version and stop."""
    if wanted:
        from locate.schema import locate_version

        typer.echo(f"locate-bias {locate_version()}")
        raise typer.Exit


def top(
    version: Annotated[
        bool | None, typer.Option("--version", callback=show_version, is_eager=True, help="print it")
    ] = None,
) -> None:
    """The options of `locate-bias` itself."""


def application() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    app.callback(help=ABOUT)(top)
    for verb, short_help in VERBS.items():
        app.command(short_help=short_help)(verb)
    return app
