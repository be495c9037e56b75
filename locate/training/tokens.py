"""Preferences as a model reads them: token ids of the prompt and of both continuations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from locate.errors import LocateError
from locate.model.causal import CausalModel
from locate.model.likelihood import split_tokens
from locate.training.preferences import Preference, Preferences


@dataclass(frozen=True)
class TokenRow:
    """A row as token ids; rejected is empty where the data has no such text; `even` is that of its `Preference`."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]
    even: bool = False

    @property
    def length(self) -> int:
        """Tokens of the longer of both texts, the prompt included."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


def token_row(model: CausalModel, row: Preference, end: bool, *, rejected: bool = True) -> TokenRow:
    """The token ids of a row, as the model's tokenizer splits prompt and continuation together.

    end       whether the end-of-text token follows the continuations
    rejected  whether the rejected text is trained on too

    Where the tokenizer joins the end of the prompt with one continuation and not with the other, the prompt ends
    before that token in both.

    Raises LocateError for a continuation without a token, and as `end_of_text` does.
    """
    texts = [text for text in (row.chosen, row.rejected if rejected else "") if text]
    parts = [split_tokens(model, row.prompt, text) for text in texts]
    wholes = [before + after for before, after in parts]
    shared = min(len(before) for before, _ in parts)
    tail = [end_of_text(model)] if end else []
    prompt = wholes[0][:shared]
    if any(whole[:shared] != prompt for whole in wholes):
        raise LocateError(f"prompt {row.prompt[-40:]!r} is split differently before its two continuations")
    after = [tuple(whole[shared:] + tail) for whole in wholes]
    return TokenRow(tuple(prompt), after[0], after[1] if len(after) > 1 else (), row.even)


def end_of_text(model: CausalModel) -> int:
    """The id of the end-of-text token.

    Raises LocateError where the tokenizer has none, or the embedding has no row for it.
    """
    token = model.encoder.tokenizer.eos_token_id
    if token is None or token >= int(model.network.get_input_embeddings().weight.shape[0]):
        raise LocateError(f"the tokenizer of {model.name!r} has no end-of-text token: train without it (end=false)")
    return int(token)


def usable(model: CausalModel, rows: Preferences, *, longest: int, end: bool, rejected: bool = True) -> Preferences:
    """The rows without those that the model cannot be trained on.

    longest  tokens of a row, prompt and continuation together
    """
    most = min(longest, model.context)
    if end:
        end_of_text(model)

    def unusable(row: Preference) -> str | None:
        try:
            made = token_row(model, row, end, rejected=rejected)
        except LocateError:
            return "cannot be split into prompt and continuations"
        return None if made.length <= most else f"longer than {most} tokens"

    return rows.without(unusable)


def token_rows(model: CausalModel, rows: Sequence[Preference], end: bool, *, rejected: bool = True) -> list[TokenRow]:
    """The token ids of all rows."""
    return [token_row(model, row, end, rejected=rejected) for row in rows]
