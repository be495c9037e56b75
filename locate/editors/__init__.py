"""Editors: what was located is changed, and the change proved."""

from importlib import import_module
from types import ModuleType

ROOMS = ("control", "exports", "finetune", "fit", "methods", "receipt")
"""modules found as attributes without an import of their own"""


def __getattr__(name: str) -> ModuleType:
    if name in ROOMS:
        return import_module(f"locate.editors.{name}")
    raise AttributeError(f"module 'locate.editors' has no attribute {name!r}")
