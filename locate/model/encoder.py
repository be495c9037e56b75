"""How a model reads text: its tokenizer, checked against its own files, and what stands before every text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.sites import check

BOS = ("auto", "yes", "no")
CHAT_REQUEST = "Write a sentence."
"""what the user says in the conversation whose answer a prompt begins"""
PROBES = ("The nurse said that", "In 1987 a man laughed, and")
HARD = (
    "In 1987 the nurse, aged 35, said that",
    "The fiancée of José Ñandú said that",
    "The  nurse   said  that",
    " The nurse said that",
    "The nurse\nsaid that\tshe",
    "The nurse 👩‍⚕️ said that",
    "护士说 that the doctor's here, isn't it?",
    'THE NURSE SAID: "I\'m 1,000.50 % sure" -- e.g. <b>x_y</b>',
)
UNLIMITED = 1 << 30
REMEMBERED, SHORT = 1 << 14, 400  # texts that an encoder remembers, and their characters, at most
UNCHECKED = "the tokenizer has no tokenizer.json: how it reads texts could not be checked against a file of its own"


@dataclass(frozen=True, eq=False)
class Encoder:
    """How a model reads text.

    tokenizer  the Hugging Face tokenizer
    before     ids that stand before every text: what the tokenizer itself puts there, or what was asked for
    bos        "auto", "yes" or "no": what was asked for
    chat       whether those ids are a conversation whose answer the text begins
    notes      what a reader of the numbers must know, one sentence each
    rows       of the embedding, below which every id must lie; None where that is not known
    read       short texts that were read already: prompts are read again for each answer and each measurement
    """

    tokenizer: Any
    before: tuple[int, ...]
    bos: str = "auto"
    chat: bool = False
    notes: tuple[str, ...] = ()
    rows: int | None = None
    read: dict[str, tuple[list[int], list[tuple[int, int]]]] = field(default_factory=dict, init=False, repr=False)

    @property
    def prepend_bos(self) -> bool:
        """Whether something stands before every text."""
        return bool(self.before)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids of a text, including what stands before it, and the character span of each token.

        A token that stands for no text has an empty span. A text that already begins with `before` gets it only once.

        Raises LocateError for a text with a word that the tokenizer does not know, or an id without an embedding.
        """
        ids, spans = self.read.get(text) or self.encode_anew(text)
        if len(text) <= SHORT and text not in self.read:
            if len(self.read) >= REMEMBERED:
                self.read.clear()
            self.read[text] = ids, spans
        return list(ids), list(spans)

    def encode_anew(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """The same from the tokenizer itself."""
        coded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        ids, spans = list(coded["input_ids"]), [(int(a), int(b)) for a, b in coded["offset_mapping"]]
        if self.tokenizer.unk_token_id is not None and self.tokenizer.unk_token_id in ids:
            raise LocateError(self.unknown(text))
        if self.rows is not None and ids and max(ids) >= self.rows:
            piece = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise LocateError(f"the text holds {piece!r}, id {max(ids)}, and the embedding has {self.rows} rows")
        if self.before and tuple(ids[: len(self.before)]) == self.before:
            return ids, [(0, 0)] * len(self.before) + spans[len(self.before) :]
        return [*self.before, *ids], [(0, 0)] * len(self.before) + spans

    def unknown(self, text: str) -> str:
        """The error for a text that becomes unknown tokens, or holds special tokens that are read as such."""
        held = [word for word in self.tokenizer.all_special_tokens if word in text]
        if held:
            return f"the text holds the special token {held[0]}: leave it out (--bos says whether BOS stands in front)"
        return "the tokenizer does not know a word of it"

    def provenance(self) -> dict[str, Any]:
        """For provenance: what stood before every text, and why."""
        return {
            "prepend_bos": self.prepend_bos,
            "bos": self.bos,
            "chat": self.chat,
            "before": list(self.tokenizer.convert_ids_to_tokens(list(self.before))),
        }


def encoder_of(
    tokenizer: Any, *, bos: str = "auto", chat: bool = False, custom: bool | None = None, notes: Iterable[str] = ()
) -> Encoder:
    """How a tokenizer is used: with what it puts before a text itself or, where asked, with or without BOS.

    custom  whether TransformerLens's table puts BOS in front for this family; None where that is not known

    Raises LocateError for BOS where there is none, and for a chat template that is missing or does not work.
    """
    check("bos", bos, BOS)
    said = list(notes)
    if chat:
        if bos != "auto":
            raise LocateError(
                f"bos {bos!r} with chat: the chat template says what stands before a prompt: leave bos out"
            )
        return Encoder(tokenizer, chat_before(tokenizer), bos, True, tuple(said))
    if bos == "yes" and tokenizer.bos_token_id is None:
        raise LocateError("bos 'yes', but the tokenizer has no BOS token: choose auto or no")
    if bos != "auto":
        return Encoder(tokenizer, (int(tokenizer.bos_token_id),) if bos == "yes" else (), bos, False, tuple(said))
    before, behind = put_around(tokenizer)
    if behind:
        pieces = " ".join(tokenizer.convert_ids_to_tokens(list(behind)))
        said.append(f"the tokenizer puts {pieces} behind a text; it is left out, since prompts go on")
    if custom is not None and tokenizer.bos_token_id is not None and custom != bool(before):
        puts = " ".join(tokenizer.convert_ids_to_tokens(list(before))) or "nothing"
        table = tokenizer.bos_token if custom else "nothing"
        said.append(
            f"the tokenizer puts {puts} before a text, TransformerLens's table for this family {table}; the tokenizer "
            "was followed (--bos yes and --bos no decide otherwise)"
        )
    return Encoder(tokenizer, before, bos, False, tuple(said))


def put_around(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts before and after every text.

    Raises LocateError where that differs from text to text.
    """
    found = set()
    for text in PROBES:
        whole, bare = (list(tokenizer(text, add_special_tokens=each)["input_ids"]) for each in (True, False))
        starts = [i for i in range(len(whole) - len(bare) + 1) if whole[i : i + len(bare)] == bare]
        if not starts:
            raise LocateError(
                f"the tokenizer reads {text!r} differently with its special tokens ({whole}) than without ({bare}): "
                "choose --bos yes or --bos no"
            )
        found.add((tuple(whole[: starts[0]]), tuple(whole[starts[0] + len(bare) :])))
    if len(found) > 1:
        raise LocateError("the tokenizer puts different tokens before different texts: choose --bos yes or --bos no")
    return found.pop()


def chat_before(tokenizer: Any) -> tuple[int, ...]:
    """Ids of a conversation, by the tokenizer's own chat template, whose last answer is still to come.

    Raises LocateError where there is no template, or it changes how the answer is read.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise LocateError("--chat needs a tokenizer with a chat template, and this one has none: leave --chat out")
    found = set()
    for text in PROBES:
        turns = [{"role": "user", "content": CHAT_REQUEST}, {"role": "assistant", "content": text}]
        try:
            said = tokenizer.apply_chat_template(turns, continue_final_message=True, tokenize=False)
        except Exception as error:  # a template is a program of the model's, and may raise anything
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise LocateError(f"the tokenizer's chat template fails ({lines[0][:200]}): leave --chat out") from None
        whole = list(tokenizer(said, add_special_tokens=False)["input_ids"])
        bare = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if whole[-len(bare) :] != bare:
            raise LocateError(
                "the tokenizer's chat template changes how the beginning of an answer is read: leave --chat out"
            )
        found.add(tuple(whole[: -len(bare)]))
    if len(found) > 1:
        raise LocateError("the tokenizer's chat template begins each conversation differently: leave --chat out")
    return found.pop()


def check_ids(tokenizer: Any, rows: int, name: str) -> list[str]:
    """Notes on special pieces beyond the embedding, which no ordinary text reaches.

    Raises LocateError where ordinary pieces of the vocabulary have no row in it.
    """
    special = {str(each) for each in tokenizer.added_tokens_decoder.values()} | set(tokenizer.all_special_tokens)
    beyond = {piece: number for piece, number in tokenizer.get_vocab().items() if number >= rows}
    ordinary = [piece for piece in beyond if piece not in special]
    if ordinary:
        raise LocateError(
            f"model {name!r}: its tokenizer has ids up to {max(beyond.values())}, but its embedding has {rows} rows: "
            "save both again from one model"
        )
    if not beyond:
        return []
    return [f"{len(beyond)} special tokens ({min(beyond)}) have no row in the embedding; a prompt with one is refused"]


def texts_to_check() -> list[str]:
    """Texts that a tokenizer must read as its file says: the package's own, and some hard ones."""
    from locate.prompts.build import occupation_table, templates

    forms = templates()
    words = occupation_table()["occupation"]
    own = [forms[place % len(forms)].format(subject=word) for place, word in enumerate(words)]
    return [*own, *(form.format(subject="nurse") for form in forms), *HARD]


def first_difference(tokenizer: Any, folder: Path) -> tuple[str, list[int], list[int]] | None:
    """The first text that a tokenizer reads differently from its own file: the text, its ids, the file's ids.

    Raises LocateError where the file cannot be read for the comparison.
    """
    read = reader_of(folder)
    if read is None:
        return None
    for text in texts_to_check():
        ours, theirs = list(tokenizer(text, add_special_tokens=False)["input_ids"]), read(text)
        if ours != theirs:
            return text, ours, theirs
    return None


def has_second_reading(folder: Path) -> bool:
    """Whether a tokenizer's folder holds a single file that another library can read, for the comparison."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def reader_of(folder: Path) -> Any:
    """text -> ids, as the tokenizer's own file says; None for an older form that consists of several files."""
    if (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        own = Tokenizer.from_file(str(folder / "tokenizer.json"))
        own.no_truncation()
        own.no_padding()
        return lambda text: own.encode(text, add_special_tokens=False).ids
    if not (folder / "tokenizer.model").is_file():
        return None
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError:
        raise LocateError(
            f"{folder / 'tokenizer.model'} can only be checked with the package sentencepiece: pip install "
            "sentencepiece, or save the tokenizer as tokenizer.json"
        ) from None
    try:
        pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    except (OSError, RuntimeError) as error:
        raise LocateError(f"{folder / 'tokenizer.model'} is damaged ({error}): download it again") from None
    return lambda text: pieces.encode(text)


def context_of(config: Any) -> int:
    """The longest text that a model takes, in tokens, from its configuration.

    Learned and rotary positions end where training did (`max_position_embeddings`); linear and dynamic scaling of
    rotary ones multiply that, YaRN multiplies what it was before (`original_max_position_embeddings`), and with others
    it is the longer one already. A sliding window narrows what is attended to, not how long a text may be. Models
    with neither (ALiBi) take any length.
    """
    text = config.get_text_config()
    names = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx")
    longest = next((int(value) for name in names if (value := getattr(text, name, None))), UNLIMITED)
    scaling = getattr(text, "rope_parameters", None) or getattr(text, "rope_scaling", None) or {}
    kinds = [scaling, *(each for each in scaling.values() if isinstance(each, dict))] if scaling else []
    return max([longest, *(scaled_context(each, longest) for each in kinds)])


def scaled_context(scaling: dict[str, Any], longest: int) -> int:
    """The context after a scaling of rotary positions, in tokens."""
    kind, factor = scaling.get("rope_type", scaling.get("type")), float(scaling.get("factor") or 1.0)
    if kind in ("linear", "dynamic"):
        return math.floor(longest * factor)
    if kind == "yarn":
        return math.floor((scaling.get("original_max_position_embeddings") or longest) * factor)
    return longest


def tokenizer_class(folder: Path) -> str:
    """The class that tokenizer_config.json names; "the tokenizer" where it names none."""
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return "the tokenizer"
    return str(json.loads(path.read_text(encoding="utf-8")).get("tokenizer_class") or "the tokenizer")
