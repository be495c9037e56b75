"""Figures of severed and direct paths, attention edges and single units, from hand-made averages and a small trace."""

import numpy as np
import pandas as pd
import pytest
from bare import trace
from test_report import averages_of, bands, caption, colours, lines, marked, panel_titles

from locate import LocateError, analyse
from locate.mediation import effects
from locate.prompts import occupation_pairs
from locate.report import write_report
from locate.report.figures import plot_heads, plot_layers, plot_map
from locate.report.pair import plot_pair
from locate.report.paths import path_figures, plot_attention, plot_direct, plot_direct_heads, plot_severed, plot_units
from locate.tracing.plan import Map

CUT = {"attn_out": 0.5, "mlp_out": 0.25, "both": 0.125}
ODD = [{"name": "a set"}, {"origin": "zero"}, {"window": 3}]


def cell(component, effect, role="last", layer=0, severed="", **more):
    """One average; a severed one holds sites at the base's values."""
    origin = "base+source" if severed else "source"
    return {"component": component, "effect": effect, "role": role, "layer": layer, "severed": severed,
            "origin": origin, **more}  # fmt: skip


def severed_cells(component, **more):
    """Effects 1 + layer, whole, and a known part of that by each severed path."""
    return [
        cell(component, (1 + layer) * part, layer=layer, severed=severed, **more)
        for layer in (1, 0, 2)
        for severed, part in {"": 1.0, **CUT}.items()
    ]


def odd_ones(component, **more):
    """Rows of other patches at the same sites, which no figure of paths may take for them."""
    return [cell(component, 99.0, **more) | each for each in ODD]


def test_the_residual_stream_is_drawn_whole_and_severed_role_by_role():
    cells = severed_cells("resid_pre", role="subject_last") + odd_ones("resid_pre", role="subject_last")
    cells += [each | {"effect": -each["effect"]} for each in severed_cells("resid_pre")]
    figure = plot_severed(averages_of(cells))
    drawn = [line for line in figure.data if line.name]
    assert [line.name for line in drawn] == ["whole", "attention severed", "MLP severed", "both severed"] * 2
    for line, (sign, part) in zip(
        drawn, [(sign, part) for sign in (1, -1) for part in (1, *CUT.values())], strict=True
    ):
        assert list(line.x) == [0, 1, 2]
        assert list(line.y) == pytest.approx([sign * part, 2 * sign * part, 3 * sign * part])
    assert [line.showlegend for line in drawn] == [True] * 4 + [False] * 4
    assert panel_titles(figure) == ["<b>last token of the occupation</b>", "last token of the prompt"]
    last = bands(figure)["whole"]
    assert (max(last.y), min(last.y)) == pytest.approx((-1 + 0.25, -3 - 0.5))
    assert "stays as in the base run" in caption(figure)
    assert "n = 24 pairs of 12 groups" in caption(figure)


def test_direct_effects_stand_beside_whole_ones_at_the_last_token():
    cells = severed_cells("attn_out") + severed_cells("mlp_out") + odd_ones("mlp_out")
    cells += [each | {"effect": 50.0} for each in severed_cells("mlp_out", role="subject_last")]
    figure = plot_direct(averages_of(cells))
    assert [line.name for line in figure.data if line.name] == ["whole", "direct", "whole", "direct"]
    assert list(lines(figure)["direct"].y) == pytest.approx([CUT["both"], 2 * CUT["both"], 3 * CUT["both"]])
    assert list(lines(figure)["whole"].y) == [1, 2, 3]


def test_heads_are_mapped_whole_and_direct_on_one_scale():
    cells = [each for unit in (0, 1) for each in severed_cells("head", unit=unit)] + odd_ones("head", unit=1)
    figure = plot_direct_heads(averages_of(cells))
    whole, direct = colours(figure)
    assert np.array(whole.z) == pytest.approx(np.array([[1, 1], [2, 2], [3, 3]]))
    assert np.array(direct.z) == pytest.approx(np.array(whole.z) * CUT["both"])
    assert figure.layout.coloraxis.cmax == 3


def test_attention_edges_are_mapped_by_the_token_attended_to():
    cells = [
        cell("pattern", value, unit=unit, layer=layer, key=key, q=0.5 if unit else 0.01)
        for key, sign in (("last", -1), ("subject_last", 1))
        for unit in (0, 1)
        for layer in (0, 4)
        for value in [sign * (1 + unit + layer)]
    ]
    cells += [each | {"effect": 99.0} for each in odd_ones("pattern", unit=0, key="last")[:2]]
    cells += [cell("pattern", 99.0, unit=0, role="further", key="last"), cell("head", 99.0, unit=0)]
    figure = plot_attention(averages_of(cells))
    to_subject, to_last = colours(figure)
    assert np.array(to_subject.z) == pytest.approx(np.array([[1, 2], [5, 6]]))
    assert np.array(to_last.z) == pytest.approx(-np.array([[1, 2], [5, 6]]))
    assert panel_titles(figure) == ["to the <b>last token of the occupation</b>", "to the last token of the prompt"]
    assert marked(figure)[0].tolist() == [[False, True], [False, True]]
    assert list(figure.layout.yaxis.ticktext) == ["0", "4"]
    assert "the values that they weigh are not" in caption(figure)
    assert (
        colours(figure)[0]
        .hovertext[0][0]
        .startswith(
            "<b>attention weights, layer 0, head 0, last token of the prompt to the last token of the occupation</b>"
        )
    )


def test_the_strongest_units_are_bars_with_their_intervals():
    cells = [cell("neuron", value, unit=unit, layer=2) for unit, value in enumerate([0.1, -3.0, 2.0])]
    cells += [*odd_ones("neuron", unit=2), cell("mlp_out_unit", 9.0, unit=1), cell("neuron", 8.0, unit=5, groups=1)]
    cells[2]["q"] = 0.5
    (bars,) = plot_units(averages_of(cells), top=2).data
    assert list(bars.y) == ["2.2, last token of the prompt", "2.1, last token of the prompt"]
    assert list(bars.x) == [2.0, -3.0]
    assert list(bars.error_x.array) == pytest.approx([0.25, 0.25])
    assert list(bars.error_x.arrayminus) == pytest.approx([0.5, 0.5])
    assert bars.marker.color == ("white", "#0072B2")
    assert "open: q > 0.05" in caption(plot_units(averages_of(cells), top=2))
    assert bars.hovertext[1] == "-3.000 [-3.500, -2.750] nats<br>n 24 pairs, 12 groups; q 0.01"


def test_a_figure_is_drawn_for_what_was_traced_and_for_nothing_else():
    plain = [cell(each, 1.0) for each in ("resid_pre", "attn_out", "mlp_out")] + [cell("head", 1.0, unit=0)]
    assert path_figures(averages_of(plain), "denoising") == {}
    everything = [each for name in ("resid_pre", "attn_out") for each in severed_cells(name)]
    everything += [*severed_cells("head", unit=0), cell("pattern", 1.0, unit=0, role="further")]
    everything += [cell("neuron", 1.0, unit=0), cell("mlp_out_unit", 1.0, unit=0)]
    names = {"severed", "direct", "direct_heads", "attention_further", "neurons", "mlp_out_units"}
    assert set(path_figures(averages_of(everything), "denoising")) == {f"{name}_denoising" for name in names}
    assert path_figures(averages_of(everything), "noising") == {}
    before = severed_cells("resid_pre", role="before_subject")
    assert path_figures(averages_of(before), "denoising") == {}


@pytest.mark.parametrize(
    ("plot", "match"),
    [
        (plot_severed, "no severed resid_pre of direction 'denoising' at any token"),
        (plot_direct, "no severed attn_out or mlp_out .* trace with --severed"),
        (plot_direct_heads, "no severed head"),
        (plot_attention, "no attention weights of direction 'denoising' from role 'last': trace with component"),
        (plot_units, "0 units of component 'neuron'"),
    ],
)
def test_nothing_to_draw_is_refused(plot, match):
    with pytest.raises(LocateError, match=match):
        plot(averages_of([cell("mlp_out", 1.0), cell("resid_pre", 1.0), cell("head", 1.0, unit=0)]))


@pytest.mark.parametrize("plot", [plot_map, plot_layers, plot_heads])
def test_severed_sets_and_edges_change_no_other_figure(plot):
    plain = [cell("mlp_out", 1.0), cell("resid_pre", 2.0), cell("head", 0.5, unit=0)]
    more = severed_cells("mlp_out")[1:4] + severed_cells("head", unit=0)[1:4] + odd_ones("mlp_out")[:2]
    more += [*odd_ones("head", unit=0), cell("pattern", 99.0, unit=0), cell("mlp_out_unit", 99.0, unit=0)]
    assert plot(averages_of(plain + more)) == plot(averages_of(plain))


@pytest.fixture(scope="module")
def traced(gpt2):
    """Severed outputs, heads, edges and single numbers of a few pairs."""
    map = Map(
        ("mlp_out", "head", "pattern", "mlp_out_unit"), layers=(0, 2), roles=("subject_last", "last"),
        severed=("both",), keys=("subject_last",),
    )  # fmt: skip
    return trace(gpt2, occupation_pairs("anti").first(4), map, directions=("denoising",))


def test_a_report_of_paths_holds_their_figures_and_ranks_what_a_module_writes(traced, tmp_path):
    report = write_report(traced, tmp_path, formats=("html",), samples=100)
    names = {path.stem for path in (tmp_path / "figures").iterdir()}
    found = {"map", "layers", "heads_last", "direct", "direct_heads", "attention_last", "mlp_out_units"}
    assert {f"{name}_denoising" for name in found} <= names
    assert not any(name.startswith(("severed", "neurons")) for name in names)
    written = pd.read_csv(tmp_path / "effects.csv")
    assert {"", "both"} == set(written["severed"].fillna(""))
    ranked = {site.component for site in report.located.sites}
    assert "pattern" not in ranked
    assert any(site.component == "mlp_out_unit" and site.module.endswith("mlp.c_proj") for site in report.located.sites)


def test_one_pairs_map_holds_its_single_sites(traced):
    derived = effects(traced)
    (panel,) = colours(plot_pair(analyse(traced), 0)) or [plot_pair(analyse(traced), 0).data[0]]
    rows = derived.query("pair == 0 and direction == 'denoising' and component == 'mlp_out' and severed == ''")
    grid = rows.pivot(index="layer", columns="clean_pos", values="nie").to_numpy()
    drawn = np.array(panel.z, dtype=float)
    assert drawn[:, ~np.isnan(drawn).all(0)] == pytest.approx(np.where(grid == 0, np.nan, grid), nan_ok=True)
