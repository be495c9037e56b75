"""Reports: what a run folder shows to people, derived from its trace without a model."""

from locate.report.write import FORMATS, draw_figures, save_figures, write_report

__all__ = ["FORMATS", "draw_figures", "save_figures", "write_report"]
