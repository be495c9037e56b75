"""The pictures of docs/pictures: screenshots of the pages, taken anew from runs/demo where PICTURES names a folder.

    PICTURES=docs/pictures python -m pytest tests/test_pictures.py

Without runs/demo (`make demo`) the same steps run on a small made run.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import pytest
from browser import DESKTOP, chromium, visited
from handmade import map_trace
from pages import ROOT
from playwright.sync_api import expect

from locate.cli.following import after_trace
from locate.explorer.opening import explore
from locate.report import write_report
from locate.tracing import load_trace

DEMO, MODEL = ROOT / "runs" / "demo", ROOT / "models" / "smollm2-135m-instruct"
SITE = "MLP output, layer 0, last token of the occupation"
LEAST = 40_000  # bytes of a picture that shows something


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("place") / "runs" / "demo"
    trace = load_trace(DEMO) if DEMO.is_dir() else map_trace(templates=("The {subject} said that",))
    trace.save(folder)
    named = Path("runs/demo"), "models/smollm2-135m-instruct", {}, {}
    write_report(trace, folder, formats=["html"], following=lambda located: after_trace(located, *named))
    return folder


def keep(name: str, taken: bytes) -> None:
    """Write the picture where PICTURES says, and refuse an empty one."""
    assert taken.startswith(b"\x89PNG")
    assert len(taken) > LEAST
    assert len(zlib.compress(taken)) > LEAST // 2
    folder = os.environ.get("PICTURES")
    if folder:
        (ROOT / folder / name).write_bytes(taken)


def test_a_picture_of_the_report(run):
    with chromium() as browser, visited(browser, (run / "report.html").as_uri(), DESKTOP) as seen:
        seen.page.get_by_role("button", name=SITE).click()
        expect(seen.page.locator("#cell table.pairs")).to_be_visible()
        seen.page.evaluate("window.scrollTo(0, 0)")
        keep("report.png", seen.page.screenshot())


def test_a_picture_of_the_live_page(run, monkeypatch):
    monkeypatch.chdir(run.parents[1])
    page = explore("runs/demo", model=MODEL if MODEL.is_dir() and DEMO.is_dir() else "mini")
    try:
        with chromium() as browser, visited(browser, page.url, (1400, 1100)) as seen:
            expect(seen.page.locator("#tokens .token").first).to_be_visible()
            seen.page.get_by_role("button", name="Measure").click()
            expect(seen.page.locator("#own-map table").first).to_be_visible(timeout=60_000)
            seen.page.get_by_role("heading", name="Your prompt").scroll_into_view_if_needed()
            seen.page.evaluate("window.scrollBy(0, 250)")
            keep("explore.png", seen.page.screenshot())
    finally:
        page.close()
