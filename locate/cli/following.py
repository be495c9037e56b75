"""What to type next: commands that work for what a verb has just made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from locate.errors import LocateError
from locate.files import read_json
from locate.mediation.located import Located
from locate.report.answer import can_be_edited

if TYPE_CHECKING:
    from locate.evaluation.evaluation import Evaluation
    from locate.mediation.comparison import Comparison

PROGRAM, DEFAULT = "locate-bias", "logit_diff"
EVALUATION, RECEIPT, META_FILE = "evaluation.json", "receipt.json", "meta.json"


def command(*words: object) -> str:
    """A command line for a shell."""
    return shlex.join([PROGRAM, *map(str, words)])


def free_folder(folder: Path) -> Path:
    """The folder, or one of its name with a number where it is taken."""
    taken = [folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000))]
    return next((each for each in taken if not each.exists()), folder)


def given_options(given: Mapping[str, object]) -> list[object]:
    """Options as they were given; those that were left out are left out again, and True stands for a flag."""
    words: list[object] = []
    for name, value in given.items():
        if value is None or value is False:
            continue
        for each in value if isinstance(value, list) else [value]:
            words += [name] if each is True else [name, each]
    return words


def after_trace(
    located: Located, folder: Path, model: str, reading: Mapping[str, object], effects: Mapping[str, object]
) -> list[str]:
    """After a trace: edit where layers were located, compare with a run made alike, rank in another way.

    model    as it was named
    reading  the options that say how it was read
    effects  those that say whose effects were derived
    """
    meta, more = located.trace, given_options(effects)
    metric = [] if located.metric == DEFAULT else ["--metric", located.metric]
    edit, other = [], other_run(folder, meta)
    if can_be_edited(located):
        target = free_folder(folder.with_name(f"{folder.name}-edited"))
        place = ["--located", folder / "located.json", "--output", target]
        edit = [command("edit", model, *place, *given_options(reading))]
    compare = [] if other is None else [command("compare", other, folder)]
    ways = [way for way in meta["directions"] if way != located.direction]
    rank = [command("rank", folder, *metric, *more, "--direction", way) for way in ways]
    if located.metric != DEFAULT or meta.get("probabilities", True):
        other_metric = "prob_diff" if located.metric == DEFAULT else DEFAULT
        rank.append(command("rank", folder, "--metric", other_metric, *more))
    first = [*compare, *edit] if (Path(model) / RECEIPT).is_file() else [*edit, *compare]
    return [*first, *rank, command("plot", folder, *metric, *more)][:2]


def other_run(folder: Path, meta: Mapping[str, Any]) -> Path | None:
    """The newest run beside this one that was made of the same prompts and patches in another model."""
    own = alike(meta)
    found = [
        path.parent
        for path, content in neighbours(folder, META_FILE)
        if "recipe" in content and alike(content) == own
        and content["recipe"].get("weights_sha256") != meta["recipe"]["weights_sha256"]
    ]  # fmt: skip
    return max(found, key=lambda each: each.stat().st_mtime, default=None)


def alike(meta: Mapping[str, Any]) -> list[object]:
    """What must be the same in two runs that are compared."""
    recipe = [meta["recipe"].get(name) for name in ("prompts_sha256", "patches_sha256")]
    corruption = {name: value for name, value in meta["corruption"].items() if name != "scale"}
    return [*recipe, meta["status"], meta["directions"], corruption, meta["model"]["n_layers"]]


def neighbours(folder: Path, name: str) -> list[tuple[Path, Any]]:
    """The files of that name in folders beside this one, with what they hold; those that cannot be read are none."""
    found = []
    for path in sorted(folder.parent.glob(f"*/{name}")):
        if path.parent.resolve() != folder.resolve():
            with suppress(LocateError):
                found.append((path, read_json(path)))
    return found


def after_edit(model: str, output: Path, reading: Mapping[str, object], texts: Mapping[str, object]) -> list[str]:
    """After an edit: evaluate the original and the edited model, and compare the two.

    reading  the options that say how the original was read
    texts    those that say what stands before every text, which hold for both
    """
    folder = free_folder(output.with_name(f"{output.name}-evaluated"))
    before, after = folder / "original", folder / "edited"
    return [
        command("evaluate", model, "--output", before, *given_options({**reading, **texts})),
        command("evaluate", output, "--output", after, *given_options(texts)),
        command("compare", before, after),
    ]


def after_comparison(found: Comparison, runs: tuple[Path, Path], models: Sequence[Any], output: Path) -> list[str]:
    """After a comparison of two runs: see both in a live page; where the weights differ, evaluate both and compare.

    models  what the runs' meta.json say of their models
    output  folder of the comparison
    """
    live = command("explore", *runs)
    if found.same_weights:
        return [live]
    folder = free_folder(output.with_name(f"{output.name}-evaluated"))
    sides = [folder / name for name in ("A", "B")]
    made = [
        command("evaluate", each["name"], "--output", side, *given_options(read_options(each)))
        for each, side in zip(models, sides, strict=True)
    ]
    return [live, *made, command("compare", *sides)]


def read_options(model: Mapping[str, Any]) -> dict[str, object]:
    """The options with which a run's model was read, as far as they are not the usual ones."""
    usual = {"dtype": "float32", "revision": None, "bos": "auto", "chat": False}
    return {f"--{name}": model.get(name, value) for name, value in usual.items() if model.get(name, value) != value}


def after_evaluation(found: Evaluation, folder: Path) -> list[str]:
    """After an evaluation: compare it with one beside it, of another model on the same items; the original first."""
    others = [
        (path.parent, content)
        for path, content in neighbours(folder, EVALUATION)
        if same_items(content, found.meta)
        and content["model"]["network_sha256"] != found.meta["model"]["network_sha256"]
    ]
    if not others:
        return []
    other, content = min(others, key=lambda each: (each[1]["edited"] is not None, -each[0].stat().st_mtime))
    pair = (folder, other) if content["edited"] is not None and found.meta["edited"] is None else (other, folder)
    return [command("compare", *pair)]


def same_items(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two evaluations share a test of the same items."""
    items = [{name: about["items_sha256"] for name, about in each["tests"].items()} for each in (one, other)]
    return bool(items[0].items() & items[1].items())
