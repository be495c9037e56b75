"""How models read text: what stands before it, the tokenizer's own file, ids in the embedding, the context."""

import json
import shutil
from dataclasses import replace
from importlib.resources import files

import pytest
import torch
from made import TEMPLATE
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from locate import LocateError, load_causal
from locate.model import encoder
from locate.model.encoder import CHAT_REQUEST, UNLIMITED, context_of, encoder_of, put_around
from locate.model.likelihood import next_log_probs
from locate.model.loading import load, load_encoder

END = "<|endoftext|>"
TEXT = "The nurse said that"


@pytest.fixture
def changed(folder_of, tmp_path):
    """A copy of a family's folder, or another, in which JSON files were changed by functions of their content."""

    def make(family, **changes):
        folder = tmp_path / "model"
        shutil.copytree(folder_of(family) if isinstance(family, str) else family, folder)
        for name, change in changes.items():
            path = folder / f"{name}.json"
            content = json.loads(path.read_text())
            change(content)
            path.write_text(json.dumps(content))
        return folder

    return make


def puts(before, behind=""):
    """A change of tokenizer.json after which special tokens stand around every text."""

    def change(content):
        around = [{"SpecialToken": {"id": END, "type_id": 0}}]
        one = [*around * before, {"Sequence": {"id": "A", "type_id": 0}}, *around * len(behind)]
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": one,
            "pair": [*one, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {END: {"id": END, "ids": [0], "tokens": [END]}},
        }

    return change


def plain_log_odds(folder, ids):
    """log p(she) - log p(he) after ids, by transformers alone."""
    network = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    she, he = (tokenizer.encode(word, add_special_tokens=False)[0] for word in (" she", " he"))
    with torch.inference_mode():
        logits = network(torch.tensor([ids])).logits[0, -1]
    return float(logits[she] - logits[he])


def log_odds(model):
    found = next_log_probs(model, [TEXT], [" she", " he"])[0]
    return float(found[0] - found[1])


class TestBefore:
    @pytest.mark.parametrize(("family", "table"), [("gpt2", True), ("qwen2", False)])
    @pytest.mark.parametrize("count", [0, 1, 2])
    def test_the_tokenizer_says_what_stands_before_a_text(self, changed, family, table, count):
        folder = changed(family, tokenizer=puts(count))
        model = load_causal(str(folder))
        own = AutoTokenizer.from_pretrained(folder)
        assert list(model.encoder.before) == [0] * count
        assert model.encoder.encode(TEXT)[0] == own(TEXT)["input_ids"]
        assert log_odds(model) == pytest.approx(plain_log_odds(folder, own(TEXT)["input_ids"]), abs=1e-5)
        said = [note for note in model.notes if "TransformerLens's table" in note]
        assert len(said) == (table != bool(count))

    def test_yes_and_no_are_followed_and_recorded(self, changed):
        folder = changed("gpt2", tokenizer=puts(2))
        bare = AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"]
        for bos, ids in (("yes", [0, *bare]), ("no", bare)):
            model = load_causal(str(folder), bos=bos)
            assert model.encoder.encode(TEXT)[0] == ids
            assert log_odds(model) == pytest.approx(plain_log_odds(folder, ids), abs=1e-5)
            assert model.provenance()["bos"] == bos
            assert model.provenance()["before"] == [END] * (bos == "yes")
            assert load_encoder(str(folder), bos=bos)[0].encode(TEXT)[0] == ids

    def test_hooked_and_plain_models_read_alike(self, changed):
        folder = changed("llama", tokenizer=puts(1))
        assert load(str(folder), device="cpu").encode(TEXT) == load_causal(str(folder)).encoder.encode(TEXT)

    def test_what_stands_behind_is_left_out_and_said(self, changed):
        folder = changed("llama", tokenizer=puts(1, "e"))
        encoder, _ = load_encoder(str(folder))
        assert encoder.encode(TEXT)[0][0] == 0
        assert encoder.encode(TEXT)[0][-1] != 0
        assert any(f"puts {END} behind a text" in note for note in encoder.notes)

    def test_a_text_that_begins_with_it_gets_it_once(self, shared):
        model = load_causal(str(shared / "models" / "stories260k"))
        ids, spans = model.encoder.encode(f"<s>{TEXT}")
        assert ids == model.encoder.encode(TEXT)[0]
        assert spans[0] == (0, 0)
        assert [(a - 3, b - 3) for a, b in spans[2:]] == model.encoder.encode(TEXT)[1][2:]

    def test_bos_where_there_is_none(self, changed):
        def forget(content):
            content.pop("bos_token", None)

        folder = changed("llama", tokenizer_config=forget)
        with pytest.raises(LocateError, match="bos 'yes', but the tokenizer has no BOS token: choose auto or no"):
            load_encoder(str(folder), bos="yes")
        with pytest.raises(LocateError, match="bos 'maybe': expected one of auto, yes, no"):
            load_encoder(str(folder), bos="maybe")

    def test_several_pieces_are_found(self, folder_of):
        tokenizer = AutoTokenizer.from_pretrained(folder_of("gpt2"))
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{END} {END} $A", special_tokens=[(END, 0)]
        )
        assert put_around(tokenizer) == ((0, 0), ())

    def test_mini_says_itself_that_its_documents_began_with_the_end_of_text(self):
        model = load_causal("mini")
        ids = AutoTokenizer.from_pretrained(model.checkpoint.folder)(TEXT)["input_ids"]
        assert ids[0] == 0
        assert model.encoder.encode(TEXT)[0] == ids
        assert not model.notes
        assert log_odds(model) == pytest.approx(0.680, abs=1e-3)


class TestChat:
    def test_the_text_begins_the_answer(self, changed):
        folder = changed("llama")
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        encoder, _ = load_encoder(str(folder), chat=True)
        own = AutoTokenizer.from_pretrained(folder)
        turns = [{"role": "user", "content": CHAT_REQUEST}, {"role": "assistant", "content": TEXT}]
        whole = own.apply_chat_template(turns, continue_final_message=True, tokenize=False)
        assert whole == f"<user>\n{CHAT_REQUEST}\n<assistant>\n{TEXT}"
        ids, spans = encoder.encode(TEXT)
        assert ids == own(whole, add_special_tokens=False)["input_ids"]
        assert spans[len(encoder.before) - 1] == (0, 0)
        assert spans[len(encoder.before)] == (0, len("The"))
        assert encoder.provenance()["chat"]

    def test_no_template_or_one_that_fails(self, changed):
        folder = changed("llama")
        with pytest.raises(LocateError, match="needs a tokenizer with a chat template"):
            load_encoder(str(folder), chat=True)
        (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}{{ raise_exception('three turns') }}")
        with pytest.raises(LocateError, match=r"chat template fails .*three turns"):
            load_encoder(str(folder), chat=True)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
        with pytest.raises(LocateError, match="bos 'yes' with chat"):
            load_encoder(str(folder), chat=True, bos="yes")


class TestOwnFile:
    def test_a_class_that_reads_otherwise_than_the_file_is_not_followed(self, changed):
        def digits(content):
            steps = [{"type": "Digits", "individual_digits": True}, content["pre_tokenizer"]]
            content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}

        def as_gpt2(content):
            content["tokenizer_class"] = "GPT2Tokenizer"
            content.pop("backend", None)

        folder = changed(files("locate").joinpath("mini"), tokenizer=digits, tokenizer_config=as_gpt2)
        text = "In 1987 the nurse, aged 35, said that"
        file = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text, add_special_tokens=False).ids
        assert AutoTokenizer.from_pretrained(folder)(text)["input_ids"] != file  # else this test says nothing
        encoder, _ = load_encoder(str(folder))
        assert encoder.encode(text)[0] == [0, *file]
        assert any("the file was followed" in note for note in encoder.notes)

    def test_pieces_of_sentencepiece_or_a_refusal(self, shared, tmp_path):
        folder = tmp_path / "model"
        shutil.copytree(shared / "models" / "stories260k", folder)
        (folder / "tokenizer.json").unlink()
        shutil.copy(shared / "cases" / "sp_unigram.model", folder / "tokenizer.model")
        shutil.copy(shared / "cases" / "sp_unigram_tokenizer_config.json", folder / "tokenizer_config.json")
        with pytest.raises(LocateError, match=r"the tokenizer's own file as \[.*save it again as tokenizer\.json"):
            load_encoder(str(folder))

    def test_an_older_form_of_several_files_is_said_to_be_unchecked(self, folder_of, tmp_path):
        folder = shutil.copytree(folder_of("gpt2"), tmp_path / "model")
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [" ".join(each) if isinstance(each, list) else each for each in model["merges"]]
        (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
        encoder, _ = load_encoder(str(folder))
        assert any("could not be checked" in note for note in encoder.notes)
        assert encoder.encode(TEXT)[0] == load_encoder(str(folder_of("gpt2")))[0].encode(TEXT)[0]

    def test_truncation_in_the_file_shortens_no_text(self, changed):
        def truncating(content):
            content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}

        encoder, _ = load_encoder(str(changed("llama", tokenizer=truncating)))
        assert len(encoder.encode(TEXT)[0]) > 3


class TestEmbedding:
    def test_ids_beyond_the_embedding_are_refused_with_both_sizes(self, changed):
        def more(content):
            content["model"]["vocab"] |= {f"piece{number}": 380 + number for number in range(5)}

        folder = changed("llama", tokenizer=more)
        for read in (load_encoder, load_causal, lambda name: load(name, device="cpu")):
            with pytest.raises(LocateError, match="ids up to 384, but its embedding has 380 rows"):
                read(str(folder))

    def test_a_special_token_beyond_it_is_said_and_refused_in_a_text(self, changed):
        def image(content):
            one = content["added_tokens"][0]
            content["added_tokens"].append(one | {"id": 380, "content": "<image>"})

        model = load_causal(str(changed("llama", tokenizer=image)))
        assert any("<image>" in note for note in model.notes)
        with pytest.raises(LocateError, match="the text holds '<image>', id 380, and the embedding has 380 rows"):
            model.encoder.encode("The <image> said")


class TestContext:
    @pytest.mark.parametrize(
        ("kind", "settings", "expected"),
        [
            ("gpt2", {"n_positions": 77}, 77),
            ("opt", {"max_position_embeddings": 50}, 50),
            ("llama", {"max_position_embeddings": 60}, 60),
            ("mistral", {"max_position_embeddings": 60, "sliding_window": 4}, 60),
            ("bloom", {}, UNLIMITED),
            ("mpt", {"max_seq_len": 33}, 33),
            ("llama", {"max_position_embeddings": 60, "rope_scaling": {"rope_type": "linear", "factor": 4.0}}, 240),
            ("llama", {"max_position_embeddings": 60, "rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, 120),
            (
                "qwen2",
                {
                    "max_position_embeddings": 60,
                    "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 60},
                },
                240,
            ),
        ],
    )
    def test_from_the_configuration(self, kind, settings, expected):
        assert context_of(AutoConfig.for_model(kind, **settings)) == expected

    def test_longer_prompts_are_refused_before_anything_is_run(self, model_of, folder_of):
        model = load_causal(str(folder_of("llama")))
        long = " ".join(["the nurse said"] * 40)
        count = len(model.encoder.encode(long)[0])
        with pytest.raises(LocateError, match=rf"has {count} tokens, .* takes 64"):
            next_log_probs(model, [long], [" she"])


def test_bos_settings_are_checked_without_a_model(folder_of):
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder_of("gpt2"))
    assert encoder_of(tokenizer, custom=False).notes == ()
    assert encoder_of(tokenizer, bos="yes").before == (0,)


def test_a_text_that_was_read_before_is_read_alike(gpt2, monkeypatch):
    """Whatever a caller did with what it was given; no more texts are remembered than may be."""
    own = replace(gpt2.encoder)
    ids, spans = own.encode("The nurse said that")
    first = list(ids), list(spans)
    ids.append(0)
    spans.clear()
    assert own.encode("The nurse said that") == first == gpt2.encoder.encode_anew("The nurse said that")
    monkeypatch.setattr(encoder, "REMEMBERED", 2)
    long = "The nurse said that " * 40
    assert own.encode(long) == own.encode(long)
    for word in ("nurse", "man", "engineer"):
        assert own.encode(f"The {word} laughed") != first
    assert len(own.read) <= 2
    assert long not in own.read
