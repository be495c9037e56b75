"""How long it takes to derive and draw what a run folder shows, guessed before it is done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from locate.cli.steps import Work
from locate.sites import PATTERN, ROLES, UNITS

if TYPE_CHECKING:
    from locate.tracing.plan import Map
    from locate.tracing.progress import Progress

# seconds on one core of a server, as measured on runs of mini and SmolLM2 with 25,000 to 370,000 rows
EFFECTS, EFFECTS_ROW = 0.2, 5e-6
RANKING, RANKING_ROW = 0.6, 1.2e-5
DRAWN = 0.1  # a figure as HTML
CHROME, IMAGE = 1.0, 0.45  # its start, and a figure as PNG, SVG or PDF
PAGE = 0.5  # of a comparison or an evaluation
REPORT, REPORT_ROW = 2.0, 6e-5  # of a run, in every metric and view
FIGURES_EACH = 4  # figures of a direction in a run of the usual components
MAP = "map"  # the stage that measures the rows which effects are derived from


@dataclass
class Writing:
    """The works of `write_report`, for the time left.

    figures  about how many are drawn
    formats  of each
    rows     of the trace; 0 before that is known
    """

    figures: int
    formats: Sequence[str]
    rows: int = 0

    def works(self) -> list[Work]:
        """The works in their order, by the names that `write_report` gives them."""
        return [
            Work("effects", EFFECTS + EFFECTS_ROW * self.rows),
            Work("ranking", RANKING + RANKING_ROW * self.rows),
            Work("figures", drawing(self.figures, self.formats)),
            Work("report", REPORT + REPORT_ROW * self.rows),
        ]

    def follow(self, found: Progress) -> Progress:
        """The progress of the measuring, with the time left for the writing too."""
        if found.stage == MAP:
            self.rows = found.planned
        if found.left is None:
            return found
        return replace(found, left=found.left + sum(each.seconds for each in self.works()))


def comparison_works(rows: int, directions: int, formats: Sequence[str]) -> list[Work]:
    """The works of comparing two runs of so many rows, by the names that `compare` gives them."""
    return [
        Work("effects", 2 * (RANKING + RANKING_ROW * rows)),
        Work("changes", PAGE),
        Work("figures", drawing(directions, formats)),
        Work("report", PAGE),
    ]


def drawing(figures: int, formats: Sequence[str]) -> float:
    """Seconds for so many figures; images are only drawn where a Chrome is found."""
    images = len([each for each in formats if each != "html"])
    chrome = CHROME + IMAGE * figures * images if images and has_chrome() else 0.0
    return chrome + DRAWN * figures


def has_chrome() -> bool:
    """Whether a Chrome or Chromium is found that could draw images."""
    from choreographer.browsers.chromium import Chromium

    return bool(os.environ.get("BROWSER_PATH") or Chromium.find_browser(skip_local=False))


def count_figures(map: Map, directions: int, *, controls: bool = False, more: int = 0) -> int:
    """About how many figures a run has.

    directions  that were traced
    controls    whether each direction has a figure of them
    more        beside those of the map
    """
    roles = len(map.roles or ROLES)
    whole = 2 * len(map.windows) if set(map.components) - set(UNITS) else 0
    by_role = roles * len({"head", PATTERN} & set(map.components))
    units = len({"neuron", "mlp_out_unit"} & set(map.components))
    each = whole + by_role + units + len(map.severed) + controls
    return directions * each + 2 + more  # the pair with the largest effect, and the occupations
