"""Ranking a hand-made trace, and located.json as the contract with editors."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from handmade import GROUPS, META, both, map_trace, odds, row, trace_of
from shown import read

from locate import LocateError, load_located, rank

SIZES = {("attn_out", 0): -3.0, ("attn_out", 1): 0.25, ("mlp_out", 0): 1.0, ("mlp_out", 1): 2.0}


def planted(component, layer, role, group):
    """Effects at the last token of the subject alone, a little different from group to group."""
    return SIZES.get((component, layer), 0.0) * (1 + group / 100) if role == "subject_last" else 0.0


def traced(effect=planted, **options):
    """A map of two layers."""
    return map_trace(effect, **{"layers": 2, "components": ("attn_out", "mlp_out")} | options)


@pytest.fixture(scope="module")
def located():
    """What the planted map locates."""
    return rank(traced())


@pytest.fixture
def saved(located, tmp_path):
    """located.json, with a way to change its content."""
    path = located.save(tmp_path / "located.json")

    def change(edit):
        content = json.loads(path.read_text())
        edit(content)
        path.write_text(json.dumps(content))
        return path

    return change


def test_sites_are_ordered_by_size_with_their_signs(located):
    strongest = [(site.component, site.layer, site.role) for site in located.sites[:4]]
    assert strongest == [
        ("attn_out", 0, "subject_last"), ("mlp_out", 1, "subject_last"), ("mlp_out", 0, "subject_last"),
        ("attn_out", 1, "subject_last"),
    ]  # fmt: skip
    assert [site.effect for site in located.sites[:4]] == pytest.approx([-3 * 1.055, 2 * 1.055, 1.055, 0.25 * 1.055])
    assert len(located.sites) == 2 * 2 * 3


def test_a_site_holds_its_interval_and_counts(located):
    site = located.sites[1]
    assert site.low < site.effect < site.high
    assert (site.n, site.groups, site.unit) == (24, 12, None)
    assert site.q <= 0.05


def test_located_says_what_was_measured(located):
    assert (located.quantity, located.metric, located.unit) == ("nie", "logit_diff", "nats")
    assert (located.view, located.direction, located.level) == ("stereotype", "denoising", 0.95)
    assert (located.component, located.role, located.threshold) == ("mlp_out", "subject_last", 0.05)


def test_layers_are_strongest_first_with_their_modules(located):
    assert located.layers == (1, 0)
    assert located.modules == ("transformer.h.1.mlp.c_proj", "transformer.h.0.mlp.c_proj")
    assert located.module_template == "transformer.h.{}.mlp.c_proj"


def test_layers_below_zero_are_not_listed():
    assert rank(traced(), component="attn_out").layers == (1,)


def test_layers_are_read_off_at_the_role_asked_for():
    assert rank(traced(), role="last").layers == ()


def test_an_interval_above_zero_is_not_enough_without_the_threshold():
    """Three groups allow no p below 1/4."""
    found = rank(traced(groups=GROUPS[:3]))
    strongest = next(site for site in found.sites if site.component == "mlp_out")
    assert strongest.low > 0
    assert strongest.q > 0.05
    assert found.layers == ()


def test_a_layer_whose_groups_disagree_is_not_listed():
    found = rank(traced(lambda component, layer, role, group: (-1.0) ** group * 5 if layer else 1.0))
    assert found.layers == (0,)


def test_modules_come_from_the_traces_own_templates():
    trace = traced()
    trace.meta["modules"] = dict(META["modules"]) | {"mlp_out": "model.layers.{}.mlp.down_proj"}
    found = rank(trace)
    assert found.modules[0] == "model.layers.1.mlp.down_proj"
    assert next(s for s in found.sites if s.component == "attn_out").module == "transformer.h.0.attn.c_proj"


def test_residual_stream_windows_and_severed_patches_are_not_ranked():
    rows = [
        each
        for pair, group in enumerate(GROUPS)
        for labels, size in [
            ({"component": "mlp_out"}, 1.0),
            ({"component": "mlp_out", "window": 3}, 5.0),
            ({"component": "resid_pre"}, 6.0),
            ({"component": "resid_pre", "severed": "mlp_out"}, 7.0),
            ({"component": "mlp_out", "severed": "attn_out"}, 8.0),
        ]
        for each in both(odds(2.0), odds(-2.0), odds(size - 2), odds(2 - size), pair=pair, group=group, **labels)
    ]
    (site,) = rank(trace_of(rows)).sites
    assert (site.component, site.effect) == ("mlp_out", pytest.approx(1.0))


def test_heads_name_their_unit_and_a_layer_once():
    rows = [
        each
        for pair, group in enumerate(GROUPS)
        for layer, unit, size in [(0, 0, 1.0), (0, 1, 3.0), (1, 0, 2.0), (1, 1, 0.0)]
        for each in both(
            odds(2.0), odds(-2.0), odds(size - 2), odds(2.0), pair=pair, group=group, component="head", layer=layer,
            unit=unit,
        )
    ]  # fmt: skip
    found = rank(trace_of(rows), component="head")
    assert [(site.layer, site.unit) for site in found.sites[:3]] == [(0, 1), (1, 0), (0, 0)]
    assert found.sites[0].module == "transformer.h.0.attn.c_proj"
    assert found.layers == (0, 1)


def test_noising_has_its_own_effects():
    found = rank(traced(), direction="noising")
    assert found.direction == "noising"
    assert found.sites[0].effect == pytest.approx(3 * 1.055)
    assert found.sites[1].effect == pytest.approx(-2 * 1.055)


@pytest.mark.parametrize(("quantity", "effect"), [("total", 4.0), ("nde", 4.0 + 3 * 1.055)])
def test_other_quantities(quantity, effect):
    """In this map the two directions mirror each other, so that total = nde + nie of one direction."""
    assert rank(traced(), quantity=quantity).sites[0].effect == pytest.approx(effect)


def test_top_limits_the_sites_not_the_layers():
    found = rank(traced(), top=1)
    assert [site.component for site in found.sites] == ["attn_out"]
    assert found.layers == (1, 0)


def test_only_pairs_of_one_kind():
    kinds = {"occupation": 1.0, "definition": 3.0}
    rows = [
        each
        for pair, (group, kind) in enumerate((group, kind) for group in GROUPS for kind in kinds)
        for each in both(
            odds(2.0), odds(-2.0), odds(kinds[kind] - 2), odds(2.0), pair=pair, group=group, kind=kind
        )
    ]  # fmt: skip
    trace = trace_of(rows)
    assert [rank(trace, kind=kind).sites[0].effect for kind in (*kinds, "all", None)] == pytest.approx([1, 3, 2, 1])
    assert rank(trace, kind="definition").sites[0].n == 12


def test_controls_hold_the_start_up_checks_and_the_largest_effect_before_the_subject():
    def effect(component, layer, role, group):
        return -0.125 if (role, group) == ("before_subject", 3) else 0.01

    found = rank(traced(effect)).controls
    assert found["start-up logits against transformers"] == 1e-6
    assert found["largest effect before the subject"] == pytest.approx(0.125)


def test_a_map_without_tokens_before_the_subject_has_no_such_control():
    assert list(rank(traced(roles=("subject_last",))).controls) == ["start-up logits against transformers"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"direction": "both"}, "direction 'both': expected one of denoising, noising"),
        ({"component": "mlp"}, "component 'mlp': expected one of resid_pre"),
        ({"role": "subject"}, "role 'subject': expected one of before_subject"),
        ({"quantity": "te"}, "quantity 'te': expected one of total, nie, nde"),
        ({"kind": "definition"}, "kind 'definition' was not traced: expected one of occupation, or 'all'"),
        ({"metric": "nats"}, "metric 'nats'"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(LocateError, match=message):
        rank(traced(groups=GROUPS[:2]), **options)


def test_a_direction_that_was_not_traced_is_refused():
    rows = [row(odds(-2.0), odds(2.0), odds(0.0), pair=pair, group=group) for pair, group in enumerate(GROUPS)]
    with pytest.raises(LocateError, match=r"nothing to rank: direction 'noising'.*trace with one of them"):
        rank(trace_of(rows), direction="noising")


def test_a_map_of_the_residual_stream_alone_names_no_layer_and_says_why():
    found = rank(traced(components=("resid_pre",)))
    assert (found.layers, found.modules, found.sites) == ((), (), ())
    assert "only resid_pre was patched, and no single module writes" in found.why_no_layers
    with pytest.raises(LocateError, match=r"nothing to rank: .* hold none of mlp_out, attn_out, head, neuron"):
        rank(traced(components=("resid_pre",)), window=1)


def test_save_and_load_give_the_same(located, tmp_path):
    assert load_located(located.save(tmp_path / "located.json")) == located
    assert load_located(tmp_path) == located


def test_a_role_of_one_group_alone_does_not_stop_the_hand_off(tmp_path):
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
    found = rank(trace_of(rows))
    assert load_located(found.save(tmp_path / "located.json")) == found
    assert found.layers == (0,)


def test_json_is_strict_and_says_its_version(located, tmp_path):
    def refuse(word):
        raise AssertionError(word)

    content = json.loads(located.save(tmp_path / "located.json").read_text(), parse_constant=refuse)
    assert content["schema"] == 3
    assert content["sites"][0] == asdict(located.sites[0])
    assert content["trace"]["recipe"] == META["recipe"]


def test_a_control_that_is_no_number_is_not_saved(located, tmp_path):
    unknown = replace(located, controls={"start-up": float("nan")})
    with pytest.raises(LocateError, match="at controls/start-up"):
        unknown.save(tmp_path / "located.json")


def test_a_necessary_layer_lowers_the_preference_so_noising_lists_layers_below_zero():
    """Both directions name the same layers where the effects mirror each other."""
    there, back = (rank(traced(), direction=direction, component="mlp_out") for direction in ("denoising", "noising"))
    assert there.layers == back.layers != ()
    assert {site.effect > 0 for site in back.sites if site.component == "mlp_out" and site.layer in back.layers} == {
        False
    }


def test_the_component_and_role_that_were_traced_are_taken():
    heads = rank(map_trace(components=("head",), roles=("last",), unit=0))
    assert (heads.component, heads.role, heads.module_template) == ("head", "last", "transformer.h.{}.attn.c_proj")
    with pytest.raises(LocateError, match="component 'mlp_out' was not traced: expected one of head"):
        rank(map_trace(components=("head",), unit=0), component="mlp_out")
    with pytest.raises(LocateError, match="role 'further' was not traced: expected one of before_subject"):
        rank(traced(), role="further")


def test_windows_alone_are_ranked_and_named():
    wide = map_trace(components=("mlp_out",), window=3)
    assert rank(wide).window == 3
    assert rank(traced()).window == 1
    with pytest.raises(LocateError, match="window 2"):
        rank(wide, window=2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_an_effect_that_is_no_number_is_not_saved(located, tmp_path, bad):
    broken = replace(located, sites=(replace(located.sites[0], effect=bad),))
    with pytest.raises(LocateError, match="at sites/0/effect"):
        broken.save(tmp_path / "located.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "place"),
    [
        (lambda content: content.pop("unit"), "at the top: 'unit' is a required property"),
        (lambda content: content["sites"][2].pop("q"), "at sites/2: 'q' is a required property"),
        (lambda content: content["sites"][1].update(layer="1"), "at sites/1/layer: '1' is not of type 'integer'"),
        (lambda content: content["sites"][1].update(effect=None), "at sites/1/effect: None is not of type 'number'"),
        (lambda content: content["sites"][0].update(component="mlp"), "at sites/0/component: 'mlp' is not one of"),
        (lambda content: content["sites"][0].update(q=1.5), "at sites/0/q: 1.5 is greater than"),
        (lambda content: content["sites"][0].update(n=0), "at sites/0/n: 0 is less than"),
        (lambda content: content["sites"][0].update(z=1), "at sites/0: Additional properties .*'z'"),
        (lambda content: content.update(note="mine"), "at the top: Additional properties .*'note'"),
        (lambda content: content.update(layers=[1, -1]), "at layers/1: -1 is less than"),
        (lambda content: content.update(schema=1), "at schema: 3 was expected"),
        (lambda content: content["trace"].pop("recipe"), "at trace: 'recipe' is a required property"),
    ],
)
def test_a_changed_file_is_refused_with_the_place(saved, edit, place):
    path = saved(edit)
    with pytest.raises(LocateError, match=rf"located\.json does not fit the schema 'located' {place}"):
        load_located(path)


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(saved, word):
    path = saved(lambda content: content["sites"][0].update(effect=123456.0))
    path.write_text(path.read_text().replace("123456.0", word))
    with pytest.raises(LocateError, match=r"located\.json"):
        load_located(path)


@pytest.mark.parametrize(
    ("text", "message"), [(None, "no file .*located.json"), ("{", "is not JSON"), ("[]", "at the top")]
)
def test_a_file_that_is_none_is_refused(tmp_path, text, message):
    if text is not None:
        (tmp_path / "located.json").write_text(text)
    with pytest.raises(LocateError, match=message):
        load_located(tmp_path)


def test_frame_has_a_row_a_site(located):
    frame = located.frame()
    assert len(frame) == len(located.sites)
    assert frame["effect"].tolist() == [site.effect for site in located.sites]


def test_a_notebook_shows_the_layers_and_a_row_a_site(located):
    shown = read(located)
    assert shown.sentences[0].endswith("95% intervals over 12 occupations.")
    assert shown.sentences[1].endswith("strongest first: 1, 0.")
    assert len(shown.tables[0]) == min(10, len(located.sites))


def test_seed_and_level_reach_the_intervals(located):
    other = rank(traced(), seed=1, level=0.5)
    widths = [site.high - site.low for site in (located.sites[0], other.sites[0])]
    assert widths[0] > widths[1] > 0
    assert np.sign(other.sites[0].effect) == -1


def test_sites_say_how_firmly_they_are_ranked(located):
    """The strongest are always among the five; with more sites than five some are not."""
    shares = [site.stability for site in located.sites]
    assert shares[0] == 1
    assert all(0 <= share <= 1 for share in shares)
    assert sum(shares) <= 5 + 1e-9
