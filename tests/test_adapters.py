"""Adapters are merged as PEFT computes them unmerged, and one that does not fit is one line."""

import json
import shutil
import sys
import warnings
from pathlib import Path

import pytest
import torch
from families import tokenizer
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from locate.errors import LocateError
from locate.model.causal import load_causal
from locate.model.loading import load

IDS = torch.tensor([tokenizer()("The nurse said that", add_special_tokens=False)["input_ids"]])
GPT2 = {"fan_in_fan_out": True}
KINDS = {
    "conv1d": ("gpt2", GPT2 | {"target_modules": ["c_attn", "c_proj"]}),
    "rslora": ("gpt2", GPT2 | {"target_modules": ["c_fc"], "use_rslora": True, "lora_alpha": 3}),
    "bias": ("gpt2", GPT2 | {"target_modules": ["c_attn"], "bias": "all"}),
    "tied embedding": ("gpt2", {"target_modules": ["wte"]}),
    "tied head": ("gpt2", {"target_modules": ["lm_head"]}),
    "both": ("gpt2", {"target_modules": ["lm_head", "wte"]}),
    "saved head": ("gpt2", GPT2 | {"target_modules": ["c_attn"], "modules_to_save": ["lm_head"]}),
    "saved embedding": ("gpt2", GPT2 | {"target_modules": ["c_attn"], "modules_to_save": ["wte"]}),
    "linear": ("llama", {"target_modules": ["q_proj", "down_proj"]}),
    "dora": ("llama", {"target_modules": ["q_proj"], "use_dora": True}),
    "untied head": ("llama", {"target_modules": ["lm_head", "embed_tokens"]}),
}


def logits(network):
    """All logits of a prompt."""
    with torch.inference_mode():
        return network(IDS).logits[0]


def save_adapter(base: Path, folder: Path, *, trained=True, **settings):
    """A random adapter of a model in a folder, and PEFT's own unmerged model with it."""
    torch.manual_seed(1)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own, of tied weights and of a name that transformers has given up
        wrapped = get_peft_model(network, LoraConfig(r=2, task_type="CAUSAL_LM", **settings)).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad and trained:
                parameter += 0.1 * torch.randn_like(parameter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wrapped.save_pretrained(folder)
    rewrite(folder, base_model_name_or_path=str(base))
    return wrapped


def rewrite(folder: Path, **settings) -> None:
    """Change what an adapter says of itself; None takes a setting away."""
    path = folder / "adapter_config.json"
    content = json.loads(path.read_text()) | settings
    path.write_text(
        json.dumps({key: value for key, value in content.items() if value is not None or key not in settings})
    )


def refused(folder, **options) -> str:
    """What is said of an adapter that is not merged."""
    with pytest.raises(LocateError) as caught:
        load_causal(str(folder), device="cpu", **options)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def adapter(folder_of, tmp_path):
    """An adapter of the random GPT-2 that changes its attention."""
    save_adapter(folder_of("gpt2"), tmp_path / "adapter", **KINDS["conv1d"][1])
    return tmp_path / "adapter"


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_as_unmerged_and_saved_as_an_ordinary_model(kind, folder_of, tmp_path):
    family, settings = KINDS[kind]
    base = logits(AutoModelForCausalLM.from_pretrained(folder_of(family), dtype=torch.float32))
    expected = logits(save_adapter(folder_of(family), tmp_path / "adapter", **settings))
    assert (expected - base).abs().max() > 0.05
    model = load_causal(str(tmp_path / "adapter"), device="cpu")
    assert torch.allclose(logits(model.network), expected, atol=1e-4)
    assert any("LORA adapter" in note and "was merged" in note for note in model.notes)
    model.network.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.float32)
    assert torch.equal(logits(again), logits(model.network))
    hooked = load(str(tmp_path / "adapter"), device="cpu")
    assert torch.allclose(hooked.final_logits(IDS)[0], expected[-1], atol=1e-4)


def test_an_adapter_beside_its_base_is_merged_once(folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "model")
    alone = load_causal(str(folder), device="cpu")
    expected = logits(save_adapter(folder_of("llama"), tmp_path / "adapter", target_modules=["q_proj"]))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(tmp_path / "adapter" / name, folder)
    model = load_causal(str(folder), device="cpu")
    assert torch.allclose(logits(model.network), expected, atol=1e-4)
    assert model.notes[0] == "the LORA adapter in its folder was merged into the weights"
    assert model.checkpoint.weights_sha256 != alone.checkpoint.weights_sha256
    rewrite(folder, base_model_name_or_path="/nowhere/at/all")  # the weights in the folder are its base
    assert torch.equal(logits(load_causal(str(folder), device="cpu").network), logits(model.network))


def test_a_base_may_be_named_from_the_adapters_folder(adapter, folder_of, monkeypatch, tmp_path):
    shutil.copytree(folder_of("gpt2"), tmp_path / "base")
    expected = logits(load_causal(str(adapter), device="cpu").network)
    rewrite(adapter, base_model_name_or_path="../base")
    monkeypatch.chdir("/")
    assert torch.equal(logits(load_causal(str(adapter), device="cpu").network), expected)


def test_one_that_changes_nothing_is_said(folder_of, tmp_path):
    save_adapter(folder_of("llama"), tmp_path / "adapter", trained=False, target_modules=["q_proj"])
    assert any(
        "the adapter changes nothing" in note for note in load_causal(str(tmp_path / "adapter"), device="cpu").notes
    )


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"base_model_name_or_path": None}, "names no base_model_name_or_path"),
        ({"base_model_name_or_path": "/nowhere/model"}, "its base cannot be read (model '/nowhere/model'"),
        ({"peft_type": "PREFIX_TUNING"}, "kind PREFIX_TUNING, which prepends to the prompt"),
        ({"peft_type": None}, "names no peft_type"),
        ({"peft_type": "NONSENSE"}, "cannot be merged"),
        ({"r": 8}, "cannot be merged"),
        ({"target_modules": ["nothing"]}, "Target modules {'nothing'} not found"),
        ({"target_modules": ["c_attn"]}, "6 tensors that the model has no place for"),
        ({"target_modules": ["c_attn", "c_proj", "c_fc"]}, "6 tensors too few"),
    ],
)  # fmt: skip
def test_one_that_does_not_fit_is_one_line(adapter, settings, said):
    rewrite(adapter, **settings)
    if "target_modules" in settings and len(settings["target_modules"]) == 1:
        said = said.replace("6 tensors", "12 tensors")
    assert said in refused(adapter)


def test_an_adapter_of_an_adapter_is_refused(adapter):
    rewrite(adapter, base_model_name_or_path=str(adapter))
    assert "which has an adapter itself: merge that one first" in refused(adapter)


def test_damaged_and_pickled_adapters(adapter):
    from safetensors.torch import load_file

    expected = logits(load_causal(str(adapter), device="cpu").network)
    weights = adapter / "adapter_model.safetensors"
    torch.save(load_file(weights), adapter / "adapter_model.bin")
    weights.write_bytes(weights.read_bytes()[:3000])
    assert "is damaged" in refused(adapter)
    weights.unlink()
    assert "adapter_model.bin is a pickle" in refused(adapter)
    (adapter / "adapter_model.bin").rename(adapter / "kept.bin")
    assert "no adapter_model.safetensors" in refused(adapter)
    (adapter / "kept.bin").rename(adapter / "adapter_model.bin")
    assert torch.equal(logits(load_causal(str(adapter), device="cpu", allow_pickle=True).network), expected)


def test_without_the_package_the_extra_is_named(adapter, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    assert 'pip install "locate-bias[lora]"' in refused(adapter)
