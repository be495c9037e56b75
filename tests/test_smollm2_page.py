"""What docs/smollm2.md prints is what the committed files say, and the experiment on rounding runs on a small model."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from pages import ROOT, blocks, same
from safetensors.numpy import load_file

import locate
from locate.cli.show import print_located
from locate.files import read_json
from locate.prompts import occupation_pairs, read_pairs
from locate.sites import DIRECTIONS

pytestmark = pytest.mark.usefixtures("unchecked_types")

PAGE, FIGURES = ROOT / "docs" / "smollm2.md", ROOT / "figures"
OWN = ROOT / "docs" / "neighbours.csv"
PRINTED = {"--metric neutral_male": "neutral_male", "--prompts docs/neighbours.csv": "neighbours"}


def script():
    """experiments/rounding/run.py as a module."""
    spec = importlib.util.spec_from_file_location("rounding", ROOT / "experiments" / "rounding" / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("option", PRINTED)
def test_what_the_page_prints_is_what_the_kept_files_say(option, capsys):
    (block,) = (each for each in blocks(PAGE, "sh") if option in each.code)
    print_located(locate.load_located(FIGURES / f"located_smollm2_{PRINTED[option]}.json"), [], as_json=False)
    printed = capsys.readouterr().out
    told = block.output.removeprefix("...\n").removesuffix("...\n")  # `trace` prints more before and after
    assert same(told, printed), printed


def test_the_pairs_shown_begin_the_file_that_was_traced():
    (block,) = (each for each in blocks(PAGE, "text") if each.code.startswith("clean,"))
    assert OWN.read_text().startswith(block.code)
    pairs = locate.read_pairs(OWN)
    assert len(pairs) == len({pair.group for pair in pairs}) == 12
    assert len({frozenset((pair.clean_subject, pair.corrupted_subject)) for pair in pairs}) == 6
    trace = locate.load_located(FIGURES / "located_smollm2_neighbours.json").trace
    assert trace["recipe"]["prompts_sha256"] == pairs.hash


def test_the_layout_is_that_of_the_model():
    about = read_json(FIGURES / "effects_smollm2.json")["model"]
    first = f"| {about['n_layers']} | {about['d_model']} | {about['n_heads']} |"
    assert f"{first} 3 | 1,536 | {about['d_vocab']:,} | nothing |" in PAGE.read_text()
    assert about["before"] == []
    folder = ROOT / "models" / "smollm2-135m-instruct"
    if not folder.is_dir():
        pytest.skip("needs models/smollm2-135m-instruct: make smollm2")
    from transformers import AutoConfig, AutoTokenizer

    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert (config.num_key_value_heads, config.intermediate_size) == (3, 1536)
    tokens = {word: len(tokenizer(f" {word}", add_special_tokens=False)["input_ids"]) for word in ("her", "his", "xe")}
    assert tokens == {"her": 1, "his": 1, "xe": 2}


def test_rounding_keeps_what_is_on_the_grid_and_its_error_is_half_a_step_at_most():
    rounding = script()
    on_grid = np.tile(np.arange(-8, 8, dtype=np.float32) / 4, (3, 4))
    assert (rounding.round_to(on_grid, "Q4_0") == on_grid).all()
    weights = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)
    steps = np.abs(weights.reshape(-1, 32)).max(axis=1, keepdims=True) / 8
    assert (np.abs(rounding.round_to(weights, "Q4_0") - weights).reshape(-1, 32) <= 1.01 * steps).all()
    assert (rounding.round_to(weights, "Q4_0") != weights).any()


def test_the_error_expected_of_the_first_rounding_is_the_one_made():
    """By hand for one block, and against Q4_1 itself for many."""
    rounding = script()
    assert rounding.expected_square(np.linspace(0, 15, 32)) == pytest.approx(30 / 12)
    weights = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    first = dequantize(quantize(weights, GGMLQuantizationType.Q4_1), GGMLQuantizationType.Q4_1)
    assert rounding.expected_square(first) == pytest.approx(((first - weights) ** 2).sum(), rel=0.03)


def test_the_experiment_rounds_traces_and_compares(folder_of, tmp_path, monkeypatch):
    rounding = script()
    model = folder_of("llama")
    monkeypatch.setattr(rounding.locate, "occupation_pairs", few(locate.occupation_pairs))
    rounding.traced(model, tmp_path / "run")
    words = ["--model", model, "--kinds", "Q4_0", "--work", tmp_path, "--out", tmp_path / "out"]
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, [tmp_path / "run", *words])])
    rounding.main()
    about = read_json(tmp_path / "out" / "Q4_0.json")
    assert 0.05 < about["rounding"] < 0.15
    table = pd.read_csv(tmp_path / "out" / "changes_Q4_0.csv")
    assert set(table["direction"]) == set(DIRECTIONS)
    assert (table["effect_b"] - table["effect_a"]).to_numpy() == pytest.approx(table["change"].to_numpy(), abs=1e-5)
    assert table["change"].abs().max() > 0
    before, after = (load_file(folder / "model.safetensors") for folder in (model, tmp_path / "rounded-Q4_0"))
    changed = {name for name in before if not (before[name] == after[name]).all()}
    assert changed == {name for name in before if ".layers." in name and before[name].ndim == 2}


def few(pairs):
    """The first pairs alone."""
    return lambda **how: pairs(**how).first(6)


@pytest.mark.parametrize("path", sorted(FIGURES.glob("located_*.json")), ids=lambda path: path.stem)
def test_the_kept_answers_are_those_of_the_kept_prompts(path):
    """By the hash of the prompts, which the run wrote itself."""
    given = [occupation_pairs(swap="opposite", templates_each=1), read_pairs(OWN)]
    told = read_json(path)["trace"]["prompts"]
    (prompts,) = (each for each in given if each.hash == told["sha256"])
    assert (told["pairs"], told["answers"]) == (len(prompts), prompts.answers)
