"""The user's own pairs, from CSV and JSON Lines, and what is said about bad ones."""

import json

import pytest

from locate import LocateError, read_pairs
from locate.prompts import Pair

HEAD = "clean,corrupted,clean_subject,corrupted_subject"
ROW = "The nurse said that,The man said that,nurse,man"
NURSE = dict(zip(HEAD.split(","), ROW.split(","), strict=True))
FULL = NURSE | {
    "group": "carer",
    "template": "The {subject} said that",
    "stereotype": 1,
    "female": " her",
    "male": " him",
    "neutral": " them",
    "kind": "occupation",
}


@pytest.fixture
def write(tmp_path):
    """Write a file and return its path."""

    def written(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return written


def test_csv_with_only_the_required_columns_gets_the_defaults(write):
    (pair,) = read_pairs(write("pairs.csv", f"{HEAD}\n{ROW}\n"))
    assert pair == Pair(**NURSE, group="nurse", template="The {subject} said that")


def test_jsonl_with_only_the_required_fields_gets_the_defaults(write):
    (pair,) = read_pairs(write("pairs.jsonl", json.dumps(NURSE)))
    assert pair == Pair(**NURSE, group="nurse", template="The {subject} said that")


def test_csv_with_all_columns(write):
    header, row = ",".join(FULL), ",".join(str(value) for value in FULL.values())
    assert read_pairs(write("pairs.csv", f"{header}\n{row}\n")).pairs == (Pair(**FULL),)


def test_jsonl_with_all_fields_keeps_the_order_and_skips_blank_lines(write):
    first, second = FULL, FULL | {"clean": "A nurse sang", "corrupted": "A man sang", "template": "A {subject} sang"}
    prompts = read_pairs(write("pairs.JSONL", f"{json.dumps(first)}\n\n{json.dumps(second)}\n"))
    assert prompts.pairs == (Pair(**first), Pair(**second))


def test_csv_columns_may_come_in_any_order(write):
    names = list(reversed(HEAD.split(",")))
    text = ",".join(names) + "\n" + ",".join(NURSE[name] for name in names)
    assert read_pairs(write("pairs.csv", text)).pairs[0].clean_subject == "nurse"


def test_empty_cells_take_the_default(write):
    (pair,) = read_pairs(write("pairs.csv", f"{HEAD},female,stereotype,group\n{ROW},,,\n"))
    assert (pair.female, pair.stereotype, pair.group) == (" she", 0, "nurse")


def test_answers_keep_their_leading_space(write):
    (pair,) = read_pairs(write("pairs.csv", f"{HEAD},female\n{ROW}, her\n"))
    assert pair.female == " her"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_byte_order_mark_is_not_part_of_the_text(write, ending):
    text = f"{HEAD}\n{ROW}\n" if ending == "csv" else json.dumps(NURSE)
    assert len(read_pairs(write(f"pairs.{ending}", text.encode("utf-8-sig")))) == 1


def test_text_is_read_as_utf8(write):
    (pair,) = read_pairs(write("pairs.csv", f"{HEAD}\nDie Köchin sagte,Der Mann sagte,Köchin,Mann\n"))
    assert pair.clean_subject == "Köchin"


def test_the_default_template_puts_the_slot_at_the_subject_itself(write):
    row = "The manager and the man sang,The manager and the woman sang,man,woman"
    (pair,) = read_pairs(write("pairs.csv", f"{HEAD}\n{row}\n"))
    assert pair.template == "The manager and the {subject} sang"


@pytest.mark.parametrize(("text", "sign"), [("1", 1), ("-1", -1), ("0", 0), ("1.0", 1), ("-1.0", -1)])
def test_stereotypes_are_read_from_numbers(write, text, sign):
    assert read_pairs(write("pairs.csv", f"{HEAD},stereotype\n{ROW},{text}\n")).pairs[0].stereotype == sign


@pytest.mark.parametrize("text", ["2", "female", "0.5", "nan"])
def test_other_stereotypes_are_refused(write, text):
    path = write("pairs.csv", f"{HEAD},stereotype\n{ROW},{text}\n")
    with pytest.raises(LocateError, match=rf"line 2: stereotype '{text}': expected -1, 0 or 1"):
        read_pairs(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LocateError, match=r"no file .*nothing\.csv: expected a CSV or JSONL file"):
        read_pairs(tmp_path / "nothing.csv")


def test_a_folder_is_not_a_file(tmp_path):
    with pytest.raises(LocateError, match="is a folder"):
        read_pairs(tmp_path)


def test_other_endings_are_refused(write):
    with pytest.raises(LocateError, match=r"pairs\.txt: expected the ending \.csv or \.jsonl"):
        read_pairs(write("pairs.txt", f"{HEAD}\n{ROW}\n"))


@pytest.mark.parametrize(
    ("name", "text"), [("a.csv", ""), ("a.csv", f"{HEAD}\n"), ("a.jsonl", ""), ("a.jsonl", "\n\n")]
)
def test_a_file_without_pairs_is_refused(write, name, text):
    with pytest.raises(LocateError, match=rf"{name} holds no pairs: expected columns clean, corrupted"):
        read_pairs(write(name, text))


def test_missing_columns_are_named_with_those_found(write):
    path = write("pairs.csv", "clean,corrupted,subject\na,b,c\n")
    with pytest.raises(
        LocateError, match="lacks the columns clean_subject, corrupted_subject: found clean, corrupted, subject"
    ):
        read_pairs(path)


def test_unknown_columns_are_named_with_those_expected(write):
    path = write("pairs.csv", f"{HEAD},gender\n{ROW},f\n")
    with pytest.raises(LocateError, match=r"line 2: unknown columns gender: expected clean, .*, kind"):
        read_pairs(path)


def test_a_subject_that_is_not_in_its_prompt_is_named_by_line(write):
    path = write("pairs.csv", f"{HEAD}\n{ROW}\nThe cook sang,The man sang,chef,man\n")
    with pytest.raises(LocateError, match=r"1 bad rows: line 3: subject 'chef' occurs 0 times in prompt"):
        read_pairs(path)


def test_all_bad_rows_are_named_by_line(write):
    path = write("pairs.csv", f"{HEAD}\n,The man sang,nurse,man\n{ROW}\nThe cook sang,The man sang,chef,man\n")
    with pytest.raises(LocateError, match=r"2 bad rows: line 2: empty or missing clean.*; line 4: subject 'chef'"):
        read_pairs(path)


def test_more_than_five_bad_rows_are_counted(write):
    path = write("pairs.csv", f"{HEAD}\n{ROW}\n" + "The cook sang,The man sang,chef,man\n" * 7)
    with pytest.raises(LocateError, match=r"7 bad rows: line 3: .*line 7: .*; and lines 8, 9$") as caught:
        read_pairs(path)
    assert "line 8" not in str(caught.value)


def test_exactly_five_bad_rows_leave_none_to_count(write):
    path = write("pairs.csv", f"{HEAD}\n" + "The cook sang,The man sang,chef,man\n" * 5)
    with pytest.raises(LocateError, match=r"5 bad rows: .*line 6: ") as caught:
        read_pairs(path)
    assert "more" not in str(caught.value)


def test_a_quoted_line_break_does_not_shift_the_line_numbers(write):
    path = write("pairs.csv", f'{HEAD}\n"The nurse\nsang","The man\nsang",nurse,man\n,,nurse,man\n')
    with pytest.raises(LocateError, match=r"1 bad rows: line 5: empty or missing clean, corrupted: expected text$"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("The nurse said that", r"line 2: 'The nurse said that' is not a row"),
        ('["nurse"]', r"line 2: .* is not a row"),
        ('"nurse"', r"line 2: 'nurse' is not a row"),
        (json.dumps(NURSE | {"group": 3}), r"line 2: group: expected text"),
        (json.dumps(NURSE | {"stereotype": True}), r"line 2: stereotype True: expected -1, 0 or 1"),
        (json.dumps({"clean": "a"}), r"line 2: empty or missing corrupted, clean_subject, corrupted_subject"),
    ],
)
def test_bad_json_lines_are_named(write, line, message):
    with pytest.raises(LocateError, match=message):
        read_pairs(write("pairs.jsonl", f"{json.dumps(NURSE)}\n{line}\n"))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.jsonl"])
def test_other_encodings_are_refused(write, name):
    text = f"{HEAD}\nDie Köchin sagte,Der Mann sagte,Köchin,Mann\n"
    with pytest.raises(LocateError, match=rf"{name} is not UTF-8 text .*: save it as UTF-8"):
        read_pairs(write(name, text.encode("latin-1")))


def test_a_quote_that_is_never_closed_is_refused(write):
    """It swallows the rest of the file, until csv's own limit on a field."""
    with pytest.raises(LocateError, match=r"pairs\.csv"):
        read_pairs(write("pairs.csv", f'{HEAD}\n"The nurse' + f"{ROW}\n" * 4000))


def test_a_row_of_more_cells_than_the_header_is_named(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text("clean,corrupted,clean_subject,corrupted_subject\nThe cook sang,The man sang,cook,man,1,2\n")
    with pytest.raises(LocateError, match="line 2: 6 cells under a header of 4: quote commas"):
        read_pairs(file)


def test_a_dash_means_no_neutral_answer(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_text(
        "clean,corrupted,clean_subject,corrupted_subject,neutral\n"
        "The cook sang,The man sang,cook,man,-\nThe cook ran,The man ran,cook,man,\n"
    )
    assert [pair.neutral for pair in read_pairs(file)] == [None, " they"]
