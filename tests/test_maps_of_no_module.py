"""Maps of attention weights, or of the residual stream alone: legitimate runs that name no layer, and say why."""

import json
from dataclasses import replace

import pytest
from handmade import map_trace

import locate
from locate.errors import LocateError
from locate.report import write_report
from locate.schema import validate
from locate.study.controls import Controls
from locate.tracing.folder import RunFolder
from locate.tracing.table import CONTROLS

SOME = locate.Map(components=("pattern",), roles=("last",), keys=("subject_last",))


@pytest.fixture(scope="module")
def pattern_run(tmp_path_factory):
    """A run of attention weights alone, from Python, with its report."""
    folder = tmp_path_factory.mktemp("pattern") / "run"
    prompts = locate.occupation_pairs(templates_each=1).first(24)
    found = locate.trace(locate.load("mini", device="cpu"), prompts, SOME, controls=Controls(sets=3), output=folder)
    write_report(found, folder, formats=["html"])
    return folder


def test_a_run_of_attention_weights_is_read_again_and_says_why_it_names_no_layer(pattern_run):
    found = locate.load_trace(pattern_run)
    assert found.controls is None
    assert found.meta["controls"]["rows"] == 0
    located = locate.load_located(pattern_run)
    assert located == locate.rank(found)
    assert (located.layers, located.component, located.role, located.sites) == ((), None, None, ())
    assert "only pattern was patched" in located.why_no_layers
    content = json.loads((pattern_run / "located.json").read_text())
    validate(content, "located", "test")
    report = (pattern_run / "report.html").read_text()
    assert "No layer is handed to editors: only pattern was patched" in report
    assert {path.stem for path in (pattern_run / "figures").glob("*.html")} >= {"attention_last_denoising"}


def test_an_editor_refuses_a_located_json_that_names_no_layer(pattern_run, monkeypatch):
    model = locate.load_causal("mini", device="cpu")
    with pytest.raises(LocateError, match=r"names no layer: only pattern was patched.* trace one of mlp_out"):
        locate.edit(model, locate.load_located(pattern_run), locate.LSDM())


def test_the_residual_stream_alone_is_ranked_as_nothing(tmp_path):
    trace = map_trace(layers=2, components=("resid_pre",))
    found = locate.rank(trace)
    assert "only resid_pre was patched" in found.why_no_layers
    assert locate.load_located(found.save(tmp_path / "located.json")) == found
    with pytest.raises(LocateError, match="nothing to rank"):
        locate.rank(trace, component="mlp_out")


def test_a_located_json_of_the_version_before_is_read(tmp_path):
    found = locate.rank(map_trace(layers=2, components=("mlp_out",)))
    path = found.save(tmp_path / "located.json")
    content = json.loads(path.read_text())
    del content["why_no_layers"]
    path.write_text(json.dumps(content | {"schema": 2}))
    assert locate.load_located(path) == found


@pytest.mark.parametrize("about", [{"rows": 0, "not_run": {"all": "kinds"}}, {"not_run": {"all": "kinds"}}])
def test_a_run_whose_controls_could_not_be_measured_is_read_again(tmp_path, about):
    trace = map_trace(layers=1, components=("mlp_out",))
    trace = replace(trace, meta=trace.meta | {"controls": about})
    trace.save(tmp_path)
    RunFolder(tmp_path).add(trace, CONTROLS)
    assert locate.load_trace(tmp_path).meta["controls"] == about


def test_a_run_that_lost_its_controls_is_still_refused(tmp_path):
    trace = map_trace(layers=1, components=("mlp_out",))
    replace(trace, meta=trace.meta | {"controls": {"rows": 3}}).save(tmp_path)
    with pytest.raises(LocateError, match=r"controls\.parquet cannot be read"):
        locate.load_trace(tmp_path)
