"""Least squares on the log-odds themselves: the cheapest change of several MLPs' output matrices, all at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from einops import einsum, rearrange, reduce, repeat
from jaxtyping import Float

from locate.editors.readings import BATCH, Reading, batch_of
from locate.model.beginnings import batches_alike, run_beginning, shared_tokens
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import precise
from locate.sites import LAST, LAST_SUBJECT

ROLES = (LAST_SUBJECT, LAST)
DOUBLE = 2.0  # how much longer a product takes in float64 than in float32
Factors = tuple[torch.Tensor, torch.Tensor]
"""two factors [d_model, site], [site, d_mlp] of a change of an output matrix; a site is a role of a prompt"""


@dataclass(frozen=True, eq=False)
class Slopes:
    """Log-odds after prompts, and their slopes in the outputs of MLPs at some of the tokens; float64.

    odds    log p(female) - log p(male), nats
    slopes  module: nats per unit of its output there; 0 where a token has two roles, at the second
    keys    module: its input there
    """

    odds: Float[torch.Tensor, " reading"]
    slopes: Mapping[str, Float[torch.Tensor, "reading role d_model"]]
    keys: Mapping[str, Float[torch.Tensor, "reading role d_mlp"]]

    def response(self, changes: Mapping[str, Factors]) -> Float[torch.Tensor, " reading"]:
        """By how much changes of the matrices move the log-odds, to first order: the sum of s Delta k, nats."""
        total = torch.zeros_like(self.odds)
        for name, (left, right) in changes.items():
            answered = self.slopes[name] @ (left @ right)
            total += einsum(answered, self.keys[name], "reading role d_mlp, reading role d_mlp -> reading")
        return total


def slopes_of(
    model: CausalModel,
    rows: Sequence[Reading],
    modules: Sequence[str],
    roles: Sequence[str],
    step: Step = ignore_step,
) -> Slopes:
    """Log-odds and slopes of readings, from one pass forwards and one back for all modules.

    What prompts begin with alike, before their subjects, is run once.
    """
    odds: dict[int, torch.Tensor] = {}
    slopes: dict[str, dict[int, torch.Tensor]] = {name: {} for name in modules}
    keys: dict[str, dict[int, torch.Tensor]] = {name: {} for name in modules}
    for places in batches_alike([row.ids for row in rows], BATCH):
        ids, subject, answers = batch_of(model, rows, places)
        shared = shared_tokens(ids, int(subject.min()))
        before, ids, subject = run_beginning(model, ids[:, :shared]), ids[:, shared:], subject - shared
        last = torch.full_like(subject, ids.shape[1] - 1)
        at = torch.stack([{LAST_SUBJECT: subject, LAST: last}[role] for role in roles], dim=1)
        first = torch.tensor([[row.tolist().index(each) == i for i, each in enumerate(row)] for row in at])
        with precise(model.dtype), ExitStack() as stack:
            felt = [stack.enter_context(adding_zeros(model.network, name, at)) for name in modules]
            said = last_logits(model, ids, past_key_values=before)[:, -1].gather(-1, answers).double()
            here = said[:, 0] - said[:, 1]
            found = torch.autograd.grad(here.sum(), [each["extra"] for each in felt])
        odds |= dict(zip(places, here.detach(), strict=True))
        counts = rearrange(first, "reading role -> reading role 1")
        for name, each, slope in zip(modules, felt, found, strict=True):
            slopes[name] |= dict(zip(places, slope.double() * counts.to(slope.device), strict=True))
            keys[name] |= dict(zip(places, each["keys"].double(), strict=True))
        step(len(odds), len(rows))
    return Slopes(
        stack_in_order(odds), *({name: stack_in_order(own) for name, own in of.items()} for of in (slopes, keys))
    )


def stack_in_order(by_place: Mapping[int, torch.Tensor]) -> torch.Tensor:
    """Rows in the order of their places."""
    return torch.stack([by_place[place] for place in range(len(by_place))])


@contextmanager
def adding_zeros(network: Any, name: str, at: torch.Tensor) -> Iterator[dict[str, torch.Tensor]]:
    """Inside the context zeros are added to a module's output at these tokens [row, role]; their gradient is the slope.

    Once the network has run, the dict that it yields holds "extra", these zeros, and "keys", the module's inputs there.
    """
    seen: dict[str, torch.Tensor] = {}
    rows = torch.arange(len(at), device=at.device)[:, None]

    def add(module: Any, args: tuple[torch.Tensor, ...], result: torch.Tensor) -> torch.Tensor:
        seen["keys"] = args[0].detach()[rows, at]
        seen["extra"] = torch.zeros_like(result[rows, at], requires_grad=True)
        return result.index_put((rows, at), seen["extra"], accumulate=True)

    hook = network.get_submodule(name).register_forward_hook(add)
    try:
        yield seen
    finally:
        hook.remove()


def solve_cheapest(
    here: Slopes,
    wanted: Float[torch.Tensor, " reading"],
    weights: Float[torch.Tensor, " reading"],
    moments: Mapping[str, Float[torch.Tensor, "d_mlp d_mlp"]],
    step: Step = ignore_step,
) -> dict[str, Factors]:
    """The changes Delta of the matrices that minimise sum w (wanted - sum s Delta k)^2 + sum tr(Delta C Delta^T).

    wanted   by how much each log-odds should change, nats
    weights  w, positive
    moments  module: lambda C, positive definite

    In LSDM's equation 12, values found beforehand stand in the place of `wanted`, and distances between vectors in
    that of nats. Here a change is fitted to its effect on the answer, in all matrices and at all roles together.
    The solution is Delta = sum_i a_i s_i k_i^T C^-1 with (G + 1/w) a = wanted, where
    G_ij = sum over matrices and roles of (s_i s_j) (k_i^T C^-1 k_j): a system of the size of the prompts, in float64.
    """
    roles = next(iter(here.slopes.values())).shape[1]
    by_site = "reading role width -> (reading role) width"
    slopes = {name: rearrange(each, by_site) for name, each in here.slopes.items()}
    gram = torch.diag(1 / weights)
    solved: dict[str, torch.Tensor] = {}
    for name, moment in moments.items():
        step(len(solved), len(moments))
        keys = rearrange(here.keys[name], by_site)
        solved[name] = torch.cholesky_solve(keys.T, torch.linalg.cholesky(moment)).T
        products = (slopes[name] @ slopes[name].T) * (solved[name] @ keys.T)
        gram = gram + reduce(
            products, "(reading role) (other other_role) -> reading other", "sum", role=roles, other_role=roles
        )
    step(len(solved), len(moments))
    shares = repeat(torch.linalg.solve(gram, wanted), "reading -> 1 (reading role)", role=roles)
    return {name: (slopes[name].T * shares, right) for name, right in solved.items()}


def solving_cost(network: Any, modules: Sequence[str], sites: int) -> float:
    """About how many tokens could be read while `solve_cheapest` multiplies the slopes and keys of so many sites."""
    widths = sum(sum(network.get_submodule(name).weight.shape) for name in modules)
    return DOUBLE * sites**2 * widths / sum(each.numel() for each in network.parameters())
