"""Nan and infinite numbers end a run where a model's logits or states are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float

from locate.errors import LocateError

SHOWN = 60  # last characters of a text

Text = Callable[[int], str]
"""the text of a row, for the message"""


def check_finite(found: Float[torch.Tensor, "*place number"], what: str, after: str = "") -> None:
    """Check logits or states; a piece of the vocabulary that a model never writes may have minus infinity.

    what   whose they are: "logits of model 'mini'"
    after  the text after which they were read, for the message

    Raises LocateError where any is nan or plus infinity, or all of a place are minus infinity.
    """
    if torch.isfinite(sums_of(found)).all():  # one pass; what is masked is looked at below
        return
    wrong = torch.isnan(found).any(-1) | torch.isposinf(found).any(-1) | torch.isneginf(found).all(-1)
    if wrong.any():
        refuse_numbers(what, bool(torch.isnan(found).any()), after)


def sums_of(found: Float[torch.Tensor, "*place number"]) -> Float[torch.Tensor, "*place"]:
    """Sums over the last axis, nan or infinite where any number is; an overflow costs a second look."""
    return found.sum(-1, dtype=torch.promote_types(found.dtype, torch.float32))


def check_finite_rows(
    found: Float[torch.Tensor, "row pos number"], what: str, text: Text, lengths: Sequence[int] | None = None
) -> None:
    """Check each row, as `check_finite` does.

    lengths  of what stands before the padding of each row; None where there is none
    """
    if torch.isfinite(sums_of(found)).all():
        return
    for place, row in enumerate(found):
        check_finite(row if lengths is None else row[: lengths[place]], what, text(place))


def check_finite_answers(
    found: Float[np.ndarray, "row answer"], what: str, text: Text
) -> Float[np.ndarray, "row answer"]:
    """The log-probabilities or logits of answers, unchanged.

    Raises LocateError where any is nan or infinite.
    """
    wrong = ~np.isfinite(found).all(1)
    if wrong.any():
        place = int(wrong.argmax())
        refuse_numbers(what, bool(np.isnan(found[place]).any()), text(place))
    return found


def refuse_numbers(what: str, is_nan: bool, after: str) -> None:
    """Raise LocateError for nan or infinite numbers."""
    shown = after if len(after) <= SHOWN else f"...{after[-SHOWN:]}"
    where = f" after {shown!r}" if after else ""
    raise LocateError(
        f"the {what} are {'nan' if is_nan else 'infinite'}{where}: check its weights, or choose another --dtype "
        "(float16 overflows where bfloat16 and float32 do not)"
    )
