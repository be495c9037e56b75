"""The items about gender of two published sets that are about other things too, as files that their tests read."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from locate.errors import LocateError
from locate.evaluation.readers import read_stereoset
from locate.evaluation.text_files import file_of
from locate.files import write_text

GENDER = "gender"
CROWS_PAIRS = "crows_pairs/crows_pairs_anonymized.csv"


def gender_items(data: Path, folder: Path) -> dict[str, str | Path]:
    """Write the items about gender of StereoSet and CrowS-Pairs into a folder; returns the files by test.

    data  the folder with `stereoset` and `crows_pairs`

    Raises LocateError where one of them is not there or has another layout.
    """
    about = [asdict(each) for each in read_stereoset(data / "stereoset") if each.domain == GENDER]
    lines = [json.dumps({"bias_type": each.pop("domain")} | each) + "\n" for each in about]
    pairs = pd.read_csv(file_of(data / CROWS_PAIRS, ()), dtype=str, keep_default_na=False)
    if GENDER not in set(pairs.get("bias_type", ())):
        raise LocateError(f"{data / CROWS_PAIRS} holds no pair with bias_type {GENDER!r}: expected the published file")
    return {
        "stereoset": write_text(folder / "stereoset.jsonl", "".join(lines)),
        "crows_pairs": write_text(folder / "crows_pairs.csv", pairs[pairs["bias_type"] == GENDER].to_csv(index=False)),
    }
