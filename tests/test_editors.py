"""Editors: the closed form, stamps, edits applied and undone, and what is handed over from located.json."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES

from locate import LocateError, load_located, occupation_pairs
from locate.editors import covariance
from locate.editors.covariance import caught, covariances, spread, stream_sizes, windows
from locate.editors.edit import Edit, ParameterChange, load_edit, product_change
from locate.editors.fast import FAST, divergence, merge_answers, rise_and_fall
from locate.editors.fit import fitting_prompts
from locate.editors.handoff import block_of, hand_off
from locate.editors.lsdm import LSDM, least_squares
from locate.editors.methods import make_editor
from locate.editors.readings import answer_log_probs, at_subject, readings, words_of
from locate.editors.split import leave_out, split
from locate.editors.stamp import empty_stamp, fold
from locate.editors.values import Values, find_values, odds_and_slopes, solve_smallest
from locate.model.causal import load_causal
from locate.model.matrices import matrix
from locate.model.stamp import Stamp
from locate.prompts import Pair, Prompts, definitional_pairs

LOCATED = Path(__file__).parents[1] / "figures" / "located_opposite.json"
TEMPLATE = "transformer.h.{}.mlp.c_proj"
STAMPED = {
    "gpt2": "transformer.h.{}.mlp.c_proj", "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
    "llama": "model.layers.{}.mlp.down_proj", "qwen2": "model.layers.{}.mlp.down_proj",
    "gemma2": "model.layers.{}.mlp.down_proj", "phi": "model.layers.{}.mlp.fc2", "opt": "model.decoder.layers.{}.fc2",
}  # fmt: skip


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini")


@pytest.fixture(scope="module")
def tiny(folder_of):
    return load_causal(str(folder_of("gpt2")), device="cpu")


def small_prompts(words=("nurse", "engineer"), forms=("The {} said that", "The {} laughed because")):
    return Prompts(
        tuple(Pair(form.format(w), form.format("person"), w, "person", w, form) for w in words for form in forms)
    )


class TestLeastSquares:
    """LSDM's closed form (SCIENCE: section 2)."""

    keys, values, fixed = drawn(12, 5), drawn(4, 5, seed=1), drawn(12, 3, seed=2)
    weight, moment = drawn(4, 12, seed=3), 0.3 * torch.eye(12, dtype=torch.float64)

    def delta(self, keys=None, values=None, fixed=None, moment=None):
        keys = self.keys if keys is None else keys
        values = self.values if values is None else values
        left, right = least_squares(
            keys, values - self.weight @ keys, self.fixed if fixed is None else fixed,
            self.moment if moment is None else moment,
        )  # fmt: skip
        return left @ right

    def test_it_is_zero_where_the_values_are_already_there(self):
        assert self.delta(values=self.weight @ self.keys).abs().max() == 0

    def test_it_vanishes_as_lambda_grows(self):
        sizes = [float(self.delta(moment=x * self.moment).norm()) for x in (1.0, 1e3, 1e9)]
        assert sizes[0] > sizes[1] > sizes[2]
        assert sizes[2] < 1e-6

    def test_without_lambda_independent_keys_get_their_values_exactly(self):
        nothing = torch.zeros(12, 12, dtype=torch.float64)
        delta = self.delta(fixed=torch.zeros(12, 0, dtype=torch.float64), moment=nothing)
        torch.testing.assert_close((self.weight + delta) @ self.keys, self.values, rtol=0, atol=1e-9)

    def test_the_order_of_the_words_does_not_matter(self):
        order = torch.tensor([3, 0, 4, 1, 2])
        torch.testing.assert_close(
            self.delta(), self.delta(self.keys[:, order], self.values[:, order]), rtol=1e-10, atol=1e-12
        )

    def test_it_is_where_the_gradient_of_the_objective_is_zero(self):
        delta = self.delta().clone().requires_grad_(True)
        wrong = (self.weight + delta) @ self.keys - self.values
        loss = (wrong**2).sum() + ((delta @ self.fixed) ** 2).sum() + torch.trace(delta @ self.moment @ delta.T)
        (slope,) = torch.autograd.grad(loss, delta)
        assert slope.abs().max() < 1e-10

    def test_preserved_keys_keep_their_values(self):
        moved = (self.delta() @ self.fixed).norm()
        firm = (self.delta(fixed=1e4 * self.fixed) @ self.fixed).norm()
        assert moved > 0.1
        assert firm < 1e-3 * moved


class TestValues:
    def test_slopes_are_those_of_finite_differences(self, folder_of):
        model = load_causal(str(folder_of("gpt2")), device="cpu", dtype="float64")
        rows = readings(model, small_prompts().pairs)
        block, step = "transformer.h.1", 1e-5
        zero = torch.zeros(2, 32, dtype=torch.float64)
        odds, slopes = odds_and_slopes(model, rows, block, zero)
        said = answer_log_probs(model, rows)
        torch.testing.assert_close(odds, said[:, 0] - said[:, 1], rtol=0, atol=1e-9)
        for unit in (0, 17):
            there = zero.clone()
            there[:, unit] = step
            moved = odds_and_slopes(model, rows, block, there)[0]
            torch.testing.assert_close((moved - odds) / step, slopes[:, unit], rtol=1e-3, atol=1e-6)

    def test_the_smallest_change_of_a_linear_model_is_the_pseudoinverse(self):
        slopes, odds = drawn(3, 8), drawn(3, seed=5)
        now = drawn(8, seed=6)
        found = solve_smallest(slopes, odds, now, 0.0)
        torch.testing.assert_close(found, -torch.linalg.pinv(slopes) @ (odds - slopes @ now), rtol=1e-8, atol=1e-10)

    @pytest.mark.parametrize("how", [Values(), Values(solver="adam", steps=20)], ids=["newton", "adam"])
    def test_both_solvers_bring_the_answers_together(self, mini, how):
        rows = readings(mini, occupation_pairs("neutral", templates_each=2, occupations=["nurse", "plumber"]).pairs)
        found = find_values(mini, rows, "transformer.h.2", how, kept=rows[:2])
        assert found.words == ["nurse", "plumber"]
        assert found.after.mean() < 0.6 * found.before.mean()
        assert (found.share <= how.clamp + 1e-6).all()

    def test_the_delta_is_written_at_the_subject_alone(self, mini):
        rows = readings(mini, occupation_pairs("neutral", templates_each=2, occupations=["nurse", "plumber"]).pairs)
        found = find_values(mini, rows, "transformer.h.2", Values())
        half = find_values(mini, rows, "transformer.h.2", Values(), share=0.5)
        torch.testing.assert_close(half.delta, 0.5 * found.delta, rtol=1e-12, atol=0)
        assert found.after.mean() < 0.25 * found.before.mean()
        assert found.after.mean() < half.after.mean() < found.before.mean()


class TestReadings:
    def test_the_last_token_of_a_word_of_several_is_read(self, mini):
        pair = occupation_pairs("neutral", templates_each=1, occupations=["construction worker"]).pairs[0]
        (plain, behind) = readings(mini, [pair], ["", "It was late. "])
        assert mini.encoder.tokenizer.decode([plain.ids[plain.subject]]).strip() in "construction worker"
        assert [*behind.ids[behind.subject :]] == [*plain.ids[plain.subject :]]
        assert behind.subject > plain.subject

    def test_a_subject_that_begins_its_prompt_is_read_behind_a_prefix(self, tiny):
        pair = Pair("An engineer said that", "A person said that", "An engineer", "A person", "engineer", "x")
        alone, behind = readings(tiny, [pair], ["", "It was late. "])
        assert tiny.encoder.tokenizer.decode(behind.ids[: behind.subject + 1]).endswith("An engineer")
        assert behind.subject > alone.subject

    def test_keys_are_means_over_the_readings_of_each_word(self, tiny):
        rows = readings(tiny, small_prompts().pairs)
        keys = at_subject(tiny, rows, TEMPLATE.format(1), inputs=True)
        alone = [at_subject(tiny, [row], TEMPLATE.format(1), inputs=True)[0] for row in rows]
        assert words_of(rows) == ["nurse", "engineer"]
        torch.testing.assert_close(keys[0], (alone[0] + alone[1]) / 2, rtol=1e-6, atol=1e-8)
        output = at_subject(tiny, rows, TEMPLATE.format(1), inputs=False)
        layer = matrix(tiny.network, TEMPLATE.format(1))
        torch.testing.assert_close(keys @ layer.weight.T + layer.module.bias, output, rtol=1e-4, atol=1e-6)


class TestCovariance:
    def test_it_is_the_second_moment_of_the_keys_and_kept_by_content(self, tiny, tmp_path, monkeypatch):
        monkeypatch.setattr(covariance, "FEWEST", 10)
        rows = windows(tiny, "The nurse said that she was tired. The man said that he was late. " * 12)
        names = [TEMPLATE.format(layer) for layer in (0, 2)]
        found = covariances(tiny, names, rows, cache=tmp_path)
        keys = []
        hook = matrix(tiny.network, names[1]).module.register_forward_pre_hook(lambda _, args: keys.append(args[0]))
        with torch.no_grad():
            tiny.network(torch.tensor(rows))
        hook.remove()
        flat = keys[0].flatten(0, 1).double()
        torch.testing.assert_close(found[names[1]], flat.T @ flat / len(flat), rtol=1e-5, atol=1e-7)
        monkeypatch.setattr(covariance, "measure_moments", lambda *_: pytest.fail("measured again"))
        again = covariances(tiny, names, rows, cache=tmp_path)
        assert all(torch.equal(found[name], again[name]) for name in names)
        with pytest.raises(pytest.fail.Exception):
            covariances(tiny, names, rows[1:], cache=tmp_path)

    def test_the_stream_is_the_median_over_tokens(self, tiny):
        rows = [[5, 9, 40, 7, 12], [8, 8, 300, 2, 6], [1, 60, 5, 5, 90]]
        blocks = ["transformer.h.0", "transformer.h.2"]
        seen = []
        network = tiny.network
        hook = network.transformer.h[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            network(torch.tensor(rows))
        hook.remove()
        sizes = stream_sizes(tiny, blocks, rows)
        assert sizes[blocks[0]] == pytest.approx(float(seen[0].double().pow(2).sum(-1).flatten().median()), rel=1e-5)
        assert list(sizes) == blocks

    def test_nothing_above_the_last_module_is_run(self, tiny):
        called = []
        hook = tiny.network.transformer.h[2].register_forward_pre_hook(lambda *_: called.append(1))
        caught(tiny, [TEMPLATE.format(1), TEMPLATE.format(0)], torch.tensor([[1, 2, 3]]), inputs=True)
        assert called == []
        caught(tiny, [TEMPLATE.format(2)], torch.tensor([[1, 2, 3]]), inputs=True)
        hook.remove()
        assert called == [1]

    def test_a_few_windows_are_spread_over_the_text(self):
        rows = [[i] for i in range(10)]
        assert spread(rows, 4) == [[0], [2], [5], [7]]
        assert spread(rows, 20) == rows

    def test_a_short_text_is_refused(self, tiny):
        with pytest.raises(LocateError, match="expected at least 2000"):
            windows(tiny, "The nurse said that she was tired.")


def an_edit(model, **options):
    layer = matrix(model.network, TEMPLATE.format(1))
    into, fed = layer.weight.shape
    change = product_change(0.05 * drawn(fed, 2), drawn(2, into, seed=1))
    return Edit("test", model.provenance(), {layer.parameter: change}, **options)


class TestEdit:
    def test_it_is_applied_and_undone_bit_for_bit(self, tiny):
        before = {name: tensor.clone() for name, tensor in tiny.network.state_dict().items()}
        made = an_edit(tiny)
        (name,) = made.changes
        with made.applied(tiny):
            now = tiny.network.state_dict()
            wanted = (before[name].double() + made.changes[name].whole).float()
            assert torch.equal(now[name], wanted)
            assert not torch.equal(now[name], before[name])
            assert all(torch.equal(now[other], before[other]) for other in before if other != name)
        after = tiny.network.state_dict()
        assert all(torch.equal(after[other], before[other]) for other in before)

    def test_it_is_the_same_after_saving(self, tiny, tmp_path):
        stamp = empty_stamp(tiny.network, TEMPLATE, 0, 3, seed=0)
        made = an_edit(tiny, stamps=(stamp,), edited={"words": ["nurse"], "templates": ["x"]}, settings={"ridge": 1.0})
        again = load_edit(made.save(tmp_path / "edit.safetensors"))
        assert (again.method, again.model, again.edited, again.settings) == (
            made.method, made.model, made.edited, made.settings,
        )  # fmt: skip
        for name, change in made.changes.items():
            assert torch.equal(again.changes[name].whole, change.whole)
        assert again.stamps[0].about() == stamp.about()
        assert all(torch.equal(again.stamps[0].tensors()[name], tensor) for name, tensor in stamp.tensors().items())
        assert list(made.frame()["parameter"]) == [*made.changes, "keys", "values"]

    def test_another_model_is_refused(self, tiny, mini):
        with pytest.raises(LocateError, match="the model that it was made for"), an_edit(tiny).applied(mini):
            pass

    def test_a_damaged_file_is_refused(self, tiny, tmp_path):
        path = an_edit(tiny).save(tmp_path / "edit.safetensors")
        path.write_bytes(path.read_bytes()[:100])
        with pytest.raises(LocateError, match="is not an edit"):
            load_edit(path)

    def test_a_product_is_kept_thin_only_where_that_is_smaller(self):
        assert product_change(drawn(10, 2), drawn(2, 10)).rank == 2
        whole = product_change(drawn(10, 6), drawn(6, 10, seed=1))
        assert whole.rank is None
        assert whole.whole.shape == (10, 10)
        assert ParameterChange((drawn(4),)).whole.shape == (4,)


class TestStamp:
    ids = torch.tensor([[5, 9, 30, 41, 7, 3]])

    def logits(self, network):
        with torch.no_grad():
            return network(self.ids).logits

    def filled(self, network, template):
        stamp = empty_stamp(network, template, 1, 6, seed=1)
        return replace(stamp, values=0.1 * torch.randn(stamp.values.shape, generator=torch.Generator().manual_seed(2)))

    @pytest.mark.parametrize("family", STAMPED)
    def test_an_empty_one_changes_no_bit_and_a_wider_mlp_computes_a_full_one(self, family, folder_of):
        assert family in FAMILIES
        network = load_causal(str(folder_of(family)), device="cpu").network
        plain = self.logits(network)
        hooks = empty_stamp(network, STAMPED[family], 1, 6, seed=1).attach(network)
        assert torch.equal(self.logits(network), plain)
        for hook in hooks:
            hook.remove()
        stamp = self.filled(network, STAMPED[family])
        hooks = stamp.attach(network)
        stamped = self.logits(network)
        for hook in hooks:
            hook.remove()
        assert (stamped - plain).abs().max() > 1e-3
        torch.testing.assert_close(self.logits(fold(network, [stamp])), stamped, rtol=0, atol=2e-5)
        assert torch.equal(self.logits(network), plain)

    def test_an_mlp_of_another_shape_is_refused(self, folder_of):
        """One matrix makes queries, keys and values: neither as wide as what is fed nor twice."""
        network = load_causal(str(folder_of("gpt2")), device="cpu").network
        with pytest.raises(LocateError, match=r"is fed by none: expected one linear layer.*so that a stamp fits"):
            empty_stamp(network, "transformer.h.{}.attn.c_proj", 0, 4, seed=0)

    def test_it_says_what_is_saved_of_it(self, tiny):
        stamp = self.filled(tiny.network, TEMPLATE)
        again = Stamp.of(stamp.about(), stamp.tensors())
        assert (again.layer, again.template, again.width, again.linear) == (1, TEMPLATE, 6, None)


class TestLosses:
    def test_divergence_is_that_of_the_definition(self):
        before, after = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log(), torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
        by_hand = (0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)) / 2
        assert float(divergence(before, after)) == pytest.approx(by_hand, rel=1e-5)

    def test_both_answers_are_one_event(self):
        said = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
        events = merge_answers(said, torch.tensor([[2, 0]])).exp()
        assert events.tolist()[0] == pytest.approx([0.2, 0.4, 0.4])
        moved = torch.tensor([[0.3, 0.2, 0.1, 0.4]]).log()
        assert (
            float(divergence(merge_answers(said, torch.tensor([[2, 0]])), merge_answers(moved, torch.tensor([[2, 0]]))))
            < 1e-6
        )


class TestHandOff:
    located = load_located(LOCATED)

    def test_the_strongest_layers_are_taken_ascending(self, mini):
        located = replace(self.located, layers=(4, 0, 2))
        hand = hand_off(mini, located, most=2)
        assert hand.layers == (0, 4)
        assert hand.modules == (TEMPLATE.format(0), TEMPLATE.format(4))
        assert hand.blocks == ("transformer.h.0", "transformer.h.4")
        assert (hand.origin["chosen_by"], hand.origin["edited_layers"]) == ("located", [0, 4])
        assert hand_off(mini, located, layers=[5], most=1).origin["chosen_by"] == "user"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"layers": ()}, "names no layer"),
            ({"component": "attn_out"}, "editors change MLP output matrices"),
            ({"layers": (9,)}, "is not in the model"),
            ({"layers": (0,), "module_template": "transformer.h.{}.ln_1"}, "expected a plain linear layer"),
        ],
    )
    def test_what_cannot_be_edited_is_refused(self, mini, change, message):
        with pytest.raises(LocateError, match=message):
            hand_off(mini, replace(self.located, **change), most=3)

    def test_a_located_json_of_other_weights_is_refused_with_both_values(self, mini):
        stale = replace(
            self.located,
            layers=(0,),
            trace=self.located.trace | {"model": self.located.trace["model"] | {"weights_sha256": "0" * 64}},
        )
        with pytest.raises(LocateError, match=f"0000000000000000.*{mini.checkpoint.weights_sha256[:16]}"):
            hand_off(mini, stale, most=1)

    def test_the_block_of_a_module(self):
        assert block_of(TEMPLATE, 3) == "transformer.h.3"
        with pytest.raises(LocateError, match="expected the layer between two dots"):
            block_of("mlp", 3)


class TestSplit:
    def test_words_and_templates_are_held_out(self):
        found = split([f"w{i}" for i in range(10)], [f"t{i}" for i in range(5)], 0.3, 0)
        assert (len(found.words), len(found.held_out_words)) == (7, 3)
        assert (len(found.templates), len(found.held_out_templates)) == (3, 2)
        assert not set(found.words) & set(found.held_out_words)
        assert split([f"w{i}" for i in range(9, -1, -1)], ["a", "b"], 0.3, 0).words == found.words
        assert split([f"w{i}" for i in range(10)], ["a", "b"], 0.3, 1).words != found.words

    def test_nothing_held_out_is_among_the_prompts(self):
        found = fitting_prompts(0.3, seed=3)
        seen = {pair.group for pair in found.edited} | {pair.group for pair in found.preserved}
        forms = {pair.template for pair in (*found.edited, *found.preserved)}
        held = set(found.words.held_out_words) | set(found.definitional.held_out_words)
        assert len(held) == 38 + 12
        assert not seen & held
        assert not forms & set(found.words.held_out_templates)
        assert not {pair.group for pair in found.edited} & {pair.group for pair in found.preserved}

    def test_shares_are_checked(self):
        for share in (1.0, -0.1):
            with pytest.raises(LocateError, match="expected a share"):
                split(["a", "b"], ["t"], share, 0)
        with pytest.raises(LocateError, match="nothing is left to edit"):
            leave_out(small_prompts(), ["nurse", "engineer"], ())


class TestSettings:
    def test_they_are_read_from_texts(self):
        found = make_editor(
            "lsdm", ["spread=top", "ridge=50", "rounds=1", "values.solver=adam", "layers=0,2"], seed=4, text=None
        )
        assert found == LSDM(layers=(0, 2), spread="top", ridge=50.0, rounds=1, values=Values(solver="adam"), seed=4)
        assert make_editor("fast", ["loss=probability"], layers=(1,)) == FAST(layers=(1,), loss="probability")

    @pytest.mark.parametrize(
        ("method", "text", "message"),
        [
            ("lsdn", "ridge=1", "method 'lsdn': expected one of lsdm, fast, memit, dama, leace, finetune"),
            ("lsdm", "ridge", "expected NAME=VALUE"),
            ("lsdm", "rigde=1", "expected NAME=VALUE, NAME one of"),
            ("lsdm", "ridge=much", "ridge='much': expected float"),
            ("lsdm", "values.solvr=adam", "'solvr' is not a setting of Values"),
            ("lsdm", "ridge.x=1", "has no parts"),
            ("lsdm", "rounds=0", "at least one round"),
            ("fast", "layers=1,2", "name one"),
            ("fast", "rate=-1", "expected positive"),
        ],
    )
    def test_bad_ones_are_refused_in_one_line(self, method, text, message):
        with pytest.raises(LocateError, match=message):
            make_editor(method, [text])


def mean_size(model, prompts):
    said = answer_log_probs(model, readings(model, prompts.pairs))
    return float((said[:, 0] - said[:, 1]).abs().mean())


@pytest.mark.parametrize(
    "how",
    [LSDM(layers=(0, 2), ridge=1.5e5, prefixes=0),
     LSDM(layers=(2,), ridge=100.0, preserve=4.0, spread="each", rounds=1, prefixes=0),
     LSDM(layers=(1, 2), ridge=100.0, preserve=4.0, rounds=1, prefixes=1, spread="top"),
     FAST(layers=(4,), epochs=6, width=32, rate=2e-2, batch=8)],
    ids=["lsdm", "lsdm-each", "lsdm-top", "fast"],
)  # fmt: skip
def test_an_editor_moves_the_words_and_leaves_the_model(how, mini, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    text = tmp_path / "text.txt"
    text.write_text(covariance.files("locate").joinpath("evaluation", "text", "preserve.txt").read_text()[:20000])
    words = ["nurse", "plumber", "engineer", "teacher", "clerk", "carpenter", "baker", "guard"]
    prompts = occupation_pairs("neutral", templates_each=2, occupations=words)
    kept = definitional_pairs(templates_each=1)
    before = {name: tensor.clone() for name, tensor in mini.network.state_dict().items()}
    made = replace(how, text=text).edit(mini, load_located(LOCATED), prompts, preserved=kept)
    assert all(torch.equal(tensor, before[name]) for name, tensor in mini.network.state_dict().items())
    was, was_kept = mean_size(mini, prompts), answer_log_probs(mini, readings(mini, kept.pairs))
    with made.applied(mini):
        now, now_kept = mean_size(mini, prompts), answer_log_probs(mini, readings(mini, kept.pairs))
    assert now < 0.65 * was
    sign = torch.tensor([pair.stereotype for pair in kept])
    right = [((said[:, 0] - said[:, 1]) * sign > 0).sum() for said in (was_kept, now_kept)]
    assert right[1] >= 0.9 * right[0]
    assert set(made.edited["words"]) == {*words, *(pair.group for pair in kept)}
    assert made.located["edited_layers"] == list(how.layers)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 9, 10, 19, 20, 100])
def test_the_step_size_rises_to_its_rate_and_falls_in_any_number_of_steps(steps):
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    schedule = rise_and_fall(optimiser, 0.5, steps)
    sizes = []
    for _ in range(steps):
        sizes.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    top = int(np.argmax(sizes))
    assert sizes[: top + 1] == sorted(sizes[: top + 1])
    assert sizes[top:] == sorted(sizes[top:], reverse=True)
    if steps == 1:
        assert sizes[0] < 0.5
    else:
        assert 1 <= top <= max(1, 0.1 * steps)
        assert max(sizes) == pytest.approx(0.5, rel=0.02)
        assert sizes[-1] < 0.5 or steps == 2
