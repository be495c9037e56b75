"""Plain names of scores, and what is said of a change of one."""

import math
from dataclasses import replace

import pytest

from locate.evaluation.change import EvaluationChange, ScoreChange, compare_evaluations, kept_cells
from locate.evaluation.evaluation import Evaluation
from locate.evaluation.meaning import MEANINGS, QUESTIONS
from locate.evaluation.run import evaluate
from locate.evaluation.scores import Score, label, which_way
from locate.evaluation.tests import HOME
from locate.model.causal import load_causal
from locate.report.page.scores import evaluation_change_page, evaluation_page

SIZE = Score("occupations", "abs_log_odds", 1.0, 0.8, 1.2, "nats", 400, 40, ideal=0.0)
SIGNED = Score("occupations", "log_odds", 1.0, 0.9, 1.1, "nats", 400, 40, ideal=0.0)
SHARE = Score("stereoset", "ss", 58.0, 55.0, 61.0, "%", 255, 40, ideal=50.0)
PROSE = Score("perplexity", "perplexity", 26.8, 24.0, 29.0, "perplexity", 77, 12, kind="ability")
RIGHT = Score("piqa", "accuracy", 60.0, 58.0, 62.0, "%", 255, 40, ideal=100.0, kind="ability")
PRONOUNS = Score("occupations", "pronouns", 30.0, 28.0, 32.0, "%", 400, 40, kind="control")
OWN = Score("my_test", "my_score", 30.0, 28.0, 32.0, "%", 400, 40, ideal=50.0)


def changed(before: Score, change: float, *, half: float = 0.01) -> ScoreChange:
    ends = {name: getattr(before, name) + change for name in ("value", "low", "high")}
    return ScoreChange(before, replace(before, **ends), change, change - half, change + half, True, 40)


def test_every_test_has_plain_names():
    assert set(HOME) - set(QUESTIONS) == set(MEANINGS)
    for test, names in MEANINGS.items():
        words = [each.words for each in names.values()]
        assert len(set(words)) == len(words), test
        assert not [each for each in words if "_" in each or len(each) > 60], test


def test_every_score_of_the_bundled_tests_has_its_plain_name():
    tests = ["occupations", "unseen_forms", "natural", "biaske", "generation"]
    found = evaluate(load_causal("mini", device="cpu"), tests=tests, limit=2)
    both = compare_evaluations(found, found)
    names = {(score.test, score.name) for score in [*found.scores, *both.retained]}
    assert {test for test, _ in names} == set(tests)
    assert ("natural", "log_odds_cut") in names
    assert not [(test, name) for test, name in names if name not in MEANINGS[test]]
    assert {each.verdict for each in both.changes} <= {"within chance", "chance cannot be told"}


@pytest.mark.parametrize(("score", "name", "way"), [
    (SIZE, "occupations: size of the log-odds, prompt by prompt (abs_log_odds)", "lower is less biased"),
    (SIGNED, "occupations: log-odds of she against he (log_odds)", "nearer to 0 is less biased"),
    (SHARE, "stereoset: stereotypical text preferred (ss)", "nearer to 50 % is less biased"),
    (PROSE, "perplexity: perplexity per token (perplexity)", "lower is more able"),
    (RIGHT, "piqa: questions answered right (accuracy)", "higher is more able"),
    (PRONOUNS, "occupations: probability of she and he together (pronouns)", "an edit should leave it as it is"),
    (OWN, "my_test: my score", "nearer to 50 % is less biased"),
    (replace(OWN, ideal=None), "my_test: my score", "neither side is better"),
    (replace(SHARE, part="gender"), "stereoset: stereotypical text preferred (ss), gender",
     "nearer to 50 % is less biased"),
])  # fmt: skip
def test_a_score_has_a_plain_name_and_a_way(score, name, way):
    assert (label(score), which_way(score)) == (name, way)


@pytest.mark.parametrize(("change", "said"), [
    (changed(SIZE, -0.5), "better"), (changed(SIZE, 0.5), "worse"),
    (changed(SIZE, 0.5, half=0.6), "within chance"),
    (changed(SIZE, 0.5, half=math.nan), "chance cannot be told"),
    (changed(PROSE, 2.0), "worse"), (changed(RIGHT, 2.0), "better"), (changed(SHARE, 5.0), "worse"),
    (changed(SHARE, -5.0), "better"), (changed(SIGNED, -0.4), "better"), (changed(SIGNED, -3.0), "worse"),
    (changed(SIGNED, -1.5), "better"),
    (changed(SIGNED, -1.95), "past the ideal, as far from it as before within chance"),
    (changed(PRONOUNS, 5.0), "moved"),
])  # fmt: skip
def test_a_change_is_better_worse_or_within_chance(change, said):
    assert change.verdict == said
    assert change.cells()["verdict"] == said


@pytest.mark.parametrize(("name", "ends", "said"), [
    ("log_odds_cut", (60.0, 50.0, 70.0), "better"), ("log_odds_cut", (3.0, -2.0, 8.0), "within chance"),
    ("log_odds_cut", (-30.0, -40.0, -20.0), "worse"), ("kept_definition_words", (94.6, 86.1, 99.0), "worse"),
    ("kept_definition_words", (100.0, 90.5, 100.0), "within chance"), ("unheard", (1.0, 0.5, 2.0), ""),
])  # fmt: skip
def test_what_needs_both_models_is_held_against_no_change(name, ends, said):
    assert kept_cells(Score("occupations", name, *ends, "%", 400, 40))["verdict"] == said


def test_pages_say_which_way_is_better_and_what_a_change_is():
    scores = SIZE, SIGNED, PROSE
    meta = {"model": {"name": "one"}, "level": 0.95, "edited": None}
    found = Evaluation(meta, scores, {})
    page = evaluation_page(found, {})
    assert "prompt by prompt (abs_log_odds): 1.00 [0.80, 1.20] nats; lower is less biased; the ideal, 0," in page
    moves = changed(SIZE, -0.5), changed(SIGNED, 0.2), changed(PROSE, 0.005)
    cut = Score("occupations", "log_odds_cut", 50.0, 40.0, 60.0, "%", 400, 40)
    page = evaluation_change_page(EvaluationChange(found, found, moves, (cut,), (), (), {}), {})
    assert "<li>of 2 scores: 1 better, 1 worse</li>" in page
    assert "(abs_log_odds): better, 1.00 to 0.50 nats, a change of -0.50 [-0.51, -0.49]</li>" in page
    assert "<li>of 1 scores: 1 within chance</li>" in page
    assert "<li>occupations: cut in the size of the log-odds (log_odds_cut): 50.0 [40.0, 60.0] %, better</li>" in page
    assert "within noise" not in page
