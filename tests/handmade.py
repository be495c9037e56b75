"""Traces written down by hand, small enough that every effect can be worked out on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from locate.schema import TRACE_VERSION, locate_version
from locate.sites import BEFORE
from locate.tracing.table import Trace, tidy

Probabilities = tuple[float, float]
"""p(she), p(he)"""

Effect = Callable[[str, int, str, int], float]
"""(component, layer, role, group number) -> what a patch there moves the log-odds, towards the stereotype"""

GROUPS = (
    "nurse", "engineer", "librarian", "plumber", "secretary", "driver", "cashier", "mechanic", "teacher", "lawyer",
    "hairdresser", "farmer",
)  # fmt: skip
ROLES = (BEFORE, "subject_last", "last")
TEMPLATES = ("The {subject} said that", "The {subject} cried because")

MODULES = {
    "resid_pre": None,
    "attn_out": "transformer.h.{}.attn.c_proj",
    "mlp_out": "transformer.h.{}.mlp.c_proj",
    "head": "transformer.h.{}.attn.c_proj",
    "neuron": "transformer.h.{}.mlp.c_proj",
}

META: dict[str, Any] = {
    "schema": TRACE_VERSION,
    "status": "complete",
    "rows": 0,
    "recipe": {
        "schema": TRACE_VERSION,
        "locate": locate_version(),
        "weights_sha256": "w" * 64,
        "prompts_sha256": "p" * 64,
        "patches_sha256": "a" * 64,
        "dtype": "float32",
    },
    "model": {
        "name": "paper",
        "revision": "none",
        "weights_sha256": "w" * 64,
        "architecture": "PaperForCausalLM",
        "dtype": "float32",
        "n_layers": 3,
        "n_heads": 2,
        "d_model": 8,
        "prepend_bos": False,
    },
    "device": "cpu",
    "checks": {"logits against transformers": 1e-6},
    "modules": MODULES,
    "ledger": {"kept": 2, "dropped": 0, "skipped": 0, "reasons": {}},
    "directions": ["denoising", "noising"],
    "corruption": {"kind": "swap"},
    "libraries": {"numpy": np.__version__},
    "seconds": 1.0,
}


def odds(log_odds: float) -> Probabilities:
    """Probabilities with those log-odds that leave half of the mass to other words."""
    she = 0.5 / (1 + np.exp(-log_odds))
    return float(she), float(0.5 - she)


def row(base: Probabilities, source: Probabilities, patched: Probabilities, /, **labels: object) -> dict[str, object]:
    """One row of a trace; labels that are not given are those of a nurse's MLP output in layer 0."""
    filled: dict[str, object] = {
        "pair": 0,
        "group": "nurse",
        "template": TEMPLATES[0],
        "kind": "occupation",
        "stereotype": 1,
        "direction": "denoising",
        "sample": 0,
        "component": "mlp_out",
        "layer": 0,
        "unit": -1,
        "window": 1,
        "severed": "",
        "origin": "source",
        "role": "subject_last",
        "key": "",
        "name": "",
        "token": "Ġnurse",
        "clean_pos": 1,
    } | labels
    template = str(filled["template"])
    filled.setdefault("clean", template.format(subject=filled["group"]))
    filled.setdefault("corrupted", template.format(subject="man"))
    filled.setdefault("corrupted_pos", filled["clean_pos"])
    for run, (she, he) in {"base": base, "source": source, "patched": patched}.items():
        filled |= {f"{run}_female": np.log(she), f"{run}_male": np.log(he), f"{run}_neutral": np.nan}
    return filled


def both(
    clean: Probabilities, corrupted: Probabilities, denoised: Probabilities, noised: Probabilities, /, **labels: object
) -> list[dict[str, object]]:
    """The two rows of a patch: clean into corrupted gives `denoised`, corrupted into clean gives `noised`."""
    return [
        row(corrupted, clean, denoised, direction="denoising", **labels),
        row(clean, corrupted, noised, direction="noising", **labels),
    ]


def trace_of(rows: Iterable[dict[str, object]], **meta: object) -> Trace:
    """The trace of those rows; `meta` replaces entries of META."""
    table = tidy(pd.DataFrame(list(rows)))
    return Trace(table, META | {"rows": len(table)} | meta)


def steady(component: str, layer: int, role: str, group: int) -> float:
    """Effects that fall from layer to layer, differ a little from group to group, and are 0 before the subject."""
    size = {"resid_pre": 3.0, "attn_out": 1.0, "mlp_out": 2.0}.get(component, 0.5)
    return 0.0 if role == BEFORE else size / (1 + layer) * (1 + 0.02 * group) * (0.5 if role == "last" else 1.0)


def map_trace(
    effect: Effect = steady,
    *,
    components: Sequence[str] = ("resid_pre", "attn_out", "mlp_out"),
    layers: int = 3,
    roles: Sequence[str] = ROLES,
    groups: Sequence[str] = GROUPS,
    templates: Sequence[str] = TEMPLATES,
    **labels: object,
) -> Trace:
    """A map in which the indirect effect of denoising, in the stereotype view, is `effect`, and of noising, -effect.

    The groups are stereotyped female and male in turn; log-odds are 2 towards the stereotype in the clean run and 2
    against it in the corrupted one. `labels` go to every row.
    """
    rows = []
    for number, group in enumerate(groups):
        sign = 1 if number % 2 == 0 else -1
        for turn, template in enumerate(templates):
            for component in components:
                for layer in range(layers):
                    for position, role in enumerate(roles):
                        size = effect(component, layer, role, number)
                        rows += both(
                            odds(2.0 * sign),
                            odds(-2.0 * sign),
                            odds((size - 2.0) * sign),
                            odds((2.0 - size) * sign),
                            **{
                                "pair": number * len(templates) + turn,
                                "group": group,
                                "template": template,
                                "stereotype": sign,
                                "component": component,
                                "layer": layer,
                                "role": role,
                                "token": f"Ġ{role}",
                                "clean_pos": position,
                            }
                            | labels,
                        )
    return trace_of(rows, ledger=META["ledger"] | {"kept": len(groups) * len(templates)})
