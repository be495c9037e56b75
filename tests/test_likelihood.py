"""The next word after prompts of any lengths: batches, padding, and the model itself as the oracle."""

import pytest
import torch
from families import FAMILIES, MORE_FAMILIES, save_family

from locate.model.causal import load_causal
from locate.model.likelihood import FEW, MIXED, next_log_probs, token_batches

PROMPTS = [
    "The nurse said that",
    "The man",
    "A person laughed because the engineer was",
    "She",
    "The doctor was sad and",
]
WORDS = [" she", " he"]


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_each_prompt_is_read_at_its_own_end(family, tmp_path):
    model = load_causal(str(save_family(family, tmp_path)), device="cpu")
    found = next_log_probs(model, PROMPTS, WORDS)
    ids = [model.encoder.tokenizer(word, add_special_tokens=False)["input_ids"] for word in WORDS]
    for prompt, said in zip(PROMPTS, found, strict=True):
        with torch.no_grad():
            alone = model.network(torch.tensor([model.encoder.encode(prompt)[0]])).logits[0, -1].log_softmax(-1)
        torch.testing.assert_close(said.float(), alone[[each[0] for each in ids]], rtol=1e-4, atol=1e-4)


def test_lengths_that_many_have_are_batches_and_the_others_are_put_together():
    lengths = [5] * FEW + [9] * (FEW - 1) + [2] * 3 + [7] + [4] * 8
    rows = [[1] * length for length in lengths]
    batches = list(token_batches(rows, 20))
    assert sorted(place for batch in batches for place in batch) == list(range(len(rows)))
    alike = [batch for batch in batches if len({lengths[place] for place in batch}) == 1]
    assert {lengths[place] for batch in alike for place in batch} >= {5, 4}
    for batch in batches:
        longest = max(lengths[place] for place in batch)
        assert len(batch) * longest <= 20 or len(batch) == 1
        if batch not in alike:
            assert {lengths[place] for place in batch} <= {9, 2, 7}
    mixed = [[0] * (1 + i % 7) for i in range(40)]
    assert max(len(batch) for batch in token_batches(mixed, 10**6)) <= MIXED
