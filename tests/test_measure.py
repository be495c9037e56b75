"""The measuring loop: every stage is kept part by part and resumed, a model is checked once, executors may differ."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
import torch
from bare import job_of
from test_identities import pair

from locate.errors import LocateError
from locate.mediation import effects
from locate.model.loading import load
from locate.model.threads import torch_threads
from locate.parts import Parts, slug
from locate.planted import draw_plan, plant
from locate.prompts import Prompts, occupation_pairs
from locate.sites import Site
from locate.study.controls import Controls
from locate.study.sets import Sets
from locate.study.trace import trace
from locate.tracing import measure as measuring
from locate.tracing import stage as stages
from locate.tracing.folder import RunFolder
from locate.tracing.measure import measure, measure_chunk
from locate.tracing.plan import Map
from locate.tracing.progress import Expected, Pace
from locate.tracing.stage import Settings, Stage
from locate.tracing.table import load_trace

PROMPTS = occupation_pairs("anti", templates_each=1).first(16)
MAP = Map(("mlp_out", "attn_out"), roles=("subject_last", "last"))
FEW = Controls(sites=2, pairs=8, sets=9)
CHEAP = replace(FEW, random_weights=False)
SMALL = Sets(largest=2, pool=3, pairs=8)


class Stop(KeyboardInterrupt):
    """Ctrl-C in a test."""


def tables(found):
    """Every table of a trace."""
    return {name: getattr(found, name) for name in ("table", "controls", "sets")}


def without_times(meta):
    """What meta says, but for how long things took."""
    kept = json.loads(json.dumps(meta))
    kept.pop("seconds")
    kept.pop("memory")
    kept["controls"].pop("seconds")
    return kept


@pytest.fixture(scope="module")
def whole(gpt2):
    return trace(gpt2, PROMPTS, MAP, controls=FEW, sets=SMALL)


@pytest.fixture
def counted(monkeypatch):
    """Chunks that are measured, by stage; `stop` says at which one a stop comes."""
    seen, stop = [], []

    def chunk(job, pairs, advance):
        if stop and len(seen) == stop[0]:
            raise Stop
        seen.append(job.stage.name)
        return measure_chunk(job, pairs, advance)

    monkeypatch.setattr(measuring, "measure_chunk", chunk)
    return seen, stop


def test_a_stop_anywhere_loses_no_finished_chunk(tmp_path, monkeypatch, counted):
    """Stopped after every third chunk, the run goes on each time; no chunk is measured twice, none differs."""
    made = plant(tmp_path / "model", draw_plan(3, "gpt2"), occupations=24, templates_each=1)
    wanted = replace(FEW, pairs=14)
    model = load(str(made.folder), device="cpu")
    whole = trace(model, made.prompts, MAP, controls=wanted, sets=SMALL)
    run = tmp_path / "run"
    monkeypatch.setattr(stages, "CHUNK_PAIRS", 12)
    seen, stop = counted
    seen.clear()
    starts = 0
    while True:
        stop[:] = [len(seen) + 3]
        try:
            found = trace(model, made.prompts, MAP, controls=wanted, sets=SMALL, output=run)
        except Stop:
            starts += 1
            assert starts < 60
        else:
            break
    counts = {name: seen.count(name) for name in seen}
    assert counts["map"] == counts["control: random weights"] == 2
    assert counts["control: shuffled source"] == 1  # values of other pairs: all pairs at once
    assert counts["control: random sets"] == 1
    assert {"sets: greedy search 1", "sets: greedy search 2", "sets: joint effects", "sets: circuits"} <= set(seen)
    assert starts == (len(seen) - 1) // 3
    for name, table in tables(found).items():
        pd.testing.assert_frame_equal(table, tables(whole)[name], atol=2e-5, rtol=0, obj=name)
    assert without_times(load_trace(run).meta) == without_times(found.meta)
    assert sorted(path.name for path in run.iterdir()) == [
        "controls.parquet", "meta.json", "sets.parquet", "trace.parquet",
    ]  # fmt: skip
    measured = len(seen)
    trace(model, made.prompts, MAP, controls=wanted, sets=SMALL, output=run)
    assert len(seen) == measured


def test_the_map_can_be_read_while_controls_are_still_to_come(gpt2, whole, tmp_path, counted):
    seen, stop = counted
    stop[:] = [2]
    with pytest.raises(Stop):
        trace(gpt2, PROMPTS, MAP, controls=FEW, output=tmp_path)
    assert seen == ["map", "control: shuffled source"]
    found = load_trace(tmp_path)
    assert found.controls is None
    pd.testing.assert_frame_equal(found.table, whole.table)
    assert (tmp_path / "parts" / "control-shuffled-source" / "part-00000.parquet").is_file()


def test_parts_of_other_controls_are_refused_with_both_values(gpt2, tmp_path, counted):
    seen, stop = counted
    stop[:] = [3]
    with pytest.raises(Stop):
        trace(gpt2, PROMPTS, MAP, controls=CHEAP, output=tmp_path)
    stop.clear()
    with pytest.raises(LocateError, match=r"holds parts of another stage 'control: shuffled source': its .* is .*"):
        trace(gpt2, PROMPTS, MAP, controls=replace(CHEAP, seed=1), output=tmp_path)
    assert len(seen) == 3
    assert len(trace(gpt2, PROMPTS, MAP, controls=CHEAP, output=tmp_path).controls) > 0


def test_a_full_disk_ends_the_run_and_is_no_control_that_could_not_be_measured(gpt2, tmp_path, monkeypatch):
    def full(parts, chunk, table):
        if "control" in str(parts.path):
            raise LocateError("No space left on device")
        write(parts, chunk, table)

    write = Parts.write
    monkeypatch.setattr(Parts, "write", full)
    with pytest.raises(LocateError, match="No space left"):
        trace(gpt2, PROMPTS, MAP, controls=CHEAP, output=tmp_path)
    assert load_trace(tmp_path).controls is None


def test_finished_controls_of_other_settings_are_refused_with_both_values(gpt2, tmp_path):
    trace(gpt2, PROMPTS, MAP, controls=CHEAP, output=tmp_path)
    before = (tmp_path / "meta.json").read_bytes()
    with pytest.raises(LocateError, match=r"controls were measured with sites 2, .*seed 0; this run asks for .*seed 1"):
        trace(gpt2, PROMPTS, MAP, controls=replace(CHEAP, seed=1), output=tmp_path)
    assert (tmp_path / "meta.json").read_bytes() == before
    assert trace(gpt2, PROMPTS, MAP, controls=None, output=tmp_path).controls is not None


def test_each_model_is_checked_once(gpt2, monkeypatch):
    audits = []

    def checked(job):
        audits.append((job.stage.name, job.model.checkpoint.weights_sha256))
        return {}

    monkeypatch.setattr(measuring, "audit_job", checked)
    trace(gpt2, PROMPTS, MAP, controls=FEW, sets=SMALL)
    assert [name for name, _ in audits] == ["map", "control: random weights"]
    assert len({weights for _, weights in audits}) == 2


def test_an_executor_may_run_chunks_in_any_order(gpt2, whole, monkeypatch):
    monkeypatch.setattr(stages, "CHUNK_PAIRS", 5)
    asked = []

    def backwards(missing):
        asked.append((missing.work.name, list(missing.numbers)))
        for number in reversed(missing.numbers):
            yield number, missing.do(missing.pieces[number], missing.advance)

    found = trace(gpt2, PROMPTS, MAP, controls=FEW, executor=backwards)
    assert asked[0] == ("map", [0, 1, 2, 3])
    pd.testing.assert_frame_equal(found.table, whole.table, atol=2e-5, rtol=0)
    pd.testing.assert_frame_equal(found.controls, whole.controls, atol=2e-5, rtol=0)


@dataclass(frozen=True)
class Looking:
    """A rewrite that writes what was there, and looks at how it is computed."""

    together = False

    def rewrite(self, job, layout):
        """The same rows."""
        LOOKED.append((torch.get_num_threads(), torch.backends.cuda.matmul.fp32_precision))
        return layout.rewritten(layout.rows)


LOOKED: list[tuple[int, str]] = []


def test_a_rewrite_is_computed_with_the_threads_and_precision_of_the_run(gpt2):
    job = job_of(gpt2, PROMPTS.first(2), MAP, rewrite=Looking())
    with torch_threads(gpt2.threads + 1):
        measure_chunk(job, job.pairs, int)
    assert [(gpt2.threads, "ieee")] == LOOKED


def test_a_stage_that_cannot_be_measured_is_thrown_back_to_who_asked(gpt2):
    good = Stage("good", PROMPTS.first(2), MAP)
    bad = Stage("bad", PROMPTS.first(2), Map(layers=(9,)))

    def asking():
        try:
            yield bad
        except LocateError as error:
            outcome = yield good
            return str(error), len(outcome.table)
        raise AssertionError("nothing was thrown")

    reason, rows = measure(gpt2, asking(), Settings())
    assert "layer 9: expected 0 to 2" in reason
    assert rows == job_of(gpt2, PROMPTS.first(2), MAP).planned > 0

    def careless():
        yield bad

    with pytest.raises(LocateError, match="layer 9"):
        measure(gpt2, careless(), Settings())


def test_a_layout_names_the_pair_direction_and_sample_of_every_row(gpt2):
    from locate.tracing.corrupt import Noise

    job = job_of(gpt2, PROMPTS.first(3), Map(("mlp_out",), layers=(1,)), corruption=Noise(samples=2))
    layout = job.lay_out(job.pairs)
    origins = list(layout.origins())
    assert len(origins) == len(layout.rows)
    for row, (runs, direction, sample) in zip(layout.rows, origins, strict=True):
        assert (row.base, row.source) == runs.couple(direction, sample)
        clean, corrupted = layout.runs[runs.clean], layout.runs[runs.corrupted[sample]]
        assert clean.ids == runs.pair.clean
        assert clean.noise is None
        assert corrupted.noise is not None
        base, source = runs.clean, runs.corrupted[sample]
        assert (row.base, row.source) == ((base, source) if direction == "noising" else (source, base))
    assert [runs.pair.index for runs in layout.pairs] == [each.index for each in job.pairs]
    bare = job.lay_out(job.pairs, patched=False)
    assert (len(bare.runs), bare.rows) == (len(layout.runs), [])


def test_time_left_counts_what_is_still_to_come(monkeypatch):
    """A thousand operations a second in the first stage, half of that later until a later one has told."""
    from locate.tracing import progress

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    seen = []
    pace = Pace(
        [Expected("map", 1.0), Expected("never", 5000.0), Expected("a", 1000.0), Expected("b", 1000.0)], seen.append
    )
    pace.start("map", 100, 10_000.0)
    assert (seen[-1].rate, seen[-1].left) == (None, None)
    clock[0] += 50  # checks of the model
    pace.begin()
    clock[0] += 5
    pace.measure(50)
    assert seen[-1].rate == pytest.approx(10)
    assert seen[-1].left == pytest.approx(5 + 7000 / 500)
    clock[0] += 5
    pace.measure(50)
    clock[0] += 1  # what is chosen between two stages
    pace.start("a", 10, 1000.0)
    assert seen[-1].left == pytest.approx(2000 / 500)
    clock[0] += 3
    pace.measure(10)
    assert seen[-1].left == pytest.approx(1000 / 250)
    pace.start("b", 10, 1000.0, found=10)
    assert seen[-1].left == 0


def test_time_left_within_a_budget_is_that_of_the_budget_and_of_what_follows(monkeypatch):
    """100 s for estimates and map together; a control of a thousand operations comes after them."""
    from locate.tracing import progress

    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    seen = []
    waiting = [Expected("estimates", 1000.0), Expected("map", 0.0, within=100.0), Expected("a", 1000.0)]
    pace = Pace(waiting, seen.append)
    pace.start("estimates", 100, 1000.0)
    clock[0] += 10
    pace.measure(50)
    assert seen[-1].left == pytest.approx(90 + 1000 / 25)
    clock[0] += 110  # it takes longer than it should: what is left of it, and the control
    pace.measure(25)
    speed = 750 / 120
    assert seen[-1].left == pytest.approx(250 / speed + 1000 / (speed / 2))
    pace.start("map", 100, 500.0)
    assert seen[-1].left == pytest.approx((500 + 1000) / (speed / 2))


def test_names_of_stages_are_names_of_folders():
    assert slug("control: shuffled source") == "control-shuffled-source"
    assert slug("sets: greedy search 3") == "sets-greedy-search-3"


def test_a_run_that_lost_its_last_table_alone_reads_its_parts(gpt2, whole, tmp_path, counted, monkeypatch):
    """All parts are there: nothing is measured, and what the checks of the model found is still known."""
    seen, _ = counted
    monkeypatch.setattr(RunFolder, "finish", lambda *_: (_ for _ in ()).throw(Stop))
    with pytest.raises(Stop):
        trace(gpt2, PROMPTS, MAP, controls=None, output=tmp_path)
    monkeypatch.undo()
    found = trace(gpt2, PROMPTS, MAP, controls=None, output=tmp_path)
    assert seen == ["map"]
    pd.testing.assert_frame_equal(found.table, whole.table)
    assert found.meta["audit"]["identities"]["rows"] > 0


@dataclass(frozen=True)
class Uniform:
    """A corruption of a user's own: uniform noise on the subject."""

    width: float = 0.1
    samples: int = 2

    def describe(self):
        return {"kind": "uniform", "width": self.width, "samples": self.samples}

    def executed(self, prompts):
        pairs = (replace(each, corrupted=each.clean, corrupted_subject=each.clean_subject) for each in prompts)
        return replace(prompts, pairs=tuple(pairs))

    def scale(self, model, pairs):
        return self.width

    def corrupted(self, pair, clean, scale, d_model):
        import torch

        where = tuple(i for i, role in enumerate(pair.clean_roles) if role == "subject_last")
        draws = [np.random.default_rng([pair.index, sample]) for sample in range(self.samples)]
        noise = [torch.from_numpy(draw.uniform(-scale, scale, (len(where), d_model))) for draw in draws]
        return [replace(clean, noised=where, noise=each) for each in noise]


def test_a_corruption_of_the_users_own(gpt2, tmp_path):
    prompts = Prompts((pair("nurse", "man"), pair("engineer", "woman", sign=-1)))
    map = Map(("mlp_out", "resid_pre"))
    found = trace(gpt2, prompts, map, corruption=Uniform(), controls=None, output=tmp_path)
    assert found.meta["corruption"] == {"kind": "uniform", "width": 0.1, "samples": 2, "scale": 0.1}
    assert set(found.table["sample"]) == {0, 1}
    derived = effects(found)
    last = derived.query("component == 'resid_pre' and layer == 0 and role == 'subject_last'")
    np.testing.assert_allclose(last["nie"], last["total"], rtol=0, atol=2e-5)  # all of it enters there
    assert last["total"].abs().max() > 1e-4
    with pytest.raises(LocateError, match=r"its corruption is 'kind uniform, width 0.1, samples 2', this one's is"):
        trace(gpt2, prompts, map, corruption=Uniform(0.2), controls=None, output=tmp_path)
    unchecked = object.__new__(Settings)  # types are checked in tests alone
    unchecked.__dict__.update(Settings().__dict__ | {"corruption": "noise"})
    with pytest.raises(LocateError, match=r"corruption 'noise': expected Swap\(\), Noise\(\), or an object"):
        unchecked.__post_init__()


def test_sites_that_stand_for_those_to_be_chosen(gpt2):
    from locate.study.expected import likely_sites

    sites = likely_sites(job_of(gpt2, PROMPTS, Map(("resid_pre", "attn_out", "mlp_out"))))
    assert {site.component for site in sites} == {"attn_out", "mlp_out"}
    first = {(site.component, site.layer, site.position) for site in sites[:4]}
    assert first >= {("mlp_out", 0, "subject_last"), ("attn_out", 2, "last")}
    assert len(set(sites)) == len(sites)
    assert Site("mlp_out", 2, "last") in sites
    assert sites[0] == Site("mlp_out", 0, "subject_last")  # whose kind is the located set of a run


def test_the_set_that_stands_for_the_located_one_is_of_mlps(gpt2):
    """Attention at the last token of the top layers would take a fraction of the time."""
    from locate.study.expected import likely_random_sets, likely_sites

    job = job_of(gpt2, PROMPTS, Map(("attn_out", "mlp_out")))
    (stage,) = likely_random_sets(job, Controls(), likely_sites(job))
    located, *random = ([write.site for write in patch.writes] for patch in stage.patches)
    assert {(site.component, site.position) for site in located} == {("mlp_out", "subject_last")}
    assert random
    assert all(len(sites) == len(located) and sites != located for sites in random)


def test_a_stage_of_a_large_model_is_cut_finely_enough_to_be_shared(gpt2, monkeypatch):
    job = job_of(gpt2, PROMPTS, MAP)
    assert len(job.chunks) == 1, "a chunk of a small model would be too short"
    monkeypatch.setattr(stages, "SHARED_OPERATIONS", 1.0)
    monkeypatch.setattr(stages, "SHARED", 8)
    assert [len(each) for each in replace(job).chunks] == [2] * 8
    on_gpu = replace(job, model=replace(gpt2, device="cuda"))
    assert len(on_gpu.chunks) == 1, "a chunk would be too small to fill a GPU"


def test_a_chunk_that_may_not_be_read_is_kept(tmp_path, monkeypatch):
    parts = Parts(tmp_path)
    parts.file(0).write_bytes(b"rows")

    def refuse(path, **options):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(pd, "read_parquet", refuse)
    with pytest.raises(LocateError, match=r"part-00000.parquet cannot be read \(Permission denied\)"):
        parts.read(0)
    assert parts.file(0).read_bytes() == b"rows"
