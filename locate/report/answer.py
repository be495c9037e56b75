"""What a run found, in words: what carries the preference, how much of it, how sure, and what the controls say."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from locate.mediation.controls import CHOOSING
from locate.mediation.effect_table import DEFINITION, answers_of, default_view, subject_of
from locate.mediation.located import Located, LocatedSite, is_clear, share_of
from locate.metrics import positive_means
from locate.tracing.table import CONTROLS as CONTROLS_MEASURED
from locate.tracing.table import whole_sites
from locate.words import chance, decimals, metric_words, role_words, signed

if TYPE_CHECKING:
    from locate.mediation.analysis import Analysis

SHOWN = 10  # sites of the table
NAMED = 3  # sites that the answer names, on either side
SHORT = {
    "resid_pre": "residual stream",
    "attn_out": "attention",
    "mlp_out": "MLP",
    "head": "head",
    "neuron": "neuron",
    "mlp_out_unit": "MLP output number",
    "pattern": "attention weights",
}
"""component: its shortest name; the layer follows, and the unit after a dot"""
PROMPTS = {
    "denoising": "from the corrupted to the clean prompt",
    "noising": "from the clean to the corrupted prompt",
}
CONTROLS = {
    "shuffled source": "with the value of another subject (shuffled source)",
    "random direction": "moved as far, in a random direction (random direction)",
    "definitional words": "in prompts about words that state a gender (definitional words)",
    "neutral words": "in prompts about words that state none, female minus male (neutral words)",
}
"""control: what was done at the site"""
RANDOM_WEIGHTS = "random weights"
PLACE = ["component", "layer", "unit", "role"]


def named_metric(located: Located) -> str:
    """What the metric measures, with its name; a metric of the user's own has its name alone."""
    words = metric_words(located.metric, answers_of(located.trace))
    return words if words == located.metric else f"{words} ({located.metric})"


def site_name(component: str, layer: int, role: str, unit: int | None, subject: str) -> str:
    """A site in few words, like "MLP 0, last token of the occupation" or "head 5.3, last token of the prompt"."""
    number = "" if unit is None or unit < 0 else f".{unit}"
    return f"{SHORT[component]} {layer}{number}, {role_words(role, subject)}"


def name_of(site: LocatedSite, located: Located) -> str:
    """A ranked site in few words."""
    return site_name(site.component, site.layer, site.role, site.unit, subject_of(located.kind))


def with_ends(effect: float, low: float, high: float, digits: int) -> str:
    """A number with its interval."""
    return f"{signed(effect, digits)} [{signed(low, digits)}, {signed(high, digits)}]"


def interval(effect: float, low: float, high: float) -> str:
    """The same with as many decimals as the size of the number needs."""
    return with_ends(effect, low, high, decimals(abs(effect)))


def digits_of(located: Located) -> int:
    """Decimals of the effects of the sites, by the largest that is shown."""
    return decimals(max((abs(site.effect) for site in located.sites[:SHOWN]), default=0.0))


def answer_lines(located: Located) -> list[str]:
    """The total effect, and the sites that carry it or work against it."""
    lines = [
        f"Total effect, {PROMPTS[located.direction]}, on the {named_metric(located)}: "
        f"{interval(*located.total)} {located.unit}; positive is {located.positive}."
    ]
    if located.without_stereotype:
        lines.append(f"{located.without_stereotype} pairs have no stereotype and are left out.")
    if located.why_no_layers is not None:
        return lines
    if not is_clear(located):
        return [*lines, "Its interval holds 0: there is no preference to be located, and no layer is named."]
    along, against = carriers(located)
    if not along and not against:
        lines.append(f"No single site passes the false-discovery threshold (q {located.threshold:g}).")
    if along:
        lines.append("Sites that carry most of it (they overlap, and need not add up):")
        lines += [carried_line(site, located) for site in along[:NAMED]]
    if against:
        lines.append("Sites that work most against it:")
        lines += [carried_line(site, located) for site in against[:NAMED]]
    return lines


def carriers(located: Located) -> tuple[list[LocatedSite], list[LocatedSite]]:
    """The listed sites that pass, by their whole interval: those with the total effect, and those against it."""
    passing = [site for site in located.sites if site.q <= located.threshold and site.low * site.high > 0]
    along, against = ([site for site in passing if site.effect * located.total[0] * sign > 0] for sign in (1, -1))
    return along, against


def can_be_edited(located: Located) -> bool:
    """Whether `edit` takes the located layers: output matrices of MLPs, of words whose gender is a stereotype."""
    modules = located.component == "mlp_out" and "{}" in located.module_template
    return modules and bool(located.layers) and located.kind != DEFINITION


def carried_line(site: LocatedSite, located: Located) -> str:
    """What one site carries."""
    share = share_of(site.effect, site.n, located)
    effect = f"{with_ends(site.effect, site.low, site.high, digits_of(located))} {located.unit}, q {chance(site.q)}"
    return f"  {name_of(site, located)}: " + (f"{share} of the total ({effect})" if share else effect)


def layers_line(located: Located, analysis: Analysis | None = None) -> str:
    """The located layers with what each carries, or why there are none.

    analysis  that it comes from; without it only layers among the listed sites have a number
    """
    if located.why_no_layers is not None or not located.layers:
        return located.layers_line()
    strongest = layer_effects(located, analysis)
    told: list[str] = []
    for layer in located.layers:
        effect, n = strongest.get(layer, (0.0, 0))
        share = share_of(effect, n, located)
        words = " of the total" if not told else ""
        part = f"{share}{words}" if share else f"{signed(effect, digits_of(located))} {located.unit}"
        told.append(f"{layer} ({part})" if n else str(layer))
    return f"layers of {located.component} at {located.role}, strongest first: {', '.join(told)}"


def layer_effects(located: Located, analysis: Analysis | None) -> dict[int, tuple[float, int]]:
    """What each layer carries at the component and role that the located layers are of, and of how many pairs.

    Of several heads or neurons of a layer it is the one that carries most.
    """
    if analysis is None:
        sites = [site for site in located.sites if (site.component, site.role) == (located.component, located.role)]
        found = [(site.layer, site.effect, site.n) for site in sites]
    else:
        rows = whole_sites(analysis.average(located.quantity))
        rows = rows[(rows["direction"] == located.direction) & (rows["window"] == located.window)]
        rows = rows[(rows["component"] == located.component) & (rows["role"] == located.role)]
        found = [(int(row.layer), float(row.effect), int(row.n)) for row in rows.itertuples()]
    sign = 1 if located.total[0] > 0 else -1
    return {layer: (effect, n) for layer, effect, n in sorted(found, key=lambda each: sign * each[1])}


def control_lines(analysis: Analysis, located: Located) -> list[str]:
    """What a run's controls, sets and estimates say of what was located."""
    about = analysis.trace.meta.get(CONTROLS_MEASURED, {})
    lines = site_control_lines(analysis.controls, located)
    lines += set_lines(located)
    if lines and located.metric != CHOOSING:
        lines.append(f"  these sites were chosen by {CHOOSING} while the run was measured; shown is {located.metric}")
    lines += [f"  not run: {name}, {reason}" for name, reason in about.get("not_run", {}).items()]
    if located.set_test is None and "reason" in about.get("random_sets", {}):
        lines.append(f"  not run: random sets, {about['random_sets']['reason']}")
    if analysis.areas is not None:
        lines.append(f"  circuits of the strongest sites: {analysis.areas.text()}")
    elif analysis.why_no_sets:
        lines.append(f"  sets of sites are not shown: {analysis.why_no_sets}")
    lines += [f"  {each.line()}" for each in analysis.agreement]
    if CONTROLS_MEASURED not in analysis.trace.meta:
        lines.append("  no controls were measured")
    positive = positive_means(analysis.metric, default_view(analysis.trace))
    sign = "" if positive == located.positive else f" (positive is {positive})"
    return [f"Controls and further evidence{sign}:", *lines]


def evidence_lines(analysis: Analysis, located: Located) -> list[str]:
    """The same, each in one line: what stands below a line is told behind it."""
    head, *rest = control_lines(analysis, located)
    said: list[str] = []
    for line in rest:
        if line.startswith(" " * 4):
            said[-1] += ("; " if ";" in said[-1] or not said[-1].endswith(":") else " ") + line.strip()
        else:
            said.append(line.strip())
    sign = re.search(r"\((.*)\)", head)
    return [*([sign[1]] if sign else []), *said]


def site_control_lines(controls: pd.DataFrame, located: Located) -> list[str]:
    """The controls at the strongest located site that has any, and the largest effect in the untrained model."""
    rows = controls[controls["direction"] == located.direction]
    subject, lines = subject_of(located.kind), []
    here = rows[rows["control"] != RANDOM_WEIGHTS]
    if len(here):
        chosen = controlled_site(here, located)
        at = here[(here[PLACE] == chosen[PLACE]).all(axis=1)]
        name = name_of_row(chosen, subject)
        lines.append(f"  {name}, itself {signed(chosen['own'], decimals(abs(chosen['own'])))} {located.unit}:")
        lines += [
            f"    {interval(row['effect'], row['low'], row['high'])} {CONTROLS[row['control']]}"
            for _, row in at.iterrows()
        ]
    for _, row in rows[rows["control"] == RANDOM_WEIGHTS].iterrows():
        effect = interval(row["effect"], row["low"], row["high"])
        lines.append(f"  {effect} at {name_of_row(row, subject)}: the largest of the map with random weights")
    return lines


def name_of_row(row: pd.Series, subject: str) -> str:
    """The site of a row of a table, in few words."""
    return site_name(str(row["component"]), int(row["layer"]), str(row["role"]), int(row["unit"]), subject)


def controlled_site(here: pd.DataFrame, located: Located) -> pd.Series:
    """A row of the strongest site that carries the effect and was controlled; else the first row."""
    for site in located.sites:
        place = [site.component, site.layer, -1 if site.unit is None else site.unit, site.role]
        found = here[(here[PLACE] == pd.Series(place, PLACE)).all(axis=1)]
        if site.effect * located.total[0] > 0 and len(found):
            return found.iloc[0]
    return here.iloc[0]


def set_lines(located: Located) -> list[str]:
    """The joint effect of the located set against random ones."""
    test = located.set_test
    if test is None:
        return []
    layers, role = ", ".join(map(str, test.layers)), role_words(test.role, subject_of(located.kind))
    digits = decimals(abs(test.effect))
    return [
        f"  {SHORT[test.component]} {layers} at the {role}, located on half of the groups and copied together on the "
        f"others: {with_ends(test.effect, test.low, test.high, digits)} {located.unit}; the largest of {test.sets} "
        f"random sets in the same layers {signed(test.largest, digits)}, p {chance(test.p)}"
    ]
