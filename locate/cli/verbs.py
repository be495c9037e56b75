"""The verbs of `locate-bias`. Heavy imports happen inside them, so that --help is instant."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.errors import LocateError
from locate.sites import COMPONENTS, DIRECTIONS, ROLES

if TYPE_CHECKING:
    from locate.prompts import Prompts
    from locate.tracing.plan import Map

app = typer.Typer(
    help="Where in a language model does gender bias live? Trace it, rank it, draw it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


class SwapFor(StrEnum):
    """Who takes the subject's place in the corrupted prompt."""

    anti = "anti"
    same = "same"
    opposite = "opposite"
    neutral = "neutral"
    someone = "someone"


class Corrupt(StrEnum):
    """How a prompt is corrupted."""

    swap = "swap"
    noise = "noise"


class Engine(StrEnum):
    """How patched runs are executed."""

    sweep = "sweep"
    plain = "plain"


class Direction(StrEnum):
    """Which way activations are copied."""

    denoising = "denoising"
    noising = "noising"
    both = "both"


class Words(StrEnum):
    """Which of the package's subjects are traced."""

    occupations = "occupations"
    definitional = "definitional"
    both = "both"


ModelName = Annotated[str, typer.Option("--model", "-m", help="'mini' (bundled), a folder, or a Hugging Face id")]
Revision = Annotated[str | None, typer.Option(help="branch, tag or commit of a Hugging Face id")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; default: cuda where there is one")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16, float16, float64; tf32 on a GPU")]
AllowPickle = Annotated[bool, typer.Option("--allow-pickle", help="also read weights that are not safetensors")]
TrustCode = Annotated[bool, typer.Option("--trust-remote-code", help="run the model's own Python code")]
PromptFile = Annotated[
    Path | None, typer.Option("--prompts", "-p", help="CSV or JSONL of pairs; default: the package's")
]
SWAP_HELP = (
    "anti: woman/man against the stereotype; same: with it; opposite: an occupation of the other; neutral: person; "
    "someone: without the article"
)
SwapOption = Annotated[SwapFor | None, typer.Option(help=SWAP_HELP)]
WordsOption = Annotated[Words | None, typer.Option(help="the package's occupations, words that say their gender, both")]
Kind = Annotated[str | None, typer.Option(help="of pairs: occupation, definition, user, all; default: occupation")]
Template = Annotated[list[str] | None, typer.Option("--template", help="own template with {subject}; repeatable")]
TemplatesEach = Annotated[int | None, typer.Option(help="templates for each subject; default: 4, or all own ones")]
Limit = Annotated[int | None, typer.Option(help="only the first N pairs, of either kind of words")]
Metric = Annotated[str, typer.Option(help="logit_diff, prob_diff, prob_stereotypical or odds_ratio")]
Formats = Annotated[str, typer.Option(help="of figures, separated by commas: html, png, svg, pdf")]
HandOff = Annotated[
    str | None, typer.Option("--layers-of", help="component whose layers go to editors; default: mlp_out")
]
RoleOption = Annotated[
    str | None, typer.Option("--layers-at", help="role where they are read off; default: subject_last")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON on stdout, for programs")]
Run = Annotated[Path, typer.Argument(help="run folder that `locate-bias trace` has written")]


def show_version(wanted: bool | None) -> None:
    """Print the version and stop."""
    if wanted:
        from locate.schema import locate_version

        typer.echo(f"locate-bias {locate_version()}")
        raise typer.Exit


@app.callback()
def top(
    version: Annotated[
        bool | None, typer.Option("--version", callback=show_version, is_eager=True, help="print it")
    ] = None,
) -> None:
    """Where in a language model does gender bias live? Trace it, rank it, draw it."""


@app.command(short_help="prompts to figures and located.json")
def trace(
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="run folder; default: runs/MODEL-CORRUPT")
    ] = None,
    model: ModelName = "mini",
    prompts: PromptFile = None,
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
    dtype: Dtype = "float32",
    revision: Revision = None,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only say what it would cost, from a short calibration")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Trace a model: from prompts to effects, figures and located.json in a run folder."""
    from locate.cli.show import Steps, print_forecast, print_report
    from locate.metrics import metric_named
    from locate.report import write_report

    wanted = format_list(formats)
    check_names(metric, split(components), split(roles or ""), layers_of, layers_at)
    if corrupt is Corrupt.swap and (sigmas is not None or draws is not None):
        raise LocateError("--sigmas and --draws describe noise: add --corrupt noise, or leave them out")
    if metric_named(metric).absolute and not probabilities:
        raise LocateError(f"--metric {metric} needs probabilities: leave out --no-probabilities")
    if seed < 0:
        raise LocateError(f"--seed {seed}: expected a whole number from 0 up")
    folder = output or Path("runs") / f"{Path(model).name}-{corrupt.value}"
    chosen = chosen_prompts(prompts, words, swap, template, templates_each, limit)
    if len({pair.group for pair in chosen}) < 2:
        raise LocateError(
            f"{len(chosen)} pairs of 1 group: expected at least 2 groups for intervals: give more prompts"
        )
    if metric_named(metric).stereotyped and not any(pair.stereotype for pair in chosen):
        raise LocateError(f"--metric {metric} needs a stereotype of -1 or 1 in the prompts, and none has one")
    plan = parsed_map(components, layers, roles, windows, severed, keys)
    with Steps() as steps:
        steps.say("loading TransformerLens and the model")
        from locate.memory import parsed
        from locate.models import load
        from locate.tracing.collect import trace as run_trace
        from locate.tracing.corrupt import Noise, Swap
        from locate.tracing.forecast import forecast

        corruption = Swap() if corrupt is Corrupt.swap else Noise(sigmas or 3.0, draws or 10, seed)
        loaded = load(
            model,
            device=device,
            dtype=dtype,
            revision=revision,
            allow_pickle=allow_pickle,
            trust_remote_code=trust_remote_code,
        )
        settings: dict[str, Any] = {
            "directions": DIRECTIONS if direction is Direction.both else (direction.value,),
            "corruption": corruption,
            "batch_size": batch_size,
            "memory": None if memory is None else parsed(memory),
            "engine": engine.value,
            "compare_precision": compare_precision,
            "probabilities": probabilities,
            "max_dropped": max_dropped,
        }
        if dry_run:
            steps.say("counting, and timing a few pairs")
            print_forecast(forecast(loaded, chosen, plan, **settings), as_json)
            return
        result = run_trace(loaded, chosen, plan, **settings, output=folder, progress=steps.rows)
        report = write_report(
            result,
            folder,
            metric=metric,
            component=layers_of,
            role=layers_at,
            formats=wanted,
            seed=seed,
            step=steps.say,
        )
    print_report(result, report, as_json)


@app.command(short_help="find a planted bias in made models")
def selftest(
    models: Annotated[int, typer.Option(help="how many; GPT-2 and Llama layouts in turn")] = 4,
    seed: Annotated[int, typer.Option(help="of their depths, widths and places")] = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Make small models whose bias path is known, trace them, and say whether it was found where it is."""
    if models < 1:
        raise LocateError(f"--models {models}: expected a number of models >= 1")
    if seed < 0:
        raise LocateError(f"--seed {seed}: expected a whole number from 0 up")
    from locate.cli.show import Steps, print_findings

    with Steps() as steps:
        steps.say("loading TransformerLens")
        from locate.planted import selftest as run_selftest

        findings = []
        for finding in run_selftest(models, seed=seed, device=device):
            findings.append(finding)
            steps.say(f"{len(findings)} of {models} models traced")
    print_findings(findings, as_json)
    failed = sum(not each.passed for each in findings)
    if failed:
        raise LocateError(
            f"the planted bias was not found in {failed} of {models} models: do not trust this installation"
        )


@app.command(short_help="rank the sites of a run again")
def rank(
    run: Run,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="also write a located.json there")] = None,
    metric: Metric = "logit_diff",
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
    from locate.cli.show import print_located
    from locate.located import rank as rank_sites
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
        seed=seed,
    )
    print_located(located, [] if output is None else [located.save(output)], as_json)


@app.command(short_help="draw the figures of a run again")
def plot(
    run: Run,
    metric: Metric = "logit_diff",
    kind: Kind = None,
    formats: Formats = "html,png,svg,pdf",
    pair: Annotated[int | None, typer.Option(help="draw this pair's own map instead of everything")] = None,
    direction: Annotated[str | None, typer.Option(help="of --pair: denoising or noising")] = None,
    seed: Annotated[int, typer.Option(help="of intervals")] = 0,
) -> None:
    """Draw the figures of a run again, without the model."""
    from locate.cli.show import Steps, print_paths
    from locate.mediation import default_view, effects
    from locate.report import draw_figures, save_figures
    from locate.report.figures import plot_pair
    from locate.tracing import load_trace

    wanted, found = format_list(formats), load_trace(run)
    with Steps() as steps:
        steps.say("figures")
        if pair is None:
            paths, missing = draw_figures(found, run, metric=metric, kind=kind, formats=wanted, seed=seed)
        else:
            way = direction or str(found.meta["directions"][0])
            figure = plot_pair(effects(found, metric, view=default_view(found), kind=kind), pair, direction=way)
            paths, missing = save_figures({f"pair_{pair}_{way}": figure}, run / "figures", wanted)
    print_paths(paths, missing)


@app.command(short_help="show tokens with their roles")
def prompts(
    model: ModelName = "mini",
    prompts: PromptFile = None,
    words: WordsOption = None,
    swap: SwapOption = None,
    template: Template = None,
    templates_each: TemplatesEach = None,
    limit: Limit = 10,
    max_dropped: Annotated[float, typer.Option(help="largest share of pairs a tokenizer may make unusable")] = 1.0,
    list_occupations: Annotated[bool, typer.Option("--list", help="print the package's occupations as CSV")] = False,
    revision: Revision = None,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Show how a model's tokenizer sees the prompts: tokens, roles, and what is dropped and why."""
    from locate.cli.show import Steps, print_tokens
    from locate.prompts import occupation_table, tokenise

    if list_occupations:
        typer.echo(occupation_table().to_csv(index=False), nl=False)
        return
    chosen = chosen_prompts(prompts, words, swap, template, templates_each, limit)
    with Steps() as steps:
        steps.say("loading TransformerLens and the tokenizer")
        from locate.models import load_encoder

        reader = load_encoder(model, revision=revision, trust_remote_code=trust_remote_code)
        pairs, ledger = tokenise(chosen, reader.encode, max_dropped=max_dropped)
    print_tokens(pairs, ledger, reader.tokenizer.convert_ids_to_tokens, as_json)


def chosen_prompts(
    file: Path | None,
    words: Words | None,
    swap: SwapFor | None,
    template: list[str] | None,
    templates_each: int | None,
    limit: int | None,
) -> Prompts:
    """The prompts that the options describe."""
    from locate.prompts import definitional_pairs, occupation_pairs, read_pairs

    if file is not None:
        if template or templates_each is not None or words or swap:
            raise LocateError(
                f"--prompts {file} brings whole prompts: leave --words, --swap, --template and --templates-each out"
            )
        return read_pairs(file).first(limit)
    if words is Words.definitional:
        if swap:
            raise LocateError(f"--swap {swap.value}: definitional words have one counterpart each: leave --swap out")
        return definitional_pairs(templates=template, templates_each=templates_each).first(limit)
    found = occupation_pairs((swap or SwapFor.anti).value, templates=template, templates_each=templates_each)
    if words is Words.both:
        return found.first(limit) + definitional_pairs(templates=template, templates_each=templates_each).first(limit)
    return found.first(limit)


def parsed_map(
    components: str, layers: str | None, roles: str | None, windows: str, severed: str | None, keys: str | None
) -> Map:
    """The map that the options describe."""
    from locate.tracing.plan import Map

    return Map(
        components=tuple(split(components)),
        layers=None if layers is None else tuple(ranges("--layers", layers)),
        roles=None if roles is None else tuple(split(roles)),
        windows=tuple(ranges("--windows", windows)),
        severed=tuple(split(severed or "")),
        keys=None if keys is None else tuple(split(keys)),
    )


def split(text: str) -> list[str]:
    """Words separated by commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def ranges(option: str, text: str) -> list[int]:
    """Whole numbers like 0-3,7."""
    numbers: list[int] = []
    for word in split(text):
        first, _, last = word.partition("-")
        if not first.isdecimal() or (last and not last.isdecimal()):
            raise LocateError(f"{option} {text!r}: expected whole numbers like 0-3,7")
        if int(last or first) < int(first):
            raise LocateError(f"{option} {text!r}: {word} runs backwards: expected whole numbers like 0-3,7")
        numbers += range(int(first), int(last or first) + 1)
    return sorted(set(numbers))


def check_names(
    metric: str, components: list[str], roles: list[str], layers_of: str | None, layers_at: str | None
) -> None:
    """Raise LocateError for what would only be missed after a long run."""
    from locate.metrics import metric_named
    from locate.sites import check

    metric_named(metric)
    for component in components:
        check("component", component, COMPONENTS)
    if layers_of is not None:
        check("--layers-of", layers_of, tuple(each for each in components if each not in ("resid_pre", "pattern")))
    if layers_at is not None:
        check("--layers-at", layers_at, tuple(roles) or ROLES)
    if set(components) <= {"resid_pre", "pattern"}:
        raise LocateError(
            f"--components {','.join(components)}: no module writes the residual stream or attention weights alone, so "
            "no layer could be located: add attn_out, mlp_out or head"
        )


def format_list(text: str) -> list[str]:
    """Formats separated by commas, checked before anything long is run."""
    from locate.report.write import FORMATS
    from locate.sites import check

    formats = split(text)
    for each in formats:
        check("format", each, FORMATS)
    return formats
