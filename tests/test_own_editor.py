"""An editor of the user's own: one class in one file, taken wherever an editor of the package is."""

from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch

import locate
from locate.editors.edit import Edit, ParameterChange, load_edit
from locate.editors.fit import Fitting, fitting_prompts
from locate.editors.handoff import hand_off
from locate.editors.methods import check_editor
from locate.editors.split import fitted_on
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
