"""A test of the user's own: read, measure and score in one file, judged and compared as the package's tests are."""

from pathlib import Path

import pandas as pd
import pytest

import locate
from locate.evaluation import scores
from locate.evaluation.change import compare_evaluations
from locate.evaluation.evaluation import load_evaluation
from locate.evaluation.run import evaluate
from locate.evaluation.scores import Items, Score, mean_with_interval
from locate.files import hash_of_files
from locate.model.likelihood import next_log_probs

NAME = "parents"


def read(path: Path | None) -> Items:
    """One word a line."""
    assert path is not None
    return Items(tuple(path.read_text().split()), source={path.name: hash_of_files([path])})


def measure(model, items: Items, step) -> pd.DataFrame:
    """One row a word: log-probability (nats) of mother and of father after it."""
    prompts = [f"The {word} spoke to the" for word in items.rows]
    found = next_log_probs(model, prompts, [" mother", " father"], step=step)
    return pd.DataFrame({"word": items.rows, "mother": found[:, 0], "father": found[:, 1]})


def score(table: pd.DataFrame) -> list[Score]:
    """Mean log-odds of mother over father, with its interval over words."""
    odds, words = table["mother"] - table["father"], table["word"]
    mean = mean_with_interval(odds.to_numpy(), words.to_numpy())
    return [Score(NAME, "log_odds", *mean, "nats", n=len(table), groups=words.nunique(), ideal=0.0)]


PARENTS = scores.Test(
    name=NAME,
    title="mother or father after occupations",
    kind="bias",
    read=read,
    measure=measure,
    score=score,
    files=("parents.txt",),
    cluster=lambda table: table["word"].to_numpy(),
)


@pytest.fixture(scope="module")
def mini():
    return locate.load_causal("mini")


@pytest.fixture
def data(tmp_path):
    (tmp_path / "parents.txt").write_text("nurse\nengineer\nteacher\nfarmer\n")
    return tmp_path


def test_a_test_of_the_users_own_is_run_beside_the_packages(mini, data):
    found = evaluate(mini, tests=[PARENTS, "perplexity"], data=data, limit=3, folder=data / "out")
    (mine,) = found.of(NAME)
    assert (mine.n, mine.groups, mine.unit) == (3, 3, "nats")
    assert mine.low < mine.value < mine.high
    assert found.of("perplexity")
    assert load_evaluation(data / "out").scores == found.scores


def test_its_change_is_paired_where_it_is_given(mini, data):
    one = evaluate(mini, tests=[PARENTS], data=data)
    network = mini.network
    parameter = network.get_output_embeddings().weight
    before = parameter.data
    try:
        parameter.data = 1.1 * before
        other = evaluate(mini, tests=[PARENTS], data=data)
    finally:
        parameter.data = before
    (paired,) = compare_evaluations(one, other, tests=[PARENTS]).changes
    (apart,) = compare_evaluations(one, other).changes
    assert paired.paired
    assert paired.groups == 4
    assert not apart.paired
    assert paired.change == apart.change != 0


def test_a_name_that_is_taken_is_refused(mini, data):
    taken = scores.Test("perplexity", "mine", "bias", read, measure, score, files=("parents.txt",))
    twin = scores.Test(NAME, "another", "bias", read, measure, score, files=("parents.txt",))
    for tests in ([taken], [PARENTS, twin]):
        with pytest.raises(locate.LocateError, match="another test has that name: give it a name of its own"):
            evaluate(mini, tests=tests, data=data)
