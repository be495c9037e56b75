"""Every number that README and docs/ tell, derived again from the tables, results and receipts that are committed.

A function `told_*` gives the phrases that one group of files says. Each must stand in the pages; and where all these
phrases are taken out of the pages, no number that was measured is left.
"""

import inspect
import json
import re

import numpy as np
import pandas as pd
import pytest
from pages import PAGES, ROOT, without_code

from locate.claims import BEAT, SILENT
from locate.explorer.server import HOST
from locate.mediation.located import THRESHOLD
from locate.report.page.map_data import MOST_BYTES
from locate.rewriting.originals import read_originals
from locate.training.guards import Guards
from locate.workers.pool import TRIES

FIGURES, EXPERIMENTS = ROOT / "figures", ROOT / "experiments"
TOLD = " ".join(without_code(page) for page in PAGES)

NAMES = {"attn_out": "attention output", "mlp_out": "MLP output"}
PLACES = {"subject_last": "last token of the occupation", "last": "last token of the prompt"}
KINDS = {
    "plain": "plain",
    "vote": "three paths, two decide",
    "backup": "a backup repairs",
    "or": "either of two suffices",
    "saturated": "saturated read-out",
    "attention": "carried by where a head attends",
    "alarm": "noise drowns the word",
    "distractors": "distractors larger than the path",
    "background": "loud background, weak paths",
    "spread": "spread over four MLPs",
    "definition": "swapped with *woman*, *man*",
}
METHODS = (
    "exact patching, swap, denoising",
    "exact patching, noise (ROME)",
    "integrated gradients, swap",
    "attribution patching, swap",
)


def table_of(name):
    return pd.read_csv(FIGURES / f"{name}.csv", keep_default_na=False)


def read(path):
    return json.loads(path.read_text())


def with_ends(effect, low, high):
    return f"{effect:+.2f} [{low:+.2f}, {high:+.2f}]"


def unsigned(effect, low, high):
    return f"{effect:.2f} [{low:.2f}, {high:.2f}]"


def percent(score, form=".0f"):
    return f"{score['value']:{form}} % [{score['low']:{form}}, {score['high']:{form}}]"


def ends(shares):
    """From the smallest to the largest, each rounded half up."""
    return f"{np.floor(shares.min() + 0.5):.0f} to {np.floor(shares.max() + 0.5):.0f} %"


def only(rows):
    (row,) = rows.to_dict("records")
    return row


def told_of_quantised_models():
    whole, *packed = table_of("quantised").to_dict("records")
    form = "{} nats | {} nats | {:.3f} |"
    yield f"over all {whole['rows']:,} rows"
    yield f"effects, rms apart (of {whole['effects, rms (nats)']:.3f} nats)"
    yield f"| whole | {whole['weights (MiB)']:.0f} MiB |"
    for row in packed:
        logs, apart = row["log-probabilities apart, rms (nats)"], row["effects apart, rms (nats)"]
        yield f"| {row['bits']} bits | {row['weights (MiB)']:.0f} MiB | " + form.format(
            f"{logs:.3f}", f"{apart:.3f}", row["correlation of effects"]
        )
    eight, four = packed
    shared = "strongest sites shared"
    yield f"In 8 bits {eight[shared]} of the {whole[shared]} strongest sites are the same, in 4 bits {four[shared]}"


def told_of_effects(name, layers, shown):
    """The rows of a table of sites, and the total effect."""
    rows, about = table_of(f"effects_{name}"), read(FIGURES / f"effects_{name}.json")
    total = about["totals"]["own"][0]
    for component, layer, role in shown:
        place = rows[(rows["component"] == component) & (rows["layer"] == layer) & (rows["role"] == role)]
        both = {row["direction"]: row for row in place.to_dict("records")}
        cells = [with_ends(row["effect"], row["low"], row["high"]) for row in (both["denoising"], both["noising"])]
        share = f"{both['denoising']['effect'] / total:.2f}"
        yield f"| {NAMES[component]}, layer {layer} of {layers}, {PLACES[role]} | {cells[0]} | {share} | {cells[1]} |"


def told_smollm2():
    sites = [("mlp_out", 0, "subject_last"), ("mlp_out", 24, "subject_last"), ("attn_out", 26, "last")]
    sites += [("attn_out", 27, "last"), ("attn_out", 25, "last"), ("mlp_out", 26, "last"), ("mlp_out", 29, "last")]
    yield from told_of_effects("smollm2", 30, sites)
    about, rows = read(FIGURES / "effects_smollm2.json"), table_of("effects_smollm2")
    yield f"{unsigned(*about['totals']['own'])} nats towards the stereotype"
    assert set(rows["groups"]) == {104}
    yield "104 occupations"
    tested = about["set_test"]
    yield (
        f"in SmolLM2 MLPs {', '.join(map(str, tested['layers']))} carry "
        f"{with_ends(tested['effect'], tested['low'], tested['high'])} nats together, the best of {tested['sets']} "
        f"random sets {tested['largest']:+.2f} (p = {tested['p']:.2f})"
    )


def told_occupations_of_smollm2():
    from locate.prompts import occupation_table

    odds = pd.read_csv(FIGURES / "occupations_smollm2.csv").set_index("group")["mean"]
    shares = occupation_table().set_index("occupation")["share_women"].loc[odds.index]
    draws = np.random.default_rng(0).integers(len(odds), size=(2000, len(odds)))
    ends = np.quantile([np.corrcoef(odds.to_numpy()[i], shares.to_numpy()[i])[0, 1] for i in draws], [0.025, 0.975])
    yield f"(r = {unsigned(np.corrcoef(odds, shares)[0, 1], *ends)} over {len(odds)})"


def told_smollm2_with_bos():
    from locate.mediation.located import load_located

    with_bos = load_located(FIGURES / "located_smollm2_bos.json")
    assert with_bos.trace["model"]["prepend_bos"]
    assert not read(FIGURES / "effects_smollm2.json")["model"]["prepend_bos"]
    yield f"the total is {unsigned(*with_bos.total)} nats"


def told_mini():
    sites = [("mlp_out", 0, "subject_last"), ("attn_out", 5, "last")]
    yield from told_of_effects("mini", 6, [*sites, ("mlp_out", 5, "last"), ("mlp_out", 4, "subject_last")])
    summary = read(EXPERIMENTS / "mini" / "results" / "summary.json")
    for name in ("text_she_share", "share_women"):
        found = summary["log_odds_and"][name]
        yield f"(r = {unsigned(found['r'], found['low'], found['high'])} over {found['n']}"
    share = summary["right_pronoun"]["mean_over_templates"]["share"]
    yield f"pronoun of {share:.0%} of 40 words".replace("%", " %")


def told_the_opposite_swap():
    from locate.mediation.located import THRESHOLD, load_located

    found = load_located(FIGURES / "located_opposite.json")
    low, high = found.total[1:]
    assert low < 0 < high
    assert not found.layers
    yield f"is {unsigned(*found.total)} nats"
    (passing,) = [site for site in found.sites if site.q <= THRESHOLD]
    assert (passing.component, passing.layer, passing.role) == ("mlp_out", 5, "last")
    yield f"({unsigned(passing.effect, passing.low, passing.high)})"


def told_controls():
    controls = table_of("controls_smollm2")
    controls = controls[controls["direction"] == "denoising"]
    effects = table_of("effects_smollm2")
    effects = effects[effects["direction"] == "denoising"]
    sites = (("mlp_out", 0, "subject_last"), ("attn_out", 26, "last"))
    for name in ("", "shuffled source", "random direction", "definitional words", "neutral words"):
        rows = controls[controls["control"] == name] if name else effects
        cells = []
        for component, layer, role in sites:
            place = (rows["component"] == component) & (rows["layer"] == layer) & (rows["role"] == role)
            row = only(rows[place])
            cells.append(with_ends(row["effect"], row["low"], row["high"]))
        yield f"| {name or 'the site itself'} | {cells[0]} | {cells[1]} |"
        if name == "shuffled source":
            row = only(rows[(rows["component"] == "mlp_out") & (rows["layer"] == 0)])
            assert row["effect"] < row["own"] / 2
            yield f"{cells[0]} of {row['own']:+.2f} nats"
    mini = table_of("controls_mini")
    rows = mini[(mini["control"] == "shuffled source") & (mini["direction"] == "denoising")]
    row = only(rows[(rows["component"] == "mlp_out") & (rows["layer"] == 0)])
    yield f"({with_ends(row['effect'], row['low'], row['high'])} against {row['own']:+.2f})"


def told_sets():
    sets, areas = pd.read_csv(FIGURES / "sets_mini.csv"), read(FIGURES / "effects_mini.json")["areas"]
    row = only(sets[(sets["kind"] == "circuit") & (sets["size"] == 2)])
    kept = unsigned(row["faithfulness"], row["low"], row["high"])
    yield f"2 of {sets['size'].max()} sites keeps {kept} of the effect"
    yield f"(CPR {areas['cpr'][0]:.2f}, CMD {areas['cmd'][0]:.2f})"


def told_selectivity():
    table = table_of("selectivity_mini")
    table = table[(table["direction"] == "denoising") & (table["stereotype_groups"].astype(int) == 104)]
    sites = (("mlp_out", 0, "subject_last"), ("attn_out", 5, "last"))
    rows = [
        only(table[(table["component"] == component) & (table["layer"] == layer) & (table["role"] == role)])
        for component, layer, role in sites
    ]
    first, second = (with_ends(*(float(row[name]) for name in ("selectivity", "low", "high"))) for row in rows)
    yield f"the lowest MLP at the occupation has {first} and the top attention at the last token {second}"


def told_statistics():
    folder = EXPERIMENTS / "statistics"
    coverage = pd.read_csv(folder / "coverage.csv")
    ours = coverage[(coverage["resampled"] == "group") & (coverage["groups"] >= 12) & (coverage["tables"] == 1000)]
    even, skewed = (100 * ours.loc[ours["effects"].eq("lognormal") == skew, "covered"] for skew in (False, True))
    yield f"95 % intervals cover {ends(even)} from 12 occupations up"
    yield f"95 % intervals cover {ends(even)} on simulated tables"
    yield f"{ends(skewed)} where effects are as skewed as a lognormal"
    both = coverage.loc[coverage["resampled"] == "group+template", "covered"]
    assert both.min() > 0.92
    yield "With `--clusters group+template` they cover over templates too"
    found = pd.read_csv(folder / "discoveries.csv")
    false = {each: 100 * found.loc[found["resampled"] == each, "fdr"] for each in ("group", "prompt (trap)")}
    groups, prompts = (ends(each).replace(" %", "") for each in false.values())
    yield f"{groups} % of discoveries are false; resampling prompts instead of occupations gives {prompts} %"


def told_planted_models():
    summary = pd.read_csv(EXPERIMENTS / "planted" / "summary.csv").set_index(["variant", "method"])
    models = summary["models"].groupby("variant").first()
    assert models.pop("plain") == 52
    assert len(models) == 10
    assert set(models) == {12}
    yield f"[{52 + models.sum()} such models](../experiments/planted/README.md), 52 with one plain path and 12 of each"
    for kind, name in KINDS.items():
        cells = [f"{row['hits']:.0f} of {row['models']:.0f}" for row in (summary.loc[(kind, each)] for each in METHODS)]
        yield f"| {name} | {' | '.join(cells)} |"
    plain = summary.loc[("plain", METHODS[0])]
    yield f"in {plain['hits']:.0f} of {plain['models']:.0f} made models with one plain path"


def told_replications():
    found = read(EXPERIMENTS / "replications" / "results" / "mini" / "dama.json")["claims"]
    stereotype, definition = (claim["ours"]["value"] for claim in found[:2])
    assert round(definition / stereotype) == 4
    yield "four times as much definition as stereotype"


def told_edits():
    from locate.schema import validate

    for name, shown in (
        ("lsdm_smollm2", "LSDM, SmolLM2"),
        ("lsdm", "LSDM, `mini`"),
        ("lsdm_each", "LSDM, `spread=each`, `mini`"),
        ("fast_smollm2", "FAST, SmolLM2"),
        ("fast_smollm2_amd", "the same on another processor"),
        ("fast", "FAST, `mini`"),
        ("dpo_smollm2", "DPO, SmolLM2"),
        ("dpo_random_smollm2", "DPO, SmolLM2, layers 15, 20, 25"),
        ("dpo_lora_smollm2", "DPO, SmolLM2, LoRA of all matrices"),
        ("sft_smollm2", "SFT, SmolLM2"),
        ("dpo_texts_smollm2", "DPO, SmolLM2, texts alone"),
        ("sft_texts_smollm2", "SFT, SmolLM2, texts alone"),
    ):
        receipt = read(FIGURES / f"receipt_{name}.json")
        validate(receipt, "receipt", f"receipt_{name}.json")
        cut, rise = receipt["scores"]["cut"], percent(receipt["scores"]["perplexity_change"], "+.2f")
        parts = " | ".join(percent(cut[part]) for part in ("held_out", "held_out_both", "unseen_forms", "natural"))
        (kept,) = [each for each in receipt["scores"]["kept"] if each["name"] == "kept_definition_prompts"]
        yield f"| [{shown}](../figures/receipt_{name}.json) | {parts} | {percent(kept)} | {rise} |"
    receipt = read(FIGURES / "receipt_lsdm_smollm2.json")
    cut = receipt["scores"]["cut"]
    held_out, unseen = percent(cut["held_out"]), percent(cut["unseen_forms"])
    yield f"falls by {held_out}, in forms that no edit sees by {unseen}, in natural"
    yield f"sentences by {percent(cut['natural'])}"
    yield f"keep their pronoun in {percent(receipt['scores']['kept'][1])} of the prompts"
    yield f"changes by {percent(receipt['scores']['perplexity_change'], '+.2f')}"
    lsdm, fast = (fallen(f"receipt_{name}_smollm2") for name in ("lsdm", "fast"))
    yield f"FAST's cuts fell by {min(fast):.0f} to {max(fast):.0f} points"
    yield f"its cuts [moved by {max(map(abs, lsdm)):.1f} points at most]"
    sizes = receipt["report"]["stream_sizes"]
    low, high = min(sizes.values()), max(sizes.values())
    assert high / low > 100
    yield "grows a hundredfold from SmolLM2's first block to its 25th"
    stamped = [read(FIGURES / f"receipt_{name}.json") for name in ("fast_smollm2", "fast")]
    assert [each["located"]["edited_layers"] for each in stamped] == [[24], [4]]
    first, second = (each["report"]["units"]["inputs"] for each in stamped)
    yield f"SmolLM2's 25th MLP reads numbers of {first:.2f}, `mini`'s fifth of {second:.2f}"


def fallen(name):
    """By how much each cut of a receipt is smaller on the other processor, in points."""
    here, there = (read(FIGURES / f"{each}.json")["scores"]["cut"] for each in (name, f"{name}_amd"))
    return [here[part]["value"] - there[part]["value"] for part in here]


def told_one_more_rounding():
    results = EXPERIMENTS / "rounding" / "results"
    for kind, bits, digits in (("Q8_0", 8, 3), ("Q4_0", 4, 2)):
        about, table = read(results / f"{kind}.json"), pd.read_csv(results / f"changes_{kind}.csv")
        table = table[table["direction"] == "denoising"].set_index(["component", "layer", "role"])
        (total,) = (each for each in about["totals"] if each["direction"] == "denoising")
        effect, low, high = (f"{value:+.{digits}f}" for value in total["change"])
        r = table[["effect_a", "effect_b"]].corr().iloc[0, 1]
        yield (
            f"| {kind}, {bits} bits | {100 * about['rounding']:.1f} % | {effect} [{low}, {high}] | {r:.3f} | "
            f"{table['change'].abs().max():.3f} |"
        )
        yield f"total effect, was {total['a'][0]:.2f} nats"
        assert total["n"] == 104
    yield f"blocks by {100 * about['expected_before']:.1f} % of their size"
    strongest = [table[name].abs().sort_values(ascending=False).index[:3].tolist() for name in ("effect_a", "effect_b")]
    assert strongest[0] == strongest[1]
    most = table["change"].abs().idxmax()
    assert most == ("mlp_out", 26, "last")
    before, after = table.loc[most, ["effect_a", "effect_b"]]
    yield f"MLP 26 at the last token, from {before:+.2f} to {after:+.2f} nats"


def told_entanglement():
    results = EXPERIMENTS / "entanglement" / "results"
    overlaps = pd.read_csv(results / "overlaps.csv").set_index(["unit", "k"])
    heads, neurons = overlaps.loc[("head", 10)], overlaps.loc[("neuron", 10)]
    row = only(heads[heads["question"] == "meaning"])
    yield f"are the same ({row['share']:.2f} [{row['low']:.2f}, {row['high']:.2f}], by chance {row['chance']:.2f})"
    assert (row["shared"], row["opposite"]) == (7, 0)
    data = heads[heads["question"] == "data"]
    yield f"{data['share'].min():.2f} to {data['share'].max():.2f} of the 10 strongest are shared between"
    within = data[["within_a", "within_b"]]
    yield f"{within.min(axis=None):.2f} to {within.max(axis=None):.2f} between two halves of the words"
    half = only(neurons[neurons["question"] == "meaning"])["within_a"]
    yield f"Two halves of the occupations share {half:.2f} of the 10 strongest"
    sets = pd.read_csv(results / "head_sets.csv").set_index(["kind", "size"]).loc[("top", 3)]
    yield f"carry {unsigned(*sets[['faithfulness', 'low', 'high']])} of the"
    through = pd.read_csv(results / "through_heads.csv", keep_default_na=False).set_index(["set", "held"])
    yield f"goes {unsigned(*through.loc[('MLP', 'all'), ['taken', 'low', 'high']])} of what the"
    taken = pd.read_csv(results / "ablations.csv").set_index(["set", "kind"])[["taken", "low", "high"]] * 100
    few = taken[taken.index.get_level_values("set").str.contains(r"random.*\|10$")]["taken"]
    assert len(few) == 32
    assert few.max() < 4
    yield "take less than 4 %"
    for kind, said in (("occupation", "of it in"), ("definition", "of what tells")):
        value, low, high = taken.loc[("all layers|occupation|10", kind)]
        yield f"{value:.0f} % [{low:.0f}, {high:.0f}] {said}"


def told_they():
    from locate.mediation.located import load_located

    found = [load_located(FIGURES / f"located_smollm2_{name}.json") for name in ("female_neutral", "neutral_male")]
    totals = [each.total for each in found] + [read(FIGURES / "effects_smollm2.json")["totals"]["own"]]
    yield f"| total effect | {' | '.join(with_ends(*each) for each in totals)} |"
    assert sum(each[0] for each in totals[:2]) == pytest.approx(totals[2][0], abs=1e-5)
    whole = table_of("effects_smollm2")
    whole = whole[whole["direction"] == "denoising"].set_index(["component", "layer", "role"])
    sites = [("mlp_out", 0, "subject_last"), ("mlp_out", 22, "subject_last"), ("attn_out", 26, "last")]
    for place in [*sites, ("mlp_out", 29, "last")]:
        halves = [next(s for s in each.sites if (s.component, s.layer, s.role) == place) for each in found]
        assert all(each.q <= 0.05 for each in halves)
        assert sum(each.effect for each in halves) == pytest.approx(whole.loc[place, "effect"], abs=1e-5)
        cells = [with_ends(each.effect, each.low, each.high) for each in halves]
        cells.append(with_ends(*whole.loc[place, ["effect", "low", "high"]]))
        yield f"| {NAMES[place[0]]}, layer {place[1]}, {PLACES[place[2]]} | {' | '.join(cells)} |"


def told_occupations_and_they():
    odds = pd.read_csv(FIGURES / "answers_smollm2.csv").set_index("group")
    draws = np.random.default_rng(0).integers(len(odds), size=(2000, len(odds)))

    def mean(first, second):
        each = (odds[first] - odds[second]).to_numpy()
        return with_ends(each.mean(), *np.quantile(each[draws].mean(axis=1), [0.025, 0.975]))

    assert len(odds) == 104
    yield f"(log-odds {mean('neutral', 'male')})"
    yield f"(*she* - *they* {mean('female', 'neutral')})"


def told_neighbours():
    from locate.mediation.located import load_located

    found = load_located(FIGURES / "located_smollm2_neighbours.json")
    yield f"{with_ends(*found.total)} nats against {read(FIGURES / 'effects_smollm2.json')['totals']['own'][0]:.2f}."
    rows = table_of("effects_smollm2")
    rows = rows[rows["direction"] == "denoising"].sort_values("effect", key=abs, ascending=False)
    theirs = {(row["component"], row["layer"], row["role"]) for row in rows.head(3).to_dict("records")}
    assert {(site.component, site.layer, site.role) for site in found.sites[:3]} == theirs


def told_bundled_tests():
    tables = ROOT / "locate" / "evaluation" / "tables"
    pairs, paraphrases, facts = (len(pd.read_csv(tables / f"{each}.csv")) for each in ("pairs", "paraphrases", "facts"))
    yield f"{pairs} biased pairs, {paraphrases} paraphrases and {facts} facts"
    unseen, natural = (len(pd.read_csv(tables / f"{each}.csv")) for each in ("unseen_forms", "natural"))
    yield f"in {unseen} forms that no template has"
    yield f"in {natural} beginnings of sentences"
    templates = len(pd.read_csv(ROOT / "locate" / "prompts" / "tables" / "templates.csv"))
    yield f"in {templates} templates"


def told_layers_to_edit():
    results = ROOT / "experiments" / "locate_vs_edit" / "results" / "smollm2-135m-instruct"
    sets = pd.read_csv(results / "located_against_random.csv").set_index("editor")
    found = pd.read_csv(results / "correlations.csv").set_index(["editor", "effect_at", "success"])
    assert sets.loc["lsdm", "layers"] == 0
    yield f"cuts {-sets.loc['lsdm', 'difference']:.0f} points less than other layers on average with LSDM"
    yield f"(Spearman's rho {found.loc[('lsdm', 'subject_last', 'cut'), 'rho_depth']:+.2f} under LSDM)"


def told_speed():
    table, peer = table_of("sweep"), "transformer_lens.patching"
    engines = table.set_index(["tokens", "first", "engine"])
    for tokens, first in ((8, 0), (8, 2), (16, 0), (16, 2)):
        ours, probabilities, theirs = (
            engines.loc[(tokens, first, name)] for name in ("locate, sweep", "locate, sweep with probabilities", peer)
        )
        seconds = " | ".join(f"{row['seconds']:.0f} s" for row in (ours, probabilities, theirs))
        ratio, limit = ours["times_as_fast_as_transformer_lens"], ours["times_the_limit"]
        yield f"| {tokens} | {first} | {seconds} | {ratio:.1f} | {limit:.1f} |"
    yield f"equal to {table['largest difference'].max():.0e} nats".replace("e-0", "e-")
    times = table.loc[table["engine"] == peer, "times_the_limit"]
    yield f"takes {times.min():.0f} to {times.max():.0f} times that"
    curves = table_of("sweep_curves")
    curves = curves[(curves["over"] == "pairs") & (curves["engine"] == "locate, sweep")].set_index("pairs")
    one, four = (curves.loc[pairs, "times_as_fast_as_transformer_lens"] for pairs in (1, 4))
    yield f"With one pair the ratio is {one:.0f}, with four {four:.0f}"
    assert read(FIGURES / "sweep.json")["products by"] == "oneDNN"


def told_speed_with_the_same_library():
    table, about = table_of("sweep_intel"), read(FIGURES / "sweep_intel.json")
    assert about["products by"] == "torch"
    assert "Intel" in about["machine"]
    ours = table[table["engine"] == "locate, sweep"]
    ratios, limits = ours["times_as_fast_as_transformer_lens"], ours["times_the_limit"]
    yield f"was {ratios.min():.1f} to {ratios.max():.1f} times as fast as"
    yield f"took {limits.min():.1f} to {limits.max():.1f} times the limit ([table]"


def told_speed_on_the_demo():
    table = table_of("sweep_demo").set_index("engine")
    about = read(FIGURES / "sweep_demo.json")
    ours, longer, theirs, half = (
        table.loc[name]
        for name in (
            "locate, sweep",
            "locate, sweep with probabilities",
            "transformer_lens.patching",
            "locate, sweep in bfloat16",
        )
    )
    yield f"{ours['pairs']:.0f} pairs and {ours['rows']:,.0f} rows, takes {ours['seconds']:.0f} s"
    yield f"{longer['seconds']:.0f} s with probabilities"
    yield f"{ours['times_as_fast_as_transformer_lens']:.0f} times as fast as `transformer_lens.patching`"
    yield f"{ours['times_the_limit']:.1f} times the limit"
    yield f"the largest difference is {theirs['largest difference']:.0e} nats".replace("e-0", "e-")
    yield f"In bfloat16 it takes {half['seconds']:.0f} s"
    yield f"{about['rms of bfloat16 to fp32 (nats)']:.2f} nats (root mean square)"
    yield f"{about['peak memory of the sweep (MiB)'] / 1024:.1f} GiB"


def told_speed_on_another_processor():
    table = table_of("sweep_demo_amd").set_index("engine")
    about = read(FIGURES / "sweep_demo_amd.json")
    assert about["products by"] == "oneDNN"
    ours, longer = (table.loc[f"locate, sweep{more}"] for more in ("", " with probabilities"))
    peak = about["peak memory of the sweep (MiB)"] / 1024
    yield f"{ours['seconds']:.0f} s, or {longer['seconds']:.0f} s with probabilities, and {peak:.1f} GiB"
    speeds = [each["product_speed"] for each in (ours, table_of("sweep_demo").iloc[0])]
    assert 2 < speeds[0] / speeds[1] < 2.5
    yield "multiplies more than twice as fast"
    own, faster = (table.loc[f"transformer_lens.patching{more}"] for more in ("", ", products by oneDNN"))
    ratio = own["seconds"] / ours["seconds"]
    yield f"{ratio:.0f} times as fast as `transformer_lens.patching` with torch's own"
    assert ratio == pytest.approx(ours["times_as_fast_as_transformer_lens"])
    yield f"{faster['seconds'] / ours['seconds']:.0f} times as fast as the same with oneDNN's"
    yield f"{ours['times_the_limit']:.1f} times the limit, here taken"


def told_rewards():
    receipts = {
        name: read(FIGURES / f"receipt_{name}_smollm2.json") for name in ("dpo", "sft", "dpo_texts", "sft_texts")
    }
    texts = [receipts[f"{name}_texts"] for name in ("dpo", "sft")]
    assert [each["settings"]["rate"] for each in texts] == [1e-3, 1e-3]
    yield f"reward accuracy on held-out rows, {texts[0]['report']['checkpoints'][-1]['accuracy']:.0f} %, says nothing"
    for name in ("dpo", "sft"):
        now, before = (receipts[each]["scores"]["cut"]["held_out"] for each in (name, f"{name}_texts"))
        assert now["low"] > 45
        assert before["high"] < 30
    dpo, sft = (receipts[name]["scores"] for name in ("dpo", "sft"))
    assert dpo["perplexity_change"]["high"] < sft["perplexity_change"]["low"]
    random = read(FIGURES / "receipt_dpo_random_smollm2.json")
    assert random["located"]["edited_layers"] == [15, 20, 25]
    cuts = [each["cut"]["held_out"]["value"] for each in (random["scores"], dpo)]
    yield f"cut nearly as much, {cuts[0]:.0f} % against {cuts[1]:.0f} %"
    everywhere = read(FIGURES / "receipt_dpo_lora_smollm2.json")["scores"]
    forms = [each["cut"]["unseen_forms"]["value"] for each in (everywhere, dpo)]
    yield f"takes {forms[0]:.0f} % in unseen forms, DPO of the located ones {forms[1]:.0f} %"
    costs = [each["perplexity_change"]["value"] for each in (everywhere, dpo)]
    assert round(costs[0] / costs[1]) == 5
    yield "costs about five times as much perplexity"
    together = [pronouns_of(dpo["before"]), pronouns_of(dpo["after"]), pronouns_of(sft["after"])]
    yield f"{together[2]:.0f} % of the probability together, where the original gives them {together[0]:.0f} %"
    yield f"and DPO {together[1]:.0f} %"
    assert together[2] / together[0] < Guards().pronouns == 10
    yield "ten times as likely or unlikely"
    for part in ("unseen_forms", "natural"):
        assert dpo["cut"][part]["value"] < sft["cut"][part]["value"] - 5


def pronouns_of(scores):
    """Probability of she and he together after occupations that were held out, percent."""
    (found,) = [each for each in scores if (each["name"], each["part"]) == ("pronouns", "held-out words")]
    return found["value"]


def told_cost_of_edits():
    table = table_of("edit_times").set_index("method")
    assert list(table["machine"]) == ["AMD EPYC, 2 threads"] * 2
    lsdm, fast = (table.loc[name] for name in ("lsdm", "fast"))
    yield f"take {lsdm['seconds']:.0f} s (LSDM) and {fast['seconds']:.0f} s (FAST) on two cores of an AMD EPYC"
    yield f"{lsdm['peak (MB)'] / 1000:.1f} and {fast['peak (MB)'] / 1000:.1f} GB of memory"


def told_rewriting():
    table = pd.read_csv(ROOT / "experiments" / "rewriting" / "results" / "summary.csv")
    table = table.set_index(["set", "system", "measure", "rows"])
    exact = [
        table.loc[("winobias_plus", name, "exact", "all")] for name in ("tuned", "prompted", "prompted, 3 examples")
    ]
    yield f"rewrites {exact[0]['value']:.1f} % [{exact[0]['low']:.1f}, {exact[0]['high']:.1f}] of the sentences"
    yield f"asked alone, {exact[1]['value']:.1f} %, with three examples {exact[2]['value']:.1f} %"
    words = [table.loc[("paradetox", "tuned", "listed", rows), "value"] for rows in ("original", "all")]
    yield f"takes words that mark toxic texts from {words[0]:.2f} to {words[1]:.2f} a text"
    closer = table.loc[("paradetox", "tuned", "chrf", "change")]
    assert closer["low"] < 0 < closer["value"]
    yield f"{closer['value']:.1f} points of chrF closer to what people wrote, which may be chance"
    assert (table.xs("empty", level="measure").xs("all", level="rows")["value"] == 0).all()
    assert inspect.signature(read_originals).parameters["held_out"].default == 0.3
    yield "30 % of the groups are held out"
    assert Guards().chosen == 0.5
    yield "become less likely (0.5 nats a token)"


def told_speed_in_smollm2s_shape():
    table = table_of("sweep_smollm2-135m").set_index(["tokens", "engine"])
    few, more = (table.loc[(tokens, "locate, sweep")] for tokens in (8, 16))
    longer = [table.loc[(tokens, "locate, sweep with probabilities"), "seconds"] for tokens in (8, 16)]
    assert set(table["first"]) == {2}
    yield f"took that version {few['seconds']:.0f} s at 8 tokens and {more['seconds']:.0f} s at 16 there"
    today = table_of("sweep_smollm2-135m_torch").set_index(["tokens", "engine"])
    ours = [today.loc[(tokens, "locate, sweep")] for tokens in (8, 16)]
    peer = [today.loc[(tokens, "transformer_lens.patching"), "times_the_limit"] for tokens in (8, 16)]
    assert {round(each["times_the_limit"], 1) for each in ours} == {1.2}
    seconds = [f"{each['seconds']:.0f} s at" for each in ours]
    yield f"{seconds[0]} 8 tokens and {seconds[1]} 16 today, 1.2 times the limit at both"
    yield f"The peer takes {peer[0]:.1f} and {peer[1]:.1f} times the limit there"
    fast = [each["times_as_fast_as_transformer_lens"] for each in ours]
    yield f"the sweep is {fast[0]:.1f} and {fast[1]:.1f} times as fast"
    yield f"{longer[0]:.0f} and {longer[1]:.0f} s with probabilities"
    ratios = [each["times_as_fast_as_transformer_lens"] for each in (few, more)]
    assert min(ratios) > 11
    yield f"{ratios[0]:.0f} and {ratios[1]:.0f} times as fast as `transformer_lens.patching` with torch's own products"
    yield f"{few['times_the_limit']:.1f} and {more['times_the_limit']:.1f} times the limit, equal to"
    yield f"equal to {table['largest difference'].max():.0e} nats".replace("e-0", "e-")


def told_traces():
    table = table_of("traces").set_index(["trace", "engine"])
    sweep, plain = (table.loc[("mini", engine), "seconds"] for engine in ("sweep", "plain"))
    yield f"The default trace of `mini` takes {sweep:.1f} s, {plain:.1f} s with the plain engine"
    ratio = table["foretold / taken"].astype(float)
    assert np.maximum(ratio, 1 / ratio).max() < 1.5
    yield "within a factor of 1.5 of the time taken"
    rates = [table.loc[(name, "sweep"), "seconds"] / table.loc[(name, "sweep"), "rows run"] for name in HEADS]
    assert rates[1] / rates[0] == pytest.approx(1, abs=0.15)
    yield "a map of its heads costs the same per row"


def told_speed_on_a_gpu():
    table = table_of("sweep_gpu")
    ours = table[table["engine"].str.startswith("locate")]
    few, more = (ours.loc[ours["tokens"] == tokens, "seconds"] for tokens in (8, 16))
    ratios = ours["times_as_fast_as_transformer_lens"].astype(float)
    yield f"equal to {table['largest difference'].max():.0e} nats".replace("e-0", "e-")
    yield f"takes {few.min():.1f} to {few.max():.1f} s at 8 tokens and {more.min():.1f} to {more.max():.1f} s at 16"
    yield f"{ratios.min():.0f} to {ratios.max():.0f} times as fast as `transformer_lens.patching`, whose"


def told_of_pages():
    yield f"q is above {THRESHOLD:g}"
    assert MOST_BYTES == 10_000_000
    yield "more than 10 MB"
    yield f"listens on {HOST} alone"


def told_of_sharing():
    assert TRIES == 3
    yield "one chunk that ends three processes ends the run"
    assert (BEAT, SILENT) == (5.0, 60.0)
    yield "changes every few seconds"
    yield "has not changed for a minute"


def told_of_ways_to_share():
    table = table_of("scale").set_index("way")
    whole, faster, part = "whole command (s)", "times faster, whole command", "times faster, map"
    alone, jobs, ray, shards = (table.loc[way] for way in ("this process", "processes", "Ray", "shards"))
    yield f"| one process | | | {alone[whole]:.0f} | 1 |"
    yield f"| nothing | {jobs[whole]:.0f} | {jobs[faster]:.2f} |"
    yield f"| the extra `cluster` | {ray[whole]:.0f} | {ray[faster]:.2f} |"
    gather = float(shards["gather (s)"])
    yield f"| that folder | {shards[whole]:.0f}, then {gather:.0f} for `gather` | {shards[faster]:.2f} |"
    maps = f"{ray[part]:.2f} times by Ray and {shards[part]:.2f} times by shards"
    yield f"is {jobs[part]:.2f} times as fast by `--jobs 2`, {maps}"
    assert jobs[faster] >= 1.6
    assert max(ray[whole] / jobs[whole], ray["map (s)"] / jobs["map (s)"]) <= 1.15


def told_of_shared_tests():
    alone, jobs = table_of("scale_tests").to_dict("records")
    whole = "whole command (s)"
    yield f"took {alone[whole]:.0f} s in one process"
    yield f"{jobs[whole]:.0f} s with `--jobs 2`, from start to end, {jobs['times faster']:.2f} times as fast"


def told_of_kills():
    table = table_of("kills")
    (each,) = set(table["kills"])
    assert list(table["way"]) == ["here", "processes", "shards", "ray", "tests"]
    yield f"{table['kills'].sum()} kills ({each} for each way) in {table['runs'].sum()} runs"


def told_of_a_thousand_workers():
    table = table_of("scale_reckoned").set_index(["map", "workers"])
    for workers in (1, 8, 64, 512, 1000):
        cells = [
            f"{table.loc[(name, workers), 'all (s)'] / 3600:.2f} | {table.loc[(name, workers), 'efficiency']:.2f}"
            for name in ("7B", "70B")
        ]
        yield f"| {workers:,} | {' | '.join(cells)} |"
    first = table.loc[("7B", 1)]
    yield f"A worker starts in {first['start (s)'] - 2 * 7e9 / 2e9:.0f} s"
    yield f"a chunk is read in {1000 * first['putting together (s)'] / first['chunks']:.0f} ms"
    assert set(table["chunks"]) == {1000}


def told_of_ray():
    table = table_of("on_ray")
    ours, theirs = (table[table["way"] == way].reset_index(drop=True) for way in ("ray", "processes"))
    start, end = (ours[name].median() - theirs[name].median() for name in ("start (s)", "end (s)"))
    yield f"takes about {start:.0f} s more to start"
    yield f"about {end:.0f} s to end, and {ours['memory (MB)'].median() / 1000:.1f} GB for Ray's own processes"
    ratio = ours["map (s)"] / theirs["map (s)"]
    yield f"took {ratio.min():.2f} to {ratio.max():.2f} times as long as with"


HEADS = ("mini", "mini, heads")
TELLERS = [each for name, each in sorted(globals().items()) if name.startswith("told_") and name != "told_of_effects"]


@pytest.mark.parametrize("teller", TELLERS, ids=lambda teller: teller.__name__)
def test_the_pages_tell_what_the_tables_say(teller):
    for phrase in teller():
        assert phrase in TOLD, phrase


NOT_MEASURED = (  # numbers that name or define something
    r"arXiv \d{4}\.\d{5}|\(\d{4}\.\d{5}\)|FAST: \d{4}\.\d{5}",  # papers
    r"Python 3\.\d+",
    r"q ≤ 0\.05",
    r"\(-1 male, 0, 1 female\)|\(-1 male, \+1 female\)",
    r"\b95 % intervals|\b95 % over|30 % of the occupations|\[[^\]]*\]\([^)]*\)|`[^`]*`|CFF 1\.2\.0|Apache-2\.0",
)
MEASURED = re.compile(r"[-+]?\d+\.\d+|\d+ %|\[[-+]?\d")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_number_is_told_that_no_table_says(page):
    text = without_code(page)
    for phrase in sorted((phrase for teller in TELLERS for phrase in teller()), key=len, reverse=True):
        text = text.replace(phrase, " ")
    for form in NOT_MEASURED:
        text = re.sub(form, " ", text)
    left = [text[max(0, found.start() - 40) : found.end() + 20] for found in MEASURED.finditer(text)]
    assert not left, left
