"""Located: the ranked sites with their intervals, and the layers and modules that an editor asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.files import read_json, strict, write_json
from locate.mediation.averages import SOUND_GROUPS
from locate.mediation.controls import SetTest
from locate.mediation.effect_table import answers_of, subject_of
from locate.metrics import METRICS, difference
from locate.notebook import Row, first_rows, sentences, title
from locate.schema import LOCATED_VERSION, locate_version, validate
from locate.words import (
    COPIED,
    NAMES,
    QUANTITIES,
    chance,
    decimals,
    interval_words,
    metric_words,
    role_words,
    site_words,
    with_interval,
    without_folders,
)

THRESHOLD = 0.05


@dataclass(frozen=True)
class SiteSelectivity:
    """Whether a site carries the stereotype (+1) or the gender that words say themselves (-1); see `selectivity`.

    value, low, high  None where neither effect passes the threshold
    definition        average effect of definitional words there, in the unit of the `Located`
    n, groups         pairs and words behind that
    """

    value: float | None
    low: float | None
    high: float | None
    definition: float
    n: int
    groups: int

    def text(self) -> str:
        """Value and interval, as a table shows them."""
        if self.value is None or self.low is None or self.high is None:
            return "undefined"
        return f"{self.value:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


@dataclass(frozen=True)
class LocatedSite(Row):
    """One site and its average effect.

    module            Hugging Face name of the module that writes it; None for the residual stream
    effect, low, high in the unit of the `Located`; low and high bound its interval
    n, groups         pairs and occupations behind it
    q                 p-value corrected for all sites traced in this direction (Benjamini and Hochberg)
    stability         share of resamples in which it is among the five strongest (see `stability`)
    selectivity       None where no definitional words were traced at the site
    """

    component: str
    layer: int
    role: str
    unit: int | None
    module: str | None
    effect: float
    low: float
    high: float
    n: int
    groups: int
    q: float
    stability: float
    selectivity: SiteSelectivity | None = None

    def cells(self) -> dict[str, str]:
        """The texts of its row in a table, by column; effect and interval have no unit here."""
        return {
            "site": site_words(self.component, self.layer, self.role, self.unit, subject="subject"),
            "effect and interval": interval_words(self.effect, self.low, self.high),
            "q": chance(self.q),
            "stability": f"{self.stability:.2f}",
            "n": str(self.n),
            "selectivity": "" if self.selectivity is None else self.selectivity.text(),
        }


@dataclass(frozen=True)
class Located:
    """What a trace located: the hand-off to editors, saved as located.json.

    quantity, metric, unit, view, direction, level  what `effect` is (see `effects` and `average`)
    kind             of the pairs: "occupation", "definition", "user" or "all"
    positive         towards or away from the stereotype, or towards the metric's first answer
    total            the average total effect of swapping the whole prompt, and its interval
    without_stereotype  pairs that the view or the metric leaves out
    window           layers written at once around each site, 1 for the site alone
    clusters         what intervals and p resample: "group", or "group+template"
    sites            strongest first, by size
    component, role  where `layers` was read off; None where the trace can name no layer
    layers           layers of that component at that role whose effect has the sign of the total effect, by its whole
                     interval, and passes the false-discovery threshold; strongest first. None where the interval of the
                     total effect holds 0. Choosing one to edit is a hypothesis to be tested
    why_no_layers    why the trace can name no layer (one of attention weights alone names none); None where it can
    modules          their Hugging Face names; module_template has {} for the layer
    smallest_q       the smallest q that so few groups allow; above the threshold no site can pass
    sound            whether there are as many groups as coverage of the intervals was measured with (see `average`)
    controls         differences that must be near 0, as measured
    set_test         joint effect of the sites behind `layers` against random sets in the same layers (see `SetTest`);
                     None where none were measured, or not of this component, role and direction
    trace            meta.json of the trace
    """

    quantity: str
    metric: str
    unit: str
    view: str
    kind: str
    positive: str
    direction: str
    total: tuple[float, float, float]
    without_stereotype: int
    window: int
    clusters: str
    level: float
    threshold: float
    sites: tuple[LocatedSite, ...]
    component: str | None
    role: str | None
    layers: tuple[int, ...]
    why_no_layers: str | None
    modules: tuple[str, ...]
    module_template: str
    smallest_q: float
    sound: bool
    controls: dict[str, float]
    set_test: SetTest | None
    trace: dict[str, Any]

    @property
    def selective(self) -> bool:
        """Whether any site has a selectivity: definitional words were traced too."""
        return any(site.selectivity is not None for site in self.sites)

    def layers_line(self) -> str:
        """The located layers, or why there are none, in one sentence."""
        if self.why_no_layers is not None:
            return f"no layer is named: {self.why_no_layers}"
        layers = ", ".join(str(layer) for layer in self.layers) or "none passes"
        return f"layers of {self.component} at {self.role}, strongest first: {layers}"

    def limits(self) -> list[str]:
        """What so few groups do not allow, a sentence each."""
        said = []
        if self.smallest_q > self.threshold:
            said.append(f"so few groups allow no q below {self.smallest_q:.2g}: no site can pass {self.threshold:g}")
        if not self.sound:
            said.append(f"fewer than {SOUND_GROUPS} groups: intervals may cover less than {self.level:.0%}")
        return said

    def frame(self) -> pd.DataFrame:
        """One row per site."""
        return pd.DataFrame([asdict(site) for site in self.sites])

    def as_json(self) -> dict[str, Any]:
        """The content of located.json."""
        return {"schema": LOCATED_VERSION, "locate": locate_version()} | asdict(self)

    def save(self, path: str | Path) -> Path:
        """Write located.json."""
        content = strict(self.as_json())
        validate(content, "located", path)
        return write_json(Path(path), content)

    def _repr_html_(self) -> str:
        words, model = metric_words(self.metric, answers_of(self.trace)), without_folders(self.trace["model"]["name"])
        return (
            title(f"Strongest sites of {model}: {QUANTITIES[self.quantity]} on the {words}, in {self.unit}")
            + sentences(*self._about())
            + first_rows(self._rows())
            + sentences(*self.limits())
        )

    def _about(self) -> list[str]:
        """The total effect, what the intervals resample, and the layers for editors, a sentence each."""
        subject = subject_of(self.kind)
        groups = max((site.groups for site in self.sites), default=0)
        said = [
            f"Total effect {interval_words(*self.total)} {self.unit}; positive is {self.positive}. Values are copied "
            f"{COPIED[self.direction]}; {self.level:.0%} intervals over {groups} {subject}s."
        ]
        if self.why_no_layers is not None or self.component is None or self.role is None:
            return [*said, f"No layer is named for editors: {self.why_no_layers}."]
        layers = ", ".join(map(str, self.layers)) or "none passes"
        where = f"{NAMES[self.component]}, {role_words(self.role, subject)}"
        return [*said, f"Layers for editors ({where}), strongest first: {layers}."]

    def _rows(self) -> list[dict[str, str]]:
        """The rows of a table of the sites, with as many decimals as the strongest needs."""
        digits = decimals(max((abs(site.effect) for site in self.sites), default=0.0))
        subject, same_n = subject_of(self.kind), len({site.n for site in self.sites}) == 1
        rows = []
        for site in self.sites:
            words = site_words(site.component, site.layer, site.role, site.unit, window=self.window, subject=subject)
            effect = with_interval(site.effect, site.low, site.high, digits)
            own = {"site": words, f"effect, {self.unit}, {self.level:.0%} interval": effect}
            own["share of the total"] = share_of(site.effect, site.n, self)
            cells = site.cells()
            own |= {name: cells[name] for name in ("q", "stability", "n", "selectivity")}
            rows.append(own | {"n": "" if same_n else own["n"]})
        return rows


def has_shares(located: Located) -> bool:
    """Whether effects are shares of the total one: it is not 0, and the metric's effects are differences."""
    metric = METRICS.get(located.metric)
    return metric is not None and metric.effect is difference and is_clear(located)


def is_clear(located: Located) -> bool:
    """Whether the interval of the total effect leaves 0 out."""
    return located.total[1] > 0 or located.total[2] < 0


def share_of(effect: float, n: int, located: Located) -> str:
    """Part of the total effect, like 0.64; "" where effects are no shares, or speak of fewer pairs than the total."""
    every = max((site.n for site in located.sites), default=0)
    return f"{effect / located.total[0]:.2f}" if has_shares(located) and n >= every else ""


def load_located(path: str | Path) -> Located:
    """Read a located.json, or the one in a run folder.

    Raises LocateError when it is missing or does not fit its schema.
    """
    path = Path(path)
    path = path / "located.json" if path.is_dir() else path
    content = read_json(path)
    if isinstance(content, dict) and content.get("schema") == LOCATED_VERSION - 1:
        content |= {"schema": LOCATED_VERSION, "why_no_layers": None}
    validate(content, "located", path)
    fields = {key: value for key, value in content.items() if key not in ("schema", "locate")}
    sites = tuple(read_site(site) for site in fields.pop("sites"))
    for name in ("layers", "modules", "total"):
        fields[name] = tuple(fields[name])
    fields["set_test"] = read_test(fields["set_test"])
    return Located(sites=sites, **fields)


def read_test(content: dict[str, Any] | None) -> SetTest | None:
    """The set test of a located.json."""
    if content is None:
        return None
    return SetTest(**content | {name: tuple(content[name]) for name in ("layers", "units")})


def read_site(content: dict[str, Any]) -> LocatedSite:
    """A site of a located.json."""
    leaning = content["selectivity"]
    return LocatedSite(**content | {"selectivity": None if leaning is None else SiteSelectivity(**leaning)})
