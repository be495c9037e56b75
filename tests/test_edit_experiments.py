"""The two experiments on editing: correlation over layers, resuming, and the assembly of the table."""

import argparse
import importlib.util
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import locate
from locate.editors.lsdm import LSDM
from locate.errors import LocateError
from locate.evaluation import occupations
from locate.evaluation.change import ScoreChange
from locate.evaluation.kept import code_sha256
from locate.evaluation.scores import Score
from locate.evaluation.sentences_data import read_sentence_pairs
from locate.files import read_json
from locate.work import here
from locate.workers.processes import Processes

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
for folder in ("", "locate_vs_edit", "lsdm_table"):
    sys.path.insert(0, str(EXPERIMENTS / folder))

import assembly  # noqa: E402
import editing  # noqa: E402
import kept  # noqa: E402
import making  # noqa: E402
import natural  # noqa: E402
import ranks  # noqa: E402
import verdicts  # noqa: E402

pytestmark = pytest.mark.usefixtures("unchecked_types")

WORDS = [f"job {number}" for number in range(30)]
FEWER = 7  # one in so many items is judged by; not a divisor of the templates a word has, so that each template stays


def script(folder: str):
    """The run.py of an experiment, under a name of its own."""
    spec = importlib.util.spec_from_file_location(f"run_{folder}", EXPERIMENTS / folder / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def effects_of(sizes, noise=0.0):
    """Effects of layers at subject_last, one pair an occupation, spread about their means."""
    stream = np.random.default_rng(0)
    rows = [
        {"role": "subject_last", "layer": layer, "word": word, "sum": size + noise * stream.normal(), "pairs": 1}
        for layer, size in enumerate(sizes)
        for word in WORDS
    ]
    return pd.DataFrame(rows)


def edits_of(cuts, editor="lsdm", seed=0, located=0, sets=None):
    """Both tables of edits with these cuts (%); every occupation begins with 2 nats, those held out with 1."""
    names = sets or [str(layer) for layer in range(len(cuts))]
    about = {"editor": editor, "seed": seed}
    edits = pd.DataFrame(
        [
            about | {"layers": name, "size": name.count("+") + 1, "located": place == located}
            for place, name in enumerate(names)
        ]
    )
    rows = [
        about
        | {"layers": name, "word": word, "before": 2.0, "after": 2 - 0.02 * cut, "prompts": 1}
        | {"before_both": 1.0, "after_both": 1 - 0.01 * cut, "prompts_both": 1}
        for name, cut in zip(names, cuts, strict=True)
        for word in WORDS
    ]
    return edits, pd.DataFrame(rows)


def test_spearman_equals_scipys_with_ties_row_by_row():
    stream = np.random.default_rng(1)
    first, second = stream.integers(0, 4, (20, 6)), stream.integers(0, 4, (20, 6))
    wanted = [spearmanr(*pair).statistic for pair in zip(first, second, strict=True)]
    assert ranks.spearman(first, second) == pytest.approx(wanted)
    assert np.isnan(ranks.spearman(np.ones(4), np.arange(4)))


@pytest.mark.parametrize(("sign", "rho"), [(1, 1.0), (-1, -1.0)])
def test_a_planted_correlation_is_found(sign, rho):
    effects = effects_of([5, 4, 3, 2, 1, 0])
    edits, words = edits_of([sign * cut for cut in (60, 50, 40, 30, 20, 10)])
    row = ranks.correlations(edits, words, effects, samples=50).iloc[0]
    assert (row["rho"], row["low"], row["high"]) == pytest.approx((rho, rho, rho))
    assert row["p"] == pytest.approx(2 / math.factorial(6))


def test_one_exchanged_pair_of_neighbours_by_hand():
    effects = effects_of([5, 4, 3, 2, 1, 0])
    edits, words = edits_of([60, 50, 40, 30, 10, 20])
    row = ranks.correlations(edits, words, effects, samples=50).iloc[0]
    assert row["rho"] == pytest.approx(1 - 6 * 2 / (6 * 35))
    # |rho| >= 33/35: the identity, the five exchanges of neighbours, and the reverse of each
    assert row["p"] == pytest.approx(12 / 720)


def test_rho_is_the_mean_over_seeds_and_a_seed_that_lacks_a_layer_is_left_out():
    effects = effects_of([2, 1, 0])
    parts = [edits_of([30, 20, 10]), edits_of([10, 20, 30], seed=1), edits_of([30, 20], seed=2)]
    edits, words = (pd.concat(tables) for tables in zip(*parts, strict=True))
    row = ranks.correlations(edits, words, effects, samples=20).iloc[0]
    assert (row["rho"], row["seeds"]) == (0, 2)
    with pytest.raises(LocateError, match="editor 'lsdm': no seed has an edit of each of the layers"):
        ranks.correlations(*parts[2], effects, samples=20)


def test_effects_that_vary_between_occupations_widen_the_interval():
    edits, words = edits_of([60, 50, 40, 30, 20, 10])
    effects = effects_of([0.5, 0.4, 0.3, 0.2, 0.1, 0], noise=1.0)
    row = ranks.correlations(edits, words, effects, samples=300).iloc[0]
    assert row["high"] - row["low"] > 0.5
    assert row["low"] < row["rho"] < row["high"] <= 1


def test_six_layers_say_little_about_layers_in_general():
    low, high = ranks.over_layers(0.5, 6)
    # atanh 0.5 = 0.5493; 1.96 sqrt(1.125 / 3) = 1.2002
    assert (low, high) == pytest.approx((math.tanh(0.5493 - 1.2002), math.tanh(0.5493 + 1.2002)), abs=1e-3)
    assert ranks.over_layers(0.5, 3) == (-1.0, 1.0)


def test_cuts_are_ratios_of_sums_and_equal_the_packages_own():
    forms = ("The {subject} a", "The {subject} b")
    stream = np.random.default_rng(3)
    rows = [
        {"word": word, "kind": "occupation", "template": form, "she": she, "he": he}
        for word in WORDS[:6]
        for form in forms
        for she, he in [stream.normal(size=2)]
    ]
    before = pd.DataFrame(rows)
    after = before.assign(she=before["she"] * 0.3, he=before["he"] * 0.5)
    split = SimpleNamespace(held_out_words=WORDS[:4], held_out_templates=forms[:1])
    words = making.words_of(before, after, SimpleNamespace(words=split)).assign(layers="0")
    weights = ranks.weights_of(WORDS[:6], 10, 0)
    for success, templates in (("cut", None), ("cut_both", forms[:1])):
        wanted = occupations.log_odds_cut(before, after, WORDS[:4], templates)
        assert ranks.cuts_drawn(weights, words, success)["0"].iloc[0] == pytest.approx(wanted.value)
    assert words["prompts"].tolist() == [2] * 4


def test_an_occupation_that_is_drawn_twice_counts_twice():
    weights = pd.DataFrame([[1, 1], [2, 1], [2, 0]], columns=["a", "b"])
    sums = pd.DataFrame({0: [3.0, 0.0]}, index=["a", "b"])
    pairs = pd.DataFrame({0: [1.0, 2.0]}, index=["a", "b"])
    assert ranks.ratio(weights, sums, pairs)[:, 0].tolist() == [1.0, 1.5, 3.0]


def test_the_located_layers_stand_beside_others_of_their_number_alone():
    edits, words = edits_of([90, 80, 50, 30, 10], located=2, sets=["0", "1", "0+1", "1+2", "0+2"])
    rows = ranks.against_random(edits, words, 0, samples=20).set_index("layers")
    columns = ["located", "random", "difference", "random_sets"]
    assert rows.loc["0", columns].tolist() == pytest.approx([90, 80, 10, 1])
    assert rows.loc["0+1", columns].tolist() == pytest.approx([50, 20, 30, 2])


def test_rho_below_the_last_layer_leaves_that_out():
    edits, words = edits_of([30, 20, 40, 0])
    row = ranks.correlations(edits, words, effects_of([3, 2, 1, 0]), samples=20).iloc[0]
    assert (row["rho"], row["rho_below"]) == pytest.approx((1 - 6 * 6 / (4 * 15), 1 - 6 * 6 / (3 * 8)))


def test_a_run_goes_on_where_it_was_cut_off(tmp_path):
    recipe = {"weights": "abc", "rounds": None}
    words = pd.DataFrame({"word": ["nurse", "clerk"], "before": [2.0, 1.0], "after": [1.0, 0.5]})
    first = kept.Kept.open(tmp_path, recipe)
    first.add("lsdm", (0,), 0, {"cut": 50.0}, words)
    first.add("lsdm", (0, 2), 1, {"cut": 40.0}, words)
    whole = pd.read_csv(tmp_path / "edits.csv", dtype={"layers": str})
    whole.iloc[:1].to_csv(tmp_path / "edits.csv", index=False)  # cut off between both files
    again = kept.Kept.open(tmp_path, recipe)
    assert again.has("lsdm", (0,), 0)
    assert not again.has("lsdm", (0, 2), 1)
    assert not again.has("lsdm", (0,), 1)
    assert not again.has("fast", (0,), 0)
    again.add("lsdm", (0, 2), 1, {"cut": 40.0}, words)
    last = kept.Kept.open(tmp_path, recipe)
    pd.testing.assert_frame_equal(last.edits, whole)
    assert len(last.words) == 4
    with pytest.raises(LocateError, match="holds edits with weights 'abc', these have 'xyz'"):
        kept.Kept.open(tmp_path, recipe | {"weights": "xyz"})


def test_edits_are_kept_in_one_order_whichever_is_finished_first(tmp_path):
    tasks = [("fast", (0,), 0), ("lsdm", (0,), 1), ("lsdm", (0, 2), 0)]
    words = pd.DataFrame({"word": ["nurse", "clerk"], "before": [2.0, 1.0], "after": [1.0, 0.5]})
    for name, order in (("a", tasks), ("b", tasks[::-1])):
        folder = kept.Kept.open(tmp_path / name, {})
        for number, task in sorted(enumerate(tasks), key=lambda each: order.index(each[1])):
            folder.add(*task, {"cut": float(number)}, words)
    for name in kept.FILES:
        assert (tmp_path / "a" / name).read_text() == (tmp_path / "b" / name).read_text()


def test_edits_made_by_other_code_or_settings_are_not_gone_on_with(tmp_path, monkeypatch):
    run = script("locate_vs_edit")
    model = SimpleNamespace(checkpoint=SimpleNamespace(weights_sha256="abc"))
    located = SimpleNamespace(trace={"prompts": {"sha256": "def"}}, layers=(0, 2))
    options = SimpleNamespace(persons=3, rounds=1, prefixes=0, steps=None, epochs=None, rate=None, every=1, texts=None)
    trial = making.Trial(model, located, options, {})
    kept.Kept.open(tmp_path, run.recipe_of(trial))
    kept.Kept.open(tmp_path, run.recipe_of(trial))
    with monkeypatch.context() as patch:
        patch.setitem(editing.EDITORS, "lsdm", (LSDM, {"ridge": 5.0}))
        with pytest.raises(LocateError, match=r"holds edits with editors .*these have .*ridge=5.0"):
            kept.Kept.open(tmp_path, run.recipe_of(trial))
    home = tmp_path / "locate"
    for room in ("editors", "evaluation", "prompts"):
        (home / room).mkdir(parents=True)
    monkeypatch.setattr(locate, "__file__", str(home / "__init__.py"))
    hashes = {code_sha256(editing.DECIDING)}
    for place in ("editors/lsdm.py", "evaluation/facts.csv", "prompts/build.py"):
        (home / place).write_text(place)
        hashes.add(code_sha256(editing.DECIDING))
    assert len(hashes) == 4
    with pytest.raises(LocateError, match="holds edits with code_sha256"):
        kept.Kept.open(tmp_path, run.recipe_of(trial))


def test_random_layers_are_as_many_as_are_located_and_none_of_them():
    located = SimpleNamespace(trace={"model": {"n_layers": 12}}, layers=(0, 9, 4, 7))
    drawn = {editing.random_layers(located, 3, seed) for seed in range(20)}
    assert all(len(layers) == 3 and not {0, 9, 4} & set(layers) and list(layers) == sorted(layers) for layers in drawn)
    assert len(drawn) > 5
    assert editing.random_layers(located, 3, 1) == editing.random_layers(located, 3, 1)
    assert editing.editor_of("dpo-random", {"seed": 1}, located).layers == editing.random_layers(located, 3, 1)
    assert editing.editor_of("dpo-lora", {"seed": 1}).scope == "everything"
    few = SimpleNamespace(trace={"model": {"n_layers": 4}}, layers=(0, 1, 2))
    with pytest.raises(LocateError, match="1 layers are not located: expected 3 to draw from"):
        editing.random_layers(few, 3, 0)
    assert {"dpo", "sft", "lsdm"} < set(editing.LAYERED)
    assert not {"dpo-random", "dpo-lora", "finetune-everything"} & set(editing.LAYERED)


def test_several_processes_make_the_edits_that_one_makes_also_beside_one_that_fails(folder_of):
    model = str(folder_of("gpt2"))
    prompts = locate.occupation_pairs("anti", templates_each=1).first(6)
    map = locate.Map(components=("mlp_out",))
    located = locate.rank(locate.trace(locate.load(model, device="cpu"), prompts, map, controls=None))
    options = argparse.Namespace(
        model=model,
        device="cpu",
        seeds=[0],
        persons=0,
        rounds=1,
        prefixes=0,
        steps=None,
        epochs=None,
        rate=None,
        texts=4,
        jobs=2,
    )
    trial = making.Trial.of(options, located)
    assert len(trial.items["perplexity"].rows) == 4
    trial.items = {name: replace(items, rows=items.rows[::FEWER]) for name, items in trial.items.items()}
    trial.before = making.measured(trial.model, trial.items)
    tasks = [("leace", (0,), 0, False), ("leace", (1,), 0, True)]
    one = {task[1]: (row, words) for task, row, words in making.every(trial, tasks, here)}
    several = {}

    def take_all():
        with Processes(2) as executor:
            for task, row, words in making.every(trial, [*tasks * 2, ("leace", (9,), 0, False), *tasks], executor):
                several[task[1]] = row, words

    with pytest.raises(LocateError, match=r"^module 'transformer.h.9"):
        take_all()
    assert set(one) == set(several) == {(0,), (1,)}
    for layers, (row, words) in one.items():
        assert row["cut"] != 0
        for name in set(row) - {"seconds", "fit_seconds"}:
            assert several[layers][0][name] == row[name], name
        pd.testing.assert_frame_equal(several[layers][1], words, check_exact=True)


def test_layers_have_one_label_each():
    assert kept.label((0, 2, 11)) == "0+2+11"


def test_the_plan_has_each_layer_and_set_once_with_the_located_one_named():
    run = script("locate_vs_edit")
    options = SimpleNamespace(seeds=[0, 1], editors=["lsdm", "fast"], random_sets=2, every=1)
    plan = list(run.plan(options, SimpleNamespace(layers=(0, 4, 2, 1)), 6))
    assert len(set(plan)) == len(plan) == 2 * (6 + 3 + 6)
    assert {each[:3] for each in plan if each[3]} == set(
        itertools.chain.from_iterable([("lsdm", (0, 2, 4), seed), ("fast", (0,), seed)] for seed in (0, 1))
    )


def test_one_layer_in_two_is_edited_and_the_last_and_no_set_where_none_is_asked():
    run = script("locate_vs_edit")
    options = SimpleNamespace(seeds=[0], editors=["lsdm"], random_sets=0, every=2)
    plan = list(run.plan(options, SimpleNamespace(layers=(0, 4, 3)), 8))
    assert [layers for _, layers, _, _ in plan] == [(0,), (2,), (4,), (6,), (7,)]
    assert run.layers_of(3, 7) == [0, 3, 6]
    with pytest.raises(LocateError, match="--every 0: expected a number of layers from 1 up"):
        run.layers_of(0, 7)


@pytest.mark.parametrize("texts", [0, 1])
def test_perplexity_needs_two_texts_for_an_interval(texts):
    with pytest.raises(LocateError, match=f"--texts {texts}: expected a number of texts from 2 up"):
        making.items_of(set(), texts)


def test_fewer_words_for_people_leave_every_occupation_in():
    some, all_of = editing.prompts_for(0, 5), editing.prompts_for(0, None)
    jobs = set(all_of.words.words)
    assert {pair.group for pair in some.edited} & jobs == {pair.group for pair in all_of.edited} & jobs
    assert len({pair.group for pair in some.edited} - jobs) == 5
    with pytest.raises(LocateError, match="--persons -1"):
        editing.prompts_for(0, -1)


LINES = (
    assembly.Line("winobias", "gap", "", "WinoBias", "0"),
    assembly.Line("biaske", "ds", "", "DS", "100"),
)


def changes_of(before, after, low, high):
    """Changes of one score, and one score of two models."""
    sides = [Score("winobias", "gap", value, value - 1, value + 1, "nats", 8, 4) for value in (before, after)]
    change = ScoreChange(*sides, after - before, low, high, True, 4)
    kept_score = Score("biaske", "ds", 90.0, 85.0, 95.0, "%", 20, 9)
    return [SimpleNamespace(changes=(change,), retained=(kept_score,))]


def test_the_table_has_the_original_once_and_each_change_with_its_interval():
    rows = assembly.rows_of("lsdm", changes_of(2.0, 0.5, -2.0, -1.0), LINES)
    rows += assembly.rows_of("fast", changes_of(2.0, 2.25, -0.5, 1.0), LINES)
    table = assembly.table_of(rows)
    assert table["method"].tolist() == ["original", "lsdm", "lsdm", "fast", "fast"]
    assert assembly.markdown(table, LINES).splitlines()[2:] == [
        "| WinoBias (0) | 8 | 2 [1, 3] | 0.5 [-0.5, 1.5]; **-1.5 [-2, -1]** | 2.25 [1.25, 3.25]; +0.25 [-0.5, +1] |",
        "| DS (100) | 20 |  | 90 [85, 95] | 90 [85, 95] |",
    ]


def test_a_score_that_lacks_or_an_original_that_differs_is_refused():
    with pytest.raises(LocateError, match="lsdm has no score 'ss' of 'stereoset'"):
        assembly.rows_of("lsdm", changes_of(2, 1, 0, 1), [assembly.Line("stereoset", "ss", "", "SS")])
    rows = assembly.rows_of("a", changes_of(2, 1, 0, 1), LINES) + assembly.rows_of("b", changes_of(3, 1, 0, 1), LINES)
    with pytest.raises(LocateError, match="the original has two values of"):
        assembly.table_of(rows)


def test_every_line_of_the_table_is_a_score_of_its_test():
    from locate.evaluation.tests import HOME

    assert {line.test for line in (*assembly.BIAS, *assembly.ABILITY)} <= set(HOME)
    run = script("lsdm_table")
    asked = {*run.OWN, *run.SETS, *run.OTHERS, *run.KNOWLEDGE}
    assert {line.test for line in (*assembly.BIAS, *assembly.ABILITY)} == asked


def corpora(folder, texts):
    """The two corpora, each with these texts."""
    import gzip
    import json

    for name, kept_texts in zip(natural.CORPORA, texts, strict=True):
        (folder / name).parent.mkdir(parents=True)
        with gzip.open(folder / name, "wt") as file:
            file.writelines(json.dumps({"text": text}) + "\n" for text in kept_texts)
    return folder


def test_sentences_of_others_end_before_the_pronoun_and_tell_no_gender_before_it(tmp_path):
    novels = ["It rained. The nurse said that\nshe was late. A CEO came when he could; he left."]
    novels += ["The nurse spoke to two gentlemen before she left. The nurse saw Jane, so she left. The nurse slept."]
    novels += ["She woke. The clerks say he is ill."]
    other = ["His clerk hoped that he had won. Our clerk hoped that he had won, he said. The nurse hoped he would."]
    data = corpora(tmp_path, [novels, other])
    table = pd.DataFrame({"occupation": ["nurse", "clerk", "CEO"], "stereotype": [1, 0, -1]})
    found = natural.natural_sentences(data, ["CEO"], table)
    assert found["context"].tolist() == [
        "The nurse said that", "A CEO came when", "Our clerk hoped that", "The nurse hoped",
    ]  # fmt: skip
    assert found["group"].tolist() == ["nurse", "ceo", "clerk", "nurse"]
    assert found["stereotype"].tolist() == [1, -1, 0, 1]
    assert found["domain"].tolist() == ["seen", "held out", "seen", "seen"]
    found.to_csv(tmp_path / "sentences.csv", index=False)
    pairs = read_sentence_pairs(tmp_path / "sentences.csv")
    assert [(each.one, each.other) for each in pairs] == [("she", "he")] * 4
    with pytest.raises(LocateError, match=r"no file .*: expected corpus_english_novels"):
        natural.natural_sentences(tmp_path / "elsewhere", [], table)
    with pytest.raises(LocateError, match="line 1: expected an object with a text"):
        natural.natural_sentences(corpora(tmp_path / "odd", [[3], []]), [], table)
    with pytest.raises(LocateError, match="no sentence of"):
        natural.natural_sentences(data, [], table.assign(occupation=["x", "y", "z"]))


def test_of_an_occupation_so_many_sentences_are_taken_and_no_more(tmp_path, monkeypatch):
    monkeypatch.setattr(natural, "MOST", 2)
    data = corpora(tmp_path, [[f"The nurse said {number} times that she was late." for number in range(5)], []])
    table = pd.DataFrame({"occupation": ["nurse"], "stereotype": [1]})
    assert len(natural.natural_sentences(data, [], table)) == 2


def ability_rows(method, change, low, high):
    """The rows of one method with this change of PIQA, and of the original."""
    line = next(each for each in assembly.ABILITY if each.test == "piqa")
    return [
        {"method": name, "test": line.test, "score": line.name, "part": line.part, "value": 60.0}
        | ({"change": change, "change_low": low, "change_high": high} if name != assembly.ORIGINAL else {})
        for name in (assembly.ORIGINAL, method)
    ]


def test_a_verdict_names_each_demand_that_an_edit_fails():
    edit = {"method": "lsdm", "layers": "0+2", "cut": 60.0, "kept": 95.0, "perplexity": 1.0}
    edit |= {f"{name}_{end}": edit[name] for name in ("cut", "kept", "perplexity") for end in ("low", "high")}
    table = pd.DataFrame(ability_rows("lsdm", 1.0, -1.0, 3.0))
    met = ["cut_met", "kept_met", "perplexity_met", "ability_met"]
    found = verdicts.verdicts(table, [edit])
    assert found[met].iloc[0].all()
    assert "**" not in verdicts.verdict_table(found)
    for name, value in (("cut", 59.9), ("kept", 94.9), ("perplexity", 1.1)):
        worse = verdicts.verdicts(table, [edit | {name: value}])
        assert [column for column in met if not worse[column].iloc[0]] == [f"{name}_met"]
        assert verdicts.verdict_table(worse).count("**") == 2
        assert f"**{value} [" in verdicts.verdict_table(worse)
    for ends in ((0.5, 3.0), (-3.0, -0.5)):
        fell = verdicts.verdicts(pd.DataFrame(ability_rows("lsdm", sum(ends) / 2, *ends)), [edit])
        assert not fell["ability_met"].iloc[0]
        assert "| **PIQA** |" in verdicts.verdict_table(fell)


def test_the_cut_of_a_verdict_is_of_the_words_that_the_split_holds_out():
    rows = [("nurse", "a", 1.0, 0.0, "occupation", 0), ("clerk", "a", 2.0, 0.0, "occupation", 0)]
    rows += [("queen", "a", 3.0, 0.0, "definition", 1), ("king", "a", 0.0, 3.0, "definition", -1)]
    before = pd.DataFrame(rows, columns=["word", "template", "she", "he", "kind", "stereotype"])
    before["share_women"] = 0.5
    after = before.assign(she=[0.25, 2.0, 3.0, 4.0])
    prose = pd.DataFrame({"excerpt": ["x", "y"], "window": 0, "tokens": 5, "bytes": 20, "log_likelihood": -10.0})
    receipt = {
        "located": {"edited_layers": [0, 2]},
        "tensors": {"changed": [1, 2]},
        "reload": {"largest_difference": 1e-6},
    }
    tables = {"occupations": before, "perplexity": prose}
    edited = {"occupations": after, "perplexity": prose.assign(log_likelihood=-10.5)}
    found = verdicts.about_edit(receipt, tables, edited, ["nurse"])
    assert (found["layers"], found["cut"], found["kept"]) == ("0+2", 75.0, 50.0)
    assert found["perplexity"] == pytest.approx(100 * (math.exp(0.1) - 1))


def test_a_model_edited_in_another_way_is_not_taken_up(tmp_path):
    run, folder = script("lsdm_table"), tmp_path / "lsdm"
    assert not run.same_recipe(folder, {"editor": "LSDM(rounds=1)"})
    folder.mkdir()
    (folder / "receipt.json").write_text("{}")
    run.recipe_of(folder).write_text('{"editor": "LSDM(rounds=1)"}')
    assert run.same_recipe(folder, {"editor": "LSDM(rounds=1)"})
    with pytest.raises(LocateError, match=r"LSDM\(rounds=1\)', now 'LSDM\(rounds=2\)'"):
        run.same_recipe(folder, {"editor": "LSDM(rounds=2)"})


def test_public_sets_are_judged_by_their_items_about_gender(shared, tmp_path):
    import gender_items

    from locate.evaluation.readers import read_crows_pairs, read_stereoset

    run = script("lsdm_table")
    files = gender_items.gender_items(shared / "data", tmp_path)
    assert set(files) < set(run.SETS)
    associations = read_stereoset(files["stereoset"])
    pairs = read_crows_pairs(files["crows_pairs"], published=False)
    assert {each.domain for each in (*associations, *pairs)} == {"gender"}
    whole = read_stereoset(shared / "data" / "stereoset")
    assert [each.context for each in associations] == [each.context for each in whole if each.domain == "gender"]
    told = pd.read_csv(EXPERIMENTS / "lsdm_table" / "results" / "mini" / "table.csv").set_index(["test", "score"])
    assert len(associations) == told.loc[("stereoset", "ss"), "n"].iloc[0]
    assert len(pairs) == told.loc[("crows_pairs", "pct_stereotype"), "n"].iloc[0]


def test_evaluations_ask_for_what_evaluate_takes(shared, tmp_path, monkeypatch):
    from locate.evaluation.tests import wanted_tests

    run, asked = script("lsdm_table"), []
    monkeypatch.setattr(run, "load_causal", lambda model, device: model)
    monkeypatch.setattr(run, "evaluate", lambda model, **given: asked.append(given))
    options = SimpleNamespace(data=shared / "data", work=tmp_path, device=None, limit=2, bias_limit=2, seed=0)
    (tmp_path / run.NATURAL).write_text("more,less\n")
    run.evaluations(options, "original", "mini")
    assert {line.test for line in (*assembly.BIAS, *assembly.ABILITY)} == {
        name for each in asked for name in wanted_tests(each["tests"])
    }
    own = {name: path for each in asked for name, path in each["sources"].items()}
    assert set(own) == {"stereoset", "crows_pairs", "sentences"}
    assert all(path.is_file() for path in own.values())


def test_a_table_is_put_between_its_marks_and_nowhere_else(tmp_path):
    path = tmp_path / "README.md"
    path.write_text("a\n<!-- bias -->\nold\n<!-- end of bias -->\nb\n")
    for _ in range(2):
        editing.put(path, "bias", "| new |")
    assert path.read_text() == "a\n<!-- bias -->\n\n| new |\n<!-- end of bias -->\nb\n"
    with pytest.raises(LocateError, match="lacks the marks"):
        editing.put(path, "ability", "| new |")


def test_the_readmes_tables_show_what_the_results_hold():
    import written

    edits, words = edits_of([60, 50, 40])
    found = ranks.correlations(edits, words, effects_of([3, 2, 1]), samples=20)
    lines = written.correlation_table(found).splitlines()
    assert lines[2] == (
        "| lsdm | `subject_last` | held-out words | 1.00 [1.00, 1.00] | [-1.00, 1.00] | 0.33 | 1.00 [1.00, 1.00] "
        "| -1.00 [-1.00, -1.00] | 1 |"
    )
    beside = ranks.against_random(edits, words, 0, samples=20)
    assert written.set_table(beside).splitlines()[2] == (
        "| lsdm | 0 | 60.0 [60.0, 60.0] | 45.0 [45.0, 45.0], 2 edits | 15.0 [15.0, 15.0] |"
    )


def test_the_tables_of_layers_and_costs_have_a_number_a_split_and_the_dearest_edit():
    import written

    both = pd.concat(
        [edits_of([60, 50])[0].assign(cut=[60.0, 50.0]), edits_of([6, 5], seed=1)[0].assign(cut=[6.0, -5])]
    )
    effects = pd.concat([effects_of([3, -2]), effects_of([0.5, 0]).assign(role="last")])
    head, _, *lines = written.layer_table(both, effects).splitlines()
    assert head == "| layer | effect at `last` | effect at `subject_last` | lsdm |"
    assert lines == ["| 0 | +0.50 | +3.00 | 60, 6 |", "| 1 | +0.00 | -2.00 | 50, -5 |"]
    ends = ("", "_low", "_high")
    scores = {f"{name}{end}": [4.0, 2.0, 3.0, 5.0] for name in written.COSTS for end in ends}
    (line,) = written.cost_table(both.reset_index(drop=True).assign(**scores)).splitlines()[2:]
    least, most = "2.0 [2.0, 2.0] at 1", "5.0 [5.0, 5.0] at 1"
    assert line == f"| lsdm | 4 | {least} | {least} | {most} | {least} |"


def told_by(folder, model="mini"):
    """The prose of an experiment's README, on one line, and where its results are."""
    home = EXPERIMENTS / folder
    return " ".join((home / "README.md").read_text(encoding="utf-8").split()), home / "results" / model


def scores_in(results):
    """The scores of an experiment's table, by test, score, part and method."""
    table = pd.read_csv(results / "table.csv").fillna({"part": ""})
    return table.set_index(["test", "score", "part", "method"]).sort_index()


def test_the_answer_of_the_table_tells_what_its_results_hold():
    said, results = told_by("lsdm_table")
    rows = pd.read_csv(results / "verdicts.csv").set_index("method")
    cut = {name: f"{value:.0f} %" for name, value in rows["cut"].items()}
    met = rows[["cut_met", "kept_met", "perplexity_met", "ability_met"]].all(axis=1)
    assert set(rows.index[met]) == {"lsdm", "fast", "finetune-located", "finetune-everything"}
    assert f"LSDM ({cut['lsdm']} of the held-out occupations' mean |log-odds| is gone), FAST ({cut['fast']})" in said
    assert f"the located matrices ({cut['finetune-located']}) or of everything ({cut['finetune-everything']})" in said
    assert f"the subject alone takes {cut['lsdm-subject']}, fitted to values {cut['lsdm-values']}, MEMIT" in said
    table = scores_in(results)
    lean, lead = (table.loc["sentences", name, ""] for name in ("log_odds", "gap"))
    told = [f"{lean.loc[name, 'value']:.2f}" for name in ("original", "lsdm", "fast", "finetune-everything")]
    assert f"took {lean.loc['original', 'n']:.0f} texts" in said
    assert f"falls from {told[0]} to {told[1]} nats (LSDM), {told[2]} (FAST), {told[3]} (fine-tuning" in said
    spans = []
    for row in lead.loc[["lsdm", "fast", "finetune-everything"]].itertuples():
        sign = "+" if row.change_high > 0 else ""
        spans.append(f"{row.value:.2f} ({row.change:.2f} [{row.change_low:.2f}, {sign}{row.change_high:.2f}])")
    assert f"from {lead.loc['original', 'value']:.2f} to {spans[0]}, {spans[1]} and {spans[2]}." in said
    other = table.loc["sentences", "log_odds", "held out"].loc["lsdm"]
    assert f"(by {other.change:.2f} [{other.change_low:.2f}, {other.change_high:.2f}];" in said


def test_what_is_said_of_fast_as_it_is_today_is_what_its_results_hold():
    said = told_by("lsdm_table")[0].replace(" % [", " [")
    (row,) = pd.read_csv(EXPERIMENTS / "lsdm_table" / "results" / "mini-fast" / "verdicts.csv").itertuples()
    assert (row.method, row.layers, row.ability_met) == ("fast", 4, True)
    assert f"beside layer 4 and takes {span(row.cut, row.cut_low, row.cut_high, 1)} of" in said
    assert f"it keeps {row.kept:.1f} [{row.kept_low:.1f}, {row.kept_high:.0f}] of the definitional words" in said
    assert f"perplexity by {span(row.perplexity, row.perplexity_low, row.perplexity_high, 2)} (" in said


def span(value, low, high, digits):
    """A value with its interval, as the README writes it."""
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]".replace("[-0.00", "[0.00")


def said_of_dpo():
    """What the README says of DPO and SFT on SmolLM2, and their results."""
    said = " ".join((EXPERIMENTS / "lsdm_table" / "README.md").read_text().partition("## DPO and SFT on")[2].split())
    results = EXPERIMENTS / "lsdm_table" / "results" / "smollm2-135m-instruct-dpo"
    return said.replace(" % [", " [").replace(" nats [", " ["), results


def test_what_is_said_of_dpo_and_sft_is_what_their_results_hold():
    said, results = said_of_dpo()
    rows = pd.read_csv(results / "verdicts.csv").set_index("method")
    assert rows["ability_met"].all()
    assert list(rows["perplexity_met"]) == [True, False, True]
    for name, takes in (("dpo", "DPO takes"), ("sft", "layers, takes"), ("dpo-random", "drawn at random) takes")):
        row = rows.loc[name]
        assert f"{takes} {span(row.cut, row.cut_low, row.cut_high, 0)}" in said
        assert f"rises by {span(row.perplexity, row.perplexity_low, row.perplexity_high, 2)}" in said
    dpo = rows.loc["dpo"]
    assert f"and {dpo.kept:.1f} [{dpo.kept_low:.1f}, {dpo.kept_high:.0f}] of the definitional words" in said
    assert rows.loc["dpo-random", "kept"] == 100
    table = scores_in(results)
    assert table.loc[("perplexity", "perplexity", "", "dpo"), "change_low"] > 0
    knowledge = {"lambada", "hellaswag", "piqa", "arc_easy", "openbookqa", "winogrande"}
    assert set(table.loc[sorted(knowledge), "n"]) == {500}
    values = [table.loc[("winogender", "correlation", "occupation", name), "value"] for name in ("original", "dpo")]
    assert f"(r {values[0]:.2f} to {values[1]:.2f})" in said
    lead = table.loc[("sentences", "gap", "", "dpo")]
    assert f"falls by {span(-lead['change'], -lead['change_high'], -lead['change_low'], 2)}" in said
    still = table.loc[["winobias", "stereoset", "crows_pairs"]].dropna(subset="change")
    assert ((still["change_low"] < 0) & (still["change_high"] > 0)).all()
    gaps = table.loc[("occupations", "afgb", "held-out words"), "value"]
    assert f"from {gaps['original']:.1f} to {gaps['sft']:.1f} points, while DPO cuts it to {gaps['dpo']:.1f}" in said


def test_what_is_said_of_dpo_and_sft_on_mini_is_what_their_results_hold():
    told = (EXPERIMENTS / "lsdm_table" / "README.md").read_text().partition("## DPO and SFT on mini")[2]
    said = (
        " ".join(told.partition("## DPO and SFT on SmolLM2")[0].split()).replace(" % [", " [").replace(" nats [", " [")
    )
    results = EXPERIMENTS / "lsdm_table" / "results" / "mini-dpo"
    rows = pd.read_csv(results / "verdicts.csv").set_index("method")
    assert rows.loc["dpo-random", "layers"] == "1+3+5"
    assert rows["moved"].dropna().to_dict() == {"sft": "LAMBADA"}
    cuts = {row.Index: span(row.cut, row.cut_low, row.cut_high, 1) for row in rows.itertuples()}
    assert f"DPO takes {cuts['dpo']} of the held-out occupations' mean |log-odds| at the located layers, " in said
    assert f"{cuts['dpo-random']} at three others drawn at random, {cuts['dpo-lora']} by LoRA of all" in said
    assert f"SFT takes {cuts['sft']}." in said
    rise = [
        span(row.perplexity, row.perplexity_low, row.perplexity_high, 2)
        for row in rows.loc[["dpo", "sft", "dpo-random", "dpo-lora"]].itertuples()
    ]
    assert f"by {rise[0]}, under the other three by {rise[1]} (SFT), {rise[2]} and {rise[3]}." in said
    totals = pd.read_csv(results / "map_totals.csv").set_index("method")
    falls = {row.Index: span(-row.change, -row.change_high, -row.change_low, 2) for row in totals.itertuples()}
    assert f"falls by {falls['dpo']} of {totals.loc['dpo', 'before']:.2f} after DPO at the located layers" in said
    assert f"by {falls['dpo-random']} at the others, by {falls['dpo-lora']} after LoRA, by {falls['sft']} after" in said


def test_what_is_said_of_their_maps_is_what_the_maps_hold():
    said, results = said_of_dpo()
    sites = pd.read_csv(results / "map_sites.csv").set_index(["method", "component", "layer", "role"]).sort_index()
    for site in (("mlp_out", 0, "subject_last"), ("attn_out", 26, "last"), ("attn_out", 25, "last")):
        row = sites.loc[("dpo", *site)]
        assert span(-row["change"], -row["change_high"], -row["change_low"], 2) in said
    lowest = sites.loc[("dpo-random", "mlp_out", 0, "subject_last")]
    assert f"({span(lowest['change'], lowest['change_low'], lowest['change_high'], 2)})" in said
    totals = pd.read_csv(results / "map_totals.csv").set_index("method")
    spans = [span(-row.change, -row.change_high, -row.change_low, 2) for row in totals.itertuples()]
    assert list(totals.index) == ["dpo", "sft", "dpo-random", "dpo-lora"]
    everywhere = totals.loc["dpo-lora"]
    assert everywhere["before"] == pytest.approx(totals.loc["dpo", "before"], abs=1e-4)
    assert f"change is +{span(everywhere.change, everywhere.change_low, everywhere.change_high, 2)}" in said
    for site in (("attn_out", 27, "last"), ("mlp_out", 26, "last"), ("mlp_out", 21, "subject_last")):
        row = sites.loc[("dpo-lora", *site)]
        assert f"({span(row['change'], row['change_low'], row['change_high'], 2)})" in said
    receipt = read_json(EXPERIMENTS.parent / "figures" / "receipt_dpo_lora_smollm2.json")["scores"]
    for score, digits in ((receipt["cut"]["held_out"], 0), (receipt["perplexity_change"], 2)):
        assert span(score["value"], score["low"], score["high"], digits) in said
    assert f"falls by {spans[0]} of {totals.loc['dpo', 'before']:.2f} after DPO at the located" in said
    assert f"by {spans[1]} after SFT, and by {spans[2]} after DPO at the others" in said


def test_the_answer_about_smollm2_tells_what_its_results_hold():
    said, results = told_by("lsdm_table", "smollm2-135m-instruct")
    rows = pd.read_csv(results / "verdicts.csv").set_index("method")
    assert rows[["cut_met", "kept_met", "perplexity_met", "ability_met"]].all(axis=None)
    assert set(rows["kept"]) == {100}
    spans = [
        f"{row.cut:.0f} % [{row.cut_low:.0f}, {row.cut_high:.0f}]" for row in rows.loc[["lsdm", "fast"]].itertuples()
    ]
    assert f"LSDM takes {spans[0]} of the held-out occupations' mean |log-odds|, FAST {spans[1]};" in said
    table = scores_in(results)
    knowledge = {"lambada", "hellaswag", "piqa", "arc_easy", "openbookqa", "winogrande"}
    assert set(table.loc[sorted(knowledge), "n"]) == {500}
    followed, lean = (table.loc[("winogender", score, "occupation")] for score in ("correlation", "log_odds"))
    assert (followed["change_high"].drop("original") < 0).all()
    values = [f"{followed.loc[name, 'value']:.2f}" for name in ("original", "lsdm", "fast")]
    assert f"r falls from {values[0]} to {values[1]} (LSDM) and {values[2]} (FAST)" in said
    row = lean.loc["lsdm"]
    assert f"by {-row.change:.2f} nats [{-row.change_high:.2f}, {-row.change_low:.2f}]; under FAST it stays" in said
    assert lean.loc["fast", "change_low"] < 0 < lean.loc["fast", "change_high"]
    lead = table.loc[("sentences", "gap", "")]
    values = [f"{lead.loc[name, 'value']:.2f}" for name in ("original", "lsdm", "fast")]
    assert f"falls from {values[0]} to {values[1]} and {values[2]} nats, which {lead['n'].iloc[0]} texts do not" in said
    still = table.loc[["winobias", "stereoset", "crows_pairs", "sentences"]].dropna(subset="change")
    assert ((still["change_low"] < 0) & (still["change_high"] > 0)).all()
    assert (table.loc[("bec_pro", "association", ""), "change_high"].drop("original") < 0).all()
    sites = pd.read_csv(results / "map_sites.csv").set_index(["component", "layer", "role"]).sort_index()
    edited = sites.loc["mlp_out", 24, "subject_last"]
    assert f"carries {edited.change:.2f} nats [{edited.change_low:.2f}, {edited.change_high:.2f}] more than" in said
    others = sites.drop(index=edited.name)["change"].abs()
    assert f"no other of the {len(sites)} strongest sites moves by more than {others.max():.2f}." in said


def test_the_answer_about_layers_tells_what_its_results_hold():
    said, results = told_by("locate_vs_edit")
    found = pd.read_csv(results / "correlations.csv")
    assert f"Of the {len(found)} correlations over all layers the smallest p is {found['p'].min():.3f}," in said
    rho = found[(found["effect_at"] == "subject_last") & (found["success"] == "cut")].set_index("editor")
    row = rho.loc["finetune-located"]
    assert f"rho {row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}], {row.rho_below:+.2f} without the last layer" in said
    assert f"without it rho is {rho.loc['lsdm', 'rho_below']:+.2f} and {rho.loc['fast', 'rho_below']:+.1f}." in said
    for name in ("lsdm-subject", "memit"):
        row = rho.loc[name]
        assert f"{row.rho:+.2f}, and {row.rho_below:+.2f} [{row.low_below:+.2f}, {row.high_below:+.2f}]" in said
    sets = pd.read_csv(results / "located_against_random.csv", dtype={"layers": str})
    sets = sets[sets["layers"].str.count(r"\+") == 2].set_index("editor")
    for name in sets.index:
        row = sets.loc[name]
        assert f"{row.difference:+.1f} [{row.difference_low:.1f}, {row.difference_high:.1f}]" in said, name
    edits = pd.read_csv(results / "edits.csv", dtype={"layers": str})
    single = edits[edits["size"] == 1].groupby(["editor", "layers"])["cut"].mean().unstack()
    middle = single[["1", "2", "3", "4"]].mean(axis=1)
    lowest, between = (f"{each['lsdm']:.0f} and {each['fast']:.0f} %" for each in (single["0"], middle))
    assert f"The lowest MLP cuts {lowest}, layers 1 to 4 {between}." in said
    fast = edits[edits["editor"] == "fast"].set_index(["layers", "seed"])["perplexity"]
    assert f"costs {fast['0', 0]:.0f} and {fast['0', 1]:.0f} % of perplexity in the two splits" in said
    assert f"in any other layer {fast.drop('0').max():.1f} % at most" in said
    assert f"About {round(edits['seconds'].sum() / 600) * 10} of one core for {len(edits)} edits" in said
    assert (
        f"{single.loc['lsdm-subject', '0']:.0f} % at the lowest MLP, {middle['lsdm-subject']:.0f} % in layers" in said
    )


def test_the_answer_about_layers_of_smollm2_tells_what_its_results_hold():
    said, results = told_by("locate_vs_edit", "smollm2-135m-instruct")
    names = ["lsdm", "fast", "finetune-located"]
    found = pd.read_csv(results / "correlations.csv")
    assert found.groupby("editor")["seeds"].first().to_dict() == {"fast": 2, "finetune-located": 2, "lsdm": 2}
    rho = found[(found["effect_at"] == "subject_last") & (found["success"] == "cut")].set_index("editor").loc[names]
    sums = pd.read_csv(results / "effects.csv").query("role == 'subject_last'").groupby("layer")[["sum", "pairs"]].sum()
    effect = sums["sum"] / sums["pairs"]
    assert f"carries {effect[0]:+.2f} nats" in said
    assert f"no other of the {len(effect)} layers edited more than {effect.drop(0).max():.2f}." in said
    sets = pd.read_csv(results / "located_against_random.csv").set_index("editor").loc[names]
    at, others = ([f"{value:.0f}" for value in sets[name]] for name in ("located", "random"))
    assert f"cuts {at[0]} % (LSDM), {at[1]} % (FAST) and {at[2]} % (fine-tuning)" in said
    assert f"the other layers cut {others[0]}, {others[1]} and {others[2]} % on average" in said
    more = [
        f"{-row.difference:.0f} [{-row.difference_high:.0f}, {-row.difference_low:.0f}]" for row in sets.itertuples()
    ]
    assert f"which is {more[0]}, {more[1]} and {more[2]} points more." in said
    told = [f"{value:+.2f}" for value in rho["rho"]] + [f"{value:.2f}" for value in rho["p"]]
    assert "(rho {}, {} and {}; p {}, {} and {})".format(*told) in said
    assert (rho["p"] > 0.05).all()
    deep = [f"{row.rho_depth:+.2f} [{row.low_depth:+.2f}, {row.high_depth:+.2f}]" for row in rho.itertuples()]
    assert f"rho {deep[0]} and {deep[2]}, under FAST {deep[1]}." in said
    edits = pd.read_csv(results / "edits.csv")
    assert f"The {len(edits)} edits took {edits['seconds'].sum() / 3600:.1f} hours" in said
    for editor in ("lsdm", "finetune-located"):
        for _, split in edits[edits["editor"] == editor].astype({"layers": int}).groupby("seed"):
            assert split["layers"].corr(split["cut"], method="spearman") > 0.8
            assert split.loc[split["layers"] == 0, "cut"].item() < split["cut"].mean() - 5
    best = edits.groupby(["editor", "layers"])["cut"].mean().unstack().loc[names].idxmax(axis=1)
    assert f"best single layers are {best['lsdm']}, {best['fast']} and {best['finetune-located']}." in said
    fast, rest = edits[edits["editor"] == "fast"], edits[edits["editor"] != "fast"]
    row = fast.loc[fast["kept_prompts"].idxmin()]
    span = f"{row.kept_prompts:.0f} % [{row.kept_prompts_low:.0f}, {row.kept_prompts_high:.0f}]"
    assert f"at layer {row.layers} it keeps {span} of the definitional prompts" in said
    row = fast.loc[fast["perplexity"].idxmax()]
    span = f"{row.perplexity:.1f} % [{row.perplexity_low:.1f}, {row.perplexity_high:.1f}]"
    assert f"at layer {row.layers} perplexity rises by {span}." in said
    assert f"keep {rest['kept_words'].min():.0f} % of the definitional words or more" in said
    assert f"raise perplexity by {rest['perplexity'].max():.1f} % at most." in said


def test_the_answer_about_layers_of_dpo_and_sft_tells_what_its_results_hold():
    said = " ".join(
        (EXPERIMENTS / "locate_vs_edit" / "README.md").read_text().partition("## DPO and SFT on")[2].split()
    )
    results = EXPERIMENTS / "locate_vs_edit" / "results" / "mini-dpo"
    found = pd.read_csv(results / "correlations.csv")
    assert (len(found), f"{found['p'].min():.2f}") == (8, "0.03")
    rho = found[(found["effect_at"] == "subject_last") & (found["success"] == "cut")].set_index("editor")
    told = [f"{row.rho:+.2f} [{row.low:+.2f}, {row.high:+.2f}]" for row in rho.loc[["dpo", "sft"]].itertuples()]
    assert f"rho {told[0]} and {told[1]}." in said
    sets = pd.read_csv(results / "located_against_random.csv").set_index(["layers", "editor"])
    lowest, three = sets.loc["0"], sets.loc["0+2+4"]
    cuts = lowest.loc[["dpo", "sft"], ["located", "random"]].to_numpy()
    assert f"MLP cuts {cuts[0, 0]:.0f} % (DPO) and {cuts[1, 0]:.0f} % (SFT), the other layers" in said
    assert f"layers {cuts[0, 1]:.0f} and {cuts[1, 1]:.0f} % on average" in said
    more = [span(row.difference, row.difference_low, row.difference_high, 0) for row in three.itertuples()]
    assert f"cut {more[0]} and {more[1]} points more than two other threes" in said
    edits = pd.read_csv(results / "edits.csv")
    assert (edits["seed"] == 0).all()
    assert 25 < edits["seconds"].sum() / 60 < 35
    row = edits.loc[edits["ds"].idxmin()]
    assert (row["editor"], row["layers"]) == ("sft", "0+2+4")
    assert f"keeps {row['ds']:.0f} % [{row['ds_low']:.0f}, {row['ds_high']:.0f}] of the distinctions" in said
    assert read_json(results / "recipe.json")["rate"] == 1e-4


@pytest.mark.parametrize("model", ["mini", "mini-dpo", "smollm2-135m-instruct", "smollm2-135m-instruct-dpo"])
def test_the_tables_in_the_readme_are_those_of_the_results(model, tmp_path, monkeypatch):
    run = script("lsdm_table")
    said = (EXPERIMENTS / "lsdm_table" / "README.md").read_text()
    (tmp_path / "README.md").write_text(said)
    monkeypatch.setattr(run, "HERE", tmp_path)
    results = EXPERIMENTS / "lsdm_table" / "results" / model
    found = pd.read_csv(results / "verdicts.csv", keep_default_na=False)
    run.tell(pd.read_csv(results / "table.csv").fillna({"part": ""}), found, model)
    assert (tmp_path / "README.md").read_text() == said
