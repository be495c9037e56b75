"""Numbers that are none (nan, infinite) end a run where a model's logits or states are read."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from locate.errors import LocateError

SHOWN = 60  # characters of a text


def finite(found: Float[torch.Tensor, "*place number"], what: str, after: str = "") -> None:
    """Check logits or states; a piece of the vocabulary that a model never writes may have minus infinity.

    what   whose they are: "logits of model 'mini'"
    after  the text after which they were read, for the message

    Raises LocateError where any is nan or plus infinity, or all of a place are minus infinity.
    """
    if torch.isfinite(found.sum(-1, dtype=torch.float64)).all():  # one pass; what is masked is looked at below
        return
    wrong = torch.isnan(found).any(-1) | torch.isposinf(found).any(-1) | torch.isneginf(found).all(-1)
    if wrong.any():
        refuse(what, bool(torch.isnan(found).any()), after)


def finite_rows(found: Float[torch.Tensor, "row pos number"], lengths: Sequence[int], what: str) -> None:
    """Check what stands before the padding of each row, as `finite` does."""
    for row, length in zip(found, lengths, strict=True):
        finite(row[:length], what)


def finite_answers(found: Float[np.ndarray, "row answer"], what: str) -> Float[np.ndarray, "row answer"]:
    """Log-probabilities or logits of answers, as they are.

    Raises LocateError where any is nan or infinite.
    """
    if not np.isfinite(found).all():
        refuse(what, bool(np.isnan(found).any()), "")
    return found


def refuse(what: str, is_nan: bool, after: str) -> None:
    """Raise LocateError for numbers that are none."""
    where = f" after {after[:SHOWN]!r}" if after else ""
    raise LocateError(
        f"the {what} are {'nan' if is_nan else 'infinite'}{where}: check its weights, or choose another --dtype "
        "(float16 overflows where bfloat16 and float32 do not)"
    )
