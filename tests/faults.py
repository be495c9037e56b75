"""Do the tests see? Plants one-line faults in a copy of the package, one at a time, and expects red each time.

python tests/faults.py [WORD]     only the faults whose name holds WORD
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue

ROOT = Path(__file__).resolve().parents[1]
WORKERS = min(2, os.cpu_count() or 1)
ENGINE = ["tests/test_identities.py", "-k", "gpt2 or zero or window or sever or unit or apart"]

ESTIMATE = ["tests/test_gradients.py", "-k", "not planted and not bad"]
EDGES = ["tests/test_gradients.py", "-k", "slopes or edges_add or silent or (batches and pattern)"]
PLANTED = ["tests/test_planted.py", "-k", "(gpt2 or hand or aside) and not command"]
VARIANTS = ["tests/test_variants.py"]
SWEEP = ["tests/test_sweep.py", "-k", "(random_rows and (gpt2 or llama)) or (traces and None)"]


@dataclass(frozen=True)
class Fault:
    """One line changed in one file, and the tests that must notice."""

    name: str
    file: str
    line: str
    becomes: str
    tests: tuple[str, ...]


def fault(name: str, file: str, line: str, becomes: str, *tests: str) -> Fault:
    return Fault(name, file, line, becomes, tests)


FAULTS = [
    fault("role off by one", "prompts/tokens.py", "AFTER if i == last + 1 else", "AFTER if i == last + 2 else",
          "tests/test_tokens.py"),
    fault("subject's first token taken for its last", "prompts/tokens.py",
          "couples.append((end - 1, other_end - 1))", "couples.append((first, other_first))", "tests/test_tokens.py"),
    fault("answer resolved without its prompt", "prompts/tokens.py",
          "together = encode(prompt + answer)[0]", "together = [*ids, *encode(answer)[0]]", "tests/test_tokens.py",
          "tests/test_second_implementation.py"),
    fault("directions swapped", "tracing/plan.py",
          'denoising = direction == "denoising"', 'denoising = direction == "noising"', *ENGINE),
    fault("source read at the base's position", "tracing/plan.py",
          "token.clean if denoising else token.corrupted,", "token.corrupted if denoising else token.clean,", *ENGINE),
    fault("wrong tensor hooked", "models.py",
          '"mlp_out": "blocks.{}.hook_mlp_out"', '"mlp_out": "blocks.{}.hook_resid_mid"', *ENGINE),
    fault("attention taken for MLP", "models.py",
          '"mlp_out": "blocks.{}.hook_mlp_out"', '"mlp_out": "blocks.{}.hook_attn_out"', *ENGINE),
    fault("whole layer written instead of one head", "plain.py",
          "target[... if write.unit is None else write.unit] = value", "target[...] = value", *ENGINE),
    fault("frozen sites read from the source", "plain.py",
          'if write.origin == "source" else', 'if write.origin in ("source", "base") else', *ENGINE),
    fault("probabilities not normalised", "rows.py",
          "model.final_logits(ids).log_softmax(-1)", "model.final_logits(ids)", *ENGINE),
    fault("window starts at its centre", "sites.py",
          "first = site.layer - window // 2", "first = site.layer", *ENGINE),
    fault("severed paths open at the patched layer", "sites.py",
          "for layer in range(site.layer, n_layers)]", "for layer in range(site.layer + 1, n_layers)]",
          "tests/test_trace.py", "-k", "severed"),
    fault("window one layer too long", "sites.py",
          "min(n_layers, first + window)", "min(n_layers, first + window + 1)", "tests/test_trace.py", "-k", "windows"),
    fault("run resumed with another config", "tracing/collect.py",
          '"config_sha256": model.checkpoint.config_sha256,', '"config_sha256": "",', "tests/test_trace.py",
          "-k", "config"),
    fault("one noise for all pairs", "tracing/corrupt.py",
          "default_rng([corruption.seed, pair.index, sample])", "default_rng([corruption.seed, 0, sample])",
          "tests/test_identities.py", "-k", "noise"),
    fault("noise on every token", "tracing/corrupt.py",
          "where = subject_positions(pair)", "where = tuple(range(len(pair.clean)))",
          "tests/test_identities.py", "-k", "noise"),
    fault("resumed run reads another chunk", "tracing/folder.py",
          'f"part-{chunk:05d}.parquet"', '"part-00000.parquet"', "tests/test_trace.py", "-k", "interrupted"),
    fault("run resumed with other weights", "tracing/collect.py",
          '"weights_sha256": model.checkpoint.weights_sha256,', '"weights_sha256": "",', "tests/test_trace.py",
          "-k", "other_weights"),
    fault("missing neutral answer measured as another", "tracing/job.py",
          "if pair.answers[2] is None}", "if pair.answers[2] == -1}", "tests/test_trace.py", "-k", "neutral"),
    fault("sweep: rows start from the source", "sweep/stairs.py",
          "base = torch.tensor([each.base for", "base = torch.tensor([each.source for", *SWEEP),
    fault("sweep: source read at the base's position", "sweep/writes.py",
          'write.source_pos if write.origin == "source" else write.base_pos',
          "write.base_pos", *SWEEP),
    fault("sweep: frozen sites read from the source", "sweep/writes.py",
          'each.source if write.origin == "source" else each.base', "each.source", *SWEEP),
    fault("sweep: first differing token taken for an equal one", "sweep/climbers.py",
          "write.base_pos == write.source_pos < equal", "write.base_pos == write.source_pos <= equal", *SWEEP),
    fault("sweep: noise taken for no difference", "sweep/climbers.py",
          "min([*ends, *one.noised, *other.noised, common])", "min([*ends, common])", *SWEEP),
    fault("sweep: last token's writes left out", "sweep/climbers.py",
          "write.base_pos == n_pos - 1", "write.base_pos == n_pos - 2", *SWEEP),
    fault("sweep: later residual writes left out", "sweep/stairs.py",
          "writes.into_residual(residual, layer, first)", "writes.into_residual(residual, begin[0], first)", *SWEEP),
    fault("sweep: mask of the first queries", "sweep/replay.py",
          "value[:, :, first:end, :end]", "value[:, :, : end - first, :end]", *SWEEP),
    fault("sweep: rotary tables of the first positions", "sweep/replay.py",
          "return value[:, first:end]", "return value[:, : end - first]", *SWEEP),
    fault("sweep: several positions taken for one", "sweep/climbers.py",
          'write.component != "resid_pre" and write.base_pos == first', 'write.component != "resid_pre"', *SWEEP),
    fault("sweep: keys of another run in front", "sweep/bases.py",
          "return keys[base, :, :first], values[base, :, :first]",
          "return keys[:1, :, :first].expand(len(base), -1, -1, -1), values[base, :, :first]", *SWEEP),
    fault("sweep: rows share a carrier at one position", "sweep/entries.py",
          "taken[here] += 1", "taken[here] += 0", *SWEEP),
    fault("sweep: entered at another position", "sweep/stairs.py",
          "residual[enter, 0] = entered.vectors", "residual[enter, -1] = entered.vectors", *SWEEP),
    fault("sweep: entries read off at the first position", "sweep/entries.py",
          "[pos - first for pos in positions]", "[0 for pos in positions]", *SWEEP),
    fault("sweep: answers of the first row's run", "sweep/stairs.py",
          "bases.runs[each.base] for each", "bases.runs[stair[0].base - 1] for each", *SWEEP),
    fault("logits in the order of another vocabulary", "rows.py",
          "model.final_logits(ids, wanted.tolist()), places", "model.final_logits(ids, wanted.tolist()[::-1]), places",
          "tests/test_sweep.py", "-k", "without_probabilities and gpt2"),
    fault("torch's own precision left in force", "sweep/stairs.py",
          "with products(model.dtype, model.device):", "if True:", "tests/test_sweep.py", "-k", "whatever_torch"),
    fault("estimate: answers swapped", "gradients.py",
          "(chosen[:, 0] - chosen[:, 1]).sum()", "(chosen[:, 1] - chosen[:, 0]).sum()", *ESTIMATE),
    fault("estimate: source read at the base's position", "gradients.py",
          "[write.source_pos for _, _, write in writes]", "[write.base_pos for _, _, write in writes]", *ESTIMATE),
    fault("estimate: gradient at the source", "gradients.py",
          "bases = [runs[base] for base, _ in couples]", "bases = [runs[source] for _, source in couples]", *ESTIMATE),
    fault("estimate: one mixture for the mean of several", "gradients.py",
          "+ gradient / len(ways)", "+ gradient * (way == ways[0])", *ESTIMATE),
    fault("estimate: edges of another head", "gradients.py",
          "(index, place, write.unit, write.base_pos, here,", "(index, place, write.unit ^ 1, write.base_pos, here,",
          *EDGES),
    fault("estimate: an edge's source read at the base's key", "gradients.py",
          "torch.stack(padded)[place, unit, from_pos, there]", "torch.stack(padded)[place, unit, from_pos, here]",
          *EDGES),
    fault("estimate: one edge of each patch", "gradients.py",
          "for here, there in write.keys\n    ]", "for here, there in write.keys[:1]\n    ]", *EDGES),
    fault("estimate: edges left out are left as they are", "gradients.py",
          '"zero": torch.zeros_like(own)', '"zero": own', *EDGES),
    fault("planted: wrong head in the truth", "planted/build.py",
          'Place("head", path.head_layer, path.head, LAST)', 'Place("head", path.head_layer, path.head ^ 1, LAST)',
          *PLANTED),
    fault("planted: wrong head in the edge", "planted/build.py",
          'Place("pattern", path.head_layer, path.head, LAST', 'Place("pattern", path.head_layer, path.head ^ 1, LAST',
          *PLANTED),
    fault("planted: the other path's sites for the definition's", "planted/build.py",
          "definition=truth_of(plan, DEFINITION)", "definition=truth_of(plan, STEREOTYPE)", *PLANTED),
    fault("planted: confusion of the paths not looked at", "planted/finding.py",
          "and self.confused <= CONFUSED", "and self.confused >= 0", *PLANTED),
    fault("planted: sites aside count as others", "planted/judge.py",
          "[place not in aside for place in places]", "[True for place in places]", *PLANTED),
    fault("planted: norms not foreseen", "planted/norms.py",
          "np.sqrt(1 + sum(share**2 for share in sums.values()))", "1.0", *VARIANTS, "-k", "norms"),
    fault("planted: a read-out that never saturates", "planted/weights.py",
          "((readout.low, 1), (readout.high, -1))", "((readout.low, 1), (readout.high, 0))", *VARIANTS,
          "-k", "saturated or outvoted"),
    fault("planted: attention to the subject whatever its feature", "planted/weights.py",
          "(found.written[path.channel], WRITTEN * share) if by_weights else (found.subject, SUBJECT)",
          "(found.subject, SUBJECT)", *VARIANTS, "-k", "weights"),
    fault("planted: distractors are read", "planted/norms.py",
          "    if not path.read:", "    if path.share < 0:", *VARIANTS, "-k", "distractors"),
    fault("planted: an alarm that always sounds", "planted/weights.py",
          "- CALM / (CONSTANT * unit) * found.constant", "+ CALM / (CONSTANT * unit) * found.constant", *VARIANTS,
          "-k", "alarm"),
    fault("planted: ranks backwards", "planted/judge.py",
          'rankdata(sites["size"])', 'rankdata(-sites["size"])', *PLANTED),
    fault("planted: stereotype without its sign", "planted/build.py",
          '{STEREOTYPE: int(sign)} | signs', '{STEREOTYPE: 1} | signs', *PLANTED),
    fault("noise depends on the batch size", "rows.py",
          "changed[place, list(run.noised)] += run.noise.to(changed)",
          "changed[place, list(run.noised)] += run.noise.to(changed) * len(runs)",
          "tests/test_identities.py", "-k", "noise_does_not_depend"),
    fault("stability of signed means", "mediation/averages.py",
          "np.abs(resampled(sums.sums,", "np.positive(resampled(sums.sums,",
          "tests/test_averages.py", "-k", "stability"),
    fault("sign of the metric", "metrics.py",
          "return female - male", "return male - female", "tests/test_metrics.py"),
    fault("total effect backwards", "mediation/effects.py",
          'chosen.effect(rows["source"].to_numpy(), rows["base"].to_numpy())',
          'chosen.effect(rows["base"].to_numpy(), rows["source"].to_numpy())', "tests/test_effects.py"),
    fault("direct effect from its own direction", "mediation/effects.py",
          '{"denoising": "noising", "noising": "denoising"}', '{"denoising": "denoising", "noising": "noising"}',
          "tests/test_effects.py"),
    fault("stereotype sign lost", "mediation/effects.py",
          "rows[run] = y * sign if", "rows[run] = y * np.abs(sign) if", "tests/test_effects.py"),
    fault("sign lost in an absolute value", "mediation/averages.py",
          'result["effect"] = sums.sums.sum(0) / sums.counts.sum(0)',
          'result["effect"] = np.abs(sums.sums.sum(0)) / sums.counts.sum(0)', "tests/test_averages.py"),
    fault("bootstrap over prompts instead of groups", "mediation/averages.py",
          'pd.factorize(pairs["group"])', 'pd.factorize(pairs["pair"])', "tests/test_averages.py"),
    fault("q not corrected", "mediation/averages.py",
          'false_discovery_control(result["p"])', 'result["p"]', "tests/test_averages.py"),
    fault("ranking drops the threshold", "located.py",
          '(means["q"] <= THRESHOLD)', '(means["q"] <= 1)', "tests/test_located.py"),
    fault("the wrong cells faded", "report/figures.py",
          "(q <= THRESHOLD), np.nan", "(q > THRESHOLD), np.nan", "tests/test_report.py"),
    fault("prompts not escaped", "report/figures.py",
          'return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")', "return text",
          "tests/test_report.py"),
]  # fmt: skip


def copy_project(target: Path) -> None:
    """The package, its tests and settings; the large model files and the shared data only as links."""
    shutil.copytree(ROOT / "locate", target / "locate", ignore=shutil.ignore_patterns("mini", "__pycache__"))
    (target / "locate" / "mini").symlink_to(ROOT / "locate" / "mini")
    shutil.copytree(ROOT / "tests", target / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (target.parent / "shared").symlink_to(shared)


def noticed(target: Path, planted: Fault) -> bool:
    """Plant a fault, run its tests, take it out again; whether any test failed."""
    path = target / "locate" / planted.file
    text = path.read_text()
    if text.count(planted.line) != 1:
        raise SystemExit(
            f"fault {planted.name!r}: {planted.file} holds its line {text.count(planted.line)} times, expected once"
        )
    path.write_text(text.replace(planted.line, planted.becomes))
    red = failing(target, planted.tests)
    path.write_text(text)
    return red


def failing(target: Path, tests: tuple[str, ...]) -> bool:
    """Whether any of some tests fails in a copy."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"PYTHONPATH": str(target), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=target, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"pytest {' '.join(tests)} ended with {done.returncode}\n{done.stdout[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Plant every fault; exit code 1 when one stays unseen."""
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = [planted for planted in FAULTS if word in planted.name]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        copies: Queue[Path] = Queue()
        for worker in range(WORKERS):
            target = Path(folder) / str(worker) / "copy"
            target.mkdir(parents=True)
            copy_project(target)
            copies.put(target)
        selections = list(dict.fromkeys(planted.tests for planted in chosen))
        red = pool.map(lambda tests: failing(target, tests), selections)
        for selection in [tests for tests, failed in zip(selections, red, strict=True) if failed]:
            sys.exit(f"{' '.join(selection)} is red without any fault: mend that first")
        found = sum(pool.map(lambda planted: tried(copies, planted), chosen))
    print(f"{found} of {len(chosen)} planted faults found")
    sys.exit(0 if found == len(chosen) else 1)


def tried(copies: Queue[Path], planted: Fault) -> bool:
    """Whether a fault is found, in whichever copy is free."""
    target = copies.get()
    found = noticed(target, planted)
    copies.put(target)
    print(f"{'found ' if found else 'UNSEEN'}  {planted.name}", flush=True)
    return found


if __name__ == "__main__":
    main()
