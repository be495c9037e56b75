"""Pairs check themselves at the door; collections of them hash, cut and show."""

from dataclasses import FrozenInstanceError, replace

import pytest

from locate import LocateError
from locate.prompts import Dropped, Pair, Prompts
from locate.prompts.pair import subject_span

NURSE = Pair(
    clean="The nurse said that",
    corrupted="The man said that",
    clean_subject="nurse",
    corrupted_subject="man",
    group="nurse",
    template="The {subject} said that",
    kind="occupation",
    stereotype=1,
)
OFFICER = replace(
    NURSE, clean="The police officer said that", clean_subject="police officer", group="officer", stereotype=-1
)
SCRIPT = "<script>alert(1)</script>"


def test_defaults_are_she_he_they():
    pair = Pair("A cook sang", "A man sang", "cook", "man", "cook", "A {subject} sang")
    assert (pair.female, pair.male, pair.neutral) == (" she", " he", " they")
    assert (pair.kind, pair.stereotype) == ("user", 0)


def test_pair_is_frozen():
    with pytest.raises(FrozenInstanceError):
        NURSE.clean = "The man said that"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clean_subject": "doctor"}, r"subject 'doctor' occurs 0 times in prompt 'The nurse said that'.*exactly once"),
        ({"corrupted_subject": "woman"}, r"subject 'woman' occurs 0 times in prompt 'The man said that'"),
        ({"clean_subject": ""}, r"subject '' occurs 0 times"),
        ({"clean_subject": "nurs"}, r"subject 'nurs' occurs 0 times .* whole words"),
        ({"clean_subject": "urse"}, r"subject 'urse' occurs 0 times"),
        ({"clean": "The nurse told the nurse that"}, r"subject 'nurse' occurs 2 times"),
        ({"corrupted": "The man told a man that"}, r"subject 'man' occurs 2 times"),
        ({"clean": "The nurse said that "}, r"prompt 'The nurse said that ' ends in white space: expected .* a word"),
        ({"corrupted": "The man said that\n"}, r"'The man said that\\n' ends in white space"),
        ({"stereotype": 2}, r"stereotype 2 of group 'nurse': expected -1, 0 or 1"),
        ({"group": ""}, r"empty group of prompt 'The nurse said that': expected the occupation"),
        ({"female": " he"}, r"answers ' he' and ' he' of group 'nurse': expected two different words"),
        ({"female": ""}, r"answers '' and ' he' of group 'nurse'"),
        ({"male": "  "}, r"answers ' she' and '  ' of group 'nurse'"),
    ],
)
def test_a_bad_pair_is_refused(changes, message):
    with pytest.raises(LocateError, match=message):
        replace(NURSE, **changes)


@pytest.mark.parametrize(
    ("prompt", "subject", "words"),
    [
        ("The manager and the man sang", "man", (20, 23)),
        ("The police officer sang", "police officer", (4, 18)),
        ("Said the nurse", "nurse", (9, 14)),
        ("nurse", "nurse", (0, 5)),
        ("The c++ (senior) coder sang", "c++ (senior) coder", (4, 22)),
        ("The nurse, tired, sang", "nurse", (4, 9)),
    ],
)
def test_subject_is_found_as_whole_words(prompt, subject, words):
    assert subject_span(prompt, subject) == words


def test_prompts_keep_their_order_and_add_up():
    both = Prompts((NURSE,), (Dropped("judge", "t", "none"),)) + Prompts((OFFICER,), (Dropped("editor", "t", "none"),))
    assert list(both) == [NURSE, OFFICER]
    assert len(both) == 2
    assert [row.group for row in both.skipped] == ["judge", "editor"]


@pytest.mark.parametrize(
    ("limit", "expected"), [(1, (NURSE,)), (2, (NURSE, OFFICER)), (9, (NURSE, OFFICER)), (None, (NURSE, OFFICER))]
)
def test_first_takes_the_first_pairs_and_keeps_what_was_skipped(limit, expected):
    prompts = Prompts((NURSE, OFFICER), (Dropped("judge", "t", "none"),))
    assert prompts.first(limit).pairs == expected
    assert prompts.first(limit).skipped == prompts.skipped


@pytest.mark.parametrize("limit", [0, -1])
def test_first_refuses_less_than_one(limit):
    with pytest.raises(LocateError, match=rf"limit {limit}: expected a number of pairs >= 1"):
        Prompts((NURSE,)).first(limit)


def test_equal_prompts_have_equal_hashes():
    assert Prompts((NURSE, OFFICER)).hash == Prompts((replace(NURSE), replace(OFFICER))).hash
    assert len(Prompts((NURSE,)).hash) == 64


def test_order_changes_the_hash():
    assert Prompts((NURSE, OFFICER)).hash != Prompts((OFFICER, NURSE)).hash


@pytest.mark.parametrize(
    "changes",
    [
        {"clean": "A nurse said that"},
        {"corrupted": "A man said that"},
        {"clean_subject": "The nurse"},
        {"corrupted_subject": "The man"},
        {"group": "carer"},
        {"template": "other"},
        {"kind": "user"},
        {"stereotype": 0},
        {"female": " her"},
        {"male": " him"},
        {"neutral": None},
    ],
)
def test_every_field_changes_the_hash(changes):
    assert Prompts((replace(NURSE, **changes),)).hash != Prompts((NURSE,)).hash


def test_frame_has_a_row_a_pair_and_a_column_a_field():
    frame = Prompts((NURSE, OFFICER)).frame()
    assert frame["clean"].tolist() == [NURSE.clean, OFFICER.clean]
    assert frame["stereotype"].tolist() == [1, -1]
    assert list(frame) == [
        "clean", "corrupted", "clean_subject", "corrupted_subject", "group", "template", "kind", "stereotype",
        "female", "male", "neutral",
    ]  # fmt: skip


def test_repr_counts_pairs_groups_and_skipped():
    prompts = Prompts((NURSE, replace(NURSE, clean="A nurse sang"), OFFICER), (Dropped("judge", "t", "none"),))
    assert "3 pairs, 2 groups, 1 skipped" in prompts._repr_html_()


def test_repr_of_no_pairs_is_only_the_count():
    assert Prompts(())._repr_html_() == "<p><b>0 pairs, 0 groups, 0 skipped</b></p>"


def test_repr_escapes_html():
    prompts = Prompts((replace(NURSE, clean=f"{SCRIPT} The nurse said that", group=SCRIPT, female="<b>"),))
    html = prompts._repr_html_()
    assert html.count("&lt;script&gt;") == 2
    assert "<script" not in html
    assert '<td style="text-align:left">&lt;b&gt;, he</td>' in html
