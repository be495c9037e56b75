"""Attention weights, numbers of the MLP's output, sets of sites, and maps of chosen sites alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bare import trace
from test_identities import EXACT, PROMPTS, pair

from locate.errors import LocateError
from locate.mediation import effects
from locate.prompts import Prompts
from locate.sites import Patch, Site, Write
from locate.tracing.plan import Map
from locate.tracing.table import LABELS

LAST_TO_SUBJECT = Map(("pattern",), roles=("last",), keys=("subject_last",))
ENGINES = ("plain", "sweep")
CELL = ["pair", "direction", "layer", "unit", "clean_pos"]


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "bloom"])
def test_an_edge_is_one_weight_of_one_head(model_of, family):
    """By a hook of its own: the weight from the last token to the subject's last comes from the other prompt."""
    model = model_of(family)
    two = Prompts((pair("nurse", "police officer"),))
    ours = trace(model, two, LAST_TO_SUBJECT).table
    ours = ours[ours["direction"] == "denoising"].set_index(["layer", "unit"])["patched_female"]
    clean, corrupted = (torch.tensor([model.encode(text)[0]]) for text in (two.pairs[0].clean, two.pairs[0].corrupted))
    female = model.encode(two.pairs[0].clean + " she")[0][-1]
    from_key = subject_end(model, two.pairs[0].clean, "nurse")
    to_key = subject_end(model, two.pairs[0].corrupted, "officer")
    assert clean.shape != corrupted.shape
    moved = 0.0
    for (layer, head), value in ours.items():
        kept = []
        with model.hooked([(model.hook("pattern", layer), lambda seen, hook, kept=kept: kept.append(seen.clone()))]):
            model.final_logits(clean)

        def write(seen, hook, kept=kept, head=head):
            seen = seen.clone()
            seen[0, head, -1, to_key] = kept[0][0, head, -1, from_key]
            return seen

        with model.hooked([(model.hook("pattern", layer), write)]):
            theirs = model.final_logits(corrupted)[0].log_softmax(-1)[female]
        assert value == pytest.approx(float(theirs), abs=EXACT)
        moved = max(moved, abs(value - float(model.final_logits(corrupted)[0].log_softmax(-1)[female])))
    assert len(ours) == 12
    assert moved > 1e-3


def subject_end(model, text: str, word: str) -> int:
    """Index of the token in which a word ends."""
    end = text.index(word) + len(word)
    return next(place for place, span in enumerate(model.encode(text)[1]) if span[1] == end)


def test_edges_of_all_roles_together_are_the_whole_row(gpt2):
    """One role after the other in one set, and without a role at once."""
    roles = ("before_subject", "subject_first", "subject_middle", "subject_last", "after_subject", "further", "last")
    whole = [Patch.at(Site("pattern", 1, "last", head)) for head in range(4)]
    parts = [
        Patch.joint(f"head {head}", [Site("pattern", 1, "last", head, role) for role in roles]) for head in range(4)
    ]
    found = effects(trace(gpt2, PROMPTS, patches=[*whole, *parts]), view="signed")
    named = found["name"] != ""
    keys = ["pair", "direction", "unit"]
    both = found[~named].merge(found[named], on=keys, validate="one_to_one")
    assert len(both) == 4 * 2 * len(PROMPTS)
    np.testing.assert_allclose(both["nie_x"], both["nie_y"], rtol=0, atol=EXACT)
    assert both["nie_x"].abs().max() > 1e-3


def test_heads_that_attend_to_nothing_say_nothing(family_model):
    """Where attention weights can be written, zero weights from the last token are zero heads there."""
    if "pattern" not in family_model.unit_counts:
        with pytest.raises(LocateError, match="has no pattern to hook"):
            trace(family_model, PROMPTS, Map(("pattern",)))
        return
    blind, silent = (
        [Patch.at(Site(component, 2, "last", head), "zero") for head in range(4)] for component in ("pattern", "head")
    )
    one_length = Prompts((pair("nurse", "man"),))  # of two lengths, a token without counterpart would keep its weight
    found = effects(trace(family_model, one_length, patches=[*blind, *silent]), view="signed")
    grid = found.pivot(index=["direction", "unit"], columns="component", values="nie")
    assert len(grid) == 8
    np.testing.assert_allclose(grid["pattern"], grid["head"], rtol=0, atol=EXACT)
    assert grid["head"].abs().min() > 1e-4


def test_numbers_of_the_output_together_are_the_output(gpt2):
    """The d_model numbers of an MLP's output, written one by one in one set, are the whole output."""
    whole = Patch.at(Site("mlp_out", 0, "subject_last"))
    parts = Patch.joint("numbers", [Site("mlp_out_unit", 0, "subject_last", unit) for unit in range(gpt2.d_model)])
    found = effects(trace(gpt2, PROMPTS, patches=[whole, parts]), view="signed")
    grid = found.pivot(index=["pair", "direction"], columns="name", values="nie")
    np.testing.assert_allclose(grid["numbers"], grid[""], rtol=0, atol=EXACT)
    assert grid[""].abs().min() > 1e-3


def test_a_number_is_written_into_the_whole_output_that_a_patch_writes_too(gpt2):
    """Whichever is named first: both engines write the whole output, and the number after it."""
    whole, number = Write(Site("mlp_out", 1, "last")), Write(Site("mlp_out_unit", 1, "last", 3), "zero")
    patches = [Patch(whole.site, (number, whole), name="both"), Patch.at(whole.site)]
    slow, fast = (effects(trace(gpt2, PROMPTS, patches=patches, engine=name), view="signed") for name in ENGINES)
    np.testing.assert_allclose(fast["nie"], slow["nie"], rtol=0, atol=EXACT)
    grid = slow.pivot(index=["pair", "direction"], columns="name", values="nie")
    assert (grid["both"] - grid[""]).abs().min() > 1e-4


def test_a_set_is_written_where_a_pair_has_tokens_for_it(gpt2):
    """Where the subject is one token only the other site of the set is written; a pair without any is left out."""
    first, last = Site("mlp_out", 0, "subject_first"), Site("mlp_out", 1, "last")
    mixed = PROMPTS + Prompts((pair("police officer", "construction worker"),))
    patches = [Patch.joint("both", [first, last]), Patch.joint("first", [first]), Patch.at(last)]
    found = effects(trace(gpt2, mixed, patches=patches), view="signed")
    found = found[found["direction"] == "denoising"].set_index(["name", "pair"])["nie"]
    assert found["first"].index.tolist() == [3]
    assert found["both"].index.tolist() == found[""].index.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found["both"][[0, 1, 2]], found[""][[0, 1, 2]], rtol=0, atol=EXACT)
    assert abs(found["both"][3] - found[""][3]) > 1e-4


def test_sets_of_one_anchor_are_told_apart_by_name_alone(gpt2):
    sites = [Site("mlp_out", 0, "last"), Site("mlp_out", 1, "last")]
    with pytest.raises(LocateError, match=r"two patches have the anchor .* give them names, or trace them separately"):
        trace(gpt2, PROMPTS, patches=[Patch.joint("a", sites), Patch.joint("a", sites[:1])])
    with pytest.raises(LocateError, match="set 'a' has no sites"):
        Patch.joint("a", [])


def test_chosen_sites_alone_are_measured_as_in_the_whole_map(gpt2):
    map = Map(("mlp_out", "head", "pattern"), keys=("subject_last", "last"))
    only = (
        Site("mlp_out", 1, "subject_last"),
        Site("head", 2, "last", 3),
        Site("pattern", 2, "last", 0, "subject_last"),
        Site("pattern", 1, "after_subject", 2, "subject_last"),
    )
    whole, part = (trace(gpt2, PROMPTS, each).table for each in (map, replace(map, only=only)))
    whole, part = (each.astype(dict.fromkeys(LABELS, str)) for each in (whole, part))
    keys = [*CELL, "component", "role", "key"]
    kept = {
        (site.component, site.layer, site.position, -1 if site.unit is None else site.unit, site.key or "")
        for site in only
    }
    named = whole[["component", "layer", "role", "unit", "key"]].astype(object).apply(tuple, axis=1)
    expected = whole[named.isin(kept)].set_index(keys)["patched_female"].sort_index()
    found = part.set_index(keys)["patched_female"].sort_index()
    assert found.index.equals(expected.index)
    assert len(found) == 2 * len(PROMPTS) * len(only)
    np.testing.assert_allclose(found, expected, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    ("map", "message"),
    [
        ({"keys": ("last",)}, "keys .* without pattern: add pattern to the components"),
        ({"components": ("pattern",), "keys": ("nose",)}, "role 'nose': expected one of"),
        ({"components": ("pattern",), "keys": ("last", "last")}, "keys last, last: expected each once"),
    ],
)
def test_bad_keys_are_refused(map, message):
    with pytest.raises(LocateError, match=message):
        Map(**map)


def test_only_patterns_have_keys_and_no_vector_fits_them(gpt2):
    with pytest.raises(LocateError, match="key 'last' of component 'head': only a pattern has keys"):
        Site("head", 0, "last", 0, "last")
    with pytest.raises(LocateError, match=r"origin of .*pattern.* is a vector: expected source, base or zero"):
        trace(gpt2, PROMPTS, patches=[Patch.at(Site("pattern", 0, "last", 0), torch.zeros(4))])
