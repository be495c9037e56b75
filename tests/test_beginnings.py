"""Rows that begin alike give the same numbers when their beginning is run once, in every family."""

import pytest
import torch
from families import FAMILIES, MORE_FAMILIES, save_family

from locate.model.beginnings import FEWEST, batches_alike, run_beginning, shared_tokens
from locate.model.causal import load_causal
from locate.model.likelihood import last_logits

GENERATOR = torch.Generator().manual_seed(0)
IDS = torch.randint(1, 300, (5, 11), generator=GENERATOR)
IDS[:, :7] = IDS[0, :7]


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_logits_and_slopes_are_those_of_whole_rows(family, tmp_path):
    model = load_causal(str(save_family(family, tmp_path)), device="cpu")
    embedding, found = model.network.get_input_embeddings(), []

    def slopes(ids, before):
        moved = []

        def move(module, args, output):
            moved.append(torch.zeros_like(output, requires_grad=True))
            return output + moved[0]

        hook = embedding.register_forward_hook(move)
        logits = last_logits(model, ids, past_key_values=before)[:, -1]
        hook.remove()
        (slope,) = torch.autograd.grad((logits[:, 3] - logits[:, 5]).sum(), moved)
        found.append((logits.detach(), slope[:, -4:]))

    slopes(IDS, None)
    slopes(IDS[:, 7:], run_beginning(model, IDS[:, :7]))
    whole, parted = found
    assert whole[1].abs().max() > 1e-3
    for one, other in zip(whole, parted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)


def test_shared_tokens_are_counted_up_to_the_first_difference():
    assert shared_tokens(IDS, 11) == 7
    assert shared_tokens(IDS, 4) == 4
    assert shared_tokens(IDS[:1], 11) == 0
    later = IDS.clone()
    later[:, 0] = torch.arange(5)
    assert shared_tokens(later, 11) == 0


def test_rows_with_a_long_beginning_in_common_are_by_themselves():
    alike = [[*range(6), 50 + i, 7] for i in range(FEWEST)]
    other = [[9 + i, *range(1, 8)] for i in range(5)]
    short = [[1, 2, 3]] * 3
    rows = [row for trio in zip(alike, other + short, strict=False) for row in trio]
    batches = list(batches_alike(rows, 100))
    assert sorted(place for batch in batches for place in batch) == list(range(len(rows)))
    assert all(len({len(rows[place]) for place in batch}) == 1 for batch in batches)
    (long,) = [batch for batch in batches if tuple(rows[batch[0]][:6]) == tuple(range(6))]
    assert sorted(rows[place] for place in long) == alike
    assert all(len(batch) <= 3 for batch in batches_alike(rows, 3))
