"""The verbs of `locate-bias`. Heavy imports happen inside them, so that --help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from locate.cli.completion import COMPONENT_LIST, DIRECTION, ROLE_LIST, SEVERED_LIST
from locate.cli.ending import Shown
from locate.cli.options import (
    EFFECTS,
    EVIDENCE,
    MEASURING,
    OUTPUT,
    PATCHED,
    PRECISION,
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
    IntervalSeed,
    Jobs,
    Kind,
    Limit,
    MaxDropped,
    Metric,
    ModelName,
    PromptFile,
    Quantity,
    RayOption,
    Revision,
    RoleOption,
    Run,
    SwapOption,
    Template,
    TemplatesEach,
    Threads,
    TrustCode,
    View,
    Words,
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
from locate.cli.placing import DeviceMapOption, QuantiseOption, placing
from locate.cli.planning import plan_beside
from locate.cli.sharing import ShardOption, SlurmOption, executor_of, print_slurm, threads_of, workers_of
from locate.cli.tracing import Asked, ModelsOption, named_models, trace_models
from locate.errors import LocateError
from locate.sites import COMPONENTS, DIRECTIONS, ROLES


def trace(
    model: ModelName = "mini",
    models: ModelsOption = None,
    prompts: PromptFile = None,
    allow_different: AllowDifferent = False,
    words: WordsOption = None,
    swap: SwapOption = None,
    template: Template = None,
    templates_each: TemplatesEach = None,
    limit: Limit = None,
    max_dropped: MaxDropped = 0.2,
    components: Annotated[
        str,
        typer.Option(autocompletion=COMPONENT_LIST, rich_help_panel=PATCHED, help=", ".join(COMPONENTS)),
    ] = "resid_pre,attn_out,mlp_out",
    layers: Annotated[str | None, typer.Option(rich_help_panel=PATCHED, help="like 0-3,7; default: all")] = None,
    roles: Annotated[
        str | None,
        typer.Option(
            autocompletion=ROLE_LIST, rich_help_panel=PATCHED, help=f"tokens: {', '.join(ROLES)}; default: all"
        ),
    ] = None,
    windows: Annotated[
        str, typer.Option(rich_help_panel=PATCHED, help="numbers of neighbouring layers patched together, like 1,5")
    ] = "1",
    severed: Annotated[
        str | None,
        typer.Option(
            autocompletion=SEVERED_LIST,
            rich_help_panel=PATCHED,
            help="also patch with later outputs at that token held at the base run: attn_out, mlp_out, both",
        ),
    ] = None,
    keys: Annotated[
        str | None,
        typer.Option(
            autocompletion=ROLE_LIST,
            rich_help_panel=PATCHED,
            help="with pattern: roles attended to, one patch for each",
        ),
    ] = None,
    direction: Annotated[
        Direction, typer.Option(rich_help_panel=PATCHED, help="which way activations are copied")
    ] = Direction.both,
    corrupt: Annotated[
        Corrupt,
        typer.Option(
            rich_help_panel=PATCHED, help="the corrupted prompt: another subject, or noise on the subject's embeddings"
        ),
    ] = Corrupt.swap,
    sigmas: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=PATCHED, help="noise in standard deviations of the subjects' embeddings; default: 3"
        ),
    ] = None,
    draws: Annotated[
        int | None, typer.Option(rich_help_panel=PATCHED, help="draws of noise for each pair; default: 10")
    ] = None,
    metric: Metric = "logit_diff",
    kind: Kind = None,
    clusters: ClustersOption = Clusters.group,
    seed: Annotated[int, typer.Option(rich_help_panel=EFFECTS, help="seed of intervals, controls and noise")] = 0,
    controls: Annotated[
        bool,
        typer.Option(
            rich_help_panel=EVIDENCE,
            show_default=False,
            help="on by default: patch the strongest sites from other sources, words and weights too",
        ),
    ] = True,
    random_weights: Annotated[
        bool | None,
        typer.Option(
            rich_help_panel=EVIDENCE,
            help="trace the model with random weights as a control; default: up to 50 million parameters",
        ),
    ] = None,
    sets: Annotated[
        bool,
        typer.Option("--sets", rich_help_panel=EVIDENCE, help="also measure sets of sites: joint effects and circuits"),
    ] = False,
    budget: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MEASURING,
            help="a time like 90s, 5min or 1.5h, or a number of patched runs like 20000: estimate every site, "
            "patch the strongest",
        ),
    ] = None,
    budget_method: Annotated[
        BudgetMethod | None,
        typer.Option(
            rich_help_panel=MEASURING,
            metavar="<method>",
            help="how a budget estimates: integrated (default), or attribution, about five times as fast",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(rich_help_panel=MEASURING, help="prompts at once; default: what fits")
    ] = None,
    memory: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=MEASURING, help="memory beside the model, like 2GB; default: a share of what is free"
        ),
    ] = None,
    engine: Annotated[
        Engine,
        typer.Option(
            rich_help_panel=MEASURING,
            help="both are exact: sweep runs only what a patch changes, plain runs everything at full depth",
        ),
    ] = Engine.sweep,
    compare_precision: Annotated[
        bool,
        typer.Option(
            " /--no-compare-precision",
            rich_help_panel=PRECISION,
            show_default=False,
            help="below full fp32: do not measure a sample of rows there too, whose difference meta.json keeps",
        ),
    ] = True,
    probabilities: Annotated[
        bool,
        typer.Option(
            rich_help_panel=PRECISION,
            show_default=False,
            help="on by default; without, only the answers' logits: faster, and enough for logit_diff and odds_ratio",
        ),
    ] = True,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", rich_help_panel=MEASURING, help="only forecast rows, time and memory, from a short calibration"
        ),
    ] = False,
    jobs: Jobs = None,
    shard: ShardOption = None,
    ray: RayOption = None,
    slurm: SlurmOption = None,
    device: Device = None,
    device_map: DeviceMapOption = None,
    quantise: QuantiseOption = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="run folder; default: runs/MODEL-CORRUPT"),
    ] = None,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    formats: Formats = "html,png,svg,pdf",
    as_json: AsJson = False,
) -> None:
    """Measure where a model carries its bias; run the same command again to continue after a stop."""
    from locate.cli.show import print_forecast
    from locate.cli.steps import Steps
    from locate.cli.writing import count_figures

    several = None if models is None else named_models(models, model, dry_run=dry_run)
    folder = run_folder(output, model if several is None else "models", corrupt.value)
    if slurm is not None:
        runs = [folder] if several is None else [folder / each for each in several.values()]
        print_slurm(slurm, runs, threads, device, jobs, shard, ray)
        return
    wanted = format_list(formats)
    plan = parsed_map(components, layers, roles, windows, severed, keys)
    check_names(metric, list(plan.components), list(plan.roles or ()), layers_of, layers_at)
    check_noise(corrupt, sigmas, draws)
    check_budget(budget, budget_method, dry_run)
    count = threads_of(threads, jobs, shard, folder, ray)
    placed = placing(device_map, quantise, jobs, ray)
    chosen = chosen_prompts(prompts, words, swap, template, templates_each, limit, allow_different)
    check_trace(chosen, metric, kind, probabilities, seed)
    with Steps() as steps, executor_of(jobs, shard, ray, forecast=dry_run) as executor:
        steps.say("loading TransformerLens and the model")
        from locate.model.memory import parse_size
        from locate.study.forecast import foretell
        from locate.tracing.corrupt import Swap
        from locate.tracing.stage import Settings

        beside = plan_beside(budget, budget_method, seed, controls=controls, random_weights=random_weights, sets=sets)
        settings = Settings(
            Swap() if corrupt is Corrupt.swap else noise_of(sigmas, draws, seed),
            batch_size,
            None if memory is None else parse_size(memory),
            engine.value,
            compare_precision,
            probabilities,
            max_dropped,
        )
        reading: dict[str, Any] = {"revision": revision, "bos": bos.value, "chat": chat}
        reading |= {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code} | placed
        given = {"--revision": revision, "--allow-pickle": allow_pickle, "--trust-remote-code": trust_remote_code}
        ways = DIRECTIONS if direction is Direction.both else (direction.value,)
        shown = Shown(metric, kind, clusters.value, seed, layers_of, layers_at, wanted)
        more = sets + (budget is not None) + 4 * (words is Words.both)
        figures = count_figures(plan, len(ways), controls=controls, more=more)
        asked = Asked(
            chosen, plan, ways, beside, settings, device, dtype, count, reading, given, shown, figures,
            shared=shard is not None,
        )  # fmt: skip
        if dry_run:
            loaded = asked.load(model, executor, steps)
            steps.say("counting, and timing a few pairs")
            found = foretell(loaded, chosen, plan, directions=ways, plan=beside, settings=settings)
            print_forecast(found, workers_of(jobs, shard), as_json)
            return
        if several is not None:
            tell = trace_models(asked, several, folder, executor, steps)
        else:
            tell, _ = asked.run(model, folder, executor, steps)
    tell(as_json)


def selftest(
    models: Annotated[int, typer.Option(help="how many models to make, in GPT-2 and Llama layouts in turn")] = 4,
    seed: Annotated[int, typer.Option(help="seed of their depths, widths and planted places")] = 0,
    device: Device = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Make small models with a known bias path, trace them, and fail unless the path is found."""
    if models < 1:
        raise LocateError(f"--models {models}: expected a number of models >= 1")
    check_seed(seed)
    count = thread_count(threads)
    from locate.cli.show import print_findings
    from locate.cli.steps import Steps

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
    metric: Metric = "logit_diff",
    view: View = None,
    kind: Kind = None,
    quantity: Quantity = "nie",
    direction: Annotated[
        str | None,
        typer.Option(
            autocompletion=DIRECTION,
            rich_help_panel=EFFECTS,
            help="denoising or noising; default: the first that was traced",
        ),
    ] = None,
    clusters: ClustersOption = Clusters.group,
    seed: IntervalSeed = 0,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="file: also write a located.json there"),
    ] = None,
    layers_of: HandOff = None,
    layers_at: RoleOption = None,
    top: Annotated[int, typer.Option(rich_help_panel=OUTPUT, help="number of sites to list")] = 20,
    as_json: AsJson = False,
) -> None:
    """Rank the sites of a run again, without its model; the run folder is not changed."""
    check_seed(seed)
    from locate.cli.show import print_located
    from locate.mediation.analysis import analyse
    from locate.tracing import load_trace

    analysis = analyse(load_trace(run), metric=metric, view=view, kind=kind, clusters=clusters.value, seed=seed)
    located = analysis.rank(quantity=quantity, direction=direction, component=layers_of, role=layers_at, top=top)
    print_located(located, [] if output is None else [located.save(output)], as_json, analysis)


def plot(
    run: Run,
    metric: Metric = "logit_diff",
    kind: Kind = None,
    clusters: ClustersOption = Clusters.group,
    seed: IntervalSeed = 0,
    pair: Annotated[
        int | None, typer.Option(rich_help_panel=OUTPUT, help="draw the map of this one pair, and nothing else")
    ] = None,
    direction: Annotated[
        str | None,
        typer.Option(
            autocompletion=DIRECTION, rich_help_panel=OUTPUT, help="direction of that map: denoising or noising"
        ),
    ] = None,
    formats: Formats = "html,png,svg,pdf",
) -> None:
    """Draw the figures of a run again, without its model."""
    check_seed(seed)
    from locate.cli.show import print_paths
    from locate.cli.steps import Steps, Work
    from locate.cli.writing import FIGURES_EACH, drawing
    from locate.mediation.analysis import analyse
    from locate.report import draw_figures, save_figures
    from locate.report.pair import plot_pair
    from locate.tracing import load_trace

    wanted, found = format_list(formats), load_trace(run)
    analysis = analyse(found, metric=metric, kind=kind, clusters=clusters.value, seed=seed)
    with Steps() as steps:
        count = 1 if pair is not None else FIGURES_EACH * len(found.meta["directions"])
        steps.expect([Work("figures", drawing(count, wanted))])
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
    max_dropped: MaxDropped = 1.0,
    list_occupations: Annotated[
        bool, typer.Option("--list", rich_help_panel=OUTPUT, help="print the bundled occupations as CSV")
    ] = False,
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Show how a model's tokenizer reads the prompts: tokens, roles, and which pairs are dropped and why."""
    from locate.cli.show import print_tokens
    from locate.cli.steps import Steps
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
