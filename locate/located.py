"""Located: the ranked sites with their intervals, and the layers and modules that an editor asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, strict, write_json
from locate.mediation import average, effects
from locate.mediation.effects import EFFECTS
from locate.schema import LOCATED_VERSION, locate_version, validate
from locate.sites import COMPONENTS, DIRECTIONS, LAST_SUBJECT, ROLES, check
from locate.tracing.table import Trace

THRESHOLD = 0.05
EDITABLE = ("attn_out", "mlp_out", "head", "neuron")
TOP = 20


@dataclass(frozen=True)
class LocatedSite:
    """One site and its average effect.

    module            Hugging Face name of the module that writes it; None for the residual stream
    effect, low, high in the unit of the `Located`; low and high bound its interval
    n, groups         pairs and occupations behind it
    q                 p-value corrected for all sites of the map (Benjamini and Hochberg)
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


@dataclass(frozen=True)
class Located:
    """What a trace located: the hand-off to editors, saved as located.json.

    quantity, metric, unit, view, direction, level  what `effect` is (see `effects` and `average`)
    sites            strongest first, by size; the sign says towards (+) or against (-) the stereotype
    component, role  where `layers` was read off
    layers           layers of that component at that role whose effect is above 0 beyond its interval and passes the
                     false-discovery threshold, strongest first; choosing one to edit is a hypothesis to be tested
    modules          their Hugging Face names; module_template has {} for the layer
    controls         differences that must be near 0, as measured
    trace            meta.json of the trace
    """

    quantity: str
    metric: str
    unit: str
    view: str
    direction: str
    level: float
    threshold: float
    sites: tuple[LocatedSite, ...]
    component: str
    role: str
    layers: tuple[int, ...]
    modules: tuple[str, ...]
    module_template: str
    controls: dict[str, float]
    trace: dict[str, Any]

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
            f"over {self.sites[0].groups if self.sites else 0} groups); layers of {self.component} at {self.role}: "
            f"{list(self.layers)}</p>"
        )
        return head + self.frame().to_html(index=False, float_format="{:.3g}".format)


def rank(
    trace: Trace,
    *,
    metric: str = "logit_diff",
    view: str = "stereotype",
    quantity: str = "nie",
    direction: str = "denoising",
    component: str = "mlp_out",
    role: str = LAST_SUBJECT,
    kind: str | None = None,
    top: int = TOP,
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Located:
    """Rank the sites of a trace by their average effect, for editors and tables.

    metric, view                as in `effects`
    quantity                    "nie", "nde" or "total"
    direction                   "denoising": is the site sufficient? "noising": is it necessary?
    component, role             where `layers` and `modules` are read off
    kind                        only pairs of this kind ("occupation", "definition", "user"); None for all
    top                         how many sites to list
    level, samples, seed        as in `average`

    The residual stream, windows and severed patches are not ranked: no module writes them alone.

    Raises LocateError when the trace lacks the direction, or has no component that a module writes.
    """
    check("direction", direction, DIRECTIONS)
    check("component", component, COMPONENTS)
    check("role", role, ROLES)
    check("quantity", quantity, tuple(EFFECTS))
    derived = effects(trace, metric, view=view)
    derived = derived[(derived["direction"] == direction) & (derived["kind"] == kind if kind else True)]
    chosen = derived[derived["component"].isin(EDITABLE) & (derived["window"] == 1) & (derived["severed"] == "")]
    if chosen.empty:
        have = sorted(derived["component"].unique())
        raise LocateError(
            f"nothing to rank: direction {direction!r}, kind {kind!r} and components {have} hold none of "
            f"{', '.join(EDITABLE)}: trace with one of them"
        )
    means = average(chosen, quantity, level=level, samples=samples, seed=seed)
    means = means.iloc[means["effect"].abs().argsort(kind="stable")[::-1]]
    templates = trace.meta["modules"]
    passing = means[
        (means["component"] == component) & (means["role"] == role) & (means["low"] > 0) & (means["q"] <= THRESHOLD)
    ]
    layers = tuple(int(layer) for layer in dict.fromkeys(passing["layer"]))
    return Located(
        quantity=quantity,
        metric=derived.attrs["metric"],
        unit=derived.attrs["unit"],
        view=derived.attrs["view"],
        direction=direction,
        level=level,
        threshold=THRESHOLD,
        sites=tuple(site_of(row, templates) for row in means.head(top).to_dict("records")),
        component=component,
        role=role,
        layers=layers,
        modules=tuple(str(module_name(templates, component, layer)) for layer in layers),
        module_template=str(templates[component] or ""),
        controls=controls_of(trace, derived),
        trace=trace.meta,
    )


def site_of(row: dict[Any, Any], templates: dict[str, str | None]) -> LocatedSite:
    """A row of `average` as a site."""
    return LocatedSite(
        component=str(row["component"]),
        layer=int(row["layer"]),
        role=str(row["role"]),
        unit=None if row["unit"] < 0 else int(row["unit"]),
        module=module_name(templates, str(row["component"]), int(row["layer"])),
        effect=float(row["effect"]),
        low=float(row["low"]),
        high=float(row["high"]),
        n=int(row["n"]),
        groups=int(row["groups"]),
        q=float(row["q"]),
    )


def module_name(templates: dict[str, str | None], component: str, layer: int) -> str | None:
    """Hugging Face name of the module that writes a component at a layer."""
    template = templates.get(component)
    return None if template is None else template.format(layer)


def controls_of(trace: Trace, derived: pd.DataFrame) -> dict[str, float]:
    """Differences that must be near 0: the start-up checks, and the largest effect before the subject.

    Tokens before the subject are the same in both runs when the prompts begin alike, so a patch there changes nothing.
    """
    controls = {f"start-up {name}": float(value) for name, value in trace.meta.get("checks", {}).items()}
    before = derived.loc[derived["role"] == "before_subject", "nie"]
    if len(before):
        controls["largest effect before the subject"] = float(before.abs().max())
    return controls


def load_located(path: str | Path) -> Located:
    """Read a located.json, or the one in a run folder.

    Raises LocateError when it is missing or does not fit its schema.
    """
    path = Path(path)
    path = path / "located.json" if path.is_dir() else path
    content = read_json(path)
    validate(content, "located", path)
    fields = {key: value for key, value in content.items() if key not in ("schema", "locate")}
    sites = tuple(LocatedSite(**site) for site in fields.pop("sites"))
    for name in ("layers", "modules"):
        fields[name] = tuple(fields[name])
    return Located(sites=sites, **fields)
