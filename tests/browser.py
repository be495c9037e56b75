"""A real browser for tests of pages: what it asked for, what it complained about, and what a reader could not read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = [
    "--no-sandbox",  # as root Chromium needs it
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
DESKTOP, PHONE = (1400, 900), (390, 844)
SIZES = [pytest.param(DESKTOP, id="desktop"), pytest.param(PHONE, id="phone")]
SITE = "MLP output, layer 1, last token of the occupation"
expect.set_options(timeout=30_000)  # a machine that runs other tests may take its time

SMALL_TEXT = """() => {
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
    if (!text || parent.closest("script, style, noscript, .plot")) continue;
    const box = parent.getBoundingClientRect();
    if (!box.width || !box.height) continue;
    let size = parseFloat(getComputedStyle(parent).fontSize);
    const svg = parent.closest("svg");
    if (svg && svg.viewBox.baseVal.width) size *= svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    if (size < 12 - 0.01) found.push(`${text.slice(0, 40)}: ${size}px`);
  }
  return found;
}"""

PALE_TEXT = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (parts) => {
    const linear = parts.slice(0, 3).map((each) => each / 255)
      .map((each) => each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const parts = rgb(getComputedStyle(each).backgroundColor);
      if (parts[3] > 250) return parts;
    }
    return [255, 255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), parent = walker.currentNode.parentElement;
    if (!text || parent.closest("script, style, noscript, option, title, .plot")) continue;
    const style = getComputedStyle(parent);
    const ends = [light(rgb(parent.closest("svg") ? style.fill : style.color)), light(behind(parent))];
    const contrast = (Math.max(...ends) + 0.05) / (Math.min(...ends) + 0.05);
    if (contrast < 4.5) found.push(`${text.slice(0, 40)}: ${contrast.toFixed(2)}`);
  }
  return found;
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Chromium, as Debian has it; the test is skipped where there is none, but never in continuous integration."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        assert "CI" not in os.environ, "no Chromium"
        pytest.skip("needs Chromium (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        yield browser
        browser.close()


class Seen:
    """A page with what it asked for and complained about."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.requests: list[str] = []
        self.complaints: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("console", lambda message: self.complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def elsewhere(self, allowed: tuple[str, ...]) -> list[str]:
        """Requests to any address but these, and but data within the page."""
        return [each for each in self.requests if not each.startswith((*allowed, "data:", "blob:"))]


@contextmanager
def visited(browser: Browser, url: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> Iterator[Seen]:
    """An address in a fresh window."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    seen = Seen(context.new_page())
    seen.page.goto(url)
    yield seen
    context.close()


def opened(
    browser: Browser, path: Path, size: tuple[int, int] = DESKTOP, *, dark: bool = False, fragment: str = ""
) -> AbstractContextManager[Seen]:
    """A file in a fresh window."""
    return visited(browser, path.as_uri() + fragment, size, dark=dark)
