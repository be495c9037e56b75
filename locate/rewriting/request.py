"""How a model is asked to rewrite a text: one function, for training and for inference alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from locate.errors import LocateError
from locate.model.causal import CausalModel

INSTRUCTION = (
    "Rewrite the text below so that it holds no bias and no insult against any group of people. Keep everything else "
    "that it says. Answer with the new text only."
)
PROBE = "A short answer."
TEXT_MARK, REWRITE_MARK = "Text:", "Rewrite:"  # around a text where a model has no chat template


@dataclass(frozen=True)
class Request:
    """What stands around a text that a model is asked to rewrite.

    instruction  what is asked for
    examples     texts with their rewrites, which are shown first

    With a chat template the user asks and the assistant answers; without one, the text stands between two marks.
    """

    instruction: str = INSTRUCTION
    examples: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if not self.instruction.strip():
            raise LocateError("the instruction is empty: say what the model is to do with the text")

    def prompt_ids(self, model: CausalModel, text: str) -> list[int]:
        """Token ids that a rewrite of this text follows; no end-of-text token stands behind them.

        Raises LocateError for a text that holds a special token of the tokenizer, and for a template that fails.
        """
        tokenizer = model.encoder.tokenizer
        check_plain(tokenizer, text)
        if not has_template(model):
            return model.encoder.encode(self.plain(text))[0]
        said = templated(tokenizer, self.turns(text), answering=True)
        return list(tokenizer(said, add_special_tokens=False)["input_ids"])

    def answer_ids(self, model: CausalModel, rewrite: str) -> list[int]:
        """Token ids of a rewrite as an answer, with the token that ends an answer behind them."""
        check_plain(model.encoder.tokenizer, rewrite)
        text = rewrite.strip() if has_template(model) else f" {rewrite.strip()}"
        ids = list(model.encoder.tokenizer(text, add_special_tokens=False)["input_ids"])
        return [*ids, self.end_ids(model)[0]]

    def end_ids(self, model: CausalModel) -> tuple[int, ...]:
        """Tokens that end an answer: first the one that is trained on, then the others at which writing stops.

        With a chat template it is the one behind the assistant's turn.

        Raises LocateError where there is none.
        """
        tokenizer = model.encoder.tokenizer
        found = [] if not has_template(model) else [self.turn_end(model)]
        rows = int(model.network.get_input_embeddings().weight.shape[0])
        ends = [each for each in (*found, tokenizer.eos_token_id) if each is not None and each < rows]
        if not ends:
            raise LocateError(f"the tokenizer of {model.name!r} has no end-of-text token: a rewrite would never end")
        return tuple(dict.fromkeys(int(each) for each in ends))

    def turn_end(self, model: CausalModel) -> int | None:
        """The special token behind the assistant's turn, as the chat template writes it; None for ordinary text.

        Raises LocateError where the template writes an answer differently from how it asks for one.
        """
        tokenizer = model.encoder.tokenizer
        before = templated(tokenizer, self.turns(PROBE), answering=True)
        whole = templated(tokenizer, [*self.turns(PROBE), {"role": "assistant", "content": PROBE}], answering=False)
        if not whole.startswith(before + PROBE):
            raise LocateError(
                f"the chat template of {model.name!r} puts more between request and answer when it asks than when it "
                "tells: a rewriter cannot be trained with it"
            )
        behind = list(tokenizer(whole[len(before + PROBE) :], add_special_tokens=False)["input_ids"])
        return behind[0] if behind and behind[0] in tokenizer.all_special_ids else None

    def turns(self, text: str) -> list[dict[str, str]]:
        """The conversation up to the answer."""
        made: list[dict[str, str]] = []
        for shown, rewrite in self.examples:
            made += [{"role": "user", "content": self.ask(shown)}, {"role": "assistant", "content": rewrite}]
        return [*made, {"role": "user", "content": self.ask(text)}]

    def ask(self, text: str) -> str:
        """What the user says."""
        return f"{self.instruction}\n\n{text.strip()}"

    def plain(self, text: str) -> str:
        """The request to a model without a chat template."""
        shown = "".join(
            f"{TEXT_MARK} {each.strip()}\n{REWRITE_MARK} {rewrite.strip()}\n\n" for each, rewrite in self.examples
        )
        return f"{self.instruction}\n\n{shown}{TEXT_MARK} {text.strip()}\n{REWRITE_MARK}"

    def answer_text(self, model: CausalModel, ids: Sequence[int]) -> tuple[str, bool]:
        """The rewrite that a model wrote, and whether it went on with something else.

        Without a chat template a rewrite ends where the model begins another text.
        """
        text = str(model.encoder.tokenizer.decode(list(ids), skip_special_tokens=True))
        own, mark, _ = (text, "", "") if has_template(model) else f"\n{text}".partition(f"\n{TEXT_MARK}")
        return own.strip(), bool(mark)


def has_template(model: CausalModel) -> bool:
    """Whether the model's tokenizer has a chat template."""
    return bool(getattr(model.encoder.tokenizer, "chat_template", None))


def templated(tokenizer: Any, turns: Sequence[dict[str, str]], *, answering: bool) -> str:
    """A conversation as the chat template writes it.

    Raises LocateError where the template fails.
    """
    try:
        return str(tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=answering))
    except Exception as error:  # a template is a program of the model's, and may raise anything
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise LocateError(
            f"the tokenizer's chat template fails ({lines[0][:200]}): remove it from the tokenizer"
        ) from None


def check_plain(tokenizer: Any, text: str) -> None:
    """Raise LocateError for a text that holds a special token, which would be read as one."""
    held = [word for word in tokenizer.all_special_tokens if word in text]
    if held:
        raise LocateError(f"the text holds the special token {held[0]}: leave it out")
