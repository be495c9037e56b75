"""Where in a language model does gender bias live? From prompts to traced, ranked and drawn sites.

    model = locate.load("mini")
    trace = locate.trace(model, locate.occupation_pairs())
    analysis = locate.analyse(trace)
    located = analysis.located
    locate.plot.map(analysis)

Names are loaded when they are first used: analysing a saved trace imports no torch. Import any other name from its own
module, as in `from locate.mediation.averages import average`.
"""

from importlib import import_module
from typing import Any

HOME = {
    "Analysis": "locate.mediation.analysis",
    "Budget": "locate.study.budget",
    "Controls": "locate.study.controls",
    "DPO": "locate.editors.dpo",
    "FAST": "locate.editors.fast",
    "LSDM": "locate.editors.lsdm",
    "LocateError": "locate.errors",
    "Located": "locate.mediation.located",
    "Map": "locate.tracing.plan",
    "Noise": "locate.tracing.corrupt",
    "Pair": "locate.prompts",
    "Patch": "locate.sites",
    "Prompts": "locate.prompts",
    "SFT": "locate.editors.dpo",
    "Sets": "locate.study.sets",
    "Site": "locate.sites",
    "Swap": "locate.tracing.corrupt",
    "Trace": "locate.tracing",
    "analyse": "locate.mediation.analysis",
    "compare": "locate.evaluation.either",
    "edit": "locate.editors.methods",
    "estimate": "locate.study.estimate",
    "explore": "locate.explorer.opening",
    "evaluate": "locate.evaluation.run",
    "load": "locate.model.loading",
    "load_causal": "locate.model.causal",
    "load_located": "locate.mediation.located",
    "load_trace": "locate.tracing",
    "occupation_pairs": "locate.prompts",
    "rank": "locate.mediation.analysis",
    "read_pairs": "locate.prompts",
    "save_edited": "locate.editors.receipt",
    "trace": "locate.study.trace",
}

__all__ = sorted([*HOME, "plot"])


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(import_module(HOME[name]), name)
    if name == "plot":
        return import_module("locate.plot")
    raise AttributeError(f"module 'locate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
