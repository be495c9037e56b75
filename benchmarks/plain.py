"""How fast is the plain engine beside transformer_lens.patching? The same map of the same pairs, one after the other.

    python benchmarks/plain.py [--model mini] [--pairs 64] [--out FILE]

Prints a table and writes it as JSON: seconds, the ratio, peak memory, and the largest difference of the results.
"""

import argparse
import json
import platform
import resource
import time
from pathlib import Path

import torch
from transformer_lens import patching

import locate
from locate.models import Model
from locate.prompts import TokenPair, templates, tokenise
from locate.tracing.plan import DEFAULT_COMPONENTS, Map

SWEEPS = {
    "resid_pre": patching.get_act_patch_resid_pre,
    "attn_out": patching.get_act_patch_attn_out,
    "mlp_out": patching.get_act_patch_mlp_out,
}


def equal_pairs(model: Model, wanted: int) -> list[TokenPair]:
    """Pairs whose two prompts have one length: the peer patches only those, and only batches of one length."""
    pairs = tokenise(locate.occupation_pairs(templates_each=len(templates())), model.encode)[0]
    same = [pair for pair in pairs if len(pair.clean) == len(pair.corrupted)]
    length = max({len(pair.clean) for pair in same}, key=[len(pair.clean) for pair in same].count)
    return [pair for pair in same if len(pair.clean) == length][:wanted]


def by_transformer_lens(model: Model, pairs: list[TokenPair]) -> dict[str, torch.Tensor]:
    """Log-odds [layer, pos, pair] of the corrupted runs with clean activations, all pairs in one batch."""
    clean = torch.tensor([pair.clean for pair in pairs])
    corrupted = torch.tensor([pair.corrupted for pair in pairs])
    female, male = (torch.tensor([pair.answers[i] for pair in pairs]) for i in (0, 1))
    rows = torch.arange(len(pairs))

    def log_odds(logits: torch.Tensor) -> torch.Tensor:
        last = logits[:, -1].float()
        return last[rows, female] - last[rows, male]

    names = {model.hook(each, layer) for each in SWEEPS for layer in range(model.n_layers)}
    found = {}
    with torch.inference_mode():
        cache = model.bridge.run_with_cache(clean, names_filter=lambda name: name in names, prepend_bos=False)[1]
        for component, sweep in SWEEPS.items():
            found[component] = per_example(sweep(model.bridge, corrupted, cache, log_odds, reduce="none"))
    return found


def per_example(result: object) -> torch.Tensor:
    """A PatchingResult, or the tensor itself, as a tensor [layer, pos, pair]."""
    return torch.as_tensor(getattr(result, "values", result))


def by_locate(model: Model, pairs: list[TokenPair]) -> locate.Trace:
    """The same map by `locate.trace`, in the direction that the peer has."""
    prompts = locate.Prompts(tuple(pair.pair for pair in pairs))
    return locate.trace(model, prompts, Map(components=DEFAULT_COMPONENTS), directions=("denoising",))


def largest_gap(trace: locate.Trace, theirs: dict[str, torch.Tensor]) -> float:
    """Largest difference between the two, nats."""
    table = trace.table
    ours = table["patched_female"] - table["patched_male"]
    cells = zip(table["component"], table["layer"], table["clean_pos"], table["pair"], ours, strict=True)
    return max(abs(float(theirs[c][layer, pos, pair]) - value) for c, layer, pos, pair, value in cells)


def main() -> None:
    """Time both once after a warm-up of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("plain.json"))
    options = parser.parse_args()
    model = locate.load(options.model)
    pairs = equal_pairs(model, options.pairs)
    by_transformer_lens(model, pairs[:4])
    by_locate(model, pairs[:4])
    started = time.perf_counter()
    theirs = by_transformer_lens(model, pairs)
    middle = time.perf_counter()
    ours = by_locate(model, pairs)
    ended = time.perf_counter()
    result = {
        "model": repr(model),
        "pairs": len(pairs),
        "tokens": len(pairs[0].clean),
        "rows": len(ours),
        "seconds transformer_lens.patching": round(middle - started, 2),
        "seconds locate, plain engine": round(ended - middle, 2),
        "ratio": round((middle - started) / (ended - middle), 2),
        "largest difference (nats)": largest_gap(ours, theirs),
        "peak memory (MiB)": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}",
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")
    for name, value in result.items():
        print(f"{name:36} {value}")


if __name__ == "__main__":
    main()
