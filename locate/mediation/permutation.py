"""p-values of a mean by flipping the signs of whole groups: enumerated, drawn, or counted."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

BLOCK = 1 << 22  # flipped sums held at once
COARSE = 0.05  # drawn p-values up to here are counted instead
STEPS = 2048  # of the scale on which sums are counted
TIES = 1e-5  # share of the scale within which two sums are one: effects are differences of float32's log-odds

Sums = Float[np.ndarray, "group cell"]
Cells = Float[np.ndarray, " cell"]


def sign_flip_p(sums: Sums, samples: int, seed: int) -> Cells:
    """Two-sided p of a cell's effect, if it is symmetric about 0 over groups: how often flipped signs reach its size.

    sums  of the effect over each group; 0 where a group has no pair of the cell

    Few groups: all patterns of signs are enumerated, and p is exact. More: `samples` random patterns are drawn, and
    the observed one counts as one more, so p is at least 1 / (samples + 1); where that says 0.05 or less, which is too
    coarse for a map of thousands of sites, the patterns are counted instead (`counted_p`). Either is valid: under
    symmetry p is at most x in at most a share x of all data. A cell that is 0 throughout has p = 1. Sums that
    differ by no more than `TIES` of the scale count as equal, which can only raise p.
    """
    if 2.0 ** (len(sums) - 1) <= samples:
        signs = all_signs(len(sums))
        return reached(signs, sums) / len(signs)
    signs = np.random.default_rng([seed, 1]).choice([-1.0, 1.0], size=(samples, len(sums)))
    p = (reached(signs, sums) + 1) / (samples + 1)
    counted: dict[bytes, float] = {}  # cells of one effect, as the total effect at every site, are counted once
    for cell in np.flatnonzero(p <= COARSE):
        key = sums[:, cell].tobytes()
        if key not in counted:
            counted[key] = counted_p(sums[:, cell])
        p[cell] = counted[key]
    return p


def smallest_p(groups: int) -> float:
    """The smallest p that so many groups allow: all of one sign, or all of the other."""
    return 2.0 ** (1 - groups)


def all_signs(groups: int) -> Float[np.ndarray, "pattern group"]:
    """Every pattern of signs in which the first group's is +, since flipping all signs changes no size."""
    patterns = np.arange(2 ** (groups - 1))[:, None] >> np.arange(groups - 1)
    return np.concatenate([np.ones((len(patterns), 1)), 1.0 - 2.0 * (patterns & 1)], axis=1)


def reached(signs: Float[np.ndarray, "pattern group"], sums: Sums) -> Cells:
    """How many patterns of signs give a sum at least as large as the observed, for each cell."""
    found = np.zeros(sums.shape[1])
    step = max(1, BLOCK // len(signs))
    for first in range(0, sums.shape[1], step):
        block = sums[:, first : first + step]
        least = np.abs(block.sum(0)) - TIES * np.abs(block).sum(0)
        found[first : first + step] = (np.abs(signs @ block) >= least).sum(0)
    return found


def counted_p(sums: Float[np.ndarray, " group"]) -> float:
    """p of one cell from the share of all 2^groups patterns of signs that reach its size; never below the exact share.

    A pattern's sum is the sum of sizes less twice what it flips; so the patterns that reach the observed size flip at
    most half of what is missing to the sum of sizes. Their share is built up group by group on a scale of STEPS, sizes
    rounded down, which can only raise it (the shift algorithm of Streitberg and Röhmel 1986).
    """
    sizes = np.abs(sums[sums != 0])
    most = (sizes.sum() - abs(float(sums.sum()))) / 2 + TIES * sizes.sum()
    steps = np.floor(sizes * (STEPS / most)) if most > 0 else np.zeros(0)
    within = steps[steps <= STEPS].astype(int)
    share = np.zeros(STEPS + 1)
    share[0] = 0.5 ** (len(steps) - len(within))
    for step in within:
        share *= 0.5
        share[step:] += share[: len(share) - step].copy()
    return min(1.0, 2 * float(share.sum()))
