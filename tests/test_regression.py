"""Effects regressed on two scores of a word: planted coefficients come back, scores that tell nothing are refused."""

import numpy as np
import pandas as pd
import pytest
from handmade import both, odds, trace_of
from test_resampling import made

from locate import LocateError, analyse
from locate.mediation import effects, gender_regression, gender_scores
from locate.mediation.regression import collinear, words_without_score
from locate.mediation.resampling import Intervals
from locate.report.selectivity import plot_regression

SCORES = pd.DataFrame({
    "word": [f"w{number}" for number in range(24)],
    "stereotypical": np.round(np.sin(np.arange(24.0)), 2),
    "factual": [0.0] * 14 + [1.0, -1.0] * 5,
})  # fmt: skip


def words_of(coefficients, noise=0.0, seed=0, each=2):
    """Effects of the 24 words in cells (layers) with these (stereotypical, factual, intercept)."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([SCORES["stereotypical"], SCORES["factual"], np.ones(24)])
    words = np.repeat(np.arange(24), each)
    own = x @ np.array(coefficients).T + noise * rng.normal(size=(24, len(coefficients)))
    return made(own[words], SCORES["word"].to_numpy()[words], view="signed")


def by_term(found):
    """One column a term."""
    return found.pivot(index="layer", columns="term", values="coefficient")[["stereotypical", "factual", "intercept"]]


def test_planted_coefficients_come_back_exactly():
    planted = [(0.5, 2.0, -1.0), (-1.5, 0.0, 0.25), (0.0, 0.0, 0.0)]
    found = gender_regression(words_of(planted), SCORES)
    np.testing.assert_allclose(by_term(found), planted, atol=1e-12)
    np.testing.assert_allclose(found["high"] - found["low"], 0, atol=1e-9)
    assert found.groupby("layer")["r2"].first().tolist()[:2] == pytest.approx([1.0, 1.0])
    assert (found["words"] == 24).all()


def test_words_count_alike_however_many_prompts_they_have():
    """A word's prompts are averaged first: repeating one word's prompts moves nothing."""
    effect = words_of([(1.0, 1.0, 0.0)], noise=0.5, each=1)
    more = pd.concat([effect, *(effect[effect["group"] == "w3"].assign(pair=100 + turn) for turn in range(9))])
    first, second = (gender_regression(each, SCORES)["coefficient"] for each in (effect, more))
    assert first.tolist() == pytest.approx(second.tolist())


def test_intervals_cover_the_planted_coefficients():
    """Noise that grows with the score, which ordinary errors would miss."""
    rng = np.random.default_rng(1)
    truth = np.array([0.7, -0.4, 0.1])
    x = np.column_stack([SCORES["stereotypical"], SCORES["factual"], np.ones(24)])
    noise = (0.2 + np.abs(x[:, :1]) + np.abs(x[:, 1:2])) * rng.normal(size=(24, 500))
    effect = made((x @ truth)[:, None] + noise, SCORES["word"].to_numpy(), view="signed")
    found = gender_regression(effect, SCORES, chosen=Intervals(samples=500))
    for term, value in zip(("stereotypical", "factual", "intercept"), truth, strict=True):
        rows = found[found["term"] == term]
        assert 0.91 <= ((rows["low"] <= value) & (rows["high"] >= value)).mean() <= 0.995


def test_least_squares_are_those_of_another_solver():
    effect = words_of([(1.0, -2.0, 0.5)], noise=1.0)
    y = effect.groupby("group")["nie"].mean().loc[SCORES["word"]].to_numpy()
    x = SCORES[["stereotypical", "factual"]].to_numpy()
    centred, target = x - x.mean(0), y - y.mean()
    (a, b), (c, d) = centred.T @ centred
    p, q = centred.T @ target
    slopes = np.array([d * p - b * q, a * q - c * p]) / (a * d - b * c)
    found = by_term(gender_regression(effect, SCORES)).loc[0]
    assert found.tolist() == pytest.approx([*slopes, y.mean() - x.mean(0) @ slopes])


def test_a_site_that_some_words_lack_is_fitted_to_the_others():
    effect = words_of([(1.0, 2.0, 0.0), (1.0, 2.0, 0.0)])
    numbers = effect["group"].astype(str).str.removeprefix("w").astype(int)
    fewer = effect[(effect["layer"] == 0) | (numbers >= 4)]
    none = effect[(effect["layer"] == 0) | (numbers < 6)]
    found = gender_regression(fewer, SCORES)
    np.testing.assert_allclose(by_term(found), [(1.0, 2.0, 0.0)] * 2, atol=1e-12)
    assert found.groupby("layer")["words"].first().to_dict() == {0: 24, 1: 20}
    assert by_term(gender_regression(none, SCORES)).loc[1].isna().all()


def test_the_packages_scores():
    table = gender_scores().set_index("word")
    assert table.loc["secretary", "stereotypical"] > 0.8
    assert table.loc["plumber", "stereotypical"] < -0.8
    assert table.loc["actress"].tolist() == [0.0, 1.0]
    assert table.loc["king"].tolist() == [0.0, -1.0]
    assert table.index.is_unique
    assert table.abs().max(axis=None) <= 1


def test_a_trace_is_regressed_on_the_packages_scores():
    """Effects of half the stereotypical score and three times the factual one, planted in the log-odds."""
    table = gender_scores().set_index("word")
    words = [*table.index[:20], "king", "queen", "actress", "actor", "mother", "father"]
    rows = []
    for pair, word in enumerate([*words, "xylophone"]):
        size = 0.5 * table.loc[word, "stereotypical"] + 3 * table.loc[word, "factual"] if word in table.index else 9.0
        kind = "definition" if word in words[20:] else "occupation"
        rows += both(odds(size), odds(0.0), odds(size), odds(0.0), pair=pair, group=word, kind=kind, stereotype=1)
    trace = trace_of(rows)
    derived = effects(trace, view="signed", kind="all")
    found = gender_regression(derived)
    there = found[found["direction"] == "denoising"].set_index("term")["coefficient"]
    assert there.to_dict() == pytest.approx({"stereotypical": 0.5, "factual": 3.0, "intercept": 0.0}, abs=1e-6)
    back = found[found["direction"] == "noising"].set_index("term")["coefficient"]
    assert back["factual"] == pytest.approx(-3.0)
    assert words_without_score(derived) == ["xylophone"]
    analysis = analyse(trace)
    assert analysis.without_score == 1
    assert plot_regression(analysis).layout.yaxis.title.text == "nats per unit of score"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores: scores.assign(factual=2 * scores["stereotypical"]), "24 words are collinear"),
        (lambda scores: scores.assign(factual=0.0), "24 words are collinear"),
        (lambda scores: scores.assign(factual=1.0), "24 words are collinear"),
        (lambda scores: scores.head(7), r"7 words with scores: expected at least 8; 17 others have no score \(w"),
        (lambda scores: scores.drop(columns="factual"), "the scores lack the columns factual"),
        (lambda scores: pd.concat([scores, scores.head(1)]), "the scores hold 'w0' more than once"),
        (lambda scores: scores.assign(factual=np.nan), "24 scores are not finite"),
    ],
)
def test_scores_that_tell_nothing_are_refused(change, message):
    with pytest.raises(LocateError, match=message):
        gender_regression(words_of([(1.0, 1.0, 0.0)]), change(SCORES))


def test_effects_that_are_not_signed_or_are_missing_are_refused():
    effect = words_of([(1.0, 1.0, 0.0)])
    broken = effect.assign(nie=effect["nie"].where(effect["pair"] > 1))
    with pytest.raises(LocateError, match="2 values of 'nie' are missing"):
        gender_regression(broken, SCORES)
    with pytest.raises(LocateError, match="effects in view 'stereotype': expected 'signed'"):
        gender_regression(effect.assign(view="stereotype"), SCORES)


def test_collinear_is_told_from_correlated():
    rng = np.random.default_rng(0)
    x = rng.normal(size=30)
    assert collinear(np.column_stack([x, 3 * x + 2, np.ones(30)]))
    assert not collinear(np.column_stack([x, x + 0.01 * rng.normal(size=30), np.ones(30)]))
