"""Plots under short names: `locate.plot.map(analysis)`; each calls a function of the report.

locate.plot.map(analysis), .layers, .heads, .pair, .occupations      maps and lines of average effects; one pair
locate.plot.severed(analysis), .direct, .attention, .units           paths, attention edges, single units
locate.plot.controls(analysis), .sets, .agreement                    the evidence of a run
locate.plot.selectivity(analysis), .regression                       stereotype against definition
locate.plot.changes(comparison), .evaluation(evaluation)             two models; scores, or their change
"""

from importlib import import_module
from typing import Any

HOME = {
    "agreement": ("locate.report.evidence", "plot_agreement"),
    "attention": ("locate.report.paths", "plot_attention"),
    "changes": ("locate.report.change_maps", "plot_changes"),
    "controls": ("locate.report.evidence", "plot_controls"),
    "direct": ("locate.report.paths", "plot_direct"),
    "evaluation": ("locate.report.evaluation", "plot_evaluation"),
    "heads": ("locate.report.figures", "plot_heads"),
    "layers": ("locate.report.figures", "plot_layers"),
    "map": ("locate.report.figures", "plot_map"),
    "occupations": ("locate.report.occupations", "plot_occupations"),
    "pair": ("locate.report.pair", "plot_pair"),
    "regression": ("locate.report.selectivity", "plot_regression"),
    "selectivity": ("locate.report.selectivity", "plot_selectivity"),
    "sets": ("locate.report.evidence", "plot_sets"),
    "severed": ("locate.report.paths", "plot_severed"),
    "units": ("locate.report.paths", "plot_units"),
}

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    if name in HOME:
        module, function = HOME[name]
        return getattr(import_module(module), function)
    raise AttributeError(f"module 'locate.plot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
