"""The tables of the answer: overlaps, selectivities, what ablations take, and what the strongest heads do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict

import numpy as np
import pandas as pd
from measuring import OWN, Neuron

from locate.mediation import average, selectivity
from locate.mediation.averages import ROW
from locate.mediation.keys import number_rows
from locate.mediation.overlaps import overlap
from locate.mediation.resampling import DEFAULT, Design, Intervals, Ratio, intervals
from locate.sites import Site

SIZES = {"output": (10,), "head": (10,), "neuron": (10, 30, 100)}
"""k of the overlaps"""
FAMILIES = {"that": "that-clauses", "because": "because-clauses"}
SITE_NAME = ["component", "layer", "role", "unit"]

Effects = Mapping[tuple[str, str], pd.DataFrame]
"""(output, head or neuron; data set) -> effects"""


def compared(unit: str, found: Effects) -> Iterator[tuple[str, str, str, pd.DataFrame, pd.DataFrame]]:
    """What is compared: question, names of A and B, and their effects."""
    own = found[unit, OWN]
    jobs, words = (own[own["kind"] == kind] for kind in ("occupation", "definition"))
    yield "meaning", "stereotype", "definition", jobs, words
    first, second = (jobs[jobs["template"].astype(str).str.endswith(end)] for end in FAMILIES)
    yield "templates", *FAMILIES.values(), first, second
    data = {"templates of the package": jobs} | {name: found[unit, name] for name in ("winobias", "winogender")}
    names = list(data)
    for a, b in ((names[0], names[1]), (names[0], names[2]), (names[1], names[2])):
        yield "data", a, b, data[a], data[b]


def overlap_table(found: Effects, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Overlap of located sets for every comparison, unit and size; see `locate.mediation.overlaps.overlap`."""
    rows = []
    for unit, sizes in SIZES.items():
        for question, a, b, first, second in compared(unit, found):
            for k in sizes:
                (own,) = overlap(first, second, chosen=chosen, k=k)
                rows.append({"unit": unit, "question": question, "a": a, "b": b} | asdict(own))
    return pd.DataFrame(rows)


def selectivity_table(effects: pd.DataFrame, top: int, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Selectivity of the strongest sites of the stereotype, and of those of the definition."""
    rows = selectivity(effects, chosen=chosen)
    strongest = [rows[name].abs().nlargest(top).index for name in ("stereotype", "definition")]
    rows = rows.assign(of_stereotype=rows.index.isin(strongest[0]), of_definition=rows.index.isin(strongest[1]))
    columns = [*SITE_NAME, "selectivity", "low", "high", "why_undefined", "of_stereotype", "of_definition"]
    for name in ("stereotype", "definition"):
        columns += [name, *(f"{name}_{each}" for each in ("low", "high", "q", "n", "groups"))]
    kept = rows.loc[rows["of_stereotype"] | rows["of_definition"], columns]
    return kept.sort_values("stereotype", key=np.abs, ascending=False, kind="stable")


def strongest(effects: pd.DataFrame, count: int, *, towards: bool = True) -> list[Site]:
    """The sites with the largest mean effects, by size, or towards the stereotype (or the word's gender) alone."""
    means = effects.groupby(SITE_NAME, observed=True, sort=False)["nie"].mean()
    means = means if towards else means.abs()
    return [
        Site(str(component), int(layer), str(role), None if unit < 0 else int(unit))
        for component, layer, role, unit in means.nlargest(count).index
    ]


def strongest_estimates(estimates: pd.DataFrame, count: int) -> list[Site]:
    """The neurons with the largest mean estimates towards the stereotype, or the word's gender; each neuron once."""
    rows = estimates.sort_values("estimate", ascending=False, kind="stable").drop_duplicates(["layer", "unit"])
    return [Site("neuron", int(row.layer), str(row.role), int(row.unit)) for row in rows.head(count).itertuples()]


def estimated_beside(exact: pd.DataFrame, estimated: pd.DataFrame) -> pd.DataFrame:
    """Mean exact effect of each neuron of one layer and its mean estimate, over the occupations that both hold."""
    keys = ["clean", "corrupted", "unit"]
    parts = [
        rows.loc[rows["kind"] == "occupation", [*keys, "nie"]].astype({"clean": str, "corrupted": str})
        for rows in (exact, estimated)
    ]
    both = parts[0].merge(parts[1].rename(columns={"nie": "estimate"}), on=keys, validate="one_to_one")
    return both.groupby("unit")[["nie", "estimate"]].mean()


def neurons_of(sites: Sequence[Site]) -> list[Neuron]:
    """Layer and unit of each site."""
    return [(site.layer, int(site.unit or 0)) for site in sites]


def ablation_table(rows: pd.DataFrame, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """What each set of neurons takes from the stereotype and from the definition.

    rows  as `measuring.measure_ablations` returns them

    One row per set and kind of words: `before` and `after`, the mean of the log-odds after the clean less those after
    the corrupted prompt (nats, towards the stereotype or the word's gender), `taken` = 1 - after / before with its
    interval over couples, and `right_before`, `right_after`, the share of clean prompts whose likelier pronoun is that
    of the stereotype or of the word.
    """
    found = []
    for (name, kind), own in rows.groupby(["set", "kind"], sort=False):
        before, after = own["clean"] - own["corrupted"], own["clean_ablated"] - own["corrupted_ablated"]
        taken, low, high = share_taken(own, before, after, chosen)
        found.append(
            {"set": name, "kind": kind, "before": before.mean(), "after": after.mean()}
            | {"taken": taken, "low": low, "high": high, "n": len(own), "groups": own["group"].nunique()}
            | {"right_before": (own["clean"] > 0).mean(), "right_after": (own["clean_ablated"] > 0).mean()}
        )
    return pd.DataFrame(found)


def share_taken(
    pairs: pd.DataFrame, before: pd.Series, after: pd.Series, chosen: Intervals
) -> tuple[float, float, float]:
    """1 - after / before, sums over pairs divided, and its interval over groups."""
    groups = number_rows(pairs, ["group"])
    sums = [np.bincount(groups, values.to_numpy(dtype=float))[:, None] for values in (before - after, before)]
    ratio = Ratio(sums[0], sums[1], np.ones_like(sums[0], dtype=bool))
    low, high = intervals(Design(ratio), chosen)
    return float(ratio.estimate[0]), float(low[0]), float(high[0])


def head_table(paths: Mapping[str, pd.DataFrame], chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Average effects of the heads, of their direct paths and of their attention, with intervals."""
    means = [average(rows, "nie", chosen) for rows in paths.values()]
    table = pd.concat(means, ignore_index=True)
    return table[[*ROW, "effect", "low", "high", "n", "groups", "q"]]


def by_role(rows: pd.DataFrame, value: str, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """Means of a head's number by role over all pairs, with intervals; a pair without a token of the role counts 0."""
    wide = rows.pivot_table(index=["pair", "group"], columns=["layer", "unit", "role"], values=value, fill_value=0.0)
    groups = number_rows(wide.index.to_frame(index=False), ["group"])
    sums = np.stack([np.bincount(groups, wide[each].to_numpy()) for each in wide], axis=1)
    counts = np.repeat(np.bincount(groups).astype(float)[:, None], sums.shape[1], axis=1)
    ratio = Ratio(sums, counts, counts > 0)
    low, high = intervals(Design(ratio), chosen)
    table = wide.columns.to_frame(index=False)
    return table.assign(**{value: ratio.estimate, "low": low, "high": high, "n": len(wide), "groups": len(counts)})


def mediated_table(effects: pd.DataFrame, chosen: Intervals = DEFAULT) -> pd.DataFrame:
    """How much of the effect of a set of neurons goes with heads held at the base run.

    One row per set and held heads: `effect` with the heads held (nats), and `taken`, the share of the effect without
    holding that is gone, with its interval over groups.
    """
    rows = []
    wide = effects.pivot_table(index=["pair", "group"], columns="name", values="nie", observed=True)
    pairs = wide.index.to_frame(index=False)
    for name in wide.columns:
        label, held = str(name).split("|")
        taken, low, high = share_taken(pairs, wide[f"{label}|"], wide[name], chosen)
        rows.append(
            {"set": label, "held": held, "effect": wide[name].mean(), "taken": taken, "low": low, "high": high}
            | {"n": len(wide), "groups": pairs["group"].nunique()}
        )
    return pd.DataFrame(rows)
