"""What a model writes by itself: every token drawn from what the model says after those before, whatever the batch."""

import pytest
import torch
from families import FAMILIES, MORE_FAMILIES, save_family

from locate.model import products, writing
from locate.model.causal import load_causal
from locate.model.likelihood import generate
from locate.model.writing import draw_tokens, write_rows

LENGTH = 12


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_every_token_is_drawn_from_what_the_model_says_after_those_before(family, tmp_path):
    """The oracle reads whole rows, without a cache."""
    model = load_causal(str(save_family(family, tmp_path)), device="cpu")
    rows = write_rows(model, 5, LENGTH, seed=3)
    assert (rows[:, 0] == model.start).all()
    assert len(rows[:, 1:].unique()) > LENGTH
    drawn = torch.rand(5, LENGTH - 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        for place in range(1, LENGTH):
            shares = model.network(rows[:, :place]).logits[:, -1].double().softmax(-1)
            for row, token in enumerate(rows[:, place]):
                before, here = shares[row, :token].sum(), shares[row, token]
                assert before - 1e-5 <= drawn[row, place - 1] <= before + here + 1e-5


def test_the_batch_changes_nothing_and_every_token_is_counted(model_of, folder_of, monkeypatch):
    model, said = load_causal(str(folder_of("llama")), device="cpu"), []
    whole = write_rows(model, 7, LENGTH, seed=0, step=lambda done, of: said.append((done, of)))
    monkeypatch.setattr(writing, "BATCH", 2)
    assert torch.equal(write_rows(model, 7, LENGTH, seed=0, step=lambda done, of: said.append((done, of))), whole)
    assert torch.equal(write_rows(model, 3, LENGTH, seed=0), whole[:3])
    assert not torch.equal(write_rows(model, 7, LENGTH, seed=1), whole)
    total = 7 * (LENGTH - 1)
    assert [said[0], said[LENGTH - 2], said[-1]] == [(7, total), (total, total), (total, total)]
    assert [done for done, _ in said[LENGTH - 1 :]] == sorted({done for done, _ in said[LENGTH - 1 :]})


def test_no_trial_of_speed_changes_what_is_sampled(folder_of, monkeypatch):
    """oneDNN and torch round differently, and which of them is faster changes from run to run on some machines."""
    model, chosen = load_causal(str(folder_of("llama")), device="cpu"), []
    read = type(model.network).forward
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: True)

    def network_of(*arguments, **given):
        chosen.append(products.CHOSEN.get())
        return read(*arguments, **given)

    monkeypatch.setattr(type(model.network), "forward", network_of)
    write_rows(model, 2, 4, seed=0)
    generate(model, ["The nurse said"], tokens=3, seed=0)
    assert len(chosen) == 6
    assert chosen == [None] * 6
    generate(model, ["The nurse said"], tokens=1)
    assert isinstance(chosen[-1], products.OneDNN)


def test_tokens_are_drawn_with_their_probabilities():
    shares = torch.tensor([0.0, 0.2, 0.5, 0.0, 0.3])
    drawn = torch.tensor([0.0, 0.1, 0.21, 0.69, 0.71, 0.999999], dtype=torch.float64)
    assert draw_tokens(shares.log().expand(len(drawn), -1), drawn).tolist() == [1, 1, 2, 2, 4, 4]
    many = torch.rand(20000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw_tokens(shares.log().expand(len(many), -1), many), minlength=5) / len(many)
    torch.testing.assert_close(counts, shares, rtol=0, atol=0.01)
