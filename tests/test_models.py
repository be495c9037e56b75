"""Loading: what works, what is refused, and in which words."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from families import FAMILIES

from locate.errors import LocateError
from locate.model.causal import load_causal
from locate.model.checkpoint import find_checkpoint
from locate.model.loading import load, load_encoder
from locate.model.products import precise
from locate.model.startup_check import kept_activations, residual_gap


def test_every_family_passes_the_start_up_check(family_model):
    patterns = {"pattern"} - ({"pattern"} if family_model.checkpoint.architecture == "OPTForCausalLM" else set())
    assert set(family_model.checks) == {"plain", "residual", "written", "self", "head", "neuron"} | patterns
    assert set(family_model.unit_counts) == {"head", "neuron", "mlp_out_unit"} | patterns
    assert max(family_model.checks.values()) < 1e-4


def test_module_names_are_those_of_the_hugging_face_model(family_model, folder_of):
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(family_model.checkpoint.folder)
    modules = dict(plain.named_modules())
    for component, template in family_model.module_templates().items():
        assert (template is None) == (component in ("resid_pre", "pattern"))
        if template is not None:
            for layer in range(family_model.n_layers):
                assert template.format(layer) in modules
                assert template.format(layer) == family_model.module(component, layer)


def test_activations_have_the_shapes_that_are_promised(family_model):
    ids = torch.tensor([family_model.encode("The nurse said that")[0]])
    kept = kept_activations(family_model, ids, ("resid_pre", "attn_out", "mlp_out", "head"))
    d_head = kept["head", 0].shape[-1]
    assert kept["head", 0].shape == (1, ids.shape[1], family_model.n_heads, d_head)
    for component in ("resid_pre", "attn_out", "mlp_out"):
        assert kept[component, 2].shape == (1, ids.shape[1], family_model.d_model)


def test_the_residual_check_sees_a_wrong_tensor(family_model):
    ids = torch.tensor([family_model.encode("The nurse said that")[0]])
    kept = kept_activations(family_model, ids)
    assert residual_gap(kept, 0) < 1e-4
    kept["attn_out", 0] = kept["mlp_out", 0]
    assert residual_gap(kept, 0) > 1e-2


def test_what_a_dtype_rounds_off_a_large_stream_is_no_gap():
    """Beside 4,096 bfloat16 has no 0.5; 40 are more than it rounds off."""
    stream, added = torch.tensor([4096.0, 1.0]).bfloat16(), torch.tensor([0.5, 1.0]).bfloat16()
    kept = {("resid_pre", 0): stream, ("attn_out", 0): added, ("mlp_out", 0): 0 * added}
    assert residual_gap(kept | {("resid_pre", 1): stream + added}, 0) == 0
    assert residual_gap(kept | {("resid_pre", 1): stream + added + 40}, 0) > 0.1


def test_an_architecture_that_fails_the_check_is_refused(folder_of, monkeypatch):
    """A hook that holds another tensor than its name says (here mlp_out taken before the MLP) must not pass."""
    import locate.model.hooked

    monkeypatch.setitem(locate.model.hooked.HOOKS, "mlp_out", "blocks.{}.hook_resid_mid")
    with pytest.raises(LocateError, match=r"fails the start-up check: .*residual"):
        load(str(folder_of("gpt2")), device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("wrong", ["blocks.{}.attn.hook_q", "blocks.{}.attn.hook_v"])
def test_a_wrong_head_hook_is_refused_in_every_dtype(folder_of, monkeypatch, dtype, wrong):
    import locate.model.hooked

    monkeypatch.setitem(locate.model.hooked.HOOKS, "head", wrong)
    with pytest.raises(LocateError, match=r"fails the start-up check: .*head"):
        load(str(folder_of("gpt2")), device="cpu", dtype=dtype)


def test_tensor_core_products_are_set_and_put_back():
    kinds = torch.backends.cuda.matmul, torch.backends.mkldnn.matmul
    before = [kind.fp32_precision for kind in kinds]
    with precise("tf32"):
        assert [kind.fp32_precision for kind in kinds] == ["tf32", "tf32"]
    assert [kind.fp32_precision for kind in kinds] == before


def test_tensor_core_products_need_a_gpu():
    with pytest.raises(LocateError, match="dtype tf32 on cpu: it needs an NVIDIA GPU: choose float32"):
        load("mini", device="cpu", dtype="tf32")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_dtypes(model_of, dtype):
    model = model_of("llama", dtype)
    assert model.bridge.original_model.dtype == getattr(torch, dtype)
    ids = torch.tensor([model.encode("The nurse said that")[0]])
    exact = model_of("llama").final_logits(ids)
    gap = float((model.final_logits(ids).float() - exact).abs().max())
    assert (gap < 1e-4) == (dtype == "float64")
    assert gap < 1.5


def test_bos_is_put_in_front_where_it_is_asked_for(model_of, folder_of):
    asked = load(str(folder_of("gpt2")), bos="yes", device="cpu")
    assert asked.encode("The")[0] == [0, *model_of("gpt2").encode("The")[0]]


@pytest.mark.parametrize("loader", [load, load_causal])
def test_a_path_is_taken_as_well_as_its_text(folder_of, loader):
    folder = folder_of("gpt2")
    assert loader(Path(folder)).name == str(folder)


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_read_as_the_loaded_model_reads_it_without_its_weights(model_of, folder_of, tmp_path, family):
    empty = shutil.copytree(folder_of(family), tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    assert load_encoder(str(empty))[0].encode("The nurse said") == model_of(family).encode("The nurse said")


@pytest.fixture
def copy(folder_of, tmp_path):
    """A folder to spoil."""
    return shutil.copytree(folder_of("gpt2"), tmp_path / "model")


def refused(name, match, **options):
    with pytest.raises(LocateError, match=match) as caught:
        load(str(name), **{"device": "cpu"} | options)
    assert "\n" not in str(caught.value)


def test_no_such_folder(tmp_path):
    refused(tmp_path / "none", "no such folder")


def test_folder_without_tokenizer(copy):
    for file in copy.glob("tokenizer*"):
        file.unlink()
    refused(copy, "has no tokenizer")


def test_folder_without_config_or_weights(copy):
    weights = copy / "model.safetensors"
    weights.rename(copy / "elsewhere")
    refused(copy, r"has no weights: expected \*.safetensors")
    (copy / "config.json").unlink()
    refused(copy, "has no config.json")


def test_pickles_need_permission(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    refused(copy, "a pickle, which can run code")


def test_broken_weights(copy):
    (copy / "model.safetensors").write_bytes(b"not weights")
    refused(copy, "is not a safetensors file")


def test_only_the_weights_that_are_loaded_count(copy):
    """A consolidated file beside an index of shards, as some publishers keep, is neither hashed nor counted."""
    single = find_checkpoint(str(copy), revision=None, allow_pickle=False, trust_remote_code=False)
    shutil.copy(copy / "model.safetensors", copy / "consolidated.safetensors")
    beside = find_checkpoint(str(copy), revision=None, allow_pickle=False, trust_remote_code=False)
    assert (beside.weights_sha256, beside.parameters) == (single.weights_sha256, single.parameters)
    shutil.move(copy / "model.safetensors", copy / "model-00001-of-00001.safetensors")
    index = copy / "model.safetensors.index.json"
    name = "transformer.wte.weight"
    index.write_text(json.dumps({"weight_map": {name: "model-00001-of-00001.safetensors"}}))
    sharded = find_checkpoint(str(copy), revision=None, allow_pickle=False, trust_remote_code=False)
    assert (sharded.weights_sha256, sharded.parameters) == (single.weights_sha256, single.parameters)
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors"}}))
    refused(copy, "names model-00001-of-00002.safetensors, which is missing")
    index.write_text("{}")
    refused(copy, "names no shards")


def test_weights_that_lack_a_tensor_are_refused(copy):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    weights.pop("transformer.h.1.mlp.c_proj.weight")
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    refused(copy, r"lack 1 tensor \(transformer.h.1.mlp.c_proj.weight\), which would be random")


def test_truncated_weights_are_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    refused(copy, "does not load")


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"architectures": ["BertForMaskedLM"]}, "is BertForMaskedLM: expected a decoder-only causal language model"),
        ({"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}, "expected a decoder-only"),
        ({"architectures": [], "model_type": "t5"}, "expected a decoder-only causal language model"),
        ({"auto_map": {"AutoModel": "code.Model"}}, "brings its own Python code"),
        ({"architectures": ["NoSuchForCausalLM"], "model_type": "no-such"}, "does not load"),
    ],
)
def test_models_that_are_not_for_tracing(copy, changes, match):
    edit_config(copy, **changes)
    refused(copy, match)


def test_too_little_memory_names_the_estimate(copy, monkeypatch):
    import psutil

    class Tiny:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", lambda: Tiny)
    refused(copy, r"needs about \d+\.\d GiB in torch.float32 on cpu")


def test_hub_is_named_when_it_cannot_be_reached():
    refused("nobody/no-such-model", r"hub cannot be reached \(HF_HUB_OFFLINE is set\)")


@pytest.mark.parametrize(
    ("kind", "match"),
    [
        ("GatedRepoError", "is gated: accept its terms on its page and set HF_TOKEN"),
        ("RepositoryNotFoundError", "is not on the Hugging Face hub, or is private"),
        ("RevisionNotFoundError", "has no revision 'gone'"),
    ],
)
def test_hub_errors_say_the_way_out(monkeypatch, kind, match):
    import httpx
    import huggingface_hub
    from huggingface_hub import errors

    def fail(*args, **kwargs):
        response = httpx.Response(403, request=httpx.Request("GET", "https://hub.invalid"))
        raise getattr(errors, kind)("no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    refused("somebody/some-model", match, revision="gone")


def test_a_hub_id_loads_from_the_folder_that_the_hub_client_gives(folder_of, monkeypatch):
    import huggingface_hub

    asked = {}

    def give(name, **options):
        asked.update(options, name=name)
        return str(folder_of("gpt2"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", give)
    model = load("somebody/some-model", device="cpu", revision="main")
    assert asked["name"] == "somebody/some-model"
    assert asked["revision"] == "main"
    assert not [each for each in asked["allow_patterns"] if each.endswith((".bin", ".py", ".pkl", ".pt"))]
    assert model.checkpoint.revision == folder_of("gpt2").name


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dtype": "int8"}, "dtype 'int8': expected one of float32"),
        ({"device": "tpu"}, "device 'tpu' is not usable here"),
        ({"device": "cuda:99"}, "device 'cuda:99' is not usable here"),
        ({"revision": "main"}, "only Hugging Face ids have revisions"),
    ],
)
def test_bad_options(copy, options, match):
    refused(copy, match, **options)


def test_weights_hash_follows_the_weights(copy, folder_of, model_of):
    from safetensors.torch import load_file, save_file

    weights = load_file(copy / "model.safetensors")
    first = sorted(weights)[0]
    weights[first] = weights[first] + 1e-3
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    changed = load(str(copy), device="cpu")
    assert changed.checkpoint.weights_sha256 != model_of("gpt2").checkpoint.weights_sha256
    assert changed.checkpoint.tokenizer_sha256 == model_of("gpt2").checkpoint.tokenizer_sha256


def test_components_that_are_missing_are_refused(gpt2):
    with pytest.raises(LocateError, match="component 'mlp': expected one of resid_pre"):
        gpt2.check_components(["mlp"])
