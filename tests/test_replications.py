"""Replications: the engine for continuations, arithmetic against published results, rules on made tables, runs."""

import functools
import json
import sys
from math import comb
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import map_trace
from test_report import caption, colours
from tokenizers import Tokenizer, decoders
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from locate import load
from locate.engine.plain import measure as measure_plain
from locate.engine.rows import Limits, PlacedWrite, Row, Run
from locate.errors import LocateError
from locate.evaluation.readers import Continuations, read_reference, reference_file, winobias_continuations
from locate.mediation import effects
from locate.model.hooked import Encoder
from locate.model.memory import default_memory
from locate.report.theme import TEMPLATE

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "replications"
sys.path.insert(0, str(FOLDER))

import attention  # noqa: E402
import chintam  # noqa: E402
import dama  # noqa: E402
import lsdm  # noqa: E402
import redraw  # noqa: E402
import rome  # noqa: E402
import rules  # noqa: E402
import runner  # noqa: E402
import vig_heads  # noqa: E402
import vig_neurons  # noqa: E402

EXACT = 2e-5
EXAMPLE = Continuations(
    female="The engineer knew the nurse because she",
    male="The engineer knew the nurse because he",
    of_female=" was tired.",
    of_male=" laughed.",
    female_person="nurse",
    male_person="engineer",
    group="engineer/nurse",
)


@pytest.fixture(scope="module")
def example(gpt2):
    """The example as token ids."""
    return attention.coded(gpt2, EXAMPLE)


@pytest.fixture(scope="module")
def sets(gpt2):
    """Every set of the study, the empty one first."""
    return [frozenset(), *(heads for _, _, heads in vig_heads.sets_of(gpt2))]


@pytest.fixture(scope="module")
def logs(gpt2, example, sets):
    """Measured mean log-probabilities: [prompt, set, continuation]."""
    return attention.measure(gpt2, example, sets)


def by_tokens(model, example, heads, base):
    """Another implementation: every token of a continuation is the answer of a run of its own, on the plain engine."""
    own, other = (example.female, example.male)[:: 1 if base == 0 else -1]
    means = []
    for end in (example.of_female, example.of_male):
        runs, rows = [], []
        for place, token in enumerate(end):
            runs += [Run((*prompt, *end[:place]), (token,)) for prompt in (own, other)]
            writes = tuple(
                PlacedWrite(
                    "pattern", layer, head, query, query, "source", tuple((key, key) for key in range(query + 1))
                )
                for layer, head in sorted(heads)
                for query in range(len(own))
            )
            rows.append(Row(2 * place, 2 * place + 1, writes))
        means.append(measure_plain(model, runs, rows, limits=Limits(default_memory(model.device))).rows[:, 0].mean())
    return means


@pytest.mark.parametrize("base", [0, 1])
def test_heads_equal_the_plain_engine_token_by_token(gpt2, example, sets, logs, base):
    for index in (1, 6, len(sets) - 3, len(sets) - 1):
        np.testing.assert_allclose(logs[base, index], by_tokens(gpt2, example, sets[index], base), atol=EXACT)


def test_without_heads_a_continuation_is_scored_as_it_is(gpt2, example, logs):
    for base, prompt in enumerate((example.female, example.male)):
        for side, end in enumerate((example.of_female, example.of_male)):
            with torch.no_grad():
                scores = gpt2.logits(torch.tensor([[*prompt, *end]]))[0].log_softmax(-1)
            found = np.mean([float(scores[len(prompt) - 1 + place, token]) for place, token in enumerate(end)])
            assert logs[base, 0, side] == pytest.approx(found, abs=EXACT)


def test_every_set_of_heads_moves_something_and_sets_are_told_apart(logs, sets):
    moved = np.abs(logs[:, 1:] - logs[:, :1]).max(-1)
    assert moved.min() > 1e-5
    assert len({tuple(row) for row in logs[0].round(7)}) == len(sets)


def test_a_prompt_replaced_by_itself_changes_nothing(gpt2, example, sets):
    same = attention.Coded(example.female, example.female, example.of_female, example.of_male)
    found = attention.measure(gpt2, same, sets)
    np.testing.assert_allclose(found, np.broadcast_to(found[:1, :1], found.shape), atol=EXACT)


def test_batches_change_nothing(gpt2, example, sets, logs, monkeypatch):
    monkeypatch.setattr(attention, "ROWS", 3)
    np.testing.assert_allclose(attention.measure(gpt2, example, sets), logs, atol=EXACT)


def test_unusable_examples_say_why(gpt2):
    fields = {name: getattr(EXAMPLE, name) for name in EXAMPLE.__dataclass_fields__}
    with pytest.raises(LocateError, match="different numbers of tokens"):
        attention.coded(gpt2, Continuations(**fields | {"male": "The engineer knew the nurse because officerzq"}))


def test_tokens_are_the_published_ones(shared, reference):
    """GPT-2's tokenizer through our reading: continuations fall into the tokens that they stored, spelt with spaces."""
    folder = shared / "data" / "gpt2_tokenizer"
    bpe = Tokenizer(BPE.from_file(str(folder / "encoder.json"), str(folder / "vocab.bpe")))
    bpe.pre_tokenizer, bpe.decoder = ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    encoder = Encoder(PreTrainedTokenizerFast(tokenizer_object=bpe), ())
    examples = {each.female: each for each in winobias_continuations(shared / "data" / "winobias", "dev")[0]}
    for row in reference.examples.to_dict("records"):
        found = attention.coded(encoder, examples[row["female"]])
        for side in ("of_female", "of_male"):
            words = [encoder.tokenizer.decode([token]).strip() for token in getattr(found, side)]
            assert " ".join(words) == row[side]


@pytest.fixture(scope="module")
def reference(shared):
    """What was published for gpt2 on WinoBias."""
    folder = shared / "data" / "vig_mediation" / "reference"
    return read_reference(reference_file(folder, "winobias", "gpt2", "dev"))


def test_odds_and_effects_are_the_published_ones(reference):
    """Their probabilities through our arithmetic give their odds, effects and means."""
    rows = reference.examples
    plain = np.log(rows[["of_female_base", "of_male_base", "of_female_alt", "of_male_alt"]].to_numpy())
    logs = plain.reshape(len(rows), 2, 1, 2)
    np.testing.assert_allclose(vig_heads.odds(logs)[:, 0, 0], rows["odds_base"], rtol=1e-9)
    np.testing.assert_allclose(vig_heads.odds(logs)[:, 1, 0], rows["odds_alt"], rtol=1e-9)
    total, nie, nde = vig_heads.effects_of(np.concatenate([logs, logs[:, ::-1]], axis=2))
    np.testing.assert_allclose(total, rows["total"], rtol=1e-9)
    np.testing.assert_allclose(nie[:, 0], total, rtol=1e-9)
    np.testing.assert_allclose(nde[:, 0], 0, atol=1e-12)
    assert total.mean() == pytest.approx(0.24927373829191876)


def test_the_filter_keeps_as_many_as_published(shared):
    """Above the 0.25 quantile of the aligned ones: counts of six files; every kept example is above their threshold."""
    folder = shared / "data" / "vig_mediation" / "reference"
    for data, model, part in [
        ("winobias", "distilgpt2", "dev"), ("winobias", "gpt2", "dev"), ("winobias", "gpt2_random", "dev"),
        ("winobias", "distilgpt2", "test"), ("winogender", "gpt2", "bls"), ("winogender", "distilgpt2", "bergsma"),
    ]:  # fmt: skip
        found = read_reference(reference_file(folder, data, model, part))
        ratios = np.concatenate(
            [np.linspace(0.2, 1, found.loaded - found.aligned), 1 + np.arange(1, found.aligned + 1)]
        )
        assert vig_heads.kept(ratios, found.quantile).sum() == found.analysed
        assert (found.examples["odds_alt"] / found.examples["odds_base"]).min() > found.threshold > 1
    assert not vig_heads.kept(np.array([0.5, 1.0])).any()


def test_the_published_heads_rank_as_the_science_says(reference):
    mean = reference.head["indirect"].mean(0)
    order = np.argsort(-mean, axis=None)[:4]
    assert [divmod(int(place), 12) for place in order] == [(5, 8), (5, 10), (4, 6), (5, 9)]
    np.testing.assert_allclose(mean.ravel()[order], [0.055, 0.036, 0.032, 0.030], atol=6e-4)
    assert reference.layer["indirect"].mean(0).max() == pytest.approx(0.140, abs=6e-4)


def table(effect, groups=12, **labels):
    """Effects of a made map."""
    made = effects(map_trace(effect, groups=[f"g{number}" for number in range(groups)], layers=4, **labels))
    return made[made["direction"] == "denoising"]


def low_mlp(component, layer, role, group):
    """MLP in layer 0 at the subject, attention in layer 3 at the last token; a little of each elsewhere."""
    strong = (component, layer, role) in {("mlp_out", 0, "subject_last"), ("attn_out", 3, "last")}
    return (1.0 if strong else 0.1) * (1 + 0.05 * group) * (-1 if (layer + group) % 2 and not strong else 1)


def high_mlp(component, layer, role, group):
    return low_mlp(component, 3 - layer, role, group)


def even(component, layer, role, group):
    return 1.0 + 0.3 * np.sin(7 * layer + 3 * group)


@pytest.mark.parametrize(("made", "verdict"), [(low_mlp, rules.HOLDS), (high_mlp, rules.FAILS), (even, rules.OPEN)])
def test_lsdm_decides_both_ways(made, verdict):
    claims = lsdm.claims_of("swap", table(made), 4)
    assert [claim.verdict for claim in claims] == [verdict] * 2
    assert all(claim.ours.n == 24 and claim.ours.groups == 12 for claim in claims)
    assert all(claim.ours.low <= claim.ours.value <= claim.ours.high for claim in claims)


def test_the_middle_layer_is_in_neither_half():
    made = effects(map_trace(lambda component, layer, role, group: [3.0, 5.0, 1.0][layer]))
    for upper, value, part in ((False, 2.0, 0.75), (True, -2.0, 0.25)):
        rows = made[made["direction"] == "denoising"]
        found, share = rules.half_contrast(rows, "mlp_out", "last", 3, "nats", upper=upper)
        assert (found.value, found.low, found.high, share) == pytest.approx((value, value, value, part))


def rome_table(better, worse, severed):
    """Components at their own role beside severed residual patches."""

    def effect(component, layer, role, group):
        own = {("mlp_out", "subject_last"): better, ("attn_out", "last"): better}
        return own.get((component, role), worse) * (1 + 0.02 * group)

    parts = [table(effect)]
    for kind, size in severed.items():
        parts.append(table(lambda *_, size=size: size, components=("resid_pre",), severed=kind, origin="base+source"))
    return pd.concat(parts)


@pytest.mark.parametrize(("better", "worse", "verdict"), [(2.0, 1.0, rules.HOLDS), (1.0, 2.0, rules.FAILS)])
def test_rome_decides_both_ways(better, worse, verdict):
    severed = {"mlp_out": worse, "attn_out": better}
    claims = rome.claims_of(rome_table(better, worse, severed), 1, 4)
    assert [claim.verdict for claim in claims] == [verdict] * 3
    assert claims[2].ours.value == pytest.approx(better - worse)


def test_romes_window_keeps_the_papers_share():
    assert [rome.window_of(layers) for layers in (2, 6, 12, 24, 48, 96)] == [2, 2, 2, 5, 10, 10]


def test_romes_interval_is_the_papers():
    made = table(low_mlp)
    row = rome.by_role(made).query("component == 'mlp_out' and layer == 0 and role == 'subject_last'").iloc[0]
    values = made.query("component == 'mlp_out' and layer == 0 and role == 'subject_last'")["nie"]
    half = 1.96 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose(row[["paper_low", "paper_high"]].astype(float), values.mean() + half * np.array([-1, 1]))
    assert row["effect"] == pytest.approx(values.mean())
    assert row["low"] < row["effect"] < row["high"]


def heads_table(effect, groups=40):
    rows = [
        {"pair": group, "group": f"g{group}", "layer": layer, "unit": unit, "nie": effect(layer, unit, group)}
        for group in range(groups)
        for layer in range(4)
        for unit in range(5)
    ]
    return pd.DataFrame(rows)


def test_a_share_is_measured_where_it_was_not_chosen():
    """Of 20 equal heads in noise the strongest two get their tenth; two real heads are found, and counted exactly."""
    shares = []
    for seed in range(8):
        noise = np.random.default_rng(seed).standard_normal((40, 4, 5))
        made = heads_table(lambda layer, unit, group, noise=noise: 0.3 + noise[group, layer, unit])
        shares.append(rules.held_out_share(made, ["layer", "unit"], 2))
    assert np.mean([share.value for share in shares]) == pytest.approx(0.1, abs=0.05)
    assert all(rules.decided(share, 0.5) == rules.FAILS for share in shares)
    real = heads_table(lambda layer, unit, group: 9.0 if (layer, unit) in {(1, 2), (3, 3)} else 1.0 - (unit == 0) * 2)
    found = rules.held_out_share(real, ["layer", "unit"], 2)
    assert found.value == pytest.approx(18 / (18 + 14))
    assert (found.groups, rules.decided(found, 0.5)) == (20, rules.HOLDS)


def test_verdicts_follow_the_interval():
    def estimate(low, high, groups=20):
        return rules.Estimate((low + high) / 2, low, high, groups, groups, "")

    assert rules.decided(estimate(0.51, 0.7), 0.5) == rules.HOLDS
    assert rules.decided(estimate(0.3, 0.49), 0.5) == rules.FAILS
    assert rules.decided(estimate(0.3, 0.7), 0.5) == rules.OPEN
    assert rules.decided(estimate(0.51, 0.7, groups=7), 0.5) == rules.OPEN
    assert rules.same_number(estimate(0.24, 0.26), 0.2493, 0.02) == rules.REPRODUCED
    assert rules.same_number(estimate(0.20, 0.22), 0.2493, 0.02) == rules.DIFFERENT


def test_published_heads_are_compared_with_as_many_of_ours():
    published = list(chintam.PUBLISHED["gpt2"])
    others = [(0, head) for head in range(12) if (0, head) not in published]
    count, verdict, p = rules.same_heads(published[:5] + others[:5] + published[5:], published, 144, 9, 9)
    assert (count.value, verdict) == (5, rules.REPRODUCED)
    assert p == pytest.approx(sum(comb(10, k) * comb(134, 10 - k) for k in range(5, 11)) / comb(144, 10))
    count, verdict, _ = rules.same_heads(published[:4] + others[:6] + published[4:], published, 144, 9, 9)
    assert (count.value, verdict) == (4, rules.DIFFERENT)


def test_a_resample_draws_whole_groups():
    """Two groups of many pairs: the interval spans the groups' means."""
    rows = pd.DataFrame({"pair": range(40), "group": ["a"] * 20 + ["b"] * 20, "total": [0.0] * 20 + [1.0] * 20})
    found = rules.mean(rows, "nats")
    assert (found.value, found.low, found.high, found.n, found.groups) == (0.5, 0.0, 1.0, 40, 2)


def test_total_effects_of_both_readings():
    """y'/y - 1 by hand: against the stereotype with y anti over stereotypical; with the model, the other way up."""
    rows = []
    for pair, (group, noun, plain, swapped) in enumerate(
        [
            ("nurse", "man", 1.0, -2.0),
            ("nurse", "woman", 1.0, 3.0),
            ("clerk", "man", -0.5, -2.0),
            ("clerk", "woman", -0.5, 3.0),
        ]
    ):
        runs = {"base_female": plain, "base_male": 0.0, "source_female": swapped, "source_male": 0.0}
        rows.append({"pair": pair, "group": group, "template": "t", "corrupted": f"The {noun} said that"} | runs)
    made = map_trace().__class__(pd.DataFrame(rows), {})
    found = vig_neurons.total_effects(made, {"nurse": 1, "clerk": 0}).set_index("group")
    assert found.loc["nurse", "paper"] == pytest.approx(np.exp(3.0) - 1)
    assert found.loc["nurse", "released"] == pytest.approx(np.exp(2.0) - 1)
    assert np.isnan(found.loc["clerk", "paper"])
    assert found.loc["clerk", "released"] == pytest.approx(np.exp(1.5) - 1)


def as_measured(reference):
    """Published results as a table of effects that we might have measured."""
    rows = []
    for pair in range(reference.analysed):
        same = {"pair": pair, "group": f"g{pair % 30}", "total": reference.examples["total"][pair]}
        whole = {"nie": reference.examples["indirect"][pair], "nde": reference.examples["direct"][pair]}
        rows.append(same | {"layer": -1, "head": -1} | whole)
        for layer, heads in enumerate(reference.head["indirect"][pair]):
            for head, effect in enumerate(heads):
                direct = reference.head["direct"][pair][layer, head]
                rows.append(same | {"layer": layer, "head": head, "nie": effect, "nde": direct})
    return pd.DataFrame(rows)


def test_published_results_reproduce_themselves_and_no_others(reference, shared):
    folder = shared / "data" / "vig_mediation" / "reference"
    other = read_reference(reference_file(folder, "winobias", "gpt2_random", "dev"))
    size = SimpleNamespace(n_layers=12, n_heads=12)
    for found, verdict in ((reference, rules.REPRODUCED), (other, rules.DIFFERENT)):
        made = as_measured(found)
        averages = vig_heads.averaged(made)
        claims = vig_heads.claims_of("winobias/dev", made, averages, size, reference)
        assert [claim.verdict for claim in claims if claim.published] == [verdict] * 4
        assert claims[0].published == "0.249 (n 87)"
        assert claims[-1].published.startswith("5.8 0.055, 5.10 0.036, 4.6 0.032, 5.9 0.030")
    alone = vig_heads.claims_of("winobias/dev", made, averages, size, None)
    assert not any(claim.published for claim in alone)


def test_published_heads_of_gpt2_are_put_beside_ours():
    best = {(9, 7): 7.0, (10, 9): 6.0}
    made = heads_table(lambda layer, unit, group: best.get((layer + 8, unit + 5), 0.01 * unit))
    made["layer"], made["unit"] = made["layer"] + 8, made["unit"] + 5
    claims = chintam.claims_of(made, SimpleNamespace(name="openai/gpt2", n_layers=12, n_heads=12))
    assert claims[0].verdict == claims[1].verdict == rules.HOLDS
    assert claims[0].ours.value == pytest.approx(13 / (13 + 0.01 * (3 * 10 + 10 - 2 - 4)), rel=0.01)
    assert claims[1].ours.value == pytest.approx(9 / 11)
    assert (claims[2].ours.value, claims[2].verdict, claims[2].published[:7]) == (2, rules.DIFFERENT, "9.7 7.9")
    assert len(chintam.claims_of(made, SimpleNamespace(name="mini", n_layers=12, n_heads=12))) == 2


@pytest.mark.parametrize("upper", [1.0, -1.0])
def test_dama_separates_stereotype_from_gender_that_is_said(upper):
    """Planted coefficients: 2 on the stereotype, in the upper or the bottom half, and 3 on the gender that is said."""
    rng = np.random.default_rng(0)
    names = [f"g{number}" for number in range(40)]
    scores = pd.DataFrame({"word": names, "stereotypical": rng.uniform(-1, 1, 40), "factual": rng.uniform(-1, 1, 40)})
    weights = np.array([[0.0, 0.0, 1.5, 0.5], [1.5, 0.5, 0.0, 0.0]][upper < 0])

    def effect(component, layer, role, group):
        row = scores.iloc[group]
        return (weights[layer] * row["stereotypical"] + 0.75 * row["factual"]) * (1 if group % 2 == 0 else -1)

    made = effects(
        map_trace(effect, groups=names, layers=4, components=("mlp_out",), roles=("subject_last",)), view="signed"
    )
    claims = dama.claims_of(made[made["direction"] == "denoising"], scores, 4)
    assert [claim.ours.value for claim in claims] == pytest.approx([2.0, 3.0, 2.0 * upper])
    assert [claim.verdict for claim in claims] == [rules.HOLDS, rules.HOLDS, rules.HOLDS if upper > 0 else rules.FAILS]


STUDIES = {module.STUDY.name: module for module in (vig_neurons, vig_heads, rome, lsdm, chintam, dama)}


@pytest.fixture(scope="module")
def mini():
    """The bundled model: the sentences are too long for the random ones."""
    return load("mini", device="cpu")


loaded_once = functools.cache(load)


@pytest.fixture
def quick(monkeypatch):
    """Fewer resamples and draws, one loaded model, no picture: for runs that only have to reach their end."""
    monkeypatch.setattr(rules, "SAMPLES", 100)
    monkeypatch.setattr(rome, "NOISE", rome.locate.Noise(samples=2))
    monkeypatch.setattr(dama, "NOISE", dama.locate.Noise(samples=1))
    monkeypatch.setattr(lsdm, "CORRUPTIONS", {"noise": (lsdm.locate.Noise(samples=2), "prob_diff")})
    monkeypatch.setattr(runner, "save_figures", lambda figures, folder, formats: ([], ""))
    monkeypatch.setattr(runner.locate, "load", loaded_once)


@pytest.mark.parametrize("name", STUDIES)
def test_a_replication_runs_to_its_end(name, shared, tmp_path, quick):
    """On mini, with a few prompts: results, a table that names n, and what was left out."""
    module = STUDIES[name]
    arguments = ["--limit", "6", "--device", "cpu", "--data", str(shared / "data"), "--out", str(tmp_path)]
    if name == "dama":
        arguments[1] = "30"
    arguments += {"vig_neurons": ["--units", "2"], "vig_heads": ["--sets", "winobias/dev"]}.get(name, [])
    path = runner.main(module.STUDY, module.replicate, arguments)
    content = json.loads(path.read_text())
    assert path == tmp_path / "mini" / f"{name}.json"
    assert content["model"]["name"] == "mini"
    assert all(claim["ours"]["n"] >= 1 and claim["rule"] and claim["verdict"] for claim in content["claims"])
    assert all(count >= 0 for count in content["left_out"].values())
    assert list((tmp_path / "mini").glob(f"{name}_*.csv"))
    text = runner.table_of(tmp_path)
    assert all(claim["claim"] in text and claim["verdict"] in text for claim in content["claims"])


@pytest.mark.parametrize("model", ["mini", "smollm2-135m-instruct"])
def test_kept_figures_are_drawn_from_their_tables_in_the_look_of_the_house(model):
    folder = FOLDER / "results" / model
    figures = redraw.figures_of(folder)
    assert set(figures) == {"rome_map", "chintam_heads", "lsdm_noise", "lsdm_swap"}
    assert all((folder / f"{name}.png").is_file() for name in figures)
    assert all(each.layout.template == TEMPLATE for each in figures.values())
    table = pd.read_csv(folder / "chintam_heads.csv")
    (panel,) = colours(figures["chintam_heads"])
    assert np.sort(np.array(panel.z, dtype=float).ravel()) == pytest.approx(np.sort(table["effect"]))
    table = pd.read_csv(folder / "rome_aie.csv")
    window = json.loads((folder / "rome.json").read_text())["settings"]["window"]
    rows = table[(table["component"] == "mlp_out") & (table["window"] == window) & (table["role"] == "subject_last")]
    shown = colours(figures["rome_map"])[-1].z
    assert any(np.array(column, dtype=float) == pytest.approx(rows.sort_values("layer")["effect"].to_numpy())
               for column in np.array(shown, dtype=float).T)  # fmt: skip
    assert "positive is away from the stereotype" in caption(figures["chintam_heads"])
    assert model in figures["lsdm_swap"].layout.meta["title"]


def test_what_can_be_mended_ends_in_one_line(quick, tmp_path, monkeypatch):
    arguments = ["--data", str(tmp_path), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match=r"^no file .*female_occupations.txt: expected"):
        runner.main(vig_heads.STUDY, vig_heads.replicate, [*arguments, "--sets", "winobias/dev"])
    unlike = SimpleNamespace(female_person="a", male_person="b", group="a/b", of_female=" ran.", of_male=" sat.")
    unlike.female, unlike.male = "It was", "It was not"
    monkeypatch.setattr(vig_heads, "examples_of", lambda name, options: ((unlike,), 0))
    with pytest.raises(SystemExit, match=r"^none of 1 examples is left .*different numbers of tokens': 1"):
        runner.main(vig_heads.STUDY, vig_heads.replicate, arguments)


def test_the_answer_for_smollm2_tells_what_its_results_hold():
    results = FOLDER / "results" / "smollm2-135m-instruct"
    said = " ".join((FOLDER / "README.md").read_text().partition("**Answer, for SmolLM2")[2].split())
    claims = {
        (path.stem, claim["claim"]): claim
        for path in results.glob("*.json")
        for claim in json.loads(path.read_text())["claims"]
    }
    shares = [float(claim["note"].removeprefix("share ")) for (name, _), claim in claims.items() if name == "lsdm"]
    told = (
        "has {:.2f} (noise) and {:.2f} (swap), of those of attention at the last token the top half {:.2f} and {:.2f}"
    )
    assert told.format(shares[0], shares[2], shares[1], shares[3]) in said
    for key, unit in (
        (("chintam", "two heads carry most of it"), "of what all positive heads"),
        (("vig_neurons", "set-gender against the stereotype raises y (paper)"), "in relative odds"),
        (("vig_neurons", "the same in log-odds"), "nats"),
        (("vig_neurons", "few numbers carry it (estimated)"), ", estimated"),
        (("dama", "MLP effects follow the stereotype"), "nats for one unit of score"),
        (("dama", "MLP effects follow the gender that is said"), ""),
        (("rome", "at the subject's last token, MLP above attention"), "of probability"),
        (("rome", "at the last token, attention above MLP"), ", and with"),
        (("rome", "low layers act through the MLP at that token"), ""),
        (("vig_heads", "winobias/dev: mean NIE, all heads at once"), ", direct"),
        (("vig_heads", "winobias/dev: mean NDE, all heads at once"), "in relative odds, WinoBias"),
        (("vig_heads", "winobias/dev: a small part carries it"), "of what all positive ones"),
    ):
        ours = rules.Estimate(**claims[key]["ours"])
        span = f"{ours.value:.3g} [{ours.low:.3g}, {ours.high:.3g}]"
        assert f"{span}{unit if unit.startswith(',') else f' {unit}' if unit else ''}" in said, key
    heads = pd.read_csv(results / "chintam_heads.csv").head(2)
    assert [f"{row.layer:.0f}.{row.unit:.0f}" for row in heads.itertuples()] == ["26.2", "25.2"]
    weights = pd.read_csv(results / "vig_heads_heads.csv").query("head >= 0 and set == 'winobias/dev'").head(5)
    assert set(weights["layer"]) <= {9, 14, 15, 16, 17}
    layers = pd.read_csv(results / "vig_neurons_layers.csv").sort_values("effect", ascending=False)
    assert layers["layer"].tolist()[:2] == [0, 21]
    assert "(171 by itself), that of layer 21 next (9.3)" in said
    assert [f"{value:.3g}" for value in layers["effect"][:2]] == ["171", "9.32"]
    stereotypical = pd.read_csv(results / "dama_layers.csv").query("term == 'stereotypical'")
    assert stereotypical.loc[stereotypical["coefficient"].idxmax(), "layer"] == 0


def test_the_readme_holds_the_table_of_the_results():
    """Written by the runs: the committed results and the README say the same."""
    assert runner.table_of(FOLDER / "results") in (FOLDER / "README.md").read_text()
