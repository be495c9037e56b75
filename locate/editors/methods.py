"""The editors by name, and their settings read from text."""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from locate.editors.edit import Edit
from locate.editors.fit import Fitting, fitting_prompts
from locate.editors.progress import Progress, no_progress
from locate.errors import LocateError
from locate.mediation.located import Located
from locate.model.causal import CausalModel
from locate.model.quantised import check_full_precision
from locate.model.threads import torch_threads
from locate.prompts import Prompts
from locate.sites import check

HOME = {
    "lsdm": ("locate.editors.lsdm", "LSDM"),
    "fast": ("locate.editors.fast", "FAST"),
    "memit": ("locate.editors.memit", "MEMIT"),
    "dama": ("locate.editors.dama", "DAMA"),
    "leace": ("locate.editors.erase", "Erase"),
    "finetune": ("locate.editors.finetune", "FineTune"),
    "dpo": ("locate.editors.dpo", "DPO"),
    "sft": ("locate.editors.dpo", "SFT"),
}
"""method: (module, class of its settings)"""


@typing.runtime_checkable
class Editor(Protocol):
    """An editor: an object with these two, of any class.

    method  its name, which the edit and its receipt carry
    """

    method: str

    def edit(
        self, model: CausalModel, located: Located, prompts: Prompts, *, preserved: Prompts, progress: Progress = ...
    ) -> Edit:
        """The changes to make; the model itself stays as it is.

        prompts    pairs whose clean prompts are edited until both answers are equally likely
        preserved  pairs about words that say their gender, whose answers should stay
        progress   called with (what, how many are done, of how many)
        """


def edit(
    model: CausalModel,
    located: Located,
    how: Editor,
    fitting: Fitting | None = None,
    *,
    progress: Progress = no_progress,
) -> Edit:
    """Edit a model where its bias was located.

    model    as `load_causal` gives it; it stays as it is
    located  what a trace of this model located
    how      an editor with its settings: `LSDM()`, `FAST()`, a baseline, or an object of your own (see `Editor`)
    fitting  what to fit on; None for the package's prompts with 30 % of words and templates held out

    Returns the changes to make: apply them for a while (`edit.applied`), save them, or write the edited model with its
    proof (`save_edited`).

    Raises LocateError when the located.json is of another model, the model is quantised or cannot be edited there, or
    `how` is no editor.
    """
    check_editor(how)
    check_full_precision(model)
    chosen = fitting_prompts() if fitting is None else fitting
    with torch_threads(model.threads):
        return how.edit(model, located, chosen.edited, preserved=chosen.preserved, progress=progress)


def check_editor(how: object) -> None:
    """Raise LocateError for what is no editor: a name, or a class without its settings."""
    if isinstance(how, type) or not isinstance(how, Editor):
        raise LocateError(
            f"editor {how!r}: expected an object such as LSDM(), which has a method (its name) and "
            "edit(model, located, prompts, preserved=..., progress=...)"
        )


def make_editor(method: str, settings: Sequence[str] = (), **given: Any) -> Editor:
    """An editor by name.

    settings  "NAME=VALUE" texts; "values.NAME=VALUE" for settings of its targets
    given     settings as values, such as layers and seed; those that are None or that it does not have are left out

    Raises LocateError for an unknown name, and for a value that is not of the setting's type.
    """
    check("method", method, tuple(HOME))
    module, name = HOME[method]
    made: Editor = with_settings(getattr(import_module(module), name), method, settings, **given)
    return made


def with_settings(kind: Any, method: str, settings: Sequence[str], **given: Any) -> Any:
    """An object of a dataclass of settings, as `make_editor` makes it; `method` is what messages call it."""
    known = {field.name for field in fields(kind)}
    values: dict[str, Any] = {key: value for key, value in given.items() if key in known and value is not None}
    inner: dict[str, dict[str, Any]] = {}
    for text in settings:
        path, equals, said = text.partition("=")
        outer, dot, own = path.partition(".")
        if not equals or outer not in known:
            raise LocateError(
                f"setting {text!r} of {method}: expected NAME=VALUE, NAME one of {', '.join(sorted(known))}"
            )
        if dot:
            inner.setdefault(outer, {})[own] = said
        else:
            values[outer] = parse_setting(kind, outer, said)
    for outer, parts in inner.items():
        part = typing.get_type_hints(kind)[outer]
        if not is_dataclass(part):
            raise LocateError(f"setting {outer!r} of {method} has no parts: expected {outer}=VALUE")
        values[outer] = typing.cast(Any, part)(
            **{name: parse_setting(part, name, said) for name, said in parts.items()}
        )
    return kind(**values)


def parse_setting(kind: Any, name: str, text: str) -> Any:
    """The value of a setting from its text.

    Raises LocateError for a name that is not a setting, and a text that is not of its type.
    """
    hints = typing.get_type_hints(kind)
    if name not in hints:
        raise LocateError(f"{name!r} is not a setting of {kind.__name__}: expected one of {', '.join(sorted(hints))}")
    hint = hints[name]
    if isinstance(hint, types.UnionType):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    try:
        if typing.get_origin(hint) is tuple:
            inner = typing.get_args(hint)[0]
            return tuple(inner(part) for part in text.split(","))
        if hint is bool:
            return {"true": True, "false": False}[text.lower()]
        return hint(text) if hint in (int, float, str, Path) else refuse_setting(hint)
    except (ValueError, KeyError):
        raise LocateError(f"{name}={text!r}: expected {getattr(hint, '__name__', hint)}") from None


def refuse_setting(hint: Any) -> Any:
    """Refuse a setting that no text can give."""
    raise ValueError(f"{hint} cannot be read from a text")
