"""An edit between its fit and its receipt: kept in the user's cache, so that a stop in the proof does not lose it."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path

from locate.editors.edit import Edit, load_edit
from locate.editors.fit import Fitting
from locate.editors.methods import Editor, check_editor, edit
from locate.editors.pace import Part
from locate.editors.progress import Progress, no_progress
from locate.errors import LocateError
from locate.evaluation.kept import code_sha256
from locate.files import cache_folder, hash_of, hash_of_files, strict
from locate.mediation.located import Located
from locate.model.causal import CausalModel

DECIDING = ("editors", "evaluation", "model", "prompts", "training")  # the rooms whose code decides what an edit is


def edit_or_resume(
    model: CausalModel, located: Located, how: Editor, fitting: Fitting, *, progress: Progress = no_progress
) -> tuple[Edit, Path]:
    """What `edit` makes, or what it made before, and the file that keeps it: to be removed once the edit is proved."""
    path = kept_path(model, located, how, fitting)
    with suppress(LocateError):
        return load_edit(path), path
    place = path.with_suffix("")
    if is_dataclass(how) and getattr(how, "place", place) is None:
        how = replace(how, place=place)
    made = edit(model, located, how, fitting, progress=progress)
    made.save(path)
    shutil.rmtree(place, ignore_errors=True)
    return made, path


def edit_parts(model: CausalModel, located: Located, how: Editor, fitting: Fitting) -> list[Part]:
    """The parts of `edit_or_resume`: none where the edit is kept, or where the editor does not say what it expects."""
    check_editor(how)
    expect = getattr(how, "expected_parts", None)
    if expect is None or kept_path(model, located, how, fitting).is_file():
        return []
    return list(expect(model, located, fitting.edited, preserved=fitting.preserved))


def kept_path(model: CausalModel, located: Located, how: Editor, fitting: Fitting) -> Path:
    """The file that keeps an edit until it is proved.

    It is named by a hash of the weights, located.json, editor with its settings, prompts, dtype, device and locate's
    code.
    """
    about = {
        "model": model.provenance(),
        "device": model.device,
        "located": strict(located.as_json()),
        "editor": repr(how),
        "prompts": [[asdict(pair) for pair in some] for some in (fitting.edited, fitting.preserved)],
        "files": file_hashes_of(how),
        "code": code_sha256(DECIDING),
    }
    return cache_folder() / f"edit-{hash_of(about)[:32]}.safetensors"


def file_hashes_of(how: Editor) -> dict[str, str]:
    """Hashes of the files that an editor is told to read: the text that it preserves, and preferences.

    Preferences that are no file are a data set of the hub, which its name stands for.
    """
    text, rows = (getattr(how, name, None) for name in ("text", "preferences"))
    found = {} if text is None else {"text": hash_of_files([Path(text)])}
    return found | ({"preferences": hash_of_files([Path(rows)])} if rows and Path(rows).is_file() else {})
