"""Files are written whole or not at all, JSON is strict, and a run folder says what is wrong with it."""

import errno
import json
import math

import pandas as pd
import pytest
from handmade import map_trace
from shown import read

from locate import LocateError, load_trace
from locate.files import hash_of, hash_of_files, read_json, strict, write_json, write_text, write_whole
from locate.tracing.table import LABELS, LOGS, NUMBERS, Trace


def fails_halfway(error):
    """A writer that fails after the first half."""

    def write(partial):
        partial.write_text("half")
        raise error

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, code):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(LocateError, match=r"cannot write .*a\.txt: .*free some space or choose another folder"):
        write_whole(path, fails_halfway(OSError(code, "no")))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(LocateError, match="No space left"):
        write_whole(tmp_path / "a.txt", fails_halfway(OSError(errno.ENOSPC, "No space left on device")))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), TypeError("not a table")])
def test_an_interrupted_write_leaves_nothing_either(tmp_path, error):
    path = write_text(tmp_path / "a.txt", "old")
    with pytest.raises(type(error)):
        write_whole(path, fails_halfway(error))
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["file/a.txt", "file/folder/a.txt"])
def test_a_folder_that_is_a_file_is_refused(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(LocateError, match="cannot write"):
        write_text(tmp_path / name, "text")
    assert (tmp_path / "file").read_text() == "mine"


def test_folders_are_made_and_the_partial_file_keeps_its_ending(tmp_path):
    seen = []

    def write(partial):
        seen.append(partial)
        partial.write_text("new")

    path = write_whole(tmp_path / "a" / "b" / "c.parquet", write)
    assert path.read_text() == "new"
    assert seen[0].suffix == ".parquet"
    assert seen[0] != path


def test_readers_see_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = write_text(tmp_path / "a.txt", "old")

    def write(partial):
        partial.write_text("new")
        assert path.read_text() == "old"

    write_whole(path, write)
    assert path.read_text() == "new"


def test_text_is_utf8(tmp_path):
    assert write_text(tmp_path / "a.txt", "Köchin").read_bytes() == "Köchin".encode()


def test_strict_turns_what_json_cannot_say_into_null():
    value = {"a": math.nan, "b": [math.inf, (-math.inf, 1.5)], "c": {"d": math.nan}, "e": "nan", "f": 3, "g": None}
    assert strict(value) == {"a": None, "b": [None, [None, 1.5]], "c": {"d": None}, "e": "nan", "f": 3, "g": None}


def test_json_round_trip_is_strict(tmp_path):
    path = write_json(tmp_path / "a.json", {"x": 0.1, "y": math.nan, "z": "Köchin"})
    assert "NaN" not in path.read_text()
    assert read_json(path) == {"x": 0.1, "y": None, "z": "Köchin"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"no file .*a\.json: expected one that locate has written"),
        (b"{", r"a\.json is not JSON"),
        (b'{"a": "\xff"}', r"a\.json is not JSON"),
        (b'{"a": NaN}', r"a\.json is not JSON"),
        (b'{"a": Infinity}', r"a\.json is not JSON"),
    ],
)
def test_what_is_not_json_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LocateError, match=message):
        read_json(path)


def test_hash_is_of_the_value_not_of_its_writing():
    assert hash_of({"a": 1, "b": [1, 2]}) == hash_of({"b": [1, 2], "a": 1})
    assert hash_of([1, 2]) != hash_of([2, 1])
    assert hash_of("a") == "ac8d8342bbb2362d13f0a559a3621bb407011368895164b628a54f7fc33fc43c"


def test_hash_of_files_is_of_their_bytes_in_order(tmp_path):
    first, second = write_text(tmp_path / "1", "ab"), write_text(tmp_path / "2", "c")
    assert hash_of_files([first, second]) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_of_files([second, first]) != hash_of_files([first, second])


@pytest.fixture
def run(tmp_path):
    """A finished run folder."""
    return map_trace(layers=1, templates=["The {subject} said that"]).save(tmp_path / "run")


def changed(folder, **entries):
    """The folder with other entries in its meta.json."""
    path = folder / "meta.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))
    return folder


def test_a_trace_is_read_as_it_was_saved(run):
    trace = map_trace(layers=1, templates=["The {subject} said that"])
    found = load_trace(run)
    assert found.meta == trace.meta
    pd.testing.assert_frame_equal(found.table, trace.table)
    assert sorted(path.name for path in run.iterdir()) == ["meta.json", "trace.parquet"]


def test_a_read_trace_has_the_fixed_types(run):
    table = load_trace(run).table
    assert {str(table[name].dtype) for name in LABELS} == {"category"}
    assert {str(table[name].dtype) for name in NUMBERS} == {"int32"}
    assert {str(table[name].dtype) for name in LOGS} == {"float64"}


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(LocateError, match=r"holds no run: expected meta\.json and trace\.parquet, as .*trace. writes"):
        load_trace(tmp_path)


def test_an_unfinished_run_is_refused_with_the_way_to_finish_it(run):
    with pytest.raises(LocateError, match=r"is unfinished: run the same .*trace. again to continue it"):
        load_trace(changed(run, status="running"))


@pytest.mark.parametrize("version", [0, 1, None, "2"])
def test_another_schema_version_is_refused(run, version):
    with pytest.raises(LocateError, match=rf"has schema {version!r}: expected 2: trace again, or read it with"):
        load_trace(changed(run, schema=version))


def test_meta_that_does_not_fit_is_refused_with_the_place(run):
    with pytest.raises(LocateError, match=r"meta\.json does not fit the schema 'meta' at corruption/kind: 'fire'"):
        load_trace(changed(run, corruption={"kind": "fire"}))


def test_meta_that_is_no_object_is_refused(run):
    (run / "meta.json").write_text("[]")
    with pytest.raises(LocateError, match=r"meta\.json"):
        load_trace(run)


def test_missing_rows_are_refused_with_both_numbers(run):
    rows = len(load_trace(run))
    with pytest.raises(LocateError, match=rf"has {rows} rows .*: expected {rows + 1} rows as meta\.json says"):
        load_trace(changed(run, rows=rows + 1))


def test_missing_columns_are_named(run):
    path = run / "trace.parquet"
    pd.read_parquet(path).drop(columns=["layer", "base_female"]).to_parquet(path, index=False)
    with pytest.raises(LocateError, match=r"lacks columns \['layer', 'base_female'\].*: trace again"):
        load_trace(run)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"PAR1 not")])
def test_a_table_that_cannot_be_read_is_refused(run, damage):
    damage(run / "trace.parquet")
    with pytest.raises(LocateError, match=r"trace\.parquet cannot be read .*: trace again"):
        load_trace(run)


def test_a_notebook_shows_rows_pairs_and_corruption_of_a_trace(run):
    shown = read(load_trace(run))
    facts = {row["what"]: row["value"] for row in shown.tables[0]}
    assert shown.titles[0].startswith("Trace of paper (")
    assert [facts[name] for name in ("rows", "pairs", "corruption")] == ["216", "12 (0 dropped, 0 skipped)", "swap"]


def test_repr_of_a_trace_escapes_html():
    trace = map_trace(layers=1)
    shown = Trace(trace.table, trace.meta | {"model": trace.meta["model"] | {"name": "<script>alert(1)</script>"}})
    assert "<script" not in shown._repr_html_()
