"""What `locate-bias trace` costs with each engine, beside what `--dry-run` foretold, each in a process of its own.

    python benchmarks/trace.py [--limit 8] [--out FOLDER]

The bundled model with the default prompts, its heads, and random weights in the shape of GPT-2 small with a few pairs.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
from job import make_model

WITHIN = 1.5  # how far the foretold time may be from the time it took, as a factor


def told(*arguments: str) -> dict[str, float]:
    """What a command of locate-bias prints as JSON."""
    command = [sys.executable, "-m", "locate", *arguments, "--json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def measured(name: str, options: list[str], engine: str, folder: Path) -> dict[str, object]:
    """One trace: what was foretold, and what it took."""
    arguments = ["trace", *options, "--engine", engine]
    foretold = told(*arguments, "--dry-run")
    told(*arguments, "--output", str(folder), "--formats", "html")
    meta = json.loads((folder / "meta.json").read_text())
    return {
        "trace": name,
        "engine": engine,
        "rows": meta["rows"],
        "rows run": foretold["run"],
        "seconds": meta["seconds"],
        "seconds foretold": foretold["seconds"],
        "foretold / taken": foretold["seconds"] / meta["seconds"],
        "controls (s)": meta["controls"]["seconds"],
        "controls foretold (s)": foretold["control_seconds"],
        "peak (MB)": meta["memory"]["peak"]["process"] / 1e6,
        "peak foretold (MB)": foretold["peak"] / 1e6,
        "largest difference": meta["audit"].get("engine", {}).get("largest_difference"),
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=8, help="pairs of prompts for the large shape")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "figures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        shape = str(make_model("gpt2-small", home / "gpt2-small"))
        traces = [("mini", ["--model", "mini"], engine) for engine in ("sweep", "plain")]
        traces += [("mini, heads", ["--model", "mini", "--components", "head"], "sweep")]
        few = ["--model", shape, "--limit", str(options.limit)]
        traces += [(f"GPT-2 small shape, {options.limit} pairs", few, engine) for engine in ("sweep", "plain")]
        rows = []
        for index, (name, arguments, engine) in enumerate(traces):
            rows.append(measured(name, arguments, engine, home / str(index)))
            print(json.dumps(rows[-1]), flush=True)
    table = pd.DataFrame(rows)
    table.to_csv(options.out / "traces.csv", index=False, float_format="%.4g")
    print(table.to_string(index=False))
    outside = table[~table["foretold / taken"].between(1 / WITHIN, WITHIN)]
    assert outside.empty, f"foretold times beyond a factor of {WITHIN}:\n{outside}"


if __name__ == "__main__":
    main()
