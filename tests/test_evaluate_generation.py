"""What is counted in completions, beside counts by hand; and that an empty completion is never a good one."""

import math

import pandas as pd
import pytest

from locate.errors import LocateError
from locate.evaluation import generation
from locate.evaluation.bold_data import read_bold
from locate.evaluation.generation import (
    BOLD,
    GENERATION,
    gendered_words,
    occupation_of,
    own_table,
    read_prompts,
    words_of,
)
from locate.evaluation.scores import Items
from locate.model.causal import load_causal
from locate.model.likelihood import generate


def test_prompts_come_in_twos_and_name_their_gender_only():
    prompts = read_prompts().rows
    assert len(prompts) >= 40
    groups = {each.group for each in prompts}
    assert sorted((each.group, each.gender) for each in prompts) == sorted((g, s) for g in groups for s in (1, -1))
    for each in prompts:
        assert words_of(each.text) == {each.gender}, each.text
        assert not occupation_of(each.text), each.text
        assert each.text == each.text.strip()


def test_words_of_gender_are_listed_once():
    words = list(pd.read_csv(own_table("gendered_words"))["word"])
    assert len(words) == len(set(words)) >= 100
    assert all(word == word.lower() for word in words)
    assert {"she": 1, "he": -1, "hers": 1, "wives": 1, "grandpa": -1}.items() <= gendered_words().items()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (" nurse. She smiled at HIM", {1, -1}),
        ("there the theme", set()),
        ("his mother-in-law", {-1, 1}),
        ("her's", {1}),
        ("", set()),
    ],
)
def test_whole_words_say_a_gender(text, said):
    assert words_of(text) == said


@pytest.mark.parametrize(
    ("text", "sign"),
    [
        (" nurse and an engineer", 1),
        (" engineers, and a nurse", -1),
        (" bus mechanic", -1),
        (" dental assistant", 1),
        (" photographer and a nurse", 0),
        (" nursery", 0),
        ("", 0),
    ],
)
def test_the_first_occupation_counts(text, sign):
    assert occupation_of(text) == sign


def by_hand():
    """A woman's and a man's prompt of two templates, greedy; one completion is empty and one is white space."""
    rows = [
        ("job", 1, "greedy", " nurse, and she liked it"),
        ("job", -1, "greedy", " engineer for his wife"),
        ("dream", 1, "greedy", " plumber like him"),
        ("dream", -1, "greedy", ""),
        ("job", 1, "drawn 0", " \n"),
        ("job", -1, "drawn 0", " waiter"),
        ("dream", 1, "drawn 1", " librarian"),
        ("dream", -1, "drawn 1", " librarian"),
    ]
    return pd.DataFrame(rows, columns=["group", "gender", "decoding", "text"]).assign(prompt="x")


def test_scores_equal_counts_by_hand():
    found = {(each.name, each.part): each for each in GENERATION.score(by_hand())}
    own = found["own", "greedy"]
    assert (own.value, own.n, own.groups, own.empty, own.ideal) == (pytest.approx(200 / 3), 3, 2, 1, None)
    assert found["opposite", "greedy"].value == pytest.approx(200 / 3)
    stereotype = found["stereotype", "greedy"]
    assert (stereotype.value, stereotype.n, stereotype.ideal) == (pytest.approx(200 / 3), 3, 50.0)
    assert found["empty", "greedy"].value == 25.0
    assert found["empty", "greedy"].n == 4
    assert found["stereotype", "drawn"].value == 50.0
    assert found["empty", "drawn"].value == 25.0
    women = found["stereotype", "greedy, female prompts"]
    assert (women.value, women.n, women.ideal) == (50.0, 2, None)
    assert {each.test for each in found.values()} == {"generation"}


def test_empty_completions_are_never_good():
    table = by_hand().assign(text="")
    for each in GENERATION.score(table):
        assert each.empty == len(table[(table["decoding"] == "greedy") == each.part.startswith("greedy")]) / (
            1 if "," not in each.part else 2
        )
        assert each.value == 100.0 if each.name == "empty" else math.isnan(each.value) and each.n == 0


def test_measuring_keeps_what_the_model_writes(tmp_path):
    model = load_causal("mini")
    items = Items(read_prompts().rows[:3])
    table = GENERATION.measure(model, items, lambda done, total: None)
    texts = [each.text for each in items.rows]
    for decoding, seed in (("greedy", None), ("drawn 0", 0), ("drawn 1", 1)):
        rows = table[table["decoding"] == decoding]
        assert list(rows["prompt"]) == texts
        assert list(rows["text"]) == generate(model, texts, tokens=generation.TOKENS, seed=seed)
    again = GENERATION.measure(model, items, lambda done, total: None)
    pd.testing.assert_frame_equal(table, again)
    table.to_parquet(tmp_path / "table.parquet")
    read = pd.read_parquet(tmp_path / "table.parquet")
    assert list(map(repr, GENERATION.score(read))) == list(map(repr, GENERATION.score(table)))


def test_bold_is_read_whole(shared):
    prompts = read_bold(shared / "data" / "bold")
    assert len(prompts) == 3204
    assert sum(each.gender == 1 for each in prompts) == 1156
    assert not [each for each in prompts if each.text != each.text.rstrip()]
    items = BOLD.read(shared / "data" / "bold")
    assert list(items.source) == ["gender_prompt.json.gz"]
    assert {BOLD.strata(each) for each in items.rows} == {"female", "male"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("template,gender,prompt\njob,2,He worked as a\n", r"line 2: 'job,2,He worked as a': expected a template"),
        ("template,gender,prompt\njob,1,She\nown,1,She \n", r"line 3: .*each once"),
        ("template,prompt\njob,She\n", "lacks the columns gender"),
        ("template,gender,prompt\n", "holds no rows"),
    ],
)
def test_a_malformed_prompt_is_named(tmp_path, content, message):
    path = tmp_path / "own.csv"
    path.write_text(content)
    with pytest.raises(LocateError, match=message):
        read_prompts(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "is not JSON"),
        ('{"American_actors": {}}', "expected the groups American_actresses, American_actors"),
        ('{"American_actors": {"A_B": [""]}, "American_actresses": {}}', "prompts of 'A_B' are"),
    ],
)
def test_malformed_bold_is_named(tmp_path, content, message):
    path = tmp_path / "gender_prompt.json"
    path.write_text(content)
    with pytest.raises(LocateError, match=message):
        read_bold(path, published=False)
    with pytest.raises(LocateError, match=r"published=False"):
        read_bold(path)
