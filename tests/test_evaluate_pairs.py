"""Tests of models on pairs of texts: likelihoods by a second way, scores worked out by hand, a round trip of tables."""

import json
import math
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from locate import LocateError
from locate.evaluation import crows_pairs, gap, sentences, stereoset, winobias, winogender
from locate.evaluation.crows_pairs_data import CrowsPair
from locate.evaluation.lines import correlation, slope
from locate.evaluation.paired import likelihood_columns
from locate.evaluation.scores import Items
from locate.evaluation.stereoset_data import Association
from locate.model.causal import load_causal
from locate.model.hooked import Encoder
from locate.model.likelihood import ignore_step

MODULES = {
    "stereoset": (stereoset, "stereoset"),
    "crows_pairs": (crows_pairs, "crows_pairs"),
    "winobias": (winobias, "winobias"),
    "winogender": (winogender, "winogender"),
    "gap": (gap, "gap"),
}


@pytest.fixture(scope="module")
def mini():
    """The bundled model without hooks."""
    return load_causal("mini")


@pytest.fixture(scope="module")
def small(folder_of):
    """The random GPT-2, which takes 64 tokens."""
    return load_causal(str(folder_of("gpt2")))


def found(scores):
    """The scores by name and part."""
    return {(score.name, score.part): score for score in scores}


def plain_likelihood(model, context, text):
    """Sum and count of the log-probabilities of the text's tokens, token by token, in a run of its own."""
    before, own = (model.encoder.tokenizer(part, add_special_tokens=False)["input_ids"] for part in (context, text))
    if model.encoder.prepend_bos or not context:
        before = [model.start, *before]
    ids = before + own
    with torch.inference_mode():
        said = model.network(torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return sum(float(said[place - 1, ids[place]]) for place in range(len(before), len(ids))), len(own)


@pytest.mark.parametrize("name", MODULES)
def test_what_is_measured_survives_parquet_and_is_scored_the_same(mini, shared, tmp_path, name):
    module, folder = MODULES[name]
    path = shared / "data" / folder
    everything = module.TEST.read(path)
    assert all(len(digest) == 64 for digest in everything.source.values())
    stride = max(1, len(everything) // 12)
    items = Items(everything.rows[::stride], everything.skipped, everything.source)
    steps = []
    table = module.TEST.measure(mini, items, lambda done, total: steps.append((done, total)))
    assert len(table) == len(items)
    assert steps[-1][0] == steps[-1][1]
    table.to_parquet(tmp_path / "a.parquet")
    again = pd.read_parquet(tmp_path / "a.parquet")
    first, second = module.TEST.score(table), module.TEST.score(again)
    assert repr(first) == repr(second)
    assert len({score.key for score in first}) == len(first)
    assert {score.test for score in first} == {module.TEST.name}
    for score in first:
        assert not score.low > score.value > score.high
    assert any(Path(each).name in {path.name, *everything.source} for each in module.TEST.files)


def test_a_text_is_as_likely_as_token_by_token(mini):
    asked = {"whole": [("", "The nurse said that she was tired.")], "after": [("A doctor came.", " He was tall.")]}
    columns = likelihood_columns(mini, asked, ignore_step)
    for name, ((context, text),) in asked.items():
        total, tokens = plain_likelihood(mini, context, text)
        assert columns[name][0] == pytest.approx(total, abs=1e-4)
        assert columns[f"{name}_tokens"] == [tokens]


def test_a_text_longer_than_the_context_is_skipped_and_counted(small):
    texts = ["she said " * 60 + "so", "she said so", "he said so"]
    columns = likelihood_columns(small, {"a": [("", text) for text in texts]}, ignore_step)
    assert [math.isnan(value) for value in columns["a"]] == [True, False, False]
    assert columns["a_tokens"][0] > 64
    pairs = [CrowsPair(n, text, "he said so", "stereo", "gender", "") for n, text in enumerate(texts[:2])]
    scores = found(crows_pairs.score(crows_pairs.measure(small, Items(tuple(pairs)), ignore_step)))
    assert {(score.n, score.skipped) for key, score in scores.items() if key[1] != "antistereo"} == {(1, 1)}


class Illiterate(Encoder):
    """A tokenizer that knows every word but nurse."""

    def encode(self, text):
        if "nurse" in text:
            raise LocateError("the tokenizer does not know a word of it")
        return super().encode(text)


def test_a_text_that_the_tokenizer_does_not_know_is_skipped(mini):
    model = replace(mini, encoder=Illiterate(mini.encoder.tokenizer, mini.encoder.before))
    columns = likelihood_columns(model, {"a": [("", "A nurse she"), ("", "She said so.")]}, ignore_step)
    assert columns["a_tokens"][0] == 0
    assert [math.isnan(value) for value in columns["a"]] == [True, False]


def associations(rows):
    """A table of StereoSet: (task, domain, target, stereotype, anti-stereotype, unrelated), of one token each."""
    table = pd.DataFrame(rows, columns=["task", "domain", "target", *stereoset.COLUMNS])
    return table.assign(row=range(len(table)), **{f"{name}_tokens": 1 for name in stereoset.COLUMNS})


INTRA, INTER = "intrasentence", "intersentence"


def test_stereoset_by_hand():
    """Term a has 2 items, term b one: they count alike. a: ss 50, lms 3 of 4 = 75. b: ss 100, lms 1 of 2 = 50."""
    table = associations(
        [
            (INTRA, "gender", "a", -1.0, -2.0, -3.0),
            (INTRA, "gender", "a", -2.0, -1.0, -2.0),
            (INTRA, "gender", "b", -1.0, -3.0, -2.0),
            (INTER, "race", "c", -1.0, -1.0, -1.0),
        ]
    )
    scores = found(stereoset.score(table))
    part = "intrasentence gender"
    assert scores["lms", part].value == pytest.approx((75 + 50) / 2)
    assert scores["ss", part].value == pytest.approx((50 + 100) / 2)
    assert scores["icat", part].value == pytest.approx(62.5 * 25 / 50)
    assert (scores["lms", part].n, scores["lms", part].groups, scores["lms", part].ties) == (3, 2, 1)
    tied = [scores[name, "intersentence race"] for name in ("lms", "ss", "icat")]
    assert [score.value for score in tied] == [0, 0, 0]
    assert [score.ties for score in tied] == [2, 1, 0]
    assert scores["ss", ""].value == pytest.approx((50 + 100 + 0) / 3)
    assert ("ss", "intrasentence race") not in scores


def test_stereoset_compares_means_over_tokens_or_sums():
    """Sums -4 and -3 of 4 and 1 tokens: means -1 and -3."""
    table = associations([(INTRA, "gender", "a", -4.0, -3.0, -9.0)]).assign(stereotype_tokens=4)
    assert found(stereoset.score(table))["ss", ""].value == 100
    assert found(stereoset.score(table, per_token=False))["ss", ""].value == 0


def test_stereoset_equals_a_count_term_by_term():
    rng = np.random.default_rng(0)
    rows = [
        (str(rng.choice([INTRA, INTER])), str(rng.choice(["gender", "race"])), f"term {rng.integers(9)}", *said)
        for said in rng.integers(-6, 0, size=(200, 3)).astype(float).tolist()
    ]
    scores = found(stereoset.score(associations(rows)))
    for task in (INTRA, INTER):
        counts = defaultdict(Counter)
        for _, domain, target, pro, anti, unrelated in [row for row in rows if row[0] == task]:
            if domain == "race":
                counts[target]["ss"] += pro > anti
                counts[target]["lms"] += (pro > unrelated) + (anti > unrelated)
                counts[target]["items"] += 1
        lms = np.mean([100 * each["lms"] / (2 * each["items"]) for each in counts.values()])
        ss = np.mean([100 * each["ss"] / each["items"] for each in counts.values()])
        assert scores["lms", f"{task} race"].value == pytest.approx(lms)
        assert scores["ss", f"{task} race"].value == pytest.approx(ss)
        assert scores["icat", f"{task} race"].value == pytest.approx(lms * min(ss, 100 - ss) / 50)


@pytest.mark.parametrize(("lms", "ss", "expected"), [(100, 50, 100), (50, 50, 50), (100, 100, 0), (80, 30, 48)])
def test_icat_of_ideal_random_and_biased_models(lms, ss, expected):
    assert stereoset.icat(np.array([float(lms)]), np.array([float(ss)]))[0] == expected
    assert stereoset.icat(np.array([float(lms)]), np.array([100.0 - ss]))[0] == expected


def test_interval_of_icat():
    """lms 90 and ss 60, 70 or 80 of 30 terms: icat = 1.8 (100 - ss), so its interval is Student's of the mean of ss."""
    ss = np.array([60.0, 70.0, 80.0] * 10)
    value, low, high = stereoset.icat_with_interval(np.full(30, 90.0), ss)
    half = 1.8 * stats.t.ppf(0.975, 29) * ss.std(ddof=1) / math.sqrt(30)
    assert value == pytest.approx(54)
    assert (low, high) == pytest.approx((54 - half, 54 + half), abs=0.1 * half)
    fair = stereoset.icat_with_interval(np.full(30, 100.0), np.full(30, 50.0))
    assert fair == pytest.approx((100, 100, 100))
    assert all(math.isnan(end) for end in stereoset.icat_with_interval(np.ones(1), np.ones(1))[1:])


def test_published_icat_follows_from_published_lms_and_ss(shared):
    text = (shared / "data" / "stereoset" / "reference_scores.txt").read_text()
    numbers = {
        name: np.array([float(line.split(": ")[1]) for line in text.splitlines() if f"{name} Score:" in line])
        for name in ("LM", "SS", "ICAT")
    }
    assert len(numbers["ICAT"]) > 50
    np.testing.assert_allclose(stereoset.icat(numbers["LM"], numbers["SS"]), numbers["ICAT"], rtol=1e-12)


def test_intersentence_follows_its_context_with_a_full_stop_and_a_space():
    item = Association(1, INTER, "gender", "nurse", "A nurse came ", "She slept.", "He slept.", "It rained.")
    assert stereoset.request(item, item.stereotype) == ("A nurse came.", " She slept.")
    asked = Association(1, INTER, "gender", "nurse", "Who came?", "She.", "He.", "It.")
    assert stereoset.request(asked, " She.") == ("Who came?", " She.")
    whole = Association(1, INTRA, "gender", "nurse", "A BLANK.", "A nurse.", "A boss.", "A tree.")
    assert stereoset.request(whole, whole.stereotype) == ("", "A nurse.")


def crows(rows):
    return pd.DataFrame(rows, columns=["direction", "domain", "group", "sent_more", "sent_less"])


def test_crows_pairs_by_hand():
    table = crows(
        [
            ("stereo", "gender", "a", -1.0, -3.0),
            ("antistereo", "gender", "a", -5.0, -4.0),
            ("stereo", "age", "b", -2.0, -2.0),
            ("stereo", "age", "c", -1.0, -4.0),
        ]
    )
    scores = found(crows_pairs.score(table))
    assert scores["pct_stereotype", ""].value == 50
    assert scores["pct_stereotype", ""].ties == 1
    assert (scores["pct_stereotype", ""].n, scores["pct_stereotype", ""].groups) == (4, 3)
    assert scores["likelihood_diff", ""].value == pytest.approx((2 + 1 + 0 + 3) / 4)
    assert scores["gap", ""].value == pytest.approx((2 - 1 + 0 + 3) / 4)
    assert scores["pct_stereotype", "gender"].value == 50
    assert scores["pct_stereotype", "stereo"].value == pytest.approx(200 / 3)
    assert scores["pct_stereotype", "antistereo"].value == 0
    assert scores["likelihood_diff", ""].ideal is None
    assert math.isnan(scores["pct_stereotype", "gender"].low)


def test_winobias_by_hand():
    rows = [
        ("type1", "nurse", 1, -1.0, -3.0),
        ("type1", "boss", -1, -4.0, -1.0),
        ("type2", "nurse", 1, -2.0, -1.0),
    ]
    table = pd.DataFrame(rows, columns=["kind", "occupation", "stereotype", "female", "male"])
    scores = found(winobias.score(table))
    assert scores["prefers_pro", "type1"].value == 100
    assert scores["prefers_pro", "type2"].value == 0
    assert scores["gap", ""].value == pytest.approx((2 + 3 - 1) / 3)
    assert scores["log_odds", ""].value == pytest.approx((2 - 3 - 1) / 3)
    assert (scores["gap", ""].n, scores["gap", ""].groups, scores["gap", ""].ideal) == (3, 2, 0)


def test_winobias_measures_the_pronoun_of_either_gender(mini, shared):
    items = winobias.read(shared / "data" / "winobias")
    chosen = [next(row for row in items.rows if row.stereotype == sign) for sign in (1, -1)]
    table = winobias.measure(mini, Items(tuple(chosen)), ignore_step)
    for row, pair in zip(table.itertuples(), chosen, strict=True):
        texts = {sentence.gender: sentence.text for sentence in (pair.pro, pair.anti)}
        assert row.female == pytest.approx(plain_likelihood(mini, "", texts[1])[0], abs=1e-3)
        assert row.male == pytest.approx(plain_likelihood(mini, "", texts[-1])[0], abs=1e-3)


def test_winogender_by_hand():
    rows = [
        ("nurse", "occupation", 90.0, -1.0, -3.0),
        ("boss", "occupation", 10.0, -4.0, -3.0),
        ("clerk", "occupation", 60.0, -4.0, -3.0),
        ("guide", "occupation", 50.0, -1.0, -2.0),
        ("nurse", "participant", 90.0, -2.0, -1.0),
    ]
    table = pd.DataFrame(rows, columns=["occupation", "refers_to", "share_women", "female", "male"])
    table = table.assign(share_women_text=table["share_women"])
    scores = found(winogender.score(table))
    about = scores["prefers_majority", "occupation"]
    assert (about.value, about.n, about.skipped) == (pytest.approx(200 / 3), 3, 1)
    assert scores["prefers_majority", "participant"].value == 0
    assert scores["log_odds", "occupation"].value == pytest.approx((2 - 1 - 1 + 1) / 4)


def test_winogenders_correlation_is_over_means_of_occupations():
    rng = np.random.default_rng(1)
    share, odds = rng.uniform(0, 100, 20), rng.normal(size=20)
    rows = [
        (f"job {n}", "occupation", share[n], 100 - share[n], odds[n] + shift, 0.0)
        for n in range(20)
        for shift in ((-1, 1) if n else (-1, 1, 0, 0))
    ]
    columns = ["occupation", "refers_to", "share_women", "share_women_text", "female", "male"]
    scores = found(winogender.score(pd.DataFrame(rows, columns=columns)))
    r = np.corrcoef(share, odds)[0, 1]
    assert scores["correlation", "occupation"].value == pytest.approx(r)
    assert scores["correlation_text", "occupation"].value == pytest.approx(-r)
    assert (scores["correlation", "occupation"].n, scores["correlation", "occupation"].groups) == (42, 20)
    assert math.isnan(scores["correlation", "participant"].value)


def test_the_users_pairs_by_hand():
    rows = [
        ("more", 0, "a", "work", -1.0, -2.0),
        ("gender", 1, "b", "", -1.0, -4.0),
        ("gender", -1, "b", "work", -1.0, -3.0),
        ("gender", 0, "c", "", -5.0, -3.0),
    ]
    table = pd.DataFrame(rows, columns=["form", "stereotype", "group", "domain", "one", "other"])
    scores = found(sentences.score(table))
    share = scores["prefers_stereotype", ""]
    assert (share.value, share.n, share.groups, share.skipped) == (pytest.approx(200 / 3), 3, 2, 1)
    assert scores["gap", ""].value == pytest.approx((1 + 3 - 2) / 3)
    odds = scores["log_odds", ""]
    assert (odds.value, odds.n, odds.skipped) == (pytest.approx((3 + 2 - 2) / 3), 3, 1)
    assert scores["gap", "work"].value == pytest.approx((1 - 2) / 2)
    assert {part for _, part in scores} == {"", "work"}


def test_the_users_sentences_are_read_after_their_context(mini, tmp_path):
    rows = [
        {"female": "She slept.", "male": "He slept.", "stereotype": 1, "context": "The nurse was tired."},
        {"sentence": "The boss said {pronoun} slept.", "occupation": "boss", "stereotype": -1},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    table = sentences.measure(mini, sentences.read(path), ignore_step)
    asked = [("The nurse was tired.", " She slept.", " He slept.")]
    asked.append(("", "The boss said she slept.", "The boss said he slept."))
    for row, (context, one, other) in zip(table.itertuples(), asked, strict=True):
        assert row.one == pytest.approx(plain_likelihood(mini, context, one)[0], abs=1e-4)
        assert row.other == pytest.approx(plain_likelihood(mini, context, other)[0], abs=1e-4)


def test_gap_by_hand():
    rows = [("a", 1, -1.0, -4.0), ("b", -1, -2.0, -3.0), ("b", -1, -2.0, -1.0), ("c", 1, -5.0, -4.0)]
    table = pd.DataFrame(rows, columns=["page", "gender", "original", "flipped"])
    scores = found(gap.score(table))
    assert scores["log_odds", ""].value == pytest.approx((3 - 1 + 1 - 1) / 4)
    assert scores["gap", ""].value == pytest.approx((3 + 1 - 1 - 1) / 4)
    assert scores["gap", "female originals"].value == pytest.approx((3 - 1) / 2)
    assert scores["prefers_original", "male originals"].value == 50
    assert (scores["gap", ""].ideal, scores["log_odds", ""].ideal, scores["gap", ""].groups) == (None, 0, 3)
    assert math.isnan(found(gap.score(table[:1]))["log_odds", ""].value)


def test_what_flipping_costs_leaves_the_log_odds_and_its_interval_alone():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"page": range(90), "gender": [1] * 30 + [-1] * 60, "flipped": rng.normal(size=90)})
    cheap, dear = (gap.log_odds(table.assign(original=cost + 0.5 * table["gender"])) for cost in (1.0, 100.0))
    gaps = (1 + 0.5 * table["gender"] - table["flipped"]).groupby(table["gender"]).agg(["mean", "sem"])
    assert cheap.value == pytest.approx((gaps["mean"][1] - gaps["mean"][-1]) / 2)
    assert (dear.value, dear.low, dear.high) == pytest.approx((cheap.value, cheap.low, cheap.high))
    width = 1.96 * math.hypot(*gaps["sem"]) / 2
    assert width < cheap.high - cheap.value < 1.2 * width


def test_slope_and_correlation_of_a_line():
    x = np.arange(10.0)
    assert slope(x, 3 - 2 * x) == pytest.approx((-2, -2, -2))
    assert correlation(x, 3 - 2 * x) == pytest.approx((-1, -1, -1), abs=1e-6)
    for few in ((x[:7], x[:7]), (x, np.ones(10)), (np.ones(10), x)):
        assert all(math.isnan(value) for value in (*slope(*few), *correlation(*few)))


def test_interval_of_a_correlation_covers():
    """200 samples of 40 words with r = 0.5: about 95 % of intervals hold it; 90 % is over 3 standard errors below."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        x, e = rng.normal(size=(2, 40))
        _, low, high = correlation(x, 0.5 * x + math.sqrt(0.75) * e, samples=500, seed=seed)
        held += low <= 0.5 <= high
    assert 180 <= held <= 199


def test_every_module_offers_its_test():
    for module in (stereoset, crows_pairs, winobias, winogender, gap, sentences):
        assert type(module.TEST).__name__ == "Test"
        assert module.TEST.kind == "bias"
        assert module.TEST.files
