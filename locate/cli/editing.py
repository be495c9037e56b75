"""The verb `locate-bias edit`."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.completion import METHOD
from locate.cli.options import (
    MODEL_HELP,
    PROMPTS,
    AllowDifferent,
    AllowPickle,
    AsJson,
    Bos,
    BosOption,
    Chat,
    Device,
    Dtype,
    PromptFile,
    Revision,
    Threads,
    TrustCode,
    check_seed,
    ranges,
    thread_count,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.table import Table

    from locate.cli.steps import Steps
    from locate.editors.pace import Part
    from locate.mediation.located import Located


Edited = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
METHODS = "lsdm, fast, dpo (BiasDPO), or a baseline: memit, dama, leace, finetune, sft"
EDITOR = "Editor"
WORDS = {
    "prefixes": "generating prefixes of prompts",
    "text": "generating text to preserve",
    "covariance": "measuring the covariance of text",
    "slopes": "measuring slopes of the log-odds",
    "solve": "solving for the change",
    "check": "measuring what the change does",
    "targets": "finding targets",
    "keys": "reading keys and fitting the layers",
    "values": "finding values of she and he",
    "stamp": "training the stamp",
    "training": "training",
    "proof": "writing the edited model and loading it again",
    "before: occupations": "measuring occupations before the edit",
    "before: unseen_forms": "measuring unseen forms before the edit",
    "before: natural": "measuring natural sentences before the edit",
    "before: perplexity": "measuring perplexity before the edit",
    "after: occupations": "measuring occupations after the edit, as reloaded",
    "after: unseen_forms": "measuring unseen forms after the edit, as reloaded",
    "after: natural": "measuring natural sentences after the edit, as reloaded",
    "after: perplexity": "measuring perplexity after the edit, as reloaded",
}
WRITTEN = ("model.safetensors", "unstamped", "edit.safetensors", "receipt.json")
MAIN = ("log_odds", "abs_log_odds", "abs_log_odds_word", "definition_words", "definition_prompts", "perplexity")


def edit(
    located: Annotated[Path, typer.Option(help="located.json of a trace of this model")],
    output: Annotated[Path, typer.Option("--output", "-o", help="new folder for the edited model and its receipt")],
    model: Edited = "mini",
    method: Annotated[str, typer.Option(autocompletion=METHOD, rich_help_panel=EDITOR, help=METHODS)] = "lsdm",
    layers: Annotated[
        str | None,
        typer.Option(rich_help_panel=EDITOR, help="like 0-3,7, located or not; default: the strongest located"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", rich_help_panel=EDITOR, help="NAME=VALUE: a setting of the editor; repeatable"),
    ] = None,
    text: Annotated[
        Path | None,
        typer.Option(rich_help_panel=EDITOR, help="text that the edit must not disturb; default: bundled prose"),
    ] = None,
    preferences: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=EDITOR,
            help="dpo, sft: CSV or JSON Lines with prompt, chosen, rejected, or a hub data set; default: bundled",
        ),
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=EDITOR, help="new folder for the edit as a LoRA adapter too (dpo, sft with a rank)"
        ),
    ] = None,
    seed: Annotated[int, typer.Option(rich_help_panel=EDITOR, help="seed of held-out words and training")] = 0,
    prompts: PromptFile = None,
    allow_different: AllowDifferent = False,
    held_out: Annotated[
        float,
        typer.Option(rich_help_panel=PROMPTS, help="share of words and templates held out to judge the edit"),
    ] = 0.3,
    measure_on: Annotated[
        Path | None,
        typer.Option(rich_help_panel=PROMPTS, help="text that perplexity is measured on; default: bundled prose"),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    bos: BosOption = Bos.auto,
    chat: Chat = False,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Edit a model where its bias was located, and write it with a receipt that proves what changed."""
    from locate.cli.following import after_edit
    from locate.cli.show import print_following, print_paths, print_whole, stdout
    from locate.cli.steps import Steps

    check_seed(seed)
    count = thread_count(threads)
    with Steps() as steps:
        steps.say("loading the model")
        from locate.editors.adapter import write_adapter
        from locate.editors.fit import fitting_prompts
        from locate.editors.methods import make_editor
        from locate.editors.receipt import check_free, receipt_parts, save_edited
        from locate.editors.unfinished import edit_or_resume, edit_parts
        from locate.mediation.located import load_located
        from locate.model.causal import load_causal
        from locate.prompts import read_pairs

        check_free(output)
        handed, own = (
            load_located(located),
            None if prompts is None else read_pairs(prompts, allow_different=allow_different),
        )
        chosen = None if layers is None else tuple(ranges("--layers", layers))
        how = make_editor(method, setting or (), layers=chosen, seed=seed, text=text, preferences=preferences)
        if adapter is not None:
            check_free(adapter)
            check_adapter(adapter, output, how)
        check_read(how, method, text=text, preferences=preferences)
        trusted: dict[str, Any] = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        trusted |= reading_of(handed, bos, chat)
        plain = load_causal(model, device=device, dtype=dtype, revision=revision, threads=count, **trusted)
        steps.notes(plain.notes)
        fitting = fitting_prompts(held_out, seed=seed, own=own)
        progress = told(steps, [*edit_parts(plain, handed, how, fitting), *receipt_parts(plain, measure_on)])
        made, kept = edit_or_resume(plain, handed, how, fitting, progress=progress)
        steps.notes(data_notes(made.report))
        receipt = save_edited(made, plain, output, text=measure_on, progress=progress)
        if adapter is not None:
            write_adapter(made, plain, adapter)
        kept.unlink(missing_ok=True)
    if as_json:
        print(json.dumps(receipt, indent=2, ensure_ascii=False))
        return
    from locate.editors.receipt_words import receipt_lines

    console = stdout()
    print_whole(console, receipt_table(receipt))
    for line in receipt_lines(receipt):
        console.print(line, soft_wrap=True)
    print_paths([path for name in WRITTEN if (path := output / name).exists()] + ([adapter] if adapter else []), "")
    given = {"--revision": revision, "--allow-pickle": allow_pickle, "--trust-remote-code": trust_remote_code}
    before = {"--bos": None if plain.encoder.bos == Bos.auto else plain.encoder.bos, "--chat": plain.encoder.chat}
    print_following(after_edit(model, output, given, before))


def check_read(how: object, method: str, **given: object) -> None:
    """Raise LocateError for what was given to an editor that would not read it."""
    from locate.errors import LocateError

    for name, value in given.items():
        if value is not None and not hasattr(how, name):
            raise LocateError(f"--{name} {value}: method {method!r} reads none: leave it out, or choose another method")


def check_adapter(adapter: Path, output: Path, how: object) -> None:
    """Raise LocateError, before anything is trained, for an adapter that could not be written."""
    from locate.errors import LocateError

    if output.resolve() in (adapter.resolve(), *adapter.resolve().parents):
        raise LocateError(f"--adapter {adapter} lies in --output {output}: choose a folder of its own")
    if getattr(how, "rank", 1) is None:
        raise LocateError("--adapter without a rank: whole matrices make no LoRA adapter: add --set rank=16")


def data_notes(report: dict[str, Any]) -> list[str]:
    """What became of the rows that an editor was trained on."""
    from locate.training.rows import note_on

    told = note_on(report["data"]) if "data" in report else None
    return [] if told is None else [told]


def reading_of(located: Located, bos: Bos, chat: bool) -> dict[str, Any]:
    """What stands before every text: as asked for, else as it was when the sites were located."""
    traced = located.trace["model"]
    if bos is Bos.auto and not chat:
        return {"bos": str(traced.get("bos", "auto")), "chat": bool(traced.get("chat", False))}
    return {"bos": bos.value, "chat": chat}


def told(steps: Steps, parts: Sequence[Part]) -> Callable[[str, int, int], None]:
    """Progress that names each part of the work, and estimates the time left for all of them."""
    from locate.editors.pace import EditPace

    pace = EditPace(parts)

    def step(what: str, done: int, total: int) -> None:
        found = pace.tell(what, done, total)
        steps.progress(replace(found, stage=WORDS.get(what, what)))

    return step


def receipt_table(receipt: dict[str, Any]) -> Table:
    """Scores before and after, for all words and for those held out."""
    from rich.table import Table

    from locate.editors.receipt_words import score_words

    table = Table(title=f"{receipt['method']}, before and after", title_justify="left", box=None, pad_edge=False)
    for name in ("score", "of", "before", "after", "n"):
        table.add_column(name, justify="left" if name in ("score", "of") else "right", no_wrap=True)
    after = {(score["name"], score["part"]): score for score in receipt["scores"]["after"]}
    for was in receipt["scores"]["before"]:
        now = after[was["name"], was["part"]]
        if was["name"] in MAIN and was["n"]:
            table.add_row(was["name"], was["part"] or "all", score_words(was), score_words(now), str(now["n"]))
    return table
