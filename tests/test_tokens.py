"""Roles from character spans, alignment, answers and the ledger, with small hand-written tokenizers."""

import re
from dataclasses import replace

import pytest

from locate import LocateError
from locate.prompts import Aligned, Dropped, Pair, Prompts, tokenise
from locate.prompts.tokens import align, roles_of, tokenise_pair, with_space

BEFORE, FIRST, MIDDLE, SUBJECT = "before_subject", "subject_first", "subject_middle", "subject_last"
AFTER, FURTHER, LAST = "after_subject", "further", "last"


def encoder(pattern, bos=False):
    """A tokenizer whose tokens are the matches of a pattern; a token's id stands for its text alone."""
    ids = {}

    def encode(text):
        found = list(re.finditer(pattern, text))
        tokens = [ids.setdefault(each.group(), len(ids) + 1) for each in found]
        spans = [each.span() for each in found]
        return ([0, *tokens], [(0, 0), *spans]) if bos else (tokens, spans)

    return encode


def words(bos=False):
    """Whole words with their leading space, as GPT-2 splits frequent ones."""
    return encoder(r" ?\S+", bos)


def bare_words():
    """Whole words whose spans leave the space out, as SentencePiece tokenizers tell them."""
    return encoder(r"\S+")


def pieces():
    """Words in pieces of three letters, the first with its leading space."""
    return encoder(r" ?[a-z]{1,3}")


def pair_of(subject="nurse", other="man", template="The {subject} said that", **fields):
    """A pair from its template."""
    return Pair(
        clean=template.format(subject=subject),
        corrupted=template.format(subject=other),
        clean_subject=subject,
        corrupted_subject=other,
        group=subject,
        template=template,
        **fields,
    )


def roles(encode, prompt, subject):
    """Roles of a prompt's tokens."""
    return roles_of(encode(prompt)[1], with_space(prompt, subject))


@pytest.mark.parametrize("encode", [words(), bare_words()], ids=["with space", "without"])
@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        ("The nurse said that", "nurse", (BEFORE, SUBJECT, AFTER, LAST)),
        ("The police officer said that", "police officer", (BEFORE, FIRST, SUBJECT, AFTER, LAST)),
        ("The very old cook said that", "very old cook", (BEFORE, FIRST, MIDDLE, SUBJECT, AFTER, LAST)),
        ("a b c d e f", "a b c d", (FIRST, MIDDLE, MIDDLE, SUBJECT, AFTER, LAST)),
        ("The nurse was tired because", "nurse", (BEFORE, SUBJECT, AFTER, FURTHER, LAST)),
        ("The nurse said", "nurse", (BEFORE, SUBJECT, LAST)),
        ("They saw the nurse", "nurse", (BEFORE, BEFORE, BEFORE, SUBJECT)),
        ("They saw the police officer", "police officer", (BEFORE, BEFORE, BEFORE, FIRST, SUBJECT)),
        ("nurse", "nurse", (SUBJECT,)),
        ("nurse sang", "nurse", (SUBJECT, LAST)),
    ],
)
def test_roles_of_whole_words(encode, prompt, subject, expected):
    assert roles(encode, prompt, subject) == expected


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("cook", (BEFORE, FIRST, SUBJECT, AFTER, LAST)),
        ("man", (BEFORE, SUBJECT, AFTER, LAST)),
        ("engineer", (BEFORE, FIRST, MIDDLE, SUBJECT, AFTER, LAST)),
    ],
)
def test_roles_of_words_in_pieces(subject, expected):
    assert roles(pieces(), f"the {subject} was sad", subject) == expected


def test_bos_of_empty_span_comes_before_the_subject():
    assert roles(words(bos=True), "nurse said that", "nurse") == (BEFORE, SUBJECT, AFTER, LAST)


def test_a_lone_space_before_the_subject_is_its_first_token():
    """Some tokenizers keep the space of a rare word apart; the words around the subject still split alike."""
    encode = encoder(r" (?=nurse)|(?<= )nurse| ?\S+")
    token = tokenise_pair(0, pair_of("nurse", "man"), encode)
    assert token.clean_roles == (BEFORE, FIRST, SUBJECT, AFTER, LAST)
    assert token.corrupted_roles == (BEFORE, SUBJECT, AFTER, LAST)
    assert [(each.clean, each.corrupted) for each in token.aligned] == [(0, 0), (2, 1), (3, 2), (4, 3)]


def test_tokens_that_share_a_character_are_all_of_the_subject():
    """Byte-level tokenizers give two tokens of one letter the same span."""
    assert roles_of([(0, 3), (3, 5), (4, 5), (5, 9)], (3, 5)) == (BEFORE, FIRST, SUBJECT, LAST)


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [("The nurse sang", "nurse", (3, 9)), ("nurse sang", "nurse", (0, 5)), ("The (nurse) sang", "nurse", (5, 10))],
)
def test_the_space_before_a_subject_belongs_to_it(prompt, subject, expected):
    assert with_space(prompt, subject) == expected


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        ([(0, 0), (10, 14)], "no token holds the subject"),
        ([(0, 3), (3, 14)], "reaches into the words beside it"),
        ([(0, 9), (9, 14)], "reaches into the words beside it"),
        ([(0, 2), (2, 9), (9, 14)], "reaches into the words beside it"),
        ([(0, 3), (3, 10), (10, 14)], "reaches into the words beside it"),
    ],
)
def test_a_subject_without_tokens_of_its_own_is_refused(spans, message):
    with pytest.raises(LocateError, match=message):
        roles_of(spans, (3, 9))


@pytest.mark.parametrize("prompt", ["The (nurse said", "The nurse, tired, said", "The ex-nurse said"])
def test_a_token_shared_with_punctuation_is_refused(prompt):
    with pytest.raises(LocateError, match="reaches into the words beside it"):
        roles(words(), prompt, "nurse")


def test_subjects_of_equal_length_are_aligned_token_by_token():
    token = tokenise_pair(0, pair_of("police officer", "young man"), words())
    assert [(each.clean, each.corrupted) for each in token.aligned] == [(i, i) for i in range(5)]
    assert tuple(each.role for each in token.aligned) == token.clean_roles


def test_a_longer_clean_subject_is_aligned_at_its_end_only_against_one_token():
    token = tokenise_pair(0, pair_of("police officer", "man"), words())
    assert token.aligned == (
        Aligned(0, 0, BEFORE), Aligned(2, 1, SUBJECT), Aligned(3, 2, AFTER), Aligned(4, 3, LAST),
    )  # fmt: skip


def test_a_longer_corrupted_subject_is_aligned_at_its_end_only_against_one_token():
    token = tokenise_pair(0, pair_of("nurse", "police officer"), words())
    assert token.aligned == (
        Aligned(0, 0, BEFORE), Aligned(1, 2, SUBJECT), Aligned(2, 3, AFTER), Aligned(3, 4, LAST),
    )  # fmt: skip


def test_subjects_of_two_and_four_tokens_are_aligned_at_both_ends():
    token = tokenise_pair(0, pair_of("very old tired cook", "young man"), words())
    assert token.aligned == (
        Aligned(0, 0, BEFORE), Aligned(1, 1, FIRST), Aligned(4, 2, SUBJECT), Aligned(5, 3, AFTER), Aligned(6, 4, LAST),
    )  # fmt: skip


def test_every_aligned_token_has_the_same_role_in_both_prompts():
    for other in ("man", "young man", "tall young man", "tall old young man"):
        token = tokenise_pair(0, pair_of("very old cook", other, "The {subject} was sad because"), words(bos=True))
        for each in token.aligned:
            assert token.clean_roles[each.clean] == token.corrupted_roles[each.corrupted] == each.role


def test_words_around_the_subject_must_split_alike():
    for clean, corrupted in [
        ((BEFORE, SUBJECT, LAST), (SUBJECT, LAST)),
        ((SUBJECT, AFTER, LAST), (SUBJECT, LAST)),
        ((BEFORE, SUBJECT, LAST), (SUBJECT, AFTER, LAST)),
    ]:
        with pytest.raises(LocateError, match="the words around the subject fall into different numbers of tokens"):
            align(clean, corrupted)


def test_a_token_pair_holds_ids_and_roles_of_both_prompts():
    encode = words(bos=True)
    token = tokenise_pair(7, pair_of("nurse", "young man"), encode)
    assert token.index == 7
    assert token.clean == tuple(encode("The nurse said that")[0])
    assert token.corrupted == tuple(encode("The young man said that")[0])
    assert token.clean_roles == (BEFORE, BEFORE, SUBJECT, AFTER, LAST)
    assert token.corrupted_roles == (BEFORE, BEFORE, FIRST, SUBJECT, AFTER, LAST)


def test_answers_are_the_tokens_that_continue_the_prompt():
    encode = words(bos=True)
    token = tokenise_pair(0, pair_of(), encode)
    assert token.answers == tuple(encode(answer)[0][1] for answer in (" she", " he", " they"))
    assert len(set(token.answers)) == 3


def test_an_answer_of_two_tokens_is_dropped_with_the_reason():
    _, ledger = tokenise(Prompts((pair_of(), pair_of(female=" this one"))), words(), max_dropped=0.5)
    assert ledger.kept == 1
    (row,) = ledger.dropped
    assert (row.group, row.template) == ("nurse", "The {subject} said that")
    assert re.fullmatch(r"answer ' this one' must be a single token, got \[\d+, \d+\]", row.reason)


def test_an_answer_that_melts_into_the_prompt_is_dropped():
    _, ledger = tokenise(Prompts((pair_of(), pair_of(male="he"))), words(), max_dropped=0.5)
    assert ledger.dropped[0].reason.startswith("answer 'he' must be a single token")


def test_an_answer_that_is_another_token_after_the_corrupted_prompt_is_dropped():
    plain = words()

    def fickle(text):
        ids, spans = plain(text)
        return ([*ids[:-1], 99], spans) if text == "The man said that she" else (ids, spans)

    with pytest.raises(LocateError, match="answer ' she' is another token after the corrupted prompt"):
        tokenise_pair(0, pair_of(), fickle)


def test_answers_must_be_different_tokens():
    encode = words()

    def deaf(text):
        ids, spans = encode(text.replace(" he", " she") if text.endswith(" he") else text)
        return ids, spans

    with pytest.raises(LocateError, match="answers ' she' and ' he' are the same token"):
        tokenise_pair(0, pair_of(), deaf)


def test_a_neutral_answer_of_two_tokens_is_left_out_and_counted():
    pairs = (pair_of(), pair_of(neutral=" he or she"), pair_of(neutral=None))
    kept, ledger = tokenise(Prompts(pairs), words())
    assert [token.answers[2] is None for token in kept] == [False, True, True]
    assert ledger.without_neutral == 1
    assert ledger.kept == 3


def test_words_that_split_differently_are_dropped_with_the_reason():
    uneven = replace(pair_of("cook", "man", "the {subject} was sad"), corrupted="the old and man was sad")
    _, ledger = tokenise(Prompts((pair_of("cook", "man", "the {subject} was sad"), uneven)), pieces(), max_dropped=0.5)
    assert [row.reason for row in ledger.dropped] == [
        "the words around the subject fall into different numbers of tokens"
    ]


def test_tokens_without_counterpart_are_counted_by_role():
    pairs = (pair_of("very old cook", "man"), pair_of("police officer", "man"), pair_of("nurse", "police officer"))
    _, ledger = tokenise(Prompts(pairs), words())
    assert ledger.without_counterpart == {FIRST: 2, MIDDLE: 1}


def test_too_many_dropped_pairs_are_refused_with_counts_and_reasons():
    pairs = (*[pair_of()] * 3, *[pair_of(female=" this one")] * 2)
    with pytest.raises(
        LocateError,
        match=r"2 of 5 pairs cannot be used, expected at most 20% \(2 x answer ' this one' must be a single token, got "
        r"\[\d+, \d+\]\): choose other answers or subjects, or allow more with max_dropped",
    ):
        tokenise(Prompts(pairs), words())


def test_as_many_dropped_as_allowed_are_kept_in_the_ledger():
    kept, ledger = tokenise(Prompts((*[pair_of()] * 4, pair_of(female=" this one"))), words(), max_dropped=0.2)
    assert (len(kept), ledger.kept, len(ledger.dropped)) == (4, 4, 1)


def test_nothing_left_is_refused_whatever_is_allowed():
    with pytest.raises(LocateError, match="1 of 1 pairs cannot be used"):
        tokenise(Prompts((pair_of(female=" this one"),)), words(), max_dropped=1.0)


def test_no_pairs_at_all_are_refused():
    with pytest.raises(LocateError, match="0 of 0 pairs"):
        tokenise(Prompts(()), words())


def test_kept_pairs_remember_their_place_among_the_prompts():
    kept, _ = tokenise(Prompts((pair_of(female=" this one"), pair_of(), pair_of("cook"))), words(), max_dropped=0.5)
    assert [(token.index, token.pair.group) for token in kept] == [(1, "nurse"), (2, "cook")]


def test_the_ledger_adds_up():
    skipped = (Dropped("judge", "t", "no stereotype"), Dropped("editor", "t", "no stereotype"))
    prompts = Prompts((pair_of(), pair_of(female=" this one"), pair_of(neutral=" x y"), pair_of("cook cook")), skipped)
    _, ledger = tokenise(prompts, words(), max_dropped=0.5)
    content = ledger.as_json()
    assert content["kept"] + content["dropped"] == len(prompts)
    assert content["skipped"] == 2
    assert sum(content["reasons"].values()) == content["dropped"] + content["skipped"]
    assert content["reasons"]["no stereotype"] == 2
    assert [group for group, _, _ in content["skipped pairs"]] == ["judge", "editor"]
    assert [(group, template) for group, template, _ in content["dropped pairs"]] == [
        ("nurse", "The {subject} said that")
    ]
    assert content["neutral answer not one token"] == 1
    assert content["tokens without counterpart"] == {FIRST: 1}


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(LocateError, match=r"max_dropped .*: expected a share in \[0, 1\]"):
        tokenise(Prompts(()), lambda text: ([], []), max_dropped=share)
