"""Where in a language model does gender bias live? From prompts to traced, ranked and drawn sites.

    model = locate.load("mini")
    trace = locate.trace(model, locate.occupation_pairs())
    located = locate.rank(trace)

Names are loaded when they are first used: analysing a saved trace imports no torch.
"""

from importlib import import_module
from typing import Any

HOME = {
    "LocateError": "locate.errors",
    "Located": "locate.located",
    "Map": "locate.tracing.plan",
    "Model": "locate.models",
    "Noise": "locate.tracing.corrupt",
    "Pair": "locate.prompts",
    "Patch": "locate.sites",
    "Prompts": "locate.prompts",
    "Site": "locate.sites",
    "Swap": "locate.tracing.corrupt",
    "Trace": "locate.tracing",
    "Write": "locate.sites",
    "average": "locate.mediation",
    "definitional_pairs": "locate.prompts",
    "effects": "locate.mediation",
    "estimate": "locate.gradients",
    "gender_regression": "locate.mediation",
    "gender_scores": "locate.mediation",
    "forecast": "locate.tracing.forecast",
    "load": "locate.models",
    "load_located": "locate.located",
    "load_trace": "locate.tracing",
    "normalised": "locate.mediation",
    "occupation_pairs": "locate.prompts",
    "occupation_table": "locate.prompts",
    "pair_log_odds": "locate.mediation",
    "plot_heads": "locate.report.figures",
    "plot_map": "locate.report.figures",
    "plot_layers": "locate.report.figures",
    "plot_regression": "locate.report.selectivity",
    "plot_selectivity": "locate.report.selectivity",
    "plot_occupations": "locate.report.figures",
    "plot_pair": "locate.report.figures",
    "rank": "locate.located",
    "read_pairs": "locate.prompts",
    "selectivity": "locate.mediation",
    "stability": "locate.mediation",
    "trace": "locate.tracing.collect",
    "write_report": "locate.report",
}

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    if name not in HOME:
        raise AttributeError(f"module 'locate' has no attribute {name!r}")
    return getattr(import_module(HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
