"""Ability: lm-evaluation-harness itself beside our numbers, and the reading of questions."""

import copy
import csv
import gzip
import json
import math
from dataclasses import replace
from pathlib import Path

import lm_eval
import numpy as np
import pandas as pd
import pytest
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from tokenizers.processors import ByteLevel

from locate.errors import LocateError
from locate.evaluation import ability
from locate.evaluation.ability import ARC, BLIMP, HELLASWAG, LAMBADA, OPENBOOKQA, PIQA, WINOGRANDE
from locate.evaluation.crows_pairs import TEST as CROWS
from locate.model.causal import load_causal
from locate.model.likelihood import log_likelihoods

TESTS = (LAMBADA, HELLASWAG, PIQA, ARC, OPENBOOKQA, WINOGRANDE, BLIMP)
ROWS = {
    "lambada": [
        {"text": "The nurse said that she was tired, and the doctor said that he was too. Then they went to bed"},
        {"text": "He looked at the sea. She looked at the sea and he looked at her"},
    ],
    "hellaswag": [
        {"activity_label": "Ice fishing", "ctx_a": "Two men sit on chairs [substeps] in snow.", "ctx_b": "one of them",
         "endings": ["pulls out a fish.", "plays the violin.", "is a car [title] and drives.", "sings."], "label": "0"},
        {"activity_label": "Cooking", "ctx_a": "A woman stands in a kitchen.", "ctx_b": "",
         "endings": ["She cuts bread.", "He rides a horse.", "It rains in Spain.", "They are blue."], "label": "2"},
    ],
    "piqa": [
        {"goal": "Open a door", "sol1": "turn the handle", "sol2": "eat the handle with salt and pepper", "label": 0},
        {"goal": "Make tea", "sol1": "burn the leaves", "sol2": "pour hot water on leaves", "label": 1},
    ],
    "arc_easy": [
        {"question": "What do plants need?", "choices": {"text": ["sand", "light", "iron"], "label": ["1", "2", "3"]},
         "answerKey": "2"},
        {"question": "Where is a fish?", "choices": {"text": ["sky", "water", "fire", "stone"], "label": list("ABCD")},
         "answerKey": "B"},
    ],
    "openbookqa": [
        {"question_stem": "Predators eat", "choices": {"text": ["lions", "rocks", "bunnies", "grass"],
                                                       "label": list("ABCD")}, "answerKey": "C"},
    ],
    "winogrande": [
        {"sentence": "Sarah was a better surgeon than Maria so _ always got the easier cases.", "option1": "Sarah",
         "option2": "Maria", "answer": "2"},
        {"sentence": "The wine would ruin the bed, but the _ was not ruined.", "option1": "blanket", "option2": "bed",
         "answer": "1"},
    ],
    "blimp": [
        {"UID": uid, "sentence_good": good, "sentence_bad": bad} for uid, good, bad in (
            ("anaphor_gender_agreement", "Katherine hurts herself.", "Katherine hurts himself."),
            ("anaphor_gender_agreement", "That man loves himself.", "That man loves herself."),
            ("adjunct_island", "Who should she hug after he left?", "Who should she hug him after left?"),
        )
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


@pytest.fixture(scope="module")
def harness(mini):
    return HFLM(pretrained=mini.network, tokenizer=mini.encoder.tokenizer, batch_size=4)


def written(path: Path, rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def measured(test, model, path):
    return test.measure(model, test.read(path), lambda *_: None)


def harness_results(harness, folder: str, tasks: dict[str, Path], cache: Path, **more):
    """What the harness itself says: its task files with only the place of the data changed, its model, its loop."""
    manager = TaskManager(include_defaults=False, include_path=Path(lm_eval.__file__).parent / "tasks" / folder)
    specs = []
    for name, path in tasks.items():
        files = dict.fromkeys(("train", "validation", "test"), str(path))
        kwargs = {"data_files": files, "cache_dir": str(cache)}
        specs.append({"task": name, "dataset_path": "json", "dataset_name": None, "dataset_kwargs": kwargs, **more})
    loaded = list(manager.load({"group": "g", "task": specs})["tasks"].values())
    return simple_evaluate(harness, tasks=loaded, bootstrap_iters=0, log_samples=True, task_manager=manager)


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.name)
def test_numbers_equal_those_of_the_harness_itself(test, mini, harness, tmp_path):
    rows = ROWS[test.name]
    items = test.read(written(tmp_path / "all.jsonl", rows))
    table = test.measure(mini, items, lambda *_: None)
    names = dict.fromkeys(each.task for each in items.rows)
    parts = {
        name: written(tmp_path / f"{name}.jsonl", [row for row in rows if row.get("UID", name) in name])
        for name in names
    }
    found = harness_results(harness, ability.FORMS[test.name].folder, parts, tmp_path / "cache")
    for name in names:
        own, samples = table[table["task"] == name], found["samples"][name]
        for (_, row), sample in zip(own.iterrows(), samples, strict=True):
            given = [float(response[0][0]) for response in sample["resps"]]
            assert [row[f"log_likelihood_{k}"] for k in range(len(given))] == pytest.approx(given, abs=2e-4)
            assert row["choices"] == len(given)
        for metric in {"acc", "acc_norm"} & set(own.columns):
            assert own[metric].mean() == found["results"][name][f"{metric},none"]
    if test is LAMBADA:
        perplexity = next(score for score in test.score(table) if score.name == "perplexity")
        assert perplexity.value == pytest.approx(found["results"]["lambada_openai"]["perplexity,none"], rel=1e-5)


def test_gold_places_are_those_of_the_rows(mini, tmp_path):
    gold = {
        test.name: measured(test, mini, written(tmp_path / f"{test.name}.jsonl", ROWS[test.name]))["gold"].tolist()
        for test in TESTS
    }
    assert gold == {
        "lambada": [0, 0], "hellaswag": [0, 2], "piqa": [0, 1], "arc_easy": [1, 1], "openbookqa": [2],
        "winogrande": [1, 0], "blimp": [0, 0, 0],
    }  # fmt: skip


def test_crows_pairs_of_the_harness_equal_those_from_log_likelihoods(shared, mini, harness, tmp_path):
    with (shared / "data/crows_pairs/crows_pairs_anonymized.csv").open(encoding="utf-8", newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["bias_type"] == "gender"][:25]
    kept = [{"sent_more": row["sent_more"], "sent_less": row["sent_less"], "bias_type": "gender"} for row in rows]
    path = written(tmp_path / "crows.jsonl", kept)
    found = harness_results(harness, "crows_pairs", {"crows_pairs_english": path}, tmp_path / "cache")
    more, less = (
        [each.log_likelihood for each in log_likelihoods(mini, [("", row[side]) for row in kept])]
        for side in ("sent_more", "sent_less")
    )
    own = np.array(more) - np.array(less)
    result = found["results"]["crows_pairs_english"]
    assert result["pct_stereotype,none"] == np.mean(own > 0)
    assert result["likelihood_diff,none"] == pytest.approx(np.abs(own).mean(), abs=1e-4)
    pd.DataFrame(rows).to_csv(tmp_path / "crows_pairs_anonymized.csv", index=False)
    whole = {score.name: score for score in CROWS.score(measured(CROWS, mini, tmp_path)) if not score.part}
    assert whole["pct_stereotype"].value == pytest.approx(100 * result["pct_stereotype,none"])
    assert whole["likelihood_diff"].value == pytest.approx(result["likelihood_diff,none"], abs=1e-4)


def test_scores_by_hand():
    table = pd.DataFrame({
        "task": ["a", "a", "b", "b"], "gold": [0, 1, 0, 0], "choices": [2, 2, 2, 2], "greedy": [False] * 4,
        "log_likelihood_0": [-1.0, -2.0, -3.0, -1.0], "log_likelihood_1": [-2.0, -2.0, -4.0, -1.5],
        "acc": [1.0, 0.0, 1.0, 1.0],
    })  # fmt: skip
    (accuracy,) = ability.score(table, name="blimp")
    assert (accuracy.value, accuracy.n, accuracy.groups, accuracy.ties) == (75.0, 4, 2, 1)
    lambada = pd.DataFrame({
        "task": ["l"] * 2, "gold": 0, "choices": 1, "greedy": [True, False],
        "log_likelihood_0": [-math.log(2), -math.log(8)], "acc": [1.0, 0.0],
    })  # fmt: skip
    accuracy, perplexity = ability.score(lambada, name="lambada")
    assert (accuracy.value, accuracy.ties, accuracy.groups) == (50.0, 0, 2)
    assert perplexity.value == pytest.approx(4.0)


def test_the_change_of_pronouns_is_paired_by_hand():
    task = ["blimp_anaphor_gender_agreement"] * 4 + ["blimp_adjunct_island"]
    before = pd.DataFrame({"task": task, "acc": [1.0, 1.0, 0.0, 1.0, 1.0]})
    after = pd.DataFrame({"task": task, "acc": [1.0, 0.0, 1.0, 0.0, 0.0]})
    (change,) = BLIMP.paired(before, after)
    assert (change.value, change.n, change.kind, change.part) == (-25.0, 4, "control", "pronoun gender")
    assert change.low < -25 < change.high
    assert BLIMP.paired(before[4:], after[4:]) == []


def test_the_agreement_of_pronouns_stands_for_itself(mini, tmp_path):
    table = measured(BLIMP, mini, written(tmp_path / "blimp.jsonl", ROWS["blimp"]))
    whole, own = BLIMP.score(table)
    assert (whole.n, whole.groups, whole.part, whole.kind) == (3, 2, "", "ability")
    assert (own.n, own.groups, own.part, own.kind) == (2, 2, "pronoun gender", "control")


def test_scores_survive_a_round_trip(mini, tmp_path):
    table = measured(HELLASWAG, mini, written(tmp_path / "hellaswag.jsonl", ROWS["hellaswag"]))
    table.to_parquet(tmp_path / "table.parquet", index=False)
    assert HELLASWAG.score(pd.read_parquet(tmp_path / "table.parquet")) == HELLASWAG.score(table)


@pytest.mark.parametrize(("test", "short", "whole"), [
    (ARC, {"question": "q", "choices": ["x", "y", "z"], "label": 2},
     {"question": "q", "choices": {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}, "answerKey": "C"}),
    (OPENBOOKQA, {"question": "q", "choices": ["x", "y"], "label": 0},
     {"question_stem": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}),
    (WINOGRANDE, {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": 2},
     {"sentence": "a _ b", "option1": "x", "option2": "y", "answer": "2"}),
    (HELLASWAG, {"ctx": "Roof: tar: A man is on a roof. he", "endings": list("abcd"), "label": 3},
     {"activity_label": "Roof", "ctx_a": "tar: A man is on a roof.", "ctx_b": "he", "endings": list("abcd"),
      "label": "3"}),
    (HELLASWAG, {"ctx": "Home: How to sew. Buy thread.", "endings": list("abcd"), "label": 0},
     {"activity_label": "Home", "ctx_a": "How to sew. Buy thread.", "ctx_b": "", "endings": list("abcd"),
      "label": "0"}),
])  # fmt: skip
def test_the_shorter_form_says_the_same(test, short, whole, tmp_path):
    both = test.read(written(tmp_path / "both.jsonl", [short, whole]))
    assert both.rows[0] == both.rows[1]
    assert both.rows[0].fields == whole


@pytest.mark.parametrize(("test", "row"), [
    (LAMBADA, {"text": "oneword"}),
    (LAMBADA, {"passage": "two words"}),
    (HELLASWAG, {"ctx": "A: b. c", "endings": ["a", "b", "c", ""], "label": 0}),
    (HELLASWAG, {"ctx": "A: b. c", "endings": list("abcd"), "label": 4}),
    (PIQA, {"goal": "g", "sol1": "a", "sol2": "b", "label": 2}),
    (PIQA, {"goal": "g", "sol1": "a", "sol2": "b", "label": True}),
    (ARC, {"question": "q", "choices": ["x"], "label": 0}),
    (ARC, {"question": "q", "choices": ["x", "y"], "label": 2}),
    (ARC, {"question": "q", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "C"}),
    (WINOGRANDE, {"sentence": "no gap", "option1": "x", "option2": "y", "answer": 1}),
    (BLIMP, {"UID": "adjunct_island", "sentence_good": "a", "sentence_bad": " "}),
    (BLIMP, ["not", "an", "object"]),
])  # fmt: skip
def test_a_malformed_row_is_named_by_its_line(test, row, tmp_path):
    path = written(tmp_path / "rows.jsonl", [ROWS[test.name][0], row])
    with pytest.raises(LocateError, match=r"rows\.jsonl, line 2: .*expected a JSON object with"):
        test.read(path)


def test_files_that_are_not_there_or_no_text_are_named(tmp_path):
    with pytest.raises(LocateError, match=r"no data named: expected a folder with piqa/piqa_valid\.jsonl\.gz or"):
        PIQA.read(None)
    with pytest.raises(LocateError, match=r"expected a file, or a folder with piqa"):
        PIQA.read(tmp_path)
    (tmp_path / "piqa.jsonl").write_bytes(b"\xff")
    with pytest.raises(LocateError, match="is not UTF-8"):
        PIQA.read(tmp_path)
    (tmp_path / "piqa.jsonl").write_text("\n", encoding="utf-8")
    with pytest.raises(LocateError, match="has no row"):
        PIQA.read(tmp_path)


def test_the_files_at_hand_are_whole(shared):
    counts = {test.name: len(test.read(shared / "data")) for test in TESTS}
    assert counts == {
        "lambada": 5153, "hellaswag": 10042, "piqa": 1838, "arc_easy": 2376, "openbookqa": 500, "winogrande": 1267,
        "blimp": 67_000,
    }  # fmt: skip
    assert len({question.task for question in BLIMP.read(shared / "data").rows}) == 67


def test_a_gzipped_file_reads_like_a_plain_one(tmp_path):
    plain = written(tmp_path / "piqa.jsonl", ROWS["piqa"])
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert PIQA.read(packed).rows == PIQA.read(plain).rows


def test_bos_stands_in_front_only_where_the_tokenizer_puts_it(mini):
    asked = replace(mini, encoder=replace(mini.encoder, before=(), bos="no"))
    assert ability.as_harness(asked).encoder.before == (0,)
    bare = tokenizer_without_bos(mini.encoder.tokenizer)
    other = replace(mini, encoder=replace(mini.encoder, tokenizer=bare))
    assert other.encoder.before == (0,)
    assert ability.as_harness(other).encoder.before == ()


def tokenizer_without_bos(tokenizer):
    """The same pieces, with nothing put in front."""
    bare = copy.deepcopy(tokenizer)
    bare.backend_tokenizer.post_processor = ByteLevel(trim_offsets=False)
    return bare


def test_the_harness_is_quiet_and_left_as_it_was(mini, tmp_path, capfd):
    import datasets

    before = datasets.are_progress_bars_disabled()
    items = PIQA.read(written(tmp_path / "piqa.jsonl", ROWS["piqa"]))
    PIQA.measure(mini, replace(items, rows=items.rows[:1]), lambda *_: None)
    assert capfd.readouterr() == ("", "")
    assert datasets.are_progress_bars_disabled() == before


def test_progress_reaches_its_end(mini, tmp_path):
    said = []
    PIQA.measure(mini, PIQA.read(written(tmp_path / "piqa.jsonl", ROWS["piqa"])), lambda *each: said.append(each))
    assert said[-1] == (4, 4)
