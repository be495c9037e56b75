"""Does locating help editing? Edits at each layer, at the located layers and at random ones, beside what was traced.

    python experiments/locate_vs_edit/run.py [--model mini] [--located RUN] [--editors lsdm fast ...] [--seeds 0 1]

Every finished edit is kept in --out; the same command goes on there. `--tables-only` makes the tables and the figure
again from what is kept.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from drawing import draw
from kept import Kept, label, write_csv
from ranks import against_random, correlations
from written import correlation_table, cost_table, layer_table, set_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from editing import DECIDING, HELD_OUT, LAYERED, add_options, editor_of, lighter, put
from making import Task, Trial, every, measured

import locate
from locate.cli.sharing import executor_of
from locate.errors import LocateError
from locate.evaluation.kept import code_sha256
from locate.mediation import effects
from locate.schema import locate_version
from locate.workers.jobs import check_jobs

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mini"
ROLES = ("subject_last", "last")


def traced(options: argparse.Namespace) -> locate.Trace:
    """The trace whose effects are compared: a run folder that is there, or one made now."""
    if options.located is not None:
        return locate.load_trace(options.located)
    prompts = locate.occupation_pairs("anti", templates_each=options.templates)
    map = locate.Map(components=("mlp_out",))
    return locate.trace(locate.load(options.model, device=options.device), prompts, map, directions=("denoising",))


def effects_of(trace: locate.Trace) -> pd.DataFrame:
    """Summed effects (nats) of each layer's MLP output under denoising and pairs, per role and occupation."""
    derived = effects(trace)
    chosen = derived[(derived["direction"] == "denoising") & (derived["component"] == "mlp_out")]
    chosen = chosen[chosen["role"].isin(ROLES) & (chosen["window"] == chosen["window"].min())]
    grouped = chosen.groupby(["role", "layer", "group"], observed=True)["nie"].agg(["sum", "size"]).reset_index()
    return grouped.rename(columns={"group": "word", "size": "pairs"}).astype({"role": str, "word": str})


def most_of(name: str) -> int:
    """How many of the located layers an editor takes by itself; a stamp stands beside one."""
    return int(getattr(editor_of(name, {}), "most", 1))


def layers_of(every: int, n_layers: int) -> list[int]:
    """The layers edited alone: one in so many from the lowest on, and the last, which stands for itself in `rho`.

    Raises LocateError for less than one.
    """
    if every < 1:
        raise LocateError(f"--every {every}: expected a number of layers from 1 up")
    return sorted({*range(0, n_layers, every), n_layers - 1})


def sets_of(n_layers: int, located: tuple[int, ...], random_sets: int, seed: int) -> list[tuple[int, ...]]:
    """The located set and random other sets of its size, each once; none where it is one layer, edited anyway."""
    if len(located) < 2 or random_sets < 1:
        return []
    others = [each for each in itertools.combinations(range(n_layers), len(located)) if each != located]
    return [located, *random.Random(seed).sample(others, min(random_sets, len(others)))]


def plan(options: argparse.Namespace, located: locate.Located, n_layers: int) -> Iterator[Task]:
    """Each chosen layer alone before any set of layers."""
    for seed in options.seeds:
        own = {name: tuple(sorted(located.layers[: most_of(name)])) for name in options.editors}
        for name in options.editors:
            for layer in layers_of(options.every, n_layers):
                yield name, (layer,), seed, (layer,) == own[name]
        for name in options.editors:
            for layers in sets_of(n_layers, own[name], options.random_sets, seed):
                yield name, layers, seed, layers == own[name]


def recipe_of(trial: Trial) -> dict[str, Any]:
    """What all edits of a folder have in common."""
    return {
        "weights_sha256": trial.model.checkpoint.weights_sha256,
        "traced_prompts_sha256": trial.located.trace["prompts"]["sha256"],
        "located_layers": list(trial.located.layers),
        "held_out": HELD_OUT,
        "every": trial.options.every,
        "texts": trial.options.texts,
        "locate": locate_version(),
        "code_sha256": code_sha256(DECIDING),
        "editors": {name: repr(editor_of(name, lighter(trial.options))) for name in LAYERED},
    } | lighter(trial.options)


def run(options: argparse.Namespace) -> None:
    """Make and measure every edit that is not kept yet.

    Raises LocateError for less than one process, or more than cores, and where --out holds edits made in another way.
    """
    check_jobs(options.jobs)
    trace = traced(options)
    located, effects, n_layers = locate.rank(trace), effects_of(trace), int(trace.meta["model"]["n_layers"])
    trial = Trial.of(options, located)
    kept = Kept.open(options.out, recipe_of(trial))
    edited = effects["layer"].isin(layers_of(options.every, n_layers))
    write_csv(effects[edited], options.out / "effects.csv")
    tasks = plan(options, located, n_layers)
    todo = [each for each in tasks if not kept.has(*each[:3])]
    if todo:
        trial.before = measured(trial.model, trial.items)
        with executor_of(options.jobs, None) as executor:
            for done, ((name, layers, seed, _), row, words) in enumerate(every(trial, todo, executor), start=1):
                kept.add(name, layers, seed, row, words)
                said = f"{name} {label(layers)} seed {seed}: cut {row['cut']:.1f} %, {row['seconds']:.0f} s"
                print(f"{done} of {len(todo)}: {said}", file=sys.stderr, flush=True)


def tables(folder: Path) -> None:
    """Write correlations, the comparison with other layers, the figure and the README's tables, from what is kept."""
    edits, words, effects = (
        pd.read_csv(folder / name, dtype={"layers": str}) for name in ("edits.csv", "words.csv", "effects.csv")
    )
    effects["layer"] = effects["layer"].astype(int)
    sums = effects[effects["role"] == ROLES[0]].groupby("layer")[["sum", "pairs"]].sum()
    strongest = int((sums["sum"] / sums["pairs"]).idxmax())
    found, beside = correlations(edits, words, effects), against_random(edits, words, strongest)
    write_csv(found, folder / "correlations.csv")
    write_csv(beside, folder / "located_against_random.csv")
    draw(edits, words, effects, found, folder / "cut_against_effect.png")
    if folder.resolve().parent == HERE / "results":
        texts = {
            "layers": layer_table(edits, effects),
            "correlations": correlation_table(found),
            "sets": set_table(beside),
            "costs": cost_table(edits),
        }
        for name, text in texts.items():
            put(HERE / "README.md", f"{name} of {folder.name}", text)
    print(found.to_string(index=False, float_format="{:.3g}".format))
    print(beside.to_string(index=False, float_format="{:.3g}".format))


def main() -> None:
    """Run, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="mini, a folder, or a Hugging Face id")
    parser.add_argument("--device", help="cpu or cuda; the best there is by default")
    parser.add_argument("--located", type=Path, help="run folder of a trace of this model; default: trace now")
    parser.add_argument("--templates", type=int, default=2, help="templates an occupation in a trace made now")
    parser.add_argument("--editors", nargs="+", default=list(LAYERED), choices=list(LAYERED))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="of the held-out split and of training")
    parser.add_argument("--random-sets", type=int, default=3, help="sets of the located set's size, per seed")
    parser.add_argument("--every", type=int, default=1, help="edit one layer in so many alone, and the last")
    add_options(parser)
    parser.add_argument("--texts", type=int, help="for perplexity; default: all twelve")
    parser.add_argument("--jobs", type=int, default=1, help="processes, each with a model of its own and one thread")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tables-only", action="store_true", help="no edits: tables and figure from --out")
    options = parser.parse_args()
    try:
        if not options.tables_only:
            run(options)
        tables(options.out)
    except LocateError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit(f"stopped: finished edits are in {options.out}, and the same command goes on there")


if __name__ == "__main__":
    main()
