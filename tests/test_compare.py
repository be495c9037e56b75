"""Changes from one model to another: arithmetic with planted changes, refusals, files, figures, the command line."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from html import unescape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from bare import trace
from handmade import GROUPS, map_trace, steady
from safetensors.torch import load_file, save_file
from test_cli import run  # noqa: F401
from test_report import caption, colours, labels, marked, panel_titles

import locate
from locate import LocateError, compare, load_trace
from locate.cli.comparing import change_table
from locate.cli.following import after_comparison
from locate.mediation import changes, effects, load_comparison
from locate.mediation.change_table import paired, total_changes
from locate.mediation.resampling import Intervals
from locate.model.loading import load
from locate.prompts import occupation_pairs
from locate.report.change_maps import change_figures, plot_changes, plot_head_changes, write_comparison
from locate.report.page.comparison import LOOK, advice_of, certainty, comparison_page
from locate.tracing.plan import Map

PLANTED = ("mlp_out", 1, "subject_last")
SITE = ["direction", "component", "layer", "role"]


def of(found, part="model", **entries):
    """A trace with other entries in a part of its meta."""
    return replace(found, meta=found.meta | {part: found.meta[part] | entries})


def other_model(found, weights="v"):
    """The same trace as if of other weights."""
    return of(of(found, "recipe", weights_sha256=weights * 64), name="other", weights_sha256=weights * 64)


def more(component, layer, role, group):
    """`steady`, and 0.5 nats more at one site."""
    return steady(component, layer, role, group) + 0.5 * ((component, layer, role) == PLANTED)


@pytest.fixture(scope="module")
def a():
    return map_trace()


@pytest.fixture(scope="module")
def b():
    return other_model(map_trace(more))


@pytest.fixture(scope="module")
def comparison(a, b):
    return compare(a, b, samples=200)


def test_a_model_compared_with_itself_changes_nowhere_exactly(a):
    table = changes(effects(a), effects(a), chosen=Intervals(samples=200))
    assert len(table) == 2 * 3 * 3 * 3
    assert (table[["change", "low", "high"]] == 0).all(axis=None)
    assert (table["p"] == 1).all()
    assert table["effect_a"].equals(table["effect_b"])
    assert table["effect_a"].abs().max() > 1


def test_a_change_forth_and_back_differs_in_its_sign_alone(a, b):
    forth, back = (
        changes(effects(a), effects(b), chosen=Intervals(samples=200)),
        changes(effects(b), effects(a), chosen=Intervals(samples=200)),
    )
    assert forth[SITE].equals(back[SITE])
    for one, other in (("change", "change"), ("low", "high"), ("high", "low")):
        np.testing.assert_allclose(forth[one], -back[other], rtol=0, atol=1e-12)
    for one, other in (("p", "p"), ("q", "q"), ("effect_a", "effect_b"), ("low_a", "low_b"), ("q_a", "q_b")):
        assert forth[one].equals(back[other])
    assert forth["change"].abs().max() == pytest.approx(0.5)


@pytest.mark.parametrize("column", ["nie", "nde", "total"])
def test_a_change_is_the_difference_of_both_averages(a, column):
    b = map_trace(lambda component, layer, role, group: 0.3 * group + steady(component, layer, role, group))
    table = changes(effects(a), effects(b), column, chosen=Intervals(samples=200))
    np.testing.assert_allclose(table["change"], table["effect_b"] - table["effect_a"], rtol=0, atol=1e-12)
    for name, one in (("a", a), ("b", b)):
        alone = effects(one).groupby(["direction", "component", "layer", "role"], observed=True)[column].mean()
        assert list(table[f"effect_{name}"]) == pytest.approx(
            list(alone.reindex(pd.MultiIndex.from_frame(table[SITE])))
        )
    assert table["change"].abs().max() > 1 or column == "total"


def test_only_the_planted_site_changes(a, b):
    table = changes(effects(a), effects(b), chosen=Intervals(samples=200)).set_index(SITE)
    for direction, sign in (("denoising", 1), ("noising", -1)):
        site = table.loc[(direction, *PLANTED)]
        assert (site["change"], site["low"], site["high"]) == pytest.approx([sign * 0.5] * 3)
        assert (site["n"], site["groups"]) == (2 * len(GROUPS), len(GROUPS))
        assert site["effect_b"] - site["effect_a"] == pytest.approx(sign * 0.5)
        table = table.drop(index=[(direction, *PLANTED)])
    assert table["change"].abs().max() < 1e-12


def test_pairs_are_matched_so_what_both_models_share_widens_no_interval():
    """Groups differ by nats from each other, and B from A by 0.1 to 0.12 in every one of them."""

    def wide(component, layer, role, group):
        return 0.3 * (-1) ** group * group

    def slightly(component, layer, role, group):
        return wide(component, layer, role, group) + 0.1 + 0.02 * (group % 2)

    table = changes(effects(map_trace(wide)), effects(map_trace(slightly)), chosen=Intervals(samples=200))
    site = table.set_index(SITE).loc[("denoising", *PLANTED)]
    assert site["change"] == pytest.approx(0.11)
    assert 0.1 - 1e-9 <= site["low"] < site["high"] <= 0.12 + 1e-9
    assert site["high_a"] - site["low_a"] > 1


def test_totals_change_by_the_difference_of_totals(a):
    b = replace(a, table=a.table.copy())
    b.table["source_female"] += np.where(b.table["stereotype"] > 0, 0.7, -0.7) * (b.table["direction"] == "denoising")
    totals = total_changes(paired(effects(a), effects(b)), Intervals(samples=200)).set_index("direction")
    assert list(totals.loc["denoising", ["effect_a", "effect_b", "change"]]) == pytest.approx([4.0, 4.7, 0.7])
    assert list(totals.loc["noising", ["effect_a", "effect_b", "change"]]) == pytest.approx([-4.0, -4.0, 0.0])
    assert list(totals["n"]) == [24, 24]


def test_another_tokenizer_is_matched_by_roles(a, b):
    """B reads one more token in front; its positions differ, its roles do not."""
    moved = replace(
        b, table=b.table.assign(clean_pos=b.table["clean_pos"] + 1, corrupted_pos=b.table["corrupted_pos"] + 1)
    )
    assert compare(a, moved, samples=200).sites == compare(a, b, samples=200).sites


def test_a_roles_tokens_count_as_one_cell(a, b):
    """Twice the tokens in a role of B, one of them without effect: the mean over both counts, as in `average`."""
    extra = b.table[b.table["role"] == "subject_last"].assign(clean_pos=7, corrupted_pos=7)
    for answer in ("female", "male"):
        extra[f"patched_{answer}"] = extra[f"base_{answer}"]
    more_tokens = effects(replace(b, table=pd.concat([b.table, extra], ignore_index=True)))
    found = changes(effects(a), more_tokens, chosen=Intervals(samples=200))
    site = found.set_index(SITE).loc[("denoising", *PLANTED)]
    assert site["effect_b"] == pytest.approx((site["effect_a"] + 0.5) / 2)
    cells = paired(effects(a), more_tokens)
    assert (cells.only_a, cells.only_b) == (0, 0)


def test_cells_and_pairs_of_one_model_alone_are_counted_and_left_out(a, b):
    fewer = b.table[(b.table["role"] != "before_subject") & (b.table["pair"] != 5)]
    found = compare(a, replace(b, table=fewer), samples=200)
    assert found.pairs == {"both": 23, "only_a": 1, "only_b": 0}
    maps = 2 * 3 * 3  # directions, components, layers
    assert found.cells == {"both": 23 * maps * 2, "only_a": 24 * maps * 3 - 23 * maps * 2, "only_b": 0}
    assert {site.n for site in found.sites} == {23}
    back = compare(replace(b, table=fewer), a, samples=200)
    assert (back.cells["only_a"], back.cells["only_b"]) == (0, found.cells["only_a"])


def test_models_that_share_few_cells_are_refused(a, b):
    few = b.table[b.table["role"] == "last"]
    with pytest.raises(LocateError, match="432 cells are in both runs, 864 in A alone, 0 in B alone"):
        compare(a, replace(b, table=few))


MAP = {"components": ["mlp_out"], "roles": None, "windows": [1]}


def with_prompts(found, column, value):
    """A trace whose third pair reads otherwise."""
    table = found.table.copy()
    table[column] = table[column].astype("object" if isinstance(value, str) else "int32")
    table.loc[table["pair"] == 2, column] = value
    return of(replace(found, table=table), "recipe", prompts_sha256="q" * 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: of(b, n_layers=12), "layers 3 in A, 12 in B: compare models of the same depth"),
        (lambda b: with_prompts(b, "corrupted", "The boy said that"),
         "corrupted of pair 2 'The man said that' in A, 'The boy said that' in B"),
        (lambda b: with_prompts(b, "stereotype", 0), "stereotype of pair 2 -1 in A, 0 in B"),
        (lambda b: of(replace(b, meta=b.meta | {"prompts": {"pairs": 9}}), "recipe", prompts_sha256="q" * 64),
         "number of pairs 24 in A, 9 in B: .* the same --limit"),
        (lambda b: of(b, "recipe", prompts_sha256="q" * 64),
         "prompts_sha256 'pppppppppppp' in A, 'qqqqqqqqqqqq' in B: the answers or the pairs left out differ"),
        (lambda b: replace(b, meta=b.meta | {"directions": ["denoising"]}),
         r"directions \['denoising', 'noising'\] in A, \['denoising'\] in B: trace both alike"),
        (lambda b: replace(b, meta=b.meta | {"corruption": {"kind": "noise", "sigmas": 3.0, "seed": 1}}),
         "corruption {'kind': 'swap'} in A, {'kind': 'noise', 'sigmas': 3.0, 'seed': 1} in B"),
        (lambda b: replace(b, meta=b.meta | {"map": MAP | {"roles": ["last"]}}),
         r"roles None in A, \['last'\] in B: trace both with the same map"),
        (lambda b: of(of(b, n_heads=9), "recipe", patches_sha256="x" * 64), "n_heads 2 in A, 9 in B: leave out"),
        (lambda b: of(b, "recipe", patches_sha256="x" * 64), "patches_sha256 'aaaaaaaaaaaa' in A, 'xxxxxxxxxxxx' in B"),
        (lambda b: of(b, "recipe", weights_sha256="w" * 64),
         r"A and B are traces of one model \(weights wwwwwwwwwwww in float32\): every change would be 0"),
    ],
)  # fmt: skip
def test_runs_that_do_not_match_are_refused_with_both_values(a, b, change, message):
    told = {"prompts": {"pairs": 24}, "map": MAP}
    a, b = (replace(each, meta=each.meta | told) for each in (a, b))
    compare(a, b, samples=100)
    with pytest.raises(LocateError, match=message):
        compare(a, change(b), samples=100)


def test_noise_of_another_seed_is_refused_and_of_another_scale_told(a, b):
    noise = {"kind": "noise", "sigmas": 3.0, "samples": 1, "seed": 0, "scale": 0.1}
    a, b = (replace(each, meta=each.meta | {"corruption": noise}) for each in (a, b))
    found = compare(a, of(b, "corruption", scale=0.2), samples=100)
    assert found.differing["scale of the noise"] == [0.1, 0.2]
    with pytest.raises(LocateError, match=r"'seed': 0} in A, .*'seed': 3} in B"):
        compare(a, of(b, "corruption", seed=3), samples=100)


def test_probabilities_matter_to_metrics_that_need_them(a, b):
    without = replace(b, meta=b.meta | {"probabilities": False})
    compare(a, without, samples=100)
    with pytest.raises(LocateError, match="probabilities True in A, False in B: metric 'prob_diff' needs them"):
        compare(a, without, metric="prob_diff", samples=100)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "bias"}, "metric 'bias': expected one of"),
        ({"quantity": "aie"}, "quantity 'aie': expected one of total, nie, nde"),
        ({"direction": "sideways"}, "direction 'sideways': expected one of"),
        ({"top": 0}, "top 0: expected a number of sites >= 1"),
    ],
)
def test_bad_arguments_are_refused(a, b, options, message):
    with pytest.raises(LocateError, match=message):
        compare(a, b, **options)


def test_effects_of_two_metrics_are_not_compared(a, b):
    with pytest.raises(LocateError, match="metric 'logit_diff' in A, 'prob_diff' in B"):
        changes(effects(a), effects(b, "prob_diff"))


def test_what_differs_is_told_and_the_same_weights_in_another_dtype_may_be_compared(a, b, comparison):
    assert comparison.differing == {"name": ["paper", "other"], "weights_sha256": ["w" * 64, "v" * 64]}
    assert not comparison.same_weights
    half = of(of(a, "recipe", dtype="bfloat16"), dtype="bfloat16")
    found = compare(a, half, samples=100)
    assert found.same_weights
    assert found.differing == {"dtype": ["float32", "bfloat16"]}


def test_the_largest_change_is_first_and_the_residual_stream_is_left_to_the_table(a, b, comparison):
    first = comparison.sites[0]
    assert (first.component, first.layer, first.role, first.unit) == (*PLANTED, None)
    assert first.change == pytest.approx((0.5, 0.5, 0.5))
    assert comparison.sites[1].change[0] == pytest.approx(-first.change[0])
    assert {site.component for site in comparison.sites} == {"attn_out", "mlp_out"}
    assert set(comparison.table["component"]) == {"attn_out", "mlp_out", "resid_pre"}
    only = [replace(each, table=each.table[each.table["component"] == "resid_pre"]) for each in (a, b)]
    assert {site.component for site in compare(*only, samples=100).sites} == {"resid_pre"}


def test_one_direction_alone(a, b):
    found = compare(a, b, direction="noising", samples=100)
    assert {site.direction for site in found.sites} == {each.direction for each in found.totals} == {"noising"}
    assert found.sites[0].change[0] == pytest.approx(-0.5)


def test_a_comparison_is_read_as_it_was_written(comparison, tmp_path):
    written = write_comparison(comparison, tmp_path / "out", formats=("html",))
    assert load_comparison(tmp_path / "out") == comparison
    names = {str(path.relative_to(tmp_path / "out")) for path in written.paths}
    figures = {f"figures/{name}" for name in ("change_denoising.html", "change_noising.html", "plotly.min.js")}
    assert names == {"changes.csv", "compare.json", "report.html"} | figures
    table = pd.read_csv(tmp_path / "out" / "changes.csv", keep_default_na=False)
    np.testing.assert_allclose(table["change"].astype(float), comparison.table["change"], rtol=1e-5, atol=1e-9)
    assert set(table["unit_of_effect"]) == {"nats"}
    with pytest.raises(LocateError, match="read from a file and holds no table"):
        write_comparison(load_comparison(tmp_path / "out"), tmp_path / "again")


def test_the_overlap_of_the_strongest_sites_stands_in_the_file(a, b, comparison, tmp_path):
    path = comparison.save(tmp_path / "compare.json")
    assert [each.direction for each in comparison.overlaps] == ["denoising", "noising"]
    assert {(each.k, each.n) for each in comparison.overlaps} == {(6, 12)}
    assert {each.k for each in compare(a, b, samples=200, k=2).overlaps} == {2}
    content = json.loads(path.read_text())
    del content["overlaps"]
    path.write_text(json.dumps(content | {"schema": 1}))
    assert load_comparison(path) == replace(comparison, overlaps=())


def test_the_page_says_how_sure_a_change_is_and_what_to_do_next(a, b, comparison):
    page = comparison_page(comparison, {}, commands=["locate-bias explore 'a b' c"])
    assert [title for title in ("How sure that is", "What to do next") if f">{title}</h2>" in page] == [
        "How sure that is", "What to do next",
    ]  # fmt: skip
    assert "<pre><code>locate-bias explore &#x27;a b&#x27; c</code></pre>" in page
    sure = certainty(comparison)
    assert sure[0] == "Pairs: 24 pairs of prompts are in both runs, and the changes are taken pair by pair."
    passing = int((comparison.table["q"] <= 0.05).sum())
    assert 0 < passing < len(comparison.table)
    assert sure[-2].startswith(f"Chance: {passing} of {len(comparison.table)} changes have q ≤ 0.05, corrected for all")
    assert sure[-1] == "Nothing else differs."
    assert advice_of(comparison) == list(LOOK)


def test_the_page_tells_pairs_of_one_run_alone_settings_that_differ_and_changes_that_may_be_chance(a, b):
    few = replace(b, table=b.table[b.table["pair"] != 0])
    found = compare(a, of(few, dtype="bfloat16", tokenizer_sha256="t" * 64), samples=200)
    sure = certainty(found)
    assert sure[0].startswith("Pairs: 23 pairs of prompts are in both runs")
    assert sure[0].endswith("; 1 that only one run has are left out.")
    assert "dtype float32 in A, bfloat16 in B" in sure[-1]
    assert f"in A, {'t' * 12} in B" in sure[-1]
    assert "weights" not in sure[-1]
    same = compare(a, of(a, "recipe", dtype="bfloat16"), samples=200)
    assert same.same_weights
    assert [line[:24] for line in advice_of(same)] == ["The weights are the same"]
    unmoved = replace(comparison_without_changes(a), same_weights=False)
    assert advice_of(unmoved)[0].startswith("No site changed beyond chance in 24 pairs: that is no proof")
    assert advice_of(unmoved)[1] == LOOK[1]
    assert "0 of " in certainty(unmoved)[2]


def comparison_without_changes(a):
    """A comparison in which nothing changes."""
    return compare(a, other_model(a), samples=200)


def test_what_to_type_after_a_comparison(a, b, comparison, tmp_path):
    runs, made = (tmp_path / "a", tmp_path / "b c"), tmp_path / "change"
    models = [
        a.meta["model"] | {"revision": None},
        b.meta["model"] | {"bos": "no", "chat": True, "dtype": "bfloat16", "revision": "v1"},
    ]
    live, *judged = (shlex.split(each)[1:] for each in after_comparison(comparison, runs, models, made))
    assert live == ["explore", *map(str, runs)]
    sides = [f"{made}-evaluated/{name}" for name in "AB"]
    assert judged == [
        ["evaluate", "paper", "--output", sides[0]],
        ["evaluate", "other", "--output", sides[1], "--dtype", "bfloat16", "--revision", "v1", "--bos", "no", "--chat"],
        ["compare", *sides],
    ]
    assert len(after_comparison(replace(comparison, same_weights=True), runs, models, made)) == 1


def test_a_folder_with_a_run_is_not_written_into(a, comparison, tmp_path):
    a.save(tmp_path)
    with pytest.raises(LocateError, match="holds a run: choose another"):
        write_comparison(comparison, tmp_path, formats=("html",))
    assert not (tmp_path / "changes.csv").exists()


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda content: content.update(schema=3), "at schema"),
        (lambda content: content["sites"][0].update(change=[0.1, 0.2]), "at sites/0/change"),
        (lambda content: content["totals"][0].update(p=2), "at totals/0/p"),
        (lambda content: content["a"].pop("dtype"), "at a: 'dtype' is a required property"),
    ],
)
def test_a_changed_file_is_refused_with_the_place(comparison, tmp_path, edit, place):
    path = comparison.save(tmp_path / "compare.json")
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
    with pytest.raises(LocateError, match=f"does not fit the schema 'compare' {place}"):
        load_comparison(path)


def test_a_change_that_is_no_number_is_not_saved(comparison, tmp_path):
    broken = replace(comparison, sites=(replace(comparison.sites[0], change=(float("nan"), 0.0, 0.0)),))
    with pytest.raises(LocateError, match="at sites/0/change/0"):
        broken.save(tmp_path / "compare.json")
    assert list(tmp_path.iterdir()) == []


def test_maps_of_both_models_and_of_the_change_share_one_scale(comparison):
    figure = plot_changes(comparison)
    panels = colours(figure)
    assert panel_titles(figure) == ["A: paper", "B: other", "B - A"]
    assert labels(figure)[1] == "<b>last token of the occupation</b>"
    assert len(panels) == 9
    before, after, change = panels[6:]
    np.testing.assert_allclose(np.array(after.z) - np.array(before.z), change.z, rtol=0, atol=1e-12)
    expected = np.zeros((3, 3))
    expected[1, 1] = 0.5
    np.testing.assert_allclose(np.nan_to_num(change.z), expected, rtol=0, atol=1e-12)
    for hatched in marked(figure, "hatching"):  # before the subject nothing reaches the answer in either model
        assert hatched.tolist() == [[True, False, False]] * 3
    assert marked(figure)[8][0, 1]  # nothing changed in the lowest MLP, though both effects pass
    assert not marked(figure)[6][0, 1]
    for panel, total in zip(("A", "B", "B - A"), ("a", "b", "change"), strict=True):
        value = getattr(comparison.totals[0], total)[0]
        assert f"{panel} {value:+.2f} [" in caption(figure) if value else f"{panel} 0.00 [" in caption(figure)
    assert "layer and token: residual stream, attention output and MLP output, from paper (A) to other (B)" in caption(
        figure
    )
    assert figure.layout.coloraxis.cmax == pytest.approx(comparison.table["effect_b"].max())
    assert "n = 24 pairs of 12 groups" in caption(figure)
    assert "B - A: mean over the same pairs" in caption(figure)


def test_each_panel_has_dots_by_its_own_q(comparison):
    table = comparison.table.assign(q=0.5, q_a=0.01, q_b=0.01)
    panels = marked(plot_changes(replace(comparison, table=table)))
    assert panels[8].tolist() == [[False, True, True]] * 3
    assert not panels[6].any()
    assert not panels[7].any()


def test_changes_of_heads_and_windows_have_their_figures():
    heads = map_trace(components=("head",), roles=("last",), unit=1)
    wide = map_trace(components=("mlp_out",), window=3)
    joined = replace(heads, table=pd.concat([heads.table, wide.table], ignore_index=True))
    found = compare(joined, other_model(joined), samples=100)
    names = {"change_denoising_window3", "change_noising_window3", "change_heads_last_denoising"}
    assert set(change_figures(found)) == names | {"change_heads_last_noising"}
    assert {site.window for site in found.sites} == {1}
    assert "patch" not in [column.header for column in change_table(found).columns]
    only = [replace(each, table=each.table[each.table["window"] == 3]) for each in (joined, other_model(joined))]
    found_wide = compare(*only, samples=100)
    patches = next(column for column in change_table(found_wide).columns if column.header == "patch")
    assert set(patches.cells) == {"window 3"}
    figure = plot_head_changes(found)
    assert [list(axis.ticktext) for axis in figure.select_xaxes()] == [["1"]] * 3
    for plot in (plot_changes, plot_head_changes):
        with pytest.raises(LocateError, match="direction 'sideways'"):
            plot(found, direction="sideways")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders of mini, and of mini with the output matrix of its fifth MLP set to 0."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copytree(Path(locate.__file__).parent / "mini", folder / "model")
    weights = load_file(folder / "model" / "model.safetensors")
    weights["transformer.h.4.mlp.c_proj.weight"] *= 0
    save_file(weights, folder / "model" / "model.safetensors", metadata={"format": "pt"})
    for name, model in (("before", "mini"), ("after", str(folder / "model"))):
        map = Map(("attn_out", "mlp_out"), roles=("subject_last", "last"))
        trace(load(model, device="cpu"), occupation_pairs("anti").first(24), map, output=folder / name)
    return folder


def test_an_edited_module_changes_most_where_it_was_edited(runs):
    """With its matrix at 0 an MLP writes the same into every run: its effect is gone, and no other changes as much."""
    found = compare(load_trace(runs / "before"), load_trace(runs / "after"), direction="denoising", samples=500)
    first = found.sites[0]
    assert (first.component, first.layer, first.role) == ("mlp_out", 4, "subject_last")
    assert first.change[2] < 0
    assert first.q < 0.05
    table = found.table[(found.table["component"] == "mlp_out") & (found.table["layer"] == 4)]
    assert table["effect_b"].abs().max() < 1e-5
    np.testing.assert_allclose(table["change"], -table["effect_a"], rtol=0, atol=1e-5)
    assert found.differing["weights_sha256"][0] != found.differing["weights_sha256"][1]
    assert not found.same_weights


def test_the_command_line_compares(run, runs, tmp_path):  # noqa: F811
    code, out, err = run("compare", runs / "before", runs / "after", "-o", tmp_path / "out", "--formats", "html")
    assert code == 0
    page = (tmp_path / "out" / "report.html").read_text()
    next_lines = re.findall(r"^  (locate-bias .*)$", out, re.MULTILINE)
    assert [line.split()[1] for line in next_lines] == ["explore", "evaluate", "evaluate", "compare"]
    assert [unescape(each) for each in re.findall("<pre><code>(.*?)</code></pre>", page)] == next_lines
    steps = re.findall(r"^(\w+), step (\d) of 4; about \d+ s left in all \.\.\.$", err, re.MULTILINE)
    assert steps == [("effects", "1"), ("changes", "2"), ("figures", "3"), ("report", "4")]
    assert "total effect, denoising" in out
    assert "Largest changes: natural indirect effect (nie) on the log-odds of she against he" in out
    assert "change, 95% interval" in out
    assert re.search(r"denoising: \d+ of the 10 strongest of 24 sites are shared", " ".join(out.split()))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "changes.csv",
        "compare.json",
        "figures",
        "report.html",
    }
    arguments = [runs / "before", runs / "after", "-o", tmp_path / "out", "--formats", "html", "--json", "--top", 3]
    code, out, _ = run("compare", *arguments, "--direction", "noising")
    assert code == 0
    content = json.loads(out)["comparison"]
    assert content == json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [site["direction"] for site in content["sites"]] == ["noising"] * 3
    code, out, err = run("compare", runs / "before", runs / "before", "-o", tmp_path / "none")
    assert (code, out) == (1, "")
    assert "A and B are traces of one model" in err.splitlines()[-1]
    assert not (tmp_path / "none").exists()


def test_comparing_imports_no_torch(runs, tmp_path):
    script = (
        "import sys; sys.argv = ['locate-bias', 'compare', *sys.argv[1:], '--formats', 'html']\n"
        "from locate.cli import main\n"
        "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'transformer_lens' not in sys.modules"
    )
    arguments = [str(runs / "before"), str(runs / "after"), "-o", str(tmp_path / "out")]
    subprocess.run([sys.executable, "-c", script, *arguments], check=True, capture_output=True)
