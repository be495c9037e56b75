"""One evaluation that judges bias and knowledge of any causal language model, before and after an edit."""

from importlib import import_module
from types import ModuleType

ROOMS = ("change", "evaluation", "run", "scores", "tests")
"""modules found as attributes without an import of their own"""


def __getattr__(name: str) -> ModuleType:
    if name in ROOMS:
        return import_module(f"locate.evaluation.{name}")
    raise AttributeError(f"module 'locate.evaluation' has no attribute {name!r}")
