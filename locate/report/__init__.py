"""Reports: what a run folder shows to people, derived from its trace without a model."""

from locate.report.write import FORMATS, save_figures, write_report

__all__ = ["FORMATS", "save_figures", "write_report"]
