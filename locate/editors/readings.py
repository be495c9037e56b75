"""Prompts as an editor reads them: rows of tokens with the subject's last token, and what the model computes there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.model.beginnings import batches_alike, run_beginning, shared_tokens
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, generate, group_by_length, ignore_step, last_logits
from locate.model.products import precise
from locate.prompts import Pair, Prompts
from locate.prompts.tokens import answer_id, roles_of, with_space
from locate.sites import LAST_SUBJECT

BATCH = 128  # readings run at once
PREFIX_TOKENS = 8
NEUTRAL_FORM = "The {subject} is a"


@dataclass(frozen=True)
class Reading:
    """One prompt, perhaps with words before it, as tokens.

    word      its group: the occupation
    ids       of the tokens
    subject   place of the subject's last token
    answers   ids of the female and the male answer
    """

    word: str
    ids: tuple[int, ...]
    subject: int
    answers: tuple[int, int]


def readings(model: CausalModel, pairs: Sequence[Pair], prefixes: Sequence[str] = ("",)) -> list[Reading]:
    """The clean prompts of pairs behind each prefix.

    Raises LocateError when a prompt cannot be used: its subject shares a token with other words, or an answer is
    not one token.
    """
    found = []
    for pair in pairs:
        start, end = with_space(pair.clean, pair.clean_subject)
        for prefix in prefixes:
            text = prefix + pair.clean
            ids, spans = model.encoder.encode(text)
            first = start + len(prefix)
            first -= text[:first].endswith(" ")  # of a subject that begins its prompt
            try:
                roles = roles_of(spans, (first, end + len(prefix)))
                answers = [answer_id(model.encoder.encode, text, ids, each) for each in (pair.female, pair.male)]
            except LocateError as error:
                raise LocateError(f"prompt {text!r} cannot be edited: {error}: leave it out") from None
            found.append(Reading(pair.group, tuple(ids), roles.index(LAST_SUBJECT), (answers[0], answers[1])))
    return found


def neutral_readings(model: CausalModel, prompts: Prompts) -> list[Reading]:
    """A prompt about each edited word in which no pronoun follows."""
    by_word = {pair.group: pair for pair in prompts}
    forms = []
    for pair in by_word.values():
        text = NEUTRAL_FORM.format(subject=pair.clean_subject)
        forms.append(replace(pair, clean=text, corrupted=text.replace(pair.clean_subject, pair.corrupted_subject)))
    return readings(model, forms)


def random_prefixes(model: CausalModel, count: int, seed: int, step: Step = ignore_step) -> list[str]:
    """An empty prefix, and `count` that the model itself writes, so that no key depends on one context alone (ROME)."""
    written = generate(model, [""] * count, tokens=PREFIX_TOKENS, seed=seed, step=step) if count else []
    return ["", *(f"{' '.join(text.split())}. " for text in written)]


def words_of(rows: Sequence[Reading]) -> list[str]:
    """Words in order of first appearance."""
    return list(dict.fromkeys(row.word for row in rows))


def equal_batches(rows: Sequence[Reading], size: int = BATCH) -> Iterator[list[int]]:
    """Places of readings of equal length, at most `size` at once, so that nothing is padded."""
    for places in group_by_length([row.ids for row in rows]).values():
        for first in range(0, len(places), size):
            yield places[first : first + size]


def batch_of(
    model: CausalModel, rows: Sequence[Reading], places: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids [row, pos], places of the subjects [row] and answers [row, 2] of a batch, on the model's device."""
    chosen = [rows[place] for place in places]
    ids = torch.tensor([row.ids for row in chosen], device=model.device)
    subject = torch.tensor([row.subject for row in chosen], device=model.device)
    answers = torch.tensor([row.answers for row in chosen], device=model.device)
    return ids, subject, answers


@contextmanager
def catching(network: Any, name: str, take: Callable[[Any, Any], None], *, inputs: bool) -> Iterator[None]:
    """Inside the block `take` is called with a module and its input (or output): (module, tensor)."""
    module = network.get_submodule(name)

    def before(layer: Any, args: tuple[Any, ...]) -> None:
        take(layer, args[0])

    def after(layer: Any, args: tuple[Any, ...], result: Any) -> None:
        take(layer, first_of(result))

    hook = module.register_forward_pre_hook(before) if inputs else module.register_forward_hook(after)
    try:
        yield
    finally:
        hook.remove()


def first_of(result: Any) -> torch.Tensor:
    """The hidden state that a block returns, alone or as the first of a tuple."""
    found: torch.Tensor = result[0] if isinstance(result, tuple) else result
    return found


def at_subject(
    model: CausalModel, rows: Sequence[Reading], name: str, *, inputs: bool
) -> Float[torch.Tensor, "word width"]:
    """A module's inputs (its keys) or outputs at the subject's last token, float64.

    It is the mean over the readings of each word; the words are in the order of `words_of`.
    """
    states: dict[int, torch.Tensor] = {}
    held: list[torch.Tensor] = []
    with (
        catching(model.network, name, lambda _, tensor: held.append(tensor.detach()), inputs=inputs),
        torch.inference_mode(),
        precise(model.dtype),
    ):
        for places in equal_batches(rows):
            ids, subject, _ = batch_of(model, rows, places)
            last_logits(model, ids)
            tensor = held.pop()
            at = tensor[torch.arange(len(places), device=tensor.device), subject].double()
            states |= dict(zip(places, at, strict=True))
    by_word: dict[str, list[torch.Tensor]] = defaultdict(list)
    for place, row in enumerate(rows):
        by_word[row.word].append(states[place])
    return torch.stack([torch.stack(by_word[word]).mean(0) for word in words_of(rows)])


def answer_log_probs(
    model: CausalModel, rows: Sequence[Reading], step: Step = ignore_step
) -> Float[torch.Tensor, "reading answer"]:
    """log-probability (nats) of the female and the male answer after each reading."""
    found = torch.empty(len(rows), 2, dtype=torch.float64)
    done = 0
    with torch.inference_mode(), precise(model.dtype):
        for places in batches_alike([row.ids for row in rows], BATCH):
            ids, _, answers = batch_of(model, rows, places)
            shared = shared_tokens(ids, ids.shape[1] - 1)
            before = run_beginning(model, ids[:, :shared])
            logits = last_logits(model, ids[:, shared:], past_key_values=before)[:, -1].double()
            found[torch.tensor(places)] = logits.log_softmax(-1).gather(-1, answers).cpu()
            done += len(places)
            step(done, len(rows))
    return found
