"""One row for each of several models: what a trace of each has found."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from locate.mediation.located import Located, LocatedSite, is_clear, share_of

if TYPE_CHECKING:
    from collections.abc import Sequence

ABOUT = ("model", "n_layers", "pairs", "unit")
TOTAL = ("total", "total_low", "total_high")
SITE = ("component", "layer", "depth", "role", "effect", "low", "high", "share", "q", "stability")
SAME = ("component", "layer", "role", "effect", "low", "high", "q", "stability")
FOUND = ("layers_component", "layers_role", "layers")


def model_row(located: Located) -> dict[str, Any]:
    """What was located in one model.

    model, n_layers, pairs           about the trace
    unit                             of the effects
    total, total_low, total_high     total effect and its interval
    component, layer, ...            the strongest listed site (see `LocatedSite`); its depth is 0 in the first layer
                                     and 1 in the last, its share is of the total effect. None where the interval of
                                     the total effect holds 0
    layers_component, layers_role    where the located layers were read off
    layers                           they themselves, strongest first, like "0 1"; "" for none
    """
    meta = located.trace
    site = located.sites[0] if is_clear(located) and located.sites else None
    about = (meta["model"]["name"], meta["model"]["n_layers"], meta["ledger"]["kept"], located.unit)
    found = (located.component, located.role, " ".join(map(str, located.layers or ())))
    row = dict(zip(ABOUT, about, strict=True)) | dict(zip(TOTAL, located.total, strict=True))
    return row | dict.fromkeys(SITE) | about_site(site, located) | dict(zip(FOUND, found, strict=True))


def about_site(site: LocatedSite | None, located: Located) -> dict[str, Any]:
    """The columns of a site; none for no site."""
    if site is None:
        return {}
    share, last = share_of(site.effect, site.n, located), located.trace["model"]["n_layers"] - 1
    more = {"depth": site.layer / last if last else 0.0, "share": float(share) if share else None}
    return {name: getattr(site, name) for name in SAME} | more


def model_table(several: Sequence[Located]) -> pd.DataFrame:
    """The rows of several models, in the order given (see `model_row`)."""
    return pd.DataFrame([model_row(each) for each in several], columns=[*ABOUT, *TOTAL, *SITE, *FOUND])
