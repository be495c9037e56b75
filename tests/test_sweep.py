"""The sweep equals the plain engine, whatever is patched and whichever the architecture."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from bare import trace
from families import FAMILIES, MORE_FAMILIES, save_family
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locate.engine import plain, sweep
from locate.engine.rows import Limits, PlacedWrite, Row, Run
from locate.engine.sweep import bases, entries, parts, replay, stairs
from locate.engine.sweep.climbers import equal_positions, find_climbers
from locate.engine.sweep.fused import OUTPUTS
from locate.engine.sweep.writes import Writes
from locate.errors import LocateError
from locate.model import products
from locate.model.hooked import Model
from locate.model.loading import load
from locate.prompts import Pair, Prompts
from locate.sites import COMPONENTS, PATTERN, UNITS
from locate.tracing.corrupt import Noise
from locate.tracing.plan import Map

TEXTS = (
    "The nurse said that",
    "The man said that",
    "The police officer laughed because",
    "The woman laughed because",
    "The engineer thought that they were right",
)
ANSWERS = (5, 7)
EXACT = {"float32": 3e-5, "float64": 1e-6}  # nats; all families but GPT-2 take their softmax in fp32 in every dtype
DOUBLE = ("gpt2", "float64")
NO_DOUBLE = ("mixtral", "qwen2_moe", "xglm")  # the models themselves do not run in float64


def runs_for(model: Model) -> list[Run]:
    """Prompts of several lengths and answers, the first of them once more with noise on its third token."""
    ids = [tuple(model.encode(text)[0]) for text in TEXTS]
    answers = [ANSWERS[:: 1 - 2 * (place % 2)] for place in range(len(ids))]
    noise = 0.3 * torch.randn(1, model.d_model, generator=torch.Generator().manual_seed(0))
    return [*map(Run, ids, answers), Run(ids[0], ANSWERS, (2,), noise)]


def random_row(model: Model, runs: list[Run], rng: np.random.Generator, components: Sequence[str] = COMPONENTS) -> Row:
    """A row of one to five writes at random sites, of random origins."""
    base, source = rng.integers(len(runs), size=2)
    components = [each for each in components if each not in UNITS or each in model.unit_counts]
    writes = {}
    for _ in range(rng.integers(1, 6)):
        component, layer = str(rng.choice(components)), int(rng.integers(model.n_layers))
        count = model.units(component)
        unit = None if count is None else int(rng.integers(count))
        pos, source_pos = int(rng.integers(len(runs[base].ids))), int(rng.integers(len(runs[source].ids)))
        if component == PATTERN:
            keys, origin = random_keys(pos, source_pos, rng), ["zero", "base", "source"][rng.integers(3)]
        else:
            width = {"head": (model.d_head,), "neuron": (), "mlp_out_unit": ()}.get(component, (model.d_model,))
            given = torch.from_numpy(rng.standard_normal(width))
            keys, origin = (), [given, "zero", "base", "source", "source"][rng.integers(5)]
        writes[component, layer, unit, pos] = PlacedWrite(component, layer, unit, pos, source_pos, origin, keys)
    return Row(int(base), int(source), tuple(writes.values()))


def random_keys(pos: int, source_pos: int, rng: np.random.Generator) -> tuple[tuple[int, int], ...]:
    """Some tokens that a token attends to, each with one that its counterpart attends to."""
    own = rng.permutation(pos + 1)[: rng.integers(1, pos + 2)]
    return tuple((int(key), int(rng.integers(source_pos + 1))) for key in own)


def rows_for(model: Model, runs: list[Run], seed: int, count: int, components: Sequence[str] = COMPONENTS) -> list[Row]:
    rng = np.random.default_rng(seed)
    return [random_row(model, runs, rng, components) for _ in range(count)]


LIMITS = Limits(200_000_000)


def same(model: Model, runs: list[Run], rows: list[Row], atol: float, limits: Limits = LIMITS) -> np.ndarray:
    """Measure with both engines, compare, and return how far each row lies from its base run."""
    slow, fast = plain.measure(model, runs, rows, limits=LIMITS), sweep.measure(model, runs, rows, limits=limits)
    np.testing.assert_allclose(fast.runs, slow.runs, rtol=0, atol=atol, equal_nan=False)
    np.testing.assert_allclose(fast.rows, slow.rows, rtol=0, atol=atol, equal_nan=False)
    return np.abs(slow.rows - slow.runs[[row.base for row in rows]]).max(1)


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        (family, dtype)
        for family in [*FAMILIES, *MORE_FAMILIES]
        for dtype in EXACT
        if dtype == "float32" or family not in NO_DOUBLE
    ],
)
def test_random_rows_equal_the_plain_engines(model_of, family, dtype):
    model = model_of(family, dtype)
    runs = runs_for(model)
    moved = same(model, runs, rows_for(model, runs, 0, 40), 1e-12 if (family, dtype) == DOUBLE else EXACT[dtype])
    assert np.mean(moved > 1e-2) > 0.4


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(1, 12),
    batch_size=st.sampled_from([None, 1, 2, 5]),
    memory=st.sampled_from([10**6, 10**8]),
)
@pytest.mark.parametrize("family", ["gpt2", "gemma2", "bloom", "gpt_neox"])
def test_any_rows_in_any_batches(model_of, family, seed, count, batch_size, memory):
    model = model_of(family, "float64")
    runs = runs_for(model)
    exact = 1e-12 if family == "gpt2" else EXACT["float64"]
    same(model, runs, rows_for(model, runs, seed, count), exact, Limits(memory, batch_size))


def test_bundled_and_third_party_weights(shared):
    from locate.model.loading import load

    for name, atol in (("mini", 1e-12), (str(shared / "models" / "stories260k"), 1e-5)):
        model = load(name, device="cpu", dtype="float64")
        runs = runs_for(model)
        same(model, runs, rows_for(model, runs, 1, 60), atol)


def in_few_steps(model: Model) -> set[bool]:
    """Whether the blocks of a model are run in few steps."""
    runs = runs_for(model)
    made = bases.execute_bases(model, runs, [], LIMITS)
    return {given.fused is not None for given in made.given[len(runs[0].ids)].values()}


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_known_layouts_are_run_in_few_steps(model_of, family):
    assert in_few_steps(model_of(family)) == {family in ("gpt2", "llama", "qwen2", "mistral")}
    if family == "llama":  # elsewhere it takes norms and softmax in fp32
        assert in_few_steps(model_of(family, "bfloat16")) == in_few_steps(model_of(family, "float64")) == {False}


def test_parts_that_are_known_with_numbers_that_are_not(tmp_path):
    """A gate of another kind has the parts of Llama's: the bridge's own block is run, and the numbers are right."""
    config = save_family("llama", tmp_path / "gelu") / "config.json"
    config.write_text(config.read_text().replace('"silu"', '"gelu"'))
    model = load(str(config.parent), device="cpu")
    assert in_few_steps(model) == {False}
    same(model, runs_for(model), rows_for(model, runs_for(model), 5, 40), EXACT["float32"])


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "mistral"])
def test_outputs_written_in_few_steps_equal_the_plain_engines(model_of, family, monkeypatch):
    model = model_of(family)
    runs = runs_for(model)
    components = ("resid_pre", *OUTPUTS)
    rows = rows_for(model, runs, 7, 80, components)
    monkeypatch.setattr(replay.BlockInputs, "call", None)  # a block of the bridge is not run again
    moved = same(model, runs, rows, EXACT["float32"])
    assert (moved > 100 * EXACT["float32"]).mean() > 0.5


PROMPTS = Prompts(
    tuple(
        Pair(f"The {word} said that", f"The {other} said that", word, other, word, "The {subject} said that")
        for word, other in (("nurse", "man"), ("police officer", "woman"), ("engineer", "woman"))
    )
)


def test_equal_beginnings_of_prompts_of_two_lengths(model_of):
    """Where rotary tables depend on the length, equal words at equal places are not equal activations."""
    model = model_of("llama")
    runs = [Run(tuple(model.encode(text)[0]), ANSWERS) for text in ("The nurse said", "The nurse said that she was")]
    row = Row(0, 1, (PlacedWrite("resid_pre", 2, None, 2, 2, "source"),))
    made = bases.execute_bases(model, runs, [], LIMITS)
    one, other = (len(run.ids) for run in runs)
    assert made.same_positions(one, other)
    assert find_climbers(3, runs, [row], made.same_positions) == []
    block = made.given[other][1]
    tables = tuple(2 * table for table in block.rotary)
    made.given[other][1] = replace(block, arguments=block.arguments | {"position_embeddings": tables})
    assert not made.same_positions(one, other)
    assert len(find_climbers(3, runs, [row], made.same_positions)) == 1


@pytest.mark.parametrize("corruption", [None, Noise(samples=2)])
def test_traces_of_both_engines_are_one(gpt2, corruption):
    """Windows, heads and neurons, both directions, swap and noise; severed paths in test_paths."""
    map = Map(components=COMPONENTS, windows=(1, 2), roles=("subject_last", "last"))
    slow, fast = (
        trace(gpt2, PROMPTS, map, corruption=corruption, engine=name).table.sort_values(["pair", "direction"])
        for name in ("plain", "sweep")
    )
    labels = [name for name in slow.columns if not name.startswith(("base_", "source_", "patched_"))]
    assert slow[labels].equals(fast[labels])
    for name in ("patched_female", "patched_male", "patched_neutral"):
        np.testing.assert_allclose(fast[name], slow[name], rtol=0, atol=1e-5, equal_nan=True)
    assert len(slow) > 3000


@pytest.fixture(params=["few steps", "the bridge's"])
def called(request, gpt2, monkeypatch):
    """What is given to blocks that are run in few steps or by the bridge: layer, first position, shape, keys only."""
    found = []
    monkeypatch.setattr(parts, "product_grain", lambda *_: 1)
    layers = {block: layer for layer, block in enumerate(gpt2.blocks)}

    def watched(name, keys_only):
        run = getattr(replay.BlockInputs, name)

        def watch(given, residual, first, *rest):
            found.append((layers[given.block], first, tuple(residual.shape[:2]), keys_only(rest)))
            return run(given, residual, first, *rest)

        monkeypatch.setattr(replay.BlockInputs, name, watch)

    if request.param == "few steps":
        watched("run_fused", lambda _: False)
        watched("keys", lambda _: True)
    else:
        monkeypatch.setattr(replay, "fused", lambda block: None)
        watched("call", lambda rest: rest[0].stop)
    return found


def test_only_what_differs_is_run(gpt2, called, request):
    """No layer below a row's first write, and no position before it, is given to a block; each block is called once.

    Rows that are written behind the attention share a run of that layer, from the first of their positions to the last,
    or need none where blocks are run in few steps; the last layer's positions but the last are run only to their keys.
    """
    runs = runs_for(gpt2)
    n_pos = len(runs[0].ids)
    sites = [(component, layer, pos) for component in ("resid_pre", "mlp_out") for layer in range(3) for pos in (1, 3)]
    rows = [Row(0, 1, (PlacedWrite(component, layer, None, pos, pos, "zero"),)) for component, layer, pos in sites]
    sweep.measure(gpt2, runs, rows, limits=LIMITS)
    few = request.node.callspec.params["called"] == "few steps"
    expected = [] if few else [(0, 1, (1, 3), False), (1, 1, (1, 3), False)]  # the MLP at both positions
    for pos in (1, 3):
        expected += [(0, pos, (1, n_pos - pos), False)]  # a residual
        expected += [(1, pos, (3, n_pos - pos), False)]  # this, the next residual, an MLP of the layer below
        expected += [(2, pos, (5, n_pos - pos - 1), True), (2, n_pos - 1, (5, 1), False)]  # nothing reads the last MLP
    assert [each for each in called if each[1] > 0] == expected  # base runs begin at the first position


def test_rows_are_run_early_to_make_few_sizes_and_find_the_same(gpt2, monkeypatch):
    """Six positions are two rows of three: one that has joined is run with a second, and of 7 the last stays alone."""
    runs = runs_for(gpt2)
    n_pos = len(runs[0].ids)
    sites = [(component, layer, n_pos - 3) for component in COMPONENTS[:3] for layer in range(3)]
    rows = [Row(0, 1, (PlacedWrite(component, layer, None, pos, pos, "source"),)) for component, layer, pos in sites]
    found, sizes = {}, {}
    climbing = replay.BlockInputs.run_fused
    for grain in (1, 6):
        seen = sizes[grain] = []

        def watch(given, residual, first, *rest, seen=seen):
            if first:
                seen.append(len(residual))
            return climbing(given, residual, first, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(parts, "product_grain", lambda *_, grain=grain: grain)
            patch.setattr(parts, "MULTIPLE", 1)
            patch.setattr(replay.BlockInputs, "run_fused", watch)
            found[grain] = sweep.measure(gpt2, runs, rows, limits=LIMITS).rows
    assert sizes == {1: [1, 4, 7], 6: [2, 4, 7]}
    np.testing.assert_allclose(found[6], found[1], rtol=0, atol=1e-5, equal_nan=False)
    assert len(np.unique(found[1][:, 0].round(4))) > 5


def test_products_have_multiples_of_eight_rows(gpt2, monkeypatch):
    """Rows times positions is a multiple of 8 where there are enough rows, and as near to the most as that allows."""
    monkeypatch.setattr(parts, "product_grain", lambda *_: 128)
    for positions in range(1, 40):
        at_once = parts.rows_at_once(gpt2, LIMITS, positions + 2, 2)
        assert at_once * positions % 8 == 0
        assert 1024 - 8 * positions < at_once * positions <= 1024
        sizes = [parts.rows_to_run(gpt2, joined, at_once, positions) for joined in range(1, at_once + 1)]
        assert all(size >= joined for joined, size in enumerate(sizes, 1))
        assert sizes[-1] == at_once
        assert all(size * positions % 8 == 0 for size in sizes)
    assert parts.rows_at_once(gpt2, Limits(LIMITS.memory, batch_size=5), 5, 2) == 5  # fewer than 8 are left as they are


@pytest.mark.parametrize(
    "write",
    [
        PlacedWrite("mlp_out", 2, None, 2, 2, "zero"),  # nothing reads it behind the last attention
        PlacedWrite("head", 2, 1, 3, 3, "source"),
        PlacedWrite("resid_pre", 1, None, 1, 1, "source"),  # both prompts begin with the same two tokens
        PlacedWrite("attn_out", 0, None, 2, 2, "base"),
    ],
)
def test_rows_that_change_nothing_are_not_run(gpt2, write, monkeypatch):
    runs = runs_for(gpt2)
    monkeypatch.setattr(stairs, "climb", None)
    found = sweep.measure(gpt2, runs, [Row(0, 1, (write,))], limits=LIMITS)
    assert (found.rows[0] == found.runs[0]).all()


def test_rows_written_behind_the_attention_share_runs_of_their_first_layer(gpt2):
    """A map of two components at three positions needs two carriers for each base run and layer, and each is full."""
    runs = runs_for(gpt2)
    places = [(component, layer, pos) for component in ("attn_out", "mlp_out") for layer in (0, 1) for pos in (2, 3, 4)]
    rows = [
        Row(base, 1 - base, (PlacedWrite(component, layer, None, pos, pos, "source"),))
        for base in (0, 1)
        for component, layer, pos in places
    ]
    moving = find_climbers(gpt2.n_layers, runs, rows, lambda *_: True)
    carriers = entries.group_carriers([each for each in moving if each.enters])
    assert sorted(carriers) == [(0, len(runs[0].ids)), (1, len(runs[0].ids))]
    assert [[len(carrier) for carrier in found] for found in carriers.values()] == [[3, 3, 3, 3]] * 2
    for found in carriers.values():
        for carrier in found:
            assert len({each.base for each in carrier}) == 1
            assert sorted(each.first_pos for each in carrier) == [2, 3, 4]
    same(gpt2, runs, rows, 1e-5)


@pytest.mark.parametrize("family", [*FAMILIES, *MORE_FAMILIES])
def test_answers_are_compared_without_probabilities(model_of, family):
    """Logits of the answers differ from log-probabilities by one constant a row, whatever follows the unembedding."""
    model = model_of(family)
    runs = runs_for(model)
    rows = rows_for(model, runs, 7, 30)
    bare = [replace(run, normalised=False) for run in runs]
    whole = sweep.measure(model, runs, rows, limits=LIMITS)
    for engine in (sweep.measure, plain.measure):
        found = engine(model, bare, rows, limits=LIMITS)
        for logits, logs in ((found.rows, whole.rows), (found.runs, whole.runs)):
            np.testing.assert_allclose(np.diff(logits), np.diff(logs), rtol=0, atol=2e-5, equal_nan=False)
            assert (np.abs(logits - logs).max(1) > 1).all()


@pytest.mark.parametrize("name", ["gpt2", "llama", "opt"])
def test_the_other_librarys_products_are_exact_too(model_of, name, monkeypatch):
    model, used = model_of(name), []
    runs = runs_for(model)
    rows = rows_for(model, runs, 8, 60)
    expected = plain.measure(model, runs, rows, limits=LIMITS)
    multiply = products.onednn
    monkeypatch.setattr(products, "onednn", lambda *tensors: used.append(1) or multiply(*tensors))
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: True)
    assert products.product_library("float32", "cpu", 1) == "oneDNN"
    found = sweep.measure(model, runs, rows, limits=LIMITS)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=2e-5, equal_nan=False)
    assert len(used) > 7 * model.n_layers


def test_weights_with_gaps_are_laid_out_once():
    """A kept copy belongs to its weight: another tensor never takes its place, and there is room for so much alone."""
    whole = torch.randn(12, 30)
    slices = [whole[:, :10].t(), whole[:, 10:20].t()]
    mode = products.OneDNN(room=4 * 12 * 10)
    x = torch.randn(5, 12)
    with torch.inference_mode(), mode:
        for weight in (*slices, *slices):
            found = torch.nn.functional.linear(x, weight)
            np.testing.assert_allclose(found, x @ weight.t(), atol=1e-5)
        found = torch.addmm(torch.ones(30), x, whole)
        np.testing.assert_allclose(found, 1 + x @ whole, atol=1e-5)
    assert len(mode.laid_out) == 1
    assert mode.room == 0


def test_a_product_is_computed_by_what_is_chosen_around_it_and_otherwise_by_torch(monkeypatch):
    by_onednn = []
    monkeypatch.setattr(products, "onednn", lambda x, weight, bias: by_onednn.append(len(x)) or x @ weight.t())
    x, weight, few = torch.randn(5, 12), torch.randn(3, 12), torch.randn(4, 12, dtype=torch.float64)
    with torch.inference_mode():
        with products.OneDNN(), torch._C.DisableTorchFunction():
            torch.testing.assert_close(products.product(x, weight, None), x @ weight.t())
            torch.testing.assert_close(products.product(few, weight.double(), None), few @ weight.double().t())
        torch.testing.assert_close(products.product(x, weight, None), x @ weight.t())
    assert by_onednn == [5]


def test_the_faster_library_is_taken(monkeypatch):
    for speed, expected in ((1.0, "torch"), (10.0, "oneDNN")):
        products.onednn_is_faster.cache_clear()
        monkeypatch.setattr(products, "seconds", lambda *works, speed=speed: [1.0, speed])
        assert products.product_library("float32", "cpu", 1) == expected
        assert (
            products.product_library("bfloat16", "cpu", 1) == products.product_library("float32", "cuda", 1) == "torch"
        )
    products.onednn_is_faster.cache_clear()


def test_few_products_are_kept_prepared_unless_the_user_says_how_many(monkeypatch):
    first, second = products.PREPARED
    monkeypatch.setenv(first, "2000")
    monkeypatch.delenv(second)  # importing has set it
    products.keep_few_prepared()
    assert (os.environ[first], os.environ[second]) == ("2000", products.PREPARED[second])


def test_noise_makes_runs_differ_from_its_first_token_on(gpt2):
    runs = runs_for(gpt2)
    assert equal_positions(runs[0], runs[-1]) == 2
    assert equal_positions(runs[0], runs[0]) == len(runs[0].ids)
    assert equal_positions(runs[0], runs[1]) == 2


def test_rows_are_taken_apart_where_their_runs_do_not_fit_together(gpt2, monkeypatch):
    runs, limits = runs_for(gpt2), Limits(10**6)
    rows = [Row(i % 5, (i + 1) % 5, (PlacedWrite("mlp_out", 0, None, 2, 2, "source"),)) for i in range(20)]
    together = sweep.measure(gpt2, runs, rows, limits=limits)
    ((whole, every),) = stairs.portions(gpt2, runs, rows, limits)
    assert (sorted(whole), sorted(every)) == (list(range(20)), [0, 1, 2, 3, 4, 5])
    monkeypatch.setattr(stairs, "run_bytes", lambda *_: 150_000)  # three of them fit half of the memory
    portions = list(stairs.portions(gpt2, runs, rows, limits))
    assert sorted(each for portion, _ in portions for each in portion) == list(range(20))
    assert [used for _, used in portions] == [[0, 1, 4], [1, 2, 3], [3, 4, 5]]  # 5: a noised run, which no row needs
    apart = sweep.measure(gpt2, runs, rows, limits=limits)
    np.testing.assert_allclose(apart.rows, together.rows, rtol=0, atol=1e-5, equal_nan=False)
    np.testing.assert_allclose(apart.runs, together.runs, rtol=0, atol=1e-5, equal_nan=False)


def test_rows_at_once_are_halved_when_memory_runs_out(gpt2, monkeypatch):
    runs = runs_for(gpt2)
    rows = rows_for(gpt2, runs, 4, 60)
    expected = sweep.measure(gpt2, runs, rows, limits=LIMITS)
    climb, tried = stairs.climb, []

    def small(*args):
        tried.append(len(args[-1]))
        if len(args[-1]) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return climb(*args)

    monkeypatch.setattr(stairs, "climb", small)
    found = sweep.measure(gpt2, runs, rows, limits=LIMITS)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=1e-5, equal_nan=False)
    assert max(tried) > 3


def test_a_row_that_does_not_fit_at_all_is_refused(gpt2, monkeypatch):
    def none(*_):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(stairs, "climb", none)
    runs = runs_for(gpt2)
    with pytest.raises(LocateError, match="out of memory with a single row"):
        sweep.measure(gpt2, runs, rows_for(gpt2, runs, 5, 8), limits=LIMITS)


def test_a_model_without_keys_and_values_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(replay, "CACHES", ("nothing",))
    with pytest.raises(LocateError, match=r"take no cache .* choose --engine plain"):
        sweep.measure(gpt2, runs_for(gpt2), [], limits=LIMITS)


def test_a_block_that_keeps_nothing_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(replay.Cache, "update", lambda cache, keys, values, *_: (keys, values))
    with pytest.raises(LocateError, match=r"block 0 keeps no keys and values, .* choose --engine plain"):
        sweep.measure(gpt2, runs_for(gpt2), [], limits=LIMITS)


def test_somebody_elses_hooks_are_refused(gpt2):
    with (
        gpt2.bridge.hooks(fwd_hooks=[("blocks.1.hook_attn_out", lambda value, hook: 2 * value)]),
        pytest.raises(LocateError, match=r"has hooks at blocks\.1\..* take them off"),
    ):
        sweep.measure(gpt2, runs_for(gpt2), [], limits=LIMITS)


def test_the_last_of_several_writes_to_one_place_holds(gpt2):
    runs = runs_for(gpt2)
    writes = [PlacedWrite("head", 1, 2, 3, 3, origin) for origin in ("zero", "source", "base", "zero")]
    rows = [Row(0, 1, tuple(writes[:count])) for count in (1, 2, 3, 4)]
    same(gpt2, runs, rows, 1e-5)
    found = sweep.measure(gpt2, runs, rows, limits=LIMITS).rows
    assert (found[0] == found[3]).all()
    assert np.abs(found[0] - found[1]).max() > 1e-3


def test_what_is_kept_of_runs_is_what_is_counted(gpt2):
    """Runs are padded to the longest; the batch axis is the runs'."""
    runs = runs_for(gpt2)
    wanted = {("mlp_out", 0), ("head", 1), ("neuron", 2)}
    made = bases.execute_bases(gpt2, runs, wanted, LIMITS)
    kept = [*made.activation.values(), *(each for keys in made.keys.values() for each in keys)]
    longest = max(len(run.ids) for run in runs)
    assert sum(each.nbytes for each in kept) == len(runs) * bases.run_bytes(gpt2, wanted, longest)


def test_a_rows_bytes_are_of_the_size_of_its_tensors(gpt2):
    d_model, d_mlp = gpt2.d_model, gpt2.d_mlp
    assert parts.row_bytes(gpt2, 6, 2) > 4 * 4 * (d_model + 2 * d_mlp)
    assert parts.row_bytes(gpt2, 6, 2) < 4 * 4 * (20 * d_model + 5 * d_mlp) + 8 * gpt2.d_vocab + 4 * 6 * 10 * d_model


def test_an_argument_of_unknown_shape_is_refused(gpt2, monkeypatch):
    monkeypatch.setattr(replay, "WITH_POSITIONS", ("position_ids",))
    with pytest.raises(LocateError, match=r"take 'attention_mask' of shape .* choose --engine plain"):
        sweep.measure(gpt2, runs_for(gpt2), [], limits=LIMITS)


def test_a_trace_compares_some_of_its_rows_with_the_plain_engine(gpt2):
    audit = trace(gpt2, PROMPTS, engine="sweep").meta["audit"]
    assert audit["engine"]["rows"] == 32
    assert 0 <= audit["engine"]["largest_difference"] < 1e-5
    assert audit["engine"]["rms_effect"] > 0.01
    assert set(trace(gpt2, PROMPTS, engine="plain").meta["audit"]) == {"identities"}


@pytest.mark.parametrize(("family", "quick"), [("gpt2", True), ("gpt_neox", False)])
def test_a_trace_says_how_many_blocks_ran_in_few_steps(model_of, family, quick, tmp_path):
    """It is no setting: a run folder without it, as earlier versions wrote them, is taken up."""
    model, map = model_of(family), Map(("mlp_out",))
    folder = tmp_path / "run"
    told = trace(model, PROMPTS, map, output=folder, controls=None).meta["audit"]["engine"]
    assert (told["few_steps"], told["layers"]) == (model.n_layers if quick else 0, model.n_layers)
    meta = json.loads((folder / "meta.json").read_text())
    for name in ("few_steps", "layers"):
        del meta["audit"]["engine"][name]
    (folder / "meta.json").write_text(json.dumps(meta))
    assert "few_steps" not in trace(model, PROMPTS, map, output=folder, controls=None).meta["audit"]["engine"]


def test_a_block_that_is_not_the_bridges_at_one_length_is_not_counted(model_of):
    model = model_of("gpt2")
    runs = [Run(tuple(model.encode(text)[0]), ANSWERS) for text in ("The nurse said", "The nurse said that she")]
    made = bases.execute_bases(model, runs, [], LIMITS)
    assert made.few_steps == model.n_layers
    length = len(runs[1].ids)
    made.given[length][1] = replace(made.given[length][1], fused=None)
    assert made.few_steps == model.n_layers - 1


@pytest.mark.parametrize("engine", ["sweep", "plain"])
@pytest.mark.parametrize("components", [("resid_pre", "attn_out", "mlp_out"), ("head", "pattern")])
@pytest.mark.parametrize("corruption", [None, Noise(samples=2)])
def test_a_trace_checks_what_must_hold(gpt2, engine, components, corruption):
    """Both identities are run for real: rows are executed, and differ from what they must give by rounding alone."""
    found = trace(gpt2, PROMPTS, Map(components), engine=engine, corruption=corruption).meta["audit"]["identities"]
    assert found["rows"] > 10
    assert 0 <= found["self"] < 1e-5
    assert 0 <= found["everything"] < 1e-5
    assert found["largest_total"] > 0.1


@pytest.mark.parametrize(
    ("wrong", "what"),
    [
        (lambda spot: None, "a run patched whole with another is"),
        (lambda spot: replace(spot, value=spot.value.roll(1, 0)), "a run patched with itself is"),
        (lambda spot: replace(spot, value=1.001 * spot.value), "a run patched with itself is"),
    ],
    ids=["nothing", "another row's value", "another size"],
)
def test_a_sweep_that_writes_wrongly_is_refused(gpt2, monkeypatch, wrong, what):
    """Before anything is measured, and without the other engine's help."""
    monkeypatch.setattr("locate.tracing.audit.audit_engine", lambda *_: {})
    own = Writes.of

    def of(model, bases, lodged):
        made = own(model, bases, lodged)
        changed = {key: wrong(spot) for key, spot in made.spots.items()}
        return Writes(made.model, {key: spot for key, spot in changed.items() if spot is not None})

    monkeypatch.setattr(Writes, "of", staticmethod(of))
    with pytest.raises(LocateError, match=f"{what} .* nats off, expected at most .* its patches cannot be trusted"):
        trace(gpt2, PROMPTS, Map(("mlp_out",)))


def test_half_precision_is_compared_with_single(model_of):
    model = model_of("llama", "bfloat16")
    audit = trace(model, PROMPTS).meta["audit"]
    assert 1e-5 < audit["precision"]["rms"] < audit["precision"]["largest_difference"] < 0.5
    assert set(trace(model, PROMPTS, compare_precision=False).meta["audit"]) == {"engine", "identities"}
    assert set(trace(model, PROMPTS, engine="plain").meta["audit"]) == {"precision", "identities"}


def test_without_room_for_both_precisions_the_way_out_is_named(model_of, monkeypatch):
    def no_room(*_):
        raise LocateError("needs 99 GiB")

    monkeypatch.setattr("locate.tracing.audit.full_twin", no_room)
    with pytest.raises(LocateError, match=r"needs 99 GiB.*--no-compare-precision"):
        trace(model_of("llama", "bfloat16"), PROMPTS)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("component", ["neuron", "head", "mlp_out"])
def test_a_sweep_that_writes_nothing_is_noticed(model_of, monkeypatch, dtype, component):
    monkeypatch.setattr(Writes, "inside", lambda *_: [])
    with pytest.raises(LocateError, match="differs from the plain engine"):
        trace(model_of("gpt2", dtype), PROMPTS, Map(components=(component,)), compare_precision=False)


def test_a_block_that_does_not_bear_it_is_refused(gpt2, monkeypatch):
    def bad(*_):
        raise ValueError("Attention mask should be of size (2, 1, 3, 5)")

    monkeypatch.setattr(replay, "cut_argument", bad)
    with pytest.raises(LocateError, match=r"cannot be swept \(Attention mask should .* choose --engine plain"):
        trace(gpt2, PROMPTS)


def test_a_sweep_that_differs_is_refused(gpt2, monkeypatch):
    right = Writes.inside
    monkeypatch.setattr(Writes, "inside", lambda writes, *where: right(writes, *where)[:-1])
    with pytest.raises(LocateError, match=r"the sweep differs from the plain engine by .* choose --engine plain"):
        trace(gpt2, PROMPTS)


def test_the_model_is_left_as_it_was(gpt2, monkeypatch):
    ids = torch.tensor([gpt2.encode(TEXTS[0])[0]])
    before = gpt2.final_logits(ids)
    with monkeypatch.context() as patch:
        patch.setattr(replay, "cut_argument", None)  # fails in the first block that is run again
        with pytest.raises(TypeError):
            sweep.measure(gpt2, runs_for(gpt2), rows_for(gpt2, runs_for(gpt2), 3, 5), limits=LIMITS)
    assert gpt2.foreign_hooks() == []
    assert torch.equal(gpt2.final_logits(ids), before)
    sweep.measure(gpt2, runs_for(gpt2), rows_for(gpt2, runs_for(gpt2), 3, 5), limits=LIMITS)
    assert torch.equal(gpt2.final_logits(ids), before)


@pytest.fixture
def careless():
    """The user has told torch to multiply fp32 numbers as it likes, as training guides advise."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("engine", [plain.measure, sweep.measure])
def test_fp32_is_fp32_whatever_torch_was_told(gpt2, request, engine, monkeypatch):
    runs = runs_for(gpt2)
    rows = rows_for(gpt2, runs, 6, 40)
    expected = engine(gpt2, runs, rows, limits=LIMITS)
    request.getfixturevalue("careless")
    used = set()
    final_logits = Model.final_logits

    def watched(model, ids):
        used.add((torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision))
        return final_logits(model, ids)

    monkeypatch.setattr(Model, "final_logits", watched)
    found = engine(gpt2, runs, rows, limits=LIMITS)
    assert used == {("ieee", "ieee")}
    np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=1e-5, equal_nan=False)
    np.testing.assert_allclose(found.runs, expected.runs, rtol=0, atol=1e-5, equal_nan=False)
    assert torch.get_float32_matmul_precision() == "medium"
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
