"""Embeddings of texts by a model that the user names, for similarities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from locate.errors import LocateError
from locate.files import read_json
from locate.model.quiet import quiet_transformers
from locate.model.threads import torch_threads

BATCH = 32
POOLING = Path("1_Pooling") / "config.json"  # of sentence-transformers
MEAN, FIRST = "mean", "first"
WANTED = ["*.json", "*/config.json", "*.safetensors", "*.txt", "*.model"]


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model that turns texts into vectors.

    pooling  "mean" over a text's tokens, or its "first" token
    """

    name: str
    network: Any
    tokenizer: Any
    pooling: str
    threads: int

    def embed(self, texts: Sequence[str]) -> Float[torch.Tensor, "text width"]:
        """A vector of length 1 for each text, float64; texts longer than the model takes lose their end."""
        found = []
        for first in range(0, len(texts), BATCH):
            longest = getattr(self.network.config, "max_position_embeddings", None) or 512
            coded = self.tokenizer(
                list(texts[first : first + BATCH]), padding=True, truncation=True, max_length=min(longest, 512),
                return_tensors="pt",
            )  # fmt: skip
            with torch.inference_mode(), torch_threads(self.threads):
                given = {name: coded[name] for name in ("input_ids", "attention_mask")}
                states = self.network(**given).last_hidden_state.double()
            mask = coded["attention_mask"].double()[:, :, None]
            own = states[:, 0] if self.pooling == FIRST else (states * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(own, dim=-1))
        return torch.cat(found)

    def similarities(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """The cosine of each two texts; 0 where one of them is empty."""
        full = [place for place, (one, other) in enumerate(pairs) if one.strip() and other.strip()]
        found = [0.0] * len(pairs)
        if full:
            sides = [self.embed([pairs[place][side] for place in full]) for side in (0, 1)]
            for place, value in zip(full, (sides[0] * sides[1]).sum(-1).tolist(), strict=True):
                found[place] = float(value)
        return found


def load_embedder(name: str, *, threads: int = 1) -> Embedder:
    """An embedding model from a folder or the hub: one of sentence-transformers that is no more than a transformer.

    Raises LocateError where it cannot be loaded, and for another pooling than the mean or the first token.
    """
    from huggingface_hub import snapshot_download
    from transformers import AutoModel, AutoTokenizer

    try:
        with quiet_transformers():
            folder = name if Path(name).is_dir() else snapshot_download(name, allow_patterns=WANTED)
            network = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True).eval()
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise LocateError(
            f"embedding model {name!r} cannot be loaded ({reason}): expected a folder or a Hugging Face id with "
            "safetensors"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise LocateError(f"the tokenizer of embedding model {name!r} has no token to pad with: choose another model")
    tokenizer.padding_side = "right"
    return Embedder(name, network, tokenizer, pooling_of(folder), threads)


def pooling_of(name: str) -> str:
    """How a model of sentence-transformers makes one vector of a text; the mean for others."""
    parts = Path(name) / "modules.json"
    kinds = [str(each.get("type", "")).rpartition(".")[2] for each in read_json(parts)] if parts.is_file() else []
    others = [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]
    if others:
        raise LocateError(
            f"embedding model {name!r} has a {others[0]} layer behind its transformer, which is not read here: choose "
            "another model"
        )
    path = Path(name) / POOLING
    if not path.is_file():
        return MEAN
    told = read_json(path)
    modes = [mode for mode, on in told.items() if mode.startswith("pooling_mode_") and on is True]
    known = {"pooling_mode_mean_tokens": MEAN, "pooling_mode_cls_token": FIRST}
    if len(modes) != 1 or modes[0] not in known:
        raise LocateError(f"embedding model {name!r} pools by {', '.join(modes) or 'nothing'}: expected {MEAN} or cls")
    return known[modes[0]]
