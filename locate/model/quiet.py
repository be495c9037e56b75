"""Keeps transformers quiet while locate shows its own progress."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Inside the block transformers shows no progress bars or reports; locate shows its own, and one-line errors."""
    from transformers.utils import logging

    shown, loud = logging.is_progress_bar_enabled(), logging.get_verbosity()
    others = getLogger("bitsandbytes")  # which PEFT imports where it is installed
    level = others.level
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    others.setLevel(ERROR)
    try:
        yield
    finally:
        others.setLevel(level)
        logging.set_verbosity(loud)
        if shown:
            logging.enable_progress_bar()
