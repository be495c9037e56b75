"""What an edit did, in sentences, from its receipt."""

from __future__ import annotations

from typing import Any

CUTS = {
    "held_out": "held-out occupations",
    "unseen_forms": "held-out occupations in unseen forms",
    "natural": "occupations in natural sentences",
}


def score_words(score: dict[str, Any]) -> str:
    """A score with its interval."""
    if score["low"] is None or score["low"] != score["low"]:
        return f"{score['value']:.3g}"
    return f"{score['value']:.3g} [{score['low']:.3g}, {score['high']:.3g}]"


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """What the edit did, in sentences."""
    scores, tensors = receipt["scores"], receipt["tensors"]
    lines = [
        f"{said}: mean |log-odds| cut by {score_words(scores['cut'][part])} %"
        for part, said in CUTS.items()
        if part in scores["cut"]
    ]
    lines += [f"{each['name'].replace('_', ' ')}: {score_words(each)} %, n {each['n']}" for each in scores["kept"]]
    lines.append(f"perplexity: {score_words(scores['perplexity_change'])} %")
    edited = receipt["located"]["edited_layers"]
    where = edited if isinstance(edited, str) else f"layers {', '.join(map(str, edited))}"
    beside = f", {len(tensors['added'])} added beside the MLP" if tensors["added"] else ""
    lines.append(f"{where}: {len(tensors['changed'])} tensors changed or widened{beside}")
    lines.append(f"bit for bit as before: {tensors['unchanged']} of the original's tensors")
    stored = tensors["files"] or {"converted": 0, "gone": []}
    if stored["converted"]:
        lines.append(f"{stored['converted']} tensors of the original's files are stored in another number format")
    if stored["gone"]:
        names = ", ".join(stored["gone"][:3])
        lines.append(f"{len(stored['gone'])} tensors of the original's files are not in the edited model's: {names}")
    lines.append(
        f"reloaded from disk: log-probabilities {receipt['reload']['largest_difference']:.1g} nats apart at most"
    )
    if "reason" in receipt["load"]:
        lines.append(f"load it with {receipt['load']['with']}, not from_pretrained: {receipt['load']['reason']}")
    return lines
