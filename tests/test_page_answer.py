"""The answer of a report: true for the run, whatever was exchanged, measured or left out."""

from __future__ import annotations

from dataclasses import replace

import pytest
from handmade import GROUPS, map_trace

from locate import analyse
from locate.report.page.answer import answer_of, factor


def answer(trace, **settings):
    analysis = analyse(trace, **settings)
    return answer_of(analysis, analysis.located, ("next command",))


def turned(component: str, layer: int, role: str, group: int) -> float:
    """Attention works against what the MLPs carry; nothing happens before the subject."""
    size = {"mlp_out": 2.0, "attn_out": -1.0}[component] / (1 + layer) * (1 + 0.02 * group)
    return {"before_subject": 0.0, "subject_last": 1.0, "last": 0.6}[role] * size


@pytest.fixture(scope="module")
def trace():
    made = map_trace(turned, components=("mlp_out", "attn_out"))
    return replace(made, meta=made.meta | {"prompts": {"answers": [" she", " he", None]}})


def test_the_question_names_a_pair_the_measure_and_the_size(trace):
    told = answer(trace)
    assert told.question == (
        "Reading “The nurse said that” in place of “The man said that”, and so on in 24 pairs of prompts, moves the "
        "log-odds of she against he by +4.00 [+4.00, +4.00] nats towards the stereotype: "
        "the odds change 55-fold [55, 55]."
    )
    assert told.commands == ("next command",)


def test_without_known_answers_none_are_named(trace):
    told = answer(replace(trace, meta={name: each for name, each in trace.meta.items() if name != "prompts"}))
    assert "the log-odds of the female against the male answer by" in told.question


def test_under_noising_the_exchange_goes_the_other_way(trace):
    table = trace.table[trace.table["direction"] == "noising"]
    told = answer(replace(trace, table=table, meta=trace.meta | {"directions": ["noising"], "rows": len(table)}))
    assert told.question.startswith("Reading “The man said that” in place of “The nurse said that”")
    assert "by -4.00 [-4.00, -4.00] nats (positive is towards the stereotype)" in told.question


def test_noise_is_called_noise(trace):
    table = trace.table.assign(corrupted=trace.table["clean"])
    told = answer(replace(trace, table=table))
    assert told.question.startswith("Taking away noise from the occupation in “The nurse said that”")


def test_the_strongest_on_both_sides_are_named_with_their_shares(trace):
    told = answer(trace)
    assert [(each.words, each.against) for each in told.carriers] == [
        ("MLP output, layer 0, last token of the occupation", False),
        ("MLP output, layer 0, last token of the prompt", False),
        ("MLP output, layer 1, last token of the occupation", False),
        ("attention output, layer 0, last token of the occupation", True),
    ]
    assert told.carriers[0].share == pytest.approx(told.carriers[0].effect / 4.0)
    assert told.carriers[-1].share < 0


def test_a_metric_without_shares_has_none(trace):
    assert {each.share for each in answer(trace, metric="odds_ratio").carriers} == {None}


def test_a_total_effect_that_may_be_0_is_carried_by_nothing():
    made = map_trace(layers=1)
    columns = [f"{run}_{who}" for run in ("base", "source", "patched") for who in ("female", "male")]
    half = made.table["group"].isin(GROUPS[::2])
    table = made.table.copy()
    swapped = dict(zip(columns, [columns[place ^ 1] for place in range(6)], strict=True))
    table.loc[half, columns] = made.table.loc[half, columns].rename(columns=swapped)[columns]
    told = answer(replace(made, table=table))
    assert "which cannot be told from 0: nothing can be said to carry it" in told.question
    assert told.carriers == ()
    assert told.advice == ("Do not edit by this map: nothing passes. Trace more pairs, another swap, or other words.",)


def test_without_controls_that_is_said(trace):
    assert any(each.startswith("Controls: none were run") for each in answer(trace).sure)


def test_words_that_are_no_occupations_are_not_called_so():
    told = answer(map_trace(turned, components=("mlp_out", "attn_out"), kind="user"))
    assert "last token of the subject" in told.carriers[0].words
    assert not any("occupation" in each for each in (told.question, *told.sure, *told.advice))


def test_an_edit_is_advised_where_editors_take_what_was_located(trace):
    assert answer(trace).advice[0].startswith("Edit a copy of the model at layers 0, 1, 2 of the MLP output")
    assert "trace mlp_out too" in answer(map_trace(components=("attn_out",))).advice[0]
    words = answer(map_trace(turned, components=("mlp_out", "attn_out"), kind="definition"))
    assert "it is to be kept" in words.advice[0]


@pytest.mark.parametrize(
    ("value", "text"), [(0.111, "0.11"), (2.0, "2.0"), (2.44, "2.4"), (28.3, "28"), (141.2, "141")]
)
def test_factors_are_readable(value, text):
    assert factor(value) == text


def test_controls_are_not_told_beside_effects_of_another_view(trace):
    controls = trace.table[trace.table["component"] == "mlp_out"].assign(control="shuffled source")
    beside = replace(trace, controls=controls)
    assert any("leaves" in each for each in answer(beside).sure)
    (told,) = (each for each in answer(beside, view="signed").sure if each.startswith("Controls"))
    assert told == "Controls: they are told in the stereotype view."
