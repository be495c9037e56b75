"""The verbs `locate-bias rewrite train | run | judge`."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from locate.cli.completion import CRITERION_LIST
from locate.cli.options import (
    MODEL_HELP,
    OUTPUT,
    AllowPickle,
    AsJson,
    Device,
    Dtype,
    Revision,
    Threads,
    TrustCode,
    check_seed,
    ranges,
    split,
    thread_count,
)
from locate.errors import LocateError

if TYPE_CHECKING:
    from locate.rewriting.judge import Judge
    from locate.rewriting.request import Request


class Part(StrEnum):
    """Which rows of a file are rewritten."""

    all = "all"
    held_out = "held-out"


ROWS, TRAINING, JUDGING = "Rows", "Training", "What is measured"
Asked = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP)]
Data = Annotated[
    str,
    typer.Option(
        rich_help_panel=ROWS,
        help="CSV, tab-separated or JSON Lines with texts and rewrites, or a hub data set OWNER/NAME:CONFIG:SPLIT",
    ),
]
HeldOut = Annotated[
    float,
    typer.Option(rich_help_panel=ROWS, help="share of the groups held out where the data has no column split"),
]
Seed = Annotated[int, typer.Option(rich_help_panel=ROWS, help="seed of what is held out, and of training")]
Instruction = Annotated[
    str | None, typer.Option(help="what the model is asked to do with a text; default: remove bias and insults")
]


def train(
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="new folder for the rewriter")],
    model: Asked = "mini",
    instruction: Instruction = None,
    limit: Annotated[
        int | None, typer.Option(rich_help_panel=ROWS, help="train on so many rows, drawn at random")
    ] = None,
    held_out: HeldOut = 0.3,
    seed: Seed = 0,
    located: Annotated[
        Path | None,
        typer.Option(rich_help_panel=TRAINING, help="train only the MLP output matrices that this located.json names"),
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(rich_help_panel=TRAINING, help="layers like 0-3,7 in place of those it names, located or not"),
    ] = None,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            "--set", rich_help_panel=TRAINING, help="NAME=VALUE: rate, epochs, rank, four_bits ...; repeatable"
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    revision: Revision = None,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Train a rewriter with LoRA on texts and people's rewrites of them, under guards.

    The same command continues a training that was stopped.
    """
    from locate.cli.show import print_paths, print_whole, stdout
    from locate.cli.steps import Steps
    from locate.cli.verdict import looks_table

    check_seed(seed)
    count = thread_count(threads)
    with Steps() as steps:
        steps.say("loading the model")
        from locate.cli.judging import print_json
        from locate.editors.methods import with_settings
        from locate.editors.receipt import check_free
        from locate.mediation.located import load_located
        from locate.model.causal import load_causal
        from locate.rewriting.originals import read_originals
        from locate.rewriting.train import Rewriter, train_rewriter
        from locate.training.rows import note_on

        check_free(output)
        chosen = None if layers is None else tuple(ranges("--layers", layers))
        how = with_settings(Rewriter, "rewrite train", setting or (), layers=chosen, seed=seed)
        rows = read_originals(data, held_out=held_out, seed=seed, limit=limit)
        handed = None if located is None else load_located(located)
        trusted: dict[str, Any] = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        plain = load_causal(model, device=device, revision=revision, threads=count, **trusted)
        steps.notes(plain.notes)
        made = train_rewriter(
            plain, rows, how, output, request=request_of(instruction), located=handed, step=steps.counted("training")
        )
        told = note_on(made["data"])
        steps.notes([] if told is None else [told])
    if as_json:
        print_json(made)
        return
    console = stdout()
    print_whole(console, looks_table(made["checkpoints"]))
    console.print(f"{made['data']['train']} rows trained on, {made['data']['held_out']} held out", soft_wrap=True)
    print_paths(sorted(output.iterdir()), "")


def run(
    data: Data,
    output: Annotated[
        Path, typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="JSON Lines: one row per text")
    ],
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help=f"a folder that `rewrite train` made, or {MODEL_HELP}")
    ] = "mini",
    instruction: Instruction = None,
    examples: Annotated[
        int, typer.Option(rich_help_panel=ROWS, help="show the model so many rows that are not held out, rewritten")
    ] = 0,
    part: Annotated[Part, typer.Option(rich_help_panel=ROWS, help="rewrite every row, or those held out")] = Part.all,
    limit: Annotated[
        int | None, typer.Option(rich_help_panel=ROWS, help="only so many of them, drawn at random")
    ] = None,
    held_out: HeldOut = 0.3,
    seed: Annotated[int, typer.Option(rich_help_panel=ROWS, help="seed of what is held out, and of what is drawn")] = 0,
    batch: Annotated[int, typer.Option(help="texts that are rewritten at once")] = 16,
    device: Device = None,
    threads: Threads = None,
    dtype: Dtype = "float32",
    revision: Revision = None,
    allow_pickle: AllowPickle = False,
    trust_remote_code: TrustCode = False,
    as_json: AsJson = False,
) -> None:
    """Rewrite the texts of a file, row by row.

    The same command continues a file that was stopped, and gives the same rewrites again.
    """
    from collections import Counter

    from locate.cli.show import print_paths, stdout
    from locate.cli.steps import Steps

    check_seed(seed)
    count = thread_count(threads)
    with Steps() as steps:
        steps.say("loading the model")
        from locate.cli.judging import print_json
        from locate.model.causal import load_causal
        from locate.rewriting.rewrite import meta_path, rewrite_file
        from locate.rewriting.train import read_request

        kept = read_request(model)
        if kept is not None and (instruction is not None or examples):
            raise LocateError(
                f"{model} was trained to be asked in one way, which its rewriter.json keeps: leave --instruction and "
                "--examples out"
            )
        if examples < 0 or (limit is not None and limit < 1):
            raise LocateError(
                f"--examples {examples}, --limit {limit}: expected 0 or more examples, and at least one row"
            )
        lines, shown, told = chosen_rows(data, part, limit, held_out, seed, examples, model)
        steps.notes(told)
        request = kept or request_of(instruction, shown)
        trusted: dict[str, Any] = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code}
        plain = load_causal(model, device=device, dtype=dtype, revision=revision, threads=count, **trusted)
        steps.notes(plain.notes)
        found = rewrite_file(plain, data, output, request, lines=lines, batch=batch, step=steps.counted("rewriting"))
    counts = dict(Counter(row.outcome or "rewritten" for row in found))
    if as_json:
        print_json({"rows": len(found), "outcomes": counts, "path": str(output)})
        return
    console = stdout()
    console.print(f"{len(found)} rows: " + ", ".join(f"{n} {name}" for name, n in sorted(counts.items())))
    for row in [row for row in found if row.reason][:5]:
        console.print(f"line {row.line} was not read: {row.reason}", soft_wrap=True)
    print_paths([output, meta_path(output)], "")


def judge(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="what `rewrite run` wrote, or a table with texts and rewrites")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", rich_help_panel=OUTPUT, help="folder for the tables; default: beside FILE"),
    ] = None,
    words: Annotated[
        Path | None, typer.Option(rich_help_panel=JUDGING, help="list of words that ought to be gone, one a line")
    ] = None,
    likelihood: Annotated[
        str | None, typer.Option(rich_help_panel=JUDGING, help="model that says how likely each rewrite is")
    ] = None,
    similarity: Annotated[
        str | None, typer.Option(rich_help_panel=JUDGING, help="embedding model that compares rewrite and original")
    ] = None,
    judge_at: Annotated[
        str | None,
        typer.Option(
            "--judge", rich_help_panel=JUDGING, help="address of an OpenAI-compatible server, or an instruct model here"
        ),
    ] = None,
    judge_model: Annotated[
        str | None, typer.Option(rich_help_panel=JUDGING, help="the model's name at that address")
    ] = None,
    judge_timeout: Annotated[float, typer.Option(rich_help_panel=JUDGING, help="seconds for one answer")] = 60.0,
    parallel: Annotated[int, typer.Option(rich_help_panel=JUDGING, help="questions asked at once of a server")] = 4,
    criteria: Annotated[
        str | None,
        typer.Option(
            autocompletion=CRITERION_LIST,
            rich_help_panel=JUDGING,
            help="what the judge scores: bias, toxicity, knowledge_retention, faithfulness, relevancy; default: all",
        ),
    ] = None,
    originals: Annotated[
        bool, typer.Option(rich_help_panel=JUDGING, help="let the judge score the untouched originals too")
    ] = True,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Judge rewrites: failures, words kept and left, likelihood, similarity, and an LLM's scores, with intervals.

    Every mean stands beside the one without empty and refused rewrites.

    A judge's answers are kept as they come: the same command continues after a stop.
    """
    from locate.cli.show import print_paths
    from locate.cli.steps import Steps
    from locate.cli.verdict import print_verdict

    count = thread_count(threads)
    folder = output or file.with_name(f"{Path(file.name.removesuffix('.gz')).stem}-judged")
    if judge_at is None and (judge_model is not None or criteria is not None):
        raise LocateError("--judge-model and --criteria are a judge's: name it with --judge, or leave them out")
    if parallel < 1:
        raise LocateError(f"--parallel {parallel}: expected at least one question at once")
    with Steps() as steps:
        steps.say("judging")
        from locate.cli.judging import print_json
        from locate.rewriting.criteria import CRITERIA
        from locate.rewriting.measures import check_installed, read_word_list
        from locate.rewriting.verdict import ABOUT, GROUPS, SUMMARY, judge_file
        from locate.rewriting.verdict import ROWS as TABLE

        check_installed()
        listed = frozenset[str]() if words is None else read_word_list(words)
        named = tuple(CRITERIA) if criteria is None else tuple(split("--criteria", criteria))
        who = None if judge_at is None else judge_of(judge_at, judge_model, judge_timeout, count)
        model = embedder = None
        if likelihood is not None:
            from locate.model.causal import load_causal

            model = load_causal(likelihood, threads=count)
        if similarity is not None:
            from locate.model.embedding import load_embedder
            from locate.model.threads import choose_threads

            embedder = load_embedder(similarity, threads=choose_threads(count))
        told: dict[str, Callable[[int, int], None]] = {}
        found = judge_file(
            file, folder, words=listed, model=model, embedder=embedder, judge=who, criteria=named,
            originals=originals, parallel=parallel,
            step=lambda what, done, of: told.setdefault(what, steps.counted(what))(done, of),
        )  # fmt: skip
    if as_json:
        print_json(found.about | {"summary": found.summary.to_dict("records")})
        return
    print_verdict(found)
    print_paths([folder / name for name in (TABLE, SUMMARY, GROUPS, ABOUT)], "")


def request_of(instruction: str | None, examples: tuple[tuple[str, str], ...] = ()) -> Request:
    """How a model is asked: in the user's words, or in ours."""
    from locate.rewriting.request import INSTRUCTION, Request

    return Request(INSTRUCTION if instruction is None else instruction, examples)


def chosen_rows(
    data: str, part: Part, limit: int | None, held_out: float, seed: int, examples: int, model: str
) -> tuple[list[int] | None, tuple[tuple[str, str], ...], list[str]]:
    """The lines that are rewritten (None for all), the examples that are shown, and what the user has to know.

    What a rewriter held out of this very file in its training is held out here too, whatever the seed.
    """
    from locate.rewriting.originals import Original, drawn_rows, numbered_originals, read_originals
    from locate.rewriting.train import held_out_lines
    from locate.training.rows import found_file

    with found_file(data) as (path, hashes):
        every = numbered_originals(path, strict=False)
        own = held_out_lines(model, hashes) if part is Part.held_out else None
    usable = [row for _, row in every if isinstance(row, Original)]
    if own is not None:
        kept = [row for row in usable if row.line in set(own)]
        told = [f"the {len(kept)} rows are those that the rewriter's training held out"]
        return sorted(drawn_rows(kept, limit or len(kept), seed)), (), told
    if part is Part.all and not examples:
        return None if limit is None else sorted(drawn_rows(usable, limit, seed)), (), []
    rows = read_originals(data, held_out=held_out, seed=seed)
    lines = drawn_rows(rows.train, examples, seed)
    shown = tuple((row.text, row.references[0]) for row in rows.train if row.line in lines)
    if part is Part.held_out:
        return sorted(drawn_rows(rows.held_out, limit or len(rows.held_out), seed)), shown, []
    told = [f"the {len(shown)} rows that are shown as examples are not rewritten"]
    if limit is None:
        return [line for line, _ in every if line not in lines], shown, told
    rest = [row for row in usable if row.line not in lines]
    return sorted(drawn_rows(rest, limit, seed)), shown, told


def judge_of(place: str, name: str | None, timeout: float, threads: int | None) -> Judge:
    """The judge behind an address, or a model on this machine."""
    from locate.rewriting.judge import local_judge
    from locate.rewriting.server import Server

    if place.startswith(("http://", "https://")):
        return Server(place, name or "", timeout=timeout)
    if name is not None:
        raise LocateError(
            f"--judge-model {name} with --judge {place}: it names a model behind an address: leave it out"
        )
    from locate.model.causal import load_causal

    return local_judge(load_causal(place, threads=threads))


VERBS: dict[Callable[..., None], str] = {
    train: "Train a rewriter on texts and people's rewrites",
    run: "Rewrite the texts of a file",
    judge: "Judge rewrites, with and without the failed ones",
}
"""verb: its line in the help"""


def rewriting_application() -> typer.Typer:
    """The verbs below `rewrite`."""
    app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")
    app.callback(help="Rewrite biased text: train a rewriter (MBIAS), run it over a file, judge what it wrote.")(
        lambda: None
    )
    for verb, line in VERBS.items():
        app.command(short_help=line)(verb)
    return app
