"""An editor of the user's own: one class in one file, taken wherever an editor of the package is."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
import torch

import locate
from locate.editors import unfinished
from locate.editors.dpo import DPO
from locate.editors.edit import Edit, ParameterChange, load_edit
from locate.editors.fit import Fitting, fitting_prompts
from locate.editors.handoff import hand_off
from locate.editors.lsdm import LSDM
from locate.editors.methods import check_editor
from locate.editors.split import fitted_on
from locate.editors.unfinished import edit_or_resume, file_hashes_of
from locate.model.matrices import matrix

LOCATED = Path(__file__).parents[1] / "figures" / "located_opposite.json"


@dataclass(frozen=True)
class Shrink:
    """Makes what some MLPs say smaller by a share: the strongest located ones, or those that are named."""

    share: float = 0.25
    layers: tuple[int, ...] | None = None
    method = "shrink"

    def edit(self, model, located, prompts, *, preserved, progress):
        hand = hand_off(model, located, layers=self.layers, most=2)
        changes = {}
        for done, name in enumerate(hand.modules, start=1):
            layer = matrix(model.network, name)
            changes[layer.parameter] = ParameterChange((layer.stored(-self.share * layer.weight),))
            progress("layers", done, len(hand.modules))
        return Edit(
            method=self.method,
            model=model.provenance(),
            changes=changes,
            edited=fitted_on(prompts, preserved),
            located=hand.origin,
            settings=asdict(self),
        )


@pytest.fixture(scope="module")
def mini():
    return locate.load_causal("mini")


@pytest.fixture(scope="module")
def located():
    return locate.load_located(LOCATED)


def test_an_object_of_the_users_own_edits(mini, located, tmp_path):
    told = []
    fitting: Fitting = fitting_prompts()
    made = locate.edit(mini, located, Shrink(0.5, layers=(2, 3)), fitting, progress=lambda *each: told.append(each))
    assert told == [("layers", 1, 2), ("layers", 2, 2)]
    assert made.method == "shrink"
    assert made.settings == {"share": 0.5, "layers": (2, 3)}
    assert set(fitting.words.held_out_words).isdisjoint(made.edited["words"])
    before = {name: mini.network.get_parameter(name).clone() for name in made.changes}
    with made.applied(mini):
        for name, was in before.items():
            torch.testing.assert_close(mini.network.get_parameter(name), was / 2)
    for name, was in before.items():
        assert torch.equal(mini.network.get_parameter(name), was)
    again = load_edit(made.save(tmp_path / "edit.safetensors"))
    assert again.frame().equals(made.frame())


@pytest.mark.parametrize("wrong", ["lsdm", Shrink, object()], ids=["a name", "a class", "anything"])
def test_what_is_no_editor_is_refused(wrong):
    with pytest.raises(locate.LocateError, match=r"editor .*: expected an object such as LSDM\(\), which has a method"):
        check_editor(wrong)


def test_a_class_without_its_settings_is_refused(mini, located):
    with pytest.raises(locate.LocateError, match=r"editor <class .*Shrink.*>: expected an object such as LSDM\(\)"):
        locate.edit(mini, located, Shrink)


def some(fitting, count):
    return replace(fitting, edited=replace(fitting.edited, pairs=fitting.edited.pairs[:count]))


@pytest.mark.parametrize("change", ["none", "settings", "prompts", "code", "damage"])
def test_an_edit_that_was_made_but_not_proved_is_taken_up(change, mini, located, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fitting, told = some(fitting_prompts(), 20), []

    def progress(*each):
        told.append(each)

    how = Shrink(0.5, layers=(2,))
    first, path = edit_or_resume(mini, located, how, fitting, progress=progress)
    assert told == [("layers", 1, 1)]
    if change == "settings":
        how = Shrink(0.25, layers=(2,))
    elif change == "prompts":
        fitting = some(fitting, 19)
    elif change == "code":
        monkeypatch.setattr(unfinished, "code_sha256", lambda rooms: "another")
    elif change == "damage":
        path.write_bytes(path.read_bytes()[:100])
    again, there = edit_or_resume(mini, located, how, fitting, progress=progress)
    assert len(told) == (1 if change == "none" else 2)
    assert (there == path) == (change in ("none", "damage"))
    ((name, one),) = first.changes.items()
    assert torch.equal(one.whole, again.changes[name].whole) == (change != "settings")


def test_the_text_to_preserve_belongs_to_what_an_edit_is_made_of(tmp_path):
    (tmp_path / "one.txt").write_text("It rained.")
    (tmp_path / "other.txt").write_text("It snowed.")
    one, other = (file_hashes_of(LSDM(text=tmp_path / f"{name}.txt")) for name in ("one", "other"))
    assert one != other
    assert file_hashes_of(LSDM()) == {}
    assert set(file_hashes_of(DPO(preferences=str(tmp_path / "one.txt")))) == {"preferences"}
    assert file_hashes_of(DPO(preferences="owner/name:default:train")) == {}
    with pytest.raises(locate.LocateError, match=r"missing\.txt cannot be read"):
        file_hashes_of(LSDM(text=tmp_path / "missing.txt"))
