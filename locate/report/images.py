"""Static images of figures, drawn by Chrome or Chromium within a time limit."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from locate.errors import LocateError

SCALE = 2  # pixels of a PNG for each of the figure's
START, EACH, STOP = 60.0, 60.0, 10.0  # seconds to start, for one image, and to stop
NONE = "so no PNG, SVG or PDF"
NOT_FOUND = f"no Chrome or Chromium found, {NONE}: install one (Debian: apt-get install chromium)"


class Unusable(Exception):
    """Why no image can be drawn, in a line for the user."""


def write_static(targets: Sequence[tuple[Path, go.Figure]]) -> tuple[list[Path], str]:
    """Write static images: all of them, or none.

    Returns the paths, and a line that says why there are none ("" where there are): no Chrome or Chromium is found, it
    does not start, or it takes longer than its time limit, after which it is stopped.

    Raises LocateError when a file cannot be written.
    """
    if not targets:
        return [], ""
    partials = [path.with_name(f".partial-{path.name}") for path, _ in targets]
    specs = [spec(figure, partial) for partial, (_, figure) in zip(partials, targets, strict=True)]
    try:
        finished(drawn(specs))
        for partial, (path, _) in zip(partials, targets, strict=True):
            partial.replace(path)
    except Unusable as reason:
        return [], str(reason)
    except OSError as error:
        raise LocateError(f"cannot write {targets[0][0].parent}: {error}: free some space") from error
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return [path for path, _ in targets], ""


def spec(figure: go.Figure, path: Path) -> dict[str, Any]:
    """What kaleido draws: a figure, where, and how large."""
    size = {"width": figure.layout.width, "height": figure.layout.height, "scale": SCALE}
    return {"fig": figure.to_dict(), "path": str(path), "opts": {"format": path.suffix[1:], **size}}


def finished(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, even where an event loop is running already, as in a notebook."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        asyncio.run(work)
        return
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work).result()


async def drawn(specs: Sequence[dict[str, Any]]) -> None:
    """Draw all images.

    Raises Unusable where Chrome is not found, does not start, or takes too long.
    """
    from choreographer.errors import BrowserClosedError, BrowserFailedError, ChromeNotFoundError
    from kaleido import Kaleido

    try:
        chrome = Kaleido(timeout=EACH, mathjax=False)
    except ChromeNotFoundError:
        named = os.environ.get("BROWSER_PATH")
        raise Unusable(f"BROWSER_PATH {named!r} is not a file, {NONE}: name a Chrome" if named else NOT_FOUND) from None
    place = chrome._browser_impl.path
    try:
        await within(chrome.open(), START, f"{place} did not answer within {START:.0f} s of its start")
        limit = EACH * len(specs)
        await within(
            chrome.write_fig_from_object(specs, cancel_on_error=True), limit, f"{place} took over {limit:.0f} s"
        )
    except (BrowserClosedError, BrowserFailedError):
        raise Unusable(f"{place} exists but does not start, or stops, {NONE}: start it by hand to see why") from None
    except TimeoutError:
        raise Unusable(f"{place} took over {EACH:.0f} s for an image, {NONE}") from None
    finally:
        await stopped(chrome)


async def within(work: Coroutine[Any, Any, Any], seconds: float, otherwise: str) -> None:
    """Wait for something, but no longer than so many seconds.

    Raises Unusable when the time is over.
    """
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=seconds)
    if not done:
        task.add_done_callback(heard)
        task.cancel()
        raise Unusable(f"{otherwise} and was stopped, {NONE}: name another with BROWSER_PATH")
    await task


async def stopped(chrome: Any) -> None:
    """Close Chrome, and kill it with its children where it does not close."""
    closing = asyncio.ensure_future(chrome.close())
    closing.add_done_callback(heard)
    done, _ = await asyncio.wait({closing}, timeout=STOP)
    process = getattr(chrome, "subprocess", None)
    if process is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # it is the first of its own group
    if not done:
        await asyncio.wait({closing}, timeout=STOP)


def heard(task: asyncio.Future[Any]) -> None:
    """Read how a task ended, since asyncio otherwise prints an error that nobody has read."""
    if not task.cancelled():
        task.exception()
