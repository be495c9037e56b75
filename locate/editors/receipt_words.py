"""What an edit did, in sentences and as a table, from its receipt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from locate.evaluation.evaluation import main_scores, read_score
from locate.evaluation.meaning import meaning_of
from locate.evaluation.scores import label, value_text
from locate.notebook import as_table, title
from locate.words import decimals, interval_words, unsigned_words, without_folders

CUTS = {
    "held_out": "held-out occupations",
    "unseen_forms": "held-out occupations in unseen forms",
    "natural": "occupations in natural sentences",
}


def score_words(score: dict[str, Any], interval: Callable[[float, float, float], str] = unsigned_words) -> str:
    """A score with its interval, as far as it has one; of a change the interval is in `interval_words`."""
    value, low, high = (score[name] for name in ("value", "low", "high"))
    if low is None or low != low:
        return interval(value, value, value).partition(" [")[0]
    return interval(value, low, high)


def receipt_lines(receipt: dict[str, Any]) -> list[str]:
    """What the edit did, in sentences."""
    scores, tensors = receipt["scores"], receipt["tensors"]
    lines = [
        f"{said}: mean |log-odds| cut by {score_words(scores['cut'][part])} %"
        for part, said in CUTS.items()
        if part in scores["cut"]
    ]
    lines += [
        f"{meaning_of(each['test'], each['name']).words}: {score_words(each)} %, n {each['n']:,}"
        for each in scores["kept"]
    ]
    lines.append(f"perplexity: {score_words(scores['perplexity_change'], interval_words)} %")
    edited = receipt["located"]["edited_layers"]
    where = edited if isinstance(edited, str) else f"layer{'s' * (len(edited) > 1)} {', '.join(map(str, edited))}"
    beside = f", {len(tensors['added'])} added beside the MLP" if tensors["added"] else ""
    lines.append(f"{where}: {len(tensors['changed'])} tensors changed or widened{beside}")
    lines.append(f"bit for bit as before: {tensors['unchanged']} of the original's tensors")
    stored = tensors["files"] or {"converted": 0, "gone": []}
    if stored["converted"]:
        lines.append(f"{stored['converted']} tensors of the original's files are stored in another number format")
    if stored["gone"]:
        names = ", ".join(stored["gone"][:3])
        lines.append(f"{len(stored['gone'])} tensors of the original's files are not in the edited model's: {names}")
    apart = receipt["reload"]["largest_difference"]
    said = f"{apart:.{decimals(apart)}f} nats apart at most" if apart else "the same to the last digit"
    lines.append(f"reloaded from disk: log-probabilities {said}")
    if "reason" in receipt["load"]:
        lines.append(f"load it with {receipt['load']['with']}, not from_pretrained: {receipt['load']['reason']}")
    return lines


class Receipt(dict[str, Any]):
    """The content of receipt.json; a notebook shows what it proves."""

    def _repr_html_(self) -> str:
        before, after = ([read_score(each) for each in self["scores"][when]] for when in ("before", "after"))
        now = {each.key: each for each in after}
        rows = [
            {"score": label(each), "before": value_text(each), "after": value_text(now[each.key]), "n": f"{each.n:,}"}
            for each in main_scores(before)
            if not each.part and each.n
        ]
        told = [
            {"what": what, "found": found} for what, _, found in (line.partition(": ") for line in receipt_lines(self))
        ]
        name = without_folders(str(self["model"]["name"]))
        return title(f"Receipt of {self['method']} on {name}") + as_table(told) + as_table(rows)
