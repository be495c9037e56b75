"""The same architecture before any training: what a map shows where nothing can have been learnt."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch

from locate.errors import LocateError
from locate.model.checkpoint import TOKENIZER_FILES
from locate.model.hooked import Model
from locate.model.loading import load


def make_untrained(model: Model, seed: int = 0) -> Model:
    """A model of the same configuration and tokenizer with the random weights that training would start from.

    seed  of the weights

    Vig et al. 2020 (section 4) trace such a model beside the trained ones. It is saved and loaded as any other.

    Raises LocateError when it does not fit the memory, or cannot be made or traced.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    from locate.model.quiet import quiet_transformers

    trust = bool(model.options.get("trust_remote_code", False))
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in TOKENIZER_FILES:
            if (model.checkpoint.files.tokenizer / name).is_file():
                shutil.copy(model.checkpoint.files.tokenizer / name, folder / name)
        try:
            config = AutoConfig.from_pretrained(model.checkpoint.folder, trust_remote_code=trust)
            with quiet_transformers(), torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                AutoModelForCausalLM.from_config(config, trust_remote_code=trust).save_pretrained(folder)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            reason = str(error).strip().splitlines()[0]
            raise LocateError(
                f"model {model.name!r} cannot be made with random weights ({reason}): leave that control out"
            ) from error
        return load(str(folder), dtype=model.dtype, **model.options | {"revision": None})
