"""Located: the ranked sites with their intervals, and the layers and modules that an editor asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from locate.files import read_json, strict, write_json
from locate.mediation.averages import SOUND_GROUPS
from locate.mediation.controls import SetTest
from locate.schema import LOCATED_VERSION, locate_version, validate

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
class LocatedSite:
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

    def cells(self) -> list[str]:
        """The texts of its row in a table, without the selectivity: component, layer, role, unit, effect and so on."""
        return [
            self.component,
            str(self.layer),
            self.role,
            "" if self.unit is None else str(self.unit),
            f"{self.effect:+.3f}",
            f"[{self.low:+.3f}, {self.high:+.3f}]",
            str(self.n),
            f"{self.q:.2g}",
            f"{self.stability:.2f}",
        ]


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

    def head(self) -> list[str]:
        """Titles of the columns of a table of sites."""
        names = ["component", "layer", "role", "unit", "effect", f"{self.level:.0%} interval", "n", "q", "stability"]
        return [*names, "selectivity"] if self.selective else names

    def rows(self) -> list[list[str]]:
        """The texts of a table of sites."""
        if not self.selective:
            return [site.cells() for site in self.sites]
        return [[*site.cells(), site.selectivity.text() if site.selectivity else ""] for site in self.sites]

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
        head = (
            f"<p><b>{self.quantity} of {self.metric}</b> ({self.unit}, {self.direction}, {self.level:.0%} intervals "
            f"over {self.sites[0].groups if self.sites else 0} groups); {escape(self.layers_line())}</p>"
        )
        return head + self.frame().to_html(index=False, float_format="{:.3g}".format)


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
