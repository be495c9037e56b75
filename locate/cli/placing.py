"""The options of `trace` for models that are large for the memory: spread over GPUs, or with matrices in few bits."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from locate.cli.options import MODEL
from locate.errors import LocateError


class DeviceMap(StrEnum):
    """How a model is spread over GPUs."""

    auto = "auto"
    balanced = "balanced"


class Quantise(StrEnum):
    """Bits of a model's matrices."""

    eight = "8"
    four = "4"


DeviceMapOption = Annotated[
    DeviceMap | None,
    typer.Option(
        "--device-map",
        rich_help_panel=MODEL,
        metavar="<map>",
        help="auto or balanced, which are the same: spread the model over all GPUs, its layers whole",
    ),
]
QuantiseOption = Annotated[
    Quantise | None,
    typer.Option(
        "--quantise",
        rich_help_panel=MODEL,
        metavar="<bits>",
        help="hold the matrices in 8 or 4 bits (extra quantise); what is measured is the quantised model",
    ),
]


def placing(device_map: DeviceMap | None, quantise: Quantise | None, jobs: int | None) -> dict[str, Any]:
    """What `load` is told of both.

    Raises LocateError where several processes would each have one GPU, and the model all of them.
    """
    if device_map is not None and jobs is not None and jobs > 1:
        raise LocateError(
            f"--device-map {device_map.value} with --jobs {jobs}: each of several processes has one GPU, and such a "
            "model all of them: leave one out"
        )
    return {
        "device_map": None if device_map is None else device_map.value,
        "quantise": None if quantise is None else int(quantise.value),
    }
