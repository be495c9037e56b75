"""The receipt of an edit is that of an earlier version, number for number; kept in kept/lsdm with its located.json."""

import json
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import pytest
from kept_files import differences

from locate.editors import receipt
from locate.editors.lsdm import LSDM
from locate.editors.methods import edit
from locate.evaluation import occupations, perplexity
from locate.mediation.located import load_located
from locate.model.causal import load_causal

pytestmark = pytest.mark.usefixtures("unchecked_types")

KEPT = Path(__file__).parent / "kept" / "lsdm"
OF_A_MACHINE = {"seconds", "threads", "libraries", "locate", "text", "tokenizer_sha256"}
OF_ROUNDING = {"after_sha256", "edited_weights_sha256", "largest_difference"}
"""what differs where rounding does: hashes of changed weights, and the distance of two equal models"""


def some(test, chosen):
    return replace(test, read=lambda path: replace(test.read(path), rows=test.read(path).rows[chosen]))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The same edit of the same prompts, judged by every ninth prompt and one excerpt."""
    folder = tmp_path_factory.mktemp("edited")
    prose = files("locate.evaluation") / "text"
    text = folder / "text.txt"
    text.write_bytes(b"".join((prose / f"kipling_{number}.txt").read_bytes() for number in (1, 2)))
    model = load_causal("mini", device="cpu")
    change = edit(model, load_located(KEPT / "located.json"), LSDM(prefixes=0, rounds=1, most=2, text=text))
    with pytest.MonkeyPatch.context() as patch:
        judges = (some(occupations.TEST, slice(None, None, 9)), some(perplexity.TEST, slice(1)))
        patch.setattr(receipt, "JUDGES", judges)
        receipt.save_edited(change, model, folder / "model")
    return json.loads((folder / "model" / "receipt.json").read_text())


def of_receipts(old, new):
    """Every place where two receipts differ by more than rounding."""
    return differences(
        old,
        new,
        "receipt",
        ignored=OF_A_MACHINE | OF_ROUNDING,
        near=lambda where, one, other: other == pytest.approx(one, rel=5e-3, abs=2e-4),
    )


def test_the_receipt_is_as_before(made):
    kept = json.loads((KEPT / "receipt.json").read_text())
    assert list(of_receipts(kept, made)) == []
    assert made["reload"]["largest_difference"] < 1e-3
    for one, other in zip(kept["tensors"]["changed"], made["tensors"]["changed"], strict=True):
        assert one["before_sha256"] == other["before_sha256"] != other["after_sha256"]


def test_differences_are_seen():
    old = {"a": [1.0, {"b": "x"}], "seconds": 3.0}
    assert list(of_receipts(old, {"a": [1.0001, {"b": "x"}], "seconds": 9.0})) == []
    assert list(of_receipts(old, {"a": [1.1, {"b": "y", "c": 0}]})) == [
        "receipt.a[0]: 1.0 and 1.1",
        "receipt.a[1].b: 'x' and 'y'",
        "receipt.a[1].c is in one alone",
    ]
