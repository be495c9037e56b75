"""Finding a model's files: the bundled model, a local folder, or a download from the Hugging Face hub."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from locate.errors import LocateError
from locate.files import hash_of, hash_of_files
from locate.model.adapters import adapter_settings, adapter_weights, base_of, has_adapter, idle_note
from locate.model.gguf_file import gguf_in, read_header, unpack
from locate.model.weights import check_unquantised, notes_beside, parameters_in, weight_files, writing_notes

BUNDLED = "mini"
CAUSAL = ("ForCausalLM", "LMHeadModel")
TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
)  # fmt: skip
MAKES_A_TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json")
EDIT, UNSTAMPED = "edit.safetensors", "unstamped"
VOLATILE = ("transformers_version", "dtype", "torch_dtype", "_name_or_path")


@dataclass(frozen=True)
class Files:
    """Where the files of the model of that name are; nothing is hashed yet.

    home       the folder that the user named, where an edited model's receipt lies
    folder     with the configuration and, for ordinary checkpoints, the weights
    tokenizer  folder of the tokenizer
    commit     on the hub; None for what is local
    stamps     file of the stamps beside its MLPs; None for an ordinary checkpoint
    gguf       file of quantised weights; None where they are in the folder
    adapter    folder of the adapter that is merged into the weights
    """

    home: Path
    folder: Path
    tokenizer: Path
    commit: str | None = None
    stamps: Path | None = None
    gguf: Path | None = None
    adapter: Path | None = None
    base: str | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A model's files, checked before anything heavy is loaded.

    files             where they are
    weights_sha256    over the bytes of the weight files, by name, of the stamps' file and of the adapter
    tokenizer_sha256  over the bytes of the tokenizer files, by name
    config_sha256     of what config.json says of the model
    parameters        number of parameters stored
    quantisation      of a GGUF file, as it names it; None for other weights
    notes             what a reader of the numbers must know about the files, one sentence each
    """

    files: Files
    architecture: str
    weights_sha256: str
    tokenizer_sha256: str
    config_sha256: str
    parameters: int
    quantisation: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The folder of the configuration and, for ordinary checkpoints, the weights."""
        return self.files.folder

    @property
    def revision(self) -> str | None:
        """The commit on the hub; None for what is local."""
        return self.files.commit

    @property
    def stamps(self) -> Path | None:
        """The file of the stamps beside its MLPs; None for an ordinary checkpoint."""
        return self.files.stamps

    @property
    def home(self) -> Path:
        """The folder that the user named, where an edited model's receipt lies."""
        return self.files.home


def find_checkpoint(name: str, *, revision: str | None, allow_pickle: bool, trust_remote_code: bool) -> Checkpoint:
    """The checkpoint that a name stands for, downloaded if it is a hub id.

    Raises LocateError when it cannot be found or is not a causal language model with safe weights.
    """
    found = files_of(name, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code)
    architecture = architecture_of(name, found.folder, trust_remote_code)
    config = read_config(name, found.folder)
    if found.gguf is None:
        check_unquantised(name, found.folder, config)
        weights = weight_files(name, found.folder, allow_pickle)
        parameters, quantisation = sum(parameters_in(path) for path in weights), None
    else:
        weights, about = [found.gguf], read_header(found.gguf)
        parameters, quantisation = about.parameters, about.quantisation
    notes = [*gguf_notes(found, quantisation), *adapter_notes(found)]
    notes += notes_beside(found.folder, weights) if found.gguf is None else writing_notes(found.home)
    if not config.get("architectures"):
        notes.append(f"config.json names no architecture; {architecture} was taken for its model_type")
    for extra in (found.stamps, None if found.adapter is None else adapter_weights(found.adapter, allow_pickle)):
        if extra is not None:
            weights.append(extra)
            parameters += parameters_in(extra)
    idle = None if found.adapter is None else idle_note(found.adapter, allow_pickle)
    notes += [] if idle is None else [idle]
    return Checkpoint(
        found,
        architecture,
        hash_of_files(weights),
        hash_of_files(tokenizer_files_of(name, found.tokenizer)),
        hash_of({key: value for key, value in config.items() if key not in VOLATILE}),
        parameters,
        quantisation,
        tuple(notes),
    )


def files_of(
    name: str,
    *,
    revision: str | None,
    allow_pickle: bool = False,
    trust_remote_code: bool = False,
    weights: bool = True,
) -> Files:
    """The files that a name stands for; `weights` False downloads none.

    Raises LocateError when they cannot be found.
    """
    home, commit = folder_of(
        name, revision=revision, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, weights=weights
    )
    gguf = gguf_in(name, home)
    if gguf is not None:
        folder = unpack(gguf.resolve(), hash_of_files([gguf]))
        return Files(gguf.parent, folder, folder, commit, gguf=gguf)
    if has_adapter(home) and not (home / "config.json").exists():
        return files_with_base(name, home, commit, allow_pickle, trust_remote_code, weights)
    folder = model_folder(home)
    adapter = home if has_adapter(home) else None
    if adapter is not None:
        adapter_settings(adapter)
    return Files(home, folder, folder, commit, stamps_of(name, home), adapter=adapter)


def files_with_base(
    name: str, home: Path, commit: str | None, allow_pickle: bool, trust_remote_code: bool, weights: bool
) -> Files:
    """The files of an adapter's base, with the adapter.

    Raises LocateError when the base cannot be found, or is itself an adapter or an edited model with stamps.
    """
    base = base_of(home)
    if has_adapter(Path(base).expanduser()):
        raise LocateError(
            f"model {name!r} is an adapter of {base!r}, which has an adapter itself: merge that one first"
        )
    try:
        found = files_of(
            base, revision=None, allow_pickle=allow_pickle, trust_remote_code=trust_remote_code, weights=weights
        )
    except LocateError as error:
        raise LocateError(
            f"model {name!r} is an adapter, and its base cannot be read ({error}): write the base model's folder into "
            f"{home / 'adapter_config.json'} as base_model_name_or_path"
        ) from None
    if found.adapter is not None or found.stamps is not None:
        raise LocateError(f"model {name!r} is an adapter of {base!r}, which is itself edited: merge that one first")
    own = any((home / file).is_file() for file in MAKES_A_TOKENIZER)
    tokenizer = home if own else found.tokenizer
    return Files(home, found.folder, tokenizer, commit, gguf=found.gguf, adapter=home, base=base)


def gguf_notes(found: Files, quantisation: str | None) -> list[str]:
    """Notes on weights that were dequantised."""
    if found.gguf is None:
        return []
    return [
        f"the weights were dequantised from {quantisation} in {found.gguf.name}: what is measured is the quantised "
        "model, and what is saved is no longer quantised"
    ]


def adapter_notes(found: Files) -> list[str]:
    """Notes on an adapter that was merged."""
    if found.adapter is None:
        return []
    kind = adapter_settings(found.adapter)["peft_type"]
    where = "in its folder" if found.base is None else f"made for {found.base}"
    return [f"the {kind} adapter {where} was merged into the weights"]


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
    elif name.lower().endswith(".gguf") and Path(name).expanduser().is_file():
        return Path(name).expanduser(), None
    elif is_folder_name(name):
        folder, commit = Path(name).expanduser(), None
    else:
        folder = download(name, revision, allow_pickle, trust_remote_code, weights)
        commit = folder.name
    if not folder.is_dir():
        raise LocateError(
            f"model {name!r}: no such folder: expected a folder with config.json, weights and tokenizer, or a GGUF file"
        )
    if revision is not None and commit is None:
        raise LocateError(f"revision {revision!r} of {name!r}: only Hugging Face ids have revisions: leave it out")
    return folder, commit


def is_stamped(folder: Path) -> bool:
    """Whether a folder is a model with stamps beside its MLPs, with nothing at its top for Hugging Face to load."""
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
    if not any(path.name in MAKES_A_TOKENIZER for path in found):
        raise LocateError(f"model {name!r} has no tokenizer: expected tokenizer.json in {folder}: save it there")
    return found


def is_folder_name(name: str) -> bool:
    """Whether a name means a folder rather than a hub id."""
    shaped = name.startswith((".", "/", "~")) or name.endswith("/") or name.count("/") > 1 or "\\" in name
    return shaped or name.lower().endswith(".gguf") or Path(name).exists()


def architecture_of(name: str, folder: Path, trust_remote_code: bool) -> str:
    """The architecture that config.json names.

    Raises LocateError unless it is a decoder-only causal language model.
    """
    config = read_config(name, folder)
    architectures = config.get("architectures") or architecture_by_type(config)
    if not isinstance(architectures, list):
        raise LocateError(f"model {name!r}: architectures in {folder / 'config.json'} is not a list: download it again")
    if config.get("is_encoder_decoder") or not any(str(each).endswith(CAUSAL) for each in architectures):
        kind = ", ".join(map(str, architectures)) or config.get("model_type") or "of no named architecture"
        raise LocateError(
            f"model {name!r} is {kind}: expected a decoder-only causal language model (an architecture that ends in "
            f"{' or '.join(CAUSAL)})"
        )
    if is_encoder(config):
        raise LocateError(
            f"model {name!r} is an encoder ({config.get('model_type')} without is_decoder in config.json), which also "
            "attends to later tokens: expected a decoder-only causal language model"
        )
    if "auto_map" in config and not trust_remote_code:
        raise LocateError(
            f"model {name!r} brings its own Python code: pass trust_remote_code=True (--trust-remote-code) if you "
            "trust it"
        )
    return str(next(each for each in architectures if str(each).endswith(CAUSAL)))


def read_config(name: str, folder: Path) -> dict[str, Any]:
    """What config.json says.

    Raises LocateError when it is missing, or not an object.
    """
    path = folder / "config.json"
    if not path.is_file():
        raise LocateError(f"model {name!r} has no config.json in {folder}: expected a Hugging Face model folder")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LocateError(f"model {name!r}: {path} cannot be read ({error}): download or save it again") from None
    if not isinstance(config, dict):
        raise LocateError(f"model {name!r}: {path} holds no settings: expected a model's configuration")
    return config


def architecture_by_type(config: dict[str, Any]) -> list[str]:
    """The causal architecture of a configuration that names none: what AutoModelForCausalLM takes for its type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(str(config.get("model_type")))
    return [] if found is None or not isinstance(found, str) else [found]


def is_encoder(config: dict[str, Any]) -> bool:
    """Whether a configuration belongs to a family that reads in both directions unless told to be a decoder."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

    return str(config.get("model_type")) in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not config.get("is_decoder")


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

    patterns = ["*.json", "*.jinja", "tokenizer.model", "merges.txt", "vocab.txt"]
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
