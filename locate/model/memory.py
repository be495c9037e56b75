"""How much memory a run may use, whether it has run out, and the most it has used."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import psutil
import torch

from locate.errors import LocateError

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}
CPU_SHARE, CPU_MOST = 1 / 4, 10**9  # more does not make a processor faster, which reads its caches
GPU_SHARE = 1 / 2
LEAST = 10**6
WORKING_SHARE = 1.3  # weights, plus buffers and activations of small batches


def working_bytes(parameters: int, number_bytes: int) -> int:
    """About how many bytes a model of so many parameters takes, before anything is measured in it."""
    return int(parameters * number_bytes * WORKING_SHARE)


def parse_size(text: str) -> int:
    """Bytes of a size like 800MB, 2GB or 1.5GiB.

    Raises LocateError for anything else, and for less than a megabyte.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", text.strip().lower())
    size = int(float(found[1]) * UNITS[found[2]]) if found and found[2] in UNITS else 0
    if size < LEAST:
        raise LocateError(f"memory {text!r}: expected a size from 1MB up, like 800MB or 2GB")
    return size


def default_memory(*devices: str) -> int:
    """Bytes a sweep may use besides the model by default: a share of what is free on the fullest of the devices."""
    if all(torch.device(device).type == "cuda" for device in devices):
        return int(min(torch.cuda.mem_get_info(device)[0] for device in devices) * GPU_SHARE)
    return int(min(psutil.virtual_memory().available * CPU_SHARE, CPU_MOST))


def ran_out(error: BaseException) -> bool:
    """Whether an error means that memory ran out: torch has an error class for that on GPUs, only a message on CPUs."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


def peak_memory(*devices: str) -> dict[str, int]:
    """The most memory this process has held so far, in bytes: its own, and the fullest GPU's where it uses any."""
    if all(torch.device(device).type == "cuda" for device in devices):
        return {"process": process_peak(), "device": max(map(torch.cuda.max_memory_allocated, devices))}
    return {"process": process_peak()}


def process_peak() -> int:
    """The largest resident set of this process so far, in bytes."""
    if sys.platform == "win32":
        return int(psutil.Process().memory_info().peak_wset)
    if sys.platform == "linux":  # what getrusage says there was inherited from the process that started this one
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) * 1024  # type: ignore[index]
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
