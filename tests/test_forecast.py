"""What a trace is said to cost, beside what it costs."""

import json

import pytest

from locate.prompts import occupation_pairs
from locate.sweep.climbers import Climber, token_layers
from locate.tracing import collect
from locate.tracing.collect import trace
from locate.tracing.forecast import cost, forecast, operations
from locate.tracing.job import prepare
from locate.tracing.plan import Map

FEW = occupation_pairs(templates_each=2, occupations=["nurse", "engineer", "lawyer", "baker"])


def test_rows_are_those_of_the_trace(gpt2):
    found = forecast(gpt2, FEW)
    assert found.rows == len(trace(gpt2, FEW).table)
    assert found.pairs == len(FEW)
    assert 0 < found.run < found.rows
    assert found.seconds > 0
    assert found.peak > 10**8


def test_the_plain_engine_runs_every_row(gpt2):
    found = forecast(gpt2, FEW, engine="plain")
    assert found.run == found.rows
    assert found.operations > 2 * forecast(gpt2, FEW).operations


def test_options_are_those_of_the_trace(gpt2):
    both = forecast(gpt2, FEW, Map(components=("head",)))
    one = forecast(gpt2, FEW, Map(components=("head",)), directions=("noising",))
    assert both.rows == 2 * one.rows


def test_pairs_without_a_row_do_not_count(gpt2):
    """Only a subject of several tokens has a first token besides its last; most pairs have none."""
    many = occupation_pairs("opposite", templates_each=1)
    map = Map(components=("mlp_out",), roles=("subject_first",))
    found = forecast(gpt2, many, map)
    assert 0 < found.rows == len(trace(gpt2, many, map).table)


def test_operations_are_counted_on_paper(gpt2):
    """Blocks of 12 d^2 weights, with biases and norms beside them."""
    block, out = operations(gpt2)
    d = gpt2.d_model
    assert out == 2 * d * gpt2.d_vocab
    assert block == pytest.approx(2 * 12 * d * d, rel=0.25)
    job = prepare(gpt2, FEW)
    runs = 2 * 3 * block  # two prompts through three layers
    spent, moving = cost(job, job.pairs[0])
    tokens = len(job.pairs[0].clean)
    assert spent > runs * tokens + moving * out


@pytest.mark.parametrize(
    ("first_layer", "enters", "first_pos", "expected"),
    [
        (0, False, 2, 3 + 3 + 1),  # three positions through two layers, and the last token through the last
        (0, True, 2, 1 + 3 + 1),  # behind the first attention: one position there
        (2, False, 2, 1),
        (1, True, 4, 1 + 1),
    ],
)
def test_positions_run_in_each_layer(first_layer, enters, first_pos, expected):
    each = Climber(0, 0, 1, 5, first_layer, first_pos, enters, ())
    assert token_layers(each, 3) == expected


def test_a_dry_run_writes_nothing_and_runs_no_whole_job(folder_of, tmp_path, monkeypatch, capsys):
    import sys

    from locate import cli

    monkeypatch.setattr(collect, "collect", None)
    command = ["trace", "--model", str(folder_of("gpt2")), "--limit", "6", "--dry-run", "-o", str(tmp_path / "run")]
    for extra in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["locate-bias", *command, *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert "have to be run" in lines[0]
    assert "of measuring" in lines[2]
    assert lines[3].startswith("controls: about ")
    assert json.loads("\n".join(lines[4:]))["pairs"] == 6
    assert not (tmp_path / "run").exists()
