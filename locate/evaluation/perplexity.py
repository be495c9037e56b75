"""Perplexity of texts: per token, in bits per byte, and its change between two models."""

from __future__ import annotations

import csv
import gzip
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from locate.errors import LocateError
from locate.evaluation.scores import Items, Score, Step, Test, mean_with_interval
from locate.files import hash_of_files

if TYPE_CHECKING:
    from locate.model.causal import CausalModel

LONGEST = 1024  # tokens of a window; the context of GPT-2, so that models with a longer one are read alike
KEYS = ["excerpt", "window", "tokens", "bytes"]


@dataclass(frozen=True)
class Excerpt:
    """One text."""

    name: str
    text: str


def read(path: Path | None) -> Items:
    """The bundled excerpts, a text file (.txt, .txt.gz), or every such file of a folder, by name.

    The bundled ones are twelve passages of about 5 kB from two novels in the public domain (see text/sources.csv),
    which the model `mini` was not trained on.

    Raises LocateError where there is no text, or one is empty or not UTF-8.
    """
    if path is None:
        folder = Path(str(files("locate").joinpath("evaluation", "text")))
        with (folder / "sources.csv").open(encoding="utf-8", newline="") as table:
            names = dict.fromkeys(row["file"] for row in csv.DictReader(table) if row["file"] != "preserve.txt")
        paths = [folder / name for name in names]
    elif path.is_dir():
        paths = sorted(each for each in path.iterdir() if each.name.endswith((".txt", ".txt.gz")))
    else:
        paths = [path]
    if not paths:
        raise LocateError(f"{path} holds no .txt or .txt.gz file: expected at least one text")
    source = "bundled" if path is None else str(path)
    return Items(tuple(read_text(each) for each in paths), source={source: hash_of_files(paths)})


def read_text(path: Path) -> Excerpt:
    """One text file, named after the file without its endings.

    Raises LocateError when it is missing, empty or not UTF-8.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    except FileNotFoundError:
        raise LocateError(f"no file {path}: expected a text to measure perplexity on") from None
    except (UnicodeDecodeError, OSError, EOFError) as error:
        raise LocateError(f"{path} is not UTF-8 text ({error}): choose another text") from None
    if not text.strip():
        raise LocateError(f"{path} is empty: expected a text to measure perplexity on")
    return Excerpt(path.name.removesuffix(".gz").removesuffix(".txt"), text)


@dataclass(frozen=True)
class Window:
    """Tokens read at once; the first is only context and is not scored.

    ids    [pos + 1]
    bytes  of the text that the scored tokens stand for, in UTF-8
    """

    excerpt: str
    number: int
    ids: list[int]
    bytes: int


def windows(model: CausalModel, excerpt: Excerpt, length: int) -> list[Window]:
    """Windows of a text that score each of its tokens once.

    Each is read on its own: the first token follows BOS (end-of-text where there is none), the first of a later window
    sees only the last token of the window before. A token early in a window therefore sees less than `length` tokens.
    """
    ids, spans = model.encoder.encode(excerpt.text)
    if not model.encoder.prepend_bos:
        ids, spans = [model.start, *ids], [(0, 0), *spans]
    ends = [end for _, end in spans[:-1]] + [len(excerpt.text)]
    found = []
    for number, first in enumerate(range(0, len(ids) - 1, length)):
        piece = ids[first : first + length + 1]
        covered = excerpt.text[ends[first] : ends[first + len(piece) - 1]]
        found.append(Window(excerpt.name, number, piece, len(covered.encode("utf-8"))))
    return found


def measure(model: CausalModel, items: Items, step: Step) -> pd.DataFrame:
    """One row per window: the sum of its tokens' log-likelihoods (nats), its tokens and bytes."""
    from locate.model.likelihood import batches, row_logits, scored_tokens

    length = min(model.context, LONGEST)
    cut = [window for excerpt in items.rows for window in windows(model, excerpt, length)]
    sums = np.empty(len(cut))
    done = 0
    for batch in batches([window.ids[1:] for window in cut], scored_tokens(model)):
        logits = row_logits(model, [cut[i].ids[:-1] for i in batch])
        for place, i in enumerate(batch):
            ids = cut[i].ids[1:]
            at = logits[place, : len(ids)].log_softmax(-1)
            sums[i] = float(at[range(len(ids)), ids].double().sum())
        done += len(batch)
        step(done, len(cut))
    columns = {
        "excerpt": [window.excerpt for window in cut],
        "window": [window.number for window in cut],
        "tokens": [len(window.ids) - 1 for window in cut],
        "bytes": [window.bytes for window in cut],
        "log_likelihood": sums,
    }
    return pd.DataFrame(columns)


def groups_of(table: pd.DataFrame) -> np.ndarray:
    """What intervals resample: excerpts, or the windows of a text that is the only one."""
    column = "excerpt" if table["excerpt"].nunique() > 1 else "window"
    return table[column].to_numpy()


def exponential(value: float) -> float:
    """exp, infinite where it is too large for a float."""
    return math.inf if value > 700 else math.exp(value)


def ratio_score(
    table: pd.DataFrame, name: str, unit: str, nats: np.ndarray, below: str, view: Callable[[float], float]
) -> Score:
    """A score that is a function of the nats of all windows divided by their tokens or bytes."""
    groups = groups_of(table)
    found = mean_with_interval(nats, groups, weights=table[below].to_numpy(dtype=float))
    value, low, high = (view(each) for each in found)
    return Score("perplexity", name, value, low, high, unit, n=len(table), groups=len(set(groups)), kind="ability")


def score(table: pd.DataFrame) -> list[Score]:
    """Perplexity per token, exp(-sum of log p / tokens), and bits per byte, -sum of log2 p / bytes.

    Only bits per byte compares models of different tokenizers. Intervals resample excerpts, whose windows share an
    author and a scene; of a single text they resample its windows, and then say how well this text fixes the number,
    not how much another one would differ. n counts windows.
    """
    nats = -table["log_likelihood"].to_numpy(dtype=float)
    return [
        ratio_score(table, "perplexity", "perplexity", nats, "tokens", exponential),
        ratio_score(table, "bits_per_byte", "bits", nats, "bytes", lambda value: value / math.log(2)),
    ]


def perplexity_change(before: pd.DataFrame, after: pd.DataFrame) -> Score:
    """Relative change of the perplexity per token in percent, 100 (after / before - 1), paired by window.

    The logarithm of the ratio is the mean change of nats per token; its interval resamples as in `score`. 0 for a model
    compared with itself.

    Raises LocateError where the two tables are not of the same windows.
    """
    if not before[KEYS].equals(after[KEYS]):
        raise LocateError(
            f"the text has {len(before)} windows before and {len(after)} after, cut differently: measure both models "
            "on the same text with the same tokenizer"
        )
    nats = before["log_likelihood"].to_numpy(dtype=float) - after["log_likelihood"].to_numpy(dtype=float)
    return ratio_score(before, "perplexity_change", "%", nats, "tokens", lambda value: 100 * (exponential(value) - 1))


def paired_scores(before: pd.DataFrame, after: pd.DataFrame) -> Sequence[Score]:
    """The change of perplexity, the only score of this test that needs two models."""
    return [perplexity_change(before, after)]


TEST = Test(
    name="perplexity",
    title="perplexity per token and bits per byte of held-out prose",
    kind="ability",
    read=read,
    measure=measure,
    score=score,
    paired=paired_scores,
    cluster=groups_of,
)
