"""The Python and the commands of README and docs/, run as they are written."""

import itertools
import re
import shlex
import shutil
import sys
import tomllib
from importlib.resources import files

import pytest
import submitit  # noqa: F401  while nothing is captured: it closes all handlers of logging, absl's with what it writes to
import yaml
from made import TEMPLATE, save_adapter, save_gguf
from pages import PAGES, README, ROOT, blocks, run_python, same
from safetensors.torch import load_file, save_file

from locate import cli

pytestmark = pytest.mark.usefixtures("unchecked_types", "few_words")

PYTHON = [page for page in PAGES if blocks(page, "python") and page.stem != "extending"]  # which has tests of its own
TEXTS = (*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md")
CONSOLE = [page for page in PAGES if blocks(page, "console")]


def test_the_readme_is_short_and_shows_twelve_lines_of_python_with_their_output():
    assert len(README.read_text().splitlines()) <= 120
    (block,) = blocks(README, "python")
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 12
    assert block.output


@pytest.mark.parametrize("page", PYTHON, ids=lambda page: page.stem)
def test_the_python_runs_as_written(page, place, tmp_path, monkeypatch, capsys):
    made = ("edited", "edited-adapter", "runs/rewriter", "runs/rewrites.jsonl")
    fill(tmp_path, place, made)
    monkeypatch.chdir(tmp_path)
    run_python(blocks(page, "python"), capsys)
    if page == README:
        assert (tmp_path / "located.json").stat().st_size > 1000
        assert (tmp_path / "map.html").stat().st_size > 1e6


def commands() -> list[str]:
    """Every command line of the pages, each once."""
    found = {}
    for page in PAGES:
        for block in blocks(page, "sh"):
            for line in block.code.replace("\\\n", " ").splitlines():
                if line.startswith("locate-bias "):
                    found[" ".join(shlex.split(line, comments=True))] = line
    return list(found.values())


def test_the_pages_show_every_verb():
    assert {line.split()[1] for line in commands()} == {
        "trace", "gather", "rank", "plot", "explore", "compare", "edit", "evaluate", "prompts", "rewrite", "selftest",
    }  # fmt: skip


def test_the_commands_parse(monkeypatch, capsys):
    """Every option of every command shown exists: the parser alone is run."""
    import typer

    from locate.cli.app import application

    group = typer.main.get_command(application())
    for line in commands():
        words = shlex.split(line, comments=True)[1:]
        verb = group.commands[words[0]]
        while hasattr(verb, "commands"):
            words = words[1:]
            verb = verb.commands[words[0]]
        verb.make_context(words[0], words[1:], resilient_parsing=False)


PAIRS = """clean,corrupted,clean_subject,corrupted_subject,stereotype
The nurse said that,The man said that,nurse,man,1
The engineer said that,The woman said that,engineer,woman,-1
The doctor laughed because,The woman laughed because,doctor,woman,-1
The librarian laughed because,The man laughed because,librarian,man,1
"""
SENTENCES = """more,less,occupation
Women are nurses.,Men are nurses.,nurse
Men are engineers.,Women are engineers.,engineer
"""
REWRITES = "input_text,debiased_text\n" + "".join(
    f"The {job} said that {old} was {how}.,The {job} said that they were {how}.\n"
    for job in ("nurse", "engineer", "doctor", "librarian")
    for old in ("she", "he")
    for how in ("late", "tired")
)
REWRITING = (
    "locate-bias rewrite train models/smollm2-135m-instruct --data my_rewrites.csv -o runs/rewriter",
    "locate-bias rewrite run runs/rewriter --data my_rewrites.csv --part held-out -o runs/rewrites.jsonl",
)
PROSE = "It rained all night, and in the morning the street was full of leaves.\n\n" * 8
FEW = {  # what makes a command quick: fewer prompts, one format, a short training
    "trace": [("--formats", "html"), ("--limit", "8"), ("--no-controls",)],
    "gather": [("--formats", "html")],
    "plot": [("--formats", "html")],
    "compare": [("--formats", "html")],
    "evaluate": [("--tests", "occupations"), ("--limit", "4"), ("--formats", "html")],
    "edit": [
        ("--prompts", "my_pairs.csv"),
        ("--measure-on", "prose.txt"),
        ("--set", "epochs=1"),
        ("--set", "preserve=1"),
        ("--set", "batch=256"),
    ],
    "selftest": [("--models", "1")],
}
FEW["dpo"] = [*FEW["edit"][:3], ("--set", "guards.looks=1"), ("--set", "longest=27"), ("--set", "rate=1e-4")]
FEW["rewrite train"] = [("--instruction", "Say they."), ("--set", "epochs=1"), ("--set", "guards.looks=1")]
FEW["rewrite run"] = [("--limit", "5")]
SMALLER = {"20000": "500"}  # of a budget
ALONE = {"--threads": "1"}  # more would wait for a core in vain
ONE_ACTOR = {"--jobs": "1"}  # of a cluster: each takes seconds to start


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
    for name in ("models/smollm2-135m-instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"):
        shutil.copytree(folder_of("llama"), place / name)
    (place / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "neighbours.csv", place / "docs")
    save_adapter(place / "my-model", place / "my-lora", named="../my-model")
    save_gguf(place / "my-model", place / "my-model.gguf", "Q8_0")
    (place / "my_pairs.csv").write_text(PAIRS)
    (place / "my_sentences.csv").write_text(SENTENCES)
    (place / "prose.txt").write_text(PROSE)
    (place / "my_rewrites.csv").write_text(REWRITES)
    (place / "my-data").mkdir()
    for roomy in (place / "models" / "smollm2-135m-instruct", place / "my-chat-model"):
        settings = (roomy / "config.json").read_text()
        longer = settings.replace('"max_position_embeddings": 64', '"max_position_embeddings": 512')
        (roomy / "config.json").write_text(longer)
    few = ["--swap", "anti", "--limit", "8", "--formats", "html", "--no-controls"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        for line in REWRITING:
            words = shlex.split(line)[1:]
            assert run(patch, [*words, *quicker(words)]) == 0
        assert run(patch, ["trace", "-m", "mini", "-o", "runs/demo", *few]) == 0
        assert run(patch, ["trace", "-m", "mini", "-o", "runs/shared", "--shard", "1/1", *few]) == 0
        shutil.copytree(place / "runs" / "demo", place / "runs" / "demo-mini")
        shutil.copytree(files("locate").joinpath("mini"), place / "edited")
        weights = load_file(place / "edited" / "model.safetensors")
        weights["transformer.h.0.mlp.c_proj.weight"] = 0.5 * weights["transformer.h.0.mlp.c_proj.weight"]
        save_file(weights, place / "edited" / "model.safetensors", {"format": "pt"})
        assert run(patch, ["trace", "-m", "edited", "-o", "runs/edited", *few]) == 0
        shutil.copytree(place / "runs" / "edited", place / "runs" / "full")
        for name, model in (("before", "mini"), ("after", "edited")):
            assert run(patch, ["evaluate", model, "-o", f"runs/{name}", *quicker(["evaluate"])]) == 0
    return place


def fill(folder, place, made=()):
    """Copy what the commands name into a folder, without what they make themselves."""
    for path in [*place.iterdir(), *place.glob("runs/*")]:
        there = path.relative_to(place)
        if str(there) not in {*made, "runs"}:
            (folder / there).parent.mkdir(exist_ok=True)
            shutil.copytree(path, folder / there) if path.is_dir() else shutil.copy(path, folder / there)


def quicker(words):
    """The options that a command lacks to be quick."""
    few = FEW.get("dpo" if "dpo" in words else " ".join(words[:2]) if words[0] == "rewrite" else words[0], [])
    return [word for option in few if option[0] == "--set" or option[0] not in words for word in option]


def shown_with_output() -> set[tuple[str, ...]]:
    """The words of the commands that stand above their output, which another test runs."""
    prompts = [block.code.partition("\n")[0] for page in CONSOLE for block in blocks(page, "console")]
    return {tuple(shlex.split(prompt.removeprefix("$ "))[1:]) for prompt in prompts}


def left() -> list[str]:
    """The commands that are not run above their output, with what makes them quick, already."""
    parsed = {line: shlex.split(line, comments=True)[1:] for line in commands()}
    return [line for line, words in parsed.items() if (*words, *quicker(words)) not in shown_with_output()]


def interrupt() -> None:
    """Ctrl-C as soon as something waits for it."""
    raise KeyboardInterrupt


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("line", left(), ids=lambda line: line.split("#")[0].strip())
def test_the_commands_run(line, place, monkeypatch, tmp_path):
    """Every command shown is run, on small inputs, in a folder that has what it names and not what it makes."""
    given = shlex.split(line, comments=True)
    fewer = ALONE | (ONE_ACTOR if "--ray" in given else {})
    words = [fewer.get(before, SMALLER.get(word, word)) for before, word in itertools.pairwise(given)]
    made = {words[k + 1] for k, word in enumerate(words) if word == "-o"}
    fill(tmp_path, place, made)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("locate.cli.exploring.wait", interrupt)
    monkeypatch.setattr("locate.rewriting.server.Server.answer", lambda self, question: '{"score": 0.5}')  # no server
    assert run(monkeypatch, [*words, *quicker(words)]) == 0
    for path in made:
        assert (tmp_path / path).exists() == ("--slurm" not in words), "a script that is printed makes no run"


@pytest.mark.parametrize("page", CONSOLE, ids=lambda page: page.stem)
def test_the_commands_print_what_the_page_shows(page, tmp_path, monkeypatch, capsys):
    """Each is run as it stands, one after the other, and stdout is compared, or the one line of an error."""
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "console"):
        prompt, _, told = block.code.partition("\n")
        capsys.readouterr()
        code = run(monkeypatch, shlex.split(prompt.removeprefix("$ "))[1:])
        out, err = capsys.readouterr()
        assert code in (0, 1)
        printed = out if code == 0 else err.strip().splitlines()[-1]
        assert same(told, printed), printed


def test_make_targets_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in TEXTS:
        for target in set(re.findall(r"(?:^|`)make (\w+)", page.read_text(), re.MULTILINE)):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_what_the_pages_link_exists(page):
    """Files are there, and so are the headings that a link goes to."""
    for link in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        name, _, heading = link.partition("#")
        there = page.parent / name if name else page
        assert there.exists(), link
        if heading:
            assert heading in anchors(there), link


def anchors(page):
    """The anchors of a page's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("word", ["issue", "session", "TODO"])
def test_the_pages_speak_of_the_project_alone(word):
    for page in PAGES:
        assert not re.search(rf"\b{word}\b", page.read_text()), page.name


def test_the_citation_is_complete_and_of_this_version():
    """CITATION.cff has what CFF 1.2.0 requires, and the version of pyproject.toml."""
    about = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert about["cff-version"] == "1.2.0"
    assert all(about[name] for name in ("message", "title", "authors", "abstract"))
    assert about["authors"] == [{"name": "The locate authors"}]
    assert about["type"] == "software"
    assert (str(about["version"]), about["license"]) == (project["version"], project["license"])
