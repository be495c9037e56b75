"""A run's controls, from their log-probabilities: each beside its site's own effect, and random sets of sites."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pandas as pd

from locate.mediation.averages import average, summed
from locate.mediation.effect_table import default_view, effects
from locate.mediation.resampling import DEFAULT, Intervals
from locate.metrics import Metric, metric_named
from locate.notebook import as_table, sentences, title
from locate.tracing.table import CONTROL, Trace
from locate.words import NAMES, chance, decimals, role_words, signed, with_interval

PLACE = ["component", "layer", "unit", "role"]
SETS = "random sets"
CHOOSING = "logit_diff"  # the metric by which sites are chosen while a run is measured
LOCATED = "located"
COLUMNS = [CONTROL, "direction", *PLACE, "effect", "low", "high", "size", "n", "groups", "own", "own_size"]


def control_table(
    trace: Trace,
    metric: str | Metric = "logit_diff",
    chosen: Intervals = DEFAULT,
    *,
    whole: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Average effect of each control at the sites that it was run at, with its interval over groups.

    chosen  as in `average`; groups alone are resampled
    whole   effects of the run itself, in its default view, where they are known already

    One row per control, direction and site: `effect`, `low` and `high` as `average` makes them, `size`, the mean
    absolute effect of a pair, `n` pairs, `groups`; `own` and `own_size` are the mean and mean absolute effect of the
    site itself in the whole run. All are in the stereotype view where the run's pairs have a stereotype. Neutral words
    have none: their effect is female minus male, and they are left out for a metric that needs a stereotype. Of random
    weights there is one row for each direction: the site of the map with the largest average effect. Empty without
    controls. In the metric's unit.

    Raises LocateError as `effects` and `average` do.
    """
    if trace.controls is None:
        return pd.DataFrame(columns=COLUMNS)
    derived = single(effects(trace, metric, view=default_view(trace)) if whole is None else whole)
    index, design = summed(derived, "nie")
    own = with_sizes(index.assign(effect=design.groups.estimate), derived).set_index(["direction", *PLACE])
    parts, stereotyped = [], metric_named(metric).stereotyped
    for name, rows in trace.controls.groupby(CONTROL, observed=True, sort=False):
        if name == SETS or rows["group"].nunique() < 2 or (stereotyped and (rows["stereotype"] == 0).all()):
            continue
        part = replace(trace, table=rows)
        derived = single(effects(part, metric, view=default_view(part)))
        found = with_sizes(average(derived, "nie", chosen.by_group), derived)
        if name == "random weights":
            found = found.loc[
                found.groupby("direction", observed=True)["effect"].apply(lambda each: each.abs().idxmax())
            ]
        parts.append(found.assign(**{CONTROL: name}))
    table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)
    beside = own.reindex(pd.MultiIndex.from_frame(table[["direction", *PLACE]]))
    table["own"], table["own_size"] = beside["effect"].to_numpy(), beside["size"].to_numpy()
    return table[COLUMNS]


def single(derived: pd.DataFrame) -> pd.DataFrame:
    """Effects of patches of one site: no window, nothing severed, no named set, no key."""
    derived = derived[(derived["window"] == 1) & (derived["severed"] == "") & (derived["name"] == "")]
    return derived[derived["key"] == ""]


def with_sizes(table: pd.DataFrame, derived: pd.DataFrame) -> pd.DataFrame:
    """Averages with `size`, the mean absolute effect of a pair."""
    sizes = derived.assign(size=derived["nie"].abs()).groupby(["direction", *PLACE], observed=True)["size"].mean()
    return table.merge(sizes.reset_index(), on=["direction", *PLACE], how="left", validate="one_to_one")


@dataclass(frozen=True)
class SetTest:
    """The located set's joint effect, against those of random sets of equally many sites in the same layers.

    component, role, direction, layers, units   the set, located on one half of the groups
    effect, low, high    mean joint effect on the other half, with its interval
    n, groups            pairs and groups of that half
    sets                 random sets measured
    largest              the largest mean joint effect of any of them, in the direction of the total effect
    p                    share of all sets, the located one among them, that carry at least as much
    """

    component: str
    role: str
    direction: str
    layers: tuple[int, ...]
    units: tuple[int | None, ...]
    effect: float
    low: float
    high: float
    n: int
    groups: int
    sets: int
    largest: float
    p: float

    def line(self, unit: str) -> str:
        """The test in one sentence."""
        where = ", ".join(map(str, self.layers))
        return (
            f"{self.component} {where} at {self.role}, located on half of the groups, written together on the others: "
            f"{self.effect:+.3f} [{self.low:+.3f}, {self.high:+.3f}] {unit}; largest of {self.sets} random sets in the "
            f"same layers {self.largest:+.3f}; p = {self.p:.2g}"
        )

    def _repr_html_(self) -> str:
        names = [
            str(layer) if unit is None else f"{layer}.{unit}"
            for layer, unit in zip(self.layers, self.units, strict=True)
        ]
        digits, effect = decimals(max(map(abs, (self.effect, self.low, self.high)))), "effect and interval"
        where = f"{NAMES[self.component]}, layers {', '.join(names)}, {role_words(self.role, 'subject')}"
        rows = [
            {"sites copied together": where, effect: with_interval(self.effect, self.low, self.high, digits)},
            {
                "sites copied together": f"the best of {self.sets} random sets in the same layers",
                effect: signed(self.largest, digits),
            },
        ]
        counts = f"{self.n} pairs of {self.groups} groups that the sites were not located on"
        return (
            title(f"The located set against random ones ({self.direction})")
            + as_table(rows)
            + sentences(f"p {chance(self.p)}; {counts}.")
        )


def set_test(trace: Trace, metric: str | Metric = "logit_diff", chosen: Intervals = DEFAULT) -> SetTest | None:
    """How the located set compares with random ones; None where the run compared none.

    The set was chosen on other groups than those it is compared on, so choosing does not make p small; few sets keep it
    large: it is at least 1 / (sets + 1). In the metric's unit.
    """
    about = trace.meta.get("controls", {}).get("random_sets", {})
    if trace.controls is None or "sets" not in about:
        return None
    rows = trace.controls[trace.controls[CONTROL] == SETS]
    view = "stereotype" if (rows["stereotype"] != 0).any() else "signed"
    derived = effects(replace(trace, table=rows), metric, view=view)
    total = derived.drop_duplicates("pair")["total"].mean()
    joint = average(derived, "nie", chosen.by_group).set_index("name")
    carried = joint["effect"] * (1 if total > 0 else -1)
    located, rest = joint.loc[LOCATED], carried.drop(LOCATED)
    return SetTest(
        component=about["component"],
        role=about["role"],
        direction=about["direction"],
        layers=tuple(each["layer"] for each in about["sites"]),
        units=tuple(each["unit"] for each in about["sites"]),
        effect=float(located["effect"]),
        low=float(located["low"]),
        high=float(located["high"]),
        n=int(located["n"]),
        groups=int(located["groups"]),
        sets=len(rest),
        largest=float(joint.loc[rest.idxmax(), "effect"]),
        p=float((1 + (rest >= carried[LOCATED]).sum()) / (1 + len(rest))),
    )


def controls_of(trace: Trace, derived: pd.DataFrame) -> dict[str, float]:
    """Differences that must be near 0: start-up checks, identities of the run, the largest effect before the subject.

    Tokens before the subject are the same in both runs when the prompts begin alike, so a patch there changes nothing.
    """
    controls = {f"start-up {name}": float(value) for name, value in trace.meta.get("checks", {}).items()}
    identities = trace.meta.get("audit", {}).get("identities", {})
    named = {"self": "a run patched with itself", "everything": "a run patched whole against the total effect"}
    controls |= {text: float(identities[name]) for name, text in named.items() if name in identities}
    before = derived.loc[derived["role"] == "before_subject", "nie"]
    if len(before):
        controls["largest effect before the subject"] = float(before.abs().max())
    return controls
