"""The test of occupations: probabilities by a second way, every score by hand, parts of an editor, before and after."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from locate import LocateError
from locate.evaluation import occupations
from locate.evaluation.occupations import kept_definitions, log_odds_cut
from locate.evaluation.scores import Items
from locate.model.causal import load_causal
from locate.model.likelihood import ignore_step, next_log_probs

COLUMNS = ["word", "kind", "template", "stereotype", "share_women", "she", "he", "they"]
JOBS = {"nurse": (1, 90.0), "maid": (1, 80.0), "boss": (-1, 10.0), "clerk": (0, 50.0)}


def table_of(odds):
    """Rows of (word, template, log-odds) with P(she) + P(he) = 1/2."""
    rows = []
    for word, form, value in odds:
        sign, share = JOBS.get(word, ({"queen": 1, "king": -1}.get(word, 0), math.nan))
        kind = "occupation" if word in JOBS else "definition" if sign else "neutral"
        he = math.log(0.5 / (1 + math.exp(value)))
        rows.append((word, kind, form, sign, share, value + he, he, math.log(0.1)))
    return pd.DataFrame(rows, columns=COLUMNS)


TABLE = table_of(
    [
        ("nurse", "a", 1.0), ("nurse", "b", 3.0), ("maid", "a", -1.0), ("maid", "b", 0.0), ("boss", "a", -2.0),
        ("boss", "b", 1.0), ("clerk", "a", -1.0), ("clerk", "b", -1.0), ("queen", "a", 2.0), ("queen", "b", -1.0),
        ("king", "a", -3.0), ("king", "b", -2.0), ("person", "a", 1.0), ("person", "b", -2.0),
    ]
)  # fmt: skip


def found(scores):
    """The scores by name and part."""
    return {(score.name, score.part): score for score in scores}


@pytest.fixture(scope="module")
def mini():
    """The bundled model without hooks."""
    return load_causal("mini")


def test_every_word_meets_every_template():
    items = occupations.read(None)
    rows = pd.DataFrame([(row.word, row.kind, row.template) for row in items.rows], columns=["word", "kind", "form"])
    assert rows.groupby("kind")["word"].nunique().to_dict() == {"occupation": 127, "definition": 40, "neutral": 20}
    assert len(items) == 187 * 18 == len(rows.drop_duplicates(["word", "form"]))
    assert items.rows[0].prompt == "The accountant said that"
    assert items.source == {"locate": "bundled"}
    with pytest.raises(LocateError, match="reads no file"):
        occupations.read(Path("a.csv"))


def test_probabilities_are_those_of_a_plain_run(mini, tmp_path):
    rows = occupations.read(None).rows
    chosen = [next(row for row in rows if row.word == word) for word in ("nurse", "king", "human", "carpenter")]
    steps = []
    table = occupations.measure(mini, Items(tuple(chosen)), lambda *step: steps.append(step))
    assert list(table.columns) == COLUMNS
    assert steps[-1] == (4, 4)
    for row in table.itertuples():
        for word in ("she", "he", "they"):
            prompt = row.template.replace("{subject}", row.word)
            ids = mini.encoder.encode(f"{prompt} {word}")[0]
            with torch.inference_mode():
                said = mini.network(torch.tensor([ids[:-1]])).logits[0, -1].double().log_softmax(-1)
            assert getattr(row, word) == pytest.approx(float(said[ids[-1]]), abs=1e-4)
    table.to_parquet(tmp_path / "a.parquet")
    assert repr(occupations.score(pd.read_parquet(tmp_path / "a.parquet"))) == repr(occupations.score(table))


def test_a_neutral_pronoun_of_several_tokens_is_nan(mini, monkeypatch):
    monkeypatch.setattr(occupations, "NEUTRAL", " hairdresserly")
    table = occupations.measure(mini, Items(occupations.read(None).rows[:2]), ignore_step)
    assert table["they"].isna().all()
    assert table[["she", "he"]].notna().all(axis=None)
    monkeypatch.setattr(occupations, "FEMALE", " hairdresserly")
    with pytest.raises(LocateError, match="must be a single token"):
        occupations.measure(mini, Items(occupations.read(None).rows[:2]), ignore_step)


def test_scores_by_hand():
    """Means of the words: nurse 2, maid -0.5, boss -0.5, clerk -1; their mean is 0."""
    scores = found(occupations.score(TABLE))
    value = {name: score.value for (name, part), score in scores.items() if part == ""}
    assert value["log_odds"] == pytest.approx(0, abs=1e-12)
    assert value["abs_log_odds"] == pytest.approx((1 + 3 + 1 + 0 + 2 + 1 + 1 + 1) / 8)
    assert value["abs_log_odds_word"] == pytest.approx((2 + 0.5 + 0.5 + 1) / 4)
    assert value["prefers_stereotype"] == pytest.approx(200 / 3)
    assert value["definition_words"] == 100
    assert value["definition_prompts"] == 75
    assert value["definition_margin"] == pytest.approx((2 - 1 + 3 + 2) / 4)
    assert value["neutral_abs_log_odds"] == pytest.approx(1.5)
    assert value["pronouns"] == pytest.approx(50)
    apart = [abs(math.tanh(odds / 2)) * 50 for odds in (1, 3, -1, 0, -2, 1, -1, -1)]
    assert value["afgb"] == pytest.approx(sum(apart) / 8)
    assert math.isnan(value["slope"])
    assert (scores["abs_log_odds", ""].n, scores["abs_log_odds", ""].groups, scores["abs_log_odds", ""].ties) == (
        8,
        4,
        1,
    )
    assert (scores["prefers_stereotype", ""].n, scores["prefers_stereotype", ""].skipped) == (3, 1)
    assert {name for (name, _), score in scores.items() if score.kind == "control"} == {
        "pronouns", "definition_words", "definition_prompts", "definition_margin", "neutral_abs_log_odds",
    }  # fmt: skip


def test_leaning_to_he_everywhere_is_no_stereotype():
    """Means nurse -1, maid -2, boss -6, clerk -3: none leans to she; centred on -3 all three lean as the stereotype."""
    table = table_of([("nurse", "a", -1.0), ("maid", "a", -2.0), ("boss", "a", -6.0), ("clerk", "a", -3.0)])
    scores = found(occupations.score(table))
    assert scores["prefers_stereotype", ""].value == pytest.approx(100 / 3)
    assert scores["prefers_stereotype_centred", ""].value == 100


def test_slope_is_for_ten_points_of_share():
    shares = np.linspace(5, 95, 12)
    rows = [
        (f"job {n}", "occupation", form, 1, share, 0.03 * share + (1 if form == "a" else -1), 0.0, -1.0)
        for n, share in enumerate(shares)
        for form in "ab"
    ]
    scores = found(occupations.score(pd.DataFrame(rows, columns=COLUMNS)))
    assert scores["slope", ""].value == pytest.approx(0.3)
    assert scores["slope", ""].unit == "nats per 10 points"
    assert (scores["slope", ""].n, scores["slope", ""].groups) == (24, 12)
    assert scores["correlation", ""].value == pytest.approx(1)


def test_parts_are_what_the_editor_saw_and_what_it_did_not():
    edited = {"words": ["nurse", "queen", "plumber"], "templates": ["a"]}
    scores = found(occupations.score(TABLE, edited))
    size = {part: scores["abs_log_odds", part].value for part in ("", *PARTS)}
    assert size == {
        "": pytest.approx(10 / 8), "edited words": pytest.approx(2), "held-out words": pytest.approx(1),
        "held-out words and templates": pytest.approx((0 + 1 + 1) / 3),
    }  # fmt: skip
    assert scores["definition_prompts", "edited words"].value == 50
    assert scores["definition_prompts", "held-out words and templates"].value == 100
    empty = scores["neutral_abs_log_odds", "edited words"]
    assert math.isnan(empty.value)
    assert empty.n == 0
    whole = [score for score in occupations.score(TABLE, edited) if score.part == ""]
    assert repr(whole) == repr(occupations.score(TABLE))
    with pytest.raises(LocateError, match="edited holds words: expected words and templates"):
        occupations.score(TABLE, {"words": []})


PARTS = ("edited words", "held-out words", "held-out words and templates")


def test_definitions_kept_are_of_those_right_before():
    """queen in b is wrong before. After, queen's mean is -0.5 and king keeps his in one prompt of two."""
    after = table_of([("queen", "b", 1.0), ("queen", "a", -2.0), ("king", "a", -3.0), ("king", "b", 0.0)])
    rest = TABLE[TABLE["kind"] != "definition"]
    words, prompts = kept_definitions(TABLE, pd.concat([after, rest]))
    assert (words.value, words.n, words.skipped) == (50, 2, 0)
    assert (prompts.value, prompts.n, prompts.skipped, prompts.ties) == (pytest.approx(100 / 3), 3, 1, 1)
    same = kept_definitions(TABLE, TABLE)
    assert [score.value for score in same] == [100, 100]
    none, _ = kept_definitions(TABLE.assign(she=TABLE["he"]), TABLE)
    assert math.isnan(none.value)


def test_cut_is_of_the_mean_size_and_paired():
    halved = TABLE.assign(she=TABLE["he"] + (TABLE["she"] - TABLE["he"]) / 2)
    assert log_odds_cut(TABLE, halved.sample(frac=1, random_state=0)).value == pytest.approx(50)
    gendered = [table[table["kind"] != "occupation"] for table in (TABLE, halved)]
    assert math.isnan(log_odds_cut(*gendered).value)
    with pytest.raises(LocateError, match="no prompt about an occupation has these words"):
        log_odds_cut(*gendered, words=["nurse"])
    cut = log_odds_cut(TABLE, halved)
    assert (cut.low, cut.high) == pytest.approx((50, 50))
    assert (cut.n, cut.groups) == (8, 4)
    turned = TABLE.assign(she=TABLE["he"], he=TABLE["she"])
    assert log_odds_cut(TABLE, turned).value == pytest.approx(0)
    nurse = TABLE["word"] == "nurse"
    alone = TABLE.assign(she=TABLE["she"].where(~nurse, TABLE["he"]))
    assert log_odds_cut(TABLE, alone).value == pytest.approx(100 * 4 / 10)
    assert log_odds_cut(TABLE, alone, templates=["a"]).value == pytest.approx(100 * 1 / 5)
    assert log_odds_cut(TABLE, alone, words=["nurse", "boss"], templates=["b"]).value == pytest.approx(75)
    assert math.isnan(log_odds_cut(alone, TABLE, words=["nurse"]).value)
    assert log_odds_cut(halved, TABLE).value == pytest.approx(-100)


def test_tables_of_other_prompts_are_not_compared():
    with pytest.raises(LocateError, match="hold 14 and 13 prompts, of which 1 are in one table only"):
        log_odds_cut(TABLE, TABLE[1:])
    with pytest.raises(LocateError, match="of which 0 are in one table only"):
        kept_definitions(TABLE, pd.concat([TABLE, TABLE[:1]]))
    with pytest.raises(LocateError, match="no prompt about an occupation has these words"):
        log_odds_cut(TABLE, TABLE, words=["queen"])


def test_an_empty_prompt_is_read_after_the_start_token_and_a_batch_changes_nothing():
    model = load_causal("mini", device="cpu", bos="no")
    prompts = ["", "The nurse said that", "It was late when"]
    alone = torch.cat([next_log_probs(model, [each], [" she", " he"]) for each in prompts])
    together = next_log_probs(model, prompts, [" she", " he"], batch_tokens=8)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    start = model.network(torch.tensor([[model.start]])).logits[0, -1].log_softmax(-1)
    she = model.encoder.encode(" she")[0][0]
    assert float(alone[0, 0]) == pytest.approx(float(start[she]), abs=1e-5)
