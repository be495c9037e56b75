"""What a person sees on a terminal: the answer in words, the table at any width, the time left, what to type next."""

import re
import shlex
import shutil
import sys
from dataclasses import replace
from io import StringIO

import pytest
from handmade import map_trace
from rich.console import Console
from test_cli import run  # noqa: F401

import locate
from locate.cli import following, show, steps, writing
from locate.cli.steps import Rest, Steps, Work, duration
from locate.cli.table import number_columns, site_table, table_foot, table_title
from locate.cli.writing import Writing, count_figures
from locate.mediation.located import SiteSelectivity
from locate.report import write_report
from locate.report.answer import answer_lines, control_lines, digits_of, interval, layers_line, name_of, with_ends
from locate.tracing.plan import Map
from locate.tracing.progress import Progress

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture(scope="module")
def located():
    return locate.rank(map_trace(), samples=200)


def terminal(width):
    """A console of so many columns that is a terminal, and what it shows."""
    seen = StringIO()
    return Console(file=seen, width=width, force_terminal=True, highlight=False, markup=False), seen


def shown_at(width, found, monkeypatch, analysis=None):
    """The lines that a terminal of so many columns shows."""
    console, seen = terminal(width)
    monkeypatch.setattr(show, "stdout", lambda: console)
    show.print_located(found, [], False, analysis)
    return re.sub(r"\x1b\[[\d;]*m", "", seen.getvalue()).splitlines()


def with_sites(found, **change):
    """The same with every site changed; a value may be a function of the site's place."""
    sites = [
        replace(site, **{name: value(place) if callable(value) else value for name, value in change.items()})
        for place, site in enumerate(found.sites)
    ]
    return replace(found, sites=tuple(sites))


LEANING = SiteSelectivity(-0.123, -0.5, 0.25, 1.0, 24, 12)
KINDS = {
    "plain": lambda found: found,
    "heads": lambda found: with_sites(found, component="head", layer=31, unit=29, role="subject_middle"),
    "neurons": lambda found: with_sites(found, component="neuron", layer=31, unit=14335, role="subject_first"),
    "numbers": lambda found: with_sites(found, component="mlp_out_unit", layer=31, unit=14335, role="before_subject"),
    "selectivity": lambda found: with_sites(found, selectivity=LEANING),
    "counts": lambda found: with_sites(found, n=lambda place: 104 - place),
    "tiny": lambda found: with_sites(found, effect=0.0001234, low=-0.0000123, high=0.0002345, q=1.3e-30),
    "large": lambda found: with_sites(found, effect=-1234.5, low=-2345.6, high=3456.7),
    "windows": lambda found: replace(found, window=5, kind="user"),
}


@pytest.mark.parametrize("width", [40, 60, 80, 160])
@pytest.mark.parametrize("kind", KINDS)
def test_no_number_is_cut_at_any_width(located, kind, width, monkeypatch):
    found = KINDS[kind](located)
    lines = shown_at(width, found, monkeypatch)
    text = "\n".join(lines)
    assert "…" not in text
    assert "..." not in text
    assert not re.search(r"\de[-+]\d", text)
    digits = digits_of(found)
    for site in found.sites[:10]:
        assert with_ends(site.effect, site.low, site.high, digits) in text
    if width >= 60:
        assert max(map(len, lines)) <= width
    words = " ".join(text.split())
    assert all(name in words for name in ("site", "effect, 95% interval"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_terminal_folds_nothing_and_leaves_nothing_out(located, kind):
    found = KINDS[kind](located)
    table, hidden = site_table(found, 160)
    assert hidden == []
    assert list(table.columns[0].cells) == [name_of(site, found).replace(" the ", " ") for site in found.sites[:10]]
    assert table.columns[0].width == max(map(len, table.columns[0].cells))
    titles = {column.header for column in table.columns}
    assert ("selectivity" in titles) == (kind == "selectivity")
    assert ("n" in titles) == (kind == "counts")
    assert ("n = 24 pairs" in table_title(found)) == (kind != "counts")


def test_at_80_columns_the_usual_sites_take_one_line_each(located, monkeypatch):
    usual = [site for site in located.sites if site.component == "mlp_out" or site.role == "last"][:10]
    found = replace(located, sites=tuple(usual))
    lines = shown_at(80, found, monkeypatch)
    first = next(place for place, line in enumerate(lines) if line.startswith("site "))
    names = [line.partition("  ")[0] for line in lines[first + 1 : first + 1 + len(usual)]]
    assert names == [name_of(site, found).replace(" the ", " ") for site in usual]
    assert all(title in lines[first] for title in ("share", "stable"))


def test_what_has_no_room_is_named(located):
    found = KINDS["selectivity"](located)
    table, hidden = site_table(found, 75)
    assert hidden == ["share", "stable"]
    assert site_table(found, 74)[1] == ["selectivity"]
    assert "selectivity" in {column.header for column in table.columns}
    assert table_foot(found, hidden).endswith("no room here for share, stable: widen the terminal, or take --json")
    assert "no room" not in table_foot(found, [])
    assert "share:" not in table_foot(found, hidden)


@pytest.mark.parametrize("width", [30, 50, 80])
def test_other_tables_fold_words_and_cut_nothing(width):
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("what was measured", no_wrap=True)
    table.add_column("value, 95% interval", justify="right", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True)
    for number in range(3):
        table.add_row("log-odds of the occupations after an edit", f"+{number}.123 [-0.456, +0.789]", "1,234")
    console, seen = terminal(width)
    show.print_whole(console, table)
    lines = re.sub(r"\x1b\[[\d;]*m", "", seen.getvalue()).splitlines()
    assert sum("+1.123 [-0.456, +0.789]  1,234" in line for line in lines) == 1
    assert "…" not in seen.getvalue()
    assert console.width == width
    if width >= 50:
        assert max(map(len, lines)) <= width


def test_a_pipe_gets_each_row_and_each_sentence_in_one_line(located, capsys):
    show.print_located(located, [], False)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if re.match(r"(MLP|attention) \d, .*\]", line)]
    assert len(rows) == min(10, len(located.sites))
    assert lines[0].endswith("positive is towards the stereotype.")


def test_the_answer_says_what_carries_how_much_and_how_sure(located):
    """By hand: the lowest MLP at the occupation carries 2 * (1 + 0.02 * 5.5) of 4 nats, and nothing counters it."""
    lines = answer_lines(located)
    assert lines[0] == (
        "Total effect, from the corrupted to the clean prompt, on the log-odds of the female against the male answer "
        "(logit_diff): +4.00 [+4.00, +4.00] nats; positive is towards the stereotype."
    )
    assert lines[2].startswith("  MLP 0, last token of the occupation: 0.56 of the total (+2.22 [")
    assert lines[2].endswith("] nats, q < 0.001)") or re.search(r"q 0\.00\d+\)$", lines[2])
    assert len(lines) == 5
    assert not any("against it" in line for line in lines)


def test_sites_that_work_against_the_preference_are_named_apart(located):
    turned = replace(located, sites=(replace(located.sites[0], effect=-2.0, low=-3.0, high=-1.0), *located.sites[1:]))
    lines = answer_lines(turned)
    assert "-0.50 of the total (-2.00 [-3.00, -1.00] nats" in lines[lines.index("Sites that work most against it:") + 1]
    assert not any("-0.50" in line for line in lines[: lines.index("Sites that work most against it:")])


def test_sites_that_do_not_pass_are_not_named(located):
    lines = answer_lines(with_sites(located, q=0.2))
    assert lines[1:] == ["No single site passes the false-discovery threshold (q 0.05)."]
    lines = answer_lines(replace(located, total=(0.1, -0.2, 0.4), layers=()))
    assert lines[1:] == ["Its interval holds 0: there is no preference to be located, and no layer is named."]


def test_the_hand_off_says_how_much_each_layer_carries(located):
    assert layers_line(located) == (
        "layers of mlp_out at subject_last, strongest first: 0 (0.56 of the total), 1 (0.28), 2 (0.18)"
    )
    listed = replace(located, sites=located.sites[:1])
    assert layers_line(listed).endswith("0 (0.56 of the total), 1, 2")
    analysis = locate.analyse(map_trace(), samples=200)
    assert layers_line(replace(analysis.located, sites=analysis.located.sites[:1]), analysis) == layers_line(located)
    assert layers_line(replace(located, layers=())).endswith("none passes")


def test_a_metric_whose_effects_are_no_differences_has_no_shares():
    found = locate.rank(map_trace(), metric="odds_ratio", samples=200)
    assert "share" not in {column.title for column in number_columns(found)}
    assert "of the total" not in " ".join([*answer_lines(found), layers_line(found)])
    assert f"0 ({with_ends(found.sites[0].effect, 0, 0, digits_of(found)).partition(' ')[0]} relative odds)" in (
        layers_line(found)
    )


def test_a_site_that_few_pairs_have_has_no_share(located):
    few = with_sites(located, n=lambda place: 24 if place else 5)
    shares = next(column for column in number_columns(few) if column.title == "share").cells
    assert shares[0] == ""
    assert all(shares[1:])


def test_the_controls_are_told_in_words(traced):
    trace = locate.load_trace(traced / "run")
    analysis = locate.analyse(trace)
    lines = control_lines(analysis, analysis.located)
    rows = analysis.controls[analysis.controls["direction"] == "denoising"]
    shuffled = rows[rows["control"] == "shuffled source"].set_index(["component", "layer", "role"])
    strongest = next(site for site in analysis.located.sites if site.effect > 0)
    row = shuffled.loc[(strongest.component, strongest.layer, strongest.role)]
    assert lines[1].startswith(f"  {name_of(strongest, analysis.located)}, itself ")
    told = interval(row["effect"], row["low"], row["high"])
    assert f"    {told} with the value of another subject (shuffled source)" in lines
    assert any("the largest of the map with random weights" in line for line in lines)
    other = locate.analyse(trace, metric="prob_diff")
    assert any("chosen by logit_diff" in line for line in control_lines(other, other.located))
    assert not any("chosen by" in line for line in lines)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(steps.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_of_works_is_corrected_by_those_that_are_done(clock):
    rest = Rest([Work("effects", 2.0), Work("figures", 10.0), Work("report", 1.0)])
    rest.begin("effects")
    assert (rest.place(), rest.left()) == ("step 1 of 3", 13.0)
    clock[0] += 1
    assert rest.left() == 12.0
    clock[0] += 7  # 8 s in place of 2 s: as long as guesses count for 10 s, half as long again
    rest.begin("figures")
    assert (rest.place(), rest.left()) == ("step 2 of 3", 16.5)
    clock[0] += 40  # longer than was guessed: a tenth of it again, and what follows
    assert rest.left() == pytest.approx(4.0 + 1.5)
    rest.begin("nobody declared this")
    assert rest.place() == "step 2 of 3"
    rest.begin("report")
    assert rest.left() == pytest.approx(58 / 22)


def test_no_line_says_that_no_time_is_left():
    assert [duration(seconds) for seconds in (0.0, 0.4, 1.2, 59.9, 90.6)] == ["1 s", "1 s", "1 s", "60 s", "2 min"]


def test_a_terminal_goes_on_counting(clock):
    told = Steps()
    told.expect([Work("figures", 20.0), Work("report", 1.0)])
    told.rest.begin("figures")
    told.step = "figures"
    assert str(told.shown_line()) == "figures, step 1 of 2; about 21 s left in all ..."
    clock[0] += 9
    assert str(told.shown_line()) == "figures, step 1 of 2; about 12 s left in all ..."


def test_the_time_left_of_the_measuring_holds_what_is_written_after_it(monkeypatch):
    monkeypatch.setattr(writing, "has_chrome", lambda: True)
    made = Writing(8, ("html", "png", "svg", "pdf"))
    seen = made.follow(Progress("map", 10, 50_000, 100.0, 60.0))
    after = sum(each.seconds for each in made.works())
    assert seen.left == pytest.approx(60.0 + after)
    assert made.rows == 50_000
    assert after > 24 * writing.IMAGE
    assert made.follow(Progress("control: random sets", 1, 2, 1.0, 5.0)).left == pytest.approx(5.0 + after)
    assert made.follow(Progress("map", 0, 50_000)).left is None
    monkeypatch.setattr(writing, "has_chrome", lambda: False)
    assert sum(each.seconds for each in made.works()) < after - 24 * writing.IMAGE


def test_the_works_are_those_that_are_done(tmp_path):
    """In their order; and about as many figures as are drawn."""
    said = []
    map = Map(roles=("subject_last", "last"))
    write_report(map_trace(roles=map.roles), tmp_path, formats=["html"], samples=100, step=said.append)
    assert said == [each.name for each in Writing(1, ("html",)).works()]
    assert count_figures(map, 2) == len(list((tmp_path / "figures").glob("*.html")))
    assert count_figures(Map(("head",), roles=("last",)), 1, controls=True, more=1) == 1 + 1 + 2 + 1


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """A folder with a run of mini that has located layers, as the command line makes it, and what it printed."""
    folder = tmp_path_factory.mktemp("terminal runs")
    words = "trace --model mini --swap anti --limit 24 --templates-each 1 --components mlp_out --device cpu"
    words += " --roles subject_last,last --formats html --output run"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        seen, heard = called(patch, shlex.split(words))
    (folder / "out.txt").write_text(seen)
    (folder / "err.txt").write_text(heard)
    return folder


def called(patch, words):
    """What a command line prints on stdout and stderr; it must succeed."""
    out, err = StringIO(), StringIO()
    patch.setattr(sys, "argv", ["locate-bias", *words])
    patch.setattr(sys, "stdout", out)
    patch.setattr(sys, "stderr", err)
    with pytest.raises(SystemExit) as stop:
        locate.cli.main()
    assert stop.value.code == 0, err.getvalue()
    return out.getvalue(), err.getvalue()


def commands_in(text):
    """The commands that an output tells to type next."""
    after = text.partition("what to type next:\n")[2]
    return [shlex.split(line)[1:] for line in after.splitlines() if line.startswith("  locate-bias ")]


def test_every_line_of_progress_says_how_far_it_is_and_what_is_left_in_all(traced):
    lines = (traced / "err.txt").read_text().splitlines()
    for name in ("effects", "ranking", "figures", "report"):
        assert re.search(rf"^{name}, step \d of 4; about \d+ s left in all \.\.\.$", "\n".join(lines), re.MULTILINE)
    measured = [line for line in lines if re.match(r"(map|control: [\w ]+): [\d,]+ of ", line)]
    assert measured
    assert "about 0 s" not in "\n".join(lines)


def test_a_trace_says_how_to_open_its_report(traced):
    assert "\nopen it in a browser: run/report.html\n" in (traced / "out.txt").read_text()


QUICKER = {
    "edit": ["--device", "cpu"],
    "evaluate": ["--tests", "occupations", "--limit", "6", "--formats", "html", "--device", "cpu"],
    "compare": ["--formats", "html"],
    "plot": ["--formats", "html"],
}


@pytest.mark.usefixtures("few_words")
def test_the_commands_that_are_printed_work_one_after_the_other(traced, tmp_path, monkeypatch):
    """trace, edit, evaluate twice, compare: each as it was printed, in the folder where it was printed."""
    shutil.copytree(traced / "run", tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    edit, rank = commands_in((traced / "out.txt").read_text())
    assert edit == ["edit", "mini", "--located", "run/located.json", "--output", "run-edited"]
    assert rank == ["rank", "run", "--direction", "noising"]
    assert "noising" in called(monkeypatch, rank)[0]
    evaluations = commands_in(called(monkeypatch, [*edit, *QUICKER["edit"]])[0])
    assert [words[:2] for words in evaluations[:2]] == [["evaluate", "mini"], ["evaluate", "run-edited"]]
    assert len(evaluations) == 3
    printed = [called(monkeypatch, [*words, *QUICKER[words[0]]])[0] for words in evaluations]
    assert commands_in(printed[0]) == []
    assert commands_in(printed[1]) == [evaluations[2]]
    assert "changes from A to B" in printed[2]


def test_paths_are_quoted_for_a_shell(located, tmp_path):
    made = located_of(located, directions=["denoising"])
    folder = tmp_path / "my runs" / "a'b"
    edit, rank = following.after_trace(made, folder, "my model", {"--revision": "x y", "--allow-pickle": True}, {})
    assert shlex.split(edit)[1:] == [
        "edit", "my model", "--located", str(folder / "located.json"), "--output", f"{folder}-edited",
        "--revision", "x y", "--allow-pickle",
    ]  # fmt: skip
    assert shlex.split(rank)[1:] == ["rank", str(folder), "--metric", "prob_diff"]
    folder.with_name("a'b-edited").mkdir(parents=True)
    (edit, _) = following.after_trace(made, folder, "my model", {}, {})
    assert shlex.split(edit)[-1] == f"{folder}-edited-2"


def located_of(found, **meta):
    """A Located of a trace with other entries in its meta."""
    return replace(found, trace=found.trace | meta)


@pytest.mark.parametrize(
    "change",
    [
        {"layers": ()},
        {"component": "attn_out"},
        {"component": None, "layers": (), "why_no_layers": "only resid_pre was patched"},
        {"kind": "definition"},
    ],
)
def test_no_edit_is_offered_where_none_works(located, tmp_path, change):
    found = following.after_trace(replace(located, **change), tmp_path / "run", "mini", {}, {"--kind": "user"})
    assert not any(" edit " in line for line in found)
    folder = str(tmp_path / "run")
    assert [shlex.split(line)[1:] for line in found] == [
        ["rank", folder, "--kind", "user", "--direction", "noising"],
        ["rank", folder, "--metric", "prob_diff", "--kind", "user"],
    ]
    few = located_of(replace(located, **change), directions=["denoising"], probabilities=False)
    (found,) = following.after_trace(few, tmp_path / "run", "mini", {}, {})
    assert shlex.split(found)[1:] == ["plot", folder]


def test_a_run_made_alike_is_offered_to_be_compared(located, tmp_path):
    """With another model's, the newest; not with its own model's, another experiment's, or one that is not finished."""
    trace = map_trace()
    other = replace(trace, meta=trace.meta | {"recipe": trace.meta["recipe"] | {"weights_sha256": "o" * 64}})
    unlike = {"corruption": {"kind": "noise"}, "directions": ["denoising"]}
    trace.save(tmp_path / "same")
    for name, value in unlike.items():
        replace(other, meta=other.meta | {name: value}).save(tmp_path / name)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "meta.json").write_text("{")
    assert following.other_run(tmp_path / "run", trace.meta) is None
    other.save(tmp_path / "other")
    _, compare = following.after_trace(located, tmp_path / "run", "mini", {}, {})
    assert compare == f"locate-bias compare {tmp_path}/other {tmp_path}/run"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "receipt.json").write_text("{}")
    first, second = following.after_trace(located, tmp_path / "run", str(tmp_path / "model"), {}, {})
    assert first == compare
    assert second.startswith("locate-bias edit ")


SHELLS = {
    "bash": lambda words: {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)},
    "zsh": lambda words: {"_TYPER_COMPLETE_ARGS": words},
}


@pytest.mark.parametrize("shell", SHELLS)
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("locate-bias ", "prompts trace gather rank plot explore edit evaluate compare rewrite selftest"),
        ("locate-bias tr", "trace"),
        ("locate-bias rewrite ", "train run judge"),
        ("locate-bias trace --comp", "--components"),
        ("locate-bias trace --corrupt ", "swap noise"),
        ("locate-bias trace --components attn_out,m", "attn_out,mlp_out attn_out,mlp_out_unit"),
        ("locate-bias trace --components attn_out,attn", ""),
        ("locate-bias trace --roles sub", "subject_first subject_middle subject_last"),
        ("locate-bias trace --direction ", "denoising noising both"),
        ("locate-bias rank run --metric neu", "neutral_male"),
        ("locate-bias rank run --direction n", "noising"),
        ("locate-bias rank run --quantity ", "nie nde total"),
        ("locate-bias rank run --layers-of mlp_out_", "mlp_out_unit"),
        ("locate-bias edit mini --method m", "memit"),
        ("locate-bias evaluate mini --tests occupations,bb", "occupations,bbq"),
        ("locate-bias evaluate mini --formats html,p", "html,png html,pdf"),
    ],
)
def test_shells_complete_verbs_options_and_values(run, monkeypatch, shell, words, expected):  # noqa: F811
    monkeypatch.setenv("_LOCATE_BIAS_COMPLETE", f"complete_{shell}")
    for name, value in SHELLS[shell](words).items():
        monkeypatch.setenv(name, value)
    code, out, _ = run()
    assert code == 0
    found = re.findall(r'^[^"]*"([^"]+)"', out, re.MULTILINE) if shell == "zsh" else out.split()
    assert sorted(expected.split()) == sorted(found)


def test_names_that_are_completed_are_those_that_are_taken():
    from locate.cli import completion
    from locate.editors.methods import HOME
    from locate.model.hooked import DTYPES
    from locate.report.write import FORMATS

    assert set(completion.METHOD("")) == set(HOME)
    assert set(completion.DTYPE("")) == set(DTYPES)
    assert set(completion.FORMAT_LIST("")) == set(FORMATS)


@pytest.mark.parametrize("shell", SHELLS)
def test_the_completion_script_calls_the_program(run, monkeypatch, shell):  # noqa: F811
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    code, out, _ = run("--show-completion", shell)
    assert code == 0
    assert f"_LOCATE_BIAS_COMPLETE=complete_{shell}" in out
