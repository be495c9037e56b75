"""The live page without a browser: its state, what it derives, its own prompts, and whom it answers."""

from __future__ import annotations

import hashlib
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from handmade import map_trace, steady
from pages import ROOT

import locate
from locate import LocateError
from locate.explorer.app import exported, python_line
from locate.explorer.live import Asked, Live, Stale
from locate.explorer.opening import explore, lines_of_receipt
from locate.explorer.runs import Runs
from locate.explorer.state import State, token_of
from locate.mediation.effect_table import effects
from locate.prompts import Pair, Prompts


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs of the same prompts, of which the second has half the effects."""
    found = []
    for name, size in (("one", 1.0), ("two", 0.5)):
        folder = tmp_path_factory.mktemp(name)
        made = map_trace(lambda *place, size=size: size * steady(*place), templates=("The {subject} said that",))
        model = made.meta["model"] | {"name": f"models/{name}", "weights_sha256": name * 8}
        recipe = made.meta["recipe"] | {"weights_sha256": name * 8}
        found.append(replace(made, meta=made.meta | {"model": model, "recipe": recipe}).save(folder))
    return found[0], found[1]


@pytest.fixture(scope="module")
def run(folders) -> Runs:
    return Runs.read(folders[:1])


@pytest.fixture(scope="module")
def live() -> Live:
    return Live((("mini", locate.load("mini")),))


def number(runs: Runs, words: str) -> int:
    """The cell of those words."""
    return [each["words"] for each in runs.sites(runs.first)].index(words)


def test_a_state_is_read_from_its_own_address():
    state = State("A", "prob_diff", "signed", "occupation", "noising", "nde", 7, 3)
    query = state.query("secret")
    assert token_of(query) == "secret"
    assert State("A", "x", "y", "z", "a", "b").asked(query) == state
    asked = replace(state, prompt=("The {subject} & <b>قال", "nurse", "", "she", "he"))
    assert state.asked(asked.query()) == asked
    assert asked.settings == state.settings
    assert state.asked("?template=alone").prompt == ()
    assert replace(state, cell=None, pair=None).asked("?cell=-1&pair=x") == replace(state, cell=None, pair=None)


def test_a_state_that_the_run_does_not_have_is_settled(run):
    asked = run.first.asked("?metric=none&view=up&kind=all&direction=both&quantity=total&cell=99999&pair=99999&panel=B")
    assert run.settle(asked) == run.first


def test_what_a_run_lacks_is_said(run, tmp_path):
    assert "(some pairs have no neutral answer of one token)" in run.absent(run.first)
    assert "probabilities" not in run.absent(run.first)
    trace = run.traces[0]
    replace(trace, meta=trace.meta | {"probabilities": False}).save(tmp_path)
    lacking = Runs.read((tmp_path,))
    assert "kept no probabilities" in lacking.absent(lacking.first)


def test_a_metric_of_one_view_takes_it(run):
    found = run.settle(replace(run.first, metric="odds_ratio", view="signed"))
    assert (found.metric, found.view) == ("odds_ratio", "stereotype")


@pytest.mark.parametrize("quantity", ["nie", "nde"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_a_cell_shows_its_average_and_the_pairs_that_make_it(run, direction, quantity):
    cell = number(run, "MLP output, layer 1, last token of the occupation")
    state = replace(run.first, direction=direction, quantity=quantity, cell=cell)
    rows = locate.analyse(run.traces[0]).average(quantity)
    rows = rows[(rows["direction"] == direction) & (rows["component"] == "mlp_out") & (rows["layer"] == 1)]
    row = rows[rows["role"] == "subject_last"].iloc[0]
    view, pairs = run.view(state), run.behind(state)
    assert view["effect"][cell] == pytest.approx(row["effect"], rel=1e-5)
    assert view["low"][cell] == pytest.approx(row["low"], rel=1e-5)
    assert len(pairs) == 12
    assert pairs["effect"].mean() == pytest.approx(row["effect"], abs=1e-9)
    sign = 1 if row["effect"] > 0 else -1
    assert (sign * pairs["effect"]).is_monotonic_decreasing


def test_two_runs_show_their_difference(folders):
    both = Runs.read(folders)
    assert both.first.panel == "B - A"
    cell = number(both, "MLP output, layer 0, last token of the occupation")
    values = {name: both.view(replace(both.first, panel=name))["effect"][cell] for name in ("A", "B", "B - A")}
    compared = locate.compare(*(locate.load_trace(each) for each in folders))
    rows = compared.table[(compared.table["component"] == "mlp_out") & (compared.table["layer"] == 0)]
    row = rows[(rows["role"] == "subject_last") & (rows["direction"] == "denoising")].iloc[0]
    assert list(values.values()) == pytest.approx([row["effect_a"], row["effect_b"], row["change"]], rel=1e-5)
    assert values["B - A"] == pytest.approx(values["B"] - values["A"], abs=1e-5)
    opened = replace(both.first, cell=cell)
    assert both.behind(opened).empty
    means = [both.behind(replace(opened, panel=name))["effect"].mean() for name in "AB"]
    assert means == pytest.approx([values["A"], values["B"]], abs=1e-5)


def test_runs_that_do_not_match_are_refused(folders, tmp_path):
    other = map_trace(layers=1, templates=("A {subject} ran as",)).save(tmp_path)
    with pytest.raises(LocateError, match="prompts"):
        Runs.read((folders[0], other))


@pytest.mark.parametrize("panel", ["A", "B - A"])
def test_the_python_line_makes_the_same_map(folders, panel):
    runs = Runs.read(folders)
    state = replace(runs.first, panel=panel, metric="prob_diff", direction="noising")
    figure = eval(python_line(runs, state), {"locate": locate})
    drawn = {
        round(float(each), 4)
        for trace in figure.data
        if trace.type == "heatmap"
        for each in np.ravel(trace.z)
        if each == each
    }
    shown = {round(each, 4) for each in runs.view(state)["effect"] if each}
    assert shown <= drawn | {-0.0, 0.0}
    assert len(shown) > 5


def test_what_is_exported_is_what_is_open(run):
    cell = number(run, "MLP output, layer 1, last token of the occupation")
    saved = exported(run, replace(run.first, cell=cell), "csv")
    assert (
        saved["content"].splitlines()[0].startswith("pair,group,template,kind,stereotype,clean,corrupted,effect,total")
    )
    assert len(saved["content"].splitlines()) == 13
    page = exported(run, run.first, "html")
    assert page["filename"] == "map.html"
    assert "showSendToCloud" in page["content"]
    with pytest.raises(LocateError, match="open a cell of one model first"):
        exported(run, run.first, "csv")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (Asked("The nurse said", "nurse", "mechanic"), r"expected \{subject\} exactly once"),
        (Asked("The {subject} said that", "", "mechanic"), "expected a subject and a counterfactual"),
        (Asked("The {subject} said that", "nurse", "mechanic", "she", "she"), "expected two different words"),
        (Asked("The {subject} and the {subject}", "nurse", "mechanic"), r"expected \{subject\} exactly once"),
        (Asked("The {subject} said that", "nurse", "mechanic", "sheherself"), "single token"),
        (Asked("The {subject} said that", "nurse", "nurse"), "the same"),
        (Asked("The {subject} said that", "very " * 2000 + "nurse", "mechanic"), "characters: expected at most 5,000"),
        (Asked("The {subject} said that", "very " * 600 + "nurse", "mechanic"), "tokens, the model takes"),
    ],
)
def test_prompts_that_make_no_pair_are_refused_in_the_command_lines_words(live, asked, said):
    with pytest.raises(LocateError, match=said):
        live.tokens(asked)
    with pytest.raises(LocateError, match=said):
        live.probabilities(asked, live.request("refused", 1))


@pytest.mark.parametrize("subject", ["librarian", "<script>alert(1)</script>", 'the "boss" & co'])
def test_a_prompt_of_ones_own_has_the_effects_of_a_trace(live, subject):
    asked = Asked("The {subject} said that", subject, "mechanic")
    request = live.request(subject, 1)
    name, found = live.maps(asked, request)[0]
    pair = Pair(asked.pair().clean, asked.pair().corrupted, subject, "mechanic", subject, asked.template, neutral=None)
    where = locate.Map(components=("attn_out", "mlp_out"))
    expected = effects(locate.trace(live.models[0][1], Prompts((pair,)), where, controls=None), view="signed")
    assert name == "mini"
    pd.testing.assert_series_equal(found["nie"], expected["nie"], atol=1e-5, rtol=0)
    assert (expected["nie"].abs() > 0.01).any()
    rows = live.probabilities(asked, request)
    assert [row[1] for row in rows] == [pair.clean, pair.corrupted]
    total = (rows[0][2] - rows[0][3]) - (rows[1][2] - rows[1][3])
    assert found.loc[found["direction"] == "denoising", "total"].iloc[0] == pytest.approx(total, abs=1e-5)


def test_a_newer_request_ends_an_older_one(live):
    asked = Asked("The {subject} said that", "nurse", "mechanic")
    old, new, other = live.request("me", 1), live.request("me", 2), live.request("you", 1)
    with pytest.raises(Stale):
        live.maps(asked, old)
    assert live.maps(asked, new)
    assert live.maps(asked, other)
    assert live.request("me", 1).number == 1  # one that comes late does not make the newer one stale
    assert live.maps(asked, new)
    ended = []
    request = live.request("me", 3)

    def measure() -> None:
        try:
            live.maps(Asked("The {subject} said " + "very " * 60 + "loudly that", "nurse", "mechanic"), request)
        except Stale:
            ended.append(request)

    worker = threading.Thread(target=measure)
    worker.start()
    live.request("me", 4)
    worker.join()
    assert ended == [request]


def get(url: str, content: bytes | None = None, **headers: str) -> tuple[int, str, dict[str, str]]:
    """Status, body and headers of an answer, without cookies or redirects; to a POST where there is content."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, content, headers), timeout=20) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


@pytest.fixture
def page(folders, monkeypatch):
    """A page that is served although the environment asks for another host and for debugging."""
    for name, value in {"HOST": "0.0.0.0", "DASH_DEBUG": "true", "DASH_MCP_ENABLED": "true", "PORT": "9"}.items():
        monkeypatch.setenv(name, value)
    found = explore(folders[0])
    yield found
    found.close()


def test_it_answers_this_machine_alone(page):
    assert page.url.startswith("http://127.0.0.1:")
    assert page.socket.getsockname()[0] == "127.0.0.1"
    base = page.url.split("?")[0]
    assert get(base)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "0.0.0.0"):
        assert get(base, Host=host)[0] == 400
    assert get(base, Host="localhost")[0] == 200


@pytest.mark.parametrize(
    "content", [b"not JSON", b"[]", b"{}", b'{"output": "none.such", "outputs": []}', b'{"output": [1], "outputs": []}']
)
def test_a_request_that_the_page_does_not_make_is_refused(page, content):
    address = f"{page.url.split('?')[0]}_dash-update-component"
    status, _, _ = get(address, content, **{"Content-Type": "application/json"})
    assert status == 400


def test_its_policy_lets_nothing_out(page):
    _, body, headers = get(page.url.split("?")[0])
    policy = headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "connect-src 'self'" in policy
    assert "'unsafe-eval'" not in policy
    assert not re.search(r"script-src[^;]*'unsafe-inline'", policy)
    assert not re.findall(r"(?:src|href)=\"https?://", body)


def test_without_the_token_nothing_is_answered_where_there_is_a_model(folders):
    found = explore(folders[0], model="mini")
    try:
        base, token = found.url.split("?")[0], token_of(found.url.split("?")[1])
        assert len(token) >= 20
        assert get(base)[0] == 403
        assert get(f"{base}?token=wrong")[0] == 403
        assert get(f"{base}_dash-layout")[0] == 403
        status, _, headers = get(f"{base}?token={token}")
        assert status == 200
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        assert get(f"{base}_dash-layout", Cookie=headers["Set-Cookie"].split(";")[0])[0] == 200
    finally:
        found.close()


def test_a_port_that_is_taken_is_said(folders):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(LocateError, match=f"port {port} of 127.0.0.1 cannot be had .*--port"):
            explore(folders[0], port=port)


@pytest.mark.parametrize(
    ("count", "options", "said"),
    [
        (0, {}, "0 runs: expected one"),
        (3, {}, "3 runs: expected one"),
        (1, {"edited": "x"}, "expected the model before"),
    ],
)
def test_what_cannot_be_opened_is_said(folders, count, options, said):
    with pytest.raises(LocateError, match=said):
        explore(*([folders[0]] * count), **options)


def test_without_dash_one_line_says_what_to_install(folders):
    script = (
        "import sys; sys.modules['dash'] = None\n"
        f"import locate\ntry:\n    locate.explore({str(folders[0])!r})\n"
        "except locate.LocateError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "the live page needs Dash: pip install 'locate-bias[explore]'\n"


def test_an_edit_without_its_receipt_is_said(tmp_path):
    assert lines_of_receipt(None) == ()
    (told,) = lines_of_receipt(tmp_path)
    assert "no receipt.json lies in" in told
    (tmp_path / "receipt.json").write_text((ROOT / "figures" / "receipt_lsdm_smollm2.json").read_text())
    lines = lines_of_receipt(tmp_path)
    assert len(lines) == 5
    assert "mean |log-odds| cut by 71" in lines[0]


def hashes(folder: Path) -> dict[str, str]:
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


def test_the_command_serves_until_it_is_interrupted_and_writes_nothing(folders):
    before = hashes(folders[0])
    process = subprocess.Popen(
        [sys.executable, "-m", "locate", "explore", str(folders[0])],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in the background may ignore Ctrl-C
    )
    try:
        line = process.stdout.readline()
        url = re.search(r"http://127\.0\.0\.1:\d+/\S*", line)[0]
        assert get(url)[0] == 200
        process.send_signal(2)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()
    assert hashes(folders[0]) == before
