"""The user's rows: files of every shape are read alike or refused in one line, and odd rows are noted."""

import csv
import io
import json
import unicodedata
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locate import LocateError, read_pairs
from locate.prompts import Pair, Prompts, occupation_pairs, tokenise
from locate.prompts.build import needs_an
from locate.prompts.notes import notes_of

HEAD = ("clean", "corrupted", "clean_subject", "corrupted_subject")
ROWS = [
    ("The nurse said that", "The man said that", "nurse", "man"),
    ("The köchin, tired, sang", "The woman, tired, sang", "köchin", "woman"),
    ('The "chef" laughed because', 'The "cook" laughed because', "chef", "cook"),
]
PAIRS = [
    Pair(*row, group=row[2], template=row[0].replace(row[2], "{subject}")) for row in ROWS
]  # as the columns say, without the reader
FILES = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def pair_of(clean="nurse", corrupted="man", form="The {} said that", **fields):
    """A pair of two subjects in one form."""
    return Pair(form.format(clean), form.format(corrupted), clean, corrupted, clean, form.format("{subject}"), **fields)


def write(folder, text, name="pairs.csv"):
    """Path of a file with the text or bytes."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table(rows, header=HEAD, **style):
    """CSV text of a header and rows."""
    file = io.StringIO()
    csv.writer(file, **style).writerows([header, *rows])
    return file.getvalue()


def refusal(folder, text, name="pairs.csv"):
    """The one line that refuses a file."""
    with pytest.raises(LocateError) as caught:
        read_pairs(write(folder, text, name))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@FILES
@given(
    order=st.permutations(range(4)),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig"]),
    blank=st.integers(0, 2),
    spelled=st.sampled_from([str, str.upper, str.title, " {} ".format]),
)
def test_csv_of_every_style_holds_the_same_pairs(tmp_path, order, quoting, end, encoding, blank, spelled):
    header = [spelled(HEAD[i]) for i in order]
    text = table([[row[i] for i in order] for row in ROWS], header, quoting=quoting, lineterminator=end)
    text = end * blank + text.replace(end, end * (blank + 1))
    assert list(read_pairs(write(tmp_path, text.encode(encoding)))) == PAIRS


@FILES
@given(
    order=st.permutations(HEAD), escaped=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n"]), nulls=st.booleans()
)
def test_json_lines_of_every_style_hold_the_same_pairs(tmp_path, order, escaped, end, nulls):
    rows = [dict(zip(HEAD, row, strict=True)) for row in ROWS]
    rows = [{name: row[name] for name in order} | ({"group": None} if nulls else {}) for row in rows]
    text = end.join(json.dumps(row, ensure_ascii=escaped) for row in rows)
    assert list(read_pairs(write(tmp_path, text, "pairs.jsonl"))) == PAIRS


@FILES
@given(
    content=st.one_of(
        st.binary(max_size=80),
        st.text(max_size=80).map(lambda text: ",".join(HEAD).encode() + b"\n" + text.encode(errors="replace")),
        st.lists(st.text(max_size=8), min_size=4, max_size=5).map(lambda row: table([row]).encode(errors="replace")),
        st.dictionaries(st.sampled_from([*HEAD, "stereotype", "neutral"]), st.one_of(st.none(), st.text(), st.floats()))
        .map(json.dumps).map(str.encode),
    ),
    name=st.sampled_from(["pairs.csv", "pairs.jsonl"]),
)  # fmt: skip
def test_any_content_is_pairs_or_one_line(tmp_path, content, name):
    path = write(tmp_path, content, name)
    try:
        found, said = read_pairs(path), ""
    except LocateError as error:
        found, said = Prompts(()), str(error)
    assert len(found) > 0 or said.startswith(str(path))


@FILES
@given(mark=st.sampled_from(";\t|"), encoding=st.sampled_from(["utf-16", "utf-16-le", "utf-16-be", "latin-1", "cp500"]))
def test_other_separators_and_encodings_are_refused(tmp_path, mark, encoding):
    told = refusal(tmp_path, table(ROWS, delimiter=mark))
    assert "it looks separated by" in told
    assert told.endswith("save it with commas")
    assert "UTF-8" in refusal(tmp_path, table(ROWS).encode(encoding))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", table([("0", *ROWS[0])], ("", *HEAD)), "has a column without a name (a pandas index?): leave"),
        ("a.csv", table([("0", *ROWS[0])], ("clean", *HEAD)), "names the columns clean more than once"),
        ("a.csv", table(ROWS[1:], ROWS[0]), "the first line has to name the columns"),
        ("a.csv", table(ROWS) + '"The cook', "is not CSV (line 5: unexpected end of data)"),
        ("a.csv", b"PK\x03\x04 rest", "is a zip archive or an Excel workbook: save the sheet as CSV UTF-8"),
        ("a.csv", b"\x1f\x8b rest", "is packed with gzip: unpack it first"),
        ("a.csv", "a\nb\x00", "holds a NUL byte in line 2"),
        ("a.csv", table(ROWS).encode("latin-1"), "(byte 0xf6 in line 3): save it as UTF-8"),
        ("a.tsv", "", "expected the ending .csv or .jsonl: save it with commas"),
        ("a.json", "[]", "expected the ending .csv or .jsonl: write one object a line"),
        ("a.xlsx", "", "save the sheet as CSV UTF-8"),
        ("a.csv.gz", "", "unpack it first"),
        ("a.jsonl", "[{}]", "is one JSON array: write one object a line"),
        ("a.jsonl", '{"clean": 1},', "line 1: '{\"clean\": 1},' is not a row (Extra data)"),
        ("a.jsonl", '{"clean": NaN}', "line 1: NaN is not a JSON value: leave the field out"),
        ("a.jsonl", '{"clean": "a", "clean": "b"}', "line 1: field clean comes more than once"),
        ("a.jsonl", '{"clean": ' + "[" * 100_000, "line 1:"),
        ("a.jsonl", json.dumps({name: ["a"] for name in HEAD}), "expected text, got ['a']"),
        ("a.csv", table([(*ROWS[0], "f")], (*HEAD, "stereotype")), "stereotype 'f': expected -1, 0 or 1 (1 female"),
        ("a.csv", table([(*ROWS[0], "None")], (*HEAD, "neutral")), "neutral 'None' stands for a missing value"),
        ("a.csv", table([(*ROWS[0], " he", " she")], (*HEAD, "female", "male")), "exchange the columns"),
        ("a.csv", table([(*ROWS[0], " she", "She")], (*HEAD, "female", "male")), "expected two different words"),
        ("a.csv", table([("The nurse sang", "The nurse  sang", "nurse", "nurse")]), "are the same prompt"),
        ("a.csv", table([("The nurse sang", "The man ran", "nurse", "man")]), "outside their subjects ('sang' and"),
        ("a.csv", table([("The Nurse sang", "The man sang", "nurse", "man")]), "the two differ in capitals"),
        ("a.csv", table([("The old\u00a0nurse sang", "The man sang", "old nurse", "man")]), "by U+00A0 NO-BREAK SPACE"),
        ("a.csv", table([("The nur\u200bse sang", "The man sang", "nurse", "man")]), "by U+200B ZERO WIDTH SPACE"),
        ("a.csv", table([("The nurses sang", "The man sang", "nurse", "man")]), "it is part of a longer word"),
        ("a.csv", table([(*ROWS[0], "a"), (*ROWS[0], "b")], (*HEAD, "group")),
         "line 3: repeats the prompts of line 2 with another group ('a', then 'b')"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_the_way_out(tmp_path, name, text, said):
    assert said in refusal(tmp_path, text, name)


def test_a_folder_is_called_a_folder(tmp_path):
    (tmp_path / "pairs.csv").mkdir()
    with pytest.raises(LocateError, match="is a folder"):
        read_pairs(tmp_path / "pairs.csv")


def test_a_very_long_prompt_is_not_quoted_whole(tmp_path):
    assert len(refusal(tmp_path, table([("a " * 20_000 + "b", "The man sang", "nurse", "man")]))) < 800


def test_prompts_may_differ_where_it_is_asked_for_and_it_is_noted(tmp_path):
    path = write(tmp_path, table([("The nurse sang", "The man ran", "nurse", "man")]))
    assert notes_of(read_pairs(path, allow_different=True).pairs) == {
        "the prompts differ outside their subjects, as 'sang' and 'ran'": 1
    }


@pytest.mark.parametrize(
    "row",
    [
        ("An engineer sang", "A nurse sang", "engineer", "nurse"),
        ("Die Ärztin sagte", "Der Mann sagte", "Ärztin", "Mann"),
        ("L'avocat dit", "La femme dit", "avocat", "femme"),
    ],
)
def test_articles_that_agree_with_their_words_are_noted_not_refused(tmp_path, row):
    assert any("differ outside" in note for note in notes_of(read_pairs(write(tmp_path, table([row]))).pairs))


def test_spellings_of_a_group_are_one_group(tmp_path):
    forms = ["The {} said that", "The {} knew that", "The {} thought that", "The {} hoped that"]
    groups = ["Nurse", "nurse", "nurse ", "nurse"]
    words = [(form.format("nurse"), form.format("man"), "nurse", "man") for form in forms]
    rows = [(*row, group) for row, group in zip(words, groups, strict=True)]
    found = read_pairs(write(tmp_path, table(rows, (*HEAD, "group"))))
    assert {pair.group for pair in found} == {"nurse"}
    assert found.notes == (("3 spellings of group 'nurse' are taken as one group", 4),)


def test_repeated_rows_are_measured_once(tmp_path):
    found = read_pairs(write(tmp_path, table(ROWS * 3)))
    assert list(found) == PAIRS
    assert [row.reason for row in found.skipped] == ["rows that repeat others"] * 6


def test_letters_in_pieces_are_composed(tmp_path):
    row = [unicodedata.normalize("NFD", cell) for cell in ROWS[1][:2]] + list(ROWS[1][2:])
    found = read_pairs(write(tmp_path, table([row])))
    assert list(found) == [PAIRS[1]]
    assert found.notes[0][1] == 1
    assert "NFC" in found.notes[0][0]


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (pair_of(form="A {} said that", clean="engineer"), "the article does not fit the word, as 'A engineer'"),
        (pair_of(form="An {} said that", clean="heir"), "the article does not fit the word, as 'An man'"),
        (pair_of(form="the {} said that"), "a prompt begins with a small letter"),
        (pair_of(clean="Nurse"), "a subject has a capital inside the sentence, as 'Nurse'"),
        (pair_of(female=" She", male=" He"), "begin with a capital in the middle of a sentence"),
        (pair_of(form="The {} sang."), "the prompt ends its sentence"),
        (pair_of(form='The {} said, "'), "begin with a space after"),
        (pair_of(form="L'{} a dit qu'", female=" elle", male=" il"), "begin with a space after"),
        (pair_of(female=" her", male=" he"), "are two forms of the pronoun: expected 'him' or 'his'"),
        (pair_of(female=" she", male="he"), "one of the answers ' she' and 'he' begins with a space"),
        (pair_of(stereotype=-1), "the stereotype is the opposite of the package's table, as -1 of 'nurse'"),
        (replace(pair_of(), template="The {subject} sang"), "the template does not make the clean prompt"),
        (pair_of(form="The {} said\u200b that"), "U+200B ZERO WIDTH SPACE"),
        (pair_of(corrupted="nurse"), "clean and corrupted prompt are the same"),
    ],
)  # fmt: skip
def test_odd_pairs_are_noted(pair, said):
    assert [count for sentence, count in notes_of([pair, pair_of(form="The {} ran and")]).items() if said in sentence]


@pytest.mark.parametrize(
    "pair",
    [
        pair_of(),
        pair_of(form="A {} said that"),
        pair_of(form="Il a vu a {} et qu'", female="elle", male="il"),
        pair_of(form='The {} said, "', female="She", male="He"),
        pair_of(form="The {} sang.", female=" She", male=" He"),
        pair_of(form="The {} talked to", female=" her", male=" him"),
    ],
)
def test_good_pairs_are_not(pair):
    assert notes_of([pair]) == {}


def test_swaps_both_ways_without_stereotypes_are_noted():
    both = [pair_of(), pair_of("plumber", "woman")]
    (note,) = notes_of(both)
    assert "1 swap towards female and 1 towards male" in note
    assert "add the column stereotype" in note
    assert notes_of(both[:1]) == {}
    assert notes_of([replace(both[0], stereotype=1), replace(both[1], stereotype=-1)]) == {}


@pytest.mark.parametrize("swap", ["opposite", "anti", "neutral", "someone"])
def test_the_packages_own_prompts_are_not_noted(swap):
    assert notes_of(occupation_pairs(swap).pairs) == {}


@pytest.mark.parametrize("form", ["A {subject} said that", "Then an {subject} said that"])
def test_a_and_an_fit_the_words_and_are_part_of_subjects_where_they_differ(form):
    pairs = occupation_pairs("opposite", templates=[form]).pairs
    assert notes_of(pairs) == {}
    told = {(pair.clean, pair.clean_subject) for pair in pairs if pair.group == "engineer"}
    start = "Then an" if "Then" in form else "An"
    assert told == {(f"{start} engineer said that", f"{start.split()[-1]} engineer")}


@pytest.mark.parametrize(
    ("word", "an"),
    [("engineer", True), ("nurse", False), ("usher", True), ("umpire", True), ("university teacher", False),
     ("one-man band", False), ("hourly worker", True), ("MRI technician", None), ("undertaker", True), ("user", False)],
)  # fmt: skip
def test_a_or_an(word, an):
    assert needs_an(word) is an


def test_answers_without_a_space_are_noted_where_a_space_is_one_token(mini_encoder):
    plain = tokenise(Prompts((pair_of(female="she", male="he"),)), mini_encoder.encode)[1].notes
    (said,) = plain
    assert said.startswith("the answers 'she' and 'he' have no space before them")
    assert plain[said] == 1
    french = replace(pair_of(), clean="L'avocat a dit qu'", corrupted="L'homme a dit qu'", clean_subject="avocat",
                     corrupted_subject="homme", template="L'{subject} a dit qu'", female="elle", male="il")  # fmt: skip
    assert tokenise(Prompts((french,)), mini_encoder.encode)[1].notes == {}
    elided = replace(french, female="her", male="he")  # single tokens with and without a space
    kept, ledger = tokenise(Prompts((elided,)), mini_encoder.encode)
    assert len(kept) == 1
    assert not [note for note in ledger.notes if "no space before them" in note]
    assert tokenise(Prompts((pair_of(),)), mini_encoder.encode)[1].notes == {}


def test_prompts_longer_than_the_context_are_dropped(mini_encoder):
    long = pair_of(form="It was a day. " * 60 + "The {} said that")
    tokens = len(mini_encoder.tokenizer(long.clean, add_special_tokens=False)["input_ids"]) + 1
    kept, ledger = tokenise(Prompts((pair_of(), long)), mini_encoder.encode, context=256, max_dropped=0.5)
    assert len(kept) == 1
    assert [row.reason for row in ledger.dropped] == [f"{tokens} tokens, the model takes 256"]
    with pytest.raises(LocateError, match=r"1 of 1 pairs .*the model takes 256\): choose shorter prompts$"):
        tokenise(Prompts((long,)), mini_encoder.encode, context=256)


def test_a_special_token_in_the_text_is_named(mini_encoder):
    with pytest.raises(LocateError, match=r"the text holds the special token <\|endoftext\|>"):
        mini_encoder.encode("The girl<|endoftext|> said that")


@pytest.fixture(scope="module")
def mini_encoder():
    """How the bundled model reads text."""
    from locate.model.loading import load_encoder

    return load_encoder("mini")[0]
