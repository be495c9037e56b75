"""The application: every verb of `locate-bias`, in the order in which they are used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from locate.cli.comparing import compare
from locate.cli.editing import edit
from locate.cli.exploring import explore
from locate.cli.gathering import gather
from locate.cli.judging import evaluate
from locate.cli.rewriting import rewriting_application
from locate.cli.verbs import plot, prompts, rank, selftest, trace

ABOUT = "Find where gender bias lives in a language model, edit it there, and check what changed."
LOCATE, CHANGE, CHECK = "Locate", "Edit and evaluate", "Check"
VERBS: dict[Callable[..., None], tuple[str, str]] = {
    prompts: (LOCATE, "Show how a tokenizer reads the prompts"),
    trace: (LOCATE, "Measure where the bias is: run folder, figures, located.json"),
    gather: (LOCATE, "End a run that several shards have filled; needs no model"),
    rank: (LOCATE, "Rank the sites of a run again; needs no model"),
    plot: (LOCATE, "Draw the figures of a run again; needs no model"),
    explore: (LOCATE, "Show a run in a live page, with prompts of your own"),
    edit: (CHANGE, "Edit a model where its bias was located, with a receipt"),
    evaluate: (CHANGE, "Test a model for bias and ability"),
    compare: (CHANGE, "Compare two runs, or two evaluations"),
    selftest: (CHECK, "Look for a planted bias in models made for it"),
}
"""verb: its panel in the help, and its line there"""


class Verbs(TyperGroup):
    """The verbs, whose help shows the options of shell completion below its own."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The options of `locate-bias` itself, each in its panel."""
        params = super().get_params(ctx)
        for each in params:
            if each.name in ("install_completion", "show_completion"):
                each.rich_help_panel = "Shell completion"  # type: ignore[attr-defined]
        return params


def show_version(wanted: bool | None) -> None:
    """Print the version and stop."""
    if wanted:
        from locate.schema import locate_version

        typer.echo(f"locate-bias {locate_version()}")
        raise typer.Exit


def top(
    version: Annotated[
        bool | None, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = None,
) -> None:
    """The options of `locate-bias` itself."""


def application() -> typer.Typer:
    """The command line with all its verbs."""
    app = typer.Typer(cls=Verbs, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="rich")
    app.callback(help=ABOUT)(top)
    for verb, (panel, short_help) in VERBS.items():
        app.command(short_help=short_help, rich_help_panel=panel)(verb)
    app.add_typer(
        rewriting_application(),
        name="rewrite",
        short_help="Rewrite biased text: train, run and judge a rewriter",
        rich_help_panel=CHANGE,
    )
    return app
