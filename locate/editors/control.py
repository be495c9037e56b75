"""Controls of an edit: layers that were not located, and a change as large in random directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float

from locate.editors.edit import Edit, ParameterChange
from locate.errors import LocateError
from locate.mediation.located import Located


def random_layers(located: Located, count: int, *, seed: int = 0, exclude: Sequence[int] = ()) -> tuple[int, ...]:
    """Layers of the traced model that were not located, drawn without replacement, ascending.

    exclude  further layers not to draw

    Raises LocateError when fewer than `count` are left.
    """
    total = int(located.trace["model"]["n_layers"])
    left = [layer for layer in range(total) if layer not in {*located.layers, *exclude}]
    if not 1 <= count <= len(left):
        raise LocateError(
            f"{count} random layers: {len(left)} of {total} are neither located nor excluded: expected 1 to {len(left)}"
        )
    drawn = torch.randperm(len(left), generator=torch.Generator().manual_seed(seed))[:count]
    return tuple(sorted(left[place] for place in drawn.tolist()))


def shuffle_edit(edit: Edit, seed: int = 0) -> Edit:
    """The edit with every change turned to random directions: is its effect due to its direction, or to its size?

    Each change keeps its singular values, and so its Frobenius norm and rank; its singular vectors are drawn uniformly.

    Raises LocateError for an edit with stamps, whose effect is not linear in their matrices.
    """
    if edit.stamps:
        raise LocateError(
            f"an edit by {edit.method!r} has stamps, which cannot be turned at random: expected changes of matrices"
        )
    stream = torch.Generator().manual_seed(seed)
    changes = {name: turn_randomly(change, stream) for name, change in edit.changes.items()}
    report = edit.report | {"control": "random directions", "control_seed": seed}
    return replace(edit, method=f"{edit.method}-random", changes=changes, report=report)


def turn_randomly(change: ParameterChange, stream: torch.Generator) -> ParameterChange:
    """A change with equal singular values in random directions, stored like the original; vectors keep their norm."""
    first = change.factors[0]
    if first.ndim == 1:
        return ParameterChange((first.double().norm().cpu() * random_directions(len(first), 1, stream)[:, 0],))
    rows, columns = change.whole.shape
    sizes = singular_values(change)
    left = random_directions(rows, len(sizes), stream) * sizes
    right = random_directions(columns, len(sizes), stream).T
    return ParameterChange((left @ right,)) if len(change.factors) == 1 else ParameterChange((left, right))


def singular_values(change: ParameterChange) -> Float[torch.Tensor, " rank"]:
    """Singular values of the change of a matrix; a thin product is not multiplied out."""
    if len(change.factors) == 1:
        return torch.linalg.svdvals(change.whole.cpu())
    left, right = (factor.double().cpu() for factor in change.factors)
    return torch.linalg.svdvals(torch.linalg.qr(left).R @ torch.linalg.qr(right.T).R.T)


def random_directions(size: int, count: int, stream: torch.Generator) -> Float[torch.Tensor, "size count"]:
    """Orthonormal columns, uniform over all such, float64."""
    drawn = torch.randn(size, count, generator=stream, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(drawn)
    return basis * triangle.diagonal().sign()
