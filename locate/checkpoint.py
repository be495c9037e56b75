"""Finding a model's files: the bundled model, a local folder, or a download from the Hugging Face hub."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import hash_of, hash_of_files, read_json

BUNDLED = "mini"
CAUSAL = ("ForCausalLM", "LMHeadModel")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json",
)  # fmt: skip
EDIT, UNSTAMPED = "edit.safetensors", "unstamped"
VOLATILE = ("transformers_version", "dtype", "torch_dtype", "_name_or_path")


@dataclass(frozen=True)
class Checkpoint:
    """A folder of model files, checked before anything heavy is loaded.

    weights_sha256    over the bytes of the weight files, by name, and of the stamps' file
    tokenizer_sha256  over the bytes of the tokenizer files, by name
    config_sha256     of what config.json says of the model
    parameters        number of parameters stored
    stamps            file of the stamps beside its MLPs; None for an ordinary checkpoint
    notes             what a reader of the numbers has to know of the files, a sentence each
    """

    folder: Path
    revision: str | None
    architecture: str
    weights_sha256: str
    tokenizer_sha256: str
    config_sha256: str
    parameters: int
    stamps: Path | None = None
    notes: tuple[str, ...] = ()

    @property
    def home(self) -> Path:
        """The folder that the user named, where an edited model's receipt lies."""
        return self.folder if self.stamps is None else self.stamps.parent


def find(name: str, *, revision: str | None, allow_pickle: bool, trust_remote_code: bool) -> Checkpoint:
    """The checkpoint that a name stands for, downloaded if it is a hub id.

    Raises LocateError when it cannot be found or is not a causal language model with safe weights.
    """
    home, commit = folder_of(name, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    folder, stamps = model_folder(home), stamps_of(name, home)
    architecture = architecture_of(name, folder, trust_remote_code)
    tokenizer_files = tokenizer_files_of(name, folder)
    weights = weight_files(name, folder, allow_pickle) + ([] if stamps is None else [stamps])
    return Checkpoint(
        folder,
        commit,
        architecture,
        hash_of_files(weights),
        hash_of_files(tokenizer_files),
        config_hash(folder),
        sum(parameters_in(path) for path in weights),
        stamps,
    )


def folder_of(
    name: str,
    *,
    revision: str | None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    weights: bool = True,
) -> tuple[Path, str | None]:
    """The folder that a name stands for, and its commit on the hub; `weights` False downloads none.

    Raises LocateError when there is no such folder or hub id.
    """
    if name == BUNDLED:
        folder, commit = Path(str(files("locate").joinpath("mini"))), None
    elif is_folder_name(name):
        folder, commit = Path(name).expanduser(), None
    else:
        folder = download(name, revision, allow_pickle, trust_remote_code, weights)
        commit = folder.name
    if not folder.is_dir():
        raise LocateError(f"model {name!r}: no such folder: expected a folder with config.json, weights and tokenizer")
    if revision is not None and commit is None:
        raise LocateError(f"revision {revision!r} of {name!r}: only Hugging Face ids have revisions: leave it out")
    return folder, commit


def is_stamped(folder: Path) -> bool:
    """Whether a folder is a model with stamps beside its MLPs: nothing at its top for Hugging Face to load."""
    return (folder / UNSTAMPED / "config.json").is_file() and not (folder / "config.json").is_file()


def model_folder(folder: Path) -> Path:
    """Where the configuration, weights and tokenizer of a model's folder are."""
    return folder / UNSTAMPED if is_stamped(folder) else folder


def stamps_of(name: str, folder: Path) -> Path | None:
    """The file of a model's stamps; None for an ordinary checkpoint.

    Raises LocateError when it is missing: what is left is the model before the edit.
    """
    if not is_stamped(folder):
        return None
    if not (folder / EDIT).is_file():
        raise LocateError(
            f"model {name!r} lacks {EDIT}, the stamp that edits it: copy the whole folder, or give "
            f"{folder / UNSTAMPED} for the model without it"
        )
    return folder / EDIT


def tokenizer_files_of(name: str, folder: Path) -> list[Path]:
    """The files that make a model's tokenizer.

    Raises LocateError when there is none.
    """
    found = [folder / file for file in TOKENIZER_FILES if (folder / file).is_file()]
    if not any(path.name in ("tokenizer.json", "tokenizer.model", "vocab.json") for path in found):
        raise LocateError(f"model {name!r} has no tokenizer: expected tokenizer.json in {folder}: save it there")
    return found


def is_folder_name(name: str) -> bool:
    """Whether a name means a folder rather than a hub id."""
    shaped = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
    return shaped or Path(name).is_dir()


def architecture_of(name: str, folder: Path, trust_remote_code: bool) -> str:
    """The architecture that config.json names.

    Raises LocateError unless it is a decoder-only causal language model.
    """
    if not (folder / "config.json").is_file():
        raise LocateError(f"model {name!r} has no config.json in {folder}: expected a Hugging Face model folder")
    config: dict[str, Any] = read_json(folder / "config.json")
    architectures = config.get("architectures") or []
    if config.get("is_encoder_decoder") or not any(str(each).endswith(CAUSAL) for each in architectures):
        kind = ", ".join(architectures) or config.get("model_type") or "unknown"
        raise LocateError(
            f"model {name!r} is {kind}: expected a decoder-only causal language model (an architecture that ends in "
            f"{' or '.join(CAUSAL)}), not an encoder or encoder-decoder"
        )
    if "auto_map" in config and not trust_remote_code:
        raise LocateError(
            f"model {name!r} brings its own Python code: pass trust_remote_code=True (--trust-remote-code) if you "
            "trust it"
        )
    return str(next(each for each in architectures if str(each).endswith(CAUSAL)))


def weight_files(name: str, folder: Path, allow_pickle: bool) -> list[Path]:
    """The weight files that are loaded, in order of name: one file, or the shards of its index.

    Raises LocateError when there is none, or only pickles and they are not allowed.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        return shards_of(index)
    safe = sorted(folder.glob("*.safetensors"))
    if safe:
        return safe
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and allow_pickle:
        return pickles
    if pickles:
        raise LocateError(
            f"model {name!r} has its weights in {pickles[0].name}, a pickle, which can run code: convert it to "
            "safetensors, or pass allow_pickle=True (--allow-pickle) if you trust it"
        )
    raise LocateError(f"model {name!r} has no weights: expected *.safetensors in {folder}")


def shards_of(index: Path) -> list[Path]:
    """The files that an index of shards names.

    Raises LocateError when it names none, or one that is missing.
    """
    content = read_json(index)
    names = set(content.get("weight_map", {}).values()) if isinstance(content, dict) else set()
    if not names:
        raise LocateError(f"{index} names no shards: download or save the model again")
    shards = sorted(index.parent / str(name) for name in names)
    absent = [path.name for path in shards if not path.is_file()]
    if absent:
        raise LocateError(f"{index} names {', '.join(absent[:3])}, which is missing: download the model again")
    return shards


def parameters_in(path: Path) -> int:
    """Number of stored parameters, from the header of a safetensors file; a pickle is taken for fp32."""
    if path.suffix != ".safetensors":
        return path.stat().st_size // 4
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return sum(math.prod(entry["shape"]) for key, entry in header.items() if key != "__metadata__")
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, MemoryError) as error:
        raise LocateError(f"{path} is not a safetensors file ({error}): download or save it again") from None


def config_hash(folder: Path) -> str:
    """sha256 of what config.json says of the model, without what only says who saved it."""
    config = read_json(folder / "config.json")
    return hash_of({key: value for key, value in config.items() if key not in VOLATILE})


def download(
    name: str, revision: str | None, allow_pickle: bool, trust_remote_code: bool, weights: bool = True
) -> Path:
    """Folder of a hub model in the local cache, named by its commit.

    Only configuration, tokenizer and safetensors are fetched. HF_TOKEN and HF_HUB_OFFLINE are respected.

    Raises LocateError when the id is unknown, gated, or the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    patterns = ["*.json", "tokenizer.model", "merges.txt", "vocab.txt"]
    patterns += ["*.safetensors"] * weights + ["*.bin"] * (weights and allow_pickle) + ["*.py"] * trust_remote_code
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except GatedRepoError:
        raise LocateError(
            f"model {name!r} is gated: accept its terms on its page and set HF_TOKEN to a token of your account"
        ) from None
    except RevisionNotFoundError:
        raise LocateError(f"model {name!r} has no revision {revision!r}: expected a branch, tag or commit") from None
    except HFValidationError:
        raise LocateError(f"model {name!r}: expected 'mini', a folder, or a Hugging Face id like 'gpt2'") from None
    except LocalEntryNotFoundError:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0") else ""
        raise LocateError(
            f"model {name!r} is not a local folder, and the Hugging Face hub cannot be reached{offline}: give a "
            "folder, go online, or use 'mini'"
        ) from None
    except RepositoryNotFoundError:
        raise LocateError(
            f"model {name!r} is not on the Hugging Face hub, or is private: check the name, or set HF_TOKEN"
        ) from None
    except OSError as error:
        raise LocateError(f"model {name!r} could not be fetched ({error}): give a folder, or try again") from None
