"""A rewriter: rows of a file, how a model is asked, what it is trained on, and the file that a stop does not lose."""

import csv
import gzip
import json
import math
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from families import save_family
from handmade import META
from test_baselines import located_in
from transformers import AutoTokenizer, GenerationConfig

import locate.rewriting
from locate.errors import LocateError
from locate.files import read_json
from locate.model.causal import load_causal
from locate.model.likelihood import generate
from locate.model.matrices import matrix
from locate.model.quantised import QuantisedLinear
from locate.model.writing import write_answers
from locate.rewriting import rewrite, train
from locate.rewriting.originals import Original, numbered_originals, read_originals, tidy
from locate.rewriting.request import Request
from locate.rewriting.rewrite import Rewritten, outcome_of, read_rewritten, rewrite_file, rewrite_rows
from locate.rewriting.train import (
    Rewriter,
    RewritingWatch,
    answer_likelihood,
    read_request,
    readable,
    token_row,
    train_rewriter,
)
from locate.training import rows as training_rows
from locate.training.guards import Guards
from locate.training.rows import note_on
from locate.training.scope import factor_layers, linear_matrices, open_lora

TEMPLATE = (
    "{% for message in messages %}<{{ message['role'] }}>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|endoftext|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>\n{% endif %}"
)
JOBS = ["nurse", "engineer", "doctor", "librarian", "secretary", "man", "woman", "person"]
SAID = [(f"The {job} said that {old} was {how}.", f"The {job} said that they was {how}.") for job in JOBS
        for old in ("he", "she") for how in ("tired", "late")]  # fmt: skip
SHORT = Request("Say they.")
LOOSE = Guards(looks=2, chosen=50, empty=100, repeating=100)


def written(path, rows, header=("input_text", "debiased_text")):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tiny(request, folder_of):
    return load_causal(str(folder_of(request.param)), device="cpu")


@pytest.fixture(scope="module")
def llama(folder_of):
    return load_causal(str(folder_of("llama")), device="cpu")


@pytest.fixture(scope="module")
def talking(folder_of, tmp_path_factory):
    """A model whose tokenizer has a chat template."""
    folder = tmp_path_factory.mktemp("talking") / "model"
    shutil.copytree(folder_of("llama"), folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return load_causal(str(folder), device="cpu")


@pytest.fixture
def said(tmp_path):
    return read_originals(written(tmp_path / "said.csv", SAID), held_out=0.25)


class TestRows:
    def test_mbias_columns_and_what_is_named_by_its_line(self, tmp_path):
        path = tmp_path / "own.jsonl"
        good = [{"input_text": text, "debiased_text": new, "dimension": "gender"} for text, new in SAID[:8]]
        bad = [
            {"input_text": "", "debiased_text": "Something."},
            {"input_text": None, "debiased_text": "Something."},
            {"input_text": 7, "debiased_text": "Something."},
            {"input_text": "A text.", "debiased_text": "  "},
            {"input_text": "A text.", "debiased_text": ["one.", 3]},
            {"input_text": "A \x00 text.", "debiased_text": "Another."},
            {"input_text": SAID[0][0] + " ", "debiased_text": SAID[0][1]},
            {"input_text": "A text.", "debiased_text": "Another.", "split": "maybe"},
        ]
        lines = [json.dumps(row) for row in (*good, *bad)]
        path.write_text("\n".join([*lines, "[1, 2]", "{half", json.dumps({"debiased_text": "No text."})]))
        found = read_originals(path, held_out=0.5)
        assert len(found.train) == len(found.held_out) == 4
        assert found.train[0].demographic == "gender"
        assert [(row.line, row.reason) for row in found.left_out] == [
            (9, "input_text is empty"),
            (10, "input_text is missing"),
            (11, "input_text is not text"),
            (12, "has no rewrite"),
            (13, "debiased_text is not text"),
            (14, "input_text has broken characters"),
            (15, "repeats line 1"),
            (16, "split 'maybe' is neither train nor held_out"),
            (17, "not a JSON object"),
            (18, "not a JSON object"),
            (19, "input_text is missing"),
        ]
        assert "2 not a JSON object (lines 17, 18)" in note_on(found.as_json())

    def test_lists_splits_and_columns_as_people_write_them(self, tmp_path):
        rows = [(text, json.dumps([new, "Other."]), "Train" if k % 2 else "dev") for k, (text, new) in enumerate(SAID)]
        found = read_originals(written(tmp_path / "own.csv", rows, ("text", "references", "split")))
        assert found.train[0].references == (SAID[1][1], "Other.")
        assert (len(found.train), len(found.held_out)) == (16, 16)
        with pytest.raises(LocateError, match="has two columns 'text': expected each name once"):
            read_originals(written(tmp_path / "own.csv", rows, ("text", "text", "split")))
        path = tmp_path / "odd.jsonl"
        good = [json.dumps({"text": text, "reference": new}) for text, new in SAID]
        odd = ["[" * 100000, '{"text": ' + "9" * 5000 + "}", '{"text": "A.", "reference": "B.", "group": "\\ud83d"}']
        path.write_text("\n".join([*good, *odd]))
        gone = [(row.line, row.reason) for row in read_originals(path).left_out]
        assert gone == [
            (33, "not a JSON object"), (34, "not a JSON object"), (35, "group or demographic has broken characters")
        ]  # fmt: skip

    @pytest.mark.parametrize("indent", [None, 2])
    def test_a_file_that_is_one_json_array(self, tmp_path, indent):
        """As pandas and many tools write it; rows are numbered where lines would be."""
        path = tmp_path / "own.json"
        rows = [{"text": text, "reference": new} for text, new in SAID]
        path.write_text(json.dumps([*rows, "no row", {"text": "Left alone."}], indent=indent))
        found = read_originals(path)
        assert len(found.train) + len(found.held_out) == len(SAID)
        assert [(row.line, row.reason) for row in found.left_out] == [
            (len(SAID) + 1, "not a JSON object"), (len(SAID) + 2, "has no rewrite")
        ]  # fmt: skip
        path.write_text(json.dumps(rows, indent=indent)[:-1])
        with pytest.raises(LocateError, match=r"own\.json begins like a JSON array, but is not JSON"):
            read_originals(path)
        for first in ("[1, 2]", "[half"):
            path.write_text("\n".join([first, *map(json.dumps, rows), "[3]"]))  # JSON Lines, with arrays among them
            gone = [(row.line, row.reason) for row in read_originals(path).left_out]
            assert gone == [(1, "not a JSON object"), (len(SAID) + 2, "not a JSON object")]

    def test_a_text_with_several_rewrites(self, tmp_path):
        path = tmp_path / "toxic.tsv.gz"
        rows = [f'bad {job} "x\tgood {job}\t\tfine {job}' for job in JOBS]
        path.write_bytes(
            gzip.compress("\n".join(["toxic\tneutral1\tneutral2\tneutral3", *rows, "short\trow"]).encode())
        )
        found = read_originals(path, held_out=0.5)
        assert len(found.train) + len(found.held_out) == len(JOBS)
        assert [row.reason for row in found.left_out] == ["more or fewer cells than columns"]
        row = found.train[0]
        job = row.text.split()[1]
        assert (row.text, row.references, row.group) == (f'bad {job} "x', (f"good {job}", f"fine {job}"), row.text)

    def test_winobias_plus_is_tidied_and_split_by_occupations(self, tmp_path):
        names = ["nurse", "clerk", "guard", "cook"]
        rows = []
        for one in names:
            for other in names:
                if one != other:
                    for pronoun in ("she", "he"):
                        marked = f"[The {one}] called the {other} 's boss because [{pronoun}] was late."
                        rows.append({"gendered": marked, "neutral": f"The {one} called the {other} 's boss , ok ?"})
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = read_originals(path, held_out=0.5)
        apart, seen = ({name for row in part for name in row.groups} for part in (found.held_out, found.train))
        assert len(apart) == len(seen) == 2
        assert not apart & seen
        assert (len(found.train), len(found.held_out), len(found.left_out)) == (4, 4, 16)
        assert {row.reason for row in found.left_out} == {"names an occupation that is held out beside one that is not"}
        row = found.train[0]
        assert row.text == f"The {row.groups[0]} called the {row.groups[1]}'s boss because she was late."
        assert row.references == (f"The {row.groups[0]} called the {row.groups[1]}'s boss, ok?",)

    def test_the_marked_occupation_comes_first(self, tmp_path):
        path = tmp_path / "pairs.jsonl"
        rows = [
            ("The cook told [the guard] that [he] was late.", "x"),
            ("[The cook] told the guard that [he] ran.", "y"),
        ]
        path.write_text("".join(json.dumps({"gendered": a, "neutral": b}) + "\n" for a, b in rows))
        assert [row.groups for _, row in numbered_originals(path)] == [("guard", "cook"), ("cook", "guard")]

    def test_published_files(self, shared):
        bias = read_originals(shared / "data" / "winobias_plus" / "pairs.jsonl.gz")
        assert (len(bias.train), len(bias.held_out), bias.as_json()["left out"]) == (1544, 272, 1351)
        assert not {name for row in bias.train for name in row.groups} & {
            name for row in bias.held_out for name in row.groups
        }
        toxic = read_originals(shared / "data" / "paradetox" / "paradetox.tsv.gz")
        assert len(toxic.train) + len(toxic.held_out) + toxic.as_json()["left out"] == 11934  # one line is empty
        assert max(len(row.references) for row in toxic.train) == 3

    def test_no_text_stands_on_both_sides(self, tmp_path):
        rows = [(f"He said {i}.", f"They said {i}.", f"g{i % 8}") for i in range(32)]
        rows += [(f"He  said {i}.", f"She said {i}.", f"g{(i + 1) % 8}") for i in range(32)]
        found = read_originals(written(tmp_path / "own.csv", rows, ("text", "reference", "group")))
        sides = [{" ".join(row.text.split()) for row in some} for some in (found.train, found.held_out)]
        assert not sides[0] & sides[1]
        twice = [row for row in found.left_out if row.reason.startswith("its text is held out")]
        assert len(found.train) + len(found.held_out) + len(twice) == 64
        assert {row.reason for row in found.left_out} == {twice[0].reason}

    def test_a_cell_of_any_length(self, tmp_path):
        limit = csv.field_size_limit()
        rows = [("He said so. " * 20_000, "They said so. " * 20_000), *SAID]
        found = read_originals(written(tmp_path / "own.csv", rows))
        assert max(len(row.text) for row in (*found.train, *found.held_out)) > 200_000
        assert csv.field_size_limit() == limit

    def test_the_split_of_the_data_is_heeded_and_a_limit_draws(self, tmp_path):
        rows = [(*row, "train" if place % 2 else "test") for place, row in enumerate(SAID)]
        path = written(tmp_path / "own.csv", rows, ("text", "reference", "split"))
        found = read_originals(path)
        assert [row.line % 2 for row in found.train] == [1] * 16
        few = read_originals(path, limit=5)
        assert len(few.train) == 5
        assert few.held_out == found.held_out
        assert {row.line for row in few.train} < {row.line for row in read_originals(path, limit=9).train}

    @pytest.mark.parametrize(
        ("header", "match"),
        [
            (
                ("sentence", "rewrite"),
                "has no column of texts: found rewrite, sentence; expected one of text, input_text",
            ),
            (("text", "other"), r"has 0 usable rows to train on and 0 held out.*32 has no rewrite \(lines 2, 3"),
        ],
    )
    def test_columns_that_are_missing(self, tmp_path, header, match):
        with pytest.raises(LocateError, match=match):
            read_originals(written(tmp_path / "own.csv", SAID, header))

    def test_settings_and_files(self, tmp_path):
        path = written(tmp_path / "own.csv", SAID)
        for given, match in (
            ({"held_out": 1.0}, "held_out 1.0: expected a share"),
            ({"limit": 0}, "limit 0: expected at least one"),
        ):
            with pytest.raises(LocateError, match=match):
                read_originals(path, **given)
        with pytest.raises(LocateError, match=r"no file .*none\.csv"):
            read_originals(tmp_path / "none.csv")
        (tmp_path / "own.txt").write_text("x")
        with pytest.raises(LocateError, match=r"expected a name that ends in \.csv, \.tsv, \.jsonl, \.json"):
            read_originals(tmp_path / "own.txt")

    def test_the_hub(self, tmp_path, monkeypatch):
        path = written(tmp_path / "rows.csv", SAID)

        @contextmanager
        def fetched(name, usual):
            yield path, {name: "0" * 64}

        monkeypatch.setattr(training_rows, "fetched", fetched)
        found = read_originals("newsmediabias/Bias-DeBiased:default:train")
        assert found.source == {"newsmediabias/Bias-DeBiased:default:train": "0" * 64}
        assert len(found.train) + len(found.held_out) == 32

    def test_tidy(self):
        assert tidy(" The  farmer 's dog , they said ,  did n't bark . ") == "The farmer's dog, they said, didn't bark."
        assert tidy("3 .5 : :)") == "3 .5: :)"


class TestRequest:
    def test_training_and_inference_ask_with_the_same_tokens(self, tiny, talking):
        for model in (tiny, talking):
            row = Original(SAID[0][0], (SAID[0][1],), ("x",), 2)
            trained = token_row(model, SHORT, row)
            assert list(trained.prompt) == SHORT.prompt_ids(model, row.text)
            assert trained.chosen[-1] == 0  # the token that ends an answer
            assert 0 not in trained.chosen[:-1]
            assert trained.rejected == ()

    def test_no_end_of_text_stands_behind_the_request(self, tiny, talking):
        for model in (tiny, talking):
            ids = SHORT.prompt_ids(model, "The nurse said")
            assert ids[-1] != model.encoder.tokenizer.eos_token_id

    def test_a_chat_template_writes_the_request(self, talking):
        request = Request("Say they.", (("She ran.", "They ran."),))
        said = talking.encoder.tokenizer.decode(request.prompt_ids(talking, " The nurse ran. "))
        assert said == (
            "<user>\nSay they.\n\nShe ran.<assistant>\nThey ran.<|endoftext|>"
            "<user>\nSay they.\n\nThe nurse ran.<assistant>\n"
        )

    def test_without_a_template_marks_stand_around_the_text(self, llama):
        request = Request("Say they.", (("She ran.", "They ran."),))
        said = llama.encoder.tokenizer.decode(request.prompt_ids(llama, "The nurse ran.")[-40:])
        assert said.endswith("he ran.\nRewrite: They ran.\n\nText: The nurse ran.\nRewrite:")
        wrote = llama.encoder.tokenizer(" They ran.\nText: The man", add_special_tokens=False)["input_ids"]
        assert request.answer_text(llama, wrote) == ("They ran.", True)
        assert request.answer_text(llama, wrote[:3])[1] is False

    def test_the_turn_ends_as_the_template_says(self, folder_of, tmp_path):
        """Here an assistant's turn ends with a token of its own, which is not the tokenizer's end of text."""
        folder = tmp_path / "model"
        shutil.copytree(folder_of("llama"), folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        word = tokenizer.convert_ids_to_tokens(len(tokenizer) - 1)
        tokenizer.add_special_tokens({"additional_special_tokens": [word]})
        tokenizer.chat_template = TEMPLATE.replace("<|endoftext|>", word)
        tokenizer.save_pretrained(folder)
        model = load_causal(str(folder), device="cpu")
        assert SHORT.end_ids(model) == (len(tokenizer) - 1, 0)
        assert SHORT.answer_ids(model, "They ran.")[-1] == len(tokenizer) - 1

    def test_texts_and_templates_that_are_refused(self, tiny, talking, folder_of, tmp_path):
        for model in (tiny, talking):
            for asked in (SHORT.prompt_ids, SHORT.answer_ids):
                with pytest.raises(LocateError, match=r"holds the special token <\|endoftext\|>: leave it out$"):
                    asked(model, "The nurse<|endoftext|> said")
        with pytest.raises(LocateError, match="the instruction is empty"):
            Request(" ")
        folder = tmp_path / "model"
        shutil.copytree(folder_of("llama"), folder)
        (folder / "chat_template.jinja").write_text(
            "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}{% endfor %}"
            "{% if add_generation_prompt %}assistant:<think>{% endif %}"
        )
        with pytest.raises(LocateError, match="puts more between request and answer when it asks than when it tells"):
            SHORT.end_ids(load_causal(str(folder), device="cpu"))
        (folder / "chat_template.jinja").write_text("{{ raise_exception('no system') }}")
        with pytest.raises(LocateError, match=r"chat template fails .*no system"):
            SHORT.prompt_ids(load_causal(str(folder), device="cpu"), "The nurse")


class TestWriting:
    @pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "bloom", "opt", "gpt_neox"])
    def test_answers_are_the_likeliest_tokens(self, folder_of, family):
        """The second implementation reads each text anew for every token, with no padding in front and no cache."""
        model = load_causal(str(folder_of(family)), device="cpu")
        prompts = ["The nurse said that", "The man", "The police officer laughed because he was"]
        rows = [model.encoder.encode(text)[0] for text in prompts]
        found = write_answers(model, rows, tokens=[12, 5, 12], ends=[0])
        plain = generate(model, prompts, tokens=12)
        decoded = [model.encoder.tokenizer.decode(ids) for ids in found]
        assert decoded[0] == plain[0]
        assert decoded[2] == plain[2]
        assert len(found[1]) <= 5
        assert plain[1].startswith(decoded[1])

    def test_what_the_checkpoint_says_about_sampling_is_left_out_and_put_back(self, llama):
        rows = [llama.encoder.encode("The nurse said that")[0]]
        before = write_answers(llama, rows, tokens=[8], ends=[0])
        own = llama.network.generation_config
        llama.network.generation_config = GenerationConfig(do_sample=True, suppress_tokens=before[0][:1])
        told = llama.network.generation_config
        try:
            assert write_answers(llama, rows, tokens=[8], ends=[0]) == before
            assert llama.network.generation_config is told
        finally:
            llama.network.generation_config = own

    def test_an_answer_ends_before_its_end(self, llama):
        row = llama.encoder.encode("The nurse said that")[0]
        free = write_answers(llama, [row], tokens=[8], ends=[0])[0]
        assert write_answers(llama, [row], tokens=[8], ends=[free[3]])[0] == free[: free.index(free[3])]


@pytest.mark.parametrize(
    ("text", "rewrite_", "outcome"),
    [
        ("She ran.", "They ran.", ""),
        ("She ran.", "", "empty"),
        ("She ran.", " ... \n", "empty"),
        ("She ran.", "she RAN", "copied"),
        ("She ran.", "I'm sorry, but I can't help with that.", "refused"),
        ("She ran.", "I cannot assist with this request.", "refused"),
        ("She ran.", "As an AI language model, I have no opinion.", "refused"),
        ("She ran.", "I apologise for the confusion.", "refused"),
        ("I can't help him.", "I cannot help them.", ""),
        ("She can't run.", "They can't run.", ""),
        ("She was sorry.", "They were sorry.", ""),
        ("She ran.", "Sorry, I can't do that.", "refused"),
        ("She ran.", "I'm not comfortable rewriting this.", "refused"),
        ("She ran.", "As a responsible AI, I must decline.", "refused"),
        ("She ran.", "Unfortunately I am not able to do so.", "refused"),
        ("She will not support it.", "They will not support the club any longer.", ""),
        ("He is hopeless.", "If they are lost, I can't do anything.", ""),
        ("He worked there.", "They worked as an assistant in the office.", ""),
    ],
)
def test_outcomes(text, rewrite_, outcome):
    assert outcome_of(text, rewrite_) == outcome


class TestFile:
    @pytest.fixture
    def source(self, tmp_path):
        rows = [*SAID[:5], ("", "nothing"), ("The <|endoftext|> man", "x"), *SAID[5:9]]
        return written(tmp_path / "own.csv", rows)

    def test_every_row_comes_back(self, llama, source, tmp_path):
        found = rewrite_file(llama, source, tmp_path / "out.jsonl", SHORT, batch=3)
        assert [row.line for row in found] == list(range(2, 13))
        assert found == read_rewritten(tmp_path / "out.jsonl")
        assert [(row.line, row.outcome, row.reason) for row in found if row.reason] == [
            (7, "unread", "input_text is empty"),
            (8, "unread", "the text holds the special token <|endoftext|>: leave it out"),
        ]
        assert found[0].references == (SAID[0][1],)
        assert found[0].text == SAID[0][0]
        assert {row.outcome for row in found} <= {"", "cut", "empty", "unread", "copied"}

    @pytest.mark.parametrize("stop", [1, 2, 3])
    @pytest.mark.parametrize("torn", ["", '{"line": 4, "te', "{}x"])
    def test_a_stopped_file_goes_on_and_ends_the_same(self, llama, source, tmp_path, monkeypatch, stop, torn):
        whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
        rewrite_file(llama, source, whole, SHORT, batch=3)
        asked = []
        real = rewrite.write_answers

        def counted(*args, **given):
            if len(asked) == stop:
                raise KeyboardInterrupt
            asked.append(1)
            return real(*args, **given)

        monkeypatch.setattr(rewrite, "write_answers", counted)
        with pytest.raises(KeyboardInterrupt):
            rewrite_file(llama, source, part, SHORT, batch=3)
        assert len(read_rewritten(part)) == 3 * stop
        with part.open("a") as file:
            file.write(torn)
        asked.clear()
        monkeypatch.setattr(rewrite, "write_answers", lambda *args, **given: asked.append(1) or real(*args, **given))
        rewrite_file(llama, source, part, SHORT, batch=3)
        assert part.read_bytes() == whole.read_bytes()
        assert len(asked) == 4 - stop
        asked.clear()
        rewrite_file(llama, source, part, SHORT, batch=3)
        assert not asked
        assert part.read_bytes() == whole.read_bytes()

    def test_what_was_made_otherwise_is_refused_with_both_values(self, llama, source, tmp_path):
        out = tmp_path / "out.jsonl"
        rewrite_file(llama, source, out, SHORT, batch=4)
        kept = out.read_bytes()
        with pytest.raises(LocateError, match=r'another request: \{"instruction": "Say they."'):
            rewrite_file(llama, source, out, Request("Say it."), batch=4)
        with pytest.raises(LocateError, match="another batch: 4, now 5"):
            rewrite_file(llama, source, out, SHORT, batch=5)
        with pytest.raises(LocateError, match="another rows: 11, now 2"):
            rewrite_file(llama, source, out, SHORT, batch=4, lines=[2, 3])
        written(source, SAID[:5])
        with pytest.raises(LocateError, match="another source"):
            rewrite_file(llama, source, out, SHORT, batch=4)
        assert out.read_bytes() == kept
        (tmp_path / "out.meta.json").unlink()
        with pytest.raises(LocateError, match=r"exists, without out\.meta\.json"):
            rewrite_file(llama, source, out, SHORT, batch=4)

    def test_a_damaged_file_is_refused_by_its_line(self, llama, source, tmp_path):
        out = tmp_path / "out.jsonl"
        rewrite_file(llama, source, out, SHORT, batch=4)
        lines = out.read_text().splitlines()
        out.write_text("\n".join([lines[0], lines[1][:20], *lines[2:]]) + "\n")
        with pytest.raises(LocateError, match=r"out\.jsonl, line 2: expected a row"):
            rewrite_file(llama, source, out, SHORT, batch=4)

    def test_names_and_numbers_that_are_refused(self, llama, source, tmp_path):
        for name, given, match in (
            ("out.csv", {}, r"expected a name that ends in \.jsonl"),
            ("out.jsonl", {"batch": 0}, "batch 0: expected at least one row"),
            ("out.jsonl", {"lines": [99]}, "holds no row to rewrite"),
        ):
            with pytest.raises(LocateError, match=match):
                rewrite_file(llama, source, tmp_path / name, SHORT, **given)
        assert not (tmp_path / "out.jsonl").exists()

    def test_a_text_that_is_too_long_is_left_unread(self, llama):
        rows = [(2, Original("nurse " * 70, (), ("x",), 2)), (3, Original("The nurse", (), ("y",), 3))]
        found = [row for some in rewrite_rows(llama, rows, SHORT) for row in some]
        assert found[0].outcome == "unread"
        assert "longer than the 64 tokens that the model takes" in found[0].reason
        assert found[1].outcome != "unread"

    def test_an_empty_answer_is_empty_however_long_it_is(self, llama, monkeypatch):
        """One that ends in another text is whole; what was cut is cut only where it is nothing else."""
        monkeypatch.setattr(rewrite, "allowed", lambda model, row: 3)
        row = Original("The nurse", ("x",), ("y",), 2, "women")
        coded = llama.encoder.tokenizer

        def outcome(text):
            ids = coded(text, add_special_tokens=False)["input_ids"]
            return rewrite.rewritten(llama, SHORT, 2, row, ids).outcome

        assert outcome("\n\n\n\n") == "empty"
        assert outcome("\nText: The man said that") == "empty"
        assert outcome("The nurse \n \n") == "copied"
        assert outcome("They said that she\nText: The man") == ""
        assert outcome("They said that she was") == "cut"

    def test_unread_rows_keep_whom_they_are_about(self, llama):
        row = Original("nurse " * 70, ("x",), ("g",), 2, "women")
        (found,) = [each for some in rewrite_rows(llama, [(2, row)], SHORT) for each in some]
        assert (found.outcome, found.demographic, found.group, found.references) == ("unread", "women", "g", ("x",))

    def test_other_rows_of_the_same_number_are_refused(self, llama, source, tmp_path):
        rewrite_file(llama, source, tmp_path / "out.jsonl", SHORT, lines=[2, 3])
        with pytest.raises(LocateError, match="another lines"):
            rewrite_file(llama, source, tmp_path / "out.jsonl", SHORT, lines=[3, 4])

    def test_rows_taken_out_or_turned_round_are_noticed(self, llama, source, tmp_path):
        out = tmp_path / "out.jsonl"
        rewrite_file(llama, source, out, SHORT, batch=4)
        lines = out.read_text().splitlines()
        for changed in ([*lines[:3], *lines[4:]], lines[::-1], [*lines, lines[0]]):
            out.write_text("\n".join(changed) + "\n")
            with pytest.raises(LocateError, match=r"out\.jsonl, line \d+ is the rewrite of line \d+, expected"):
                rewrite_file(llama, source, out, SHORT, batch=4)

    def test_a_stop_before_the_first_row(self, llama, source, tmp_path):
        out = tmp_path / "out.jsonl"
        out.touch()
        assert len(rewrite_file(llama, source, out, SHORT, batch=4)) == 11
        (tmp_path / "out.meta.json").write_text("[]")
        with pytest.raises(LocateError, match=r"does not say what made out\.jsonl"):
            rewrite_file(llama, source, out, SHORT, batch=4)

    def test_what_only_training_needs_is_not_asked_for(self, llama, tmp_path):
        path = tmp_path / "own.jsonl"
        rows = [{"text": "The man", "split": "later", "reference": 5}, {"text": "The nurse", "reference": "..."}]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        found = rewrite_file(llama, path, tmp_path / "out.jsonl", SHORT)
        assert "unread" not in {row.outcome for row in found}
        assert [row.references for row in found] == [(), ()]

    def test_an_answer_that_does_not_end_is_cut(self, llama, monkeypatch):
        monkeypatch.setattr(rewrite, "allowed", lambda model, row: 1)
        found = [
            row for some in rewrite_rows(llama, [(2, Original("The nurse", (), ("y",), 2))], SHORT) for row in some
        ]
        assert found[0].outcome == "cut"


class TestTraining:
    def test_what_is_trained_is_what_is_written_and_read(self, tiny, said, tmp_path):
        settings = Rewriter(rank=2, rate=3e-2, epochs=2, guards=LOOSE)
        told = train_rewriter(tiny, said, settings, tmp_path / "own", request=SHORT)
        assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
            "adapter_config.json", "adapter_model.safetensors", "rewriter.json",
        ]  # fmt: skip
        assert read_json(tmp_path / "own" / "rewriter.json")["losses"] == told["losses"]
        assert read_request(tmp_path / "own") == SHORT
        assert read_request(tmp_path) is None
        assert told["losses"][-1] < told["losses"][0]
        seen = told["checkpoints"]
        assert [each["step"] for each in seen] == [0, 3, 6]
        again = load_causal(str(tmp_path / "own"), device="cpu")
        rows = [token_row(again, SHORT, row) for row in said.held_out]
        assert float(np_mean([answer_likelihood(again, row) for row in rows])) == pytest.approx(
            seen[-1]["reference"], abs=1e-5
        )
        assert set(told["matrices"]) == set(linear_matrices(tiny))

    def test_likelihood_of_an_answer(self, tiny):
        row = token_row(tiny, SHORT, Original(SAID[0][0], (SAID[0][1],), ("x",), 2))
        ids = [*row.prompt, *row.chosen]
        logs = tiny.network(torch.tensor([ids])).logits[0].log_softmax(-1).double()
        by_hand = [float(logs[place - 1, ids[place]]) for place in range(len(row.prompt), len(ids))]
        assert answer_likelihood(tiny, row) == pytest.approx(sum(by_hand) / len(by_hand), abs=1e-5)

    def test_a_stopped_training_goes_on_with_the_same_result(self, llama, said, tmp_path, monkeypatch):
        settings = Rewriter(rank=2, rate=3e-3, epochs=3, guards=LOOSE)
        whole = train_rewriter(llama, said, settings, tmp_path / "whole", request=SHORT)
        real = RewritingWatch.__call__

        def stopping(self, step, network):
            if step == 6:
                raise KeyboardInterrupt
            real(self, step, network)

        monkeypatch.setattr(RewritingWatch, "__call__", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_rewriter(llama, said, settings, tmp_path / "part", request=SHORT)
        assert not (tmp_path / "part").exists()
        monkeypatch.undo()
        steps = []
        part = train_rewriter(
            llama, said, settings, tmp_path / "part", request=SHORT, step=lambda done, of: steps.append(done)
        )
        assert steps[0] > 1  # it did not begin again
        assert part["losses"] == whole["losses"]
        assert part["checkpoints"] == whole["checkpoints"]
        one, other = ((tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("part", "whole"))
        assert one == other

    def test_a_collapse_is_stopped_and_writes_nothing(self, llama, said, tmp_path):
        with pytest.raises(LocateError, match=r"training stopped after step \d+ of 9: .*no model was written"):
            train_rewriter(
                llama, said, Rewriter(rank=2, rate=5.0, epochs=3, guards=Guards(looks=9)), tmp_path / "own",
                request=SHORT,
            )  # fmt: skip
        assert not (tmp_path / "own").exists()

    def test_guards_by_hand(self, llama, said):
        watch = RewritingWatch(llama, said.held_out, SHORT, Guards(chosen=0.5, empty=10, repeating=20), 4)
        was = watch.look(0, llama)
        watch.seen = [was]
        watch.check(replace(was, step=2, copied=100.0, refused=100.0, cut=100.0))
        watch.check(replace(was, step=2, empty=was.empty + 10))
        for name, value, match in (
            ("reference", was.reference - 0.6, r"0\.6 nats a token lost by held-out rewrites .* raise guards\.chosen"),
            ("empty", was.empty + 11, "11 points more empty rewrites"),
            ("repeating", was.repeating + 25, "25 points more repeating rewrites"),
            ("reference", math.nan, "nan nats a token"),
        ):
            with pytest.raises(LocateError, match=match):
                watch.check(replace(was, step=2, **{name: value}))

    def test_only_located_layers(self, llama, said, tmp_path):
        told = train_rewriter(
            llama, said, Rewriter(rank=2, layers=(1,), guards=LOOSE), tmp_path / "own", request=SHORT,
            located=located_in(llama, modules=META["modules"] | {"mlp_out": "model.layers.{}.mlp.down_proj"}),
        )  # fmt: skip
        assert told["matrices"] == ["model.layers.1.mlp.down_proj"]
        with pytest.raises(LocateError, match=r"layers \[1\] without a located\.json"):
            train_rewriter(llama, said, Rewriter(layers=(1,)), tmp_path / "other", request=SHORT)

    def test_rows_that_the_model_cannot_read_are_named(self, llama, tmp_path):
        rows = [*SAID, ("The <|endoftext|> man", "x"), ("man " * 40, "they")]
        found = read_originals(written(tmp_path / "own.csv", rows), held_out=0.25)
        kept = readable(llama, found, SHORT, 60)
        assert sorted((row.line, row.reason) for row in kept.left_out) == [
            (34, "the text holds the special token <|endoftext|>: leave it out"),
            (35, "longer than 60 tokens"),
        ]
        short = read_originals(written(tmp_path / "own.csv", [*SAID, ("The man " * 8, "They.")]), held_out=0.25)
        (gone,) = readable(llama, short, SHORT, 64).left_out
        assert "request and rewrite are longer than the 64 tokens" in gone.reason
        with pytest.raises(LocateError, match="0 rows to train on and 0 held out can be read"):
            readable(llama, found, SHORT, 5)

    def test_settings_and_folders_that_are_refused(self, llama, said, tmp_path):
        for given in ({"rank": 0}, {"longest": 1}, {"dropout": 1.0}, {"rate": 0.0}, {"epochs": 0}):
            with pytest.raises(LocateError, match="expected positive numbers"):
                Rewriter(**given)
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "x").touch()
        with pytest.raises(LocateError, match="exists already"):
            train_rewriter(llama, said, Rewriter(), tmp_path / "full")
        with pytest.raises(LocateError, match=r"training needs float32 \(--dtype float32\)"):
            train_rewriter(replace(llama, dtype="bfloat16"), said, Rewriter(), tmp_path / "own")
        (tmp_path / "rewriter.json").write_text('{"schema": 99}')
        with pytest.raises(LocateError, match="of another version"):
            read_request(tmp_path)

    def test_without_the_packages(self, llama, said, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "trl", None)
        with pytest.raises(LocateError, match=r'pip install "locate-bias\[train\]"'):
            train_rewriter(llama, said, Rewriter(), tmp_path / "own")


class TestFourBits:
    @pytest.fixture(autouse=True)
    def installed(self):
        pytest.importorskip("bitsandbytes")

    @pytest.fixture(params=["gpt2", "llama"])
    def wide(self, request, tmp_path):
        """Blocks of four bits have 64 numbers."""
        sizes = {
            "gpt2": {"n_embd": 64, "n_inner": 128},
            "llama": {"hidden_size": 64, "intermediate_size": 128},
        }[request.param]
        return load_causal(str(save_family(request.param, tmp_path / "wide", **sizes)), device="cpu")

    def test_factors_fit_the_model_in_full_precision(self, wide, said, tmp_path):
        """GPT-2 stores its matrices as [in, out], those in four bits are [out, in]: the adapter must fit the model."""
        before = {name: tensor.clone() for name, tensor in wide.network.named_parameters()}
        settings = Rewriter(rank=2, rate=3e-2, epochs=2, four_bits=True, guards=LOOSE)
        told = train_rewriter(wide, said, settings, tmp_path / "own", request=SHORT)
        assert all(torch.equal(tensor, before[name]) for name, tensor in wide.network.named_parameters())
        assert told["losses"][-1] < told["losses"][0]
        again = load_causal(str(tmp_path / "own"), device="cpu")
        name = told["matrices"][0]
        moved = matrix(again.network, name).module.weight - matrix(wide.network, name).module.weight
        assert 0 < int(torch.linalg.matrix_rank(moved.detach().double(), rtol=1e-4)) <= 2

    def test_matrices_are_rounded_to_sixteen_levels(self, wide):
        trained = open_lora(wide, linear_matrices(wide), 2, 0.0, 0, True)
        name = linear_matrices(wide)[0]
        layer = factor_layers(trained.network)[name].base_layer
        rounded = layer.unpacked()
        own = matrix(wide.network, name)
        plain = own.module.weight.T if own.transposed else own.module.weight
        blocks = rounded.reshape(-1, 64)
        levels = (blocks / blocks.abs().amax(1, keepdim=True)).round(decimals=3)
        assert len(levels.unique()) <= 16
        assert 0 < float((plain - rounded).detach().pow(2).mean().sqrt()) < 0.12 * float(plain.detach().std())

    def test_a_product_and_its_gradient_are_those_of_the_unpacked_matrix(self):
        torch.manual_seed(0)
        layer = QuantisedLinear(torch.randn(8, 64), torch.nn.Parameter(torch.randn(8)), 4)
        x = torch.randn(2, 3, 64, requires_grad=True)
        weight = layer.unpacked()
        plain = torch.nn.functional.linear(x, weight, layer.bias)
        wanted = torch.autograd.grad((plain**2).sum(), x)[0]
        assert torch.allclose(torch.autograd.grad((layer(x) ** 2).sum(), x)[0], wanted, atol=1e-4)
        assert torch.equal(layer(x), plain)

    def test_rows_that_are_no_whole_blocks_are_refused(self, tiny):
        with pytest.raises(LocateError, match="has rows of 32 numbers, which bitsandbytes rounds wrongly"):
            open_lora(tiny, linear_matrices(tiny), 2, 0.0, 0, True)

    def test_without_the_package(self, llama, said, tmp_path, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "bitsandbytes.functional", None)
        with pytest.raises(LocateError, match=r'pip install "locate-bias\[qlora\]", or leave them out'):
            train_rewriter(llama, said, Rewriter(four_bits=True), tmp_path / "own", request=SHORT)


def np_mean(values):
    return sum(values) / len(values)


def test_the_room_offers_its_names():
    for name in locate.rewriting.__all__:
        assert getattr(locate.rewriting, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'rewrite_all'"):
        _ = locate.rewriting.rewrite_all


def test_a_row_of_another_kind_is_no_row():
    with pytest.raises(ValueError, match="outcome"):
        rewrite.rewritten_of({"line": 1, "text": "x", "rewrite": "y", "outcome": "odd"})
    assert rewrite.rewritten_of({"line": 1, "text": "x", "rewrite": "y", "outcome": ""}) == Rewritten(1, "x", "y", "")
    seven = [Original("x", (), ("x",), line) for line in range(1, 8)]
    assert [row.line for row in train.spread(seven, 3)] == [1, 3, 5]
