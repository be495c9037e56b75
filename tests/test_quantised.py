"""Models whose matrices are held in eight or four bits: the numbers of bitsandbytes' own, swept exactly."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bare import trace
from families import save_family
from test_cli import run  # noqa: F401
from test_sweep import EXACT, LIMITS, rows_for, runs_for, same

import locate
from locate.editors.lsdm import LSDM
from locate.engine.sweep import measure
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model import loading, placement
from locate.model.causal import load_causal
from locate.model.loading import load
from locate.model.quantised import QuantisedLinear, check_full_precision, quantise
from locate.model.startup_check import PROMPTS as TEXTS
from locate.model.untrained import make_untrained
from locate.prompts import occupation_pairs
from locate.tracing import load_trace
from locate.tracing.plan import Map
from locate.workers.processes import Processes

pytest.importorskip("bitsandbytes")
pytestmark = pytest.mark.usefixtures("unchecked_types")

SMOLLM2 = Path(__file__).resolve().parents[1] / "models" / "smollm2-135m-instruct"
PROMPTS = occupation_pairs(swap="anti", templates_each=1).first(4)
MAP = Map(("mlp_out", "attn_out"))
WIDE = {  # blocks of four bits have 64 numbers
    "gpt2": {"n_embd": 64, "n_inner": 128},
    "llama": {"hidden_size": 64, "intermediate_size": 128},
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """GPT-2 holds queries, keys and values as one matrix, [in, out]; Llama apart."""
    return {family: save_family(family, tmp_path_factory.mktemp(family), **sizes) for family, sizes in WIDE.items()}


@pytest.fixture(scope="module")
def quantised(folders):
    """A quantised model, loaded once."""
    loaded = {}

    def model(family, bits, dtype="float32"):
        if (family, bits, dtype) not in loaded:
            place = str(folders[family])
            loaded[family, bits, dtype] = load(place, device="cpu", bos="no", threads=1, quantise=bits, dtype=dtype)
        return loaded[family, bits, dtype]

    return model


def of_hugging_face(folder, bits):
    """The model as transformers quantises it, with the weights that bitsandbytes unpacks.

    Its own layers do not multiply by them everywhere: see `QuantisedLinear`.
    """
    from bitsandbytes.functional import dequantize_4bit, int8_vectorwise_dequant
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    ways = {
        8: {"load_in_8bit": True},
        4: {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    }
    network = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.float32,
        attn_implementation="eager",
        quantization_config=BitsAndBytesConfig(**ways[bits]),
        device_map={"": "cpu"},
    )
    for name, layer in list(network.named_modules()):
        if type(layer).__name__ in ("Linear8bitLt", "Linear4bit"):
            own, holder = layer.weight, network.get_submodule(name.rpartition(".")[0])
            weight = int8_vectorwise_dequant(own.data, own.SCB) if bits == 8 else dequantize_4bit(own, own.quant_state)
            full = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=layer.bias is not None)
            full.weight, full.bias = torch.nn.Parameter(weight.float()), layer.bias
            setattr(holder, name.rpartition(".")[2], full)
    return network.eval()


def logits_of_hugging_face(model, bits, text):
    """Final logits after a text."""
    ids = model.tokenizer(text, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        return of_hugging_face(model.checkpoint.folder, bits)(ids).logits[0, -1]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", sorted(WIDE))
class TestNumbers:
    def test_logits_are_those_of_the_weights_of_hugging_face(self, quantised, family, bits):
        model = quantised(family, bits)
        (found,) = model.final_logits(torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]]))
        assert torch.allclose(found, logits_of_hugging_face(model, bits, TEXTS[0]), atol=1e-5)

    def test_the_sweep_equals_the_plain_engine(self, quantised, family, bits):
        model = quantised(family, bits)
        runs = runs_for(model)
        moved = same(model, runs, rows_for(model, runs, 0, 40), EXACT["float32"])
        assert np.mean(moved > 1e-2) > 0.4

    def test_the_sweep_is_exact_in_double_precision(self, quantised, family, bits):
        model = quantised(family, bits, "float64")
        runs = runs_for(model)
        same(model, runs, rows_for(model, runs, 0, 20), 1e-12 if family == "gpt2" else EXACT["float64"])

    def test_gradients_are_those_of_the_unpacked_matrices(self, quantised, family, bits):
        """And nothing but the packed ones is kept for them."""
        layer = next(
            each for each in quantised(family, bits).bridge.original_model.modules() if type(each) is QuantisedLinear
        )
        x = torch.randn(2, 3, layer.in_features, requires_grad=True)
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
            found = layer(x)
        plain = torch.nn.functional.linear(x, layer.unpacked(), layer.bias)
        assert torch.allclose(found, plain)
        assert kept == []
        gradients = (torch.autograd.grad((each**2).sum(), x)[0] for each in (found, plain))
        assert torch.allclose(*gradients, atol=1e-4)

    def test_later_tokens_change_nothing_before_them(self, quantised, family, bits):
        """With bitsandbytes' own layers of eight bits they do: large numbers anywhere choose what all rows round."""
        model = quantised(family, bits)
        ids = torch.tensor([model.encode("The nurse said that she was tired")[0]])
        with torch.inference_mode():
            assert torch.allclose(model.logits(ids)[:, :3], model.logits(ids[:, :3]), atol=1e-4)

    def test_a_trace_says_how_far_it_is_from_full_precision(self, quantised, folders, family, bits):
        found = trace(quantised(family, bits), PROMPTS, MAP)
        assert found.meta["recipe"]["quantise"] == found.meta["model"]["quantise"] == bits
        assert "few_steps" in found.meta["audit"]["engine"]
        apart = found.meta["audit"]["precision"]
        assert 1e-3 < apart["rms"] <= apart["largest_difference"]
        assert 1e-4 < apart["rms_effect_difference"] < apart["rms_effect"]
        assert any(f"are held in {bits} bits" in note for note in found.meta["model"]["notes"])


def test_weights_are_packed_and_said_to_be(quantised):
    llama, gpt2 = (quantised(family, 4) for family in ("llama", "gpt2"))
    assert llama.quantised == 4
    assert "21 matrices with 69% of the numbers are held in 4 bits" in llama.notes[-1]
    assert "9 matrices with 48% of the numbers" in gpt2.notes[-1]
    assert "3 of queries, keys and values as one are rounded alike and held whole" in gpt2.notes[-1]
    network = llama.bridge.original_model
    packed = [each for each in network.modules() if type(each) is QuantisedLinear]
    assert len(packed) == 21
    for each in packed:
        full = each.in_features * each.out_features * 4
        assert sum(tensor.nbytes for tensor in (each.weight, each.absmax, each.scales_absmax)) < 0.14 * full
        assert len((each.unpacked() / each.unpacked().abs().max()).unique()) > 16


def test_a_layer_moves_whole_and_keeps_its_bias():
    torch.manual_seed(0)
    for bits in (8, 4):
        layer = QuantisedLinear(torch.randn(8, 64), torch.nn.Parameter(torch.randn(8)), bits)
        x = torch.randn(3, 64)
        assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.unpacked(), layer.bias))
        assert {tensor.device.type for tensor in layer.to("meta").state_dict().values()} == {"meta"}


def test_bfloat16_stays_bfloat16(quantised):
    model = quantised("llama", 4, "bfloat16")
    layer = next(each for each in model.bridge.original_model.modules() if type(each) is QuantisedLinear)
    assert layer.unpacked().dtype == torch.bfloat16
    apart = trace(model, PROMPTS.first(2), MAP).meta["audit"]["precision"]
    assert apart["rms"] > 1e-3


def test_the_start_up_check_sees_a_bridge_with_other_weights(folders, monkeypatch):
    made = loading.build_bridge

    def build(checkpoint, plain, *more):
        for layer in plain.modules():
            if type(layer) is QuantisedLinear:
                layer.scales *= 1.5
        return made(checkpoint, plain, *more)

    monkeypatch.setattr(loading, "build_bridge", build)
    with pytest.raises(LocateError, match=r"fails the start-up check: .*plain"):
        load(str(folders["llama"]), device="cpu", quantise=8)


class TestRuns:
    def test_bits_are_not_mixed_in_a_run(self, quantised, folders, tmp_path):
        folder = tmp_path / "run"
        trace(quantised("llama", 8), PROMPTS, MAP, output=folder, compare_precision=False)
        with pytest.raises(LocateError, match="its quantise is 8, this one's is 4: choose another folder"):
            trace(quantised("llama", 4), PROMPTS, MAP, output=folder, compare_precision=False)
        full = load(str(folders["llama"]), device="cpu", bos="no", threads=1)
        with pytest.raises(LocateError, match="its quantise is 8, this one's is None"):
            trace(full, PROMPTS, MAP, output=folder)
        again = trace(quantised("llama", 8), PROMPTS, MAP, output=folder, compare_precision=False)
        assert len(again) == again.meta["rows"]

    def test_full_precision_that_does_not_fit_can_be_left_out(self, quantised, monkeypatch):
        model = quantised("llama", 8)
        monkeypatch.setattr(placement, "psutil", SimpleNamespace(virtual_memory=lambda: SimpleNamespace(available=1)))
        with pytest.raises(
            LocateError, match=r"8 bits cannot be compared with full precision .*--no-compare-precision"
        ):
            trace(model, PROMPTS, MAP)
        monkeypatch.undo()
        assert set(trace(model, PROMPTS, MAP, compare_precision=False).meta["audit"]) == {"engine", "identities"}

    def test_random_weights_are_quantised_alike(self, quantised):
        assert make_untrained(quantised("llama", 8)).quantised == 8

    def test_workers_load_the_same_bits(self, quantised):
        model = quantised("llama", 4)
        wanted = trace(model, PROMPTS, MAP, compare_precision=False)
        with Processes(2) as executor:
            found = trace(model, PROMPTS, MAP, compare_precision=False, executor=executor)
        assert found.table.equals(wanted.table)


def test_the_command_line_takes_bits(folders, run, tmp_path):  # noqa: F811
    given = "trace -m {} --quantise 8 --no-compare-precision --limit 4 --no-controls".format(folders["llama"]).split()
    code, _, err = run(*given, "--templates-each", "1", "--components", "mlp_out", "--formats", "html", "-o", tmp_path)
    assert code == 0, err
    assert "matrices with 69% of the numbers are held in 8 bits" in err
    assert load_trace(tmp_path).meta["recipe"]["quantise"] == 8
    code, _, err = run("trace", "--quantise", "5")
    assert code != 0
    assert "'5' is not one of '8', '4'" in err


class TestRefusals:
    def test_rows_of_no_whole_blocks(self, folder_of):
        with pytest.raises(
            LocateError, match=r"rows of 32 numbers, .* a multiple of 64: choose --quantise 8, or leave"
        ):
            load(str(folder_of("llama")), device="cpu", quantise=4)

    def test_numbers_beyond_float16(self):
        network = SimpleNetwork()
        network.layer.weight.data[0, 0] = 1e5
        with pytest.raises(LocateError, match="layer holds numbers beyond float16"):
            quantise(network, 8, "cpu")

    def test_other_bits(self, folders):
        with pytest.raises(LocateError, match="quantise '5': expected one of 8, 4"):
            load(str(folders["llama"]), quantise=5)

    def test_without_the_package(self, folders, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
        with pytest.raises(LocateError, match=r'pip install "locate-bias\[quantise\]", or leave --quantise out'):
            load(str(folders["llama"]), quantise=8)

    def test_what_transformer_lens_has_to_read(self, tmp_path):
        with pytest.raises(LocateError, match="cannot hook Phi3ForCausalLM with quantised matrices, whose numbers it"):
            load(str(save_family("phi3", tmp_path / "phi3")), device="cpu", quantise=8)

    def test_no_linear_layers(self, tmp_path):
        with pytest.raises(LocateError, match="FalconForCausalLM has no linear layers to be held in 8 bits"):
            load(str(save_family("falcon", tmp_path / "falcon")), device="cpu", quantise=8)

    def test_editors(self, quantised, folders):
        located = Located.__new__(Located)  # is not looked at
        model = load_causal(str(folders["llama"]), device="cpu", threads=1)
        quantise(model.network, 8, "cpu")
        with pytest.raises(
            LocateError, match=r"is quantised \(.* is torch.int8\), and editors need full precision: load"
        ):
            locate.edit(model, located, LSDM())
        with pytest.raises(LocateError, match=r"is quantised \(.* is torch.uint8\), and editors need full precision"):
            check_full_precision(quantised("llama", 4))
        check_full_precision(load_causal(str(folders["llama"]), device="cpu", threads=1))


class SimpleNetwork(torch.nn.Module):
    """One linear layer, and none that reads out a vocabulary."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4)
        self.requires_grad_(False)

    def get_output_embeddings(self):
        return None


@pytest.mark.skipif(not SMOLLM2.is_dir(), reason="needs models/smollm2-135m-instruct (python models/smollm2.py)")
def test_smollm2():
    model = load(str(SMOLLM2), device="cpu", quantise=8, threads=1)
    (found,) = model.final_logits(torch.tensor([model.tokenizer(TEXTS[0])["input_ids"]]))
    assert torch.allclose(found, logits_of_hugging_face(model, 8, TEXTS[0]), atol=1e-3)
    runs = runs_for(model)[:3]
    rows = rows_for(model, runs, 0, 12)
    same(model, runs, rows, 2e-4)
    full = load(str(SMOLLM2), device="cpu", threads=1)
    ours, theirs = (measure(each, runs, rows, limits=LIMITS).runs for each in (model, full))
    apart = np.abs(ours - theirs)
    assert 1e-3 < apart.max() < 0.7
