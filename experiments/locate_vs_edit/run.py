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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from drawing import draw
from kept import Kept, label, write_csv
from ranks import against_random, correlations
from written import correlation_table, edit_table, set_table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from editing import EDITORS, HELD_OUT, add_options, editor_of, lighter, prompts_for, put

import locate
from locate.causal import CausalModel, load_causal
from locate.editors.fit import Fitting
from locate.errors import LocateError
from locate.evaluate import biaske, occupations, perplexity
from locate.evaluate.scores import Items, Score
from locate.schema import locate_version

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "mini"
LAYERED = [name for name in EDITORS if name != "finetune-everything"]  # which can be told a layer
ROLES = ("subject_last", "last")
Tables = dict[str, pd.DataFrame]


def traced(options: argparse.Namespace) -> locate.Trace:
    """The trace whose effects are compared: a run folder that is there, or one made now."""
    if options.located is not None:
        return locate.load_trace(options.located)
    prompts = locate.occupation_pairs("anti", templates_each=options.templates)
    map = locate.Map(components=("mlp_out",))
    return locate.trace(locate.load(options.model, device=options.device), prompts, map, directions=("denoising",))


def effects_of(trace: locate.Trace) -> pd.DataFrame:
    """Summed effects (nats) of each layer's MLP output under denoising and pairs, per role and occupation."""
    derived = locate.effects(trace)
    chosen = derived[(derived["direction"] == "denoising") & (derived["component"] == "mlp_out")]
    chosen = chosen[chosen["role"].isin(ROLES) & (chosen["window"] == chosen["window"].min())]
    grouped = chosen.groupby(["role", "layer", "group"], observed=True)["nie"].agg(["sum", "size"]).reset_index()
    return grouped.rename(columns={"group": "word", "size": "pairs"}).astype({"role": str, "word": str})


def most_of(name: str) -> int:
    """How many of the located layers an editor takes by itself; a stamp stands beside one."""
    return int(getattr(editor_of(name, {}), "most", 1))


def sets_of(n_layers: int, located: tuple[int, ...], random_sets: int, seed: int) -> list[tuple[int, ...]]:
    """The located set and random other sets of its size, each once; none where it is one layer, edited anyway."""
    if len(located) < 2:
        return []
    others = [each for each in itertools.combinations(range(n_layers), len(located)) if each != located]
    return [located, *random.Random(seed).sample(others, min(random_sets, len(others)))]


def plan(options: argparse.Namespace, located: locate.Located, n_layers: int) -> Iterator[tuple[str, tuple, int, bool]]:
    """Editor, layers, seed, and whether they are the located set: every layer alone before any set of them."""
    for seed in options.seeds:
        own = {name: tuple(sorted(located.layers[: most_of(name)])) for name in options.editors}
        for name in options.editors:
            for layer in range(n_layers):
                yield name, (layer,), seed, (layer,) == own[name]
        for name in options.editors:
            for layers in sets_of(n_layers, own[name], options.random_sets, seed):
                yield name, layers, seed, layers == own[name]


def tests_of(words: set[str]) -> dict[str, tuple[Any, Items]]:
    """What an edit is judged by: these occupations and words that say their gender, perplexity, BiasKE-style facts."""
    chosen: dict[str, tuple[Any, Callable[[Any], bool]]] = {
        occupations.NAME: (
            occupations.TEST, lambda row: row.kind == occupations.DEFINITION or row.word in words
        ),
        "perplexity": (perplexity.TEST, lambda row: True),
        biaske.NAME: (biaske.TEST, lambda row: row.kind == "facts"),
    }  # fmt: skip
    found = {}
    for name, (test, wanted) in chosen.items():
        items = test.read(None)
        found[name] = test, Items(tuple(filter(wanted, items.rows)), source=items.source)
    return found


def measured(model: CausalModel, tests: dict[str, tuple[Any, Items]]) -> Tables:
    """The tables of one model."""
    return {name: test.measure(model, items, lambda done, of: None) for name, (test, items) in tests.items()}


def scores_of(before: Tables, after: Tables, fitting: Fitting) -> dict[str, Score]:
    """Success and cost of an edit; words and templates held out are those that it never saw."""
    unseen, forms = fitting.words.held_out_words, fitting.words.held_out_templates
    jobs = [tables[occupations.NAME] for tables in (before, after)]
    kept = occupations.kept_definitions(*jobs)
    own = [table[table["word"].isin(unseen)] for table in jobs]
    afgb = [next(each for each in occupations.score(table) if each.name == "afgb") for table in own]
    return {
        "cut": occupations.log_odds_cut(*jobs, unseen),
        "cut_both": occupations.log_odds_cut(*jobs, unseen, forms),
        "afgb_before": afgb[0],
        "afgb": afgb[1],
        "kept_words": kept[0],
        "kept_prompts": kept[1],
        "perplexity": perplexity.perplexity_change(before["perplexity"], after["perplexity"]),
        "ds": biaske.retained(before[biaske.NAME], after[biaske.NAME]),
    }


def row_of(scores: dict[str, Score]) -> dict[str, float]:
    """Scores as one row: each with the ends of its interval."""
    row: dict[str, float] = {}
    for name, score in scores.items():
        row |= {name: score.value, f"{name}_low": score.low, f"{name}_high": score.high}
    return row


def words_of(before: pd.DataFrame, after: pd.DataFrame, fitting: Fitting) -> pd.DataFrame:
    """Per held-out occupation: summed |log-odds| before and after (nats) and prompts, in all and in held-out templates.

    Resampling these sums gives the draws of `log_odds_cut`.
    """
    was, now = occupations.paired_tables(before, after)
    rows = was[["word", "template"]].assign(before=was["odds"].abs(), after=now["odds"].abs(), prompts=1)
    rows = rows[(was["kind"] == occupations.OCCUPATION) & was["word"].isin(fitting.words.held_out_words)]
    other = rows[rows["template"].isin(fitting.words.held_out_templates)]
    sums = [each.drop(columns="template").groupby("word", sort=False).sum() for each in (rows, other)]
    return sums[0].join(sums[1].add_suffix("_both")).reset_index()


def recipe_of(options: argparse.Namespace, model: CausalModel, located: locate.Located) -> dict[str, Any]:
    """What all edits of a folder have in common."""
    return {
        "weights_sha256": model.checkpoint.weights_sha256,
        "traced_prompts_sha256": located.trace["prompts"]["sha256"],
        "located_layers": list(located.layers),
        "held_out": HELD_OUT,
        "locate": locate_version(),
    } | lighter(options)


def run(options: argparse.Namespace) -> Kept:
    """Make and measure every edit that is not kept yet."""
    trace = traced(options)
    located, effects = locate.rank(trace), effects_of(trace)
    model = load_causal(options.model, device=options.device)
    n_layers = int(trace.meta["model"]["n_layers"])
    kept = Kept.open(options.out, recipe_of(options, model, located))
    write_csv(effects, options.out / "effects.csv")
    todo = [each for each in plan(options, located, n_layers) if not kept.has(*each[:3])]
    splits = [prompts_for(seed, options.persons).words for seed in options.seeds]
    tests = tests_of({word for each in splits for word in each.held_out_words})
    before = measured(model, tests) if todo else {}
    for done, (name, layers, seed, own) in enumerate(todo, start=1):
        started = time.monotonic()
        fitting = prompts_for(seed, options.persons)
        editor = editor_of(name, lighter(options) | {"layers": layers, "seed": seed})
        made = editor.edit(model, located, fitting.edited, preserved=fitting.preserved)
        fitted = time.monotonic() - started
        with made.applied(model):
            after = measured(model, tests)
        row: dict[str, Any] = {"size": len(layers), "located": own, "fit_seconds": round(fitted, 1)}
        row |= row_of(scores_of(before, after, fitting))
        row["seconds"] = round(time.monotonic() - started, 1)
        words = words_of(before[occupations.NAME], after[occupations.NAME], fitting)
        kept.add(name, layers, seed, row, words)
        said = f"{name} {label(layers)} seed {seed}: cut {row['cut']:.1f} %, {row['seconds']:.0f} s"
        print(f"{done} of {len(todo)}: {said}", file=sys.stderr, flush=True)
    return kept


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
    if folder == RESULTS:
        put(HERE / "README.md", "correlations", correlation_table(found))
        put(HERE / "README.md", "sets", set_table(beside))
        put(HERE / "README.md", "edits", edit_table(edits))
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
    add_options(parser)
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--tables-only", action="store_true", help="no edits: tables and figure from --out")
    options = parser.parse_args()
    try:
        if not options.tables_only:
            run(options)
        tables(options.out)
    except LocateError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
