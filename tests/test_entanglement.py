"""The experiment on entanglement: arithmetic by hand, its pairs and heads, and that its README tells its tables."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from handmade import both, odds, trace_of
from pages import ROOT

import locate
from locate.files import read_json
from locate.mediation import effects
from locate.model.matrices import matrix
from locate.prompts import definitional_pairs

pytestmark = pytest.mark.usefixtures("unchecked_types")

FOLDER = ROOT / "experiments" / "entanglement"
sys.path.insert(0, str(FOLDER))

import heads  # noqa: E402
import measuring  # noqa: E402
import sentences  # noqa: E402
import tables  # noqa: E402


def test_a_sentence_is_cut_before_the_pronoun_and_its_occupation_exchanged():
    occupations = pd.DataFrame(
        {
            "occupation": ["nurse", "tailor", "ceo", "clerk"],
            "share_women": [90.0, 80.0, 10.0, 20.0],
            "stereotype": [1, 1, -1, -1],
        }
    )
    cuts = [
        ("The nurse met the guard because", "nurse"),
        ("The nurse called the CEO because", "nurse"),  # the counterpart is in it
        ("We hired a clerk because", "clerk"),  # an article that the counterpart may not fit
        ("The clerk, a tall clerk, said that", "clerk"),  # named twice
        ("Near them the CEO said that", "ceo"),
        ("The nurse met the guard because", "nurse"),
        ("The nurse sang because", "nurse"),
        ("The nurse ran because", "nurse"),
    ]
    rows = sentences.pairs_of(cuts, occupations, 9, 0)
    assert rows[["clean", "corrupted", "stereotype"]].to_numpy().tolist() == [
        ["The nurse met the guard because", "The CEO met the guard because", 1],
        ["Near them the CEO said that", "Near them the nurse said that", -1],
        ["The nurse sang because", "The CEO sang because", 1],
        ["The nurse ran because", "The CEO ran because", 1],
    ]
    assert len(sentences.pairs_of(cuts, occupations, 2, 0)) == 3


def test_shares_of_women_make_signs_as_in_the_package():
    found = sentences.signed(pd.DataFrame({"share_women": [55.0, 54.9, 45.0, 45.1]}))
    assert found["stereotype"].tolist() == [1, 0, -1, 0]


@pytest.mark.parametrize("name", ["winobias", "winogender"])
def test_published_sentences_make_pairs_that_are_read(name, tmp_path):
    data = ROOT.parent / "shared" / "data"
    if not (data / name).is_dir():
        pytest.skip(f"needs ../shared/data/{name}")
    prompts = sentences.sentence_pairs(name, data, tmp_path)
    frame = prompts.frame()
    assert frame["group"].nunique() >= 40
    assert frame.groupby("group").size().max() == 2
    assert set(frame["stereotype"]) == {1, -1}
    assert not frame["clean"].str.contains(r"\b(?:she|he|her|his)\b").any()


def test_the_words_of_a_couple_stand_in_one_half_and_are_one_group():
    prompts = locate.occupation_pairs(templates_each=1) + definitional_pairs(templates_each=2)
    first, second = measuring.halves(prompts)
    assert len(first) + len(second) == len(prompts)
    words = [
        {word for pair in part for word in (pair.clean_subject, pair.corrupted_subject)} for part in (first, second)
    ]
    assert not words[0] & words[1]
    assert {pair.kind for pair in first} == {pair.kind for pair in second} == {"occupation", "definition"}
    rows = measuring.coupled(pd.DataFrame({"pair": range(len(prompts))}), prompts)
    names = {pair.group: group for pair, group in zip(prompts, rows["group"], strict=True)}
    assert names["actress"] == names["actor"] == "actress"
    assert names["nurse"] == "nurse"


def test_random_sets_have_other_neurons_of_the_same_layers():
    chosen = [(0, 1), (0, 2), (3, 7)]
    for found in measuring.random_sets(chosen, 10, 5, 0):
        assert [layer for layer, _ in found] == [0, 0, 3]
        assert len(set(found)) == 3
        assert not set(found) & set(chosen)


def test_what_an_ablation_takes_by_hand():
    columns = ["pair", "group", "clean", "corrupted", "clean_ablated", "corrupted_ablated"]
    rows = pd.DataFrame([(0, "a", 2.0, -2.0, 1.0, -1.0), (1, "b", 1.0, -1.0, -1.0, 1.0)], columns=columns)
    (row,) = tables.ablation_table(rows.assign(set="MLP 0", kind="occupation")).to_dict("records")
    # before: 4 and 2; after: 2 and -2
    assert (row["before"], row["after"], row["taken"]) == pytest.approx((3.0, 0.0, 1.0))
    assert (row["right_before"], row["right_after"], row["n"], row["groups"]) == (1.0, 0.5, 2, 2)
    assert row["low"] <= row["taken"] <= row["high"]


def test_what_heads_take_of_an_effect_by_hand():
    rows = [
        both(odds(1), odds(-1), odds(-1 + size), odds(1), pair=pair, group=f"word {pair}", name=name)[0]
        for pair, sizes in enumerate([(2.0, 1.0), (1.0, 0.5), (1.0, -0.5)])
        for name, size in zip(("MLP|", "MLP|26.2"), sizes, strict=True)
    ]
    found = tables.mediated_table(effects(trace_of(rows))).set_index("held")
    assert found.loc["", ["effect", "taken"]].tolist() == pytest.approx([4 / 3, 0.0])
    assert found.loc["26.2", ["effect", "taken"]].tolist() == pytest.approx([1 / 3, 0.75])


def test_means_by_role_count_pairs_without_the_role():
    rows = pd.DataFrame(
        {"pair": [0, 0, 1], "group": ["a", "a", "b"], "layer": 1, "unit": 2, "role": ["last", "further", "last"]}
    ).assign(weight=[0.5, 0.4, 0.1])
    found = tables.by_role(rows, "weight").set_index("role")
    assert found["weight"].to_dict() == pytest.approx({"last": 0.3, "further": 0.2})
    assert (found["n"] == 2).all()


def test_templates_are_told_apart_by_their_clause_and_data_sets_two_by_two():
    rows = pd.DataFrame(
        {
            "kind": ["occupation", "occupation", "definition"],
            "template": ["The {subject} said that", "X because", "X because"],
        }
    )
    found = list(tables.compared("head", {("head", name): rows for name in measuring.DATA_SETS}))
    assert [(question, len(first), len(second)) for question, _, _, first, second in found] == [
        ("meaning", 2, 1),
        ("templates", 1, 1),
        *[("data", 2, 3)] * 2,
        ("data", 3, 3),
    ]
    assert found[1][3]["template"].tolist() == ["The {subject} said that"]


def test_estimates_stand_beside_exact_effects_of_the_same_prompts():
    exact = pd.DataFrame(
        {"kind": "occupation", "clean": ["a", "b"], "corrupted": ["x", "y"], "unit": [1, 1], "nie": [1.0, 3.0]}
    )
    estimated = pd.concat([exact.assign(nie=[2.0, 6.0]), exact.assign(clean="c", nie=9.0), exact.assign(unit=2)])
    assert tables.estimated_beside(exact, estimated).to_dict("list") == {"nie": [2.0], "estimate": [4.0]}


def test_strongest_sites_by_size_and_towards_the_stereotype():
    rows = pd.DataFrame(
        {"component": "neuron", "layer": 0, "role": "subject_last", "unit": [0, 1, 2, 2], "nie": [-3.0, 1.0, 2.0, 4.0]}
    )
    assert [site.unit for site in tables.strongest(rows, 2)] == [2, 1]
    assert {site.unit for site in tables.strongest(rows, 2, towards=False)} == {0, 2}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    return measuring.Work("mini", locate.load("mini", device="cpu"), tmp_path_factory.mktemp("work"), Path("none"))


def test_ablated_neurons_are_0_at_every_token(work):
    """Against the neurons' columns of the output matrices at 0, pair by pair."""
    prompts = locate.occupation_pairs(swap="anti", templates_each=1).first(3)
    neurons = [(1, 3), (1, 40), (4, 7)]
    rows = measuring.measure_ablations(work, {"none": [], "set": neurons}, prompts)
    assert (rows["clean_ablated"] == rows["clean"]).tolist() == [True, False] * 3
    other = locate.load_causal("mini", device="cpu")
    for layer, unit in neurons:
        matrix(other.network, f"transformer.h.{layer}.mlp.c_proj").module.weight.data[unit] = 0
    she, he = (work.model.encode(word)[0][-1] for word in (" she", " he"))
    for row in rows[rows["set"] == "set"].to_dict("records"):
        pair = prompts.pairs[row["pair"]]
        for side in ("clean", "corrupted"):
            ids = torch.tensor([work.model.encode(getattr(pair, side))[0]])
            logits = other.network(ids).logits[0, -1]
            assert row[f"{side}_ablated"] == pytest.approx(float(logits[she] - logits[he]) * pair.stereotype, abs=1e-4)


def test_a_head_writes_the_sum_of_what_it_reads(work):
    ids = work.model.encode("The nurse said that")[0]
    pattern, values, outputs = (
        heads.activations(work, ids, name, [(3, 1)])[3, 1] for name in ("pattern", "value", "head")
    )
    np.testing.assert_allclose(pattern[1] @ values[:, 1], outputs[:, 1], atol=1e-5)


def test_holding_a_head_takes_what_goes_through_it(work):
    """With every head of the last layers held, less of the lowest MLP's effect arrives; with none, all of it."""
    prompts = locate.occupation_pairs(swap="anti", templates_each=1).first(4)
    every = [(layer, unit) for layer in range(1, 6) for unit in range(work.model.n_heads)]
    rows = heads.measure_mediated(work, every, {"MLP": [], "3 neurons": [(0, 1), (0, 2), (0, 3)]}, prompts)
    means = rows.groupby("name", observed=True)["nie"].mean()
    assert abs(means["MLP|all"]) < 1e-3 * abs(means["MLP|"])
    assert abs(means["3 neurons|all"]) < 1e-3


README, RESULTS = FOLDER / "README.md", FOLDER / "results"
TOP = {"26.2": (26, 2), "25.2": (25, 2), "27.5": (27, 5), "26.0": (26, 0)}
UNITS = ("output", "head", "neuron")


def result(name):
    rows = pd.read_csv(RESULTS / f"{name}.csv")
    return rows.fillna({column: "" for column in ("severed", "held") if column in rows})


def plain(row, name="share", form=".2f"):
    return f"{row[name]:{form}} [{row['low']:{form}}, {row['high']:{form}}]"


def signed(row, name="effect", low="low", high="high"):
    return f"{row[name]:+.2f} [{row[low]:+.2f}, {row[high]:+.2f}]"


def percent(row):
    return f"{100 * row['taken']:.0f} [{100 * row['low']:.0f}, {100 * row['high']:.0f}]"


def ends(values):
    return f"{min(values):.2f} to {max(values):.2f}"


def overlap_of(unit, a, b, k=10):
    rows = result("overlaps").set_index(["unit", "a", "b", "k"])
    return rows.loc[(unit, a, b, k)]


def told_of_both():
    """What stereotype and definition share."""
    output, head, neuron = (overlap_of(unit, "stereotype", "definition") for unit in UNITS)
    assert (output["n"], head["n"], neuron["n"]) == (120, 135, 1536)
    assert (output["opposite"], head["opposite"]) == (0, 0)
    yield f"Of the 10 strongest outputs {output['shared']} are shared by stereotype and definition: {plain(output)}, by"
    yield f"chance {output['chance']:.2f}; of the 10 strongest heads {head['shared']} are: {plain(head)}, by chance "
    yield f"by chance {head['chance']:.2f}; all with the same sign"
    occupations, words, each = (
        f"{output[name]:.2f} and {head[name]:.2f}" for name in ("within_a", "within_b", "across")
    )
    yield f"Two halves of the occupations share {occupations}, of words that say their gender {words}"
    yield f"a half of each {each}"
    yield f"stereotype and definition share {plain(neuron)} of 10"
    site = result("selectivity_head").set_index(["layer", "unit"]).loc[(26, 2)]
    kinds = [signed(site, name, f"{name}_low", f"{name}_high") for name in ("stereotype", "definition")]
    yield f"head 2 of layer 26 carries {kinds[0]} nats of the stereotype and {kinds[1]} of the definition"


def told_of_other_sentences():
    rows = result("overlaps")
    families = [overlap_of(unit, "that-clauses", "because-clauses") for unit in UNITS]
    yield f"share {plain(families[0])} of the outputs and {plain(families[1])} of the heads"
    yield f"about the same occupations, {plain(families[2])}"
    data = [rows[(rows["unit"] == unit) & (rows["question"] == "data")] for unit in UNITS[:2]]
    yield f"{ends(data[0]['share'])} of the outputs and {ends(data[1]['share'])} of the heads, two by two"
    across, within = (
        [ends(np.ravel(each[names])) for each in data] for names in (["across"], ["within_a", "within_b"])
    )
    yield f"A half of each shares {across[0]} and {across[1]}, two halves of one {within[0]} and {within[1]}"
    gaps = [each[["within_a", "within_b"]].mean(axis=1) - each["across"] for each in data]
    row = overlap_of("head", "templates of the package", "winobias")
    assert max(gap.max() for gap in gaps) == pytest.approx((row["within_a"] + row["within_b"]) / 2 - row["across"])
    yield f"share {row['across']:.2f} by halves, halves of either {ends([row['within_a'], row['within_b']])}"


def told_of_neurons():
    few, many = (overlap_of("neuron", "stereotype", "definition", k) for k in (10, 100))
    yield f"share {few['within_a']:.2f} of their 10 strongest neurons and {many['within_a']:.2f} of their 100"
    yield f"(by chance {few['chance']:.2f} and {many['chance']:.2f})"
    rows = result("selectivity_neuron").set_index(["layer", "unit"])
    for place, text in (
        ((24, 115), "{} nats of the stereotype and {} of the definition"),
        ((21, 780), "{1} against {0}"),
    ):
        row = rows.loc[place]
        yield text.format(*(signed(row, name, f"{name}_low", f"{name}_high") for name in ("stereotype", "definition")))
    strongest = rows.sort_values("stereotype", key=np.abs, ascending=False).head(10)
    passing = strongest[strongest["stereotype_q"] <= 0.05]
    assert len(passing)
    assert (passing["definition"].abs() > passing["stereotype"].abs()).all()


def ablations():
    """One line of the README's table for each chosen set; and the random ones."""
    rows = result("ablations")
    rows = rows.join(rows["set"].str.extract(r"(?P<where>.*)\|(?P<by>.*)\|(?P<size>\d+)"))
    return rows.set_index(["where", "by", "size", "kind"]).sort_index()


def told_of_ablations():
    rows = ablations()
    for where in ("all layers", "MLP 0"):
        for size in ("10", "30", "100"):
            for by, name in (("occupation", "stereotype"), ("definition", "definition")):
                first, second = (rows.loc[(where, by, size, kind)] for kind in ("occupation", "definition"))
                right = f"{second['right_after'] * second['n']:.0f} of {second['n']:.0f}"
                yield f"| {size} of {where} | {name} | {percent(first)} | {percent(second)} | {right} |"
    assert (first["groups"], second["groups"]) == (25, 10)
    yield f"| none | | | | {second['right_before'] * second['n']:.0f} of {second['n']:.0f} |"
    random = rows[rows.index.get_level_values("by").str.startswith("random")]["taken"]
    few, many = (100 * random.xs(size, level="size") for size in ("10", "100"))
    assert len(few) == 2 * 2 * 8
    yield f"takes more than {few.max():.1f} %;"
    yield f"of 100 neurons they take between {many.min():.0f} and {many.max():+.0f} %"


def told_of_heads():
    sets = result("head_sets").set_index(["kind", "size"])
    together, circuit = sets.loc[("top", 3)], sets.loc[("circuit", 3)]
    assert (together["n"], together["groups"]) == (48, 48)
    yield f"carry {plain(together, 'faithfulness')} of the total effect together"
    yield f"{plain(circuit, 'faithfulness')} where all other heads of layers 15 to 29 are corrupted"
    rows = result("heads")
    own = rows[(rows["component"] == "head") & (rows["severed"] == "")].set_index(["layer", "unit"])
    direct = rows[rows["severed"] == "both"].set_index(["layer", "unit"])
    yield f"26.2 carries {signed(own.loc[26, 2])} nats and 25.2 {signed(own.loc[25, 2])}"
    yield f"26.0 works against it, {signed(own.loc[26, 0])}"
    yield f"The direct path of 26.2 is {signed(direct.loc[26, 2])} nats"
    edges = rows[(rows["component"] == "pattern") & rows["layer"].isin([25, 26, 27]) & rows["unit"].isin([2, 5])]
    yield f"carry more than {edges['effect'].abs().max():.3f} nats either way"
    weights = result("attention").set_index(["layer", "unit", "role"])["weight"]
    assert {weights[place].idxmax() for place in TOP.values()} == {"before_subject"}
    yield f"({weights[26, 2, 'before_subject']:.2f} of the weight of 26.2)"
    written = result("reads").set_index(["layer", "unit", "role"])["written"]
    shares = {place: 100 * written[place] / written[place].sum() for place in ((26, 2), (25, 2))}
    after, subject, last = (shares[26, 2][role] for role in ("after_subject", "subject_last", "last"))
    yield f"for 26.2 {after:.0f} % from the token after the occupation, {subject:.0f} % from its last token"
    yield f"{last:.0f} % from the last token of the prompt; for 25.2 {shares[25, 2]['subject_last']:.0f} %"
    words = result("readout").set_index(["layer", "unit"])
    assert words.loc[(26, 2), "raised"].startswith("her she")
    assert words.loc[(26, 2), "lowered"].startswith("his he")
    assert (words.loc[[(26, 2), (25, 2), (27, 5)], ["place_of_she", "place_of_he_from_below"]] <= 4).all(axis=None)
    assert (words.loc[(26, 0), ["place_of_she", "place_of_he_from_below"]] > 49140).all()


def told_of_the_lowest_mlp():
    rows = result("through_heads").set_index(["set", "held"])
    yield f"{plain(rows.loc[('MLP', 'all')], 'taken')} of the effect"
    yield f"with 26.2 alone held, {plain(rows.loc[('MLP', '26.2')], 'taken')}"
    own = rows.xs("", level="held")
    effects_of = [own.loc[name, "effect"] for name in ("10 neurons", "30 neurons", "100 neurons", "MLP")]
    few, some, many, whole = (f"{effect:+.2f}" for effect in effects_of)
    yield f"its 10 strongest carry {few} nats together, 30 carry {some} and 100 carry {many} of the MLP's {whole}"
    through = {f"{rows.loc[(f'{size} neurons', 'all'), 'taken']:.2f}" for size in (10, 30, 100)}
    yield f"through the six heads goes about the same share of each ({', '.join(through)})"


def told_of_estimates():
    about = read_json(RESULTS / "about.json")
    (found,) = about["agreement"]
    yield f"Over {found['audited']} neurons drawn at random from all {found['sites']:,} at two roles"
    yield f"with exact effects is {found['rho']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"
    lowest = about["lowest_mlp"]
    yield f"over the {lowest['neurons']} neurons of MLP 0 that were chosen and patched it is "
    yield f"chosen and patched it is {lowest['rank_correlation']:.2f}"
    pairs = [about["totals"][f"{name}, user"]["pairs"] for name in ("winobias", "winogender")]
    yield f"({pairs[0]} and {pairs[1]} pairs, at most two sentences an occupation, drawn at random)"
    couples = [about["totals"][f"own, {kind}"]["couples"] for kind in ("occupation", "definition")]
    yield f"({couples[0]} of occupations, {couples[1]} of words that say their gender)"


@pytest.mark.parametrize("teller", [each for name, each in sorted(globals().items()) if name.startswith("told_of")])
def test_the_readme_tells_what_the_tables_say(teller):
    text = " ".join(README.read_text().split())
    for phrase in teller():
        assert " ".join(phrase.split()) in text, phrase
