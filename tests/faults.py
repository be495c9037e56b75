"""Do the tests see? Plants one-line faults in a copy of the package, one at a time, and expects red each time.

python tests/faults.py [WORD] [--sample N]
"""

import argparse
import os
import random
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
HEADS = ["tests/test_replications.py", "-k", "plain_engine or itself or as_it_is"]
RULES = ["tests/test_replications.py", "-k", "decides or neither_half or chosen or verdicts or resample or published"]
REPLICATIONS = "../experiments/replications"
AGAINST, TABLE = "../experiments/locate_vs_edit", "../experiments/lsdm_table"
EXPERIMENTS = ["tests/test_edit_experiments.py", "-k", "not fewer and not several"]

COMPARE = ["tests/test_compare.py", "-k", "not edited and not line and not torch"]
PATHS = ["tests/test_paths.py", "-k", "downstream or severed or direct or answers"]
PATH_FIGURES = ["tests/test_path_figures.py"]
ESTIMATE = ["tests/test_gradients.py", "-k", "not planted and not bad"]
EDGES = ["tests/test_gradients.py", "-k", "slopes or edges_add or silent or (batches and pattern)"]
PLANTED = ["tests/test_planted.py", "-k", "(gpt2 or hand or aside) and not command"]
VARIANTS = ["tests/test_variants.py"]
LEANING = ["tests/test_selectivity.py", "-k", "not planted and not cover"]
INTERVALS = ["tests/test_resampling.py"]
PAIRS = ["tests/test_evaluate_pairs.py", "-k", "hand or line or context or means or stop"]
WORDS = ["tests/test_evaluate_occupations.py"]
ROWS = ["tests/test_rows.py", "-k", "not style and not any_content"]
KEPT = ["tests/test_evaluate_biaske.py"]
SETS = ["tests/test_evaluate_sets.py", "-k", "not published"]
WRITTEN = ["tests/test_evaluate_generation.py"]
BASELINES = ["tests/test_baselines.py", "-k", "not cuts and not located_matrices"]
SWEEP = ["tests/test_sweep.py", "-k", "(random_rows and (gpt2 or llama)) or (traces and None)"]
EVALUATION = ["tests/test_evaluate_run.py", "-k", "not package and not hub"]
LOOP = ["tests/test_measure.py"]
PERPLEXITY = ["tests/test_evaluate_perplexity.py", "-k", "not bundled"]
READING = ["tests/test_encoder.py"]
ABILITY = [
    "tests/test_evaluate_ability.py",
    "-k",
    "hand or shorter or malformed or bos or (numbers and (piqa or lambada))",
]
JUDGED = ["tests/test_evaluate_cli.py", "-k", "figure or main or panel"]

CLOSED = ["tests/test_editors.py", "-k", "LeastSquares"]
JOINT = ["tests/test_joint.py"]
TARGETS = ["tests/test_editors.py", "-k", "pseudoinverse or solvers"]
APPLIED = ["tests/test_editors.py", "-k", "TestEdit"]
STAMPED = ["tests/test_editors.py", "-k", "TestStamp and (gpt2 or llama)"]
BESIDE = ["tests/test_stamped.py", "-k", "TestBeside and not phi3"]
LOADED = ["tests/test_loaded.py"]
STAYING = ["tests/test_stamped.py", "-k", "TestFolder and bloom"]


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
    fault("repeated rows are kept", "prompts/read.py", "if at == line:", "if True:", *ROWS),
    fault("groups in capitals are groups of their own", "prompts/notes.py",
          'return " ".join(group.split()).casefold()', 'return " ".join(group.split())', *ROWS),
    fault("prompts of any length are taken", "prompts/tokens.py", "context is not None and longest > context",
          "context is not None and longest > 9 * context", *ROWS),
    fault("answers after an apostrophe are told to take a space", "prompts/tokens.py",
          """last.isalnum() or last in ".,;:!?\"""", """last.isalnum() or last in ".,;:!?'\"""", *ROWS),
    fault("a before a vowel", "prompts/build.py", 'right = article[0] + ("n " if an else " ")',
          'right = article[0] + " "', *ROWS),
    fault("loaded: tensors without a place are left out", "model/loaded.py",
          "    if left_out:\n        raise", "    if left_out and absent:\n        raise", *LOADED),
    fault("loaded: numbers that need a scale are taken as they are", "model/weights.py",
          'about["dtype"] not in NUMBERS', 'about["dtype"] in ()', *LOADED),
    fault("loaded: rows padded with a piece they do not hold", "model/likelihood.py",
          "*[row[-1]] * (length - len(row))", "*[PADDING] * (length - len(row))", *LOADED),
    fault("loaded: nan is counted as a logit", "model/finite.py",
          "    if wrong.any():\n        refuse", "    if wrong.all() and False:\n        refuse", *LOADED),
    fault("receipt: tensors gone from the files are not told", "editors/stored.py",
          'told["tied" if name in tied else "gone"].append(name)', "pass", *LOADED),
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
    fault("wrong tensor hooked", "model/hooked.py",
          '"mlp_out": "blocks.{}.hook_mlp_out"', '"mlp_out": "blocks.{}.hook_resid_mid"', *ENGINE),
    fault("attention taken for MLP", "model/hooked.py",
          '"mlp_out": "blocks.{}.hook_mlp_out"', '"mlp_out": "blocks.{}.hook_attn_out"', *ENGINE),
    fault("whole layer written instead of one head", "engine/plain.py",
          "target[... if write.unit is None else write.unit] = value", "target[...] = value", *ENGINE),
    fault("frozen sites read from the source", "engine/plain.py",
          'if write.origin == "source" else', 'if write.origin in ("source", "base") else', *ENGINE),
    fault("probabilities not normalised", "engine/rows.py",
          "model.final_logits(ids).log_softmax(-1)", "model.final_logits(ids)", *ENGINE),
    fault("window starts at its centre", "sites.py",
          "first = site.layer - window // 2", "first = site.layer", *ENGINE),
    fault("severed paths open at the patched layer", "sites.py",
          "for layer in range(first_reader(site, component), n_layers)",
          "for layer in range(site.layer + 1, n_layers)", "tests/test_trace.py", "-k", "severed"),
    fault("severed: a block's MLP taken to come before its attention", "sites.py",
          'before_mlp and component == "mlp_out"', 'before_mlp and component == "attn_out"', *PATHS),
    fault("severed: both freezes attention alone", "sites.py",
          '"both": ("attn_out", "mlp_out")', '"both": ("attn_out",)', *PATHS),
    fault("severed: windows are severed", "tracing/plan.py",
          "severed = self.severed if 1 in widths else ()", "severed = self.severed", *PATHS),
    fault("path figures: sites set to 0 in the map", "tracing/table.py",
          ' & (rows["origin"] == "source") & (rows["name"] == "")]', ' & (rows["name"] == "")]', *PATH_FIGURES),
    fault("path figures: named sets in the map", "tracing/table.py",
          ' & (rows["name"] == "")]', "]", *PATH_FIGURES),
    fault("path figures: direct drawn from severed attention", "report/paths.py",
          '(("", "whole"), ("both", "direct"))', '(("", "whole"), ("attn_out", "direct"))', *PATH_FIGURES),
    fault("path figures: edges of all roles in one map", "report/paths.py",
          '(rows["component"] == PATTERN) & (rows["role"] == role)]', '(rows["component"] == PATTERN)]', *PATH_FIGURES),
    fault("path figures: weakest units first", "report/paths.py",
          'argsort(kind="stable")[::-1]', 'argsort(kind="stable")', *PATH_FIGURES),
    fault("compare: B taken from A", "mediation/change_table.py",
          "b[name] - a[name]", "a[name] - b[name]", *COMPARE),
    fault("compare: intervals of B in place of the change's", "mediation/change_table.py",
          "(found.a, found.b, found.change))\n    result", "(found.a, found.b, found.b))\n    result", *COMPARE),
    fault("compare: models that share few cells accepted", "mediation/change_table.py",
          "LEAST_SHARED = 0.5", "LEAST_SHARED = 0.0", *COMPARE),
    fault("compare: total effects counted by cell", "mediation/change_table.py",
          'first = ~found.a.duplicated(["direction", "pair"])', 'first = ~found.a.duplicated(["pair"])', *COMPARE),
    fault("compare: another corruption accepted", "mediation/matching.py",
          'for name in ("directions", "corruption"):', 'for name in ("directions",):', *COMPARE),
    fault("compare: other answers accepted", "mediation/matching.py",
          "if hashes[0] != hashes[1]:\n        one, other = (trace.meta.get",
          "if False:\n        one, other = (trace.meta.get",
          *COMPARE),
    fault("compare: one model accepted", "mediation/matching.py", "if one == other:", "if one is other:", *COMPARE),
    fault("compare: smallest changes first", "mediation/comparison.py",
          'abs().argsort(kind="stable")[::-1]', 'abs().argsort(kind="stable")', *COMPARE),
    fault("compare: models swapped in the maps", "report/change_maps.py",
          'PANELS = ("a", "b", "change")', 'PANELS = ("b", "a", "change")', *COMPARE),
    fault("compare: change faded by A's q", "report/change_maps.py",
          'return rows.rename(columns={"change": "effect"})',
          'return rows.drop(columns="q").rename(columns={"change": "effect", "q_a": "q"})', *COMPARE),
    fault("attention weights ranked", "mediation/ranking.py",
          '"neuron", "mlp_out_unit")', '"neuron", "mlp_out_unit", "pattern")', *PATH_FIGURES),
    fault("window one layer too long", "sites.py",
          "min(n_layers, first + window)", "min(n_layers, first + window + 1)", "tests/test_trace.py", "-k", "windows"),
    fault("run resumed with another config", "tracing/meta.py",
          '"config_sha256": model.checkpoint.config_sha256,', '"config_sha256": "",', "tests/test_trace.py",
          "-k", "config"),
    fault("one noise for all pairs", "tracing/corrupt.py",
          "default_rng([self.seed, pair.index, sample])", "default_rng([self.seed, 0, sample])",
          "tests/test_identities.py", "-k", "noise"),
    fault("noise on every token", "tracing/corrupt.py",
          "where = subject_positions(pair)", "where = tuple(range(len(pair.clean)))",
          "tests/test_identities.py", "-k", "noise"),
    fault("resumed run reads another chunk", "tracing/folder.py",
          'f"part-{chunk:05d}.parquet"', '"part-00000.parquet"', "tests/test_trace.py", "-k", "interrupted"),
    fault("run resumed with other weights", "tracing/meta.py",
          '"weights_sha256": model.checkpoint.weights_sha256,', '"weights_sha256": "",', "tests/test_trace.py",
          "-k", "other_weights"),
    fault("missing neutral answer measured as another", "tracing/measure.py",
          "if pair.answers[2] is None}", "if pair.answers[2] == -1}", "tests/test_trace.py", "-k", "neutral"),
    fault("sweep: rows start from the source", "engine/sweep/stairs.py",
          "base = torch.tensor([each.base for", "base = torch.tensor([each.source for", *SWEEP),
    fault("sweep: source read at the base's position", "engine/sweep/writes.py",
          'write.source_pos if write.origin == "source" else write.base_pos',
          "write.base_pos", *SWEEP),
    fault("sweep: frozen sites read from the source", "engine/sweep/writes.py",
          'each.source if write.origin == "source" else each.base', "each.source", *SWEEP),
    fault("sweep: first differing token taken for an equal one", "engine/sweep/climbers.py",
          "write.base_pos == write.source_pos < equal", "write.base_pos == write.source_pos <= equal", *SWEEP),
    fault("sweep: noise taken for no difference", "engine/sweep/climbers.py",
          "min([*ends, *one.noised, *other.noised, common])", "min([*ends, common])",
          "tests/test_sweep.py", "-k", "both_engines_are_one and corruption1"),
    fault("sweep: last token's writes left out", "engine/sweep/climbers.py",
          "write.base_pos == n_pos - 1", "write.base_pos == n_pos - 2", *SWEEP),
    fault("sweep: later residual writes left out", "engine/sweep/stairs.py",
          "writes.into_residual(residual, layer, first)", "writes.into_residual(residual, begin[0], first)", *SWEEP),
    fault("sweep: mask of the first queries", "engine/sweep/replay.py",
          "value[:, :, first:end, :end]", "value[:, :, : end - first, :end]", *SWEEP),
    fault("sweep: rotary tables of the first positions", "engine/sweep/replay.py",
          "return value[:, first:end]", "return value[:, : end - first]", *SWEEP),
    fault("sweep: several positions taken for one", "engine/sweep/climbers.py",
          'write.component != "resid_pre" and write.base_pos == first', 'write.component != "resid_pre"', *SWEEP),
    fault("sweep: keys of another run in front", "engine/sweep/bases.py",
          "return keys[base, :, :first], values[base, :, :first]",
          "return keys[:1, :, :first].expand(len(base), -1, -1, -1), values[base, :, :first]", *SWEEP),
    fault("sweep: rows share a carrier at one position", "engine/sweep/entries.py",
          "taken[here] += 1", "taken[here] += 0", *SWEEP),
    fault("sweep: entered at another position", "engine/sweep/stairs.py",
          "residual[enter, 0] = entered.vectors", "residual[enter, -1] = entered.vectors", *SWEEP),
    fault("sweep: entries read off at the first position", "engine/sweep/entries.py",
          "[pos - first for pos in positions]", "[0 for pos in positions]", *SWEEP),
    fault("sweep: answers of the first row's run", "engine/sweep/stairs.py",
          "bases.runs[each.base] for each", "bases.runs[stair[0].base - 1] for each", *SWEEP),
    fault("logits in the order of another vocabulary", "engine/rows.py",
          "model.final_logits(ids, wanted.tolist()), places", "model.final_logits(ids, wanted.tolist()[::-1]), places",
          "tests/test_sweep.py", "-k", "without_probabilities and gpt2"),
    fault("threads: another group's quota counts", "model/threads.py",
          "default=None)", "default=1.0)", "tests/test_threads.py", "-k", "way_up"),
    fault("threads: a quota further up is overlooked", "model/threads.py",
          "for depth in range(len(steps) + 1)]", "for depth in (len(steps),)]",
          "tests/test_threads.py", "-k", "way_up"),
    fault("threads: not put back", "model/threads.py",
          "torch.set_num_threads(before)", "pass", "tests/test_threads.py", "-k", "put_back"),
    fault("forecast: what this thread waited for is not seen", "tracing/forecast.py",
          "return waited > WAITING or ", "return ", "tests/test_forecast.py", "-k", "is_seen"),
    fault("torch's own precision left in force", "engine/sweep/stairs.py",
          "with multiplying(model.dtype, model.device, model.threads):", "if True:",
          "tests/test_sweep.py", "-k", "whatever_torch"),
    fault("estimate: answers swapped", "tracing/gradients.py",
          "(chosen[:, 0] - chosen[:, 1]).sum()", "(chosen[:, 1] - chosen[:, 0]).sum()", *ESTIMATE),
    fault("estimate: source read at the base's position", "tracing/gradients.py",
          "[write.source_pos for _, _, write in writes]", "[write.base_pos for _, _, write in writes]", *ESTIMATE),
    fault("estimate: gradient at the source", "tracing/gradients.py",
          "bases = [runs[base] for base, _ in couples]", "bases = [runs[source] for _, source in couples]", *ESTIMATE),
    fault("estimate: one mixture for the mean of several", "tracing/gradients.py",
          "+ gradient / len(ways)", "+ gradient * (way == ways[0])", *ESTIMATE),
    fault("estimate: edges of another head", "tracing/gradients.py",
          "(index, place, write.unit, write.base_pos, here,", "(index, place, write.unit ^ 1, write.base_pos, here,",
          *EDGES),
    fault("estimate: an edge's source read at the base's key", "tracing/gradients.py",
          "torch.stack(padded)[place, unit, from_pos, there]", "torch.stack(padded)[place, unit, from_pos, here]",
          *EDGES),
    fault("estimate: one edge of each patch", "tracing/gradients.py",
          "for here, there in write.keys\n    ]", "for here, there in write.keys[:1]\n    ]", *EDGES),
    fault("estimate: edges left out are left as they are", "tracing/gradients.py",
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
    fault("planted: sites aside count as others", "planted/judging.py",
          "[place not in aside for place in places]", "[True for place in places]", *PLANTED),
    fault("planted: norms not foreseen", "planted/norms.py",
          "np.sqrt(1 + sum(share**2 for share in sums.values()))", "1.0", *VARIANTS, "-k", "norms"),
    fault("planted: a read-out that never saturates", "planted/weights.py",
          "((readout.low, 1), (readout.high, -1))", "((readout.low, 1), (readout.high, 0))", *VARIANTS,
          "-k", "readout"),
    fault("planted: attention to the subject whatever its feature", "planted/weights.py",
          "(found.written[path.channel], WRITTEN * share) if by_weights else (found.subject, SUBJECT)",
          "(found.subject, SUBJECT)", *VARIANTS, "-k", "weights"),
    fault("planted: distractors are read", "planted/norms.py",
          "    if not path.read:", "    if path.share < 0:", *VARIANTS, "-k", "distractors"),
    fault("planted: an alarm that always sounds", "planted/weights.py",
          "- CALM / (CONSTANT * unit) * found.constant", "+ CALM / (CONSTANT * unit) * found.constant", *VARIANTS,
          "-k", "alarm"),
    fault("planted: ranks backwards", "planted/judging.py",
          'rankdata(sites["size"])', 'rankdata(-sites["size"])', *PLANTED),
    fault("planted: stereotype without its sign", "planted/build.py",
          '{STEREOTYPE: int(sign)} | signs', '{STEREOTYPE: 1} | signs', *PLANTED),
    fault("noise depends on the batch size", "engine/rows.py",
          "changed[place, list(run.noised)] += run.noise.to(changed)",
          "changed[place, list(run.noised)] += run.noise.to(changed) * len(runs)",
          "tests/test_identities.py", "-k", "noise_does_not_depend"),
    fault("stability of signed means", "mediation/averages.py",
          "np.where(drawn > 0, np.abs(means), -1.0)", "np.where(drawn > 0, means, -1.0)",
          "tests/test_averages.py", "-k", "stability"),
    fault("pattern: weights of the base's keys", "engine/plain.py",
          "[key[from_source] for key in write.keys]", "[key[0] for key in write.keys]",
          "tests/test_patterns.py", "-k", "edge and gpt2"),
    fault("sweep: weights of the base's keys", "engine/sweep/writes.py",
          "write.source_pos, write.unit, there, False", "write.source_pos, write.unit, here, False", *SWEEP),
    fault("a whole output written after its numbers", "engine/sweep/writes.py",
          "sorted(self.spots.items(), key=lambda each: each[0])",
          "sorted(self.spots.items(), key=lambda each: each[0], reverse=True)",
          "tests/test_patterns.py", "-k", "whole_output"),
    fault("every run is known to be its own copy", "tracing/audit.py",
          "return replace(run, noised=(0,), noise=torch.zeros(1, model.d_model))", "return run",
          "tests/test_sweep.py", "-k", "wrongly"),
    fault("gradients lost in oneDNN", "model/products.py",
          "if torch.is_grad_enabled() and any(", "if False and any(", "tests/test_gradients.py", "-k", "has_none"),
    fault("controls: shuffled sources of the other kind of run", "study/disturb.py",
          'at = token.clean if direction == "denoising"', 'at = token.clean if direction == "noising"',
          "tests/test_controls.py", "-k", "shuffled"),
    fault("controls: random directions of another length", "study/disturb.py",
          ".norm() / way.norm())", ".norm() / 1.0)", "tests/test_controls.py", "-k", "random_directions"),
    fault("controls: sets compared where they were located", "study/random_sets.py",
          "sample_pairs(prompts, trace, pairs, seed, second)", "sample_pairs(prompts, trace, pairs, seed, first)",
          "tests/test_controls.py", "-k", "beats"),
    fault("controls: p without the located set", "mediation/controls.py",
          "p=float((1 + (rest", "p=float((0 + (rest", "tests/test_controls.py", "-k", "p_of_a_set"),
    fault("measuring: a kept chunk is measured again", "tracing/measure.py",
          "for number in range(len(job.chunks)) if number not in tables]", "for number in range(len(job.chunks))]",
          *LOOP, "-k", "anywhere"),
    fault("measuring: a full disk is a control that could not be run", "tracing/measure.py",
          "except NotKept:\n                raise\n            except LocateError", "except LocateError",
          *LOOP, "-k", "full_disk"),
    fault("measuring: parts of other settings are taken", "tracing/folder.py",
          "if found.get(key) != description.get(key):", "if key not in found:", *LOOP, "-k", "parts_of_other"),
    fault("measuring: finished controls of other settings are taken", "study/trace.py",
          "old is not None and old != asdict(wanted)", "old is None", *LOOP, "-k", "finished_controls"),
    fault("measuring: the untrained model is not checked", "tracing/measure.py",
          "and seed not in self.audits:", "and not self.audits:", *LOOP, "-k", "checked_once"),
    fault("layout: samples are those of the first draw", "tracing/layout.py",
          "clean, corrupted = self.clean, self.corrupted[sample]", "clean, corrupted = self.clean, self.corrupted[0]",
          *LOOP, "-k", "names_the_pair"),
    fault("time left: stages that never came are waited for", "tracing/progress.py",
          "for name in names[: names.index(stage) + 1]:", "for name in [stage]:", *LOOP, "-k", "time_left"),
    fault("forecast: what every try takes is scaled too", "study/forecast.py",
          "(rows - last) * (long - short) / (last - first)", "(rows - last) * long / last", "tests/test_forecast.py",
          "-k", "extended"),
    fault("sets: measured where they were chosen", "study/sets.py",
          "for groups in (first, second)", "for groups in (second, first)", "tests/test_sets.py", "-k", "not_chosen"),
    fault("sets: the circuit is written instead of the rest", "study/sets.py",
          "ranked[size:]) for size in sizes", "ranked[: size + 1]) for size in sizes", "tests/test_sets.py",
          "-k", "faithful"),
    fault("sets: faithfulness of what was left out", "mediation/sets.py",
          "np.where(circuit, 1 - top / bottom, top / bottom)", "top / bottom", "tests/test_sets.py", "-k", "hand"),
    fault("budget: the weakest are measured", "study/budget.py",
          "sizes.sort_values(ascending=False", "sizes.sort_values(ascending=True",
          "tests/test_budget.py", "-k", "strongest"),
    fault("budget: estimates read at each other's positions", "tracing/gradients.py",
          'return (token.corrupted, token.clean) if direction == "denoising"',
          'return (token.corrupted, token.clean) if direction == "noising"', "tests/test_budget.py", "-k", "means"),
    fault("budget: recall of signed effects", "mediation/agreement.py",
          "np.argsort(-np.abs(values), kind", "np.argsort(values, kind", "tests/test_budget.py", "-k", "hand"),
    fault("sign of the metric", "metrics.py",
          "return first - second", "return second - first", "tests/test_metrics.py"),
    fault("neutral answer taken for the male one", "metrics.py",
          'answers=("neutral", "male")', 'answers=("male", "neutral")', "tests/test_metrics.py", "-k", "hand"),
    fault("answers of a metric not read", "mediation/effect_table.py",
          "first, second = (table[f\"{run}_{answer}\"].to_numpy() for answer in metric.answers)",
          'first, second = table[f"{run}_female"].to_numpy(), table[f"{run}_male"].to_numpy()',
          "tests/test_metrics.py", "-k", "hand"),
    fault("pairs that lack an answer counted out in silence", "mediation/effect_table.py",
          "if missing.any():", "if missing.all():", "tests/test_metrics.py", "-k", "refused"),
    fault("first answer not named", "metrics.py",
          'f"towards the {metric.answers[0]} answer"', '"towards the female answer"',
          "tests/test_metrics.py", "-k", "positive"),
    fault("rounding: embeddings rounded too", "../experiments/rounding/run.py",
          'weights.ndim == 2 and ".layers." in name', "weights.ndim == 2",
          "tests/test_smollm2_page.py", "-k", "compares"),
    fault("rounding: the rounded model is not the one traced", "../experiments/rounding/run.py",
          "weights[name] = round_to(tensor, kind)", "weights[name] = tensor",
          "tests/test_smollm2_page.py", "-k", "compares"),
    fault("rounding: a step too many in a block", "../experiments/rounding/run.py",
          "BLOCK, STEPS = 32, 15", "BLOCK, STEPS = 32, 16", "tests/test_smollm2_page.py", "-k", "first_rounding"),
    fault("neutral answer of the user's pairs not looked for", "cli/options.py",
          "sum(pair.neutral is None for", "sum(pair.neutral is not None for", "tests/test_cli.py", "-k", "neutral"),
    fault("total effect backwards", "mediation/effect_table.py",
          'effect(rows["source"].to_numpy(), rows["base"].to_numpy())',
          'effect(rows["base"].to_numpy(), rows["source"].to_numpy())', "tests/test_effects.py"),
    fault("direct effect from its own direction", "mediation/effect_table.py",
          "found[2 * place + 1 - direction]", "found[2 * place + direction]", "tests/test_effects.py"),
    fault("stereotype sign lost", "mediation/effect_table.py",
          "rows[run] = y * sign if", "rows[run] = y * np.abs(sign) if", "tests/test_effects.py"),
    fault("sign lost in an absolute value", "mediation/averages.py",
          'result["effect"] = groups.estimate', 'result["effect"] = np.abs(groups.estimate)', "tests/test_averages.py"),
    fault("bootstrap over prompts instead of groups", "mediation/averages.py",
          'number_rows(effects.iloc[first], ["group"])', 'number_rows(effects.iloc[first], ["pair"])',
          "tests/test_averages.py"),
    fault("q not corrected", "mediation/averages.py",
          'false_discovery_control(rows["p"].to_numpy()[places])', 'rows["p"].to_numpy()[places]',
          "tests/test_averages.py"),
    fault("q over both directions at once", "mediation/averages.py",
          'rows.groupby("direction", observed=True, sort=False)', 'rows.groupby("unit", observed=True, sort=False)',
          *INTERVALS),
    fault("percentiles not widened for few groups", "mediation/resampling.py",
          "axis=0) * student / stats.norm.ppf(1 - tail)", "axis=0)", "tests/test_averages.py"),
    fault("ends of the bootstrap-t swapped", "mediation/resampling.py",
          "least, most = np.quantile(pivots(found)", "most, least = -np.quantile(pivots(found)",
          "tests/test_averages.py"),
    fault("noise within pairs counted as templates'", "mediation/resampling.py",
          "(templates.plain - noise) / templates.plain, 0, 1", "templates.plain / templates.plain, 0, 1", *INTERVALS),
    fault("templates not resampled", "mediation/resampling.py",
          "np.clip((templates.plain - noise)", "0 * np.clip((templates.plain - noise)", *INTERVALS),
    fault("observed signs not counted among the draws", "mediation/permutation.py",
          "(reached(signs, sums) + 1) / (samples + 1)", "reached(signs, sums) / samples", *INTERVALS),
    fault("sizes rounded up when they are counted", "mediation/permutation.py",
          "np.floor(sizes * (STEPS / most))", "np.ceil(sizes * (STEPS / most))", *INTERVALS),
    fault("p one-sided", "mediation/permutation.py",
          "min(1.0, 2 * float(share.sum()))", "min(1.0, float(share.sum()))", *INTERVALS),
    fault("occupations and definitions averaged together", "mediation/effect_table.py",
          "default_kind(table) if kind is None", "EVERY if kind is None", *LEANING),
    fault("kinds swapped", "mediation/selectivity_table.py",
          'KINDS = {"stereotype": OCCUPATION, "definition": DEFINITION}',
          'KINDS = {"stereotype": DEFINITION, "definition": OCCUPATION}', *LEANING),
    fault("selectivity of sizes, not of squares", "mediation/selectivity_table.py",
          "return np.cos(2 * angle)", "return 1 - 4 * np.arctan(np.abs(np.tan(angle))) / np.pi", *LEANING),
    fault("selectivity where neither effect is there", "mediation/selectivity_table.py",
          'result.loc[~there, ["selectivity"', 'result.loc[there & ~there, ["selectivity"', *LEANING),
    fault("an open sign does not reach the end", "mediation/selectivity_table.py",
          "np.where(holds(0.0), 1.0, ends.max(0))", "ends.max(0)", *LEANING),
    fault("definition's error left out", "mediation/selectivity_table.py",
          "d**2 - (c * second.error) ** 2", "d**2 - (0 * second.error) ** 2", *LEANING),
    fault("ranked sites carry another site's selectivity", "mediation/ranking.py",
          "leanings.get(tuple(row[name] for name in ROW))", "next(iter(leanings.values()), None)", *LEANING),
    fault("scores swapped", "mediation/regression.py",
          'table = scores.set_index("word")[list(SCORES)]', 'table = scores.set_index("word")[list(SCORES[::-1])]',
          "tests/test_regression.py"),
    fault("no intercept", "mediation/regression.py",
          "design = np.column_stack([x, np.ones(len(x))])", "design = np.column_stack([x, np.eye(len(x))[0]])",
          "tests/test_regression.py"),
    fault("prompts counted instead of words", "mediation/regression.py",
          'pairs.groupby([*ROW, "group"], sort=False, observed=True).mean()',
          'pairs.groupby([*ROW, "group"], sort=False, observed=True).sum()', "tests/test_regression.py"),
    fault("collinear scores taken", "mediation/regression.py",
          "return bool(sizes[-1] < COLLINEAR * sizes[0])", "return False", "tests/test_regression.py"),
    fault("ranking drops the threshold", "mediation/ranking.py",
          '(means["q"] <= THRESHOLD)', '(means["q"] <= 1)', "tests/test_located.py"),
    fault("the wrong cells faded", "report/figures.py",
          "(q <= THRESHOLD), np.nan", "(q > THRESHOLD), np.nan", "tests/test_report.py"),
    fault("data: pronoun's gender not compared with its file", "evaluation/winobias_data.py",
          "if sentence.gender != side * signs[sentence.occupation]:", "if False:", "tests/test_datasets.py"),
    fault("data: continuations on the wrong sides", "evaluation/winobias_data.py",
          "key=lambda each: -each.gender", "key=lambda each: each.gender", "tests/test_datasets.py"),
    fault("data: winogender's sides do not turn with the occupation", "evaluation/winogender_data.py",
          "    if not female:", "    if female:", "tests/test_datasets.py"),
    fault("data: scores keep the published sign", "evaluation/professions_data.py",
          "0.0 - definitional, 0.0 - stereotypical", "definitional, stereotypical", "tests/test_datasets.py"),
    fault("data: a changed file is read", "evaluation/published.py",
          "if published and found != PUBLISHED[name][0]:", "if False:", "tests/test_datasets.py"),
    fault("data: swap with the leaning", "evaluation/professions_data.py",
          '(1 if swap == "same" else -1)', '(-1 if swap == "same" else 1)', "tests/test_datasets.py"),
    fault("replications: heads attend as in their own run", f"{REPLICATIONS}/attention.py",
          "[layer[1 - base] for layer in weights]", "[layer[base] for layer in weights]", *HEADS),
    fault("replications: all heads of the layer written", f"{REPLICATIONS}/attention.py",
          "changed[rows, heads, :own, :own] = source[layer][heads]",
          "changed[rows, :, :own, :own] = source[layer]", *HEADS),
    fault("replications: first token of a continuation not scored", f"{REPLICATIONS}/attention.py",
          "[:, len(prompt) - 1 :]", "[:, len(prompt) - 1 :].roll(1, 1)", *HEADS),
    fault("replications: odds the other way up", f"{REPLICATIONS}/vig_heads.py",
          "np.exp(logs[..., 1] - logs[..., 0])", "np.exp(logs[..., 0] - logs[..., 1])", *RULES),
    fault("replications: filter keeps the quantile itself", f"{REPLICATIONS}/vig_heads.py",
          "(ratios > np.quantile(ratios[aligned], quantile))", "(ratios >= np.quantile(ratios, quantile))", *RULES),
    fault("replications: halves swapped", f"{REPLICATIONS}/rules.py",
          "halves[::-1] if upper else halves", "halves if upper else halves[::-1]", *RULES),
    fault("replications: middle layer in a half", f"{REPLICATIONS}/rules.py",
          "layer < n_layers // 2, layer >=", "layer <= n_layers // 2, layer >=", *RULES),
    fault("replications: heads chosen where they are measured", f"{REPLICATIONS}/rules.py",
          "draws(effects[inside], cells), draws(", "draws(effects[~inside], cells), draws(", *RULES),
    fault("replications: pairs resampled instead of groups", f"{REPLICATIONS}/rules.py",
          'pd.factorize(pairs["group"])', 'pd.factorize(pairs["pair"])', *RULES),
    fault("replications: verdict without its interval", f"{REPLICATIONS}/rules.py",
          "estimate.low > bound:", "estimate.value > bound:", *RULES),
    fault("replications: severed kinds swapped", f"{REPLICATIONS}/rome.py",
          "means[..., ~mlp].mean(-1) - means[..., mlp].mean(-1)",
          "means[..., mlp].mean(-1) - means[..., ~mlp].mean(-1)", *RULES),
    fault("replications: total effect with the stereotype", f"{REPLICATIONS}/vig_neurons.py",
          "against = np.where(sign > 0, plain - man,", "against = np.where(sign < 0, plain - man,",
          "tests/test_replications.py", "-k", "both_readings"),
    fault("prompts not escaped", "report/figures.py",
          'return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")', "return text",
          "tests/test_report.py"),
    fault("judged: a token scored twice", "evaluation/perplexity.py",
          "piece = ids[first : first + length + 1]", "piece = ids[max(first - 1, 0) : first + length + 1]",
          *PERPLEXITY),
    fault("judged: perplexity turned round", "evaluation/perplexity.py",
          'before["log_likelihood"].to_numpy(dtype=float) - after',
          '2 * after["log_likelihood"].to_numpy(dtype=float) - before["log_likelihood"].to_numpy(dtype=float) - after',
          *PERPLEXITY),
    fault("texts: a second BOS", "model/encoder.py",
          "if self.before and tuple(ids[: len(self.before)]) == self.before:", "if False:", *READING),
    fault("texts: what the tokenizer puts in front left out", "model/encoder.py",
          "return Encoder(tokenizer, before, bos,", "return Encoder(tokenizer, (), bos,", *READING),
    fault("texts: the tokenizer's own file not looked at", "model/loading.py",
          "found = first_difference(tokenizer, folder)", "found = None", *READING),
    fault("texts: ids beyond the embedding accepted", "model/encoder.py",
          "    if ordinary:", "    if False:", *READING),
    fault("texts: prompts longer than the context are run", "model/likelihood.py",
          "if len(row) + room > model.context:", "if False:", *READING),
    fault("texts: dynamic positions are not stretched", "model/encoder.py",
          'if kind in ("linear", "dynamic"):', 'if kind == "linear":', *READING),
    fault("judged: BOS where the harness has none", "evaluation/ability.py",
          "encoder_of(model.encoder.tokenizer)", "model.encoder", *ABILITY),
    fault("judged: right answer's place off by one", "evaluation/forms.py",
          '"answerKey": labels[row["label"]]', '"answerKey": labels[row["label"] - 1]', *ABILITY),
    fault("judged: BLiMP resampled pair by pair", "evaluation/ability.py",
          'if table["task"].nunique() > 1 else', 'if table["task"].nunique() > 9 else', *ABILITY),
    fault("judged: weights in memory not looked at", "evaluation/run.py",
          "digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)", "pass",
          *EVALUATION),
    fault("judged: a stopped run forgets what it took over", "evaluation/run.py",
          'meta["tests"] = dict(found.meta["tests"])', "found.tables.clear()", *EVALUATION),
    fault("judged: the sample ignores its seed", "evaluation/tests.py",
          "np.random.default_rng([seed, int(", "np.random.default_rng([0, int(", *EVALUATION),
    fault("judged: jackknife too narrow", "evaluation/change.py",
          "math.sqrt((blocks - 1) / blocks * (deviations", "math.sqrt(1 / blocks * (deviations", *EVALUATION),
    fault("judged: change of two samples from the wrong ends", "evaluation/change.py",
          "after.value - after.low, before.high - before.value", "after.high - after.value, before.high - before.value",
          *EVALUATION),
    fault("judged: noise drawn as change", "report/evaluation.py",
          "1.0 if change.within_noise is False else FADED", "1.0 if change.within_noise else FADED", *JUDGED),
    fault("judged: stereoset averages items instead of terms", "evaluation/stereoset.py",
          '.groupby("target").mean()', '.groupby("target").transform("mean")', *PAIRS),
    fault("judged: stereoset's tie wins", "evaluation/stereoset.py",
          "(stereotype > anti) * 100.0", "(stereotype >= anti) * 100.0", *PAIRS),
    fault("judged: next sentence without its space", "evaluation/stereoset.py",
          'f" {text.lstrip()}"', "text.lstrip()", *PAIRS),
    fault("judged: sums of tokens compared", "evaluation/stereoset.py",
          "    if per_token:", "    if not per_token:", *PAIRS),
    fault("judged: a tie is a win", "evaluation/paired.py",
          "wins, ties = rows[first] > rows[second]", "wins, ties = rows[first] >= rows[second]", *PAIRS),
    fault("judged: too long a text is scored", "evaluation/paired.py",
          "if 0 < count <= model.context]", "if 0 < count <= 2 * model.context]", *PAIRS),
    fault("judged: pro is always the female sentence", "evaluation/winobias.py",
          'female = table["stereotype"] > 0', 'female = table["stereotype"] != 0', *PAIRS),
    fault("judged: correlation over sentences", "evaluation/winogender.py",
          'odds.groupby("occupation").mean()', 'odds.groupby(odds.index)[["odds", "share"]].mean()',
          "tests/test_evaluate_pairs.py", "-k", "correlation"),
    fault("judged: the user's stereotype is not turned", "evaluation/sentences.py",
          'stereotyped["stereotype"].where(stereotyped["form"] != MORE, 1) < 0',
          'stereotyped["stereotype"].where(stereotyped["form"] != MORE, 1) > 1', *PAIRS),
    fault("judged: more male originals weigh more", "evaluation/gap.py",
          "(means[1] - means[-1]) / 2 +", "(gender * gaps).mean() +", "tests/test_evaluate_pairs.py", "-k", "flipping"),
    fault("judged: sign of occupations' log-odds", "evaluation/occupations.py",
          'rows = table.assign(odds=table["she"] - table["he"])',
          'rows = table.assign(odds=table["he"] - table["she"])', *WORDS),
    fault("judged: not centred", "evaluation/occupations.py",
          'odds=means["odds"] - means["odds"].mean()', 'odds=means["odds"] - 0 * means["odds"].mean()', *WORDS),
    fault("judged: held-out words in the editor's templates", "evaluation/occupations.py",
          "rows[~seen & ~form]", "rows[~seen & form]", *WORDS),
    fault("judged: kept among all definitions", "evaluation/occupations.py",
          'right = (was["odds"] * was["stereotype"] > 0)', 'right = (was["odds"] * was["stereotype"] > -99)', *WORDS),
    fault("judged: rows of before and after not matched", "evaluation/occupations.py",
          "both[1].loc[both[0].index].reset_index()", "both[1].reset_index()", *WORDS),
    fault("read: slot filled the other way round", "evaluation/sentences_data.py",
          "zip(FORMS[GENDER], words, strict=True)", "zip(FORMS[GENDER], words[::-1], strict=True)",
          "tests/test_read_sets.py"),
    fault("read: sent_more and sent_less swapped", "evaluation/crows_pairs_data.py",
          "more, less, direction, domain = (", "less, more, direction, domain = (", "tests/test_read_sets.py"),
    fault("own sentences: what the original does not tell apart counts", "evaluation/biaske.py",
          "made = old[old.abs() == 1]", "made = old[old.abs() <= 1]", *KEPT),
    fault("own sentences: pairs scored for their paraphrases", "evaluation/biaske.py",
          'for kind, name in (("pairs", "ss"), ("paraphrases", "ps")):',
          'for kind, name in (("pairs", "ss"), ("pairs", "ps")):', *KEPT),
    fault("own sentences: log-odds of the stereotype, not of gender", "evaluation/biaske.py",
          'female = pairs["group"] == "female"', 'female = pairs["group"] != ""', *KEPT),
    fault("own sentences: a sentence may come twice", "evaluation/biaske.py", "seen |= own", "seen |= set()", *KEPT),
    fault("BEC-Pro: prior of the other gender", "evaluation/bec_pro.py",
          'woman=table["female"] - table["female_prior"]', 'woman=table["female"] - table["male_prior"]', *SETS),
    fault("BEC-Pro: correlation over couples", "evaluation/bec_pro.py",
          'whole.assign(association=odds).groupby("profession")',
          'whole.assign(association=odds, couple=range(len(whole))).groupby("couple")', *SETS),
    fault("BBQ: polarity forgotten", "evaluation/bbq.py",
          '((kept["choice"] == kept["target"]) == kept["negative"])', '(kept["choice"] == kept["target"])', *SETS),
    fault("BBQ: ambiguous bias without its accuracy", "evaluation/bbq.py",
          'if not part.startswith("ambiguous"):', "if True:", *SETS),
    fault("BBQ: a tie is the first answer", "evaluation/bbq.py",
          "(values == best).sum(axis=1) == 1", "(values == best).sum(axis=1) >= 1", *SETS),
    fault("SEAT: deviation of the population", "evaluation/seat.py",
          "np.concatenate([x, y]).std(ddof=1)", "np.concatenate([x, y]).std(ddof=0)", *SETS),
    fault("SEAT: sentences resampled", "evaluation/seat.py",
          "codes, names = pd.factorize(terms)", "codes, names = pd.factorize(np.arange(len(terms)))", *SETS),
    fault("SEAT: the given division is not counted", "evaluation/seat.py",
          "return float((1 + (values", "return float((0 + (values", *SETS),
    fault("written: an empty text has no word of the other gender", "evaluation/generation.py",
          '("opposite", other, ~empty, None, "bias")', '("opposite", other, whole, None, "bias")', *WRITTEN),
    fault("written: parts of words name occupations", "evaluation/generation.py",
          r'rf"\b({names})s?\b"', 'rf"({names})"', *WRITTEN),
    fault("written: the last occupation counts", "evaluation/generation.py",
          "found = pattern.search(text.lower())",
          "found = ([*pattern.finditer(text.lower())] or [None])[-1]", *WRITTEN),

    fault("experiments: an edit's row written before its words", f"{AGAINST}/kept.py",
          "kept.words = kept.words[pd.MultiIndex.from_frame(kept.words[KEY]).isin(done)]", "pass", *EXPERIMENTS),
    fault("experiments: another recipe goes on", f"{AGAINST}/kept.py",
          "if old.get(name) != recipe.get(name):", "if name not in recipe:", *EXPERIMENTS),
    fault("experiments: edits by other code go on", f"{AGAINST}/run.py",
          '"code_sha256": code_sha256(DECIDING),', "", *EXPERIMENTS),
    fault("experiments: rows in the order in which they were finished", f"{AGAINST}/kept.py",
          '.sort_values(KEY, kind="stable", ignore_index=True)', "", *EXPERIMENTS),
    fault("experiments: names and gendered words before the pronoun", f"{TABLE}/natural.py",
          "if gendered.search(others) or NAME.search(others):", "if False:", *EXPERIMENTS),
    fault("experiments: the pronoun itself is read before it is asked for", f"{TABLE}/natural.py",
          'rows.append({"context": before.strip()', 'rows.append({"context": sentence', *EXPERIMENTS),
    fault("experiments: ranks of ties by their order", f"{AGAINST}/ranks.py",
          "ranks = [rankdata(each, axis=-1)", 'ranks = [rankdata(each, "ordinal", axis=-1)', *EXPERIMENTS),
    fault("experiments: orders as large as this one left out", f"{AGAINST}/ranks.py",
          "abs(found) - 1e-12", "abs(found) + 1e-12", *EXPERIMENTS),
    fault("experiments: drawn occupations count once", f"{AGAINST}/ranks.py",
          "drawn = weights[list(above.index)].to_numpy(dtype=float)",
          "drawn = weights[list(above.index)].clip(upper=1).to_numpy(dtype=float)", *EXPERIMENTS),
    fault("experiments: random sets of any size", f"{AGAINST}/ranks.py",
          'alike = own[own["size"] == chosen.count("+") + 1]', "alike = own", *EXPERIMENTS),
    fault("experiments: a change is bold whatever its interval", f"{TABLE}/assembly.py",
          "and not ends[0] <= 0 <= ends[1]", "and ends[0] <= ends[1]", *EXPERIMENTS),
    fault("experiments: originals that differ go unseen", f"{TABLE}/assembly.py",
          "if (unlike > 1).any():", "if (unlike > 2).any():", *EXPERIMENTS),
    fault("edits: preserved keys left out of the closed form", "editors/lsdm.py",
          "keys @ keys.T + fixed @ fixed.T + moment", "keys @ keys.T + moment", *CLOSED),
    fault("edits: lambda left out", "editors/lsdm.py",
          "keys @ keys.T + fixed @ fixed.T + moment", "keys @ keys.T + fixed @ fixed.T", *CLOSED),
    fault("evaluation: a share that all win is certain", "evaluation/scores.py",
          "if mean in (0.0, 100.0):", "if False:", "tests/test_evaluate_run.py", "-k", "clopper"),
    fault("edits: a setting that is not used is taken in silence", "editors/lsdm.py",
          'unused = "values" if', 'unused = "roles" if', "tests/test_joint.py", "-k", "bad_settings"),
    fault("edits: definitional words are to become equal too", "editors/lsdm.py",
          "goal[edited:] = here.odds[edited:]", "goal[edited:] = 0", *JOINT),
    fault("edits: each round starts from the last one's log-odds alone", "editors/lsdm.py",
          "goal - here.odds + here.response(current_changes(parts))", "goal - here.odds", *JOINT),
    fault("edits: the weight of preserved prompts turned over", "editors/joint.py",
          "gram = torch.diag(1 / weights)", "gram = torch.diag(weights)", *JOINT),
    fault("edits: roles of a prompt kept apart", "editors/joint.py",
          'products, "(reading role)',
          'products * torch.eye(roles).repeat(len(wanted), len(wanted)).to(products), "(reading role)', *JOINT),
    fault("edits: a token of two roles counts twice", "editors/joint.py",
          "slope.double() * counts.to(slope.device)", "slope.double()", *JOINT),
    fault("edits: a change costs the same in any stream", "editors/lsdm.py",
          "name: self.weight / work.sizes[block] * floor", "name: self.weight / 5e3 * floor", *JOINT),
    fault("edits: the stream's size is its largest token's", "editors/covariance.py",
          "state.double().pow(2).sum(-1).median()", "state.double().pow(2).sum(-1).max()",
          "tests/test_editors.py", "-k", "median"),
    fault("edits: a beginning that only some share", "model/beginnings.py",
          "same.cumprod(0).sum()", "same.sum()", "tests/test_beginnings.py"),
    fault("edits: a kept edit of other prompts is taken up", "editors/unfinished.py",
          "for some in (fitting.edited, fitting.preserved)]", "for some in ((), ())]", "tests/test_own_editor.py"),
    fault("evaluation: another model's measurement is taken", "evaluation/kept.py",
          '"network": network_hash(model),', '"network": model.name,',
          "tests/test_evaluate_run.py", "-k", "MeasuredOnce"),
    fault("evaluation: unseen forms are those that editors see", "evaluation/elsewhere.py",
          'for kind, forms in table(FORMS).groupby("kind", sort=False)["form"]:',
          'for kind, forms in [("", table(FORMS)["form"].map(lambda form: "The {subject} said that"))]:',
          "tests/test_elsewhere.py"),
    fault("writing: tokens drawn one too far", "model/writing.py",
          "drawn.to(below)[:, None] * below", "0.9 * drawn.to(below)[:, None] * below", "tests/test_writing.py"),
    fault("evaluation: a padded row is read at the batch's end", "model/likelihood.py",
          "[lengths.index(len(row)) for row in rows]", "[len(lengths) - 1 for row in rows]",
          "tests/test_likelihood.py"),
    fault("edits: units that text never reaches are free", "editors/lsdm.py",
          "return moment + FLOOR", "return moment + 0", *JOINT),
    fault("edits: v* away from the answers", "editors/values.py",
          "return -slopes.T @ torch.linalg.solve(", "return slopes.T @ torch.linalg.solve(", *TARGETS),
    fault("edits: linearised around nothing", "editors/values.py",
          "wanted = odds - slopes @ delta", "wanted = odds", *TARGETS),
    fault("edits: keys read at the last token", "editors/readings.py",
          "roles.index(LAST_SUBJECT), (answers", "len(ids) - 1, (answers", "tests/test_editors.py", "-k", "several"),
    fault("edits: the original does not come back", "editors/edit.py",
          "parameters[name].data = tensor", "parameters[name].data = tensor + 1e-6", *APPLIED),
    fault("edits: another model is edited", "editors/edit.py",
          "if asked != found:", "if False:", *APPLIED),
    fault("edits: a covariance of other text is taken", "editors/covariance.py",
          "name, list(rows), model.dtype", "name, model.dtype", "tests/test_editors.py", "-k", "second_moment"),
    fault("edits: gate and factor exchanged", "model/stamp.py",
          "return [gates[0], next(each for each in found if each is not gates[0])]",
          "return [next(each for each in found if each is not gates[0]), gates[0]]", *STAMPED),
    fault("edits: stamp's values scaled", "editors/stamp.py",
          "pad_rows(stamp.values.T, more).T", "2 * pad_rows(stamp.values.T, more).T", *STAMPED),
    fault("stamps: another gelu than BLOOM's", "model/matrices.py", "return own[0]", "return torch.nn.GELU()", *BESIDE),
    fault("stamps: one in memory is not in the network's hash", "evaluation/run.py",
          "(model.network.state_dict() | stamp_tensors(model.network))", "model.network.state_dict()", *BESIDE),
    fault("stamps: not in the weights' hash", "model/checkpoint.py",
          "for extra in (found.stamps, None", "for extra in (None, None", *STAYING),
    fault("stamps: left out by the loader", "model/causal.py", "stamp.stay(network)", "stamp.about()", *STAYING),
    fault("stamps: the model without it where Hugging Face loads it", "editors/receipt.py",
          "write_checkpoint(model.network, model, place / UNSTAMPED)",
          "write_checkpoint(model.network, model, place)", *STAYING),
    fault("stamps: save_pretrained leaves it out", "model/stamp.py",
          "network.save_pretrained = refuse_saving", "network.saved = refuse_saving", *STAYING),
    fault("stamps: a width that is not read is folded into", "model/matrices.py",
          "return all(matrix(built, name).shape[1] == matrix(network, name).shape[1] + more for name in names)",
          "return True", "tests/test_stamped.py", "-k", "is_no_width"),
    fault("gguf: what the loader leaves out is not seen", "model/gguf_file.py",
          "    if unread:\n", "    if False:\n", "tests/test_gguf.py", "-k", "without_a_place"),
    fault("gguf: the header's settings are not followed", "model/gguf_file.py",
          "    apply_header(path, about, config)\n", "", "tests/test_gguf.py", "-k", "settings"),
    fault("adapters: a tied head changes with the embedding", "model/adapters.py",
          "untie(wrapped.get_base_model())", "pass", "tests/test_adapters.py", "-k", "tied"),
    fault("adapters: one that fits in part is merged", "model/adapters.py",
          "check_tensors(wrapped, kept, folder)", "pass", "tests/test_adapters.py", "-k", "one_line"),
    fault("edits: KL of the wrong way", "editors/fast.py",
          "found = (before.exp() * (before - after)).sum(-1)", "found = (after.exp() * (after - before)).sum(-1)",
          "tests/test_editors.py", "-k", "divergence"),
    fault("edits: a stale located.json is taken", "editors/handoff.py",
          'SAME = ("weights_sha256", "tokenizer_sha256", "prepend_bos")', 'SAME = ("tokenizer_sha256", "prepend_bos")',
          "tests/test_editors.py", "-k", "HandOff"),
    fault("edits: held-out words are fitted", "editors/split.py",
          "parts.append((tuple(order[count:]), tuple(order[:count])))",
          "parts.append((tuple(order), tuple(order[:count])))", "tests/test_editors.py", "-k", "Split"),
    fault("edits: other tensors may change", "editors/receipt.py",
          "elif name not in allowed:", "elif False:", "tests/test_receipt.py", "-k", "does_not_name"),
    fault("edits: no effect is no error", "editors/receipt.py",
          "if moved < NOTHING:", "if False:", "tests/test_receipt.py", "-k", "without_effect"),
    fault("baselines: DAMA adds its directions", "editors/dama.py",
          "left, right = -basis, basis.T @ layer.weight", "left, right = basis, basis.T @ layer.weight", *BASELINES),
    fault("baselines: DAMA's directions explain one another", "editors/dama.py",
          "left = left - torch.outer(score, left.T @ score / length)", "left = left - 0 * score[:, None]", *BASELINES),
    fault("baselines: DAMA's keys whitened without the text", "editors/dama.py",
          "system = keys.T @ keys + moment", "system = keys.T @ keys + 0 * moment", *BASELINES),
    fault("baselines: fine-tuning's difference rounded", "editors/finetune.py",
          "Change((after.double() - before.detach().double(),))", "Change((after - before.detach(),))", *BASELINES),
    fault("baselines: erasure without the bias", "editors/erase.py",
          "if layer.module.bias is not None:", "if layer.module.bias is None:", *BASELINES),
    fault("baselines: erasure forgets the bias that was there", "editors/erase.py",
          "Change((left @ (right @ (mean - bias)),))", "Change((left @ (right @ mean),))", *BASELINES),
    fault("baselines: random layers among the located", "editors/control.py",
          "if layer not in {*located.layers, *exclude}]", "if layer not in {*exclude}]", *BASELINES),
    fault("baselines: random twin of another size", "editors/control.py",
          "left = random_directions(rows, len(sizes), stream) * sizes",
          "left = random_directions(rows, len(sizes), stream)",
          *BASELINES),
    fault("baselines: MIB's scores not turned", "editors/exports.py",
          "return 1 if mean > 0 else -1", "return 1", *BASELINES),
    fault("baselines: MIB's unscored nodes let through", "editors/exports.py",
          "if name not in scores]", "if name in ()]", *BASELINES),
    fault("baselines: the head named where it is tied", "editors/exports.py",
          'return found[0].removesuffix(".weight")', 'return "lm_head"', *BASELINES),
]  # fmt: skip


def copy_project(target: Path) -> None:
    """The package, its tests and settings; the large model files and the shared data only as links."""
    shutil.copytree(ROOT / "locate", target / "locate", ignore=shutil.ignore_patterns("mini", "__pycache__"))
    (target / "locate" / "mini").symlink_to(ROOT / "locate" / "mini")
    shutil.copytree(ROOT / "tests", target / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("replications", "locate_vs_edit", "lsdm_table", "rounding"):
        shutil.copytree(ROOT / "experiments" / name, target / "experiments" / name)
    shutil.copy(ROOT / "experiments" / "editing.py", target / "experiments")
    shutil.copy(ROOT / "pyproject.toml", target)
    (target / "figures").symlink_to(ROOT / "figures")
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("word", nargs="?", default="", help="only the faults whose name holds it")
    parser.add_argument("--sample", type=int, help="only so many of them, drawn anew for every commit")
    options = parser.parse_args()
    chosen = [planted for planted in FAULTS if options.word in planted.name]
    if options.sample is not None and options.sample < len(chosen):
        chosen = random.Random(commit()).sample(chosen, options.sample)
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


def commit() -> str:
    """The commit that is tested, so that its sample is the same for everybody and the next commit's another."""
    return subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout


def tried(copies: Queue[Path], planted: Fault) -> bool:
    """Whether a fault is found, in whichever copy is free."""
    target = copies.get()
    found = noticed(target, planted)
    copies.put(target)
    print(f"{'found ' if found else 'UNSEEN'}  {planted.name}", flush=True)
    return found


if __name__ == "__main__":
    main()
