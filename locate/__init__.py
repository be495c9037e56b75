"""Where in a language model does gender bias live? From prompts to traced, ranked and drawn sites.

    model = locate.load("mini")
    trace = locate.trace(model, locate.occupation_pairs())
    located = locate.rank(trace)

Names are loaded when they are first used: analysing a saved trace imports no torch.
"""

from importlib import import_module
from typing import Any

HOME = {
    "Agreement": "locate.mediation.agreement",
    "Budget": "locate.study.budget",
    "Comparison": "locate.mediation",
    "Controls": "locate.study.controls",
    "Edit": "locate.editors.edit",
    "Evaluation": "locate.evaluation.evaluation",
    "EvaluationChange": "locate.evaluation.change",
    "FAST": "locate.editors.fast",
    "LSDM": "locate.editors.lsdm",
    "LocateError": "locate.errors",
    "Located": "locate.mediation.located",
    "Map": "locate.tracing.plan",
    "Model": "locate.model.hooked",
    "Noise": "locate.tracing.corrupt",
    "Pair": "locate.prompts",
    "Patch": "locate.sites",
    "Prompts": "locate.prompts",
    "Sets": "locate.study.sets",
    "Site": "locate.sites",
    "Swap": "locate.tracing.corrupt",
    "Trace": "locate.tracing",
    "Values": "locate.editors.values",
    "Write": "locate.sites",
    "agreement": "locate.mediation.agreement",
    "areas": "locate.mediation.sets",
    "average": "locate.mediation",
    "changes": "locate.mediation",
    "compare": "locate.mediation",
    "compare_evaluations": "locate.evaluation.change",
    "control_table": "locate.mediation.controls",
    "definitional_pairs": "locate.prompts",
    "edit": "locate.editors.methods",
    "effects": "locate.mediation",
    "estimate": "locate.study.estimate",
    "fitting_prompts": "locate.editors.fit",
    "forecast": "locate.study.forecast",
    "gender_regression": "locate.mediation",
    "gender_scores": "locate.mediation",
    "load": "locate.model.loading",
    "load_causal": "locate.model.causal",
    "load_comparison": "locate.mediation",
    "load_edit": "locate.editors.edit",
    "load_evaluation": "locate.evaluation.evaluation",
    "load_located": "locate.mediation.located",
    "load_stamped": "locate.model.causal",
    "load_trace": "locate.tracing",
    "neutral_pairs": "locate.prompts",
    "next_log_probs": "locate.model.likelihood",
    "normalised": "locate.mediation",
    "occupation_pairs": "locate.prompts",
    "occupation_table": "locate.prompts",
    "pair_log_odds": "locate.mediation",
    "person_pairs": "locate.prompts",
    "plot_agreement": "locate.report.evidence",
    "plot_attention": "locate.report.paths",
    "plot_changes": "locate.report.change_maps",
    "plot_controls": "locate.report.evidence",
    "plot_direct": "locate.report.paths",
    "plot_direct_heads": "locate.report.paths",
    "plot_evaluation": "locate.report.evaluation",
    "plot_evaluation_change": "locate.report.evaluation",
    "plot_head_changes": "locate.report.change_maps",
    "plot_heads": "locate.report.figures",
    "plot_layers": "locate.report.figures",
    "plot_map": "locate.report.figures",
    "plot_occupations": "locate.report.figures",
    "plot_pair": "locate.report.figures",
    "plot_regression": "locate.report.selectivity",
    "plot_selectivity": "locate.report.selectivity",
    "plot_sets": "locate.report.evidence",
    "plot_severed": "locate.report.paths",
    "plot_units": "locate.report.paths",
    "preserved_pairs": "locate.prompts",
    "rank": "locate.mediation.located",
    "read_pairs": "locate.prompts",
    "save_edited": "locate.editors.receipt",
    "selectivity": "locate.mediation",
    "set_table": "locate.mediation.sets",
    "set_test": "locate.mediation.controls",
    "stability": "locate.mediation",
    "trace": "locate.study.trace",
    "write_comparison": "locate.report.change_maps",
    "write_report": "locate.report",
}

ROOMS = ("datasets", "editors", "evaluation")
"""packages whose modules README names, found as attributes without an import of their own"""

__all__ = sorted({*HOME, *ROOMS})


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(import_module(HOME[name]), name)
    if name in ROOMS:
        return import_module(f"locate.{name}")
    raise AttributeError(f"module 'locate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
