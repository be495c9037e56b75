"""`locate-bias explore`: a run, or two, and prompts of one's own in a browser on this machine."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Annotated

import typer

from locate.cli.options import Device, Threads, thread_count

PROMPTS, PAGE = "Your own prompts", "Page"


def explore(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="a run folder; or two, to see B - A")],
    model: Annotated[
        str | None, typer.Option(rich_help_panel=PROMPTS, help="model to run prompts of your own in: folder or hub id")
    ] = None,
    edited: Annotated[
        Path | None, typer.Option(rich_help_panel=PROMPTS, help="edited model, to see beside the model before the edit")
    ] = None,
    port: Annotated[int, typer.Option(rich_help_panel=PAGE, help="port on this machine; 0: any that is free")] = 0,
    device: Device = None,
    threads: Threads = None,
) -> None:
    """Show a run in a live page: click a cell to see what is behind it, type a sentence to see its map."""
    count = thread_count(threads)
    from locate.cli.steps import Steps
    from locate.explorer.opening import explore as open_page

    with Steps() as steps:
        steps.say("opening" if model is None else "loading TransformerLens and the model")
        page = open_page(*runs, model=model, edited=edited, port=port, device=device, threads=count)
    typer.echo(f"open in a browser on this machine: {page.url}")
    typer.echo("Ctrl-C ends it", err=True)
    try:
        wait()
    except KeyboardInterrupt:
        page.close()


def wait() -> None:
    """Until Ctrl-C."""
    threading.Event().wait()
