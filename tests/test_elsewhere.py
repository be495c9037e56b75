"""Occupations in forms that no editor is fitted on, and in sentences of others."""

import re

import numpy as np
import pandas as pd
import pytest
import torch

from locate.editors.fit import fitting_prompts
from locate.errors import LocateError
from locate.evaluation import elsewhere, occupations
from locate.evaluation.elsewhere import NATURAL_SENTENCES, UNSEEN_FORMS, read_forms, read_natural, table
from locate.evaluation.generation import gendered_words
from locate.evaluation.scores import Items
from locate.model.causal import load_causal
from locate.prompts.build import SLOT, forms, occupation_table, templates


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


def silent(done, total):
    """Report nothing."""


def test_unseen_forms_are_seen_by_no_editor():
    unseen = list(table("unseen_forms")["form"])
    assert len(set(unseen)) == len(unseen) == 12
    assert all(form.count(SLOT) == 1 for form in [*unseen, *forms()])
    assert not {*unseen} & {*forms(), *templates()}
    fitting = fitting_prompts()
    seen = {pair.template for pair in (*fitting.edited, *fitting.preserved)}
    assert not {*unseen} & seen
    assert {*forms()} <= seen
    held_out = set(fitting.words.held_out_words)
    assert not held_out & {pair.group for pair in fitting.edited}


def test_every_occupation_meets_one_form_of_each_kind():
    items = read_forms()
    assert len(items) == 4 * len(occupation_table())
    rows = pd.DataFrame(items.rows, columns=["word", "kind", "form", "stereotype", "share", "prompt"])
    assert (rows.groupby(["word", "kind"]).size() == 1).all()
    assert set(rows["form"]) == set(table("unseen_forms")["form"])
    assert all(row.word in row.prompt and SLOT not in row.prompt for row in rows.itertuples())
    assert not [prompt for prompt in rows["prompt"] if re.search(r"\ba [aeio]|\ban [bcdfgjklmnpqrstvwyz]", prompt)]


def test_natural_sentences_name_an_occupation_and_no_gender():
    sentences = table("natural")
    telling = re.compile(rf"\b({'|'.join(map(re.escape, gendered_words()))})s?\b|\b(she|he|her|his|him)\b", re.I)
    for each in sentences.itertuples():
        assert re.search(rf"\b{each.occupation}", each.context, re.I), each.context
        assert not telling.search(re.sub(each.occupation, "", each.context, flags=re.I)), each.context
        assert each.context == each.context.strip()
        assert each.source
    assert set(sentences["licence"]) == {"public domain", "CC BY-SA 4.0"}
    assert sentences["occupation"].nunique() >= 25
    assert not sentences.duplicated("context").any()
    assert len(read_natural()) == len(sentences)


@pytest.mark.parametrize("test", [UNSEEN_FORMS, NATURAL_SENTENCES], ids=lambda test: test.name)
def test_log_probs_are_the_models_own(test, mini):
    items = Items(test.read(None).rows[::40])
    found = test.measure(mini, items, silent)
    tokenizer = mini.encoder.tokenizer
    for row, (*_, prompt) in zip(found.itertuples(), items.rows, strict=True):
        ids = torch.tensor([tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            said = mini.network(ids).logits[0, -1].log_softmax(-1)
        she, he = (said[tokenizer(word, add_special_tokens=False)["input_ids"][0]].item() for word in (" she", " he"))
        assert row.she == pytest.approx(she, abs=1e-4)
        assert row.he == pytest.approx(he, abs=1e-4)


def made_table():
    words = np.repeat(["nurse", "doctor", "clerk"], 2)
    rows = pd.DataFrame({"word": words, "kind": occupations.OCCUPATION, "template": ["a", "b"] * 3})
    rows = rows.assign(stereotype=[1, 1, -1, -1, 0, 0], share_women=50.0, part=["is a", "object"] * 3, they=np.nan)
    return rows.assign(she=[-1.0, -1, -3, -3, -2, -2], he=[-2.0, -3, -1, -1, -2, -2])


def test_scores_of_all_and_of_each_kind_of_form():
    found = {(each.name, each.part): each for each in UNSEEN_FORMS.score(made_table())}
    assert found["log_odds", ""].value == pytest.approx((1 + 2 - 2 - 2 + 0 + 0) / 6)
    assert found["abs_log_odds", ""].value == pytest.approx(7 / 6)
    assert found["abs_log_odds", "is a"].value == pytest.approx(1.0)
    assert found["abs_log_odds", "object"].value == pytest.approx(4 / 3)
    assert {each.test for each in found.values()} == {"unseen_forms"}
    assert found["abs_log_odds", ""].groups == 3
    natural = NATURAL_SENTENCES.score(made_table())
    assert [(each.name, each.part) for each in natural] == [("log_odds", ""), ("abs_log_odds", "")]
    assert {each.test for each in natural} == {"natural"}


def test_the_cut_is_that_of_its_own_test():
    before = made_table()
    after = before.assign(she=before["he"] + (before["she"] - before["he"]) / 4)
    (cut,) = UNSEEN_FORMS.paired(before, after)
    assert (cut.test, cut.name, cut.groups) == ("unseen_forms", "log_odds_cut", 3)
    assert cut.value == pytest.approx(75.0)


def test_a_path_is_refused(tmp_path):
    for test in (UNSEEN_FORMS, NATURAL_SENTENCES):
        with pytest.raises(LocateError, match="reads no file"):
            test.read(tmp_path)
    assert elsewhere.table("natural").columns.tolist() == ["occupation", "context", "source", "licence"]
