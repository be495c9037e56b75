"""Whether two traces can be compared: the same prompts, patches and corruption in two models; what else differs."""

from __future__ import annotations

from typing import Any

import pandas as pd

from locate.errors import LocateError
from locate.metrics import Metric, metric_named
from locate.tracing.table import Trace

PAIR = ["clean", "corrupted", "group", "template", "kind", "stereotype"]
MODEL = ("weights_sha256", "config_sha256", "tokenizer_sha256", "dtype", "prepend_bos", "before")
MEASURED = "scale"  # of a noise: follows from the model


def matched(a: Trace, b: Trace, metric: str | Metric = "logit_diff") -> dict[str, list[Any]]:
    """What differs between two traces of the same experiment: name -> [in A, in B].

    Model, revision, weights, dtype, device, engine and library versions may differ, and are returned.

    Raises LocateError, with both values, where the depth of the models, the prompts, directions, corruptions or patches
    differ; where only one holds the probabilities that the metric needs; and for one and the same model in one dtype,
    of which every change would be 0.
    """
    same("layers", a.meta["model"]["n_layers"], b.meta["model"]["n_layers"], "compare models of the same depth")
    same_prompts(a, b)
    for name in ("directions", "corruption"):
        same(name, asked(a.meta[name]), asked(b.meta[name]), "trace both alike")
    same_patches(a, b)
    if (needed := metric_named(metric)).absolute:
        ours, theirs = (bool(trace.meta.get("probabilities", True)) for trace in (a, b))
        way = f"metric {needed.name!r} needs them: trace both with them, or choose logit_diff"
        same("probabilities", ours, theirs, way)
    one, other = ({name: trace.meta["recipe"].get(name) for name in MODEL} for trace in (a, b))
    if one == other:
        raise LocateError(
            f"A and B are traces of one model (weights {str(one['weights_sha256'])[:12]} in {one['dtype']}): every "
            "change would be 0: choose a run of another model, or of another dtype"
        )
    return differing(a, b)


def same(name: str, one: Any, other: Any, way: str) -> None:
    """Raise LocateError with both values unless they are equal."""
    if one != other:
        raise LocateError(f"the runs do not match: {name} {one!r} in A, {other!r} in B: {way}")


def asked(value: Any) -> Any:
    """A setting without the part that was measured in the model."""
    return {key: each for key, each in value.items() if key != MEASURED} if isinstance(value, dict) else value


def same_prompts(a: Trace, b: Trace) -> None:
    """Raise LocateError unless both traces are of the same prompts; it names the first pair that differs."""
    hashes = [trace.meta["recipe"]["prompts_sha256"] for trace in (a, b)]
    ours, theirs = pairs_of(a), pairs_of(b)
    shared = ours.index.intersection(theirs.index).sort_values()
    unlike = (ours.loc[shared] != theirs.loc[shared]).any(axis=1)
    way = "trace both with the same prompts"
    if unlike.any():
        first = shared[unlike.to_numpy().argmax()]
        name = next(name for name in PAIR if ours.loc[first, name] != theirs.loc[first, name])
        same(f"{name} of pair {first}", ours.loc[first, name], theirs.loc[first, name], way)
    if hashes[0] != hashes[1]:
        one, other = (trace.meta.get("prompts", {}).get("pairs") for trace in (a, b))
        same("number of pairs", one, other, f"{way} and the same --limit")
        same("prompts_sha256", hashes[0][:12], hashes[1][:12], f"the answers or the pairs left out differ: {way}")


def pairs_of(trace: Trace) -> pd.DataFrame:
    """The pairs of a trace by their number."""
    return trace.table.drop_duplicates("pair").set_index("pair")[PAIR].astype("object")


def same_patches(a: Trace, b: Trace) -> None:
    """Raise LocateError unless both traces wrote the same patches; it names the setting that differs."""
    way = "trace both with the same map"
    ours, theirs = (trace.meta.get("map") or {} for trace in (a, b))
    for name in sorted({*ours, *theirs}):
        same(name, ours.get(name), theirs.get(name), way)
    hashes = [trace.meta["recipe"]["patches_sha256"] for trace in (a, b)]
    if hashes[0] != hashes[1]:
        for name in ("n_heads", "d_model"):
            one, other = (trace.meta["model"].get(name) for trace in (a, b))
            same(name, one, other, "leave out the components whose units only one has")
        same("patches_sha256", hashes[0][:12], hashes[1][:12], "trace the same patches with one version of locate")


def differing(a: Trace, b: Trace) -> dict[str, list[Any]]:
    """What is not the same in two traces that match: name -> [in A, in B]."""
    ours, theirs = facts(a), facts(b)
    names = dict.fromkeys([*ours, *theirs])
    return {name: [ours.get(name), theirs.get(name)] for name in names if ours.get(name) != theirs.get(name)}


def facts(trace: Trace) -> dict[str, Any]:
    """What may differ between two traces that are compared."""
    meta, recipe = trace.meta, trace.meta["recipe"]
    found = {name: recipe.get(name) for name in ("config_sha256", "engine", "locate")}
    found |= {name: meta.get(name) for name in ("device", "products", "probabilities")}
    if MEASURED in meta["corruption"]:
        found["scale of the noise"] = meta["corruption"][MEASURED]
    ledger = {f"pairs {name}": meta["ledger"][name] for name in ("kept", "dropped")}
    return dict(meta["model"]) | found | ledger | dict(meta["libraries"].items())
