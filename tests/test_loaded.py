"""What a folder's files hold is measured, or refused in one line; right values are those of plain transformers."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from locate.editors.stored import compare_files
from locate.errors import LocateError
from locate.model.causal import load_causal
from locate.model.checkpoint import find_checkpoint
from locate.model.likelihood import last_logits, last_states, log_likelihoods, next_log_probs, row_logits
from locate.model.loading import load

WEIGHTS = "model.safetensors"


@pytest.fixture
def copied(folder_of, tmp_path):
    """A copy of a family's folder, its weights and configuration rewritten."""

    def copy(family="llama", change=None, name="copy", **config):
        folder = tmp_path / name
        shutil.copytree(folder_of(family), folder)
        if change is not None:
            tensors = load_file(folder / WEIGHTS)
            change(tensors)
            save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        said = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps({key: each for key, each in said.items() if each is not None}))
        return folder

    return copy


def refused(folder, match, **options):
    with pytest.raises(LocateError, match=match) as caught:
        load_causal(str(folder), device="cpu", **options)
    assert "\n" not in str(caught.value)


def found(folder, **options):
    return find_checkpoint(str(folder), revision=None, allow_pickle=False, trust_remote_code=False, **options)


def bias_of_output(tensors):
    for layer in range(3):
        tensors[f"model.layers.{layer}.self_attn.o_proj.bias"] = torch.ones(32)


def another_layer(tensors):
    for name in [name for name in tensors if ".layers.2." in name]:
        tensors[name.replace(".layers.2.", ".layers.3.")] = tensors[name].clone()


def other_prefix(tensors):
    for name in list(tensors):
        tensors[f"backbone.{name}"] = tensors.pop(name)


def packed(tensors):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = (10 * tensors[name]).to(torch.int8)


def scaled_down(tensors):
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)


class TestTensors:
    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (bias_of_output, r"hold 3 tensors \(model.layers.0.self_attn.o_proj.bias.*no place.*correct config.json"),
            (another_layer, r"hold 9 tensors \(model.layers.3.input_layernorm.weight"),
            (other_prefix, r"lack \d+ tensors .*would be random, and hold \d+ tensors \(backbone\."),
            (packed, r"layers.0.mlp.up_proj.weight is stored as I8 \(1 such"),
            (scaled_down, r"layers.0.mlp.up_proj.weight is stored as F8_E4M3"),
            (lambda tensors: tensors.pop("model.norm.weight"), r"lack 1 tensor \(model.norm.weight\)"),
        ],
    )
    def test_what_the_model_has_no_place_for_is_refused_by_name(self, copied, change, match):
        refused(copied(change=change), match)

    def test_old_buffers_are_no_weights(self, copied):
        def buffers(tensors):
            tensors["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64, dtype=torch.uint8).tril()
            tensors["transformer.h.0.attn.masked_bias"] = torch.tensor(-1e4)

        model = load_causal(str(copied("gpt2", buffers)), device="cpu")
        assert model.notes == load_causal(str(copied("gpt2", name="as it was")), device="cpu").notes

    def test_a_head_that_differs_from_the_embedding_is_used_and_said(self, copied):
        def untie(tensors):
            tensors["lm_head.weight"] = tensors["transformer.wte.weight"].flip(0).clone()

        folder = copied("gpt2", untie)
        model = load_causal(str(folder), device="cpu")
        assert any("two that differ" in note for note in model.notes)
        ids = torch.tensor([model.encoder.encode("The nurse said that")[0]])
        with torch.inference_mode():
            wanted = AutoModelForCausalLM.from_pretrained(folder)(ids).logits
            stored = load_file(folder / WEIGHTS)["lm_head.weight"]
            by_hand = model.network.transformer(ids).last_hidden_state @ stored.T
        torch.testing.assert_close(row_logits(model, ids.tolist()), wanted)
        torch.testing.assert_close(wanted, by_hand)

    def test_a_head_like_the_embedding_is_no_news(self, copied):
        def same(tensors):
            tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()

        assert not any("differ" in note for note in load_causal(str(copied("gpt2", same)), device="cpu").notes)

    def test_heads_for_later_tokens_are_said_to_be_left_out(self, copied, monkeypatch):
        from transformers import LlamaForCausalLM

        monkeypatch.setattr(LlamaForCausalLM, "_keys_to_ignore_on_load_unexpected", [r"^mtp\."])

        def later(tensors):
            tensors["mtp.head.weight"] = torch.ones(2, 2)

        notes = load_causal(str(copied(change=later)), device="cpu").notes
        assert any("1 tensor (mtp.head.weight)" in note for note in notes)


class TestIndex:
    @pytest.fixture
    def sharded(self, copied):
        folder = copied()
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names = sorted(tensors)
        files = {name: f"model-0000{1 + (place > 10)}-of-00002.safetensors" for place, name in enumerate(names)}
        for file in set(files.values()):
            save_file(
                {name: tensors[name] for name in names if files[name] == file}, folder / file, metadata={"format": "pt"}
            )
        self.write(folder, files)
        return folder, files, tensors

    def write(self, folder, files):
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": files}))

    def test_shards_are_the_model(self, sharded):
        folder, _, tensors = sharded
        model = load_causal(str(folder), device="cpu")
        assert torch.equal(model.network.model.norm.weight, tensors["model.norm.weight"])

    def test_an_index_that_is_wrong_is_refused(self, sharded):
        folder, files, _ = sharded
        first = min(files)
        self.write(folder, files | {first: files[max(files)]})
        refused(folder, f"its index says that {first} is in {files[max(files)]}, which does not hold it")

    def test_a_tensor_in_two_files_is_refused(self, sharded):
        folder, files, tensors = sharded
        last = max(files)
        both = {name: tensors[name] for name in files if files[name] == files[min(files)]} | {last: tensors[last] + 1}
        save_file(both, folder / files[min(files)], metadata={"format": "pt"})
        refused(folder, f"{last} is in two of its weight files")


class TestFolder:
    def test_other_weights_beside_are_said_to_be_unread(self, copied):
        folder = copied()
        save_file({"x": torch.ones(1)}, folder / "consolidated.safetensors")
        assert any("consolidated.safetensors in the same folder was not read" in note for note in found(folder).notes)

    @pytest.mark.parametrize("method", ["bitsandbytes", "gptq", "awq", "fp8", "compressed-tensors", "mxfp4"])
    def test_packed_weights_are_refused(self, copied, method):
        refused(copied(quantization_config={"quant_method": method}), rf"is quantised \({method}\)")

    def test_settings_of_generation_are_said_to_be_left_out(self, copied):
        folder = copied()
        settings = {"repetition_penalty": 1.2, "suppress_tokens": [3], "temperature": 0.5, "no_repeat_ngram_size": 0}
        (folder / "generation_config.json").write_text(json.dumps(settings))
        assert any("sets repetition_penalty, suppress_tokens, which" in note for note in found(folder).notes)
        (folder / "generation_config.json").write_text(json.dumps(settings | {"do_sample": True}))
        assert any("suppress_tokens, temperature, which" in note for note in found(folder).notes)

    @pytest.mark.parametrize(
        ("spoil", "match"),
        [
            (lambda folder: (folder / "config.json").write_text("[]"), "holds no settings"),
            (lambda folder: (folder / "config.json").write_text("{"), "config.json cannot be read"),
            (lambda folder: (folder / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
            (lambda folder: (folder / WEIGHTS).write_bytes(b""), "is not a safetensors file"),
            (lambda folder: (folder / WEIGHTS).rename(folder / "model.fp16.safetensors"), "rename the file"),
            (lambda folder: (folder / WEIGHTS).rename(folder / "tf_model.h5"), "found tf_model.h5"),
            (lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).mkdir()), "is a folder: expected a file"),
            (
                lambda folder: ((folder / WEIGHTS).unlink(), (folder / WEIGHTS).symlink_to(folder / "gone")),
                "is a link to a file that is missing",
            ),
        ],
    )
    def test_damaged_files_are_told_in_one_line(self, copied, spoil, match):
        folder = copied()
        spoil(folder)
        refused(folder, match)

    def test_links_to_files_elsewhere_are_followed(self, copied, tmp_path):
        folder, linked = copied(), tmp_path / "linked"
        linked.mkdir()
        for path in folder.iterdir():
            (linked / path.name).symlink_to(path)
        assert found(linked).weights_sha256 == found(folder).weights_sha256


class TestArchitecture:
    def test_the_type_names_it_where_nothing_else_does(self, copied):
        folder = copied(architectures=None)
        checkpoint = found(folder)
        assert checkpoint.architecture == type(AutoModelForCausalLM.from_pretrained(folder)).__name__
        assert any("names no architecture" in note for note in checkpoint.notes)

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"architectures": ["LlamaModel"]}, "is LlamaModel: expected a decoder-only causal"),
            ({"architectures": ["LlamaForSequenceClassification"]}, "is LlamaForSequenceClassification"),
            ({"architectures": ["GPT2LMHeadModel"]}, "names GPT2LMHeadModel, but its model_type 'llama' makes Llama"),
            ({"architectures": ["BertLMHeadModel"], "model_type": "bert"}, "is an encoder"),
            ({"architectures": None, "model_type": "t5"}, "expected a decoder-only"),
            ({"architectures": "LlamaForCausalLM"}, "is not a list"),
        ],
    )
    def test_what_is_no_causal_model_is_refused(self, copied, config, match):
        with pytest.raises(LocateError, match=match):
            load(str(copied("llama", **config)), device="cpu")


class TestIds:
    @pytest.mark.parametrize("loader", [load, load_causal])
    def test_pieces_beyond_the_embedding_are_refused_with_both_sizes(self, copied, loader):
        def shorter(tensors):
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                tensors[name] = tensors[name][:300].clone()

        folder = copied(change=shorter, vocab_size=300)
        with pytest.raises(LocateError, match=r"ids up to 379, but its embedding has 300 rows"):
            loader(str(folder), device="cpu")


def spoiled(name, place, value):
    def change(tensors):
        tensors[name][place] = value

    return change


class TestNumbers:
    """Numbers that are none, in one embedding, in a weight, or in a piece that is never written."""

    @pytest.mark.parametrize("loader", [load, load_causal])
    def test_a_model_of_nan_is_refused_at_load(self, copied, loader):
        folder = copied(change=spoiled("model.layers.1.mlp.down_proj.weight", (0, 0), float("nan")))
        with pytest.raises(LocateError, match=r"logits of model '.*' are nan after 'The nurse said that': check its"):
            loader(str(folder), device="cpu")

    def test_one_word_of_nan_is_refused_where_it_is_read(self, copied, folder_of):
        word = load_causal(str(folder_of("llama")), device="cpu").encoder.encode(" librarian")[0][-1]
        folder = copied(change=spoiled("model.embed_tokens.weight", word, float("nan")))
        model = load_causal(str(folder), device="cpu")
        bad, good = "The librarian", "The nurse said that"
        ids = torch.tensor([model.encoder.encode(bad)[0]])
        reads = [
            lambda: next_log_probs(model, [good, bad], [" she", " he"]),
            lambda: log_likelihoods(model, [(good, " she"), (bad, " she")]),
            lambda: last_states(model, [good, bad]),
            lambda: last_logits(model, ids),
        ]
        for read in reads:
            with pytest.raises(LocateError, match=r"are nan after 'The librarian"):
                read()
        assert next_log_probs(model, [good], [" she"]).isfinite().all()

    def test_pieces_that_no_row_holds_change_nothing(self, copied):
        folder = copied(change=spoiled("model.embed_tokens.weight", 0, float("nan")))
        model, plain = load_causal(str(folder), device="cpu", bos="no"), AutoModelForCausalLM.from_pretrained(folder)
        rows = [model.encoder.encode(text)[0] for text in ("The nurse said that", "The man")]
        found = row_logits(model, rows)
        for place, row in enumerate(rows):
            with torch.inference_mode():
                wanted = plain(torch.tensor([row])).logits[0]
            torch.testing.assert_close(found[place, : len(row)], wanted)

    def test_a_piece_that_is_masked_is_no_fault_until_it_is_an_answer(self, copied, folder_of):
        from transformers.models.llama.modeling_llama import LlamaForCausalLM

        plain = load_causal(str(folder_of("llama")), device="cpu")
        she = plain.encoder.encode(" she")[0][-1]
        forward = LlamaForCausalLM.forward

        def masked(self, *args, **options):
            found = forward(self, *args, **options)
            found.logits[..., she] = -torch.inf
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LlamaForCausalLM, "forward", masked)
            assert next_log_probs(plain, ["The man"], [" he"]).isfinite().all()
            with pytest.raises(LocateError, match="are infinite after 'The man'"):
                next_log_probs(plain, ["The man"], [" she", " he"])
            with pytest.raises(LocateError, match="are infinite after 'The man she'"):
                log_likelihoods(plain, [("The man", " she")])


class TestFiles:
    """An edited checkpoint against the original's files."""

    def test_every_tensor_is_accounted_for(self, copied):
        def extra(tensors):
            tensors["mtp.head.weight"] = torch.ones(2, 2)

        folder, other = copied(), copied(name="other")
        model = load_causal(str(folder), device="cpu")
        total = len(load_file(folder / WEIGHTS))
        assert compare_files(model, other, []) == {
            "same": total, "converted": 0, "changed": [], "tied": [], "gone": []
        }  # fmt: skip
        changed = copied(name="changed", change=spoiled("model.norm.weight", 0, 7.0))
        with pytest.raises(LocateError, match=r"tensor model.norm.weight of the original's file"):
            compare_files(model, changed, [])
        told = compare_files(model, changed, ["model.norm.weight"])
        assert (told["same"], told["changed"]) == (total - 1, ["model.norm.weight"])
        tensors = load_file(other / WEIGHTS)
        extra(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
        assert compare_files(model, other, [])["gone"] == ["mtp.head.weight"]

    def test_another_number_format_is_said(self, copied):
        def halved(tensors):
            for name in tensors:
                tensors[name] = tensors[name].bfloat16()

        folder = copied(change=halved)
        model = load_causal(str(folder), device="cpu")
        model.network.save_pretrained(folder.parent / "saved")
        told = compare_files(model, folder.parent / "saved", [])
        assert told["same"] == 0
        assert told["converted"] == len(load_file(folder / WEIGHTS))
