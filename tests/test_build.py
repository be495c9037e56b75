"""The package's own tables, and the pairs that are made of them."""

from collections import Counter

import pytest

from locate import LocateError, occupation_pairs
from locate.prompts import SWAPS, definitional_pairs, definitional_table, occupation_table, templates, tokenise
from locate.prompts.build import opposite_partners, spread_templates, table

FORM = "The {subject} said that"


def swapped(name, swap, **options):
    """The corrupted subject of one occupation."""
    (pair,) = occupation_pairs(swap, templates=[FORM], templates_each=1, occupations=[name], **options)
    return pair.corrupted_subject


def test_there_are_many_occupations_some_of_several_words():
    names = occupation_table()["occupation"]
    assert len(names) >= 120
    assert names.is_unique
    assert names.str.contains(" ").sum() >= 10
    assert (names == names.str.strip()).all()


def test_shares_are_percentages_and_the_stereotype_is_their_majority():
    rows = occupation_table()
    assert rows["share_women"].between(0, 100).all()
    assert rows["share_women"].max() > 1
    expected = [1 if share >= 55 else -1 if share <= 45 else 0 for share in rows["share_women"]]
    assert rows["stereotype"].tolist() == expected


@pytest.mark.parametrize(
    ("name", "stereotype"), [("nurse", 1), ("engineer", -1), ("secretary", 1), ("plumber", -1), ("judge", 0)]
)
def test_known_occupations_have_the_expected_stereotype(name, stereotype):
    rows = occupation_table().set_index("occupation")
    assert rows.loc[name, "stereotype"] == stereotype


def test_every_source_is_cited():
    sources = table("sources")
    assert set(occupation_table()["source"]) == set(sources["source"])
    assert sources["citation"].str.len().min() > 20


def test_templates_hold_one_slot_and_end_in_a_word():
    forms = templates()
    assert len(forms) >= 16
    assert len(set(forms)) == len(forms)
    assert all(form.count("{subject}") == 1 and form[-1].isalpha() for form in forms)


def test_definitional_words_have_mutual_counterparts_of_the_other_gender():
    rows = definitional_table().set_index("word")
    assert len(rows) >= 20
    assert rows.index.is_unique
    assert set(rows["gender"]) == {-1, 1}
    for word, (gender, other) in rows[["gender", "counterpart"]].iterrows():
        assert rows.loc[other, "counterpart"] == word
        assert rows.loc[other, "gender"] == -gender


def test_definitional_genders_are_the_right_way_round():
    gender = definitional_table().set_index("word")["gender"]
    assert (gender["queen"], gender["mother"], gender["king"], gender["actor"]) == (1, 1, -1, -1)


@pytest.mark.parametrize(
    ("swap", "name", "expected"),
    [
        ("anti", "nurse", "man"),
        ("anti", "engineer", "woman"),
        ("anti", "dental hygienist", "man"),
        ("same", "nurse", "woman"),
        ("same", "engineer", "man"),
        ("same", "construction worker", "man"),
        ("neutral", "nurse", "person"),
        ("neutral", "engineer", "person"),
        ("neutral", "judge", "person"),
    ],
)
def test_swap_puts_the_right_word_in_place(swap, name, expected):
    assert swapped(name, swap) == expected


def test_opposite_matches_the_strongest_with_the_strongest():
    assert swapped("kindergarten teacher", "opposite") in ("plumber", "taper")
    assert swapped("plumber", "opposite") in ("kindergarten teacher", "pathologist")


def test_opposite_partners_are_of_the_opposite_stereotype():
    rows = occupation_table()
    stereotype = rows.set_index("occupation")["stereotype"]
    partners = opposite_partners(rows)
    assert set(partners) == set(stereotype.index[stereotype != 0])
    assert all(stereotype[name] == -stereotype[other] for name, other in partners.items())


def test_opposite_partners_of_equal_shares_follow_the_table():
    """Whatever the processor's sort does with ties, the prompts and their hash are the same."""
    rows = occupation_table()
    male = rows[rows["stereotype"] < 0]
    ranked = [name for name in opposite_partners(rows) if name in set(male["occupation"])]
    assert ranked == sorted(male["occupation"], key=dict(zip(male["occupation"], male["share_women"], strict=True)).get)


def test_a_pair_holds_what_the_table_says():
    (pair,) = occupation_pairs("anti", templates=[FORM], occupations=["dental hygienist"], neutral=None)
    assert (pair.clean, pair.corrupted) == ("The dental hygienist said that", "The man said that")
    assert (pair.clean_subject, pair.group, pair.template) == ("dental hygienist", "dental hygienist", FORM)
    assert (pair.kind, pair.stereotype, pair.neutral) == ("occupation", 1, None)


@pytest.mark.parametrize("swap", ["anti", "same", "opposite"])
def test_occupations_without_a_stereotype_are_listed_with_the_reason(swap):
    prompts = occupation_pairs(swap, templates_each=2)
    neutral = set(occupation_table().query("stereotype == 0")["occupation"])
    assert Counter(row.group for row in prompts.skipped) == dict.fromkeys(neutral, 2)
    assert {row.reason for row in prompts.skipped} == {f"no stereotype, so no '{swap}' swap"}
    assert {pair.group for pair in prompts}.isdisjoint(neutral)
    assert len(prompts) + len(prompts.skipped) == 2 * len(occupation_table())


@pytest.mark.parametrize(
    ("form", "corrupted"),
    [
        ("The {subject} said that", "Someone said that"),
        ("It was late when the {subject} said that", "It was late when someone said that"),
        ("I saw that a {subject} said that", "I saw that someone said that"),
        ("{subject} said that", "Someone said that"),
        ("We bathe {subject} so that", "We bathe someone so that"),
    ],
)
def test_someone_takes_the_articles_place_too(form, corrupted):
    (pair,) = occupation_pairs("someone", templates=[form], occupations=["nurse"])
    assert pair.clean == form.replace("{subject}", "nurse")
    assert pair.corrupted == corrupted
    assert pair.corrupted_subject.lower() == "someone"
    assert pair.clean_subject.lower() in ("nurse", "the nurse", "a nurse")


def test_someone_is_measured_against_every_occupation(gpt2):
    pairs, ledger = tokenise(occupation_pairs("someone", templates_each=1), gpt2.encode)
    assert ledger.kept == len(pairs) == len(occupation_table())


def test_neutral_skips_nothing():
    prompts = occupation_pairs("neutral", templates_each=1)
    assert prompts.skipped == ()
    assert len(prompts) == len(occupation_table())


@pytest.mark.parametrize("swap", SWAPS)
def test_the_first_pairs_are_of_different_words(swap):
    pairs = occupation_pairs(swap, templates_each=3).pairs
    words = len({pair.group for pair in pairs})
    assert len({pair.group for pair in pairs[:words]}) == words


def test_every_word_meets_different_templates():
    pairs = occupation_pairs("neutral", templates_each=4).pairs
    assert len({(pair.group, pair.template) for pair in pairs}) == len(pairs) == 4 * len(occupation_table())


@pytest.mark.parametrize(("words", "count", "each"), [(127, 18, 4), (40, 18, 4), (18, 18, 1), (20, 18, 18), (7, 3, 2)])
def test_spread_uses_templates_about_equally(words, count, each):
    forms = [f"form {number}" for number in range(count)]
    couples = spread_templates(words, forms, each)
    used = Counter(form for _, form in couples)
    assert max(used.values()) - min(used.get(form, 0) for form in forms) <= each
    assert len(set(couples)) == len(couples) == words * each
    assert [word for word, _ in couples[:words]] == list(range(words))


def test_spread_without_a_number_takes_all_templates():
    assert sorted(spread_templates(2, ["a", "b"], None)) == [(0, "a"), (0, "b"), (1, "a"), (1, "b")]


@pytest.mark.parametrize("swap", SWAPS)
def test_pairs_use_templates_about_equally(swap):
    used = Counter(pair.template for pair in occupation_pairs(swap))
    assert set(used) == set(templates())
    assert max(used.values()) <= 1.5 * min(used.values())


def test_definitional_pairs_swap_a_word_with_its_counterpart():
    pairs = {pair.group: pair for pair in definitional_pairs(templates=[FORM], templates_each=1)}
    assert (pairs["queen"].clean, pairs["queen"].corrupted) == ("The queen said that", "The king said that")
    assert (pairs["queen"].stereotype, pairs["king"].stereotype) == (1, -1)
    assert {pair.kind for pair in pairs.values()} == {"definition"}
    assert len(pairs) == len(definitional_table())


def test_occupations_are_chosen_by_name_in_the_order_given():
    pairs = occupation_pairs(occupations=["plumber", "nurse"], templates=[FORM], templates_each=1)
    assert [pair.group for pair in pairs] == ["plumber", "nurse"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"swap": "reverse"}, r"swap 'reverse': expected one of opposite, anti, same, neutral, someone"),
        ({"templates": ["The nurse said"]}, r"template 'The nurse said' holds the slot \{subject\} 0 times"),
        ({"templates": ["{subject} and {subject}"]}, r"holds the slot \{subject\} 2 times: expected once"),
        ({"occupations": ["nurse", "wizard"]}, r"occupations \['wizard'\] are not in the table: .*prompts --list"),
        ({"templates_each": 0}, r"0 templates for each word: expected 1 to 18"),
        ({"templates_each": 19}, r"19 templates for each word: expected 1 to 18"),
        ({"templates": [FORM + " "], "templates_each": 1}, r"ends in white space"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(LocateError, match=message):
        occupation_pairs(**options)


def test_own_templates_are_all_used_unless_a_number_is_given():
    own = [FORM, "The {subject} slept because"]
    assert len(occupation_pairs(templates=own, occupations=["nurse"])) == 2
    assert len(definitional_pairs(templates=own[:1])) == len(definitional_table())
    assert len(occupation_pairs(occupations=["nurse"])) == 4
