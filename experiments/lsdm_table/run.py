"""LSDM's table in form: bias and ability of a model before and after each editor, with intervals and paired changes.

    python experiments/lsdm_table/run.py --data DATA [--model mini] [--methods lsdm fast ...] [--limit 100]

DATA is a folder with the data sets, as `locate-bias evaluate --data` takes it. Edited models and evaluations are kept
in --work, where the same command goes on; tables and figures go to --out, and where that is in
results/, into the README too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from assembly import ABILITY, BIAS, ORIGINAL, markdown, rows_of, table_of
from gender_items import gender_items
from natural import natural_sentences
from panels import draw
from verdicts import about_edit, verdict_table, verdicts

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from editing import DECIDING, EDITORS, add_options, editor_of, lighter, prompts_for, put

import locate
from locate.editors.fit import Fitting
from locate.editors.receipt import save_edited
from locate.errors import LocateError
from locate.evaluation.change import compare_evaluations
from locate.evaluation.evaluation import Evaluation
from locate.evaluation.kept import code_sha256
from locate.evaluation.run import evaluate
from locate.files import read_json, write_json, write_whole
from locate.model.causal import load_causal
from locate.prompts import occupation_table
from locate.report.change_maps import write_comparison
from locate.schema import locate_version

HERE = Path(__file__).resolve().parent
OWN = ("occupations", "biaske", "perplexity")
SETS = ("winobias", "winogender", "stereoset", "crows_pairs")
OTHERS = ("bec_pro", "sentences")
KNOWLEDGE = ("lambada", "hellaswag", "piqa", "arc_easy", "openbookqa", "winogrande", "blimp")
NATURAL = "sentences.csv"
MAPPED = ("mlp_out", "attn_out")


def edited(options: argparse.Namespace, located: locate.Located, method: str) -> Path:
    """The folder of the model edited by a method, made unless it is there.

    Raises LocateError when what is there was made of another model or with other settings.
    """
    folder: Path = options.work / "models" / method
    model = load_causal(options.model, device=options.device)
    editor = editor_of(method, lighter(options) | {"seed": options.seed}, located)
    recipe = {"weights_sha256": model.checkpoint.weights_sha256, "editor": repr(editor), "locate": locate_version()}
    recipe |= {"code_sha256": code_sha256(DECIDING)}
    recipe |= {"persons": options.persons, "seed": options.seed, "located": list(located.layers)}
    if same_recipe(folder, recipe):
        return folder
    fitting = prompts_for(options.seed, options.persons)
    started = time.monotonic()
    made = editor.edit(model, located, fitting.edited, preserved=fitting.preserved)
    print(f"{method}: edited in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    write_json(recipe_of(folder), recipe)
    save_edited(made, model, folder)
    return folder


def recipe_of(folder: Path) -> Path:
    """Where it is kept how a model was edited: beside its folder."""
    return folder.with_name(f"{folder.name}.recipe.json")


def same_recipe(folder: Path, recipe: dict[str, object]) -> bool:
    """Whether an edited model is there already.

    Raises LocateError, with both values, when it was made in another way.
    """
    if not (folder / "receipt.json").is_file():
        return False
    kept = read_json(recipe_of(folder))
    odd = [name for name in recipe if kept.get(name) != recipe[name]]
    if odd:
        raise LocateError(
            f"{folder} was made with {odd[0]} {kept.get(odd[0])!r}, now {recipe[odd[0]]!r}: name another --work"
        )
    return True


def evaluations(options: argparse.Namespace, name: str, model: str) -> list[Evaluation]:
    """Evaluations of a model: the package's own sets whole, bias sets and knowledge tests each with their limit."""
    asked: dict[str, tuple[Sequence[str], int | None]] = {
        "own": (OWN, None),
        "bias": (SETS, options.bias_limit),
        "others": (OTHERS, options.bias_limit),
        "knowledge": (KNOWLEDGE[:-1], options.limit),
        "blimp": (KNOWLEDGE[-1:], None),  # its limit is for each of its 67 paradigms
    }
    found = []
    loaded = load_causal(model, device=options.device)
    files = gender_items(options.data, options.work / "gender") | {"sentences": options.work / NATURAL}
    for kind, (tests, limit) in asked.items():
        started = time.monotonic()
        folder = options.work / "evaluations" / name / kind
        own = {test: files[test] for test in tests if test in files}
        done = evaluate(
            loaded, tests=tests, data=options.data, sources=own, limit=limit, seed=options.seed, folder=folder
        )
        found.append(done)
        print(f"{name}: {kind} in {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return found


def pooled(found: Sequence[Evaluation]) -> dict[str, pd.DataFrame]:
    """The tables of several evaluations of one model, by test."""
    return {name: table for each in found for name, table in each.tables.items()}


def told_alike(evaluation: Evaluation, fitting: Fitting) -> Evaluation:
    """An evaluation that takes as held out what the split holds out, also for a method that fits on no occupation."""
    edited = {"words": list(fitting.words.words), "templates": list(fitting.words.templates)}
    return replace(evaluation, meta=evaluation.meta | {"edited": edited})


def mapped(options: argparse.Namespace, name: str, model: str) -> locate.Trace:
    """The trace of a model on a few prompts, resumed in --work."""
    prompts = locate.occupation_pairs("anti", templates_each=1).first(options.pairs)
    loaded = locate.load(model, device=options.device)
    folder = options.work / "traces" / name
    return locate.trace(loaded, prompts, locate.Map(components=MAPPED), directions=("denoising",), output=folder)


def maps(options: argparse.Namespace, located: locate.Located, methods: Sequence[str]) -> None:
    """Difference maps: where the bias was and is, by the same prompts in both models."""
    before = mapped(options, ORIGINAL, options.model)
    totals, sites = [], []
    for method in methods:
        comparison = locate.compare(before, mapped(options, method, str(edited(options, located, method))))
        write_comparison(comparison, options.work / "maps" / method, formats=("png",))
        figure = options.work / "maps" / method / "figures" / "change_denoising.png"
        write_whole(
            options.out / f"map_{method}.png", lambda path, figure=figure: path.write_bytes(figure.read_bytes())
        )
        totals += [ends(method, each) | {"n": each.n} for each in comparison.totals]
        sites += [
            {"method": method, "component": each.component, "layer": each.layer, "role": each.role}
            | ends(method, each)
            | {"q": each.q, "n": each.n}
            for each in comparison.sites
        ]
    save(pd.DataFrame(totals), options.out / "map_totals.csv")
    save(pd.DataFrame(sites), options.out / "map_sites.csv")


def ends(method: str, change: Any) -> dict[str, Any]:
    """Effects before and after, and their change, with intervals."""
    found: dict[str, Any] = {"method": method}
    for name, each in (("before", change.a), ("after", change.b), ("change", change.change)):
        found |= {name: each[0], f"{name}_low": each[1], f"{name}_high": each[2]}
    return found


def save(table: pd.DataFrame, path: Path) -> Path:
    """Write a table whole or not at all."""
    return write_whole(path, lambda partial: table.to_csv(partial, index=False, float_format="%.6g"))


def located_of(options: argparse.Namespace) -> locate.Located:
    """The hand-off to the editors: of a run that is there, or of a trace made now."""
    if options.located is not None:
        return locate.load_located(options.located)
    prompts = locate.occupation_pairs("anti", templates_each=2)
    loaded = locate.load(options.model, device=options.device)
    map = locate.Map(components=("mlp_out",))
    return locate.rank(
        locate.trace(loaded, prompts, map, directions=("denoising",), output=options.work / "traces" / "located")
    )


def run(options: argparse.Namespace) -> None:
    """Edit, evaluate, compare, write the tables, and trace the edited models again."""
    located = located_of(options)
    fitting = prompts_for(options.seed, options.persons)
    others = natural_sentences(options.data, fitting.words.held_out_words, occupation_table())
    save(others, options.work / NATURAL)
    before = evaluations(options, ORIGINAL, options.model)
    rows: list[dict[str, object]] = []
    edits = []
    for method in options.methods:
        folder = edited(options, located, method)
        after = evaluations(options, method, str(folder))
        tables = [pooled(each) for each in (before, after)]
        about = about_edit(read_json(folder / "receipt.json"), *tables, fitting.words.held_out_words)
        edits.append({"method": method} | about)
        changes = [
            compare_evaluations(one, told_alike(other, fitting)) for one, other in zip(before, after, strict=True)
        ]
        rows += rows_of(method, changes, (*BIAS, *ABILITY))
    table = table_of(rows)
    save(table, options.out / "table.csv")
    found = verdicts(table, edits)
    save(found, options.out / "verdicts.csv")
    draw(table, options.out / "table.png")
    if options.out.resolve().parent == HERE / "results":
        tell(table, found, options.out.name)
    maps(options, located, options.maps)


def tell(table: pd.DataFrame, found: pd.DataFrame, model: str) -> None:
    """Put the tables of a model into the README, between the marks that name it.

    Raises LocateError where the README has no such marks.
    """
    for name, text in (
        ("verdicts", verdict_table(found)), ("bias", markdown(table, BIAS)), ("ability", markdown(table, ABILITY))
    ):  # fmt: skip
        put(HERE / "README.md", f"{name} of {model}", text)


def main() -> None:
    """Run; what the caller can mend ends it with one line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the data sets")
    parser.add_argument("--model", default="mini", help="mini, a folder, or a Hugging Face id")
    parser.add_argument("--device", help="cpu or cuda; the best there is by default")
    parser.add_argument("--located", type=Path, help="located.json of a trace of this model; default: trace now")
    parser.add_argument("--methods", nargs="+", default=list(EDITORS), choices=list(EDITORS))
    parser.add_argument("--maps", nargs="+", default=["lsdm"], choices=list(EDITORS), help="methods traced afterwards")
    parser.add_argument("--pairs", type=int, default=60, help="prompts of the difference maps")
    parser.add_argument("--limit", type=int, default=100, help="items of each knowledge test but BLiMP (20 a paradigm)")
    parser.add_argument("--bias-limit", type=int, help="items of each public bias set; default: all")
    add_options(parser)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path("runs") / "lsdm_table")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "mini")
    options = parser.parse_args()
    try:
        run(options)
    except LocateError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
