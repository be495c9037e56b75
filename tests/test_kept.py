"""Whole runs of mini are those of an earlier version, number for number; kept in kept/ with the files that it wrote."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from kept_files import differences

import locate
from locate import Budget, Controls, Map, Noise, Sets
from locate.prompts import definitional_pairs
from locate.report import write

pytestmark = pytest.mark.usefixtures("unchecked_types")

KEPT = Path(__file__).parent / "kept"
NEAR = {"rtol": 1e-3, "atol": 1e-4}
NEAR_P = {"rtol": 0.03, "atol": 2e-3}
"""of p and q, which count patterns of signs: those within fp32's rounding of the observed sum fall to either side"""
NEAR_LOCATED_Q = {"rtol": 0.01, "atol": 2e-3}
"""of q in located.json, for the same reason"""
FEW_GROUPS, NEAR_FEW = 8, {"rtol": 0.1, "atol": 2e-3}
"""of p and q with fewer groups than this, where one pattern in 32 or 64 may fall so"""
P_VALUES = {"p", "q", "stereotype_q", "definition_q"}
IGNORED = {"locate", "schema", "seconds", "memory", "threads", "products", "libraries", "recipe", "path", "folder"}
"""what differs with the machine, the version or the layout of files"""
FEW = Controls(sites=2, pairs=12, sets=19)


def anti():
    return locate.occupation_pairs("anti", templates_each=1)


def opposite():
    return locate.occupation_pairs(templates_each=1)


RUNS = {
    "swap": lambda: ((anti().first(24),), {"controls": Controls(seed=3), "sets": Sets(seed=3)}, 3),
    "both": lambda: (
        (
            opposite().first(24) + definitional_pairs(templates_each=1).first(24),
            Map(components=("attn_out", "mlp_out")),
        ),
        {"controls": FEW},
        0,
    ),
    "noise": lambda: (
        (opposite().first(14), Map(components=("attn_out", "mlp_out"), windows=(1, 3))),
        {"corruption": Noise(samples=2), "controls": FEW},
        0,
    ),
    "budget": lambda: (
        (anti().first(24), Map(components=("head", "mlp_out"))),
        {"budget": Budget(passes=1000, method="attribution"), "controls": FEW},
        0,
    ),
    "pattern": lambda: ((anti(), Map(components=("pattern",), roles=("last",), keys=("subject_last",))), {}, 0),
}
TABLES = {
    "swap": ["controls.csv", "effects.csv", "sets.csv"],
    "both": ["controls.csv", "effects.csv", "regression.csv", "selectivity.csv"],
    "noise": ["controls.csv", "effects.csv"],
    "budget": ["controls.csv", "effects.csv"],
    "pattern": ["effects.csv"],
}


@pytest.fixture(scope="module")
def mini():
    return locate.load("mini", device="cpu")


@pytest.fixture(scope="module", params=RUNS)
def run(request, mini, tmp_path_factory):
    """Name of a run that was kept, and the folder of the same run made anew."""
    given, more, seed = RUNS[request.param]()
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:  # tables and located.json are compared, and the page and figures not
        patch.setattr(write, "figures_of", lambda analysis: {})
        patch.setattr(write, "run_page", lambda *given, **more: "")
        write.write_report(locate.trace(mini, *given, **more), folder, formats=[], seed=seed)
    return request.param, folder


def of_located(old, new):
    """Every place where two located.json differ by more than rounding; some parts may have new keys."""
    return differences(
        old,
        new,
        "located",
        ignored=IGNORED,
        near=lambda where, one, other: bool(
            np.isclose(other, one, **(NEAR_LOCATED_Q if where.endswith(".q") else NEAR))
        ),
        may_be_new=lambda where, key: (
            key == "settings" or where.endswith((".settings", ".audit.engine", ".prompts", ".model"))
        ),
    )


def table_differences(old, new):
    """The same of two tables, by column; an empty cell is equal to an empty cell alone."""
    if set(old) != set(new) or len(old) != len(new):
        yield f"columns {sorted(set(old) ^ set(new))}, {len(old)} and {len(new)} rows"
        return
    for name in old:
        if pd.api.types.is_numeric_dtype(old[name]) and pd.api.types.is_numeric_dtype(new[name]):
            near = NEAR_P if name in P_VALUES else NEAR
            same = np.isclose(new[name], old[name], equal_nan=True, **near)
            if name in ("p", "q"):
                same |= (old.get("groups", np.inf) < FEW_GROUPS) & np.isclose(new[name], old[name], **NEAR_FEW)
        else:
            same = (new[name].fillna("").astype(str) == old[name].fillna("").astype(str)).to_numpy()
        for place in np.flatnonzero(~same):
            yield f"{name}[{place}]: {old[name][place]!r} and {new[name][place]!r}"


def test_located_is_as_before(run):
    name, folder = run
    kept = json.loads((KEPT / name / "located.json").read_text())
    assert list(of_located(kept, json.loads((folder / "located.json").read_text()))) == []


def test_the_tables_are_as_before(run):
    name, folder = run
    assert sorted(path.name for path in folder.glob("*.csv")) == TABLES[name]
    assert sorted(path.name for path in (KEPT / name).glob("*.gz")) == [f"{each}.gz" for each in TABLES[name]]
    for each in TABLES[name]:
        kept = pd.read_csv(KEPT / name / f"{each}.gz")
        assert len(kept) > 0
        assert list(table_differences(kept, pd.read_csv(folder / each))) == [], each


def test_a_changed_number_of_a_table_is_seen():
    kept = pd.read_csv(KEPT / "swap" / "sets.csv.gz")
    near, far, word, empty = (kept.copy() for _ in range(4))
    near.loc[2, "effect"] *= 1.0001
    far.loc[2, "effect"] *= 1.01
    word.loc[3, "kind"] = "other"
    empty.loc[4, "low"] = np.nan
    assert list(table_differences(kept, near)) == []
    assert [each.split(":")[0] for each in table_differences(kept, far)] == ["effect[2]"]
    assert [each.split(":")[0] for each in table_differences(kept, word)] == ["kind[3]"]
    assert [each.split(":")[0] for each in table_differences(kept, empty)] == ["low[4]"]
    assert list(table_differences(kept, kept.head(3))) == [f"columns [], {len(kept)} and 3 rows"]
    assert list(table_differences(kept, kept.drop(columns="n"))) == [f"columns ['n'], {len(kept)} and {len(kept)} rows"]


def test_a_changed_number_of_located_is_seen():
    old = {"a": [1.0, {"b": "x"}], "n": 3, "seconds": 3.0, "settings": {"seed": 1}}
    same = {"a": [1.0001, {"b": "x"}], "n": 3, "seconds": 9.0, "settings": {"seed": 1, "later": 2}}
    assert list(of_located(old, same)) == []
    assert list(of_located({"q": 0.7116, "low": 0.7116}, {"q": 0.7156, "low": 0.7156})) == [
        "located.low: 0.7116 and 0.7156"
    ]
    assert list(of_located({"q": 0.712}, {"q": 0.722})) == ["located.q: 0.712 and 0.722"]
    assert list(of_located({"a": 1}, {"a": 1, "settings": {"seed": 1}})) == []
    assert list(of_located({"a": 1, "settings": {}}, {"a": 1})) == ["located.settings is in one alone"]
    changed = {"a": [1.1, {"b": "y", "c": 0}], "n": 4, "settings": {"seed": 2}, "seconds": 1.0}
    assert list(of_located(old, changed)) == [
        "located.a[0]: 1.0 and 1.1",
        "located.a[1].b: 'x' and 'y'",
        "located.a[1].c is in one alone",
        "located.n: 3 and 4",
        "located.settings.seed: 1 and 2",
    ]
