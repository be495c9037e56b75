"""The options of the command line that several verbs share, and what is read from their texts."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from locate.cli.completion import COMPONENT, DTYPE, FORMAT_LIST, KIND, METRIC, QUANTITY, ROLE, VIEW
from locate.errors import LocateError
from locate.sites import COMPONENTS, ROLES

if TYPE_CHECKING:
    from locate.prompts import Prompts
    from locate.tracing.corrupt import Noise
    from locate.tracing.plan import Map


class SwapFor(StrEnum):
    """Who takes the subject's place in the corrupted prompt."""

    opposite = "opposite"
    anti = "anti"
    same = "same"
    neutral = "neutral"
    someone = "someone"


class Corrupt(StrEnum):
    """How a prompt is corrupted."""

    swap = "swap"
    noise = "noise"


class BudgetMethod(StrEnum):
    """How the sites of a run within a budget are estimated."""

    integrated = "integrated"
    attribution = "attribution"


class Engine(StrEnum):
    """How patched runs are executed."""

    sweep = "sweep"
    plain = "plain"


class Direction(StrEnum):
    """Which way activations are copied."""

    denoising = "denoising"
    noising = "noising"
    both = "both"


class Clusters(StrEnum):
    """What intervals resample."""

    group = "group"
    both = "group+template"


class Bos(StrEnum):
    """What stands before every text."""

    auto = "auto"
    yes = "yes"
    no = "no"


class Words(StrEnum):
    """Which of the package's subjects are traced."""

    occupations = "occupations"
    definitional = "definitional"
    both = "both"


PROMPTS = "Prompts"
MODEL = "Model"
PATCHED = "What is patched"
PRECISION = "Precision"
MEASURING = "Measuring"
EFFECTS = "Effects"
EVIDENCE = "Evidence"
OUTPUT = "Output"

MODEL_HELP = "'mini' (bundled), a folder, a GGUF file, an adapter's folder, or a Hugging Face id"
ModelName = Annotated[str, typer.Option("--model", "-m", rich_help_panel=MODEL, help=MODEL_HELP)]
Revision = Annotated[str | None, typer.Option(rich_help_panel=MODEL, help="branch, tag or commit of a Hugging Face id")]
Device = Annotated[
    str | None, typer.Option(rich_help_panel=MODEL, help="cpu, cuda or cuda:1; default: cuda where there is one")
]
Threads = Annotated[
    str | None,
    typer.Option(
        rich_help_panel=MODEL,
        help="CPU threads for torch; default: one for each core granted, or 1 where more are no faster",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        rich_help_panel=MEASURING,
        help="processes that share the work, each with its own model and one thread, or one GPU; default: one process",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="ADDRESS",
        rich_help_panel=MEASURING,
        help="share the work on the Ray cluster there (auto, 10.0.0.1:6379), or on one started here (local); --jobs "
        "says among how many",
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        autocompletion=DTYPE, rich_help_panel=MODEL, help="float32, bfloat16, float16, float64, or tf32 on a GPU"
    ),
]
BosOption = Annotated[
    Bos,
    typer.Option(
        "--bos",
        rich_help_panel=MODEL,
        help="what stands before every text: what the tokenizer puts there (auto), its BOS (yes), or nothing (no)",
    ),
]
Chat = Annotated[
    bool,
    typer.Option(
        "--chat",
        rich_help_panel=MODEL,
        help="let texts begin the assistant's answer, by the tokenizer's chat template",
    ),
]
AllowPickle = Annotated[
    bool, typer.Option("--allow-pickle", rich_help_panel=MODEL, help="also read weights that are not safetensors")
]
TrustCode = Annotated[
    bool, typer.Option("--trust-remote-code", rich_help_panel=MODEL, help="run Python code that comes with the model")
]
PromptFile = Annotated[
    Path | None,
    typer.Option(
        "--prompts", "-p", rich_help_panel=PROMPTS, help="CSV or JSON Lines file of pairs; default: bundled prompts"
    ),
]
AllowDifferent = Annotated[
    bool,
    typer.Option(
        "--allow-different", rich_help_panel=PROMPTS, help="accept pairs in a file that differ outside their subjects"
    ),
]
LARGEST_SEED = 2**32 - 1
SWAP_HELP = (
    "what replaces the occupation: one of the opposite stereotype (opposite, the default); woman or man against the "
    "stereotype (anti), which also carries the gender of these words; woman or man with it (same); person (neutral); "
    "or someone, in the article's place too (someone)"
)
SwapOption = Annotated[SwapFor | None, typer.Option(rich_help_panel=PROMPTS, metavar="<swap>", help=SWAP_HELP)]
WordsOption = Annotated[
    Words | None,
    typer.Option(
        rich_help_panel=PROMPTS,
        metavar="<words>",
        help="bundled subjects: occupations (default), words that state a gender (definitional), or both",
    ),
]
Kind = Annotated[
    str | None,
    typer.Option(
        autocompletion=KIND,
        rich_help_panel=EFFECTS,
        help="kind of pairs that effects speak of: occupation, definition, user or all; default: occupation",
    ),
]
Template = Annotated[
    list[str] | None,
    typer.Option("--template", rich_help_panel=PROMPTS, help="a template of your own with {subject}; repeatable"),
]
TemplatesEach = Annotated[
    int | None,
    typer.Option(rich_help_panel=PROMPTS, help="templates for each subject; default: 4, or all of your own"),
]
Limit = Annotated[
    int | None, typer.Option(rich_help_panel=PROMPTS, help="use only the first N pairs of each kind of words")
]
MaxDropped = Annotated[
    float,
    typer.Option(rich_help_panel=PROMPTS, help="refuse when the tokenizer makes more than this share unusable"),
]
Metric = Annotated[
    str,
    typer.Option(
        autocompletion=METRIC,
        rich_help_panel=EFFECTS,
        help="logit_diff (the female against the male answer), female_neutral or neutral_male (one of them against the "
        "neutral answer), prob_diff, prob_stereotypical or odds_ratio",
    ),
]
View = Annotated[
    str | None,
    typer.Option(
        autocompletion=VIEW,
        rich_help_panel=EFFECTS,
        help="sign of effects: stereotype (towards the stereotype) or signed (female minus male); "
        "default: stereotype where pairs have one",
    ),
]
Quantity = Annotated[
    str,
    typer.Option(
        autocompletion=QUANTITY,
        rich_help_panel=EFFECTS,
        help="nie (natural indirect effect), nde (natural direct effect) or total",
    ),
]
ClustersOption = Annotated[
    Clusters,
    typer.Option(
        rich_help_panel=EFFECTS,
        metavar="<clusters>",
        help="what intervals resample: occupations (group), or occupations and templates (group+template)",
    ),
]
IntervalSeed = Annotated[int, typer.Option("--seed", rich_help_panel=EFFECTS, help="seed of intervals")]
HandOff = Annotated[
    str | None,
    typer.Option(
        "--layers-of",
        autocompletion=COMPONENT,
        rich_help_panel=OUTPUT,
        help="component whose layers go to editors; default: mlp_out",
    ),
]
RoleOption = Annotated[
    str | None,
    typer.Option(
        "--layers-at",
        autocompletion=ROLE,
        rich_help_panel=OUTPUT,
        help="role at which these layers are chosen; default: subject_last",
    ),
]
Formats = Annotated[
    str,
    typer.Option(
        autocompletion=FORMAT_LIST,
        rich_help_panel=OUTPUT,
        help="figure formats, separated by commas: html, png, svg, pdf",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", rich_help_panel=OUTPUT, help="print JSON on stdout, for programs")]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="run folder that `locate-bias trace` has written")]


def chosen_prompts(
    file: Path | None,
    words: Words | None,
    swap: SwapFor | None,
    template: list[str] | None,
    templates_each: int | None,
    limit: int | None,
    allow_different: bool = False,
) -> Prompts:
    """The prompts that the options describe."""
    from locate.prompts import definitional_pairs, occupation_pairs, read_pairs

    if file is not None:
        if template or templates_each is not None or words or swap:
            raise LocateError(
                f"--prompts {file} brings whole prompts: leave --words, --swap, --template and --templates-each out"
            )
        return read_pairs(file, allow_different=allow_different).first(limit)
    if allow_different:
        raise LocateError("--allow-different is for prompts from a file: add --prompts FILE, or leave it out")
    if words is Words.definitional:
        if swap:
            raise LocateError(f"--swap {swap.value}: definitional words have one counterpart each: leave --swap out")
        return definitional_pairs(templates=template, templates_each=templates_each).first(limit)
    found = occupation_pairs((swap or SwapFor.opposite).value, templates=template, templates_each=templates_each)
    if words is Words.both:
        return found.first(limit) + definitional_pairs(templates=template, templates_each=templates_each).first(limit)
    return found.first(limit)


def thread_count(text: str | None) -> int | None:
    """The number of threads asked for, checked before anything is loaded."""
    from locate.model.threads import check_threads, number_in

    threads = None if text is None else number_in("--threads", text)
    check_threads(threads)
    return threads


def check_noise(corrupt: Corrupt, sigmas: float | None, draws: int | None) -> None:
    """Raise LocateError for settings of noise where there is none."""
    if corrupt is Corrupt.swap and (sigmas is not None or draws is not None):
        raise LocateError("--sigmas and --draws describe noise: add --corrupt noise, or leave them out")


def noise_of(sigmas: float | None, draws: int | None, seed: int) -> Noise:
    """The noise that the options describe; what is left out is as in `Noise`."""
    from locate.tracing.corrupt import Noise

    given = {"sigmas": sigmas, "samples": draws}
    return Noise(seed=seed, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def check_seed(seed: int) -> None:
    """Raise LocateError for what numpy and torch do not take as a seed."""
    if not 0 <= seed <= LARGEST_SEED:
        raise LocateError(f"--seed {seed}: expected a whole number from 0 to {LARGEST_SEED}")


def check_budget(budget: str | None, method: BudgetMethod | None, dry_run: bool) -> None:
    """Raise LocateError for settings of a budget that contradict each other."""
    if dry_run and budget is not None:
        raise LocateError("--budget already says what the run will cost: leave --dry-run out")
    if budget is None and method is not None:
        raise LocateError(f"--budget-method {method.value} only applies to a run with a budget: add --budget")


def check_trace(chosen: Prompts, metric: str, kind: str | None, probabilities: bool, seed: int) -> None:
    """Raise LocateError for prompts and settings that would only be refused after a long run."""
    from locate.mediation.effect_table import of_kind
    from locate.metrics import metric_named

    of_kind(chosen.frame(), kind)
    without = sum(pair.neutral is None for pair in chosen)
    if without and "neutral" in metric_named(metric).answers:
        raise LocateError(
            f"--metric {metric} needs a neutral answer, and {without} of {len(chosen)} pairs have none: give them one, "
            "or choose logit_diff"
        )
    if metric_named(metric).absolute and not probabilities:
        raise LocateError(f"--metric {metric} needs probabilities: leave out --no-probabilities")
    check_seed(seed)
    if len({pair.group for pair in chosen}) < 2:
        raise LocateError(
            f"{len(chosen)} pairs of 1 group: expected at least 2 groups for intervals: give more prompts"
        )
    if metric_named(metric).stereotyped and not any(pair.stereotype for pair in chosen):
        raise LocateError(f"--metric {metric} needs a stereotype of -1 or 1 in the prompts, and none has one")


def parsed_map(
    components: str, layers: str | None, roles: str | None, windows: str, severed: str | None, keys: str | None
) -> Map:
    """The map that the options describe."""
    from locate.tracing.plan import Map

    return Map(
        components=tuple(split("--components", components)),
        layers=None if layers is None else tuple(ranges("--layers", layers)),
        roles=None if roles is None else tuple(split("--roles", roles)),
        windows=tuple(ranges("--windows", windows)),
        severed=() if severed is None else tuple(split("--severed", severed)),
        keys=None if keys is None else tuple(split("--keys", keys)),
    )


def split(option: str, text: str) -> list[str]:
    """Words separated by commas.

    Raises LocateError where there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise LocateError(f"{option} {text!r}: expected words separated by commas, or leave {option} out")
    return words


def run_folder(output: Path | None, model: str, suffix: str) -> Path:
    """The folder asked for, or one in runs/ that has the model's name, also of a model given as `.` or `../`."""
    if output is not None:
        return output
    return Path("runs") / f"{folder_name(model)}-{suffix}"


def folder_name(place: str | Path) -> str:
    """The last part of a path or a hub id, with letters that a file's name cannot have everywhere replaced."""
    path = Path(place)
    name = path.resolve().name if path.name in ("", "..") or path.exists() else path.name
    return re.sub(r"[^\w.+@=-]+", "_", name).strip(".") or "model"


def ranges(option: str, text: str) -> list[int]:
    """Whole numbers like 0-3,7."""
    numbers: list[int] = []
    if not text.strip(" ,"):
        raise LocateError(f"{option} {text!r}: expected whole numbers like 0-3,7")
    for word in split(option, text):
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
        written = tuple(each for each in components if each not in ("resid_pre", "pattern"))
        if not written:
            raise LocateError(
                f"--layers-of {layers_of}: no module writes {' or '.join(components)} alone, so no layer can be "
                "located: add attn_out, mlp_out or head to --components, or leave --layers-of out"
            )
        check("--layers-of", layers_of, written)
    if layers_at is not None:
        check("--layers-at", layers_at, tuple(roles) or ROLES)


def format_list(text: str) -> list[str]:
    """Formats separated by commas, checked before anything long is run."""
    from locate.report.write import FORMATS
    from locate.sites import check

    formats = split("--formats", text)
    for each in formats:
        check("format", each, FORMATS)
    return formats
