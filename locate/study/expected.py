"""Which stages a run is likely to have, before its map says which sites they are about."""

from __future__ import annotations

from collections.abc import Sequence

from locate.errors import LocateError
from locate.mediation.ranking import EDITABLE
from locate.prompts.pair import Prompts
from locate.sites import LAST_SUBJECT, PATTERN, Site
from locate.study.budget import METHODS, Budget
from locate.study.budget import STAGE as ESTIMATING
from locate.study.controls import Controls, control_stages
from locate.study.plan import Plan
from locate.study.random_sets import LEAST_GROUPS, MOST_SITES, draw_sets, sets_stage
from locate.study.sets import Sets, greedy_stage, set_stages
from locate.tracing.cost import stage_operations
from locate.tracing.estimates import SiteEstimates
from locate.tracing.progress import Expected
from locate.tracing.stage import Job, Stage, prepare

RESIDUAL = "resid_pre"
TYPICAL = 5  # layers that are located, in models that were traced
SOME_UNITS = 16


def expected_stages(job: Job, plan: Plan) -> list[Expected]:
    """The stages of a run in their order, with about how many operations each will take.

    A stage that cannot be prepared is left out: when it comes, it says why.
    """
    expected = expected_map(job, plan.budget)
    for stage in likely_stages(job, plan):
        try:
            expected.append(Expected(stage.name, stage_operations(prepare(job.model, stage, job.settings))))
        except LocateError:
            continue
    return expected


def expected_map(job: Job, budget: Budget | None) -> list[Expected]:
    """The map itself; within a budget the estimates, and as much of the map as the time or number of passes allows."""
    whole = stage_operations(job)
    if budget is None:
        return [Expected(job.stage.name, whole)]
    estimates = Expected(ESTIMATING, SiteEstimates("signed", METHODS[budget.method]).operations(job))
    if budget.passes is None:
        return [estimates, Expected(job.stage.name, 0.0, within=budget.seconds)]
    return [estimates, Expected(job.stage.name, whole * min(1.0, budget.passes / job.planned))]


def likely_stages(job: Job, plan: Plan) -> list[Stage]:
    """The stages after the map, about sites that are usually strong: low MLPs, and high attention at the end.

    The map may choose others; these are as many, of the same components, spread over the layers in the same way.
    """
    sites = likely_sites(job)
    groups = len({pair.pair.group for pair in job.pairs})
    stages: list[Stage] = []
    if plan.controls is not None and sites:
        stages += likely_controls(job, plan.controls, sites)
        if groups >= LEAST_GROUPS:
            stages += likely_random_sets(job, plan.controls, sites)
    if plan.sets is not None and sites and groups >= LEAST_GROUPS:
        stages += likely_sets(job, plan.sets, sites)
    return stages


def likely_sites(job: Job) -> list[Site]:
    """Single sites of the map, those that are usually strongest first; no residuals and no patterns."""
    if job.map is None:
        return [
            patch.anchor
            for patch in job.stage.patches  # type: ignore[union-attr]
            if patch.anchor.component in EDITABLE and isinstance(patch.anchor.position, str)
        ]
    layers = job.map.layers_of(job.model.n_layers)
    here = {token.role for pair in job.pairs for token in pair.aligned}
    roles = [role for role in here if job.map.roles is None or role in job.map.roles]
    found = [
        Site(component, layer, role, unit)
        for component in job.map.components
        if component not in (RESIDUAL, PATTERN)
        for unit in some_units(job.model.units(component))
        for layer in layers
        for role in roles
    ]
    top = max(layers)

    def rank(site: Site) -> tuple[float, bool, str]:
        low = site.component in ("mlp_out", "neuron", "mlp_out_unit") and site.position == LAST_SUBJECT
        high = site.component in ("attn_out", "head") and site.position == "last"
        depth = site.layer if low else top - site.layer if high else top + abs(site.layer - top / 2)
        return depth, not low, str(site)  # low MLPs first: they are the set that random ones are compared with

    return sorted(found, key=rank)


def some_units(count: int | None) -> Sequence[int | None]:
    """Units of a component in a layer, or some where there are many; None for a component that is not split."""
    return [None] if count is None else range(min(count, SOME_UNITS))


def few(job: Job, pairs: int, half: bool = False) -> Prompts:
    """As many of a run's pairs as a stage takes, one of each group before a second; `half`: of half of the groups."""
    seen: dict[str, int] = {}
    turns = []
    for pair in job.stage.prompts.pairs:
        turns.append((seen.get(pair.group, 0), pair))
        seen[pair.group] = seen.get(pair.group, 0) + 1
    chosen = [pair for _, pair in sorted(turns, key=lambda turn: turn[0])]
    if half:
        groups = sorted(seen)[: max(1, len(seen) // 2)]
        chosen = [pair for pair in chosen if pair.group in groups]
    return Prompts(tuple(chosen[:pairs]))


def likely_controls(job: Job, wanted: Controls, sites: Sequence[Site]) -> list[Stage]:
    """The controls other than random sets."""
    components = () if job.map is None else job.map.components
    plan = control_stages(
        job.model, job.stage.prompts, few(job, wanted.pairs), sites[: wanted.sites], components, wanted,
        job.stage.directions,
    )  # fmt: skip
    stages = []
    for make in plan.values():
        try:
            stages.append(make())
        except LocateError:
            continue
    return stages


def likely_random_sets(job: Job, wanted: Controls, sites: Sequence[Site]) -> list[Stage]:
    """The located set against random ones: some layers of one component at one role, and others in these layers."""
    component, role = sites[0].component, sites[0].position
    chosen = [site for site in sites if (site.component, site.position) == (component, role)]
    chosen = chosen[: min(TYPICAL, MOST_SITES)]
    others = [[site for site in sites if site.layer == each.layer and site not in chosen] for each in chosen]
    if not all(others):
        return []
    sets, prompts = draw_sets(others, wanted.sets, wanted.seed), few(job, wanted.pairs, half=True)
    return [sets_stage(prompts, chosen, sets, job.stage.directions[0])]


def likely_sets(job: Job, wanted: Sets, sites: Sequence[Site]) -> list[Stage]:
    """The greedy search, and the sets that are reported."""
    nodes = {"mlp_out", "head" if "head" in {site.component for site in sites} else "attn_out"}
    ranked = [site for site in sites if site.component in nodes]
    if not ranked:
        return []
    prompts, pool = few(job, wanted.pairs, half=True), ranked[: wanted.pool]
    largest = min(wanted.largest, len(pool))
    search = [greedy_stage(prompts, pool[:size], pool[size:]) for size in range(largest)]
    return [*search, *set_stages(prompts, ranked, pool[:largest], wanted.largest)]
