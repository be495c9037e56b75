"""Blocks in few steps: several matrices as one, without a copy. That their numbers are the bridge's: test_sweep."""

import torch

from locate.engine.sweep.fused import one_product, side_by_side


def layers(bias=False):
    torch.manual_seed(0)
    return [torch.nn.Linear(6, rows, bias=bias) for rows in (4, 2, 2)]


def test_matrices_that_are_moved_together_keep_their_numbers_and_are_kept_once():
    made = layers()
    before = [layer.weight.detach().clone() for layer in made]
    whole = side_by_side([layer.weight for layer in made])
    assert torch.equal(whole, torch.cat(before))
    assert all(torch.equal(layer.weight, old) for layer, old in zip(made, before, strict=True))
    with torch.no_grad():
        made[1].weight[1, 2] = 9.0  # an edit is seen by both
    assert whole[5, 2] == 9.0
    assert side_by_side([layer.weight for layer in made]).data_ptr() == whole.data_ptr()


def test_they_can_still_be_trained():
    made = layers()
    with torch.inference_mode():
        side_by_side([layer.weight for layer in made])
    sum(layer(torch.ones(1, 6)).sum() for layer in made).backward()
    assert all(torch.equal(layer.weight.grad, torch.ones_like(layer.weight)) for layer in made)


def test_one_product_has_the_outputs_of_all():
    x = torch.randn(3, 5, 6)
    for bias in (False, True):
        made = layers(bias)
        expected = torch.cat([layer(x) for layer in made], -1)
        torch.testing.assert_close(one_product(*made)(x), expected, rtol=1e-6, atol=1e-6)


def test_matrices_of_two_orders_are_moved():
    """Neighbours in memory that are not neighbours in the product."""
    first, second, third = layers()
    side_by_side([first.weight, second.weight, third.weight])
    expected = torch.cat([second.weight.detach(), first.weight.detach()]).clone()
    assert torch.equal(side_by_side([second.weight, first.weight]), expected)
