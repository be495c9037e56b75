"""The fairness stamp in training: the units of its MLP, what is kept of the blocks below, and which layer it takes."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from locate import LocateError, load_located
from locate.editors.below import KeptBelow
from locate.editors.fast import FAST, Pools, Trainee
from locate.editors.handoff import Handoff, hand_off
from locate.editors.progress import no_progress
from locate.editors.readings import readings
from locate.editors.stamp import Units, units_of
from locate.model.causal import load_causal
from locate.model.likelihood import last_logits
from locate.model.matrices import matrix
from locate.model.stamp import Beside, inputs_of
from locate.prompts import Pair

LOCATED = Path(__file__).parents[1] / "figures" / "located_opposite.json"
TEMPLATES = {
    "gpt2": "transformer.h.{}.mlp.c_proj", "llama": "model.layers.{}.mlp.down_proj",
    "gemma2": "model.layers.{}.mlp.down_proj", "phi": "model.layers.{}.mlp.fc2",
    "opt": "model.decoder.layers.{}.fc2", "bloom": "transformer.h.{}.mlp.dense_4h_to_h",
    "mpt": "transformer.blocks.{}.ffn.down_proj",
}  # fmt: skip
NORMS = {"gpt2": "ln_2", "llama": "post_attention_layernorm"}
LAYER = 2
IDS = torch.tensor([[5, 9, 30, 41, 7, 3], [5, 9, 12, 8, 7, 3]])
TEXT = [[5, 9, 30, 41, 7, 3, 60, 11], [8, 8, 300, 2, 6, 40, 12, 70], [1, 60, 5, 5, 90, 31, 4, 22]]


def loaded(folder_of, family):
    return load_causal(str(folder_of(family)), device="cpu")


def in_training(model, family, layer=LAYER, width=6):
    hand = Handoff((layer,), TEMPLATES[family], (layer,), {})
    return Trainee.new(model, hand, TEXT, width=width, seed=1)


def filled(trainee):
    with torch.no_grad():
        trainee.stamp.values.normal_(0, 0.3, generator=torch.Generator().manual_seed(2))
    return trainee


def slopes(trainee):
    _, after = trainee.both_log_probs(IDS)
    return torch.autograd.grad(after[:, -1, 7].sum(), list(trainee.stamp.tensors().values()))


def pools_of(model):
    def pairs(*words):
        forms = ("The {} said that", "The {} laughed because")
        return [Pair(f.format(w), f.format("person"), w, "person", w, f) for w in words for f in forms]

    edited, kept = readings(model, pairs("nurse", "engineer")), readings(model, pairs("man", "woman"))
    return Pools(edited, edited[:2], kept, TEXT)


@pytest.mark.parametrize("family", TEMPLATES)
def test_an_empty_stamp_changes_no_bit_and_blocks_below_run_once(family, folder_of):
    model = loaded(folder_of, family)
    trainee = in_training(model, family)
    plain = last_logits(model, IDS).float().log_softmax(-1)
    runs = []
    lowest = matrix(model.network, TEMPLATES[family].format(0)).module
    hook = lowest.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(2):
        before, after = trainee.both_log_probs(IDS)
        assert torch.equal(before, plain)
        assert torch.equal(after, plain)
    assert len(runs) == 1
    assert torch.equal(trainee.both_log_probs(IDS + 1)[0], last_logits(model, IDS + 1).float().log_softmax(-1))
    hook.remove()
    assert torch.equal(last_logits(model, IDS).float().log_softmax(-1), plain)


@pytest.mark.parametrize("family", TEMPLATES)
def test_slopes_are_those_of_the_whole_model(family, folder_of):
    model = loaded(folder_of, family)
    trainee = filled(in_training(model, family))
    whole = slopes(replace(trainee, below=KeptBelow(model.network, [])))
    assert all(each.abs().max() > 0 for each in whole)
    for _ in range(2):
        for found, wanted in zip(slopes(trainee), whole, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_stamp_in_units_computes_on_numbers_of_any_size_what_it_computes_on_numbers_of_one(family, folder_of):
    model = loaded(folder_of, family)
    stamp = filled(in_training(model, family)).stamp
    h, act = torch.randn(5, 32, generator=torch.Generator().manual_seed(3)), torch.nn.functional.silu
    written = Units(0.25, 8.0).write(stamp)
    torch.testing.assert_close(Beside(written, act)(0.25 * h), 8 * Beside(stamp, act)(h), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_units_are_root_mean_squares_of_the_median_token(family, folder_of):
    model = loaded(folder_of, family)
    module = TEMPLATES[family].format(LAYER)
    read, written = [], []
    fed, output = inputs_of(model.network, module)[0].module, matrix(model.network, module).module
    hooks = [
        fed.register_forward_pre_hook(lambda _, args: read.append(args[0])),
        output.register_forward_hook(lambda _, __, result: written.append(result)),
    ]
    with torch.no_grad():
        model.network(torch.tensor(TEXT))
    for hook in hooks:
        hook.remove()
    found = units_of(model, module, TEXT)
    for ours, seen in ((found.inputs, read), (found.outputs, written)):
        assert ours == pytest.approx(float(seen[0].pow(2).mean(-1).flatten().median()) ** 0.5, rel=1e-5)


def test_an_mlp_that_writes_nothing_is_refused(folder_of):
    model = loaded(folder_of, "llama")
    model.network.model.layers[LAYER].mlp.down_proj.weight.data.zero_()
    with pytest.raises(
        LocateError, match=r"layers\.2\.mlp\.down_proj reads or writes zeros alone: stamp another layer"
    ):
        units_of(model, TEMPLATES["llama"].format(LAYER), TEXT)


@pytest.mark.parametrize(("family", "times"), [("gpt2", 8.0), ("llama", 0.125)])
def test_the_size_of_what_the_mlp_reads_does_not_matter(family, times, folder_of):
    """The layer norm's weight times c, and the MLP's first matrices through c, are the same model."""
    how = FAST(epochs=4, batch=2, passages=2, rate=1e-2)
    trained = []
    for size in (1.0, times):
        model = loaded(folder_of, family)
        module = TEMPLATES[family].format(LAYER)
        norm = model.network.get_submodule(module.rpartition(".mlp")[0]).get_submodule(NORMS[family])
        for tensor in norm.parameters():
            tensor.data *= size
        for each in inputs_of(model.network, module):
            each.module.weight.data /= size
        trainee = in_training(model, family)
        how.train(trainee, pools_of(model), no_progress)
        trained.append((trainee.units, trainee.trained()))
    (units, stamp), (other, same) = trained
    assert other == Units(times * units.inputs, units.outputs)
    assert stamp.values.abs().max() > 1e-3
    torch.testing.assert_close(same.values, stamp.values, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(times * same.keys, stamp.keys, rtol=1e-4, atol=1e-6)
    if stamp.linear is not None:
        torch.testing.assert_close(times * same.linear, stamp.linear, rtol=1e-4, atol=1e-6)


def test_every_prompt_and_window_is_in_one_batch(folder_of):
    model = loaded(folder_of, "gpt2")
    pools = pools_of(model)
    *prompts, text = pools.batches(3, 2)
    assert text == [[0, 1], [2]]
    for batches, pool in zip(prompts, (pools.edited, pools.neutral, pools.preserved), strict=True):
        assert sorted(place for batch in batches for place in batch) == list(range(len(pool)))
        assert max(map(len, batches)) <= 3


def test_the_highest_of_the_strongest_layers_is_stamped(folder_of):
    model = load_causal("mini")
    located = replace(load_located(LOCATED), layers=(0, 4, 2, 5))
    hand = hand_off(model, located, most=3, highest=True)
    assert (hand.layers, hand.origin["edited_layers"], hand.origin["chosen_by"]) == ((4,), [4], "located")
    assert hand_off(model, located, layers=[1], most=3, highest=True).layers == (1,)


@pytest.mark.parametrize(
    "settings", [{"passages": 0}, {"width": 0}, {"preserve": -1.0}, {"gamma": -1.0}, {"rate": 0.0}]
)
def test_bad_settings_are_refused(settings):
    ((name, value),) = settings.items()
    with pytest.raises(LocateError, match=f"{name if name in ('passages', 'width', 'rate') else 'weights'}.*{value}"):
        FAST(**settings)
