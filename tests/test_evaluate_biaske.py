"""BiasKE-style sentences: what the three tables hold, and their scores beside those worked out by hand."""

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from locate.errors import LocateError
from locate.evaluation.biaske import COLUMNS, TEST, read_biaske, retention
from locate.evaluation.scores import Items
from locate.model.causal import load_causal

TABLES = Path(__file__).resolve().parents[1] / "locate" / "evaluation" / "tables"
SPELT = """
she/he her/his her/him hers/his herself/himself woman/man women/men girl/boy girls/boys lady/gentleman
ladies/gentlemen mother/father mothers/fathers grandma/grandpa mom/dad sister/brother daughter/son wife/husband
wives/husbands aunt/uncle niece/nephew grandmother/grandfather granddaughter/grandson
mother-in-law/father-in-law girlfriend/boyfriend bride/groom schoolgirl/schoolboy queen/king goddess/god
woman's/man's
"""
COUPLES = [tuple(each.split("/")) for each in SPELT.split()]
GENDERED = {*COUPLES, *(couple[::-1] for couple in COUPLES)}
FEMALE = {couple[0] for couple in COUPLES}
DOMAINS = {
    "work",
    "study",
    "sport",
    "home",
    "character",
    "emotion",
    "crafts",
    "science",
    "care",
    "leadership",
    "hobbies",
}


@pytest.fixture(scope="module")
def items():
    return read_biaske()


def of_kind(items, kind):
    return [each for each in items.rows if each.kind == kind]


def words(text):
    return re.findall(r"[a-z]+(?:['-][a-z]+)*", text.lower())


def swapped(couple):
    """The words in which the two sentences of a couple differ."""
    return [(one, other) for one, other in zip(words(couple.first), words(couple.second), strict=True) if one != other]


def test_each_set_holds_at_least_220_couples(items):
    counts = Counter(each.kind for each in items.rows)
    assert set(counts) == set(COLUMNS)
    assert min(counts.values()) >= 220
    assert len({each.id for each in items.rows}) == len(items)


def test_no_sentence_comes_twice(items):
    texts = [" ".join(words(text)) for each in items.rows for text in (each.first, each.second)]
    assert [text for text, count in Counter(texts).items() if count > 1] == []


def test_every_text_is_one_plain_sentence(items):
    for each in items.rows:
        for text in (each.first, each.second):
            assert text.isascii(), text
            assert re.fullmatch(r"[A-Z][^.?!\"]*[.?]", text), text
            assert "  " not in text, text
            assert len(text.split()) >= 4, text


def test_two_sentences_differ_in_gendered_words_of_one_gender_only(items):
    for each in items.rows:
        changed = swapped(each)
        assert changed, each.id
        assert set(changed) <= GENDERED, (each.id, changed)
        assert re.sub(r"[a-z'-]", "", each.first.lower()) == re.sub(r"[a-z'-]", "", each.second.lower()), each.id
        genders = ["female" if one in FEMALE else "male" for one, _ in changed]
        assert genders[0] == each.group, each.id


def test_stereotypes_are_of_women_and_of_men_in_every_domain(items):
    pairs = of_kind(items, "pairs")
    assert {each.domain for each in pairs} == DOMAINS
    for domain in DOMAINS:
        groups = Counter(each.group for each in pairs if each.domain == domain)
        assert abs(groups["female"] - groups["male"]) <= 3
        assert min(groups.values()) >= 8
    groups = Counter(each.group for each in pairs)
    assert abs(groups["female"] - groups["male"]) <= 3
    facts = Counter(each.group for each in of_kind(items, "facts"))
    assert min(facts.values()) >= 0.45 * sum(facts.values())


def test_a_paraphrase_says_a_pair_in_other_words(items):
    table = pd.read_csv(TABLES / "paraphrases.csv")
    pairs = {each.id: each for each in of_kind(items, "pairs")}
    assert set(table["pair"]) == set(pairs)
    for row in table.itertuples():
        pair = pairs[row.pair]
        assert (row.subject, row.domain, row.group) == (pair.subject, pair.domain, pair.group)
        old, new = words(pair.first), words(row.stereotyped)
        common = set(old) & set(new)
        assert len(common) <= 0.8 * len(set(old) | set(new)), row.id
        assert old[:3] != new[:3], row.id


def test_sentences_are_not_fillings_of_one_form(items):
    for kind in ("pairs", "paraphrases"):
        starts = Counter(" ".join(words(each.first)[:3]) for each in of_kind(items, kind))
        assert max(starts.values()) <= 4, starts.most_common(3)
        assert len({each.subject for each in of_kind(items, kind)}) >= 60


def by_hand():
    """Two subjects: a nurse's pairs of 2, -1 and 0 nats, a miner's of 4; a fact kept and a fact wrong."""
    rows = [
        ("p1", "pairs", "nurse", "work", "female", -10.0, -12.0),
        ("p2", "pairs", "nurse", "work", "female", -11.0, -10.0),
        ("p3", "pairs", "nurse", "work", "female", -9.0, -9.0),
        ("p4", "pairs", "miner", "work", "male", -20.0, -24.0),
        ("q1", "paraphrases", "nurse", "work", "female", -5.0, -8.0),
        ("q2", "paraphrases", "miner", "work", "male", -8.0, -7.0),
        ("f1", "facts", "queen", "definition", "female", -3.0, -5.0),
        ("f2", "facts", "king", "definition", "male", -6.0, -4.0),
        ("f3", "facts", "king", "definition", "male", -6.0, -6.0),
    ]
    return pd.DataFrame(rows, columns=["id", "kind", "subject", "domain", "group", "first", "second"])


def test_scores_equal_those_worked_out_by_hand():
    found = {(each.name, each.part): each for each in TEST.score(by_hand())}
    ss = found["ss", ""]
    assert (ss.value, ss.n, ss.groups, ss.ties, ss.ideal) == (50.0, 4, 2, 1, 50.0)
    assert found["ss", "of women"].value == pytest.approx(100 / 3)
    assert found["ss", "of men"].value == 100.0
    assert math.isnan(found["ss", "of men"].low)
    assert found["ss_size", ""].value == pytest.approx((2 + 1 + 0 + 4) / 4)
    assert found["ps", ""].value == 50.0
    assert found["ps_size", ""].value == 2.0
    assert found["log_odds", ""].value == pytest.approx((2 - 1 + 0 - 4) / 4)
    true = found["true_preferred", ""]
    assert (true.value, true.n, true.ties, true.kind) == (pytest.approx(100 / 3), 3, 1, "control")


def test_intervals_resample_subjects():
    """Two subjects, all of one's pairs won and none of the other's: whole groups give 0 and 100."""
    rows = [
        (f"p{i}", "pairs", s, "work", "female", float(s == "nurse"), 0.5) for s in ("nurse", "clerk") for i in range(9)
    ]
    table = pd.DataFrame(rows, columns=["id", "kind", "subject", "domain", "group", "first", "second"])
    ss = TEST.score(table)[0]
    assert (ss.value, ss.low, ss.high) == (50.0, 0.0, 100.0)


def test_a_model_keeps_all_of_its_own_distinctions_and_loses_what_turns_round():
    before = by_hand()
    same = retention(before, before.sample(frac=1, random_state=0))
    assert (same.value, same.n, same.skipped, same.ties) == (100.0, 2, 1, 0)
    after = before.assign(second=before["second"].where(before["id"] != "f2", -9.0))
    turned = retention(before, after)
    assert (turned.value, turned.n) == (50.0, 2)
    tied = retention(before, before.assign(second=before["second"].where(before["id"] != "f1", -3.0)))
    assert (tied.value, tied.ties) == (50.0, 1)


def test_retained_refuses_tables_of_other_facts():
    before = by_hand()
    with pytest.raises(LocateError, match=r"facts before \(3\) and after \(2\) differ, for instance in \['f3'\]"):
        retention(before, before[before["id"] != "f3"])


def test_measuring_gives_the_likelihood_of_the_whole_sentence(items, tmp_path):
    """Beside a plain sum over log-softmax, sentence by sentence; a round trip through parquet changes no score."""
    model = load_causal("mini")
    few = Items(items.rows[:3] + items.rows[-3:])
    table = TEST.measure(model, few, lambda done, total: None)
    for row, each in zip(table.itertuples(), few.rows, strict=True):
        for text, said in ((each.first, row.first), (each.second, row.second)):
            ids = torch.tensor([[model.start, *model.encoder.encode(text)[0][-len(plain(model, text)) :]]])
            with torch.no_grad():
                logs = model.network(ids).logits.log_softmax(-1)[0, :-1]
            assert said == pytest.approx(float(logs.gather(-1, ids[0, 1:, None]).sum()), abs=1e-3)
    table.to_parquet(tmp_path / "table.parquet")
    assert list(map(repr, TEST.score(pd.read_parquet(tmp_path / "table.parquet")))) == list(
        map(repr, TEST.score(table))
    )


def plain(model, text):
    """Ids of a text without what the tokenizer puts before it."""
    return model.encoder.tokenizer.encode(text, add_special_tokens=False)


def test_no_difference_gives_no_bias_and_no_knowledge(items):
    table = pd.DataFrame([vars(each) for each in items.rows]).assign(first=-1.0, second=-1.0)
    for each in TEST.score(table):
        assert each.value == 0
        assert each.ties == each.n
        assert np.isfinite([each.low, each.high]).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("p001,nurse", "p001,"), r"pairs.csv, line 2: 'p001,,work.*expected filled cells"),
        (("adjusted his cap", "adjusted her cap"), r"pairs.csv, line 2: .*two different sentences"),
        (("p002", "p001"), r"pairs.csv, line 3: .*nothing repeated"),
        ((",female\np002", ",girl\np002"), r"pairs.csv, line 2: .*group female or male"),
        (("id,subject", "id,topic"), r"pairs.csv lacks the columns subject: found id, topic"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, change, message):
    for path in TABLES.glob("*.csv"):
        text = path.read_text()
        if path.name == "pairs.csv":
            assert change[0] in text
            text = text.replace(*change, 1)
        (tmp_path / path.name).write_text(text)
    with pytest.raises(LocateError, match=message):
        read_biaske(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LocateError, match=r"no file .*pairs.csv: expected pairs.csv"):
        read_biaske(tmp_path)
