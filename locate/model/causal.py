"""A causal language model under its own Hugging Face names, without hooks, for evaluations and editors."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.model.bits import bits_in
from locate.model.checkpoint import Checkpoint, find_checkpoint
from locate.model.encoder import Encoder, context_of
from locate.model.hooked import DTYPES, SHORT_DTYPES, choose_device
from locate.model.products import precise
from locate.model.stamp import read_edit, stamp_tensors, stamps_in
from locate.model.threads import choose_threads, torch_threads
from locate.sites import check
from locate.work import Opening


@dataclass(frozen=True, eq=False)
class CausalModel:
    """A loaded model that is not hooked; made by `load_causal`.

    name        as the user gave it
    checkpoint  where it came from: folder, revision, hash of its weights
    network     the Hugging Face model, in evaluation mode
    encoder     how it reads text
    threads     torch computes with while it is measured
    options     it was loaded with
    """

    name: str
    checkpoint: Checkpoint
    network: Any
    encoder: Encoder
    dtype: str
    device: str
    threads: int
    options: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the numbers must know about how the model was loaded, one sentence each."""
        return self.checkpoint.notes + self.encoder.notes

    @property
    def context(self) -> int:
        """The longest prompt it takes, in tokens."""
        return context_of(self.network.config)

    @property
    def start(self) -> int:
        """The token that a text without context follows: BOS, else the end-of-text token.

        Raises LocateError where the tokenizer has neither, or the embedding has no row for them.
        """
        tokenizer = self.encoder.tokenizer
        ids = [tokenizer.bos_token_id, tokenizer.eos_token_id]
        rows = self.encoder.rows
        found = next((each for each in ids if each is not None and (rows is None or each < rows)), None)
        if found is None:
            raise LocateError(
                f"the tokenizer of {self.name!r} has neither BOS nor EOS with an embedding: nothing can precede a text"
            )
        return int(found)

    def with_network(self, network: Any) -> CausalModel:
        """The same model with other weights."""
        return replace(self, network=network)

    def opening(self) -> Opening:
        """How another process opens the model, computed with one thread."""
        return Opening(load_causal, {"name": self.name, "dtype": self.dtype} | self.options | {"threads": 1})

    def identity(self) -> Hashable:
        """What tells it from another model: the hash of its files, its numbers in memory, and how it reads text."""
        numbers = dict(self.network.named_parameters()) | stamp_tensors(self.network)
        return self.checkpoint.weights_sha256, bits_in(numbers), repr(self.encoder.provenance())

    def provenance(self) -> dict[str, object]:
        """What identifies the model in the files that locate writes."""
        return {
            "name": self.name,
            "revision": self.checkpoint.revision,
            "weights_sha256": self.checkpoint.weights_sha256,
            "quantisation": self.checkpoint.quantisation,
            "architecture": self.checkpoint.architecture,
            "tokenizer_sha256": self.checkpoint.tokenizer_sha256,
            **self.encoder.provenance(),
            "dtype": self.dtype,
            "notes": list(self.notes),
        }

    def __repr__(self) -> str:
        return f"CausalModel({self.name!r}, {self.checkpoint.architecture}, {self.dtype} on {self.device})"


def load_causal(
    name: str | Path = "mini",
    *,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    bos: str = "auto",
    chat: bool = False,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    threads: int | None = None,
) -> CausalModel:
    """Load a causal language model without hooks, to be evaluated or edited; the arguments are those of `load`.

    Stamps saved in its folder (see `load_stamped`) are put beside its MLPs for good.

    Raises LocateError as `load` does, except for the start-up check, which is about hooks.
    """
    from locate.model.loaded import notes_on_loaded
    from locate.model.loading import boot_encoder, check_numbers, read_network

    name, dtype = str(name), SHORT_DTYPES.get(dtype, dtype)
    check("dtype", dtype, tuple(DTYPES))
    device = choose_device(device)
    checkpoint = find_checkpoint(
        name, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code
    )
    encoder, _ = boot_encoder(name, checkpoint.files, checkpoint.architecture, trust_remote_code, bos=bos, chat=chat)
    threads = choose_threads(threads)
    with torch_threads(threads), precise(dtype):
        network = read_network(checkpoint, device, DTYPES[dtype], allow_pickle, trust_remote_code)
    for stamp in () if checkpoint.stamps is None else stamps_in(*read_edit(checkpoint.stamps)):
        stamp.stay(network)
    with torch_threads(threads):
        encoder = check_numbers(name, network, encoder, device, notes_on_loaded(network, checkpoint))
    options: dict[str, Any] = {"device": device, "revision": revision, "bos": bos, "chat": chat}
    options |= {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code, "threads": threads}
    return CausalModel(name, checkpoint, network, encoder, dtype, device, threads, options)


def load_stamped(
    name: str | Path,
    *,
    device: str | None = None,
    dtype: str = "float32",
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> tuple[Any, Any]:
    """Load the model and tokenizer of a folder that holds a stamp beside an MLP; its receipt names this function.

    Where the architecture allows wider MLPs, a stamp is folded into them, and plain `from_pretrained` loads the model.
    Elsewhere (BLOOM, MPT, Phi-3) the folder holds edit.safetensors with the stamp and, in `unstamped`, the model that
    it stands beside; `from_pretrained` finds no model at its top. This returns that model with its stamp: it
    runs, generates and moves like any other, but `save_pretrained` is refused, since it would leave the stamp out.

    The arguments are those of `load`.

    Raises LocateError as `load_causal` does, and for an ordinary checkpoint.
    """
    model = load_causal(
        str(name), device=device, dtype=dtype, revision=revision, trust_remote_code=trust_remote_code
    )  # fmt: skip
    if model.checkpoint.stamps is None:
        raise LocateError(f"model {str(name)!r} has no stamp beside it: load it with from_pretrained or load_causal")
    return model.network, model.encoder.tokenizer
