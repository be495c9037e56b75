"""The live page in a real browser: every switch, a cell, a pair, two runs, and a prompt of one's own."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import pytest
from browser import PALE_TEXT, PHONE, SITE, SIZES, SMALL_TEXT, visited
from handmade import map_trace, steady
from playwright.sync_api import expect

from locate.explorer.opening import explore
from locate.report import write_report

NASTY = ("The {subject} said \"<script>alert('1')</script>\" & that", "قال {subject} ان")


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> tuple[Path, Path]:
    """Two runs whose prompts hold quotes, angle brackets and right-to-left text; the second has half the effects."""
    found = []
    for name, size in (("one", 1.0), ("two", 0.5)):
        folder = tmp_path_factory.mktemp(name)
        made = map_trace(lambda *place, size=size: size * steady(*place), templates=NASTY)
        hashed = {"weights_sha256": name * 8}
        about = {"model": made.meta["model"] | hashed | {"name": name}, "recipe": made.meta["recipe"] | hashed}
        made = replace(made, meta=made.meta | about)
        made.save(folder)
        write_report(made, folder, formats=["html"])
        found.append(folder)
    return found[0], found[1]


@pytest.fixture(scope="module")
def alone(runs):
    found = explore(runs[0])
    yield found.url
    found.close()


@pytest.fixture(scope="module")
def with_model(runs):
    found = explore(runs[0], model="mini")
    yield found.url
    found.close()


def button(seen, words: str = SITE):
    """The map's button of that name."""
    return seen.page.get_by_role("button", name=re.compile("^" + re.escape(words)))


def fact(seen, name: str):
    """A fact of the open cell."""
    return seen.page.locator("#cell dt", has_text=re.compile(f"^{name}$")).locator("+ dd")


@pytest.mark.parametrize("size", SIZES)
def test_nothing_is_asked_for_cut_small_or_pale(browser, with_model, size):
    with visited(browser, with_model, size) as seen:
        button(seen).click()
        expect(seen.page.locator("#cell table.pairs").first).to_be_visible()
        expect(seen.page.locator("#tokens .token").first).to_be_visible()
        assert seen.page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert seen.page.evaluate(SMALL_TEXT) == []
        assert seen.page.locator("[data-title*='Share'], [aria-label*='Share']").count() == 0
        for scheme, background in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(23, 23, 27)")):
            seen.page.emulate_media(color_scheme=scheme)
            assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == background
            assert seen.page.evaluate(PALE_TEXT) == []
        assert seen.elsewhere(("http://127.0.0.1:",)) == []
        assert seen.complaints == []


def test_a_cell_is_opened_by_the_keyboard_and_its_pairs_average_to_it(browser, runs, alone):
    table = pd.read_csv(runs[0] / "effects.csv", keep_default_na=False, na_values=[""])
    rows = table[(table["quantity"] == "nie") & (table["direction"] == "denoising") & (table["component"] == "mlp_out")]
    row = rows[(rows["layer"] == 1) & (rows["role"] == "subject_last")].iloc[0]
    with visited(browser, alone) as seen:
        button(seen).focus()
        seen.page.keyboard.press("Enter")
        expect(fact(seen, "effect")).to_contain_text("towards the stereotype")
        numbers = [float(each) for each in re.findall(r"[-+]?\d+\.\d+", fact(seen, "effect").inner_text())]
        assert numbers[:3] == pytest.approx([row["effect"], row["low"], row["high"]], abs=6e-4)
        cells = seen.page.locator("#cell table.pairs td:nth-child(2)").all_text_contents()
        assert len(cells) == 24
        assert sum(map(float, cells)) / len(cells) == pytest.approx(row["effect"], abs=1e-3)
        assert seen.page.locator("#cell script").count() == 0


def test_switches_change_map_caption_and_address_and_a_reload_keeps_them(browser, alone):
    with visited(browser, alone) as seen:
        button(seen).click()
        before = button(seen).inner_text()
        seen.page.locator("#metric").get_by_text("probability of the female").click()
        expect(seen.page.locator("#caption")).to_contain_text("probability of the female")
        seen.page.locator("#direction").get_by_text("noising", exact=True).click()
        expect(seen.page.locator("#caption")).to_contain_text("Noising")
        assert button(seen).inner_text() != before
        asked = {name: values[0] for name, values in parse_qs(urlsplit(seen.page.url).query).items()}
        assert (asked["metric"], asked["direction"]) == ("prob_diff", "noising")
        shown = [seen.page.locator(name).inner_text() for name in ("#caption", "#maps", "#cell dl")]
        seen.page.reload()
        expect(seen.page.locator("#caption")).to_have_text(shown[0])
        expect(seen.page.locator("#cell dl")).to_be_visible()
        assert [seen.page.locator(name).inner_text() for name in ("#caption", "#maps", "#cell dl")] == shown


def test_a_pair_opens_with_its_tokens_and_its_own_map(browser, alone):
    with visited(browser, alone) as seen:
        button(seen).click()
        seen.page.locator("#cell button[data-pair]").first.click()
        pair = seen.page.locator("#pair")
        expect(pair.locator("h3")).to_contain_text("one pair, no interval")
        assert pair.locator("table.map").count() == 3
        assert pair.locator("script").count() == 0
        assert float(pair.locator("table").first.locator("td").nth(2).inner_text()) <= 1


def test_two_runs_show_what_changed(browser, runs):
    page = explore(*runs)
    try:
        with visited(browser, page.url) as seen:
            shown = {}
            for panel in ("B - A", "A", "B"):
                seen.page.locator("#panel").get_by_text(panel, exact=True).click()
                expect(seen.page).to_have_url(re.compile(f"panel={panel.replace(' ', '.')}&"))
                button(seen).click()
                expect(fact(seen, "effect")).to_be_visible()
                shown[panel] = float(button(seen).inner_text())
            assert shown["B - A"] == pytest.approx(shown["B"] - shown["A"], abs=0.011)
            assert shown["B - A"] < -0.3
    finally:
        page.close()


def test_a_prompt_of_ones_own_is_read_at_once_and_measured(browser, with_model):
    with visited(browser, with_model) as seen:
        expect(seen.page.locator("#tokens .token").first).to_be_visible()
        seen.page.get_by_label("subject", exact=True).fill('<script>alert("1")</script>')
        expect(seen.page.locator("#tokens")).to_contain_text('<script>alert("1")</script>')
        seen.page.get_by_role("button", name="Measure").click()
        expect(seen.page.locator("#probabilities table")).to_contain_text('The <script>alert("1")</script> said that')
        expect(seen.page.locator("#own-map table").first).to_be_visible(timeout=20000)
        expect(seen.page.locator("#own-map")).to_contain_text("one pair, no interval")
        assert seen.page.locator("#own-map script, #tokens script").count() == 0
        assert seen.complaints == []


def test_a_measured_prompt_is_kept_in_the_address(browser, with_model):
    with visited(browser, with_model, PHONE) as seen:
        expect(seen.page.locator("#tokens .token").first).to_be_visible()
        seen.page.get_by_label("subject", exact=True).fill("nurse & 'co'")
        seen.page.get_by_role("button", name="Measure").click()
        expect(seen.page.locator("#own-map table.upright").first).to_be_visible(timeout=20000)
        before = seen.page.locator("#own-map").inner_text()
        seen.page.reload()
        expect(seen.page.get_by_label("subject", exact=True)).to_have_value("nurse & 'co'")
        expect(seen.page.locator("#own-map table").first).to_be_visible(timeout=20000)
        expect(seen.page.locator("#probabilities table")).to_be_visible()
        assert seen.page.locator("#own-map").inner_text() == before
        assert seen.complaints == []


def test_on_a_phone_layers_run_down_and_nothing_is_hidden_at_the_side(browser, alone):
    with visited(browser, alone, PHONE) as seen:
        expect(button(seen)).to_be_visible()
        table = seen.page.locator("#maps table", has=button(seen))
        assert table.locator("thead th").first.inner_text() == "layer"
        wider = "every => every.map(each => each.scrollWidth - each.clientWidth)"
        assert set(seen.page.eval_on_selector_all("#maps .scroll", wider)) == {0}
        cell = button(seen)
        place, layer, column = (int(each) for each in cell.get_attribute("data-place").split(","))
        row = table.locator("tbody tr").nth(layer)
        assert row.locator("th").inner_text() in SITE
        assert row.locator("td").nth(column).locator("button").get_attribute("aria-label").startswith(SITE)
        cell.focus()
        cell.press("ArrowDown")
        below = seen.page.evaluate("document.activeElement.dataset.place")
        assert below == f"{place},{layer + 1},{column}"


def test_a_prompt_that_makes_no_pair_is_refused_in_words(browser, with_model):
    with visited(browser, with_model) as seen:
        seen.page.get_by_label("sentence with {subject}").fill("The nurse said that")
        expect(seen.page.locator("#tokens .refusal")).to_contain_text("expected {subject} exactly once")
        seen.page.get_by_role("button", name="Measure").click()
        expect(seen.page.locator("#probabilities .refusal")).to_contain_text("expected {subject} exactly once")


def test_the_map_is_saved_as_a_picture(browser, alone):
    with visited(browser, alone) as seen:
        expect(button(seen)).to_be_visible()
        for name, begins in (("SVG", b"<svg"), ("PNG of the map", b"\x89PNG"), ("HTML", b"<!doctype html")):
            with seen.page.expect_download(timeout=60000) as found:
                seen.page.get_by_role("button", name=name, exact=True).click()
            assert found.value.path().read_bytes().startswith(begins), name
