"""LSDM's joint spread: slopes by finite differences, the dual solution beside the primal one, and what it does."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_editors import LOCATED, TEMPLATE, drawn, small_prompts

from locate import LocateError, load_located, occupation_pairs
from locate.editors import covariance
from locate.editors.covariance import covariances, stream_sizes, windows
from locate.editors.handoff import Handoff
from locate.editors.joint import ROLES, Slopes, slopes_of, solve_cheapest
from locate.editors.lsdm import LSDM, SPREADS, Work, floor_moment
from locate.editors.methods import make_editor
from locate.editors.readings import answer_log_probs, readings
from locate.model.causal import load_causal
from locate.model.matrices import matrix
from locate.prompts import Pair, Prompts, definitional_pairs

MODULES = tuple(TEMPLATE.format(layer) for layer in (0, 1))


@pytest.fixture(scope="module")
def exact(folder_of):
    return load_causal(str(folder_of("gpt2")), device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def rows(exact):
    return readings(exact, small_prompts().pairs)


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A short text and few prompts."""
    text = tmp_path_factory.mktemp("joint") / "text.txt"
    text.write_text(covariance.files("locate").joinpath("evaluation", "text", "preserve.txt").read_text()[:20000])
    words = ["nurse", "plumber", "engineer", "teacher", "clerk", "carpenter"]
    prompts = occupation_pairs("neutral", templates_each=2, occupations=words)
    return text, prompts, definitional_pairs(templates_each=1)


def log_odds(model, rows):
    said = answer_log_probs(model, rows)
    return said[:, 0] - said[:, 1]


def bumped(model, rows, name, role, unit, step):
    """The log-odds with one number of a module's output moved at one role of each prompt, by a hook of its own."""
    found = []
    for row in rows:
        at = row.subject if role == "subject_last" else len(row.ids) - 1

        def add(module, args, result, at=at):
            result = result.clone()
            result[:, at, unit] += step
            return result

        hook = model.network.get_submodule(name).register_forward_hook(add)
        found.append(log_odds(model, [row]))
        hook.remove()
    return torch.cat(found)


class TestSlopes:
    def test_they_are_those_of_finite_differences_at_each_role(self, exact, rows):
        here = slopes_of(exact, rows, MODULES, ROLES)
        torch.testing.assert_close(here.odds, log_odds(exact, rows), rtol=0, atol=1e-9)
        for name in MODULES:
            for place, role in enumerate(ROLES):
                for unit in (3, 20):
                    moved = (bumped(exact, rows, name, role, unit, 1e-5) - here.odds) / 1e-5
                    assert moved.abs().max() > 1e-4
                    torch.testing.assert_close(moved, here.slopes[name][:, place, unit], rtol=1e-3, atol=1e-7)

    def test_keys_are_what_the_matrix_is_fed_there(self, exact, rows):
        here = slopes_of(exact, rows, MODULES, ROLES)
        for number, row in enumerate(rows):
            fed = []
            hook = matrix(exact.network, MODULES[1]).module.register_forward_pre_hook(
                lambda _, args, fed=fed: fed.append(args[0])
            )
            with torch.no_grad():
                exact.network(torch.tensor([row.ids]))
            hook.remove()
            wanted = fed[0][0, [row.subject, len(row.ids) - 1]]
            torch.testing.assert_close(here.keys[MODULES[1]][number], wanted, rtol=0, atol=1e-12)

    def test_a_token_that_is_both_roles_counts_once(self, exact):
        ends = Prompts((Pair("Here comes the nurse", "Here comes the person", "nurse", "person", "nurse", "x"),))
        here = slopes_of(exact, readings(exact, ends.pairs), MODULES, ROLES)
        assert here.slopes[MODULES[0]][0, 0].abs().max() > 0
        assert here.slopes[MODULES[0]][0, 1].abs().max() == 0

    def test_the_response_is_the_change_of_the_log_odds_to_first_order(self, exact, rows):
        """Both tokens at once, both matrices, against weights that were really changed: they act at all tokens, so
        that prompts with no token but these two are taken."""
        short = [replace(row, ids=(row.ids[row.subject], row.ids[-1]), subject=0) for row in rows]
        here = slopes_of(exact, short, MODULES, ROLES)
        into, fed = matrix(exact.network, MODULES[0]).weight.shape
        changes = {name: (1e-4 * drawn(into, 2, seed=i), drawn(2, fed, seed=9 + i)) for i, name in enumerate(MODULES)}
        before = {name: matrix(exact.network, name).module.weight.data for name in MODULES}
        for name, (left, right) in changes.items():
            matrix(exact.network, name).module.weight.data = before[name] + (left @ right).T
        moved = log_odds(exact, short) - here.odds
        for name, weight in before.items():
            matrix(exact.network, name).module.weight.data = weight
        assert moved.abs().max() > 1e-5
        torch.testing.assert_close(moved, here.response(changes), rtol=2e-2, atol=1e-7)


SLOPES = {"a": drawn(7, 2, 3), "b": drawn(7, 2, 3, seed=1)}
KEYS = {"a": drawn(7, 2, 4, seed=2), "b": drawn(7, 2, 5, seed=3)}
WANTED, WEIGHTS = drawn(7, seed=4), drawn(7, seed=5).abs() + 0.1
MOMENTS = {
    "a": drawn(4, 4, seed=6) @ drawn(4, 4, seed=6).T + 0.1 * torch.eye(4, dtype=torch.float64),
    "b": drawn(5, 5, seed=7) @ drawn(5, 5, seed=7).T + 0.1 * torch.eye(5, dtype=torch.float64),
}
HERE = Slopes(torch.zeros(7, dtype=torch.float64), SLOPES, KEYS)


class TestCheapest:
    """The dual solution of the least squares, which `joint` spreads over all matrices."""

    def wholes(self, **changes):
        said = {"wanted": WANTED, "weights": WEIGHTS, "moments": MOMENTS} | changes
        found = solve_cheapest(HERE, said["wanted"], said["weights"], said["moments"])
        return {name: left @ right for name, (left, right) in found.items()}

    def test_it_is_the_solution_of_the_normal_equations(self):
        """A second implementation: every number of both matrices an unknown, and numpy."""
        design = np.concatenate(
            [
                np.einsum("nrd,nrk->ndk", SLOPES[name], KEYS[name]).reshape(7, -1)
                for name in ("a", "b")
            ],
            axis=1,
        )  # fmt: skip
        blocks = [np.kron(np.eye(3), MOMENTS[name].numpy()) for name in ("a", "b")]
        penalty = np.block(
            [[blocks[0], np.zeros((12, 15))], [np.zeros((15, 12)), blocks[1]]],
        )  # fmt: skip
        weighted = design.T * WEIGHTS.numpy()
        unknowns = np.linalg.solve(weighted @ design + penalty, weighted @ WANTED.numpy())
        found = self.wholes()
        np.testing.assert_allclose(found["a"].numpy().ravel(), unknowns[:12], rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(found["b"].numpy().ravel(), unknowns[12:], rtol=1e-8, atol=1e-10)

    def test_nothing_wanted_is_nothing_changed(self):
        assert all(whole.abs().max() == 0 for whole in self.wholes(wanted=torch.zeros(7).double()).values())

    def test_without_a_price_everything_wanted_is_got(self):
        free = {name: 1e-9 * moment for name, moment in MOMENTS.items()}
        found = {name: (whole, torch.eye(whole.shape[1]).double()) for name, whole in self.wholes(moments=free).items()}
        torch.testing.assert_close(HERE.response(found), WANTED, rtol=1e-5, atol=1e-6)

    def test_it_vanishes_as_the_price_grows(self):
        dear = {name: 1e9 * moment for name, moment in MOMENTS.items()}
        assert max(float(whole.abs().max()) for whole in self.wholes(moments=dear).values()) < 1e-6

    def test_a_heavy_prompt_gets_what_it_wants(self):
        heavy = WEIGHTS.clone()
        heavy[2] = 1e9
        found = {
            name: (whole, torch.eye(whole.shape[1]).double()) for name, whole in self.wholes(weights=heavy).items()
        }
        assert float(HERE.response(found)[2]) == pytest.approx(float(WANTED[2]), rel=1e-6)

    def test_units_that_text_never_reaches_cost_something(self):
        dead = torch.diag(torch.tensor([1.0, 2.0, 0.0, 0.0], dtype=torch.float64))
        floor = floor_moment(dead)
        assert torch.linalg.eigvalsh(floor).min() > 0
        torch.testing.assert_close(floor, dead, rtol=0, atol=1e-6)


def written_by(block):
    """What a Llama block writes into the stream with."""
    return block.self_attn.o_proj, block.mlp.down_proj


def rounds_of(model, hand, text, prompts, kept):
    """The changes that LSDM's joint spread makes in one round, and its report."""
    how = LSDM(rounds=1, ridge=1e4)
    rows = windows(model, text.read_text())[:40]
    moments = covariances(model, hand.modules, rows)
    sizes = stream_sizes(model, hand.blocks, rows)
    own = readings(model, prompts.pairs), readings(model, kept.pairs)
    parts = {name: [] for name in hand.modules}
    told = how.joint(model, Work(hand, own[0], own[0], own[1], [], moments, sizes, lambda *_: None), parts)
    return {name: pieces[0] for name, pieces in parts.items()}, told


class TestJoint:
    def edit(self, how, mini, small, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        text, prompts, kept = small
        return replace(how, text=text, prefixes=0).edit(mini, load_located(LOCATED), prompts, preserved=kept)

    def test_its_report_is_what_is_measured(self, mini, small, tmp_path, monkeypatch):
        made = self.edit(LSDM(layers=(0, 2), ridge=1.5e5, rounds=2), mini, small, tmp_path, monkeypatch)
        _, prompts, kept = small
        told = made.report["rounds"]
        assert [each["round"] for each in told] == [0, 1, 2]
        jobs, own = readings(mini, prompts.pairs), readings(mini, kept.pairs)
        was, was_own = log_odds(mini, jobs), log_odds(mini, own)
        with made.applied(mini):
            now, now_own = log_odds(mini, jobs), log_odds(mini, own)
        assert told[0]["log_odds"] == pytest.approx(float(was.abs().mean()), rel=1e-4)
        assert told[0]["preserved_moved"] == 0
        assert told[2]["log_odds"] == pytest.approx(float(now.abs().mean()), rel=1e-4)
        assert told[2]["preserved_moved"] == pytest.approx(float((now_own - was_own).abs().mean()), rel=1e-3)
        assert told[2]["log_odds"] < 0.35 * told[0]["log_odds"]
        assert told[2]["preserved_moved"] < 0.25 * float(was.abs().mean())

    def test_preserved_prompts_hold_the_more_the_heavier_they_are(self, mini, small, tmp_path, monkeypatch):
        moved = [
            self.edit(LSDM(layers=(2,), ridge=1.5e5, rounds=1, preserve=weight), mini, small, tmp_path, monkeypatch)
            .report["rounds"][-1]["preserved_moved"]
            for weight in (0.1, 100.0)
        ]  # fmt: skip
        assert moved[1] < 0.6 * moved[0]

    def test_what_is_not_preserved_is_not_said_to_have_stayed(self, mini, small, tmp_path, monkeypatch):
        made = self.edit(LSDM(layers=(2,), rounds=1, preserve=0.0), mini, small, tmp_path, monkeypatch)
        assert all(math.isnan(each["preserved_moved"]) for each in made.report["rounds"])

    def test_the_last_layer_reaches_the_answer_from_the_last_token_alone(self, mini, small, tmp_path, monkeypatch):
        below, both = (
            self.edit(LSDM(layers=(5,), ridge=1.5e5, rounds=1, roles=roles), mini, small, tmp_path, monkeypatch)
            for roles in (("subject_last",), ROLES)
        )
        assert all(change.whole.abs().max() == 0 for change in below.changes.values())
        assert both.report["rounds"][-1]["log_odds"] < 0.6 * both.report["rounds"][0]["log_odds"]

    def test_a_stream_in_other_units_has_the_same_edit_in_those_units(self, folder_of, small, tmp_path, monkeypatch):
        """Whatever writes into the stream, times 9: behind its norms the model says the same, so its edit does too."""
        monkeypatch.setattr(covariance, "FEWEST", 100)
        text, prompts, kept = small
        model = load_causal(str(folder_of("llama")), device="cpu", dtype="float64")
        wide = copy.deepcopy(model.network)
        writing = [wide.model.embed_tokens, *(part for each in wide.model.layers for part in written_by(each))]
        for module in writing:
            module.weight.data *= 9
        found = []
        for network in (model.network, wide):
            monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / str(len(found))))
            hand = Handoff((0, 2), "model.layers.{}.mlp.down_proj", (), {})
            found.append(rounds_of(model.with_network(network), hand, text, prompts, kept))
        (one, told), (other, said) = found
        assert told[-1]["log_odds"] < 0.7 * told[0]["log_odds"]
        assert said[-1]["log_odds"] == pytest.approx(told[-1]["log_odds"], rel=1e-3)
        for name, (left, right) in one.items():
            whole, wider = left @ right, other[name][0] @ other[name][1]
            assert float((9 * whole - wider).norm() / wider.norm()) < 0.02  # eps of the norms, covariances in fp32

    def test_each_spread_has_a_ridge_and_prefixes_of_its_own(self):
        found = {spread: (LSDM(spread=spread).weight, LSDM(spread=spread).beginnings) for spread in SPREADS}
        assert found == {"joint": (1.5e6, 0), "each": (5000.0, 1), "top": (300.0, 1)}
        assert (LSDM(ridge=7.0, prefixes=3).weight, LSDM(ridge=7.0, prefixes=3).beginnings) == (7.0, 3)

    def test_bad_settings_are_refused_in_one_line(self):
        with pytest.raises(LocateError, match="role 'first': expected one of subject_last, last"):
            LSDM(roles=("first",))
        with pytest.raises(LocateError, match="needs a ridge above 0 and a role"):
            LSDM(ridge=0.0)
        with pytest.raises(LocateError, match="needs a ridge above 0 and a role"):
            LSDM(roles=())
        with pytest.raises(LocateError, match=r"roles .*: spread 'top' does not use them"):
            LSDM(roles=("last",), spread="top")
        with pytest.raises(LocateError, match=r"values .*: spread 'joint' does not use them"):
            make_editor("lsdm", ["values.steps=9"])
        assert make_editor("lsdm", ["roles=subject_last"]).roles == ("subject_last",)
        assert make_editor("lsdm", ["roles=subject_last,last", "spread=top", "ridge=0"]).spread == "top"
