"""What a model says about texts: log-likelihoods of continuations, next words, states, and greedy or sampled text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.finite import check_finite_answers, check_finite_rows
from locate.model.memory import working_bytes
from locate.model.products import multiplying
from locate.prompts.tokens import answer_id

Step = Callable[[int, int], None]
"""progress: (how many are done, of how many)"""

TOKENS = 8192  # in one batch, padding included
LOGITS = 2**27  # numbers of a batch whose logits are wanted at every token: half a gigabyte in fp32
COPIES = 3  # of a batch's logits in fp32 that are there at once: as computed, as log-probabilities, and between
PADDING = 0
FEW, MIXED = 8, 16  # rows of a length that make a batch of their own; rows of several lengths in a batch


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is.

    log_likelihood  sum over its tokens, in nats
    tokens          how many there are
    characters      of the continuation
    greedy          whether each is the likeliest token at its place
    """

    log_likelihood: float
    tokens: int
    characters: int
    greedy: bool


def ignore_step(done: int, total: int) -> None:
    """Report nothing."""


def split_tokens(model: CausalModel, context: str, continuation: str) -> tuple[list[int], list[int]]:
    """Token ids of a context and of its continuation, as the tokenizer splits them together.

    White space at the end of the context belongs to the continuation. A token that holds letters of both belongs to the
    continuation. A text without context follows BOS, or the end-of-text token where there is none.

    Raises LocateError for a continuation without any token.
    """
    border = len(context.rstrip())
    ids, spans = model.encoder.encode(context + continuation)
    first = next((i for i, (start, end) in enumerate(spans) if end > max(border, start)), len(ids))
    if first == len(ids):
        raise LocateError(f"continuation {continuation!r} of {context!r}: expected at least one token")
    if first == 0:
        return [model.start], ids
    return ids[:first], ids[first:]


def log_likelihoods(
    model: CausalModel, requests: Sequence[tuple[str, str]], *, batch_tokens: int = TOKENS, step: Step = ignore_step
) -> list[Likelihood]:
    """How likely each continuation is after its context, in the order given.

    requests  (context, continuation); an empty context asks for the likelihood of a whole text

    Texts longer than the model's context lose their first tokens, as in lm-evaluation-harness, but never those of the
    continuation.

    Raises LocateError for a continuation that is empty or longer than the model's context.
    """
    parts = [split_tokens(model, *request) for request in requests]
    rows: list[list[int]] = []
    for (before, after), (_, text) in zip(parts, requests, strict=True):
        if len(after) > model.context:
            raise LocateError(f"{text[:60]!r}... has {len(after)} tokens, but {model.name!r} takes {model.context}")
        rows.append((before + after)[-(model.context + 1) :][:-1])
    found: list[Likelihood | None] = [None] * len(rows)
    done = 0
    for batch in batches(rows, min(batch_tokens, scored_tokens(model))):
        logits = row_logits(model, [rows[i] for i in batch])
        for place, index in enumerate(batch):
            ids = torch.tensor(parts[index][1], device=logits.device)
            last = len(rows[index])
            at = logits[place, last - len(ids) : last].log_softmax(-1)
            total = float(at.gather(-1, ids[:, None]).double().sum())
            check_finite_answers(np.array([[total]]), logits_of(model), ["".join(requests[index])].__getitem__)
            greedy = torch.equal(at.argmax(-1), ids)
            found[index] = Likelihood(total, len(ids), len(requests[index][1]), greedy)
        done += len(batch)
        step(done, len(rows))
    return [each for each in found if each is not None]


def batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Indices of rows of similar length, longest first, so that each batch holds at most that many tokens."""
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    while order:
        size = max(1, tokens // max(1, len(rows[order[0]])))
        yield order[:size]
        order = order[size:]


def scored_tokens(model: CausalModel) -> int:
    """How many tokens a batch holds at most where each reads out the whole vocabulary: the memory is in its logits."""
    return min(TOKENS, max(1, LOGITS // int(model.network.get_output_embeddings().weight.shape[0])))


def memory_of(model: CausalModel) -> int:
    """About how many bytes a process needs that asks a model about texts; 0 where they are not on the CPU."""
    if model.device != "cpu":
        return 0
    tensors = list(model.network.parameters())
    weights = working_bytes(sum(each.numel() for each in tensors), max(each.element_size() for each in tensors))
    return weights + COPIES * 4 * min(LOGITS, TOKENS * int(model.network.get_output_embeddings().weight.shape[0]))


def group_by_length(rows: Sequence[Sequence[int]]) -> dict[int, list[int]]:
    """Indices of rows by their length, in the order in which the lengths appear."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    return by_length


def token_batches(rows: Sequence[Sequence[int]], tokens: int) -> Iterator[list[int]]:
    """Indices of rows of one length, longest first; a batch holds at most that many tokens.

    A row that alone is longer is a batch of its own. Rows of lengths that few have are put together, to be padded:
    a pass over one row takes nearly as long as one over several.
    """
    by_length = group_by_length(rows)
    few = [i for length in by_length if len(by_length[length]) < FEW for i in by_length[length]]
    for length in sorted(by_length, reverse=True):
        places, size = by_length[length], max(1, tokens // max(1, length))
        for first in range(0, len(places) if len(places) >= FEW else 0, size):
            yield places[first : first + size]
    for batch in batches([rows[i] for i in few], tokens):
        for first in range(0, len(batch), MIXED):
            yield [few[i] for i in batch[first : first + MIXED]]


def row_logits(
    model: CausalModel, rows: Sequence[Sequence[int]], *, timed: bool = True
) -> Float[torch.Tensor, "row pos piece"]:
    """Logits, at least fp32, at every position of rows of ids; shorter rows are padded at the end, which none sees.

    timed  as in `multiplying`
    """
    longest = max(len(row) for row in rows)
    ids = torch.tensor([pad_row(row, longest) for row in rows], device=model.device)
    with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads, timed=timed):
        logits = model.network(ids).logits
    check_finite_rows(logits, logits_of(model), lambda i: text_of(model, rows[i]), [len(row) for row in rows])
    return logits if logits.dtype == torch.float64 else logits.float()


def pad_row(row: Sequence[int], length: int) -> list[int]:
    """A row of ids padded with its own last one, since an attention weight of 0 times a padding nan would be nan."""
    return [*row, *[row[-1]] * (length - len(row))] if row else [PADDING] * length


def last_logits(model: CausalModel, ids: Int[torch.Tensor, "row pos"], keep: int = 1, **given: Any) -> torch.Tensor:
    """Logits at the last positions of rows of one length, as the model computes them: [row, keep, piece].

    given  to the network besides: a cache of earlier positions

    Gradients flow.

    Raises LocateError where they are nan or infinite.
    """
    wanted = torch.arange(ids.shape[1] - keep, ids.shape[1], device=ids.device)  # copied: a slice is multiplied slowly
    logits: torch.Tensor = model.network(ids, logits_to_keep=wanted, **given).logits
    check_finite_rows(logits.detach(), logits_of(model), lambda i: text_of(model, ids[i].tolist()))
    return logits


def logits_at_ends(model: CausalModel, rows: Sequence[Sequence[int]]) -> Float[torch.Tensor, "row piece"]:
    """Logits at the last token of each row, as the model computes them; shorter rows are padded at the end."""
    lengths = sorted({len(row) for row in rows})
    ids = torch.tensor([pad_row(row, lengths[-1]) for row in rows], device=model.device)
    if len(lengths) == 1:
        return last_logits(model, ids)[:, -1]
    ends = torch.tensor([length - 1 for length in lengths], device=model.device)
    logits: torch.Tensor = model.network(ids, logits_to_keep=ends).logits
    own = logits[torch.arange(len(rows)), [lengths.index(len(row)) for row in rows]]
    check_finite_rows(own[:, None], logits_of(model), lambda i: text_of(model, rows[i]))
    return own


def logits_of(model: CausalModel) -> str:
    """What a message calls a model's logits."""
    return f"logits of model {model.name!r}"


def text_of(model: CausalModel, ids: Sequence[int]) -> str:
    """The text of token ids, for a message."""
    return str(model.encoder.tokenizer.decode(list(ids)))


def encode_texts(model: CausalModel, texts: Sequence[str], room: int = 0) -> list[list[int]]:
    """Token ids of texts.

    room  tokens that are to follow each

    Raises LocateError for a text that, with what follows, is longer than the model's context.
    """
    rows = [model.encoder.encode(text)[0] for text in texts]
    for row, text in zip(rows, texts, strict=True):
        if len(row) + room > model.context:
            more = f" and {room} to follow" if room else ""
            raise LocateError(
                f"{text[:60]!r}... has {len(row):,} tokens{more}, but {model.name!r} takes {model.context:,}: give "
                "shorter texts"
            )
    return rows


def next_log_probs(
    model: CausalModel,
    prompts: Sequence[str],
    words: Sequence[str],
    *,
    batch_tokens: int = TOKENS,
    step: Step = ignore_step,
) -> Float[torch.Tensor, "prompt word"]:
    """log-probability (nats) of each word, one token with its leading space, right after each prompt.

    An empty prompt stands for BOS, or the end-of-text token where there is none.

    Raises LocateError for a word that is not one token after a prompt.
    """
    rows = encode_texts(model, prompts)
    ids = [
        [answer_id(model.encoder.encode, prompt, row, word) for word in words]
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    rows = [row or [model.start] for row in rows]
    found = torch.empty(len(rows), len(words), dtype=torch.float64)
    done = 0
    for batch in token_batches(rows, batch_tokens):
        with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
            logits = logits_at_ends(model, [rows[i] for i in batch])
        said = (logits if logits.dtype == torch.float64 else logits.float()).log_softmax(-1)
        answers = said.gather(-1, torch.tensor([ids[i] for i in batch], device=said.device)).double().cpu()
        those = [prompts[i] for i in batch]
        found[torch.tensor(batch)] = torch.from_numpy(
            check_finite_answers(answers.numpy(), logits_of(model), those.__getitem__)
        )
        done += len(batch)
        step(done, len(rows))
    return found


def last_states(
    model: CausalModel, texts: Sequence[str], *, pooling: str = "last", batch_tokens: int = TOKENS
) -> Float[torch.Tensor, "text d_model"]:
    """The final layer's state of each text: at its last token, or (pooling "mean") averaged over its tokens."""
    rows = encode_texts(model, texts)
    found: dict[int, torch.Tensor] = {}
    for batch in batches(rows, batch_tokens):
        longest = max(len(rows[i]) for i in batch)
        ids = torch.tensor([pad_row(rows[i], longest) for i in batch], device=model.device)
        with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
            states = model.network(ids, output_hidden_states=True).hidden_states[-1].double().cpu()
        lengths, those = [len(rows[i]) for i in batch], [texts[i] for i in batch]
        check_finite_rows(states, f"states of model {model.name!r}", those.__getitem__, lengths)
        for place, i in enumerate(batch):
            own = states[place, : len(rows[i])]
            found[i] = own[-1] if pooling == "last" else own.mean(0)
    return torch.stack([found[i] for i in range(len(rows))])


def generate(
    model: CausalModel,
    prompts: Sequence[str],
    *,
    tokens: int,
    seed: int | None = None,
    batch_tokens: int = TOKENS,
    step: Step = ignore_step,
) -> list[str]:
    """What the model writes after each prompt: the likeliest token each time, or sampled with a seed.

    A text ends before the end-of-text token. Each prompt has its own stream of random numbers, so that the batch it is
    in changes nothing.
    """
    rows = [row or [model.start] for row in encode_texts(model, prompts, tokens)]
    written: list[list[int]] = [[] for _ in rows]
    streams = [None if seed is None else torch.Generator().manual_seed(seed + 7919 * i) for i in range(len(rows))]
    open_rows = list(range(len(rows)))
    end = model.encoder.tokenizer.eos_token_id
    for turn in range(tokens):
        step(turn, tokens)
        going: list[int] = []
        texts = [[*rows[i], *written[i]] for i in open_rows]
        for batch in batches(texts, batch_tokens):
            logits = row_logits(model, [texts[k] for k in batch], timed=seed is None)
            for place, k in enumerate(batch):
                i = open_rows[k]
                token = choose_token(logits[place, len(texts[k]) - 1], streams[i])
                if token != end:
                    written[i].append(token)
                    going.append(i)
        open_rows = sorted(going)
    step(tokens, tokens)
    return [model.encoder.tokenizer.decode(ids) for ids in written]


def choose_token(logits: Float[torch.Tensor, " piece"], stream: torch.Generator | None) -> int:
    """The likeliest token, or one drawn from the distribution."""
    if stream is None:
        return int(logits.argmax())
    return int(torch.multinomial(logits.softmax(-1).cpu(), 1, generator=stream))
