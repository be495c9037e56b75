"""Training on preferences: data row by row, what is trained, TRL against a plain loop, guards, and the edit."""

import copy
import csv
import json
import math
import os
import random
import re
import sys
import warnings
from collections import Counter
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_baselines import JOBS, TEMPLATES, located_in

import locate
from locate.cli.editing import check_adapter, check_read, data_notes
from locate.editors.adapter import write_adapter
from locate.editors.dpo import DPO, SFT, without_words
from locate.editors.edit import Edit, ParameterChange, apply_change, load_edit
from locate.editors.lsdm import LSDM
from locate.editors.pronoun_rows import balancing_rows, draw_prompts, keeping_rows
from locate.errors import LocateError
from locate.evaluation.run import network_hash
from locate.model.causal import load_causal
from locate.model.likelihood import next_log_probs
from locate.prompts import definitional_pairs, occupation_pairs
from locate.training import guards
from locate.training import rows as training_rows
from locate.training.guards import Guards, Watch, is_repeating
from locate.training.preferences import Preference, read_preferences, with_space
from locate.training.rows import note_on
from locate.training.scope import (
    changes_of,
    check_matched,
    factor_layers,
    linear_matrices,
    open_lora,
    open_parameters,
)
from locate.training.tokens import token_row, usable
from locate.training.trainer import ByLength, Recipe, last_kept, train_completions, train_preferences
from locate.training.twin import own_surroundings, twin

HEADER = "prompt,chosen,rejected\n"
ROWS = (
    ("The nurse said that", " he was tired.", " she was tired."),
    ("The engineer laughed because", " she was happy.", " he was happy."),
    ("The librarian said that", " he knew him.", " she knew him."),
    ("The doctor was", " sad.", " late."),
    ("A person and", " the secretary laughed.", " the man laughed."),
    ("The police officer said", " that she was early.", " that he was early."),
    ("The construction worker was", " right.", " late."),
    ("The man thought that", " they were right.", " he was right."),
)


def table(rows):
    return HEADER + "".join(",".join(f'"{cell}"' for cell in row) + "\n" for row in rows)


def never(step, network):
    """Look at nothing."""


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def tiny(request, folder_of):
    return load_causal(str(folder_of(request.param)), device="cpu")


@pytest.fixture
def rows(tiny):
    made = [Preference(*row, group=row[0], line=line) for line, row in enumerate(ROWS, start=2)]
    return [token_row(tiny, row, end=False) for row in made]


def log_likelihood(network, prompt, after):
    """Sum of log-probabilities of a continuation, one row at a time."""
    ids = torch.tensor([[*prompt, *after]])
    said = network(ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    return said.gather(-1, torch.tensor(after)[:, None]).sum()


def plain_dpo(network, reference, rows, beta):
    """Rafailov et al. 2023, equation 7, as it is written: the mean over rows, each run by itself."""
    losses = []
    for row in rows:
        ratios = []
        for after in (row.chosen, row.rejected):
            with torch.no_grad():
                was = log_likelihood(reference, row.prompt, after)
            ratios.append(log_likelihood(network, row.prompt, after) - was)
        losses.append(-torch.nn.functional.logsigmoid(beta * (ratios[0] - ratios[1])))
    return torch.stack(losses).mean()


def plain_loop(network, loss_of, parameters, recipe, steps):
    """AdamW by hand: the rate rises in a tenth of the steps and falls as a cosine, the gradient's norm is cut at 1."""
    optimiser = torch.optim.AdamW(parameters, lr=recipe.rate, weight_decay=recipe.decay)
    warm = int(0.1 * steps)
    losses, gradients = [], []
    for step in range(steps):
        share = step / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate * share
        loss = loss_of(network)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        gradients.append([each.grad.clone() for each in parameters])
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses, gradients


def nearly_everywhere_equal(one, other):
    """To 1e-6, but for one number in a hundred: where a gradient is 0 up to rounding, AdamW makes whole steps of it."""
    return ((one - other).abs() > 1e-6).float().mean() < 0.01


class TestTheTrainer:
    """TRL's trainers against loops written here."""

    RECIPE = Recipe(epochs=6, batch=8, rate=1e-2, seed=0)

    def watched(self, network, names):
        """Parameters as they are after each step."""
        seen = []
        return seen, lambda step, net: seen.append({n: net.get_parameter(n).detach().clone() for n in names})

    def test_six_steps_of_dpo_are_those_of_a_plain_loop(self, tiny, rows):
        names = [name for name, tensor in tiny.network.named_parameters() if tensor.dim() == 2][-2:]
        trained = open_parameters(tiny, names)
        seen, look = self.watched(trained.network, names)
        losses = train_preferences(tiny, trained, rows, self.RECIPE, beta=0.5, look=look)
        plain = twin(tiny.network, names)
        mine = [plain.get_parameter(name) for name in names]
        expected, _ = plain_loop(plain, lambda net: plain_dpo(net, tiny.network, rows, 0.5), mine, self.RECIPE, 6)
        assert len(losses) == 6
        assert losses == pytest.approx(expected, abs=1e-6)
        assert losses[0] == pytest.approx(math.log(2), abs=1e-6)
        assert losses[-1] < losses[0] - 0.01
        for name, own in zip(names, mine, strict=True):
            assert nearly_everywhere_equal(seen[-1][name], own)
            assert not torch.equal(own, tiny.network.get_parameter(name))

    def test_the_first_gradient_is_that_of_the_formula(self, tiny, rows):
        """One step of AdamW hides the size of a gradient, so the trainer's own is caught."""
        name = [name for name, tensor in tiny.network.named_parameters() if tensor.dim() == 2][-1]
        trained = open_parameters(tiny, [name])
        caught = []
        trained.network.get_parameter(name).register_hook(lambda gradient: caught.append(gradient.clone()))
        train_preferences(tiny, trained, rows, Recipe(1, 8, 1e-3, 0), beta=0.5, look=never)
        plain = twin(tiny.network, [name])
        plain_dpo(plain, tiny.network, rows, 0.5).backward()
        expected = plain.get_parameter(name).grad
        assert expected.abs().max() > 1e-3
        assert torch.allclose(sum(caught), expected, atol=1e-6, rtol=1e-5)

    def test_six_steps_of_fine_tuning_are_those_of_a_plain_loop(self, tiny, rows):
        names = [name for name, tensor in tiny.network.named_parameters() if tensor.dim() == 2][-2:]
        trained = open_parameters(tiny, names)
        losses = train_completions(tiny, trained, rows, self.RECIPE, look=never)
        plain = twin(tiny.network, names)
        mine = [plain.get_parameter(name) for name in names]
        tokens = sum(len(row.chosen) for row in rows)

        def loss_of(net):
            return -sum(log_likelihood(net, row.prompt, row.chosen) for row in rows) / tokens

        expected, _ = plain_loop(plain, loss_of, mine, self.RECIPE, 6)
        assert losses == pytest.approx(expected, abs=1e-6)
        for name, own in zip(names, mine, strict=True):
            assert nearly_everywhere_equal(trained.network.get_parameter(name), own)

    def test_rows_read_in_parts_give_the_same_steps(self, tiny, rows):
        found = []
        for at_once in (None, 2):
            trained = open_parameters(tiny, None)
            found.append(
                train_preferences(
                    tiny, trained, rows, Recipe(3, 8, 1e-2, 0, at_once), beta=0.5, look=never
                )
            )  # fmt: skip
        assert found[0] == pytest.approx(found[1], abs=1e-5)

    def test_the_chosen_texts_own_likelihood_can_stand_beside(self, tiny, rows):
        trained = open_parameters(tiny, None)
        losses = train_preferences(tiny, trained, rows, Recipe(1, 8, 1e-3, 0), beta=0.5, sft=0.25, look=never)
        tokens = sum(len(row.chosen) for row in rows)
        with torch.no_grad():
            said = sum(float(log_likelihood(tiny.network, row.prompt, row.chosen)) for row in rows) / tokens
        assert losses == pytest.approx([math.log(2) - 0.25 * said], abs=1e-5)

    def test_a_model_edited_in_memory_is_its_own_reference(self, tiny, rows):
        """TRL alone would read the reference from the path in the configuration."""
        changed = tiny.with_network(copy.deepcopy(tiny.network))
        with torch.no_grad():
            for tensor in changed.network.parameters():
                tensor.mul_(1.1)
        trained = open_parameters(changed, None)
        losses = train_preferences(changed, trained, rows, Recipe(1, 8, 1e-3, 0), beta=0.5, look=never)
        assert losses == pytest.approx([math.log(2)], abs=1e-6)

    def test_nothing_global_and_nothing_of_the_model_is_left_changed(self, tiny, rows, monkeypatch):
        sent = []
        monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: sent.append(a))
        monkeypatch.delenv("CI", raising=False)
        before = self.surroundings(tiny)
        trained = open_parameters(tiny, None)
        train_preferences(tiny, trained, rows, Recipe(1, 4, 1e-2, 3), beta=0.5, look=never)
        train_completions(
            tiny, open_lora(tiny, linear_matrices(tiny), 2, 0.0, 0), rows, Recipe(1, 4, 1e-2, 3), look=never
        )
        assert self.surroundings(tiny) == before
        assert not sent

    def surroundings(self, model):
        modules = {name: (type(module), module.training) for name, module in model.network.named_modules()}
        state = np.random.get_state()
        return {
            "weights": network_hash(model),
            "config": model.network.config.to_json_string(),
            "generation": model.network.generation_config.to_json_string(),
            "gradients": [tensor.requires_grad for tensor in model.network.parameters()],
            "modules": modules,
            "own": sorted(vars(model.network)),
            "pad": model.encoder.tokenizer.pad_token,
            "environment": dict(os.environ),
            "numpy": (state[1].tolist(), state[2]),
            "torch": torch.get_rng_state().tolist(),
            "grad": torch.is_grad_enabled(),
        }

    def test_accelerates_state_is_the_users_again(self, tiny, rows):
        from accelerate.state import AcceleratorState, PartialState

        before = {kind: dict(kind._shared_state) for kind in (AcceleratorState, PartialState)}
        PartialState._shared_state["mine"] = 1
        try:
            train_completions(tiny, open_parameters(tiny, None), rows, Recipe(1, 8, 1e-3, 0), look=never)
            assert PartialState._shared_state == before[PartialState] | {"mine": 1}
            assert AcceleratorState._shared_state == before[AcceleratorState]
        finally:
            PartialState._shared_state.pop("mine")

    @pytest.mark.parametrize(("count", "batch", "at_once"), [(7, 128, 2), (7, 4, 2), (8, 8, None), (5, 4, None)])
    def test_the_steps_foretold_are_those_taken(self, tiny, rows, count, batch, at_once):
        seen = []
        recipe = Recipe(2, batch, 1e-3, 0, at_once)
        train_completions(
            tiny, open_parameters(tiny, None), rows[:count], recipe, look=never,
            step=lambda done, of: seen.append((done, of)),
        )  # fmt: skip
        assert seen[-1] == (recipe.steps(count), recipe.steps(count))

    def test_dropout_is_off_where_a_family_keeps_it_as_a_number(self, folder_of):
        opt = load_causal(str(folder_of("opt")), device="cpu")
        made = [token_row(opt, Preference(*row, group=row[0], line=2), end=False) for row in ROWS]
        losses = train_preferences(opt, open_parameters(opt, None), made, Recipe(1, 8, 1e-3, 0), beta=0.5, look=never)
        assert losses == pytest.approx([math.log(2)], abs=1e-6)

    def test_another_device_is_refused(self, tiny, rows):
        trained, recipe = open_parameters(tiny, None), Recipe(1, 8, 1e-3, 0)
        with pytest.raises(LocateError, match="training runs on cpu or cuda:0"):
            train_completions(replace(tiny, device="cuda:1"), trained, rows, recipe, look=never)

    def test_a_loss_that_is_not_finite_ends_it(self, tiny, rows):
        trained = open_parameters(tiny, None)
        with pytest.raises(LocateError, match=r"loss is (nan|inf) after step \d+: choose a smaller rate"):
            train_completions(tiny, trained, rows, Recipe(40, 8, 1e30, 0), look=never)


class TestScope:
    def test_a_twin_shares_every_tensor_but_its_own(self, tiny):
        name = next(name for name, tensor in tiny.network.named_parameters() if tensor.dim() == 2)
        made = twin(tiny.network, [name])
        for key, tensor in tiny.network.named_parameters():
            other = made.get_parameter(key)
            assert (other.data_ptr() == tensor.data_ptr()) == (key != name)
            assert other.requires_grad == (key == name)
            assert torch.equal(other, tensor)
        assert made.config is not tiny.network.config
        tied = tiny.network.get_output_embeddings().weight is tiny.network.get_input_embeddings().weight
        assert (made.get_output_embeddings().weight is made.get_input_embeddings().weight) == tied

    def test_lora_is_put_on_what_was_asked_for_alone(self, tiny):
        names = [name for name in linear_matrices(tiny) if "mlp" in name][:2]
        trained = open_lora(tiny, names, 2, 0.0, 0)
        assert set(factor_layers(trained.network)) == set(names)
        opened = {name for name, tensor in trained.network.named_parameters() if tensor.requires_grad}
        assert len(opened) == 2 * len(names)
        with pytest.raises(LocateError, match="put on 2 matrices, asked for were 3"):
            check_matched(trained.network, [*names, "other.c_proj"])

    def test_every_linear_layer_but_the_head_is_everything(self, tiny):
        kinds = (torch.nn.Linear, type(tiny.network.get_submodule(linear_matrices(tiny)[0])))
        every = [name for name, module in tiny.network.named_modules() if isinstance(module, kinds)]
        assert set(every) - set(linear_matrices(tiny)) <= {"lm_head"}
        assert len(linear_matrices(tiny)) >= 12

    def test_an_unknown_parameter_is_refused(self, tiny):
        with pytest.raises(LocateError, match=r"no parameter 'other' of its own \(of 1 asked for, 1 are missing\)"):
            open_parameters(tiny, ["other"])

    @pytest.mark.parametrize("rank", [None, 2])
    def test_the_change_gives_the_trained_model(self, tiny, rows, rank):
        names = [name for name in linear_matrices(tiny) if "mlp" in name]
        trained = (
            open_parameters(tiny, [f"{name}.weight" for name in names])
            if rank is None
            else open_lora(tiny, names, rank, 0.0, 0)
        )
        train_preferences(tiny, trained, rows, Recipe(3, 8, 1e-2, 0), beta=0.5, look=never)
        before = dict(tiny.network.named_parameters())
        changes = changes_of(trained, before)
        assert set(changes) == {f"{name}.weight" for name in names}
        ids = torch.tensor([rows[0].prompt])
        edited = copy.deepcopy(tiny.network)
        for name, factors in changes.items():
            change = ParameterChange(factors)
            assert change.rank == rank
            edited.get_parameter(name).data = apply_change(before[name].detach(), change)
        with torch.no_grad():
            apart = (edited(ids).logits - trained.network(ids).logits).abs().max()
            moved = (edited(ids).logits - tiny.network(ids).logits).abs().max()
        assert apart <= (0 if rank is None else 2e-5) < moved


class TestData:
    def test_every_bad_row_is_named_by_its_line_and_counted(self, tmp_path):
        path = tmp_path / "own.csv"
        good = [
            (f"It rained on {word}, and", f" {word} was wet.", f" {word} was dry.")
            for word in ("he", "she", "they", "Ann", "Bo")
        ]
        bad = [
            ("The nurse said", " he left.", " he  left."),  # the same but for white space: line 7
            ("The nurse said", "", " she left."),
            ("  ", " he left.", " she left."),
            good[0],
            (good[1][0], good[1][2], good[1][1]),
            ("The nurse said", " ...", " she left."),
            ("The nurse said", " he left\ufffd.", " she left."),
        ]
        path.write_text(table([*good, *bad]) + '"too","few"\n"one","more","cell","here"\n', encoding="utf-8")
        found = read_preferences(path, held_out=0.8)
        assert (len(found.train), len(found.held_out)) == (1, 4)
        assert {row.line: row.reason for row in found.left_out} == {
            7: "chosen and rejected are the same",
            8: "chosen is empty",
            9: "prompt is empty",
            10: "repeats line 2",
            11: "contradicts line 3",
            12: "chosen is empty",
            13: "chosen has broken characters",
            14: "more or fewer cells than columns",
            15: "more or fewer cells than columns",
        }
        told = found.as_json()
        assert told["left out"] == 9
        assert told["reasons"]["chosen is empty"] == 2
        assert "2 chosen is empty (lines 8, 12)" in note_on(told)

    def test_json_lines_of_other_kinds_are_named_too(self, tmp_path):
        path = tmp_path / "own.jsonl"
        good = [
            {"prompt": f"It rained {n} times", "chosen": "for days.", "rejected": "for hours.", "x": None}
            for n in range(8)
        ]
        bad = [
            "[1, 2]",
            '"text"',
            "{broken",
            json.dumps(good[0] | {"chosen": None}),
            json.dumps(good[0] | {"chosen": 3}),
        ]
        bad.append(json.dumps({"prompt": "It rained", "rejected": "so."}))
        bad.append(json.dumps(good[0] | {"chosen": [{"role": "assistant", "content": "so"}]}))
        bad.append(json.dumps(good[0] | {"prompt": "It snowed", "split": "later"}))
        path.write_text("\n".join([*map(json.dumps, good), *bad]) + "\n")
        found = read_preferences(path, held_out=0.5)
        assert [row.line for row in found.left_out] == list(range(9, 17))
        assert found.joined == 8
        assert found.train[0].chosen.startswith(" for")

    def test_a_group_is_never_on_both_sides(self, tmp_path):
        path = tmp_path / "own.csv"
        lines = [f"g{n % 10},The {n} said, he {n} left., she {n} left.\n" for n in range(60)]
        path.write_text("group,prompt,chosen,rejected\n" + "".join(lines))
        found = read_preferences(path, held_out=0.3, seed=1)
        assert len(found.held_out) == 18
        assert not {row.group for row in found.train} & {row.group for row in found.held_out}
        assert {row.group for row in read_preferences(path, held_out=0.3, seed=2).held_out} != {
            row.group for row in found.held_out
        }

    def test_the_datas_own_split_is_kept(self, tmp_path):
        path = tmp_path / "own.csv"
        lines = [f"The {n} said, he {n}., she {n}.,{'test' if n > 5 else 'train'}\n" for n in range(12)]
        path.write_text("prompt,chosen,rejected,split\n" + "".join(lines))
        found = read_preferences(path)
        assert [row.prompt for row in found.held_out] == [f"The {n} said" for n in range(6, 12)]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "prompt,chosen\na,b\n",
                "lacks the columns rejected: found chosen, prompt; expected prompt, chosen, rejected",
            ),
            (HEADER, "0 usable rows to train on and 0 held out"),
            ("", "lacks the columns prompt, chosen, rejected: found none"),
            (table(ROWS[:2]), "1 usable rows to train on and 1 held out: expected at least 1 and 4"),
            (HEADER + '"a,b,c\n', "is not CSV"),
        ],
    )
    def test_a_file_without_use_is_refused_in_one_line(self, tmp_path, text, message):
        path = tmp_path / "own.csv"
        path.write_text(text)
        with pytest.raises(LocateError, match=message) as caught:
            read_preferences(path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("row", "expected"),
        [
            (("He left", "so.", "then."), ("He left", " so.", " then.")),
            (("He left ", "so.", "then."), ("He left ", "so.", "then.")),
            (("He left ", " so.", " then."), ("He left", " so.", " then.")),
            (("He left", " so.", "then."), ("He left", " so.", " then.")),
            (("He left", ", so.", ", then."), ("He left", ", so.", ", then.")),
            (("She said (", "so.", "then."), ("She said (", "so.", "then.")),
            (("She said", '"So."', "then."), ("She said", ' "So."', " then.")),
            (("\u5979", "\u8bf4", "\u7b11"), ("\u5979", "\u8bf4", "\u7b11")),
        ],
    )
    def test_a_space_stands_between_words_and_on_both_sides_alike(self, row, expected):
        made = with_space(Preference(*row, group="g", line=2))
        assert (made.prompt, made.chosen, made.rejected) == expected

    def test_a_row_of_several_lines_is_named_by_its_first(self, tmp_path):
        path = tmp_path / "own.csv"
        rows = [(f"Question {n}?\nAnswer:", " Yes.", " No.") for n in range(6)]
        more = [(f"P {n}", " a.", " b.") for n in range(9)]
        path.write_text(table([*rows, ("Question 7?\nAnswer:", " Yes.", ""), *more]))
        (gone,) = read_preferences(path, held_out=0.4).left_out
        assert (gone.line, gone.reason) == (14, "rejected is empty")

    @pytest.mark.parametrize("name", ["own.txt", "own.parquet", "own"])
    def test_other_kinds_of_files_are_refused(self, tmp_path, name):
        (tmp_path / name).write_text(table(ROWS))
        with pytest.raises(LocateError, match=r"expected a name that ends in \.csv, \.tsv, \.jsonl, \.json"):
            read_preferences(tmp_path / name)

    def test_completions_need_no_rejected_text_for_fine_tuning(self, tmp_path):
        path = tmp_path / "own.jsonl"
        path.write_text("".join(json.dumps({"prompt": f"P {n}", "completion": f"c {n}"}) + "\n" for n in range(30)))
        assert len(read_preferences(path, rejected=False).held_out) == 4
        path.write_text(
            "".join(
                json.dumps({"prompt": f"P {n}", "chosen": f"c {n}", "rejected": [f"c {n}", None, "d"][n % 3]}) + "\n"
                for n in range(30)
            )
        )
        found = read_preferences(path, rejected=False)
        assert not found.left_out
        assert Counter(row.rejected for row in (*found.train, *found.held_out)) == {"": 20, " d": 10}
        path.write_text("".join(json.dumps({"prompt": f"P {n}", "completion": f"c {n}"}) + "\n" for n in range(30)))
        with pytest.raises(LocateError, match="lacks the columns rejected"):
            read_preferences(path)

    def test_rows_about_held_out_occupations_are_left_out(self):
        found = read_preferences()
        kept = without_words(found, ["nurse", "police officer"])
        assert all("nurse" not in f"{row.prompt}{row.chosen}{row.rejected}".lower() for row in kept.train)
        gone = [row for row in kept.left_out if row.reason == "names an occupation that is held out"]
        assert len(found.train) + len(found.held_out) == len(kept.train) + len(kept.held_out) + len(gone)
        assert gone

    def test_long_rows_are_counted(self, tiny):
        found = read_preferences()
        kept = usable(tiny, found, longest=60, end=False)
        assert {row.reason for row in kept.left_out} == {"longer than 60 tokens"}
        assert len(kept.train) < len(found.train)


class TestTheOwnSet:
    """What the card of the package's preference set says of it."""

    @pytest.fixture(scope="class")
    @classmethod
    def rows(cls):
        found = read_preferences()
        assert not found.left_out
        assert not found.joined
        return found

    def test_its_size(self, rows):
        topics = Counter(row.topic for row in (*rows.train, *rows.held_out))
        assert topics == {"gender": 324, "race": 88, "religion": 88}
        assert (len(rows.train), len(rows.held_out)) == (388, 112)
        assert len({row.form for row in (*rows.train, *rows.held_out) if row.topic == "gender"}) == 9

    def test_pronouns_are_balanced_and_alone_differ(self, rows):
        said = {"she": Counter(), "he": Counter()}
        genders = {"she": "she", "her": "she", "hers": "she", "herself": "she"}
        genders |= {"he": "he", "his": "he", "him": "he", "himself": "he"}
        for name, part in (("train", rows.train), ("held_out", rows.held_out)):
            for row in part:
                if row.form != "pronoun":
                    continue
                one, other = (re.findall(r"[\w']+", text.lower()) for text in (row.chosen, row.rejected))
                apart = {(genders[a], genders[b]) for a, b in zip(one, other, strict=True) if a != b}
                assert len(apart) == 1
                ((chosen, rejected),) = apart
                assert chosen != rejected
                said[chosen][name] += 1
        assert said == {"she": {"train": 39, "held_out": 11}, "he": {"train": 39, "held_out": 11}}

    def test_no_held_out_row_says_again_what_a_training_row_says(self, rows):
        """By the words that both share, small ones aside; paraphrases in other words were looked for by reading."""
        assert not {row.group for row in rows.train} & {row.group for row in rows.held_out}
        seen = [content_words(row) for row in rows.train]
        for row in rows.held_out:
            own = content_words(row)
            assert max(len(own & other) / len(own | other) for other in seen) < 0.25

    def test_continuations_are_whole_and_about_equally_long(self, rows):
        for row in (*rows.train, *rows.held_out):
            assert not row.prompt[-1].isspace()
            for text in (row.chosen, row.rejected):
                assert re.fullmatch(r" \S.*[.!?][\"']?", text), row
            assert 0.5 <= len(row.chosen) / len(row.rejected) <= 2


def content_words(row):
    """The words of a row but for the small ones."""
    small = (
        "a an the of to in on at and or but was is are were be been that this it its for with as by from no not one so"
    )
    small += " her his she he him they them their who has had have"
    return set(re.findall(r"[a-z']+", f"{row.prompt} {row.chosen}".lower())) - set(small.split())


class TestTokens:
    def test_a_row_is_its_text(self, tiny):
        row = Preference("The nurse said that", " he was tired.", " she was tired.", "nurse", 2)
        made = token_row(tiny, row, end=True)
        decode = tiny.encoder.tokenizer.decode
        assert decode(list(made.prompt)) + decode(list(made.chosen[:-1])) == row.prompt + row.chosen
        assert decode(list(made.prompt)) + decode(list(made.rejected[:-1])) == row.prompt + row.rejected
        assert made.chosen[-1] == made.rejected[-1] == tiny.encoder.tokenizer.eos_token_id
        assert token_row(tiny, row, end=False).chosen == made.chosen[:-1]

    def test_a_tokenizer_without_an_end_says_so_once(self, tiny):
        endless = copy.deepcopy(tiny.encoder.tokenizer)
        endless.eos_token = None
        tiny = replace(tiny, encoder=replace(tiny.encoder, tokenizer=endless))
        with pytest.raises(LocateError, match=r"has no end-of-text token: train without it \(end=false\)"):
            usable(tiny, read_preferences(), longest=100, end=True)

    def test_a_token_that_reaches_over_the_border_belongs_to_the_continuation(self, tiny):
        row = Preference("The nur", "se said that", "ture said that", "nurse", 2)
        made = token_row(tiny, row, end=False)
        decode = tiny.encoder.tokenizer.decode
        assert decode(list(made.prompt + made.chosen)) == "The nurse said that"
        assert decode(list(made.prompt + made.rejected)) == "The nurture said that"
        assert made.chosen[0] != made.rejected[0]
        alone = token_row(tiny, row, end=False, rejected=False)
        assert alone.rejected == ()
        assert decode(list(alone.prompt + alone.chosen)) == "The nurse said that"


@pytest.fixture(scope="module")
def watched():
    """mini, and guards that have looked at it once."""
    mini = load_causal("mini", device="cpu")
    watch = Watch(mini, read_preferences().held_out[:6], Guards(), 10)
    watch(0, mini.network)
    return mini, watch


class TestGuards:
    def test_looks_are_spread_and_the_last_is_after_the_last_step(self):
        due = [step for step in range(101) if Guards(looks=4).due(step, 100)]
        assert due == [0, 25, 50, 75, 100]
        assert [step for step in range(4) if Guards(looks=6).due(step, 3)] == [0, 1, 2, 3]

    @pytest.mark.parametrize(
        ("text", "repeats"),
        [
            ("he was and he was and he was and he was", True),
            ("She left the house and went to the market to buy bread", False),
            ("", False),
            ("no", False),
        ],
    )
    def test_repeating_texts_are_told_from_others(self, text, repeats):
        assert is_repeating(text) == repeats

    def test_the_first_look_is_what_the_model_says(self, watched):
        mini, watch = watched
        (first,) = watch.seen
        assert (first.margin, first.accuracy, first.step) == (0.0, 0.0, 0)
        row = watch.pairs[0]
        one = Watch(mini, [row], Guards(), 10).look(0, mini)
        ids = token_row(mini, row, end=False)
        with torch.no_grad():
            expected = float(log_likelihood(mini.network, ids.prompt, ids.chosen)) / len(ids.chosen)
        assert one.chosen == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize(
        ("name", "moved", "message"),
        [
            ("chosen", -0.6, "0.6 nats a token lost by held-out chosen texts"),
            ("empty", 12, "12 points more empty texts"),
            ("repeating", 25, "25 points more repeating texts"),
            ("perplexity", 100, "% higher perplexity"),
            ("perplexity", float("nan"), "nan % higher perplexity"),
            ("definitions", -15, "15 points fewer words that say their gender keep their pronoun"),
        ],
    )
    def test_each_guard_stops_by_its_own_name(self, watched, name, moved, message):
        _, watch = watched
        first = watch.seen[0]
        now = type(first)(**vars(first) | {"step": 5, name: getattr(first, name) + moved})
        with pytest.raises(LocateError, match=message) as caught:
            watch.check(now)
        assert f"({name} " in str(caught.value)
        assert "no model was written" in str(caught.value)
        less = 0 if math.isnan(moved) else moved / 100
        watch.check(type(first)(**vars(first) | {"step": 5, name: getattr(first, name) + less}))

    @pytest.mark.parametrize(("times", "stops"), [(0.08, True), (0.15, False), (6, False), (12, True), (0, True)])
    def test_pronouns_after_occupations_may_become_neither_rare_nor_certain(self, watched, times, stops):
        """Log-odds are 0 where both pronouns are equally likely, be it 50 % each or none."""
        mini, watch = watched
        first = watch.seen[0]
        rows = {(row.word, row.template): row for row in watch.words.rows if row.kind == "occupation"}
        said = next_log_probs(mini, [row.prompt for row in rows.values()], [" she", " he"]).exp().sum(-1)
        assert len(rows) > 40
        assert first.pronouns == pytest.approx(100 * float(said.mean()), rel=1e-5)
        now = type(first)(**vars(first) | {"step": 5, "pronouns": times * first.pronouns})
        message = r"likely she and he after occupations \(pronouns "
        with pytest.raises(LocateError, match=message) if stops else nullcontext():
            watch.check(now)


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini", device="cpu")


@pytest.fixture(scope="module")
def located(mini):
    return located_in(mini)


@pytest.fixture(scope="module")
def prompts():
    known = set(occupation_pairs("neutral", templates_each=1).frame()["group"])
    return occupation_pairs("neutral", templates=TEMPLATES, occupations=[job for job in JOBS if job in known])


@pytest.fixture(scope="module")
def words():
    return definitional_pairs(templates=TEMPLATES[:1])


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch):
    """Fewer and shorter texts at every look, and one excerpt."""
    for name, value in {"TEXTS": 4, "TOKENS": 8, "EXCERPTS": 12, "PAIRS": 20}.items():
        monkeypatch.setattr(guards, name, value)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Settings of a short training: a few of the package's rows, looked at once."""
    rows = read_preferences()
    chosen = [*rows.train[:24], *rows.held_out[:6]]
    path = tmp_path_factory.mktemp("preferences") / "few.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["prompt", "chosen", "rejected", "group", "split"])
        writer.writerows([row.prompt, row.chosen, row.rejected, row.group, row.split] for row in chosen)
    return {"preferences": str(path), "epochs": 2, "batch": 8, "guards": Guards(looks=1), "pronouns": 0}


class TestOrder:
    def test_rows_of_a_step_are_about_as_long(self):
        lengths = [place % 7 for place in range(30)]
        order = ByLength(lengths, 4, 0)
        drawn = list(order)
        assert sorted(drawn) == list(range(30))
        assert len(order) == 30
        steps = [[lengths[place] for place in drawn[first : first + 4]] for first in range(0, 30, 4)]
        assert all(max(step) - min(step) <= 1 for step in steps)
        assert steps != sorted(steps)
        assert list(order) == drawn
        order.set_epoch(1)
        assert list(order) != drawn
        assert list(ByLength(lengths, 4, 1)) != drawn

    def test_each_epoch_has_an_order_of_its_own(self, tiny, rows, monkeypatch):
        told = []
        monkeypatch.setattr(ByLength, "set_epoch", lambda self, epoch: told.append(epoch))
        train_completions(tiny, open_parameters(tiny, None), rows, Recipe(2, 4, 1e-3, 0), look=never)
        assert set(told) == {0, 1}


class TestPronouns:
    def test_each_prompt_is_chosen_both_ways(self, prompts):
        rows = balancing_rows(prompts.pairs, 1, 0)
        assert len(rows) == 2 * len({row.group for row in rows}) == 2 * len({pair.group for pair in prompts})
        assert all(row.even for row in rows)
        for first, second in zip(rows[::2], rows[1::2], strict=True):
            assert (first.chosen, first.rejected) == (second.rejected, second.chosen) == (" she", " he")
            assert first.prompt == second.prompt

    def test_words_that_say_their_gender_keep_it(self, words):
        signs = {pair.group: pair.stereotype for pair in words}
        rows = keeping_rows(words.pairs, 1, 0, reference=False)
        assert {row.group for row in rows} == set(signs)
        assert len(rows) == len(signs)
        assert all(row.chosen == (" she" if signs[row.group] > 0 else " he") for row in rows)
        both = keeping_rows(words.pairs, 1, 0, reference=True)
        assert both[::2] == rows
        assert [row.chosen for row in both[1::2]] == [row.rejected for row in rows]
        assert not any(row.even for row in both)
        assert keeping_rows([replace(pair, stereotype=0) for pair in words.pairs], 1, 0, reference=True) == []

    def test_the_loss_of_an_even_pair_is_that_of_its_log_odds(self, tiny):
        """Both rows of a prompt have, at the first step, log(2 + 2 cosh(beta d)) / 2 on average."""
        made = [Preference(row[0], " she", " he", "x", 0) for row in ROWS[:4]]
        both = [each for row in made for each in (row, replace(row, chosen=" he", rejected=" she"))]
        said = next_log_probs(tiny, [row.prompt for row in made], [" she", " he"])
        odds = (said[:, 0] - said[:, 1]).tolist()
        for even, losses in (
            (True, [math.log(2 + 2 * math.cosh(0.7 * d)) / 2 for d in odds]),
            (False, [math.log(2)] * 4),
        ):
            tokens = [token_row(tiny, replace(row, even=even), end=False) for row in both]
            trained = open_parameters(tiny, None)
            found = train_preferences(tiny, trained, tokens, Recipe(1, 8, 1e-9, 0), beta=0.7, look=never)
            assert found == [pytest.approx(sum(losses) / 4, abs=1e-5)]

    def test_a_word_has_the_same_prompts_whatever_the_others(self, prompts):
        group = prompts.pairs[0].group
        alone = [pair for pair in prompts if pair.group == group]
        every = [pair for pair in draw_prompts(prompts.pairs, 2, 7) if pair.group == group]
        assert draw_prompts(alone, 2, 7) == every
        assert len({pair.clean for pair in every}) == 2
        assert len(draw_prompts(alone, 99, 7)) == len({pair.clean for pair in alone})

    @pytest.mark.parametrize("editor", [DPO(rate=3e-4, beta=1.0), SFT(rate=3e-4)], ids=["dpo", "sft"])
    def test_they_narrow_the_gap(self, mini, located, prompts, words, few, editor):
        """With rows about other things alone the gap stays about where it is (see `few`)."""
        texts = [pair.clean for pair in prompts]

        def gap():
            said = next_log_probs(mini, texts, [" she", " he"])
            return float((said[:, 0] - said[:, 1]).abs().mean())

        before = gap()
        edit = replace(editor, **few | {"pronouns": 4, "epochs": 2}).edit(mini, located, prompts, preserved=words)
        assert edit.report["pronoun rows"] > 4 * len(JOBS) * 0.5
        rows = edit.report["data"]["train"] + edit.report["pronoun rows"]
        assert len(edit.report["losses"]) == 2 * math.ceil(rows / 8)
        with edit.applied(mini):
            assert gap() < 0.7 * before


class TestTheEdit:
    @pytest.mark.parametrize(
        ("editor", "matrices"),
        [
            (DPO(rate=1e-4), 2),
            (DPO(rate=3e-4, rank=4), 2),
            (SFT(rate=3e-4, rank=4), 2),
        ],
        ids=["dpo", "dpo-lora", "sft-lora"],
    )
    def test_it_changes_the_located_matrices_and_can_be_undone(
        self, mini, located, prompts, words, few, editor, matrices, tmp_path
    ):
        editor = replace(editor, **few)
        before = network_hash(mini)
        edit = editor.edit(mini, located, prompts, preserved=words)
        assert set(edit.changes) == {f"transformer.h.{layer}.mlp.c_proj.weight" for layer in (0, 2)}
        assert edit.report["matrices"] == matrices
        assert network_hash(mini) == before
        again = load_edit(edit.save(tmp_path / "edit.safetensors"))
        assert (tmp_path / "edit.safetensors").stat().st_size < (3e5 if editor.rank else 1e7)
        with edit.applied(mini):
            inside = network_hash(mini)
        with again.applied(mini):
            assert network_hash(mini) == inside != before
        assert network_hash(mini) == before
        looks = edit.report["checkpoints"]
        assert [each["step"] for each in looks] == [0, len(edit.report["losses"])]
        if editor.method == "dpo":
            assert looks[1]["margin"] > 0
            assert looks[1]["accuracy"] > 50
        else:
            assert looks[1]["chosen"] > looks[0]["chosen"]
            assert math.isfinite(looks[1]["margin"])

    def test_peft_loads_the_adapter_and_says_what_the_edit_says(self, mini, located, prompts, words, few, tmp_path):
        from peft import PeftModel

        edit = SFT(rate=1e-3, rank=4, **few).edit(mini, located, prompts, preserved=words)
        folder = write_adapter(edit, mini, tmp_path / "adapter")
        ids = torch.tensor([mini.encoder.encode("The nurse said that")[0]])
        with edit.applied(mini), torch.no_grad():
            expected = mini.network(ids).logits
        network = copy.deepcopy(mini.network)
        with torch.no_grad():
            plain = network(ids).logits
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # of a property of transformers that PEFT reads
                said = PeftModel.from_pretrained(network, str(folder))(ids).logits
        assert (said - expected).abs().max() < 1e-4 < (plain - expected).abs().max()
        with pytest.raises(LocateError, match="exists already"):
            write_adapter(edit, mini, folder)

    def test_an_adapter_fits_both_ways_of_storing_a_matrix(self, tiny, rows, tmp_path):
        from peft import PeftModel

        names = [name for name in linear_matrices(tiny) if "mlp" in name]
        trained = open_lora(tiny, names, 2, 0.0, 0)
        train_completions(tiny, trained, rows, Recipe(3, 8, 1e-2, 0), look=never)
        changes = changes_of(trained, dict(tiny.network.named_parameters()))
        edit = Edit("sft", tiny.provenance(), {name: ParameterChange(each) for name, each in changes.items()})
        folder = write_adapter(edit, tiny, tmp_path / "adapter")
        ids = torch.tensor([rows[0].prompt])
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a property of transformers that PEFT reads
            said = PeftModel.from_pretrained(copy.deepcopy(tiny.network), str(folder))(ids).logits
            assert (said - trained.network(ids).logits).abs().max() < 1e-5
            assert (said - tiny.network(ids).logits).abs().max() > 1e-3

    def test_whole_changes_make_no_adapter(self, mini, located, prompts, words, few, tmp_path):
        edit = SFT(rate=1e-3, **few).edit(mini, located, prompts, preserved=words)
        with pytest.raises(LocateError, match="is whole, not a product of thin factors: train with a rank"):
            write_adapter(edit, mini, tmp_path / "adapter")
        assert not (tmp_path / "adapter").exists()

    @pytest.mark.parametrize(
        ("rank", "where"), [(None, "every parameter"), (2, "every linear layer but the unembedding")]
    )
    def test_the_receipt_says_what_training_everything_changed(self, mini, located, prompts, words, few, rank, where):
        edit = SFT(rate=1e-5, rank=rank, scope="everything", **few).edit(mini, located, prompts, preserved=words)
        assert (edit.located["edited_layers"], edit.located["chosen_by"]) == (where, "scope")
        assert "modules" not in edit.located
        assert len(edit.changes) >= 24  # four matrices of each of six layers

    def test_a_collapsing_run_is_stopped_and_names_the_guard(self, mini, located, prompts, words, few):
        editor = DPO(**few | {"rate": 0.3, "scope": "everything", "guards": Guards(looks=20)})
        with pytest.raises(LocateError, match=r"training stopped after step \d+ of \d+: .* allowed") as caught:
            editor.edit(mini, located, prompts, preserved=words)
        assert "no model was written" in str(caught.value)

    def test_held_out_occupations_are_not_trained_on(self, mini, located, prompts, words):
        rows = DPO().rows(mini, prompts, rejected=True)
        text = " ".join(f"{row.prompt}{row.chosen}{row.rejected}".lower() for row in rows.train)
        apart = set(locate.prompts.occupation_table()["occupation"]) - set(JOBS)
        assert len(rows.train) > 100
        assert not [name for name in apart if re.search(rf"\b{re.escape(name.lower())}s?\b", text)]

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"scope": "other"}, "scope 'other': expected one of located, everything"),
            ({"rank": 0}, "rank 0, pronouns 1: expected"),
            ({"dropout": 0.1}, "dropout 0.1 without rank"),
            ({"rate": 0.0}, "rate 0.0"),
            ({"beta": 0.0}, "beta 0.0"),
            ({"at_once": 3}, "at_once 3: expected a divisor of the batch of 8 rows"),
            ({"scope": "everything", "layers": (1,)}, "name layers only with scope 'located'"),
            ({"preferences": "missing.csv"}, "no file missing.csv"),
        ],
    )
    def test_bad_settings_are_refused(self, mini, located, prompts, words, settings, message):
        with pytest.raises(LocateError, match=message):
            DPO(**settings).edit(mini, located, prompts, preserved=words)

    def test_without_trl_one_line_says_what_to_install(self, mini, located, prompts, words, monkeypatch):
        monkeypatch.setitem(sys.modules, "trl", None)
        with pytest.raises(LocateError, match=r'pip install "locate-bias\[train\]"'):
            DPO().edit(mini, located, prompts, preserved=words)


def test_surroundings_are_put_back(monkeypatch):
    monkeypatch.setenv("OLD", "1")
    before = random.getstate(), torch.get_rng_state()
    with own_surroundings(NEW="2"):
        os.environ["OLD"] = "3"
        random.seed(0)
        torch.manual_seed(0)
        assert os.environ["NEW"] == "2"
    assert (os.environ["OLD"], "NEW" in os.environ) == ("1", False)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


class Stopped(Exception):
    """A stop from outside."""


@pytest.mark.parametrize(
    "editor",
    [DPO(rate=3e-4, rank=4, dropout=0.1), SFT(rate=3e-4, at_once=4)],
    ids=["dpo-lora", "sft"],
)
def test_a_stopped_training_goes_on_where_it_was(mini, located, prompts, words, few, editor, tmp_path):
    """At any step, also before the first was kept; the result is that of a training without a stop."""
    settings = few | {"guards": Guards(looks=3)}
    whole = replace(editor, **settings).edit(mini, located, prompts, preserved=words)

    def stop_after(last):
        def progress(what, done, of):
            if what == "training" and done == last:
                raise Stopped

        return progress

    how = replace(editor, **settings, place=tmp_path / "kept")
    for last in (1, 4):
        with pytest.raises(Stopped):
            how.edit(mini, located, prompts, preserved=words, progress=stop_after(last))
    steps = []
    again = how.edit(
        mini, located, prompts, preserved=words, progress=lambda what, done, of: steps.append(done)
    )  # fmt: skip
    assert steps[0] > 1
    assert len(again.report["losses"]) == len(whole.report["losses"]) == steps[-1]
    assert again.report["losses"] == pytest.approx(whole.report["losses"], abs=1e-5)
    assert [each["step"] for each in again.report["checkpoints"]] == [
        each["step"] for each in whole.report["checkpoints"]
    ]
    for name, change in whole.changes.items():
        apart = (again.changes[name].whole - change.whole).norm() / change.whole.norm()
        assert apart < 1e-3
    assert again.settings == whole.settings


def test_another_training_does_not_go_on_from_what_is_kept(mini, located, prompts, words, few, tmp_path):
    settings = few | {"epochs": 1, "place": tmp_path / "kept"}
    first, other = (
        SFT(**settings | {"rate": rate}).edit(mini, located, prompts, preserved=words) for rate in (1e-4, 3e-4)
    )
    for name, change in first.changes.items():
        assert other.changes[name].whole.norm() > 2 * change.whole.norm()


def test_a_checkpoint_that_was_cut_off_is_not_taken(tmp_path):
    for number, text in ((2, "{}"), (10, '{"global'), (4, "{}")):
        (tmp_path / f"checkpoint-{number}").mkdir()
        (tmp_path / f"checkpoint-{number}" / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-12").mkdir()
    assert last_kept(tmp_path).endswith("checkpoint-4")


def test_the_command_line_refuses_what_the_editor_would_not_read():
    check_read(SFT(), "sft", text=None, preferences="own.csv")
    check_read(LSDM(), "lsdm", text="own.txt", preferences=None)
    with pytest.raises(LocateError, match=r"--preferences own\.csv: method 'lsdm' reads none"):
        check_read(LSDM(), "lsdm", text="own.txt", preferences="own.csv")
    with pytest.raises(LocateError, match=r"--text own\.txt: method 'dpo' reads none"):
        check_read(DPO(), "dpo", text="own.txt", preferences=None)


def test_an_adapter_that_could_not_be_written_is_refused_first(tmp_path):
    check_adapter(tmp_path / "adapter", tmp_path / "edited", DPO(rank=4))
    with pytest.raises(LocateError, match="without a rank: whole matrices make no LoRA adapter: add --set rank=16"):
        check_adapter(tmp_path / "adapter", tmp_path / "edited", DPO())
    for inside in ("edited", "edited/adapter"):
        with pytest.raises(LocateError, match="choose a folder of its own"):
            check_adapter(tmp_path / inside, tmp_path / "edited", DPO(rank=4))


def test_a_data_set_of_the_hub_is_read_as_a_file_is(tmp_path, monkeypatch):
    """The hub itself is not asked: what it would give is laid down here."""
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(json.dumps(dict(zip(("prompt", "chosen", "rejected"), row, strict=True))) + "\n" for row in ROWS)
    )

    @contextmanager
    def fetched(name, usual):
        yield path, {name: "0" * 64}

    monkeypatch.setattr(training_rows, "fetched", fetched)
    found = read_preferences("owner/name:default:train", held_out=0.5)
    assert (len(found.train), len(found.held_out), found.source) == (4, 4, {"owner/name:default:train": "0" * 64})
    with pytest.raises(LocateError, match=r"no file owner/name\.csv"):
        read_preferences("owner/name.csv")


def test_rows_left_out_are_told_after_the_edit(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text(table([*ROWS, ROWS[0], ("The nurse said", "", " no.")]))
    data = read_preferences(path, held_out=0.6).as_json()
    assert data_notes({"data": data}) == [
        "2 rows are left out: 1 repeats line 2 (line 10); 1 chosen is empty (line 11)"
    ]
    assert data_notes({"losses": []}) == []
