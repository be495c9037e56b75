"""What a trace is said to cost, beside what it costs."""

import json
from dataclasses import replace

import pytest
from bare import job_of, trace

from locate.engine.sweep.climbers import Climber, token_layers
from locate.prompts import occupation_pairs
from locate.study import forecast as run_forecasts
from locate.study import trace as traces
from locate.study.forecast import RunForecast, StageForecast, extrapolate, foretell, try_stage
from locate.study.plan import Plan
from locate.study.sets import Sets
from locate.study.trace import trace as whole_trace
from locate.tracing import forecast as forecasts
from locate.tracing.cost import cost, operations
from locate.tracing.forecast import Forecast, Timing, is_busy, repeat
from locate.tracing.forecast import forecast as forecast_of
from locate.tracing.plan import Map


def forecast(model, prompts, map=None, **settings):
    return forecast_of(job_of(model, prompts, map, **settings))


FEW = occupation_pairs("anti", templates_each=2, occupations=["nurse", "engineer", "lawyer", "baker"])


@pytest.fixture
def quick(monkeypatch):
    """Timings of a fifth of a second, not ten: what is said of time is rough, and what is said of rows is not."""
    monkeypatch.setattr(forecasts, "SECONDS", 0.2)
    monkeypatch.setattr(run_forecasts, "LONG", 0.1)


@pytest.mark.usefixtures("quick")
def test_rows_are_those_of_the_trace(gpt2):
    found = forecast(gpt2, FEW)
    assert found.rows == len(trace(gpt2, FEW).table)
    assert found.pairs == len(FEW)
    assert 0 < found.run < found.rows
    assert 0 < found.low <= found.seconds <= found.high
    assert found.peak > 10**8


@pytest.mark.usefixtures("quick")
def test_the_plain_engine_runs_every_row(gpt2):
    found = forecast(gpt2, FEW, engine="plain")
    assert found.run == found.rows
    assert found.operations > 2 * forecast(gpt2, FEW).operations


@pytest.mark.usefixtures("quick")
def test_options_are_those_of_the_trace(gpt2):
    both = forecast(gpt2, FEW, Map(components=("head",)))
    one = forecast(gpt2, FEW, Map(components=("head",)), directions=("noising",))
    assert both.rows == 2 * one.rows


@pytest.mark.usefixtures("quick")
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
    job = job_of(gpt2, FEW)
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


@pytest.mark.usefixtures("quick")
def test_a_dry_run_writes_nothing_and_runs_no_whole_job(folder_of, tmp_path, monkeypatch, capsys):
    import sys

    from locate import cli

    monkeypatch.setattr(traces, "measure", None)
    command = ["trace", "--model", str(folder_of("gpt2")), "--limit", "6", "--dry-run", "-o", str(tmp_path / "run")]
    command += ["--components", "mlp_out", "--roles", "subject_last,last"]
    for extra in ([], ["--json", "--shard", "1/4"]):
        monkeypatch.setattr(sys, "argv", ["locate-bias", *command, *extra])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("the machine is busy")]
    assert "have to be run" in lines[0]
    assert "of measuring" in lines[2]
    assert lines[3].startswith("controls: about ")
    found = json.loads("\n".join(lines[4:]))
    assert (found["pairs"], found["processes"]) == (6, 4)
    assert found["shared_seconds"] > 0
    assert not (tmp_path / "run").exists()


def timings(*walls):
    """A piece of work that takes so long each time, in turn."""
    left = iter(walls)
    return lambda: Timing(next(left), 0.0)


@pytest.mark.parametrize(
    ("walls", "repetitions"),
    [
        ([1.0, 1.0, 1.05], 3),
        ([3.0, 1.0, 1.0, 1.0], 4),  # once steady, what came before does not matter
        ([1.0, 2.0] * 4, 8),  # as long as there is time
        ([0.01, 0.02] * 8, 15),
        ([60.0, 90.0], 2),
    ],
)
def test_work_is_timed_until_it_is_steady(walls, repetitions):
    assert [each.wall for each in repeat(timings(*walls))] == walls[:repetitions]


@pytest.mark.parametrize(
    ("walls", "own", "expected"),
    [
        ([1.0, 1.0, 1.0], 1.0, False),
        ([1.0, 1.0, 1.0], 0.5, True),  # as slow each time, because another process has the core half of the time
        ([1.0, 2.0, 1.0], 1.0, True),
        ([9.0, 1.0, 1.0, 1.0], 0.95, False),
    ],
)
def test_a_busy_machine_is_seen(walls, own, expected):
    assert is_busy([Timing(wall, wall * own) for wall in walls]) is expected


def test_the_spread_is_that_of_the_timings(gpt2, monkeypatch):
    """Half of each time was waited for: what the work itself needs is the lower end."""
    found = [Timing(2.0, 1.0), Timing(4.0, 2.0), Timing(3.0, 1.5)]
    monkeypatch.setattr(forecasts, "calibrate", lambda job, pairs: (len(pairs), found))
    monkeypatch.setattr(forecasts, "audit_job", lambda job: None)
    said = forecast(gpt2, FEW)
    assert [said.low, said.seconds, said.high] == pytest.approx(
        [1.0, 3.0, 4.0], rel=0.01
    )  # all pairs are in the sample
    assert said.busy


def test_what_larger_chunks_save_is_foretold(gpt2, monkeypatch):
    """A chunk takes a second whatever it holds, and a second for the operations of two pairs."""
    job = job_of(gpt2, occupation_pairs("anti", templates_each=1).first(40))
    costs = {pair.index: cost(job, pair)[0] for pair in job.pairs}
    each = sum(costs.values()) / 20

    def timed(job, pairs):
        seconds = 1 + sum(costs[pair.index] for pair in pairs) / each
        return Timing(seconds, seconds)

    monkeypatch.setattr(forecasts, "time_chunk", timed)
    monkeypatch.setattr(forecasts, "audit_job", lambda job: None)
    chunks = -(-len(job.pairs) // job.chunk)
    assert forecast_of(job).seconds == pytest.approx(chunks + 20, rel=0.02)


def test_what_is_printed_says_the_spread_and_that_the_machine_is_busy(capsys):
    from locate.cli.show import print_forecast

    said = Forecast(8, 80, 60, 1e9, seconds=261.0, low=210.0, high=310.0, busy=True, peak=10**9)
    later = (StageForecast("control: shuffled source", 8, 20.0, 1), StageForecast("control: random sets", 0, 6.0, 4))
    print_forecast(RunForecast(said, later, 16), 1, False)
    print_forecast(RunForecast(replace(said, busy=False), later, 16), 3, False)
    out = capsys.readouterr().out
    assert out.count("shared by") == 1
    assert f"shared by 3 processes, each as fast as this one: about {261 * 6 / 16 + 20 + 6 * 2 / 4:.3g} s in all" in out
    assert out.count("about 261 s of measuring (between 210 and 310 s)") == 2
    assert out.count("controls: about 8 rows and 26 s more") == 2
    assert out.count("the machine is busy") == 1
    assert "sets of sites" not in out


@pytest.mark.usefixtures("quick")
def test_later_stages_are_those_of_the_run(gpt2):
    """The same names in the same order, with as many rows; sites may be others, and a set of them larger or smaller."""
    prompts = occupation_pairs("anti", templates_each=1).first(16)
    map = Map(("mlp_out", "attn_out"), roles=("subject_last", "last"))
    found = foretell(gpt2, prompts, map, plan=Plan(sets=Sets(largest=2, pool=3)))
    seen = {}
    whole = whole_trace(
        gpt2, prompts, map, sets=Sets(largest=2, pool=3), progress=lambda each: seen.update({each.stage: each.planned})
    )
    foretold = {each.stage: each.rows for each in found.stages}
    assert set(seen) - set(foretold) == {"map"}
    assert [name for name in foretold if name in seen] == list(seen)[1:]
    assert found.map.rows == len(whole.table) == seen["map"]
    for name in set(foretold) & set(seen) - {"control: random sets"}:
        assert foretold[name] / 2 <= seen[name] <= 2 * foretold[name], name
    assert found.shared(8) == pytest.approx(found.seconds), "stages of so few rows are one chunk each"
    content = found.as_json()
    assert content["control_rows"] == sum(rows for name, rows in foretold.items() if name.startswith("control:"))
    assert content["set_seconds"] > 0
    assert found.seconds > content["seconds"]


@pytest.mark.parametrize(
    ("points", "rows", "expected"),
    [
        ([(10, 1.0), (20, 1.5)], 40, 2.5),  # half a second in any case, and a twentieth for each row
        ([(10, 4.0)], 40, 16.0),
        ([(10, 2.0), (20, 1.0)], 40, 2.0),  # noise: in proportion to the longer try
    ],
)
def test_times_are_extended_along_a_line(points, rows, expected):
    assert extrapolate(points, rows) == pytest.approx(expected)


@pytest.mark.usefixtures("quick")
def test_the_untrained_model_of_a_run_in_reduced_precision_is_foretold(model_of):
    """It has no files to be loaded from again in fp32, and is not compared with that."""
    job = job_of(model_of("llama", "bfloat16"), FEW, Map(("mlp_out",)))
    found = try_stage(job, replace(job.stage, name="control: random weights", untrained=0))
    assert found.rows == job.planned
