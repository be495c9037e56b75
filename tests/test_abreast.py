"""Two batches of the sweep at once: the same numbers, threads shared, errors raised, and one where two would not do."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_sweep import LIMITS, rows_for, runs_for

from locate.engine import plain, sweep
from locate.engine.rows import Limits, PlacedWrite, Row
from locate.engine.sweep import parts, stairs
from locate.engine.sweep.abreast import batches_abreast, work_abreast
from locate.engine.sweep.fused import OUTPUTS
from locate.model import products

PLAIN = (*OUTPUTS, "resid_pre")


@pytest.fixture(params=["gpt2", "llama"])
def model(request, model_of):
    """A model that is measured with two threads of torch."""
    return replace(model_of(request.param, "float32"), threads=2)


@pytest.fixture
def counted(monkeypatch):
    """How many batches at once each measurement took."""
    found = []

    def count(*args):
        found.append(batches_abreast(*args))
        return found[-1]

    monkeypatch.setattr(stairs, "batches_abreast", count)
    return found


@pytest.mark.parametrize("faster", [True, False], ids=["oneDNN", "torch"])
def test_two_at_once_find_what_the_plain_engine_finds(model, counted, monkeypatch, faster):
    monkeypatch.setattr(products, "onednn_is_faster", lambda threads: faster)
    monkeypatch.setattr(parts, "CPU_POSITIONS", 24)  # many batches
    runs = runs_for(model)
    rows = rows_for(model, runs, 7, 120, PLAIN)
    climbed, climb = [], stairs.climb

    def watch(*args):
        climbed.append((threading.get_ident(), torch.get_num_threads(), products.CHOSEN.get() is not None))
        time.sleep(0.002)  # so that both have their turn
        return climb(*args)

    monkeypatch.setattr(stairs, "climb", watch)
    before = torch.get_num_threads()
    found = sweep.measure(model, runs, rows, limits=LIMITS)
    assert torch.get_num_threads() == before
    assert counted == [2]
    assert len(climbed) > 10
    assert len({thread for thread, _, _ in climbed}) == 2
    assert {(threads, chosen) for _, threads, chosen in climbed} == {(1, faster)}
    expected = plain.measure(model, runs, rows, limits=LIMITS)
    np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=3e-5, equal_nan=False)
    moved = np.abs(expected.rows - expected.runs[[row.base for row in rows]]).max(1)
    assert np.mean(moved > 1e-2) > 0.4


def test_the_models_own_end_is_run_by_one_at_a_time(model, monkeypatch):
    monkeypatch.setattr(parts, "CPU_POSITIONS", 24)
    inside, most, read = [], [], stairs.read_answers

    def watch(*args):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.003)
        found = read(*args)
        inside.pop()
        return found

    monkeypatch.setattr(stairs, "read_answers", watch)
    runs = runs_for(model)
    sweep.measure(model, runs, rows_for(model, runs, 7, 60, PLAIN), limits=LIMITS)
    assert len(most) > 5
    assert max(most) == 1


def test_progress_counts_every_row_once(model):
    runs, told = runs_for(model), []
    rows = rows_for(model, runs, 7, 60, PLAIN)
    sweep.measure(model, runs, rows, limits=LIMITS, progress=told.append)
    assert sum(told) == len(rows)


class TestHowMany:
    def count(self, model, counted, component="mlp_out", limits=LIMITS, unit=None):
        runs = runs_for(model)
        row = Row(0, 1, (PlacedWrite(component, 1, unit, 2, 2, "zero"),))
        sweep.measure(model, runs, [row], limits=limits)
        return counted.pop()

    def test_two_where_only_outputs_are_written(self, model, counted):
        assert [self.count(model, counted, component) for component in PLAIN] == [2, 2, 2]

    def test_one_where_a_block_is_run_with_hooks(self, model, counted):
        assert self.count(model, counted, "head", unit=0) == 1

    @pytest.mark.parametrize(("threads", "count"), [(1, 1), (3, 1), (4, 2)])
    def test_threads_are_shared_evenly(self, model, counted, threads, count):
        assert self.count(replace(model, threads=threads), counted) == count

    def test_one_where_the_user_says_how_much_is_under_way(self, model, counted):
        assert self.count(model, counted, limits=Limits(LIMITS.memory, batch_size=2)) == 1

    def test_one_where_a_block_is_not_known(self, model_of, counted):
        assert self.count(replace(model_of("gemma2", "float32"), threads=2), counted) == 1

    def test_two_have_half_of_the_memory_each(self, model):
        few = Limits(LIMITS.memory // 100)
        one, two = (parts.rows_at_once(replace(model, device="other"), few, 9, 0, count) for count in (1, 2))
        assert 0 <= one - 2 * two <= 1
        assert two > 1


class TestErrors:
    def test_an_error_of_the_other_thread_is_raised_and_ends_this_one(self):
        done, main = [], threading.get_ident()

        def work(item):
            if threading.get_ident() != main:
                raise ZeroDivisionError("the other")
            time.sleep(0.02)
            done.append(item)

        with pytest.raises(ZeroDivisionError, match="the other"):
            list(work_abreast(range(100), work, 2, 2))
        assert len(done) < 50

    def test_an_error_of_this_thread_ends_the_other(self):
        done, main = [], threading.get_ident()

        def work(item):
            if threading.get_ident() == main:
                raise ZeroDivisionError("this one")
            time.sleep(0.02)
            done.append(item)

        with pytest.raises(ZeroDivisionError, match="this one"):
            list(work_abreast(range(100), work, 2, 2))
        assert len(done) < 50

    def test_who_takes_no_more_ends_both(self):
        begun = []

        def work(item):
            time.sleep(0.005)
            begun.append(item)

        for _ in work_abreast(range(100), work, 2, 2):
            break
        count = len(begun)
        time.sleep(0.05)
        assert len(begun) == count < 50

    def test_memory_that_runs_out_halves_a_batch(self, model, monkeypatch):
        runs = runs_for(model)
        rows = rows_for(model, runs, 4, 60, PLAIN)
        expected = sweep.measure(model, runs, rows, limits=LIMITS)
        climb, tried = stairs.climb, []

        def small(*args):
            tried.append(len(args[-1]))
            if len(args[-1]) > 3:
                raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
            return climb(*args)

        monkeypatch.setattr(stairs, "climb", small)
        found = sweep.measure(model, runs, rows, limits=LIMITS)
        np.testing.assert_allclose(found.rows, expected.rows, rtol=0, atol=1e-5, equal_nan=False)
        assert max(tried) > 3


def test_a_twin_knows_the_same_weights():
    mode = products.OneDNN()
    x, weight = torch.randn(3, 8), torch.randn(8, 5).t()
    with torch.inference_mode():
        expected = torch.nn.functional.linear(x, weight)
        for each in (mode, mode.twin()):
            torch.testing.assert_close(each.multiply(x, weight, None), expected)
    assert len(mode.laid_out) == 1
    assert mode.twin().laid_out is mode.laid_out
