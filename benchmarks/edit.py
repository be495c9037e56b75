"""What `locate-bias edit` costs, its receipt included, from an empty cache: seconds, processor time and peak memory.

    python benchmarks/edit.py [--model FOLDER] [--located RUN/located.json] [--methods lsdm fast] [--out FOLDER]

Each edit is a process of its own, as a user would start it, with the editor's defaults; what it cut stands beside.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from sweep import machine

HOME = Path(__file__).parents[1]


def measured(method: str, options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """One edit: what it took, and the cut of mean |log-odds| of occupations that it never saw."""
    command = [sys.executable, "-m", "locate", "edit", options.model, "--located", str(options.located)]
    command += ["--method", method, "-o", str(folder / "edited"), "--json"]
    own = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=own, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        sys.exit(f"edit with {method} failed: see above")
    receipt = json.loads((folder / "edited" / "receipt.json").read_text())
    return {
        "method": method,
        "seconds": seconds,
        "processor seconds": used.ru_utime + used.ru_stime,
        "peak (MB)": used.ru_maxrss * 1024 / 1e6,
        "cut (%)": receipt["scores"]["cut"]["held_out"]["value"],
        "threads": receipt["threads"],
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(HOME / "models" / "smollm2-135m-instruct"))
    parser.add_argument("--located", type=Path, default=HOME / "runs" / "demo" / "located.json")
    parser.add_argument("--methods", nargs="+", default=["lsdm", "fast"])
    parser.add_argument("--out", type=Path, default=HOME / "figures")
    options = parser.parse_args()
    rows = []
    for method in options.methods:
        with tempfile.TemporaryDirectory() as temporary:
            rows.append(measured(method, options, Path(temporary)))
        print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows).assign(machine=machine("cpu"))
    table.to_csv(options.out / "edit_times.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
