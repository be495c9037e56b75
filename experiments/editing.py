"""What the experiments on editing share: editors by name, settings from options, fewer prompts, tables in a README."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from locate.editors.dama import DAMA
from locate.editors.dpo import DPO, SFT
from locate.editors.erase import Erase
from locate.editors.fast import FAST
from locate.editors.finetune import FineTune
from locate.editors.fit import Fitting, fitting_prompts
from locate.editors.lsdm import LSDM
from locate.editors.memit import MEMIT
from locate.errors import LocateError
from locate.files import shuffle_names, write_text
from locate.mediation.located import Located
from locate.prompts import Prompts

RANDOM = "random"  # in place of layers: as many as are located, drawn from the others
EDITORS: dict[str, tuple[Any, dict[str, Any]]] = {
    "lsdm": (LSDM, {}),
    "lsdm-subject": (LSDM, {"roles": ("subject_last",)}),
    "lsdm-values": (LSDM, {"spread": "each", "ridge": 1000.0, "preserve": 4.0}),
    "fast": (FAST, {}),
    "memit": (MEMIT, {}),
    "dama": (DAMA, {}),
    "leace": (Erase, {}),
    "finetune-located": (FineTune, {"scope": "located"}),
    "finetune-everything": (FineTune, {"scope": "everything"}),
    "dpo": (DPO, {}),
    "dpo-random": (DPO, {"layers": RANDOM}),
    "dpo-lora": (DPO, {"scope": "everything", "rank": 16}),
    "sft": (SFT, {}),
}
"""method: (its class, settings of its own)"""
LAYERED = [name for name, (_, own) in EDITORS.items() if own.get("scope") != "everything" and "layers" not in own]
"""methods that can be told a layer"""
HELD_OUT = 0.3
DECIDING = ("editors", "evaluation", "prompts")  # rooms whose code decides what an edit is and how it is judged
START, END = "<!-- {} -->", "<!-- end of {} -->"
LIGHTER = ("rounds", "prefixes", "steps", "epochs", "rate")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options that make an edit cheaper; without them editors have their defaults."""
    parser.add_argument("--persons", type=int, help="words for people beside the occupations; default: all, about 440")
    parser.add_argument("--rounds", type=int, help="visits of each layer (LSDM)")
    parser.add_argument("--prefixes", type=int, help="random beginnings before each prompt (LSDM, MEMIT)")
    parser.add_argument("--steps", type=int, help="of gradient descent (MEMIT)")
    parser.add_argument("--epochs", type=int, help="of training, for editors that are trained")
    parser.add_argument("--rate", type=float, help="largest step size, for editors that are trained")


def lighter(options: argparse.Namespace) -> dict[str, float | None]:
    """The values of these options."""
    return {name: getattr(options, name) for name in ("persons", *LIGHTER)}


def editor_of(name: str, given: Mapping[str, Any], located: Located | None = None) -> Any:
    """An editor with those of these settings that it has and that are not None.

    located  needed by editors of random layers
    """
    kind, own = EDITORS[name]
    if own.get("layers") == RANDOM:
        assert located is not None
        own = own | {"layers": random_layers(located, kind.most, int(given.get("seed") or 0))}
    known = {field.name for field in fields(kind)}
    return kind(**own | {key: value for key, value in given.items() if key in known and value is not None})


def random_layers(located: Located, count: int, seed: int) -> tuple[int, ...]:
    """As many layers as an editor takes of the located ones, drawn from the others.

    Raises LocateError where there are too few others.
    """
    taken = located.layers[:count]
    others = [str(layer) for layer in range(int(located.trace["model"]["n_layers"])) if layer not in taken]
    if len(others) < len(taken):
        raise LocateError(f"{len(others)} layers are not located: expected {len(taken)} to draw from")
    return tuple(sorted(int(name) for name in shuffle_names(others, seed)[: len(taken)]))


def prompts_for(seed: int, persons: int | None) -> Fitting:
    """The package's prompts for an edit, with so many of the other words for people at most.

    Raises LocateError for a negative number.
    """
    if persons is not None and persons < 0:
        raise LocateError(f"--persons {persons}: expected a number of words from 0 up")
    fitting = fitting_prompts(HELD_OUT, seed=seed)
    if persons is None:
        return fitting
    others = shuffle_names([pair.group for pair in fitting.edited if pair.group not in set(fitting.words.words)], seed)
    words = {*fitting.words.words, *others[:persons]}
    chosen = tuple(pair for pair in fitting.edited if pair.group in words)
    return replace(fitting, edited=Prompts(chosen, fitting.edited.skipped))


def put(path: Path, name: str, text: str) -> None:
    """Write a text between the marks of that name in a README.

    Raises LocateError where the marks are not there.
    """
    start, end = START.format(name), END.format(name)
    content = path.read_text(encoding="utf-8")
    if start not in content or end not in content:
        raise LocateError(f"{path} lacks the marks {start} and {end}: put them where the table belongs")
    before, rest = content.split(start, 1)
    write_text(path, f"{before}{start}\n\n{text}\n{end}{rest.split(end, 1)[1]}")
