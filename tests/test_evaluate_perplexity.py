"""Perplexity: of a model that says nothing, beside a second implementation, and its change."""

import copy
import csv
import gzip
import json
import math
from dataclasses import replace
from importlib.resources import files

import pandas as pd
import pytest
import torch

from locate.errors import LocateError
from locate.evaluation.perplexity import TEST, Excerpt, perplexity_change, windows
from locate.evaluation.scores import Items
from locate.model import likelihood
from locate.model.causal import load_causal

PROSE = (
    "The nurse said that she was tired.\nNaïve café owners — 3 of them — cost £5. 😀 And so on, she said; he left.\n"
)
TEXTS = files("locate") / "evaluation" / "text"


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


def measured(model, *texts):
    return TEST.measure(model, Items(tuple(Excerpt(f"t{i}", text) for i, text in enumerate(texts))), lambda *_: None)


def test_a_model_that_says_nothing_has_the_perplexity_of_its_vocabulary(mini):
    network = copy.deepcopy(mini.network)
    for parameter in network.parameters():
        parameter.data.zero_()
    table = measured(mini.with_network(network), PROSE, PROSE * 20)
    pieces = network.config.vocab_size
    perplexity, bits = TEST.score(table)
    assert perplexity.value == pytest.approx(pieces, rel=1e-5)
    assert (perplexity.low, perplexity.high) == (pytest.approx(pieces, rel=1e-5), pytest.approx(pieces, rel=1e-5))
    per_token = math.log2(pieces)
    assert bits.value == pytest.approx(per_token * table["tokens"].sum() / (21 * len(PROSE.encode())), rel=1e-5)


def test_perplexity_equals_that_of_the_plain_network_window_by_window(mini):
    text = (TEXTS / "kipling_1.txt").read_text(encoding="utf-8")
    table = measured(mini, text)
    ids = torch.tensor(
        [mini.start, *mini.encoder.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
    )
    losses = []
    with torch.inference_mode():
        for first in range(0, len(ids) - 1, 256):
            window = ids[None, first : first + 257]
            losses.append(
                torch.nn.functional.cross_entropy(
                    mini.network(window[:, :-1]).logits[0], window[0, 1:], reduction="none"
                )
            )
    assert table["tokens"].tolist() == [len(each) for each in losses]
    assert table["log_likelihood"].tolist() == pytest.approx([-float(each.sum()) for each in losses], rel=1e-5)
    perplexity, bits = TEST.score(table)
    assert perplexity.value == pytest.approx(float(torch.cat(losses).mean().exp()), rel=1e-5)
    assert bits.value == pytest.approx(float(torch.cat(losses).sum()) / math.log(2) / len(text.encode()), rel=1e-5)
    assert perplexity.low < perplexity.value < perplexity.high
    assert perplexity.groups == len(table) == perplexity.n


def test_a_batch_holds_as_many_logits_as_it_may(mini, monkeypatch):
    """The vocabulary is read out at every token, so that a large one leaves room for fewer tokens."""
    pieces, sizes = mini.network.config.vocab_size, []
    texts = [PROSE[: 40 + 5 * i] for i in range(8)]
    whole = measured(mini, *texts)
    monkeypatch.setattr(likelihood, "LOGITS", 100 * pieces)
    hook = mini.network.register_forward_pre_hook(lambda _, args: sizes.append(args[0].numel()))
    table = measured(mini, *texts)
    likelihood.log_likelihoods(mini, [("", text) for text in texts])
    hook.remove()
    assert len(sizes) > 4
    assert max(sizes) <= 100
    pd.testing.assert_frame_equal(table, whole, rtol=1e-5)


@pytest.mark.parametrize("length", [1, 7, 256])
def test_windows_score_each_token_and_byte_once(mini, length):
    found = windows(mini, Excerpt("e", PROSE), length)
    ids = mini.encoder.tokenizer(PROSE, add_special_tokens=False)["input_ids"]
    assert [token for window in found for token in window.ids[1:]] == ids
    assert found[0].ids[0] == mini.start
    assert [window.ids[0] for window in found[1:]] == [window.ids[-1] for window in found[:-1]]
    assert sum(window.bytes for window in found) == len(PROSE.encode())


@pytest.mark.parametrize("before", [(0,), ()])
def test_the_first_window_starts_with_one_bos(mini, before):
    model = replace(mini, encoder=replace(mini.encoder, before=before))
    (window,) = windows(model, Excerpt("e", "The nurse"), 256)
    assert window.ids == [mini.start, *mini.encoder.tokenizer("The nurse", add_special_tokens=False)["input_ids"]]


def test_scores_by_hand():
    table = pd.DataFrame(
        {
            "excerpt": ["a", "b"],
            "window": [0, 0],
            "tokens": [1, 3],
            "bytes": [2, 8],
            "log_likelihood": [-math.log(2), -3 * math.log(4)],
        }
    )
    perplexity, bits = TEST.score(table)
    assert perplexity.value == pytest.approx(2 ** (7 / 4))  # 1 + 6 bits over 4 tokens
    assert bits.value == pytest.approx(7 / 10)
    assert (perplexity.groups, perplexity.n) == (2, 2)


def test_a_single_window_has_no_interval():
    columns = {"excerpt": ["a"], "window": [0], "tokens": [4], "bytes": [9], "log_likelihood": [-8.0]}
    for score in TEST.score(pd.DataFrame(columns)):
        assert score.value > 0
        assert math.isnan(score.low)
        assert math.isnan(score.high)


def test_a_change_is_that_of_paired_windows():
    table = pd.DataFrame(
        {
            "excerpt": ["a", "a", "b"],
            "window": [0, 1, 0],
            "tokens": [4, 4, 8],
            "bytes": [9, 9, 9],
            "log_likelihood": [-8.0, -12.0, -40.0],
        }
    )
    same = perplexity_change(table, table)
    assert (same.value, same.low, same.high) == (0, 0, 0)
    doubled = perplexity_change(
        table, table.assign(log_likelihood=table["log_likelihood"] - table["tokens"] * math.log(2))
    )
    assert (doubled.value, doubled.low, doubled.high) == pytest.approx((100, 100, 100))
    some = table.assign(log_likelihood=[-8.0, -12.0, -40.0 - 16 * math.log(2)])  # exp(mean) of 16 log 2 over 16 tokens
    assert perplexity_change(table, some).value == pytest.approx(100)
    assert TEST.paired(table, table) == [same]
    with pytest.raises(LocateError, match="2 after, cut differently"):
        perplexity_change(table, table[:2])


def test_the_bundled_texts_are_a_dozen_that_mini_has_not_read(shared):
    items = TEST.read(None)
    assert len(items) == 12
    assert 55_000 < sum(len(each.text.encode()) for each in items.rows) < 70_000
    preserve = (TEXTS / "preserve.txt").read_text(encoding="utf-8")
    assert 190_000 < len(preserve.encode()) < 220_000
    lines = {"test": set(), "valid": set()}
    with gzip.open(
        shared / "data/corpus_english_novels/english_novels_1880_1928.jsonl.gz", "rt", encoding="utf-8"
    ) as novels:
        for line in novels:
            if '"split": "train"' not in line[:200]:
                record = json.loads(line)
                if record["split"] in lines:
                    lines[record["split"]] |= set(record["text"].splitlines())
    assert all(set(each.text.splitlines()) <= lines["test"] for each in items.rows)
    assert set(preserve.splitlines()) <= lines["valid"]


def test_every_bundled_text_has_its_source():
    with (TEXTS / "sources.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.DictReader(table))
    assert {row["file"] for row in rows} == {each.name for each in TEXTS.iterdir() if each.name.endswith(".txt")}
    assert all(row["author"] and row["title"] and int(row["year"]) < 1929 for row in rows)


def test_texts_are_read_from_a_file_a_folder_and_gzip(tmp_path):
    (tmp_path / "b.txt").write_text("two", encoding="utf-8")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one"))
    (tmp_path / "notes.md").write_text("not a text", encoding="utf-8")
    items = TEST.read(tmp_path)
    assert [(each.name, each.text) for each in items.rows] == [("a", "one"), ("b", "two")]
    assert TEST.read(tmp_path / "b.txt").rows == (Excerpt("b", "two"),)


@pytest.mark.parametrize(("name", "raw", "said"), [
    ("empty.txt", b" \n", "is empty"),
    ("latin.txt", b"caf\xe9", "is not UTF-8"),
    ("broken.txt.gz", b"not gzip", "is not UTF-8"),
    ("absent.txt", None, "no file"),
])  # fmt: skip
def test_what_is_no_text_is_named(tmp_path, name, raw, said):
    if raw is not None:
        (tmp_path / name).write_bytes(raw)
    with pytest.raises(LocateError, match=f"{name}.*{said}|{said}.*{name}"):
        TEST.read(tmp_path / name)


def test_a_folder_without_texts_is_refused(tmp_path):
    with pytest.raises(LocateError, match="holds no"):
        TEST.read(tmp_path)
