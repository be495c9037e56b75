"""Second moments of an MLP's keys over text: what an edit must leave alone, computed once and cached by content."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from locate.editors.pace import WRITTEN, Part
from locate.editors.readings import catching
from locate.errors import LocateError
from locate.files import cache_folder, hash_of, read_json, write_json, write_whole
from locate.model.causal import CausalModel
from locate.model.likelihood import Step, ignore_step, last_logits
from locate.model.products import multiplying
from locate.model.writing import write_rows

WINDOW = 128  # tokens read at once, each window on its own
PROSE = 192  # windows of the bundled prose, spread over it
FEWEST = 2000  # tokens behind a covariance
BATCH = 32
SAMPLE = 16  # windows that the residual stream is measured on
OWN = 64  # windows that a model writes itself


def preserved_windows(
    model: CausalModel, path: Path | None, *, cache: Path | None = None, step: Step = ignore_step
) -> list[list[int]]:
    """The text that an edit must leave alone, as tokens: the user's, or the package's prose and the model's own text.

    What a model writes is like all that it was trained on, which no bundled text can be.

    Raises LocateError for a file that is missing, not UTF-8 or too short.
    """
    if path is None:
        prose = files("locate").joinpath("evaluation", "text", "preserve.txt").read_text(encoding="utf-8")
        return spread(windows(model, prose), PROSE) + own_windows(model, cache or cache_folder(), step)
    try:
        return windows(model, path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise LocateError(f"text {path} cannot be read ({error}): expected a UTF-8 text file") from None


def own_windows(model: CausalModel, folder: Path, step: Step) -> list[list[int]]:
    """Windows of tokens that the model writes after its start token, sampled at temperature 1; cached by content."""
    path = own_path(model, folder)
    if path.is_file():
        rows: list[list[int]] = read_json(path)
        return rows
    rows = write_rows(model, OWN, min(WINDOW, model.context), seed=0, step=step).tolist()
    write_json(path, rows)
    return rows


def own_path(model: CausalModel, folder: Path) -> Path:
    """The file that keeps a model's own text, by content."""
    return folder / f"text-{hash_of([model.checkpoint.weights_sha256, model.dtype, OWN, WINDOW])[:32]}.json"


def preserved_parts(
    model: CausalModel, path: Path | None, modules: Sequence[str] = (), *, cache: Path | None = None
) -> list[Part]:
    """The parts of `preserved_windows`, and of `covariances` where modules are named; none that is kept.

    Raises LocateError as `preserved_windows` does.
    """
    folder, size = cache or cache_folder(), min(WINDOW, model.context)
    if path is None and not own_path(model, folder).is_file():
        text = Part("text", WRITTEN * OWN * (size - 1))
        return [text, Part("covariance", (PROSE + OWN) * size)] if modules else [text]
    rows = preserved_windows(model, path, cache=folder) if modules else []
    if all(moment_path(model, name, rows, folder).is_file() for name in modules):
        return []
    return [Part("covariance", sum(map(len, rows)))]


def spread(rows: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """At most so many rows, spread evenly over all of them."""
    count = min(most, len(rows))
    return [list(rows[place * len(rows) // count]) for place in range(count)]


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
    paths = {name: moment_path(model, name, rows, folder) for name in names}
    found = {name: read_kept(path) for name, path in paths.items()}
    lacking = [name for name in names if found[name] is None]
    if lacking:
        measured = measure_moments(model, lacking, rows, step)
        for name, moment in measured.items():
            write_whole(paths[name], partial(save_file, {"moment": moment}))
            found[name] = moment
    return {name: moment.double().to(model.device) for name, moment in found.items() if moment is not None}


def moment_path(model: CausalModel, name: str, rows: Sequence[Sequence[int]], folder: Path) -> Path:
    """The file that keeps a covariance, named by a hash of weights, module, tokens and dtype."""
    key = hash_of([model.checkpoint.weights_sha256, name, list(rows), model.dtype])[:32]
    return folder / f"covariance-{key}.safetensors"


def read_kept(path: Path) -> torch.Tensor | None:
    """The covariance in a file; None where the file is missing or damaged, so that it has to be computed again."""
    try:
        return load_file(path)["moment"]
    except (OSError, SafetensorError, KeyError):
        return None


def measure_moments(
    model: CausalModel, names: Sequence[str], rows: Sequence[Sequence[int]], step: Step
) -> dict[str, Float[torch.Tensor, "d_mlp d_mlp"]]:
    """The second moments of several modules in one pass over the windows, fp32.

    Products of a batch are as precise as the model, their sums float64. Nothing above the last module is run.
    """
    sums: dict[str, torch.Tensor] = {}
    count = 0
    for first in range(0, len(rows), BATCH):
        batch = torch.tensor(rows[first : first + BATCH], device=model.device)
        with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
            for name, keys in caught(model, names, batch, inputs=True).items():
                flat = rearrange(keys, "... d_mlp -> (...) d_mlp")
                flat = flat if flat.dtype == torch.float64 else flat.float()
                moment = (flat.T @ flat).double()
                sums[name] = moment if name not in sums else sums[name] + moment
        count += batch.numel()
        step(min(first + BATCH, len(rows)), len(rows))
    return {name: (moment / count).float().cpu().contiguous() for name, moment in sums.items()}


def stream_sizes(model: CausalModel, blocks: Sequence[str], rows: Sequence[Sequence[int]]) -> dict[str, float]:
    """Squared length of the residual stream that leaves each block: the median over the tokens of some windows."""
    return median_squares(model, blocks, rows, inputs=False)


def median_squares(
    model: CausalModel, names: Sequence[str], rows: Sequence[Sequence[int]], *, inputs: bool
) -> dict[str, float]:
    """Squared length of each module's inputs (or outputs): the median over the tokens of some windows.

    The median, since the first token of a text is often a hundred times as long as any other.
    """
    ids = torch.tensor(spread(rows, SAMPLE), device=model.device)
    with torch.inference_mode(), multiplying(model.dtype, model.device, model.threads):
        found = caught(model, names, ids, inputs=inputs)
    return {name: float(state.double().pow(2).sum(-1).median()) for name, state in found.items()}


class AllCaught(Exception):
    """Raised to leave the network as soon as the last module was called."""


def caught(model: CausalModel, names: Sequence[str], ids: torch.Tensor, *, inputs: bool) -> dict[str, torch.Tensor]:
    """The inputs (or outputs) of several modules during one pass, which ends at the last of them."""
    found: dict[str, torch.Tensor] = {}

    def taking(name: str, _: Any, tensor: torch.Tensor) -> None:
        found[name] = tensor.detach()
        if len(found) == len(names):
            raise AllCaught

    with ExitStack() as stack, suppress(AllCaught):
        for name in names:
            stack.enter_context(catching(model.network, name, partial(taking, name), inputs=inputs))
        last_logits(model, ids)
    return found
