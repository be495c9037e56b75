"""The README's Python and commands, run as they are written."""

import json
import re
import shlex
import shutil
import sys
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
from made import TEMPLATE, save_adapter, save_gguf
from safetensors.torch import load_file, save_file

from locate import cli
from locate.prompts import occupation_table

README = Path(__file__).resolve().parents[1] / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


def test_the_python_runs_as_written(tmp_path, monkeypatch):
    code, editing = blocks("python")
    assert len([line for line in code.splitlines() if line.strip()]) <= 15
    monkeypatch.chdir(tmp_path)
    said = {}
    exec(compile(code, "README.md", "exec"), said)
    exec(compile(editing, "README.md", "exec"), said)
    assert (tmp_path / "edited" / "receipt.json").stat().st_size > 1000
    assert (tmp_path / "located.json").stat().st_size > 1000
    assert (tmp_path / "map.html").stat().st_size > 1e6


def commands() -> list[str]:
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if line.startswith("locate-bias ")]


def test_the_readme_shows_every_verb():
    assert {line.split()[1] for line in commands()} == {
        "trace", "rank", "plot", "compare", "edit", "evaluate", "prompts", "selftest",
    }  # fmt: skip


def test_the_commands_parse(monkeypatch, capsys):
    """Every option of every command shown exists: the parser alone is run."""
    import typer

    from locate.cli.app import application

    group = typer.main.get_command(application())
    for line in commands():
        words = shlex.split(line.split("#")[0].split(" > ")[0])[1:]
        verb = group.commands[words[0]]
        verb.make_context(words[0], words[1:], resilient_parsing=False)


PAIRS = """clean,corrupted,clean_subject,corrupted_subject,stereotype
The nurse said that,The man said that,nurse,man,1
The engineer said that,The woman said that,engineer,woman,-1
The doctor laughed because,The woman laughed because,doctor,woman,-1
The librarian laughed because,The man laughed because,librarian,man,1
"""
FEW = {  # what makes a command quick: fewer prompts, one format, a short training
    "trace": ["--formats", "html"],
    "plot": ["--formats", "html"],
    "compare": ["--formats", "html"],
    "evaluate": ["--tests", "occupations", "--limit", "4", "--formats", "html"],
    "edit": ["--set", "epochs=1", "--set", "preserve=1"],
    "selftest": ["--models", "1"],
}


def run(patch, words):
    """The exit code of a command line."""
    patch.setattr(sys, "argv", ["locate-bias", *words])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code
    return 0


@pytest.fixture(scope="module")
def place(folder_of, tmp_path_factory):
    """A folder with what the commands name: models, an adapter, a GGUF file, prompts and runs of before."""
    place = tmp_path_factory.mktemp("readme")
    for name in ("my-model", "my-chat-model"):
        shutil.copytree(folder_of("llama"), place / name)
    (place / "my-chat-model" / "chat_template.jinja").write_text(TEMPLATE)
    save_adapter(place / "my-model", place / "my-lora", named="../my-model")
    save_gguf(place / "my-model", place / "my-model.gguf", "Q8_0")
    (place / "my_pairs.csv").write_text(PAIRS)
    (place / "my-data").mkdir()
    few = ["--swap", "anti", "--limit", "8", "--formats", "html", "--no-controls"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for name in ("demo", "demo-mini"):
            assert run(patch, ["trace", "-m", "mini", "-o", f"runs/{name}", *few]) == 0
        shutil.copytree(files("locate").joinpath("mini"), place / "edited")
        weights = load_file(place / "edited" / "model.safetensors")
        weights["transformer.h.0.mlp.c_proj.weight"] = 0.5 * weights["transformer.h.0.mlp.c_proj.weight"]
        save_file(weights, place / "edited" / "model.safetensors", {"format": "pt"})
        assert run(patch, ["trace", "-m", "edited", "-o", "runs/edited", *few]) == 0
    return place


@pytest.mark.parametrize("line", commands(), ids=lambda line: line.split("#")[0].strip())
def test_the_commands_run(line, place, monkeypatch, tmp_path):
    """Every command shown is run, on small inputs, in a folder that has what it names and not what it makes."""
    words = shlex.split(line.split("#")[0])[1:]
    made = {words[k + 1] for k, word in enumerate(words) if word == "-o"}
    for path in [*place.iterdir(), *place.glob("runs/*")]:
        there = path.relative_to(place)
        if str(there) not in made | {"runs"}:
            (tmp_path / there).parent.mkdir(exist_ok=True)
            shutil.copytree(path, tmp_path / there) if path.is_dir() else shutil.copy(path, tmp_path / there)
    monkeypatch.chdir(tmp_path)
    few = [*FEW.get(words[0], []), *(["--limit", "8"] if words[0] == "trace" and "--limit" not in words else [])]
    assert run(monkeypatch, [*words, *few]) == 0
    for path in made:
        assert (tmp_path / path).exists()


def test_make_targets_in_the_readme_exist():
    makefile = (README.parent / "Makefile").read_text()
    for target in set(re.findall(r"(?:^|`)make (\w+)", README.read_text(), re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_files_that_the_readme_links_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README.read_text()):
        if not link.startswith("http"):
            assert (README.parent / link).exists(), link


@pytest.mark.parametrize("word", ["issue", "session", "TODO"])
def test_the_readme_speaks_of_the_project_alone(word):
    assert not re.search(rf"\b{word}\b", README.read_text())


def test_what_it_tells_of_an_edit_is_in_the_committed_receipt():
    from locate.schema import validate

    told = json.loads((README.parent / "figures" / "receipt_fast.json").read_text())
    validate(told, "receipt", "receipt_fast.json")
    scores, text = told["scores"], " ".join(README.read_text().split())
    for part, words in (("held_out", "never saw by {}"), ("held_out_both", "never saw either by {}")):
        assert words.format(percent(scores["cut"][part])) in text
    for name, said in (
        (
            "receipt_lsdm.json",
            "LSDM cuts {held_out}, in unseen templates {held_out_both}, at {perplexity} of perplexity",
        ),
        ("receipt_lsdm_each.json", "layer by layer, it cuts {held_out} at {perplexity}"),
    ):
        lsdm = json.loads((README.parent / "figures" / name).read_text())
        validate(lsdm, "receipt", name)
        parts = {part: percent(score) for part, score in lsdm["scores"]["cut"].items()}
        rise = percent(lsdm["scores"]["perplexity_change"], "+.2f")
        assert said.format(**parts, perplexity=rise) in text
    (kept,) = [each for each in scores["kept"] if each["name"] == "kept_definition_words"]
    assert f"; {percent(kept)} of the definitional words" in text
    assert f"perplexity moves by {percent(scores['perplexity_change'], '+.2f')}" in text


def percent(score, form=".0f"):
    return f"{score['value']:{form}} % [{score['low']:{form}}, {score['high']:{form}}]"


def test_what_it_tells_of_a_gpu_is_in_the_committed_files():
    from locate.schema import validate

    figures = README.parent / "figures"
    table = pd.read_csv(figures / "sweep_gpu.csv")
    ours = table[table["engine"].str.startswith("locate")]
    few, more = (ours.loc[ours["tokens"] == tokens, "seconds"] for tokens in (8, 16))
    ratios = ours["times_as_fast_as_transformer_lens"]
    said = " ".join(README.read_text().split())
    assert f"takes {few.min():.1f} to {few.max():.1f} s at 8 tokens" in said
    assert f"and {more.min():.1f} to {more.max():.1f} s at 16, with probabilities or without" in said
    assert f"{ratios.min():.0f} to {ratios.max():.0f} times as fast as `transformer_lens.patching`, whose" in said
    assert f"equal to {table['largest difference'].max():.0e} nats".replace("e-0", "e-") in said
    there, here = (json.loads((figures / f"receipt_lsdm{name}.json").read_text()) for name in ("_h100", ""))
    validate(there, "receipt", "receipt_lsdm_h100.json")
    assert there["settings"] == here["settings"]
    for name, cut in here["scores"]["cut"].items():
        assert there["scores"]["cut"][name]["value"] == pytest.approx(cut["value"], abs=1e-4)


def effects_of(name):
    return pd.read_csv(README.parent / "figures" / f"effects_{name}.csv", keep_default_na=False)


def about(name):
    return json.loads((README.parent / "figures" / f"effects_{name}.json").read_text())


def with_ends(effect, low, high):
    return f"{effect:+.2f} [{low:+.2f}, {high:+.2f}]"


@pytest.mark.parametrize(("model", "layers", "rows"), [("smollm2", 30, 7), ("mini", 6, 4)])
def test_the_effects_it_tells_are_those_of_the_committed_table(model, layers, rows):
    """Every row of its tables, formatted anew from figures/effects_*.csv."""
    names = {"attn_out": "attention output", "mlp_out": "MLP output"}
    places = {"subject_last": "last token of the occupation", "last": "last token of the prompt"}
    table = effects_of(model)
    table = table[table["component"].isin(names) & table["role"].isin(places)]
    sites = {
        (f"{names[row['component']]}, layer {row['layer']} of {layers}, {places[row['role']]}", row["direction"]): row
        for row in table.to_dict("records")
    }
    lines = [line for line in README.read_text().splitlines() if re.match(rf"\| .*, layer \d+ of {layers}, ", line)]
    assert len(lines) == rows
    for line in lines:
        site, denoising, share, noising = (cell.strip() for cell in line.split("|")[1:5])
        for direction, told in (("denoising", denoising), ("noising", noising)):
            row = sites[site, direction]
            assert told == with_ends(row["effect"], row["low"], row["high"])
        total = about(model)["totals"]["own"][0]
        assert float(share) == pytest.approx(sites[site, "denoising"]["effect"] / total, abs=0.0051)


def test_what_it_tells_of_smollm2_is_derived_from_the_committed_tables():
    import numpy as np

    import locate

    text, found = " ".join(README.read_text().split()), about("smollm2")
    effect, low, high = found["totals"]["own"]
    assert f"{effect:.2f} [{low:.2f}, {high:.2f}] nats towards the stereotype" in text
    rows = effects_of("smollm2")
    assert set(rows["groups"]) == {104}
    tested = found["set_test"]
    assert f"in SmolLM2 MLPs {', '.join(map(str, tested['layers']))} carry" in text
    told = with_ends(tested["effect"], tested["low"], tested["high"])
    assert f"{told} nats together, the best of 99 random sets {tested['largest']:+.2f} (p = {tested['p']:.2f})" in text
    odds = pd.read_csv(README.parent / "figures" / "occupations_smollm2.csv").set_index("group")["mean"]
    shares = occupation_table().set_index("occupation")["share_women"].loc[odds.index]
    draws = np.random.default_rng(0).integers(len(odds), size=(2000, len(odds)))
    ends = np.quantile([np.corrcoef(odds.to_numpy()[i], shares.to_numpy()[i])[0, 1] for i in draws], [0.025, 0.975])
    r = np.corrcoef(odds, shares)[0, 1]
    assert f"(r = {r:.2f} [{ends[0]:.2f}, {ends[1]:.2f}] over {len(odds)})" in text
    with_bos = locate.load_located(README.parent / "figures" / "located_smollm2_bos.json")
    effect, low, high = with_bos.total
    assert f"and the total is {effect:.2f} [{low:.2f}, {high:.2f}] nats" in text
    assert with_bos.trace["model"]["prepend_bos"]
    assert not found["model"]["prepend_bos"]


def test_the_controls_it_tells_are_those_of_the_committed_table():
    controls = pd.read_csv(README.parent / "figures" / "controls_smollm2.csv", keep_default_na=False)
    controls = controls[controls["direction"] == "denoising"]
    text = README.read_text()
    for name in ("shuffled source", "random direction", "definitional words", "neutral words"):
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} | ")]
        for cell, (component, layer, role) in zip(
            line.split("|")[2:4], (("mlp_out", 0, "subject_last"), ("attn_out", 26, "last")), strict=True
        ):
            rows = controls[(controls["control"] == name) & (controls["component"] == component)]
            (row,) = rows[(rows["layer"] == layer) & (rows["role"] == role)].to_dict("records")
            assert cell.strip() == with_ends(row["effect"], row["low"], row["high"])
    mini = pd.read_csv(README.parent / "figures" / "controls_mini.csv", keep_default_na=False)
    rows = mini[(mini["control"] == "shuffled source") & (mini["direction"] == "denoising")]
    (row,) = rows[(rows["component"] == "mlp_out") & (rows["layer"] == 0)].to_dict("records")
    assert f"({with_ends(row['effect'], row['low'], row['high'])} against {row['own']:+.2f})" in text


def test_the_circuits_it_tells_are_those_of_the_committed_table():
    sets = pd.read_csv(README.parent / "figures" / "sets_mini.csv")
    (row,) = sets[(sets["kind"] == "circuit") & (sets["size"] == 2)].to_dict("records")
    size = json.loads((README.parent / "figures" / "effects_mini.json").read_text())["areas"]
    text = " ".join(README.read_text().split())
    assert f"keeps {row['faithfulness']:.2f} [{row['low']:.2f}, {row['high']:.2f}] of the effect" in text
    assert f"(CPR {size['cpr'][0]:.2f}, CMD {size['cmd'][0]:.2f})" in text


def test_what_it_tells_of_mini_is_in_its_results():
    summary = json.loads((README.parent / "experiments" / "mini" / "results" / "summary.json").read_text())
    text = " ".join(README.read_text().split())
    for name in ("text_she_share", "share_women"):
        found = summary["log_odds_and"][name]
        assert f"{found['r']:.2f} [{found['low']:.2f}, {found['high']:.2f}] over {found['n']}" in text
    assert f"pronoun of {summary['right_pronoun']['mean_over_templates']['share']:.0%}".replace("%", " %") in text


def test_what_it_tells_of_the_opposite_swap_is_in_the_committed_file():
    import locate
    from locate.mediation.located import THRESHOLD

    found = locate.load_located(README.parent / "figures" / "located_opposite.json")
    text = " ".join(README.read_text().split())
    effect, low, high = found.total
    assert f"is {effect:.2f} [{low:.2f}, {high:.2f}] nats" in text
    assert low < 0 < high
    assert not found.layers
    (passing,) = [site for site in found.sites if site.q <= THRESHOLD]
    assert (passing.component, passing.layer, passing.role) == ("mlp_out", 5, "last")
    assert f"({passing.effect:.2f} [{passing.low:.2f}, {passing.high:.2f}])" in text
