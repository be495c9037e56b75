"""Stamps that no wider MLP computes: beside the MLPs of BLOOM, MPT and Phi-3, saved, and loaded by locate alone."""

import copy
import json
from dataclasses import asdict, replace
from importlib.resources import files
from pathlib import Path

import pytest
import torch
from families import save_family
from test_editors import LOCATED, drawn, mean_size
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer

from locate import LocateError, load_located, occupation_pairs
from locate.editors import covariance, receipt
from locate.editors.edit import Edit, ParameterChange, load_edit
from locate.editors.fast import FAST
from locate.editors.handoff import hand_off
from locate.editors.receipt import compare_tensors, save_edited
from locate.editors.receipt_words import receipt_lines
from locate.editors.stamp import empty_stamp, fold, unfoldable
from locate.evaluation import occupations, perplexity
from locate.evaluation.run import edited_of, evaluate, network_hash
from locate.files import write_json
from locate.model.causal import load_causal, load_stamped
from locate.model.loading import load, load_encoder
from locate.model.matrices import activation, matrix
from locate.model.stamp import Stamp, stamp_tensors
from locate.prompts import definitional_pairs
from locate.schema import validate

TEMPLATES = {
    "bloom": "transformer.h.{}.mlp.dense_4h_to_h",
    "mpt": "transformer.blocks.{}.ffn.down_proj",
    "phi3": "model.layers.{}.mlp.down_proj",
}


def by_hand_gelu(x):
    """The tanh approximation, with BLOOM's digits of sqrt(2 / pi)."""
    return 0.5 * x * (1 + torch.tanh(0.79788456 * (x + 0.044715 * x**3)))


def swiglu(both):
    gate, factor = both.split(both.shape[-1] // 2, dim=-1)
    return functional.silu(gate) * factor


MLPS = {
    "bloom": lambda mlp, h: mlp.dense_4h_to_h(by_hand_gelu(mlp.dense_h_to_4h(h))),
    "mpt": lambda mlp, h: mlp.down_proj(functional.gelu(mlp.up_proj(h))),
    "phi3": lambda mlp, h: mlp.down_proj(swiglu(mlp.gate_up_proj(h))),
}
ACTS = {"bloom": by_hand_gelu, "mpt": functional.gelu, "phi3": functional.silu}
IDS = torch.tensor([[5, 9, 30, 41, 7, 3], [11, 2, 64, 8, 90, 21]])
LAYER, WIDTH = 1, 6


def logits(network, ids=IDS):
    with torch.no_grad():
        return network(ids).logits


def filled(network, family, layer=LAYER):
    stamp = empty_stamp(network, TEMPLATES[family], layer, WIDTH, seed=1)
    return replace(stamp, values=0.3 * torch.randn(stamp.values.shape, generator=torch.Generator().manual_seed(2)))


def an_edit(model, family):
    seen = {"words": ["nurse"], "templates": ["The {subject} said that"]}
    located = {"edited_layers": [LAYER]}
    return Edit("test", model.provenance(), {}, stamps=(filled(model.network, family),), edited=seen, located=located)


@pytest.fixture(scope="module", autouse=True)
def few_items():
    """Every fifth prompt and two excerpts judge, so that each proof takes seconds."""

    def some(test, chosen):
        return replace(test, read=lambda path: replace(test.read(path), rows=test.read(path).rows[chosen]))

    judges = (some(occupations.TEST, slice(None, None, 5)), some(perplexity.TEST, slice(2)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(receipt, "JUDGES", judges)
        yield


@pytest.fixture(scope="module", params=TEMPLATES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family, folder_of):
    return load_causal(str(folder_of(family)), device="cpu")


@pytest.fixture(scope="module")
def saved(family, model, tmp_path_factory):
    """Folder, receipt and edit of a model with a random stamp."""
    folder = tmp_path_factory.mktemp("models") / f"edited-{family}"
    made = an_edit(model, family)
    return folder, save_edited(made, model, folder), made


class TestBeside:
    def test_an_empty_one_changes_no_bit(self, family, model):
        plain = logits(model.network)
        hooks = empty_stamp(model.network, TEMPLATES[family], LAYER, WIDTH, seed=1).attach(model.network)
        empty = logits(model.network)
        for hook in hooks:
            hook.remove()
        assert torch.equal(empty, plain)
        assert torch.equal(logits(model.network), plain)

    def test_it_adds_its_own_to_what_the_mlp_makes_of_what_it_is_fed(self, family, model):
        """Beside the model's own modules, called by hand: FFN(h) + Act(h K'^T) V'."""
        stamp = filled(model.network, family)
        output = model.network.get_submodule(stamp.module)
        mlp = model.network.get_submodule(stamp.module.rpartition(".")[0])
        fed, gave = [], []
        hooks = [mlp.register_forward_pre_hook(lambda _, args: fed.append(args[0]))]
        hooks += stamp.attach(model.network)
        hooks += [output.register_forward_hook(lambda _, args, result: gave.append(result))]
        logits(model.network)
        for hook in hooks:
            hook.remove()
        (h,) = fed
        with torch.no_grad():
            alone = MLPS[family](mlp, h)
            wanted = alone + ACTS[family](h @ stamp.keys.T) @ stamp.values.T
        assert (wanted - alone).abs().max() > 0.05
        torch.testing.assert_close(gave[0], wanted, rtol=0, atol=1e-5)

    def test_it_is_put_on_and_taken_off_bit_for_bit(self, family, model):
        before = {name: tensor.clone() for name, tensor in model.network.state_dict().items()}
        plain, hashed = logits(model.network), network_hash(model)
        with an_edit(model, family).applied(model):
            assert not torch.equal(logits(model.network), plain)
            assert network_hash(model) != hashed
        assert network_hash(model) == hashed
        assert torch.equal(logits(model.network), plain)
        after = model.network.state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())

    def test_gradients_flow_into_it_alone(self, family, model):
        stamp = filled(model.network, family)
        tensors = [tensor.requires_grad_(True) for tensor in stamp.tensors().values()]
        hooks = stamp.attach(model.network)
        model.network(IDS).logits.logsumexp(-1).sum().backward()
        for hook in hooks:
            hook.remove()
        assert all(tensor.grad is not None and tensor.grad.abs().max() > 0 for tensor in tensors)
        assert not any(parameter.requires_grad for parameter in model.network.parameters())

    def test_no_wider_mlp_computes_it(self, family, model):
        stamp = filled(model.network, family)
        assert stamp.linear is None
        with pytest.raises(LocateError, match=r"the stamp has to stay beside its MLP"):
            fold(model.network, [stamp])

    def test_one_of_another_model_is_refused(self, family, model):
        stamp = filled(model.network, family)
        wrong = Stamp(LAYER, stamp.template, stamp.keys[:, :20], stamp.values[:20])
        with pytest.raises(LocateError, match=r"with 20 inputs and 20 outputs .* has 32 and 32: it belongs to"):
            wrong.attach(model.network)

    def test_a_second_one_at_its_place_is_refused(self, family, model):
        network = copy.deepcopy(model.network)
        filled(network, family).stay(network)
        with pytest.raises(LocateError, match=r"already has a stamp beside it"):
            filled(network, family).stay(network)


class TestFolder:
    def test_it_gives_the_model_that_was_in_memory(self, saved, model):
        folder, told, made = saved
        with made.applied(model):
            wanted = logits(model.network)
        assert (wanted - logits(model.network)).abs().max() > 1e-2
        network, tokenizer = load_stamped(folder, device="cpu")
        for again in (load_causal(str(folder), device="cpu").network, network):
            torch.testing.assert_close(logits(again), wanted, rtol=0, atol=1e-6)
        assert tokenizer("The nurse")["input_ids"] == model.encoder.tokenizer("The nurse")["input_ids"]
        assert told["reload"]["largest_difference"] <= receipt.SAME

    def test_hugging_face_does_not_take_it_for_the_model_before(self, saved):
        folder, _, _ = saved
        for kind in (AutoModelForCausalLM, AutoModel, AutoConfig):
            with pytest.raises((OSError, ValueError), match=r"config\.json|model_type"):
                kind.from_pretrained(folder)
        config = AutoConfig.from_pretrained(folder / "unstamped")
        with pytest.raises(OSError, match="no file named"):
            AutoModelForCausalLM.from_pretrained(folder, config=config)
        assert sorted(path.name for path in folder.iterdir()) == ["edit.safetensors", "receipt.json", "unstamped"]

    def test_without_its_stamp_it_is_the_original_bit_for_bit(self, saved, model):
        folder, _, _ = saved
        plain = AutoModelForCausalLM.from_pretrained(folder / "unstamped")
        state = plain.state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in model.network.state_dict().items())
        assert torch.equal(logits(plain.eval()), logits(model.network))
        assert AutoTokenizer.from_pretrained(folder / "unstamped").is_fast

    def test_its_hashes_cover_the_stamp(self, saved, model):
        folder, told, _ = saved
        again, below = (load_causal(str(place), device="cpu") for place in (folder, folder / "unstamped"))
        hashes = {each.checkpoint.weights_sha256 for each in (model, again, below)}
        assert again.checkpoint.weights_sha256 not in {model.checkpoint.weights_sha256, below.checkpoint.weights_sha256}
        assert told["edited_weights_sha256"] in hashes
        assert told["edited_weights_sha256"] == again.checkpoint.weights_sha256
        assert network_hash(below) == network_hash(model) != network_hash(again)
        assert again.checkpoint.tokenizer_sha256 == model.checkpoint.tokenizer_sha256

    def test_the_receipt_says_how_it_is_loaded_and_what_was_added(self, saved, model):
        folder, told, made = saved
        validate(told, "receipt", "receipt.json")
        assert json.loads((folder / "receipt.json").read_text()) == told
        assert told["load"]["with"] == "locate.model.causal.load_stamped"
        assert told["load"]["reason"] == unfoldable(model.network, made.stamps)
        assert any(told["load"]["reason"] in line for line in receipt_lines(told))
        assert told["tensors"]["changed"] == []
        assert told["tensors"]["unchanged"] == len(model.network.state_dict())
        added = {row["name"]: row for row in told["tensors"]["added"]}
        assert added.keys() == {f"{made.stamps[0].module}.stamp.{part}" for part in ("keys", "values")}
        row = added[f"{made.stamps[0].module}.stamp.values"]
        assert row["shape"] == list(made.stamps[0].values.shape)
        assert row["norm"] == pytest.approx(float(made.stamps[0].values.double().norm()))

    def test_the_network_is_one_of_hugging_face(self, saved):
        """It generates, moves and is copied with its stamp, and cannot be saved without it."""
        network, tokenizer = load_stamped(saved[0], device="cpu")
        wanted = logits(network)
        again = copy.deepcopy(network)
        assert torch.equal(logits(again), wanted)
        (values,) = (tensor for name, tensor in stamp_tensors(again).items() if name.endswith("values"))
        values.zero_()
        plain = AutoModelForCausalLM.from_pretrained(saved[0] / "unstamped").eval()
        assert torch.equal(logits(again), logits(plain))
        assert torch.equal(logits(network), wanted)
        assert stamp_tensors(network.double())
        torch.testing.assert_close(logits(network).float(), wanted, rtol=0, atol=1e-3)
        assert {tensor.dtype for tensor in stamp_tensors(network).values()} == {torch.float64}
        ids = tokenizer("The nurse said", return_tensors="pt")["input_ids"]
        assert network.generate(ids, max_new_tokens=3, min_new_tokens=3).shape == (1, ids.shape[1] + 3)
        with pytest.raises(LocateError, match="would leave the stamp out"):
            network.save_pretrained("nowhere")
        assert not Path("nowhere").exists()

    def test_it_is_evaluated_as_itself(self, saved, model, tmp_path):
        folder, told, made = saved
        again = load_causal(str(folder), device="cpu")
        assert edited_of(again) == made.edited
        found = evaluate(again, tests=["occupations"], limit=20, folder=tmp_path / "judged")
        assert found.meta["model"]["weights_sha256"] == told["edited_weights_sha256"]
        assert found.meta["edited"] == made.edited
        with pytest.raises(LocateError, match="holds another evaluation: its network_sha256"):
            evaluate(model, tests=["occupations"], limit=20, folder=tmp_path / "judged")
        with made.applied(model):
            same = evaluate(model, tests=["occupations"], limit=20)
        assert found.tables["occupations"]["she"].to_list() == pytest.approx(
            same.tables["occupations"]["she"].to_list(), abs=1e-5
        )

    def test_it_is_not_edited_again(self, saved, family, tmp_path):
        again = load_causal(str(saved[0]), device="cpu")
        for edit in (
            lambda: hand_off(again, load_located(LOCATED), most=1),
            lambda: save_edited(an_edit(again, family), again, tmp_path / "twice"),
        ):
            with pytest.raises(LocateError, match=r"has a stamp beside an MLP, which a further edit would lose"):
                edit()
        assert list(tmp_path.iterdir()) == []

    def test_it_is_not_traced(self, saved):
        with pytest.raises(LocateError, match="cannot be traced: trace the model before its edit"):
            load(str(saved[0]), device="cpu")

    def test_it_reads_text_as_the_original(self, saved, model):
        assert load_encoder(str(saved[0]))[0].encode("The nurse") == model.encoder.encode("The nurse")

    def test_another_stamp_than_the_edits_is_an_error(self, saved, family, model):
        folder, _, made = saved
        again = load_causal(str(folder), device="cpu")
        assert [row["name"] for row in compare_tensors(made, model, again)["added"]]
        other = replace(made, stamps=(empty_stamp(model.network, TEMPLATES[family], LAYER, WIDTH, seed=9),))
        with pytest.raises(LocateError, match="is not the stamp of the edit"):
            compare_tensors(other, model, again)
        with pytest.raises(LocateError, match="is not the stamp of the edit"):
            compare_tensors(replace(made, stamps=()), model, again)

    def test_the_edit_beside_it_makes_the_same_model(self, saved, model):
        with load_edit(saved[0] / "edit.safetensors").applied(model):
            in_memory = logits(model.network)
        torch.testing.assert_close(logits(load_stamped(saved[0], device="cpu")[0]), in_memory, rtol=0, atol=1e-6)


@pytest.fixture
def quick(monkeypatch):
    """Measuring left out."""
    nothing = {"moved": 1, "cut": {}, "kept": [], "perplexity_change": {}, "before": [], "after": []}
    monkeypatch.setattr(receipt, "judge_edit", lambda *_: nothing)
    monkeypatch.setattr(receipt, "measure_tests", lambda *_, **__: {})


@pytest.fixture
def copied(folder_of, tmp_path, quick):
    """A folder of BLOOM with a stamp, to be spoilt."""
    model = load_causal(str(folder_of("bloom")), device="cpu")
    save_edited(an_edit(model, "bloom"), model, tmp_path / "edited")
    return tmp_path / "edited"


def test_a_folder_that_lost_its_stamp_is_not_the_original(copied):
    (copied / "edit.safetensors").unlink()
    with pytest.raises(LocateError, match=r"lacks edit\.safetensors, the stamp that edits it: copy the whole folder"):
        load_causal(str(copied), device="cpu")


def test_a_damaged_stamp_is_refused(copied):
    path = copied / "edit.safetensors"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(LocateError, match=r"edit\.safetensors is not"):
        load_causal(str(copied), device="cpu")


def test_an_ordinary_checkpoint_is_not_for_this_loader(folder_of):
    with pytest.raises(LocateError, match="has no stamp beside it: load it with from_pretrained"):
        load_stamped(folder_of("bloom"), device="cpu")


def test_a_stamp_keeps_its_own_precision(folder_of, tmp_path, quick):
    """In a bfloat16 model it computes in fp32, in memory and after the reload."""
    model = load_causal(str(folder_of("phi3")), device="cpu", dtype="bfloat16")
    told = save_edited(an_edit(model, "phi3"), model, tmp_path / "edited")
    assert told["reload"]["largest_difference"] == 0
    network, _ = load_stamped(tmp_path / "edited", device="cpu", dtype="bfloat16")
    assert network.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in stamp_tensors(network).values()} == {torch.float32}


def test_a_stamp_and_a_change_of_weights_are_saved_together(folder_of, tmp_path, quick):
    model = load_causal(str(folder_of("bloom")), device="cpu")
    layer = matrix(model.network, TEMPLATES["bloom"].format(0))
    made = replace(an_edit(model, "bloom"), changes={layer.parameter: ParameterChange((0.1 * drawn(*layer.shape),))})
    told = save_edited(made, model, tmp_path / "edited")
    assert [row["name"] for row in told["tensors"]["changed"]] == [layer.parameter]
    assert len(told["tensors"]["added"]) == 2
    with made.applied(model):
        wanted = logits(model.network)
    torch.testing.assert_close(logits(load_stamped(tmp_path / "edited", device="cpu")[0]), wanted, rtol=0, atol=1e-6)


def test_an_empty_stamp_changes_nothing(folder_of, tmp_path, quick):
    model = load_causal(str(folder_of("bloom")), device="cpu")
    empty = empty_stamp(model.network, TEMPLATES["bloom"], LAYER, WIDTH, seed=1)
    with pytest.raises(LocateError, match="changed no tensor"):
        save_edited(replace(an_edit(model, "bloom"), stamps=(empty,)), model, tmp_path / "edited")
    assert list(tmp_path.iterdir()) == []


def test_a_width_in_the_configuration_that_the_model_does_not_read_is_no_width(tmp_path):
    """BLOOM's published configurations say "n_inner": null."""
    folder = save_family("bloom", tmp_path / "bloom")
    write_json(folder / "config.json", json.loads((folder / "config.json").read_text()) | {"n_inner": None})
    model = load_causal(str(folder), device="cpu")
    assert hasattr(model.network.config, "n_inner")
    assert unfoldable(model.network, [filled(model.network, "bloom")]) == (
        "the width that its configuration names is not that of every MLP of BloomForCausalLM"
    )


def test_an_mlp_without_an_activation_is_refused(folder_of):
    network = load_causal(str(folder_of("bloom")), device="cpu").network
    network.transformer.h[LAYER].mlp.gelu_impl = torch.nn.Identity()
    with pytest.raises(LocateError, match=r"names no activation of its MLPs \(found None\), and 0 modules"):
        activation(network, TEMPLATES["bloom"].format(LAYER))


def test_fast_trains_a_stamp_that_stays(folder_of, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    text = tmp_path / "text.txt"
    text.write_text(files("locate").joinpath("evaluation", "text", "preserve.txt").read_text()[:6000])
    monkeypatch.setattr(covariance, "WINDOW", 32)
    model = load_causal(str(folder_of("mpt")), device="cpu")
    located = load_located(LOCATED)
    located = replace(
        located, layers=(LAYER,), module_template=TEMPLATES["mpt"],
        trace=located.trace | {"model": model.provenance()},
    )  # fmt: skip
    prompts = occupation_pairs("neutral", templates_each=2, occupations=["nurse", "engineer", "driver"])
    how = FAST(width=8, epochs=10, batch=4, rate=2e-2, preserve=0.1, gamma=0.1, beta=0.1, text=text)
    made = how.edit(model, located, prompts, preserved=definitional_pairs(templates_each=1))
    losses = [row["edit"] for row in made.report["losses"]]
    assert losses[-1] < 0.5 * losses[0]
    was = mean_size(model, prompts)
    with made.applied(model):
        now = mean_size(model, prompts)
    assert now < 0.6 * was
    told = save_edited(made, model, tmp_path / "edited")
    assert told["load"]["with"] == "locate.model.causal.load_stamped"
    assert told["settings"] == json.loads(json.dumps(asdict(replace(how, text=None)) | {"text": str(text)}))
    assert mean_size(load_causal(str(tmp_path / "edited"), device="cpu"), prompts) == pytest.approx(now, abs=1e-4)
