"""The results that Vig et al. 2020 published: effects of GPT-2's attention heads, example by example."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from locate.errors import LocateError
from locate.sites import check

DATASETS = ("winobias", "winogender")
MEANS = {"total": "mean_total_effect", "indirect": "mean_model_indirect_effect", "direct": "mean_model_direct_effect"}
NUMBERS = {
    "of_female_base": "candidate1_base_prob",
    "of_male_base": "candidate2_base_prob",
    "of_female_alt": "candidate1_alt_prob",
    "of_male_alt": "candidate2_alt_prob",
    "odds_base": "odds_base",
    "odds_alt": "odds_alt",
    "total": "total_effect",
    "indirect": "indirect_effect_model",
    "direct": "direct_effect_model",
}
TEXTS = {"female": "base_string1", "male": "base_string2", "of_female": "candidate1", "of_male": "candidate2"}


@dataclass(frozen=True, eq=False)
class Reference:
    """One of their result files.

    model, dataset, part      for instance "gpt2", "winobias", "dev"; for Winogender the part is the statistic
    loaded, aligned, analysed how many examples were read, had an odds ratio above 1, and were left after the filter
    quantile, threshold       of the odds ratios of the aligned ones, above which an example is analysed
    means                     mean "total", "indirect" and "direct" effect of replacing all heads at once
    examples                  one row per example: texts, the four probabilities (geometric means over tokens), the
                              odds and the effects; continuations are spelt with a space before each token
    head, layer               effects of one head, and of all heads of one layer, by "indirect" and "direct"
    """

    model: str
    dataset: str
    part: str
    loaded: int
    aligned: int
    analysed: int
    quantile: float
    threshold: float
    means: dict[str, float]
    examples: pd.DataFrame
    head: dict[str, Float[np.ndarray, "example layer head"]]
    layer: dict[str, Float[np.ndarray, "example layer"]]


def reference_file(folder: str | Path, dataset: str, model: str, part: str) -> Path | None:
    """The published file of a model, or None where there is none.

    folder   that holds the files named winobias_attention_intervention_gpt2_filtered_dev.json.gz and so on
    dataset  "winobias", with part "dev" or "test"; or "winogender", with part "bls" or "bergsma"
    """
    check("data set", dataset, DATASETS)
    middle = f"{model}_filtered_{part}" if dataset == "winobias" else f"{part}_{model}_filtered"
    path = Path(folder) / f"{dataset}_attention_intervention_{middle}.json.gz"
    return path if path.is_file() else None


def read_reference(path: str | Path) -> Reference:
    """Read one of their result files.

    Raises LocateError when it is missing, is no such file, or holds another number of examples than it says.
    """
    path = Path(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            content = json.load(file)
        return reference_of(path, content)
    except FileNotFoundError:
        raise LocateError(f"no file {path}: expected published results, a .json.gz file") from None
    except (OSError, EOFError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, LocateError):
            raise
        raise LocateError(f"{path} is not a file of published results ({type(error).__name__}: {error})") from None


def reference_of(path: Path, content: dict[str, Any]) -> Reference:
    """The results that a file's content describes."""
    results = content["results"]
    if len(results) != content["num_examples_analyzed"]:
        raise LocateError(
            f"{path} holds {len(results)} examples but says it has {content['num_examples_analyzed']}: fetch it again"
        )
    wanted = TEXTS | NUMBERS
    kinds = ("indirect", "direct")
    return Reference(
        model=content["model_version"],
        dataset=path.name.split("_")[0],
        part=content.get("split") or content["stat"],
        loaded=content["num_examples_loaded"],
        aligned=content["num_examples_aligned"],
        analysed=content["num_examples_analyzed"],
        quantile=float(content["filter_quantile"]),
        threshold=float(content["threshold"]),
        means={name: float(content[key]) for name, key in MEANS.items()},
        examples=pd.DataFrame([{name: row[key] for name, key in wanted.items()} for row in results]),
        head={kind: np.array([row[f"{kind}_effect_head"] for row in results], dtype=float) for kind in kinds},
        layer={kind: np.array([row[f"{kind}_effect_layer"] for row in results], dtype=float) for kind in kinds},
    )
