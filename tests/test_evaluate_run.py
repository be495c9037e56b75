"""Running tests: what is finished stays, what differs is refused, and a model is no different from itself."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from locate.errors import LocateError
from locate.evaluation import hub, kept, occupations, scores
from locate.evaluation import tests as catalogue
from locate.evaluation.change import BLOCKS, blocks_of, change_of, compare_evaluations, paired_intervals
from locate.evaluation.evaluation import Evaluation, load_evaluation
from locate.evaluation.kept import measure_once
from locate.evaluation.perplexity import TEST as PERPLEXITY
from locate.evaluation.run import evaluate, network_hash
from locate.evaluation.scores import Items, Score, mean_with_interval, points_only, share_with_interval
from locate.evaluation.tests import HOME, at_hand, find_test, place_of, sample_items
from locate.model.causal import load_causal
from locate.schema import validate

WORDS = ("nurse", "doctor", "clerk", "guard", "baker", "farmer")


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


@pytest.fixture(scope="module")
def other(mini):
    network = copy.deepcopy(mini.network)
    for parameter in network.parameters():
        parameter.data *= 0.9
    return mini.with_network(network)


def by_word(table):
    return table["word"].to_numpy()


def toy(name="toy", *, calls=None, words=WORDS, fails=None, **more) -> scores.Test:
    """A test on words, which measures in no time: the length of each, plus what the model's first number is."""

    def measure(model, items, step):
        if calls is not None:
            calls.append(name)
        if fails is not None:
            raise fails
        step(len(items), len(items))
        first = float(next(model.network.parameters()).flatten()[0].detach())
        return pd.DataFrame({"word": list(items.rows), "value": [len(word) * (1 + first) for word in items.rows]})

    def score(table, edited=None):
        mean = mean_with_interval(table["value"].to_numpy(), table["word"].to_numpy())
        found = [Score(name, "length", *mean, "letters", n=len(table), groups=table["word"].nunique(), ideal=0.0)]
        if edited:
            own = table[table["word"].isin(edited["words"])]
            found.append(replace(found[0], part="edited", value=own["value"].mean(), n=len(own)))
        return found

    return scores.Test(name, "words", "bias", lambda path: Items(tuple(words)), measure, score, **more)


@pytest.fixture
def listed(monkeypatch):
    """Put toy tests among the named ones for a while."""

    def put(*tests: scores.Test):
        for test in tests:
            monkeypatch.setitem(HOME, test.name, ("toys", test.name))
        inside = {test.name: test for test in tests}
        real = catalogue.find_test
        both = lambda name: inside[name] if name in inside else real(name)  # noqa: E731
        monkeypatch.setattr(catalogue, "find_test", both)

    return put


def test_an_evaluation_is_the_same_after_a_round_trip(mini, tmp_path):
    said = []
    folder = tmp_path / "out"
    found = evaluate(mini, tests=["perplexity", toy()], limit=2, folder=folder, step=lambda *each: said.append(each))
    read = load_evaluation(folder)
    assert read.scores == found.scores
    assert read.meta == found.meta
    assert set(read.tables) == set(found.tables) == {"perplexity", "toy"}
    for name in read.tables:
        pd.testing.assert_frame_equal(read.tables[name], found.tables[name])
    assert ("toy", 2, 2) in said
    assert (folder / "scores.csv").read_text().count("\n") == 1 + len(found.scores)
    assert found.meta["model"] == mini.provenance() | {"network_sha256": network_hash(mini)}
    assert found.meta["tests"]["perplexity"]["items"] == 2
    assert found.meta["tests"]["perplexity"]["of"] == 12
    assert list(found.frame()["test"]) == ["perplexity", "perplexity", "toy"]
    again = found.save(tmp_path / "again")
    assert again.read_bytes() == (folder / "evaluation.json").read_bytes()


def test_scores_that_are_not_numbers_survive(mini, tmp_path):
    alone = toy(words=("nurse",))
    found = evaluate(mini, tests=[alone], folder=tmp_path / "out")
    assert math.isnan(found.scores[0].low)
    assert json.loads((tmp_path / "out/evaluation.json").read_text())["scores"][0]["low"] is None
    assert math.isnan(load_evaluation(tmp_path / "out").scores[0].low)


def test_a_finished_test_is_not_run_again(mini, tmp_path):
    calls = []
    first = evaluate(mini, tests=[toy(calls=calls)], folder=tmp_path)
    second = evaluate(mini, tests=[toy("second", calls=calls), toy(calls=calls)], folder=tmp_path)
    assert calls == ["toy", "second"]
    assert second.of("toy") == first.scores
    assert second.meta["tests"]["toy"] == first.meta["tests"]["toy"]


def test_ctrl_c_keeps_what_is_finished(mini, tmp_path):
    calls = []
    tests = [toy("a", calls=calls), toy("b", calls=calls, fails=KeyboardInterrupt()), toy("c", calls=calls)]
    with pytest.raises(KeyboardInterrupt):
        evaluate(mini, tests=tests, folder=tmp_path)
    assert set(load_evaluation(tmp_path).tables) == {"a"}
    found = evaluate(mini, tests=[toy(name, calls=calls) for name in "abc"], folder=tmp_path)
    assert calls == ["a", "b", "b", "c"]
    assert list(found.tables) == ["a", "b", "c"]


def test_a_stop_while_going_on_loses_no_finished_test(mini, tmp_path):
    evaluate(mini, tests=[toy("a"), toy("b")], folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        evaluate(mini, tests=[toy("a"), toy("c", fails=KeyboardInterrupt())], folder=tmp_path)
    assert set(load_evaluation(tmp_path).tables) == {"a", "b"}


@pytest.mark.parametrize(("settings", "said"), [
    ({"limit": 3}, "its limit is 2, this one's is 3"),
    ({"seed": 1}, "its seed is 0, this one's is 1"),
    ({"tests": [toy(words=WORDS[::-1])]}, "its items_sha256 of toy is"),
])  # fmt: skip
def test_another_evaluation_is_refused_with_both_values(mini, tmp_path, settings, said):
    common = {"tests": [toy()], "limit": 2, "folder": tmp_path}
    evaluate(mini, **common)
    with pytest.raises(LocateError, match=f"holds another evaluation: {said}"):
        evaluate(mini, **common | settings)


def test_changed_weights_are_refused_though_they_are_only_in_memory(mini, other, tmp_path):
    evaluate(mini, tests=[toy()], folder=tmp_path)
    with pytest.raises(
        LocateError, match=f"network_sha256 is '{network_hash(mini)}', this one's is '{network_hash(other)}'"
    ):
        evaluate(other, tests=[toy()], folder=tmp_path)


def test_a_folder_with_something_else_is_refused(mini, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(LocateError, match="expected a new or empty folder"):
        evaluate(mini, tests=[toy()], folder=tmp_path)
    with pytest.raises(LocateError, match="expected a new or empty folder"):
        evaluate(mini, tests=[toy()], folder=tmp_path / "notes.txt")


@pytest.mark.parametrize(("settings", "said"), [
    ({"tests": ["nonsense"]}, "test 'nonsense': expected one of occupations, "),
    ({"tests": ["piqa"]}, "test 'piqa': no data folder was named: expected a folder with piqa/"),
    ({"tests": ["piqa"], "data": "."}, r"test 'piqa': \. holds none of its files.*hub name as its source: baber/piqa"),
    ({"tests": ["piqa"], "data": "absent"}, "data folder absent: expected an existing folder"),
    ({"tests": ["piqa"], "sources": {"piqa": "absent.jsonl"}}, r"source 'absent\.jsonl' of test 'piqa': expected"),
    ({"tests": ["perplexity"], "sources": {"piqa": "."}}, "source for test 'piqa': expected one of the tests that are"),
    ({"limit": 0}, "limit 0: expected a number of items from 1 up"),
])  # fmt: skip
def test_what_is_asked_for_and_not_there_is_named(mini, settings, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LocateError, match=said):
        evaluate(mini, **settings)


def test_a_test_without_items_is_refused(mini):
    with pytest.raises(LocateError, match="test 'toy' has no item"):
        evaluate(mini, tests=[toy(words=())])


def test_by_default_what_the_package_carries_and_what_the_data_holds(mini, tmp_path, listed):
    for name in list(HOME):
        if name != "piqa":
            HOME.pop(name)
    listed(toy())
    found = evaluate(mini)
    assert set(found.tables) == {"toy"}
    assert "no data folder was named" in found.meta["left_out"]["piqa"]
    row = {"goal": "Open a door", "sol1": "turn the handle", "sol2": "eat the handle", "label": 0}
    (tmp_path / "piqa.jsonl").write_text(json.dumps(row) + "\n")
    assert set(evaluate(mini, data=tmp_path).tables) == {"piqa", "toy"}
    HOME.pop("toy")
    with pytest.raises(LocateError, match="no test was run: piqa: no data folder"):
        evaluate(mini)


@pytest.fixture(autouse=True)
def home_is_put_back(monkeypatch):
    kept = dict(HOME)
    yield
    HOME.clear()
    HOME.update(kept)


def test_every_named_test_is_there_under_its_name():
    for name in HOME:
        assert find_test(name).name == name


def test_a_sample_is_drawn_by_seed_and_test_and_kept_in_order():
    items = Items(tuple(range(100)), {"empty": 3}, {"file": "hash"})
    some = sample_items(toy(), items, 10, 0)
    assert len(some) == 10
    assert list(some.rows) == sorted(some.rows)
    assert (some.skipped, some.source) == (items.skipped, items.source)
    assert some == sample_items(toy(), items, 10, 0)
    assert some.rows != sample_items(toy(), items, 10, 1).rows
    assert some.rows != sample_items(toy("another"), items, 10, 0).rows
    assert sample_items(toy(), items, None, 0) is items
    assert sample_items(toy(), items, 1000, 0).rows == items.rows


def test_a_limit_is_for_each_stratum():
    items = Items(tuple(range(100)))
    some = sample_items(toy(strata=lambda row: str(row % 10)), items, 2, 0)
    assert [sum(row % 10 == digit for row in some.rows) for digit in range(10)] == [2] * 10


def test_every_item_is_as_likely_to_be_drawn():
    items = Items(tuple(range(20)))
    counts = np.bincount(
        np.concatenate([sample_items(toy(), items, 5, seed).rows for seed in range(400)]), minlength=20
    )
    assert counts.min() > 60  # 100 expected, 8.7 standard deviation
    assert counts.max() < 140


def test_a_usual_limit_holds_where_none_is_named(mini):
    found = evaluate(mini, tests=[toy(usual=2)])
    assert (found.meta["tests"]["toy"]["items"], found.meta["tests"]["toy"]["limit"]) == (2, 2)
    assert evaluate(mini, tests=[toy(usual=2)], limit=3).meta["tests"]["toy"]["items"] == 3


def test_data_sets_of_the_hub_are_rows_in_their_own_columns(monkeypatch, mini):
    import datasets

    asked = []
    rows = [{"goal": "Open a door", "sol1": "turn the handle", "sol2": "eat the handle", "label": 0}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **more: asked.append((args, more)) or rows)
    with at_hand(find_test("piqa"), "baber/piqa") as items:
        assert items.rows[0].fields == rows[0]
        assert list(items.source) == ["baber/piqa:default:validation"]
    with at_hand(find_test("piqa"), "me/mine:small:test") as items:
        assert len(items) == 1
    assert asked == [(("baber/piqa", None), {"split": "validation"}), (("me/mine", "small"), {"split": "test"})]


def test_every_configuration_of_a_hub_data_set_is_joined(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda owner: ["one", "two"])
    row = {"UID": "adjunct_island", "sentence_good": "a", "sentence_bad": "b"}
    monkeypatch.setattr(datasets, "load_dataset", lambda owner, name, split: [row | {"UID": name}])
    with at_hand(find_test("blimp"), "nyu-mll/blimp") as items:
        assert [each.task for each in items.rows] == ["blimp_one", "blimp_two"]


def test_a_hub_that_does_not_answer_is_one_line(monkeypatch):
    import datasets

    def refuse(*args, **more):
        raise ConnectionError("no route")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(LocateError, match=r"'a/b' \(c, d\) cannot be fetched from the hub \(no route\): give its file"):
        list(hub.rows_of("a/b", "c", "d"))
    with pytest.raises(LocateError, match="expected OWNER/NAME:CONFIGURATION:SPLIT"), at_hand(find_test("piqa"), "a/b"):
        pass
    with pytest.raises(LocateError, match="expected an existing file or folder"):
        place_of(find_test("piqa"), None, "neither path nor name")


def test_what_was_edited_reaches_the_tests_that_ask(mini, tmp_path):
    checkpoint = replace(mini.checkpoint, files=replace(mini.checkpoint.files, home=tmp_path))
    edited = replace(mini, checkpoint=checkpoint)
    assert [score.part for score in evaluate(edited, tests=[toy()]).scores] == [""]
    receipt = tmp_path / "receipt.json"
    receipt.write_text(json.dumps({"edited": {"words": ["nurse", "guard"], "templates": []}}))
    found = evaluate(edited, tests=[toy(), "perplexity"], limit=6)
    assert [(score.part, score.n) for score in found.of("toy")] == [("", 6), ("edited", 2)]
    assert found.meta["edited"] == {"words": ["nurse", "guard"], "templates": []}
    for broken in (
        {},
        {"edited": {"words": "nurse", "templates": []}},
        {"edited": {"words": [1], "templates": []}},
        [],
    ):
        receipt.write_text(json.dumps(broken))
        with pytest.raises(LocateError, match=r"receipt\.json: expected an entry 'edited'"):
            evaluate(edited, tests=[toy()])


def test_a_model_is_no_different_from_itself(mini, listed):
    listed(toy(cluster=by_word))
    found = compare_evaluations(*(evaluate(mini, tests=["perplexity", "toy"], limit=3) for _ in range(2)))
    assert found.same_weights
    assert found.differing == {}
    assert all((each.change, each.low, each.high) == (0, 0, 0) for each in found.changes if each.paired)
    assert all(each.change == 0 and each.within_noise for each in found.changes)
    assert [(score.name, score.value) for score in found.retained] == [("perplexity_change", 0)]


def test_the_paired_change_is_that_of_the_items(mini, other, listed):
    listed(toy(cluster=by_word))
    found = compare_evaluations(*(evaluate(model, tests=["toy"]) for model in (mini, other)))
    (change,) = found.changes
    first = [float(next(model.network.parameters()).flatten()[0].detach()) for model in (mini, other)]
    lengths = np.array([len(word) for word in WORDS])
    each = lengths * (first[1] - first[0])
    assert change.change == pytest.approx(each.mean())
    half = 2.5705818366 * each.std(ddof=1) / math.sqrt(6)  # the jackknife of a mean is its standard error; t of 5
    assert (change.low, change.high) == pytest.approx((each.mean() - half, each.mean() + half))
    assert change.paired
    assert change.groups == 6
    assert not change.within_noise
    assert not found.same_weights
    row = found.frame().iloc[0]
    assert (row["before_value"], row["change"], row["within_noise"]) == (change.before.value, change.change, False)
    assert found.as_json()["changes"][0]["after_n"] == 6


def test_a_part_of_few_groups_has_the_interval_that_it_has_alone():
    def score(table):
        own = table[table["word"].isin(WORDS[:3])]
        return [scores.Score("t", "own", float(own["value"].mean()), 0, 0, "%", len(own), own["word"].nunique())]

    before = pd.DataFrame({"word": WORDS, "value": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]})
    after = before.assign(value=[3.0, 8.0, 4.0, 9.0, 9.0, 9.0])  # changes of the part: 2, 6, 1
    found = paired_intervals(replace(toy(cluster=by_word), score=score), before, after, None, 0)
    half = 4.3026527297 * math.sqrt(7 / 3)  # t of 2; the standard error of 3, whose deviations square to 14
    assert found == {("t", "own", ""): (pytest.approx(3 - half), pytest.approx(3 + half), 3)}


def test_without_groups_the_change_is_that_of_two_samples(mini, other, listed):
    listed(toy())
    found = compare_evaluations(*(evaluate(model, tests=["toy"]) for model in (mini, other)))
    assert not found.changes[0].paired
    before = Score("t", "s", 10.0, 7.0, 12.0, "%", 5, 5)
    after = Score("t", "s", 20.0, 16.0, 21.0, "%", 5, 5)
    change = change_of(before, after, None)
    assert (change.change, change.low, change.high) == pytest.approx((10, 10 - math.hypot(4, 2), 10 + math.hypot(1, 3)))
    assert change_of(before, replace(after, low=math.nan), None).within_noise is None


def test_other_items_are_not_paired_and_listed(mini, listed):
    listed(toy(cluster=by_word))
    some = [evaluate(mini, tests=["toy"], limit=3, seed=seed) for seed in (0, 1)]
    found = compare_evaluations(*some)
    assert not found.changes[0].paired
    assert set(found.differing) == {"seed", "items of toy"}


def test_parts_of_an_edited_model_are_compared_with_those_of_the_original(mini, listed):
    listed(toy(cluster=by_word))
    before = evaluate(mini, tests=["toy"])
    meta = before.meta | {"edited": {"words": ["nurse"], "templates": []}}
    found = compare_evaluations(before, Evaluation(meta, before.scores, before.tables))
    assert [each.before.part for each in found.changes] == ["", "edited"]


def test_scores_of_one_side_only_are_listed(mini, listed):
    listed(toy("a"), toy("b"), toy("c"))
    found = compare_evaluations(evaluate(mini, tests=["a", "b"]), evaluate(mini, tests=["b", "c"]))
    assert (found.only_before, found.only_after) == (("a: length",), ("c: length",))
    with pytest.raises(LocateError, match="have no score in common"):
        compare_evaluations(evaluate(mini, tests=["a"]), evaluate(mini, tests=["c"]))


def test_many_groups_are_left_out_in_blocks_of_nearly_one_size():
    blocks = blocks_of(1234, 0)
    assert set(blocks) == set(range(BLOCKS))
    assert set(np.bincount(blocks)) == {24, 25}
    assert sorted(blocks_of(7, 0)) == list(range(7))


def test_a_share_that_all_or_none_win_has_the_interval_of_clopper_and_pearson():
    from scipy.stats import binomtest

    groups = np.repeat(np.arange(12), 3)
    for wins, count in ((np.ones(36), 12), (np.zeros(36), 0)):
        exact = binomtest(count, 12).proportion_ci(0.95, "exact")
        found = share_with_interval(wins, groups)
        assert found == pytest.approx((100 * count / 12, 100 * exact.low, 100 * exact.high))
    assert all(math.isnan(end) for end in share_with_interval(np.ones(3), ["a", "a", "a"])[1:])
    mean, low, high = share_with_interval(np.arange(36) > 0, groups)
    assert 0 < low < mean < high <= 100


def test_a_score_without_interval_is_the_same_number():
    values, groups = [1.0, 2.0, 6.0], ["a", "a", "b"]
    mean, low, high = mean_with_interval(values, groups)
    with points_only():
        point = mean_with_interval(values, groups)
    assert point[0] == mean == 3.0
    assert math.isnan(point[1])
    assert low < high
    assert not math.isnan(mean_with_interval(values, groups)[1])


@pytest.mark.parametrize(("breaks", "said"), [
    (lambda folder: (folder / "items/toy.parquet").unlink(), r"toy\.parquet cannot be read"),
    (lambda folder: (folder / "items/toy.parquet").write_bytes(b"x"), r"toy\.parquet cannot be read"),
    (lambda folder: rewrite(folder, lambda content: content["tests"]["toy"].update(rows=5)), "has 6 rows, .* says 5"),
    (lambda folder: rewrite(folder, lambda content: content.update(schema=2)), "not fit the schema 'evaluation' at"),
    (lambda folder: rewrite(folder, lambda content: content["scores"][0].update(test="x")), "a score of test 'x'"),
    (lambda folder: (folder / "evaluation.json").unlink(), r"no file .*evaluation\.json"),
])  # fmt: skip
def test_a_broken_folder_is_refused(mini, tmp_path, breaks, said):
    evaluate(mini, tests=[toy()], folder=tmp_path)
    breaks(tmp_path)
    with pytest.raises(LocateError, match=said):
        load_evaluation(tmp_path)


def rewrite(folder, change):
    path = folder / "evaluation.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_what_is_written_fits_the_schema(mini):
    found = evaluate(mini, tests=[PERPLEXITY], limit=1)
    validate(json.loads(json.dumps(found.as_json())), "evaluation", "here")


class TestMeasuredOnce:
    def test_the_same_model_is_measured_once(self, mini, other, tmp_path):
        calls, items = [], Items(WORDS)
        test = toy(calls=calls)
        first = measure_once(mini, test, items, silent, folder=tmp_path)
        again = measure_once(mini, test, items, silent, folder=tmp_path)
        assert calls == ["toy"]
        pd.testing.assert_frame_equal(first, again, check_exact=True)
        assert not measure_once(other, test, items, silent, folder=tmp_path).equals(first)
        assert calls == ["toy"] * 2

    @pytest.mark.parametrize("part", ["items", "dtype", "code", "damage"])
    def test_anything_that_changes_what_is_found_measures_again(self, part, mini, tmp_path, monkeypatch):
        calls, items, model = [], Items(WORDS), mini
        test = toy(calls=calls)
        found = measure_once(model, test, items, silent, folder=tmp_path)
        if part == "items":
            items = Items(WORDS[1:])
        elif part == "dtype":
            model = replace(mini, dtype="tf32")
        elif part == "code":
            monkeypatch.setattr(kept, "code_sha256", lambda rooms: "another")
        else:
            (path,) = tmp_path.iterdir()
            path.write_bytes(path.read_bytes()[:40])
        again = measure_once(model, test, items, silent, folder=tmp_path)
        assert calls == ["toy"] * 2
        assert again.equals(found) == (part != "items")

    def test_every_bit_of_occupations_comes_back(self, mini, tmp_path):
        items = replace(occupations.read(), rows=occupations.read().rows[::60])
        found = measure_once(mini, occupations.TEST, items, silent, folder=tmp_path)
        kept_one = measure_once(mini, occupations.TEST, items, silent, folder=tmp_path)
        pd.testing.assert_frame_equal(found, kept_one, check_exact=True)
        pd.testing.assert_frame_equal(kept_one, occupations.measure(mini, items, silent), check_exact=True)


def silent(done, total):
    """Report nothing."""
