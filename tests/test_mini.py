"""The bundled model: what its card says is derived again from the weights that are shipped."""

import hashlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import locate
from locate.prompts import occupation_table, templates

ROOT = Path(__file__).resolve().parents[1]
MINI = ROOT / "locate" / "mini"
EXPERIMENT = ROOT / "experiments" / "mini"
RESULTS = EXPERIMENT / "results"
sys.path.insert(0, str(EXPERIMENT))


@pytest.fixture(scope="module")
def summary():
    return json.loads((RESULTS / "summary.json").read_text())


@pytest.fixture(scope="module")
def mini():
    return locate.load("mini", device="cpu")


@pytest.fixture(scope="module")
def derived(mini):
    """Mean log-odds of each word over the templates, through the project's own loader."""
    table = pd.read_csv(RESULTS / "log_odds.csv")
    she, he = (mini.encode("The nurse said that" + word)[0][-1] for word in (" she", " he"))
    prompts = [mini.encode(form.replace("{subject}", word))[0] for word in table["word"] for form in templates()]
    odds = np.empty(len(prompts))
    for length in {len(prompt) for prompt in prompts}:
        rows = [row for row, prompt in enumerate(prompts) if len(prompt) == length]
        for start in range(0, len(rows), 128):
            chosen = rows[start : start + 128]
            logits = mini.final_logits(torch.tensor([prompts[row] for row in chosen]))
            odds[chosen] = (logits[:, she] - logits[:, he]).numpy()
    return table.assign(derived=odds.reshape(len(table), -1).mean(1))


def test_the_judged_weights_are_the_shipped_ones(summary):
    weights = (MINI / "model.safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == summary["model"]["weights_sha256"]


def test_it_is_small_and_safe():
    assert sum(path.stat().st_size for path in MINI.iterdir()) <= 20e6
    assert not [path for path in MINI.iterdir() if path.suffix in (".bin", ".pt", ".pkl", ".py")]
    from safetensors import safe_open

    with safe_open(MINI / "model.safetensors", "pt") as file:
        assert {str(file.get_tensor(name).dtype) for name in file.keys()} == {"torch.float16"}  # noqa: SIM118


def test_pronouns_are_single_tokens_and_most_occupations_few(mini):
    for word in (" he", " she", " they", " his", " her"):
        assert len(mini.tokenizer(word, add_special_tokens=False)["input_ids"]) == 1
    assert 4000 <= mini.d_vocab <= 8192
    names = occupation_table()["occupation"]
    counts = [len(mini.tokenizer(f" {name}", add_special_tokens=False)["input_ids"]) for name in names]
    assert np.mean([count <= 3 for count in counts]) > 0.6


def test_log_odds_are_those_of_the_results(derived):
    np.testing.assert_allclose(derived["derived"], derived["log_odds"], rtol=0, atol=2e-3, equal_nan=False)


def test_definitional_words_get_their_pronoun(derived, summary):
    words = derived[derived["set"] == "definition"].merge(
        pd.read_csv(ROOT / "locate" / "prompts" / "tables" / "definitional.csv"), on="word", validate="one_to_one"
    )
    right = np.sign(words["derived"]) == words["gender"]
    found = summary["right_pronoun"]["mean_over_templates"]
    assert right.mean() == pytest.approx(found["share"], abs=1e-4)
    assert right.mean() >= 0.9
    assert set(words["word"][~right]) == set(found["wrong"])


@pytest.mark.parametrize("x", ["text_she_share", "share_women"])
def test_correlations_are_those_of_the_results(derived, summary, x):
    shares = pd.read_csv(RESULTS / "she_share.csv").query("set == 'occupation' and seen >= 50")
    rows = shares.merge(derived[derived["set"] == "occupation"], on="word", validate="one_to_one")
    rows = rows.merge(occupation_table(), left_on="word", right_on="occupation", validate="one_to_one")
    rows["text_she_share"] = rows["she"] / rows["with_pronoun"]
    if x == "text_she_share":
        rows = rows[rows["with_pronoun"] >= 10]
    found = summary["log_odds_and"][x]
    assert len(rows) == found["n"]
    assert np.corrcoef(rows[x], rows["derived"])[0, 1] == pytest.approx(found["r"], abs=2e-3)
    assert found["low"] < found["r"] < found["high"]


def test_it_reads_better_than_trigrams_everywhere(summary):
    for splits in summary["perplexity"].values():
        for row in splits.values():
            assert row["model"]["high"] < row["trigram"]["low"]


def test_perplexity_is_that_of_the_results(shared, mini, summary):
    """On the smallest held-out split, from the text itself."""
    from corpus import documents
    from evaluate import model_losses

    ids = [
        [mini.tokenizer.bos_token_id, *mini.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]
        for text in documents(shared / "data", "openstax", "test")
    ]
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(MINI, dtype=torch.float32).eval()
    with torch.inference_mode():
        losses = model_losses(model, np.concatenate([np.array(row) for row in ids]))
    found = summary["perplexity"]["openstax"]["test"]
    assert len(losses) == found["pieces"]
    assert math.exp(losses.mean(dtype=float)) == pytest.approx(found["model"]["perplexity"], rel=1e-3)


def test_the_card_is_made_of_the_results():
    from card import CARD, card

    assert CARD.read_text() == card()
