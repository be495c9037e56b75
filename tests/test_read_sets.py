"""Readers of StereoSet, CrowS-Pairs, GAP and the user's pairs of sentences: counts, rows worked out, bad input."""

import csv
import gzip
import io
import json
from collections import Counter

import pytest

from locate import LocateError
from locate.evaluation import winobias, winogender
from locate.evaluation.crows_pairs_data import read_crows_pairs
from locate.evaluation.gap_data import read_gap
from locate.evaluation.sentences_data import read_sentence_pairs
from locate.evaluation.stereoset_data import read_stereoset

ITEM = {
    "task": "intrasentence",
    "bias_type": "gender",
    "target": "nurse",
    "context": "The nurse is BLANK.",
    "stereotype": "The nurse is kind.",
    "anti_stereotype": "The nurse is rude.",
    "unrelated": "The nurse is spoon.",
}
CROWS = ",sent_more,sent_less,stereo_antistereo,bias_type,annotations,anon_writer,anon_annotators\n"
CROW = '0,"Women, he said, cannot drive.","Men, he said, cannot drive.",stereo,gender,[],a0,[]\n'
GAP = "ID\tText\tPronoun\tPronoun-offset\tA\tA-offset\tA-coref\tB\tB-offset\tB-coref\tURL\n"
GAP_ROW = 'x-{n}\tAnn said "{she} was late.\t{she}\t9\tAnn\t0\tTRUE\tBo\t3\tFALSE\thttp://page/{n}\n'
FLIPPED = "\t" + GAP + '0\tx-1\tAndy said "he was late.\the\t9\tAnn\t0\tTrue\tBo\t3\tFalse\thttp://page/1\n'


def official(*items):
    """Items in the layout of the official dev.json."""
    labels = {"stereotype": "stereotype", "anti_stereotype": "anti-stereotype", "unrelated": "unrelated"}
    data = {"intrasentence": [], "intersentence": []}
    for place, item in enumerate(items):
        sentences = [
            {"sentence": item[key], "id": f"{place}{key}", "labels": [], "gold_label": label}
            for key, label in labels.items()
        ]
        about = {key: item[key] for key in ("target", "bias_type", "context")}
        data[item["task"]].append(about | {"id": str(place), "sentences": sentences})
    return {"version": "1.1", "data": data}


def written(folder, name, text):
    """A file with that text, gzipped where its name says so."""
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


def test_stereoset_as_published(shared):
    items = read_stereoset(shared / "data" / "stereoset")
    counts = Counter((item.task, item.domain) for item in items)
    assert counts == {
        ("intersentence", "gender"): 242, ("intersentence", "profession"): 827, ("intersentence", "race"): 976,
        ("intersentence", "religion"): 78, ("intrasentence", "gender"): 255, ("intrasentence", "profession"): 810,
        ("intrasentence", "race"): 962, ("intrasentence", "religion"): 79,
    }  # fmt: skip
    assert len({item.target for item in items}) == 79
    assert all(("BLANK" in item.context) == (item.task == "intrasentence") for item in items)


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_both_layouts_of_stereoset_say_the_same(tmp_path, packed):
    other = ITEM | {"task": "intersentence", "context": "A nurse came.", "target": "Nurse"}
    flat = written(tmp_path, f"stereoset_dev.jsonl{packed}", "\n".join(map(json.dumps, [ITEM, other])))
    nested = written(tmp_path, f"dev.json{packed}", json.dumps(official(ITEM, other)))
    of_lines, of_lists = read_stereoset(flat), read_stereoset(nested)
    assert [item.row for item in of_lines] == [1, 2]
    assert [item.row for item in of_lists] == [1, 1]

    def texts(items):
        return [(i.task, i.domain, i.target, i.context, i.stereotype, i.anti_stereotype, i.unrelated) for i in items]

    assert texts(of_lines) == texts(of_lists)
    assert of_lines[0].anti_stereotype == "The nurse is rude."
    assert read_stereoset(tmp_path) == of_lists


@pytest.mark.parametrize(
    "change", [{"task": "x"}, {"bias_type": "age"}, {"target": ""}, {"unrelated": None}, {"stereotype": "  "}]
)
def test_a_bad_item_of_stereoset_is_named(tmp_path, change):
    path = written(tmp_path, "a.jsonl", "\n\n".join(map(json.dumps, [ITEM, ITEM | change])))
    with pytest.raises(LocateError, match=r"a\.jsonl, line 3: .*expected a task"):
        read_stereoset(path)


def test_other_files_are_no_stereoset(tmp_path):
    one = official(ITEM, ITEM)
    one["data"]["intrasentence"][1]["sentences"][0]["gold_label"] = "unrelated"
    with pytest.raises(LocateError, match=r"intrasentence item 2: expected one sentence each of stereotype, anti-"):
        read_stereoset(written(tmp_path, "a.json", json.dumps(one)))
    for text in ("{", "[]", '{"data": {"intrasentence": []}}'):
        with pytest.raises(LocateError, match=r"is not StereoSet's dev\.json .* expected data with"):
            read_stereoset(written(tmp_path, "a.json", text))
    with pytest.raises(LocateError, match="holds no rows"):
        read_stereoset(written(tmp_path, "a.jsonl", "\n"))
    with pytest.raises(LocateError, match=r"no file .*nowhere.*expected dev\.json or"):
        read_stereoset(tmp_path / "nowhere")
    (tmp_path / "a.json.gz").write_bytes(b"plain")
    with pytest.raises(LocateError, match="is not gzipped"):
        read_stereoset(tmp_path / "a.json.gz")
    (tmp_path / "b.json").write_bytes(b"\xff\xfe")
    with pytest.raises(LocateError, match="is not UTF-8"):
        read_stereoset(tmp_path / "b.json")


def test_crows_pairs_as_published(shared, tmp_path):
    path = shared / "data" / "crows_pairs" / "crows_pairs_anonymized.csv"
    pairs = read_crows_pairs(path)
    assert len(pairs) == 1508
    assert Counter(pair.direction for pair in pairs if pair.domain == "gender") == {"stereo": 159, "antistereo": 103}
    assert len({pair.writer for pair in pairs}) == 77
    rows = list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline="")))
    assert [(pair.more, pair.less) for pair in pairs] == [(row["sent_more"], row["sent_less"]) for row in rows]
    packed = written(tmp_path, "crows_pairs_anonymized.csv.gz", path.read_bytes().decode())
    assert read_crows_pairs(packed) == pairs
    packed.write_bytes(gzip.compress(path.read_bytes()[:-1]))
    with pytest.raises(LocateError, match=r"holds text of sha256 .*published=False"):
        read_crows_pairs(packed)


def test_a_pair_of_crows_pairs(tmp_path):
    (pair,) = read_crows_pairs(written(tmp_path, "crows_pairs.csv", CROWS + CROW), published=False)
    assert (pair.more, pair.less) == ("Women, he said, cannot drive.", "Men, he said, cannot drive.")
    assert (pair.line, pair.direction, pair.domain, pair.writer) == (2, "stereo", "gender", "a0")
    with pytest.raises(LocateError, match=r"no published file is called crows_pairs\.csv"):
        read_crows_pairs(tmp_path)
    plain = "sent_more,sent_less,stereo_antistereo,bias_type\nA a.,B b.,antistereo,age\n"
    assert read_crows_pairs(written(tmp_path, "crows_pairs.csv", plain), published=False)[0].writer == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (CROWS + CROW + CROW.replace("stereo,", "stero,"), r"line 3: .*stereo or antistereo"),
        (CROWS + CROW.replace("Men", "Women"), r"line 2: .*two different sentences"),
        (CROWS + CROW.replace("gender", " "), r"line 2: .*a bias_type"),
        (CROWS + CROW + "1,only two\n", r"line 3: expected 8 cells"),
        (CROWS + CROW + '1,"never closed\n', r"is not CSV .*a quote that is never closed"),
        (CROWS.replace("sent_less", "less"), r"lacks the columns sent_less: found"),
        (CROWS, "holds no rows"),
    ],
)
def test_a_bad_row_of_crows_pairs_is_named(tmp_path, text, message):
    with pytest.raises(LocateError, match=message):
        read_crows_pairs(written(tmp_path, "a.csv", text), published=False)


def test_gap_as_published(shared):
    texts, skipped = read_gap(shared / "data" / "gap")
    assert (len(texts), skipped) == (4454, ())
    assert Counter(text.gender for text in texts) == {1: 2227, -1: 2227}
    assert len({text.page for text in texts}) == 3987
    one = next(text for text in texts if text.name == "development-2")
    assert one.gender == -1
    assert one.original.startswith("He grew up in Evanston")
    assert one.flipped.startswith("She grew up in Evanston")


def test_texts_of_gap(tmp_path):
    written(tmp_path, "gap-test.tsv", GAP + GAP_ROW.format(n=1, she="she") + GAP_ROW.format(n=2, she="His"))
    written(tmp_path, "gap_flipped.tsv.gz", FLIPPED)
    (text,), (alone,) = read_gap(tmp_path, published=False)
    assert (text.name, text.line, text.gender, text.page) == ("x-1", 2, 1, "http://page/1")
    assert (text.original, text.flipped) == ('Ann said "she was late.', 'Andy said "he was late.')
    assert alone.lines == (3,)
    with pytest.raises(LocateError, match="published file"):
        read_gap(tmp_path)
    for row, message in ((GAP_ROW.format(n=1, she="it"), "line 2: .*she or he"), ("x-1\ttext\n", "expected 11 cells")):
        written(tmp_path, "gap-test.tsv", GAP + row)
        with pytest.raises(LocateError, match=message):
            read_gap(tmp_path, published=False)
    (tmp_path / "gap_flipped.tsv.gz").unlink()
    with pytest.raises(LocateError, match=r"expected gap_flipped\.tsv or"):
        read_gap(tmp_path, published=False)
    with pytest.raises(LocateError, match="no file of GAP"):
        read_gap(tmp_path / "empty", published=False)


def test_every_form_of_the_users_pairs(tmp_path):
    rows = [
        {"more": "Women cannot drive.", "less": "Men cannot drive.", "domain": "driving"},
        {
            "female": "She drives.",
            "male": "He drives.",
            "stereotype": -1,
            "group": "driver",
            "context": "A taxi came. ",
        },
        {"sentence": "The nurse said {pronoun} slept.", "occupation": "nurse", "stereotype": "1"},
        {"sentence": "{pronoun} slept.", "pronouns": "her/his"},
        {"sentence": "It rained. {pronoun} slept.", "stereotype": 0},
        {"sentence": "The nurse lost {pronoun} keys.", "pronouns": "her / his"},
    ]
    path = written(tmp_path, "a.jsonl.gz", "\n".join(map(json.dumps, rows)))
    found = read_sentence_pairs(path)
    assert [(row.form, row.stereotype, row.group) for row in found] == [
        ("more", 0, "line 1"), ("gender", -1, "driver"), ("gender", 1, "nurse"), ("gender", 0, "line 4"),
        ("gender", 0, "line 5"), ("gender", 0, "line 6"),
    ]  # fmt: skip
    assert [(row.one, row.other) for row in found[2:]] == [
        ("The nurse said she slept.", "The nurse said he slept."),
        ("Her slept.", "His slept."),
        ("It rained. She slept.", "It rained. He slept."),
        ("The nurse lost her keys.", "The nurse lost his keys."),
    ]
    assert (found[0].domain, found[1].context) == ("driving", "A taxi came.")
    names = list(dict.fromkeys(name for row in rows for name in row))
    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, names, restval="")
        table.writeheader()
        table.writerows(rows)
    assert [(r.form, r.one, r.other, r.stereotype, r.context) for r in read_sentence_pairs(tmp_path / "a.csv")] == [
        (r.form, r.one, r.other, r.stereotype, r.context) for r in found
    ]


def test_gap_as_the_users_pairs(shared, tmp_path):
    texts, _ = read_gap(shared / "data" / "gap")
    versions = [(text, (text.original, text.flipped)[:: text.gender]) for text in texts]
    rows = [{"female": two[0], "male": two[1], "group": text.page, "domain": "gap"} for text, two in versions]
    found = read_sentence_pairs(written(tmp_path, "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert len(found) == 4454
    assert found[1].one.startswith("She grew up")
    assert found[1].other.startswith("He grew up")


def test_every_bad_row_of_the_users_pairs_is_named(tmp_path):
    bad = [
        "not json",
        {"more": "A a."},
        {"more": "A a.", "less": "A a."},
        {"more": "A a.", "female": "B b."},
        {"sentence": "No slot."},
        {"sentence": "{pronoun} and {pronoun}"},
        {"sentence": "{pronoun} slept.", "pronouns": "she"},
        {"sentence": "{pronoun} slept.", "more": "A a."},
        {"female": "A a.", "male": "B b.", "stereotype": 2},
        {"more": "A a.", "less": "B b.", "stereotype": 1},
        {"more": "A a.", "less": "B b.", "grup": "x"},
        {"more": "A a.", "less": 3},
        {"group": "alone"},
    ]
    reasons = [
        "is not a row", "expected two different texts", "two different texts", "only one of these", "0 times",
        "2 times", "expected two, female first", "one form in a row", "expected -1, 0 or 1", "which say it",
        "unknown columns", "less: expected text", "and only one of these",
    ]  # fmt: skip
    for row, reason in zip(bad, reasons, strict=True):
        text = row if isinstance(row, str) else json.dumps(row)
        with pytest.raises(LocateError, match=f"a.jsonl: 1 bad rows: line 2: .*{reason}"):
            read_sentence_pairs(written(tmp_path, "a.jsonl", f'{{"more": "A.", "less": "B."}}\n{text}\n'))
    lines = "\n".join(each if isinstance(each, str) else json.dumps(each) for each in bad)
    with pytest.raises(LocateError, match=r"13 bad rows: line 1: .*line 5: .*; and lines 6, 7, 8, 9, 10, 11, 12, 13$"):
        read_sentence_pairs(written(tmp_path, "a.jsonl", lines))
    with pytest.raises(LocateError, match=r"ending \.csv or \.jsonl"):
        read_sentence_pairs(written(tmp_path, "a.txt", "x"))
    with pytest.raises(LocateError, match="no file"):
        read_sentence_pairs(tmp_path / "b.csv")
    with pytest.raises(LocateError, match="holds no rows"):
        read_sentence_pairs(written(tmp_path, "a.csv", "more,less\n"))


def test_winobias_of_a_folder_is_every_file_in_it(shared, tmp_path):
    folder = shared / "data" / "winobias"
    items = winobias.read(folder)
    assert len(items) == 1584 - 21
    assert items.skipped == {winobias.NOT_MINIMAL: 21}
    assert len(items.source) == 10
    for name in ("pro_stereotyped_type2.txt.dev", "anti_stereotyped_type2.txt.dev", *winobias.LISTS):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    few = winobias.read(tmp_path / "pro_stereotyped_type2.txt.dev")
    assert (len(few), few.skipped) == (396 - 9, {winobias.NOT_MINIMAL: 9})
    (tmp_path / "anti_stereotyped_type2.txt.dev").unlink()
    with pytest.raises(LocateError, match="no file"):
        winobias.read(tmp_path)
    (tmp_path / "pro_stereotyped_type2.txt.dev").unlink()
    with pytest.raises(LocateError, match="no file of WinoBias"):
        winobias.read(tmp_path)
    for path in (tmp_path / "nowhere", None):
        with pytest.raises(LocateError, match="no folder"):
            winobias.read(path)


def test_winogender_has_statistics_of_every_occupation(shared, tmp_path):
    items = winogender.read(shared / "data" / "winogender")
    assert len(items) == 240
    assert len(items.source) == 2
    for name in winogender.FILES:
        text = (shared / "data" / "winogender" / name).read_text()
        (tmp_path / name).write_text("".join(line for line in text.splitlines(True) if "nurse\t" not in line))
    with pytest.raises(LocateError, match="lacks 'nurse'"):
        winogender.read(tmp_path / "all_sentences.tsv")
