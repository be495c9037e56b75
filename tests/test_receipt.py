"""The receipt: what is proved of an edited model on the disk, and that nothing is left when the proof fails."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made import save_adapter, save_gguf
from test_editors import TEMPLATE, drawn
from transformers import AutoModelForCausalLM

from locate import LocateError
from locate.editors import receipt
from locate.editors.edit import Edit, ParameterChange, load_edit, product_change
from locate.editors.receipt import check_free, compare_tensors, own_part, save_edited
from locate.editors.receipt_words import receipt_lines, score_words
from locate.editors.stamp import empty_stamp
from locate.evaluation import occupations, perplexity
from locate.evaluation.run import edited_of
from locate.model.causal import load_causal
from locate.model.likelihood import next_log_probs
from locate.model.matrices import matrix
from locate.words import interval_words

FIGURES = Path(__file__).parents[1] / "figures"


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini")


@pytest.fixture(scope="module", autouse=True)
def few_items():
    """Every fifth prompt and two excerpts judge, so that each proof takes seconds."""

    def some(test, chosen):
        return replace(test, read=lambda path: replace(test.read(path), rows=test.read(path).rows[chosen]))

    with pytest.MonkeyPatch.context() as patch:
        judges = (some(occupations.TEST, slice(None, None, 5)), some(perplexity.TEST, slice(2)))
        patch.setattr(receipt, "JUDGES", judges)
        yield


def moved(model, size=0.05, **options):
    """An edit of one matrix in two random directions."""
    layer = matrix(model.network, TEMPLATE.format(1))
    into, fed = layer.weight.shape
    change = product_change(size * drawn(fed, 2), drawn(2, into, seed=1))
    seen = {"words": ["nurse", "actress"], "templates": ["The {subject} said that"]}
    return Edit("test", model.provenance(), {layer.parameter: change}, edited=seen, **options)


@pytest.fixture(scope="module")
def saved(mini, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "edited"
    return folder, save_edited(moved(mini), mini, folder), moved(mini)


def test_the_edited_model_is_an_ordinary_checkpoint(saved, mini):
    folder, _, made = saved
    again = load_causal(str(folder))
    prompts = ["The nurse said that", "The king was angry because"]
    with made.applied(mini):
        wanted = next_log_probs(mini, prompts, [" she", " he"])
    assert not torch.equal(next_log_probs(mini, prompts, [" she", " he"]), wanted)
    torch.testing.assert_close(next_log_probs(again, prompts, [" she", " he"]), wanted, rtol=0, atol=1e-5)
    assert again.checkpoint.tokenizer_sha256 == mini.checkpoint.tokenizer_sha256
    assert edited_of(again) == made.edited
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json", "edit.safetensors", "generation_config.json", "model.safetensors", "receipt.json",
        "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    assert [path.name for path in folder.parent.iterdir()] == ["edited"]


def test_the_receipt_says_what_changed_and_that_nothing_else_did(saved, mini):
    folder, told, made = saved
    assert json.loads((folder / "receipt.json").read_text()) == json.loads(json.dumps(told, allow_nan=False))
    (changed,) = told["tensors"]["changed"]
    (name,) = made.changes
    assert changed["name"] == name
    assert changed["before_sha256"] != changed["after_sha256"]
    before = mini.network.state_dict()[name]
    after = load_causal(str(folder)).network.state_dict()[name]
    assert changed["norm"] == pytest.approx(float((after.double() - before.double()).norm()), rel=1e-9)
    assert told["tensors"]["unchanged"] == len(mini.network.state_dict()) - 1
    assert told["reload"]["largest_difference"] <= 1e-5
    assert told["model"]["weights_sha256"] == mini.checkpoint.weights_sha256
    assert told["edited_weights_sha256"] == load_causal(str(folder)).checkpoint.weights_sha256


def test_the_receipt_holds_bias_and_knowledge_before_and_after(saved):
    _, told, _ = saved
    scores = told["scores"]
    assert set(scores["cut"]) == {"all", "edited", "held_out", "held_out_both"}
    was = {(score["name"], score["part"]): score for score in scores["before"]}
    now = {(score["name"], score["part"]): score for score in scores["after"]}
    assert set(was) == set(now)
    for part in ("", "held-out words"):
        size = [each["abs_log_odds", part]["value"] for each in (was, now)]
        cut = scores["cut"]["all" if part == "" else "held_out"]["value"]
        assert cut == pytest.approx(100 * (1 - size[1] / size[0]), rel=1e-9)
    assert was["perplexity", ""]["value"] < now["perplexity", ""]["value"]
    assert {each["name"] for each in scores["kept"]} == {"kept_definition_words", "kept_definition_prompts"}


def test_the_edit_beside_the_checkpoint_makes_the_same_model(saved, mini):
    folder, told, _ = saved
    again = load_edit(folder / "edit.safetensors")
    with again.applied(mini):
        assert compare_tensors(again, load_causal("mini"), mini)["changed"] == told["tensors"]["changed"]


def test_a_folded_stamp_is_proved_too(mini, tmp_path):
    stamp = empty_stamp(mini.network, TEMPLATE, 3, 4, seed=0)
    stamp.values[:] = 0.3 * torch.randn(stamp.values.shape, generator=torch.Generator().manual_seed(1))
    made = Edit("test", mini.provenance(), {}, stamps=(stamp,), edited={"words": ["nurse"], "templates": ["x"]})
    told = save_edited(made, mini, tmp_path / "edited")
    assert not any(row["own_part_changed"] for row in told["tensors"]["changed"])
    assert told["tensors"]["unchanged"] == len(mini.network.state_dict())
    layer = [row for row in told["tensors"]["changed"] if ".3." in row["name"] and row["name"].endswith("weight")]
    assert [row["norm"] > 0 for row in layer] == [True, True]
    others = [row for row in told["tensors"]["changed"] if ".3." not in row["name"]]
    assert others
    assert all(row["norm"] == 0 for row in others)


def failing(mini, tmp_path, match, made=None, error=LocateError):
    before = {name: tensor.clone() for name, tensor in mini.network.state_dict().items()}
    with pytest.raises(error, match=match):
        save_edited(made or moved(mini), mini, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in mini.network.state_dict().items())


@pytest.fixture
def quick(monkeypatch):
    """Measuring left out: failures before it are under test."""
    monkeypatch.setattr(receipt, "measure_tests", lambda *_, **__: {})


def test_an_edit_that_changes_no_tensor_is_an_error(mini, tmp_path, quick):
    (name,) = moved(mini).changes
    nothing = ParameterChange((torch.zeros_like(mini.network.state_dict()[name]),))
    failing(mini, tmp_path, "changed no tensor", Edit("test", mini.provenance(), {name: nothing}))


def test_an_edit_without_effect_is_an_error(mini, tmp_path):
    failing(mini, tmp_path, "has no effect", moved(mini, size=1e-9))


def test_a_full_disk_leaves_nothing(mini, tmp_path, quick, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(mini.network), "save_pretrained", full)
    failing(mini, tmp_path, "No space left on device.*the original is unchanged")


def test_a_stop_in_the_middle_leaves_nothing(mini, tmp_path, quick, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(receipt, "load_causal", stopped)
    failing(mini, tmp_path, None, error=KeyboardInterrupt)


def test_a_model_that_is_not_the_edited_one_after_the_reload_is_an_error(mini, tmp_path, quick, monkeypatch):
    monkeypatch.setattr(receipt, "write_checkpoint", lambda network, model, place: receipt_of_another(model, place))
    failing(mini, tmp_path, r"the reloaded model differs|changed no tensor")


def receipt_of_another(model, place: Path):
    """A checkpoint without the edit."""
    import shutil

    for path in model.checkpoint.folder.iterdir():
        if path.is_file():
            shutil.copyfile(path, place / path.name)


def test_a_tensor_that_the_edit_does_not_name_is_an_error(mini):
    other = load_causal("mini")
    with torch.no_grad():
        other.network.transformer.h[2].mlp.c_fc.bias[0] += 1
    with moved(mini).applied(other), pytest.raises(LocateError, match=r"h.2.mlp.c_fc.bias changed, which the edit"):
        compare_tensors(moved(mini), mini, other)


def test_a_folder_that_is_there_is_left_alone(mini, tmp_path):
    target = tmp_path / "edited"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    with pytest.raises(LocateError, match="exists already"):
        save_edited(moved(mini), mini, target)
    assert (target / "mine.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(LocateError, match=r"edited cannot be made: nothing may be written into .*file; choose another"):
        check_free(tmp_path / "file" / "deeper" / "edited")
    check_free(tmp_path / "new" / "deeper" / "edited")
    monkeypatch.setattr("locate.editors.receipt.os.access", lambda *_: False)
    with pytest.raises(LocateError, match="nothing may be written"):
        check_free(tmp_path / "new" / "edited")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_the_own_part_of_a_widened_tensor():
    wide = torch.arange(12).view(3, 4)
    assert torch.equal(own_part(wide, torch.zeros(2, 3)), wide[:2, :3])


@pytest.mark.parametrize("kind", ["gguf", "adapter"])
def test_dequantised_and_merged_models_are_saved_as_ordinary_checkpoints(kind, folder_of, tmp_path):
    base, source = folder_of("llama"), tmp_path / f"model.{kind}"
    save_gguf(base, source, "Q8_0") if kind == "gguf" else save_adapter(base, source)
    model = load_causal(str(source))
    layer = matrix(model.network, "model.layers.1.mlp.down_proj")
    into, fed = layer.weight.shape
    change = product_change(drawn(into, 2), drawn(2, fed, seed=1))
    made = Edit("test", model.provenance(), {layer.parameter: change}, edited={"words": ["nurse"], "templates": []})
    told = save_edited(made, model, tmp_path / "edited")
    assert told["tensors"]["files"] is None
    assert any(("dequantised" if kind == "gguf" else "merged") in note for note in told["model"]["notes"])
    ids = torch.tensor([model.encoder.encode("The nurse said that")[0]])
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "edited").eval()
    with torch.inference_mode(), made.applied(model):
        expected = model.network(ids).logits
        assert torch.allclose(again(ids).logits, expected, atol=1e-5, rtol=0)
    assert not torch.allclose(model.network(ids).logits, expected, atol=1e-2)


def test_what_the_command_line_says_of_what_was_edited():
    def said(name):
        return receipt_lines(json.loads((FIGURES / f"receipt_{name}_smollm2.json").read_text()))

    assert any(line.startswith("layers 15, 20, 25: 3 tensors changed") for line in said("dpo_random"))
    assert any(line.startswith("every parameter: 210 tensors changed") for line in said("dpo_lora"))


def test_numbers_of_a_receipt_have_as_many_decimals_as_their_scale():
    lines = receipt_lines(json.loads((FIGURES / "receipt_fast.json").read_text()))
    assert lines[0] == "held-out occupations: mean |log-odds| cut by 67.7 [60.4, 73.6] %"
    assert lines[3:7] == [
        "gendered words that keep their own pronoun: 100.0 [90.5, 100.0] %, n 37",
        "prompts about gendered words that keep their pronoun: 97.9 [88.8, 99.8] %, n 654",
        "perplexity: +0.080 [+0.028, +0.131] %",
        "layer 4: 18 tensors changed or widened",
    ]
    assert lines[-1] == "reloaded from disk: log-probabilities 0.0000134 nats apart at most"
    (same,) = receipt_lines(json.loads((FIGURES / "receipt_lsdm_smollm2.json").read_text()))[-1:]
    assert same == "reloaded from disk: log-probabilities the same to the last digit"
    score = {"value": 1234.6, "low": None, "high": None}
    assert score_words(score) == "1235"
    assert score_words(score | {"value": -0.5}, interval_words) == "-0.50"
