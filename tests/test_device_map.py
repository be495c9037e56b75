"""Models spread over several GPUs: on pretended ones, which refuse what real ones refuse (see pretend.py)."""

import numpy as np
import pytest
import torch
from bare import trace
from families import save_family
from pretend import CPU, PretendDevices, place_of, pretending
from test_cli import run  # noqa: F401

from locate.errors import LocateError
from locate.model.loading import load
from locate.model.memory import default_memory, peak_memory
from locate.prompts import occupation_pairs
from locate.study.controls import Controls
from locate.study.estimate import estimate
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

pytestmark = pytest.mark.usefixtures("unchecked_types")

PROMPTS = occupation_pairs(swap="anti", templates_each=1).first(2)
MAP = Map(("resid_pre", "attn_out", "mlp_out", "head"), roles=("subject_last", "last"), severed=("mlp_out",))
DEEP = {"gpt2": {"n_layer": 4}, "llama": {"num_hidden_layers": 4}, "gemma2": {"num_hidden_layers": 4}}
ROUNDING = 2e-5  # nats


def numbers(trace):
    """The log-probabilities of a trace."""
    return trace.table.select_dtypes("number").to_numpy(float)


@pytest.fixture(scope="module", params=sorted(DEEP))
def folder(request, tmp_path_factory):
    """GPT-2 ties its head, on the last device, to its embedding, on the first; Gemma-2 is never run in few steps."""
    return save_family(request.param, tmp_path_factory.mktemp(request.param), **DEEP[request.param])


@pytest.fixture(scope="module")
def plain(folder):
    return load(str(folder), device="cpu", bos="no", threads=1)


@pytest.fixture(scope="module")
def spread(folder):
    with pretending():
        return load(str(folder), device_map="auto", bos="no", threads=1)


def test_blocks_are_whole_and_on_both_devices(spread):
    with PretendDevices():
        assert spread.devices == ("cuda:0", "cuda:1")
    assert spread.device == "cuda:0"
    for layer, block in enumerate(spread.blocks):
        with PretendDevices():
            here = spread.device_of(layer)
        assert {place_of(each) for each in block.parameters()} == {here}
    assert max(spread.checks.values()) < 1e-5


@pytest.mark.parametrize("engine", ["sweep", "plain"])
def test_a_trace_is_that_of_one_device(plain, spread, engine):
    wanted = trace(plain, PROMPTS, MAP)
    with pretending() as devices:
        found = trace(spread, PROMPTS, MAP, engine=engine)
    assert devices.moves["cuda:0", "cuda:1"] > 10
    assert found.meta["device"] == "cuda:0, cuda:1"
    np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=0, atol=ROUNDING)
    if engine == "sweep":
        few_steps = found.meta["audit"]["engine"]["few_steps"]
        assert few_steps == wanted.meta["audit"]["engine"]["few_steps"]
        assert few_steps == 4 or spread.checkpoint.architecture.startswith("Gemma2")


def test_noise_answers_alone_and_few_rows_at_once(plain, spread):
    settings = {"corruption": Noise(samples=1), "probabilities": False, "batch_size": 3}
    wanted = trace(plain, PROMPTS, MAP, **settings)
    with pretending():
        found = trace(spread, PROMPTS, MAP, **settings)
        again = spread.logits(torch.tensor([[1, 2, 3]]))  # accelerate's forward of the head is back in its place
    np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=0, atol=ROUNDING)
    assert str(place_of(again)) == "cuda:0"


def test_controls_and_estimates(plain, spread):
    few = Controls(sites=1, pairs=2, sets=1, random_weights=False)
    wanted = trace(plain, PROMPTS, Map(("mlp_out",)), controls=few)
    about = estimate(plain, PROMPTS, MAP, method="integrated")
    with pretending():
        found = trace(spread, PROMPTS, Map(("mlp_out",)), controls=few)
        assert np.abs(estimate(spread, PROMPTS, MAP, method="integrated")["nie"] - about["nie"]).max() < ROUNDING
    np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("bits", [8, 4])
def test_spread_and_quantised(tmp_path, bits):
    folder = save_family("llama", tmp_path / "wide", num_hidden_layers=8, hidden_size=64, intermediate_size=128)
    one = load(str(folder), device="cpu", bos="no", threads=1, quantise=bits)
    wanted = trace(one, PROMPTS, Map(("mlp_out",)), compare_precision=False)
    with pretending():
        several = load(str(folder), device_map="balanced", bos="no", threads=1, quantise=bits)
        assert several.devices == ("cuda:0", "cuda:1")
        found = trace(several, PROMPTS, Map(("mlp_out",)), compare_precision=False)
    np.testing.assert_allclose(numbers(found), numbers(wanted), rtol=0, atol=ROUNDING)


class TestRefusals:
    def test_several_processes(self, run):  # noqa: F811
        code, _, err = run("trace", "--device-map", "auto", "--jobs", "2")
        assert code == 1
        assert err.startswith("locate-bias: --device-map auto with --jobs 2: each of several processes has one GPU")
        assert len(err.splitlines()) == 1

    def test_the_command_line_passes_the_map_on(self, run, monkeypatch, tmp_path):  # noqa: F811
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        code, _, err = run("trace", "--device-map", "balanced", "--jobs", "1", "-o", tmp_path / "run")
        assert code == 1
        assert "device_map 'balanced' spreads a model over CUDA GPUs, and torch finds none here" in err

    def test_without_a_gpu(self, folder, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(LocateError, match=r"device_map 'auto' spreads a model over CUDA GPUs, .* leave it out"):
            load(str(folder), device_map="auto")

    def test_a_device_and_a_map(self, folder):
        with pytest.raises(LocateError, match="device 'cpu' with device_map 'auto': the map chooses devices: leave"):
            load(str(folder), device_map="auto", device="cpu")

    def test_another_map(self, folder):
        with pytest.raises(LocateError, match="device_map 'sequential': expected one of auto, balanced"):
            load(str(folder), device_map="sequential")

    def test_what_does_not_fit_the_gpus(self, folder):
        with pretending(), pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.cuda, "mem_get_info", lambda device=None: (60_000, 60_000))
            with pytest.raises(LocateError, match=r"the 2 GPUs have .* in which its blocks do not fit whole: choose"):
                load(str(folder), device_map="auto")


def test_the_fullest_gpu_decides_on_memory(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", {"cuda:0": (8 * 10**9, 0), "cuda:1": (6 * 10**9, 0)}.__getitem__)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:0": 5, "cuda:1": 7}.__getitem__)
    assert default_memory("cuda:0", "cuda:1") == 3 * 10**9
    assert peak_memory("cuda:0", "cuda:1")["device"] == 7


class TestPretending:
    def test_two_devices_do_not_meet(self):
        with PretendDevices():
            one, other = torch.ones(2, device="cuda:0"), torch.ones(2).to("cuda:1")
            with pytest.raises(RuntimeError, match="met tensors on cuda:0 and cuda:1"):
                one + other
            with pytest.raises(RuntimeError, match="met tensors on cpu and cuda:0"):
                torch.cat([one, torch.ones(2)])
            with pytest.raises(RuntimeError, match="met tensors on cuda:0 and cuda:1"):
                one[torch.tensor([0]).to("cuda:1")]
            with pytest.raises(TypeError, match="can't convert cuda:0"):
                one.numpy()

    def test_what_is_moved_is_there(self):
        with PretendDevices() as devices:
            one = torch.ones(2, device="cuda:1")
            there = torch.zeros(2, 3).to(one)
            assert there.device == one[torch.tensor([0])].device == torch.device("cuda", 1)
            assert (one + there[:, 0]).cpu().device == CPU
        assert devices.moves == {("cpu", "cuda:1"): 1, ("cuda:1", "cpu"): 1}
