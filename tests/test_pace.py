"""The time left of a whole edit: what editors and the receipt declare, and what is made of it as the parts go by."""

import random
from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
import torch

from locate import load_located, occupation_pairs
from locate.cli import steps as shown
from locate.cli.editing import WORDS
from locate.cli.steps import Steps, progress_line
from locate.editors import covariance, pace, receipt
from locate.editors.covariance import covariances, preserved_parts, preserved_windows
from locate.editors.dama import DAMA
from locate.editors.edit import Edit, product_change
from locate.editors.erase import Erase
from locate.editors.fast import FAST
from locate.editors.finetune import FineTune
from locate.editors.fit import fitting_prompts
from locate.editors.lsdm import LSDM
from locate.editors.memit import MEMIT
from locate.editors.pace import EditPace, Part, tokens_in
from locate.editors.receipt import receipt_parts, save_edited
from locate.editors.unfinished import edit_or_resume, edit_parts
from locate.editors.values import Values
from locate.model.causal import load_causal
from locate.model.matrices import matrix
from locate.prompts import definitional_pairs
from locate.tracing.progress import Progress

LOCATED = Path(__file__).parents[1] / "figures" / "located_opposite.json"
JOB = "transformer.h.{}.mlp.c_proj"
TEXT = covariance.files("locate").joinpath("evaluation", "text", "preserve.txt").read_text()[:12000]


@pytest.fixture(scope="module")
def mini():
    return load_causal("mini")


@pytest.fixture(scope="module")
def located():
    return load_located(LOCATED)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    return tmp_path


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    return now


def told(made, clock, what, *steps):
    """What is made of a part's reports, a second apart."""
    found = []
    for done, planned in steps:
        clock[0] += 1
        found.append(made.tell(what, done, planned))
    return found


def test_the_time_left_is_that_of_all_parts(clock):
    """Ten tokens a second in a, twenty in b; c is like b, d like none of them."""
    made = EditPace([Part("a", 40.0), Part("b", 40.0), Part("c", 80.0, like="b"), Part("d", 100.0)])
    seen = told(made, clock, "a", (1, 4), (2, 4), (3, 4), (4, 4))
    assert [each.left for each in seen[:2]] == [None, None]  # before a second was measured
    assert seen[2].left == pytest.approx(23.0)
    assert seen[3].left == pytest.approx(22.0)
    assert (seen[3].stage, seen[3].done, seen[3].planned) == ("a", 4, 4)
    assert seen[3].rate == pytest.approx(1.0)
    seen = told(made, clock, "b", (1, 2), (2, 2))
    assert seen[0].left == pytest.approx(20.0)  # at the pace of a until b has one
    seen = told(made, clock, "c", (0, 8))
    pool = (4 + 2) / (40 + 40)
    assert seen[0].left == pytest.approx(80 * 2 / 40 + 100 * pool)
    seen = told(made, clock, "c", (8, 8))
    assert seen[0].left == pytest.approx(100 * (4 + 2 + 1) / (40 + 40 + 80))


def test_a_part_soon_has_a_pace_of_its_own(clock):
    """A first report is no work that was seen; what is known of others counts for a twentieth of the part."""
    made = EditPace([Part("a", 10.0), Part("b", 100.0)])
    told(made, clock, "a", (0, 10), (5, 10), (10, 10))
    seen = told(made, clock, "b", (50, 100), (60, 100))
    assert seen[0].left == pytest.approx(50 * 0.3)
    assert seen[1].left == pytest.approx(40 * (1 + 0.3 * 5) / (10 + 5))


def test_a_part_that_never_comes_is_dropped(clock):
    made = EditPace([Part("a", 10.0), Part("never", 1000.0), Part("b", 10.0)])
    told(made, clock, "a", (0, 10), (5, 10), (10, 10))
    assert sum(each.cost for each in made.remaining()) == 1010
    (seen,) = told(made, clock, "b", (0, 10))
    assert seen.left == pytest.approx(10 * 3 / 10)


def test_a_part_that_comes_again_is_waited_for_and_has_the_pace_it_had(clock):
    made = EditPace([Part("a", 10.0), Part("b", 10.0), Part("a", 10.0), Part("b", 10.0)])
    told(made, clock, "a", (5, 10), (10, 10))
    clock[0] += 4
    told(made, clock, "b", (5, 10), (10, 10))
    (seen,) = told(made, clock, "a", (0, 10))
    assert seen.left == pytest.approx(2 + 6)


def test_a_part_that_nobody_declared_has_a_rate_and_no_time_left(clock):
    made = EditPace([Part("before", 10.0), Part("after", 10.0, like="before")])
    seen = told(made, clock, "layers", (1, 5), (2, 5), (3, 5))
    assert [each.left for each in seen] == [None] * 3
    assert seen[-1].rate == pytest.approx(1.0)
    assert progress_line(seen[-1]) == "layers: 3 of 5, 1.0 a second; about 2 s left of this part"
    seen = told(made, clock, "before", (1, 4), (2, 4), (3, 4))
    assert seen[-1].left == pytest.approx(2.5 * 0.4 + 10 * 0.4)  # what the editor took says nothing of tokens


def test_what_remains_never_grows(clock):
    draw = random.Random(0)
    parts = [Part(name, draw.uniform(0, 100)) for name in "abcdefg"]
    made = EditPace(parts)
    whole = sum(each.cost for each in parts)
    before = sum(each.cost for each in made.remaining())
    assert before == pytest.approx(whole)
    for name in "acdxg":  # b, e and f never come, x was not declared
        for done in [*sorted(draw.randint(0, 9) for _ in range(6)), 9]:
            clock[0] += draw.random()
            left = made.tell(name, done, 9).left
            now = sum(each.cost for each in made.remaining())
            assert now <= before
            assert left is None or left >= 0
            before = now
    assert before == 0


def test_the_line_says_what_is_done_and_what_is_left():
    found = Progress(WORDS["before: occupations"], 1200, 3366, 210.4, 251.0)
    assert progress_line(found) == (
        "measuring occupations before the edit: 1,200 of 3,366, 210 a second; about 4 min left in all"
    )
    assert (
        progress_line(replace(found, rate=None, left=None)) == "measuring occupations before the edit: 1,200 of 3,366"
    )
    assert progress_line(replace(found, left=None)).endswith("about 10 s left of this part")


def test_a_line_is_written_as_soon_as_the_time_left_is_known(monkeypatch):
    lines, now = [], [100.0]
    monkeypatch.setattr(shown.time, "monotonic", lambda: now[0])
    steps = Steps()
    monkeypatch.setattr(steps, "say", lines.append)
    for second, left in enumerate([None, None, 30.0, 29.0, 28.0]):
        now[0] = 100.0 + second
        steps.progress(Progress("a", second, 10, None, left))
    assert [line.partition("; ")[2] for line in lines] == ["", "about 30 s left in all"]


def test_tokens_are_counted_in_a_sample(mini):
    texts = [pair.clean for pair in occupation_pairs()]
    exact = sum(len(mini.encoder.encode(text)[0]) for text in texts)
    assert len(texts) > 5 * pace.SAMPLE
    assert tokens_in(mini, texts) == pytest.approx(exact, rel=0.1)
    assert tokens_in(mini, [TEXT]) == pytest.approx(len(mini.encoder.encode(TEXT)[0]), rel=0.1)
    assert tokens_in(mini, []) == 0


def counting(model, told):
    """Progress that counts the tokens that the network was given before each report, by part, and the hook."""
    since = [0]

    def count(module, args, kwargs):
        since[0] += (args[0] if args else kwargs["input_ids"]).numel()

    def step(found, what, done, total):
        found[what] += since[0]
        since[0] = 0
        told.append((what, done, total))

    found = Counter()
    return found, partial(step, found), model.network.register_forward_pre_hook(count, with_kwargs=True)


EDITORS = {
    "lsdm": (LSDM(layers=(0, 2)), {"covariance": 1.0, "slopes": pace.FELT, "check": 1.0}),
    "lsdm-each": (LSDM(layers=(1, 2), spread="each", rounds=1), {"targets": pace.FELT, "keys": 1.0}),
    "memit": (MEMIT(layers=(1, 2), steps=2), {"targets": pace.FELT, "keys": 1.0}),
    "fast": (FAST(layers=(4,), epochs=2, width=8, batch=8), {"stamp": pace.TRAINED / 2 * (1 - 4 / 6)}),
    "dama": (DAMA(layers=(1, 2), dims=2, values=Values("adam", steps=2)), {"covariance": 1.0, "values": pace.FELT}),
    "finetune": (FineTune(layers=(1,), epochs=1, batch=8), {"training": pace.TRAINED / 2}),
    "leace": (Erase(layers=(1, 2)), {"layers": 1.0}),
}
"""an editor, and by how much the cost of each of its parts is above the tokens that the network is given"""


@pytest.mark.parametrize("name", EDITORS)
def test_an_editor_does_what_it_declares(name, mini, located, cache, monkeypatch):
    """The same parts in the same order, each to its end, with about as many tokens as it said."""
    monkeypatch.setattr(covariance, "SAMPLE", 1)  # too little to be declared, but not beside so few prompts
    how, weights = EDITORS[name]
    if name == "leace":
        pytest.importorskip("concept_erasure")
    else:
        how = replace(how, text=cache / "text.txt")
    words = ["nurse", "plumber", "engineer", "teacher", "clerk", "carpenter", "baker", "guard"]
    prompts, kept = (
        occupation_pairs("neutral", templates_each=4, occupations=words),
        definitional_pairs(templates_each=1),
    )
    declared = how.expected_parts(mini, located, prompts, preserved=kept)
    seen = []
    tokens, step, hook = counting(mini, seen)
    how.edit(mini, located, prompts, preserved=kept, progress=step)
    step(*seen.pop())  # what was run after the last report
    hook.remove()
    assert [what for what, _ in groupby(what for what, _, _ in seen)] == [each.what for each in declared]
    for _, reports in groupby(seen, key=lambda each: each[0]):
        counts = [(done, total) for _, done, total in reports]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]
    costs = Counter()
    for each in declared:
        costs[each.what] += each.cost
    for what, weight in weights.items():
        assert costs[what] / weight == pytest.approx(tokens[what], rel=0.6), what


def test_text_and_covariances_that_are_kept_are_no_parts(mini, cache, monkeypatch):
    monkeypatch.setattr(covariance, "OWN", 2)
    modules = [JOB.format(layer) for layer in (0, 1)]
    assert [each.what for each in preserved_parts(mini, None, modules)] == ["text", "covariance"]
    assert [each.what for each in preserved_parts(mini, None)] == ["text"]
    rows = preserved_windows(mini, None)
    (part,) = preserved_parts(mini, None, modules)
    assert part == Part("covariance", sum(map(len, rows)))
    covariances(mini, modules[:1], rows[:3])
    assert preserved_parts(mini, None) == []
    monkeypatch.setattr(covariance, "spread", lambda rows, most: [list(row) for row in rows[:1]])
    covariances(mini, modules[:1], preserved_windows(mini, None))
    assert [each.what for each in preserved_parts(mini, None, modules)] == ["covariance"]  # one of them is lacking
    assert preserved_parts(mini, None, modules[:1]) == []


def few(test, count=40):
    return replace(test, read=lambda path: replace(test.read(path), rows=test.read(path).rows[:count]))


def test_what_was_measured_before_is_no_part_of_a_receipt(mini, cache, monkeypatch):
    monkeypatch.setattr(
        receipt, "JUDGES", tuple(few(test, 2 if test.name == "perplexity" else 40) for test in receipt.JUDGES)
    )
    names = [test.name for test in receipt.JUDGES]
    declared = receipt_parts(mini)
    assert [each.what for each in declared] == (
        [f"before: {name}" for name in names] + ["proof"] + [f"after: {name}" for name in names]
    )
    drawn = torch.Generator().manual_seed(0)
    layer = matrix(mini.network, JOB.format(1))
    into, fed = layer.weight.shape
    change = product_change(*(0.05 * torch.randn(*shape, generator=drawn).double() for shape in ((fed, 2), (2, into))))
    made = Edit("test", mini.provenance(), {layer.parameter: change}, edited={"words": [], "templates": []})
    seen = []
    tokens, step, hook = counting(mini, seen)
    save_edited(made, mini, cache / "edited", progress=step)
    hook.remove()
    assert [what for what, _ in groupby(what for what, _, _ in seen)] == [each.what for each in declared]
    for each in declared[: len(names)]:
        weight = pace.SCORED if each.what.endswith("perplexity") else 1.0
        assert each.cost / weight == pytest.approx(tokens[each.what], rel=0.4), each.what
    again = receipt_parts(mini)
    assert again == declared[len(names) :]


class Plain:
    """An editor of the user's own that says nothing beforehand."""

    method = "plain"

    def __repr__(self):
        return type(self).__name__

    def edit(self, model, located, prompts, *, preserved, progress):
        progress("mine", 1, 1)
        name = matrix(model.network, JOB.format(1)).parameter
        weight = model.network.get_parameter(name)
        return Edit("plain", model.provenance(), {name: product_change(weight[:, :1].double(), weight[:1].double())})


class Declaring(Plain):
    """The same, that does."""

    def expected_parts(self, model, located, prompts, *, preserved):
        return [Part("mine", float(len(prompts)))]


def test_an_editor_of_the_users_own_may_declare_parts(mini, located, cache):
    fitting = fitting_prompts()
    assert edit_parts(mini, located, Plain(), fitting) == []
    assert edit_parts(mini, located, Declaring(), fitting) == [Part("mine", len(fitting.edited))]
    edit_or_resume(mini, located, Declaring(), fitting)
    assert edit_parts(mini, located, Declaring(), fitting) == []  # the edit is kept: nothing of it is left to do
