"""Located: the ranked sites with their intervals, and the layers and modules that an editor asks for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.files import read_json, strict, write_json
from locate.mediation import average, default_view, effects, selectivity
from locate.mediation.averages import ROW, SOUND_GROUPS, stability, total_effect
from locate.mediation.controls import SetTest, controls_of, set_test
from locate.mediation.effect_table import EFFECTS, EVERY
from locate.mediation.selectivity_table import comparable
from locate.metrics import positive_means
from locate.schema import LOCATED_VERSION, locate_version, validate
from locate.sites import COMPONENTS, DIRECTIONS, LAST_SUBJECT, ROLES, check
from locate.tracing.table import Trace, whole_sites

THRESHOLD = 0.05
EDITABLE = ("mlp_out", "attn_out", "head", "neuron", "mlp_out_unit")
FALLBACK_ROLES = (LAST_SUBJECT, "last", "after_subject", "further", "subject_first", "subject_middle", "before_subject")
TOP = 20


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
        """As the texts of a table's row, but for the selectivity: component, layer, role, unit, effect and so on."""
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
    positive         what a positive effect says: towards or away from the stereotype, or towards the female answer
    total            the average total effect of swapping the whole prompt, and its interval
    without_stereotype  pairs that the view or the metric leaves out
    window           layers written at once around each site, 1 for the site alone
    clusters         what intervals and p resample: "group", or "group+template"
    sites            strongest first, by size
    component, role  where `layers` was read off; None where the trace can name no layer
    layers           layers of that component at that role whose effect has the sign of the total effect, by its whole
                     interval, and passes the false-discovery threshold; strongest first. None where the interval of the
                     total effect holds 0. Choosing one to edit is a hypothesis to be tested
    why_no_layers    why the trace can name no layer, as of a map of attention weights alone; None where it can
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


def rank(
    trace: Trace,
    *,
    metric: str = "logit_diff",
    view: str | None = None,
    quantity: str = "nie",
    direction: str | None = None,
    component: str | None = None,
    role: str | None = None,
    window: int | None = None,
    kind: str | None = None,
    top: int = TOP,
    clusters: str = "group",
    level: float = 0.95,
    samples: int = 2000,
    seed: int = 0,
) -> Located:
    """Rank the sites of a trace by their average effect, for editors and tables.

    metric, view, quantity      as in `effects`; None takes the stereotype view where any pair has a stereotype
    direction                   "denoising": is the site sufficient? "noising": is it necessary? None takes denoising
                                where it was traced
    component, role             where `layers` and `modules` are read off; None for mlp_out at subject_last where they
                                were traced, else the first that was, in the order of EDITABLE and of FALLBACK_ROLES
    window                      width of the patches ranked; None for the narrowest
    kind                        as in `effects`: None for occupations where definitional words were traced beside them
    top                         how many sites to list
    clusters, level, samples, seed   as in `average`

    The residual stream, attention weights, named sets and severed patches are not ranked, since no module writes them
    alone; `why_no_layers` says so where nothing else was traced.

    Raises LocateError when the trace lacks the direction, the component, the role or the window.
    """
    direction = str(trace.meta["directions"][0]) if direction is None else direction
    check("direction", direction, DIRECTIONS)
    if top < 1:
        raise LocateError(f"top {top}: expected a number of sites >= 1")
    check("quantity", quantity, tuple(EFFECTS))
    everything = effects(trace, metric, view=default_view(trace) if view is None else view, kind=kind)
    derived = everything[everything["direction"] == direction]
    chosen = rankable(derived, window)
    settings = {"clusters": clusters, "level": level, "samples": samples, "seed": seed}
    have = sorted(derived["component"].astype(str).unique())
    if chosen.empty:
        if have and (window, component, role) == (None, None, None):
            return unranked(trace, derived, quantity, direction, settings)
        what = f"direction {direction!r}, window {window} and components {have}"
        raise LocateError(f"nothing to rank: {what} hold none of {', '.join(EDITABLE)}: trace with one of them")
    component = traced("component", component, COMPONENTS, EDITABLE, chosen)
    role = traced("role", role, ROLES, FALLBACK_ROLES, chosen[chosen["component"] == component])
    width = int(chosen["window"].iloc[0])
    means, said = ordered(derived[derived[quantity].notna()], quantity, width, settings)
    leanings = selectivities(trace, metric, quantity, direction, level, samples, seed)
    templates = trace.meta["modules"]
    total = total_effect(derived, settings)
    layers = passing_layers(means, *total[1:], component, role)
    return Located(
        quantity=quantity,
        metric=derived.attrs["metric"],
        unit=derived.attrs["unit"],
        view=derived.attrs["view"],
        kind=derived.attrs["kind"],
        positive=positive_means(derived.attrs["metric"], derived.attrs["view"]),
        direction=direction,
        total=total,
        without_stereotype=int(derived.attrs["without_stereotype"]),
        window=width,
        clusters=clusters,
        level=level,
        threshold=THRESHOLD,
        sites=tuple(site_of(row, templates, leanings) for row in means.head(top).to_dict("records")),
        component=component,
        role=role,
        layers=layers,
        why_no_layers=None,
        modules=tuple(str(module_name(templates, component, layer)) for layer in layers),
        module_template=str(templates[component] or ""),
        smallest_q=said["smallest_q"],
        sound=said["sound"],
        controls=controls_of(trace, derived),
        set_test=tested(trace, metric, (component, role, direction), level=level, samples=samples, seed=seed),
        trace=trace.meta,
    )


def passing_layers(means: pd.DataFrame, low: float, high: float, component: str, role: str) -> tuple[int, ...]:
    """Layers of a component at a role whose effect is on the side of the total one, strongest first."""
    beyond = means["low"] > 0 if low > 0 else means["high"] < 0 if high < 0 else means["effect"].isna()
    passing = means[(means["component"] == component) & (means["role"] == role) & beyond & (means["q"] <= THRESHOLD)]
    return tuple(int(layer) for layer in dict.fromkeys(passing["layer"]))


def unranked(trace: Trace, derived: pd.DataFrame, quantity: str, direction: str, settings: dict[str, Any]) -> Located:
    """What is said of a trace that holds nothing that a module writes alone."""
    about, known = derived.attrs, derived[derived[quantity].notna()]
    means = average(known, quantity, **settings)
    patched = ", ".join(sorted(derived["component"].astype(str).unique()))
    return Located(
        quantity=quantity,
        metric=about["metric"],
        unit=about["unit"],
        view=about["view"],
        kind=about["kind"],
        positive=positive_means(about["metric"], about["view"]),
        direction=direction,
        total=total_effect(derived, settings),
        without_stereotype=int(about["without_stereotype"]),
        window=int(derived["window"].min()),
        clusters=settings["clusters"],
        level=settings["level"],
        threshold=THRESHOLD,
        sites=(),
        component=None,
        role=None,
        layers=(),
        why_no_layers=f"only {patched} was patched, and no single module writes what these patches copy; effects.csv "
        f"lists their effects; to name layers, trace one of {', '.join(EDITABLE)} too",
        modules=(),
        module_template="",
        smallest_q=means.attrs["smallest_q"],
        sound=means.attrs["sound"],
        controls=controls_of(trace, derived),
        set_test=None,
        trace=trace.meta,
    )


def tested(trace: Trace, metric: str, place: tuple[str, str, str], **settings: Any) -> SetTest | None:
    """The set test of a component, role and direction, where it was measured."""
    found = set_test(trace, metric, **settings)
    return found if found is not None and (found.component, found.role, found.direction) == place else None


def ordered(
    known: pd.DataFrame, quantity: str, width: int, settings: dict[str, Any]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Averages of one direction's sites of a width, with their stability, strongest first; and how they were averaged.

    q is over all sites of the direction, those included that are not ranked.
    """
    means = average(known, quantity, **settings)
    drawn = {name: settings[name] for name in ("clusters", "samples", "seed")}
    firm = stability(rankable(known, width), quantity, **drawn)
    rows = rankable(means[means["groups"] > 1], width).merge(firm, on=ROW, how="left", validate="one_to_one")
    return rows.iloc[rows["effect"].abs().argsort(kind="stable")[::-1]], means.attrs


def rankable(derived: pd.DataFrame, window: int | None) -> pd.DataFrame:
    """Rows of patches that one module writes, of one width."""
    found = whole_sites(derived[derived["component"].isin(EDITABLE)])
    width = found["window"].min() if window is None else window
    return found[found["window"] == width]


def traced(what: str, value: str | None, words: tuple[str, ...], preferred: tuple[str, ...], rows: pd.DataFrame) -> str:
    """The value asked for, or the first of the preferred ones, that the trace holds.

    Raises LocateError when it holds none of them.
    """
    if value is not None:
        check(what, value, words)
    have = set(rows[what])
    for word in preferred if value is None else (value,):
        if word in have:
            return word
    raise LocateError(f"{what} {value!r} was not traced: expected one of {', '.join(sorted(have))}")


def selectivities(
    trace: Trace, metric: str, quantity: str, direction: str, level: float, samples: int, seed: int
) -> dict[tuple[Any, ...], SiteSelectivity]:
    """Selectivity of every site of a direction; none where only one kind of words was traced."""
    if not comparable(trace.table):
        return {}
    every = effects(trace, metric, kind=EVERY)
    every = every[(every["direction"] == direction) & every[quantity].notna()]
    if not comparable(every):
        return {}
    found = selectivity(every, quantity, threshold=THRESHOLD, level=level, samples=samples, seed=seed)
    found = found[found["definition_groups"] > 0]
    return {tuple(row[name] for name in ROW): leaning_of(row) for row in found.to_dict("records")}


def leaning_of(row: dict[Any, Any]) -> SiteSelectivity:
    """A row of `selectivity` as what a site carries."""
    value, low, high = (None if pd.isna(row[name]) else float(row[name]) for name in ("selectivity", "low", "high"))
    return SiteSelectivity(
        value, low, high, float(row["definition"]), int(row["definition_n"]), int(row["definition_groups"])
    )


def site_of(
    row: dict[Any, Any],
    templates: dict[str, str | None],
    leanings: dict[tuple[Any, ...], SiteSelectivity],
) -> LocatedSite:
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
        stability=float(row["stability"]),
        selectivity=leanings.get(tuple(row[name] for name in ROW)),
    )


def module_name(templates: dict[str, str | None], component: str, layer: int) -> str | None:
    """Hugging Face name of the module that writes a component at a layer."""
    template = templates.get(component)
    return None if template is None else template.format(layer)


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
