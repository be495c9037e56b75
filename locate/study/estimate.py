"""estimate(): effects of every patch from a few gradients, to be confirmed by exact patching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch

from locate.errors import LocateError
from locate.mediation.effect_table import over_samples
from locate.model.hooked import Model
from locate.model.products import multiplying
from locate.prompts.build import occupation_pairs
from locate.prompts.pair import Prompts
from locate.sites import DIRECTIONS, Patch, check
from locate.tracing.corrupt import Corruption, Swap
from locate.tracing.gradients import estimate_rows
from locate.tracing.plan import Map
from locate.tracing.stage import Settings, Stage, one_of, prepare

METHODS = ("attribution", "integrated")
STEPS = 5
VIEWS = ("stereotype", "signed")


def estimate(
    model: Model,
    prompts: Prompts | None = None,
    map: Map | None = None,
    *,
    method: str = "attribution",
    steps: int = STEPS,
    view: str = "stereotype",
    patches: Sequence[Patch] | None = None,
    directions: Sequence[str] = DIRECTIONS,
    corruption: Corruption | None = None,
    **settings: Any,
) -> pd.DataFrame:
    """Estimated natural indirect effects of every patch, in the log-odds; a table as `effects()` returns it.

    method   "attribution": gradient of the log-odds at the base run, times the difference that the patch makes (Nanda
             2023; Syed et al. 2023); "integrated": the gradient averaged over runs between base and source, whose token
             embeddings are mixed (EAP-IG for nodes, Hanna et al. 2024)
    steps    mixtures of the integrated gradient, at the middles of as many equal parts of the way
    view     "stereotype" or "signed", as in `effects`
    patches, directions, corruption  as in `trace`, and so are the settings memory, batch_size and max_dropped

    `nie` is the estimate, `base` and `source` are measured, `nde` is nan. An estimate is first order: it is exact where
    the log-odds depend on the site linearly, and may be wrong in size and sign where they do not: where a later MLP or
    softmax is saturated the slope is zero, whatever the effect. For attention weights ("pattern") it is the weights
    after the softmax that change, each by itself, as patches write them. Prompts of two lengths are mixed at their
    aligned tokens alone.

    Raises LocateError as `trace` does, and for an integrated estimate of a patch that writes neither run's values.
    """
    check("method", method, METHODS)
    check("view", view, VIEWS)
    if steps < 1:
        raise LocateError(f"{steps} steps: expected a number >= 1")
    prompts = occupation_pairs() if prompts is None else prompts
    stage = Stage("estimates", prompts, one_of(map, patches), tuple(directions))
    job = prepare(model, stage, Settings(corruption or Swap(), **settings))
    strange = [] if method == "attribution" else [patch for patch in patches or () if is_foreign(patch)]
    if strange:
        raise LocateError(
            f"patch at {strange[0].anchor} writes {strange[0].origin}: integrated gradients lead only from the base to "
            "the source: choose method 'attribution'"
        )
    ways = [0.0] if method == "attribution" else [(step + 0.5) / steps for step in range(steps)]
    with multiplying(model.dtype, model.device, model.threads):
        parts = [estimate_rows(job, pairs, ways) for pairs in job.chunks]
    return as_effects(pd.concat(parts, ignore_index=True), view)


def is_foreign(patch: Patch) -> bool:
    """Whether it writes other values than those of its base and source run."""
    return any(isinstance(each.origin, torch.Tensor) or each.origin not in ("source", "base") for each in patch.writes)


def as_effects(rows: pd.DataFrame, view: str) -> pd.DataFrame:
    """The estimates as a table of effects."""
    if view == "stereotype":
        unsigned = rows["stereotype"] == 0
        without = int(rows.loc[unsigned, "pair"].nunique())
        rows = rows[~unsigned]
        if rows.empty:
            raise LocateError(f"none of the {without} pairs has a stereotype: choose view='signed'")
        for name in ("base", "source", "nie"):
            rows = rows.assign(**{name: rows[name] * rows["stereotype"].astype(float)})
    rows = rows.assign(total=rows["source"] - rows["base"], nde=np.nan, patched=rows["base"] + rows["nie"])
    return over_samples(rows).assign(metric="logit_diff", view=view, rounding=0.0)
