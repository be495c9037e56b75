"""Second moments of an MLP's keys over text: what an edit must leave alone, computed once and cached by content."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from locate.editors.readings import catching
from locate.errors import LocateError
from locate.files import cache_folder, hash_of, read_json, write_json, write_whole
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import multiplying
from locate.model.writing import write_rows

WINDOW = 256  # tokens read at once, each window on its own
FEWEST = 2000  # tokens behind a covariance
BATCH = 16
OWN = 128  # windows that a model writes itself


def preserved_windows(
    model: CausalModel, path: Path | None, *, cache: Path | None = None, step: Step = ignore_step
) -> list[list[int]]:
    """The text that an edit must leave alone, as tokens: the user's, or the package's prose and the model's own text.

    What a model writes is like all that it was trained on, which no bundled text can be.

    Raises LocateError for a file that is missing, not UTF-8 or too short.
    """
    if path is None:
        prose = files("locate").joinpath("evaluation", "text", "preserve.txt").read_text(encoding="utf-8")
        return windows(model, prose) + own_windows(model, cache or cache_folder(), step)
    try:
        return windows(model, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LocateError(f"text {path} cannot be read ({error}): expected a UTF-8 text file") from None


def own_windows(model: CausalModel, folder: Path, step: Step) -> list[list[int]]:
    """Windows of tokens that the model writes after its start token, sampled at temperature 1; cached by content."""
    path = folder / f"text-{hash_of([model.checkpoint.weights_sha256, model.dtype, OWN, WINDOW])[:32]}.json"
    if path.is_file():
        rows: list[list[int]] = read_json(path)
        return rows
    rows = write_rows(model, OWN, min(WINDOW, model.context), seed=0, step=step).tolist()
    write_json(path, rows)
    return rows


def windows(model: CausalModel, text: str) -> list[list[int]]:
    """A text as windows of tokens, each behind the tokens that start a text; an incomplete last window is left out.

    Raises LocateError for a text that is too short.
    """
    ids = model.encoder.tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) < FEWEST:
        raise LocateError(f"the text has {len(ids)} tokens: expected at least {FEWEST} to say what must stay")
    first = list(model.encoder.before)
    size = min(WINDOW, model.context) - len(first)
    return [[*first, *ids[at : at + size]] for at in range(0, len(ids) - size + 1, size)]


def covariances(
    model: CausalModel,
    names: Sequence[str],
    rows: Sequence[Sequence[int]],
    *,
    cache: Path | None = None,
    step: Step = ignore_step,
) -> dict[str, Float[torch.Tensor, "d_mlp d_mlp"]]:
    """E[k k^T] of each module's inputs k, over all tokens of windows of text; float64, rounded once to fp32.

    names  of the MLPs' output matrices
    cache  folder that keeps them by content: weights, tokens, module, dtype; None for the user's cache

    Nothing is read twice: all modules that are not in the cache share the passes.
    """
    folder = cache or cache_folder()
    paths = {name: folder / f"covariance-{key_of(model, name, rows)}.safetensors" for name in names}
    found = {name: read_kept(path) for name, path in paths.items()}
    lacking = [name for name in names if found[name] is None]
    if lacking:
        measured = measure_moments(model, lacking, rows, step)
        for name, moment in measured.items():
            write_whole(paths[name], partial(save_file, {"moment": moment}))
            found[name] = moment
    return {name: moment.double().to(model.device) for name, moment in found.items() if moment is not None}


def key_of(model: CausalModel, name: str, rows: Sequence[Sequence[int]]) -> str:
    """The cache key of a covariance: a hash of weights, module, tokens and dtype."""
    return hash_of([model.checkpoint.weights_sha256, name, list(rows), model.dtype])[:32]


def read_kept(path: Path) -> torch.Tensor | None:
    """The covariance in a file; None where the file is missing or damaged, so that it has to be computed again."""
    try:
        return load_file(path)["moment"]
    except (OSError, SafetensorError, KeyError):
        return None


def measure_moments(
    model: CausalModel, names: Sequence[str], rows: Sequence[Sequence[int]], step: Step
) -> dict[str, Float[torch.Tensor, "d_mlp d_mlp"]]:
    """The second moments of several modules in one pass over the windows, fp32."""
    sums: dict[str, torch.Tensor] = {}
    count = 0

    def add(name: str, tensor: torch.Tensor) -> None:
        keys = rearrange(tensor.detach(), "... d_mlp -> (...) d_mlp").double()
        moment = keys.T @ keys
        sums[name] = moment if name not in sums else sums[name] + moment

    for first in range(0, len(rows), BATCH):
        batch = torch.tensor(rows[first : first + BATCH], device=model.device)
        with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
            run_catching(model, names, batch, add)
        count += batch.numel()
        step(min(first + BATCH, len(rows)), len(rows))
    return {name: (moment / count).float().cpu().contiguous() for name, moment in sums.items()}


def run_catching(model: CausalModel, names: Sequence[str], ids: torch.Tensor, add: object) -> None:
    """One pass that gives every module's inputs to `add`."""
    if not names:
        last_logits(model, ids)
        return
    name, *rest = names
    with catching(model.network, name, lambda _, tensor: add(name, tensor), inputs=True):  # type: ignore[operator]
        run_catching(model, rest, ids, add)
