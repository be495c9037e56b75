"""Sizes of memory as people write them, and what a run keeps of them."""

import subprocess
import sys

import psutil
import pytest
import torch

from locate.errors import LocateError
from locate.model.memory import default_memory, parse_size, peak_memory, ran_out


@pytest.mark.parametrize(
    ("text", "size"),
    [("2GB", 2 * 10**9), ("800 mb", 800 * 10**6), ("1.5GiB", 3 * 2**29), ("3G", 3 * 10**9), ("5000000", 5 * 10**6)],
)
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "much", "-1GB", "1TB", "10", "10kB", "1i"])
def test_other_sizes_are_refused(text):
    with pytest.raises(LocateError, match="expected a size from 1MB up"):
        parse_size(text)


def test_the_default_leaves_room():
    assert 10**6 < default_memory("cpu") <= psutil.virtual_memory().total / 4


def test_the_peak_is_at_least_what_is_held_now():
    kept = torch.ones(30_000_000)
    assert peak_memory("cpu")["process"] >= psutil.Process().memory_info().rss * 0.9
    assert peak_memory("cpu")["process"] > 4 * len(kept)


def test_what_counts_as_no_memory_left():
    assert ran_out(MemoryError())
    assert ran_out(torch.OutOfMemoryError("CUDA out of memory"))
    assert ran_out(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate"))
    assert not ran_out(RuntimeError("shapes cannot be multiplied"))


def test_the_peak_is_not_that_of_the_process_before():
    """A small process that a large one has started has a small peak."""
    large = torch.ones(300_000_000)
    command = "from locate.model.memory import process_peak; print(process_peak())"
    told = subprocess.run([sys.executable, "-c", command], check=True, capture_output=True, text=True)
    assert 4 * len(large) < peak_memory("cpu")["process"]
    assert 10**7 < int(told.stdout) < 4 * len(large)
