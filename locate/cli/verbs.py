"""The verbs of `locate-bias`. Heavy imports happen inside them, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from locate.cli.options import (
    AllowDifferent,
    AllowPickle,
    AsJson,
    Bos,
    BosOption,
    BudgetMethod,
    Chat,
    Clusters,
    ClustersOption,
    Corrupt,
    Device,
    Direction,
    Dtype,
    Engine,
    Formats,
    HandOff,
    Kind,
    Limit,
    Metric,
    ModelName,
    PromptFile,
    Revision,
    RoleOption,
    Run,
    SwapOption,
    Template,
    TemplatesEach,
    Threads,
    TrustCode,
    WordsOption,
    check_budget,
    check_names,
    check_noise,
    check_seed,
    check_trace,
    chosen_prompts,
    format_list,
    noise_of,
    parsed_map,
    run_folder,
    thread_count,
)  # fmt: skip
from locate.errors import LocateError
from locate.sites import COMPONENTS, DIRECTIONS, ROLES


def trace(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="run folder; default: runs/MODEL-CORRUPT")
    ] = None,
    model: ModelName = "mini",
    prompts: PromptFile = None,
    allow_different: AllowDifferent = False,
    words: WordsOption = None,
    swap: SwapOption = None,
    template: Template = None,
    templates_each: TemplatesEach = None,
    limit: Limit = None,
    components: Annotated[str, typer.Option(help=", ".join(COMPONENTS))] = "resid_pre,attn_out,mlp_out",
    layers: Annotated[str | None, typer.Option(help="like 0-3,7; default: all")] = None,
    roles: Annotated[str | None, typer.Option(help=f"tokens to patch: {', '.join(ROLES)}; default: all")] = None,
    windows: Annotated[str, typer.Option(help="layers restored at once, like 1,5; 1 is a single layer")] = "1",
    severed: Annotated[str | None, typer.Option(help="freeze attn_out, mlp_out or both behind each patch")] = None,
    keys: Annotated[str | None, typer.Option(help="roles attended to, patched one by one in pattern")] = None,
    direction: Annotated[Direction, typer.Option(help="; ".join(DIRECTIONS) + "; both")] = Direction.both,
    corrupt: Annotated[
        Corrupt, typer.Option(help="another subject, or noise on the subject's embeddings")
    ] = Corrupt.swap,
    sigmas: Annotated[
        float | None, typer.Option(help="of noise, in deviations of subject embeddings; default: 3")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="noise draws per pair; default: 10")] = None,
    seed: Annotated[int, typer.Option(help="of noise and of intervals")] = 0,
    metric: Metric = "logit_diff",
    kind: Kind = None,
    clusters: ClustersOption = Clusters.group,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    formats: Formats = "html,png,svg,pdf",
    max_dropped: Annotated[float, typer.Option(help="largest share of pairs a tokenizer may make unusable")] = 0.2,
    batch_size: Annotated[int | None, typer.Option(help="prompts at once; default: what fits")] = None,
    memory: Annotated[
        str | None, typer.Option(help="besides the model, like 2GB; default: a share of what is free")
    ] = None,
    engine: Annotated[
        Engine, typer.Option(help="sweep: each row from where it begins to differ; plain: at full depth; both exact")
    ] = Engine.sweep,
    compare_precision: Annotated[
        bool, typer.Option(help="in reduced precision: measure a sample of rows in fp32 too, for meta.json")
    ] = True,
    probabilities: Annotated[
        bool, typer.Option(help="without: answers' logits only; faster, and enough for logit_diff and odds_ratio")
    ] = True,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    budget: Annotated[
        str | None,
        typer.Option(help="like 90s, 5min, or 20000 patched passes: estimate all sites, patch the strongest"),
    ] = None,
    budget_method: Annotated[
        BudgetMethod | None,
        typer.Option(
            help="of the estimates: integrated, or attribution, about five times as fast; default: integrated"
        ),
    ] = None,
    controls: Annotated[bool, typer.Option(help="of the strongest sites: other sources, words and weights")] = True,
    random_weights: Annotated[
        bool | None, typer.Option(help="among the controls; default: for models of up to 50 million parameters")
    ] = None,
    sets: Annotated[bool, typer.Option("--sets", help="also measure sets of sites: joint effects, circuits")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what it would cost, from a short calibration")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Trace a model: from prompts to effects, figures and located.json in a run folder."""
    from locate.cli.show import Steps, print_forecast, print_report
    from locate.report import write_report

    wanted, count = format_list(formats), thread_count(threads)
    plan = parsed_map(components, layers, roles, windows, severed, keys)
    check_names(metric, list(plan.components), list(plan.roles or ()), layers_of, layers_at)
    check_noise(corrupt, sigmas, draws)
    check_budget(budget, budget_method, dry_run)
    folder = run_folder(output, model, corrupt.value)
    chosen = chosen_prompts(prompts, words, swap, template, templates_each, limit, allow_different)
    check_trace(chosen, metric, kind, probabilities, seed)
    with Steps() as steps:
        steps.say("loading TransformerLens and the model")
        from locate.model.loading import load
        from locate.model.memory import parsed
        from locate.study import trace as study
        from locate.study.budget import Budget
        from locate.study.controls import Controls
        from locate.study.sets import Sets
        from locate.tracing.corrupt import Swap

        limited = (
            None
            if budget is None
            else Budget.parsed(budget, seed=seed, method=(budget_method or BudgetMethod.integrated).value)
        )
        watched = Controls(random_weights=random_weights, seed=seed) if controls else None
        reading: dict[str, Any] = {"revision": revision, "bos": bos.value, "chat": chat}
        reading |= {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        loaded = load(model, device=device, dtype=dtype, threads=count, **reading)
        steps.notes(loaded.notes)
        settings: dict[str, Any] = {
            "directions": DIRECTIONS if direction is Direction.both else (direction.value,),
            "corruption": Swap() if corrupt is Corrupt.swap else noise_of(sigmas, draws, seed),
            "batch_size": batch_size,
            "memory": None if memory is None else parsed(memory),
            "engine": engine.value,
            "compare_precision": compare_precision,
            "probabilities": probabilities,
            "max_dropped": max_dropped,
        }
        if dry_run:
            steps.say("counting, and timing a few pairs")
            print_forecast(study.foretold(loaded, chosen, plan, watched, **settings), as_json)
            return
        result = study.trace(
            loaded,
            chosen,
            plan,
            **settings,
            budget=limited,
            controls=watched,
            sets=Sets(seed=seed) if sets else None,
            output=folder,
            progress=steps.rows,
            say=steps.say,
        )
        report = write_report(
            result,
            folder,
            metric=metric,
            kind=kind,
            component=layers_of,
            role=layers_at,
            formats=wanted,
            clusters=clusters.value,
            seed=seed,
            step=steps.say,
        )
    print_report(result, report, as_json)


def selftest(
    models: Annotated[int, typer.Option(help="how many; GPT-2 and Llama layouts in turn")] = 4,
    seed: Annotated[int, typer.Option(help="of their depths, widths and places")] = 0,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Make small models whose bias path is known, trace them, and say whether it was found where it is."""
    if models < 1:
        raise LocateError(f"--models {models}: expected a number of models >= 1")
    check_seed(seed)
    count = thread_count(threads)
    from locate.cli.show import Steps, print_findings

    with Steps() as steps:
        steps.say("loading TransformerLens")
        from locate.planted import selftest as run_selftest

        findings = []
        for finding in run_selftest(models, seed=seed, device=device, threads=count):
            findings.append(finding)
            steps.say(f"{len(findings)} of {models} models traced")
    print_findings(findings, as_json)
    failed = sum(not each.passed for each in findings)
    if failed:
        raise LocateError(
            f"the planted bias was not found in {failed} of {models} models: do not trust this installation"
        )


def rank(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="also write a located.json there")] = None,
    metric: Metric = "logit_diff",
    clusters: ClustersOption = Clusters.group,
    view: Annotated[str | None, typer.Option(help="stereotype, or signed (female minus male)")] = None,
    kind: Kind = None,
    quantity: Annotated[str, typer.Option(help="nie, nde or total")] = "nie",
    direction: Annotated[str | None, typer.Option(help="denoising or noising; default: the first traced")] = None,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    top: Annotated[int, typer.Option(help="sites to list")] = 20,
    seed: Annotated[int, typer.Option(help="of intervals")] = 0,
    as_json: AsJson = False,
) -> None:
    """Rank the sites of a run again, without the model; the run folder stays as it is."""
    check_seed(seed)
    from locate.cli.show import print_located
    from locate.mediation.analysis import rank as rank_sites
    from locate.tracing import load_trace

    located = rank_sites(
        load_trace(run),
        metric=metric,
        view=view,
        kind=kind,
        quantity=quantity,
        direction=direction,
        component=layers_of,
        role=layers_at,
        top=top,
        clusters=clusters.value,
        seed=seed,
    )
    print_located(located, [] if output is None else [located.save(output)], as_json)


def plot(
    run: Run,
    metric: Metric = "logit_diff",
    clusters: ClustersOption = Clusters.group,
    kind: Kind = None,
    formats: Formats = "html,png,svg,pdf",
    pair: Annotated[int | None, typer.Option(help="draw this pair's own map instead of everything")] = None,
    direction: Annotated[str | None, typer.Option(help="of --pair: denoising or noising")] = None,
    seed: Annotated[int, typer.Option(help="of intervals")] = 0,
) -> None:
    """Draw the figures of a run again, without the model."""
    check_seed(seed)
    from locate.cli.show import Steps, print_paths
    from locate.mediation.analysis import analyse
    from locate.report import draw_figures, save_figures
    from locate.report.figures import plot_pair
    from locate.tracing import load_trace

    wanted, found = format_list(formats), load_trace(run)
    analysis = analyse(found, metric=metric, kind=kind, clusters=clusters.value, seed=seed)
    with Steps() as steps:
        steps.say("figures")
        if pair is None:
            paths, missing = draw_figures(analysis, run, formats=wanted)
        else:
            way = str(found.meta["directions"][0]) if direction is None else direction
            figure = plot_pair(analysis, pair, direction=way)
            paths, missing = save_figures({f"pair_{pair}_{way}": figure}, run / "figures", wanted)
    print_paths(paths, missing)


def prompts(
    model: ModelName = "mini",
    prompts: PromptFile = None,
    allow_different: AllowDifferent = False,
    words: WordsOption = None,
    swap: SwapOption = None,
    template: Template = None,
    templates_each: TemplatesEach = None,
    limit: Limit = 10,
    max_dropped: Annotated[float, typer.Option(help="largest share of pairs a tokenizer may make unusable")] = 1.0,
    list_occupations: Annotated[bool, typer.Option("--list", help="print the package's occupations as CSV")] = False,
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Show how a model's tokenizer sees the prompts: tokens, roles, and what is dropped and why."""
    from locate.cli.show import Steps, print_tokens
    from locate.prompts import occupation_table, tokenise

    if list_occupations:
        typer.echo(occupation_table().to_csv(index=False), nl=False)
        return
    chosen = chosen_prompts(prompts, words, swap, template, templates_each, limit, allow_different)
    with Steps() as steps:
        steps.say("loading TransformerLens and the tokenizer")
        from locate.model.loading import load_encoder

        reader, context = load_encoder(
            model, revision=revision, bos=bos.value, chat=chat, trust_remote_code=trust_remote_code
        )
        steps.notes(reader.notes)
        pairs, ledger = tokenise(chosen, reader.encode, max_dropped=max_dropped, context=context)
    print_tokens(pairs, ledger, reader.tokenizer.convert_ids_to_tokens, as_json)
