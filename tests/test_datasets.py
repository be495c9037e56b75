"""Readers of published data: counts, what the rows say, malformed and missing files, and the published arithmetic."""

import functools
import gzip
import json
import shutil

import numpy as np
import pytest

from locate import LocateError
from locate.evaluation.items import PRONOUNS, Continuations
from locate.evaluation.readers import (
    profession_pairs,
    profession_scores,
    read_professions,
    read_reference,
    read_templates,
    read_winobias,
    read_winogender,
    reference_file,
    winobias_continuations,
    winobias_occupations,
    winogender_continuations,
    winogender_occupations,
)

PRO = "1 [The developer] argued with the designer because [he] did not like it.\n"
ANTI = "1 [The developer] argued with the designer because [she] did not like it.\n"


@pytest.fixture
def winobias(tmp_path):
    """A folder with one pair of sentences and two occupations."""
    files = {
        "pro_stereotyped_type1.txt.dev": PRO,
        "anti_stereotyped_type1.txt.dev": ANTI,
        "female_occupations.txt": "designer\n",
        "male_occupations.txt": "developer\n",
        "occupation_female_percent.tsv": "occupation\tfemale_percent\ndesigner\t54\ndeveloper\t20\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def published(shared):
    """The published data."""
    return shared / "data"


@pytest.mark.parametrize("kind", ["type1", "type2"])
@pytest.mark.parametrize("split", ["dev", "test"])
def test_winobias_as_published(published, kind, split):
    pairs = read_winobias(published / "winobias", kind, split)
    assert len(pairs) == 396
    assert [pair.pro.line for pair in pairs] == list(range(1, 397)) == [pair.anti.line for pair in pairs]
    shares = winobias_occupations(published / "winobias").set_index("occupation")
    for pair in pairs:
        assert pair.pro.gender == pair.stereotype == shares["stereotype"][pair.occupation]
        assert (shares["share_women"][pair.occupation] > 50) == (pair.stereotype > 0)
        for sentence in (pair.pro, pair.anti):
            for start, word in sentence.pronouns:
                assert sentence.text[start : start + len(word)] == word
                assert PRONOUNS[word.lower()] == sentence.gender
            assert "[" not in sentence.text
    assert (
        sum(not pair.minimal for pair in pairs)
        == {"type1": {"dev": 2, "test": 5}, "type2": {"dev": 9, "test": 5}}[kind][split]
    )


def test_a_sentence_of_winobias(winobias):
    (pair,) = read_winobias(winobias, published=False)
    assert pair.pro.text == "The developer argued with the designer because he did not like it."
    assert pair.pro.without_pronouns == "The developer argued with the designer because _ did not like it."
    assert (pair.occupation, pair.stereotype, pair.pro.gender, pair.anti.gender) == ("developer", -1, -1, 1)
    assert pair.minimal
    (winobias / "anti_stereotyped_type1.txt.dev").write_text(ANTI.replace("did", "could"))
    assert not read_winobias(winobias, published=False)[0].minimal


@pytest.mark.parametrize(
    "line",
    [
        "1 [The developer] argued because he did not.",
        "1 The developer argued because [he] did not.",
        "1 [The baker] argued because [he] did not.",
        "1 [The developer] argued because [he] hit [her].",
        "2 [The developer] argued because [he] did not.",
        "1 [The developer] argued because [he] did not ].",
        "1 [The developer] argued with [the designer] because [he] did not.",
        "1 [The developer] argued because [she] did not.",
    ],
)
def test_a_malformed_line_is_named(winobias, line):
    path = winobias / "pro_stereotyped_type1.txt.dev"
    path.write_text(line + "\n")
    with pytest.raises(LocateError, match=rf"{path.name}, line 1: .*expected"):
        read_winobias(winobias, published=False)


def test_a_changed_file_is_refused_and_a_missing_one_named(winobias):
    with pytest.raises(LocateError, match=r"has sha256 .* published file .*published=False"):
        read_winobias(winobias)
    (winobias / "pro_stereotyped_type1.txt.dev").unlink()
    with pytest.raises(LocateError, match=r"no file .*pro_stereotyped_type1.txt.dev"):
        read_winobias(winobias, published=False)
    with pytest.raises(LocateError, match=r"kind 'type3': expected one of type1, type2"):
        read_winobias(winobias, "type3")


def test_files_that_disagree_are_refused(winobias):
    (winobias / "anti_stereotyped_type1.txt.dev").write_text(ANTI + ANTI.replace("1 [", "2 ["))
    with pytest.raises(LocateError, match=r"1 and 2 sentences"):
        read_winobias(winobias, published=False)
    (winobias / "occupation_female_percent.tsv").write_text("occupation\tfemale_percent\ndesigner\t54\n")
    with pytest.raises(LocateError, match=r"disagree on \['developer'\]"):
        winobias_occupations(winobias, published=False)
    (winobias / "male_occupations.txt").write_text("designer\n")
    with pytest.raises(LocateError, match=r"male_occupations.txt, line 1: 'designer': .*not listed yet"):
        winobias_occupations(winobias, published=False)
    (winobias / "male_occupations.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(LocateError, match="is not UTF-8"):
        winobias_occupations(winobias, published=False)
    (winobias / "male_occupations.txt").write_text("\n")
    with pytest.raises(LocateError, match="has 0 rows"):
        winobias_occupations(winobias, published=False)


@pytest.mark.parametrize("row", ["developer\tmany", "developer\t120", "developer", "developer\t"])
def test_a_malformed_share_is_named(winobias, row):
    (winobias / "occupation_female_percent.tsv").write_text(f"occupation\tfemale_percent\n{row}\n")
    with pytest.raises(LocateError, match=r"occupation_female_percent.tsv, line 2: "):
        winobias_occupations(winobias, published=False)


def test_winobias_examples_are_formed_of_twos(winobias):
    other = "2 The developer argued with [the designer] because [she] shouted.\n"
    path = winobias / "pro_stereotyped_type1.txt.dev"
    path.write_text(PRO + other)
    (example,), skipped = winobias_continuations(winobias, published=False)
    assert example == Continuations(
        female="The developer argued with the designer because she",
        male="The developer argued with the designer because he",
        of_female=" shouted.",
        of_male=" did not like it.",
        female_person="designer",
        male_person="developer",
        group="designer/developer",
    )
    assert not skipped
    for second, reason in (
        (other.replace("because", "since"), "different words before the pronoun"),
        (other.replace("[she]", "[her] friend"), "pronouns of two forms"),
        (other.replace("shouted", "lost [her] pen"), "more than one marked pronoun"),
    ):
        path.write_text(PRO + second)
        examples, (row,) = winobias_continuations(winobias, published=False)
        assert (examples, row.lines, row.reason) == ((), (1, 2), reason)
    path.write_text(PRO)
    with pytest.raises(LocateError, match="1 sentences: expected an even number"):
        winobias_continuations(winobias, published=False)


def test_winogender_as_published(published):
    schemas = read_winogender(published / "winogender")
    assert len(schemas) == 240
    assert sum(schema.participant == "someone" for schema in schemas) == 120
    first = schemas[0]
    assert (first.occupation, first.participant, first.refers_to) == ("technician", "customer", "participant")
    assert first.female.replace(" she ", " he ") == first.male == first.neutral.replace(" they ", " he ")
    table = winogender_occupations(published / "winogender")
    assert len(table) == 60
    assert set(table["occupation"]) == {schema.occupation for schema in schemas}
    technician = table.set_index("occupation").loc["technician"]
    assert (technician["share_women"], technician["share_women_text"], technician["year"]) == (40.34, 9.42, 2015)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("technician.customer.2.male.txt\tHe paid.", r"line 2: .*expected occupation.participant"),
        ("technician.customer.1.male.txt", r"line 2: .*expected 2 filled cells"),
        ("technician.customer.1.male.txt\tHe paid.", r"has male: expected male, female, neutral"),
        ("a.b.1.male.txt\tHe paid.\na.b.1.male.txt\tHe paid.", r"line 3: .*each sentence once"),
    ],
)
def test_a_malformed_winogender_file_is_named(tmp_path, text, message):
    (tmp_path / "all_sentences.tsv").write_text(f"sentid\tsentence\n{text}\n")
    with pytest.raises(LocateError, match=message):
        read_winogender(tmp_path, published=False)
    (tmp_path / "all_sentences.tsv").write_text(f"id\tsentence\n{text}\n")
    with pytest.raises(LocateError, match="has the header 'id"):
        read_winogender(tmp_path, published=False)


def test_winogender_examples_turn_with_the_occupation(tmp_path):
    (tmp_path / "occupations-stats.tsv").write_text(
        "occupation\tbergsma_pct_female\tbls_pct_female\tbls_year\neducator\t45\t80\t2015\n"
    )
    head = "occupation(0)\tother-participant(1)\tanswer\tsentence\n"
    row = "educator\tstudent\t{}\tThe $OCCUPATION met a $PARTICIPANT to discuss $POSS_PRONOUN {}.\n"
    path = tmp_path / "winogender_templates_structurefilter.tsv"
    path.write_text(head + row.format(1, "writing") + row.format(0, "grading"))
    (bls,), skipped = winogender_continuations(tmp_path, tmp_path, "bls", published=False)
    (text,), _ = winogender_continuations(tmp_path, tmp_path, "bergsma", published=False)
    assert (bls.female, bls.male) == (
        "The educator met a student to discuss her",
        "The educator met a student to discuss his",
    )
    assert (bls.of_female, bls.of_male, bls.female_person) == (" grading.", " writing.", "educator")
    assert (text.of_female, text.of_male, text.female_person) == (" writing.", " grading.", "student")
    assert not skipped
    path.write_text(head + row.format(1, "writing") + row.format(1, "grading"))
    assert winogender_continuations(tmp_path, tmp_path, published=False)[1][0].lines == (2, 3)
    path.write_text(head + row.format(1, "writing") + row.format(0, "$NOM_PRONOUN"))
    with pytest.raises(LocateError, match=r"line 3: .*one pronoun"):
        winogender_continuations(tmp_path, tmp_path, published=False)


REFERENCES = [
    ("winobias", "distilgpt2", "dev", (160, 82, 61), (0.118, 0.033, 0.087)),
    ("winobias", "gpt2", "dev", (160, 116, 87), (0.249, 0.182, 0.079)),
    ("winobias", "gpt2-medium", "dev", (160, 133, 99), (0.774, 0.626, 0.121)),
    ("winobias", "gpt2_random", "dev", (160, 77, 57), (0.066, 0.011, 0.054)),
    ("winobias", "gpt2", "test", (130, 89, 66), (0.225, 0.138, 0.090)),
    ("winogender", "gpt2", "bls", (44, 28, 21), (0.103, 0.060, 0.045)),
    ("winogender", "gpt2", "bergsma", (44, 27, 20), (0.135, 0.075, 0.062)),
]


@functools.cache
def stored(folder, data, model, part):
    """Published results, each file read once."""
    return read_reference(reference_file(folder, data, model, part))


@pytest.mark.parametrize(("data", "model", "part", "counts", "means"), REFERENCES)
def test_published_results_are_read_whole(published, data, model, part, counts, means):
    found = stored(published / "vig_mediation" / "reference", data, model, part)
    assert (found.loaded, found.aligned, found.analysed) == counts
    assert (found.dataset, found.part, found.model) == (data, part, model.removesuffix("_random"))
    np.testing.assert_allclose(list(found.means.values()), means, atol=5.1e-4)
    np.testing.assert_allclose(found.examples[list(found.means)].mean(), list(found.means.values()), rtol=1e-6)
    assert found.head["indirect"].shape == found.head["direct"].shape == (counts[2], *found.head["direct"].shape[1:])
    assert found.layer["indirect"].shape == found.head["indirect"].shape[:2]


@pytest.mark.parametrize(("data", "model", "part", "counts", "means"), REFERENCES)
def test_the_examples_are_those_of_the_published_results(published, data, model, part, counts, means):
    """Read from the data set's own files: as many, and with the same prompts and continuations on the same sides."""
    folder = published / "vig_mediation"
    if data == "winobias":
        examples, _ = winobias_continuations(published / "winobias", part)
    else:
        examples, _ = winogender_continuations(folder, published / "winogender", part)
    assert len(examples) == counts[0]

    def texts(*words):
        return tuple("".join(each.split()) for each in words)

    ours = [texts(each.female, each.male, each.of_female, each.of_male) for each in examples]
    found = stored(folder / "reference", data, model, part).examples
    theirs = [texts(*row) for row in found[["female", "male", "of_female", "of_male"]].to_numpy()]
    assert set(theirs) <= set(ours)
    assert theirs == [each for each in ours if each in set(theirs)]


def test_bad_results_are_refused(tmp_path, published):
    assert reference_file(tmp_path, "winobias", "mini", "dev") is None
    with pytest.raises(LocateError, match="no file"):
        read_reference(tmp_path / "none.json.gz")
    path = tmp_path / "winobias_attention_intervention_gpt2_filtered_dev.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"results": [], "num_examples_analyzed": 2}, file)
    with pytest.raises(LocateError, match="holds 0 examples but says it has 2"):
        read_reference(path)
    path.write_bytes(b"text")
    with pytest.raises(LocateError, match="is not a file of published results"):
        read_reference(path)


def test_professions_as_published(published):
    folder = published / "vig_mediation"
    professions = {each.name: each for each in read_professions(folder)}
    assert len(professions) == 320
    assert sum(each.says_gender for each in professions.values()) == 20
    assert (professions["actress"].definitional, professions["actress"].leaning) == (1.0, 1)
    assert (professions["accountant"].stereotypical, professions["accountant"].leaning) == (-0.4, -1)
    assert professions["adjunct professor"].leaning == -1
    for name, sign in (("female", 1), ("male", -1)):
        listed = json.loads((folder / f"professions_{name}_stereo.json").read_text())
        assert {row[0].replace("_", " ") for row in listed} == {k for k, v in professions.items() if v.leaning == sign}
    scores = profession_scores(folder).set_index("word").loc["businesswoman"]
    assert (scores["factual"], scores["stereotypical"], scores["stereotype"]) == (0.9, 0.1, 1)
    assert len(read_templates(folder)) == 17
    assert read_templates(folder)[-1] == "The {subject} yelled because"


def test_profession_pairs_swap_as_they_say(published):
    folder = published / "vig_mediation"
    anti, same = profession_pairs(folder, "anti"), profession_pairs(folder, "same")
    assert len(anti) == len(same) == 17 * 299
    assert len(anti.skipped) == 17 * 21
    for one, other in zip(anti, same, strict=True):
        assert one.corrupted_subject == {1: "man", -1: "woman"}[one.stereotype]
        assert {one.corrupted_subject, other.corrupted_subject} == {"man", "woman"}
        assert one.clean == other.clean
    assert {pair.kind for pair in anti if pair.group in ("actress", "waiter")} == {"definition"}
    man = profession_pairs(folder, "man", templates_each=1)
    assert len(man) == 320
    assert not man.skipped
    assert {pair.corrupted_subject for pair in man} == {"man"}
    with pytest.raises(LocateError, match=r"swap 'both': expected one of anti, same, man, woman"):
        profession_pairs(folder, "both")


@pytest.mark.parametrize("row", ['["nurse", 0.0]', '["nurse", 0.0, -1.5]', '["", 0.0, 0.1]', '{"name": "nurse"}', "3"])
def test_a_malformed_profession_is_named(tmp_path, row):
    (tmp_path / "professions.json").write_text(f'[["clerk", 0.0, -0.1], {row}]')
    with pytest.raises(LocateError, match=r"professions.json, line 2: .*rows are counted"):
        read_professions(tmp_path, published=False)


def test_bad_lists_are_refused(tmp_path, published):
    path = tmp_path / "professions.json"
    path.write_text('{"clerk": 1}')
    with pytest.raises(LocateError, match="holds no list"):
        read_professions(tmp_path, published=False)
    path.write_text('[["clerk", 0, 0], ["clerk", 0, 0]]')
    with pytest.raises(LocateError, match="names a profession twice"):
        read_professions(tmp_path, published=False)
    (tmp_path / "prompt_templates.txt").write_text("The {} said that\nThe nurse said that\n")
    with pytest.raises(LocateError, match=r"prompt_templates.txt, line 2: .*one slot"):
        read_templates(tmp_path, published=False)
    shutil.copy(published / "vig_mediation" / "prompt_templates.txt", tmp_path)
    assert len(read_templates(tmp_path)) == 17


@pytest.mark.parametrize(
    "changed",
    [{"female": "The nurse said she "}, {"of_male": "asked"}, {"of_male": " "}, {"male": "She"}, {"of_male": " left."}],
)
def test_an_example_checks_itself(changed):
    fields = {"female": "She", "male": "He", "of_female": " left.", "of_male": " ate.", "female_person": "a"}
    with pytest.raises(LocateError, match="expected"):
        Continuations(**fields | {"male_person": "b", "group": "a/b"} | changed)
