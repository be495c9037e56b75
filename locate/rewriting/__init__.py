"""Rewriting biased text, after MBIAS (Raza et al. 2024): a rewriter is trained, run over a file, and judged.

It stands on `training` and on the hand-off of `editors`; its extra packages come with the extra `train`.
"""

from importlib import import_module
from typing import Any

HOME = {
    "Request": "locate.rewriting.request",
    "Rewriter": "locate.rewriting.train",
    "Server": "locate.rewriting.server",
    "judge_file": "locate.rewriting.verdict",
    "local_judge": "locate.rewriting.judge",
    "read_originals": "locate.rewriting.originals",
    "read_request": "locate.rewriting.train",
    "rewrite_file": "locate.rewriting.rewrite",
    "train_rewriter": "locate.rewriting.train",
}

__all__ = sorted(HOME)


def __getattr__(name: str) -> Any:
    if name in HOME:
        return getattr(import_module(HOME[name]), name)
    raise AttributeError(f"module 'locate.rewriting' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
