"""An edit between its fit and its receipt: kept in the user's cache, so that a stop in the proof does not lose it."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from locate.editors.edit import Edit, load_edit
from locate.editors.fit import Fitting
from locate.editors.methods import Editor, edit
from locate.editors.progress import Progress, no_progress
from locate.errors import LocateError
from locate.evaluation.kept import code_sha256
from locate.files import cache_folder, hash_of, hash_of_files, strict
from locate.mediation.located import Located
from locate.model.causal import CausalModel

DECIDING = ("editors", "evaluation", "model", "prompts")  # the rooms whose code decides what an edit is


def edit_or_resume(
    model: CausalModel, located: Located, how: Editor, fitting: Fitting, *, progress: Progress = no_progress
) -> tuple[Edit, Path]:
    """What `edit` makes, or what it made before, and the file that keeps it: to be removed once the edit is proved.

    It is kept under a hash of the weights, located.json, editor with its settings, prompts, dtype, device and locate's
    code.
    """
    about = {
        "model": model.provenance(),
        "device": model.device,
        "located": strict(located.as_json()),
        "editor": repr(how),
        "prompts": [[asdict(pair) for pair in some] for some in (fitting.edited, fitting.preserved)],
        "text": text_sha256(how),
        "code": code_sha256(DECIDING),
    }
    path = cache_folder() / f"edit-{hash_of(about)[:32]}.safetensors"
    with suppress(LocateError):
        return load_edit(path), path
    made = edit(model, located, how, fitting, progress=progress)
    made.save(path)
    return made, path


def text_sha256(how: Editor) -> str | None:
    """The hash of the text that an editor is told to preserve; None for one without, or with the package's."""
    text = getattr(how, "text", None)
    return None if text is None else hash_of_files([Path(text)])
