"""Figures from hand-made averages, and what a report writes."""

import html
import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import plotly.io
import pytest
from handmade import GROUPS, META, both, map_trace, odds, trace_of
from scipy import stats

from locate import LocateError, analyse, load_located, load_trace
from locate.mediation import effects
from locate.mediation.analysis import Shown
from locate.prompts import occupation_table
from locate.report import draw_figures, images, save_figures, write_report
from locate.report.figures import plot_heads, plot_layers, plot_map
from locate.report.occupations import plot_occupations
from locate.report.pair import plot_pair
from locate.report.quiet import CONFIG
from locate.report.theme import COLOURS, bare, colour, contrast, ink, limit_of, luminance, with_foot
from locate.report.write import figures_of

SCRIPT = "<script>alert(1)</script>"


def grey(text):
    """The label of words that no patch was made at."""
    return f'<span style="color:#555555">{text}</span>'


UNPLACED = grey("…")


def doubled(trace):
    """The trace with its pair a second time as of another group: averages need two."""
    other = trace.table.assign(pair=1, group="other")
    return replace(trace, table=pd.concat([trace.table, other], ignore_index=True))


def averages_of(cells, **about):
    """Averages from a list of cells; what a cell does not say is that of an MLP output at its subject."""
    given = {
        "direction": "denoising", "component": "mlp_out", "layer": 0, "unit": -1, "window": 1, "severed": "",
        "origin": "source", "role": "subject_last", "key": "", "name": "", "effect": 1.0, "n": 24, "groups": 12,
        "p": 0.01, "q": 0.01,
    }  # fmt: skip
    rows = [
        given | {"low": cell.get("effect", 1.0) - 0.5, "high": cell.get("effect", 1.0) + 0.25} | cell for cell in cells
    ]
    return Shown(pd.DataFrame(rows), **about)


def colours(figure):
    """The heatmaps that carry the colours, one a panel."""
    return [trace for trace in figure.data if trace.type == "heatmap" and trace.coloraxis]


def marked(figure, name="fails"):
    """Which cells have a dot ("fails"), are hatched ("hatching") or framed ("frames"), one array a panel."""
    found = []
    for panel in colours(figure):
        cells = np.zeros(np.shape(panel.z), dtype=bool)
        for trace in figure.data:
            if trace.name == name and (trace.xaxis, trace.yaxis) == (panel.xaxis, panel.yaxis):
                places = [np.floor(np.array(each, dtype=float) + 0.5) for each in (trace.y, trace.x)]
                known = np.isfinite(places[0])
                cells[places[0][known].astype(int), places[1][known].astype(int)] = True
        found.append(cells)
    return found


def numbers(figure):
    """What is written in the cells, one array a panel, and each number's colour."""
    texts = [trace for trace in figure.data if trace.name == "numbers"]
    return [
        (
            np.where(one.text == "", other.text, one.text),
            np.where(one.text == "", other.textfont.color, one.textfont.color),
        )
        for one, other in zip(texts[::2], texts[1::2], strict=True)
    ]


def labels(figure):
    """The labels of the columns of the first panel, without line breaks."""
    return [each.replace("<br>", " ") for each in figure.layout.xaxis.ticktext]


def panel_titles(figure):
    """The titles of the panels."""
    return [each.text for each in figure.layout.annotations if each.name is None]


def lines(figure):
    """The lines of averages by their name."""
    return {trace.name: trace for trace in figure.data if trace.type == "scatter" and trace.name}


def drawn_words(figure):
    """Everything that is written around a figure's panels, as it is marked up."""
    return "".join(each.text for each in figure.layout.annotations)


def bands(figure):
    """The intervals by the name of their line."""
    return {trace.legendgroup: trace for trace in figure.data if trace.type == "scatter" and trace.fill}


def caption(figure):
    """Title and caption as plain text."""
    return f"{figure.layout.meta['title']} {figure.layout.meta['caption']}"


class Page(HTMLParser):
    """What a page would fetch, and how many scripts it runs."""

    def __init__(self):
        super().__init__()
        self.fetched, self.scripts, self.open = [], [], False

    def handle_starttag(self, tag, attrs):
        self.open = tag == "script"
        self.fetched += [value for name, value in attrs if name in ("src", "href")]
        if self.open:
            self.scripts.append("")

    def handle_data(self, data):
        if self.open:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self.open = False


def read_page(path):
    """A page, parsed."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


@pytest.fixture(scope="module")
def averages():
    """Averages of the steady map in both directions."""
    return analyse(map_trace()).shown()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A report of the steady map, with its folder."""
    folder = tmp_path_factory.mktemp("run")
    steps = []
    made = write_report(map_trace(), folder, formats=["html"], step=steps.append)
    return folder, made, steps


@pytest.mark.parametrize("direction", ["denoising", "noising"])
def test_map_shows_every_average_in_its_cell(averages, direction):
    figure = plot_map(averages, direction=direction)
    keyed = averages.table[averages.table["direction"] == direction].set_index(["component", "layer", "role"])
    for component, panel in zip(("resid_pre", "attn_out", "mlp_out"), colours(figure), strict=True):
        for layer in range(3):
            for column, role in enumerate(("before_subject", "subject_last", "last")):
                cell = keyed.loc[(component, layer, role)]
                assert panel.z[layer][column] == cell["effect"] or (np.isnan(panel.z[layer][column]) and column == 0)
    assert list(figure.layout.yaxis.ticktext) == ["0", "1", "2"]
    assert labels(figure) == ["tokens before the occupation", "<b>last token of the occupation</b>",
                              "last token of the prompt"]  # fmt: skip
    assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]


def test_hover_tells_site_effect_interval_share_counts_q_and_stability(averages):
    figure = plot_map(averages)
    row = averages.table.query("direction == 'denoising' and component == 'mlp_out' and layer == 0").set_index("role")
    cell = row.loc["subject_last"]
    assert colours(figure)[2].hovertext[0][1].split("<br>") == [
        "<b>MLP output, layer 0, last token of the occupation</b>",
        f"effect {cell['effect']:+.3f} [{cell['low']:+.3f}, {cell['high']:+.3f}] nats",
        f"{cell['effect'] / 4:.0%} of the total effect",
        "n 24 pairs, 12 groups; q < 0.001",
        f"among the five strongest in {cell['stability']:.0%} of resamples",
    ]
    (located,) = [
        site for site in analyse(map_trace()).rank(direction="denoising").sites
        if (site.component, site.layer, site.role) == ("mlp_out", 0, "subject_last")
    ]  # fmt: skip
    assert cell["stability"] == located.stability > 0
    assert averages.table.query("component == 'resid_pre'")["stability"].isna().all()
    assert "resamples" not in colours(figure)[0].hovertext[0][1]
    signed = plot_map(replace(averages, table=averages.table.drop(columns=["share", "stability"])))
    assert len(colours(signed)[2].hovertext[0][1].split("<br>")) == 3


def test_map_leaves_cells_without_a_row_empty():
    figure = plot_map(averages_of([{"layer": 0, "role": "last"}, {"layer": 2, "effect": 2.0}]))
    (panel,) = colours(figure)
    assert np.array(panel.z) == pytest.approx(np.array([[np.nan, 1.0], [2.0, np.nan]]), nan_ok=True)
    assert list(figure.layout.yaxis.ticktext) == ["0", "2"]
    assert marked(figure, "hatching")[0].tolist() == [[True, False], [False, True]]
    empty = next(trace for trace in figure.data if trace.name == "empty")
    assert (empty.hovertext[0][0], empty.hovertemplate) == ("not measured", "%{hovertext}<extra></extra>")
    assert "hatched: not measured, or 0 within rounding" in caption(figure)


def test_cells_that_are_0_within_rounding_are_hatched_and_others_are_not():
    still = {"effect": 1e-6, "low": -9e-6, "high": 1e-5}
    cells = [{"layer": 0} | still, {"layer": 1, "low": -2e-5} | {"effect": 0.0, "high": 0.0}, {"layer": 2}]
    figure = plot_map(averages_of(cells, rounding=1e-5))
    assert marked(figure, "hatching")[0].tolist() == [[True], [False], [False]]
    assert np.isnan(colours(figure)[0].z[0][0])
    empty = next(trace for trace in figure.data if trace.name == "empty")
    assert "0 within rounding: nothing that follows from it reaches the answer" in empty.hovertext[0][0]
    assert "n 24 pairs, 12 groups" in empty.hovertext[0][0]
    assert "hatched" not in caption(plot_map(averages_of([{}])))


def test_an_analysis_knows_its_rounding_in_the_unit_of_each_quantity():
    trace = map_trace()
    trace.meta["audit"] = {"engine": {"largest_difference": 1e-3}}
    assert analyse(trace).shown().rounding == pytest.approx(2e-3)
    assert analyse(trace).shown("nie / total").rounding == pytest.approx(2e-3 / 4)
    probabilities = analyse(trace, metric="prob_diff")
    largest = probabilities.effects[["base", "source"]].abs().max().max()
    assert probabilities.shown().rounding == pytest.approx(2e-3 * largest)
    assert analyse(trace, metric="odds_ratio").shown().rounding == pytest.approx(2e-3)


def test_panels_are_titled_by_component(averages):
    assert panel_titles(plot_map(averages)) == ["residual stream", "attention output", "MLP output"]


@pytest.mark.parametrize("sizes", [(0.5, -3.0), (3.0, 0.5), (-0.1, -0.2)])
def test_colours_are_centred_on_zero_and_reach_the_largest_effect(sizes):
    cells = [{"component": name, "effect": size} for name, size in zip(("attn_out", "mlp_out"), sizes, strict=True)]
    axis = plot_map(averages_of(cells)).layout.coloraxis
    assert axis.cmax == -axis.cmin == max(abs(size) for size in sizes)
    assert axis.colorbar.title.text == "nats"
    figure = plot_map(averages_of(cells))
    drawn = dict(figure.layout.template.layout.coloraxis.colorscale)
    assert drawn[0.5] == colour(0, 1) == "#f7f7f7"
    assert (drawn[0.0], drawn[1.0]) == (colour(-9, 1), colour(9, 1))


def test_colours_do_not_depend_on_rows_that_are_not_drawn():
    cells = [{"effect": 1.0}, {"effect": 9.0, "direction": "noising"}, {"effect": 8.0, "window": 3}]
    assert plot_map(averages_of(cells)).layout.coloraxis.cmax == 1.0


def test_a_map_of_zeros_can_be_drawn():
    assert plot_map(averages_of([{"effect": 0.0}])).layout.coloraxis.cmax > 0


def test_dots_mark_exactly_the_cells_beyond_the_threshold():
    q = [[0.01, 0.05], [0.0501, 1.0]]
    cells = [
        {"layer": layer, "role": role, "q": q[layer][column]}
        for layer in range(2)
        for column, role in enumerate(("subject_last", "last"))
    ]
    figure = plot_map(averages_of(cells))
    assert marked(figure)[0].tolist() == [[False, False], [True, True]]
    assert (np.array(colours(figure)[0].z) == 1.0).all()
    assert not [trace for trace in figure.data if trace.opacity]


def test_cells_without_a_row_have_no_dot():
    figure = plot_map(averages_of([{"layer": 0, "role": "last", "q": 1.0}, {"layer": 1}]))
    assert marked(figure)[0].tolist() == [[False, True], [False, False]]


@pytest.mark.parametrize(
    ("sizes", "texts"),
    [
        ((2.4, -0.104, 0.004, 0.0), ["+2.40", "-0.10", "0", "0"]),
        ((0.02, -0.0123, 0.0004, 0.00004), ["+0.020", "-0.012", "0", "0"]),
        ((0.0004, -0.00012, 0.000011, 0), ["+0.00040", "-0.00012", "+0.00001", "0"]),
        ((231.0, -12.0, 0.4, 0), ["+231", "-12", "0", "0"]),
    ],
)
def test_numbers_in_cells_have_the_decimals_that_the_map_needs(sizes, texts):
    figure = plot_map(averages_of([{"layer": layer, "effect": size} for layer, size in enumerate(sizes)], rounding=-1))
    assert numbers(figure)[0][0].ravel().tolist() == texts
    written, told = texts[0], colours(figure)[0].hovertext[0][0]
    assert f"effect {sizes[0]:+.{len(written.partition('.')[2]) + 1}f} [" in told


def test_numbers_can_be_read_on_every_colour_of_the_scale():
    ramp = np.linspace(-3, 3, 601)
    assert min(contrast(colour(each, 3), ink(colour(each, 3))) for each in ramp) >= 4.5
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert luminance("#808080") == pytest.approx(0.2159, abs=1e-4)
    cells = [{"layer": number, "effect": size, "q": 0.5} for number, size in enumerate(np.linspace(-1, 1, 21))]
    figure = plot_map(averages_of(cells, rounding=-1))
    ((texts, inks),) = numbers(figure)
    assert (texts != "").all()
    assert inks.ravel().tolist() == [ink(colour(cell["effect"], 1)) for cell in cells]
    assert {"#000000", "#ffffff"} == set(inks.ravel())
    (dots,) = [trace for trace in figure.data if trace.name == "fails"]
    assert list(dots.marker.color) == inks.ravel().tolist()


def test_the_colour_of_a_value_is_mixed_as_on_the_bar():
    assert colour(0.2, 1) == "#fee0b6"
    assert colour(0.1, 1) == "#faecd6"  # halfway from #f7f7f7 to #fee0b6
    assert colour(-1, 1) == colour(-7, 1) == "#2d004b"


@pytest.mark.parametrize(
    ("values", "limit", "beyond"),
    [
        ([0.5, -3.0, 0.1], 3.0, 0),
        ([], 1.0, 0),
        ([0.0, np.nan], 1.0, 0),
        ([0.5] * 99 + [1.9], 1.9, 0),  # less than four times the others
        ([0.5] * 99 + [-2.1], 0.5, 1),
        ([0.5] * 40 + [23.6], 23.6, 0),  # the 98th percentile of so few is the largest itself
        ([0.0] * 200 + [0.5, 9.0], 9.0, 0),  # a scale does not end at 0
        ([0.1] * 97 + [0.6] + [23.6, -5.0], 5.0, 1),
    ],
)
def test_a_scale_ends_below_a_few_outliers(values, limit, beyond):
    assert limit_of(values) == (limit, beyond)


def test_cells_beyond_the_scale_are_framed_and_told():
    cells = [{"layer": layer, "effect": 0.6 if layer else -23.6} for layer in range(80)]
    cells += [{"layer": layer, "role": "last", "effect": 0.0, "low": 0.0, "high": 0.0} for layer in range(80)]
    figure = plot_map(averages_of(cells))
    assert figure.layout.coloraxis.cmax == 0.6
    framed, unframed = marked(figure, "frames")[0][:, 0], marked(figure, "frames")[0][:, 1]
    assert framed.tolist() == [True] + [False] * 79
    assert not unframed.any()
    assert numbers(figure)[0][0][0][0] == "-23.60"
    assert "framed: beyond the colour scale, which ends at 0.60" in caption(figure)
    assert "framed" in figure.layout.coloraxis.colorbar.title.text
    assert "framed" not in caption(plot_map(averages_of(cells[1:])))


@pytest.mark.parametrize("direction", ["denoising", "noising"])
@pytest.mark.parametrize("plot", [plot_map, plot_layers])
def test_caption_tells_direction_metric_unit_n_groups_and_level(averages, plot, direction):
    text = caption(plot(averages, direction=direction))
    asks = {"denoising": "is the site sufficient?", "noising": "is the site necessary?"}[direction]
    total = {"denoising": "+4.00 [+4.00, +4.00]", "noising": "-4.00 [-4.00, -4.00]"}[direction]
    for part in (
        f"{direction.capitalize()} ({asks})",
        "log-odds of the female against the male answer, nats",
        "positive is towards the stereotype",
        f"total effect {total}",
        "n = 24 pairs of 12 groups",
        "95% intervals by bootstrap over groups",
    ):
        assert part in text


def test_caption_says_how_a_failing_cell_looks(averages):
    assert "dot: q > 0.05" in caption(plot_map(averages_of([{"q": 0.5}])))
    assert "dot" not in caption(plot_map(averages))
    assert "bands: the interval" in caption(plot_layers(averages))


def test_caption_of_the_signed_view():
    signed = analyse(map_trace(), view="signed", level=0.9).shown()
    assert "positive is towards the female answer" in caption(plot_map(signed))
    assert "90% intervals" in caption(plot_map(signed))


def test_caption_of_an_odds_ratio_does_not_turn_its_sign():
    """y is p(anti-stereotypical) / p(stereotypical): a positive effect leads away from the stereotype."""
    analysis = analyse(map_trace(), metric="odds_ratio")
    assert "positive is towards the stereotype" not in caption(plot_map(analysis))
    assert "positive is towards the stereotype" not in caption(plot_pair(analysis, 0))


@pytest.mark.parametrize(
    ("column", "words"),
    [("nie", "Average indirect effect"), ("nde", "Average direct effect"), ("total", "Average total effect")],
)
def test_title_and_axis_name_the_quantity(column, words):
    averages = analyse(map_trace()).shown(column)
    assert words in caption(plot_map(averages))
    assert plot_layers(averages).layout.yaxis.title.text == f"{words.lower()}, nats"


def test_titles_are_data_not_markup(averages):
    figure = plot_map(averages, title=SCRIPT)
    assert "&lt;script&gt;" in drawn_words(figure)
    assert "<script" not in drawn_words(figure)
    assert figure.layout.meta["title"] == SCRIPT


def test_titles_tell_what_is_shown_and_no_two_are_alike():
    trace = map_trace(components=("mlp_out", "attn_out"), layers=2)
    trace.meta["model"] = META["model"] | {"name": "models/of/mine"}
    wide = replace(trace, table=trace.table.assign(window=3))
    heads = map_trace(components=("head",), layers=2, unit=0)
    joined = replace(trace, table=pd.concat([trace.table, wide.table, heads.table], ignore_index=True))
    figures = figures_of(analyse(joined, samples=100))
    titles = [figure.layout.meta["title"] for figure in figures.values()]
    assert len(titles) == len(set(titles)) > 10
    assert figures["map_denoising"].layout.meta["title"] == (
        "Average indirect effect by layer and token: attention output and MLP output in mine (denoising)"
    )
    assert "3 layers at once" in figures["layers_noising_window3"].layout.meta["title"]
    assert "at the last token of the occupation" in figures["heads_subject_last_denoising"].layout.meta["title"]
    assert not any("/" in title for title in titles)


def test_words_around_a_figure_are_large_and_in_few_tight_lines(averages):
    for figure in figures_of(analyse(map_trace(), samples=100)).values():
        around = {each.name: each for each in figure.layout.annotations if each.name}
        assert set(around) == {"title", "caption", "foot"}
        for name, note in around.items():
            plain = note.text.replace("<br>", " ").replace("\u00a0", " ")
            assert html.unescape(plain) == figure.layout.meta[name]
            assert note.font.size >= 12
        assert around["caption"].text.count("<br>") <= 2


def test_a_bare_figure_has_no_words_around_it_and_no_room_for_them():
    figure = with_foot(plot_map(averages_of([{}]), title="A long title " * 20), "A foot. " * 60)
    left = bare(figure)
    assert panel_titles(left) == ["MLP output"]
    assert {each.name for each in left.layout.annotations} == {None}
    assert left.layout.meta == figure.layout.meta
    assert set(left.layout.meta) == {"title", "caption", "foot"}
    inner = [each.layout.height - each.layout.margin.t - each.layout.margin.b for each in (figure, left)]
    assert inner[0] == pytest.approx(inner[1])
    assert left.layout.margin.t < 50
    assert left.layout.margin.b < 100
    assert len(figure.layout.annotations) == 4


def test_every_figure_has_the_template_and_plotly_keeps_its_own():
    default = plotly.io.templates.default
    figure = plot_layers(averages_of([{}]))
    assert figure.layout.template.layout.font.family.startswith("Arial")
    assert list(figure.layout.template.layout.colorway) == list(COLOURS[:6])
    assert plotly.io.templates.default == default
    assert go.Figure().layout.template != figure.layout.template


def test_subjects_that_are_no_occupations_are_not_called_so():
    trace = map_trace(layers=1, kind="user")
    assert labels(plot_map(analyse(trace)))[1] == "<b>last token of the subject</b>"


def test_bands_are_the_intervals(averages):
    table = averages.table
    figure = plot_layers(replace(averages, table=table[table["component"] == "mlp_out"]))
    rows = table.query("component == 'mlp_out' and direction == 'denoising' and role == 'last'").sort_values("layer")
    assert list(lines(figure)["last token of the prompt"].y) == rows["effect"].tolist()
    assert list(lines(figure)["last token of the prompt"].x) == [0, 1, 2]
    assert list(bands(figure)["last token of the prompt"].x) == [0, 1, 2, 2, 1, 0]
    assert list(bands(figure)["last token of the prompt"].y) == rows["high"].tolist() + rows["low"].tolist()[::-1]


def test_lines_of_a_share_of_the_total_have_that_unit():
    figure = plot_layers(analyse(map_trace()).shown("nie / total"))
    assert figure.layout.yaxis.title.text.endswith(", share of the total effect")


def test_lines_mark_zero_and_show_each_role_once_in_the_legend(averages):
    figure = plot_layers(averages)
    assert any(shape.y0 == shape.y1 == 0 for shape in figure.layout.shapes)
    assert [trace.name for trace in figure.data if trace.showlegend] == [
        "last token of the occupation", "last token of the prompt",
    ]  # fmt: skip


def test_lines_of_the_roles_asked_for(averages):
    assert list(lines(plot_layers(averages, roles=["last"]))) == ["last token of the prompt"]
    before = plot_layers(averages, roles=["before_subject"])
    assert list(lines(before)) == ["tokens before the occupation"]


@pytest.mark.parametrize("plot", [plot_map, plot_layers])
def test_only_the_window_asked_for_is_drawn_beside_the_residual_stream(plot):
    cells = [{"effect": 1.0}, {"effect": 2.0, "window": 3}, {"effect": 3.0, "component": "resid_pre"}]
    cells += [{"effect": 9.0, "component": "resid_pre", "severed": "mlp_out"}]
    cells += [{"effect": 8.0, "component": "head", "unit": 0}]
    figure = plot(averages_of(cells), window=3)
    drawn = colours(figure) if plot is plot_map else [trace for trace in figure.data if trace.name]
    values = [float(np.ravel(trace.z if plot is plot_map else trace.y)[0]) for trace in drawn]
    assert values == [3.0, 2.0]


@pytest.mark.parametrize("plot", [plot_map, plot_layers, plot_heads])
def test_nothing_to_draw_is_refused(plot):
    with pytest.raises(LocateError, match=r"direction 'noising'.*: trace"):
        plot(averages_of([{}]), direction="noising")


def test_heads_are_drawn_by_layer_and_number():
    """Head 10 comes after head 2."""
    cells = [
        {"component": "head", "unit": unit, "layer": layer, "role": "last", "effect": layer + unit / 10}
        for layer in (1, 0)
        for unit in (10, 2, 0)
    ]
    cells += [{"component": "head", "unit": 0, "role": "subject_last", "effect": 9.0}]
    figure = plot_heads(averages_of(cells))
    (panel,) = colours(figure)
    assert list(figure.layout.xaxis.ticktext) == ["0", "2", "10"]
    assert np.array(panel.z) == pytest.approx(np.array([[0, 0.2, 1], [1, 1.2, 2]]))
    assert figure.layout.coloraxis.cmax == 2.0


def test_pair_shows_its_own_effects_by_token():
    derived = effects(map_trace())
    figure = plot_pair(analyse(map_trace()), 2, direction="noising")
    rows = derived.query("pair == 2 and direction == 'noising'").set_index(["component", "layer", "clean_pos"])["nie"]
    for component, panel in zip(("resid_pre", "attn_out", "mlp_out"), colours(figure), strict=True):
        for layer in range(3):
            for position in range(3):
                expected = rows[component, layer, position] or np.nan
                assert panel.z[layer][position] == pytest.approx(expected, nan_ok=True)
    assert figure.layout.coloraxis.cmax == -figure.layout.coloraxis.cmin == rows.abs().max()
    assert "total effect of this pair -4.00" in caption(figure)
    assert "Clean: “The engineer said that”; corrupted: “The man said that”" in caption(figure)
    assert "one pair, no interval" in figure.layout.meta["foot"].lower()
    assert "controls" not in figure.layout.meta["foot"]


def test_pair_marks_its_subject():
    figure = plot_pair(analyse(map_trace()), 0)
    assert labels(figure) == ["␣before_subject", "<b>␣subject_last</b>", "␣last"]
    told = colours(figure)[1].hovertext[0][1]
    assert told == "<b>“␣subject_last”<br>attention output, layer 0, last token of the occupation</b><br>+1.000 nats"


def test_pair_keeps_the_place_of_a_token_without_counterpart():
    rows = [
        each
        for place, role in [(0, "before_subject"), (2, "subject_last")]
        for each in both(odds(2.0), odds(-2.0), odds(place - 2.0), odds(2.0), clean_pos=place, role=role, token=role)
    ]
    figure = plot_pair(analyse(trace_of(rows)), 0)
    drawn = np.array(colours(figure)[0].z)[:, :3]
    assert drawn == pytest.approx(np.array([[np.nan, np.nan, 2.0]]), nan_ok=True)
    assert labels(figure) == ["before_subject", UNPLACED, "<b>subject_last</b>", UNPLACED]


def two_token_pair(tokens, clean="The heating mechanic said that", group="heating mechanic"):
    """A trace of one pair's tokens, given as (place, role, piece)."""
    rows = [
        each
        for place, role, piece in tokens
        for each in both(
            odds(2.0), odds(-2.0), odds(place - 2.0), odds(2.0), clean=clean, group=group, clean_pos=place, role=role,
            token=piece,
        )
    ]  # fmt: skip
    return trace_of([each | {"group": f"{each['group']}"} for each in rows])


def test_pair_names_every_token_and_the_whole_occupation():
    ends = [(4, "subject_last", "ic"), (6, "last", "Ġthat")]
    figure = plot_pair(analyse(doubled(two_token_pair(ends))), 0)
    assert labels(figure) == [
        grey("The"), grey("<b>heating mechan</b>"), "<b>ic</b>", grey("said"), "␣that",
    ]  # fmt: skip
    assert np.array(colours(figure)[0].z) == pytest.approx(np.array([[np.nan, np.nan, 4, np.nan, 6]]), nan_ok=True)
    assert marked(figure, "hatching")[0].tolist() == [[True, True, False, True, False]]
    empty = next(trace for trace in figure.data if trace.name == "empty")
    assert empty.hovertext[0][1] == "<b>“heating mechan”</b><br>not measured"
    assert "0 within rounding, or not measured, as the words in grey are" in caption(figure)


def test_pair_guesses_no_text_that_its_tokens_do_not_settle():
    clean = "The writer or driver said her"
    where = {"group": "another", "clean": clean}
    twice = plot_pair(analyse(doubled(two_token_pair([(3, "subject_last", "er"), (8, "last", "Ġher")], **where))), 0)
    assert labels(twice) == [UNPLACED, "<b>er</b>", UNPLACED, "␣her"]
    once = plot_pair(
        analyse(doubled(two_token_pair([(3, "subject_last", "er"), (8, "last", "Ġher")], clean, "driver"))), 0
    )
    assert labels(once) == [grey("The writer or"), grey("<b>driv</b>"), "<b>er</b>", grey("said"), "␣her"]


def test_pair_names_the_quantity_in_its_cells():
    text = caption(plot_pair(analyse(map_trace()), 0, column="nde"))
    assert "indirect effect" not in text
    assert "direct effect" in text


def test_pair_escapes_prompts_and_tokens():
    trace = map_trace(layers=1, clean=f"{SCRIPT} & the nurse", corrupted=f"<b>{SCRIPT}", token="<i>")
    figure = plot_pair(analyse(trace), 0, title=SCRIPT)
    words = drawn_words(figure).replace("<br>", " ")
    assert "“&lt;script&gt;alert(1)&lt;/script&gt; &amp; the nurse”" in words
    assert "<script" not in words
    assert "<b>" not in words
    assert "<i>" not in "".join(figure.layout.xaxis.ticktext)
    assert "<i>" not in "".join(colours(figure)[0].hovertext.ravel())


@pytest.mark.parametrize(
    ("pair", "direction", "message"),
    [(99, "denoising", "pair 99 .*expected one of 0 to 23"), (0, "both", "pair 0 with direction 'both'")],
)
def test_a_pair_that_is_not_there_is_refused(pair, direction, message):
    with pytest.raises(LocateError, match=message):
        plot_pair(analyse(map_trace(layers=1)), pair, direction=direction)


def ranked(figure):
    """The occupations of a ranking from the highest down, with their x."""
    found = []
    for trace in figure.data:
        if trace.name == "ranked":
            axis = figure.layout[trace.yaxis.replace("y", "yaxis")]
            names = dict(zip(axis.tickvals, axis.ticktext, strict=True))
            found += [(names[y], x) for y, x in sorted(zip(trace.y, trace.x, strict=True), reverse=True)]
    return found


def test_occupations_by_log_odds_and_share():
    log_odds = pd.DataFrame(
        {"group": ["nurse", "nurse", "nurse", "plumber", "editor", "king"], "log_odds": [1.0, 2.0, 3.0, -1, 0, 9]}
    )
    shares = pd.DataFrame(
        {"occupation": ["nurse", "plumber", "editor", "judge"], "share_women": [90.0, 10.0, 50.0, 5.0]}
    )
    figure = plot_occupations(log_odds, shares)
    assert ranked(figure) == [("nurse", 2), ("editor", 0), ("plumber", -1)]
    (marks,) = [trace for trace in figure.data if trace.name == "ranked"]
    bar = stats.t.ppf(0.975, 2) / np.sqrt(3)  # the deviation over the three templates is 1
    assert np.array(marks.error_x.array) == pytest.approx(np.array([np.nan, np.nan, bar]), nan_ok=True)
    assert (
        marks.hovertext[2] == f"<b>nurse</b><br>+2.00 [{2 - bar:+.2f}, {2 + bar:+.2f}] nats, 3 templates<br>90 % women"
    )
    assert marks.hovertext[0] == "<b>plumber</b><br>-1.00 nats, 1 templates<br>10 % women"
    (against,) = [trace for trace in figure.data if trace.name == "scatter"]
    assert (list(against.x), list(against.y)) == ([10, 50, 90], [-1, 0, 2])
    assert "3 occupations" in caption(figure)
    assert "mean over 1 to 3 templates each; bars: 95% intervals over templates" in caption(figure)
    assert f"Pearson r = {np.corrcoef([10, 50, 90], [-1, 0, 2])[0, 1]:.2f} [" in caption(figure)
    few = plot_occupations(log_odds.drop(index=0), shares)
    assert "no intervals, which need 3 templates" in caption(few)


def test_many_occupations_are_ranked_in_columns_with_readable_names():
    table = occupation_table()
    log_odds = pd.DataFrame({"group": table["occupation"], "log_odds": np.arange(len(table)) / 10})
    figure = plot_occupations(log_odds)
    assert [name for name, _ in ranked(figure)] == list(table["occupation"][::-1])
    axes = [axis for axis in figure.select_yaxes() if axis.ticktext]
    assert len(axes) == 3
    rows = max(len(axis.ticktext) for axis in axes)
    inner = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    assert inner / rows >= 15
    assert all(axis.tickfont.size >= 11 for axis in axes)
    assert figure.layout.width <= 1240


def test_correlation_has_an_interval_over_occupations():
    draw = np.random.default_rng(0)
    names = [f"o{i}" for i in range(40)]
    share = draw.uniform(0, 100, size=40)
    log_odds = pd.DataFrame({"group": names, "log_odds": share / 50 + draw.normal(size=40)})
    text = caption(plot_occupations(log_odds, pd.DataFrame({"occupation": names, "share_women": share})))
    r, low, high = (float(part) for part in re.search(r"r = (\S+) \[(\S+), (\S+)\]", text).groups())
    error = (1 - r**2) / np.sqrt(40)
    assert r == pytest.approx(np.corrcoef(share, log_odds["log_odds"])[0, 1], abs=0.005)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.3)
    assert low < r < high


def test_too_few_occupations_are_refused():
    log_odds = pd.DataFrame({"group": ["nurse", "plumber", "king"], "log_odds": [1.0, 2.0, 3.0]})
    with pytest.raises(LocateError, match="2 traced groups are in the table of occupations: expected at least 3"):
        plot_occupations(log_odds, occupation_table())


def test_report_writes_what_it_says(report):
    folder, made, steps = report
    names = {str(path.relative_to(folder)) for path in made.paths}
    drawn = [f"{kind}_{direction}" for kind in ("map", "layers") for direction in ("denoising", "noising")]
    figures = {f"figures/{name}.html" for name in [*drawn, "pair", "occupations"]}
    assert names == {"effects.csv", "located.json", "report.html", "figures/plotly.min.js"} | figures
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == names
    assert steps == ["effects", "ranking", "figures", "report"]
    assert made.missing == ""


def test_report_holds_the_located_layers_it_saves(report):
    folder, made, _ = report
    assert load_located(folder) == made.located
    assert made.located.layers == (0, 1, 2)
    html = (folder / "report.html").read_text()
    assert "Edit a copy of the model at layers 0, 1, 2 of the MLP output" in html
    assert "does not prove that it is the best place to edit" in html


def test_report_tells_where_its_numbers_come_from(report):
    html = (report[0] / "report.html").read_text()
    for part in (
        "PaperForCausalLM",
        "w" * 64,
        "kind swap",
        "24 kept, 0 dropped, 0 skipped",
        "effect, nats",
        "95% interval",
    ):
        assert part in html
    assert "check: largest effect before the subject" in html


def test_the_report_is_one_file(report):
    page = read_page(report[0] / "report.html")
    assert [each for each in page.fetched if not each.startswith("#")] == []
    assert max(len(script) for script in page.scripts) > 1_000_000
    assert "://" not in (report[0] / "report.html").read_text().split("<script")[0]


def test_a_figures_html_asks_for_the_plotly_beside_it_alone(report):
    page = read_page(report[0] / "figures" / "map_denoising.html")
    assert page.fetched == ["plotly.min.js"]
    assert (report[0] / "figures" / "plotly.min.js").stat().st_size > 1_000_000
    assert sum(path.stat().st_size for path in (report[0] / "figures").glob("*.html")) < 2_000_000


def test_no_text_of_a_report_can_end_the_data_it_lies_in(tmp_path):
    """Prompts, models and reasons are data: each script element ends where the page ends it."""
    made = map_trace(layers=1, components=("mlp_out",), templates=("The {subject} said </script><b>bold</b> that",))
    write_report(made, tmp_path, formats=[])
    html = (tmp_path / "report.html").read_text()
    assert "</script><b>" not in html
    assert "\\u003c/script>\\u003cb>bold" in html
    assert html.count("<script") == html.count("</script>")


def test_effects_csv_has_units_counts_and_intervals(report):
    folder, _, _ = report
    table = pd.read_csv(folder / "effects.csv", keep_default_na=False, na_values=[""])
    assert list(table.columns[:3]) == ["quantity", "metric", "unit_of_effect"]
    assert table.groupby("quantity").size().to_dict() == dict.fromkeys(["nie", "nde", "total", "nie / total"], 54)
    assert set(table["metric"]) == {"logit_diff"}
    units = table.groupby("quantity")["unit_of_effect"].unique().str.join("")
    assert units.to_dict() == {
        "nie": "nats", "nde": "nats", "total": "nats", "nie / total": "share of the total effect",
    }  # fmt: skip
    assert (table["n"] == 24).all()
    assert (table["groups"] == 12).all()
    inner = table[(table["role"] != "before_subject") & (table["quantity"] != "total")]
    assert (inner["low"] < inner["effect"]).all()
    assert (inner["effect"] < inner["high"]).all()
    keys = ["quantity", "direction", "component", "layer", "role"]
    effect = table.set_index(keys)["effect"]
    site = ("denoising", "mlp_out", 0, "subject_last")
    assert effect[("nie", *site)] == pytest.approx(2.22)
    assert effect[("total", *site)] == pytest.approx(4)
    assert effect[("nde", *site)] == pytest.approx(4 - 2.22)
    assert effect[("nie / total", *site)] == pytest.approx(2.22 / 4)


def test_effects_csv_leaves_out_what_was_not_measured(tmp_path):
    trace = map_trace(layers=1, components=("mlp_out",))
    rows = trace.table[trace.table["direction"] == "noising"].to_dict("records")
    made = write_report(trace_of(rows, directions=["noising"]), tmp_path, formats=[])
    assert made.located.direction == "noising"
    assert set(pd.read_csv(tmp_path / "effects.csv")["quantity"]) == {"nie", "total", "nie / total"}


def test_an_odds_ratio_has_no_share_of_the_total(tmp_path):
    write_report(map_trace(layers=1, components=("mlp_out",)), tmp_path, metric="odds_ratio", formats=[])
    table = pd.read_csv(tmp_path / "effects.csv")
    assert set(table["quantity"]) == {"nie", "nde", "total"}
    assert set(table["unit_of_effect"]) == {"relative odds"}


def test_pairs_without_any_stereotype_are_reported_female_minus_male(tmp_path):
    made = write_report(map_trace(layers=1, stereotype=0), tmp_path, formats=[])
    assert made.located.view == "signed"


def test_report_escapes_prompts_reasons_and_names(tmp_path):
    trace = map_trace(layers=1, components=("mlp_out",), clean=f"{SCRIPT} the nurse", corrupted=SCRIPT, token=SCRIPT)
    trace.meta["model"] = META["model"] | {"name": f"{SCRIPT}model"}
    trace.meta["ledger"] = META["ledger"] | {"reasons": {f"answer {SCRIPT} must be a single token": 1}}
    write_report(trace, tmp_path, formats=["html"])
    for path in (tmp_path / "report.html", tmp_path / "figures" / "pair.html"):
        page = read_page(path)
        assert not any(script.startswith("alert") for script in page.scripts)
        assert SCRIPT not in path.read_text()
    assert "answer &lt;script&gt;alert(1)&lt;/script&gt; must be" in (tmp_path / "report.html").read_text()


def test_a_role_of_one_group_alone_does_not_stop_the_report(tmp_path):
    """Among few occupations one has three tokens: its middle one is in no other group."""
    rows = [
        each
        for pair, group in enumerate(GROUPS)
        for role, place, size in [("subject_last", 2, 1.0), ("subject_middle", 1, 3.0)]
        for each in both(
            odds(2.0), odds(-2.0), odds(size - 2), odds(2.0), pair=pair, group=group, role=role, clean_pos=place
        )
        if role == "subject_last" or pair == 0
    ]
    assert write_report(trace_of(rows), tmp_path, formats=[]).located.layers == (0,)


def test_windows_beside_heads_are_reported(tmp_path):
    """No single-layer cell of a whole vector, so no map of one pair, but everything else."""
    rows = [
        each
        for pair, group in enumerate(GROUPS)
        for labels in ({"component": "head", "unit": 0}, {"component": "mlp_out", "window": 3})
        for each in both(odds(2.0), odds(-2.0), odds(-1.0), odds(1.0), pair=pair, group=group, **labels)
    ]
    write_report(trace_of(rows), tmp_path, formats=[])
    html = (tmp_path / "report.html").read_text()
    assert 'data-figure="layers_noising_window3"' in html
    assert 'data-figure="pair"' not in html
    assert '"name":"MLP output, 3 layers together"' in html
    assert '"name":"attention heads, last token of the occupation"' in html


def test_a_saved_trace_is_reported_without_its_model(tmp_path):
    folder = map_trace(layers=1, components=("mlp_out",)).save(tmp_path)
    write_report(load_trace(folder), folder, formats=[])
    assert {path.name for path in folder.iterdir()} >= {"trace.parquet", "located.json", "report.html"}


def test_unknown_format_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(LocateError, match="format 'gif': expected one of html, png, svg, pdf"):
        write_report(map_trace(layers=1), tmp_path, formats=["html", "gif"])
    assert list(tmp_path.iterdir()) == []


def test_a_figures_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "figures").write_text("mine")
    with pytest.raises(LocateError, match="figures"):
        save_figures({"map": go.Figure()}, tmp_path / "figures", ["html"])


def test_static_figures_are_written(averages, tmp_path):
    figure = plot_map(averages)
    paths, missing = save_figures({"map": figure}, tmp_path, ["png", "svg", "pdf"])
    if missing:
        assert not os.environ.get("CI"), missing
        pytest.skip(missing)
    content = {path.suffix: path.read_bytes() for path in paths}
    assert content[".png"].startswith(b"\x89PNG\r\n")
    assert int.from_bytes(content[".png"][16:20], "big") == 2 * figure.layout.width
    assert content[".pdf"].startswith(b"%PDF-")
    assert content[".svg"].lstrip().startswith(b"<svg")
    assert "MLP output" in content[".svg"].decode()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["map.pdf", "map.png", "map.svg"]


@pytest.fixture
def without_chrome(monkeypatch):
    """A machine without a browser: kaleido's own search finds none."""
    from choreographer.browsers.chromium import Chromium

    monkeypatch.setattr(Chromium, "find_browser", classmethod(lambda cls, **options: None))
    monkeypatch.delenv("BROWSER_PATH", raising=False)


def test_without_chrome_html_is_written_and_a_line_says_how_to_get_the_rest(averages, tmp_path, without_chrome):
    paths, missing = save_figures({"map": plot_map(averages)}, tmp_path)
    assert [path.name for path in paths] == ["plotly.min.js", "map.html"]
    assert set(tmp_path.iterdir()) == set(paths)
    assert "no PNG, SVG or PDF" in missing
    assert "apt-get install chromium" in missing


def test_without_chrome_the_report_says_so(tmp_path, without_chrome):
    made = write_report(map_trace(layers=1, components=("mlp_out",)), tmp_path, formats=["png"])
    assert "apt-get install chromium" in made.missing
    assert "apt-get install chromium" in (tmp_path / "report.html").read_text()


def test_html_alone_needs_no_chrome(averages, tmp_path, without_chrome):
    assert save_figures({"map": plot_map(averages)}, tmp_path, ["html"])[1] == ""


def test_a_full_disk_while_images_are_written_is_one_line_and_leaves_nothing(averages, tmp_path, monkeypatch):
    async def full(specs):
        Path(specs[0]["path"]).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(images, "drawn", full)
    with pytest.raises(LocateError, match="No space left on device"):
        save_figures({"map": plot_map(averages)}, tmp_path, ["png"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("#!/bin/sh\nexec /bin/sleep 977\n", r"chrome did not answer within 1 s of its start and was stopped"),
        ("#!/bin/sh\n/bin/sleep 977 &\nexec /bin/sleep 977\n", r"chrome did not answer within 1 s"),
        ("#!/bin/sh\nexit 127\n", r"chrome exists but does not start"),
        ("no program\n", r"chrome exists but does not start"),
    ],
)
def test_a_chrome_that_hangs_or_does_not_start_is_named_and_gone(averages, tmp_path, monkeypatch, script, said):
    chrome = tmp_path / "chrome"
    chrome.write_text(script)
    chrome.chmod(0o644 if script.startswith("no") else 0o755)
    monkeypatch.setenv("BROWSER_PATH", str(chrome))
    monkeypatch.setattr(images, "START", 1.0 if "sleep" in script else 60.0)
    monkeypatch.setattr(images, "STOP", 0.5)
    paths, missing = save_figures({"map": plot_map(averages)}, tmp_path / "figures", ["html", "png"])
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {"map.html", "plotly.min.js"}
    assert [path.name for path in paths] == ["plotly.min.js", "map.html"]
    assert re.search(said, missing)
    assert "no PNG" in missing
    assert "\n" not in missing
    running = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists()]
    assert not any(b"sleep\x00977" in each for each in running)


def test_a_browser_path_that_is_no_file_is_said(averages, tmp_path, monkeypatch):
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "none"))
    assert "BROWSER_PATH" in save_figures({"map": plot_map(averages)}, tmp_path, ["png"])[1]


def test_no_page_has_a_button_that_uploads(averages, tmp_path, monkeypatch):
    figure = plot_map(averages)
    figure.write_html(tmp_path / "own.html")
    figure.write_html(tmp_path / "given.html", config={"displayModeBar": True})
    save_figures({"saved": go.Figure(figure.to_dict())}, tmp_path, ["html"])
    write_report(map_trace(layers=1, components=("mlp_out",)), tmp_path / "run", formats=["html"])
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 5
    reports = [page for page in pages if page.name == "report.html"]
    assert len(reports) == 1
    for page in reports:
        content = page.read_text()
        configs = re.findall(r'"config":(\{.*?\})\}</script>', content)
        assert len(configs) == content.count('data-figure="') > 1
        assert all(json.loads(each) == CONFIG | {"displaylogo": False} for each in configs)
    for page in set(pages) - set(reports):
        calls = page.read_text().split("Plotly.newPlot(                    ")[1:]
        assert calls, page
        assert all('"showSendToCloud": false' in call and "plotlyServerURL" not in call for call in calls), page
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    shown = figure._repr_mimebundle_()["application/vnd.plotly.v1+json"]["config"]
    assert shown["showSendToCloud"] is False


def test_the_caption_says_how_wide_the_window_is(averages):
    wide = replace(averages, table=averages.table.assign(window=3))
    assert "3 layers written at once" in caption(plot_map(wide, window=3))
    assert "written at once" not in caption(plot_map(averages))


def test_drawing_again_leaves_the_rest_of_the_run_alone(tmp_path):
    made = map_trace(layers=1, components=("mlp_out",))
    write_report(made, tmp_path, metric="prob_diff", formats=["html"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    draw_figures(made, tmp_path, formats=["html"])
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
