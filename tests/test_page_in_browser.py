"""report.html in a real browser: what it shows, what a click opens, and that it asks nobody for anything."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from browser import PALE_TEXT, PHONE, SITE, SIZES, SMALL_TEXT, opened
from handmade import map_trace
from playwright.sync_api import expect

from locate.report import write_report

NASTY = (
    "The {subject} said \"<script>alert('1')</script>\" & that",
    "قال {subject} ان",
    "The {subject} " + "very " * 200,
)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder whose prompts hold quotes, angle brackets, right-to-left text and 200 tokens."""
    folder = tmp_path_factory.mktemp("run")
    write_report(map_trace(layers=4, templates=NASTY), folder, formats=["html"])
    return folder


@pytest.fixture(scope="module")
def table(run) -> pd.DataFrame:
    return pd.read_csv(run / "effects.csv", keep_default_na=False, na_values=[""])


def row_of(table: pd.DataFrame, metric: str = "logit_diff", direction: str = "denoising") -> pd.Series:
    """The row of effects.csv that the cell `SITE` shows."""
    rows = table[(table["quantity"] == "nie") & (table["direction"] == direction) & (table["component"] == "mlp_out")]
    rows = rows[(rows["layer"] == 1) & (rows["role"] == "subject_last")]
    assert len(rows) == 1
    return rows.iloc[0]


def button(seen, words: str = SITE):
    """The map's button of that name."""
    return seen.page.get_by_role("button", name=re.compile("^" + re.escape(words)))


def fact(seen, name: str) -> str:
    """A fact of the open cell."""
    return seen.page.locator("#cell dt", has_text=re.compile(f"^{name}$")).locator("+ dd").inner_text()


def first_number(text: str) -> float:
    return float(re.search(r"[-+]?\d+\.\d+", text)[0])


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_asked_for_cut_small_or_pale(browser, run, size):
    with opened(browser, run / "report.html", size) as seen:
        button(seen).click()
        expect(seen.page.locator("#cell table.pairs")).to_be_visible()
        assert seen.page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert seen.page.evaluate(SMALL_TEXT) == []
        for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 23, 27)")):
            seen.page.emulate_media(color_scheme=scheme)
            assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            assert seen.page.evaluate(PALE_TEXT) == []
        seen.page.evaluate("document.querySelectorAll('.plot').forEach((each) => each.scrollIntoView())")
        assert seen.elsewhere((run.as_uri(),)) == []
        assert seen.requests == [(run / "report.html").as_uri()]
        assert seen.complaints == []


def test_the_answer_and_the_map_are_on_the_first_screen(browser, run):
    with opened(browser, run / "report.html") as seen:
        for words in ("What carries it", "How sure that is", "What to do next"):
            assert seen.page.get_by_role("heading", name=words).bounding_box()["y"] < 500
        assert seen.page.locator("table.map button").first.bounding_box()["y"] < 900


def test_the_page_has_a_language_a_title_and_tables_with_headings(browser, run):
    with opened(browser, run / "report.html") as seen:
        assert seen.page.evaluate("document.documentElement.lang") == "en"
        assert seen.page.title() == "Where paper carries gender bias"
        assert seen.page.locator("table:not(:has(th[scope=col]))").count() == 0
        assert seen.page.locator("figure:not(:has(figcaption))").count() == 0
        places = seen.page.locator("nav a").evaluate_all(
            "links => links.map((each) => each.getAttribute('href').slice(1))"
        )
        assert places[0] == "map"
        assert all(seen.page.locator(f"#{name}").count() == 1 for name in places)


def test_every_figure_is_drawn_without_a_button_that_uploads(browser, run):
    with opened(browser, run / "report.html") as seen:
        figures = seen.page.locator(".plot")
        assert figures.count() == 4
        for place in range(figures.count()):
            figures.nth(place).scroll_into_view_if_needed()
            expect(figures.nth(place).locator("svg.main-svg").first).to_be_visible()
        assert seen.page.locator("[data-title*='Share'], [aria-label*='Share']").count() == 0
        assert seen.complaints == []


def test_a_cell_is_opened_by_the_keyboard_and_shows_the_numbers_of_the_table(browser, run, table):
    row = row_of(table)
    with opened(browser, run / "report.html") as seen:
        button(seen).focus()
        seen.page.keyboard.press("Enter")
        effect = fact(seen, "effect")
        numbers = [float(each) for each in re.findall(r"[-+]?\d+\.\d+", effect)]
        assert numbers[:3] == pytest.approx([row["effect"], row["low"], row["high"]], abs=6e-4)
        assert fact(seen, "n") == f"{row['n']} pairs of {row['groups']} occupations"
        assert fact(seen, "module") == "transformer.h.1.mlp.c_proj"
        assert "towards the stereotype" in effect


def pairs_shown(seen) -> pd.DataFrame:
    """All rows of the open cell's table of pairs."""
    more = seen.page.get_by_role("button", name=re.compile("^show all"))
    if more.count():
        more.click()
    cells = seen.page.locator("#cell table.pairs tbody tr").evaluate_all(
        "rows => rows.map((row) => [...row.children].map((each) => each.textContent))"
    )
    return pd.DataFrame(cells, columns=["group", "effect", "total", "clean", "corrupted"])


@pytest.mark.parametrize("view", ["stereotype", "signed"])
@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_the_pairs_of_a_cell_average_to_it(browser, run, direction, view):
    with opened(browser, run / "report.html", fragment=f"#metric=logit_diff&view={view}&direction={direction}") as seen:
        button(seen).click()
        shown = pairs_shown(seen)
        assert len(shown) == 36
        assert shown["effect"].astype(float).mean() == pytest.approx(first_number(fact(seen, "effect")), abs=1e-3)


@pytest.mark.parametrize("size", SIZES)
def test_metrics_that_are_not_there_are_told_under_the_switches(browser, run, size):
    with opened(browser, run / "report.html", size) as seen:
        said = seen.page.locator("#absent")
        assert said.inner_text().startswith("Not to choose from here: log-odds of the female against the neutral")
        assert said.bounding_box()["y"] > seen.page.locator("#direction").bounding_box()["y"]


def test_prompts_are_text(browser, run):
    with opened(browser, run / "report.html") as seen:
        button(seen).click()
        clean = set(pairs_shown(seen)["clean"])
        assert {NASTY[0].format(subject="nurse"), NASTY[1].format(subject="nurse")} <= clean
        assert any(len(each) > 900 for each in clean)
        assert seen.page.locator("#cell script").count() == 0


def test_the_table_of_pairs_sorts_by_each_of_its_columns(browser, run):
    with opened(browser, run / "report.html") as seen:
        button(seen).click()
        effects = pairs_shown(seen)["effect"].astype(float)
        assert effects.is_monotonic_decreasing
        seen.page.locator("#cell table.pairs thead").get_by_role("button", name="effect").first.click()
        assert pairs_shown(seen)["effect"].astype(float).is_monotonic_increasing
        seen.page.locator("#cell table.pairs thead").get_by_role("button", name="occupation").click()
        assert pairs_shown(seen)["group"].is_monotonic_increasing
        assert seen.page.locator("#cell th[aria-sort=ascending]").inner_text().startswith("occupation")


def test_metric_and_direction_change_map_caption_and_address_and_a_reload_keeps_them(browser, run):
    with opened(browser, run / "report.html") as seen:
        button(seen).click()
        before = button(seen).inner_text(), seen.page.locator("#caption").inner_text()
        seen.page.get_by_label("metric").select_option("prob_diff")
        seen.page.get_by_label("direction").select_option("noising")
        after = button(seen).inner_text(), seen.page.locator("#caption").inner_text()
        assert before[0] != after[0]
        assert "Noising" in after[1]
        assert "probability" in after[1]
        assert "metric=prob_diff" in seen.page.url
        assert "direction=noising" in seen.page.url
        panel = seen.page.locator("#cell").inner_text()
        seen.page.reload()
        assert (button(seen).inner_text(), seen.page.locator("#caption").inner_text()) == after
        assert seen.page.locator("#cell").inner_text() == panel


def test_a_metric_that_has_one_view_alone_takes_it(browser, run):
    with opened(browser, run / "report.html", fragment="#metric=odds_ratio&view=signed&direction=denoising") as seen:
        assert seen.page.get_by_label("view").input_value() == "stereotype"
        assert "away from the stereotype" in seen.page.locator("#caption").inner_text()


def test_an_address_that_names_nothing_opens_the_page(browser, run):
    with opened(browser, run / "report.html", fragment="#metric=none&cell=999999&direction=up") as seen:
        assert seen.page.get_by_label("metric").input_value() == "logit_diff"
        assert seen.complaints == []


def test_arrows_move_from_cell_to_cell(browser, run):
    with opened(browser, run / "report.html") as seen:
        button(seen).focus()
        seen.page.keyboard.press("ArrowRight")
        focused = "document.activeElement.getAttribute('aria-label')"
        assert seen.page.evaluate(focused).startswith("MLP output, layer 2, last token of the occupation")
        seen.page.keyboard.press("ArrowDown")
        assert seen.page.evaluate(focused).startswith("MLP output, layer 2, last token of the prompt")
        assert seen.page.locator("table.map").last.locator("button[tabindex='0']").count() == 1


def saved(seen, name: str) -> pd.DataFrame:
    """The CSV that a button saves."""
    with seen.page.expect_download() as found:
        seen.page.get_by_role("button", name=name).click()
    return pd.read_csv(
        io.StringIO(found.value.path().read_text(encoding="utf-8")), keep_default_na=False, na_values=[""]
    )


def test_the_csv_of_a_map_is_that_of_the_run(browser, run, table):
    with opened(browser, run / "report.html") as seen:
        got = saved(seen, "CSV of this map")
    expected = table[(table["quantity"] == "nie") & (table["direction"] == "denoising")]
    names = ["component", "layer", "role"]
    both = got.merge(expected, on=names, suffixes=("", "_run"), validate="one_to_one")
    assert len(both) == len(got) == len(expected)
    for name in ("effect", "low", "high", "q", "n", "groups"):
        np.testing.assert_allclose(both[name], both[f"{name}_run"], rtol=1e-5, atol=1e-9)
    assert np.isfinite(both[["effect", "low", "high", "q"]].to_numpy()).all()


def test_the_csv_of_a_cell_holds_its_pairs_with_any_text(browser, run):
    with opened(browser, run / "report.html") as seen:
        button(seen).click()
        got = saved(seen, "CSV of this cell")
        assert got["effect"].mean() == pytest.approx(first_number(fact(seen, "effect")), abs=1e-3)
    assert set(got["clean"]) == {each.format(subject=group) for each in NASTY for group in got["group"]}


def test_a_phone_shows_layers_below_each_other(browser, run):
    with opened(browser, run / "report.html", PHONE) as seen:
        heads = seen.page.locator("table.map").first.locator("thead th").all_inner_texts()
        assert [each.lower() for each in heads[:2]] == ["layer", "tokens before the occupation"]
        seen.page.set_viewport_size({"width": 1400, "height": 900})
        expect(seen.page.locator("table.map").first.locator("thead th").nth(1)).to_have_text("0")


def test_the_policy_lets_no_other_script_run(browser, run, tmp_path):
    page = (run / "report.html").read_text(encoding="utf-8")
    changed = tmp_path / "changed.html"
    changed.write_text(page.replace("<main>", "<main><script>document.title = 'mine'</script>", 1), encoding="utf-8")
    with opened(browser, changed) as seen:
        assert seen.page.title() == "Where paper carries gender bias"
        assert any("Content Security Policy" in each for each in seen.complaints)


def test_the_html_of_a_figure_draws_with_the_plotly_beside_it(browser, run):
    path = run / "figures" / "map_denoising.html"
    with opened(browser, path) as seen:
        expect(seen.page.locator("svg.main-svg").first).to_be_visible()
        assert seen.elsewhere((path.parent.as_uri(),)) == []
        assert seen.complaints == []
        assert "denoising" in seen.page.title()
