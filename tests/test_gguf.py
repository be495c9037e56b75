"""GGUF files: the weights they hold, dequantised, their tokenizer, and one line for what cannot be read."""

import shutil
import sys

import numpy as np
import pytest
import torch
from families import tokenizer
from gguf_models import CONFIGS, network, write_gguf
from transformers import AutoModelForCausalLM

from locate.errors import LocateError
from locate.model.causal import load_causal
from locate.model.checkpoint import find_checkpoint
from locate.model.loading import load

PROMPT = "The nurse said that"


def final_logits(model, prompt=PROMPT):
    """Logits of a plain model after a prompt without anything before it."""
    ids = torch.tensor([tokenizer()(prompt, add_special_tokens=False)["input_ids"]])
    with torch.inference_mode():
        return model(ids).logits[0, -1]


def refused(path) -> str:
    """What is said of a file that does not load."""
    with pytest.raises(LocateError) as caught:
        load_causal(str(path), device="cpu")
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
@pytest.mark.parametrize("family", CONFIGS)
def test_logits_are_those_of_the_dequantised_weights(family, kind, tmp_path):
    plain = network(family)
    before = final_logits(plain)
    path = write_gguf(tmp_path / "tiny.gguf", plain, kind)
    assert (final_logits(plain) - before).abs().max() > 1e-4  # the quantisation can be seen
    model = load_causal(str(path), device="cpu")
    assert torch.allclose(final_logits(model.network), final_logits(plain), atol=2e-6)
    assert model.provenance()["quantisation"] == kind
    assert f"dequantised from {kind} in tiny.gguf" in model.notes[0]
    assert model.checkpoint.parameters == sum(each.numel() for each in plain.parameters())


@pytest.mark.parametrize("family", CONFIGS)
def test_it_is_hooked_as_any_other(family, tmp_path):
    plain = network(family)
    model = load(str(write_gguf(tmp_path / "tiny.gguf", plain, "Q8_0")), device="cpu")
    ids = torch.tensor([tokenizer()(PROMPT, add_special_tokens=False)["input_ids"]])
    assert torch.allclose(model.final_logits(ids)[0], final_logits(plain), atol=1e-5)


@pytest.mark.parametrize("add_bos", [None, True, False])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gpt2"])
def test_text_is_read_as_the_file_says(family, add_bos, tmp_path):
    model = load_causal(str(write_gguf(tmp_path / "tiny.gguf", network(family), add_bos=add_bos)), device="cpu")
    expected = tokenizer()(PROMPT, add_special_tokens=False)["input_ids"]
    assert model.encoder.tokenizer(PROMPT, add_special_tokens=False)["input_ids"] == expected
    assert model.encoder.tokenizer(PROMPT)["input_ids"] == [0] * bool(add_bos) + expected
    assert tuple(model.encoder.before) == ((0,) if add_bos else ())


def test_what_is_saved_is_an_ordinary_checkpoint(tiny_gguf, tmp_path):
    model = load_causal(str(tiny_gguf), device="cpu")
    model.network.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    assert torch.equal(final_logits(again), final_logits(model.network))
    assert "quantization_config" not in (tmp_path / "config.json").read_text()


def test_a_folder_stands_for_its_only_file_and_hashes_are_of_the_file(tiny_gguf, tmp_path):
    shutil.copy(tiny_gguf, tmp_path / "a.gguf")
    options = {"revision": None, "allow_pickle": False, "trust_remote_code": False}
    of_file, of_folder = find_checkpoint(str(tiny_gguf), **options), find_checkpoint(str(tmp_path), **options)
    assert of_file.weights_sha256 == of_folder.weights_sha256
    assert of_file.config_sha256 == of_folder.config_sha256
    assert of_file.tokenizer_sha256 == of_folder.tokenizer_sha256
    shutil.copy(tiny_gguf, tmp_path / "b.gguf")
    assert "holds 2 GGUF files (a.gguf, b.gguf): give one by its file name" in refused(tmp_path)
    assert find_checkpoint(str(tmp_path / "b.gguf"), **options).weights_sha256 == of_file.weights_sha256


def test_beside_safetensors_it_is_not_read_and_that_is_said(tiny_gguf, folder_of, tmp_path):
    folder = shutil.copytree(folder_of("llama"), tmp_path / "model")
    shutil.copy(tiny_gguf, folder / "other.gguf")
    model = load_causal(str(folder), device="cpu")
    assert model.checkpoint.quantisation is None
    assert any("other.gguf" in note and "not read" in note for note in model.notes)


@pytest.mark.parametrize("length", [0, 3, 40, 2000, -200])
def test_a_file_that_is_cut_is_one_line(tiny_gguf, tmp_path, length):
    path = tmp_path / "cut.gguf"
    path.write_bytes(tiny_gguf.read_bytes()[:length])
    assert "download it again" in refused(path)


def test_other_bytes_shards_and_other_kinds_of_model_are_one_line(tmp_path):
    (tmp_path / "text.gguf").write_text("version https://git-lfs.github.com/spec/v1")
    assert "is not a GGUF file" in refused(tmp_path / "text.gguf")
    assert "or a GGUF file" in refused(tmp_path / "none.gguf")
    plain = network("llama")
    assert "gguf-split --merge" in refused(write_gguf(tmp_path / "m-00001-of-00002.gguf", plain))
    split = write_gguf(tmp_path / "split.gguf", plain, extra=lambda writer: writer.add_uint16("split.count", 3))
    assert "one of 3 shards" in refused(split)


@pytest.mark.parametrize("architecture", ["bert", "clip", "t5", "rwkv6", "mamba"])
def test_an_architecture_that_is_not_read_is_one_line(architecture, tmp_path, tiny_gguf):
    path = tmp_path / "other.gguf"
    path.write_bytes(named(tiny_gguf, architecture, tmp_path))
    assert architecture in refused(path)


def named(tiny_gguf, architecture, folder):
    """The bytes of a file that says it is of another architecture."""
    from gguf import GGUFWriter

    writer = GGUFWriter(folder / "made.gguf", architecture)
    writer.add_block_count(2)
    writer.add_embedding_length(64)
    writer.add_tensor("token_embd.weight", np.ones((8, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return (folder / "made.gguf").read_bytes()


def test_a_tensor_without_a_place_and_one_that_is_missing_refuse(tmp_path):
    extra = write_gguf(
        tmp_path / "extra.gguf",
        network("llama"),
        extra=lambda writer: writer.add_tensor("rope_freqs.weight", np.full(8, 2, np.float32)),
    )
    assert "1 tensors that transformers' GGUF loader leaves out (rope_freqs.weight)" in refused(extra)
    lacking = write_gguf(
        tmp_path / "lacking.gguf",
        network("llama"),
        change=lambda name, data: None if name == "blk.1.ffn_up.weight" else data,
    )
    assert "lack 1 tensor (model.layers.1.mlp.up_proj.weight)" in refused(lacking)


def test_settings_that_the_loader_passes_over_are_followed_or_refused(tmp_path):
    plain = network("qwen2")
    scaled = write_gguf(
        tmp_path / "scaled.gguf",
        plain,
        extra=lambda writer: (writer.add_string("qwen2.rope.scaling.type", "yarn"),
                              writer.add_float32("qwen2.rope.scaling.factor", 4.0)),
    )  # fmt: skip
    assert "rope.scaling" in refused(scaled)
    capped = write_gguf(
        tmp_path / "capped.gguf", plain, extra=lambda writer: writer.add_float32("qwen2.final_logit_softcapping", 3.0)
    )
    assert "final_logit_softcapping" in refused(capped)
    long = load_causal(str(write_gguf(tmp_path / "long.gguf", network("gpt2"))), device="cpu")
    assert long.context == 64


def test_without_the_package_the_extra_is_named(tiny_gguf, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert 'pip install "locate-bias[gguf]"' in refused(tiny_gguf)
